"""cross_attention on sequences: its equation in NumPy, padding, order, and its first outputs."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from agents.fusion.base import Tokens
from agents.fusion.cross_attention import CrossAttention
from agents.fusion.segments import Segments

X, Z, K, FEATURES, HEADS = 5, 4, 6, 3, 2


def make(x_size: int = X, z_size: int = Z, out_size: int = K, **options: int) -> CrossAttention:
    torch.manual_seed(0)
    return CrossAttention(x_size, z_size, out_size, **({"hidden": FEATURES, "heads": HEADS} | options)).double()


def draw_tokens(lengths: list[int], padding: int = 0, z_size: int = Z) -> Tokens:
    """Sequences of these lengths, with noise at the padding."""
    mask = torch.arange(max(lengths) + padding) < torch.tensor(lengths)[:, None]
    generator = torch.Generator().manual_seed(0)
    return Tokens(torch.randn(*mask.shape, z_size, generator=generator, dtype=torch.float64), mask)


def in_numpy(fusion: CrossAttention, x: Tensor, tokens: Tokens) -> np.ndarray:
    """The equation with loops over samples, heads and tokens: sample n reads the tokens of row n."""
    p = {name: parameter.detach().numpy() for name, parameter in fusion.named_parameters()}
    rows = []
    for x_n, z_n, mask in zip(x.numpy(), tokens.values.numpy(), tokens.mask.numpy(), strict=True):
        y = p["V"] @ x_n + p["b"]
        for h in range(HEADS):
            query = p["Q"][h] @ x_n
            # The empty token has the score 0 and the value 0.
            scores = np.array([0.0, *(query @ (p["A"][h] @ z) / np.sqrt(FEATURES) for z in z_n[mask])])
            weights = np.exp(scores) / np.exp(scores).sum()
            for a, z in zip(weights[1:], z_n[mask], strict=True):
                y = y + a * (p["D"][h] @ z) @ p["C"][h]
        rows.append(y)
    return np.array(rows)


@given(lengths=st.lists(st.integers(1, 5), min_size=1, max_size=6), padding=st.integers(0, 3))
def test_equals_its_equation_for_sequences_of_any_length(lengths: list[int], padding: int) -> None:
    fusion, tokens = make(), draw_tokens(lengths, padding)
    torch.nn.init.normal_(fusion.b)
    x = torch.randn(len(lengths), X, dtype=torch.float64)
    y = fusion.modulate(x, fusion.condition(tokens), Segments(torch.arange(len(x)), len(x)))
    np.testing.assert_allclose(y.detach(), in_numpy(fusion, x, tokens), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("padding", [1, 4])
def test_longer_padding_changes_nothing(padding: int) -> None:
    """Neither in the sequence nor in the modulation, where the cache appends zeros; values and gradients."""
    fusion, x = make(), torch.randn(8, X, dtype=torch.float64)
    segments = Segments(torch.tensor([0, 1, 2, 2, 1, 0, 0, 2]), 3)

    def run(tokens: Tokens, appended: int = 0) -> list[Tensor]:
        modulation = fusion.condition(tokens)
        modulation = tuple(
            torch.cat([part, part.new_zeros(3, appended, *part.shape[2:])], dim=1) for part in modulation
        )
        y = fusion.modulate(x, modulation, segments)
        return [y, *torch.autograd.grad(y.square().sum(), list(fusion.parameters()))]

    short = draw_tokens([2, 4, 1])
    longer = Tokens(
        torch.cat([short.values, 100 * torch.ones(3, padding, Z)], dim=1),
        torch.cat([short.mask, torch.zeros(3, padding, dtype=torch.bool)], dim=1),
    )
    torch.testing.assert_close(run(longer), run(short))
    torch.testing.assert_close(run(short, padding), run(short))


def test_a_sequence_of_one_token_is_a_vector() -> None:
    fusion, x = make(), torch.randn(7, X, dtype=torch.float64)
    tokens = draw_tokens([1] * 7)
    segments = Segments(torch.arange(7), 7)
    torch.testing.assert_close(fusion.modulate(x, fusion.condition(tokens), segments), fusion(x, tokens.values[:, 0]))


def test_one_token_is_not_merely_added() -> None:
    """y(x, z) - y(x, 0) depends on x, which `concat` cannot do."""
    fusion, x, z = make(), torch.randn(2, X, dtype=torch.float64), torch.randn(1, Z, dtype=torch.float64).expand(2, -1)
    effect = fusion(x, z) - fusion(x, torch.zeros_like(z))
    assert (effect[0] - effect[1]).abs().max() > 1e-2


def test_the_order_of_the_tokens_does_not_matter() -> None:
    """It is the encoder's business."""
    fusion, x = make(), torch.randn(1, X, dtype=torch.float64)
    values, mask = draw_tokens([4])
    turned = Tokens(values.flip(1), mask)
    one = Segments(torch.zeros(1, dtype=torch.long), 1)
    torch.testing.assert_close(
        fusion.modulate(x, fusion.condition(turned), one),
        fusion.modulate(x, fusion.condition(Tokens(values, mask)), one),
    )


@pytest.mark.parametrize("length", [1, 5, 20])
def test_starts_with_a_variance_near_one_for_every_number_of_words(length: int) -> None:
    fusion = make(64, 32, 48, hidden=16, heads=4)
    tokens = draw_tokens([length] * 200, z_size=32)
    with torch.no_grad():
        y = fusion.modulate(
            torch.randn(200, 64, dtype=torch.float64), fusion.condition(tokens), Segments(torch.arange(200), 200)
        )
    assert 0.5 < float(y.var()) < 2
