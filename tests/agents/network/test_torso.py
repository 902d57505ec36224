"""Every torso compared with its layers written out."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from agents.network.torso import DeepTorso, GridTorso, MLPTorso, ShallowTorso

COUNTS = (5, 3, 2)


def grid_images(samples: int, side: int = 7, distinct: int = 6) -> Tensor:
    """Images, most of which occur more than once."""
    rng = np.random.default_rng(side)
    kinds = np.stack([rng.integers(0, count, (distinct, side, side)) for count in COUNTS], axis=-1)
    return torch.from_numpy(kinds[rng.integers(0, distinct, samples)].astype(np.uint8))


def plain_grid(torso: GridTorso, image: Tensor, vector: Tensor | None) -> Tensor:
    codes = [F.one_hot(image[..., channel].long(), count) for channel, count in enumerate(COUNTS)]
    x = torch.cat(codes, dim=-1).permute(0, 3, 1, 2).to(torso.linear.weight.dtype)
    for layer in torso.convolutions:
        x = F.relu(F.conv2d(x, layer.weight, layer.bias))  # type: ignore[arg-type]
    x = x.flatten(1) if vector is None else torch.cat([x.flatten(1), vector], dim=1)
    return F.relu(F.linear(x, torso.linear.weight, torso.linear.bias))


@pytest.mark.parametrize("side", [4, 7, 10])
@pytest.mark.parametrize("vector_size", [0, 3])
@pytest.mark.parametrize("samples", [1, 2, 40])
def test_grid_torso_equals_its_layers(side: int, vector_size: int, samples: int) -> None:
    """Values and gradients, for images that repeat."""
    torch.manual_seed(0)
    torso = GridTorso((side, side, 3), COUNTS, vector_size, size=5).double()
    image = grid_images(samples, side)
    vector = torch.randn(samples, vector_size, dtype=torch.float64) if vector_size else None
    observation = {"image": image} if vector is None else {"image": image, "vector": vector}
    y, expected = torso(observation), plain_grid(torso, image, vector)
    torch.testing.assert_close(y, expected)
    weights, parameters = torch.randn_like(y), list(torso.parameters())
    torch.testing.assert_close(
        torch.autograd.grad((y * weights).sum(), parameters),
        torch.autograd.grad((expected * weights).sum(), parameters),
    )


def test_grid_torso_convolves_each_distinct_image_once_with_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    torso = GridTorso((7, 7, 3), COUNTS, 0, size=5)
    seen = []
    monkeypatch.setattr(torso, "_convolve", lambda cell: seen.append(len(cell)) or torch.zeros(len(cell), 1024))
    assert torso({"image": grid_images(100, distinct=5)}).shape == (100, 5)
    assert seen == [5]
    with torch.inference_mode():
        torso({"image": grid_images(100, distinct=5)})
    assert seen == [5, 100], "an actor's images are not searched"


def test_grid_reads_every_code() -> None:
    torso = GridTorso((7, 7, 3), COUNTS, 0, size=5)
    image = torch.tensor([COUNTS]).sub(1).to(torch.uint8).expand(1, 7, 7, 3)
    assert torso._cells(image).unique().tolist() == [len(torso.one_hot) - 1]
    image = torch.tensor([1, 2, 0], dtype=torch.uint8).expand(1, 7, 7, 3)
    row = torso.one_hot[torso._cells(image)[0, 0, 0]]
    assert row.nonzero().flatten().tolist() == [1, COUNTS[0] + 2, COUNTS[0] + COUNTS[1]]


def plain_shallow(torso: ShallowTorso, x: Tensor) -> Tensor:
    x = F.relu(F.conv2d(x, torso.conv1.weight, torso.conv1.bias, stride=4))
    return F.relu(F.conv2d(x, torso.conv2.weight, torso.conv2.bias, stride=2))


def plain_deep(torso: DeepTorso, x: Tensor) -> Tensor:
    layers = [torso.first, *torso.stages]
    for conv, _pool, *residuals in (layers[i : i + 4] for i in range(0, 12, 4)):
        x = F.max_pool2d(conv(x), 3, stride=2, padding=1)
        for block in residuals:
            x = x + block.conv2(F.relu(block.conv1(F.relu(x))))
    return F.relu(x)


@pytest.mark.parametrize("vector_size", [0, 3])
@pytest.mark.parametrize(
    ("kind", "plain"),
    [
        (ShallowTorso, plain_shallow),
        (DeepTorso, plain_deep),
        (partial(DeepTorso, pools=True), lambda torso, x: plain_deep(torso, x).mean(dim=(2, 3))),
    ],
)
def test_pixel_torsos_equal_their_layers(
    kind: Callable[..., ShallowTorso | DeepTorso], plain: Callable[..., Tensor], vector_size: int
) -> None:
    """Values and gradients; pixels are read as [0, 1]."""
    torch.manual_seed(0)
    torso = kind((28, 36, 3), vector_size, size=5).double()
    image = torch.randint(0, 256, (4, 28, 36, 3), dtype=torch.uint8)
    vector = torch.randn(4, vector_size, dtype=torch.float64)
    y = torso({"image": image, "vector": vector} if vector_size else {"image": image})
    features = plain(torso, image.permute(0, 3, 1, 2).double() / 255).flatten(1)
    expected = F.relu(torso.linear(torch.cat([features, vector], dim=1)))
    torch.testing.assert_close(y, expected)
    weights, parameters = torch.randn_like(y), list(torso.parameters())
    torch.testing.assert_close(
        torch.autograd.grad((y * weights).sum(), parameters),
        torch.autograd.grad((expected * weights).sum(), parameters),
    )


def test_the_pooled_torso_has_the_same_size_for_every_image() -> None:
    """And the fusion on the map still reads the whole of it."""
    small, large = (DeepTorso((side, side, 3), 0, size=7, pools=True) for side in (20, 84))
    assert [p.shape for p in small.parameters()] == [p.shape for p in large.parameters()]
    seen = []
    image = torch.randint(0, 256, (2, 84, 84, 3), dtype=torch.uint8)
    assert large({"image": image}, lambda x: seen.append(x.shape) or x).shape == (2, 7)
    assert seen == [(2, *large.map_shape)] == [(2, 32, 11, 11)]


def test_a_new_shallow_torso_separates_similar_images() -> None:
    """A grey picture with one small square elsewhere; torch's own weights give a tenth of this."""
    torch.manual_seed(0)
    image = torch.full((16, 84, 84, 4), 90, dtype=torch.uint8)
    for number, picture in enumerate(image):
        picture[5 * number : 5 * number + 4, 40:44] = 236
    features = ShallowTorso((84, 84, 4), 0)({"image": image})
    assert features.std(dim=0).mean() > 0.005


