"""The contexts of a batch (task id, instruction, or a vector of the suite) and their encoding z.

The encoder runs once per distinct context, not once per step: equal contexts anywhere in the batch share one row. A segment is a stretch
of steps with the same context. It may be shorter than an episode, because an instruction can change within one.

Noise on z is a function of the context's seed, an integer that belongs to the episode and travels with the trajectory. So actor and learner
read the same z, and z is constant as long as the context is: it is still encoded once, per context and episode.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from agents.fusion.base import Tokens
from agents.fusion.padding import bucket_size
from agents.network.distinct import distinct_rows
from agents.network.instructions import READERS, SentenceTable, read
from envs.seeding import uniform

CONTEXT_KEYS = ("instruction", "context")
"""Keys of a trajectory that only the context encoder reads."""


class Contexts(NamedTuple):
    """U contexts: `task` int64 [U] and `instruction` int64 [U, L'].

    L' is the length of the longest instruction among them, rounded up to a bucket size but at most L; 0 if all are empty.

    Attributes:
        vector: f32 [U, V], given by the suite. None unless the encoder reads it.
        noise: Standard normal numbers f32 [U, S, Z] for each token; S is 1 for a vector z. None without noise.
        is_kept: bool [U], False where z is zero. None without dropout.
    """

    task: Tensor
    instruction: Tensor
    noise: Tensor | None = None
    is_kept: Tensor | None = None
    vector: Tensor | None = None

    def tensors(self) -> dict[str, Tensor]:
        """The arrays by name, without those that are None."""
        return {key: array for key, array in self._asdict().items() if array is not None}


class ContextEncoder(nn.Module):
    """Contexts -> z [U, Z], or as `Tokens` with Z features each.

    The tokens of a context are the words of its instruction, each with the features of the task beside its own. A context without an
    instruction, or with one of a table, is one token: z itself.

    Args:
        kind: `task`, `instruction`, `both`, `vector` (z is the suite's vector) or `none` (then Z = 0).
        vocabulary_size: Number of tokens. Token 0 is padding.
        task_encoding: `embedding` (learned, `task_size` features) or `one_hot` (num_tasks features).
        encoder: How instructions are read, one of agents.network.instructions.READERS.
        table: Looks instructions up, instead of `encoder`.
        vector_size: Numbers of the suite's vector, V.
        task_size, word_size, instruction_size: Features of the task embedding, of a word, and of what the encoder returns.
        normalize: Layer normalisation of the encoded instruction and of its words. Without it the multiplicative term of a fusion starts
            about ten times too small, because an LSTM starts with outputs of about 0.1.
        noise: Standard deviation of the noise on the task's features, on those of the instruction and on each word, relative to the root
            mean square of these features. The signal-to-noise ratio |z|^2 / E|noise|^2 of each is 1 / noise^2, whatever the scale of z.
        dropout: Share of the seeds for which z is zero.

    Attributes:
        noise, dropout: May be changed before a policy acts.
        tokens_have_noise: Whether noise is drawn for each token instead of for z alone; set by AgentNetwork.
        size: Z. The last `instruction_size` of them belong to the instruction.
        reads_task, reads_instruction, reads_vector: The parts of the context.
        context_norm: Expected length |z|. Each feature of an embedding or of an instruction counts as a mean square of 1, and a one-hot
            code or a vector of the suite has the length 1.
    """

    def __init__(
        self,
        kind: str,
        num_tasks: int,
        vocabulary_size: int,
        *,
        task_encoding: str = "embedding",
        encoder: str = "lstm",
        table: SentenceTable | None = None,
        vector_size: int = 0,
        task_size: int = 32,
        word_size: int = 32,
        instruction_size: int = 64,
        normalize: bool = True,
        noise: float = 0.0,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.noise, self.dropout, self.tokens_have_noise = noise, dropout, False
        self.reads_task, self.reads_instruction = kind in ("task", "both"), kind in ("instruction", "both")
        self.reads_vector = kind == "vector"
        self.task_encoding = task_encoding
        self.num_tasks = num_tasks
        self.size = 0
        self.instruction_size = 0
        squared_norm = 0
        if self.reads_task:
            if task_encoding == "embedding":
                self.task_embedding = nn.Embedding(num_tasks, task_size)
                self.size += task_size
                squared_norm += task_size
            else:
                self.size += num_tasks
                squared_norm += 1
        self.table = table if self.reads_instruction else None
        if self.reads_instruction:
            self.instruction_size = table.size if table else instruction_size
            if table is None:
                self.word_embedding = nn.Embedding(vocabulary_size, word_size, padding_idx=0)
                self._reader = f"instruction_{encoder}"
                self.add_module(self._reader, READERS[encoder](word_size, instruction_size))
            # Frozen vectors have a mean square of 1 already.
            learned = table is None or table.linear is not None
            self.normalize = nn.LayerNorm(self.instruction_size) if normalize and learned else nn.Identity()
            self.size += self.instruction_size
            squared_norm += self.instruction_size
        if self.reads_vector:
            self.size += vector_size
            squared_norm += 1
        self.context_norm = math.sqrt(squared_norm)

    def forward(self, contexts: Contexts, *, tokens: bool = False) -> Tensor | Tokens:
        """Contexts of U rows -> z [U, Z]. With `tokens` Tokens of S = max(1, L')."""
        parts, mask, noise = [], None, contexts.noise
        if self.reads_task:
            if self.task_encoding == "embedding":
                task = self.task_embedding(contexts.task)
            else:
                task = nn.functional.one_hot(contexts.task, self.num_tasks).float()
            # The same noise for all tokens: a mean over them would have less.
            parts.append(task if noise is None else self._disturb(task, noise[:, 0, : task.shape[1]]))
        if self.reads_instruction:
            instruction, mask = self._encode_instruction(contexts.instruction, words=tokens)
            if noise is not None:
                own = noise[:, :, -self.instruction_size :]
                instruction = self._disturb(instruction, own if instruction.dim() == 3 else own[:, 0])
            parts.append(instruction)
        if self.reads_vector:
            assert contexts.vector is not None
            parts.append(contexts.vector if noise is None else self._disturb(contexts.vector, noise[:, 0]))
        if not parts:
            parts = [torch.zeros(contexts.task.shape[0], 0, device=contexts.task.device)]
        if contexts.is_kept is not None:
            parts = [part.masked_fill(~contexts.is_kept.view(-1, *[1] * (part.dim() - 1)), 0.0) for part in parts]
        if not tokens:
            return torch.cat(parts, dim=1)
        if mask is None:
            mask = parts[0].new_ones(len(parts[0]), 1, dtype=torch.bool)
        parts = [part if part.dim() == 3 else part.unsqueeze(1).expand(-1, mask.shape[1], -1) for part in parts]
        return Tokens(torch.cat(parts, dim=2), mask)

    def _disturb(self, features: Tensor, noise: Tensor) -> Tensor:
        """features [..., F] with noise relative to their root mean square. Its gradient counts: a larger z does not escape the noise."""
        norm: Tensor = torch.linalg.vector_norm(features, dim=-1, keepdim=True)
        return features + (self.noise / math.sqrt(features.shape[-1])) * norm * noise

    def _encode_instruction(self, tokens: Tensor, *, words: bool) -> tuple[Tensor, Tensor | None]:
        """Tokens [U, L'] -> the whole instructions [U, F]; with `words` the words [U, max(1, L'), F] and their mask. A table has no words.

        An empty instruction is read as one padding token.
        """
        if self.table is not None:
            return self.normalize(self.table(tokens).float()), None
        if tokens.shape[1] == 0:
            tokens = tokens.new_zeros(tokens.shape[0], 1)
        mask = tokens != 0
        mask[:, 0] = True
        embedded = self.word_embedding(tokens).transpose(0, 1)
        each, whole = read(self.get_submodule(self._reader), embedded, mask)
        return self.normalize((each.transpose(0, 1) if words else whole).float()), mask

    def refuse_unseen(self, contexts: Contexts) -> None:
        """Raises InputError if the encoder looks instructions up and cannot encode one of these. Waits for the device."""
        if self.table is not None:
            self.table.refuse_unseen(contexts.instruction)

    def example_instruction(self, length: int) -> NDArray[np.int32]:
        """Tokens [length] of an instruction that `refuse_unseen` accepts: the empty one, or a table's first."""
        empty = np.zeros(length, np.int32)
        return empty if self.table is None else self.table.tokens[0].cpu().numpy()

    def context_rows(
        self,
        task: NDArray[np.int32],
        instruction: NDArray[np.int32] | None,
        vector: NDArray[np.float32] | None = None,
    ) -> NDArray[np.int32]:
        """Contexts as rows of numbers: task [...], instruction [..., L] and vector [..., V] -> [..., C], only what this encoder reads.

        Floats are there as their bits. C >= 1: an encoder that reads nothing gets a column of zeros, so that all contexts are equal.
        """
        parts = []
        if self.reads_task:
            parts.append(task[..., None])
        if self.reads_instruction:
            assert instruction is not None
            parts.append(instruction)
        if self.reads_vector:
            assert vector is not None
            parts.append(np.ascontiguousarray(vector, np.float32).view(np.int32))
        if not parts:
            return np.zeros((*task.shape, 1), np.int32)
        return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=-1)

    @property
    def varies(self) -> bool:
        """Whether a task has several contexts: instructions, or vectors of the suite."""
        return self.reads_instruction or self.reads_vector

    @property
    def reads_seeds(self) -> bool:
        """Whether z depends on the context's seed."""
        return self.noise > 0 or self.dropout > 0

    def add_seeds(self, rows: NDArray[np.int32], seeds: NDArray[np.int32]) -> NDArray[np.int32]:
        """The rows [..., C] of `context_rows` with one more column, from their seeds [...], integers above 0, for `contexts_from_rows`.

        It is 0 where the context is dropped. Without noise it is otherwise 1, so that equal contexts stay equal. An encoder that reads no
        seeds gets the rows unchanged.
        """
        if not self.reads_seeds:
            return rows
        column = seeds if self.noise else np.ones_like(seeds)
        if self.dropout:
            is_dropped = uniform(seeds.astype(np.uint64), np.zeros(1, np.uint64)) < 2 * self.dropout - 1
            column = np.where(is_dropped, np.int32(0), column)
        return np.concatenate([rows, column[..., None]], axis=-1)

    @property
    def instruction_columns(self) -> slice:
        """The columns of `context_rows` that hold the instruction, or the vector. The slice is empty if the encoder reads neither."""
        first = int(self.reads_task)
        return slice(first, None if self.varies else first)

    def contexts_from_rows(self, rows: NDArray[np.int32]) -> Contexts:
        """The inverse of `context_rows`, or of `add_seeds` if the encoder reads seeds, for rows [U, C], U >= 1.

        What the encoder does not read is 0 or empty.
        The result is padded with copies of the first context to a bucket size (agents/fusion/padding.py).
        """
        rows = np.concatenate([rows, np.broadcast_to(rows[0], (bucket_size(len(rows)) - len(rows), rows.shape[1]))])
        seeds = np.zeros(len(rows), np.int32)
        if self.reads_seeds:
            rows, seeds = rows[:, :-1], rows[:, -1]
        task = rows[:, 0] if self.reads_task else np.zeros(len(rows), np.int32)
        columns = rows[:, self.instruction_columns]
        tokens, bits = (columns, columns[:, :0]) if self.reads_instruction else (columns[:, :0], columns)
        used = np.flatnonzero(tokens.any(axis=0))
        length = bucket_size(int(used[-1]) + 1) if len(used) else 0
        shape = max(1, length) if self.tokens_have_noise else 1, self.size
        return Contexts(
            torch.from_numpy(task.astype(np.int64)),
            torch.from_numpy(tokens[:, :length].astype(np.int64)),
            torch.from_numpy(_normal(seeds, math.prod(shape))).view(len(rows), *shape) if self.noise else None,
            torch.from_numpy(seeds != 0) if self.dropout else None,
            torch.from_numpy(np.ascontiguousarray(bits).view(np.float32)) if self.reads_vector else None,
        )


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


def _normal(seeds: NDArray[np.int32], count: int) -> NDArray[np.float32]:
    """Standard normal numbers, [U, count], of seeds [U]. The first ones do not depend on `count`. By Box and Muller (1958)."""
    # Counter 0 decides about dropout.
    unit = uniform(seeds.astype(np.uint64)[:, None], np.arange(1, 2 * count + 1, dtype=np.uint64))
    radius, angle = unit[:, 0::2], unit[:, 1::2]
    normal: NDArray[np.float32] = np.sqrt(-2 * np.log((1 - radius) / 2)) * np.cos(np.float32(np.pi) * angle)
    return normal
