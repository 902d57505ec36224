"""Data read from a file is copied if it is plain and within bounds, and refused otherwise."""

from __future__ import annotations

import math
from collections import Counter, OrderedDict
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from agents.storage.tensor_file import plain_tensor
from system import plain_data
from system.plain_data import COUNT, FINITE, PlainDataError, check_form, plain_copy

SCALARS = st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.floats(allow_nan=False) | st.text(max_size=5)
PLAIN = st.recursive(
    SCALARS,
    lambda parts: (
        st.lists(parts, max_size=4) | st.dictionaries(st.text(max_size=3) | st.integers(-9, 9), parts, max_size=4)
    ),
    max_leaves=20,
)


@given(PLAIN)
def test_plain_data_is_copied_unchanged(data: Any) -> None:
    assert plain_copy(data) == data
    assert plain_copy(OrderedDict(a=(data,))) == {"a": (data,)}


def doubled(levels: int) -> Any:
    tree: Any = []
    for _ in range(levels):
        tree = [tree, tree]
    return tree


def nested(levels: int) -> Any:
    tree: Any = 0
    for _ in range(levels):
        tree = {"x": tree}
    return tree


def endless() -> Any:
    tree: list[Any] = []
    tree.append(tree)
    return tree


class Text(str):
    """A subclass, whose methods may be replaced."""


@pytest.mark.parametrize(
    ("data", "told"),
    [
        pytest.param(doubled(30), "more than 1,000,000 values", marks=pytest.mark.slow),
        (nested(100_000), "nested more than 32 levels deep"),
        (endless(), "nested more than 32 levels deep"),
        (2**70, "an integer of more than 64 bits"),
        ({(1, 2): 3}, "a key of type tuple"),
        ({True: 3}, "a key of type bool"),
        ({1, 2}, "a value of type set"),
        (b"x", "a value of type bytes"),
        (Text("x"), "a value of type Text"),
        (Counter("x"), "a value of type Counter"),
        (torch.float32, "a value of type dtype"),
        (torch.zeros(2), "a value of type Tensor"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_other_types_are_refused(data: Any, told: str) -> None:
    with pytest.raises(PlainDataError, match=told):
        plain_copy(data)


@pytest.mark.parametrize(
    "tensor",
    [
        torch.zeros(1).expand(10**12),
        torch.zeros(3, 3).to_sparse(),
        torch.empty(3, device="meta"),
        torch.zeros(2, dtype=torch.complex64),
        torch.nn.Parameter(torch.zeros(2)),
    ],
    ids=["of one element", "sparse", "meta", "complex", "parameter"],
)
def test_tensors_that_no_run_saves_are_refused(tensor: torch.Tensor) -> None:
    with pytest.raises(PlainDataError):
        plain_copy([tensor], also={torch.Tensor: plain_tensor})


def test_tensors_share_their_memory_and_nothing_else() -> None:
    tensor = torch.arange(6.0, requires_grad=True)
    copy = plain_copy({"x": tensor}, also={torch.Tensor: plain_tensor})["x"]
    assert copy.data_ptr() == tensor.data_ptr() and not copy.requires_grad


FORM = {"name": str, "counts": [COUNT], "pair": (FINITE, COUNT), "by_task": {str: {"mean": FINITE}}}
RIGHT = {"name": "x", "counts": [1, 2], "pair": (0.5, 3), "by_task": {"a": {"mean": 1, "more": object}}, "more": object}


def test_a_form_checks_its_names_and_ignores_others() -> None:
    check_form(RIGHT, FORM)
    check_form({}, FORM, complete=False)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"name": 3}, "type str at name"),
        ({"counts": 3}, "a list at counts"),
        ({"counts": [1, -1]}, "a count at counts"),
        ({"counts": [True]}, "a count at counts"),
        ({"counts": [2**60]}, "a count at counts"),
        ({"pair": (1,)}, "a list of 2 at pair"),
        ({"pair": (math.nan, 1)}, "a finite number at pair"),
        ({"by_task": {3: {"mean": 1}}}, "names of one kind at by_task"),
        ({"by_task": {"a": {}}}, "a mapping with mean at by_task a"),
        ({"by_task": []}, "a mapping at by_task"),
    ],
)
def test_another_form_is_refused_with_its_path(change: dict[str, Any], told: str) -> None:
    with pytest.raises(PlainDataError, match=told):
        check_form(RIGHT | change, FORM)


def test_the_error_quotes_the_description_of_the_test() -> None:
    with pytest.raises(PlainDataError, match="something else than an even number at x"):
        check_form({"x": 3}, {"x": plain_data.Test("an even number", lambda value: value % 2 == 0)})
