"""Curves over size: the forms of a grid at each of its `widths`, and the claims that hold there."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

from ablation.analysis.intervals import estimate, of_mean
from ablation.analysis.results import Array, Comparison, Results, Scaling, SizePoint, WidthClaim, split_width
from ablation.analysis.statistics import value_range


def scaling(results: Results, means: Mapping[str, Array], comparisons: Sequence[Comparison]) -> Scaling | None:
    """The curves of each form, and its claims by width; None without the axis `widths`.

    Args:
        means: By variant, the mean over tasks of each run.
        comparisons: Of the pairs of the same width, corrected for the pairs of all widths.
    """
    if not results.widths:
        return None
    points: dict[str, list[SizePoint]] = defaultdict(list)
    for variant in results.variants:
        (form, width), runs = split_width(variant), results.of(variant)
        points[form].append(
            SizePoint(
                width=width or 0.0,
                parameters=max(run.parameters for run in runs),
                multiply_adds=max(run.multiply_adds for run in runs),
                mean=estimate(of_mean(means[variant], value_range(results.measure))),
            )
        )
    gains: dict[tuple[str, str], dict[float, float]] = defaultdict(dict)
    for pair in comparisons:
        if pair.claimed:
            (better, width), (worse, _) = split_width(pair.higher), split_width(pair.lower)
            gains[better, worse][width or 0.0] = pair.gain.value
    return Scaling(
        widths=results.widths,
        points={form: tuple(sorted(row, key=lambda point: point.width)) for form, row in points.items()},
        claims=tuple(
            WidthClaim(*pair, tuple(by_width), tuple(by_width.values()), len(by_width) == len(results.widths))
            for pair, by_width in gains.items()
        ),
    )
