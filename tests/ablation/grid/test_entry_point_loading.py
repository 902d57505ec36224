"""Entry points load by their location."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import train
from ablation.grid.entry_points import ROOT, load_entry_point


def test_a_loaded_entry_point_is_the_imported_module() -> None:
    assert load_entry_point("train") is train


def test_an_entry_point_loads_without_its_folder_on_the_path(tmp_path: Path) -> None:
    """Another train.py on the path is not loaded."""
    (tmp_path / "train.py").write_text("raise SystemExit('wrong file')", encoding="utf-8")
    code = f"""
import importlib.util, sys
sys.path.insert(0, {str(tmp_path)!r})
spec = importlib.util.spec_from_file_location("entry_points", {str(ROOT / "ablation" / "grid" / "entry_points.py")!r})
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
sys.path.append(str(module.ROOT))
assert module.load_entry_point("train").train
import train
assert train.__file__ == str(module.ROOT / "train.py")
"""
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True, timeout=120)
