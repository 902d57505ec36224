"""Damaged and hostile files:  python -m tests.stress.fuzz [cases=1000] [seed=0] [programs=10]

Changes checkpoints and configurations and passes them through the start-up code of train.py and evaluate.py in this process. Half of the
checkpoints have changed bytes, as from a disk or a transfer. The other half have hostile content and a correct checksum, as from an
attacker. A configuration is read from a file (config.yaml) or from a command line. `programs` of the checkpoints also go to
train.py resume=true and to evaluate.py as processes.

Prints one line of JSON for each: the kind, the change, `outcome` ("loaded", "refused" in one sentence, "traceback", or "executed" when
code of the file ran), and the message. The last line has the counts. Exit code 1 after any traceback or execution.
"""

from __future__ import annotations

import functools
import os
import random
import subprocess
import sys
import tempfile
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import redirect_stdout
from functools import partial
from pathlib import Path
from typing import Any

from agents.evaluation.episodes import evaluation_spec, load_agent, seat
from agents.learning.learner import Learner
from agents.run.folder import load_newest_checkpoint, resumed_config
from agents.run.metrics import Statistics
from agents.run.run_state import checkpoint_content, restore
from agents.runtime.base import StreamPositions
from agents.runtime.processes.process import configure_process
from agents.runtime.restarts import Faults
from agents.setup import builder, preflight
from agents.setup.plan import make_plan
from agents.storage.checkpoint import load_checkpoint, save_checkpoint
from benchmarks.options import BenchmarkError, Row, parse, report
from conf.loading import changed_keys, compose_train, load_train, save_train
from conf.schema import TrainConfig
from envs.spec import EnvSpec
from envs.suites import make_spec
from system.errors import InputError
from tests.stress.hostile_checkpoints import change_bytes, change_content, malicious_file
from tests.stress.hostile_configs import hostile_arguments, hostile_yaml

ROOT = Path(__file__).parents[2]
SMALL = [
    *("env=conditional", "env.tasks=[map-0,memory-0]", "runtime=serial", "runtime.slots_per_actor=4"),
    *("learner.batch_size=4", "learner.unroll_length=5", "display=false"),
    *("core.size=8", "fusion.size=8", "torso.hidden=[8]", "context.task_size=4"),
]
"""A small run whose checkpoints have every part that a checkpoint can have."""
_PROGRAM_SECONDS = 300


def measure(arguments: list[str]) -> Iterator[Row]:
    """One row for each case, and the counts of all."""
    options = parse(arguments, rounds=1, seconds=1.0, own=("cases", "seed", "programs"))
    cases = options.numbers("cases", (1000,))[0]
    programs, seed = (int(options.own.get(key, [default])[-1]) for key, default in (("programs", "10"), ("seed", "0")))
    configure_process(1)
    counts: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        os.chdir(folder)
        run = make_run(folder / "run")
        canary = folder / "canary"
        steps = [
            *((f"checkpoint {number}", partial(_checkpoint, run, canary, number)) for number in range(cases)),
            *((f"config {number}", partial(_config, run, canary, number)) for number in range(cases)),
            *((f"program {number}", partial(_program, run, canary, number)) for number in range(programs)),
        ]
        for name, step in steps:
            changed, outcome, message = step(random.Random(f"{seed} {name}"))
            if canary.exists():
                outcome = "executed"
                canary.unlink()
            counts[f"{name.split()[0]} {outcome}"] += 1
            yield {"case": name, "changed": changed, "outcome": outcome, "told": message}
    yield {"case": "all", "cases": cases, "programs": programs, "seed": seed, **dict(sorted(counts.items()))}
    failed = sum(count for key, count in counts.items() if key.endswith((" traceback", " executed")))
    if failed:
        raise BenchmarkError(f"{failed} files ran code or ended in a traceback")


Outcome = tuple[str, str, str]
"""The change, the outcome and the message."""


def make_run(folder: Path) -> Path:
    """Creates a run folder with a checkpoint after eight updates."""
    config = compose_train([*SMALL, f"run={folder}"])
    env = make_spec(config.env)
    learner, statistics, positions = new_state(config, env)
    runtime = builder.build_runtime(config, env, learner.network, positions, 0)
    for _ in range(8):
        batch = runtime.collect()
        learner.step(batch.trajectory)
        statistics.update(batch.trajectory)
    content = checkpoint_content(config, env, learner, statistics, runtime.positions, 1.0, runtime=runtime.state_dict())
    runtime.close()
    save_checkpoint(folder / "checkpoints", learner.counters.updates, content)
    save_train(config, folder / "config.yaml")
    return folder


def new_state(config: TrainConfig, env: EnvSpec) -> tuple[Learner, Statistics, StreamPositions]:
    """New objects that a checkpoint can be loaded into."""
    return (
        builder.build_learner(config, env, builder.build_network(config, env)),
        Statistics(env.tasks),
        StreamPositions(),
    )


