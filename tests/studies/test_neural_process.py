"""`python -m studies.neural_process`: the Gaussian process, the bound, and a small study from the command line to its files."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import multivariate_normal, norm

from studies.data.gaussian_process import REACH, GaussianProcess
from studies.harness.program import main
from studies.models.ensembles import Streams
from studies.neural_process import LEAST_DEVIATION, STUDY, NeuralProcess, _gains

pytestmark = pytest.mark.usefixtures("process_settings")

PROCESS = GaussianProcess(length_scale=0.7, noise=0.2)
TINY = [
    *("quick=true", "parallel=1", "seeds=2", "steps=12", "functions=4", "test_functions=4", "latent_samples=3"),
    *("latent_size=3", "encoder_width=8", "width=5", "most_context=4", "target_points=4", "context_sizes=[1,3]"),
]


def covariance(x: np.ndarray) -> np.ndarray:
    return np.exp(-((x[:, None] - x) ** 2) / (2 * 0.7**2)) + 0.2**2 * np.eye(len(x))


def test_initial_encodings_differ_between_functions() -> None:
    torch.manual_seed(0)
    network = NeuralProcess("film", 8, encoder_width=64, width=40, hidden_layers=2, rank=8)
    x, y = PROCESS.sample(50, 10, Streams([0], "test"))
    with torch.no_grad():
        z = network._infer(x[0], y[0], torch.ones(10)).mean
    assert 0.1 <= float(z.std(dim=0).mean()) <= 2


def test_log_densities_equal_those_of_scipy() -> None:
    x, y = PROCESS.sample(3, 6, Streams([0, 1], "test"))
    assert x.shape == y.shape == (2, 3, 6, 1) and x.abs().max() <= REACH
    found, predicted = PROCESS.log_density(x, y), PROCESS.predictive(x, y, 2)
    for place in np.ndindex(2, 3):
        points, values = x[place].squeeze(-1).double().numpy(), y[place].squeeze(-1).double().numpy()
        whole = multivariate_normal(np.zeros(6), covariance(points)).logpdf(values)
        given = multivariate_normal(np.zeros(2), covariance(points[:2])).logpdf(values[:2])
        assert found[place].item() == pytest.approx(whole, rel=1e-6)
        assert predicted[place].item() == pytest.approx(whole - given, rel=1e-6)


def test_samples_have_the_covariance_of_the_process() -> None:
    """Whitened samples have the squared norms of a standard normal distribution."""
    x, y = PROCESS.sample(4000, 5, Streams([0], "test"))
    surplus = PROCESS.log_density(x, y) - PROCESS.log_density(x, torch.zeros_like(y))
    # Minus half a chi-squared variable with five degrees of freedom.
    assert surplus.mean().item() == pytest.approx(-2.5, abs=0.1) and surplus.var().item() == pytest.approx(
        2.5, rel=0.15
    )


def test_the_bound_equals_its_formula() -> None:
    torch.manual_seed(0)
    model = NeuralProcess("film", 3, encoder_width=8, width=6, hidden_layers=1, rank=1)
    x, y, noise = torch.randn(2, 5, 1), torch.randn(2, 5, 1), torch.randn(4, 2, 3)
    given = torch.tensor([[1.0, 1, 1, 1, 1], [1, 1, 0, 0, 0]])
    with torch.no_grad():
        terms = model(x, y, given, noise)
        assert terms.shape == (4, 2, 5)
        for function in range(2):
            latent = []
            for number in (5, 2):
                points = torch.cat([x[function, :number], y[function, :number]], -1)
                raw = model.posterior(model.encoder(points).mean(0))
                latent.append((raw[:3], 0.1 + 0.9 * torch.sigmoid(raw[3:])))
            (mean, deviation), (other_mean, other_deviation) = latent
            divergence = (
                (other_deviation / deviation).log()
                + (deviation**2 + (mean - other_mean) ** 2) / (2 * other_deviation**2)
                - 0.5
            ).sum()
            for sample in range(4):
                z = mean + deviation * noise[sample, function]
                out = model.decoder(x[function : function + 1], z[None])[0]
                spread = LEAST_DEVIATION + torch.log1p(out[:, 1].exp())
                densities = norm(out[:, 0].numpy(), spread.numpy()).logpdf(y[function, :, 0].numpy())
                assert terms[sample, function].sum().item() == pytest.approx(
                    densities.sum() - divergence.item(), rel=1e-4
                )


def test_points_that_are_not_given_do_not_change_other_terms() -> None:
    model = NeuralProcess("mi", 3, encoder_width=8, width=6, hidden_layers=1, rank=1)
    x, y, noise = torch.randn(1, 5, 1), torch.randn(1, 5, 1), torch.randn(1, 1, 3)
    given = torch.tensor([[1.0, 1, 0, 0, 0]]).repeat(2, 1)
    other = y.clone()
    other[0, 4] += 1
    before, after = model(x, y, given, noise), model(x, other, given, noise)
    torch.testing.assert_close(before[..., :4], after[..., :4])
    assert not torch.allclose(before[..., 4], after[..., 4])


def test_a_small_study(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(STUDY, [*TINY, f"folder={tmp_path}"]) == 0
    content = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))
    found = content["findings"]
    assert [one["network"] for one in found["decoders"]] == ["concat", "mi"]
    assert len(found["exact"]) == 2 and all(len(one["target"]) == len(one["context"]) == 2 for one in found["decoders"])
    results = {name: cell["result"] for name, cell in content["cells"].items()}
    concat, mi = results["12-concat-0.003"], results["12-mi-0.003"]
    assert concat["exact"] == mi["exact"] and concat["target"] != mi["target"]
    assert all(math.isfinite(value) for result in results.values() for row in result["target"] for value in row)
    # The exact Gaussian process is the best possible model.
    assert np.mean(mi["exact"]) > np.mean(mi["target"])
    assert (tmp_path / "figure.png").exists() and "| exact GP | - | - | - |" in capsys.readouterr().out


def test_noise_below_the_least_deviation_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(STUDY, ["noise=0.01"]) == 2
    assert "noise=0.01 is out of range" in capsys.readouterr().err


def test_gains_are_those_of_the_mean_over_context_sizes() -> None:
    before, after = ({"mi": (0.1, {"target": [[low, -1.0], [low, -3.0]]})} for low in (-2.0, -1.5))
    assert _gains(before, after) == {"mi": [0.5, 0.0]}
