"""Regression from a few points by a neural process:  python -m studies.neural_process [quick=true] [key=value ...]
(every key: conf/studies_schema.py)

An encoder makes a normal distribution q(z | points) of the points that are given, and a decoder p(y | x, z) hears a sample z of it through
one of the fusions; decoders have as many parameters as the one with `mi` (Garnelo et al. 2018, "Neural Processes"). Reported is the
held-out log-likelihood for each point, log (1/L) sum_l p(y | x, z_l) with z_l ~ q(z | context), of a function's target points taken
together, and likewise of its context points. In expectation it is a lower bound of what the model itself would give, closer with more
samples L.
"""

from __future__ import annotations

from agents.cli.signals import begin_program, run_program

if __name__ == "__main__":
    # The imports below take seconds.
    begin_program()

import itertools
import math
from collections.abc import Mapping
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn
from torch.distributions import Normal, kl_divergence
from torch.nn import functional as F  # noqa: N812

from ablation.analysis.numbers import count, fixed
from agents.network.initialization import RELU_GAIN, keep_variance
from conf.studies_schema import NeuralProcessConfig
from studies.data.gaussian_process import GaussianProcess
from studies.harness.figures import Figure, band, curves
from studies.harness.program import (
    Findings,
    Study,
    check_above_zero,
    check_names,
    check_numbers,
    check_rates,
    main,
    seeds_of,
)
from studies.harness.running import SIZE, Cell, Result, Settings, begun_anew
from studies.harness.tables import over_seeds, with_interval
from studies.models.ensembles import Ensemble, Streams, as_numbers, derived_seed, train
from studies.models.networks import MULTI_HEAD, PERCEPTRONS, FusedPerceptron, matched_width, num_parameters
from system.errors import InputError
from system.plain_data import MEASURED, check_form

DECODERS = tuple(name for name in PERCEPTRONS if name != MULTI_HEAD)
EXACT = "exact GP"
"""Row of the process that drew the functions."""
LEAST_DEVIATION = 0.05
"""Of what the decoder says, so that no likelihood goes to infinity."""
POINTS = 16
"""Of a learning curve, at most."""

