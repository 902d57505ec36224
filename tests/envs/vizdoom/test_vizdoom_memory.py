"""Removal of the shared memory of killed games. Needs no engine."""

from __future__ import annotations

import os
from pathlib import Path

from envs.vizdoom.memory import remove_abandoned

OLD = 1_000_000_000.0


def test_files_that_no_process_maps_are_removed(tmp_path: Path) -> None:
    shared, processes = tmp_path / "shm", tmp_path / "proc"
    for folder in (shared, processes / "1", processes / "22", processes / "self"):
        folder.mkdir(parents=True)
    used, abandoned, young = "ViZDoomSMaaaaaaaaaa", "ViZDoomMQCtrbbbbbbbbbb", "ViZDoomMQDoomcccccccccc"
    others = ["torch_1_2", "ViZDoom", "xViZDoomSMaaa", "ViZDoomSMa b"]
    for name in (used, abandoned, young, *others):
        (shared / name).write_bytes(b"x")
        if name != young:
            os.utime(shared / name, (OLD, OLD))
    (processes / "1" / "maps").write_text("7f00 rw-s 0 00:01 9  /usr/lib/libc.so.6\n", encoding="utf-8")
    (processes / "22" / "maps").write_text(f"7f00 rw-s 0 00:01 9  /dev/shm/{used}\n", encoding="utf-8")
    assert remove_abandoned(shared, processes) == [abandoned]
    assert {path.name for path in shared.iterdir()} == {used, young, *others}
    assert remove_abandoned(shared, processes) == remove_abandoned(tmp_path / "nowhere") == []
