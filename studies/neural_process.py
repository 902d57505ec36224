"""Regression from a few points by a neural process:  python -m studies.neural_process [quick=true] [key=value ...]
(every key: conf/studies_schema.py)

An encoder turns the given points into a normal distribution q(z | points). A decoder p(y | x, z) receives a sample z by one of the fusions;
decoders have as many parameters as the one with `mi` (Garnelo et al. 2018, "Neural Processes").

Measured: the held-out log-likelihood for each point, log (1/L) sum_l p(y | x, z_l) with z_l ~ q(z | context). It is taken of all
target points of a function together, and of its context points. Its expectation is a lower bound of the model's log-likelihood, closer
with more samples L.
"""

from __future__ import annotations

from agents.cli.signals import begin_program, run_program

if __name__ == "__main__":
    # The imports below take seconds.
    begin_program()

import itertools
import math
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn
from torch.distributions import Normal, kl_divergence
from torch.nn import functional as F  # noqa: N812

from ablation.analysis.numbers import estimate as with_interval
from ablation.analysis.numbers import fixed
from agents.network.initialization import RELU_GAIN, keep_variance
from conf.studies_schema import NeuralProcessConfig
from studies.data.gaussian_process import GaussianProcess
from studies.harness.jobs import SIZE, Checkpoint, Result, Settings
from studies.harness.program import Findings, Results, Study, main
from studies.harness.report import chosen_rates, convergence, excludes_zero, network_columns, over_seeds, panel
from studies.models.ensembles import Ensemble, Streams, as_numbers, curve_points, derived_seed, train
from studies.models.networks import MULTI_HEAD, PERCEPTRONS, FusedPerceptron, matched_width, num_parameters
from system.plain_data import MEASURED, check_form
from system.words import count

DECODERS = tuple(name for name in PERCEPTRONS if name != MULTI_HEAD)
EXACT = "exact GP"
"""Row of the process that the functions are drawn from."""
LEAST_DEVIATION = 0.05
"""Smallest standard deviation of the decoder, so that likelihoods stay finite. It is also the bound of `noise`."""
POINTS = 16
"""Most points of a learning curve."""
CONVERGED = 0.02
"""A decoder has converged if it gains less than this over the training with the next fewer steps, in nats for each target point."""


class NeuralProcess(nn.Module):
    """Encoder and decoder. Shapes: B functions with N points each, L samples of z."""

    def __init__(
        self, decoder: str, latent_size: int, *, encoder_width: int, width: int, hidden_layers: int, rank: int
    ) -> None:
        super().__init__()
        sizes = [2, encoder_width, encoder_width, encoder_width]
        layers = [nn.Linear(before, after) for before, after in itertools.pairwise(sizes)]
        self.encoder = nn.Sequential(layers[0], nn.ReLU(), layers[1], nn.ReLU(), layers[2])
        posterior = nn.Linear(encoder_width, 2 * latent_size)
        for layer in layers:
            keep_variance(layer, RELU_GAIN)
        keep_variance(posterior)
        self.posterior = nn.Sequential(nn.ReLU(), posterior)
        self.decoder = FusedPerceptron(decoder, 1, latent_size, 2, width=width, hidden_layers=hidden_layers, rank=rank)

    def forward(self, x: Tensor, y: Tensor, given: Tensor, noise: Tensor) -> Tensor:
        """The term of each point in the evidence lower bound; the sum over points is the bound.

        Args:
            x, y: [B, N, 1].
            given: 1 for points that q(z | points) is inferred from and 0 for others, [2, N]. The first row is for the posterior, from
                which z is drawn, the second row for the prior. With equal rows the divergence is 0 and the terms are log p(y | x, z).
            noise: N(0, 1), [L, B, Z].

        Returns:
            log p(y | x, z) - KL(posterior || prior) / N, [L, B, N].
        """
        posterior, prior = self._infer(x, y, given[0]), self._infer(x, y, given[1])
        z = posterior.mean + posterior.stddev * noise
        samples, functions = noise.shape[:2]
        decoded: Tensor = self.decoder(x.repeat(samples, 1, 1), z.flatten(0, 1)).unflatten(0, (samples, functions))
        mean, raw = decoded.unbind(-1)
        deviation = LEAST_DEVIATION + F.softplus(raw)
        squares = ((y.squeeze(-1) - mean) / deviation).square()
        densities = -0.5 * squares - deviation.log() - 0.5 * math.log(2 * math.pi)
        divergence: Tensor = kl_divergence(posterior, prior)
        return densities - divergence.sum(-1, keepdim=True) / x.shape[1]

    def _infer(self, x: Tensor, y: Tensor, given: Tensor) -> Normal:
        """q(z | given points), from the mean of their encodings."""
        encoded = self.encoder(torch.cat([x, y], -1))
        mean, raw = self.posterior((encoded * given.unsqueeze(-1)).sum(1) / given.sum()).chunk(2, -1)
        return Normal(mean, 0.1 + 0.9 * torch.sigmoid(raw), validate_args=False)


