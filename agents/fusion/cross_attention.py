"""Cross-attention: the observation queries the tokens of the context, the words of an instruction one by one."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from agents.fusion.base import Fusion, Modulation, Tokens, bias, weight
from agents.fusion.gating import MEAN_SQUARE_OF_GATE
from agents.fusion.segments import Segments, grouped_linear

# Share of V x in the initial variance. The rest is that of one token, whose attention beside the empty one is a sigmoid.
_SHARE_X = 0.5


class CrossAttention(Fusion):
    """y = V x + b + sum_h C_h sum_s a_hs D_h z_s, a_h = softmax over tokens s of (Q_h x) . (A_h z_s) / sqrt(F): x selects what it reads.

    Vaswani et al. (2017), section 3.2.2, where x is the only query, the S tokens z_s of the context are keys and values, and V x is the
    residual path. Each of the H heads has F features. The softmax includes an empty token of score 0 and value 0. So a head may read
    nothing, and a context of one token, such as a task's, is not merely added: its weight is sigmoid((Q x) . (A z) / sqrt(F)).

    HF(X + 2Z + K) + KX + K parameters. `condition` takes `Tokens`, or vectors as contexts of one token. It multiplies keys and values by
    Q and C, so that the scores of all heads and tokens are one product with x, and the reading is another one.
    """

    linear_in_x = False
    reads_tokens = True
    uses_context_norm = True

    def __init__(
        self, x_size: int, z_size: int, out_size: int, *, hidden: int, heads: int, context_norm: float | None = None
    ) -> None:
        super().__init__(x_size, z_size, out_size)
        self.heads = heads
        squared_norm = context_norm**2 if context_norm else max(z_size, 1)
        # Queries, keys and values have variance 1, and so have the scores.
        self.Q = weight(heads, hidden, x_size, fan_in=x_size)
        self.A = weight(heads, hidden, z_size, fan_in=1, share=1 / squared_norm)
        self.D = weight(heads, hidden, z_size, fan_in=1, share=1 / squared_norm)
        self.C = weight(heads, hidden, out_size, fan_in=heads * hidden, share=(1 - _SHARE_X) / MEAN_SQUARE_OF_GATE)
        self.V = weight(out_size, x_size, fan_in=x_size, share=_SHARE_X)
        self.b = bias(out_size)

    def condition(self, z: Tensor | Tokens, samples: int | None = None) -> Modulation:
        """Contexts -> keys as weights of x [U, S, H, X], values mapped to the output [U, S, H, K], and the mask [U, S], 1 at tokens."""
        values, mask = z if isinstance(z, Tokens) else Tokens(z.unsqueeze(1), z.new_ones(len(z), 1, dtype=torch.bool))
        keys = torch.einsum("usz,hfz->ushf", values, self.A / math.sqrt(self.A.shape[1]))
        read = torch.einsum("usz,hfz->ushf", values, self.D)
        scoring, reading = (
            torch.einsum("ushf,hfk->ushk", part, matrix) for part, matrix in ((keys, self.Q), (read, self.C))
        )
        return scoring, reading, mask.to(scoring.dtype)

    def modulate(self, x: Tensor, modulation: Modulation, segments: Segments) -> Tensor:
        scoring, reading, mask = modulation
        scores = grouped_linear(x, scoring.flatten(1, 2), segments).view(len(x), -1, self.heads)
        scores = scores.masked_fill(segments.rows(mask).unsqueeze(2) == 0, -math.inf)
        # The empty token, first.
        attention = torch.softmax(F.pad(scores, (0, 0, 1, 0)), dim=1)[:, 1:]
        return F.linear(x, self.V, self.b) + grouped_linear(
            attention.flatten(1).to(x.dtype), reading.flatten(1, 2).transpose(1, 2), segments
        )
