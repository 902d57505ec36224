"""Nested mappings and sequences: observations, actions, and the specs and spaces that describe them."""

from __future__ import annotations

import functools
import operator
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeAlias

Keys: TypeAlias = tuple[Any, ...]
"""The keys and indices that lead to a leaf; empty for a tree that is a leaf."""


def leaves(tree: Any, keys: Keys = ()) -> Iterator[tuple[Keys, Any]]:
    """Every leaf with its keys, in order. Strings and arrays are leaves."""
    if isinstance(tree, Mapping):
        branches: Any = tree.items()
    elif _is_sequence(tree):
        branches = enumerate(tree)
    else:
        yield keys, tree
        return
    for key, branch in branches:
        yield from leaves(branch, (*keys, key))


def leaf_at(tree: Any, keys: Keys) -> Any:
    """The leaf; raises LookupError or TypeError if the keys do not lead to one."""
    return functools.reduce(operator.getitem, keys, tree)


def rebuild(tree: Any, values: Iterator[Any]) -> Any:
    """The structure of `tree` with the next of `values` for each leaf, in the order of `leaves`.

    Mappings become dicts. Sequences other than lists and named tuples become tuples.
    """
    if isinstance(tree, Mapping):
        return {key: rebuild(branch, values) for key, branch in tree.items()}
    if not _is_sequence(tree):
        return next(values)
    branches = [rebuild(branch, values) for branch in tree]
    if isinstance(tree, list):
        return branches
    return type(tree)(*branches) if hasattr(tree, "_fields") else tuple(branches)


def _is_sequence(tree: Any) -> bool:
    return isinstance(tree, Sequence) and not isinstance(tree, str | bytes)
