"""The example of docs/extending.md, run as the page shows it, in a folder of its own."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
PARTS, PROPERTIES = (text for language, text in BLOCKS if language == "python")
COMMANDS = [line for language, text in BLOCKS if language == "bash" for line in text.splitlines()]


def run(folder: Path, command: str) -> subprocess.CompletedProcess[str]:
    """A command of the page, with the packages of this checkout as if they were installed."""
    python, program, *arguments = shlex.split(command)
    assert python == "python"
    installed = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    return subprocess.run(
        [sys.executable, "-P", str(ROOT / program), *arguments],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": installed},
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with the files of the page."""
    (tmp_path / "my_parts.py").write_text(PARTS, encoding="utf-8")
    (tmp_path / "test_my_parts.py").write_text(PROPERTIES, encoding="utf-8")
    (settings := tmp_path / "settings" / "experiment").mkdir(parents=True)
    (text,) = (text for language, text in BLOCKS if language == "yaml")
    # Fewer frames.
    (settings / "mine.yaml").write_text(text.replace("total_frames: 20000", "total_frames: 2000"), encoding="utf-8")
    return tmp_path


def test_the_fusion_of_the_page_is_small_and_has_the_properties(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = [line for line in PARTS.splitlines() if line.strip() and not line.strip().startswith('"""')]
    assert len(code) <= 30
    monkeypatch.syspath_prepend(str(folder))
    scope: dict[str, object] = {}
    exec(compile(PROPERTIES, "test_my_parts.py", "exec"), scope)
    scope["test_tanh_gate"]()  # type: ignore[operator]
    sys.modules.pop("my_parts", None)


@pytest.mark.slow
def test_the_commands_of_the_page_work(folder: Path) -> None:
    """With fewer frames and seeds."""
    assert len(COMMANDS) == 5 and sum("total_frames=" in command for command in COMMANDS) == 3
    for command in COMMANDS:
        ended = run(
            folder, re.sub(r"total_frames=(\d+)000", r"total_frames=\g<1>00", command).replace("seeds=2", "seeds=1")
        )
        assert ended.returncode == 0, (command, ended.stderr, ended.stdout[-2000:])
    config = (folder / "mine" / "config.yaml").read_text(encoding="utf-8")
    assert "name: tanh_gate" in config and "- my_parts" in config
    assert json.loads((folder / "mine" / "result.json").read_text(encoding="utf-8"))["frames"] >= 3_000
    assert json.loads((folder / "mine" / "evaluation.json").read_text(encoding="utf-8"))["tasks"]
    cells = {
        row["variant"] for row in json.loads((folder / "compared" / "grid.json").read_text(encoding="utf-8"))["cells"]
    }
    assert cells == {"tanh_gate", "mi"} and "tanh_gate" in (folder / "compared" / "report.html").read_text(
        encoding="utf-8"
    )
    # Without the module on the command line nothing of it is imported.
    (folder / "my_parts.py").write_text("open('canary', 'w').close()\n" + PARTS, encoding="utf-8")
    for command in ("python evaluate.py run=mine", "python train.py run=mine resume=true total_frames=4000"):
        ended = run(folder, command)
        assert ended.returncode == 2 and ended.stderr.count("\n") == 1
        assert "plugins names my_parts, which would be imported" in ended.stderr and not (folder / "canary").exists()


@pytest.mark.ray
def test_actors_and_runs_on_a_cluster_import_the_module(folder: Path) -> None:
    small = "plugins=[my_parts] env=conditional runtime=cluster runtime.num_actors=1 total_frames=2000"
    ended = run(folder, f"python train.py {small} fusion=tanh_gate run=mine")
    assert ended.returncode == 0, ended.stderr
    ended = run(folder, f"python train.py -m {small} fusion=tanh_gate,mi node_runtime=serial run=all")
    assert ended.returncode == 0, ended.stderr + ended.stdout
    assert len(list((folder / "all").glob("*/result.json"))) == 2
