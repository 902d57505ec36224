"""The verdict in words: what the runs support, what they do not, and what else may have made the difference.

Nothing is called better, faster or first, and nothing is put in order, but where the intervals of the differences leave out zero. Of one
variant alone the sentences say what it came to, without a word of comparison.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations, pairwise
from typing import NamedTuple

import numpy as np

from ablation.analysis import numbers
from ablation.analysis.efficiency import horizon, of_every_run
from ablation.analysis.efficiency import speeds as of_speeds
from ablation.analysis.intervals import ROUNDING, Range, estimate, of_mean
from ablation.analysis.numbers import Write
from ablation.analysis.results import Analysis, Array, Comparison, Estimate, Results
from ablation.analysis.statistics import possible

FEW = 5
"""Seeds below which tests rest on the assumption of normal scores more than on the scores."""
LIKE = 0.01
"""Up to this part more parameters count as the same number."""
_PAIRS = 3
"""As many are told one by one."""

number = numbers.three_digits


class Words(NamedTuple):
    """How a quantity is compared: the word for the side that is ahead, whether that is the lower one, and how values are written."""

    better: str = "better"
    lower: bool = False
    write: Write = number

    def ahead(self, pair: Comparison) -> str:
        return pair.lower if self.lower else pair.higher

    def behind(self, pair: Comparison) -> str:
        return pair.higher if self.lower else pair.lower


_SPEED = Words("faster")


def sentences(
    results: Results,
    means: Mapping[str, Array],
    comparisons: Sequence[Comparison],
    probes: Mapping[str, Mapping[str, Estimate]],
    speeds: Sequence[Comparison],
) -> tuple[str, ...]:
    """The main one first.

    Args:
        means: by variant, its runs' means over tasks.
        comparisons: of every pair, from ablation.analysis.verdict.compare.
        probes: by variant and probe, what the mean over tasks loses.
        speeds: of every pair, by the frames per second of their runs.
    """
    return (
        _main(results, means, comparisons),
        *(_ranking(means, comparisons) or _supported(means, comparisons, Words())),
        *_unsupported(means, comparisons),
        *_few(means, comparisons),
        *_no_spread(means),
        *_method(results, comparisons),
        *_context(probes),
        *_returns(results),
        *_sizes(results),
        _speed(results, speeds),
    )


def of_paces(results: Results, analysis: Analysis) -> dict[str, str]:
    """By name of ablation.analysis.efficiency.PACES, a sentence on which variants are told apart by it; empty for one variant."""
    at, most = numbers.of_measure(results.measure)(analysis.threshold), horizon(results)
    reached = np.isfinite(analysis.threshold)
    words = {
        "area": ("Mean during training", Words()),
        "frames_to": (
            f"Frames to {at} (a run that did not come there in the first {numbers.count(most[0])} counts as that many)",
            Words("sooner", lower=True, write=numbers.count),
        ),
        "seconds_to": (
            f"Time to {at} (a run that did not come there in the first {numbers.duration(most[1])} counts as that long)",
            Words("sooner", lower=True, write=numbers.duration),
        ),
        "frames_per_second": ("Frames per second", _SPEED),
    }
    found = {}
    values = of_every_run(results, analysis.threshold)
    for name, (what, how) in words.items():
        if not reached and name.endswith("_to"):
            continue
        if name in analysis.paces:
            found[name] = f"{what}: {_told_apart(values[name], analysis.paces[name], how)}."
    return found


def listed(words: Iterable[str], last: str = "and") -> str:
    """`a`, `a and b`, `a, b and c`."""
    words = list(words)
    return f" {last} ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def _main(results: Results, means: Mapping[str, Array], comparisons: Sequence[Comparison]) -> str:
    mean = f"mean {results.measure.name} over {_count(len(results.tasks), 'task')}"
    if len(means) == 1:
        ((variant, runs),) = means.items()
        value = estimate(of_mean(runs, possible(results.measure)))
        return f"{variant}: {mean} is {numbers.in_words(value, number)}, from {_seeds(means)}."
    claimed = [pair for pair in comparisons if pair.claimed]
    if not any(pair.difference.low is not None for pair in comparisons):
        return f"These runs allow no test: {mean} is {_values(means, number)}."
    if not claimed:
        return f"{mean[:1].upper()}{mean[1:]} is {_values(means, number)}; {_told_apart(means, comparisons, Words())}."
    for variant in means:
        worse = [pair.lower for pair in claimed if pair.higher == variant]
        if len(worse) == len(means) - 1:
            others = worse[0] if len(worse) == 1 else f"every one of the {len(worse)} other variants"
            top = number(float(means[variant].mean()))
            return f"{variant} leads: its {mean} is {top}, and it is better than {others}."
    beaten = {pair.lower for pair in claimed}
    unbeaten = listed((variant for variant in means if variant not in beaten), last="or")
    return f"No variant leads: by {mean}, {_pairs_apart(claimed, comparisons)}, and none is better than {unbeaten}."


def _pairs_apart(claimed: Sequence[Comparison], comparisons: Sequence[Comparison]) -> str:
    are = "is" if len(claimed) == 1 else "are"
    return f"{len(claimed)} of the {len(comparisons)} pairs of variants {are} told apart"


def _values(means: Mapping[str, Array], write: Write) -> str:
    """The mean of each variant, or the range of many."""
    found = {variant: float(runs.mean()) for variant, runs in means.items()}
    if len(found) > _PAIRS:
        return _span(list(found.values()), write)
    texts = numbers.write_distinct(list(found.values()), write)
    return listed(f"{text} for {variant}" for variant, text in zip(found, texts, strict=True))


def _told_apart(means: Mapping[str, Array], comparisons: Sequence[Comparison], words: Words) -> str:
    """Which of the pairs are told apart, and what the interval is where they are not."""
    tested = [pair for pair in comparisons if pair.difference.low is not None]
    if not tested:
        return "these runs allow no test"
    claimed = [pair for pair in tested if pair.claimed]
    if not claimed:
        widest = max(tested, key=lambda pair: abs(pair.difference.value))
        interval = numbers.in_words(widest.difference, words.write)
        if len(means) == 2:
            return f"the two are not told apart: the difference, in that order, is {interval}"
        untested = f", {len(comparisons) - len(tested)} pairs allow no test" if len(tested) < len(comparisons) else ""
        pair = f"{widest.first} minus {widest.second}"
        return f"no two of the {len(means)} variants are told apart{untested}: the widest difference, {pair}, is {interval}"
    groups = _groups_ahead(means, claimed, words)
    rest = len(comparisons) - len(claimed)
    others = f"; {_count(rest, 'other pair')} {'is' if rest == 1 else 'are'} not told apart" if rest else ""
    if len(groups) > _PAIRS:
        return _pairs_apart(claimed, comparisons)
    return "; ".join(groups) + others


def _supported(means: Mapping[str, Array], comparisons: Sequence[Comparison], words: Words) -> list[str]:
    claimed = [pair for pair in comparisons if pair.claimed]
    return [f"Supported: {group}." for group in _groups_ahead(means, claimed, words)]


def _groups_ahead(means: Mapping[str, Array], claimed: Sequence[Comparison], words: Words) -> list[str]:
    """`a and b are each better than c and d, by 0.2 to 0.3`: variants that are ahead of the same others share a text."""
    beaten: dict[tuple[str, ...], list[str]] = {}
    for variant in means:
        pairs = [pair for pair in claimed if words.ahead(pair) == variant]
        behind = {words.behind(pair) for pair in pairs}
        if behind:
            beaten.setdefault(tuple(other for other in means if other in behind), []).append(variant)
    found = []
    for worse, better in beaten.items():
        gains = [pair.gain for pair in claimed if words.ahead(pair) in better and words.behind(pair) in worse]
        by = numbers.in_words(gains[0], words.write)
        if len(gains) > 1:
            by = _span([gain.value for gain in gains], words.write)
        are = "is" if len(better) == 1 else "are each" if len(worse) > 1 else "are"
        found.append(f"{listed(better)} {are} {words.better} than {listed(worse)}, by {by}")
    return found


def _ranking(means: Mapping[str, Array], comparisons: Sequence[Comparison]) -> list[str]:
    if len(means) < 3 or not all(pair.claimed for pair in comparisons):
        return []
    ranked = _by_mean(means)
    steps = [float(means[better].mean() - means[worse].mean()) for better, worse in pairwise(ranked)]
    return [f"The whole ranking is supported: {' > '.join(ranked)}, in steps of {_span(steps, number)}."]


def _unsupported(means: Mapping[str, Array], comparisons: Sequence[Comparison]) -> list[str]:
    """Groups among whom no two differ, and those pairs that no group holds, as they were asked for; not the pairs without a test."""
    still = [pair for pair in comparisons if not pair.claimed and pair.difference.low is not None]
    if not still:
        return []
    groups = _groups(means, {frozenset((pair.first, pair.second)) for pair in still})
    inside = {frozenset(pair) for group in groups for pair in combinations(group, 2)}
    apart = [f"{pair.first} from {pair.second}" for pair in still if frozenset((pair.first, pair.second)) not in inside]
    if len(apart) > _PAIRS:
        apart = [*apart[:_PAIRS], f"the two of {_count(len(apart) - _PAIRS, 'further pair')}"]
    if len(means) > 2 and groups == [list(means)]:
        text = f"no two of the {len(means)} variants can be told apart"
    else:
        text = "; ".join(
            [f"{listed(group)} cannot be told apart" for group in groups]
            + ([f"{'nor can' if groups else 'cannot be told apart:'} {listed(apart)}"] if apart else [])
        )
    # The half-width that a typical one of these pairs has; of a true difference as large, half would be missed.
    least = number(float(np.median([abs(pair.difference.value - (pair.difference.low or 0.0)) for pair in still])))
    found = f"Not supported: {text}. With {_seeds(means)}, a difference of less than about {least} would not be seen."
    if len(still) <= _PAIRS and len(still) < len(comparisons):
        intervals = (f"{pair.first} minus {pair.second} {numbers.in_words(pair.difference, number)}" for pair in still)
        found += f" The intervals: {listed(intervals)}."
    return [found]


def _by_mean(means: Mapping[str, Array]) -> list[str]:
    return sorted(means, key=lambda variant: -means[variant].mean())


def _groups(means: Mapping[str, Array], alike: set[frozenset[str]]) -> list[list[str]]:
    """The longest stretches of neighbours by their mean in which every pair is alike, none within another; in the order of `means`."""
    ranked, place = _by_mean(means), {variant: number for number, variant in enumerate(means)}
    found: list[list[str]] = []
    end = 0
    for start in range(len(ranked)):
        stop = start + 1
        while stop < len(ranked) and all(frozenset((one, ranked[stop])) in alike for one in ranked[start:stop]):
            stop += 1
        if stop > end and stop - start > 1:
            found.append(sorted(ranked[start:stop], key=place.__getitem__))
        end = max(end, stop)
    return sorted(found, key=lambda group: [place[variant] for variant in group])


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
            write = numbers.in_words if len(worse) <= _PAIRS else numbers.value_alone
            lost = listed(f"{variant} loses {write(losses[variant], number)}" for variant in worse)
            found.append(f"The context is used, by the probe {probe}: told something else, {lost}.")
        if rest:
            found.append(f"That the context is used is not supported by the probe {probe} for {listed(rest)}.")
        if better:
            gained = listed(f"{variant} gains {numbers.in_words(_gain(losses[variant]), number)}" for variant in better)
            found.append(f"The context misleads {listed(better)}, by the probe {probe}: told something else, {gained}.")
    return found


def _gain(loss: Estimate) -> Estimate:
    low, high = (None if end is None else -end for end in (loss.high, loss.low))
    return Estimate(-loss.value, low, high)


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


def _speed(results: Results, comparisons: Sequence[Comparison]) -> str:
    speeds = of_speeds(results)
    if len(speeds) == 1:
        ((_, runs),) = speeds.items()
        value = estimate(of_mean(runs, Range(0.0, np.inf)))
        return f"Training ran at {numbers.in_words(value, numbers.count)} frames per second."
    span = _span([float(runs.mean()) for runs in speeds.values()], numbers.count)
    if " to " not in span and not any(pair.claimed for pair in comparisons):
        return f"Training ran at {span} frames per second."
    return (
        f"Frames per second of training: {_values(speeds, numbers.count)}; {_told_apart(speeds, comparisons, _SPEED)}."
    )


def _seeds(means: Mapping[str, Array]) -> str:
    """`5 seeds`, `5 seeds each`, or from how many to how many."""
    counts = {len(runs) for runs in means.values()}
    if len(counts) > 1:
        return f"{min(counts)} to {max(counts)} seeds"
    return f"{_count(min(counts), 'seed')}{' each' if len(means) > 1 else ''}"


def _span(values: Sequence[float], write: Write) -> str:
    low, high = write(min(values)), write(max(values))
    return low if low == high else f"{low} to {high}"


def _count(count: int, name: str) -> str:
    return f"{count} {name}" if count == 1 else f"{count} {name}s"
