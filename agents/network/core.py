"""The recurrent core. Contract of every core:

    core(x [T, B, X], reset bool [T, B], state fp32 [B, S], *, final_state=True) -> y [T, B, H], state fp32 [B, S]

It keeps these rules:

- The state is set to zero *before* step t wherever reset[t] is True. It is filled, because NaN times 0 is NaN.
- T calls of length 1 equal one call of length T.
- `reset` may be in host memory while x and the state are on a device, as in the learner. Reading it then does not synchronize.
- The state is one tensor, so trajectories and buffers do not depend on the core.
- With `final_state=False` the returned state is undefined and may be empty. The learner does not use it.
- `core.first_output` is approximately the root mean square of y in a new core, for inputs of variance 1.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from agents.fusion.device_transfer import send, send_one
from agents.network.gated_cores import GRUCore, MinGRUCore
from agents.network.initialization import RELU_GAIN, keep_variance
from agents.network.multiplicative_cores import (
    RECURRENT_OUTPUT,
    MogrifierCore,
    MultiplicativeIntegrationCore,
    MultiplicativeLSTMCore,
)


class LSTMCore(nn.Module):
    """One LSTM layer over an unroll, cut at resets. S = 2H: the hidden state, then the cell state.

    Each stretch between resets becomes one padded row of a fused call. On CPU this takes half the time of a packed sequence or of a
    loop over steps. Stretches are grouped by length, with one call per group, which limits the padding of short episodes.
    """

    first_output = RECURRENT_OUTPUT

    def __init__(self, x_size: int, size: int) -> None:
        super().__init__()
        self.size = size
        self.state_size = 2 * size
        self.lstm = nn.LSTM(x_size, size)

    def forward(self, x: Tensor, reset: Tensor, state: Tensor, *, final_state: bool = True) -> tuple[Tensor, Tensor]:
        state = state.masked_fill(send_one(reset[0], x.device).unsqueeze(1), 0.0)
        if len(reset) == 1 and not torch.is_grad_enabled():
            return self._step(x[0], state)
        if not bool(reset[1:].any()):
            return self._run(x, state)
        y = self._run_stretches(x, reset, state)
        if not final_state:
            return y, state.new_empty(0)
        return y, self._final_state(x, reset, state)

    def _step(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """One acting step, without the fused kernel, which would rearrange all its weights first."""
        weight_x, weight_h, bias_x, bias_h = self.lstm.all_weights[0]
        hidden, cell = state.chunk(2, dim=1)
        gates = F.linear(x, weight_x, bias_x) + F.linear(hidden.to(x.dtype), weight_h, bias_h)
        gates = gates.float()
        candidate = gates[:, 2 * self.size : 3 * self.size].tanh()
        keep_in, forget, _, out = gates.sigmoid_().chunk(4, dim=1)
        state = torch.empty_like(state)
        hidden, next_cell = state.chunk(2, dim=1)
        torch.mul(forget, cell, out=next_cell).addcmul_(keep_in, candidate)
        torch.mul(out, next_cell.tanh(), out=hidden)
        return hidden.unsqueeze(0), state

    def _run(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        hidden, cell = (part.unsqueeze(0).contiguous() for part in state.to(x.dtype).chunk(2, dim=1))
        y, (hidden, cell) = self.lstm(x, (hidden, cell))
        return y, torch.cat([hidden[0], cell[0]], dim=1).float()

    def _run_stretches(self, x: Tensor, reset: Tensor, state: Tensor) -> Tensor:
        """Outputs only. Padded rows run past their end, so their last state is undefined."""
        length, batch = reset.shape
        starts = reset.t().clone()
        starts[:, 0] = True
        column, start = starts.nonzero(as_tuple=True)
        following = torch.cat([start[1:], start.new_zeros(1)])
        sizes = torch.where(following > start, following, length) - start
        flat = x.reshape(length * batch, -1)
        # Round lengths up to a few buckets, so that oneDNN's kernels are reused (agents/fusion/padding.py).
        unit = -(-length // _LENGTHS)
        filled = (torch.div(sizes + unit - 1, unit, rounding_mode="floor") * unit).clamp(max=length)
        outputs, samples = [], []
        # On a device a step takes as long for many rows as for few, so one group is cheapest.
        on_cpu = x.device.type == "cpu"
        for least, most in group_lengths(torch.bincount(filled).tolist()) if on_cpu else [(1, length)]:
            rows = ((filled >= least) & (filled <= most)).nonzero().squeeze(1)
            size, begin, owner = (_rounded(part[rows]) for part in (sizes, start, column))
            size[len(rows) :] = 0
            time = torch.arange(most, device=reset.device).unsqueeze(1)
            # Sample number of every place [most, rows]. Padding repeats a sample of the row and is not read back.
            sample = (begin + torch.minimum(time, (size - 1).clamp(min=0))) * batch + owner
            place = (time < size).flatten().nonzero().squeeze(1)
            samples.append(sample.flatten()[place])
            layout = {"sample": sample.flatten(), "owner": owner, "first": (begin == 0).unsqueeze(1), "place": place}
            layout = send(layout, x.device)
            initial = torch.where(layout["first"], state[layout["owner"]], 0.0)
            y, _ = self._run(flat.index_select(0, layout["sample"]).view(most, len(size), -1), initial)
            outputs.append(y.reshape(-1, self.size).index_select(0, layout["place"]))
        order = torch.empty(length * batch, dtype=torch.long, device=reset.device)
        order[torch.cat(samples)] = torch.arange(length * batch, device=reset.device)
        return torch.cat(outputs).index_select(0, send_one(order, x.device)).view(length, batch, -1)

    def _final_state(self, x: Tensor, reset: Tensor, state: Tensor) -> Tensor:
        """State after the last step, by a loop over steps: the learner, which runs long unrolls, does not need it."""
        for step, starts in zip(x.split(1), send_one(reset, x.device).unsqueeze(2), strict=True):
            _, state = self._run(step, state.masked_fill(starts, 0.0))
        return state


# Measured cost of a fused call on CPU, per call and per step, in units of one step of one row (forward and backward).
_CALL_COST, _STEP_COST = 320, 12
# Rows are padded to a multiple of this: 96 rows take half the time of 94.
_ROWS = 32
# Number of bucket lengths of stretches.
_LENGTHS = 4


def _rounded(rows: Tensor) -> Tensor:
    """`rows` [R], the first one repeated until R is a multiple of _ROWS."""
    return torch.cat([rows, rows[:1].expand(-len(rows) % _ROWS)])


def group_lengths(counts: Sequence[int]) -> list[tuple[int, int]]:
    """Splits rows, counts[n] of length n, into groups by length, at the least total cost if each is padded to its longest row.

    Returns (shortest, longest) of each group, in increasing order. Every length that occurs is in one group.
    """
    lengths = np.flatnonzero(counts)
    before = np.concatenate([[0], np.cumsum(np.asarray(counts)[lengths])])
    # least[n]: cost of the n shortest lengths. cut[n]: first index of the last of their groups.
    least, cut = np.zeros(len(lengths) + 1), np.zeros(len(lengths) + 1, int)
    for n, longest in enumerate(lengths, start=1):
        rows = -(-(before[n] - before[:n]) // _ROWS) * _ROWS
        cost = least[:n] + _CALL_COST + longest * (rows + _STEP_COST)
        cut[n] = cost.argmin()
        least[n] = cost[cut[n]]
    groups, n = [], len(lengths)
    while n:
        groups.append((int(lengths[cut[n]]), int(lengths[n - 1])))
        n = cut[n]
    return groups[::-1]


class FeedForwardCore(nn.Module):
    """No memory: y = relu(linear(x)), S = 0, as in IMPALA's feed-forward agents."""

    first_output = 1.0

    def __init__(self, x_size: int, size: int) -> None:
        super().__init__()
        self.size = size
        self.state_size = 0
        self.linear = nn.Linear(x_size, size)
        keep_variance(self.linear, RELU_GAIN)

    def forward(self, x: Tensor, reset: Tensor, state: Tensor, *, final_state: bool = True) -> tuple[Tensor, Tensor]:
        return torch.relu(self.linear(x)), state


Core: TypeAlias = (
    LSTMCore
    | GRUCore
    | MinGRUCore
    | MogrifierCore
    | MultiplicativeLSTMCore
    | MultiplicativeIntegrationCore
    | FeedForwardCore
)

CORES: dict[str, Callable[..., Core]] = {
    "lstm": LSTMCore,
    "gru": GRUCore,
    "mingru": MinGRUCore,
    "mogrifier": MogrifierCore,
    "mlstm": MultiplicativeLSTMCore,
    "mi_lstm": MultiplicativeIntegrationCore,
    "feedforward": FeedForwardCore,
}
"""Name in the config -> class. All take (x_size, size). mogrifier also takes `rounds`."""
