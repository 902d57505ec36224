"""An LSTM language model, plain or with a multiplicative encoder and decoder.

The plain one embeds a token, e_t; the core reads it, h_t = core(e_t, h_{t-1}); and a token v follows with logit <o_v, P h_t> + b_v, where
o_v is its output embedding. In the other one embeddings depend on what has been read so far, by one of agents.fusion:

    encoder: the core reads f(e_t, h_{t-1});
    decoder: the logit is <o_v, g(h_t, h_t)> + b_v.

To modulate each of the V output embeddings by a matrix W'(h_t) would come to the same as to modulate, once, what they are all compared
with by its transpose, and that is what g does. Both are `low_rank`, every feature of the state taking part: a full interaction has
H E^2 weights, several times as many as all the rest of the model.

Shapes: T steps, B texts, V symbols, E features of an embedding, H of the core's output.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from agents.fusion import LowRank
from agents.network.core import CORES
from agents.network.initialization import keep_variance

MOST_LOGITS = 2**24
"""That are in memory at a time: those of a whole step, with the 268,000 words of WikiText-103, would take 10 GB with their gradients."""


class Form(NamedTuple):
    """core: a name of agents.network.core.CORES. encoder, decoder: whether they are multiplicative."""

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
"""By name."""


class LanguageModel(nn.Module):
    """Embeddings, core and decoder.

    Args:
        symbols: V.
        size: H.
        rank: of both fusions.
        dropout: share of the features of embeddings and outputs of the core that a training step does without.
        tied: whether symbols have one embedding for both sides (Press and Wolf 2017).
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
        """Before anything has been read: zeros [B, S]."""
        return self.bias.new_zeros(texts, self.core.state_size)

    def forward(self, tokens: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """tokens [T, B] and the state [B, S] before them -> logits [T, B, V] of the token after each, and the state after all."""
        wanted, state = self._read(tokens, state)
        return self._logits(wanted).unflatten(0, tokens.shape), state

    def cost(self, tokens: Tensor, state: Tensor, following: Tensor) -> tuple[float, Tensor]:
        """tokens [T, B], the state [B, S] before them and the tokens after each [T, B] -> nats for each of these, their mean, and the state
        after all, without a gradient.
        """
        with torch.no_grad():
            wanted, state = self._read(tokens, state)
            return sum(part.item() for part in self._costs(wanted, following)), state

    def learn(self, tokens: Tensor, state: Tensor, following: Tensor) -> Tensor:
        """Adds the gradient of `cost` to that of the parameters. Returns the state after all, without a gradient."""
        wanted, state = self._read(tokens, state)
        # Cut here, so that no part of the logits is kept until the others are there.
        cut = wanted.detach().requires_grad_()
        for part in self._costs(cut, following):
            part.backward()
        wanted.backward(cut.grad)
        return state.detach()

    def _read(self, tokens: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """What output embeddings are compared with, [T * B, E], and the state after all."""
        embedded = self.embeddings(tokens)
        going_on = torch.zeros(tokens.shape, dtype=torch.bool)
        if self.encoder is None:
            read, state = self.core(self.dropout(embedded), going_on, state)
        else:
            # What a step reads depends on the step before. The first H features of the state are its output.
            steps = []
            for own in embedded:
                modulated = self.encoder(own, state[:, : self.core.size])
                output, state = self.core(self.dropout(modulated).unsqueeze(0), going_on[:1], state)
                steps.append(output)
            read = torch.cat(steps)
        flat = self.dropout(read.flatten(0, 1))
        return self.decoder(flat, flat) if isinstance(self.decoder, LowRank) else self.decoder(flat), state

    def _logits(self, wanted: Tensor) -> Tensor:
        """[N, E] -> [N, V]."""
        compared = (self.outputs or self.embeddings).weight
        # Embeddings have features of variance 1 at the start, and so have logits.
        return F.linear(wanted / math.sqrt(compared.shape[1]), compared, self.bias)

    def _costs(self, wanted: Tensor, following: Tensor) -> Iterator[Tensor]:
        """What is compared [T * B, E] and the tokens that follow [T, B] -> the mean of the nats for each of these, in parts that add up to
        it and have at most MOST_LOGITS logits.
        """
        size = max(1, MOST_LOGITS // len(self.bias))
        for part, own in zip(wanted.split(size), following.flatten().split(size), strict=True):
            yield F.cross_entropy(self._logits(part), own, reduction="sum") / len(wanted)
