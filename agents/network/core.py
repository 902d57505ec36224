"""The recurrent core. Contract of every core:

    core(x [T, B, X], reset bool [T, B], state [B, S]) -> y [T, B, H], state [B, S]

The state is set to zero *before* step t wherever reset[t] is True. T calls of length 1 equal one call of length T.
The state is one tensor, so that trajectories and buffers need not know what is in it.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class LSTMCore(nn.Module):
    """One LSTM layer over an unroll, cut at resets; S = 2H, the hidden state then the cell state.

    Each stretch between resets becomes a padded row of its own in one fused call. On CPU that takes half the time of a packed
    sequence or of a loop over steps.
    """

    def __init__(self, x_size: int, size: int) -> None:
        super().__init__()
        self.size = size
        self.state_size = 2 * size
        self.lstm = nn.LSTM(x_size, size)

    def forward(self, x: Tensor, reset: Tensor, state: Tensor, *, final_state: bool = True) -> tuple[Tensor, Tensor]:
        """See the module docstring. With `final_state=False` the returned state is empty: the learner has no use for it."""
        state = torch.where(reset[0].unsqueeze(1), 0.0, state)
        if not bool(reset[1:].any()):
            return self._run(x, state)
        y = self._run_stretches(x, reset, state)
        if not final_state:
            return y, state.new_empty(0)
        return y, self._final_state(x, reset, state)

    def _run(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        hidden, cell = (part.unsqueeze(0).contiguous() for part in state.to(x.dtype).chunk(2, dim=1))
        y, (hidden, cell) = self.lstm(x, (hidden, cell))
        return y, torch.cat([hidden[0], cell[0]], dim=1).float()

    def _run_stretches(self, x: Tensor, reset: Tensor, state: Tensor) -> Tensor:
        """Outputs only: padded rows run past their end, so their last state means nothing."""
        length, batch = reset.shape
        starts = reset.t().clone()
        starts[:, 0] = True
        # Rows are numbered column by column; `row` and `offset` say where step (t, b) lies in the padded [longest, R] layout.
        row = starts.flatten().cumsum(0).view(batch, length) - 1
        column, start = starts.nonzero(as_tuple=True)
        time = torch.arange(length, device=x.device)
        offset = time - start[row]
        rows = len(start)
        longest = int(offset.max()) + 1
        slot = (offset * rows + row).t().reshape(-1)
        # Padding reads sample 0: any finite number would do, nothing of it is read back.
        source = torch.zeros(longest * rows, dtype=torch.long, device=x.device)
        source[slot] = torch.arange(length * batch, device=x.device)
        padded = x.reshape(length * batch, -1).index_select(0, source).view(longest, rows, -1)
        initial = torch.where((start == 0).unsqueeze(1), state[column], 0.0)
        y, _ = self._run(padded, initial)
        return y.reshape(longest * rows, -1).index_select(0, slot).view(length, batch, -1)

    def _final_state(self, x: Tensor, reset: Tensor, state: Tensor) -> Tensor:
        """State after the last step: the last stretch of each column, run again as a packed sequence, which ends where it ends."""
        length = reset.shape[0]
        time = torch.arange(length, device=x.device).unsqueeze(1)
        start = torch.where(reset, time, 0).max(dim=0).values
        initial = torch.where((start == 0).unsqueeze(1), state, 0.0)
        index = (start + time).clamp(max=length - 1)
        shifted = x.gather(0, index.unsqueeze(2).expand(-1, -1, x.shape[2]))
        packed = nn.utils.rnn.pack_padded_sequence(shifted, (length - start).cpu(), enforce_sorted=False)
        hidden, cell = (part.unsqueeze(0).contiguous() for part in initial.to(x.dtype).chunk(2, dim=1))
        _, (hidden, cell) = self.lstm(packed, (hidden, cell))
        return torch.cat([hidden[0], cell[0]], dim=1).float()


class FeedForwardCore(nn.Module):
    """No memory: y = relu(linear(x)), S = 0, as the feed-forward agents of the Atari experiments."""

    def __init__(self, x_size: int, size: int) -> None:
        super().__init__()
        self.size = size
        self.state_size = 0
        self.linear = nn.Linear(x_size, size)

    def forward(self, x: Tensor, reset: Tensor, state: Tensor, *, final_state: bool = True) -> tuple[Tensor, Tensor]:
        """See the module docstring."""
        return torch.relu(self.linear(x)), state


CORES: dict[str, type[LSTMCore] | type[FeedForwardCore]] = {"lstm": LSTMCore, "feedforward": FeedForwardCore}
