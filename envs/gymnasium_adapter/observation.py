"""Converts observations of a gymnasium environment to `image` and `vector`, and checks them against the declared space."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from envs.faults import NotFiniteError
from envs.gymnasium_adapter.actions import MASK
from envs.gymnasium_adapter.api import as_array
from envs.gymnasium_adapter.pictures import Picture, UnsupportedSpaceError, find_picture, join_shapes
from system.errors import InputError
from system.nested import Keys, leaf_at, leaves
from system.words import count

Observation: TypeAlias = dict[str, Any]


class Parts(NamedTuple):
    """The pictures, the other spaces of numbers, and the texts of an observation, in the order of `gymnasium.spaces.flatten`."""

    pictures: dict[Keys, Picture]
    numbers: dict[Keys, Any]
    texts: list[Keys]

    @property
    def image(self) -> tuple[int, int, int] | None:
        return join_shapes({name(path): one for path, one in self.pictures.items()})

    @property
    def length(self) -> int:
        """Length of `vector`. An observation that holds only text has a vector of one zero."""
        only_text = bool(self.texts) and not self.pictures and not self.numbers
        return sum(spaces.flatdim(space) for space in self.numbers.values()) or int(only_text)

    def text(self, seen: Any) -> str:
        """The texts of an observation, joined in order."""
        texts = [leaf_at(seen, path) for path in self.texts]
        return " ".join(text.decode(errors="replace") if isinstance(text, bytes) else str(text) for text in texts)


def name(path: Keys) -> str:
    return ".".join(map(str, path)) or "the observation"


def is_text(space: Any) -> bool:
    """Whether a space holds texts: `Text`, or a space of another package such as minigrid's MissionSpace."""
    return isinstance(space, spaces.Text) or (space.dtype is not None and np.dtype(space.dtype).kind == "U")


def find_parts(space: Any, layout: str = "auto", *, masked: bool = False) -> Parts:
    """The parts of a space. `layout` is as in `find_picture`; if `masked`, the entry `action_mask` of a Dict is no part.

    UnsupportedSpaceError if a part is no fixed number of values or an ambiguous picture, pictures differ in size, or nothing is left.
    """
    found = Parts({}, {}, [])
    for path, leaf in leaves(space):
        if masked and path[:1] == (MASK,):
            continue
        if is_text(leaf):
            found.texts.append(path)
            continue
        nested = len(path) > 1 or isinstance(space, spaces.Tuple)
        if seen := find_picture(leaf, layout, nested=nested):
            found.pictures[path] = seen
        elif isinstance(leaf, spaces.Box | spaces.Discrete | spaces.MultiDiscrete | spaces.MultiBinary):
            found.numbers[path] = leaf
        else:
            where = f" in {name(path)}" if path else ""
            raise UnsupportedSpaceError(f"observes {type(leaf).__name__}{where}, which is no fixed number of values")
    if found.image is None and not found.length:
        raise UnsupportedSpaceError(f"observes nothing ({space})")
    return found


class Observer:
    """Converts an environment's observations to those of a suite, whose `vector` has the length `length`; the rest is zeros."""

    def __init__(self, task: str, found: Parts, length: int) -> None:
        self._task, self._length = task, length
        self._pictures = found.pictures
        self._numbers = {path: (space, space.shape, spaces.flatdim(space)) for path, space in found.numbers.items()}
        self._ranges_checked = False

    def show(self, seen: Any, call: str) -> Observation:
        """`image` and `vector` of the observation that `call` (reset or step) returned; new arrays, or views of it.

        InputError if shape or dtype differ from the space, or the range of the first picture does. NotFiniteError if a picture has
        numbers that are not finite, which uint8 cannot represent.
        """
        shown: Observation = {}
        if self._pictures:
            planes = [self._picture(seen, path, one, call) for path, one in self._pictures.items()]
            shown["image"] = planes[0] if len(planes) == 1 else np.concatenate(planes, axis=2)
            self._ranges_checked = True
        if self._length:
            vector = shown["vector"] = np.zeros(self._length, np.float32)
            start = 0
            for path, (space, shape, width) in self._numbers.items():
                array = self._array(_at(seen, path), shape, path, call)
                if isinstance(space, spaces.Discrete | spaces.MultiDiscrete):
                    vector[start + self._ones(space, array, path, call)] = 1
                else:
                    vector[start : start + width] = array.ravel()
                start += width
        return shown

    def _picture(self, seen: Any, path: Keys, declared: Picture, call: str) -> NDArray[np.uint8]:
        array = self._array(_at(seen, path), declared.shape, path, call)
        if array.dtype != np.uint8 or not declared.integer:
            self._check(declared.misfit(array), path, call)
        if not self._ranges_checked:
            self._check(declared.out_of_range(array), path, call)
        if not declared.integer and not np.isfinite(array).all():
            raise NotFiniteError(
                f"{(~np.isfinite(array)).sum()} of the {count(array.size, 'number')} of a picture are not finite"
            )
        return declared.show(array)

    def _array(self, value: Any, shape: tuple[int, ...], path: Keys, call: str) -> NDArray[Any]:
        array = as_array(value)
        if array.dtype.kind not in "iubf":
            self._check(f"{_named(value)} where its observation space declares numbers {list(shape)}", path, call)
        if array.shape != shape:
            # Axes of length one do not matter: the numbers and their order are the same.
            if [side for side in array.shape if side != 1] != [side for side in shape if side != 1]:
                returned = f"{_shown(array.shape)} where its observation space declares {_shown(shape)}"
                self._check(returned, path, call)
            array = array.reshape(shape)
        return array

    def _ones(self, space: Any, array: NDArray[Any], path: Keys, call: str) -> NDArray[np.int64]:
        """The indices at which the one-hot code of choices is 1."""
        is_discrete = isinstance(space, spaces.Discrete)
        sizes = np.ravel(space.n if is_discrete else space.nvec)
        chosen = array.ravel().astype(np.int64) - np.ravel(space.start)
        if (chosen < 0).any() or (chosen >= sizes).any():
            self._check(f"{array.tolist()} where its observation space declares {space}", path, call)
        ones: NDArray[np.int64] = np.cumsum(sizes) - sizes + chosen
        return ones

    def _check(self, misfit: str, path: Keys, call: str) -> None:
        if misfit:
            where = f" in {name(path)}" if path else ""
            raise InputError(
                f"env.tasks={self._task} returns from {call}{where} {misfit}: change one of them, in the environment or with a wrapper in "
                "env.wrappers."
            )


def _at(seen: Any, path: Keys) -> Any:
    """The part of an observation; None if it has no such part."""
    try:
        return leaf_at(seen, path)
    except (LookupError, TypeError):
        return None


def _shown(shape: tuple[int, ...]) -> str:
    return f"an array {list(shape)}" if shape else "one number"


def _named(value: Any) -> str:
    if value is None:
        return "nothing"
    return f"entries {sorted(map(str, value))}" if isinstance(value, Mapping) else f"{type(value).__name__}"
