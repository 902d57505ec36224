"""The file of sentences: what is taken from it, and how damaged and crafted files are refused."""

from __future__ import annotations

import contextlib
import io
import os
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fakes import fake_env
from hypothesis import given
from hypothesis import strategies as st

from agents.storage import sentences
from agents.storage.sentences import read_sentences
from system.errors import InputError

ENV = fake_env(vocabulary=("", "?", "go", "left", "right", "!"), instruction_length=3)
TEXTS = ["go left", "Go right!", "go up", "go left go left", "go", "left", ""]
VECTORS = np.arange(14, dtype=np.float64).reshape(7, 2)


def write(path: Path, texts: Any = TEXTS, vectors: Any = VECTORS, **more: Any) -> str:
    np.savez(path, sentences=np.array(texts), vectors=np.array(vectors), **more)
    return str(path)


def refusal(path: Path | str, **options: bool) -> str:
    """The one sentence with which the file is refused."""
    with pytest.raises(InputError) as caught:
        read_sentences(str(path), ENV, **options)
    message = str(caught.value)
    assert message.startswith(f"context.table={path} cannot be used (")
    assert "\n" not in message and message.endswith(".")
    return message


@pytest.mark.parametrize("compressed", [False, True])
def test_takes_the_sentences_that_the_vocabulary_can_spell(compressed: bool, tmp_path: Path) -> None:
    """ "go up" has an unknown word and "go left go left" is too long: the agent could not tell them from others."""
    path = tmp_path / "table.npz"
    (np.savez_compressed if compressed else np.savez)(path, sentences=np.array(TEXTS), vectors=VECTORS)
    tokens, vectors, words = read_sentences(str(path), ENV)
    assert tokens.tolist() == [[2, 3, 0], [2, 4, 5], [2, 0, 0], [3, 0, 0], [0, 0, 0]]
    assert vectors.dtype == np.float32 and vectors.tolist() == VECTORS[[0, 1, 4, 5, 6]].tolist()
    # Of the words, "go" and "left" have vectors.
    assert words.tolist() == [[0, 0], [0, 0], [8, 9], [10, 11], [0, 0], [0, 0]]


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("dtype", ["<f2", "<f4", ">f8"])
def test_reads_every_layout_of_an_array(order: Any, dtype: str, tmp_path: Path) -> None:
    vectors = np.asarray(VECTORS, dtype, order=order)
    path = tmp_path / "table.npz"
    np.savez(path, sentences=np.array(TEXTS, ">U20"), vectors=vectors)
    assert read_sentences(str(path), ENV).vectors.tolist() == VECTORS[[0, 1, 4, 5, 6]].tolist()


def test_spellings_of_one_instruction_must_agree(tmp_path: Path) -> None:
    path = tmp_path / "table.npz"
    assert len(read_sentences(write(path, ["go left", "Go  LEFT"], [[1.0], [1.0]]), ENV).tokens) == 1
    write(path, ["go left", "Go  LEFT"], [[1.0], [2.0]])
    assert '"go left" and "Go  LEFT" are one instruction and have different vectors' in refusal(path)


def test_refuses_a_file_without_an_instruction_of_the_tasks(tmp_path: Path) -> None:
    path = tmp_path / "table.npz"
    write(path, ["jump"], [[1.0]])
    assert "env=fake knows all words of none of its sentences" in refusal(path)
    write(path, ["go left"], [[1.0]])
    assert "needs the vectors of single words" in refusal(path, words_needed=True)


def archive(path: Path, **members: bytes) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in members.items():
            file.writestr(f"{name}.npy", content)
    return path


def array(content: Any = VECTORS, header: Callable[[bytes], bytes] = bytes) -> bytes:
    """A npy file whose header `header` has changed, at the same length."""
    buffer = io.BytesIO()
    np.save(buffer, np.asarray(content), allow_pickle=True)
    return header(buffer.getvalue())


def with_shape(features: str) -> Callable[[bytes], bytes]:
    """Changes the shape in the header of VECTORS to (7, features)."""
    old = b"(7, 2), }"
    new = f"(7, {features}), }}".encode()
    return lambda text: text.replace(old + b" " * (len(new) - len(old)), new)


TEXT = array(np.array(TEXTS))

