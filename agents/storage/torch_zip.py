"""Checks the zip directory and the pickle opcodes of a checkpoint before torch reads it.

With weights_only=True, torch.load runs no code, but it calls functions that allocate as much memory as the file asks for. So a file is
refused unless torch.save could have written it from tensors and plain data:

- the records are uncompressed and inside the file,
- the memory of each tensor is as long as its record,
- the pickle calls only functions that rebuild tensors.

Two zip readers may find different directories in one file. So torch receives a new archive of the checked records.
"""

from __future__ import annotations

import io
import pickletools
import struct
import sys
import zipfile
from pathlib import Path
from typing import Any, TypeAlias

from system.errors import InputError
from system.words import count

_KINDS_BY_BYTES = {8: "Double Long", 4: "Float Int", 2: "Half BFloat16 Short", 1: "Byte Char Bool"}
_STORAGES = {f"torch {kind}Storage": size for size, kinds in _KINDS_BY_BYTES.items() for kind in kinds.split()}
_STORAGES["torch.storage UntypedStorage"] = 1
"""Storage class in the pickle -> bytes of an element."""

GLOBALS = {
    "collections OrderedDict",
    *("torch._utils _rebuild_tensor_v2", "torch._utils _rebuild_tensor_v3"),
    # The dtypes without a storage class.
    *("torch uint16", "torch uint32", "torch uint64"),
    *_STORAGES,
}
"""Every name that a checkpoint's pickle may refer to. torch allows a hundred more, and some of them allocate any size, such as
`bytearray`.
"""

MOST_RECORDS, MOST_PICKLE_BYTES, MOST_OPCODES = 100_000, 16 * 2**20, 4_000_000
"""Far more than any checkpoint of mimpala has. Reading a pickle of that size takes less than 1 GiB."""

_OPCODES = {
    *("PROTO", "STOP", "MARK", "GLOBAL", "REDUCE", "BUILD", "BINPERSID", "BINPUT", "LONG_BINPUT", "BINGET"),
    *("LONG_BINGET", "EMPTY_DICT", "SETITEM", "SETITEMS", "EMPTY_LIST", "APPEND", "APPENDS"),
    *("EMPTY_TUPLE", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3"),
    *("NONE", "NEWTRUE", "NEWFALSE", "BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE"),
}
_LITERALS = {"GLOBAL", "BINUNICODE", "BININT", "BININT1", "BININT2", "LONG1"}
_Pushed: TypeAlias = "tuple[Any] | str"
_PLAIN_RECORDS = {"data.pkl", ".format_version", ".storage_alignment", "byteorder", "version", ".data/serialization_id"}


class DamagedCheckpointError(InputError):
    """A file that is truncated, changed after it was written, or not written by mimpala. An earlier checkpoint may still be good."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"checkpoint {path} {reason}: use an earlier one.")
        self.path, self.reason = path, reason


def checked_archive(path: Path) -> io.BytesIO:
    """A new archive of the checked records of a file, for torch.load. Raises DamagedCheckpointError if the file is damaged or crafted."""
    try:
        with path.open("rb") as file:
            # torch reads any other first bytes as one of its older formats, which are not checked here.
            if file.read(4) != b"PK\x03\x04" or not zipfile.is_zipfile(file):
                raise DamagedCheckpointError(path, "is truncated or not a checkpoint")
            with zipfile.ZipFile(file) as archive:
                sizes = _check_records(archive, path.stat().st_size)
                # `read` checks the CRC of each record. Names are unique.
                records = {name: archive.read(name) for name in archive.namelist()}
        if any(name.endswith("/byteorder") and record != sys.byteorder.encode() for name, record in records.items()):
            # torch would swap the bytes of every tensor in place.
            raise _CraftedError("another byte order than this machine's")
        _check_pickle(next(record for name, record in records.items() if name.endswith("/data.pkl")), sizes)
    except _CraftedError as error:
        raise DamagedCheckpointError(
            path, f"holds more than tensors and plain data ({error}) and was not loaded, so do not trust it"
        ) from error
    except InputError:
        raise
    except _DAMAGE as error:
        raise DamagedCheckpointError(path, f"is damaged ({type(error).__name__})") from error
    checked = io.BytesIO()
    with zipfile.ZipFile(checked, "w") as archive:
        # `pop` frees each record as soon as it is copied.
        for name in list(records):
            archive.writestr(name, records.pop(name))
    checked.seek(0)
    return checked


class _CraftedError(Exception):
    """The file holds something that torch.save never writes."""


# What zipfile and pickletools raise for damaged files.
_DAMAGE = (zipfile.BadZipFile, struct.error, OSError, ValueError, LookupError, ArithmeticError, RuntimeError, EOFError)


def _check_records(archive: zipfile.ZipFile, length: int) -> dict[str, int]:
    """Checks the zip directory. Returns the length of each tensor's record by its key."""
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


def _check_pickle(pickled: bytes, sizes: dict[str, int]) -> None:
    """Checks the opcodes without executing them: their kinds, the names they refer to, and the memory of each tensor.

    A tensor's memory is the tuple `('storage', kind, key, device, elements)`. Its parts are literals or, if they occurred before, read
    from the memo. All other encodings are refused, so this function finds the same values as torch.
    """
    # The latest pushed values: a literal as a tuple of one, the opcode's name for all else. The memo holds literals only.
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
    literals: list[Any] = [part[0] if isinstance(part, tuple) else None for part in parts]
    word, kind, key, device, elements = literals
    # Any device is accepted: read_tensors maps it to the CPU.
    is_described = (first, word, last) == ("MARK", "storage", "TUPLE") and kind in _STORAGES and key in sizes
    if not is_described or type(device) is not str or type(elements) is not int:
        raise _CraftedError("a tensor whose memory is not described as torch does")
    if elements * _STORAGES[kind] != sizes[key]:
        raise _CraftedError(f"a tensor whose memory is not as long as its {count(sizes[key], 'byte')}")
