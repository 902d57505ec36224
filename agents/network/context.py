"""What the agent is told: which contexts a batch holds, and their encoding z.

The encoder runs once per distinct context, not once per step. Contexts are compared step by step, so an instruction that changes
inside an episode begins a new segment; equal contexts anywhere in the batch share one row.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from agents.fusion.padding import bucket_size

CONTEXTS = ("task", "instruction", "both", "none")
TASK_ENCODINGS = ("embedding", "one_hot")


class Contexts(NamedTuple):
    """U contexts: `task` int64 [U] and `instruction` int64 [U, L'], trimmed to about its longest (L' = 0: no instruction)."""

    task: Tensor
    instruction: Tensor


class ContextEncoder(nn.Module):
    """Contexts -> z [U, Z].

    Args:
        kind: `task`, `instruction`, `both` or `none` (then Z = 0).
        num_tasks: number of task ids.
        vocabulary_size: number of tokens; token 0 is padding.
        task_encoding: `embedding` (learned, `task_size` features) or `one_hot` (num_tasks features).
        task_size, word_size, instruction_size: features of the task embedding, of a word, and of the instruction LSTM.
        normalize: layer normalisation of the encoded instruction. An LSTM starts with outputs of about 0.1, and the
            multiplicative term of a fusion would start as quiet as that.

    Attributes:
        size: Z.
        context_norm: the length |z| to be expected: features have a mean square of 1, and one-hot ones together.

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
        self.kind = kind
        self.task_encoding = task_encoding
        self.num_tasks = num_tasks
        self.size = 0
        squares = 0
        if self.reads_task:
            if task_encoding == "embedding":
                self.task_embedding = nn.Embedding(num_tasks, task_size)
                self.size += task_size
                squares += task_size
            else:
                self.size += num_tasks
                squares += 1
        if self.reads_instruction:
            self.word_embedding = nn.Embedding(vocabulary_size, word_size, padding_idx=0)
            self.instruction_lstm = nn.LSTM(word_size, instruction_size)
            self.normalize = nn.LayerNorm(instruction_size) if normalize else nn.Identity()
            self.size += instruction_size
            squares += instruction_size
        self.context_norm = math.sqrt(squares)

    @property
    def reads_task(self) -> bool:
        """Whether the task id is part of the context."""
        return self.kind in ("task", "both")

    @property
    def reads_instruction(self) -> bool:
        """Whether the instruction is part of the context."""
        return self.kind in ("instruction", "both")

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
        """Tokens [U, L'] -> [U, instruction_size]; an empty instruction reads as one padding token."""
        if tokens.shape[1] == 0:
            tokens = tokens.new_zeros(tokens.shape[0], 1)
        outputs, _ = self.instruction_lstm(self.word_embedding(tokens).transpose(0, 1))
        last = (tokens != 0).sum(dim=1).clamp(min=1) - 1
        picked = outputs.gather(0, last.view(1, -1, 1).expand(1, -1, outputs.shape[2])).squeeze(0)
        return self.normalize(picked.float())  # type: ignore[no-any-return]

    def context_rows(self, task: NDArray[np.int32], instruction: NDArray[np.int32] | None) -> NDArray[np.int32]:
        """The numbers that make up the context: task [...] and instruction [..., L] -> [..., C], C >= 1."""
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
        """The columns of `context_rows` that hold the instruction; none of them for an encoder that reads none."""
        first = int(self.reads_task)
        return slice(first, None if self.reads_instruction else first)

    def contexts_from_rows(self, rows: NDArray[np.int32]) -> Contexts:
        """The inverse of `context_rows` for rows [U, C]. The first context is repeated at the end to a size that comes again
        (agents/fusion/padding.py), so the result may have more rows than were given.
        """
        rows = np.concatenate([rows, np.broadcast_to(rows[0], (bucket_size(len(rows)) - len(rows), rows.shape[1]))])
        task = rows[:, 0] if self.reads_task else np.zeros(len(rows), np.int32)
        tokens = rows[:, int(self.reads_task) :] if self.reads_instruction else np.zeros((len(rows), 0), np.int32)
        used = np.flatnonzero(tokens.any(axis=0))
        length = bucket_size(int(used[-1]) + 1) if len(used) else 0
        return Contexts(torch.from_numpy(task.astype(np.int64)), torch.from_numpy(tokens[:, :length].astype(np.int64)))


def distinct_rows(rows: NDArray[np.int32]) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """Distinct context rows of a batch and the row of every step.

    Args:
        rows: [T, B, C].

    Returns:
        distinct [U, C] and index [T * B] (time-major), so that `distinct[index]` is `rows` again. Only the first step of each
        segment - a stretch of a column in which the context stays the same - takes part in the search for distinct rows.
    """
    length, batch, _ = rows.shape
    starts = np.ones((length, batch), bool)
    np.any(rows[1:] != rows[:-1], axis=2, out=starts[1:])
    # Segments are numbered column by column, so that the number of a step is a running count of starts.
    segment = (np.cumsum(starts.T.reshape(-1)) - 1).reshape(batch, length).T
    first = np.ascontiguousarray(rows.transpose(1, 0, 2)[starts.T])
    keys = first.view(np.dtype((np.void, first.dtype.itemsize * first.shape[1]))).reshape(-1)
    _, chosen, inverse = np.unique(keys, return_index=True, return_inverse=True)
    return first[chosen], inverse.reshape(-1)[segment].reshape(-1)