CRAFTED: dict[str, dict[str, Any]] = {
    "another name": {"sentence": TEXT, "vectors": array()},
    "a further array": {"sentences": TEXT, "vectors": array(), "other": array()},
    "no vectors": {"sentences": TEXT},
    "pickled objects": {"sentences": TEXT, "vectors": array(np.array([[print] * 2] * 7, object))},
    "texts as bytes": {"sentences": array(np.array(TEXTS, "S20")), "vectors": array()},
    "whole numbers": {"sentences": TEXT, "vectors": array(VECTORS.astype(int))},
    "one dimension": {"sentences": TEXT, "vectors": array(VECTORS[:, 0])},
    "no features": {"sentences": TEXT, "vectors": array(np.zeros((7, 0)))},
    "fewer vectors": {"sentences": TEXT, "vectors": array(VECTORS[:5])},
    "not a number": {"sentences": TEXT, "vectors": array(np.where(VECTORS == 3, np.nan, VECTORS))},
    "infinite": {"sentences": TEXT, "vectors": array(np.where(VECTORS == 3, np.inf, VECTORS))},
    "a huge shape": {"sentences": TEXT, "vectors": array(header=with_shape("99999999999999"))},
    "a negative shape": {"sentences": TEXT, "vectors": array(header=with_shape("-2"))},
    "a longer array": {"sentences": TEXT, "vectors": array() + b"more"},
    "a shorter array": {"sentences": TEXT, "vectors": array()[:-8]},
    "an unknown version": {"sentences": TEXT, "vectors": array(header=lambda text: text[:6] + b"\x09\x00" + text[8:])},
    "a header that is no literal": {
        "sentences": TEXT,
        "vectors": array(header=lambda text: text.replace(b"{'descr'", b"{print()")),
    },
    "structured numbers": {"sentences": TEXT, "vectors": array(np.zeros((7, 2), [("a", "f4")]))},
    "empty members": {"sentences": b"", "vectors": b""},
    "a text of no characters": {"sentences": TEXT[:-140] + b"\xff" * 140, "vectors": array()},
}


@pytest.mark.parametrize("case", CRAFTED)
def test_refuses_a_crafted_archive(case: str, tmp_path: Path) -> None:
    refusal(archive(tmp_path / "table.npz", **CRAFTED[case]))


def test_refuses_what_is_no_archive(tmp_path: Path) -> None:
    path = tmp_path / "table.npz"
    assert "No such file" in refusal(path)
    assert "no ordinary file" in refusal(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    refusal(tmp_path / "pipe")
    for content in (b"", b"PK\5\6" + bytes(18), b"plain text" * 10, array()):
        path.write_bytes(content)
        refusal(path)


def test_a_large_array_is_refused_before_it_is_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An array of zeros is a thousandth of its size in the archive."""
    monkeypatch.setattr(sentences, "_MOST_BYTES", 1000)
    read: list[int] = []
    original = zipfile.ZipExtFile.read

    def counted(self: zipfile.ZipExtFile, n: int | None = -1) -> bytes:
        content = original(self, n)
        read.append(len(content))
        return content

    monkeypatch.setattr(zipfile.ZipExtFile, "read", counted)
    path = archive(tmp_path / "table.npz", sentences=TEXT, vectors=array(np.zeros((7, 10**5))))
    assert "vectors.npy takes 5,600,000 bytes and 1,000 are allowed" in refusal(path)
    assert sum(read) < 2000


def test_a_large_directory_is_refused_before_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = archive(tmp_path / "table.npz", **{f"array-{number}": b"" for number in range(1000)})
    monkeypatch.setattr(zipfile, "ZipFile", lambda file: pytest.fail("the directory is read"))
    assert "no npz file of two arrays" in refusal(path)


@given(position=st.integers(0, 10**6), value=st.integers(0, 255), cut=st.booleans())
def test_a_damaged_file_is_read_or_refused(position: int, value: int, cut: bool) -> None:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, sentences=np.array(TEXTS), vectors=VECTORS)
    content = bytearray(buffer.getvalue())
    position %= len(content)
    content[position] = value
    with tempfile.NamedTemporaryFile() as file:
        file.write(content[:position] if cut else content)
        file.flush()
        with contextlib.suppress(InputError):
            found = read_sentences(file.name, ENV)
            assert len(found.tokens) == len(found.vectors)
