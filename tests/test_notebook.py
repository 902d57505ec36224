"""examples/quickstart.ipynb runs, and has the outputs of a run."""

from __future__ import annotations

from pathlib import Path

import pytest

import train

ROOT = Path(train.__file__).parent
NOTEBOOK = ROOT / "examples" / "quickstart.ipynb"

nbformat = pytest.importorskip("nbformat")


def test_the_notebook_was_executed() -> None:
    cells = [cell for cell in nbformat.read(NOTEBOOK, 4).cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    shown = [output for cell in cells for output in cell.outputs]
    assert not [output for output in shown if output.output_type == "error" or output.get("name") == "stderr"]
    assert len([output for output in shown if "image/png" in output.get("data", {})]) == 2


@pytest.mark.slow
def test_the_notebook_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With fewer frames and episodes."""
    nbclient = pytest.importorskip("nbclient")
    notebook = nbformat.read(NOTEBOOK, 4)
    text = nbformat.writes(notebook)
    for long, short in (("total_frames=150000", "total_frames=2000"), ("episodes=50", "episodes=4")):
        assert text.count(long) == 1
        text = text.replace(long, short)
    notebook = nbformat.reads(text, 4)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    resources = {"metadata": {"path": str(tmp_path)}}
    # A cell that fails raises CellExecutionError.
    nbclient.NotebookClient(notebook, timeout=240, kernel_name="python3", resources=resources).execute()
    assert (tmp_path / "quickstart-agent" / "model.safetensors").exists()
