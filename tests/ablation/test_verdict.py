"""What the verdict claims, and its words."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from itertools import combinations

import fabricated
import numpy as np
import pytest
from scipy import stats

from ablation.intervals import ANY, Range
from ablation.results import Array, Estimate, Measure, Results, Verdict
from ablation.verdict import compare, verdict
from benchmarks.coverage import VARIANTS, verdict_row

RNG = np.random.default_rng(0)
NOISE = np.array([-0.02, -0.01, 0.0, 0.01, 0.02])
"""Of five runs with standard deviation 0.0158."""


def around(*means: float, runs: int = 5) -> dict[str, Array]:
    """Variants a, b, ... with these means, [runs, 1]."""
    return {name: (mean + NOISE[:runs])[:, None] for name, mean in zip("abcdefghijklmnop", means, strict=False)}


def judged(values: Mapping[str, Array], measure: Measure = fabricated.SUCCESS) -> Verdict:
    return verdict(fabricated.results({name: rows.tolist() for name, rows in values.items()}, measure=measure), {})


def means_of(values: Mapping[str, Array]) -> dict[str, Array]:
    return {name: rows.mean(axis=1) for name, rows in values.items()}


def test_a_pair_is_welchs_test() -> None:
    values = {"a": RNG.normal(0, 1, 5), "b": RNG.normal(2, 3, 8)}
    (found,) = compare(values, ANY)
    expected = stats.ttest_ind(values["b"], values["a"], equal_var=False)
    assert (found.better, found.worse) == ("b", "a")
    assert found.p == pytest.approx(expected.pvalue)
    assert found.difference == pytest.approx(
        (expected.statistic * expected._standard_error, *expected.confidence_interval(0.95))
    )


def test_pairs_are_corrected_for_their_number() -> None:
    values = {name: RNG.normal(number, 1, 6) for number, name in enumerate("abcd")}
    found = compare(values, ANY)
    assert len(found) == 6
    for pair in found:
        alone = stats.ttest_ind(values[pair.better], values[pair.worse], equal_var=False)
        assert pair.p == pytest.approx(1 - (1 - alone.pvalue) ** 6)
        assert pair.difference[1:] == pytest.approx(tuple(alone.confidence_interval(0.95 ** (1 / 6))))
        assert pair.claimed == (pair.p < 0.05) == (pair.difference.low is not None and pair.difference.low > 0)


def test_every_pair_once_the_better_first() -> None:
    values = around(0.1, 0.9, 0.5)
    found = compare(means_of(values), ANY)
    assert [(pair.better, pair.worse) for pair in found] == list(combinations("bca", 2))
    assert all(pair.difference.value > 0 for pair in found)


def test_a_difference_stays_possible() -> None:
    pair = compare({"a": np.array([1.0, 1.0, 0.4]), "b": np.array([0.0, 0.0, 0.1])}, Range(-1.0, 1.0))[0]
    assert pair.difference.high == 1.0


@pytest.mark.parametrize("scores", [scores for scores in VARIANTS if scores != "unequal_share"])
@pytest.mark.parametrize("variants", [2, 5, 12])
@pytest.mark.parametrize("runs", [5, 10])
def test_no_difference_is_claimed_where_there_is_none(scores: str, variants: int, runs: int) -> None:
    """In 5%, and what chance does to 1000 simulations; Games & Howell's procedure would in 8% of 12 variants with 5 runs."""
    assert verdict_row(scores, variants, runs, simulations=1000)["false_claims"] <= 0.065


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
        ({"a": [[0.0]] * 5, "b": [[0.0]] * 5}, "nobody leads"),
    ],
)
def test_where_no_test_is_possible_none_is_claimed(
    rows: Mapping[str, Sequence[Sequence[float]]], sentence: str
) -> None:
    found = verdict(fabricated.results(rows), {})
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
    assert (
        found.sentences[0]
        == "There is one variant only, a, and nothing to compare it with: its mean success over 1 task is 0.5 (5 seeds)."
    )


def test_a_leader_of_all() -> None:
    sentences = judged(around(0.9, 0.5, 0.7)).sentences
    assert (
        sentences[0]
        == "a leads: its mean success over 1 task is 0.9, and it is better than every one of the 2 other variants."
    )
    assert "The whole ranking is supported: a > c > b, in steps of 0.2." in sentences
    assert not any(sentence.startswith(("Supported", "Not supported")) for sentence in sentences)


