"""LSTMs in which input and state are multiplied. Contract: agents/network/core.py. S = 2H: the hidden state, then the cell state.

All three are LSTM cells and differ in gates(x, h) [B, 4H], in the order input, forget, output, candidate. Then

    c_t = sigmoid(f) * c_{t-1} + sigmoid(i) * tanh(g)
    h_t = sigmoid(o) * tanh(c_t)

No fused kernel exists for them, so an unroll is a loop over steps. Terms that depend on x alone are computed for all steps at once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from agents.network.gated_cores import loop_over_steps

RECURRENT_OUTPUT = 0.1
"""`first_output` of an LSTM and its variants: both sigmoids start at 1/2, and the candidate's weights as in nn.LSTM."""


class MogrifierCore(nn.Module):
    """Mogrifier LSTM (Melis et al. 2020, equations 1 and 2). In it x and h gate each other alternately before they reach an LSTM:

        x^i = 2 sigmoid(Q^i h^{i-1}) * x^{i-2}    for odd i up to `rounds`
        h^i = 2 sigmoid(R^i x^{i-1}) * h^{i-2}    for even i

    with x^{-1} = x and h^0 = h_{t-1}. The LSTM has gates = W x + U h + b of the last x and the last h. Q and R have full rank and no bias,
    as in the paper's equations. Initially these gates are near 1, so the core starts like an LSTM.
    """

    first_output = RECURRENT_OUTPUT

    def __init__(self, x_size: int, size: int, *, rounds: int = 5) -> None:
        super().__init__()
        self.size = size
        self.state_size = 2 * size
        # Q^1, R^2, Q^3, ...
        sizes = [(size, x_size) if number % 2 else (x_size, size) for number in range(rounds)]
        self.rounds = nn.ParameterList(_uniform(*shape, bound=1 / math.sqrt(shape[1])) for shape in sizes)
        self.weight_x = _uniform(4 * size, x_size, bound=1 / math.sqrt(size))
        self.weight_h = _uniform(4 * size, size, bound=1 / math.sqrt(size))
        self.bias = _uniform(4 * size, bound=1 / math.sqrt(size))

    def forward(self, x: Tensor, reset: Tensor, state: Tensor, *, final_state: bool = True) -> tuple[Tensor, Tensor]:
        # The loop gates with sigmoid instead of 2 sigmoid, so n gates leave x / 2^n, and likewise h. The weights that read x and h are
        # multiplied by the missing powers of two, which is exact, once for all steps.
        rounds = [weight * 2 ** ((number + 1) // 2) for number, weight in enumerate(self.rounds)]
        weight_x = self.weight_x * 2 ** ((len(rounds) + 1) // 2)
        weight_h = self.weight_h * 2 ** (len(rounds) // 2)
        bias = self.bias

        def gates(hidden: Tensor, x: Tensor) -> Tensor:
            for number, weight in enumerate(rounds):
                if number % 2:
                    hidden = hidden * F.linear(x, weight).sigmoid()
                else:
                    x = x * F.linear(hidden, weight).sigmoid()
            return F.linear(x, weight_x, bias) + F.linear(hidden, weight_h)

        return _unroll(gates, [x.to(bias.dtype)], reset, state, final_state=final_state)


class MultiplicativeLSTMCore(nn.Module):
    """Multiplicative LSTM, mLSTM (Krause et al. 2016). Each input has its recurrent matrix, in factored form:

        m = (W_mx x) * (W_mh h_{t-1})
        gates = W x + U m + b

    W_mx and W_mh keep the variance of their inputs, so m is as large as the h that it replaces. W, U and b start as in nn.LSTM.
    """

    first_output = RECURRENT_OUTPUT

    def __init__(self, x_size: int, size: int) -> None:
        super().__init__()
        self.size = size
        self.state_size = 2 * size
        self.weight_mx = _uniform(size, x_size, bound=math.sqrt(3 / x_size))
        self.weight_mh = _uniform(size, size, bound=math.sqrt(3 / size))
        self.weight_x = _uniform(4 * size, x_size, bound=1 / math.sqrt(size))
        self.weight_m = _uniform(4 * size, size, bound=1 / math.sqrt(size))
        self.bias = _uniform(4 * size, bound=1 / math.sqrt(size))

    def forward(self, x: Tensor, reset: Tensor, state: Tensor, *, final_state: bool = True) -> tuple[Tensor, Tensor]:
        weight_mh, weight_m = self.weight_mh, self.weight_m
        inputs = [F.linear(x, self.weight_mx), F.linear(x, self.weight_x, self.bias)]

        def gates(hidden: Tensor, mx: Tensor, wx: Tensor) -> Tensor:
            return wx + F.linear(mx * F.linear(hidden, weight_mh), weight_m)

        return _unroll(gates, [part.to(weight_m.dtype) for part in inputs], reset, state, final_state=final_state)


class MultiplicativeIntegrationCore(nn.Module):
    """LSTM with multiplicative integration, MI-LSTM (Wu et al. 2016, the general form in all four gates):

        gates = alpha * (W x) * (U h_{t-1}) + beta_h * (U h_{t-1}) + beta_x * (W x) + b

    alpha starts at 1 and both betas at 1/2. W and U start at twice nn.LSTM's scale, so the linear terms are as large as in a new LSTM.
    """

    first_output = RECURRENT_OUTPUT

    def __init__(self, x_size: int, size: int) -> None:
        super().__init__()
        self.size = size
        self.state_size = 2 * size
        self.weight_x = _uniform(4 * size, x_size, bound=2 / math.sqrt(size))
        self.weight_h = _uniform(4 * size, size, bound=2 / math.sqrt(size))
        self.alpha = nn.Parameter(torch.ones(4 * size))
        self.beta_x = nn.Parameter(torch.full((4 * size,), 0.5))
        self.beta_h = nn.Parameter(torch.full((4 * size,), 0.5))
        self.bias = _uniform(4 * size, bound=1 / math.sqrt(size))

    def forward(self, x: Tensor, reset: Tensor, state: Tensor, *, final_state: bool = True) -> tuple[Tensor, Tensor]:
        weight_h = self.weight_h
        wx = F.linear(x, self.weight_x).to(weight_h.dtype)

        def gates(hidden: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
            return scale * F.linear(hidden, weight_h) + shift

        inputs = [self.alpha * wx + self.beta_h, self.beta_x * wx + self.bias]
        return _unroll(gates, inputs, reset, state, final_state=final_state)


def _uniform(*shape: int, bound: float) -> nn.Parameter:
    """A parameter drawn uniformly from [-bound, bound]. nn.LSTM uses 1 / sqrt(H) for all its parameters."""
    return nn.Parameter(torch.empty(shape).uniform_(-bound, bound))


def _unroll(
    gates: Callable[..., Tensor], inputs: Sequence[Tensor], reset: Tensor, state: Tensor, *, final_state: bool
) -> tuple[Tensor, Tensor]:
    """`loop_over_steps` of an LSTM cell. `gates` maps h [B, H] and one step of each of `inputs` to [B, 4H], in their precision."""
    dtype, size = inputs[0].dtype, state.shape[1] // 2

    def step(hidden: Tensor, cell: Tensor, *parts: Tensor) -> tuple[Tensor, Tensor]:
        sigmoids, candidate = gates(hidden.to(dtype), *parts).float().split([3 * size, size], dim=1)
        keep_in, forget, out = sigmoids.sigmoid().split(size, dim=1)
        # Not addcmul, which saves one call here and adds two to the backward pass.
        cell = forget * cell + keep_in * candidate.tanh()
        return out * cell.tanh(), cell

    return loop_over_steps(step, inputs, reset, state, size, final_state=final_state)
