"""`quick=true` of every study, from the arguments to the result files. test_closed_output.py starts one as a process."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

import pytest

from studies.harness import program

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("process_settings")]


def quick(name: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    """The results of the study with quick=true."""
    study = importlib.import_module(f"studies.{name}").STUDY
    code = program.main(study, ["quick=true", "parallel=1", f"folder={folder}"])
    out, err = capsys.readouterr()
    assert (code, err) == (0, "")
    assert {path.name for path in folder.iterdir()} >= {"results.json", "table.md", "figure.png"}
    content: dict[str, Any] = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    assert content["config"]["seeds"] >= 5
    for job in content["cells"].values():
        study.check_result(job["settings"], job["result"])
    table = (folder / "table.md").read_text(encoding="utf-8")
    assert table in out and all(sentence in table for sentence in content["findings"]["sentences"])
    return content


def results(content: dict[str, Any]) -> dict[str, Any]:
    return {name: job["result"] for name, job in content["cells"].items()}


def test_synthetic(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content = quick("synthetic", tmp_path, capsys)
    smallest = {
        (row["function"], row["network"], row["d"]): row["parameters"][0] for row in content["findings"]["smallest"]
    }
    assert smallest["dot", "concat_mlp", 8] > 4 * smallest["dot", "mi", 8]
    assert smallest["sum", "concat_mlp", 8] < smallest["sum", "mi", 8]
    for d in (2, 8):
        assert max(results(content)[f"dot-mi-{d}"]["trained"][0]["errors"]) < 1e-6


def test_regression(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    errors = [row["error"] for row in quick("regression", tmp_path, capsys)["findings"]["networks"]]
    # Targets have variance 1; a network without slopes has an error of 0.25.
    assert len(errors) == 3 and all(high < 0.01 for _, _, high in errors)


def test_neural_process(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content = quick("neural_process", tmp_path, capsys)
    for result in results(content).values():
        assert all(last > first for first, last in zip(result["bounds"][0], result["bounds"][-1], strict=True))
        # The exact Gaussian process is the best possible model.
        assert all(
            found < exact
            for size in zip(result["target"], result["exact"], strict=True)
            for found, exact in zip(*size, strict=True)
        )


def test_language(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content = quick("language", tmp_path, capsys)
    assert {row["network"] for row in content["findings"]["networks"]} == {"lstm", "multiplicative"}
    for result in results(content).values():
        assert min(result["validation"]) < 0.75 * result["validation"][0] and result["bits"] < 5
        assert len(result["sample"]) == 100
