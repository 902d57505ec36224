"""The claims and sentences of the verdict."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from itertools import combinations

import fabricated
import numpy as np
import pytest
from scipy import stats

from ablation.analysis.analysis import analyse
from ablation.analysis.intervals import ANY, Range
from ablation.analysis.results import Analysis, Array, Estimate, Measure, Results
from ablation.analysis.sentences import sentences
from ablation.analysis.statistics import compare
from benchmarks.coverage import GAPS, VARIANTS, tuning_row, verdict_row

RNG = np.random.default_rng(0)
NOISE = np.array([-0.02, -0.01, 0.0, 0.01, 0.02])
"""Deviations of five runs, with standard deviation 0.0158."""


def around(*means: float, runs: int = 5) -> dict[str, Array]:
    """Variants a, b, ... with these means, [runs, 1]."""
    return {name: (mean + NOISE[:runs])[:, None] for name, mean in zip("abcdefghijklmnop", means, strict=False)}


def judged(values: Mapping[str, Array], measure: Measure = fabricated.SUCCESS) -> Analysis:
    return analyse(fabricated.results({name: rows.tolist() for name, rows in values.items()}, measure=measure))


def means_of(values: Mapping[str, Array]) -> dict[str, Array]:
    return {name: rows.mean(axis=1) for name, rows in values.items()}


def test_a_pair_is_welchs_test() -> None:
    values = {"a": RNG.normal(0, 1, 5), "b": RNG.normal(2, 3, 8)}
    (found,) = compare(values, ANY)
    expected = stats.ttest_ind(values["b"], values["a"], equal_var=False)
    assert (found.higher, found.lower) == ("b", "a")
    assert found.p == pytest.approx(expected.pvalue)
    assert found.gain == pytest.approx(
        (expected.statistic * expected._standard_error, *expected.confidence_interval(0.95))
    )
    assert (found.first, found.second) == ("a", "b")
    assert found.difference == pytest.approx([-end for end in (found.gain[0], found.gain[2] or 0, found.gain[1] or 0)])


def test_pairs_are_corrected_for_their_number() -> None:
    values = {name: RNG.normal(number, 1, 6) for number, name in enumerate("abcd")}
    found = compare(values, ANY)
    assert len(found) == 6
    for pair in found:
        alone = stats.ttest_ind(values[pair.first], values[pair.second], equal_var=False)
        assert pair.p == pytest.approx(1 - (1 - alone.pvalue) ** 6)
        assert pair.difference[1:] == pytest.approx(tuple(alone.confidence_interval(0.95 ** (1 / 6))))
        assert pair.claimed == (pair.p < 0.05) == (pair.gain.low is not None and pair.gain.low > 0)


def test_every_pair_is_compared_once_in_the_given_order() -> None:
    values = around(0.1, 0.9, 0.5)
    found = compare(means_of(values), ANY)
    assert [(pair.first, pair.second) for pair in found] == list(combinations("abc", 2))
    assert [(pair.higher, pair.lower) for pair in found] == [("b", "a"), ("c", "a"), ("b", "c")]
    assert [pair.difference.value > 0 for pair in found] == [False, False, True]
    assert all(pair.gain.value > 0 for pair in found)


def test_intervals_stay_in_the_range_of_possible_differences() -> None:
    pair = compare({"a": np.array([1.0, 1.0, 0.4]), "b": np.array([0.0, 0.0, 0.1])}, Range(-1.0, 1.0))[0]
    assert pair.difference.high == 1.0


@pytest.mark.parametrize("scores", [scores for scores in VARIANTS if scores != "unequal_share"])
@pytest.mark.parametrize("variants", [2, 5, 12])
@pytest.mark.parametrize("runs", [5, 10])
def test_false_claims_are_rare(scores: str, variants: int, runs: int) -> None:
    """At most 5%, plus the error of 1000 simulations; Games & Howell's procedure has 8% for 12 variants with 5 runs."""
    assert verdict_row(scores, variants, runs, simulations=1000)["false_claims"] <= 0.065