def play(settings: Settings, checkpoint: Checkpoint | None = None) -> Result:
    """Trains a neural process for each seed on the evidence lower bound of all points given the context.

    Returns:
        `width` and `parameters`, and by seed: `bounds`, the lower bound for each point on held-out functions after the numbers of steps
        in `steps`, and `validation`, the same at the end on other functions. For each context size the log-likelihoods for each point, of
        the `target` points and of the `context` points, and `exact`, of the target points by the Gaussian process itself.
    """
    seeds = settings["seeds"]
    make = partial(_network, settings, settings["network"])
    width = matched_width(make, num_parameters(partial(_network, settings, "mi"), settings["width"]))
    networks = Ensemble(lambda: make(width), seeds)
    process = GaussianProcess(length_scale=settings["length_scale"], noise=settings["noise"])
    batches, sizes = Streams(seeds, "training"), np.random.default_rng(derived_seed(0, "context sizes"))

    def bound(streams: Streams, functions: int, context: int) -> Tensor:
        points = context + settings["target_points"]
        x, y = process.sample(functions, points, streams)
        given = _given(len(seeds), (points, context), points)
        return networks(x, y, given, streams.normal(1, functions, settings["latent_size"])).mean((1, 2, 3))

    steps, middle = curve_points(10, settings["steps"], POINTS), settings["most_context"] // 2 + 1
    bounds: list[list[float]] = []

    def held_out(name: str) -> list[float]:
        """The bound on a fixed set of functions."""
        with torch.no_grad():
            return as_numbers(bound(Streams(seeds, name), settings["test_functions"], middle))

    train(
        list(networks.parameters.values()),
        # All seeds have the same number of context points, so that their points are one tensor.
        lambda: -bound(batches, settings["functions"], int(sizes.integers(1, settings["most_context"], endpoint=True))),
        steps=settings["steps"],
        learning_rate=settings["learning_rate"],
        after_step=lambda step: bounds.append(held_out("bounds")) if step in steps else None,
    )
    likelihoods = [_likelihoods(settings, networks, process, context) for context in settings["context_sizes"]]
    return {
        "width": width,
        "parameters": networks.num_parameters,
        "steps": steps,
        "bounds": bounds,
        "validation": held_out("validation"),
        **{key: [one[key] for one in likelihoods] for key in ("target", "context", "exact")},
    }


def _network(settings: Settings, decoder: str, width: int) -> NeuralProcess:
    sizes = {key: settings[key] for key in ("encoder_width", "hidden_layers", "rank")}
    return NeuralProcess(decoder, settings["latent_size"], width=width, **sizes)


def _given(seeds: int, numbers: tuple[int, int], points: int) -> Tensor:
    """The argument `given` of NeuralProcess.forward for every seed, [S, 2, N]: the first `numbers` of the points."""
    return (torch.arange(points) < torch.tensor(numbers).unsqueeze(1)).float().expand(seeds, -1, -1)


def _likelihoods(
    settings: Settings, networks: Ensemble, process: GaussianProcess, context: int
) -> dict[str, list[float]]:
    """Held-out log-likelihoods for each point by seed, means over functions."""
    seeds, functions, targets = settings["seeds"], settings["test_functions"], settings["target_points"]
    streams = Streams(seeds, f"test {context}")
    x, y = process.sample(functions, context + targets, streams)
    given = _given(len(seeds), (context, context), context + targets)
    parts: dict[str, list[Tensor]] = {"context": [], "target": []}
    with torch.no_grad():
        # One sample at a time, because all at once take a gigabyte.
        for _ in range(settings["latent_samples"]):
            densities = networks(x, y, given, streams.normal(1, functions, settings["latent_size"]))
            parts["context"].append(densities[:, 0, :, :context].sum(-1))
            parts["target"].append(densities[:, 0, :, context:].sum(-1))
    found = {
        name: (torch.stack(part).logsumexp(0) - math.log(len(part))).mean(-1) / number
        for (name, part), number in zip(parts.items(), (context, targets), strict=True)
    }
    found["exact"] = process.predictive(x, y, context).mean(-1) / targets
    return {name: as_numbers(values) for name, values in found.items()}


