"""Corpora: what is read from folders, files and Python itself, and what is refused."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from studies.data import corpora, topics
from studies.data.corpora import END_OF_LINE, UNKNOWN, check_length, load
from studies.data.topics import topic_parts
from system.errors import InputError

WORDS = {"train": "the cat sat\nthe cat ran\n", "valid": "a cat sat\n", "test": "the dog\nthe end"}


@pytest.fixture(autouse=True)
def _nothing_is_kept() -> None:
    load.cache_clear()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for part, text in WORDS.items():
        (tmp_path / f"wiki.{part}.tokens").write_text(text, encoding="utf-8")
    return tmp_path


def lines(text: str) -> set[str]:
    """The lines of at least eight words: underlines and short examples are the same in many topics."""
    return {line.strip() for line in text.split("\n") if len(line.split()) >= 8}


def test_topics_are_held_out_whole() -> None:
    train, validation, test = topic_parts()
    size = sum(map(len, (train, validation, test)))
    for held_out, others in ((validation, train + test), (test, train + validation)):
        assert 0.06 * size < len(held_out) <= topics.HELD_OUT * size
        # Topics repeat each other, with other line breaks: no long paragraph is in two parts.
        known = {topics._key(paragraph) for paragraph in others.split("\n\n")}
        assert not [p for p in held_out.split("\n\n") if len(key := topics._key(p)) >= topics._LONG and key in known]
        # Nearly no line is, either.
        assert len(lines(held_out) & lines(others)) <= 2
    assert topic_parts() == (train, validation, test)
    everything = "".join(topics.topics.values())
    assert lines(train) | lines(validation) | lines(test) == lines(everything)


def test_no_path_is_documentation_by_character() -> None:
    corpus = load("", "")
    texts = dict(zip(corpora.PARTS, topic_parts(), strict=True))
    for part, tokens in corpus.parts.items():
        assert tokens.dtype == np.uint16 and corpus.characters[part] == len(tokens) == len(texts[part])
    seen = Counter(texts["train"])
    assert set(corpus.symbols[1:]) == {character for character, number in seen.items() if number > 1}
    assert corpus.text(corpus.parts["test"]) == "".join(c if seen[c] > 1 else "" for c in texts["test"])


def test_a_folder_is_words_with_its_own_parts(folder: Path) -> None:
    corpus = load(str(folder), "")
    assert corpus.level == "word" and corpus.symbols == ["", END_OF_LINE, "cat", "the"]
    the, cat, end = (corpus.symbols.index(word) for word in ("the", "cat", END_OF_LINE))
    assert corpus.parts["train"].tolist() == [the, cat, UNKNOWN, end, the, cat, UNKNOWN, end]
    assert corpus.parts["test"].tolist() == [the, UNKNOWN, end, the, UNKNOWN]
    assert corpus.characters == {part: len(text) for part, text in WORDS.items()}
    assert corpus.text([the, cat, end, the]) == "the cat\nthe"


@pytest.mark.parametrize("chunk", [1, 3, 7, 1000])
def test_chunks_do_not_show(folder: Path, chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "wiki.train.tokens").write_text("für «uns» alle\n\n für   uns\talle « »", encoding="utf-8")
    whole = load(str(folder), "word"), load(str(folder), "character")
    load.cache_clear()
    monkeypatch.setattr(corpora, "_CHUNK", chunk)
    assert (load(str(folder), "word").digest, load(str(folder), "character").digest) == tuple(c.digest for c in whole)


def test_a_file_is_bytes_that_stay_on_disk(tmp_path: Path) -> None:
    text = ("größer " * 40)[:200]
    file = tmp_path / "enwik8"
    file.write_text(text, encoding="utf-8")
    content = text.encode()
    corpus = load(str(file), "")
    train, validation, test = corpus.parts.values()
    assert all(isinstance(part, np.memmap) for part in corpus.parts.values())
    assert (len(train), len(train) + len(validation)) == (int(0.9 * len(content)), int(0.95 * len(content)))
    assert bytes(np.concatenate([train, validation, test])) == content
    assert corpus.size == 256 and corpus.characters["test"] == len(test) and not corpus.symbols
    # A cut in bytes splits no character where characters are read.
    characters = load(str(file), "character")
    assert "".join(characters.text(part) for part in characters.parts.values()) == text


def test_another_text_has_another_digest(folder: Path) -> None:
    before = load(str(folder), "").digest
    load.cache_clear()
    (folder / "wiki.test.tokens").write_text("the end\nthe dog the", encoding="utf-8")
    assert load(str(folder), "").digest != before


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("missing", None, "does not exist"),
        ("empty.txt", b"", "is empty"),
        ("latin.txt", "größer\n".encode("latin-1") * 100, "is not UTF-8 text"),
        ("cut.txt", "größ".encode()[:-1], "is not UTF-8 text"),
        ("begun.txt", b"\x80 and so on", "is not UTF-8 text"),
    ],
)
def test_what_is_no_text_is_refused(tmp_path: Path, name: str, content: bytes | None, told: str) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=told) as caught:
        load(str(tmp_path / name), "")
    assert str(tmp_path / name) in str(caught.value) and "give a text file" in str(caught.value)


def test_what_is_no_corpus_is_refused(folder: Path) -> None:
    with pytest.raises(InputError, match="no ordinary file"):
        load("/dev/null", "")
    (folder / "wiki.valid.raw").write_text("x", encoding="utf-8")
    with pytest.raises(InputError, match=r"with valid in its name and has more than one \(wiki.valid.raw, "):
        load(str(folder), "")
    for file in folder.glob("wiki.valid*"):
        file.unlink()
    with pytest.raises(InputError, match="with valid in its name and has none"):
        load(str(folder), "")


def test_short_texts_are_refused(folder: Path) -> None:
    corpus = load(str(folder), "")
    check_length(corpus, "x", 1, 3)
    with pytest.raises(InputError, match="corpus=x is too short: its train text has 8 words, and batch_size=4 with"):
        check_length(corpus, "x", 4, 2)
    with pytest.raises(InputError, match="its valid text has 4 words"):
        check_length(corpus, "x", 2, 2)
    # A file so short that some part of it is empty.
    (folder / "short").write_text("a b", encoding="utf-8")
    with pytest.raises(InputError, match="its train text"):
        check_length(load(str(folder / "short"), "word"), "short", 1, 8)
