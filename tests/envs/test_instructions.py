from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from envs.instructions import PADDING, UNKNOWN, ByteColumn, Tokenizer, split_words

VOCABULARY = ("<pad>", "<unk>", "go", "to", "the", "red", "ball", ",")


def test_words_case_and_punctuation() -> None:
    tokens = Tokenizer(VOCABULARY, 8).encode("Go to the RED ball,then ball")
    assert tokens.dtype == np.int32
    assert tokens.tolist() == [2, 3, 4, 5, 6, 7, UNKNOWN, 6]


def test_padding_and_truncation() -> None:
    tokenizer = Tokenizer(VOCABULARY, 3)
    assert tokenizer.encode("").tolist() == [PADDING] * 3
    assert tokenizer.encode("go").tolist() == [2, PADDING, PADDING]
    assert tokenizer.encode("go to the red ball").tolist() == [2, 3, 4]


def test_the_names_of_the_special_tokens_are_no_words() -> None:
    assert Tokenizer(("pad", "unk", "go"), 3).encode("pad unk go").tolist() == [UNKNOWN, UNKNOWN, 2]


@given(st.text(), st.integers(1, 20))
def test_any_text_gives_tokens_of_the_vocabulary(text: str, length: int) -> None:
    tokenizer = Tokenizer(VOCABULARY, length)
    tokens = tokenizer.encode(text)
    assert tokens.shape == (length,) and tokens.min() >= 0 and tokens.max() < len(VOCABULARY)
    count = min(len(split_words(text)), length)
    assert (tokens[:count] != PADDING).all() and (tokens[count:] == PADDING).all()
    np.testing.assert_array_equal(tokens, tokenizer.encode(text))  # from the cache


@given(st.binary())
def test_any_bytes_are_accepted(text: bytes) -> None:
    assert Tokenizer(VOCABULARY, 4).encode(text).shape == (4,)


@given(st.lists(st.lists(st.sampled_from(["go", "go to", "the red ball", "ball , x", ""]), min_size=3, max_size=3)))
def test_columns_follow_every_change(batches: list[list[str]]) -> None:
    tokenizer = Tokenizer(VOCABULARY, 4)
    raw = ByteColumn(tokenizer, 3)
    for batch in batches:
        expected = np.stack([tokenizer.encode(text) for text in batch])
        raw.update(np.stack([np.frombuffer(text.encode().ljust(16, b"\0"), np.uint8) for text in batch]))
        np.testing.assert_array_equal(raw.tokens, expected)


def test_only_changed_rows_are_read_again() -> None:
    tokenizer, column = Tokenizer(VOCABULARY, 4), None
    column = ByteColumn(tokenizer, 2)
    first = np.zeros((2, 16), np.uint8)
    assert column.update(first).tolist() == [0, 1]
    assert column.update(first.copy()).tolist() == []
    second = first.copy()
    second[1, 0] = ord("x")
    assert column.update(second).tolist() == [1]
