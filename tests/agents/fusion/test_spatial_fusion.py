"""Fusions on feature maps: their equations position by position, their two readings, and their initialisation."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from test_family import spatial
from test_fusion import disturbed, draw, gradients
from torch import Tensor

from agents.fusion.segments import Segments
from agents.fusion.spatial import SPATIAL_FUSIONS, SpatialFusion

CASES = [(name, {}) for name in sorted(SPATIAL_FUSIONS)] + [("attention", {"keys": "content"})]
IDS = ["-".join([name, *options.values()]) for name, options in CASES]
SHAPE = (3, 2, 4)
every = pytest.mark.parametrize(("name", "options"), CASES, ids=IDS)


def film(f: SpatialFusion, x: Tensor, z: Tensor) -> Tensor:
    """x [C, H, W], z [Z], as below."""
    return torch.stack([(1 + f.G[c] @ z + f.g[c]) * x[c] + f.U[c] @ z + f.b[c] for c in range(len(x))])  # type: ignore[index]


def gated_attention(f: SpatialFusion, x: Tensor, z: Tensor) -> Tensor:
    return torch.stack([2 * torch.sigmoid(f.U[c] @ z + f.c[c]) * x[c] for c in range(len(x))])  # type: ignore[index]


def attention(f: SpatialFusion, x: Tensor, z: Tensor) -> Tensor:
    query = f.Q @ z + f.q  # type: ignore[operator]
    places = [(row, column) for row in range(x.shape[1]) for column in range(x.shape[2])]
    content = f.A if hasattr(f, "A") else torch.zeros(len(x), len(x), dtype=x.dtype)
    keys = [content @ x[:, row, column] + f.r[number] for number, (row, column) in enumerate(places)]  # type: ignore[index, operator]
    shares = torch.softmax(torch.stack([query @ key / len(x) ** 0.5 for key in keys]), dim=0)
    y = torch.empty_like(x)
    for share, (row, column) in zip(shares, places, strict=True):
        y[:, row, column] = len(places) * share * (f.V @ x[:, row, column] + f.b)  # type: ignore[operator]
    return y


def dynamic_conv(f: SpatialFusion, x: Tensor, z: Tensor) -> Tensor:
    side, channels = int(f.kernel), len(x)  # type: ignore[arg-type]
    kernel = f.V.view(channels, channels, side, side) + torch.einsum(  # type: ignore[operator]
        "z,zoiab->oiab",
        z / len(z) ** 0.5,
        f.W.view(len(z), channels, channels, side, side),  # type: ignore[operator]
    )
    y = torch.empty_like(x)
    for row in range(x.shape[1]):
        for column in range(x.shape[2]):
            y[:, row, column] = z @ f.U + f.b  # type: ignore[operator]
            for a in range(side):
                for b in range(side):
                    r, c = row + a - side // 2, column + b - side // 2
                    if 0 <= r < x.shape[1] and 0 <= c < x.shape[2]:
                        y[:, row, column] += kernel[:, :, a, b] @ x[:, r, c]
    return y


EQUATIONS: dict[str, Callable[[SpatialFusion, Tensor, Tensor], Tensor]] = {
    "film": film,
    "gated_attention": gated_attention,
    "attention": attention,
    "dynamic_conv": dynamic_conv,
}


@every
def test_equals_its_equation(name: str, options: dict[str, str]) -> None:
    fusion = disturbed(spatial(name, 4, SHAPE, **options))
    x, z = draw(5, *SHAPE), draw(5, 4)
    with torch.no_grad():
        expected = torch.stack([EQUATIONS[name](fusion, *pair) for pair in zip(x, z, strict=True)])  # type: ignore[arg-type]
        torch.testing.assert_close(fusion(x, z), expected)


@every
@pytest.mark.parametrize("index", [[0] * 5, [3, 1, 4, 0, 2], [2, 2, 0, 2, 0], [7, 0, 7, 3, 3]])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_modulate_by_segment_equals_the_plain_reading(
    name: str, options: dict[str, str], index: list[int], layout: torch.memory_format
) -> None:
    fusion = disturbed(spatial(name, 4, SHAPE, **options))
    rows, count = torch.tensor(index), max(index) + 1
    x = draw(5, *SHAPE).contiguous(memory_format=layout).requires_grad_()
    z, weights = draw(count, 4).requires_grad_(), draw(5, *SHAPE)
    plain = fusion(x, z[rows])
    by_segment = fusion.modulate(x, fusion.condition(z, len(index)), Segments(rows, count))
    assert by_segment.shape == x.shape
    torch.testing.assert_close(by_segment, plain)
    torch.testing.assert_close(
        gradients(fusion, by_segment, weights, x, z), gradients(fusion, plain, weights, x, z), rtol=1e-6, atol=1e-9
    )


@every
@pytest.mark.parametrize("z_size", [1, 8, 64, 512])
def test_output_starts_with_unit_variance(name: str, options: dict[str, str], z_size: int) -> None:
    fusion = spatial(name, z_size, (16, 4, 4), **options)
    with torch.no_grad():
        y = fusion(draw(64, 16, 4, 4), draw(64, z_size))
    # Zero padding reduces the sums of a convolution at the border.
    assert 0.5 < float(y[:, :, 1:3, 1:3].var()) < 2


@every
def test_gradient_reaches_everything_and_a_zero_context_leaves_a_path(name: str, options: dict[str, str]) -> None:
    fusion = spatial(name, 4, SHAPE, **options)
    x, z = draw(7, *SHAPE).requires_grad_(), draw(7, 4).requires_grad_()
    found = gradients(fusion, fusion(x, z), draw(7, *SHAPE), x, z)
    for (label, _), gradient in zip([("x", x), ("z", z), *fusion.named_parameters()], found, strict=True):
        assert gradient.abs().max() > 1e-3, f"no gradient reaches {label}"
    y = fusion(x, torch.zeros(7, 4, dtype=x.dtype))
    assert torch.linalg.matrix_rank(y.flatten(1)) == 7


@every
def test_half_precision_is_near(name: str, options: dict[str, str]) -> None:
    fusion = spatial(name, 4, (8, 3, 3), **options).float()
    rows = torch.tensor([2, 0, 2, 1, 1, 1])
    x, z = torch.randn(6, 8, 3, 3), torch.randn(3, 4)
    exact = fusion.modulate(x, fusion.condition(z), Segments(rows, 3))
    with torch.autocast("cpu", torch.bfloat16):
        rough = fusion.modulate(x.bfloat16(), fusion.condition(z), Segments(rows, 3))
    torch.testing.assert_close(rough.float(), exact, rtol=0.05, atol=0.1)


@every
def test_works_without_a_context(name: str, options: dict[str, str]) -> None:
    fusion = spatial(name, 0, SHAPE, **options)
    x = draw(7, *SHAPE)
    by_segment = fusion.modulate(x, fusion.condition(draw(1, 0)), Segments(torch.zeros(7, dtype=torch.long), 1))
    torch.testing.assert_close(by_segment, fusion(x, draw(7, 0)))
