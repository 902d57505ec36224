"""Every benchmark prints one JSON object for each case with its documented keys and refuses bad input. No test asserts a speed."""

from __future__ import annotations

import json
import re
import shlex
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from agents.fusion import FUSIONS
from agents.fusion.multiplicative import MultiplicativeInteraction
from agents.fusion.spatial import SPATIAL_FUSIONS
from benchmarks import (
    bound,
    environment,
    extras,
    fusion,
    fusion_layers,
    gpu,
    learners,
    network,
    scaling,
    startup,
    throughput,
)
from benchmarks.batches import collect, synthetic, updates
from benchmarks.cases import configured
from benchmarks.options import BenchmarkError, parse
from benchmarks.programs import Programs
from benchmarks.turns import cost, take_turns
from system.errors import InputError

pytestmark = pytest.mark.usefixtures("process_settings")

SHORT = ["rounds=1", "seconds=0.2"]
FEW = ["seconds=0.01", "runtime.slots_per_actor=40"]
SMALL = [
    *("env=conditional", "env.tasks=[map-0]", "runtime.slots_per_actor=8", "learner.unroll_length=4"),
    *("core.size=8", "fusion.size=8", "torso.hidden=[8]"),
]
PROGRAMS: dict[str, ModuleType] = {
    module.__name__.rpartition(".")[2]: module
    for module in (bound, environment, extras, fusion, gpu, learners, network, scaling, startup, throughput)
}


def rows(capsys: pytest.CaptureFixture[str], name: str, *arguments: str) -> list[dict[str, Any]]:
    """The printed rows of the benchmark."""
    code = PROGRAMS[name].main([*SHORT, *arguments])
    output = capsys.readouterr()
    assert code == 0, output.err
    found = [json.loads(line) for line in output.out.splitlines()]
    assert all({"case", "rounds", "seconds"} <= row.keys() for row in found)
    return found


def check_spreads(row: dict[str, Any], *keys: str) -> None:
    for key in keys:
        assert 0 < row[key]["min"] <= row[key]["median"] <= row[key]["max"], key


