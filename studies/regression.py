"""Many tasks of one family at once.

Usage:

    python -m studies.regression [quick=true] [key=value ...]   (every key: conf/studies_schema.py)

Each task k is y = a_k x + b_k, or y = a_k sin(10 x) + b_k. A network knows the task only by a vector that is learnt with its weights.
All networks have as many parameters as the one with `mi`. Measured: the error on new samples against steps; then the error on new tasks,
for which only the vector is learnt from a few samples. Targets have variance 1.
"""

from __future__ import annotations

from agents.cli.signals import begin_program, run_program

if __name__ == "__main__":
    # The imports below take seconds.
    begin_program()

import itertools
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from ablation.analysis.numbers import estimate as with_interval
from conf.studies_schema import RegressionConfig
from studies.data.families import FAMILIES, Tasks
from studies.harness import report
from studies.harness.jobs import SIZE, Checkpoint, Result, Settings
from studies.harness.program import Findings, Results, Study, main
from studies.models.ensembles import Ensemble, Streams, as_numbers, curve_points, train
from studies.models.networks import PERCEPTRONS, Perceptron, matched_width, num_parameters, perceptron
from system.plain_data import POSITIVE, check_form
from system.words import count

POINTS = 24
"""Most points of a learning curve."""
CONVERGED = 0.01
"""A network has converged if its error is less than this below that of the training with the next fewer steps. Targets have variance 1."""


class MultitaskPerceptron(nn.Module):
    """A network and the vectors of its tasks, `tasks` [T, Z]."""

    def __init__(self, network: Perceptron, tasks: int) -> None:
        super().__init__()
        self.network = network
        self.tasks = nn.Parameter(torch.randn(tasks, network.z_size) / network.z_scale)

    def forward(self, x: Tensor) -> Tensor:
        """x [T, N, X] -> [T, N, X]."""
        result: Tensor = self.network(x, self.tasks)
        return result


