"""Random damaged and hostile files are loaded or refused in one sentence. tests/stress/fuzz.py is the long version."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agents.storage.checkpoint import load_checkpoint, save_checkpoint
from conf.loading import compose_train, load_train
from tests.stress import fuzz
from tests.stress.hostile_checkpoints import change_bytes, change_content
from tests.stress.hostile_configs import hostile_arguments, hostile_yaml

RANDOM = st.randoms(use_true_random=True)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder whose checkpoint has every optional part. Tests only read it."""
    return fuzz.make_run(tmp_path_factory.mktemp("run") / "run")


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("scratch")


def checked_outcome(canary: Path, *actions: Callable[[], object]) -> str:
    """`loaded` or `refused`. Fails on any other outcome, and if `canary`, the file that hostile content creates, exists."""
    outcome, message = fuzz.attempt(*actions)
    assert outcome in ("loaded", "refused"), message
    assert not canary.exists()
    return outcome


def prepare_copy(run: Path, scratch: Path) -> tuple[Path, Path]:
    """Copies the configuration of the run to `scratch`. Returns the run's checkpoint and the path for a changed copy."""
    original = next((run / "checkpoints").iterdir())
    (scratch / "checkpoints").mkdir(exist_ok=True)
    (scratch / "config.yaml").write_bytes((run / "config.yaml").read_bytes())
    return original, scratch / "checkpoints" / original.name


def test_an_unchanged_checkpoint_is_loaded(run: Path, tmp_path: Path) -> None:
    original, path = prepare_copy(run, tmp_path)
    path.write_bytes(original.read_bytes())
    assert checked_outcome(tmp_path / "canary", lambda: fuzz.resume(tmp_path), lambda: fuzz.evaluate(path)) == "loaded"


@given(rng=RANDOM)
def test_damaged_checkpoints_are_loaded_or_refused(run: Path, scratch: Path, rng: random.Random) -> None:
    original, path = prepare_copy(run, scratch)
    path.write_bytes(change_bytes(bytearray(original.read_bytes()), rng)[1])
    checked_outcome(scratch / "canary", lambda: load_checkpoint(path))


@pytest.mark.slow
@settings(max_examples=15)
@given(rng=RANDOM)
def test_checkpoints_with_hostile_values_are_loaded_or_refused(run: Path, scratch: Path, rng: random.Random) -> None:
    """The checksum is correct. train.py starts and makes one update, and evaluate.py evaluates."""
    original, path = prepare_copy(run, scratch)
    content = load_checkpoint(original)
    change_content(content, rng)
    save_checkpoint(path.parent, int(path.stem.split("-")[1]), content)
    checked_outcome(scratch / "canary", lambda: fuzz.resume(scratch), lambda: fuzz.evaluate(path))


@settings(max_examples=40)
@given(rng=RANDOM)
def test_hostile_configurations_are_loaded_or_refused(run: Path, scratch: Path, rng: random.Random) -> None:
    path, canary = scratch / "hostile.yaml", scratch / "canary"
    path.write_bytes(hostile_yaml((run / "config.yaml").read_text(encoding="utf-8"), canary, rng))
    checked_outcome(canary, lambda: load_train(path))


@settings(max_examples=15)
@given(rng=RANDOM)
def test_hostile_command_lines_are_loaded_or_refused(scratch: Path, rng: random.Random) -> None:
    arguments = hostile_arguments(scratch / "canary", rng)
    checked_outcome(scratch / "canary", lambda: compose_train(arguments))
