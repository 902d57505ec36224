"""Checkpoints that are damaged, have senseless values, or carry an attack. All choices come from a seeded random.Random."""

from __future__ import annotations

import io
import os
import pickle
import random
import struct
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

Change = Callable[[bytearray, random.Random], bytes]
"""Takes the bytes of a file, which it may modify, and returns the changed ones."""


class Canary:
    """Creates a file when it is unpickled without an allow list."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, (f"touch {self.path}",)


def change_bytes(content: bytearray, rng: random.Random) -> tuple[str, bytes]:
    """Damages the bytes of a checkpoint. Returns the kind of damage and the bytes."""
    name = rng.choice(sorted(_DAMAGES))
    return name, bytes(_DAMAGES[name](content, rng))


def flip(content: bytearray, rng: random.Random) -> bytes:
    """Flips up to 30 bits."""
    for _ in range(rng.choice([1, 1, 3, 30])):
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    return bytes(content)


def overwrite(content: bytearray, rng: random.Random) -> bytes:
    """Overwrites a range with zeros, ones or noise."""
    start, length = rng.randrange(len(content)), rng.choice([1, 4, 40, 4000])
    part = content[start : start + length]
    content[start : start + length] = rng.choice([bytes(len(part)), b"\xff" * len(part), rng.randbytes(len(part))])
    return bytes(content)


def move(content: bytearray, rng: random.Random) -> bytes:
    """Moves a range to another position."""
    start, length, target = rng.randrange(len(content)), rng.randrange(1, 5000), rng.randrange(len(content))
    part = content[start : start + length]
    del content[start : start + length]
    return bytes(content[:target] + part + content[target:])


def _records(content: bytearray) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(bytes(content))) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def _archive(records: dict[str, bytes], kind: int = zipfile.ZIP_STORED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", kind) as archive:
        for name, content in records.items():
            archive.writestr(name, content)
    return file.getvalue()


def _swap(content: bytearray, rng: random.Random) -> bytes:
    records = _records(content)
    one, other = rng.sample(sorted(records), 2)
    records[one], records[other] = records[other], records[one]
    return _archive(records)


def _drop(content: bytearray, rng: random.Random) -> bytes:
    records = _records(content)
    del records[rng.choice(sorted(records))]
    return _archive(records)


def _rename(content: bytearray, rng: random.Random) -> bytes:
    records = _records(content)
    name = rng.choice(sorted(records))
    root = name.split("/")[0]
    records[rng.choice(["../../x", "/etc/x", f"{root}/constants.pkl", f"{root}/code/x.py", f"{root}/data/-1"])] = (
        records.pop(name)
    )
    return _archive(records)


def _bomb(content: bytearray, rng: random.Random) -> bytes:
    records = _records(content)
    name = rng.choice([name for name in records if "/data/" in name])
    return _archive(records | {name: bytes(2**22)}, zipfile.ZIP_DEFLATED)


def _sizes(content: bytearray, rng: random.Random) -> bytes:
    """Declares sizes of terabytes in the directory of the archive or in the pickle."""
    if rng.random() < 0.5:
        place = content.rindex(b"PK\x01\x02", 0, rng.randrange(len(content) - 2000, len(content)))
        content[place + 20 : place + 28] = struct.pack("<II", 0xFFFFFFF0, 0xFFFFFFF0)
        return bytes(content)
    return _repickled(content, _numbers, rng)


def _opcodes(content: bytearray, rng: random.Random) -> bytes:
    return _repickled(content, flip, rng)


def _repickled(content: bytearray, change: Change, rng: random.Random) -> bytes:
    """Changes the pickle and writes an archive with correct checksums."""
    records = _records(content)
    name = next(name for name in records if name.endswith("data.pkl"))
    return _archive(records | {name: change(bytearray(records[name]), rng)})


def _numbers(pickled: bytearray, rng: random.Random) -> bytes:
    """Replaces up to three small integers of a pickle by huge ones."""
    places = [place for place in range(len(pickled) - 1) if pickled[place : place + 1] == b"K"]
    for place in sorted(rng.sample(places, min(3, len(places))), reverse=True):
        pickled[place : place + 2] = rng.choice(
            [b"\x8a\x06" + b"\x00\x00\xa0\x72\x4e\x18"[:6], b"J\xff\xff\xff\x7f", b"J\xff\xff\xff\xff"]
        )
    return bytes(pickled)


_DAMAGES: dict[str, Change] = {
    "bits flipped": flip,
    "overwritten": overwrite,
    "truncated": lambda content, rng: bytes(content[: rng.randrange(len(content))]),
    "appended to": lambda content, rng: bytes(content) + rng.randbytes(rng.choice([1, 22, 1000])),
    "a part moved": move,
    "random": lambda content, rng: rng.randbytes(rng.choice([0, 4, 100, 10_000])),
    "random after the beginning of a zip file": lambda content, rng: b"PK\x03\x04" + rng.randbytes(1000),
    "records swapped": _swap,
    "record missing": _drop,
    "record renamed": _rename,
    "records compressed": _bomb,
    "sizes of terabytes": _sizes,
    "opcodes flipped": _opcodes,
}


def malicious_file(path: Path, canary: Path, rng: random.Random) -> str:
    """Writes a file that runs code or takes all memory when pickle or an unsafe torch.load reads it. Returns the kind of attack."""
    name = rng.choice(sorted(ATTACKS))
    path.write_bytes(ATTACKS[name](canary))
    return name


def _saved(content: object, **options: Any) -> bytes:
    file = io.BytesIO()
    torch.save(content, file, **options)
    return file.getvalue()


def _checkpoint_with(extra: object) -> dict[str, Any]:
    return {"format": "mimpala-checkpoint", "schema": 2, "extra": extra}


def _pickle_in_archive(pickled: bytes, **records: bytes) -> bytes:
    return _archive(
        {
            "archive/data.pkl": pickled,
            "archive/version": b"3\n",
            **{f"archive/{key}": value for key, value in records.items()},
        }
    )


def _tar(canary: Path) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for name in ("storages", "tensors", "pickle"):
            content = pickle.dumps(Canary(canary))
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return file.getvalue()


def _call(module: str, name: str, argument: bytes) -> bytes:
    """A pickle that calls module.name; `argument` are the opcodes that push its tuple of arguments."""
    return b"\x80\x02c" + f"{module}\n{name}\n".encode() + argument + b"R."


def _doubled(levels: int) -> bytes:
    """Nested lists: each contains the previous one twice."""
    return b"\x80\x02]q\x00" + b"".join(b"]q%c(h%ch%ce" % (n + 1, n, n) for n in range(levels)) + b"."


_HEXED = (
    b"\x80\x02"
    + b"c_codecs\nencode\n" * 40
    + b"X\x04\x00\x00\x00aaaaX\x03\x00\x00\x00hex\x86R"
    + b"X\x03\x00\x00\x00hex\x86R" * 39
    + b"."
)
"""Forty nested hexadecimal encodings: 2**40 bytes from 1 KB of pickle."""

ATTACKS: dict[str, Callable[[Path], bytes]] = {
    "a call in a checkpoint": lambda canary: _saved(_checkpoint_with(Canary(canary))),
    "a call in the old format": lambda canary: _saved(
        _checkpoint_with(Canary(canary)), _use_new_zipfile_serialization=False
    ),
    "a call in a newer pickle": lambda canary: _saved(_checkpoint_with(Canary(canary)), pickle_protocol=5),
    "a bare pickle": lambda canary: pickle.dumps(_checkpoint_with(Canary(canary))),
    "a pickle before an archive": lambda canary: pickle.dumps(Canary(canary)) + _saved(_checkpoint_with(None)),
    "a tar archive": _tar,
    "TorchScript": lambda canary: _pickle_in_archive(
        pickle.dumps(Canary(canary), 2),
        **{"constants.pkl": pickle.dumps(Canary(canary), 2), "code/__torch__.py": b"import os"},
    ),
    "a module of ours": lambda canary: _pickle_in_archive(
        _call("importlib", "import_module", b"X\x0a\x00\x00\x00antigravity\x85")
    ),
    "bytearray of a terabyte": lambda canary: _pickle_in_archive(
        _call("builtins", "bytearray", b"\x8a\x06\x00\x00\x00\x00\x00\x01\x85")
    ),
    "a tensor of terabytes": lambda canary: _pickle_in_archive(
        _call("torch", "FloatTensor", b"\x8a\x06\x00\x00\x00\x00\x00\x01\x85")
    ),
    "text of terabytes": lambda canary: _pickle_in_archive(_HEXED),
    "lists of lists of lists": lambda canary: _pickle_in_archive(_doubled(80)),
    "nested a hundred thousand times": lambda canary: _pickle_in_archive(
        b"\x80\x02" + b"]" * 100_000 + b"a" * 99_999 + b"."
    ),
}


def change_content(content: dict[str, Any], rng: random.Random) -> str:
    """Replaces one to three values of a checkpoint's content by hostile ones. Returns their paths and the kinds of change."""
    changes = []
    places = list(_places(content, ()))
    groups = sorted({place[:1] for place, _, _ in places})
    for _ in range(rng.choice([1, 1, 1, 2, 3])):
        # Choose the part first, so that parts with many values are not changed more often.
        group = rng.choice(groups)
        place, holder, key = rng.choice([found for found in places if found[0][:1] == group])
        if (isinstance(holder, dict) and key not in holder) or (isinstance(holder, list) and key >= len(holder)):
            continue
        name, value = _hostile(holder[key], rng)
        if name == "removed":
            del holder[key]
        elif name == "renamed" and isinstance(holder, dict):
            holder[rng.choice(["x", "../../x", 7, "__class__", "\x1b[2J"])] = holder.pop(key)
        else:
            holder[key] = value
        changes.append(f"{'.'.join(map(str, place))}: {name}")
    return ", ".join(changes)


