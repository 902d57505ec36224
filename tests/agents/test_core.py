"""The core over an unroll against a naive loop over its steps."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from agents.network.core import _CALL_COST, _ROWS, _STEP_COST, CORES, LSTMCore, group_lengths

X, H = 4, 3


def naive(core: LSTMCore, x: Tensor, reset: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    """One nn.LSTM call for every step, its state zeroed by hand."""
    h, c = state.split(H, dim=1)
    outputs = []
    for t in range(len(x)):
        keep = (~reset[t]).float().unsqueeze(1)
        y, (h, c) = core.lstm(x[t : t + 1], ((h * keep)[None], (c * keep)[None]))
        h, c = h[0], c[0]
        outputs.append(y[0])
    return torch.stack(outputs), torch.cat([h, c], dim=1)


def check(reset: Tensor, seed: int) -> None:
    torch.manual_seed(seed)
    core = LSTMCore(X, H)
    length, columns = reset.shape
    x, state = torch.randn(length, columns, X, requires_grad=True), torch.randn(columns, 2 * H, requires_grad=True)
    y_weights, state_weights = torch.randn(length, columns, H), torch.randn(columns, 2 * H)
    inputs = [x, state, *core.parameters()]
    results = []
    for y, final in (core(x, reset, state), naive(core, x, reset, state)):
        gradients = torch.autograd.grad(
            (y * y_weights).sum() + (final * state_weights).sum(), inputs, retain_graph=True, materialize_grads=True
        )
        results.append((y, final, *gradients))
    torch.testing.assert_close(*results, rtol=1e-4, atol=1e-5)
    # The learner asks for the outputs alone, and their gradient must be the same.
    y, _ = core(x, reset, state, final_state=False)
    torch.testing.assert_close(y, results[1][0], rtol=1e-4, atol=1e-5)
    outputs_only = torch.autograd.grad((y * y_weights).sum(), inputs, materialize_grads=True)
    y, _ = naive(core, x, reset, state)
    expected = torch.autograd.grad((y * y_weights).sum(), inputs, materialize_grads=True)
    torch.testing.assert_close(outputs_only, expected, rtol=1e-4, atol=1e-5)


@settings(max_examples=25)
@given(
    seed=st.integers(0, 1000),
    shape=st.tuples(st.integers(1, 12), st.integers(1, 5)),
    rate=st.sampled_from([0.1, 0.4, 0.8]),
)
def test_lstm_is_a_loop_over_steps(seed: int, shape: tuple[int, int], rate: float) -> None:
    torch.manual_seed(seed)
    check(torch.rand(shape) < rate, seed)


@pytest.mark.parametrize("where", ["nowhere", "everywhere", "first", "last", "first of one", "all but one"])
def test_lstm_with_resets(where: str) -> None:
    reset = torch.zeros(6, 3, dtype=torch.bool)
    if where == "everywhere":
        reset[:] = True
    elif where == "first":
        reset[0] = True
    elif where == "last":
        reset[-1] = True
    elif where == "first of one":
        reset[0, 1] = True
    elif where == "all but one":
        reset[:, :2] = True
    check(reset, 0)


@pytest.mark.parametrize("name", sorted(CORES))
def test_steps_one_by_one_are_an_unroll(name: str) -> None:
    torch.manual_seed(0)
    core = CORES[name](X, H)
    x, reset = torch.randn(9, 4, X), torch.rand(9, 4) < 0.25
    start = torch.randn(4, core.state_size)
    y, final = core(x, reset, start)
    state, steps = start, []
    for t in range(9):
        step, state = core(x[t : t + 1], reset[t : t + 1], state)
        steps.append(step)
    assert y.shape == (9, 4, H) and final.shape == start.shape
    torch.testing.assert_close(y, torch.cat(steps), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(final, state, rtol=1e-4, atol=1e-6)


def test_feedforward_has_no_memory() -> None:
    core = CORES["feedforward"](X, H)
    x, reset = torch.randn(5, 2, X), torch.zeros(5, 2, dtype=torch.bool)
    y, state = core(x, reset, torch.zeros(2, 0))
    assert core.state_size == 0 and state.shape == (2, 0)
    again, _ = core(x.flip(0), reset, state)
    torch.testing.assert_close(again.flip(0), y)
    assert (y >= 0).all() and (y > 0).any()


@given(st.lists(st.integers(0, 300), min_size=1, max_size=7))
def test_rows_are_grouped_at_the_least_cost(counts: list[int]) -> None:
    """Against every way to cut the lengths that occur into consecutive groups."""
    counts = [0, *counts]  # no row has length 0
    lengths = [length for length, count in enumerate(counts) if count]

    def cost(groups: list[tuple[int, int]]) -> int:
        rows = [-(-sum(counts[least : most + 1]) // _ROWS) * _ROWS for least, most in groups]
        return sum(_CALL_COST + most * (r + _STEP_COST) for (_, most), r in zip(groups, rows, strict=True))

    found = group_lengths(counts)
    assert [length for least, most in found for length in lengths if least <= length <= most] == lengths
    every = [
        [(part[0], part[-1]) for part in parts]
        for cuts in itertools.product((False, True), repeat=max(0, len(lengths) - 1))
        for parts in [_cut(lengths, cuts)]
    ]
    assert cost(found) == min(map(cost, every))


def _cut(lengths: list[int], cuts: tuple[bool, ...]) -> list[list[int]]:
    """`lengths` in parts; cuts[i] says whether a part ends after lengths[i]."""
    parts: list[list[int]] = [[]] if lengths else []
    for place, length in enumerate(lengths):
        parts[-1].append(length)
        if place < len(cuts) and cuts[place]:
            parts.append([])
    return parts
