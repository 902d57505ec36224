"""The verdict in words: what the runs support, what they do not, and what else may have made the difference."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations

import numpy as np

from ablation.intervals import ROUNDING
from ablation.results import Array, Comparison, Estimate, Results

FEW = 5
"""Seeds below which tests rest on the assumption of normal scores more than on the scores."""
LIKE = 0.01
"""Up to this part more parameters count as the same number."""
_PAIRS = 3
"""As many are told one by one."""


def sentences(
    results: Results,
    means: Mapping[str, Array],
    comparisons: Sequence[Comparison],
    probes: Mapping[str, Mapping[str, Estimate]],
) -> tuple[str, ...]:
    """The main one first.

    Args:
        means: by variant, its runs' means over tasks.
        comparisons: of every pair, from ablation.verdict.compare.
        probes: by variant and probe, what the mean over tasks loses.
    """
    ranked = sorted(means, key=lambda variant: -means[variant].mean())
    return (
        _leader(results, means, ranked, comparisons),
        *(_ranking(ranked, comparisons) or _supported(ranked, comparisons)),
        *_unsupported(means, ranked, comparisons),
        *_few(means, comparisons),
        *_no_spread(means),
        *_method(results, comparisons),
        *_context(probes),
        *_returns(results),
        *_sizes(results),
        _speed(results),
    )


def number(value: float) -> str:
    """Three digits, whole from 100 on."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def listed(words: Iterable[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    words = list(words)
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def _leader(
    results: Results, means: Mapping[str, Array], ranked: Sequence[str], comparisons: Sequence[Comparison]
) -> str:
    first, top = ranked[0], means[ranked[0]].mean()
    mean = f"mean {results.measure.name} over {_count(len(results.tasks), 'task')}"
    value = number(float(top))
    if len(ranked) == 1:
        seeds = _seeds(means)
        return f"There is one variant only, {first}, and nothing to compare it with: its {mean} is {value} ({seeds})."
    beaten = [pair.worse for pair in comparisons if pair.claimed and pair.better == first]
    if len(beaten) == len(ranked) - 1:
        others = beaten[0] if len(beaten) == 1 else f"every one of the {len(beaten)} other variants"
        return f"{first} leads: its {mean} is {value}, and it is better than {others}."
    equals = [variant for variant in ranked if means[variant].mean() == top]
    highest = f"{listed(equals)} {'have' if len(equals) > 1 else 'has'} the highest {mean}, {value}"
    if beaten:
        rest = listed(variant for variant in ranked[1:] if variant not in beaten)
        return f"{first} has the highest {mean}, {value}, and is better than {listed(beaten)}, but cannot be told apart from {rest}."
    if any(pair.claimed for pair in comparisons):
        return f"{highest}, but cannot be told apart from any other variant: nobody leads."
    if not any(pair.difference.low is not None for pair in comparisons):
        return f"{highest}, but these runs allow no test: nobody leads."
    return f"No difference between variants is supported: {highest}, but nobody leads."


def _supported(ranked: Sequence[str], comparisons: Sequence[Comparison]) -> list[str]:
    """Variants that are better than the same others share a sentence."""
    beaten: dict[tuple[str, ...], list[str]] = {}
    for variant in ranked:
        worse = tuple(pair.worse for pair in comparisons if pair.claimed and pair.better == variant)
        if worse:
            beaten.setdefault(worse, []).append(variant)
    found = []
    for worse, better in beaten.items():
        gains = [pair.difference for pair in comparisons if pair.better in better and pair.worse in worse]
        by = _span([gain.value for gain in gains])
        if len(gains) == 1 and gains[0].low is not None and gains[0].high is not None:
            by += f" ({number(gains[0].low)} to {number(gains[0].high)})"
        are = "is" if len(better) == 1 else "are each" if len(worse) > 1 else "are"
        found.append(f"Supported: {listed(better)} {are} better than {listed(worse)}, by {by}.")
    return found


def _ranking(ranked: Sequence[str], comparisons: Sequence[Comparison]) -> list[str]:
    if len(ranked) < 3 or not all(pair.claimed for pair in comparisons):
        return []
    place = {variant: number for number, variant in enumerate(ranked)}
    steps = [pair.difference.value for pair in comparisons if place[pair.worse] == place[pair.better] + 1]
    return [f"The whole ranking is supported: {' > '.join(ranked)}, in steps of {_span(steps)}."]


def _unsupported(means: Mapping[str, Array], ranked: Sequence[str], comparisons: Sequence[Comparison]) -> list[str]:
    """Groups of neighbours in rank among whom no two differ, and those pairs that no group holds; not the pairs without a test."""
    open_pairs = {
        (pair.better, pair.worse): pair.difference.value - pair.difference.low
        for pair in comparisons
        if not pair.claimed and pair.difference.low is not None
    }
    if not open_pairs:
        return []
    groups = _groups(ranked, open_pairs.keys())
    inside = {pair for group in groups for pair in combinations(group, 2)}
    apart = [f"{better} from {worse}" for better, worse in open_pairs if (better, worse) not in inside]
    if len(apart) > _PAIRS:
        apart = [*apart[:_PAIRS], f"the two of {_count(len(apart) - _PAIRS, 'further pair')}"]
    if len(ranked) > 2 and groups == [list(ranked)]:
        text = f"no two of the {len(ranked)} variants can be told apart"
    else:
        text = "; ".join(
            [f"{listed(group)} cannot be told apart" for group in groups]
            + ([f"{'nor can' if groups else 'cannot be told apart:'} {listed(apart)}"] if apart else [])
        )
    # The half-width that a typical one of these pairs has; of a true difference as large, half would be missed.
    least = number(float(np.median(list(open_pairs.values()))))
    return [f"Not supported: {text}. With {_seeds(means)}, a difference of less than about {least} would not be seen."]


