"""Contexts that training leaves out, so that evaluation can play them as unseen ones: `env.holdout` and `env.holdout_fraction`.

A suite that chooses the contexts of its episodes names them, and its engines play seen contexts in the splits TRAIN and EVALUATION and
unseen ones in the split UNSEEN (envs/spec.py). The contexts are part of the suite's configuration, so every program that reads a run or
a checkpoint has the same ones.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Collection, Mapping

import numpy as np

from envs.suite import EnvConfig
from system.errors import InputError
from system.words import count

MOST_FRACTION = 0.5
"""With more, a part of the pairs might not occur in training at all."""
_DRAWS = 20


def held_out(config: EnvConfig, pairs: Mapping[str, tuple[str, str]], others: Collection[str] = ()) -> tuple[str, ...]:
    """The names of the contexts that training leaves out: `holdout`, or a draw of `holdout_fraction` of `pairs`; empty without both.

    Args:
        pairs: The two parts of each context that is a pair, by name.
        others: Names of other contexts, which are never drawn.

    Raises InputError for an unknown name, for both keys together, and for a fraction that is too large or too small for one pair.
    """
    fraction, names = config.holdout_fraction, dict.fromkeys(config.holdout)
    if names and fraction:
        raise InputError(f"env.holdout={_listed(names)} and env.holdout_fraction={fraction} are both given: give one.")
    known = [*pairs, *others]
    for name in names:
        if name not in known:
            raise InputError(f'env.holdout has "{name}", which is unknown: choose among {", ".join(known)}.')
    if not fraction:
        return tuple(names)
    number = round(fraction * len(pairs)) if 0 < fraction <= MOST_FRACTION else 0
    if not number:
        raise InputError(
            f"env.holdout_fraction={fraction} is out of range: give 0, or a fraction of the {count(len(pairs), 'pair')} from "
            f"{1 / len(pairs):.3f} to {MOST_FRACTION}, so that each part of a pair occurs in training."
        )
    if config.holdout_seed < 0:
        raise InputError(f"env.holdout_seed={config.holdout_seed} is too small: give 0 or more.")
    drawn = _draw(tuple(pairs.values()), number, config.holdout_seed)
    return tuple(name for place, name in enumerate(pairs) if place in drawn)


@functools.cache
def _draw(pairs: tuple[tuple[str, str], ...], number: int, seed: int) -> frozenset[int]:
    """Places of `number` pairs in which all first parts occur about equally often, and all second parts.

    Takes one pair after the other whose parts have been taken least, in a random order, and the most even of a few such draws. Numbers
    of occurrences then differ by one, rarely by two.
    """
    first, second = map(set, zip(*pairs, strict=True))
    kinds = [first | second] if first & second else [first, second]
    best, least = frozenset[int](), len(pairs) + 1
    for attempt in range(_DRAWS):
        # Words of a SeedSequence never change, unlike the streams of NumPy's generators.
        words = np.random.SeedSequence(seed, spawn_key=(attempt,)).generate_state(len(pairs), np.uint64)
        left, taken, drawn = np.argsort(words, kind="stable").tolist(), Counter[str](), []
        for _ in range(number):
            place = min(left, key=lambda place: sum(taken[part] for part in pairs[place]))
            left.remove(place)
            drawn.append(place)
            taken.update(pairs[place])
        spread = max(max(counts) - min(counts) for counts in ([taken[part] for part in kind] for kind in kinds))
        if spread < least:
            best, least = frozenset(drawn), spread
        if least <= 1:
            break
    return best


def _listed(names: Collection[str]) -> str:
    return f"[{','.join(names)}]"
