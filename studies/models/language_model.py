"""An LSTM language model, plain or with a multiplicative encoder and decoder.

The plain model embeds a token, e_t, and the core reads it, h_t = core(e_t, h_{t-1}). The logit of a next token v is <o_v, P h_t> + b_v,
where o_v is its output embedding. In the multiplicative model embeddings depend on the text so far, by a fusion of agents.fusion:

    encoder: the core reads f(e_t, h_{t-1});
    decoder: the logit is <o_v, g(h_t, h_t)> + b_v.

Modulating each of the V output embeddings by a matrix W'(h_t) equals modulating once, by its transpose, the vector that they are multiplied
with: this is g. Both fusions are `low_rank` on all features of the state, because a full interaction has H E^2 weights, several times as
many as the rest of the model.

Shapes: T steps, B texts, V symbols, E features of an embedding, H of the core's output.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from agents.fusion.multiplicative import LowRank
from agents.network.core import CORES
from agents.network.initialization import keep_variance

MOST_LOGITS = 2**24
"""Most logits in memory. With the 268,000 words of WikiText-103, all logits of a step and their gradients take 10 GB."""


class Form(NamedTuple):
    """`core` is a name of agents.network.core.CORES; `encoder` and `decoder` are whether they are multiplicative."""

    core: str
    encoder: bool = False
    decoder: bool = False


FORMS: dict[str, Form] = {
    "lstm": Form("lstm"),
    "multiplicative": Form("lstm", encoder=True, decoder=True),
    "multiplicative_encoder": Form("lstm", encoder=True),
    "multiplicative_decoder": Form("lstm", decoder=True),
    "mogrifier": Form("mogrifier"),
    "mlstm": Form("mlstm"),
    "mi_lstm": Form("mi_lstm"),
}


class LanguageModel(nn.Module):
    """Embeddings, core and decoder.

    Args:
        symbols: V.
        size: H.
        rank: Of both fusions.
        dropout: Probability of dropping a feature of embeddings and of the core's outputs.
        tied: Whether input and output embeddings are the same (Press and Wolf 2017).
    """

    def __init__(
        self, form: Form, symbols: int, *, embedding_size: int, size: int, rank: int, dropout: float, tied: bool
    ) -> None:
        super().__init__()
        self.embeddings = nn.Embedding(symbols, embedding_size)
        self.encoder = LowRank(embedding_size, size, embedding_size, rank=rank) if form.encoder else None
        self.core = CORES[form.core](embedding_size, size)
        self.decoder = (
            LowRank(size, size, embedding_size, rank=rank) if form.decoder else nn.Linear(size, embedding_size)
        )
        if isinstance(self.decoder, nn.Linear):
            keep_variance(self.decoder)
        self.outputs = None if tied else nn.Embedding(symbols, embedding_size)
        self.bias = nn.Parameter(torch.zeros(symbols))
        self.dropout = nn.Dropout(dropout)

    def initial_state(self, texts: int) -> Tensor:
        """The state before the first token: zeros [B, S]."""
        return self.bias.new_zeros(texts, self.core.state_size)

    def forward(self, tokens: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """tokens [T, B], the state [B, S] before them -> logits [T, B, V] of the next tokens, and the state after the last one."""
        vectors, state = self._read(tokens, state)
        return self._logits(vectors).unflatten(0, tokens.shape), state

    def cost(self, tokens: Tensor, state: Tensor, following: Tensor) -> tuple[float, Tensor]:
        """tokens [T, B], the state [B, S] before them, the next tokens [T, B] -> mean nats of the next tokens, and the state after the
        last one, without a gradient.
        """
        with torch.no_grad():
            vectors, state = self._read(tokens, state)
            return sum(part.item() for part in self._costs(vectors, following)), state

    def learn(self, tokens: Tensor, state: Tensor, following: Tensor) -> Tensor:
        """Adds the gradient of `cost` to the parameters' gradients. Returns the state after the last token, without a gradient."""
        vectors, state = self._read(tokens, state)
        # The graph is cut here, so that each part of the logits is freed before the next one is made.
        cut = vectors.detach().requires_grad_()
        for part in self._costs(cut, following):
            part.backward()
        vectors.backward(cut.grad)
        return state.detach()

    def _read(self, tokens: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """The vectors that output embeddings are multiplied with, [T * B, E], and the state after the last token."""
        embedded = self.embeddings(tokens)
        no_resets = torch.zeros(tokens.shape, dtype=torch.bool)
        if self.encoder is None:
            read, state = self.core(self.dropout(embedded), no_resets, state)
        else:
            # The input of a step depends on the previous step, whose output is the first H features of the state.
            steps = []
            for own in embedded:
                modulated = self.encoder(own, state[:, : self.core.size])
                output, state = self.core(self.dropout(modulated).unsqueeze(0), no_resets[:1], state)
                steps.append(output)
            read = torch.cat(steps)
        flat = self.dropout(read.flatten(0, 1))
        return self.decoder(flat, flat) if isinstance(self.decoder, LowRank) else self.decoder(flat), state

    def _logits(self, vectors: Tensor) -> Tensor:
        """[N, E] -> [N, V]."""
        weight = (self.outputs or self.embeddings).weight
        # Initial embeddings have variance 1; this gives the logits variance 1, too.
        return F.linear(vectors / math.sqrt(weight.shape[1]), weight, self.bias)

    def _costs(self, vectors: Tensor, following: Tensor) -> Iterator[Tensor]:
        """The mean nats of the next tokens `following` [T, B], as summands with at most MOST_LOGITS logits each."""
        size = max(1, MOST_LOGITS // len(self.bias))
        for part, own in zip(vectors.split(size), following.flatten().split(size), strict=True):
            yield F.cross_entropy(self._logits(part), own, reduction="sum") / len(vectors)
