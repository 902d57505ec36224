"""Many tasks of one family at once:  python -m studies.regression [quick=true] [key=value ...]   (every key: conf/studies_schema.py)

Each task k is y = a_k x + b_k, or y = a_k sin(10 x) + b_k, and all that a network knows of it is a vector that is learnt with its weights.
Networks with as many parameters as the one with `mi`: the error on fresh samples against steps, and then on new tasks, of which a few
samples are shown and only the task's own vector is learnt. Targets have variance 1.
"""

from __future__ import annotations

from agents.cli.signals import begin_program, run_program

if __name__ == "__main__":
    # The imports below take seconds.
    begin_program()

from collections.abc import Mapping
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from ablation.analysis.numbers import count
from conf.studies_schema import RegressionConfig
from studies.data.families import FAMILIES, Tasks
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
from studies.harness.tables import over_seeds_geometric, significant, with_interval
from studies.models.ensembles import Ensemble, Streams, as_numbers, train
from studies.models.networks import PERCEPTRONS, Perceptron, matched_width, num_parameters, perceptron
from system.plain_data import POSITIVE, check_form

POINTS = 24
"""Of a learning curve, at most, evenly spread over the logarithm of the steps."""

_SHARED = (
    *("tasks", "task_size", "width", "hidden_layers", "rank", "steps", "samples", "test_samples"),
    *("new_tasks", "shots", "adaptation_steps", "adaptation_rate"),
)


class MultitaskPerceptron(nn.Module):
    """A network with a vector for each task, `tasks` [T, Z]."""

    def __init__(self, network: Perceptron, tasks: int) -> None:
        super().__init__()
        self.network = network
        self.tasks = nn.Parameter(network.initial_contexts(tasks))

    def forward(self, x: Tensor) -> Tensor:
        """x [T, N, X] -> [T, N, X]."""
        result: Tensor = self.network(x, self.tasks)
        return result


def check(config: RegressionConfig) -> None:
    """Raises InputError for values that cannot be."""
    check_names("functions", config.functions, FAMILIES)
    check_names("networks", config.networks, PERCEPTRONS)
    check_numbers("x_sizes", config.x_sizes, 1, 256)
    check_numbers("shots", config.shots, 1, 4096)
    keys = ("tasks", "task_size", "width", "hidden_layers", "rank", "steps", "samples", "test_samples", "new_tasks")
    check_above_zero(config, *keys, "adaptation_steps", "adaptation_rate")
    check_rates(config.learning_rates)


def cells(config: RegressionConfig) -> list[Cell]:
    """One for each family, size, network and learning rate."""
    shared = {key: getattr(config, key) for key in _SHARED} | {"seeds": seeds_of(config)}
    return [
        Cell(
            name=_cell(function, x_size, network, rate),
            settings={"function": function, "x_size": x_size, "network": network, "learning_rate": rate, **shared},
        )
        for function in config.functions
        for x_size in config.x_sizes
        for network in config.networks
        for rate in config.learning_rates
    ]


def _cell(function: str, x_size: int, network: str, rate: float) -> str:
    return f"{function}-{x_size}-{network}-{rate:g}"


def play(settings: Settings) -> Result:
    """Trains a network for each seed on all tasks, then learns new ones.

    Returns:
        `width`, `parameters` (`own` of them each task's), and by seed the errors: `curve` at the numbers of steps `steps`, `validation` and
        `test` at the end, and `transfer` for each number of shots.
    """
    seeds, tasks = settings["seeds"], settings["tasks"]
    make = partial(_network, settings, settings["network"])
    width = matched_width(make, num_parameters(partial(_network, settings, "mi"), settings["width"]))
    networks = Ensemble(lambda: make(width), seeds)
    family = FAMILIES[settings["function"]]
    known = Tasks(family, tasks, settings["x_size"], Streams(seeds, "tasks"))

    def error(x: Tensor, y: Tensor) -> Tensor:
        return (networks(x) - y).square().mean((1, 2, 3))

    validation, test = (known.sample(settings["test_samples"], Streams(seeds, name)) for name in ("validation", "test"))
    points = _points(settings["steps"])
    curve: list[list[float]] = []

    def after_step(step: int) -> None:
        if step in points:
            with torch.no_grad():
                curve.append(as_numbers(error(*test)))

    batches = Streams(seeds, "training")
    train(
        list(networks.parameters.values()),
        lambda: error(*known.sample(settings["samples"], batches)),
        steps=settings["steps"],
        learning_rate=settings["learning_rate"],
        after_step=after_step,
    )
    with torch.no_grad():
        at_the_end = as_numbers(error(*validation))
    return {
        "width": width,
        "parameters": networks.num_parameters,
        "own": networks.parameters["tasks"].shape[-1],
        "steps": points,
        "curve": curve,
        "validation": at_the_end,
        "test": curve[-1],
        "transfer": [_transfer(settings, networks, shots) for shots in settings["shots"]],
    }


def _network(settings: Settings, name: str, width: int) -> MultitaskPerceptron:
    size, hidden_layers = settings["x_size"], settings["hidden_layers"]
    network = perceptron(
        name, size, settings["task_size"], size, width=width, hidden_layers=hidden_layers, rank=settings["rank"]
    )
    return MultitaskPerceptron(network, settings["tasks"])


