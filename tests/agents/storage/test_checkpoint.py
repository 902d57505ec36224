"""Checkpoints are written atomically, and nothing in them is executed."""

from __future__ import annotations

import dataclasses
import os
import pickle
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from fakes import fake_env
from hypothesis import given
from hypothesis import strategies as st
from saved_agents import write_sealed

from agents.storage import checkpoint
from agents.storage.checkpoint import (
    DamagedCheckpointError,
    env_from_dict,
    env_to_dict,
    find_checkpoint,
    list_checkpoints,
    load_checkpoint,
    remove_checkpoints,
    save_checkpoint,
)
from envs.babyai.suite import BabyAIConfig
from envs.conditional.suite import ConditionalConfig
from envs.spec import EnvSpec, Score
from envs.suite import EnvConfig
from envs.suites import make_spec
from system.errors import InputError


def content(value: float = 1.0) -> dict[str, Any]:
    """One value of every kind that a run saves."""
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


def test_a_saved_checkpoint_is_loaded_unchanged(tmp_path: Path) -> None:
    saved = content()
    path = save_checkpoint(tmp_path / "checkpoints", 12, saved)
    loaded = load_checkpoint(path)
    assert loaded["positions"] == saved["positions"] and loaded["config"] == saved["config"]
    assert torch.equal(loaded["learner"]["network"]["weight"], saved["learner"]["network"]["weight"])
    assert torch.equal(loaded["rng"], saved["rng"])
    assert env_from_dict(loaded["env"]) == fake_env()
    assert (
        find_checkpoint(tmp_path, print)
        == find_checkpoint(tmp_path / "checkpoints", print)
        == find_checkpoint(path, print)
        == path
    )


def test_the_newest_checkpoints_are_kept(tmp_path: Path) -> None:
    (tmp_path / "notes.pt").write_bytes(b"somebody's own file")
    for updates in (9, 10, 100, 99, 1_000_000):
        save_checkpoint(tmp_path, updates, content())
        remove_checkpoints(tmp_path, keep=3)
    kept = list_checkpoints(tmp_path)
    assert [int(path.stem.split("-")[1]) for path in kept] == [99, 100, 1_000_000]
    assert find_checkpoint(tmp_path, print) == kept[-1]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*(path.name for path in kept), "notes.pt"])


@pytest.mark.parametrize("moment", ["torch.save", "os.fsync", "os.replace"])
def test_a_crash_while_saving_leaves_the_earlier_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    earlier = save_checkpoint(tmp_path, 1, content())

    def crash(*arguments: Any, **options: Any) -> None:
        if moment == "torch.save":
            arguments[1].write(b"PK half of a checkpoint")
        raise OSError("the power went")

    owner, name = {"torch.save": (torch, "save"), "os.fsync": (os, "fsync"), "os.replace": (os, "replace")}[moment]
    with monkeypatch.context() as patch:
        patch.setattr(owner, name, crash)
        with pytest.raises(OSError, match="the power went"):
            save_checkpoint(tmp_path, 2, content(2.0))
    assert list(tmp_path.iterdir()) == [earlier] == [find_checkpoint(tmp_path, print)]
    assert float(load_checkpoint(earlier)["learner"]["network"]["weight"][0, 0]) == 1
    # The next attempt succeeds despite the temporary file that a kill leaves.
    (tmp_path / ".checkpoint-000000000002.pt.tmp").write_bytes(b"PK half of a checkpoint")
    later = save_checkpoint(tmp_path, 2, content(2.0))
    assert list_checkpoints(tmp_path) == [earlier, later]


def test_the_file_is_complete_before_it_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    replace, fsync = os.replace, os.fsync
    monkeypatch.setattr(os, "fsync", lambda descriptor: (order.append("fsync"), fsync(descriptor))[1])

    def checked_replace(source: Path, target: Path) -> None:
        order.append("replace")
        assert torch.load(source, weights_only=True)["format"] == checkpoint.FORMAT
        replace(source, target)

    monkeypatch.setattr(os, "replace", checked_replace)
    save_checkpoint(tmp_path, 1, content())
    assert order == ["fsync", "replace", "fsync"]


def test_links_are_removed_and_not_followed(tmp_path: Path) -> None:
    folder, elsewhere = tmp_path / "checkpoints", tmp_path / "precious"
    elsewhere.write_text("precious")
    folder.mkdir()
    (folder / "checkpoint-000000000001.pt").symlink_to(elsewhere)
    (folder / ".checkpoint-000000000002.pt.tmp").symlink_to(elsewhere)
    save_checkpoint(folder, 2, content())
    (folder / ".checkpoint-000000000003.pt.tmp").symlink_to(elsewhere)
    remove_checkpoints(folder, keep=1)
    assert [path.name for path in folder.iterdir()] == ["checkpoint-000000000002.pt"]
    assert elsewhere.read_text() == "precious"


# Damage


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return save_checkpoint(tmp_path_factory.mktemp("whole"), 1, content()).read_bytes()


def refused_as_damaged(data: bytes) -> bool:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "copy.pt"
        path.write_bytes(data)
        with pytest.raises(DamagedCheckpointError) as caught:
            load_checkpoint(path)
        assert_one_sentence(caught.value, str(path))
    return True