def play(settings: Settings, checkpoint: Checkpoint | None = None) -> Result:
    """Trains a network for each seed on all tasks, then learns new tasks.

    Returns:
        `width`, `parameters`, of which each task has `own`; and errors by seed: `curve` after the numbers of steps in `steps`,
        `validation` and `test` at the end, and `transfer` for each number of shots.
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
    points = curve_points(1, settings["steps"], POINTS)
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


def _transfer(settings: Settings, networks: Ensemble, shots: int) -> list[float]:
    """The error by seed on new tasks after learning their vectors from `shots` samples each, starting at the mean vector of all tasks."""
    seeds, count = settings["seeds"], settings["new_tasks"]
    new = Tasks(FAMILIES[settings["function"]], count, settings["x_size"], Streams(seeds, "new tasks"))
    shown = new.sample(shots, Streams(seeds, "shots"))
    fixed = {name: parameter.detach() for name, parameter in networks.parameters.items()}
    vectors = fixed["tasks"].mean(1, keepdim=True).repeat(1, count, 1).requires_grad_()

    def error(x: Tensor, y: Tensor) -> Tensor:
        return (networks(x, replaced={**fixed, "tasks": vectors}) - y).square().mean((1, 2, 3))

    # The mean times the number of tasks gives each vector the gradient that it would have alone.
    train(
        [vectors],
        lambda: count * error(*shown),
        steps=settings["adaptation_steps"],
        learning_rate=settings["adaptation_rate"],
    )
    with torch.no_grad():
        return as_numbers(error(*new.sample(settings["test_samples"], Streams(seeds, "new test"))))


def check_result(settings: Settings, result: Result) -> None:
    """Raises PlainDataError for a result that `play` cannot return."""
    errors = (POSITIVE,) * len(settings["seeds"])
    sizes = dict.fromkeys(("width", "parameters", "own"), SIZE)
    curves = {
        "curve": (errors,) * len(curve_points(1, settings["steps"], POINTS)),
        "transfer": (errors,) * len(settings["shots"]),
    }
    check_form(result, {**sizes, **curves, "validation": errors, "test": errors})


def find(config: RegressionConfig, results: Results) -> Findings:
    """The table: errors after training and on new tasks, by problem and network, each with its best learning rate."""
    budgets = sorted(config.steps)
    problems = list(itertools.product(config.functions, config.x_sizes, budgets))
    best = {problem: report.chosen_rates(config, results, *problem) for problem in problems}
    rows, numbers = [], []
    for problem, network in itertools.product(problems, config.networks):
        rate, result = best[problem][network]
        error, *transfer = [report.over_seeds_geometric(values) for values in (result["test"], *result["transfer"])]
        texts = (with_interval(one, report.significant) for one in (error, *transfer))
        rows.append((_title(*problem), *report.network_columns(network, result, rate), *texts))
        numbers.append(
            {"function": problem[0], "x_size": problem[1], "steps": problem[2]}
            | {"network": network, "learning_rate": rate}
            | {key: result[key] for key in ("width", "parameters", "own")}
            | {"error": error}
            | {"transfer": [{"shots": shots, "error": one} for shots, one in zip(config.shots, transfer, strict=True)]}
        )
    return Findings(
        sentences=(
            *(
                _comparison(_title(*problem), best[problem]["concat"][1], best[problem]["mi"][1])
                for problem in problems
                if {"concat", "mi"} <= set(config.networks)
            ),
            *(
                report.convergence(
                    _title(function, size, more),
                    fewer,
                    _gains(best[function, size, fewer], best[function, size, more]),
                    CONVERGED,
                )
                for function, size, (fewer, more) in itertools.product(
                    config.functions, config.x_sizes, itertools.pairwise(budgets)
                )
            ),
        ),
        head=(
            *("tasks", *report.NETWORK_HEAD, "error"),
            *(f"new task, {count(shots, 'shot')}" for shots in config.shots),
        ),
        rows=rows,
        panels=[
            report.panel(
                _title(*problem),
                curve_points(1, problem[2], POINTS),
                [[report.over_seeds_geometric(errors) for errors in own["curve"]] for _, own in best[problem].values()],
                ("steps", "error"),
                ("log", "log"),
            )
            for problem in problems
            if problem[2] == budgets[-1]
        ],
        variants=config.networks,
        numbers={"networks": numbers},
    )


def _title(function: str, x_size: int, steps: int) -> str:
    return f"{function}, x in R^{x_size}, {count(steps, 'step')}"


def _gains(before: dict[str, tuple[float, Result]], after: dict[str, tuple[float, Result]]) -> dict[str, list[float]]:
    """By network, how much less error a training has than one with fewer steps, by seed."""
    return {name: np.subtract(before[name][1]["test"], result["test"]).tolist() for name, (_, result) in after.items()}


def _comparison(problem: str, concat: Result, mi: Result) -> str:
    """States whether `mi` has at most half of `concat`'s error, with disjoint intervals: at the end, and at the other steps."""
    halved = [_at_most_half(ours, theirs) for ours, theirs in zip(mi["curve"], concat["curve"], strict=True)]
    ratio = report.over_seeds_geometric(
        [ours / theirs for ours, theirs in zip(mi["test"], concat["test"], strict=True)]
    )
    verdict = "supported" if halved[-1] else "not supported"
    before = f"it is at {sum(halved)} of the {count(len(halved), 'number')} of steps that {'was' if len(halved) == 1 else 'were'} looked at"
    return (
        f"{problem}: that `mi` has at most half of `concat`'s error at equal steps and parameters is {verdict} at the end; {before}; "
        f"at the end the error is {with_interval(ratio, report.significant)} times that of `concat`."
    )


def _at_most_half(errors: list[float], others: list[float]) -> bool:
    ours, theirs = report.over_seeds_geometric(errors), report.over_seeds_geometric(others)
    apart = ours.high is not None and theirs.low is not None and ours.high < theirs.low
    return apart and ours.value <= theirs.value / 2


STUDY = Study(
    name="regression",
    about=__doc__,
    axes={
        "function": "functions",
        "x_size": "x_sizes",
        "steps": "steps",
        "network": "networks",
        "learning_rate": "learning_rates",
    },
    choices={"functions": list(FAMILIES), "networks": PERCEPTRONS},
    play=play,
    check_result=check_result,
    validation=lambda result: float(np.mean(result["validation"])),
    find=find,
)

if __name__ == "__main__":
    run_program(lambda: main(STUDY))
