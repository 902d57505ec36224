"""A run that does not fit is refused before it starts, with the numbers and the options to lower."""

from __future__ import annotations

import os
import re
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from agents.runtime.processes.process import memory_row
from agents.setup import builder, preflight
from agents.setup.machine import free_memory
from agents.setup.plan import make_plan
from agents.setup.preflight import Needs, check_resources, estimate_needs
from conf.loading import compose_train
from envs.suites import SUITES, make_spec
from system.errors import InputError
from system.memory import resident_memory

MIB = 2**20
DMLAB = ["env=dmlab30", "runtime=local", "core.size=8", "fusion.size=8", "torso.size=8"]


def suggest(part: str) -> str:
    return f"the option of {part}"


def make_needs(**parts: int) -> Needs:
    return Needs(**dict.fromkeys(Needs._fields, 0) | parts)


@pytest.mark.parametrize("part", ["trajectories", "replay", "actors", "environments", "learner"])
def test_refusal_for_memory_names_the_option_of_the_largest_part(part: str, monkeypatch: pytest.MonkeyPatch) -> None:
    parts = dict.fromkeys(("trajectories", "replay", "actors", "environments", "learner"), MIB) | {part: 5 * MIB}
    monkeypatch.setattr("agents.setup.machine.free_memory", lambda: 9 * MIB)
    check_resources(make_needs(**parts), suggest)
    monkeypatch.setattr("agents.setup.machine.free_memory", lambda: 9 * MIB - 1)
    with pytest.raises(InputError) as caught:
        check_resources(make_needs(**parts), suggest)
    message = str(caught.value)
    assert "needs at least 9 MiB of memory" in message and f"{part} 5" in message
    assert message.endswith(f"lower the option of {part}.")
    assert "\n" not in message


def test_too_many_open_files_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agents.setup.machine.allow_open_files", lambda wanted: 1024)
    with pytest.raises(
        InputError,
        match=r"needs 5,000 open files in one process and 1,024 are allowed: lower the option of open_files",
    ):
        check_resources(make_needs(open_files=5000), suggest)


def test_limit_of_open_files_is_raised_up_to_the_hard_limit() -> None:
    """Uses a separate process, because a lowered hard limit cannot be raised again."""
    program = """
import resource
from agents.setup.preflight import Needs, check_resources
from system.errors import InputError
from system.memory import resident_memory
resource.setrlimit(resource.RLIMIT_NOFILE, (200, 400))
suggest = lambda part: ''
check_resources(Needs(0, 0, 0, 0, 0, 300), suggest)
assert resource.getrlimit(resource.RLIMIT_NOFILE) == (300, 400)
try:
    check_resources(Needs(0, 0, 0, 0, 0, 500), suggest)
except InputError as error:
    print(error)
"""
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=Path.cwd())
    assert "400 are allowed" in found.stdout
    assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] > 400


def test_container_limits_reduce_the_resources(monkeypatch: pytest.MonkeyPatch) -> None:
    assert free_memory() > 100 * MIB
    monkeypatch.setattr("agents.setup.machine.memory_left", lambda: 990.0)
    assert free_memory() == 990


def needs_of(*keys: str) -> tuple[Needs, int, int]:
    """The needs of a run, its parameters, and the bytes of each in an acting network."""
    config = compose_train(list(keys))
    env = make_spec(config.env)
    network = builder.build_network(config, env)
    plan = make_plan(config, env)
    return estimate_needs(config, env, network), network.num_parameters, plan.bytes_per_parameter


def test_needs_grow_with_actors_slots_and_networks() -> None:
    serial, parameters, _ = needs_of("env=conditional", "context=task", "runtime=serial")
    assert serial.actors == serial.environments == 0 and serial.learner == 16 * parameters
    keys = [*DMLAB, "runtime.num_actors=300", "runtime.slots_per_actor=4"]
    local, parameters, each = needs_of(*keys, "runtime.inference=actor")
    served, _, _ = needs_of(*keys, "runtime.inference=server")
    assert local.actors - served.actors == 299 * parameters * each
    one, _, _ = needs_of(*DMLAB, "runtime.num_actors=1", "runtime.slots_per_actor=1")
    assert local.environments == served.environments == 300 * 4 * one.environments > 0
    assert local.open_files > 1200


def test_configuration_that_does_not_fit_is_refused_before_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agents.setup.machine.free_memory", lambda: 100 * MIB)
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
        preflight.check_fits(config, env, builder.build_network(config, env))


