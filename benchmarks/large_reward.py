"""The effect of one large reward on a training.

Usage:

    python -m benchmarks.large_reward [seeds=5] [size=10000] [control=1] [at=60] [updates=400]
    [window=100] [case="name: key=value ..."] [key=value of train.py ...]

Each case runs three times from each seed, in this process. The first run is undisturbed. In the second, `control` is added to the reward of
one step at update `at`; in the third, `size`. This changes only the learner's reward, not the logged return. The runs continue for
`updates` updates.

Prints one line of JSON for each seed. It has the mean return of the episodes in each window of `window` updates after that reward, for the
three runs, and the largest factor by which sigma grew. `updates_to_recover` is the end of the first window from which on the mean return is
at least 95% of the undisturbed run's (null: not within `updates`). A last line has the same for the means over seeds, and the ratio to
the undisturbed runs in each window. The control shows the effect of a change of any single number.
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
    # The entropy bonus is large enough to dominate, as in long tasks, when a too large sigma divides the advantages.
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
    """`returns` has the mean of each window after the large reward; `growth` is the largest ratio of sigma to its value before."""

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
    given = named("case", options.own) or CASES
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
    """The columns of a row from the returns of each window: undisturbed, control and disturbed."""
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
    """Trains once and adds `size` to a reward at update `at`."""
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
    """Updates after which the return is again that of the undisturbed run (see the module); None if it is not."""
    for number in range(len(plain)):
        if np.mean(hit[number:]) >= _RECOVERED * np.mean(plain[number:]):
            return (number + 1) * window
    return None


def _scale(learner: Learner) -> float:
    return float(sigma(learner.objective.popart).max())


def main(arguments: Sequence[str]) -> int:
    """Prints the rows. Returns the exit code of `options.report`."""
    return report(measure, arguments, __doc__)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
