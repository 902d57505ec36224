"""What a checkpoint file may be, told from its directory and its opcodes before torch reads what was checked, and nothing else of it.

torch.load(weights_only=True) runs no code, but it still calls functions that allocate as much as the file asks for, and sizes are
whatever the file says. So a file is refused unless it is what torch.save makes of tensors and plain data: records that are stored as
they are and lie in the file, each tensor's memory as long as its record, and no function but those that put tensors together.

Two readers may find two directories in one file: before its end, or where its end says, with and without a second end. So torch is given an
archive that is made anew of the records that were checked.
"""

from __future__ import annotations

import io
import pickletools
import struct
import sys
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeAlias

from system.errors import InputError

_BYTES = {
    "Double": 8,
    "Long": 8,
    "Float": 4,
    "Int": 4,
    "Half": 2,
    "BFloat16": 2,
    "Short": 2,
    "Byte": 1,
    "Char": 1,
    "Bool": 1,
}
"""Of an element, by the kind of its storage."""

_STORAGES = {f"torch {kind}Storage": size for kind, size in _BYTES.items()} | {"torch.storage UntypedStorage": 1}

GLOBALS = {
    "collections OrderedDict",
    *("torch._utils _rebuild_tensor_v2", "torch._utils _rebuild_tensor_v3"),
    # The dtypes that have no storage of their own.
    *("torch uint16", "torch uint32", "torch uint64"),
    *_STORAGES,
}
"""Every name that a checkpoint's pickle may refer to. torch allows a hundred more; some of them are bombs, as `bytearray`."""

MOST_RECORDS, MOST_PICKLE_BYTES, MOST_OPCODES = 100_000, 16 * 2**20, 4_000_000
"""Far beyond any checkpoint of ours; a pickle of that size takes less than 1 GiB when it is read."""

