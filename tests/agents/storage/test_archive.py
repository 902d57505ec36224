"""Crafted checkpoint files are refused with one sentence, before any code runs and before memory is allocated."""

from __future__ import annotations

import io
import random
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from agents.storage.checkpoint import load_checkpoint
from agents.storage.tensor_file import read_tensors
from agents.storage.torch_zip import checked_archive
from system.errors import InputError
from tests.stress.hostile_checkpoints import ATTACKS


def refusal(path: Path) -> str:
    with pytest.raises(InputError) as caught:
        load_checkpoint(path)
    message = str(caught.value)
    assert "\n" not in message and message.endswith(".") and str(path) in message
    return message


def records(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def write(path: Path, content: dict[str, bytes], kind: int = zipfile.ZIP_STORED) -> None:
    with zipfile.ZipFile(path, "w", kind) as archive:
        for name, data in content.items():
            archive.writestr(name, data)


def test_tensors_of_every_kind_that_runs_save_pass(tmp_path: Path) -> None:
    kinds = (torch.float32, torch.float64, torch.bfloat16, torch.uint8, torch.int32, torch.int64, torch.bool)
    whole = torch.arange(12.0).reshape(3, 4)
    content: dict[str, Any] = {
        **{str(kind): torch.zeros(3, dtype=kind) for kind in kinds},
        "keys": torch.from_numpy(np.arange(4, dtype=np.uint64)),
        "seeds": torch.from_numpy(np.arange(4, dtype=np.uint32)),
        "empty": torch.zeros(0, 5),
        "scalar": torch.tensor(1.5),
        "view": whole[1:, :2],
        "turned": whole.T,
        "again": whole,
        "network": torch.nn.Linear(2, 3).state_dict(),
        "plain": [(1, 2**62, -1), None, True, {"é": 0.1, 3: ""}],
    }
    torch.save(content, tmp_path / "all.pt")
    loaded = torch.load(checked_archive(tmp_path / "all.pt"), weights_only=True)
    assert loaded.pop("plain") == content.pop("plain")
    torch.testing.assert_close(loaded, content, rtol=0, atol=0)


END = 22


def with_two_directories(good: bytes, bad: bytes) -> bytes:
    """An archive with two directories: the end record points to `bad`, and `good` is directly before the end record."""
    parts = []
    for whole in (bad, good):
        size, offset = struct.unpack("<II", whole[-END + 12 : -END + 20])
        parts.append((whole[:offset], bytearray(whole[offset : offset + size])))
    (bad_records, bad_directory), (good_records, good_directory) = parts
    assert len(bad_directory) == len(good_directory) and len(bad_records) >= len(good_records)
    shift = len(bad_directory) + len(good_records)
    place = 0
    while place < len(good_directory):
        name, extra, comment = struct.unpack("<HHH", good_directory[place + 28 : place + 34])
        (offset,) = struct.unpack("<I", good_directory[place + 42 : place + 46])
        here = offset + len(bad_records) + len(bad_directory) - shift
        good_directory[place + 42 : place + 46] = struct.pack("<I", here)
        place += 46 + name + extra + comment
    end = bytearray(bad[-END:])
    end[16:20] = struct.pack("<I", len(bad_records))
    return bad_records + bad_directory + good_records + good_directory + bytes(end)


def test_torch_reads_the_checked_records(tmp_path: Path) -> None:
    """For an archive with two directories."""
    archives = []
    for word in ("good", "evil"):
        torch.save({"word": word, "tensor": torch.zeros(3)}, tmp_path / "a.pt")
        write(tmp_path / "b.pt", records(tmp_path / "a.pt"))
        archives.append((tmp_path / "b.pt").read_bytes())
    path = tmp_path / "two.pt"
    path.write_bytes(with_two_directories(*archives))
    assert torch.load(path, weights_only=True)["word"] == "evil"
    with zipfile.ZipFile(path) as archive:
        assert b"good" in archive.read("a/data.pkl")
    assert read_tensors(path)[0]["word"] == "good"


@pytest.mark.parametrize("kind", ATTACKS)
def test_code_and_memory_bombs_are_refused(kind: str, tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    path = tmp_path / "checkpoint-000000000001.pt"
    path.write_bytes(ATTACKS[kind](canary))
    refusal(path)
    assert not canary.exists()


def compressed(path: Path) -> None:
    write(path, records(path) | {"archive/data/0": bytes(2**24)}, zipfile.ZIP_DEFLATED)
    assert path.stat().st_size < 2**16


def longer_in_the_directory(path: Path) -> None:
    whole = bytearray(path.read_bytes())
    place = whole.rindex(b"PK\x01\x02")
    whole[place + 20 : place + 28] = struct.pack("<II", 0xFFFFFF00, 0xFFFFFF00)
    path.write_bytes(whole)


def longer_in_the_pickle(path: Path) -> None:
    """Older versions of torch would read memory beyond the record."""
    found = records(path)
    pickled = found["archive/data.pkl"]
    assert pickled.count(b"K\x04tq") == 1
    write(path, found | {"archive/data.pkl": pickled.replace(b"K\x04tq", b"J\x00\x00\x00\x40tq")})


def turned_around(path: Path) -> None:
    write(path, records(path) | {"archive/byteorder": b"big"})


def another_tuple_from_the_memo(path: Path) -> None:
    """The literals before it look right."""
    found = records(path)
    pickled = found["archive/data.pkl"]
    start = pickled.index(b"K\x04tq") + 3
    write(path, found | {"archive/data.pkl": pickled[:start] + b"h\x00" + pickled[start + 2 :]})


def twice(path: Path) -> None:
    with zipfile.ZipFile(path, "a") as archive, pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr("archive/data.pkl", b"\x80\x02N.")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (compressed, "a compressed record"),
        (longer_in_the_directory, "longer than the file"),
        (longer_in_the_pickle, "not as long as its 16 bytes"),
        (turned_around, "another byte order"),
        (another_tuple_from_the_memo, "not described as torch does"),
        (twice, "does not write"),
    ],
)
def test_wrong_sizes_are_refused(change: Callable[[Path], None], told: str, tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pt"
    with path.open("wb") as file:
        torch.save({"weight": torch.arange(4.0)}, file)
    checked_archive(path)
    change(path)
    assert told in refusal(path)


def test_attributes_of_a_mapping_cannot_replace_its_methods(tmp_path: Path) -> None:
    """torch lets a pickle give attributes to an OrderedDict."""
    from collections import OrderedDict

    crafted: Any = OrderedDict(format="mimpala-checkpoint")
    crafted.get = 5
    torch.save(crafted, tmp_path / "crafted.pt")
    assert "schema None" in refusal(tmp_path / "crafted.pt")


def test_random_archives_are_refused(tmp_path: Path) -> None:
    rng = random.Random(0)
    for number in range(30):
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w") as archive:
            archive.writestr("archive/data.pkl", rng.randbytes(rng.randrange(60)))
        path = tmp_path / f"{number}.pt"
        path.write_bytes(file.getvalue())
        refusal(path)
