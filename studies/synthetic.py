"""Fitting functions of two inputs.

Usage:  python -m studies.synthetic [quick=true] [key=value ...]   (every key: conf/studies_schema.py).

For each function of x, z in R^d, each network and each d: the smallest number of parameters that reaches a mean squared error of 0.1
on new samples. Targets have variance 1. Expected from Jayakumar et al. (2020): no difference on sums; on products a multilayer
perceptron that grows with d, and a multiplicative interaction that is exact.
"""

from __future__ import annotations

from agents.cli.signals import begin_program, run_program

if __name__ == "__main__":
    # The imports below take seconds.
    begin_program()

import itertools
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from ablation.analysis.numbers import count
from ablation.analysis.numbers import estimate as with_interval
from ablation.analysis.results import Estimate
from agents.fusion.additive import Concat, ConcatMLP
from agents.fusion.base import Fusion
from agents.fusion.gating import Diagonal
from agents.fusion.multiplicative import LowRank, MultiplicativeInteraction
from agents.network.initialization import RELU_GAIN, keep_variance
from conf.studies_schema import SyntheticConfig
from studies.data.targets import FUNCTIONS, outputs
from studies.harness.jobs import SIZE, Checkpoint, Result, Settings
from studies.harness.program import Findings, Results, Study, main
from studies.harness.report import over_seeds_geometric, panel, significant
from studies.models.ensembles import Ensemble, Streams, as_numbers, train
from studies.models.networks import num_parameters
from system.plain_data import POSITIVE, PlainDataError, Test, check_form

EXACT = 1e-6
"""A function with a smaller error counts as represented exactly."""
_SMALLEST = Test("a count above zero, or null", lambda value: value is None or SIZE.passes(value))
SIZES: list[int] = sorted({1, *(2**power for power in range(1, 15)), *(3 * 2**power for power in range(14))})
"""Sizes of networks to try: each is 1.33 or 1.5 times the previous one."""


class FusedHidden(nn.Module):
    """y = C g(fusion(x, z)) + b: the fusion is the hidden layer, and g a ReLU or the identity."""

    def __init__(self, fusion: Fusion, out_size: int, *, relu: bool) -> None:
        super().__init__()
        self.fusion = fusion
        self.relu = relu
        self.readout = nn.Linear(fusion.out_size, out_size)
        keep_variance(self.readout, RELU_GAIN if relu else 1.0)

    def forward(self, x: Tensor, z: Tensor) -> Tensor:
        """x, z [N, d] -> [N, K]."""
        hidden = self.fusion(x, z)
        return self.readout(hidden.relu() if self.relu else hidden)  # type: ignore[no-any-return]


class Network(NamedTuple):
    """make(d, K, size) makes the network; largest(d, K) is the largest useful size: by default any, 1 for networks without a size."""

    make: Callable[[int, int, int], nn.Module]
    largest: Callable[[int, int], int] = lambda d, k: max(SIZES)


def _most_products(d: int, k: int) -> int:
    """Twice the number of products that represent any interaction of [x; 1] and [z; 1]. The rank of a tensor (d + 1) x (d + 1) x K is at
    most (d + 1) min(d + 1, K).
    """
    return 2 * (d + 1) * min(d + 1, k)


NETWORKS: dict[str, Network] = {
    "concat": Network(lambda d, k, size: Concat(d, d, k), lambda d, k: 1),
    "concat_mlp": Network(lambda d, k, size: ConcatMLP(d, d, k, hidden=size)),
    "diagonal": Network(lambda d, k, size: FusedHidden(Diagonal(d, d, size), k, relu=False), _most_products),
    "low_rank": Network(lambda d, k, size: LowRank(d, d, k, rank=size), _most_products),
    "mi": Network(lambda d, k, size: MultiplicativeInteraction(d, d, k), lambda d, k: 1),
    "mi_mlp": Network(lambda d, k, size: FusedHidden(MultiplicativeInteraction(d, d, size), k, relu=True)),
}
"""Name -> a fusion of agents.fusion, alone or with a linear readout."""


def play(settings: Settings, checkpoint: Checkpoint | None = None) -> Result:
    """Finds the smallest network.

    Returns:
        `trained`: for each size that was tried the `size`, its `parameters` and the `errors` by seed; `smallest`: by seed the smallest
        number of parameters of a network that reaches the error, None if none does.
    """
    network, k = NETWORKS[settings["network"]], outputs(settings["function"], settings["d"])
    make = partial(network.make, settings["d"], k)
    largest = network.largest(settings["d"], k)
    sizes = [
        size for size in SIZES if size <= largest and num_parameters(make, size) <= settings["most_parameters"]
    ] or SIZES[:1]
    trained = search(partial(_errors, settings, make), sizes, settings["d"], settings["error"])
    parameters = {size: num_parameters(make, size) for size in sorted(trained)}
    return {
        "trained": [{"size": size, "parameters": parameters[size], "errors": trained[size]} for size in parameters],
        "smallest": [
            next((number for size, number in parameters.items() if trained[size][member] <= settings["error"]), None)
            for member in range(len(settings["seeds"]))
        ],
    }