def check_result(settings: Settings, result: Result) -> None:
    """Raises PlainDataError for a result that `play` cannot return."""
    values = (MEASURED,) * len(settings["seeds"])
    likelihoods = {key: (values,) * len(settings["context_sizes"]) for key in ("target", "context", "exact")}
    curves = {"bounds": (values,) * len(curve_points(10, settings["steps"], POINTS)), "validation": values}
    check_form(result, {"width": SIZE, "parameters": SIZE, **curves, **likelihoods})


def find(config: NeuralProcessConfig, results: Results) -> Findings:
    """The table: log-likelihoods by decoder and number of context points, each decoder with its best learning rate."""
    budgets = sorted(config.steps)
    trained = {steps: chosen_rates(config, results, steps) for steps in budgets}
    # Figure, and the bounds of the process, are those of the longest training.
    best = trained[budgets[-1]]
    estimates = {
        (steps, network): {key: [over_seeds(values) for values in result[key]] for key in ("target", "context")}
        for steps, chosen in trained.items()
        for network, (_, result) in chosen.items()
    }
    exact = [over_seeds(values) for values in next(iter(best.values()))[1]["exact"]]
    sizes = config.context_sizes
    rows = [
        (
            f"{steps:,}",
            *network_columns(network, trained[steps][network][1], trained[steps][network][0]),
            *(with_interval(one, fixed(3)) for key in ("target", "context") for one in own[key]),
        )
        for (steps, network), own in estimates.items()
    ]
    rows.append(("-", EXACT, *["-"] * 3, *(with_interval(one, fixed(3)) for one in exact), *["-"] * len(sizes)))
    labels = "context points", "log-likelihood for each point"
    target, context = ([estimates[budgets[-1], network][key] for network in best] for key in ("target", "context"))
    bounds = [[over_seeds(values) for values in result["bounds"]] for _, result in best.values()]
    return Findings(
        sentences=(
            *(
                _comparison(config, steps, chosen["mi"][1], other, chosen[other][1])
                for steps, chosen in trained.items()
                for other in config.networks
                if "mi" in chosen and other != "mi"
            ),
            *(
                convergence(count(more, "step"), fewer, _gains(trained[fewer], trained[more]), CONVERGED)
                for fewer, more in itertools.pairwise(budgets)
            ),
        ),
        head=(
            *("steps", "decoder", "parameters", "width", "learning rate"),
            *(f"{kind}, {size} given" for kind in ("targets", "context") for size in sizes),
        ),
        rows=rows,
        panels=[
            panel("Target points", sizes, [*target, exact], labels, ("linear", "linear")),
            panel("Context points", sizes, context, labels, ("linear", "linear")),
            panel(
                "Training",
                curve_points(10, budgets[-1], POINTS),
                bounds,
                ("steps", "lower bound for each point"),
                ("log", "linear"),
            ),
        ],
        variants=[*config.networks, EXACT],
        numbers={
            "context_sizes": sizes,
            "decoders": [
                {"steps": steps, "network": network, "learning_rate": rate}
                | {key: result[key] for key in ("width", "parameters")}
                | estimates[steps, network]
                for steps, chosen in trained.items()
                for network, (rate, result) in chosen.items()
            ],
            "exact": exact,
        },
    )


def _gains(before: dict[str, tuple[float, Result]], after: dict[str, tuple[float, Result]]) -> dict[str, list[float]]:
    """By decoder, how much more likely a training makes target points than one with fewer steps, by seed; mean over context sizes."""
    return {
        name: np.subtract(result["target"], before[name][1]["target"]).mean(axis=0).tolist()
        for name, (_, result) in after.items()
    }


def _comparison(config: NeuralProcessConfig, steps: int, mi: Result, other: str, result: Result) -> str:
    """The lead of `mi` over another decoder on target points. Seeds share their functions, so differences are taken by seed."""
    parts = []
    for size, ours, theirs in zip(config.context_sizes, mi["target"], result["target"], strict=True):
        lead = over_seeds([mine - its for mine, its in zip(ours, theirs, strict=True)])
        verdict = "a difference" if excludes_zero(lead) else "no difference is shown"
        parts.append(f"{with_interval(lead, fixed(3))} with {size} given ({verdict})")
    return f"{count(steps, 'step')}: `mi` minus `{other}`, log-likelihood of target points: {', '.join(parts)}."


STUDY = Study(
    name="neural_process",
    about=__doc__,
    axes={"steps": "steps", "network": "networks", "learning_rate": "learning_rates"},
    choices={"networks": DECODERS},
    play=play,
    check_result=check_result,
    # The bound is better the higher it is.
    validation=lambda result: -float(np.mean(result["validation"])),
    find=find,
)

if __name__ == "__main__":
    run_program(lambda: main(STUDY))
