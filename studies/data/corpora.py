"""Training, validation and test text for language models as numbers, from a path or from Python's own documentation.

- A folder with one file for each part, such as WikiText-103: read as words.
- A file (enwik8, text8): the first 90%, the next 5% and the last 5%, the usual split; read as bytes. The file stays on disk.
- No path: the topics of the Python language reference behind `help()`, as characters, split by topic (studies/data/topics.py).

Symbols are bytes, characters or words; the end of a line is a word. Characters and words that occur at most once in the training text
become UNKNOWN; there are always 256 bytes. Large files are read twice in chunks: once to count symbols and once to number them.
"""

from __future__ import annotations

import codecs
import functools
import hashlib
import itertools
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from studies.data.topics import topic_parts
from system.errors import InputError

PARTS = ("train", "valid", "test")
UNKNOWN = 0
"""Number of the symbol for rare and unseen ones; bytes have no such symbol."""
END_OF_LINE = "<eos>"
"""The word for the end of a line."""

_CHUNK = 2**20
_SHARES = (0.90, 0.95)
"""Where the validation and the test text of a file start, as shares of its length."""
_WAYS = "give a text file, a folder with files for train, valid and test, or nothing for Python's own documentation"

Tokens = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True)
class Corpus:
    """A text as numbers.

    Attributes:
        level: Of the symbols: byte, character or word.
        symbols: The text of each number; [] at byte level.
        parts: Name of PARTS -> numbers of the symbols; the bytes of a file are a memory map.
        characters: Name of PARTS -> length in characters with line ends; at byte level in bytes, as usual for bits per character.
    """

    level: str
    symbols: list[str]
    parts: dict[str, Tokens]
    characters: dict[str, int]

    @functools.cached_property
    def digest(self) -> str:
        """Hash of level, symbols and parts."""
        digest = hashlib.sha256("\0".join([self.level, *self.symbols]).encode())
        for tokens in self.parts.values():
            digest.update(len(tokens).to_bytes(8, "little"))
            digest.update(tokens.data)
        return digest.hexdigest()

    @property
    def size(self) -> int:
        """Number of different symbols."""
        return len(self.symbols) or 256

    def text(self, tokens: Iterable[int]) -> str:
        """The text of these symbols."""
        if self.level == "byte":
            return bytes(tokens).decode(errors="replace")
        symbols = [self.symbols[token] for token in tokens]
        if self.level == "character":
            return "".join(symbols)
        return " ".join(symbols).replace(f" {END_OF_LINE} ", "\n").replace(END_OF_LINE, "\n")


@functools.lru_cache(maxsize=1)
def load(path: str, level: str) -> Corpus:
    """Reads a corpus; InputError if its path is missing, unreadable, or no UTF-8 text.

    Args:
        path: Of a file or a folder, or "" for Python's own documentation.
        level: As in Corpus, or "" for words of a folder, bytes of a file, characters otherwise.
    """
    try:
        contents, level = _open(path, level)
        if level == "byte":
            return Corpus(level, [], contents, {name: len(content) for name, content in contents.items()})
        counts = Counter(itertools.chain.from_iterable(_symbols(contents["train"], level)))
        symbols = ["", *sorted(symbol for symbol, count in counts.items() if count > 1)]
        numbers = {symbol: number for number, symbol in enumerate(symbols)}
        parts = {name: _numbered(_symbols(content, level), numbers) for name, content in contents.items()}
        characters = {name: sum(map(len, _decoded(content))) for name, content in contents.items()}
        return Corpus(level, symbols, parts, characters)
    except OSError as error:
        raise InputError(f"corpus={path} cannot be read ({error.strerror}): {_WAYS}.") from error


def check_length(corpus: Corpus, path: str, batch_size: int, length: int) -> None:
    """InputError unless training and validation text fill `length` steps of `batch_size` rows, and the test text those of one row."""
    for part, rows in zip(PARTS, (batch_size, batch_size, 1), strict=True):
        least = rows * length + 1
        if len(corpus.parts[part]) < least:
            raise InputError(
                f"{f'corpus={path}' if path else 'the corpus'} is too short: its {part} text has {len(corpus.parts[part]):,} "
                f"{corpus.level}s, and batch_size={batch_size} with length={length} takes {least:,}; give smaller ones or a longer text."
            )


def _open(path: str, level: str) -> tuple[dict[str, Tokens], str]:
    """The bytes of the three parts, and the level of their symbols."""
    if not path:
        texts = zip(PARTS, topic_parts(), strict=True)
        return {part: np.frombuffer(text.encode(), np.uint8) for part, text in texts}, level or "character"
    place = Path(path)
    if not place.exists():
        raise InputError(f"corpus={path} does not exist: {_WAYS}.")
    if place.is_dir():
        return {part: _mapped(_part_of(place, part)) for part in PARTS}, level or "word"
    content, level = _mapped(place), level or "byte"
    cuts = [0, *(int(share * len(content)) for share in _SHARES), len(content)]
    if level != "byte":
        cuts = [_next_character(content, cut) for cut in cuts]
    return {
        part: content[start:stop] for part, (start, stop) in zip(PARTS, itertools.pairwise(cuts), strict=True)
    }, level


def _part_of(folder: Path, part: str) -> Path:
    """The only file of a folder whose name contains the part, such as wiki.train.tokens, train.txt, test.raw."""
    found = sorted(file for file in folder.iterdir() if part in file.name and file.is_file())
    if len(found) != 1:
        many = f"more than one ({', '.join(file.name for file in found[:3])})" if found else "none"
        raise InputError(f"corpus={folder} should have one file with {part} in its name and has {many}: {_WAYS}.")
    return found[0]


def _mapped(path: Path) -> Tokens:
    """A memory map of a UTF-8 text file."""
    if not path.is_file():
        # Reading a pipe can block forever.
        raise InputError(f"corpus={path} is no ordinary file: {_WAYS}.")
    if path.stat().st_size == 0:
        raise InputError(f"corpus={path} is empty: {_WAYS}.")
    content = np.memmap(path, np.uint8, mode="r")
    try:
        for _ in _decoded(content):
            pass
    except UnicodeDecodeError as error:
        raise InputError(f"corpus={path} is not UTF-8 text ({error.reason}): {_WAYS}.") from error
    return content


def _next_character(content: Tokens, cut: int) -> int:
    """The start of the first UTF-8 character at or after `cut`."""
    following = content[cut : cut + 4]
    return cut + int(np.argmax(np.append(following & 0xC0 != 0x80, True)))


def _decoded(content: Tokens) -> Iterator[str]:
    """Bytes as text, chunk by chunk."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    for start in range(0, len(content), _CHUNK):
        yield decoder.decode(content[start : start + _CHUNK].tobytes())
    yield decoder.decode(b"", final=True)


def _symbols(content: Tokens, level: str) -> Iterator[Sequence[str]]:
    """The symbols, chunk by chunk."""
    if level == "character":
        yield from _decoded(content)
        return
    rest = ""
    for piece in _decoded(content):
        text = (rest + piece).replace("\n", f" {END_OF_LINE} ")
        words = text.split()
        # The next chunk can continue the last word.
        rest = words.pop() if words and not text[-1].isspace() else ""
        yield words
    yield [rest] if rest else []


def _numbered(pieces: Iterable[Sequence[str]], numbers: dict[str, int]) -> Tokens:
    kind = np.uint16 if len(numbers) <= 2**16 else np.uint32
    return np.concatenate([np.array([numbers.get(symbol, UNKNOWN) for symbol in piece], kind) for piece in pieces])
