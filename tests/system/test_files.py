"""Files of run folders: no link is followed out of the folder, and no pipe blocks."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from system.errors import InputError
from system.files import check_links, read_bounded, read_json, write_json


def test_a_link_at_the_temporary_path_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("mine", encoding="utf-8")
    for name in (".a.json.tmp", "a.json"):
        (tmp_path / name).symlink_to("mine")
    write_json(tmp_path / "a.json", {"x": 1})
    assert read_json(tmp_path / "a.json") == {"x": 1} and not (tmp_path / "a.json").is_symlink()
    assert (tmp_path / "mine").read_text(encoding="utf-8") == "mine"


@pytest.mark.parametrize("name", ["checkpoints", "metrics.jsonl", "videos/.a.tmp.mp4"])
def test_links_that_lead_out_are_refused(tmp_path: Path, name: str) -> None:
    run, mine = tmp_path / "run", tmp_path / "run-of-mine"
    (run / name).parent.mkdir(parents=True)
    mine.mkdir()
    (run / name).symlink_to(mine)
    with pytest.raises(InputError, match=f"{name} is a link that leads out"):
        check_links(run)
    with pytest.raises(InputError, match="is a link"):
        check_links(run, name.split("/", maxsplit=1)[0])
    check_links(run, "figures")


def test_links_that_stay_inside_and_links_to_a_run_are_fine(tmp_path: Path) -> None:
    run = tmp_path / "run"
    (run / "checkpoints").mkdir(parents=True)
    (run / "checkpoints" / "latest.pt").symlink_to("checkpoint-1.pt")
    (run / "weights").symlink_to("checkpoints")
    (tmp_path / "alias").symlink_to("run")
    check_links(run)
    check_links(tmp_path / "alias")
    check_links(tmp_path / "not there")


def test_only_ordinary_files_of_ordinary_size_are_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "large").write_bytes(b"x" * 11)
    for name in ("pipe", "large", "missing", "."):
        with pytest.raises(OSError, match="pipe|large|missing|ordinary"):
            read_bounded(tmp_path / name, 10)
    assert read_bounded(tmp_path / "large", 11) == "x" * 11
    assert read_json(tmp_path / "pipe") is None
    (tmp_path / "deep.json").write_text("[" * 100_000, encoding="utf-8")
    assert read_json(tmp_path / "deep.json") is None
