"""What one large reward does to a run:  python -m benchmarks.large_reward [seeds=5] [size=10000] [control=1] [at=60] [updates=400]
[window=100] [case="name: key=value ..."] [key=value of train.py ...]

Each case runs three times from each seed, in this process: as it is, and with `control` and with `size` added to the reward of one step
at update `at`. The suite's return is not touched, only what is learned from. The runs then go on for `updates` updates.

One line of JSON for each seed: the mean return of the episodes that ended in each window of so many updates after that reward, in the
three runs; the largest of what sigma was multiplied by; and `updates_to_recover`, at the end of the first window from which on the mean of
what is left is at least 95% of the undisturbed run's (null: not within `updates`). Then one line with the same of the means over seeds, and
the ratio to the undisturbed runs in each window. How far the control is from it is what any change of one number does to a run.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch

from agents.learning.inner_loop import learn
from agents.learning.learner import Learner
from agents.learning.popart import sigma
from agents.runtime.base import StreamPositions
from agents.runtime.processes.process import configure_process
from agents.setup import builder
from agents.setup.plan import make_plan
from agents.trajectory import Trajectory
from benchmarks.cases import configurations, named
from benchmarks.options import Row, parse, report
from conf.schema import TrainConfig
from envs.spec import EnvSpec

CASES = {
    # An entropy bonus that counts, as that of long tasks does, once the advantages are divided by too large a sigma.
    "conditional": [
        *(
            "env=conditional",
            "runtime.slots_per_actor=16",
            "learner.reward_transform=none",
            "learner.entropy_cost=0.03",
        ),
    ],
    "redball": [
        *("env=babyai", "env.tasks=[BabyAI-GoToRedBallGrey-v0]"),
        *("learner.reward_transform=none", "learner.popart_step_size=3e-4"),
    ],
}
_RECOVERED = 0.95


class Outcome(NamedTuple):
    """returns: mean of each window after the large reward. growth: largest ratio of sigma to what it was just before it."""

    returns: list[float]
    growth: float


def measure(arguments: list[str]) -> Iterator[Row]:
    """One row per case and seed."""
    options = parse(
        arguments, rounds=1, seconds=1.0, own=("seeds", "size", "control", "at", "updates", "window", "case")
    )
    seeds, size, control, at, updates, window = (
        options.numbers(key, (default,))[0]
        for key, default in (
            ("seeds", 5),
            ("size", 10_000),
            ("control", 1),
            ("at", 60),
            ("updates", 400),
            ("window", 100),
        )
    )
    given = dict(named("case", text) for text in options.own.get("case", [])) or CASES
    own = [*options.overrides, "runtime=serial", "precision=fp32", "device=cpu"]
    configs = configurations({name: [*case, *own] for name, case in given.items()})
    configure_process(1)
    for name, (config, env) in configs.items():
        returns = []
        for seed in range(seeds):
            config.seed = seed
            outcomes = [play(config, env, amount, at, updates, window) for amount in (0, control, size)]
            returns.append([outcome.returns for outcome in outcomes])
            row = {"case": name, "seed": seed, "size": size, "control_size": control, "at": at, "window": window}
            yield row | compared(returns[-1], window) | {"sigma_growth": [round(run.growth, 3) for run in outcomes]}
        yield {"case": name, "seeds": seeds} | compared(np.mean(returns, axis=0).tolist(), window)


def compared(returns: Sequence[Sequence[float]], window: int) -> Row:
    """See the module. `returns`: of each window, undisturbed, of the control, and after the large reward."""
    plain, control, hit = np.round(returns, 3)
    return {
        "undisturbed": plain.tolist(),
        "control": control.tolist(),
        "disturbed": hit.tolist(),
        "control_ratio": np.round(control / plain, 3).tolist(),
        "ratio": np.round(hit / plain, 3).tolist(),
        "updates_to_recover": recovered(plain, hit, window),
    }


def play(config: TrainConfig, env: EnvSpec, size: float, at: int, updates: int, window: int) -> Outcome:
    """One run."""
    torch.manual_seed(config.seed)
    network = builder.build_network(config, env)
    learner = builder.build_learner(config, env, network)
    runtime = builder.build_runtime(config, env, network, StreamPositions(), 0)
    plan = make_plan(config, env)
    replay = builder.build_replay(config, env, network, plan, 0)
    windows: list[list[float]] = [[] for _ in range(updates // window)]
    before, growth = None, 1.0
    try:
        while learner.counters.updates < at + updates:
            batch = runtime.collect().trajectory
            number = (learner.counters.updates - at) // window
            if 0 <= number < len(windows):
                windows[number] += batch["episode_return"][~batch["episode_return"].isnan()].tolist()
            if before is None and learner.counters.updates >= at:
                before = _scale(learner)
                enlarge(batch, size)
            for _ in learn(
                learner,
                replay,
                batch,
                [learner.counters.updates],
                num_fresh=plan.run.num_fresh,
                num_replayed=plan.run.num_replayed,
                passes=config.learner.passes,
            ):
                growth = max(growth, _scale(learner) / before) if before else 1.0
            runtime.publish(learner.counters.updates)
    finally:
        runtime.close()
    return Outcome([float(np.mean(returns)) if returns else float("nan") for returns in windows], growth)


def enlarge(batch: Trajectory, size: float) -> None:
    """Adds `size` to the reward of the last valid step of the first column that has one."""
    column = int(batch["mask"].any(dim=0).nonzero()[0])
    batch["reward"][int(batch["mask"][:, column].nonzero()[-1]), column] += size


def recovered(plain: Sequence[float], hit: Sequence[float], window: int) -> int | None:
    """See the module."""
    for number in range(len(plain)):
        if np.mean(hit[number:]) >= _RECOVERED * np.mean(plain[number:]):
            return (number + 1) * window
    return None


def _scale(learner: Learner) -> float:
    return float(sigma(learner.popart).max())


def main(arguments: Sequence[str]) -> int:
    """The program; see benchmarks/options.py for what it returns."""
    return report(measure, arguments, __doc__)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
