"""Gated recurrent units, and the loop over steps of all cores without a fused kernel. Contract: agents/network/core.py. S = H."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from agents.fusion.device_transfer import send_one
from agents.network.initialization import keep_variance


class GRUCore(nn.Module):
    """Gated recurrent unit (Cho et al. 2014) in torch.nn.GRU's form, with its initial weights:

        r = sigmoid(W_r x + U_r h + b_r),   z = sigmoid(W_z x + U_z h + b_z)
        n = tanh(W_n x + b_n + r * (U_n h + c_n))
        h <- (1 - z) * n + z * h

    torch has no fused kernel for it on CPU, so an unroll is a loop over steps.
    """

    first_output = 0.25

    def __init__(self, x_size: int, size: int) -> None:
        super().__init__()
        self.size = size
        self.state_size = size
        self.gru = nn.GRU(x_size, size)

    def forward(self, x: Tensor, reset: Tensor, state: Tensor, *, final_state: bool = True) -> tuple[Tensor, Tensor]:
        weight_x, weight_h, bias_x, bias_h = self.gru.all_weights[0]
        dtype, size = weight_h.dtype, self.size

        def step(hidden: Tensor, wx: Tensor) -> tuple[Tensor]:
            uh = F.linear(hidden.to(dtype), weight_h, bias_h)
            update, candidate = (part.split([2 * size, size], dim=1) for part in (wx.float(), uh.float()))
            reset_gate, keep = (update[0] + candidate[0]).sigmoid().split(size, dim=1)
            new = (update[1] + reset_gate * candidate[1]).tanh()
            return (new + keep * (hidden - new),)

        wx = F.linear(x, weight_x, bias_x).to(dtype)
        return loop_over_steps(step, [wx], reset, state, size, final_state=final_state)


class MinGRUCore(nn.Module):
    """Minimal gated recurrent unit, minGRU (Feng et al. 2024, "Were RNNs All We Needed?"). Gate and candidate see x alone:

        z = sigmoid(W_z x + b_z),   h <- (1 - z) * h + z * (W_h x + b_h)

    This recurrence is linear in h. So a parallel scan computes all steps in about log2(T) operations.
    """

    first_output = 0.6

    def __init__(self, x_size: int, size: int) -> None:
        super().__init__()
        self.size = size
        self.state_size = size
        self.linear = nn.Linear(x_size, 2 * size)
        with torch.no_grad():
            # Gate and candidate each keep the variance of x. As one matrix of 2H rows they would not, if 2H > X.
            for rows in self.linear.weight.split(size):
                part = nn.Linear(x_size, size, bias=False)
                keep_variance(part)
                rows.copy_(part.weight)
            self.linear.bias.zero_()

    def forward(self, x: Tensor, reset: Tensor, state: Tensor, *, final_state: bool = True) -> tuple[Tensor, Tensor]:
        reset = send_one(reset, x.device).unsqueeze(2)
        gate, candidate = self.linear(x).float().chunk(2, dim=2)
        gate = gate.sigmoid()
        with torch.autocast(x.device.type, enabled=False):
            first = (state * (1 - gate[0])).masked_fill(reset[0], 0.0)
            added = gate * candidate
            y = scan(1 - gate, torch.cat([(added[0] + first).unsqueeze(0), added[1:]]), reset)
        return y, y[-1] if final_state else state.new_empty(0)


def scan(factors: Tensor, terms: Tensor, reset: Tensor) -> Tensor:
    """h_t = factor_t h_{t-1} + term_t for all t, with h_{-1} = 0 and factor_t = 0 where reset_t (Hillis and Steele 1986).

    Shapes: factors and terms [T, B, H], reset bool [T, B, 1] -> h [T, B, H].
    """
    distance, length = 1, len(terms)
    while distance < length:
        # h_t now sums the terms of the last `distance` steps. It is filled at a reset, because NaN times 0 is NaN.
        earlier = (factors[distance:] * terms[:-distance]).masked_fill(reset[distance:], 0.0)
        terms = torch.cat([terms[:distance], terms[distance:] + earlier])
        if 2 * distance < length:
            factors = torch.cat([factors[:distance], factors[distance:] * factors[:-distance]])
            reset = torch.cat([reset[:distance], reset[distance:] | reset[:-distance]])
        distance *= 2
    return terms


def loop_over_steps(
    step: Callable[..., tuple[Tensor, ...]],
    inputs: Sequence[Tensor],
    reset: Tensor,
    state: Tensor,
    size: int,
    *,
    final_state: bool,
) -> tuple[Tensor, Tensor]:
    """An unroll as a loop over steps. Returns y [T, B, H] and state [B, S], both fp32; without `final_state` the state is empty.

    The loop ignores autocast and runs in the precision of the weights: fp32 in the learner, bf16 in an actor's copy
    (`AgentNetwork.lower_precision`). At the default sizes the fixed cost of a bf16 product on CPU exceeds the whole fp32 product, and
    autocast would also sum the gradients of all steps in bf16.

    Args:
        step: Maps the parts of the state, [B, H] fp32 each, and one step of each of `inputs` to the next parts. The first one is y.
        inputs: The terms that depend on x alone, each [T, B, ...], in the precision of the weights.
        reset, state, final_state: As in agents/network/core.py.
        size: H.
    """
    # Reading the resets from a device would synchronize. A fill at every step is cheaper.
    resets = reset.any(dim=1).tolist() if reset.device.type == "cpu" else [True] * len(reset)
    starts = send_one(reset, state.device).unsqueeze(2).unbind()
    parts, outputs = state.split(size, dim=1), []
    with torch.autocast(state.device.type, enabled=False):
        for t, terms in enumerate(zip(*(each.unbind() for each in inputs), strict=True)):
            if resets[t]:
                parts = tuple(part.masked_fill(starts[t], 0.0) for part in parts)
            parts = step(*parts, *terms)
            outputs.append(parts[0])
    return torch.stack(outputs), torch.cat(parts, dim=1) if final_state else state.new_empty(0)
