"""The nested dicts, lists and tuples in which dm_env has observations, actions and their specs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, TypeAlias

Keys: TypeAlias = tuple[Any, ...]
"""The keys and indices that lead to a leaf; none for a tree that is a leaf itself."""


def leaves(tree: Any, keys: Keys = ()) -> Iterator[tuple[Keys, Any]]:
    """Every leaf with its keys, in order."""
    if isinstance(tree, Mapping):
        branches: Any = tree.items()
    elif isinstance(tree, list | tuple):
        branches = enumerate(tree)
    else:
        yield keys, tree
        return
    for key, branch in branches:
        yield from leaves(branch, (*keys, key))


def leaf_at(tree: Any, keys: Keys) -> Any:
    for key in keys:
        tree = tree[key]
    return tree


def path(keys: Keys) -> str:
    """The keys as text, `position/x`; empty for a bare leaf."""
    return "/".join(map(str, keys))


def filled(tree: Any, values: Iterator[Any]) -> Any:
    """The structure of `tree` with the next of `values` for every leaf, in the order of `leaves`."""
    if isinstance(tree, Mapping):
        return {key: filled(branch, values) for key, branch in tree.items()}
    if isinstance(tree, list | tuple):
        branches = [filled(branch, values) for branch in tree]
        return type(tree)(*branches) if hasattr(tree, "_fields") else type(tree)(branches)
    return next(values)