def _points(steps: int) -> list[int]:
    """Numbers of steps at which errors are measured, the last one being all."""
    return sorted({round(step) for step in np.geomspace(1, steps, POINTS)})


def _transfer(settings: Settings, networks: Ensemble, shots: int) -> list[float]:
    """The error by seed on new tasks of which so many samples were shown: only their vectors are learnt, beginning at the mean of those
    there are.
    """
    seeds, count = settings["seeds"], settings["new_tasks"]
    new = Tasks(FAMILIES[settings["function"]], count, settings["x_size"], Streams(seeds, "new tasks"))
    shown = new.sample(shots, Streams(seeds, "shots"))
    fixed = {name: parameter.detach() for name, parameter in networks.parameters.items()}
    vectors = fixed["tasks"].mean(1, keepdim=True).repeat(1, count, 1).requires_grad_()

    def error(x: Tensor, y: Tensor) -> Tensor:
        return (networks(x, replaced={**fixed, "tasks": vectors}) - y).square().mean((1, 2, 3))

    # Tasks are learnt apart: the sum over them gives each the gradient that it would have alone.
    train(
        [vectors],
        lambda: count * error(*shown),
        steps=settings["adaptation_steps"],
        learning_rate=settings["adaptation_rate"],
    )
    with torch.no_grad():
        return as_numbers(error(*new.sample(settings["test_samples"], Streams(seeds, "new test"))))


def sound(settings: Settings, result: Result) -> None:
    """Raises PlainDataError for a result that `play` does not give."""
    errors = (POSITIVE,) * len(settings["seeds"])
    sizes = dict.fromkeys(("width", "parameters", "own"), SIZE)
    curves = {"curve": (errors,) * len(_points(settings["steps"])), "transfer": (errors,) * len(settings["shots"])}
    check_form(result, {**sizes, **curves, "validation": errors, "test": errors})


def find(config: RegressionConfig, results: Mapping[str, Result]) -> Findings:
    """The table: errors after training and of new tasks, by problem and network, each with its best learning rate."""
    problems = [(function, x_size) for function in config.functions for x_size in config.x_sizes]
    chosen = {
        (function, x_size, network): min(
            ((rate, results[_cell(function, x_size, network, rate)]) for rate in config.learning_rates),
            key=lambda pair: float(np.mean(pair[1]["validation"])),
        )
        for function, x_size in problems
        for network in config.networks
    }
    rows, numbers = [], []
    for (function, x_size, network), (rate, result) in chosen.items():
        errors = [over_seeds_geometric(values) for values in (result["test"], *result["transfer"])]
        name = f"{function}, x in R^{x_size}"
        about = f"`{network}`", count(result["parameters"]), str(result["width"]), f"{rate:g}"
        rows.append((name, *about, *(with_interval(one, significant) for one in errors)))
        numbers.append(
            {
                "function": function,
                "x_size": x_size,
                "network": network,
                "learning_rate": rate,
                **{key: result[key] for key in ("width", "parameters", "own")},
                "error": errors[0],
                "transfer": [
                    {"shots": shots, "error": one} for shots, one in zip(config.shots, errors[1:], strict=True)
                ],
            }
        )
    panels = [
        curves(
            f"{function}, x in R^{x_size}",
            np.array(_points(config.steps), np.float64),
            {
                number: band([over_seeds_geometric(errors) for errors in chosen[function, x_size, network][1]["curve"]])
                for number, network in enumerate(config.networks)
            },
            "steps",
            "error",
            ("log", "log"),
        )
        for function, x_size in problems
    ]
    transfer = (f"new task, {shots} shot{'s' if shots > 1 else ''}" for shots in config.shots)
    return Findings(
        sentences=tuple(
            _comparison(
                f"{function}, x in R^{x_size}", chosen[function, x_size, "concat"][1], chosen[function, x_size, "mi"][1]
            )
            for function, x_size in problems
            if {"concat", "mi"} <= set(config.networks)
        ),
        head=("tasks", "network", "parameters", "width", "learning rate", "error", *transfer),
        rows=tuple(rows),
        figure=Figure(panels, config.networks),
        numbers={"networks": numbers},
    )


def _comparison(problem: str, concat: Result, mi: Result) -> str:
    """Whether `mi` has at most half of `concat`'s error, with intervals that do not overlap: at the end, and at the steps before."""
    shares = [_at_most_half(ours, theirs) for ours, theirs in zip(mi["curve"], concat["curve"], strict=True)]
    ratio = over_seeds_geometric([ours / theirs for ours, theirs in zip(mi["test"], concat["test"], strict=True)])
    verdict = "supported" if shares[-1] else "not supported"
    before = f"it is at {sum(shares)} of the {len(shares)} numbers of steps that were looked at"
    return (
        f"{problem}: that `mi` has at most half of `concat`'s error at equal steps and parameters is {verdict} at the end; {before}; "
        f"at the end the error is {with_interval(ratio, significant)} times that of `concat`."
    )


def _at_most_half(errors: list[float], others: list[float]) -> bool:
    ours, theirs = over_seeds_geometric(errors), over_seeds_geometric(others)
    apart = ours.high is not None and theirs.low is not None and ours.high < theirs.low
    return apart and ours.value <= theirs.value / 2


STUDY = Study(name="regression", about=__doc__, check=check, cells=cells, play=begun_anew(play), sound=sound, find=find)

if __name__ == "__main__":
    run_program(lambda: main(STUDY))