_OPCODES = {
    *(
        "PROTO",
        "STOP",
        "MARK",
        "GLOBAL",
        "REDUCE",
        "BUILD",
        "BINPERSID",
        "BINPUT",
        "LONG_BINPUT",
        "BINGET",
        "LONG_BINGET",
    ),
    *("EMPTY_DICT", "SETITEM", "SETITEMS", "EMPTY_LIST", "APPEND", "APPENDS"),
    *("EMPTY_TUPLE", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3"),
    *("NONE", "NEWTRUE", "NEWFALSE", "BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE"),
}
_LITERALS = {"GLOBAL", "BINUNICODE", "BININT", "BININT1", "BININT2", "LONG1"}
_Pushed: TypeAlias = "tuple[Any] | str"
_PLAIN_RECORDS = {"data.pkl", ".format_version", ".storage_alignment", "byteorder", "version", ".data/serialization_id"}


class DamagedCheckpointError(InputError):
    """A file that was torn, cut short or changed after it was written, or that we have not written; an earlier one may do in its place."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"checkpoint {path} {reason}: use an earlier one.")
        self.path, self.reason = path, reason


def checked_archive(path: Path) -> io.BytesIO:
    """What torch.load may read of a file: its records, if torch.save has made it of tensors and plain data.

    Raises:
        DamagedCheckpointError: it is truncated, damaged, or crafted.
    """
    try:
        with path.open("rb") as file:
            # torch reads any other beginning as one of its older formats, whose sizes nobody checks.
            if file.read(4) != b"PK\x03\x04" or not zipfile.is_zipfile(file):
                raise DamagedCheckpointError(path, "is truncated or not a checkpoint")
            with zipfile.ZipFile(file) as archive:
                sizes = _check_records(archive, path.stat().st_size)
                # By name, of which there is one each. Their checksums are held against them.
                records = {name: archive.read(name) for name in archive.namelist()}
        _check_byte_order(records)
        _check_pickle(next(record for name, record in records.items() if name.endswith("/data.pkl")), sizes)
    except _CraftedError as error:
        raise DamagedCheckpointError(
            path, f"holds more than tensors and plain data ({error}) and was not loaded, so do not trust it"
        ) from error
    except InputError:
        raise
    except (
        zipfile.BadZipFile,
        struct.error,
        OSError,
        ValueError,
        LookupError,
        ArithmeticError,
        RuntimeError,
        EOFError,
    ) as error:
        # zipfile and pickletools report damage in many ways.
        raise DamagedCheckpointError(path, f"is damaged ({type(error).__name__})") from error
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as archive:
        # Each is let go as soon as it is copied.
        for name in list(records):
            archive.writestr(name, records.pop(name))
    made.seek(0)
    return made


class _CraftedError(Exception):
    """Nothing that torch.save writes."""


def _check_records(archive: zipfile.ZipFile, length: int) -> dict[str, int]:
    """The bytes of every tensor's record, by its key."""
    records = archive.infolist()
    if len(records) > MOST_RECORDS:
        raise _CraftedError(f"{len(records):,} records")
    root, sizes, total, names = records[0].filename.split("/")[0] if records else "", {}, 0, set()
    if not any(record.filename == f"{root}/data.pkl" for record in records):
        raise zipfile.BadZipFile("no data.pkl")
    for record in records:
        folder, _, name = record.filename.partition("/")
        key = name.removeprefix("data/")
        if (
            folder != root
            or record.filename in names
            or not (name in _PLAIN_RECORDS or (key != name and key.isdecimal()))
        ):
            raise _CraftedError("a record that torch does not write")
        if record.compress_type != zipfile.ZIP_STORED or record.file_size != record.compress_size:
            raise _CraftedError("a compressed record")
        if record.header_offset + record.file_size > length:
            raise _CraftedError("a record that is longer than the file")
        names.add(record.filename)
        total += record.file_size
        if key != name:
            sizes[key] = record.file_size
        elif record.file_size > MOST_PICKLE_BYTES:
            raise _CraftedError(f"{record.file_size:,} bytes of plain data")
    if total > length:
        raise _CraftedError("records that overlap")
    return sizes


def _check_byte_order(records: Mapping[str, bytes]) -> None:
    """torch would turn the bytes of every tensor around in place."""
    for name, record in records.items():
        if name.endswith("/byteorder") and record != sys.byteorder.encode():
            raise _CraftedError("another byte order than this machine's")


def _check_pickle(pickled: bytes, sizes: dict[str, int]) -> None:
    """Reads the opcodes without following them: which there are, which names they refer to, and which memory each tensor asks for.

    A tensor's memory is a tuple `('storage', kind, key, device, elements)`, written out or, from the second time on, with parts of it
    fetched from the memo. Any other way to say the same is refused, so what is found here is what torch will find.
    """
    # What the newest opcodes have pushed: a literal in a tuple, the opcode's name for all else. The memo holds literals only.
    latest: list[_Pushed] = []
    memo: dict[Any, _Pushed] = {}
    for number, (opcode, argument, _) in enumerate(pickletools.genops(pickled)):
        name = opcode.name
        if number >= MOST_OPCODES:
            raise _CraftedError("more plain data than any run has")
        if name not in _OPCODES:
            raise _CraftedError(f"opcode {name}")
        if name == "GLOBAL" and argument not in GLOBALS:
            raise _CraftedError(f"a reference to {argument}")
        if name == "BINPERSID":
            _check_storage(latest, sizes)
        if name in ("BINPUT", "LONG_BINPUT"):
            memo[argument] = latest[-1] if latest and isinstance(latest[-1], tuple) else name
        elif name in ("BINGET", "LONG_BINGET"):
            latest.append(memo.get(argument, name))
        else:
            latest.append((argument,) if name in _LITERALS else name)
        del latest[:-7]


def _check_storage(latest: list[_Pushed], sizes: dict[str, int]) -> None:
    first, *parts, last = latest if len(latest) == 7 else [""] * 7
    literals = [part[0] for part in parts if isinstance(part, tuple)]
    if first != "MARK" or last != "TUPLE" or len(literals) != len(parts):
        raise _CraftedError("a tensor whose memory is not described as torch does")
    word, kind, key, device, elements = literals
    # Whatever the device was: read_tensors maps it to this machine's memory.
    if (
        word != "storage"
        or kind not in _STORAGES
        or key not in sizes
        or type(device) is not str
        or type(elements) is not int
    ):
        raise _CraftedError("a tensor whose memory is not described as torch does")
    if elements * _STORAGES[kind] != sizes[key]:
        raise _CraftedError(f"a tensor whose memory is not as long as its {sizes[key]:,} bytes")
