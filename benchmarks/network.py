"""Networks alone.

Usage:  python -m benchmarks.network [rounds=3] [seconds=0.2] [cases=grid-lstm,...] [act=1,32,64,128,192] [learn=16,32,64,128]
[variants=base,fp32,contiguous,malloc-off] [key=value of train.py ...]

One thread, synthetic data (2% resets, 8 tasks with their ids as context), us per sample.

    - act     One acting step (Policy.act) in that many slots. New weights every 20 steps.
    - learn   One learner update (Learner.step) of T = 20 steps in that many columns.

    - cases:
          - grid-<core>    Symbolic 7x7x3, with any core. The default cores are lstm and feedforward.
          - mlp-lstm       Vectors of 16.
          - shallow-lstm   Pixels 84x84x4.
          - deep-lstm      Pixels 72x96x3. Not a default case, because an update takes seconds.

    - variants, each with one change to base:
          - base         bf16 where the processor has it, convolutions with the channels last, memory settings of
                         agents/runtime/processes/process.py.
          - fp32         Full precision.
          - contiguous   Convolutions with the channels first (pixels only).
          - malloc-off   The C library's default memory settings, which hold for a process, so that it is a separate one.

All take turns; the first round is dropped. Prints one line of JSON each: microseconds_per_sample {median, min, max}.
"""

from __future__ import annotations

import math
import multiprocessing
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from multiprocessing.connection import Connection
from typing import NamedTuple

import torch
from torch import Tensor, nn

from agents.network.core import CORES
from agents.runtime.processes.process import configure_process
from agents.setup import builder
from benchmarks.batches import acting, make_policy, precision, synthetic
from benchmarks.cases import merged
from benchmarks.options import BenchmarkError, Row, parse, report
from benchmarks.turns import Cost, cost, microseconds, take_turns
from conf.loading import compose_train
from conf.schema import TrainConfig
from envs.spec import ArraySpec, EnvSpec
from system.errors import unknown_name

UNROLL_LENGTH = 20
TASKS, ACTIONS = 8, 7
VARIANTS = ("base", "fp32", "contiguous", "malloc-off")


class Case(NamedTuple):
    """An observation space and the arguments of train.py for it."""

    observation: dict[str, ArraySpec]
    image_kind: str
    symbol_counts: tuple[int, ...]
    arguments: list[str]


_GRID = {"image": ArraySpec(shape=(7, 7, 3), dtype="uint8")}
_SYMBOLS = (11, 6, 3)
CASES = {
    **{f"grid-{core}": Case(_GRID, "symbolic", _SYMBOLS, ["torso=grid", f"core={core}"]) for core in CORES},
    "mlp-lstm": Case({"vector": ArraySpec(shape=(16,), dtype="float32")}, "none", (), ["torso=mlp", "core=lstm"]),
    "shallow-lstm": Case(
        {"image": ArraySpec(shape=(84, 84, 4), dtype="uint8")}, "pixels", (), ["torso=shallow", "core=lstm"]
    ),
    "deep-lstm": Case(
        {"image": ArraySpec(shape=(72, 96, 3), dtype="uint8")}, "pixels", (), ["torso=deep", "core=lstm"]
    ),
}
DEFAULT = ("grid-lstm", "grid-feedforward", "mlp-lstm", "shallow-lstm")


class Key(NamedTuple):
    """The subject of a row; `what` is act or learn, `size` the number of slots or columns."""

    case: str
    what: str
    size: int
    variant: str


