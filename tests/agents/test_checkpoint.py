"""Checkpoints: whole or not there, and nothing in them runs."""

from __future__ import annotations

import dataclasses
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from fakes import fake_env

from agents import checkpoint
from agents.checkpoint import (
    env_from_dict,
    env_to_dict,
    find_checkpoint,
    list_checkpoints,
    load_checkpoint,
    save_checkpoint,
)
from envs.babyai import BabyAIConfig
from envs.conditional import ConditionalConfig
from envs.contract import EnvConfig
from envs.errors import InputError
from envs.spec import EnvSpec, Score
from envs.suites import make_spec


def content(value: float = 1.0) -> dict[str, Any]:
    """Something of every kind that a run saves."""
    return {
        "config": {"env": {"name": "fake", "tasks": ["a"]}, "seed": 3, "precision": "auto"},
        "env": env_to_dict(fake_env()),
        "learner": {
            "network": {"weight": torch.full((2, 3), value)},
            "counters": {"updates": 5, "refused": 0, "steps": 7},
        },
        "positions": {"unrolls": {0: 4}, "episodes": {0: [1, 2, 3]}},
        "statistics": {"a": {"steps": 1, "episodes": 2, "recent": [[0.5, float("nan"), 3]]}},
        "rng": torch.get_rng_state(),
        "seconds": 1.5,
        "versions": {"python": "3"},
    }


def assert_one_sentence(error: BaseException, *fragments: str) -> None:
    message = str(error)
    assert "\n" not in message and message.endswith((".", "?"))
    for fragment in fragments:
        assert fragment in message


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    saved = content()
    path = save_checkpoint(tmp_path / "checkpoints", 12, saved, keep=3)
    loaded = load_checkpoint(path)
    assert loaded["positions"] == saved["positions"] and loaded["config"] == saved["config"]
    assert torch.equal(loaded["learner"]["network"]["weight"], saved["learner"]["network"]["weight"])
    assert torch.equal(loaded["rng"], saved["rng"])
    assert env_from_dict(loaded["env"]) == fake_env()
    assert find_checkpoint(tmp_path) == find_checkpoint(tmp_path / "checkpoints") == find_checkpoint(path) == path


def test_the_newest_are_kept(tmp_path: Path) -> None:
    (tmp_path / "notes.pt").write_bytes(b"somebody's own file")
    for updates in (9, 10, 100, 99, 1_000_000):
        save_checkpoint(tmp_path, updates, content(), keep=3)
    kept = list_checkpoints(tmp_path)
    assert [int(path.stem.split("-")[1]) for path in kept] == [99, 100, 1_000_000]
    assert find_checkpoint(tmp_path) == kept[-1]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*(path.name for path in kept), "notes.pt"])


@pytest.mark.parametrize("moment", ["torch.save", "os.fsync", "os.replace"])
def test_a_crash_while_saving_leaves_the_earlier_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    earlier = save_checkpoint(tmp_path, 1, content(), keep=1)

    def crash(*arguments: Any, **options: Any) -> None:
        if moment == "torch.save":
            arguments[1].write(b"PK half of a checkpoint")
        raise OSError("the power went")

    owner, name = {"torch.save": (torch, "save"), "os.fsync": (os, "fsync"), "os.replace": (os, "replace")}[moment]
    with monkeypatch.context() as patch:
        patch.setattr(owner, name, crash)
        with pytest.raises(OSError, match="the power went"):
            save_checkpoint(tmp_path, 2, content(2.0), keep=1)
    assert list_checkpoints(tmp_path) == [earlier] == [find_checkpoint(tmp_path)]
    assert float(load_checkpoint(earlier)["learner"]["network"]["weight"][0, 0]) == 1
    # The next attempt succeeds in spite of what the crash left.
    later = save_checkpoint(tmp_path, 2, content(2.0), keep=1)
    assert [path.name for path in tmp_path.iterdir()] == [later.name]


def test_the_file_is_complete_before_it_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    replace, fsync = os.replace, os.fsync
    monkeypatch.setattr(os, "fsync", lambda descriptor: (order.append("fsync"), fsync(descriptor))[1])

    def checked_replace(source: Path, target: Path) -> None:
        order.append("replace")
        assert torch.load(source, weights_only=True)["format"] == checkpoint.FORMAT
        replace(source, target)

    monkeypatch.setattr(os, "replace", checked_replace)
    save_checkpoint(tmp_path, 1, content(), keep=1)
    assert order == ["fsync", "replace", "fsync"]


