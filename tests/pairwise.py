"""Covering arrays: few combinations of several factors that hold every pair of values."""

from __future__ import annotations

import itertools
from collections.abc import Collection
from typing import Any


def pairwise(*factors: Collection[Any]) -> list[tuple[Any, ...]]:
    """Some rows of itertools.product(*factors): any two values of two factors occur together in at least one row.

    Greedy, and the same rows for the same factors: each row takes the first two factors' next missing pair and then, factor by factor,
    the value that adds most missing pairs. There are little more rows than the product of the two largest factors.
    """
    values = [list(factor) for factor in factors]
    if len(values) < 2:
        return list(itertools.product(*values))
    # Factors with many values first: their pairs decide the number of rows.
    order = sorted(range(len(values)), key=lambda factor: -len(values[factor]))
    missing = {
        (i, a, j, b): None
        for i, j in itertools.combinations(order, 2)
        for a, b in itertools.product(range(len(values[i])), range(len(values[j])))
    }
    rows = []
    while missing:
        i, a, j, b = next(iter(missing))
        chosen = {i: a, j: b}
        for factor in order:
            if factor not in chosen:
                count = len(values[factor])
                # Among equals the next value in turn, so that no value is preferred.
                turn = [(len(rows) + shift) % count for shift in range(count)]
                chosen[factor] = max(turn, key=lambda value: sum(_pair(order, chosen, factor, value, missing)))
        for one, other in itertools.combinations(order, 2):
            missing.pop((one, chosen[one], other, chosen[other]), None)
        rows.append(tuple(values[factor][chosen[factor]] for factor in range(len(values))))
    return rows


def _pair(
    order: list[int], chosen: dict[int, int], factor: int, value: int, missing: dict[tuple[int, int, int, int], None]
) -> list[bool]:
    """For each factor chosen so far: whether its pair with this value is missing."""
    rank = order.index
    return [
        ((other, chosen[other], factor, value) if rank(other) < rank(factor) else (factor, value, other, chosen[other]))
        in missing
        for other in chosen
    ]


def accepted_context(form: Any, context: str) -> str:
    """The context, or a similar one that a form accepts which needs the task's id."""
    return (
        {"instruction": "both", "vector": "task", "none": "task"}.get(context, context) if form.needs_task else context
    )
