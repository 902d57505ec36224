"""Reads untrusted YAML files as plain data, in bounded time."""

from __future__ import annotations

from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml

from system.errors import InputError
from system.files import read_bounded
from system.plain_data import MOST_LEVELS

MOST_CONFIG_VALUES = 20_000
"""Most values of a saved configuration. A run's configuration has a few hundred, and a vocabulary of up to 10,000 words. OmegaConf takes a
third of a millisecond per value.
"""

_MOST_BYTES = 2**18
_MOST_LETTERS = 80
"""Most letters of a key in a message."""


def read_yaml(path: Path) -> Any:
    """The plain data of a YAML file with one document. InputError if it is too large, or uses features that this program never writes."""
    try:
        text = read_bounded(path, _MOST_BYTES)
        _check(text)
        return _Loader(text).get_single_data()
    except (OSError, yaml.YAMLError, ValueError, TypeError, ArithmeticError) as error:
        reason = getattr(error, "problem", None) or str(error).strip() or type(error).__name__
        raise InputError(f"{path} cannot be read as YAML: {reason.splitlines()[0].rstrip('.')}.") from error


def _check(text: str) -> None:
    """Refuses dangerous YAML features before anything is built from the text: nested aliases can expand to any size, and tags select
    constructors.
    """
    level = 0
    # A list or a mapping has two events, start and end.
    for number, event in enumerate(yaml.parse(text, yaml.SafeLoader)):
        if number > 2 * MOST_CONFIG_VALUES:
            raise ValueError(f"it holds more than {MOST_CONFIG_VALUES:,} values")
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None) is not None:
            raise ValueError("anchors and aliases are not read from files")
        if getattr(event, "tag", None) is not None:
            raise ValueError("tags (!) are not read from files")
        level += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if level > MOST_LEVELS:
            raise ValueError(f"it is nested more than {MOST_LEVELS} levels deep")


class _Loader(yaml.SafeLoader):
    """Refuses keys that are no names, and duplicate ones, which are ambiguous for a human reader."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        names = set[str]()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise ValueError("a key is a list or a mapping: keys are names")
            if key.value == "<<":
                raise ValueError("merge keys (<<) are not read from files")
            if key.value in names:
                raise ValueError(f"the key {key.value[:_MOST_LETTERS]} is given twice: keep one of the two")
            names.add(key.value)
        return super().construct_mapping(node, deep)
