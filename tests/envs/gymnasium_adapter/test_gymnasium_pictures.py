"""Recognition and conversion of pictures, and rendered frames."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from gymnasium import spaces

from envs.faults import NotFiniteError
from envs.gymnasium_adapter.observation import Observer, find_parts
from envs.gymnasium_adapter.pictures import UnsupportedSpaceError, find_picture, to_rgb
from system.errors import InputError


def pixels(*shape: int, high: int = 255, dtype: Any = np.uint8) -> spaces.Box:
    return spaces.Box(0, high, shape, dtype)


def floats(*shape: int, low: float = 0, high: float = 1) -> spaces.Box:
    return spaces.Box(low, high, shape, np.float32)


def shown(space: Any, seen: Any, layout: str = "auto") -> Any:
    found = find_parts(space, layout)
    return Observer("a task", found, found.length).show(seen, "reset")


@pytest.mark.parametrize(
    ("shape", "rows"),
    [
        *[((84, 84), 0), ((210, 160), 0), ((7, 7), 0)],
        *[((84, 84, 1), 0), ((84, 84, 3), 0), ((210, 160, 4), 0), ((7, 7, 3), 0), ((5, 5, 3), 0), ((84, 84, 12), 0)],
        # Planes of a board game.
        *[((8, 8, 111), 0), ((111, 8, 8), 1)],
        *[((1, 84, 84), 1), ((3, 84, 84), 1), ((3, 210, 160), 1), ((3, 7, 7), 1)],
        *[((4, 84, 84), 1), ((9, 128, 64), 1), ((4, 84, 84, 3), 1), ((4, 210, 160, 3), 1)],
        *[((4, 3, 84, 84), 2), ((4, 4, 84, 84), 2), ((3, 3, 96, 72), 2), ((84, 84, 3, 4), 0)],
    ],
)
def test_rows_and_columns_are_found_and_other_axes_are_channels(shape: tuple[int, ...], rows: int) -> None:
    found = find_picture(pixels(*shape))
    assert found is not None and found.rows == rows
    height, width, channels = found.image_shape
    assert (height, width) == shape[rows : rows + 2] and height * width * channels == np.prod(shape)
    seen = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    # Recomputed in a loop over pixels.
    image = found.show(seen)
    for row, column in [(0, 0), (1, 2), (height - 1, width - 1)]:
        index = (*[slice(None)] * rows, row, column)
        np.testing.assert_array_equal(image[row, column], seen[index].ravel())


@pytest.mark.parametrize("shape", [(84, 84, 84), (7, 7, 7), (4, 84, 4), (84, 3, 84), (60, 80, 70)])
def test_ambiguous_pictures_are_refused_unless_configured(shape: tuple[int, ...]) -> None:
    space = pixels(*shape)
    with pytest.raises(UnsupportedSpaceError, match="env.pictures=channels_last, channels_first or none"):
        find_parts(space)
    a, b, c = shape
    assert find_parts(space, "channels_last").image == (a, b, c)
    assert find_parts(space, "channels_first").image == (b, c, a)
    assert find_parts(space, "none").image is None and find_parts(space, "none").length == a * b * c


@pytest.mark.parametrize(
    "space",
    [
        pixels(6),
        pixels(128),
        pixels(6, 10),
        pixels(3, 3, 3, 3),
        # A board of a game; a table of features; bytes of a memory.
        pixels(19, 19, high=2),
        floats(50, 30, low=-np.inf, high=np.inf),
        floats(3, 3),
        floats(8, 8, 12),
        spaces.Box(0, 4, (30, 30), np.int64),
        spaces.MultiBinary((84, 84)),
    ],
)
def test_other_numbers_are_no_picture(space: Any) -> None:
    assert find_parts(space).image is None and find_parts(space).length == spaces.flatdim(space)


@pytest.mark.parametrize(
    ("space", "value", "byte"),
    [
        (floats(84, 84, 3), 0.5, 128),
        (floats(84, 84), 1.0, 255),
        (floats(3, 84, 84, low=-1), 0.0, 128),
        (floats(84, 84, 3, high=255), 77.2, 77),
        (pixels(84, 84, dtype=np.int64), 200, 200),
        (pixels(84, 84, high=1), 1, 255),
        (pixels(7, 7, 3, high=10), 4, 102),
        (spaces.Box(0, 1, (84, 84), np.int8), 1, 255),
    ],
)
def test_brightness_becomes_bytes(space: Any, value: float, byte: int) -> None:
    image = shown(space, np.full(space.shape, value, space.dtype))["image"]
    assert image.dtype == np.uint8 and (image == byte).all()


def test_a_picture_in_floats_without_bounds_is_refused() -> None:
    space = floats(84, 84, 3, low=-np.inf, high=np.inf)
    with pytest.raises(UnsupportedSpaceError, match="look like a picture, but within -inf and inf.*env.pictures=none"):
        find_parts(space)
    assert find_parts(space, "none").length == 84 * 84 * 3


def test_a_picture_with_numbers_that_are_not_finite_raises() -> None:
    space = floats(20, 20, 1)
    observer = Observer("a task", find_parts(space), 0)
    seen = np.zeros(space.shape, np.float32)
    for value in (0.5, np.nan, 0.25, np.inf):
        seen[3, 4] = value
        if np.isfinite(value):
            observer.show(seen, "step")
        else:
            with pytest.raises(NotFiniteError, match="1 of the 400 numbers of a picture are not finite"):
                observer.show(seen, "step")


def test_pictures_and_numbers_are_found_at_any_depth() -> None:
    space = spaces.Dict(
        {
            "b": spaces.Tuple((pixels(3, 20, 30), spaces.Discrete(3))),
            "a": spaces.Dict({"look": pixels(20, 30), "x": floats(2, 2, low=-5, high=5)}),
        }
    )
    seen: Any = space.sample()
    found = shown(space, seen)
    assert found["image"].shape == (20, 30, 4)
    np.testing.assert_array_equal(found["image"][:, :, 0], seen["a"]["look"])
    np.testing.assert_array_equal(found["image"][:, :, 1:], np.moveaxis(seen["b"][0], 0, 2))
    numbers = spaces.Tuple((space["a"]["x"], space["b"][1]))  # type: ignore[index]
    np.testing.assert_allclose(found["vector"], spaces.flatten(numbers, (seen["a"]["x"], seen["b"][1])))


def test_vectors_equal_those_of_gymnasium() -> None:
    space = spaces.Dict(
        {
            "d": spaces.Discrete(5, start=2),
            "m": spaces.MultiDiscrete(np.array([[2, 3], [4, 5]]), start=np.array([[0, 1], [0, -3]])),
            "t": spaces.Tuple((spaces.MultiBinary((2, 2)), spaces.Box(-np.inf, np.inf, (2, 3), np.float64))),
        }
    )
    space.seed(0)
    for _ in range(20):
        seen = space.sample()
        np.testing.assert_allclose(shown(space, seen)["vector"], spaces.flatten(space, seen), rtol=1e-6)


def test_pictures_of_different_sizes_are_refused_with_the_wrappers_that_help() -> None:
    space = spaces.Dict({"left": pixels(20, 30, 3), "right": pixels(84, 84, 3)})
    with pytest.raises(UnsupportedSpaceError, match=r"left 20x30, right 84x84.*ResizeObservation.*FilterObservation"):
        find_parts(space)


@pytest.mark.parametrize("space", [spaces.Dict({}), floats(0), spaces.Tuple((floats(0), pixels(0, 84, 3)))])
def test_an_empty_space_is_refused(space: Any) -> None:
    with pytest.raises(UnsupportedSpaceError, match="observes nothing"):
        find_parts(space)


@pytest.mark.parametrize(
    ("space", "seen", "message"),
    [
        (pixels(84, 84, 3), np.full((84, 84, 3), 0.5), "float64 where its observation space declares integers"),
        (floats(84, 84, 3), np.full((84, 84, 3), 9, np.uint8), "uint8 where its observation space declares floats"),
        (floats(84, 84, 3), np.full((84, 84, 3), 9.0), "numbers from 9 to 9 where .* declares 0 to 1"),
        (pixels(84, 84, dtype=np.int64), np.full((84, 84), -4), "numbers from -4 to -4 where .* declares 0 to 255"),
        (pixels(84, 84), np.zeros((84, 83), np.uint8), r"array \[84, 83\] where .* declares an array \[84, 84\]"),
        (floats(3), np.zeros(2), r"array \[2\] where its observation space declares an array \[3\]"),
        (floats(3), np.zeros(4), r"array \[4\] where"),
        (floats(2, 3), np.zeros((3, 2)), r"array \[3, 2\] where its observation space declares an array \[2, 3\]"),
        (floats(3), 0.5, r"one number where its observation space declares an array \[3\]"),
        (floats(3), None, r"nothing where its observation space declares numbers \[3\]"),
        (floats(3), {"x": 1}, r"entries \['x'\] where"),
        (floats(3), [1, [2, 3]], "list where"),
        (spaces.Dict({"x": floats(3)}), {"y": np.zeros(3)}, "from reset in x nothing where"),
        (spaces.Tuple((floats(1), floats(1))), (0.5,), "from reset in 1 nothing where"),
        (spaces.Discrete(3), 3, r"3 where its observation space declares Discrete\(3\)"),
        (spaces.MultiDiscrete([2, 2]), np.array([0, -1]), r"\[0, -1\] where"),
    ],
)
def test_observations_are_compared_with_the_space(space: Any, seen: Any, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        shown(space, seen)
    text = str(caught.value)
    assert text.startswith("env.tasks=a task returns from reset") and "\n" not in text and text.endswith(".")


@pytest.mark.parametrize(
    ("space", "seen"),
    [
        (floats(3), [0.5, 0.5, 0.5]),
        (floats(3), (1, 1, 1)),
        (floats(1), 0.5),
        (floats(1, 3), np.zeros(3)),
        (floats(3), np.zeros(3, np.float64)),
        (pixels(84, 84, 1), np.zeros((84, 84), np.uint8)),
        (pixels(84, 84), np.zeros((84, 84), np.int64)),
        (pixels(84, 84, high=1), np.ones((84, 84), np.bool_)),
        (spaces.Discrete(3), np.array([2])),
        (spaces.Tuple((floats(1), floats(1))), [np.zeros(1), np.zeros(1)]),
    ],
)
def test_the_same_numbers_in_another_form_are_accepted(space: Any, seen: Any) -> None:
    assert shown(space, seen)


GREY = np.arange(400, dtype=np.uint8).reshape(20, 20)


@pytest.mark.parametrize(
    "drawn",
    [
        GREY,
        GREY[:, :, None],
        GREY[:, :, None].repeat(3, axis=2),
        np.concatenate([GREY[:, :, None].repeat(3, axis=2), np.full((20, 20, 1), 9, np.uint8)], axis=2),
        GREY[None].repeat(3, axis=0),
        GREY / 255,
        GREY.astype(np.float32),
        GREY.astype(np.int64),
        [GREY * 0, GREY],
        GREY.tolist(),
    ],
)
def test_every_kind_of_frame_can_be_drawn(drawn: Any) -> None:
    frame = to_rgb(drawn)
    assert frame is not None and frame.dtype == np.uint8
    np.testing.assert_array_equal(frame, GREY[:, :, None].repeat(3, axis=2))


@pytest.mark.parametrize(
    "drawn", [None, "text", 3, np.zeros((0, 5, 3)), np.zeros((4, 5, 6, 7)), np.zeros((9, 9, 2)), []]
)
def test_other_values_are_no_frame(drawn: Any) -> None:
    assert to_rgb(drawn) is None