_SHARED = (
    *("latent_size", "encoder_width", "width", "hidden_layers", "rank", "steps", "functions", "most_context"),
    *("target_points", "length_scale", "noise", "test_functions", "context_sizes", "latent_samples"),
)


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
        """The terms of the evidence lower bound that belong to each point; their sum over points is the bound.

        Args:
            x, y: [B, N, 1].
            given: 1 where z is inferred from the point and 0 elsewhere, [2, N]: the first row for the z that is decoded, the second one for
                what it is held to. Where both are alike there is no divergence, and the terms are log p(y | x, z).
            noise: N(0, 1), [L, B, Z].

        Returns:
            log p(y | x, z) - KL(q(z | first) || q(z | second)) / N, [L, B, N].
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
        """q(z | given points): the mean of what the encoder makes of each of them decides."""
        encoded = self.encoder(torch.cat([x, y], -1))
        mean, raw = self.posterior((encoded * given.unsqueeze(-1)).sum(1) / given.sum()).chunk(2, -1)
        return Normal(mean, 0.1 + 0.9 * torch.sigmoid(raw), validate_args=False)


def check(config: NeuralProcessConfig) -> None:
    """Raises InputError for values that cannot be."""
    check_names("networks", config.networks, DECODERS)
    keys = ("latent_size", "encoder_width", "width", "hidden_layers", "rank", "steps", "functions", "most_context")
    check_above_zero(config, *keys, "target_points", "length_scale", "noise", "test_functions", "latent_samples")
    check_numbers("context_sizes", config.context_sizes, 1, 1000)
    check_rates(config.learning_rates)
    if config.noise < LEAST_DEVIATION:
        raise InputError(f"noise={config.noise} is out of range: decoders cannot say less than {LEAST_DEVIATION}.")


def cells(config: NeuralProcessConfig) -> list[Cell]:
    """One for each decoder and learning rate."""
    shared = {key: getattr(config, key) for key in _SHARED} | {"seeds": seeds_of(config)}
    return [
        Cell(name=_cell(network, rate), settings={"network": network, "learning_rate": rate, **shared})
        for network in config.networks
        for rate in config.learning_rates
    ]


def _cell(network: str, rate: float) -> str:
    return f"{network}-{rate:g}"


def play(settings: Settings) -> Result:
    """Trains a neural process for each seed, by the evidence lower bound of all points given the context.

    Returns:
        `width` and `parameters`, and by seed: `bounds`, the lower bound for each point on held-out functions, at the numbers of steps
        `steps` and, on others, at the end as `validation`; and for each of the context sizes the log-likelihoods for each point, of the
        `target` points and of the `context` points, and the target points' by the process itself, `exact`.
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

    steps, middle = _points(settings["steps"]), settings["most_context"] // 2 + 1
    bounds: list[list[float]] = []

    def held_out(name: str) -> list[float]:
        """Always of the same functions."""
        with torch.no_grad():
            return as_numbers(bound(Streams(seeds, name), settings["test_functions"], middle))

    train(
        list(networks.parameters.values()),
        # The number of context points is the same for all seeds, which makes one tensor of them.
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


def _points(steps: int) -> list[int]:
    """Numbers of steps at which the bound is measured, the last one being all."""
    return sorted({round(step) for step in np.geomspace(min(10, steps), steps, POINTS)})


def _given(seeds: int, numbers: tuple[int, int], points: int) -> Tensor:
    """The first so many of the points, as `NeuralProcess.forward` wants to be told, for every seed: [S, 2, N]."""
    return (torch.arange(points) < torch.tensor(numbers).unsqueeze(1)).float().expand(seeds, -1, -1)


def _likelihoods(
    settings: Settings, networks: Ensemble, process: GaussianProcess, context: int
) -> dict[str, list[float]]:
    """Held-out log-likelihoods for each point, mean over functions, by seed."""
    seeds, functions, targets = settings["seeds"], settings["test_functions"], settings["target_points"]
    streams = Streams(seeds, f"test {context}")
    x, y = process.sample(functions, context + targets, streams)
    given = _given(len(seeds), (context, context), context + targets)
    parts: dict[str, list[Tensor]] = {"context": [], "target": []}
    with torch.no_grad():
        # One sample after the other: all at once would take a gigabyte.
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


def sound(settings: Settings, result: Result) -> None:
    """Raises PlainDataError for a result that `play` does not give."""
    values = (MEASURED,) * len(settings["seeds"])
    likelihoods = {key: (values,) * len(settings["context_sizes"]) for key in ("target", "context", "exact")}
    curves = {"bounds": (values,) * len(_points(settings["steps"])), "validation": values}
    check_form(result, {"width": SIZE, "parameters": SIZE, **curves, **likelihoods})


def find(config: NeuralProcessConfig, results: Mapping[str, Result]) -> Findings:
    """The table: log-likelihoods by decoder and number of context points, each decoder with its best learning rate."""
    chosen = {
        network: max(
            ((rate, results[_cell(network, rate)]) for rate in config.learning_rates),
            key=lambda pair: float(np.mean(pair[1]["validation"])),
        )
        for network in config.networks
    }
    estimates = {
        network: {key: [over_seeds(values) for values in result[key]] for key in ("target", "context")}
        for network, (_, result) in chosen.items()
    }
    exact = [over_seeds(values) for values in next(iter(chosen.values()))[1]["exact"]]
    rows = [
        (
            f"`{network}`",
            count(chosen[network][1]["parameters"]),
            str(chosen[network][1]["width"]),
            f"{chosen[network][0]:g}",
            *(with_interval(one, fixed(3)) for key in ("target", "context") for one in found[key]),
        )
        for network, found in estimates.items()
    ]
    sizes = config.context_sizes
    rows.append((EXACT, *["-"] * 3, *(with_interval(one, fixed(3)) for one in exact), *["-"] * len(sizes)))
    x, order = np.array(sorted(sizes), np.float64), np.argsort(sizes)
    numbered = dict(enumerate(config.networks))
    target = {number: band([estimates[network]["target"][at] for at in order]) for number, network in numbered.items()}
    label = "log-likelihood for each point"
    panels = [
        curves(
            "Target points",
            x,
            {**target, len(numbered): band([exact[at] for at in order])},
            "context points",
            label,
            ("linear", "linear"),
        ),
        curves(
            "Context points",
            x,
            {number: band([estimates[name]["context"][at] for at in order]) for number, name in numbered.items()},
            "context points",
            label,
            ("linear", "linear"),
        ),
        curves(
            "Training",
            np.array(_points(config.steps), np.float64),
            {
                number: band([over_seeds(values) for values in chosen[name][1]["bounds"]])
                for number, name in numbered.items()
            },
            "steps",
            "lower bound for each point",
            ("log", "linear"),
        ),
    ]
    return Findings(
        sentences=tuple(
            _comparison(config, chosen["mi"][1], other, chosen[other][1])
            for other in config.networks
            if "mi" in chosen and other != "mi"
        ),
        head=(
            *("decoder", "parameters", "width", "learning rate"),
            *(f"{kind}, {size} given" for kind in ("targets", "context") for size in sizes),
        ),
        rows=tuple(rows),
        figure=Figure(panels, [*config.networks, EXACT]),
        numbers={
            "context_sizes": sizes,
            "decoders": [
                {
                    "network": network,
                    "learning_rate": rate,
                    "width": result["width"],
                    "parameters": result["parameters"],
                    **estimates[network],
                }
                for network, (rate, result) in chosen.items()
            ],
            "exact": exact,
        },
    )


def _comparison(config: NeuralProcessConfig, mi: Result, other: str, result: Result) -> str:
    """What `mi` is ahead of another decoder on target points: the same seeds have the same functions, so differences are taken by seed."""
    parts = []
    for size, ours, theirs in zip(config.context_sizes, mi["target"], result["target"], strict=True):
        ahead = over_seeds([mine - its for mine, its in zip(ours, theirs, strict=True)])
        apart = ahead.low is not None and ahead.high is not None and not ahead.low <= 0 <= ahead.high
        verdict = "a difference" if apart else "no difference is shown"
        parts.append(f"{with_interval(ahead, fixed(3))} with {size} given ({verdict})")
    return f"`mi` minus `{other}`, log-likelihood of target points: {', '.join(parts)}."


STUDY = Study(
    name="neural_process", about=__doc__, check=check, cells=cells, play=begun_anew(play), sound=sound, find=find
)

if __name__ == "__main__":
    run_program(lambda: main(STUDY))
