"""From instruction text to tokens, inside the environment's process, so that only small integers travel."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

PADDING, UNKNOWN = 0, 1
_WORD = re.compile(r"\w+|[^\w\s]")
# Composed levels have millions of missions; an unbounded cache would grow for as long as a run lasts.
_CACHE_ENTRIES = 1 << 14


def words(text: str) -> list[str]:
    """Lower-case words and single punctuation marks, in order."""
    return _WORD.findall(text.lower())


class Tokenizer:
    """Text to `length` tokens: a word's place in `vocabulary`, UNKNOWN for any other word, PADDING after the last.

    `vocabulary[0]` stands for padding and `vocabulary[1]` for unknown words; neither is ever matched as a word.
    """

    def __init__(self, vocabulary: tuple[str, ...], length: int) -> None:
        self.vocabulary = vocabulary
        self.length = length
        self._token = {word: token for token, word in enumerate(vocabulary) if token > UNKNOWN}
        self._cache: dict[str | bytes, NDArray[np.int32]] = {}

    def encode(self, text: str | bytes) -> NDArray[np.int32]:
        """Tokens int32 [L], read-only and shared between calls; words past the L-th are dropped silently. Bytes are
        UTF-8.
        """
        tokens = self._cache.get(text)
        if tokens is None:
            if len(self._cache) >= _CACHE_ENTRIES:
                self._cache.clear()
            tokens = self._cache[text] = self._encode(text)
        return tokens

    def _encode(self, text: str | bytes) -> NDArray[np.int32]:
        plain = text.decode(errors="replace") if isinstance(text, bytes) else text
        tokens = np.full(self.length, PADDING, np.int32)
        for position, word in enumerate(words(plain)[: self.length]):
            tokens[position] = self._token.get(word, UNKNOWN)
        tokens.setflags(write=False)
        return tokens


def says_nothing_known(tokens: NDArray[np.int32]) -> NDArray[np.bool_]:
    """Whether an instruction [..., L] has words and the vocabulary none of them: it looks like every other such one, bool [...]."""
    some, known = tokens != PADDING, (tokens != PADDING) & (tokens != UNKNOWN)
    found: NDArray[np.bool_] = some.any(axis=-1) & ~known.any(axis=-1)
    return found


class TextColumn:
    """Tokens of a batch of strings that mostly stay the same; only those that changed are looked at again.

    A change is found by comparison with the call before, because an instruction may change inside an episode.
    """

    def __init__(self, tokenizer: Tokenizer, size: int) -> None:
        self._tokenizer = tokenizer
        self._texts: list[str | None] = [None] * size
        self.tokens = np.zeros((size, tokenizer.length), np.int32)

    def update(self, texts: Sequence[str]) -> None:
        """Brings `tokens` int32 [size, L] up to date with `texts`."""
        for row, text in enumerate(texts):
            # Engines hand out the same string object while nothing changes, so this is a pointer comparison nearly
            # always.
            if text is not self._texts[row] and text != self._texts[row]:
                self._texts[row] = text
                self.tokens[row] = self._tokenizer.encode(text)


class ByteColumn:
    """The same for NUL-padded UTF-8 rows: uint8 [size, width], the form in which C++ engines return text."""

    def __init__(self, tokenizer: Tokenizer, size: int) -> None:
        self._tokenizer = tokenizer
        self._previous: NDArray[np.uint64] | None = None
        self.tokens = np.zeros((size, tokenizer.length), np.int32)

    def update(self, texts: NDArray[np.uint8]) -> NDArray[np.intp]:
        """Brings `tokens` up to date and returns the rows that changed. Keeps `texts`: the caller must not write to
        it. width % 8 == 0.
        """
        # Eight bytes per comparison: at 512 bytes a row the comparison would otherwise cost more than the rest of the
        # step.
        current = texts.view(np.uint64)
        if self._previous is None:
            changed = np.arange(len(texts))
        else:
            changed = np.flatnonzero((current != self._previous).any(axis=1))
        self._previous = current
        for row in changed:
            self.tokens[row] = self._tokenizer.encode(texts[row].tobytes().rstrip(b"\0"))
        return changed
