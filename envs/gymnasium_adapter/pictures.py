"""Recognises the gymnasium spaces that are pictures, and converts pictures and rendered frames to uint8."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

Layout: TypeAlias = Literal["auto", "channels_last", "channels_first", "none"]
LAYOUTS: tuple[str, ...] = get_args(Layout)

_LEAST_SIDE = 7
"""Minimum side of a grey picture and of a channel-first picture. Smaller arrays are treated as numbers, for example a table."""

_LEAST_UNSURE_SIDE = 20
"""The same for numbers other than bytes from 0 to 255. Above 19, the side of a Go board."""

_COLOURS = (1, 3, 4)
"""Numbers of channels of grey, RGB and RGBA pictures."""

_FLOAT_RANGES = ((0.0, 1.0), (0.0, 255.0), (-1.0, 1.0))
"""Bounds of float spaces that are read as brightness."""


class UnsupportedSpaceError(ValueError):
    """A space without counterpart in a suite. The message continues "the task ..."."""


@dataclass(frozen=True, kw_only=True)
class Picture:
    """The conversion of a Box to channels of `image`.

    Attributes:
        shape: Shape of the Box.
        rows: Its axis of rows; the next axis is the columns. All other axes, in order, are folded into the channels.
        low, scale: A value x becomes the byte (x - low) * scale; scale 1 leaves bytes unchanged.
        integer: Whether the Box declares integers.
        image_shape: (H, W, C).
    """

    shape: tuple[int, ...]
    rows: int
    low: float
    scale: float
    integer: bool

    @functools.cached_property
    def image_shape(self) -> tuple[int, int, int]:
        height, width = self.shape[self.rows : self.rows + 2]
        return height, width, math.prod(self.shape) // (height * width)

    def show(self, seen: NDArray[Any]) -> NDArray[np.uint8]:
        """The picture uint8 [H, W, C] of `seen`, which has shape `shape` and the declared kind of numbers. NaN and infinity become 0."""
        if self.scale != 1 or not self.integer:
            with np.errstate(invalid="ignore"):
                seen = np.rint((seen.astype(np.float32) - self.low) * self.scale)
            seen = np.nan_to_num(seen, copy=False, nan=0.0)
        if seen.dtype != np.uint8:
            seen = np.clip(seen, 0, 255).astype(np.uint8)
        if self.rows:
            seen = np.moveaxis(seen, (self.rows, self.rows + 1), (0, 1))
        return seen.reshape(self.image_shape)

    def misfit(self, seen: NDArray[Any]) -> str:
        """What is wrong with the dtype of `seen`; "" if nothing is."""
        if (seen.dtype.kind in "iub") == self.integer and seen.dtype.kind in "iubf":
            return ""
        return f"{seen.dtype} where its observation space declares {'integers' if self.integer else 'floats'}"

    def out_of_range(self, seen: NDArray[Any]) -> str:
        """What is wrong with the range of `seen`; "" if nothing is."""
        width = 255 / self.scale
        high, slack = self.low + width, 1e-3 * width
        finite = seen[np.isfinite(seen)]
        if not finite.size or (self.low - slack <= finite.min() and finite.max() <= high + slack):
            return ""
        found = f"{float(finite.min()):g} to {float(finite.max()):g}"
        return f"numbers from {found} where its observation space declares {self.low:g} to {high:g}"


def find_picture(space: Any, layout: str = "auto", *, nested: bool = False) -> Picture | None:
    """The conversion of a space that is a picture, or None if it holds other numbers.

    Args:
        layout: `auto` recognises [H, W, C], [C, H, W], [H, W] and stacks of them, as bytes, or as other numbers within the usual bounds.
            `channels_last` reads every Box of bytes with three axes as [H, W, C], `channels_first` as [C, H, W], and nothing else as a
            picture. `none` finds no pictures.
        nested: Whether the space is nested deeper than in one Dict; only `auto` finds pictures there.

    UnsupportedSpaceError if the axes or the brightness of a picture are ambiguous.
    """
    if not isinstance(space, spaces.Box) or layout == "none" or not math.prod(space.shape):
        return None
    shape, integer = tuple(int(side) for side in space.shape), space.dtype.kind in "iub"
    if layout != "auto":
        if nested or space.dtype != np.uint8 or len(shape) != 3:
            return None
        return Picture(shape=shape, rows=0 if layout == "channels_last" else 1, low=0, scale=1, integer=True)
    # A small grid, such as MiniGrid's, may have shorter sides.
    small_grid = space.dtype == np.uint8 and len(shape) == 3 and shape[2] in _COLOURS and shape[2] < min(shape[:2])
    if (len(shape) < 2 or max(shape) < _LEAST_SIDE or space.dtype.kind not in "iufb") and not small_grid:
        return None
    low, high = float(space.low.min()), float(space.high.max())
    even = low == float(space.low.max()) and high == float(space.high.min())
    is_bytes = space.dtype == np.uint8 or (integer and even and (low, high) == (0, 255))
    found = _rows(shape, grey=_LEAST_SIDE if is_bytes and high == 255 else _LEAST_UNSURE_SIDE)
    if not is_bytes:
        rows = found[0] if len(found) == 1 else None
        if rows is None or min(shape[rows : rows + 2]) < _LEAST_UNSURE_SIDE:
            return None
        if not even or (low, high) not in _FLOAT_RANGES:
            if integer or len(shape) < 3 or math.prod(shape) // math.prod(shape[rows : rows + 2]) not in _COLOURS:
                return None
            raise UnsupportedSpaceError(
                f"observes floats {list(shape)} that look like a picture, but within {low:g} and {high:g} instead of 0 and 1 or 0 and 255: "
                "give env.pictures=none to read them as a vector"
            )
    if len(found) != 1:
        if len(shape) == 2:
            return None
        raise UnsupportedSpaceError(
            f"observes a picture {list(shape)} whose rows and columns cannot be told from its channels: give env.pictures=channels_last, "
            "channels_first or none"
        )
    scale = 255 / (high - low) if not is_bytes or 0 == low < high < 255 else 1.0
    return Picture(shape=shape, rows=found[0], low=low if scale != 1 else 0.0, scale=scale, integer=integer)


def _rows(shape: tuple[int, ...], *, grey: int) -> tuple[int, ...]:
    """The axes that may be the rows; the columns are the next axis.

    Rows and columns are longer than every other axis. Unless they are equal, each other axis has length 1, 3 or 4, or at most
    half of theirs. `grey` is the minimum side of a picture without channels.
    """
    if len(shape) == 2:
        return (0,) if min(shape) >= grey else ()
    sure, unsure = [], []
    for axis in range(len(shape) - 1):
        side, others = min(shape[axis : axis + 2]), (*shape[:axis], *shape[axis + 2 :])
        equal = shape[axis] == shape[axis + 1]
        if axis and side < _LEAST_SIDE:
            continue
        if all(other < side and (equal or other in _COLOURS or 2 * other <= side) for other in others):
            sure.append(axis)
        elif equal:
            # More planes than cells in a row, as in encodings of board games.
            unsure.append(axis)
    return tuple(sure or unsure)


def join_shapes(found: dict[str, Picture]) -> tuple[int, int, int] | None:
    """The shape of `image`, which is all pictures (by name) concatenated along the channels; None without pictures.

    UnsupportedSpaceError if they have different sizes.
    """
    if not found:
        return None
    shapes = {where: one.image_shape for where, one in found.items()}
    if len({shape[:2] for shape in shapes.values()}) > 1:
        listed = ", ".join(f"{where} {shape[0]}x{shape[1]}" for where, shape in shapes.items())
        raise UnsupportedSpaceError(
            f"observes pictures of different sizes ({listed}), which gymnasium.wrappers.ResizeObservation can make equal and "
            "gymnasium.wrappers.FilterObservation can leave out"
        )
    height, width, _ = next(iter(shapes.values()))
    return height, width, sum(shape[2] for shape in shapes.values())


def to_rgb(drawn: Any) -> NDArray[np.uint8] | None:
    """A rendered frame as uint8 [H, W, 3], or None if it is no picture.

    It may be grey, RGBA, channel-first, of floats in [0, 1] or [0, 255], or a list of frames, whose last one is used.
    """
    while isinstance(drawn, list | tuple) and len(drawn) and np.ndim(drawn[-1]) >= 2:
        drawn = drawn[-1]
    frame = np.asarray(drawn)
    if frame.dtype.kind not in "iubf" or not frame.size or frame.ndim not in (2, 3):
        return None
    if frame.ndim == 2:
        frame = frame[:, :, None]
    if frame.shape[2] not in _COLOURS:
        if frame.shape[0] not in _COLOURS:
            return None
        frame = np.moveaxis(frame, 0, 2)
    if frame.dtype != np.uint8:
        values = np.nan_to_num(frame.astype(np.float64), nan=0.0, posinf=255.0, neginf=0.0)
        if frame.dtype.kind in "fb" and values.max() <= 1:
            values = values * 255
        frame = np.clip(np.rint(values), 0, 255).astype(np.uint8)
    # The alpha channel is dropped, because the background is unknown.
    return frame[:, :, :3] if frame.shape[2] > 1 else frame.repeat(3, axis=2)
