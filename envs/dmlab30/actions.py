"""Discrete action sets over DeepMind Lab's seven action components."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from system.errors import InputError

COMPONENTS: dict[str, tuple[int, int]] = {
    "LOOK_LEFT_RIGHT_PIXELS_PER_FRAME": (-512, 512),
    "LOOK_DOWN_UP_PIXELS_PER_FRAME": (-512, 512),
    "STRAFE_LEFT_RIGHT": (-1, 1),
    "MOVE_BACK_FORWARD": (-1, 1),
    "FIRE": (0, 1),
    "JUMP": (0, 1),
    "CROUCH": (0, 1),
}
"""Name -> bounds, in the order of a vector. The engine neither refuses nor clamps values out of bounds, but misreads them."""


def _vector(look: int = 0, pitch: int = 0, strafe: int = 0, move: int = 0, fire: int = 0) -> tuple[int, ...]:
    return look, pitch, strafe, move, fire, 0, 0


_WALK = tuple(_vector(strafe=strafe, move=move) for strafe, move in ((0, 1), (0, -1), (-1, 0), (1, 0)))
_TURNS = (-10, 10, -60, 60)
_TURN = tuple(_vector(look=turn) for turn in _TURNS)
_WALK_AND_TURN = tuple(_vector(look=turn, move=1) for turn in _TURNS)
_FIRE = (_vector(fire=1),)

ACTION_SETS: dict[str, tuple[tuple[int, ...], ...]] = {
    # 9: Espeholt et al. (2018), table D.2.
    "impala": (
        *_WALK,
        _vector(look=-20),
        _vector(look=20),
        _vector(look=-20, move=1),
        _vector(look=20, move=1),
        *_FIRE,
    ),
    # 15: of the PopArt and R2D2 agents, as published by sample-factory and kakaobrain/brain-agent.
    "extended": (*_WALK, *_TURN, _vector(pitch=10), _vector(pitch=-10), *_WALK_AND_TURN, *_FIRE),
    # 17: brain-agent's, which adds large looks up and down.
    "extended_large": (*_WALK, *_TURN, *(_vector(pitch=p) for p in (10, -10, 60, -60)), *_WALK_AND_TURN, *_FIRE),
}


def action_vectors(name: str, custom: Sequence[Sequence[int]]) -> NDArray[np.intc]:
    """The vectors of an action set, intc [A, 7], contiguous and read-only. Row a is action a.

    `name` is a key of ACTION_SETS, `custom` for the vectors of the argument `custom`, or the path of a JSON file with such vectors.
    InputError for another name, an unreadable file, or a vector that the engine would misread.
    """
    if name in ACTION_SETS:
        rows: object = ACTION_SETS[name]
    elif name == "custom":
        rows = custom
    elif name.endswith(".json"):
        try:
            rows = json.loads(Path(name).expanduser().read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise InputError(f"env.action_set={name} cannot be read ({error}): give a JSON list of vectors.") from error
    else:
        choice = ", ".join(ACTION_SETS)
        raise InputError(f"env.action_set={name} is unknown: choose one of {choice}, custom, or a .json file.")
    return _checked(rows, name)


def _checked(rows: object, name: str) -> NDArray[np.intc]:
    form = f"{len(COMPONENTS)} whole numbers each ({', '.join(COMPONENTS)})"
    if not isinstance(rows, list | tuple) or not rows:
        raise InputError(f"env.action_set={name} holds no actions: give a list of vectors of {form}.")
    for place, row in enumerate(rows):
        if not isinstance(row, list | tuple) or len(row) != len(COMPONENTS) or any(type(x) is not int for x in row):
            raise InputError(f"env.action_set={name}: action {place} is {row}: give vectors of {form}.")
        for value, (component, (low, high)) in zip(row, COMPONENTS.items(), strict=True):
            if not low <= value <= high:
                raise InputError(
                    f"env.action_set={name}: action {place} has {component}={value}: give {low} to {high}, because the engine "
                    "misreads what is outside."
                )
    vectors = np.array(rows, np.intc)
    vectors.setflags(write=False)
    return vectors
