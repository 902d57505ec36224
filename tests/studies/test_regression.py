"""`python -m studies.regression`: its families, and a small study from the command line to its files."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from conf.loading import compose_study
from conf.studies_schema import RegressionConfig
from studies.data.families import FAMILIES, Tasks
from studies.harness.program import main, make_jobs
from studies.models.ensembles import Streams
from studies.regression import STUDY, _comparison, play

pytestmark = pytest.mark.usefixtures("process_settings")

TINY = [
    *("quick=true", "parallel=1", "seeds=2", "networks=[concat,multi_head,mi]", "tasks=4", "steps=40", "width=6"),
    *("adaptation_steps=10", "shots=[1,4]", "new_tasks=3"),
]


@pytest.mark.parametrize("name", FAMILIES)
def test_tasks_differ_and_have_variance_one_over_all(name: str) -> None:
    x, y = Tasks(FAMILIES[name], 3000, 2, Streams([0, 1], "tasks")).sample(20, Streams([0, 1], "test"))
    assert x.shape == y.shape == (2, 3000, 20, 2)
    for values in (x, y):
        torch.testing.assert_close(values.var((1, 2)), torch.ones(2, 2), rtol=0, atol=0.08)
    assert x.abs().max() <= math.sqrt(3)
    assert not torch.allclose(y[0, 0].mean(), y[0, 1].mean(), atol=1e-3)


def test_an_affine_task_is_a_line() -> None:
    x, y = (part.numpy() for part in Tasks(FAMILIES["affine"], 1, 1, Streams([5], "t")).sample(9, Streams([5], "x")))
    drawn = Streams([5], "t")
    a, b = drawn.normal(1, 1, 1).item(), drawn.normal(1, 1, 1).item()
    expected = (a * x / np.sqrt(3) + b) / np.sqrt(4 / 3)
    np.testing.assert_allclose(y, expected, rtol=1e-4)


def test_a_small_study(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(STUDY, [*TINY, f"folder={tmp_path}"]) == 0
    content = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))
    networks = {one["network"]: one for one in content["findings"]["networks"]}
    assert networks.keys() == {"concat", "multi_head", "mi"}
    for one in networks.values():
        assert one["parameters"] == pytest.approx(networks["mi"]["parameters"], rel=0.06)
        assert [transfer["shots"] for transfer in one["transfer"]] == [1, 4]
    assert networks["mi"]["own"] == 8 and networks["multi_head"]["own"] == networks["multi_head"]["width"] + 1
    for job in content["cells"].values():
        curve = np.array(job["result"]["curve"])
        assert curve.shape == (len(job["result"]["steps"]), 2) and job["result"]["steps"][-1] == 40
        assert (curve[-1] < curve[0]).all()
    assert (tmp_path / "figure.png").exists() and "is not supported at the end" in capsys.readouterr().out


def test_the_same_seeds_give_the_same_numbers() -> None:
    """Also together with other seeds, up to rounding."""
    config = compose_study("regression", [*TINY, "networks=[mi]", "steps=5", "shots=[1]"])
    assert isinstance(config, RegressionConfig)
    (job,) = make_jobs(STUDY, config, Path()).values()
    first = play(job.settings)
    assert play(job.settings) == first
    alone = play(job.settings | {"seeds": [1]})
    assert alone["curve"][0][0] == pytest.approx(first["curve"][0][1], rel=1e-4)
    assert alone["curve"][0][0] != pytest.approx(first["curve"][0][0], rel=1e-4)


def test_the_comparison_is_supported_by_half_the_error_and_disjoint_intervals() -> None:
    def result(*ends: float) -> dict:
        return {"curve": [[1.0] * len(ends), list(ends)], "test": list(ends)}

    good, bad, wide = result(0.1, 0.11, 0.12), result(0.3, 0.31, 0.33), result(0.01, 0.3, 9.0)
    assert "is supported at the end; it is at 1 of the 2" in _comparison("p", bad, good)
    assert "is not supported at the end" in _comparison("p", good, bad)
    assert "is not supported at the end" in _comparison("p", wide, good)
    assert "is not supported at the end" in _comparison("p", result(0.2, 0.19, 0.18), good)


def test_each_number_of_steps_is_a_training_of_its_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(STUDY, [*TINY, "networks=[concat,mi]", "steps=[6,3]", "shots=[1]", f"folder={tmp_path}"]) == 0
    content = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))
    assert [one["steps"] for one in content["findings"]["networks"]] == [3, 3, 6, 6]
    assert content["cells"].keys() == {f"affine-1-{steps}-{name}-0.01" for steps in (3, 6) for name in ("concat", "mi")}
    shown = capsys.readouterr().out
    assert (
        "| affine, x in R^1, 3 steps | `mi` |" in shown
        and "affine, x in R^1, 6 steps: not converged: `concat` " in shown
    )
