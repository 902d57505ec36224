"""Files of somebody else's, as fuzzing makes them: refused in one sentence or loaded, and nothing else."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agents.storage.checkpoint import load_checkpoint, save_checkpoint
from benchmarks import fuzz
from benchmarks.hostile import change_bytes, change_content
from benchmarks.hostile_configs import hostile_arguments, hostile_yaml
from conf.loading import compose_train, load_train

RANDOM = st.randoms(use_true_random=True)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With a checkpoint of everything that one can hold; only to be read."""
    return fuzz.make_run(tmp_path_factory.mktemp("run") / "run")


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("scratch")


def tried(canary: Path, *actions: Callable[[], object]) -> str:
    outcome, told = fuzz.attempt(*actions)
    assert outcome in ("loaded", "refused"), told
    assert not canary.exists()
    return outcome


def copied(run: Path, scratch: Path) -> tuple[Path, Path]:
    """A folder with the configuration of the run, and where its checkpoint would be."""
    original = next((run / "checkpoints").iterdir())
    (scratch / "checkpoints").mkdir(exist_ok=True)
    (scratch / "config.yaml").write_bytes((run / "config.yaml").read_bytes())
    return original, scratch / "checkpoints" / original.name


def test_what_was_not_changed_is_loaded(run: Path, tmp_path: Path) -> None:
    original, path = copied(run, tmp_path)
    path.write_bytes(original.read_bytes())
    assert tried(tmp_path / "canary", lambda: fuzz.resume(tmp_path), lambda: fuzz.evaluate(path)) == "loaded"


@given(rng=RANDOM)
def test_damaged_checkpoints(run: Path, scratch: Path, rng: random.Random) -> None:
    original, path = copied(run, scratch)
    path.write_bytes(change_bytes(bytearray(original.read_bytes()), rng)[1])
    tried(scratch / "canary", lambda: load_checkpoint(path))


@settings(max_examples=15)
@given(rng=RANDOM)
def test_checkpoints_that_say_something_else(run: Path, scratch: Path, rng: random.Random) -> None:
    """Whole, sealed, and senseless: loaded as train.py and evaluate.py load them, up to a first update."""
    original, path = copied(run, scratch)
    content = load_checkpoint(original)
    change_content(content, rng)
    save_checkpoint(path.parent, int(path.stem.split("-")[1]), content)
    tried(scratch / "canary", lambda: fuzz.resume(scratch), lambda: fuzz.evaluate(path))


@settings(max_examples=40)
@given(rng=RANDOM)
def test_hostile_configurations(run: Path, scratch: Path, rng: random.Random) -> None:
    path, canary = scratch / "hostile.yaml", scratch / "canary"
    path.write_bytes(hostile_yaml((run / "config.yaml").read_text(encoding="utf-8"), canary, rng))
    tried(canary, lambda: load_train(path))


@settings(max_examples=15)
@given(rng=RANDOM)
def test_hostile_command_lines(scratch: Path, rng: random.Random) -> None:
    arguments = hostile_arguments(scratch / "canary", rng)
    tried(scratch / "canary", lambda: compose_train(arguments))