def test_a_copied_checkpoint_is_accepted(tmp_path: Path, whole: bytes) -> None:
    copy = tmp_path / "copy.pt"
    copy.write_bytes(whole)
    assert load_checkpoint(copy)["seconds"] == 1.5
    # torch and other zip readers ignore the checksum.
    assert torch.load(copy, weights_only=True)["seconds"] == 1.5
    assert zipfile.ZipFile(copy).testzip() is None


@given(data=st.data())
def test_one_flipped_bit_is_detected(whole: bytes, data: st.DataObject) -> None:
    # From both ends: hypothesis prefers small numbers, and the last bytes are the checksum itself.
    bit = data.draw(st.integers(0, 8 * len(whole) - 1) | st.integers(1, 8 * 120).map(lambda n: 8 * len(whole) - n))
    flipped = bytearray(whole)
    flipped[bit // 8] ^= 1 << bit % 8
    assert refused_as_damaged(bytes(flipped))


@given(data=st.data())
def test_torn_and_truncated_files_are_detected(whole: bytes, data: st.DataObject) -> None:
    cut = data.draw(st.integers(0, len(whole) - 1) | st.integers(1, 120).map(lambda n: len(whole) - n))
    assert refused_as_damaged(whole[:cut])
    if whole[cut:].strip(b"\0"):
        # The length reached the disk and the content did not.
        assert refused_as_damaged(whole[:cut] + bytes(len(whole) - cut))


def test_a_checkpoint_without_checksum_of_schema_2_is_read(tmp_path: Path) -> None:
    path = tmp_path / "old.pt"
    torch.save({"format": checkpoint.FORMAT, "schema": 2, **content()}, path)
    assert load_checkpoint(path)["seconds"] == 1.5
    torch.save({"format": checkpoint.FORMAT, "schema": checkpoint.SCHEMA, **content()}, path)
    assert refused_as_damaged(path.read_bytes())


def test_the_newest_intact_checkpoint_is_found(tmp_path: Path, whole: bytes) -> None:
    paths = [save_checkpoint(tmp_path, updates, content()) for updates in (1, 2, 3)]
    told: list[str] = []
    assert find_checkpoint(tmp_path, told.append) == paths[2] and not told
    paths[2].write_bytes(whole[:-1])
    paths[1].write_bytes(whole[:500])
    assert find_checkpoint(tmp_path, told.append) == paths[0]
    (sentence,) = told
    assert [str(path) in sentence for path in paths] == [True, True, True]
    assert sentence.endswith(f"{paths[0]} is used instead.")
    # A file given by name is used itself.
    assert find_checkpoint(paths[2], told.append) == paths[2] and len(told) == 1
    paths[0].write_bytes(b"")
    with pytest.raises(InputError) as caught:
        find_checkpoint(tmp_path, told.append)
    assert_one_sentence(caught.value, "no checkpoint is intact", *map(str, paths))


class Bomb:
    """Runs a command when it is unpickled without care."""

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
    write_sealed(data, path)


def damage(path: Path) -> None:
    save_checkpoint(path.parent, 1, content())
    whole = path.read_bytes()
    middle = whole.index(b"data.pkl") + 60
    path.write_bytes(whole[:middle] + bytes(40) + whole[middle + 40 :])


def truncate(path: Path) -> None:
    save_checkpoint(path.parent, 1, content())
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
def test_other_files_are_refused_with_one_sentence(tmp_path: Path, kind: str) -> None:
    make, fragment = BAD[kind]
    path = tmp_path / "checkpoint-000000000001.pt"
    make(path)
    with pytest.raises(InputError) as caught:
        load_checkpoint(path)
    assert_one_sentence(caught.value, str(path), fragment)


@pytest.mark.parametrize("part", ["mu", "nu", "calm", "updates"])
def test_moments_that_are_not_finite_are_refused(tmp_path: Path, part: str) -> None:
    crafted = content()
    crafted["learner"]["popart"] = {part: torch.tensor([1.0, float("nan")])}
    path = save_checkpoint(tmp_path, 1, crafted)
    with pytest.raises(InputError) as caught:
        load_checkpoint(path)
    assert_one_sentence(caught.value, str(path), f"learner popart {part}")


def test_a_run_without_checkpoints_is_refused(tmp_path: Path) -> None:
    for run, fragment in ((tmp_path / "nowhere", "does not exist"), (tmp_path, "holds no checkpoint")):
        with pytest.raises(InputError) as caught:
            find_checkpoint(run, print)
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
        # Earlier checkpoints lack `frame_rates`.
        if field in ("scores", "frame_rates") and "surprise" not in damaged:
            continue
        with pytest.raises(InputError) as caught:
            env_from_dict(damaged)
        assert_one_sentence(caught.value, "damaged")


@pytest.mark.parametrize(
    "make", [Path.mkdir, lambda path: path.symlink_to(path.parent / "checkpoint-000000000001.pt"), os.mkfifo]
)
def test_entries_that_are_no_files_are_skipped(tmp_path: Path, make: Callable[[Path], object]) -> None:
    """A folder, link or pipe with the newest checkpoint's name is skipped."""
    folder = tmp_path / "checkpoints"
    intact = save_checkpoint(folder, 1, content())
    make(folder / "checkpoint-000000000002.pt")
    said: list[str] = []
    assert find_checkpoint(tmp_path, said.append) == intact
    assert "checkpoint-000000000002.pt is no ordinary file" in said[0]
