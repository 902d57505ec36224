"""Networks with a context equal the same computation for one context at a time."""

from __future__ import annotations

import pytest
import torch

from agents.fusion import FUSIONS
from agents.fusion.segments import identity_segments
from studies.models.networks import (
    MULTI_HEAD,
    PERCEPTRONS,
    FusedPerceptron,
    for_each_context,
    matched_width,
    num_parameters,
    perceptron,
)

SIZES = {"x_size": 3, "z_size": 4, "out_size": 2}


@pytest.mark.parametrize("name", [name for name in PERCEPTRONS if name != MULTI_HEAD])
@pytest.mark.parametrize("samples", [1, 7])
def test_for_each_context_equals_the_fusion(name: str, samples: int) -> None:
    fusion = FUSIONS[name](3, 4, 2, **({"rank": 3} if name == "low_rank" else {}))
    x, z = torch.randn(5, samples, 3), torch.randn(5, 4)
    together = for_each_context(fusion, x, z)
    for context in range(5):
        expected = fusion(x[context], z[context].expand(samples, -1))
        torch.testing.assert_close(together[context], expected, rtol=1e-4, atol=1e-5)


def test_every_layer_reads_the_context() -> None:
    network = perceptron("concat", **SIZES, width=6, hidden_layers=2, rank=1)
    assert isinstance(network, FusedPerceptron) and len(network.layers) == 3
    x, z = torch.randn(2, 5, 3), torch.randn(2, 4)
    expected = x[1]
    for number, layer in enumerate(network.layers):
        # A ReLU halves the mean square.
        expected = 2**0.5 * expected.relu() if number else expected
        expected = layer.modulate(expected, layer.condition(z[1:]), identity_segments(1))
    torch.testing.assert_close(network(x, z)[1], expected)


@pytest.mark.parametrize("name", PERCEPTRONS)
def test_initial_outputs_differ_between_inputs_and_between_contexts(name: str) -> None:
    """Bounds the standard deviation of the output over x and over z."""
    torch.manual_seed(0)
    network = perceptron(name, 1, 8, 1, width=40, hidden_layers=3, rank=8)
    x = torch.linspace(-2, 2, 100).view(1, 100, 1).expand(20, -1, -1)
    with torch.no_grad():
        y = network(x, torch.randn(20, network.z_size) / network.z_scale)
    assert 0.1 <= float(y.std(dim=1).mean()) <= 3 and 0.1 <= float(y.std(dim=0).mean()) <= 3


def test_a_head_for_each_context() -> None:
    network = perceptron(MULTI_HEAD, **SIZES, width=6, hidden_layers=1, rank=1)
    x, z = torch.randn(2, 5, 3), torch.randn(2, network.z_size) / network.z_scale
    assert z.shape == (2, 2 * 7)
    features = network.layers[0](x).relu()
    for context in range(2):
        head = z[context].view(7, 2)
        torch.testing.assert_close(network(x, z)[context], features[context] @ head[:6] + head[6])


@pytest.mark.parametrize("name", PERCEPTRONS)
def test_matched_width_has_the_nearest_number_of_parameters(name: str) -> None:
    def make(width: int) -> torch.nn.Module:
        return perceptron(name, **SIZES, width=width, hidden_layers=2, rank=3)

    for wanted in (1, 700, num_parameters(make, 17)):
        width = matched_width(make, wanted)
        distance = [abs(num_parameters(make, other) - wanted) for other in range(1, 60)]
        assert distance[width - 1] == min(distance)
    assert width == 17