def test_a_leader_of_some() -> None:
    sentences = judged(around(0.5, 0.9, 0.89, 0.52)).sentences
    assert sentences[:2] == (
        "b has the highest mean success over 1 task, 0.9, and is better than d and a, but cannot be told apart from c.",
        "Supported: b and c are each better than d and a, by 0.37 to 0.4.",
    )
    assert sentences[2].startswith(
        "Not supported: b and c cannot be told apart; d and a cannot be told apart. With 5 seeds each, a "
    )
    assert not any("ranking" in sentence for sentence in sentences)


def test_no_leader_among_some_differences() -> None:
    """The best varies too much to be told from any other."""
    values = around(0.5, 0.7)
    values["wild"] = np.array([0.2, 1.0, 0.9, 1.0, 0.9])[:, None]
    sentences = judged(values).sentences
    assert (
        sentences[0]
        == "wild has the highest mean success over 1 task, 0.8, but cannot be told apart from any other variant: nobody leads."
    )
    assert sentences[1] == "Supported: b is better than a, by 0.2 (0.17 to 0.23)."
    assert sentences[2].startswith("Not supported: wild and b cannot be told apart; nor can wild from a. ")


def test_many_variants_do_not_give_many_sentences() -> None:
    values = {f"v{number}": RNG.normal(0.5, 0.1, (5, 3)) for number in range(12)}
    sentences = judged(values).sentences
    assert sentences[0].startswith("No difference between variants is supported: ")
    assert sentences[1].startswith(
        "Not supported: no two of the 12 variants can be told apart. With 5 seeds each, a difference of less than"
    )
    assert len(sentences) == 4


def test_what_would_not_be_seen_is_the_half_width() -> None:
    found = judged(around(0.5, 0.51))
    (pair,) = found.comparisons
    assert pair.difference.low is not None
    assert f"less than about {pair.difference.value - pair.difference.low:.3g} would not be seen" in found.sentences[1]


def test_equal_means_share_the_top() -> None:
    assert "a and b have the highest mean success over 1 task, 0.5, " in judged(around(0.5, 0.5)).sentences[0]


def test_few_seeds() -> None:
    assert any(sentence.startswith("Fewer than 5 seeds") for sentence in judged(around(0.1, 0.9, runs=3)).sentences)
    assert not any("Fewer" in sentence for sentence in judged(around(0.1, 0.9)).sentences)


def test_numbers_of_seeds_that_differ() -> None:
    values = around(0.5, 0.51)
    values["b"] = values["b"][:4]
    assert any("With 4 to 5 seeds, " in sentence for sentence in judged(values).sentences)


def with_probes(**losses: Estimate) -> tuple[str, ...]:
    results = fabricated.results({name: rows.tolist() for name, rows in around(*[0.5] * len(losses)).items()})
    return verdict(results, {variant: {"swap": loss} for variant, loss in losses.items()}).sentences


def test_whether_the_context_is_used() -> None:
    sentences = with_probes(
        a=Estimate(0.4, 0.3, 0.5),
        b=Estimate(0.01, -0.1, 0.12),
        c=Estimate(-0.2, -0.3, -0.1),
        d=Estimate(0.1, None, None),
    )
    assert "The context is used, by the probe swap: told something else, a (by 0.4) became worse." in sentences
    assert "That the context is used is not supported by the probe swap for b and d." in sentences
    assert any(sentence.startswith("The context misleads c, by the probe swap") for sentence in sentences)


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
        for sentence in verdict(resized(1000, 1500), {}).sentences
    )
    assert not any("parameters" in sentence for sentence in verdict(resized(1000, 1010), {}).sentences)


def test_speed() -> None:
    assert verdict(resized(1, 1), {}).sentences[-1] == "Training ran at 2,000 frames per second."
    slower = verdict(resized(1, 1, speeds=(2000.0, 1500.0)), {}).sentences[-1]
    assert (
        slower
        == "Training ran at 2,000 frames per second for a, the fastest, and 1,500 frames per second for b, the slowest."
    )


def test_returns_of_several_tasks_are_not_of_one_scale() -> None:
    measure = Measure(name="return", label="return", best=None)
    rows = {name: np.repeat(values, 2, axis=1) for name, values in around(0.5, 0.6).items()}
    assert any("different scales" in sentence for sentence in judged(rows, measure).sentences)
    assert not any("different scales" in sentence for sentence in judged(rows).sentences)