@pytest.mark.slow
def test_startup(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    words = f"{' '.join(SMALL)} runtime=serial"
    # A stand-in for another checkout: each start of the real one takes seconds.
    (tmp_path / "train.py").write_text(
        "import pathlib, sys, time\n"
        "keys = dict(word.split('=', 1) for word in sys.argv[1:])\n"
        "assert keys['core.size'] == '8' and keys['log_frames'] == '1', keys\n"
        "run = pathlib.Path(keys['run'])\n"
        "run.mkdir()\n"
        "(run / 'metrics.jsonl').write_text('{}\\n')\n"
        "time.sleep(1000)\n",
        encoding="utf-8",
    )
    one, other = rows(capsys, "startup", f"case=one: {words}", f"checkout=other: {tmp_path} {words}")
    assert [one["case"], other["case"]] == ["one", "other"]
    for row in (one, other):
        check_spreads(row, "seconds", "cpu_seconds", "times_first")
    assert one["times_first"] == {"median": 1, "min": 1, "max": 1} and other["checkout"] == str(tmp_path)


@pytest.mark.slow
def test_throughput(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    peer = tmp_path / "peer.py"
    peer.write_text("import time\nfor n in range(10**6):\n  print('steps:', 8 * n, flush=True); time.sleep(0.01)\n")
    words = [f"case=small: {' '.join(SMALL)} runtime=serial", f"command=peer: {shlex.quote(sys.executable)} {peer}"]
    small, other = rows(capsys, "throughput", *words, r"pattern=steps: (\d+)")
    assert [small["case"], other["case"]] == ["small", "peer"]
    for row in (small, other):
        check_spreads(row, "steps_per_second")
        assert row["cores"] >= 1
    assert set(small["time"]) == {"env", "inference", "learner", "wait"}
    assert small["actors"] == small["actor_threads"] == small["learner_threads"] == 1
    assert other["time"] == {}


@pytest.mark.slow
def test_throughput_of_another_checkout(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Runs train.py of that folder with the common keys and the keys of the case."""
    root = tmp_path / "before"
    root.mkdir()
    (root / "train.py").write_text(
        "import json, pathlib, sys, time\n"
        "keys = dict(word.split('=', 1) for word in sys.argv[1:])\n"
        "assert keys['fusion'] == 'mi' and keys['runtime'] == 'serial', keys\n"
        "run = pathlib.Path(keys['run'])\n"
        "run.mkdir()\n"
        "for n in range(1, 10**6):\n"
        "    row = {'seconds': n / 100, 'steps': 10_000 * n, **{f'time/{x}': 0.25 for x in "
        "('env', 'inference', 'learner', 'wait')}}\n"
        "    with (run / 'metrics.jsonl').open('a') as file:\n"
        "        file.write(json.dumps(row) + chr(10))\n"
        "    time.sleep(0.01)\n"
    )
    this, before = rows(capsys, "throughput", f"checkout=before: {root} fusion=mi", *SMALL, "runtime=serial")
    assert [this["case"], before["case"]] == ["this checkout", "before"]
    assert this["times_first"] == {"median": 1, "min": 1, "max": 1}
    check_spreads(before, "times_first")
    assert before["checkout"] == str(root) and "checkout" not in this
    assert before["steps_per_second"]["median"] == 1e6, "by the counter and clock of that program"
    assert "fusion=mi" in before["arguments"] and "fusion=mi" not in this["arguments"]


def test_environment(capsys: pytest.CaptureFixture[str]) -> None:
    found = rows(capsys, "environment", "case=c: env=conditional", "slots=2,8", "seconds=0.02")
    assert [(row["case"], row["slots"], row["threads"]) for row in found] == [("c", 2, 1), ("c", 8, 1)]
    for row in found:
        check_spreads(row, "steps_per_second", "steps_per_cpu_second", "microseconds")


@pytest.mark.slow
def test_network(capsys: pytest.CaptureFixture[str]) -> None:
    found = rows(capsys, "network", "cases=mlp-lstm", "act=2", "learn=2", "seconds=0.01")
    # The variant `contiguous` needs an image.
    assert [row["variant"] for row in found] == ["base", "fp32", "malloc-off"] * 2
    assert [row["what"] for row in found] == ["act"] * 3 + ["learn"] * 3
    for row in found:
        check_spreads(row, "microseconds_per_sample", "cpu_microseconds_per_sample")


@pytest.mark.slow
def test_gpu(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    found = rows(capsys, "gpu", "cases=mlp-lstm", "learn=2", "act=2", "variants=fp32", "seconds=0.01")
    assert [(row["what"], row["variant"]) for row in found] == [
        ("learn", "base"),
        ("learn", "fp32"),
        ("act", "base"),
        ("act", "fp32"),
    ]
    for row in found:
        check_spreads(row, "microseconds_per_sample", "times_base")
        assert row["device"] == "cpu" and (row["variant"] != "base" or row["times_base"]["median"] == 1)


def test_fusion(capsys: pytest.CaptureFixture[str]) -> None:
    found = rows(capsys, "fusion", "cases=20-tasks", "fusions=mi", "precision=fp32", *FEW)
    assert [(row["sites"], row["fusion"]) for row in found] == [
        (sites, fusion) for sites in ("core_input", "all") for fusion in ("concat", "mi")
    ]
    for row in found:
        check_spreads(row, "times_concat", "cpu_times_concat", "update_microseconds")
        check_spreads(row, "acting_times_concat", "acting_microseconds_per_step")
        assert row["contexts_per_batch"] == 20
        assert row["slots"] == 40
        assert (row["fusion"] != "concat") or row["times_concat"]["median"] == 1
    # For each context, concat has a bias [K]; mi has also a matrix [K, X], where x is torso, last action and reward.
    concat, interaction = found[:2]
    # An actor caches two contexts for each of its 40 slots.
    for row, numbers in ((concat, 64), (interaction, 64 * (64 + 4 + 1 + 1))):
        assert row["learner_modulation_bytes"] == 20 * numbers * 4
        assert row["acting_modulation_bytes"] == 80 * numbers * 4


def test_extras(capsys: pytest.CaptureFixture[str]) -> None:
    found = rows(capsys, "extras", "cases=8-tasks", "precision=fp32", *FEW, *SMALL[3:])
    assert [row["extra"] for row in found] == ["plain", "diagnostics", "noise", "dropout"]
    for row in found:
        for part in ("", "cpu_", "acting_", "acting_cpu_"):
            check_spreads(row, f"{part}times_plain")
            assert row["extra"] != "plain" or row[f"{part}times_plain"]["median"] == 1
        assert row["tasks"] == 8
    plain, diagnostics, noise, dropout = (row["contexts_per_batch"] for row in found)
    assert plain == diagnostics == 8 < dropout <= 16 < noise


@pytest.mark.slow
def test_fusion_layers(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.fusion_layers.SHAPES", ((2, 3),))
    found = rows(capsys, "fusion", "cases=layers", "rounds=1", "seconds=0.001")
    by_name = {(row["fusion"], row["contexts"]): row for row in found}
    assert {name for name, _ in by_name} == {
        *(*FUSIONS, *(f"{name} on the map" for name in SPATIAL_FUSIONS)),
        *("mi, outer product", "mi, x first", "mi, weights per sample", "mi, einsum"),
    }
    assert len(by_name) == len(found) == (len(FUSIONS) + len(SPATIAL_FUSIONS) + 4) * 3
    for row in found:
        check_spreads(row, "apply_times_concat", "train_times_concat", "apply_microseconds_per_sample")
    assert [by_name["mi", contexts]["num_contexts"] for contexts in ("constant", "worst")] == [1, 6]
    # With one context, the weights are computed once. With a context for each step they are never computed.
    constant, worst = (by_name["mi", contexts]["multiply_adds"] for contexts in ("constant", "worst"))
    assert constant["condition"] == 64 * 256 * 257 and constant["apply"] == 6 * 256 * 256
    assert worst["condition"] == 6 * 64 * 256 and worst["apply"] == 6 * 256 * (64 * 256 + 64 + 256)


def test_plain_implementations_equal_the_full_interaction() -> None:
    mi = MultiplicativeInteraction(fusion_layers.X, fusion_layers.Z, fusion_layers.K)
    x, z = torch.randn(3, fusion_layers.X), torch.randn(3, fusion_layers.Z)
    rest = torch.addmm(mi.b, z, mi.U) + x @ mi.V.t()
    for work in fusion_layers.PLAIN.values():
        torch.testing.assert_close(work(mi, x, z / mi.context_norm) + rest, mi(x, z), rtol=1e-3, atol=1e-4)


@pytest.mark.slow
def test_bound(capsys: pytest.CaptureFixture[str]) -> None:
    *parts, run, total = rows(capsys, "bound", *SMALL, "runtime=serial", "seconds=0.05")
    assert [row["case"] for row in (*parts, run, total)] == ["env", "act", "train", "run", "bound"]
    for row in parts:
        check_spreads(row, "microseconds_per_step", "cpu_microseconds_per_step")
    check_spreads(run, "steps_per_second")
    check_spreads(total, "bound", "fraction", "layout_bound", "layout_fraction")


@pytest.mark.slow
def test_scaling(capsys: pytest.CaptureFixture[str]) -> None:
    (row,) = rows(capsys, "scaling", "actors=1", "runtime.slots_per_actor=8", "learner.batch_size=8", *SMALL[4:])
    check_spreads(row, "steps_per_second", "times_first")
    assert row["actors"] == 1
    assert row["time"].keys() == {"env", "inference", "learner", "wait"}
    # Each step costs one actor a millisecond of processor time on any machine.
    assert row["steps_per_second"]["max"] < 1100


@pytest.mark.slow
def test_learners(capsys: pytest.CaptureFixture[str]) -> None:
    (row,) = rows(capsys, "learners", "learners=2", "learner.batch_size=8", *SMALL)
    check_spreads(row, "updates_per_second", "columns_per_second", "times_first")
    assert row["threads"] >= 1 and 0 < row["reduce"]["median"] < 1


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        *((name, ["rounds=0"], r"rounds=0 is out of range: ") for name in PROGRAMS),
        ("throughput", ["seconds=x"], r"seconds=x is out of range"),
        ("throughput", ["cases=all"], r"cases=all is unknown: choose one of .*fusions"),
        ("throughput", ["case=fusion=mi"], r'write case="name: words"'),
        ("throughput", ["case=x: fusion=no"], r"fusion=no is unknown"),
        ("throughput", ["command=x:"], r"needs a program"),
        ("throughput", ["checkout=x:"], r"has no train.py"),
        ("throughput", ["checkout=x: tests"], r'checkout="x: tests" has no train.py'),
        ("throughput", ["pattern=steps"], r"no group"),
        ("environment", ["slots=0"], r"slots=0 is no list of whole numbers"),
        ("environment", ["fast"], r"fast cannot be read: write key=value"),
        ("network", ["cases=huge"], r"cases=huge is unknown"),
        ("fusion", ["sites=core"], r"sites=core is unknown"),
        ("bound", ["core.sise=1"], r"core.sise is not a key"),
        ("scaling", ["actors=1,x"], r"actors=1,x is no list"),
        ("learners", ["learners=3"], r"cannot be shared out among learner.num_processes=3"),
    ],
)
def test_bad_input_is_refused_in_one_sentence(
    capsys: pytest.CaptureFixture[str], name: str, arguments: list[str], message: str
) -> None:
    assert PROGRAMS[name].main(arguments) == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert re.match(r"error: .*\n\Z", output.err)
    assert re.search(message, output.err)


@pytest.mark.parametrize("name", PROGRAMS)
def test_help_is_the_description(capsys: pytest.CaptureFixture[str], name: str) -> None:
    assert PROGRAMS[name].main(["--help"]) == 0
    assert f"python -m benchmarks.{name} [rounds=" in capsys.readouterr().out


def test_a_program_that_ends_is_reported_with_its_last_line() -> None:
    command = [sys.executable, "-c", "print('first'); print('out of paper'); raise SystemExit(3)"]
    with Programs() as programs, pytest.raises(BenchmarkError, match="peer ended with exit code 3: out of paper"):
        programs.other("peer", command, None)


def test_turns_alternate_and_the_first_round_is_dropped() -> None:
    order: list[str] = []

    def turn(name: str) -> int:
        order.append(name)
        return len(order)

    assert take_turns({"a": lambda: turn("a"), "b": lambda: turn("b")}, 2) == {"a": [3, 5], "b": [4, 6]}
    assert order == list("ababab")


def test_cost_counts_units() -> None:
    done = []
    reading = cost(lambda: done.append(0) or 5.0, 1e-9)  # type: ignore[func-returns-value]
    assert len(done) == 1
    assert 0 < reading.wall < 60


def test_options_are_parsed() -> None:
    options = parse(["rounds=2", "fusion=mi", "slots=[3,4]"], rounds=9, seconds=1, own=("slots",))
    assert (options.rounds, options.seconds, options.overrides) == (2, 1, ["fusion=mi"])
    assert options.numbers("slots", (1,)) == [3, 4]
    with pytest.raises(InputError, match="slots"):
        parse(["slots=a"], rounds=1, seconds=1, own=("slots",)).numbers("slots", (1,))


@pytest.mark.parametrize("batch", [4, 8, 16])
def test_updates_have_the_columns_of_the_configuration(batch: int) -> None:
    config, env = configured([*SMALL, "runtime=local", f"learner.batch_size={batch}"])
    unrolls = collect(config, env, 2)
    assert [unroll["action"].shape for unroll in unrolls] == [(4, 8)] * 2
    batches = updates(config, env, unrolls)
    assert [list(part["action"].shape) for part in batches] == [[4, batch]] * (16 // batch)


def test_synthetic_trajectories_have_values_in_range() -> None:
    _, env = network.configured(network.CASES["grid-lstm"], [])
    batch = synthetic(env, 5, 16, 3)
    assert (batch["image"].amax(dim=(0, 1, 2, 3)) < torch.tensor(env.symbol_counts)).all()
    assert batch["image"].any()
    assert (batch["action"] < env.num_actions).all()
    assert ((batch["last_action"] == env.num_actions)[1:] == batch["reset"][1:]).all()