def resume(run: Path) -> None:
    """The start of train.py resume=true up to and including the first update."""
    config = resumed_config(*_compose(f"run={run}", "resume=true"))
    env = make_spec(config.env)
    preflight.check_network(config, env)
    learner, statistics, positions = new_state(config, env)
    saved = load_newest_checkpoint(run, lambda _: None)
    assert saved is not None
    restored = restore(
        saved, config, env, learner, statistics, positions, num_actors=make_plan(config, env).run.num_actors
    )
    preflight.check_fits(config, env, learner.network)
    Faults().load_state_dict(saved.get("faults", {}))
    runtime = builder.build_runtime(config, env, learner.network, positions, learner.counters.updates, restored.runtime)
    try:
        learner.step(runtime.collect().trajectory)
    finally:
        runtime.close()


@functools.cache
def _compose(*arguments: str) -> tuple[TrainConfig, dict[str, Any]]:
    """The configuration of a command line and its keys. Cached, because Hydra is slow."""
    return compose_train(arguments), changed_keys(arguments)


def evaluate(checkpoint: Path) -> None:
    """The start of evaluate.py up to its first step."""
    agent = load_agent(checkpoint)
    spec = evaluation_spec(agent, [], "")
    for task in spec.tasks:
        agent.network(seat(agent, spec, task)[0])


def attempt(*actions: Callable[[], object]) -> tuple[str, str]:
    """Calls all actions, also after a refusal. Returns the outcome and the message of the first refusal or traceback."""
    outcome, message = "loaded", ""
    for action in actions:
        try:
            with redirect_stdout(sys.stderr):
                action()
        except InputError as error:
            message = str(error)
            if outcome == "loaded":
                one_sentence = message.endswith((".", "?", "...")) and "\n" not in message
                outcome = "refused" if one_sentence else "traceback"
        except Exception:
            return "traceback", traceback.format_exc()
    return outcome, message


def change_checkpoint(run: Path, canary: Path, number: int, rng: random.Random) -> tuple[str, Path]:
    """Copies the run and changes the checkpoint of the copy. Returns the change and the copy."""
    copy = run.with_name("mutated")
    original = next((run / "checkpoints").iterdir())
    for old in (copy / "checkpoints").glob("*"):
        old.unlink()
    (copy / "checkpoints").mkdir(parents=True, exist_ok=True)
    (copy / "config.yaml").write_bytes((run / "config.yaml").read_bytes())
    path = copy / "checkpoints" / original.name
    if number % 2:
        content = load_checkpoint(original)
        changed = change_content(content, rng)
        save_checkpoint(path.parent, int(path.stem.split("-")[1]), content)
    elif number % 10 == 0:
        changed = malicious_file(path, canary, rng)
    else:
        changed, damaged = change_bytes(bytearray(original.read_bytes()), rng)
        path.write_bytes(damaged)
    return changed, copy


def _checkpoint(run: Path, canary: Path, number: int, rng: random.Random) -> Outcome:
    changed, copy = change_checkpoint(run, canary, number, rng)
    (checkpoint,) = (copy / "checkpoints").iterdir()
    return changed, *attempt(partial(resume, copy), partial(evaluate, checkpoint))


def _config(run: Path, canary: Path, number: int, rng: random.Random) -> Outcome:
    if number % 2:
        arguments = hostile_arguments(canary, rng)
        return repr(arguments)[:500], *attempt(partial(compose_train, arguments))
    path = run.with_name("config.yaml")
    text = hostile_yaml((run / "config.yaml").read_text(encoding="utf-8"), canary, rng)
    path.write_bytes(text)
    return repr(text)[-500:], *attempt(partial(load_train, path))


def _program(run: Path, canary: Path, number: int, rng: random.Random) -> Outcome:
    changed, copy = change_checkpoint(run, canary, number, rng)
    outcome, message = "loaded", ""
    for command in (
        ["train.py", f"run={copy}", "resume=true", "total_frames=400"],
        ["evaluate.py", f"run={copy}", "episodes=2"],
    ):
        # -P: the working directory is not on the import path.
        done = subprocess.run(
            [sys.executable, "-P", str(ROOT / command[0]), *command[1:]],
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            timeout=_PROGRAM_SECONDS,
            check=False,
        )
        if done.returncode != 0:
            message = done.stderr
            one_line = message.startswith("error: ") and message.count("\n") == 1
            outcome = "refused" if done.returncode == 2 and one_line else "traceback"
        if outcome == "traceback":
            break
    return changed, outcome, message


def main(arguments: Sequence[str]) -> int:
    """Prints the rows. Returns 2 for bad input, 1 after a traceback or an execution."""
    return report(measure, arguments, __doc__)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
