"""Converts instruction text to tokens in the environment's process, so that only small integers are sent to the agent."""

from __future__ import annotations

import functools
import re

import numpy as np
from numpy.typing import NDArray

PADDING, UNKNOWN = 0, 1
_WORD = re.compile(r"\w+|[^\w\s]")


def split_words(text: str) -> list[str]:
    """Lower-case words and single punctuation marks, in order."""
    return _WORD.findall(text.lower())


class Tokenizer:
    """Converts a text to `length` tokens: the index of each word in `vocabulary`, UNKNOWN for other words, PADDING after the last.

    `vocabulary[0]` represents padding and `vocabulary[1]` unknown words; neither is matched as a word.
    """

    def __init__(self, vocabulary: tuple[str, ...], length: int) -> None:
        self.vocabulary = vocabulary
        self.length = length
        self._token = {word: token for token, word in enumerate(vocabulary) if token > UNKNOWN}
        # Composed levels have millions of missions, so the cache must be bounded.
        self.encode = functools.lru_cache(1 << 14)(self._encode)

    def _encode(self, text: str | bytes) -> NDArray[np.int32]:
        """Tokens int32 [L], read-only and shared between calls. Words after the L-th are dropped. Bytes are UTF-8."""
        plain = text.decode(errors="replace") if isinstance(text, bytes) else text
        tokens = np.full(self.length, PADDING, np.int32)
        for position, word in enumerate(split_words(plain)[: self.length]):
            tokens[position] = self._token.get(word, UNKNOWN)
        tokens.setflags(write=False)
        return tokens


def has_only_unknown_words(tokens: NDArray[np.int32]) -> NDArray[np.bool_]:
    """Whether instructions [..., L] have words, but only unknown ones, bool [...]. All such instructions look alike to the agent."""
    some, known = tokens != PADDING, (tokens != PADDING) & (tokens != UNKNOWN)
    found: NDArray[np.bool_] = some.any(axis=-1) & ~known.any(axis=-1)
    return found


class ByteColumn:
    """Tokens of a batch of texts as C++ engines return them, NUL-padded UTF-8 rows uint8 [size, width]. Only changed rows are encoded.

    A change is found by comparison with the last call, because an instruction may change inside an episode.
    """

    def __init__(self, tokenizer: Tokenizer, size: int) -> None:
        self._tokenizer = tokenizer
        self._previous: NDArray[np.uint64] | None = None
        self.tokens = np.zeros((size, tokenizer.length), np.int32)

    def update(self, texts: NDArray[np.uint8]) -> NDArray[np.intp]:
        """Updates `tokens` and returns the rows that changed. Keeps `texts`, so the caller must not modify it. width % 8 == 0."""
        # Compares eight bytes at once: with 512 bytes per row, bytewise comparison would dominate the step.
        current = texts.view(np.uint64)
        if self._previous is None:
            changed = np.arange(len(texts))
        else:
            changed = np.flatnonzero((current != self._previous).any(axis=1))
        self._previous = current
        for row in changed:
            self.tokens[row] = self._tokenizer.encode(texts[row].tobytes().rstrip(b"\0"))
        return changed