class Bomb:
    """Runs a command where a checkpoint is unpickled without care."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, (f"touch {self.target}",)


def test_a_crafted_checkpoint_does_not_run_its_code(tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    path = tmp_path / "checkpoint-000000000001.pt"
    torch.save({"format": checkpoint.FORMAT, "schema": checkpoint.SCHEMA, **content(), "extra": Bomb(trace)}, path)
    with pytest.raises(InputError) as caught:
        load_checkpoint(path)
    assert_one_sentence(caught.value, str(path), "do not trust it")
    assert not trace.exists()
    torch.load(path, weights_only=False)
    assert trace.exists(), "this test proves nothing"


def write(path: Path, data: object) -> None:
    torch.save(data, path)


def damage(path: Path) -> None:
    save_checkpoint(path.parent, 1, content(), keep=1)
    whole = path.read_bytes()
    middle = whole.index(b"data.pkl") + 60
    path.write_bytes(whole[:middle] + bytes(40) + whole[middle + 40 :])


def truncate(path: Path) -> None:
    save_checkpoint(path.parent, 1, content(), keep=1)
    path.write_bytes(path.read_bytes()[:-700])


def foreign_zip(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("hello.txt", "hello")


def lacking(*keys: str) -> dict[str, Any]:
    return {"format": checkpoint.FORMAT, "schema": checkpoint.SCHEMA} | {
        k: v for k, v in content().items() if k not in keys
    }


BAD: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing": (lambda path: None, "does not exist"),
    "folder": (lambda path: path.mkdir(), "does not exist"),
    "empty": (lambda path: path.touch(), "not a checkpoint"),
    "text": (lambda path: path.write_text("hello"), "not a checkpoint"),
    "pickle": (lambda path: path.write_bytes(pickle.dumps({"format": checkpoint.FORMAT})), "not a checkpoint"),
    "truncated": (truncate, "truncated"),
    "damaged": (damage, ""),
    "another zip": (foreign_zip, "damaged"),
    "a tensor": (lambda path: write(path, torch.zeros(3)), "not written by mimpala"),
    "another program's": (lambda path: write(path, {"state_dict": {}}), "not written by mimpala"),
    "another schema": (lambda path: write(path, lacking() | {"schema": 99}), "schema 99"),
    "incomplete": (lambda path: write(path, lacking("learner", "rng")), "learner, rng"),
}


@pytest.mark.parametrize("kind", BAD)
def test_what_is_no_checkpoint_is_refused_in_one_sentence(tmp_path: Path, kind: str) -> None:
    make, fragment = BAD[kind]
    path = tmp_path / "checkpoint-000000000001.pt"
    make(path)
    with pytest.raises(InputError) as caught:
        load_checkpoint(path)
    assert_one_sentence(caught.value, str(path), fragment)


def test_a_run_without_checkpoints_is_refused(tmp_path: Path) -> None:
    for run, fragment in ((tmp_path / "nowhere", "does not exist"), (tmp_path, "holds no checkpoint")):
        with pytest.raises(InputError) as caught:
            find_checkpoint(run)
        assert_one_sentence(caught.value, str(run), fragment)


SPECS: dict[str, Callable[[], EnvSpec]] = {
    "fake": fake_env,
    "symbolic": lambda: fake_env(
        image=(7, 7, 3), kind="symbolic", scores={"task-0": Score(random=0.1, human=1.0)}, engine="x"
    ),
    **{
        config.name: lambda config=config: make_spec(config)  # type: ignore[misc]
        for config in (BabyAIConfig(tasks=["starter"]), ConditionalConfig(tasks=["map", "memory-1"]))
        if isinstance(config, EnvConfig)
    },
}


@pytest.mark.parametrize("name", SPECS)
def test_a_description_of_environments_is_plain_data(tmp_path: Path, name: str) -> None:
    spec = SPECS[name]()
    torch.save(env_to_dict(spec), tmp_path / "spec.pt")
    assert env_from_dict(torch.load(tmp_path / "spec.pt", weights_only=True)) == spec
    assert hash(env_from_dict(env_to_dict(spec)).tasks) == hash(spec.tasks)


@pytest.mark.parametrize(
    "field", [field.name for field in dataclasses.fields(EnvSpec) if field.default is dataclasses.MISSING]
)
def test_a_damaged_description_is_refused(field: str) -> None:
    data = env_to_dict(fake_env())
    for damaged in ({k: v for k, v in data.items() if k != field}, data | {"surprise": 1}):
        if field == "scores" and "surprise" not in damaged:
            continue
        with pytest.raises(InputError) as caught:
            env_from_dict(damaged)
        assert_one_sentence(caught.value, "damaged")