def test_mlp_torso_equals_its_layers_and_is_the_identity_without_layers() -> None:
    torso, x = MLPTorso(4, sizes=(6, 5)), torch.randn(3, 4)
    torch.testing.assert_close(torso({"vector": x}), F.relu(torso.layers[1](F.relu(torso.layers[0](x)))))
    assert MLPTorso(4, sizes=())({"vector": x}) is x


@pytest.mark.parametrize(
    "make", [lambda: GridTorso((7, 7, 3), COUNTS, 0, size=16), lambda: ShallowTorso((36, 36, 3), 0, size=16)]
)
def test_half_precision_is_near(make: Callable[[], torch.nn.Module]) -> None:
    """Under autocast as in the learner, and with weights in that precision as in an actor."""
    torch.manual_seed(0)
    torso = make()
    image = (
        grid_images(12) if isinstance(torso, GridTorso) else torch.randint(0, 256, (4, 36, 36, 3), dtype=torch.uint8)
    )
    exact = torso({"image": image})
    with torch.autocast("cpu", torch.bfloat16):
        autocast = torso({"image": image})
    cast = torso.to(torch.bfloat16)({"image": image})
    assert autocast.dtype == cast.dtype == torch.bfloat16
    torch.testing.assert_close(autocast.float(), exact, rtol=0.05, atol=0.02)
    torch.testing.assert_close(cast.float(), exact, rtol=0.05, atol=0.02)
