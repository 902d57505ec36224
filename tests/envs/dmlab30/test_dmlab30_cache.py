"""The cache of compiled maps."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import shutil
import zipfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from envs.dmlab30 import map_cache
from envs.dmlab30.map_cache import LevelCache

BIG = 1 << 30


def map_file(path: Path, content: str, size: int = 1000) -> Path:
    """A compiled map as the engine writes it: a zip archive."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("maps/x.bsp", content.ljust(size))
    return path


def content(path: Path) -> str:
    with zipfile.ZipFile(path) as archive:
        return archive.read("maps/x.bsp").decode().strip()


def stored(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.pk3"))


@settings(max_examples=15)  # each write waits for the disk
@given(st.lists(st.tuples(st.booleans(), st.text(min_size=1, max_size=4)), max_size=10))
def test_the_cache_returns_the_file_of_each_key(
    tmp_path_factory: pytest.TempPathFactory, calls: list[tuple[bool, str]]
) -> None:
    """With any characters in the keys."""
    folder = tmp_path_factory.mktemp("cache")
    cache, model = LevelCache(folder / "maps", BIG), {}
    hits = 0
    for number, (writes, key) in enumerate(calls):
        if writes:
            cache.write(key, str(map_file(folder / "in.pk3", str(number))))
            model.setdefault(key, str(number))
        else:
            target = folder / "out.pk3"
            target.unlink(missing_ok=True)
            assert cache.fetch(key, str(target)) == (key in model) == target.exists()
            hits += key in model
            if key in model:
                assert content(target) == model[key]
    assert cache.hits == hits and cache.hits + cache.misses == len(calls) - sum(writes for writes, _ in calls)
    assert len(stored(folder / "maps")) == len(model) and cache.failures == 0
    assert all(len(path.parent.name) == 2 for path in stored(folder / "maps"))


def test_the_least_recently_used_maps_are_removed_first(tmp_path: Path) -> None:
    folder = tmp_path / "maps"
    source = map_file(tmp_path / "in.pk3", "x")
    size = source.stat().st_size
    cache = LevelCache(folder, 10 * size)
    for number in range(10):
        cache.write(str(number), str(source))
        for path in stored(folder):
            times = path.stat()
            os.utime(path, (times.st_atime, times.st_mtime - 100))
    assert len(stored(folder)) == 10
    assert cache.fetch("0", str(tmp_path / "out.pk3"))
    cache.write("new", str(source))
    left = {
        key for key in (*map(str, range(10)), "new") if LevelCache(folder, BIG).fetch(key, str(tmp_path / "out.pk3"))
    }
    assert left == {"0", "3", "4", "5", "6", "7", "8", "9", "new"}


def test_maps_of_other_processes_count(tmp_path: Path) -> None:
    source = map_file(tmp_path / "in.pk3", "x")
    for key in "abcdef":
        LevelCache(tmp_path / "maps", BIG).write(key, str(source))
    LevelCache(tmp_path / "maps", 3 * source.stat().st_size).write("g", str(source))
    assert len(stored(tmp_path / "maps")) == 2


@pytest.mark.parametrize("rubbish", [b"", b"half a m"])
def test_a_damaged_file_is_no_map(tmp_path: Path, rubbish: bytes) -> None:
    cache, source, target = LevelCache(tmp_path / "maps", BIG), map_file(tmp_path / "in.pk3", "x"), tmp_path / "out.pk3"
    cache.write("a", str(source))
    stored(tmp_path / "maps")[0].write_bytes(rubbish)
    assert not cache.fetch("a", str(target)) and not target.exists()
    cache.write("a", str(source))
    assert cache.fetch("a", str(target)) and content(target) == "x"


def archive(path: Path, entries: dict[str, str], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    with zipfile.ZipFile(path, "w", method) as file:
        for name, text in entries.items():
            file.writestr(name, text)
    return path.read_bytes()


DIGEST = "0123456789abcdef" * 2
WHOLE = {"maps/m_1.bsp": "b" * 500, "maps/m_1.aas": "a" * 500}


@pytest.mark.parametrize(
    ("key", "entries", "whole"),
    [
        (f"m_1_aas_{DIGEST}", WHOLE, True),
        (f"m_1_noaas_{DIGEST}", WHOLE, True),
        (f"m_1_noaas_{DIGEST}", {"maps/m_1.bsp": "b"}, True),
        (f"m_1_aas_{DIGEST}", {"maps/m_1.bsp": "b"}, False),
        (f"m_1_aas_{DIGEST}", WHOLE | {"maps/m_1.aas": ""}, False),
        (f"m_1_noaas_{DIGEST}", {"maps/m_1.bsp": ""}, False),
        (f"m_1_noaas_{DIGEST}", {"maps/m_2.bsp": "b"}, False),
        (f"m_1_noaas_{DIGEST}", {"m_1.bsp": "b"}, False),
        (f"m_1_noaas_{DIGEST}", {}, False),
        ("any other key", {"maps/m_2.bsp": "b"}, True),
        ("any other key", {"maps/m_2.aas": "b"}, False),
    ],
)
def test_an_archive_without_the_map_of_its_key_is_replaced(
    tmp_path: Path, key: str, entries: dict[str, str], whole: bool
) -> None:
    cache, target = LevelCache(tmp_path / "maps", BIG), tmp_path / "m_1.pk3"
    archive(tmp_path / "in.pk3", entries)
    cache.write(key, str(tmp_path / "in.pk3"))
    assert cache.fetch(key, str(target)) == target.exists() == whole == bool(stored(tmp_path / "maps"))
    archive(tmp_path / "in.pk3", WHOLE | {"maps/m_2.bsp": "b"})
    cache.write(key, str(tmp_path / "in.pk3"))
    assert cache.fetch(key, str(target)) and (cache.hits, cache.misses) == (1 + whole, 1 - whole)


def test_a_single_wrong_byte_is_found(tmp_path: Path) -> None:
    """At any position: no damaged archive reaches the engine, and none raises."""
    cache, key = LevelCache(tmp_path / "maps", BIG), f"m_1_aas_{DIGEST}"
    good = archive(tmp_path / "in.pk3", WHOLE)
    cache.write(key, str(tmp_path / "in.pk3"))
    (path,) = stored(tmp_path / "maps")
    for place in range(0, len(good), 3):
        damaged = bytearray(good)
        damaged[place] ^= 0xFF
        path.write_bytes(damaged)
        target = tmp_path / "m_1.pk3"
        if cache.fetch(key, str(target)):  # a byte that does not affect the content, such as a time stamp
            with zipfile.ZipFile(target) as map_:
                assert {name: map_.read(name).decode() for name in WHOLE} == WHOLE
            target.unlink()
        assert not target.exists()
    for length in range(0, len(good), 7):
        path.write_bytes(good[:length])
        assert not cache.fetch(key, str(target)) and not path.exists()


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_an_archive_that_the_engine_could_not_unpack_is_no_map(tmp_path: Path, method: int) -> None:
    cache, key = LevelCache(tmp_path / "maps", BIG), f"m_1_aas_{DIGEST}"
    archive(tmp_path / "in.pk3", WHOLE, method)
    cache.write(key, str(tmp_path / "in.pk3"))
    assert cache.fetch(key, str(tmp_path / "m_1.pk3")) == (method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))


def test_a_map_that_is_removed_while_it_is_read_is_copied_completely(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache, target = LevelCache(tmp_path / "maps", BIG), tmp_path / "out.pk3"
    cache.write("a", str(map_file(tmp_path / "in.pk3", "x")))
    (path,) = stored(tmp_path / "maps")

    def removed(file: object) -> bool:
        path.unlink()
        return True

    monkeypatch.setattr(zipfile, "is_zipfile", removed)
    assert cache.fetch("a", str(target)) and content(target) == "x"
    assert not cache.fetch("a", str(target)) and (cache.hits, cache.misses) == (1, 1)


def test_a_map_that_is_removed_right_after_its_creation_is_no_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache, replace = LevelCache(tmp_path / "maps", BIG), os.replace

    def replaced_and_removed(name: str, target: Path) -> None:
        replace(name, target)
        target.unlink()

    monkeypatch.setattr(os, "replace", replaced_and_removed)
    cache.write("a", str(map_file(tmp_path / "in.pk3", "x")))
    assert cache.failures == 0 and not cache.fetch("a", str(tmp_path / "out.pk3"))


def test_an_interrupted_copy_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache, target = LevelCache(tmp_path / "maps", BIG), tmp_path / "out.pk3"
    source = map_file(tmp_path / "in.pk3", "x")
    cache.write("a", str(source))

    def full(original: object, copy: object) -> None:
        copy.write(b"ha")  # type: ignore[attr-defined]
        raise OSError("No space left on device")

    monkeypatch.setattr(shutil, "copyfileobj", full)
    assert not cache.fetch("a", str(target))
    cache.write("b", str(source))
    assert cache.failures == 1
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["in.pk3"]
    assert len([path for path in (tmp_path / "maps").rglob("*") if path.is_file()]) == 1


def test_a_folder_that_cannot_be_written_costs_the_cache_and_not_the_run(tmp_path: Path) -> None:
    (tmp_path / "maps").write_text("a file", encoding="utf-8")
    cache = LevelCache(tmp_path / "maps", BIG)
    cache.write("a", str(map_file(tmp_path / "in.pk3", "x")))
    assert cache.failures == 1 and not cache.fetch("a", str(tmp_path / "out.pk3"))


def test_files_of_killed_processes_are_removed(tmp_path: Path) -> None:
    folder, source = tmp_path / "maps" / "ab", map_file(tmp_path / "in.pk3", "x")
    folder.mkdir(parents=True)
    old, new = folder / ".old.tmp", folder / ".new.tmp"
    old.touch(), new.touch()
    os.utime(old, (0, 0))
    LevelCache(tmp_path / "maps", BIG).write("a", str(source))
    assert not old.exists() and new.exists()


def test_the_cache_can_be_pickled_and_finds_its_folder_from_any_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    cache = LevelCache("maps", BIG)
    cache.write("a", str(map_file(tmp_path / "in.pk3", "x")))
    monkeypatch.chdir("/")
    assert pickle.loads(pickle.dumps(cache)).fetch("a", str(tmp_path / "out.pk3"))


def busy(folder: str, own: str, size: int) -> int:
    """Writes and reads all keys in a cache with room for a few; returns the number of wrong maps."""
    cache, wrong = LevelCache(folder, 4 * size), 0
    scratch = Path(own)
    scratch.mkdir()
    for number in range(40):
        key = str(number % 12)
        cache.write(key, str(map_file(scratch / "in.pk3", key)))
        key = str(number * 5 % 12)
        target = scratch / f"out{number}.pk3"
        if cache.fetch(key, str(target)):
            wrong += content(target) != key
        else:
            wrong += target.exists()
    return wrong + cache.failures


def test_processes_share_the_cache(tmp_path: Path) -> None:
    """Also while each removes files of the other."""
    size = map_file(tmp_path / "in.pk3", "x").stat().st_size
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        arguments = [(str(tmp_path / "maps"), str(tmp_path / name), size) for name in "ab"]
        assert pool.starmap(busy, arguments) == [0, 0]
    assert map_cache.KEPT < 1 and not list((tmp_path / "maps").rglob(".*"))


def test_other_files_in_the_folder_are_kept(tmp_path: Path) -> None:
    """A user may name the home directory as the folder of the cache."""
    theirs = [tmp_path / "maps" / name for name in ("cv/letter.tex", "ab/notes.txt", "ab/game.pk3", "ab/.hidden")]
    for path in theirs:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x" * 1000)
        os.utime(path, (0, 0))
    source = map_file(tmp_path / "in.pk3", "x")
    for key in "abc":
        LevelCache(tmp_path / "maps", 10).write(key, str(source))
    assert all(path.exists() for path in theirs)