@pytest.mark.parametrize("gap", GAPS)
@pytest.mark.parametrize("variants", [2, 5, 12])
@pytest.mark.parametrize("runs", [5, 10])
def test_false_claims_are_rare_after_tuning(gap: float, variants: int, runs: int) -> None:
    """Each run has its own choice, and its value has no bias. One choice for all runs of a variant hides the error of the choice."""
    row = tuning_row("seed", gap, variants, runs, simulations=1000)
    assert row["false_claims"] <= 0.065
    assert abs(row["bias"]) < 0.05 < 0.5 < row["reused_bias"]
    shared = tuning_row("variant", gap, variants, runs, simulations=1000)
    assert (shared["false_claims"] > 0.1) == (gap > 0) and abs(shared["bias"]) < 0.05


@pytest.mark.parametrize(("variants", "runs", "least"), [(2, 5, 0.9), (5, 5, 0.85), (12, 5, 0.6), (12, 10, 0.99)])
def test_a_difference_of_three_deviations_is_found(variants: int, runs: int, least: float) -> None:
    assert verdict_row("normal", variants, runs, simulations=500)["found"] >= least


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    ("rows", "sentence"),
    [
        ({"a": [[0.5]], "b": [[0.6]]}, "One seed says nothing of the spread between seeds: a and b cannot be compared"),
        (
            {"a": [[0.5]], "b": [[0.6], [0.7]]},
            "One seed says nothing of the spread between seeds: a cannot be compared",
        ),
        ({"a": [[1.0]] * 5, "b": [[0.3]] * 5}, "All seeds ended alike for a (1) and b (0.3): without any spread"),
        ({"a": [[0.1, 0.2], [0.2, 0.1]], "b": [[0.3, 0.3]] * 2}, "these cannot be tested against each other"),
        ({"a": [[0.1, 0.2, 0.3], [0.3, 0.2, 0.1], [0.2, 0.1, 0.3]], "b": [[0.2] * 3] * 3}, "cannot be tested against"),
        (
            {"a": [[0.0]] * 5, "b": [[0.0]] * 5},
            "These runs allow no test: mean success over 1 task is 0 for a and 0 for b.",
        ),
    ],
)
def test_no_claim_without_a_test(rows: Mapping[str, Sequence[Sequence[float]]], sentence: str) -> None:
    found = analyse(fabricated.results(rows))
    (pair,) = found.comparisons
    assert (pair.p, pair.claimed) == (1.0, False)
    assert pair.difference[1:] == (None, None)
    assert any(sentence in each for each in found.sentences), found.sentences
    assert "allow no test" in found.sentences[0]
    assert not any("told apart" in each or "tested together" in each for each in found.sentences)


@pytest.mark.filterwarnings("error")
def test_a_variant_without_spread_is_compared_with_one_that_has_some() -> None:
    found = judged({"a": np.full((5, 1), 1.0), **around(0.5)} | {"b": around(0.5)["a"], "a": np.full((5, 1), 1.0)})
    assert found.comparisons[0].claimed
    assert "All seeds ended alike for a (1): without any spread there is no interval." in found.sentences


@pytest.mark.filterwarnings("error")
def test_one_variant() -> None:
    found = judged(around(0.5))
    assert found.comparisons == ()
    assert found.sentences == (
        "a: mean success over 1 task is 0.5 (0.48 to 0.52), from 5 seeds.",
        "Training ran at 2,000 frames per second.",
    )


def test_one_seed_of_one_variant() -> None:
    assert judged(around(0.5, runs=1)).sentences[0] == "a: mean success over 1 task is 0.48, from 1 seed."


def test_a_variant_that_beats_all_others_leads() -> None:
    sentences = judged(around(0.9, 0.5, 0.7)).sentences
    assert (
        sentences[0]
        == "a leads: its mean success over 1 task is 0.9, and it is better than every one of the 2 other variants."
    )
    assert "The whole ranking is supported: a > c > b, in steps of 0.2." in sentences
    assert not any(sentence.startswith(("Supported", "Not supported")) for sentence in sentences)


