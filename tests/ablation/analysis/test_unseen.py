"""Results on contexts that training left out: read, compared together with the seen ones, and reported."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from fabricated import results
from run_folders import change, write_json, write_run

from ablation.analysis import statistics
from ablation.analysis.analysis import analyse
from ablation.load import load_folders
from ablation.report.report import write_report
from system.errors import InputError
from system.files import read_json


def spread(mean: float, seed: int, runs: int = 6, tasks: int = 2) -> list[list[float]]:
    return (mean + 0.02 * np.random.default_rng(seed).normal(size=(runs, tasks))).tolist()


SEEN = {"concat": spread(0.8, 0), "mi": spread(0.8, 1)}
UNSEEN = {"concat": spread(0.5, 2, tasks=1), "mi": spread(0.78, 3, tasks=1)}


def test_two_families_are_corrected_for_the_pairs_of_both() -> None:
    """Equal to Sidak's correction of the single p-values, and intervals that hold together."""
    means = {name: np.array(rows).mean(axis=1) for name, rows in [*SEEN.items(), ("film", spread(0.81, 4))]}
    once, twice = (statistics.compare(means, families=families) for families in (1, 2))
    for first, second in zip(once, twice, strict=True):
        assert 1 - second.p == pytest.approx((1 - first.p) ** 2)
        assert second.difference.value == first.difference.value
        assert second.difference.low < first.difference.low < first.difference.high < second.difference.high  # type: ignore[operator]


@pytest.mark.parametrize("share", [0.0, 0.8], ids=["independent", "correlated"])
def test_equal_variants_are_rarely_told_apart_on_either_group(share: float) -> None:
    """Of 1,000 ablations of three equal variants with five seeds, each with seen and unseen contexts."""
    rng, claims = np.random.default_rng(0), 0
    for _ in range(1000):
        common, seen, other = rng.normal(size=(3, 3, 5))
        groups = [np.sqrt(share) * common + np.sqrt(1 - share) * own for own in (seen, other)]
        pairs = [statistics.compare(dict(zip("abc", group, strict=True)), families=2) for group in groups]
        claims += any(pair.claimed for family in pairs for pair in family)
    assert 5 <= claims <= 60


def test_the_verdict_compares_unseen_contexts_for_themselves() -> None:
    analysis = analyse(results(SEEN, unseen=UNSEEN))
    verdict = " ".join(analysis.sentences)
    assert not analysis.comparisons[0].claimed and analysis.unseen_comparisons[0].claimed
    assert "On contexts that training left out, the mean success over 1 task is" in verdict
    assert "mi is better than concat, by 0.2" in verdict
    assert "all 2 comparisons, on seen and on unseen contexts, were tested together" in verdict
    assert "these lose: concat 0.3" in verdict
    assert analysis.unseen["concat"]["drop"].value == pytest.approx(
        np.mean([row[0] for row in SEEN["concat"]]) - np.mean(UNSEEN["concat"])
    )


def test_variants_of_one_width_are_compared_on_both_groups(tmp_path: Path) -> None:
    seen, unseen = (
        {f"{name} width={width}": values for width in (1, 2) for name, values in group.items()}
        for group in (SEEN, UNSEEN)
    )
    found = results(seen, unseen=unseen)
    analysis = analyse(found)
    pairs = [(f"concat width={width}", f"mi width={width}") for width in (1, 2)]
    for family in (analysis.comparisons, analysis.unseen_comparisons):
        assert [(pair.first, pair.second) for pair in family] == pairs
    verdict = " ".join(analysis.sentences)
    assert "all 4 comparisons of the same width, at all widths, on seen and on unseen contexts, were tested" in verdict
    assert "mi width=1 is better than concat width=1" in verdict
    write_report(found, analysis, tmp_path)
    assert "Every pair of variants on unseen contexts of the same width" in (tmp_path / "report.md").read_text("utf-8")


def test_equal_results_on_unseen_contexts_are_no_claim() -> None:
    verdict = " ".join(analyse(results(SEEN, unseen=SEEN)).sentences)
    assert "the two are not told apart" in verdict
    assert "That unseen contexts are harder than seen ones is not supported for concat and mi." in verdict


def test_a_single_variant_is_described() -> None:
    verdict = " ".join(analyse(results({"mi": SEEN["mi"]}, unseen=UNSEEN)).sentences)
    assert "On contexts that training left out, the mean success over 1 task is 0.7" in verdict


def test_without_unseen_contexts_nothing_is_said_of_them(tmp_path: Path) -> None:
    found = results(SEEN)
    analysis = analyse(found)
    assert not analysis.unseen and not analysis.unseen_comparisons
    assert "unseen" not in " ".join(analysis.sentences)
    write_report(found, analysis, tmp_path)
    assert "unseen" not in (tmp_path / "report.md").read_text(encoding="utf-8")


def test_the_report_has_the_values_and_the_pairs(tmp_path: Path) -> None:
    found = results(SEEN, unseen=UNSEEN)
    write_report(found, analyse(found), tmp_path)
    for name in ("report.md", "report.html"):
        text = (tmp_path / name).read_text(encoding="utf-8")
        assert "Seen and unseen contexts" in text and "Every pair of variants on unseen contexts" in text
    rows = (tmp_path / "data" / "unseen.csv").read_text(encoding="utf-8").splitlines()
    assert [row.split(",")[1] for row in rows[1:]] == ["seen", "unseen", "drop"] * 2
    content = read_json(tmp_path / "analysis.json")
    assert content and content["unseen_comparisons"][0]["claimed"]


def test_run_folders_with_unseen_contexts_are_read(tmp_path: Path) -> None:
    for seed in (0, 1):
        write_run(tmp_path / f"mi-seed{seed}", "fusion=mi", f"seed={seed}", returns=0.8, unseen=0.4)
    found = load_folders([str(tmp_path)], "return")
    assert found.unseen_tasks == ("map-0",)
    np.testing.assert_allclose(found.unseen_matrix("mi"), [[0.4], [0.4]])
    np.testing.assert_allclose(found.matrix("mi"), [[0.8, 0.8], [0.8, 0.8]])


def test_an_evaluation_of_one_group_alone_is_not_compared_with_others(tmp_path: Path) -> None:
    for seed in range(3):
        write_run(tmp_path / f"mi-seed{seed}", "fusion=mi", f"seed={seed}", unseen=0.4)
    path = tmp_path / "mi-seed2" / "evaluation.json"
    change(path, provenance={"updates": 7, "seed": 0, "greedy": False, "contexts": "unseen"})
    assert dict(load_folders([str(tmp_path)]).problems) == {
        "mi-seed2": "its group of contexts is unseen, but that of most runs is both."
    }


def test_unseen_contexts_of_unknown_tasks_are_refused(tmp_path: Path) -> None:
    path = write_run(tmp_path / "mi", "fusion=mi", unseen=0.4) / "evaluation.json"
    content = read_json(path) or {}
    content["unseen"]["tasks"]["map-7"] = {"mean": 1.0, "success": 0.5}
    write_json(path, content)
    with pytest.raises(InputError, match="unseen contexts of other tasks"):
        load_folders([str(path.parent)])