def refusal(monkeypatch: pytest.MonkeyPatch, free: int, *keys: str) -> str:
    """The refusal of a run with `free` MiB of free memory; empty if it would start."""
    monkeypatch.setattr("agents.setup.machine.free_memory", lambda: free * MIB)
    config = compose_train([*DMLAB, *keys])
    env = make_spec(config.env)
    try:
        preflight.check_fits(config, env, builder.build_network(config, env))
    except InputError as error:
        return str(error)
    return ""


def test_needs_of_deepmind_lab_use_measured_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """190 to 260 MiB in a separate process, 90 MiB for each further environment of a process."""
    for keys, each in (((), 260), (("env.processes=false",), 90)):
        config = compose_train([*DMLAB, "runtime.num_actors=2", "runtime.slots_per_actor=16", *keys])
        env = make_spec(config.env)
        assert preflight.estimate_needs(config, env, builder.build_network(config, env)).environments == 32 * each * MIB
    assert not refusal(monkeypatch, 10_000, "runtime.num_actors=2", "runtime.slots_per_actor=16")
    assert "environments 8,320" in refusal(monkeypatch, 8_000, "runtime.num_actors=2", "runtime.slots_per_actor=16")


def test_environments_of_remote_actors_need_no_local_memory() -> None:
    config = compose_train([*DMLAB, "runtime=cluster", "runtime.address=there:1", "runtime.num_actors=9"])
    env = make_spec(config.env)
    assert preflight.estimate_needs(config, env, builder.build_network(config, env)).environments == 0


@pytest.mark.parametrize("actors", [5, 16])
@pytest.mark.parametrize("free", [3_000, 4_500])
def test_values_in_a_refusal_fit(monkeypatch: pytest.MonkeyPatch, actors: int, free: int) -> None:
    keys = [f"runtime.num_actors={actors}", "runtime.slots_per_actor=4"]
    said = refusal(monkeypatch, free, *keys)
    found = re.findall(r"(runtime\.\w+)=(\d+) to (\d+)", said)
    assert "\n" not in said and found and all(f"{key}={value}" in keys for key, value, _ in found)
    for key, value, lower in found:
        assert 0 < int(lower) < int(value)
        assert not refusal(monkeypatch, free, *keys, f"{key}={lower}")
    assert refusal(
        monkeypatch,
        free,
        *keys,
        f"runtime.num_actors={int({key: lower for key, _, lower in found}['runtime.num_actors']) + 1}",
    )


def test_refusal_names_no_value_if_none_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    said = refusal(monkeypatch, 600, "runtime.num_actors=1", "runtime.slots_per_actor=4")
    assert " to " not in said and "which alone is not enough, and leave out some of env.tasks" in said


def test_refused_evaluation_names_a_number_of_slots_that_fits(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    settings = compose_train(DMLAB).env
    monkeypatch.setattr("agents.setup.machine.free_memory", lambda: 64 * 260 * MIB)
    preflight.check_evaluation(settings, 64)
    monkeypatch.setattr("agents.setup.machine.free_memory", lambda: 4000 * MIB)
    with pytest.raises(InputError, match=r"slots=64 environments of env=dmlab30 .* 16,640 MiB .*: give slots=15\.$"):
        preflight.check_evaluation(settings, 64)
    preflight.check_evaluation(settings, 15)
    with pytest.raises(InputError, match=r"give slots=15\.$"):
        preflight.check_evaluation(settings, 16)
    monkeypatch.setattr("agents.setup.machine.free_memory", lambda: 100 * MIB)
    with pytest.raises(InputError, match="one does not fit"):
        preflight.check_evaluation(settings, 1)
    preflight.check_evaluation(compose_train(["env=conditional", "context=task"]).env, 64)


@pytest.mark.parametrize("suite", SUITES)
def test_every_suite_estimates_the_memory_of_an_environment(suite: str) -> None:
    """It is at most 200 MiB, and 0 for suites without an engine that could be measured."""
    config = compose_train([f"env={suite}", "context=task"]).env
    assert 0 <= SUITES[suite].memory(config) <= 200
    assert (SUITES[suite].memory(config) > 0) == (suite not in ("conditional", "gymnasium"))


def test_memory_of_a_process_includes_its_descendants() -> None:
    """Starts a child whose child allocates 64 MiB."""
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


def test_a_run_of_several_learners_that_does_not_fit_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """The search for a number of actors that fits also tries fewer actors than learners."""
    monkeypatch.setattr("agents.setup.machine.free_memory", lambda: 100 * MIB)
    keys = ["env=conditional", "context=task", "runtime=local", "runtime.num_actors=4", "learner.num_processes=2"]
    config = compose_train([*keys, "runtime.slots_per_actor=64", "learner.batch_size=128"])
    env = make_spec(config.env)
    with pytest.raises(InputError, match=r"MiB are free: lower "):
        preflight.check_fits(config, env, builder.build_network(config, env))
