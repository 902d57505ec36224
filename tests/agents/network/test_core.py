"""Every core compared with a loop over steps, where each step follows the equations of the paper."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, sigmoid, tanh

from agents.network.core import _CALL_COST, _ROWS, _STEP_COST, CORES, group_lengths

X, H = 4, 3
CASES = {name: (name, {}) for name in CORES} | {
    f"mogrifier, {rounds} rounds": ("mogrifier", {"rounds": rounds}) for rounds in (1, 2, 6)
}
"""Every core with its defaults, and with options that change its equations."""
WITH_PRODUCTS = ("mogrifier", "mlstm", "mi_lstm")


def make(case: str, x_size: int = X, size: int = H, seed: int = 0) -> Any:
    """The core of a case with newly drawn parameters, so that no two parameters start equal."""
    torch.manual_seed(seed)
    name, options = CASES[case]
    core = CORES[name](x_size, size, **options)
    with torch.no_grad():
        for parameter in core.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return core


# One step of each core, x [B, X], h [B, H], c [B, H] -> h, c. Gates lie in the order i, f, o, g.


def lstm_cell(gates: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
    i, f, o, g = gates.chunk(4, dim=1)
    c = sigmoid(f) * c + sigmoid(i) * tanh(g)
    return sigmoid(o) * tanh(c), c


def lstm(core: Any, x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
    _, (h, c) = core.lstm(x[None], (h[None], c[None]))
    return h[0], c[0]


def mogrifier(core: Any, x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
    for number, weight in enumerate(core.rounds, start=1):
        if number % 2 == 1:
            x = 2 * sigmoid(h @ weight.T) * x
        else:
            h = 2 * sigmoid(x @ weight.T) * h
    return lstm_cell(x @ core.weight_x.T + h @ core.weight_h.T + core.bias, c)


def mlstm(core: Any, x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
    m = (x @ core.weight_mx.T) * (h @ core.weight_mh.T)
    return lstm_cell(x @ core.weight_x.T + m @ core.weight_m.T + core.bias, c)


def mi_lstm(core: Any, x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
    wx, uh = x @ core.weight_x.T, h @ core.weight_h.T
    return lstm_cell(core.alpha * wx * uh + core.beta_h * uh + core.beta_x * wx + core.bias, c)


def gru(core: Any, x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
    y, _ = core.gru(x[None], h[None].contiguous())
    return y[0], c


def mingru(core: Any, x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
    gate, candidate = core.linear(x).chunk(2, dim=1)
    return (1 - sigmoid(gate)) * h + sigmoid(gate) * candidate, c


def feedforward(core: Any, x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
    return torch.relu(x @ core.linear.weight.T + core.linear.bias), c


Step = Callable[[Any, Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]
STEPS: dict[str, Step] = {
    "lstm": lstm,
    "gru": gru,
    "mingru": mingru,
    "mogrifier": mogrifier,
    "mlstm": mlstm,
    "mi_lstm": mi_lstm,
    "feedforward": feedforward,
}


def naive(case: str, core: Any, x: Tensor, reset: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    """A loop over single steps that zeroes the state at resets."""
    step, outputs = STEPS[CASES[case][0]], []
    h, c = state.split(H, dim=1) if state.shape[1] == 2 * H else (state, state.new_empty(len(state), 0))
    for t in range(len(x)):
        keep = (~reset[t]).float().unsqueeze(1)
        y, c = step(core, x[t], h * keep, c * keep)
        h = y if core.state_size else h
        outputs.append(y)
    return torch.stack(outputs), torch.cat([h, c], dim=1)


def check(case: str, reset: Tensor, seed: int) -> None:
    core = make(case, seed=seed)
    length, columns = reset.shape
    x = torch.randn(length, columns, X, requires_grad=True)
    state = torch.randn(columns, core.state_size, requires_grad=True)
    y_weights, state_weights = torch.randn(length, columns, H), torch.randn(columns, core.state_size)
    inputs = [x, state, *core.parameters()]
    results = []
    for y, final in (core(x, reset, state), naive(case, core, x, reset, state)):
        gradients = torch.autograd.grad(
            (y * y_weights).sum() + (final * state_weights).sum(), inputs, retain_graph=True, materialize_grads=True
        )
        results.append((y, final, *gradients))
    torch.testing.assert_close(*results, rtol=1e-4, atol=1e-5)
    # The learner requests the outputs only. Their gradient must be the same.
    y, _ = core(x, reset, state, final_state=False)
    torch.testing.assert_close(y, results[1][0], rtol=1e-4, atol=1e-5)
    outputs_only = torch.autograd.grad((y * y_weights).sum(), inputs, materialize_grads=True)
    y, _ = naive(case, core, x, reset, state)
    expected = torch.autograd.grad((y * y_weights).sum(), inputs, materialize_grads=True)
    torch.testing.assert_close(outputs_only, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("case", CASES)
@settings(max_examples=25)
@given(
    seed=st.integers(0, 1000),
    shape=st.tuples(st.integers(1, 12), st.integers(1, 5)),
    rate=st.sampled_from([0.1, 0.4, 0.8]),
)
def test_an_unroll_equals_a_loop_over_steps(case: str, seed: int, shape: tuple[int, int], rate: float) -> None:
    torch.manual_seed(seed)
    check(case, torch.rand(shape) < rate, seed)


@pytest.mark.parametrize("where", ["nowhere", "everywhere", "first", "last", "first of one", "all but one"])
@pytest.mark.parametrize("case", CASES)
def test_an_unroll_with_resets(case: str, where: str) -> None:
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
    check(case, reset, 0)


@pytest.mark.parametrize("case", CASES)
def test_an_unroll_equals_separate_unrolls_between_resets(case: str) -> None:
    core = make(case)
    x, reset, start = torch.randn(12, 3, X), torch.rand(12, 3) < 0.2, torch.randn(3, core.state_size)
    assert reset[1:].any(dim=0).all()
    y, final = core(x, reset, start)
    nothing = torch.zeros(1, dtype=torch.bool)
    for column in range(3):
        state, begins = start[column : column + 1], reset[:, column].tolist()
        cuts = [0, *(t for t in range(1, 12) if begins[t]), 12]
        for first, last in itertools.pairwise(cuts):
            state = torch.zeros_like(state) if begins[first] else state
            part, state = core(x[first:last, column : column + 1], nothing.expand(last - first, 1), state)
            torch.testing.assert_close(part[:, 0], y[first:last, column], rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(state[0], final[column], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("grad", [True, False])
@pytest.mark.parametrize("case", CASES)
def test_single_steps_equal_an_unroll(case: str, grad: bool) -> None:
    """Also without gradients, as in acting, where a core may use another code path."""
    core = make(case)
    x, reset, start = torch.randn(9, 4, X), torch.rand(9, 4) < 0.25, torch.randn(4, core.state_size)
    before = start.clone()
    y, final = core(x, reset, start)
    state, steps = start, []
    with torch.inference_mode(not grad):
        for t in range(9):
            step, state = core(x[t : t + 1], reset[t : t + 1], state)
            steps.append(step)
    assert torch.equal(start, before), "a core leaves the state that it is given as it is"
    assert y.shape == (9, 4, H) and final.shape == start.shape
    torch.testing.assert_close(y, torch.cat(steps), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(final, state, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("case", CASES)
def test_nothing_crosses_a_reset_not_even_nan(case: str) -> None:
    core = make(case)
    x, reset, start = torch.randn(7, 2, X), torch.zeros(7, 2, dtype=torch.bool), torch.randn(2, core.state_size)
    reset[3, 0] = reset[0, 1] = True
    expected, final = core(x, reset, start)
    x[:3, 0], start[1] = math.nan, math.nan
    y, state = core(x, reset, start)
    for found, same in ((y[3:, 0], expected[3:, 0]), (y[:, 1], expected[:, 1]), (state, final)):
        torch.testing.assert_close(found, same)


def error(found: Tensor, expected: Tensor) -> float:
    """Relative error over all entries."""
    return float((found.float() - expected).norm().detach() / expected.norm().detach())


@pytest.mark.parametrize("case", CASES)
def test_low_precision_is_near_full_precision(case: str) -> None:
    """As in the learner: autocast with gradients. As in an actor: weights in low precision."""
    core = make(case, 32, 24)
    x, reset, start = torch.randn(20, 8, 32).bfloat16(), torch.rand(20, 8) < 0.1, torch.randn(8, core.state_size)
    y_weights = torch.randn(20, 8, 24)
    inputs = list(core.parameters())
    y, state = core(x.float(), reset, start)
    expected = torch.autograd.grad((y * y_weights).sum(), inputs)
    with torch.autocast("cpu", torch.bfloat16):
        rough, rough_state = core(x, reset, start)
        outputs, _ = core(x, reset, start, final_state=False)
    found = torch.autograd.grad((outputs.float() * y_weights).sum(), inputs)
    assert rough_state.dtype == torch.float32 and all(gradient.dtype == torch.float32 for gradient in found)
    assert error(rough, y) < 0.02 and error(outputs, y) < 0.02
    assert all(error(gradient, other) < 0.06 for gradient, other in zip(found, expected, strict=True))
    acting, steps, acting_state = core.to(torch.bfloat16), [], start
    with torch.inference_mode():
        for t in range(20):
            step, acting_state = acting(x[t : t + 1], reset[t : t + 1], acting_state)
            steps.append(step)
    assert acting_state.dtype == torch.float32
    assert error(torch.cat(steps), y) < 0.03
    if core.state_size:
        assert error(rough_state, state) < 0.02 and error(acting_state, state) < 0.03


@pytest.mark.parametrize("name", WITH_PRODUCTS)
def test_autocast_does_not_round_the_recurrence(name: str) -> None:
    """With inputs whose products bf16 can hold, only the products with the state could be rounded."""
    core = make(name, 32, 24)
    with torch.no_grad():
        for parameter_name, parameter in core.named_parameters():
            parameter.copy_(parameter.bfloat16() if "weight" in parameter_name else parameter)
        core.bias.zero_()
    x = torch.nn.functional.one_hot(torch.randint(32, (20, 8)), 32).float()
    reset, start = torch.rand(20, 8) < 0.1, torch.randn(8, core.state_size)
    exact, _ = core(x, reset, start)
    with torch.autocast("cpu", torch.bfloat16):
        found, _ = core(x, reset, start)
    torch.testing.assert_close(found, exact, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("sizes", [(32, 32), (8, 32), (64, 16)])
@pytest.mark.parametrize("name", WITH_PRODUCTS)
def test_a_new_core_has_outputs_as_large_as_a_new_lstm(name: str, sizes: tuple[int, int]) -> None:
    """The output, the effect of the previous state on it, and a gradient for every parameter."""
    # So large that the ratios do not depend on the size: with 64, the ratio of mi_lstm ranges from 2.5 to 3.6.
    torch.manual_seed(0)
    x, reset = torch.randn(20, 2048, sizes[0]), torch.zeros(20, 2048, dtype=torch.bool)
    hidden = torch.cat([0.2 * torch.randn(2048, sizes[1]), torch.zeros(2048, sizes[1])], dim=1)
    loudness, influence = {}, {}
    for each in (name, "lstm"):
        torch.manual_seed(0)
        core = CORES[each](*sizes)
        y, _ = core(x, reset, torch.zeros_like(hidden))
        loudness[each] = float(y[5:].detach().std())
        influence[each] = float((core(x[:1], reset[:1], hidden)[0] - y[:1]).detach().std())
        y.square().sum().backward()
        for parameter_name, parameter in core.named_parameters():
            assert parameter.grad is not None and (parameter.grad != 0).all(), parameter_name
    assert 0.8 < loudness[name] / loudness["lstm"] < 1.25
    assert 0.8 < influence[name] / influence["lstm"] < 3


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
    """Compared with every partition of the occurring lengths into consecutive groups."""
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
    """`lengths` in parts; cuts[i]: a part ends after lengths[i]."""
    parts: list[list[int]] = [[]] if lengths else []
    for place, length in enumerate(lengths):
        parts[-1].append(length)
        if place < len(cuts) and cuts[place]:
            parts.append([])
    return parts
