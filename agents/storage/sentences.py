"""Reads a file of sentences and their vectors, which another model has computed: context.encoder=table.

The file is an npz archive of two arrays: `sentences`, M texts, and `vectors`, real numbers [M, D]. examples/embed_sentences.py writes one.
Every size is checked before anything is allocated, nothing in the file is executed, and nothing is downloaded.
"""

from __future__ import annotations

import math
import os
import struct
import sys
import zipfile
import zlib
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from envs.instructions import UNKNOWN, Tokenizer, split_words
from envs.spec import EnvSpec
from system.errors import InputError
from system.files import open_ordinary
from system.words import count

_MOST_BYTES = 2**28
"""Of an array, unpacked."""
MOST_NUMBERS = 2**24
"""In the vectors that an agent holds. They travel with each version of the weights."""
_MOST_VALUE = 1e15
"""Of a number in a vector, whose square must be finite."""
_MOST_HEADER_BYTES = _MOST_DIRECTORY_BYTES = 2**12
_ZIP_END, _ZIP64_LOCATOR = struct.Struct("<4s4H2LH"), struct.Struct("<4sLQL")
"""The last records of a zip archive without a comment."""
_HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}


class Sentences(NamedTuple):
    """The sentences that a vocabulary can spell: tokens int32 [M, L], vectors float32 [M, D]; and vectors of its words [W, D].

    A word without a vector has zeros.
    """

    tokens: NDArray[np.int32]
    vectors: NDArray[np.float32]
    words: NDArray[np.float32]


def read_sentences(path: str, env: EnvSpec, *, words_needed: bool = False) -> Sentences:
    """The sentences of the file `path` of which `env` can show every word.

    A longer sentence or one with an unknown word would look like others to the agent, so it is left out. Case and white space do not
    count, as in the tokens of the environments. InputError if the file is missing, damaged or crafted, if two sentences with the same
    tokens differ in their vectors, if none is left, or if `words_needed` and none of them is a single word.
    """
    texts, vectors = _read_arrays(path)
    tokenizer = Tokenizer(env.vocabulary, env.instruction_length)
    rows: dict[bytes, int] = {}
    tokens = []
    kept = []
    for row, text in enumerate(texts):
        coded = tokenizer.encode(text)
        if len(split_words(text)) > env.instruction_length or (coded == UNKNOWN).any():
            continue
        first = rows.setdefault(coded.tobytes(), row)
        if first == row:
            tokens.append(coded)
            kept.append(row)
        elif not np.array_equal(vectors[first], vectors[row]):
            raise _refused(
                path,
                f'"{texts[first]}" and "{text}" are one instruction and have different vectors',
                "keep one of them",
            )
    if not kept:
        raise _refused(
            path, f"env={env.suite} knows all words of none of its sentences", "write the instructions of these tasks"
        )
    coded, chosen = np.array(tokens, np.int32), vectors[kept]
    words = np.zeros((len(env.vocabulary), vectors.shape[1]), np.float32)
    single = (coded[:, 0] != 0) & ~coded[:, 1:].any(axis=1)
    words[coded[single, 0]] = chosen[single]
    if words_needed and not single.any():
        raise _refused(path, "context.unseen=words needs the vectors of single words and it has none", "add the words")
    return Sentences(coded, chosen, words)


def _read_arrays(path: str) -> tuple[list[str], NDArray[Any]]:
    """The M texts and their vectors [M, D], both checked."""
    try:
        with open(open_ordinary(Path(path)), "rb") as file:
            _check_directory(file)
            with zipfile.ZipFile(file) as archive:
                if sorted(names := archive.namelist()) != ["sentences.npy", "vectors.npy"]:
                    raise ValueError(f"it holds {', '.join(names) or 'nothing'}")
                texts = _read_array(archive, "sentences.npy", kind="U", dimensions=1).tolist()
                vectors = _read_array(archive, "vectors.npy", kind="f", dimensions=2)
    except OSError as error:
        raise _refused(path, error.strerror or str(error), "give the path of an npz file") from error
    except (zipfile.BadZipFile, zlib.error, ValueError, LookupError, EOFError, RuntimeError, SyntaxError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise _refused(path, reason, "write it by np.savez(path, sentences=texts, vectors=array)") from error
    if len(texts) != len(vectors):
        raise _refused(
            path, f"it has {count(len(texts), 'sentence')} and {count(len(vectors), 'vector')}", "write one for each"
        )
    if not (np.abs(vectors.astype(np.float64)) < _MOST_VALUE).all():
        raise _refused(path, "a vector holds numbers that are not finite, or too large", "write ordinary ones")
    return texts, vectors.astype(np.float32)


def _check_directory(file: IO[bytes]) -> None:
    """ValueError if the archive's directory, which zipfile reads at once, is larger than that of two arrays."""
    file.seek(max(0, file.seek(0, os.SEEK_END) - _ZIP64_LOCATOR.size - _ZIP_END.size))
    locator, end = file.read(_ZIP64_LOCATOR.size), file.read()
    signature, *_, size, _, _ = _ZIP_END.unpack(end) if len(end) == _ZIP_END.size else (b"", 0, 0, 0)
    if signature != b"PK\5\6" or size > _MOST_DIRECTORY_BYTES or locator.startswith(b"PK\6\7"):
        raise ValueError("it is no npz file of two arrays")


def _read_array(archive: zipfile.ZipFile, name: str, *, kind: str, dimensions: int) -> NDArray[Any]:
    """An array of the archive. ValueError if its header states another size, type or number of dimensions, or more than is allowed."""
    with archive.open(name) as file:
        version = np.lib.format.read_magic(file)
        if version not in _HEADERS:
            raise ValueError(f"{name} is of format {version}")
        shape, in_columns, dtype = _HEADERS[version](file, max_header_size=_MOST_HEADER_BYTES)
        if dtype.kind != kind or len(shape) != dimensions or min(shape, default=0) < 1 or not dtype.itemsize:
            raise ValueError(f"{name} is of type {dtype} and shape {list(shape)}")
        # Numbers of Python do not overflow.
        needed = math.prod(map(int, shape)) * dtype.itemsize
        if needed > _MOST_BYTES:
            raise ValueError(f"{name} takes {count(needed, 'byte')} and {_MOST_BYTES:,} are allowed")
        content = file.read(needed + 1)
    if len(content) != needed:
        raise ValueError(f"{name} is not as long as its header states")
    if kind == "U" and np.frombuffer(content, f"{dtype.byteorder}u4").max() > sys.maxunicode:
        raise ValueError(f"{name} holds what is no letter")
    flat = np.frombuffer(content, dtype)
    return flat.reshape(shape[::-1]).T if in_columns else flat.reshape(shape)


def _refused(path: str, reason: str, fix: str) -> InputError:
    return InputError(f"context.table={path} cannot be used ({reason.rstrip('.')}): {fix}.")