def _groups(ranked: Sequence[str], open_pairs: Iterable[tuple[str, str]]) -> list[list[str]]:
    """The longest stretches of the ranking in which every pair is open, none within another."""
    alike = set(open_pairs)
    found: list[list[str]] = []
    end = 0
    for start in range(len(ranked)):
        stop = start + 1
        while stop < len(ranked) and all((ranked[place], ranked[stop]) in alike for place in range(start, stop)):
            stop += 1
        if stop > end and stop - start > 1:
            found.append(list(ranked[start:stop]))
        end = max(end, stop)
    return found


def _few(means: Mapping[str, Array], comparisons: Sequence[Comparison]) -> list[str]:
    single = [variant for variant, runs in means.items() if len(runs) < 2]
    if single and len(means) > 1:
        return [
            f"One seed says nothing of the spread between seeds: {listed(single)} cannot be compared with anything."
        ]
    if comparisons and min(map(len, means.values())) < FEW:
        return [
            f"Fewer than {FEW} seeds are too few to check what the tests assume, that they scatter like a normal distribution."
        ]
    return []


def _no_spread(means: Mapping[str, Array]) -> list[str]:
    alike = [
        f"{variant} ({number(float(runs[0]))})"
        for variant, runs in means.items()
        if len(runs) > 1 and np.ptp(runs) <= ROUNDING * np.abs(runs).max()
    ]
    if not alike:
        return []
    untested = ", and these cannot be tested against each other" if len(alike) > 1 else ""
    return [f"All seeds ended alike for {listed(alike)}: without any spread there is no interval{untested}."]


def _method(results: Results, comparisons: Sequence[Comparison]) -> list[str]:
    if not any(pair.difference.low is not None for pair in comparisons):
        return []
    pairs = f"all {len(comparisons)} pairs were tested together" if len(comparisons) > 1 else "the pair was tested"
    return [
        (
            f"This is about other seeds on the same {_count(len(results.tasks), 'task')}; {pairs} (Welch's t, Sidak's correction), so "
            "that among variants that are all alike a difference is claimed in about 1 of 20 ablations at most."
        )
    ]


def _context(probes: Mapping[str, Mapping[str, Estimate]]) -> list[str]:
    found = []
    for probe in dict.fromkeys(probe for losses in probes.values() for probe in losses):
        losses = {variant: each[probe] for variant, each in probes.items() if probe in each}
        worse = [variant for variant, loss in losses.items() if loss.low is not None and loss.low > 0]
        better = [variant for variant, loss in losses.items() if loss.high is not None and loss.high < 0]
        rest = [variant for variant in losses if variant not in (*worse, *better)]
        if worse:
            lost = listed(f"{variant} (by {number(losses[variant].value)})" for variant in worse)
            found.append(f"The context is used, by the probe {probe}: told something else, {lost} became worse.")
        if rest:
            found.append(f"That the context is used is not supported by the probe {probe} for {listed(rest)}.")
        if better:
            found.append(
                f"The context misleads {listed(better)}, by the probe {probe}: told something else, they became better."
            )
    return found


def _returns(results: Results) -> list[str]:
    if results.measure.name == "return" and len(results.tasks) > 1:
        return [
            "Returns of different tasks are on different scales, and means over tasks favour the task with the largest."
        ]
    return []


def _sizes(results: Results) -> list[str]:
    sizes = {variant: max(run.parameters for run in results.of(variant)) for variant in results.variants}
    small, large = min(sizes, key=lambda v: sizes[v]), max(sizes, key=lambda v: sizes[v])
    if sizes[large] <= (1 + LIKE) * sizes[small]:
        return []
    times = sizes[large] / max(1, sizes[small])
    more = f"{times:.1f} times those of" if times >= 2 else f"{times - 1:.0%} more than"
    return [
        f"Differences may be due to size: {large} has {sizes[large]:,} parameters, {more} {small} ({sizes[small]:,})."
    ]


def _speed(results: Results) -> str:
    speeds = {
        variant: float(np.mean([run.frames_per_second for run in results.of(variant)])) for variant in results.variants
    }
    fast, slow = max(speeds, key=lambda v: speeds[v]), min(speeds, key=lambda v: speeds[v])
    if speeds[fast] <= (1 + LIKE) * speeds[slow]:
        return f"Training ran at {number(speeds[fast])} frames per second."
    fastest, slowest = (f"{number(speeds[variant])} frames per second for {variant}" for variant in (fast, slow))
    return f"Training ran at {fastest}, the fastest, and {slowest}, the slowest."


def _seeds(means: Mapping[str, Array]) -> str:
    """`5 seeds`, `5 seeds each`, or from how many to how many."""
    counts = {len(runs) for runs in means.values()}
    if len(counts) > 1:
        return f"{min(counts)} to {max(counts)} seeds"
    return f"{_count(min(counts), 'seed')}{' each' if len(means) > 1 else ''}"


def _span(values: Sequence[float]) -> str:
    low, high = number(min(values)), number(max(values))
    return low if low == high else f"{low} to {high}"


def _count(count: int, name: str) -> str:
    return f"{count} {name}" if count == 1 else f"{count} {name}s"
