"""The choice of learning rates, on the seeds of the study or on separate ones."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from conf.loading import compose_study
from studies import language, regression
from studies.harness.jobs import Checkpoint, Result, Settings
from studies.harness.program import Study, conduct
from studies.harness.rates import compare_rates, describe_edges, search_table
from studies.models.ensembles import curve_points

pytestmark = pytest.mark.usefixtures("process_settings")

AXES = ["network", "learning_rate", "seed"]
COSTS = {("mi",): {0.1: 2.0, 0.2: 1.0, 0.3: 3.0}, ("concat",): {0.1: 5.0, 0.2: 4.5, 0.3: 4.25}}


def test_costs_are_means_over_seeds_by_place_and_rate() -> None:
    # In the order of jobs, the last values of the configuration first.
    results: dict[tuple[Any, ...], Result] = {
        (network, rate, seed): {"cost": 10 * rate + seed}
        for network in ("mi", "concat")
        for rate in (2, 1)
        for seed in (0, 4)
    }
    found = compare_rates(AXES, results, lambda result: float(result["cost"]))
    assert found == {("concat",): {1: 12.0, 2: 22.0}, ("mi",): {1: 12.0, 2: 22.0}} and list(found) == [
        ("concat",),
        ("mi",),
    ]
    assert list(found["mi",]) == [1, 2]


def test_the_table_of_the_search_marks_the_lowest_cost() -> None:
    assert search_table(AXES, COSTS) == (
        ("network", "0.1", "0.2", "0.3"),
        [("`mi`", "2", "**1**", "3"), ("`concat`", "5", "4.5", "**4.25**")],
    )


def test_a_best_rate_at_the_edge_of_the_search_is_named() -> None:
    assert describe_edges(COSTS).endswith("for: concat.")
    assert describe_edges({("mi",): COSTS["mi",]}) == ""
    # Two rates are no search.
    assert describe_edges({("mi",): {0.1: 1.0, 0.2: 2.0}}) == ""


class Played:
    """Replaces `play` of a study by invented results whose validation cost is the distance of the rate from the network's best one."""

    def __init__(self, study: Study[Any], best: dict[str, float]) -> None:
        self.jobs: list[tuple[str, float, list[int]]] = []
        self._best = best
        self.study = dataclasses.replace(study, play=self.play)

    def play(self, settings: Settings, checkpoint: Checkpoint) -> Result:
        seeds = settings.get("seeds", [settings.get("seed")])
        self.jobs.append((settings["network"], settings["learning_rate"], seeds))
        cost = 1.0 + abs(settings["learning_rate"] - self._best[settings["network"]])
        if "seed" in settings:
            rows = {"steps": [0, 1], "validation": [9.0, cost], "best_step": 1}
            return rows | {"width": 3, "parameters": 70, "bits": cost, "nats": 2.0, "sample": "words"}
        values = [cost + 0.01 * number for number in range(len(seeds))]
        points = curve_points(1, settings["steps"], regression.POINTS)
        sizes = {"width": 3, "parameters": 70, "own": 4, "steps": points, "curve": [values] * len(points)}
        return sizes | {"validation": values, "test": values, "transfer": [values] * len(settings["shots"])}


STUDIES = {"regression": (regression.STUDY, ["concat", "mi"]), "language": (language.STUDY, ["lstm", "mlstm"])}


@pytest.mark.parametrize("name", STUDIES)
def test_tuning_seeds_choose_the_rate_and_are_not_tested(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    study, (first, second) = STUDIES[name]
    arguments = ["quick=true", "seeds=3", "seed=5", "tuning_seeds=2", "parallel=1", "display=false"]
    config = compose_study(name, [*arguments, f"networks=[{first},{second}]", "learning_rates=[0.01,0.02,0.03]"])
    played = Played(study, {first: 0.02, second: 0.03})
    conduct(played.study, config, tmp_path)
    seeds = [seed for _, _, seeds in played.jobs for seed in seeds]
    assert set(seeds) == {5, 6, 7, 1005, 1006}
    # Every rate on the tuning seeds; on the others the best one alone.
    searched = {(network, rate) for network, rate, seeds in played.jobs if seeds[0] >= 1000}
    tested = {(network, rate) for network, rate, seeds in played.jobs if seeds[0] < 1000}
    assert searched == {(network, rate) for network in (first, second) for rate in (0.01, 0.02, 0.03)}
    assert tested == {(first, 0.02), (second, 0.03)}
    content = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))
    assert [row["chosen"] for row in content["learning_rates"]] == [0.02, 0.03]
    assert [row["learning_rate"] for row in content["findings"]["networks"]] == [0.02, 0.03]
    assert (len(content["tuning"]), len(content["cells"])) == {"language": (12, 6), "regression": (6, 2)}[name]
    shown = capsys.readouterr().out
    assert "mean over seeds 1005 to 1006" in shown and "may be better, for: " in shown
    # The same command finds every result, a wider one runs what is new.
    played.jobs.clear()
    conduct(played.study, config, tmp_path)
    assert not played.jobs
    config.learning_rates = [*config.learning_rates, 0.035]  # type: ignore[attr-defined]
    conduct(played.study, config, tmp_path)
    assert {rate for _, rate, seeds in played.jobs} == {0.035} and all(seeds[0] >= 1000 for _, _, seeds in played.jobs)


def test_without_tuning_seeds_every_rate_runs_on_the_seeds_of_the_study(tmp_path: Path) -> None:
    study, (first, second) = STUDIES["language"]
    config = compose_study(
        "language",
        [
            "quick=true",
            "seeds=2",
            "display=false",
            "parallel=1",
            f"networks=[{first},{second}]",
            "learning_rates=[0.01,0.02]",
        ],
    )
    played = Played(study, {first: 0.02, second: 0.01})
    conduct(played.study, config, tmp_path)
    assert len(played.jobs) == 8 and {seed for _, _, seeds in played.jobs for seed in seeds} == {0, 1}
    content = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))
    assert [row["learning_rate"] for row in content["findings"]["networks"]] == [0.02, 0.01]
    assert len(content["cells"]) == 8 and content["tuning"] == {}
