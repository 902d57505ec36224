"""The contexts of a batch (task id, instruction) and their encoding z.

The encoder runs once per distinct context, not once per step: equal contexts anywhere in the batch share one row. A segment is a stretch
of steps with the same context. It may be shorter than an episode, because an instruction can change within one.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from agents.fusion.padding import bucket_size
from agents.network.distinct import distinct_rows


class Contexts(NamedTuple):
    """U contexts: `task` int64 [U] and `instruction` int64 [U, L'].

    L' is the length of the longest instruction among them, rounded up to a bucket size but at most L; 0 if all are empty.
    """

    task: Tensor
    instruction: Tensor


class ContextEncoder(nn.Module):
    """Contexts -> z [U, Z].

    Args:
        kind: `task`, `instruction`, `both` or `none` (then Z = 0).
        vocabulary_size: Number of tokens. Token 0 is padding.
        task_encoding: `embedding` (learned, `task_size` features) or `one_hot` (num_tasks features).
        task_size, word_size, instruction_size: Features of the task embedding, of a word, and of the instruction LSTM.
        normalize: Layer normalisation of the encoded instruction. Without it the multiplicative term of a fusion starts about ten
            times too small, because an LSTM starts with outputs of about 0.1.

    Attributes:
        size: Z.
        reads_task, reads_instruction: The parts of the context.
        context_norm: Expected length |z|. Each feature of an embedding or of an instruction counts as a mean square of 1, and a one-hot
            code has the length 1.

    The instruction encoder is IMPALA's: embedding, LSTM, its output at the last word (Espeholt et al. 2018, section 5.3).
    """

    def __init__(
        self,
        kind: str,
        num_tasks: int,
        vocabulary_size: int,
        *,
        task_encoding: str = "embedding",
        task_size: int = 32,
        word_size: int = 32,
        instruction_size: int = 64,
        normalize: bool = True,
    ) -> None:
        super().__init__()
        self.reads_task, self.reads_instruction = kind in ("task", "both"), kind in ("instruction", "both")
        self.task_encoding = task_encoding
        self.num_tasks = num_tasks
        self.size = 0
        squared_norm = 0
        if self.reads_task:
            if task_encoding == "embedding":
                self.task_embedding = nn.Embedding(num_tasks, task_size)
                self.size += task_size
                squared_norm += task_size
            else:
                self.size += num_tasks
                squared_norm += 1
        if self.reads_instruction:
            self.word_embedding = nn.Embedding(vocabulary_size, word_size, padding_idx=0)
            self.instruction_lstm = nn.LSTM(word_size, instruction_size)
            self.normalize = nn.LayerNorm(instruction_size) if normalize else nn.Identity()
            self.size += instruction_size
            squared_norm += instruction_size
        self.context_norm = math.sqrt(squared_norm)

    def forward(self, contexts: Contexts) -> Tensor:
        """Contexts of U rows -> z [U, Z]."""
        parts = []
        if self.reads_task:
            if self.task_encoding == "embedding":
                parts.append(self.task_embedding(contexts.task))
            else:
                parts.append(nn.functional.one_hot(contexts.task, self.num_tasks).float())
        if self.reads_instruction:
            parts.append(self._encode_instruction(contexts.instruction))
        if not parts:
            return torch.zeros(contexts.task.shape[0], 0, device=contexts.task.device)
        return torch.cat(parts, dim=1)

    def _encode_instruction(self, tokens: Tensor) -> Tensor:
        """Tokens [U, L'] -> [U, instruction_size]. An empty instruction is read as one padding token."""
        if tokens.shape[1] == 0:
            tokens = tokens.new_zeros(tokens.shape[0], 1)
        outputs, _ = self.instruction_lstm(self.word_embedding(tokens).transpose(0, 1))
        last = (tokens != 0).sum(dim=1).clamp(min=1) - 1
        picked = outputs.gather(0, last.view(1, -1, 1).expand(1, -1, outputs.shape[2])).squeeze(0)
        return self.normalize(picked.float())  # type: ignore[no-any-return]

    def context_rows(self, task: NDArray[np.int32], instruction: NDArray[np.int32] | None) -> NDArray[np.int32]:
        """Contexts as rows of numbers: task [...] and instruction [..., L] -> [..., C], only what this encoder reads.

        C >= 1: an encoder that reads nothing gets a column of zeros, so that all contexts are equal.
        """
        parts = []
        if self.reads_task:
            parts.append(task[..., None])
        if self.reads_instruction:
            assert instruction is not None
            parts.append(instruction)
        if not parts:
            return np.zeros((*task.shape, 1), np.int32)
        return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=-1)

    @property
    def instruction_columns(self) -> slice:
        """The columns of `context_rows` that hold the instruction. The slice is empty if the encoder reads no instruction."""
        first = int(self.reads_task)
        return slice(first, None if self.reads_instruction else first)

    def contexts_from_rows(self, rows: NDArray[np.int32]) -> Contexts:
        """The inverse of `context_rows` for rows [U, C], U >= 1. What the encoder does not read is 0 or empty.

        The result is padded with copies of the first context to a bucket size (agents/fusion/padding.py).
        """
        rows = np.concatenate([rows, np.broadcast_to(rows[0], (bucket_size(len(rows)) - len(rows), rows.shape[1]))])
        task = rows[:, 0] if self.reads_task else np.zeros(len(rows), np.int32)
        tokens = rows[:, self.instruction_columns]
        used = np.flatnonzero(tokens.any(axis=0))
        length = bucket_size(int(used[-1]) + 1) if len(used) else 0
        return Contexts(torch.from_numpy(task.astype(np.int64)), torch.from_numpy(tokens[:, :length].astype(np.int64)))


def distinct_contexts(rows: NDArray[np.int32]) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """Distinct contexts of a batch, and the context of every step: rows [T, B, C] -> distinct [U, C] and index [T * B], time-major.

    `distinct[index]` is `rows` as [T * B, C]. Only the first row of each segment is searched for distinct rows.
    """
    length, batch, _ = rows.shape
    starts = np.ones((length, batch), bool)
    np.any(rows[1:] != rows[:-1], axis=2, out=starts[1:])
    # Segments are numbered column by column, so the number of a step's segment is a running count of the starts.
    segment = (np.cumsum(starts.T.reshape(-1)) - 1).reshape(batch, length).T
    distinct, number = distinct_rows(rows.transpose(1, 0, 2)[starts.T])
    return distinct, number[segment].reshape(-1)