def _places(tree: Any, above: tuple[Any, ...]) -> Any:
    """Yields (path, container, key) of every value of a tree of dicts and lists."""
    items = list(tree.items()) if isinstance(tree, dict) else list(enumerate(tree)) if isinstance(tree, list) else []
    for key, value in items:
        yield (*above, key), tree, key
        yield from _places(value, (*above, key))


def _hostile(value: Any, rng: random.Random) -> tuple[str, Any]:
    if isinstance(value, torch.Tensor) and rng.random() < 0.7:
        name = rng.choice(sorted(_TENSORS))
        return name, _TENSORS[name](value)
    name = rng.choice([*sorted(_VALUES), "removed", "renamed"])
    return name, _VALUES.get(name, lambda: None)()


def _deep(levels: int) -> Any:
    tree: Any = 0
    for _ in range(levels):
        tree = [tree]
    return tree


def _laughs() -> Any:
    tree: Any = ["ha"] * 10
    for _ in range(12):
        tree = [tree] * 10
    return tree


_VALUES: dict[str, Callable[[], Any]] = {
    "None": lambda: None,
    "True": lambda: True,
    "-1": lambda: -1,
    "0": lambda: 0,
    "2**63": lambda: 2**63,
    "2**600": lambda: 2**600,
    "1e308": lambda: 1e308,
    "nan": lambda: float("nan"),
    "inf": lambda: float("inf"),
    "text": lambda: "x",
    "a path": lambda: "../../../../tmp/x",
    "an interpolation": lambda: "${oc.env:HOME}",
    "a target": lambda: {"_target_": "os.system", "_args_": ["touch canary"]},
    "a module": lambda: "canary_module:Id-v0",
    "another suite": lambda: "gymnasium",
    "escapes": lambda: "\x1b]0;title\x07\nerror: done",
    "long text": lambda: "x" * 1_000_000,
    "surrogate": lambda: "\udcff",
    "half of a character": lambda: "\ud800",
    "a list of 60,000": lambda: [1] * 60_000,
    "a list of 60,000 words": lambda: ["x"] * 60_000,
    "an empty list": list,
    "an empty dict": dict,
    "a list of numbers": lambda: [1, 2, 3],
    "a nested list": lambda: _deep(20),
    "a deeply nested list": lambda: _deep(400),
    "lists of lists of lists": _laughs,
    "a tuple as key": lambda: {(1, 2): 3},
    "a set": lambda: {1, 2},
    "bytes": lambda: b"x",
    "a tensor": lambda: torch.zeros(2, 2),
    "a dtype": lambda: torch.float32,
}
_TENSORS: dict[str, Callable[[torch.Tensor], Any]] = {
    "NaN": lambda t: torch.full_like(t, float("nan")) if t.is_floating_point() else t,
    "inf": lambda t: torch.full_like(t, float("inf")) if t.is_floating_point() else t,
    "1e30": lambda t: torch.full_like(t, 1e30) if t.is_floating_point() else t,
    "other numbers": lambda t: torch.full(t.shape, 77).to(t.dtype),
    "negative numbers": lambda t: torch.full(t.shape, -3).to(t.dtype),
    "another shape": lambda t: torch.zeros(*t.shape, 2, dtype=t.dtype),
    "transposed": lambda t: t.T if t.dim() == 2 else t.reshape(-1)[:-1],
    "float64": lambda t: t.to(torch.float64),
    "complex": lambda t: torch.zeros(t.shape, dtype=torch.complex64),
    "sparse": lambda t: torch.zeros(4, 4).to_sparse(),
    "meta": lambda t: torch.empty(t.shape, device="meta"),
    "ten billion elements of one": lambda t: torch.zeros(1).expand(10**10),
    "a parameter": lambda t: torch.nn.Parameter(torch.zeros(t.shape)),
    "a list": lambda t: t.reshape(-1)[:50].tolist(),
}
