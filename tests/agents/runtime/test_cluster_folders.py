"""A run on a Ray cluster in a folder that has packages of the same names as the project's."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from foreign_folders import ROOT, make_folder
from ray_cluster import LOOPBACK
from tiny_runs import TINY, result

pytestmark = pytest.mark.ray


def test_actors_on_a_cluster_find_the_packages_of_the_project(tmp_path: Path) -> None:
    """Ray puts the working directory in front of its workers' paths."""
    own = make_folder(tmp_path / "own", packages=True)
    for name in ("conf", "envs", "agents", "system"):
        (own / name / "__init__.py").write_text("raise SystemExit('the wrong package')", encoding="utf-8")
    arguments = [argument for argument in TINY if not argument.startswith("runtime=")]
    command = [sys.executable, str(ROOT / "train.py"), *arguments, "runtime=cluster", "runtime.num_actors=1"]
    ended = subprocess.run(
        [*command, "total_frames=200", "run=run"],
        cwd=own,
        env=os.environ | LOOPBACK,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    assert result(own / "run")["finished"] and result(own / "run")["restarts"] == 0
