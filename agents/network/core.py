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
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
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
        # On a device a step takes as long for many rows as for few, so one group is cheapest.
        layout = stretches(reset.cpu().numpy(), grouped=x.device.type == "cpu").on(x.device)
        padded = _Rows.apply(x.flatten(0, 1), layout.sample, layout.place)  # type: ignore[no-untyped-call]
        initial = torch.where(layout.first, state.index_select(0, layout.owner), 0.0).to(x.dtype)
        places, rows = [steps * rows for steps, rows in layout.groups], [rows for _, rows in layout.groups]
        outputs = []
        for (steps, size), part, start in zip(layout.groups, padded.split(places), initial.split(rows), strict=True):
            hidden, cell = (half.unsqueeze(0).contiguous() for half in start.chunk(2, dim=1))
            outputs.append(self.lstm(part.view(steps, size, -1), (hidden, cell))[0].flatten(0, 1))
        y = outputs[0] if len(outputs) == 1 else torch.cat(outputs)
        y = _Rows.apply(y, layout.place, layout.inverse)  # type: ignore[no-untyped-call]
        return y.view(*reset.shape, -1)  # type: ignore[no-any-return]

    def _final_state(self, x: Tensor, reset: Tensor, state: Tensor) -> Tensor:
        """State after the last step, by a loop over steps: the learner, which runs long unrolls, does not need it."""
        for step, starts in zip(x.split(1), send_one(reset, x.device).unsqueeze(2), strict=True):
            _, state = self._run(step, state.masked_fill(starts, 0.0))
        return state


class _Rows(torch.autograd.Function):
    """Rows x[index]. In the backward pass row n of x has the gradient of row inverse[n], or none if that is len(index).

    So it gathers where autograd, which does not know that each row has at most one gradient, would add.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, index: Tensor, inverse: Tensor) -> Tensor:
        ctx.save_for_backward(inverse)
        return x.index_select(0, index)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        (inverse,) = ctx.saved_tensors
        return torch.cat([grad, grad.new_zeros(1, grad.shape[1])]).index_select(0, inverse), None, None


class Stretches(NamedTuple):
    """The stretches between resets of [T, B] samples, as padded rows in groups of equal length. N = T B samples, R rows, P places.

    Attributes:
        groups: Steps and rows of each group. Its places are [steps, rows], and the groups' places follow one another.
        sample: int64 [P], the sample at each place. Padding repeats samples of its row.
        inverse: int64 [P], the sample at each place. N marks padding.
        place: int64 [N], the place of each sample.
        owner, first: The column of each row, int64 [R], and whether it starts at the first step, bool [R, 1].
    """

    groups: list[tuple[int, int]]
    sample: Tensor
    inverse: Tensor
    place: Tensor
    owner: Tensor
    first: Tensor

    def on(self, device: torch.device) -> Stretches:
        """The same on a device."""
        tensors = {key: value for key, value in self._asdict().items() if key != "groups"}
        return Stretches(self.groups, **send(tensors, device))


def stretches(reset: NDArray[np.bool_], *, grouped: bool) -> Stretches:
    """The stretches of reset [T, B]; a stretch also starts at the first step. Without `grouped` they are one group."""
    length, batch = reset.shape
    starts = reset.T.copy()
    starts[:, 0] = True
    column, start = starts.nonzero()
    following = np.append(start[1:], 0)
    sizes = np.where(following > start, following, length) - start
    # Round lengths up to a few buckets, so that oneDNN's kernels are reused (agents/fusion/padding.py).
    unit = -(-length // _LENGTHS)
    filled = np.minimum(-(-sizes // unit) * unit, length)
    place = np.empty(length * batch, np.int64)
    groups, rows, samples, inverses, offset = [], [], [], [], 0
    for least, most in group_lengths(np.bincount(filled)) if grouped else [(1, length)]:
        own = np.flatnonzero((filled >= least) & (filled <= most))
        padding = -len(own) % _ROWS
        own = np.append(own, np.repeat(own[:1], padding))
        size = sizes[own]
        size[len(own) - padding :] = 0
        time = np.arange(most)[:, None]
        sample = ((start[own] + np.minimum(time, np.maximum(size - 1, 0))) * batch + column[own]).ravel()
        used = (time < size).ravel()
        place[sample[used]] = offset + np.flatnonzero(used)
        samples.append(sample)
        inverses.append(np.where(used, sample, len(place)))
        groups.append((most, len(own)))
        rows.append(own)
        offset += len(sample)
    row = np.concatenate(rows)
    arrays = (np.concatenate(samples), np.concatenate(inverses), place, column[row], (start[row] == 0)[:, None])
    return Stretches(groups, *(torch.from_numpy(array) for array in arrays))


# Measured cost of a fused call on CPU, per call and per step, in units of one step of one row (forward and backward).
_CALL_COST, _STEP_COST = 320, 12
# Rows are padded to a multiple of this. With AMX 96 rows take half the time of 94. Without it only the padding costs.
_ROWS = 32 if torch.cpu._is_amx_tile_supported() else 8
# Number of bucket lengths of stretches.
_LENGTHS = 4


def group_lengths(counts: Sequence[int] | NDArray[np.int64]) -> list[tuple[int, int]]:
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
