"""A run that cannot fit is refused before anything starts, with the numbers and what to turn."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from agents import builder, requirements
from agents.resources import Needs, check_resources, free_memory, needs_of
from agents.runtime.process import memory_row, resident_memory
from conf.loading import compose_train
from envs.errors import InputError
from envs.suites import make_spec

MIB = 2**20


KNOBS = {name: f"the knob of {name}" for name in Needs._fields}


def needs(**parts: int) -> Needs:
    return Needs(**dict.fromkeys(Needs._fields, 0) | parts)


@pytest.mark.parametrize("part", ["trajectories", "replay", "actors", "environments", "learner"])
def test_what_does_not_fit_into_memory_is_refused_with_the_knob_of_its_largest_part(part: str) -> None:
    parts = dict.fromkeys(("trajectories", "replay", "actors", "environments", "learner"), MIB) | {part: 5 * MIB}
    check_resources(needs(**parts), KNOBS, memory=9 * MIB, open_files=1000)
    with pytest.raises(InputError) as caught:
        check_resources(needs(**parts), KNOBS, memory=9 * MIB - 1, open_files=1000)
    message = str(caught.value)
    assert "needs at least 9 MiB of memory" in message and f"{part} 5" in message
    assert message.endswith(f"lower the knob of {part}.")
    assert "\n" not in message


def test_what_does_not_fit_into_open_files_is_refused() -> None:
    with pytest.raises(
        InputError, match=r"needs 5,000 open files in one process and 1,024 are allowed: lower the knob of open_files"
    ):
        check_resources(needs(open_files=5000), KNOBS, memory=MIB, open_files=1024)


def test_the_limit_of_open_files_is_raised_as_far_as_it_may() -> None:
    """In a process of its own, which keeps the limits that it is given."""
    program = """
import resource
from agents.resources import Needs, check_resources
from envs.errors import InputError
resource.setrlimit(resource.RLIMIT_NOFILE, (200, 400))
knobs = dict.fromkeys(Needs._fields, '')
check_resources(Needs(0, 0, 0, 0, 0, 300), knobs, memory=1)
assert resource.getrlimit(resource.RLIMIT_NOFILE) == (300, 400)
try:
    check_resources(Needs(0, 0, 0, 0, 0, 500), knobs, memory=1)
except InputError as error:
    print(error)
"""
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=Path.cwd())
    assert "400 are allowed" in found.stdout
    assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] > 400


def test_a_container_leaves_less(monkeypatch: pytest.MonkeyPatch) -> None:
    assert free_memory() > 100 * MIB
    monkeypatch.setattr("agents.resources.memory_left", lambda: 990.0)
    assert free_memory() == 990


def test_what_a_run_needs_grows_with_what_it_is_given() -> None:
    base = {"trajectories": 10, "replay": 20, "parameters": 100, "bytes_per_parameter": 8}
    serial = needs_of(**base, actors=0, networks=0, slots=4, slots_have_processes=False)
    assert serial.actors == serial.environments == 0 and serial.learner == 1600
    local = needs_of(**base, actors=300, networks=300, slots=4, slots_have_processes=True)
    served = needs_of(**base, actors=300, networks=1, slots=4, slots_have_processes=True)
    assert local.actors - served.actors == 299 * 100 * 8
    assert (
        local.environments
        == 300 * 4 * needs_of(**base, actors=1, networks=1, slots=1, slots_have_processes=True).environments
    )
    assert local.open_files > 1200


def test_a_configuration_that_cannot_fit_is_refused_before_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agents.resources.free_memory", lambda: 100 * MIB)
    config = compose_train(
        [
            "env=conditional",
            "context=task",
            "runtime=local",
            "runtime.slots_per_actor=65536",
            "learner.unroll_length=64",
        ]
    )
    config.learner.batch_size = config.runtime.slots_per_actor
    env = make_spec(config.env)
    with pytest.raises(InputError, match=r"trajectories [\d,]+.*lower runtime\.slots_per_actor=65536"):
        requirements.check_fits(config, env, builder.build_network(config, env))


def test_memory_of_a_process_includes_what_it_has_started() -> None:
    """A child that has a child with 64 MiB."""
    inner = "import sys; block = bytearray(64 * 2**20); print('ready', flush=True); sys.stdin.read()"
    outer = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {inner!r}])"
    process = subprocess.Popen([sys.executable, "-c", outer], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout and process.stdout.readline() == "ready\n"
        memory = resident_memory([process.pid])
        assert memory[process.pid] > 64
        row = memory_row({"actor-0": process.pid, "actor-1": 2**22})
        assert set(row) == {"memory/learner", "memory/actor-0"} and row["memory/actor-0"] > 64
        assert row["memory/learner"] == pytest.approx(memory[os.getpid()], rel=0.1)
    finally:
        process.communicate("")