def search(
    errors: Callable[[int], list[float]], sizes: Sequence[int], near: int, wanted: float
) -> dict[int, list[float]]:
    """Searches for the smallest size of each seed whose error is at most `wanted`. Assumes that a larger size has a smaller error.

    Args:
        errors: Size -> the errors by seed.
        sizes: In ascending order.
        near: The search starts at the size next to this one.

    Returns:
        The errors by seed of each size that was tried.
    """
    tried: dict[int, list[float]] = {}

    def reached(index: int) -> list[bool]:
        if sizes[index] not in tried:
            tried[sizes[index]] = errors(sizes[index])
        return [error <= wanted for error in tried[sizes[index]]]

    low = high = int(np.abs(np.array(sizes) - near).argmin())
    while not all(reached(high)) and high < len(sizes) - 1:
        high = min(high + 2, len(sizes) - 1)
    while any(reached(low)) and low > 0:
        low = max(low - 2, 0)
    for index in range(low + 1, high):
        # The steps above skip every other size. Try it if a seed reaches the error with the next size but not with the previous one.
        if sizes[index] not in tried and any(
            after and not before for before, after in zip(reached(index - 1), reached(index + 1), strict=True)
        ):
            reached(index)
    return tried


def _errors(settings: Settings, make: Callable[[int], nn.Module], size: int) -> list[float]:
    """Trains a network for each seed. Returns their errors on new samples."""
    d, seeds = settings["d"], settings["seeds"]
    target = FUNCTIONS[settings["function"]](d, Streams(seeds, "function"))
    networks = Ensemble(lambda: make(size), seeds)

    def error(streams: Streams, samples: int) -> Tensor:
        x, z = streams.normal(samples, d), streams.normal(samples, d)
        return (networks(x, z) - target(x, z)).square().mean((1, 2))

    training = partial(error, Streams(seeds, "training"), settings["batch_size"])
    train(
        list(networks.parameters.values()), training, steps=settings["steps"], learning_rate=settings["learning_rate"]
    )
    with torch.no_grad():
        return as_numbers(error(Streams(seeds, "test"), settings["test_samples"]))


def check_result(settings: Settings, result: Result) -> None:
    """Raises PlainDataError for a result that `play` cannot return."""
    errors, smallest = (POSITIVE,) * len(settings["seeds"]), (_SMALLEST,) * len(settings["seeds"])
    check_form(result, {"trained": [{"size": SIZE, "parameters": SIZE, "errors": errors}], "smallest": smallest})
    if not result["trained"]:
        raise PlainDataError("no network that was trained")


def find(config: SyntheticConfig, results: Results) -> Findings:
    """The table: smallest parameters by function, network and dimension."""
    dimensions = sorted(config.dimensions)
    smallest: dict[tuple[str, str], list[Estimate | None]] = {}
    for key in itertools.product(config.functions, config.networks):
        found = (results[*key, d]["smallest"] for d in dimensions)
        # None unless every seed reached the error.
        smallest[key] = [None if None in parameters else over_seeds_geometric(parameters) for parameters in found]
    return Findings(
        sentences=tuple(filter(None, (_exactness(config, results), *_growths(config, results)))),
        head=("function", "network", *(f"d = {d}" for d in dimensions)),
        rows=[
            (function, f"`{network}`", *(with_interval(one, count) if one else "-" for one in estimates))
            for (function, network), estimates in smallest.items()
        ],
        panels=[
            panel(
                function,
                dimensions,
                [smallest[function, network] for network in config.networks],
                ("d", f"parameters for error {config.error:g}"),
                ("log", "log"),
            )
            for function in config.functions
        ],
        variants=config.networks,
        numbers={
            "smallest": [
                {"function": function, "network": network, "d": d, "parameters": one}
                for (function, network), estimates in smallest.items()
                for d, one in zip(dimensions, estimates, strict=True)
            ]
        },
    )


def _exactness(config: SyntheticConfig, results: Results) -> str:
    if "dot" not in config.functions or "mi" not in config.networks:
        return ""
    worst = max(error for d in config.dimensions for error in results["dot", "mi", d]["trained"][0]["errors"])
    verdict = "exact" if worst < EXACT else "not exact"
    dimensions = ", ".join(map(str, sorted(config.dimensions)))
    return f"`mi` is {verdict} on dot products, d = {dimensions}: no seed's error is above {significant(worst)} (wanted: below {EXACT:g})."


def _growths(config: SyntheticConfig, results: Results) -> list[str]:
    """A sentence for each function: the factor of parameters from d = 2 to d = 16, or from the smallest d to the largest."""
    low, high = (2, 16) if {2, 16} <= set(config.dimensions) else (min(config.dimensions), max(config.dimensions))
    sentences = []
    for function in config.functions:
        growths = []
        for network in config.networks:
            before, after = (results[function, network, d]["smallest"] for d in (low, high))
            if low < high and None not in (*before, *after):
                growth = over_seeds_geometric([more / less for less, more in zip(before, after, strict=True)])
                growths.append(f"`{network}` {with_interval(growth, significant)}")
        if growths:
            sentences.append(f"{function}, d = {low} to {high}: parameters grow by a factor of {', '.join(growths)}.")
    return sentences


STUDY = Study(
    name="synthetic",
    about=__doc__,
    axes={"function": "functions", "network": "networks", "d": "dimensions"},
    choices={"functions": list(FUNCTIONS), "networks": list(NETWORKS)},
    order=lambda values: -values[2],
    play=play,
    check_result=check_result,
    find=find,
)

if __name__ == "__main__":
    run_program(lambda: main(STUDY))