def test_a_variant_that_beats_some_others_does_not_lead() -> None:
    sentences = judged(around(0.5, 0.9, 0.89, 0.52)).sentences
    assert sentences[:2] == (
        "No variant leads: by mean success over 1 task, 4 of the 6 pairs of variants are told apart, and none is better than b or c.",
        "Supported: b and c are each better than a and d, by 0.37 to 0.4.",
    )
    assert sentences[2].startswith(
        "Not supported: a and d cannot be told apart; b and c cannot be told apart. With 5 seeds each, a "
    )
    assert sentences[2].endswith(
        " The intervals: a minus d -0.02 (-0.0546 to 0.0146) and b minus c 0.01 (-0.0246 to 0.0446)."
    )
    assert not any("ranking" in sentence or "highest" in sentence for sentence in sentences)


def test_no_leader_among_some_differences() -> None:
    """The best variant varies too much to differ from any other."""
    values = around(0.5, 0.7)
    values["wild"] = np.array([0.2, 1.0, 0.9, 1.0, 0.9])[:, None]
    sentences = judged(values).sentences
    assert (
        sentences[0]
        == "No variant leads: by mean success over 1 task, 1 of the 3 pairs of variants is told apart, and none is better than b or wild."
    )
    assert sentences[1] == "Supported: b is better than a, by 0.2 (0.17 to 0.23)."
    assert sentences[2].startswith("Not supported: b and wild cannot be told apart; nor can a from wild. ")


def test_many_variants_give_few_sentences() -> None:
    values = {f"v{number}": RNG.normal(0.5, 0.1, (5, 3)) for number in range(12)}
    sentences = judged(values).sentences
    assert sentences[0].startswith("Mean success over 3 tasks is 0.")
    assert "; no two of the 12 variants are told apart: the widest difference, v" in sentences[0]
    assert sentences[1].startswith(
        "Not supported: no two of the 12 variants can be told apart. With 5 seeds each, a difference of less than"
    )
    assert len(sentences) == 4


def test_the_undetectable_difference_is_the_half_width() -> None:
    found = judged(around(0.5, 0.51))
    (pair,) = found.comparisons
    assert pair.difference.low is not None
    assert f"less than about {pair.difference.value - pair.difference.low:.3g} would not be seen" in found.sentences[1]


def test_pairs_that_are_not_told_apart_have_their_interval() -> None:
    assert judged(around(0.5, 0.51)).sentences[0] == (
        "Mean success over 1 task is 0.5 for a and 0.51 for b; the two are not told apart: the difference, in that order, is -0.01 "
        "(-0.0331 to 0.0131)."
    )


def test_equal_means_share_the_top() -> None:
    first = judged(around(0.5, 0.5)).sentences[0]
    assert first.startswith("Mean success over 1 task is 0.5 for a and 0.5 for b; the two are not told apart")


@pytest.mark.parametrize("seed", range(20))
def test_sentences_give_no_unsupported_order(seed: int) -> None:
    """Variants are listed in the given order, and none is called better if the interval holds zero."""
    rng = np.random.default_rng(seed)
    values = {f"v{number}": rng.normal(0.5, 0.1, (5, 2)) for number in range(rng.integers(2, 7))}
    found = judged(values)
    text = " ".join(found.sentences)
    if not any(pair.claimed for pair in found.comparisons):
        for word in ("better", "best", "highest", "first", "leads", ">", "faster", "fastest", "slowest"):
            assert word not in text, text
    places = [text.index(name) for name in values if name in text.split("; ")[0]]
    assert places == sorted(places)


def test_few_seeds() -> None:
    assert any(sentence.startswith("Fewer than 5 seeds") for sentence in judged(around(0.1, 0.9, runs=3)).sentences)
    assert not any("Fewer" in sentence for sentence in judged(around(0.1, 0.9)).sentences)


def test_unequal_numbers_of_seeds() -> None:
    values = around(0.5, 0.51)
    values["b"] = values["b"][:4]
    assert any("With 4 to 5 seeds, " in sentence for sentence in judged(values).sentences)