def measure(arguments: list[str]) -> Iterator[Row]:
    """One row per case, number of slots or columns, and variant."""
    options = parse(arguments, rounds=3, seconds=0.2, own=("cases", "act", "learn", "variants"))
    cases, variants = options.words("cases", DEFAULT), options.words("variants", VARIANTS)
    for option, words, table in (("cases", cases, tuple(CASES)), ("variants", variants, VARIANTS)):
        for word in words:
            if word not in table:
                raise unknown_name(option, word, table)
    sizes = {"act": options.numbers("act", (1, 32, 64, 128, 192)), "learn": options.numbers("learn", (16, 32, 64, 128))}
    configs = {name: configured(CASES[name], options.overrides) for name in cases}
    keys = [
        Key(case, what, size, variant)
        for case in cases
        for what, listed in sizes.items()
        for size in listed
        for variant in variants
        if variant != "contiguous" or CASES[case].image_kind == "pixels"
    ]
    workbenches = {
        setting: Workbench(configs, malloc=setting) for setting in {key.variant != "malloc-off" for key in keys}
    }
    try:
        turns = {key: partial(workbenches[key.variant != "malloc-off"].measure, key, options.seconds) for key in keys}
        readings = take_turns(turns, options.rounds)
    finally:
        for workbench in workbenches.values():
            workbench.close()
    for key, costs in readings.items():
        config = as_variant(configs[key.case][0], key.variant)
        yield {
            **key._asdict(),
            "microseconds_per_sample": microseconds(reading.wall for reading in costs),
            "cpu_microseconds_per_sample": microseconds(reading.cpu for reading in costs),
            "precision": precision(config),
            "channels_last": key.variant != "contiguous" if CASES[key.case].image_kind == "pixels" else None,
            "malloc": key.variant != "malloc-off",
            "threads": 1,
            "rounds": options.rounds,
            "seconds": options.seconds,
        }


def configured(case: Case, overrides: Sequence[str]) -> tuple[TrainConfig, EnvSpec]:
    """Configuration and synthetic suite of a case."""
    config = compose_train(merged(overrides, [*case.arguments, "context=task"]))
    return config, EnvSpec(
        suite="synthetic",
        tasks=tuple(f"task-{number}" for number in range(TASKS)),
        observation=case.observation,
        instruction_length=0,
        vocabulary=(),
        num_actions=ACTIONS,
        action_counts=(ACTIONS,) * TASKS,
        image_kind=case.image_kind,
        symbol_counts=case.symbol_counts,
    )


def as_variant(config: TrainConfig, variant: str) -> TrainConfig:
    """The configuration with the variant's precision."""
    return replace(config, precision="fp32") if variant == "fp32" else config


class Workbench:
    """A process that measures on request.

    Args:
        configs: Case -> configuration and suite.
        malloc: Whether the process has the memory settings of train.py.
    """

    def __init__(self, configs: dict[str, tuple[TrainConfig, EnvSpec]], *, malloc: bool) -> None:
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(configs, malloc, theirs), daemon=True)
        self._process.start()
        theirs.close()

    def measure(self, key: Key, seconds: float) -> Cost:
        """Cost per sample.

        Raises:
            BenchmarkError: The process died.
        """
        self._connection.send((key, seconds))
        try:
            return Cost(*self._connection.recv())
        except EOFError:
            raise BenchmarkError(f"the process that measured {key.case} {key.what}={key.size} died.") from None

    def close(self) -> None:
        """Kills the process."""
        self._process.kill()
        self._process.join()
        self._connection.close()


def _serve(configs: dict[str, tuple[TrainConfig, EnvSpec]], malloc: bool, connection: Connection) -> None:
    """The main function of the process."""
    if malloc:
        configure_process(1)
    else:
        torch.set_num_threads(1)
    work: dict[Key, Callable[[], float]] = {}
    try:
        while True:
            key, seconds = connection.recv()
            if key not in work:
                work[key] = _work(key, *configs[key.case])
            connection.send(tuple(cost(work[key], seconds)))
    except (EOFError, BrokenPipeError):
        # The benchmark has ended.
        return


def _work(key: Key, config: TrainConfig, env: EnvSpec) -> Callable[[], float]:
    """Work for `turns.cost` that counts samples."""
    config = as_variant(config, key.variant)
    policy = make_policy(config, env, key.size)
    network = policy.network
    if key.variant == "contiguous":
        _channels_first(network)
    batch = synthetic(env, UNROLL_LENGTH, key.size, network.core_state_size)
    samples = math.prod(batch["action"].shape)
    step: Callable[[], object]
    if key.what == "act":
        step = acting(policy, [batch])
    else:
        step = partial(builder.build_learner(config, env, network).step, batch)

    def work() -> float:
        step()
        return samples

    return work


def _channels_first(network: nn.Module) -> None:
    """Gives the input of every convolution a memory layout with channels before height and width."""

    def rearranged(module: nn.Module, inputs: tuple[Tensor]) -> Tensor:
        return inputs[0].contiguous(memory_format=torch.contiguous_format)

    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_pre_hook(rearranged)


def main(arguments: Sequence[str]) -> int:
    """Prints the rows. Returns the exit code of `options.report`."""
    return report(measure, arguments, __doc__)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
