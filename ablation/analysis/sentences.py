"""The verdict as sentences: what the runs support, what they do not support, and possible other causes of a difference.

A sentence calls a variant better or faster, or ranks variants, only if the difference is significant (`Comparison.claimed`). A pair is
distinguished if its difference is significant. For a single variant the sentences describe and do not compare.

In this module `means` has, by variant, the compared value of each run, such as the mean over tasks.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations, pairwise
from typing import NamedTuple

import numpy as np

from ablation.analysis import numbers
from ablation.analysis.efficiency import comparable_paces, horizon
from ablation.analysis.efficiency import speeds as speeds_by_variant
from ablation.analysis.intervals import ROUNDING, Range, estimate, of_mean
from ablation.analysis.numbers import Write
from ablation.analysis.results import Analysis, Array, Comparison, Estimate, Results, Scaling
from ablation.analysis.statistics import value_range
from ablation.analysis.width_verdict import width_verdict
from system.words import count, join_words

FEW_SEEDS = 5
"""Fewer seeds are too few to check that scores are normally distributed, which the tests assume."""
SAME_SIZE = 0.01
"""Numbers of parameters count as equal if the largest exceeds the smallest by at most this share."""
_LISTED_PAIRS = 3
"""Longest list of pairs or variants in a sentence. A longer one is cut, or becomes a number or a range."""

number = numbers.three_digits


class Words(NamedTuple):
    """The words for one quantity: the adjective of the winner, whether lower values win, and how values are written."""

    better: str = "better"
    lower_wins: bool = False
    write: Write = number


_SPEED = Words("faster")


class Unseen(NamedTuple):
    """Results on contexts that training left out; empty without such contexts.

    Attributes:
        means: By variant, the compared value of each run.
        comparisons: Of every pair by them.
        values: `Analysis.unseen`.
    """

    means: Mapping[str, Array]
    comparisons: Sequence[Comparison]
    values: Mapping[str, Mapping[str, Estimate]]


_NO_UNSEEN = Unseen({}, (), {})


def sentences(
    results: Results,
    means: Mapping[str, Array],
    comparisons: Sequence[Comparison],
    probes: Mapping[str, Mapping[str, Estimate]],
    speeds: Sequence[Comparison],
    *,
    unseen: Unseen = _NO_UNSEEN,
    scaling: Scaling | None = None,
) -> Iterator[str]:
    """All sentences, the main one first.

    Args:
        comparisons: Of every pair of the same width, by `means`; `speeds` of every pair, by frames per second.
        probes: By variant and probe, what the mean over tasks loses under the probe.
        unseen: The results on contexts that training left out.
        scaling: Of a grid with several widths.
    """
    yield from (
        width_verdict(results, scaling, comparisons, _seeds(means))
        if scaling
        else _verdict(results, means, comparisons)
    )
    yield from _on_unseen(results, unseen)
    yield from _doubts_about_seeds(means)
    if _tested(comparisons):
        tests = len(comparisons) + len(unseen.comparisons)
        pairs = f"all {tests} pairs were tested together" if tests > 1 else "the pair was tested"
        if scaling:
            pairs = f"all {count(tests, 'pair')} of the same width, at all widths, were tested together"
        if unseen.comparisons:
            at_widths = " of the same width, at all widths," if scaling else ","
            pairs = f"all {tests} comparisons{at_widths} on seen and on unseen contexts, were tested together"
        yield (
            f"This is about other seeds on the same {count(len(results.tasks), 'task')}; {pairs} (Welch's t, Sidak's correction), so "
            "that among variants that are all alike a difference is claimed in about 1 of 20 ablations at most."
        )
    yield from _context_use(probes)
    if results.measure.name == "return" and len(results.tasks) > 1:
        yield "Returns of different tasks are on different scales, and means over tasks favour the task with the largest."
    sizes = {variant: max(run.parameters for run in results.of(variant)) for variant in results.variants}
    ends = [(min(group, key=sizes.__getitem__), max(group, key=sizes.__getitem__)) for group in results.groups]
    small, large = max(ends, key=lambda pair: sizes[pair[1]] / max(1, sizes[pair[0]]))
    if sizes[large] > (1 + SAME_SIZE) * sizes[small]:
        times = sizes[large] / max(1, sizes[small])
        more = f"{times:.1f} times those of" if times >= 2 else f"{times - 1:.0%} more than"
        yield (
            f"Differences may be due to size: {large} has {count(sizes[large], 'parameter')}, {more} {small} ({sizes[small]:,})."
        )
    runs = speeds_by_variant(results)
    if not all(values.all() for values in runs.values()):
        # The speed of a run is measured after its first updates (agents/run/timing.py).
        yield "Frames per second are not compared: a run is too short to measure them."
        return
    span = numbers.ranged([float(values.mean()) for values in runs.values()], numbers.count)
    if len(runs) == 1:
        ((_, values),) = runs.items()
        span = numbers.in_words(estimate(of_mean(values, Range(0.0, np.inf))), numbers.count)
    if len(runs) == 1 or (" to " not in span and not any(pair.claimed for pair in speeds)):
        yield f"Training ran at {span} frames per second."
    else:
        yield f"Frames per second of training: {_values(runs, numbers.count)}; {_claims(runs, speeds, _SPEED)}."


def describe_paces(results: Results, analysis: Analysis) -> dict[str, str]:
    """By name of efficiency.PACES, a sentence on which variants differ in it; empty for a single variant.

    Without a finite threshold there are no sentences on the frames and the seconds to it.
    """
    threshold = numbers.of_measure(results.measure)(analysis.threshold)
    # Runs that did not reach the threshold count with these numbers (comparable_paces).
    frames, seconds = horizon(results)
    missed = "a run that did not come there in the first"
    quantities = {
        "area": ("Mean during training", Words()),
        "frames_to": (
            f"Frames to {threshold} ({missed} {numbers.count(frames)} counts as that many)",
            Words("sooner", lower_wins=True, write=numbers.count),
        ),
        "seconds_to": (
            f"Time to {threshold} ({missed} {numbers.duration(seconds)} counts as that long)",
            Words("sooner", lower_wins=True, write=numbers.duration),
        ),
        "frames_per_second": ("Frames per second", _SPEED),
    }
    values = comparable_paces(results, analysis.threshold)
    return {
        name: f"{what}: {_claims(values[name], analysis.paces[name], words)}."
        for name, (what, words) in quantities.items()
        if name in analysis.paces and (np.isfinite(analysis.threshold) or not name.endswith("_to"))
    }


def _verdict(results: Results, means: Mapping[str, Array], comparisons: Sequence[Comparison]) -> Iterator[str]:
    """The main sentence, then what the runs support and what not."""
    claimed = [pair for pair in comparisons if pair.claimed]
    yield _main_sentence(results, means, comparisons)
    if len(means) > 2 and len(claimed) == len(comparisons):
        ranked = _by_mean(means)
        steps = [float(means[better].mean() - means[worse].mean()) for better, worse in pairwise(ranked)]
        yield f"The whole ranking is supported: {' > '.join(ranked)}, in steps of {numbers.ranged(steps, number)}."
    else:
        yield from (f"Supported: {group}." for group in _describe_claims(means, claimed, Words()))
    yield from _unsupported(means, comparisons)


def _main_sentence(results: Results, means: Mapping[str, Array], comparisons: Sequence[Comparison]) -> str:
    """Which variant leads: the one that is significantly better than every other. Otherwise how many pairs are distinguished."""
    mean = f"mean {results.measure.name} over {count(len(results.tasks), 'task')}"
    if len(means) == 1:
        ((variant, runs),) = means.items()
        value = estimate(of_mean(runs, value_range(results.measure)))
        return f"{variant}: {mean} is {numbers.in_words(value, number)}, from {_seeds(means)}."
    claimed = [pair for pair in comparisons if pair.claimed]
    if not _tested(comparisons):
        return f"These runs allow no test: {mean} is {_values(means, number)}."
    if not claimed:
        return f"{mean[:1].upper()}{mean[1:]} is {_values(means, number)}; {_claims(means, comparisons, Words())}."
    for variant in means:
        worse = [pair.lower for pair in claimed if pair.higher == variant]
        if len(worse) == len(means) - 1:
            others = worse[0] if len(worse) == 1 else f"every one of the {len(worse)} other variants"
            top = number(float(means[variant].mean()))
            return f"{variant} leads: its {mean} is {top}, and it is better than {others}."
    beaten = {pair.lower for pair in claimed}
    unbeaten = join_words((variant for variant in means if variant not in beaten), last="or")
    return f"No variant leads: by {mean}, {_count_claims(claimed, comparisons)}, and none is better than {unbeaten}."


def _tested(comparisons: Sequence[Comparison]) -> list[Comparison]:
    """The pairs that could be tested."""
    return [pair for pair in comparisons if pair.difference.low is not None]


def _count_claims(claimed: Sequence[Comparison], comparisons: Sequence[Comparison]) -> str:
    """How many pairs are distinguished."""
    are = "is" if len(claimed) == 1 else "are"
    return f"{len(claimed)} of the {count(len(comparisons), 'pair')} of variants {are} told apart"


def _values(means: Mapping[str, Array], write: Write) -> str:
    """The mean of each variant, or the range of the means if there are more than _LISTED_PAIRS variants."""
    found = {variant: float(runs.mean()) for variant, runs in means.items()}
    if len(found) > _LISTED_PAIRS:
        return numbers.ranged(list(found.values()), write)
    texts = numbers.write_distinct(list(found.values()), write)
    return join_words(f"{text} for {variant}" for variant, text in zip(found, texts, strict=True))


def _claims(means: Mapping[str, Array], comparisons: Sequence[Comparison], words: Words) -> str:
    """Which pairs are distinguished; if none is, the interval of the largest difference."""
    tested = _tested(comparisons)
    if not tested:
        return "these runs allow no test"
    claimed = [pair for pair in tested if pair.claimed]
    if not claimed:
        widest = max(tested, key=lambda pair: abs(pair.difference.value))
        interval = numbers.in_words(widest.difference, words.write)
        if len(means) == 2:
            return f"the two are not told apart: the difference, in that order, is {interval}"
        untested = (
            f", {count(len(comparisons) - len(tested), 'pair')} could not be tested"
            if len(tested) < len(comparisons)
            else ""
        )
        return f"no two of the {len(means)} variants are told apart{untested}: the widest difference, {widest.name}, is {interval}"
    groups = _describe_claims(means, claimed, words)
    if len(groups) > _LISTED_PAIRS:
        return _count_claims(claimed, comparisons)
    rest = len(comparisons) - len(claimed)
    others = f"; {count(rest, 'other pair')} {'is' if rest == 1 else 'are'} not told apart" if rest else ""
    return "; ".join(groups) + others


def _describe_claims(means: Mapping[str, Array], claimed: Sequence[Comparison], words: Words) -> list[str]:
    """`a and b are each better than c and d, by 0.2 to 0.3`: a text for each set of variants that beat the same others."""
    gains: dict[str, dict[str, Estimate]] = defaultdict(dict)
    for pair in claimed:
        winner, loser = (pair.lower, pair.higher) if words.lower_wins else (pair.higher, pair.lower)
        gains[winner][loser] = pair.gain
    # Beaten variants -> the variants that beat exactly these.
    beaten: dict[tuple[str, ...], list[str]] = {}
    for winner in means:
        if losers := tuple(variant for variant in means if variant in gains[winner]):
            beaten.setdefault(losers, []).append(winner)
    found = []
    for worse, better in beaten.items():
        values = [gains[winner][loser].value for winner in better for loser in worse]
        by = numbers.in_words(gains[better[0]][worse[0]], words.write)
        if len(values) > 1:
            by = numbers.ranged(values, words.write)
        are = "is" if len(better) == 1 else "are each" if len(worse) > 1 else "are"
        found.append(f"{join_words(better)} {are} {words.better} than {join_words(worse)}, by {by}")
    return found


def _unsupported(means: Mapping[str, Array], comparisons: Sequence[Comparison]) -> Iterator[str]:
    """Which variants cannot be distinguished: groups, and pairs that are in no group. Pairs without a test are left out."""
    unclaimed = [pair for pair in _tested(comparisons) if not pair.claimed]
    if not unclaimed:
        return
    groups = _groups(means, {frozenset((pair.first, pair.second)) for pair in unclaimed})
    inside = {frozenset(pair) for group in groups for pair in combinations(group, 2)}
    single = [
        f"{pair.first} from {pair.second}" for pair in unclaimed if frozenset((pair.first, pair.second)) not in inside
    ]
    if len(single) > _LISTED_PAIRS:
        single = [*single[:_LISTED_PAIRS], f"the two of {count(len(single) - _LISTED_PAIRS, 'further pair')}"]
    if len(means) > 2 and groups == [list(means)]:
        text = f"no two of the {len(means)} variants can be told apart"
    else:
        text = "; ".join(
            [f"{join_words(group)} cannot be told apart" for group in groups]
            + ([f"{'nor can' if groups else 'cannot be told apart:'} {join_words(single)}"] if single else [])
        )
    # Median half-width of these intervals: a true difference of this size is missed half of the time.
    least = number(float(np.median([abs(pair.difference.value - (pair.difference.low or 0.0)) for pair in unclaimed])))
    found = f"Not supported: {text}. With {_seeds(means)}, a difference of less than about {least} would not be seen."
    if len(unclaimed) <= _LISTED_PAIRS and len(unclaimed) < len(comparisons):
        intervals = (f"{pair.name} {numbers.in_words(pair.difference, number)}" for pair in unclaimed)
        found += f" The intervals: {join_words(intervals)}."
    yield found


def _by_mean(means: Mapping[str, Array]) -> list[str]:
    """Variants, the highest mean first."""
    return sorted(means, key=lambda variant: -means[variant].mean())


def _groups(means: Mapping[str, Array], alike: set[frozenset[str]]) -> list[list[str]]:
    """Groups in which every pair is in `alike`: the longest stretches of the ranking by mean, of two or more variants.

    Groups may overlap. Groups and their variants are in the order of `means`.
    """
    ranked, order = _by_mean(means), list(means)
    stretches = [
        set(ranked[start:stop])
        for start, stop in combinations(range(len(ranked) + 1), 2)
        if stop - start > 1 and all(frozenset(pair) in alike for pair in combinations(ranked[start:stop], 2))
    ]
    longest = [found for found in stretches if not any(found < other for other in stretches)]
    groups = [sorted(found, key=order.index) for found in longest]
    return sorted(groups, key=lambda group: [order.index(variant) for variant in group])


def _doubts_about_seeds(means: Mapping[str, Array]) -> Iterator[str]:
    """Warnings about variants with too few seeds, and about those whose seeds all ended with the same value."""
    single = [variant for variant, runs in means.items() if len(runs) < 2]
    if single and len(means) > 1:
        yield f"One seed says nothing of the spread between seeds: {join_words(single)} cannot be compared with anything."
    elif len(means) > 1 and min(map(len, means.values())) < FEW_SEEDS:
        yield (
            f"Fewer than {FEW_SEEDS} seeds are too few to check what the tests assume, that they scatter like a normal distribution."
        )
    alike = [
        f"{variant} ({number(float(runs[0]))})"
        for variant, runs in means.items()
        if len(runs) > 1 and np.ptp(runs) <= ROUNDING * np.abs(runs).max()
    ]
    if alike:
        untested = ", and these cannot be tested against each other" if len(alike) > 1 else ""
        yield f"All seeds ended alike for {join_words(alike)}: without any spread there is no interval{untested}."


def _on_unseen(results: Results, unseen: Unseen) -> Iterator[str]:
    """The same comparison on contexts that training left out, and which variants lose on them."""
    if not unseen.means:
        return
    tasks = count(len(results.unseen_tasks), "task")
    start = f"On contexts that training left out, the mean {results.measure.name} over {tasks} is"
    if len(unseen.means) == 1:
        (found,) = unseen.values.values()
        yield f"{start} {numbers.in_words(found['unseen'], number)}."
    else:
        yield f"{start} {_values(unseen.means, number)}; {_claims(unseen.means, unseen.comparisons, Words())}."
    drops = {variant: found["drop"] for variant, found in unseen.values.items()}
    worse = [variant for variant, drop in drops.items() if drop.low is not None and drop.low > 0]
    if worse:
        lost = join_words(f"{variant} {numbers.in_words(drops[variant], number)}" for variant in worse)
        yield f"From seen to unseen contexts, with an interval for each variant alone, these lose: {lost}."
    if rest := [variant for variant in drops if variant not in worse]:
        yield f"That unseen contexts are harder than seen ones is not supported for {join_words(rest)}."


def _context_use(probes: Mapping[str, Mapping[str, Estimate]]) -> Iterator[str]:
    """For each probe, which variants need their context. A positive loss states that a variant is worse under the probe."""
    for probe in dict.fromkeys(probe for losses in probes.values() for probe in losses):
        losses = {variant: each[probe] for variant, each in probes.items() if probe in each}
        worse = [variant for variant, loss in losses.items() if loss.low is not None and loss.low > 0]
        better = [variant for variant, loss in losses.items() if loss.high is not None and loss.high < 0]
        rest = [variant for variant in losses if variant not in (*worse, *better)]
        if worse:
            few = len(worse) <= _LISTED_PAIRS
            lost = join_words(
                f"{variant} loses {numbers.in_words(losses[variant], number) if few else number(losses[variant].value)}"
                for variant in worse
            )
            yield f"The context is used, by the probe {probe}: told something else, {lost}."
        if rest:
            yield f"That the context is used is not supported by the probe {probe} for {join_words(rest)}."
        if better:
            gained = join_words(f"{variant} gains {numbers.in_words(-losses[variant], number)}" for variant in better)
            yield f"The context misleads {join_words(better)}, by the probe {probe}: told something else, {gained}."


def _seeds(means: Mapping[str, Array]) -> str:
    """`5 seeds`, `5 seeds each` or `3 to 5 seeds`."""
    counts = {len(runs) for runs in means.values()}
    if len(counts) > 1:
        return f"{min(counts)} to {max(counts)} seeds"
    return f"{count(min(counts), 'seed')}{' each' if len(means) > 1 else ''}"