def with_probes(**losses: Estimate) -> tuple[str, ...]:
    results = fabricated.results({name: rows.tolist() for name, rows in around(*[0.5] * len(losses)).items()})
    probes = {variant: {"swap": loss} for variant, loss in losses.items()}
    means = {variant: results.matrix(variant).mean(axis=1) for variant in results.variants}
    return tuple(sentences(results, means, compare(means), probes, ()))


def test_sentences_on_the_use_of_the_context() -> None:
    found = with_probes(
        a=Estimate(0.4, 0.3, 0.5),
        b=Estimate(0.01, -0.1, 0.12),
        c=Estimate(-0.2, -0.3, -0.1),
        d=Estimate(0.1, None, None),
    )
    assert "The context is used, by the probe swap: told something else, a loses 0.4 (0.3 to 0.5)." in found
    assert "That the context is used is not supported by the probe swap for b and d." in found
    assert "The context misleads c, by the probe swap: told something else, c gains 0.2 (0.1 to 0.3)." in found


def resized(*parameters: int, speeds: Sequence[float] = (2000.0, 2000.0)) -> Results:
    found = fabricated.results({name: rows.tolist() for name, rows in around(0.5, 0.6).items()})
    sizes, fast = dict(zip("ab", parameters, strict=True)), dict(zip("ab", speeds, strict=True))
    runs = [
        dataclasses.replace(run, parameters=sizes[run.variant], frames_per_second=fast[run.variant])
        for run in found.runs
    ]
    return dataclasses.replace(found, runs=tuple(runs))


def test_unequal_sizes_are_a_warning() -> None:
    assert any(
        "b has 1,500 parameters, 50% more than a (1,000)" in sentence
        for sentence in analyse(resized(1000, 1500)).sentences
    )
    assert not any("parameters" in sentence for sentence in analyse(resized(1000, 1010)).sentences)


def test_speed() -> None:
    assert analyse(resized(1, 1)).sentences[-1] == "Training ran at 2,000 frames per second."
    untested = analyse(resized(1, 1, speeds=(2000.0, 1500.0))).sentences[-1]
    assert untested == "Frames per second of training: 2,000 for a and 1,500 for b; these runs allow no test."
    short = analyse(resized(1, 1, speeds=(2000.0, 0.0))).sentences[-1]
    assert short == "Frames per second are not compared: a run is too short to measure them."


@pytest.mark.parametrize(
    ("gap", "sentence"),
    [
        (
            20,
            (
                "Frames per second of training: 2,000 for a and 1,980 for b; the two are not told apart: the difference, in that order, is "
                "20 (-26.1 to 66.1)."
            ),
        ),
        (200, "Frames per second of training: 2,000 for a and 1,800 for b; a is faster than b, by 200 (154 to 246)."),
    ],
)
def test_faster_needs_an_interval_that_excludes_zero(gap: float, sentence: str) -> None:
    found = resized(1, 1)
    speeds = {"a": 2000 + 2000 * NOISE, "b": 2000 - gap + 2000 * NOISE}
    runs = [dataclasses.replace(run, frames_per_second=speeds[run.variant][run.seed]) for run in found.runs]
    assert analyse(dataclasses.replace(found, runs=tuple(runs))).sentences[-1] == sentence


def test_speeds_of_many_variants_give_one_sentence() -> None:
    found = fabricated.results({name: rows.tolist() for name, rows in around(*[0.5] * 15).items()})
    runs = [
        dataclasses.replace(
            run, frames_per_second=1000 + 100 * found.variants.index(run.variant) + 1000 * NOISE[run.seed]
        )
        for run in found.runs
    ]
    sentence = analyse(dataclasses.replace(found, runs=tuple(runs))).sentences[-1]
    assert sentence.startswith("Frames per second of training: 1,000 to 2,400; ")
    assert sentence.endswith(" of the 105 pairs of variants are told apart.")


def test_returns_of_several_tasks_give_a_warning() -> None:
    measure = Measure(name="return", label="return", best=None)
    rows = {name: np.repeat(values, 2, axis=1) for name, values in around(0.5, 0.6).items()}
    assert any("different scales" in sentence for sentence in judged(rows, measure).sentences)
    assert not any("different scales" in sentence for sentence in judged(rows).sentences)
