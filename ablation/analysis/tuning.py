"""Choice of the values of tuned keys from the tuning runs, and what the tuning says: spread over values, frames, doubts."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from ablation.analysis.comparability import format_value
from ablation.analysis.results import Choice, Combination, Results, Tuning, TuningRun
from system.words import count


def choose(runs: Sequence[TuningRun]) -> Mapping[str, Any] | None:
    """The values with the highest mean over their tuning seeds; None if no run counts.

    Values with fewer runs that count than others lose to these. Among equal means the values that were given first win.
    """
    found = [(sum(run.value is not None for run in group), values, group) for values, group in _by_values(runs)]
    most = max((number for number, _, _ in found), default=0)
    best = [(values, _mean(group)) for number, values, group in found if number == most > 0]
    return max(best, key=lambda one: one[1])[0] if best else None


def describe_values(values: Mapping[str, Any]) -> str:
    """`learner.learning_rate=0.001 core.size=64`."""
    return " ".join(f"{key}={format_value(value)}" for key, value in values.items())


def summarize(choices: Sequence[Choice]) -> dict[str, Tuning]:
    """How each variant was tuned, by variant."""
    by_variant: dict[str, list[Choice]] = {}
    for choice in choices:
        by_variant.setdefault(choice.variant, []).append(choice)
    found = {}
    for variant, own in by_variant.items():
        runs = [run for choice in own for run in choice.runs]
        combinations = tuple(
            Combination(
                values=values,
                runs=tuple(run for run in group if run.value is not None),
                mean=_mean(group),
                chosen=sum(choice.chosen == values for choice in own),
            )
            for values, group in _by_values(runs)
        )
        known = [one.mean for one in combinations if one.runs]
        found[variant] = Tuning(
            measure=own[0].measure,
            choices=len(own),
            combinations=combinations,
            spread=max(known) - min(known) if len(known) > 1 else float("nan"),
            failed=tuple(run for run in runs if run.value is None),
            frames=sum(run.frames for run in runs),
        )
    return found


def describe_choices(choices: Sequence[Choice]) -> Iterator[str]:
    """A line for each variant: the values that were chosen, and how often."""
    for variant, tuning in summarize(choices).items():
        yield f"{variant}: {describe_chosen(tuning) or 'no choice, because every tuning run failed'}"


def describe_chosen(tuning: Tuning) -> str:
    """`learner.learning_rate=0.001 (4 of 5 runs), learner.learning_rate=0.003 (1 of 5 runs)`, without counts if the choice is one for all
    runs; empty without a choice.
    """
    of = f" of {count(tuning.choices, 'run')})" if tuning.choices > 1 else ""
    chosen = sorted((one for one in tuning.combinations if one.chosen), key=lambda one: -one.chosen)
    return ", ".join(f"{describe_values(one.values)}{f' ({one.chosen}{of}' if of else ''}" for one in chosen)


def describe_tuning(results: Results, tuning: Mapping[str, Tuning]) -> Iterator[str]:
    """Sentences on how the variants were tuned, and on doubts about it; none for a grid without tuning."""
    if not tuning:
        return
    shared = [choice.variant for choice in results.choices if choice.seed is None]
    runs = [run for choice in results.choices for run in choice.runs]
    keys = " and ".join(dict.fromkeys(key for run in runs for key in run.values))
    what = "every variant" if shared else "every run of every variant"
    spent, compared = sum(one.frames for one in tuning.values()), sum(run.frames for run in results.runs)
    yield (
        f"The best of the given values of {keys} was chosen for {what} on its own, on other seeds and other evaluation episodes: "
        f"{count(len(runs), 'tuning run')} took {count(spent, 'frame')}, {spent / max(1, compared):.0%} of those of the runs reported here."
    )
    if shared:
        yield (
            "Each choice holds for all runs of a variant, so the results are about the chosen values: that tuning on other seeds would "
            "choose others is not in its intervals (tune_per=seed has it)."
        )
    if failed := [f"{run.run} ({run.reason})" for one in tuning.values() for run in one.failed]:
        do = "does" if len(failed) == 1 else "do"
        yield f"{count(len(failed), 'tuning run')} failed and {do} not count: {', '.join(failed)}."
    if alike := [variant for variant, one in tuning.items() if one.spread == 0]:
        yield f"All values gave the same for {', '.join(alike)}, so the first was taken: more frames or episodes may tell them apart."
    ends = [variant for variant, one in tuning.items() if one.spread != 0 and _is_at_end(one)]
    if ends:
        yield (
            f"The smallest or largest value given was chosen most often for {', '.join(ends)}: better values may lie beyond it."
        )


def _by_values(runs: Sequence[TuningRun]) -> list[tuple[Mapping[str, Any], list[TuningRun]]]:
    """The runs of each combination of values, in the order of first occurrence."""
    groups: dict[str, list[TuningRun]] = {}
    for run in runs:
        groups.setdefault(json.dumps(run.values), []).append(run)
    return [(group[0].values, group) for group in groups.values()]


def _mean(runs: Sequence[TuningRun]) -> float:
    """Over the runs that count; NaN without one."""
    values = [run.value for run in runs if run.value is not None]
    return float(np.mean(values)) if values else float("nan")


def _is_at_end(tuning: Tuning) -> bool:
    """Whether the most frequent choice has the smallest or largest of the numbers given for a key."""
    best = max(tuning.combinations, key=lambda one: one.chosen)
    if not best.chosen:
        return False
    for key, value in best.values.items():
        given = [one.values.get(key) for one in tuning.combinations]
        if all(isinstance(one, int | float) and not isinstance(one, bool) for one in given):
            numbers = [float(one) for one in given if one is not None]
            if value in (min(numbers), max(numbers)):
                return True
    return False
