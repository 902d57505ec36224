"""The first sentences of the verdict on a grid with several widths: which differences hold at every width.

The forms of the same width were tested against each other, and the correction covers the pairs of all widths. So a claim about one width
and a claim about every width need no further correction. Sizes of one form are drawn, and not tested against each other.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import combinations

import numpy as np

from ablation.analysis import numbers
from ablation.analysis.results import Comparison, Results, Scaling, split_width
from system.words import count, join_words

_LISTED = 3
"""Longest list of pairs in a sentence."""

number = numbers.three_digits


def width_verdict(results: Results, scaling: Scaling, comparisons: Sequence[Comparison], seeds: str) -> Iterator[str]:
    """The main sentence, then what is supported at every width, at some widths, and at none. `seeds`: how many, in words."""
    forms, tested = list(scaling.points), [pair for pair in comparisons if pair.difference.low is not None]
    mean = f"mean {results.measure.name} over {count(len(results.tasks), 'task')}"
    every = f"at every width ({_list_widths(scaling.widths)})"
    # Losers by winner, with the gain at each width.
    losers: dict[str, dict[str, tuple[float, ...]]] = defaultdict(dict)
    for claim in scaling.claims:
        if claim.at_every_width:
            losers[claim.better][claim.worse] = claim.gains
    leader = next((form for form in forms if 0 < len(losers[form]) == len(forms) - 1), "")
    held = sum(map(len, losers.values()))
    pairs = list(combinations(forms, 2))
    if len(forms) == 1:
        first, last = scaling.points[forms[0]][0], scaling.points[forms[0]][-1]
        ends = (f"{numbers.in_words(end.mean, number)} at width {end.width:g}" for end in (first, last))
        yield f"{forms[0]}: {mean} is {join_words(ends)}, from {seeds}; widths are not tested against each other."
    elif not tested:
        yield f"These runs allow no test at any width: {mean} is {_range_of(scaling, forms)}."
    elif leader:
        others = f"every one of the {len(forms) - 1} other variants" if len(forms) > 2 else next(iter(losers[leader]))
        yield f"{leader} leads {every}: its {mean} is {_range_of(scaling, [leader])}, and it is better than {others}."
    elif held:
        yield (
            f"No variant leads {every}: by {mean}, {held} of the {count(len(pairs), 'pair')} of variants "
            f"{'is' if held == 1 else 'are'} told apart at every width."
        )
    elif scaling.claims:
        yield f"No difference holds {every}, by {mean}."
    else:
        widest = max(tested, key=lambda pair: abs(pair.difference.value))
        yield (
            f"No two variants are told apart at any width ({_list_widths(scaling.widths)}) by {mean}: the widest difference, "
            f"{widest.name}, is {numbers.in_words(widest.difference, number)}."
        )
    for form in forms:
        if losers[form]:
            gains = numbers.ranged([gain for row in losers[form].values() for gain in row], number)
            worse = join_words(other for other in forms if other in losers[form])
            yield f"Supported at every width: {form} is better than {worse}, by {gains}."
    yield from _at_some_widths(scaling)
    yield from _at_no_width(scaling, pairs, tested, seeds)


def _at_some_widths(scaling: Scaling) -> Iterator[str]:
    """Claims that hold at some widths and not at all, and pairs of which each is better at some width."""
    some = [claim for claim in scaling.claims if not claim.at_every_width]
    if some:
        texts = [f"{claim.better} is better than {claim.worse} at width {_list_widths(claim.widths)}" for claim in some]
        more = [count(len(texts) - _LISTED, "further difference")] if len(texts) > _LISTED else []
        yield f"Supported at some widths only: {'; '.join([*texts[:_LISTED], *more])}."
    known = {(claim.better, claim.worse) for claim in some}
    if changing := [f"{better} and {worse}" for better, worse in known if (worse, better) in known and better < worse]:
        yield f"The order depends on the width: {join_words(sorted(changing))}."


def _at_no_width(
    scaling: Scaling, pairs: Sequence[tuple[str, str]], tested: Sequence[Comparison], seeds: str
) -> Iterator[str]:
    """Pairs that are told apart at no width at which they could be tested."""
    known = {frozenset((claim.better, claim.worse)) for claim in scaling.claims}
    possible = {frozenset((split_width(pair.first)[0], split_width(pair.second)[0])) for pair in tested}
    texts = [
        f"{first} and {second}"
        for first, second in pairs
        if frozenset((first, second)) in possible and frozenset((first, second)) not in known
    ]
    if not texts:
        return
    if len(texts) > _LISTED:
        texts = [*texts[:_LISTED], f"the two of {count(len(texts) - _LISTED, 'further pair')}"]
    # Median half-width of these intervals, as in the verdict on one width.
    spans = [abs(pair.difference.value - (pair.difference.low or 0.0)) for pair in tested if not pair.claimed]
    yield (
        f"Not supported at any width: {'; '.join(texts)} cannot be told apart. With {seeds}, a difference of less than about "
        f"{number(float(np.median(spans)))} would not be seen."
    )


def _list_widths(widths: Sequence[float]) -> str:
    return join_words(f"{width:g}" for width in widths)


def _range_of(scaling: Scaling, forms: Sequence[str]) -> str:
    """The range of the means of these forms over all widths."""
    return numbers.ranged([point.mean.value for form in forms for point in scaling.points[form]], number)
