"""Choices from tuning runs, and what is said of them."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence

import fabricated
import pytest

from ablation.analysis.analysis import analyse
from ablation.analysis.comparability import configs
from ablation.analysis.results import Choice, Results, TuningRun
from ablation.analysis.tuning import choose, describe_choices, summarize

KEY = "learner.learning_rate"


def runs(values: Mapping[float, Sequence[float | None]], first_seed: int = 100) -> tuple[TuningRun, ...]:
    """A run for each learning rate and tuning seed; None is a failed one."""
    return tuple(
        TuningRun(
            f"{rate}-{first_seed + seed}", first_seed + seed, {KEY: rate}, value, 250, "" if value else "it broke"
        )
        for seed in range(len(next(iter(values.values()))))
        for rate, several in values.items()
        for value in [several[seed]]
    )


def choice(variant: str, seed: int | None, values: Mapping[float, Sequence[float | None]]) -> Choice:
    own = runs(values, 100 * ((seed or 0) + 1))
    return Choice(variant=variant, seed=seed, measure="success", chosen=choose(own), runs=own)


@pytest.mark.parametrize(
    ("values", "best"),
    [
        ({0.1: [0.2, 0.4], 0.2: [0.3, 0.5], 0.3: [0.1, 0.9]}, 0.3),
        # A tie goes to the value that was given first.
        ({0.1: [0.2], 0.2: [0.5], 0.3: [0.5]}, 0.2),
        ({0.3: [0.5], 0.2: [0.5], 0.1: [0.2]}, 0.3),
        # A value with a failed run loses to one without.
        ({0.1: [0.2, 0.2], 0.2: [0.9, None]}, 0.1),
        ({0.1: [0.2, None], 0.2: [None, 0.9]}, 0.2),
        ({0.1: [None], 0.2: [-3.0]}, 0.2),
        ({0.1: [None], 0.2: [None]}, None),
    ],
)
def test_the_best_mean_is_chosen(values: Mapping[float, Sequence[float | None]], best: float | None) -> None:
    assert choose(runs(values)) == (None if best is None else {KEY: best})


def test_the_sensitivity_is_the_spread_of_the_means() -> None:
    per_seed = [
        choice("mi", 0, {0.1: [0.2], 0.2: [0.6], 0.3: [0.4]}),
        choice("mi", 1, {0.1: [0.4], 0.2: [0.6], 0.3: [None]}),
    ]
    tuning = summarize([*per_seed, choice("film", None, {0.1: [0.5], 0.2: [None]})])
    mi, film = tuning["mi"], tuning["film"]
    assert [(one.values[KEY], one.mean, len(one.runs), one.chosen) for one in mi.combinations] == [
        (0.1, pytest.approx(0.3), 2, 0),
        (0.2, 0.6, 2, 2),
        (0.3, 0.4, 1, 0),
    ]
    assert (mi.choices, mi.frames, [run.run for run in mi.failed]) == (2, 6 * 250, ["0.3-200"])
    assert mi.spread == pytest.approx(0.3) and math.isnan(film.spread)


def tuned(results: Results, *choices: Choice) -> list[str]:
    """The sentences of the verdict that are about the tuning."""
    plain = analyse(results).sentences
    found = analyse(dataclasses.replace(results, choices=choices)).sentences
    assert found[: len(plain)] == plain
    return list(found[len(plain) :])


RESULTS = fabricated.results({"concat": [[0.2], [0.3]], "mi": [[0.7], [0.9]]})
GOOD = {0.1: [0.2], 0.2: [0.6], 0.3: [0.4]}


def test_the_verdict_counts_the_frames_of_the_tuning() -> None:
    choices = [choice(variant, seed, GOOD) for variant in ("concat", "mi") for seed in (0, 1)]
    (sentence,) = tuned(RESULTS, *choices)
    assert sentence == (
        "The best of the given values of learner.learning_rate was chosen for every run of every variant on its own, on other seeds and "
        "other evaluation episodes: 12 tuning runs took 3,000 frames, 1% of those of the runs reported here."
    )
    assert tuned(RESULTS) == []


def test_the_verdict_says_what_makes_a_choice_doubtful() -> None:
    sentences = tuned(RESULTS, choice("concat", None, GOOD), choice("mi", None, {0.1: [0.9, 0.8], 0.2: [0.6, None]}))
    first, shared, failed, end = sentences
    assert "for every variant on its own" in first
    assert shared == (
        "Each choice holds for all runs of a variant, so the results are about the chosen values: that tuning on other seeds would choose "
        "others is not in its intervals (tune_per=seed has it)."
    )
    assert failed == "1 tuning run failed and does not count: 0.2-101 (it broke)."
    assert end == "The smallest or largest value given was chosen most often for mi: better values may lie beyond it."


def test_values_without_a_difference_are_named() -> None:
    sentences = tuned(RESULTS, choice("concat", None, {0.1: [0.2], 0.2: [0.2]}), choice("mi", None, GOOD))
    assert sentences[2:] == [
        "All values gave the same for concat, so the first was taken: more frames or episodes may tell them apart."
    ]


def test_only_numbers_have_ends() -> None:
    values: list[tuple[object, float]] = [("lstm", 0.9), ("gru", 0.4)]
    own = tuple(TuningRun(f"{name}", 100, {"core": name}, value, 250) for name, value in values)
    named = Choice(variant="mi", seed=None, measure="success", chosen=choose(own), runs=own)
    assert not any("smallest" in sentence for sentence in tuned(RESULTS, named))
    assert list(describe_choices([named])) == ["mi: core=lstm"]


def test_choices_are_counted() -> None:
    choices = [choice("mi", 0, GOOD), choice("mi", 1, GOOD), choice("mi", 2, {0.1: [0.9], 0.2: [0.6], 0.3: [0.4]})]
    lines = list(describe_choices([*choices, choice("film", 0, {0.1: [None], 0.2: [None]})]))
    assert lines == [
        "mi: learner.learning_rate=0.2 (2 of 3 runs), learner.learning_rate=0.1 (1 of 3 runs)",
        "film: no choice, because every tuning run failed",
    ]


def test_tuned_keys_may_differ_between_runs_of_a_variant() -> None:
    several = tuple(
        dataclasses.replace(run, config={**run.config, KEY: 0.1 * (1 + run.seed), "core.name": "lstm"})
        for run in RESULTS.runs
    )
    results = dataclasses.replace(RESULTS, runs=several)
    assert configs(results).within == (KEY,)
    found = configs(dataclasses.replace(results, choices=(choice("mi", 0, GOOD),)))
    assert found.within == () and KEY in found.different
