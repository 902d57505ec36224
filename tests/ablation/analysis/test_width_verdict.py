"""Curves over size: which variants are compared, the correction over all widths, and the sentences."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import fabricated
import numpy as np
import pytest
from scipy import stats

from ablation.analysis.analysis import analyse
from ablation.analysis.comparability import cautions, configs
from ablation.analysis.intervals import ANY
from ablation.analysis.results import Analysis, Results, name_at_width, split_width
from ablation.analysis.statistics import compare
from benchmarks.coverage import claims, verdict_row

NOISE = np.array([-0.02, -0.01, 0.0, 0.01, 0.02])


def grid(means: Mapping[str, Mapping[float, float]], runs: int = 5) -> Results:
    """Five runs around these means, by form and width. An agent of width w has 1,000 w^2 parameters, half as many more of form `large`."""
    values = {
        name_at_width(form, width): (mean + NOISE[:runs])[:, None].tolist()
        for form, by_width in means.items()
        for width, mean in by_width.items()
    }
    results = fabricated.results(values)
    sized = []
    for run in results.runs:
        form, width = split_width(run.variant)
        size = int(1000 * (width or 1) ** 2 * (1.5 if form == "large" else 1))
        sized.append(dataclasses.replace(run, parameters=size, multiply_adds=2 * size))
    return dataclasses.replace(results, runs=tuple(sized))


def judged(runs: int = 5, **means: Mapping[float, float]) -> Analysis:
    return analyse(grid(means, runs))


@pytest.mark.parametrize("width", [0.5, 1, 2.25, 1e-5, 256])
def test_a_name_holds_its_width(width: float) -> None:
    assert split_width(name_at_width("mi core=gru", width)) == ("mi core=gru", width)


@pytest.mark.parametrize(
    "name", ["mi", "mi width=", "mi width=nan", "mi width=1.0", "mi width=-1", "width=2", "mi width=1 x"]
)
def test_another_name_has_no_width(name: str) -> None:
    assert split_width(name) == (name, None)


def test_variants_of_the_same_width_are_compared() -> None:
    results = grid({"a": {2: 0.5, 1: 0.5}, "b": {2: 0.5, 1: 0.5}})
    assert results.widths == (1, 2)
    assert results.groups == (("a width=1", "b width=1"), ("a width=2", "b width=2"))
    assert [(pair.first, pair.second) for pair in analyse(results).comparisons] == list(results.groups)


@pytest.mark.parametrize("names", [("a", "b"), ("a width=1", "b"), ("a width=1", "b width=1")])
def test_without_two_widths_every_pair_is_compared(names: tuple[str, str]) -> None:
    results = fabricated.results({name: [[0.1], [0.2]] for name in names})
    assert (results.widths, results.groups) == ((), (names,))
    assert analyse(results).scaling is None


def test_the_correction_covers_the_pairs_of_all_widths() -> None:
    rng = np.random.default_rng(0)
    values = {f"{form}{width}": rng.normal(0, 1, 6) for width in range(3) for form in "abc"}
    groups = [[f"{form}{width}" for form in "abc"] for width in range(3)]
    found = compare(values, ANY, groups)
    assert len(found) == 3 * 3
    for pair in found:
        alone = stats.ttest_ind(values[pair.first], values[pair.second], equal_var=False)
        assert pair.p == pytest.approx(1 - (1 - alone.pvalue) ** 9)
        assert pair.difference[1:] == pytest.approx(tuple(alone.confidence_interval(0.95 ** (1 / 9))))


def test_the_simulation_claims_what_the_verdict_claims() -> None:
    values = np.random.default_rng(1).normal(0, 1, (2, 3, 5, 40)) + 2 * np.arange(3)[:, None, None]
    names = [[f"{form}{width}" for form in "abc"] for width in range(2)]
    expected = [
        [
            pair.claimed
            for pair in compare(
                {names[w][v]: values[w, v, :, simulation] for w in range(2) for v in range(3)}, ANY, names
            )
        ]
        for simulation in range(values.shape[-1])
    ]
    found = claims(values).T
    assert found.tolist() == expected
    assert found.any() and not found.all()


@pytest.mark.parametrize("scores", ["normal", "exponential", "share"])
@pytest.mark.parametrize("variants", [2, 4])
def test_false_claims_are_rare_over_all_widths(scores: str, variants: int) -> None:
    """At most 5%, plus the error of 1000 simulations. Without the correction for four widths it would be up to 15%."""
    assert verdict_row(scores, variants, 5, simulations=1000, widths=4)["false_claims"] <= 0.06


def test_points_and_claims() -> None:
    found = judged(a={2: 0.9, 1: 0.5}, b={2: 0.3, 1: 0.5}).scaling
    assert found is not None
    assert [(point.width, point.parameters, point.multiply_adds) for point in found.points["a"]] == [
        (1, 1000, 2000),
        (2, 4000, 8000),
    ]
    (low, high) = found.points["a"][1].mean[1:]
    assert found.points["a"][1].mean.value == pytest.approx(0.9) and low < 0.9 < high  # type: ignore[operator]
    ((better, worse, widths, gains, everywhere),) = found.claims
    assert (better, worse, widths, everywhere) == ("a", "b", (2,), False)
    assert gains == pytest.approx((0.6,))


def test_a_variant_that_beats_all_others_at_every_width_leads() -> None:
    first, *rest = judged(a={1: 0.5, 2: 0.6}, b={1: 0.7, 2: 0.9}, c={1: 0.3, 2: 0.6}).sentences
    assert first == (
        "b leads at every width (1 and 2): its mean success over 1 task is 0.7 to 0.9, and it is better than every one of the 2 other "
        "variants."
    )
    assert rest[:2] == [
        "Supported at every width: b is better than a and c, by 0.2 to 0.4.",
        "Supported at some widths only: a is better than c at width 1.",
    ]
    assert any("all 6 pairs of the same width, at all widths, were tested together" in sentence for sentence in rest)


def test_a_difference_that_is_missing_at_a_width_does_not_hold_at_every_width() -> None:
    for b in ({1: 0.9}, {1: 0.9, 2: 0.5}):
        sentences = judged(a={1: 0.5, 2: 0.5}, b=b).sentences
        assert sentences[0] == "No difference holds at every width (1 and 2), by mean success over 1 task."
        assert "Supported at some widths only: b is better than a at width 1." in sentences
        assert not any("Supported at every width" in sentence for sentence in sentences)


def test_some_differences_hold_at_every_width() -> None:
    sentences = judged(a={1: 0.5, 2: 0.5}, b={1: 0.9, 2: 0.9}, c={1: 0.9, 2: 0.9}).sentences
    assert sentences[0] == (
        "No variant leads at every width (1 and 2): by mean success over 1 task, 2 of the 3 pairs of variants are told apart at every "
        "width."
    )
    assert sentences[1:3] == (
        "Supported at every width: b is better than a, by 0.4.",
        "Supported at every width: c is better than a, by 0.4.",
    )
    assert sentences[3].startswith("Not supported at any width: b and c cannot be told apart.")


def test_an_order_that_changes_with_the_width() -> None:
    sentences = judged(a={1: 0.2, 2: 0.8}, b={1: 0.5, 2: 0.5}).sentences
    assert "Supported at some widths only: b is better than a at width 1; a is better than b at width 2." in sentences
    assert "The order depends on the width: a and b." in sentences


def test_no_difference_at_any_width() -> None:
    sentences = judged(a={1: 0.5, 2: 0.7}, b={1: 0.5, 2: 0.705}).sentences
    assert sentences[0].startswith(
        "No two variants are told apart at any width (1 and 2) by mean success over 1 task: the widest difference, a width=2 minus "
        "b width=2, is -0.005 ("
    )
    assert sentences[1].startswith(
        "Not supported at any width: a and b cannot be told apart. With 5 seeds each, a diff"
    )


def test_one_form_is_described_at_both_ends() -> None:
    found = judged(a={1: 0.5, 2: 0.7, 4: 0.6})
    assert found.comparisons == ()
    assert found.sentences[0] == (
        "a: mean success over 1 task is 0.5 (0.48 to 0.52) at width 1 and 0.6 (0.58 to 0.619) at width 4, from 5 seeds each; widths are "
        "not tested against each other."
    )


def test_single_seeds_allow_no_test() -> None:
    found = judged(runs=1, a={1: 0.5, 2: 0.7}, b={1: 0.4, 2: 0.6})
    assert found.sentences[0] == "These runs allow no test at any width: mean success over 1 task is 0.38 to 0.68."
    assert not any("apart" in sentence for sentence in found.sentences)


def test_many_pairs_give_few_sentences() -> None:
    rng = np.random.default_rng(3)
    found = judged(**{form: dict(zip((1, 2), rng.uniform(0, 1, 2), strict=True)) for form in "abcdefgh"})
    (some,) = [sentence for sentence in found.sentences if "some widths" in sentence]
    assert some.count(" is better than ") == 3 and "further difference" in some


def test_sizes_are_compared_within_a_width() -> None:
    alike = grid({"a": {1: 0.5, 2: 0.5}, "b": {1: 0.5, 2: 0.5}})
    assert not any("size" in sentence for sentence in analyse(alike).sentences)
    assert not any("size" in sentence for sentence in cautions(alike, configs(alike)))
    unlike = grid({"a": {1: 0.5, 2: 0.5}, "large": {1: 0.5, 2: 0.5}})
    assert any("large width=1 has 1,500 parameters, 50% more" in sentence for sentence in analyse(unlike).sentences)
    assert any(
        sentence.startswith("The smallest agent of a width has 1,000 parameters and the largest 1,500")
        for sentence in cautions(unlike, configs(unlike))
    )
