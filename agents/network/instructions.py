"""Readers of instructions: features of each word, and of the whole instruction. And a frozen table of sentences.

Shapes: U instructions of at most L' words, W features of an embedded word, F features of the result. Longer padding changes nothing: what
stands at padding is never read.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from agents.network.initialization import keep_variance
from system.errors import InputError

_HEADS, _LAYERS = 4, 2
"""Of the transformer."""


class Bag(nn.Linear):
    """Each word alone, by one linear map. The whole instruction, their mean, does not depend on the order of the words."""

    def __init__(self, word_size: int, size: int) -> None:
        super().__init__(word_size, size)
        keep_variance(self)


class Transformer(nn.Module):
    """Two pre-norm layers of self-attention in 4 heads over the words and their positions (Vaswani et al. 2017).

    InputError if `size` is no multiple of 4.
    """

    def __init__(self, word_size: int, size: int) -> None:
        super().__init__()
        if size % _HEADS:
            raise InputError(
                f"context.instruction_size={size} cannot be shared out among the {_HEADS} heads of context.encoder=transformer: give a "
                f"multiple of {_HEADS}."
            )
        self.linear = nn.Linear(word_size, size)
        keep_variance(self.linear)
        layer = nn.TransformerEncoderLayer(size, _HEADS, 2 * size, dropout=0.0, norm_first=True)
        self.layers = nn.TransformerEncoder(layer, _LAYERS, enable_nested_tensor=False)

    def forward(self, embedded: Tensor, mask: Tensor) -> Tensor:
        """Embedded words [L', U, W] and mask [U, L'], True at words -> [L', U, F]."""
        x = self.linear(embedded)
        return self.layers(x + _positions(x).unsqueeze(1), src_key_padding_mask=~mask)  # type: ignore[no-any-return]


READERS: dict[str, Callable[[int, int], nn.Module]] = {
    "lstm": nn.LSTM,
    "gru": nn.GRU,
    "bag": Bag,
    "transformer": Transformer,
}
"""`context.encoder` -> class. All take (W, F). `table` looks whole sentences up instead (SentenceTable)."""


def read(reader: nn.Module, embedded: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """The words [L', U, F] and the whole instructions [U, F]: a recurrent reader's output at the last word, else the words' mean.

    Args:
        embedded: [L', U, W].
        mask: bool [U, L'], True at words. Each instruction has a word, and words come before padding.
    """
    if isinstance(reader, nn.RNNBase):
        # IMPALA's instruction encoder (Espeholt et al. 2018, section 5.3).
        words = reader(embedded)[0]
        last = mask.sum(dim=1) - 1
        return words, words.gather(0, last.view(1, -1, 1).expand(1, -1, words.shape[2])).squeeze(0)
    words = reader(embedded, mask) if isinstance(reader, Transformer) else reader(embedded)
    return words, torch.where(mask.t().unsqueeze(2), words, 0).sum(dim=0) / mask.sum(dim=1, keepdim=True)


class SentenceTable(nn.Module):
    """Instructions, as tokens [U, L'] -> the vectors that another model has computed for their sentences, of mean square 1, [U, F].

    The table consists of parameters without gradient. So it travels with the weights to actors, checkpoints and exported agents, which do
    not need the file (agents/storage/sentences.py). A new table is empty; `fill` sets it.

    Args:
        shape: Number of sentences M and features of a vector D.
        length: Tokens of an instruction, L.
        vocabulary: Word of every token.
        size: A learned linear layer maps the vectors to F = `size` features; 0: none, F = D.
        by_words: An instruction that is not in the table is the mean of its words' vectors. Without it `refuse_unseen` raises InputError.
    """

    _hash_weights: Tensor

    def __init__(
        self, shape: Sequence[int], length: int, vocabulary: Sequence[str], *, size: int, by_words: bool
    ) -> None:
        super().__init__()
        sentences, features = shape
        self._vocabulary = tuple(vocabulary)
        weights = np.random.default_rng(0).integers(-(2**63), 2**63, length)
        self.register_buffer("_hash_weights", torch.tensor(weights), persistent=False)
        self.tokens = nn.Parameter(torch.zeros(sentences, length, dtype=torch.int32), requires_grad=False)
        self.vectors = nn.Parameter(torch.zeros(sentences, features), requires_grad=False)
        self.words = nn.Parameter(torch.zeros(len(vocabulary), features), requires_grad=False) if by_words else None
        self.linear = nn.Linear(features, size) if size else None
        if self.linear is not None:
            keep_variance(self.linear)
        self.size = size or features

    @torch.no_grad()
    def fill(self, tokens: Tensor, vectors: Tensor, words: Tensor) -> None:
        """Sets the sentences [M, L], their vectors [M, D], and the vectors of all words [len(vocabulary), D]."""
        self.tokens.copy_(tokens)
        self.vectors.copy_(vectors)
        if self.words is not None:
            self.words.copy_(words)

    def forward(self, tokens: Tensor) -> Tensor:
        row, found = self._find(tokens)
        z = self.vectors[row]
        if self.words is not None:
            # The sum has the direction of the mean. Token 0, padding, has a vector of zeros.
            z = torch.where(found.unsqueeze(1), z, self.words[tokens].sum(dim=1))
        z = F.normalize(z, dim=1) * math.sqrt(z.shape[1])
        return z if self.linear is None else self.linear(z)

    def refuse_unseen(self, tokens: Tensor) -> None:
        """Raises InputError, with the instruction, if one of [U, L'] is not in the table and `by_words` is off."""
        if self.words is not None:
            return
        _, found = self._find(tokens)
        if not bool(found.all()):
            unseen = tokens[~found][0].tolist()
            text = " ".join(self._vocabulary[token] for token in unseen if token)
            raise InputError(
                f'context.table has no sentence "{text}": write it into the file of a new run, or start one with context.unseen=words.'
            )

    def _find(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """The row of each instruction [U, L'], and whether it is in the table, bool [U]. No value is read from a device."""
        tokens = F.pad(tokens, (0, self.tokens.shape[1] - tokens.shape[1]))
        # Compares hashes first, because comparing all words of U M pairs would take L times as long.
        _, row = (self._hash(tokens).unsqueeze(1) == self._hash(self.tokens)).max(dim=1)
        return row, (self.tokens[row] == tokens).all(dim=1)

    def _hash(self, tokens: Tensor) -> Tensor:
        """A sum of the tokens with random weights modulo 2^64, int64 [N]."""
        return (tokens.long() * self._hash_weights).sum(dim=1)


def _positions(x: Tensor) -> Tensor:
    """Sinusoids of the positions of x [L', U, F], [L', F] (Vaswani et al. 2017, section 3.5)."""
    length, _, size = x.shape
    frequency = torch.exp(torch.arange(0, size, 2, device=x.device) * (-math.log(10_000.0) / size))
    angle = torch.arange(length, device=x.device).unsqueeze(1) * frequency
    return torch.stack([angle.sin(), angle.cos()], dim=2).flatten(1).to(x.dtype)
