"""The seeds of contexts: one for each episode, and the same noise for actors, their server and the learner."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from counting import COUNTING, CountingEngine, CountingNetwork
from torch import Tensor

import train
from agents.acting.actor import Actor
from agents.acting.policy import Policy
from agents.learning.learner import Learner
from agents.runtime.base import StreamPositions
from agents.setup import builder
from agents.storage.checkpoint import list_checkpoints, load_checkpoint
from agents.trajectory import Trajectory, allocate, trajectory_spec
from conf.loading import compose_train
from envs.spec import Slot
from envs.suites import make_spec
from envs.vector import MultitaskVectorEnv

T, SLOTS = 5, 3
TINY = [
    *("env=conditional", "env.tasks=[map-0,memory-1]", "context=task", "precision=fp32", "learner.unroll_length=9"),
    *("runtime.slots_per_actor=8", "core.size=16", "fusion.size=16", "torso.hidden=[16]"),
]
NOISY = ["context.noise=0.7", "context.dropout=0.2"]


# One seed for each episode


def seeds_by_episode(
    unrolls: int, seed: tuple[int, ...] = (4, 1), first: Sequence[int] = (0, 0, 0)
) -> dict[tuple[float, ...], int]:
    """The seed of each (slot, episode) that the counting environments show, in consecutive unrolls."""
    slots = [Slot(task=column % 2, index=column // 2, episode=first[column]) for column in range(SLOTS)]
    policy, engine = Policy(CountingNetwork(), SLOTS), CountingEngine(slots)  # type: ignore[arg-type]
    policy.network.context_encoder.add_seeds = lambda rows, seeds: rows  # type: ignore[assignment]
    env = MultitaskVectorEnv(engine, COUNTING, slots, seed=0)
    actor = Actor(env, policy, CountingNetwork.actions, seed=seed, context_seeds=True)
    found: dict[tuple[float, ...], int] = {}
    out = allocate(trajectory_spec(COUNTING, T, SLOTS, policy.core_state.shape[1], context_seeds=True))
    for _ in range(unrolls):
        actor.unroll(out)
        for shown, number in zip(
            out["vector"].flatten(0, 1).tolist(), out["context_seed"].flatten().tolist(), strict=True
        ):
            assert found.setdefault(tuple(shown[:2]), number) == number
    return found


def test_an_episode_has_one_seed_of_its_own() -> None:
    seeds = seeds_by_episode(12)
    assert len(seeds) > 10 and len(set(seeds.values())) == len(seeds)
    assert all(0 < seed < 2**31 for seed in seeds.values())
    # They follow from the place of the episode: a restarted actor gives the same, another actor or run others.
    assert seeds_by_episode(12) == seeds
    later = seeds_by_episode(3, first=(2, 2, 2))
    assert later and later.items() <= seeds.items()
    for other in ((4, 2), (5, 1)):
        assert not set(seeds_by_episode(12, other).values()) & set(seeds.values())


def test_without_noise_trajectories_have_no_seeds() -> None:
    for options, expected in (([], False), (NOISY[:1], True), (NOISY[1:], True)):
        config = compose_train([*TINY, "runtime=serial", *options])
        env = make_spec(config.env)
        assert ("context_seed" in builder.columns_spec(config, env, builder.build_network(config, env), 2)) == expected


# The same noise everywhere


def collected(*options: str) -> tuple[Learner, Trajectory]:
    """A learner, and a trajectory that actors with its weights have played."""
    config = compose_train([*TINY, *options])
    env = make_spec(config.env)
    torch.manual_seed(0)
    network = builder.build_network(config, env)
    # With the small weights of the first policy head no context would matter.
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    learner = builder.build_learner(config, env, network)
    runtime = builder.build_runtime(config, env, network, StreamPositions(), 0)
    try:
        return learner, {key: value.clone() for key, value in runtime.collect().trajectory.items()}
    finally:
        runtime.close()


def log_rhos(learner: Learner, batch: Trajectory) -> Tensor:
    """Log pi / mu of the valid steps, before the update."""
    learner.step(batch)
    assert learner.objective.last
    return learner.objective.last.log_rhos[batch["mask"]]


@pytest.mark.usefixtures("nothing_is_left_behind")
@pytest.mark.parametrize(
    "runtime",
    [
        ["runtime=serial"],
        pytest.param(["runtime=local", "runtime.num_actors=1", "runtime.inference=actor"], marks=pytest.mark.slow),
        pytest.param(["runtime=local", "runtime.num_actors=1", "runtime.inference=server"], marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize("noise", [NOISY, NOISY[:1], NOISY[1:]])
def test_the_learner_reads_the_noise_that_the_actors_read(runtime: list[str], noise: list[str]) -> None:
    """On policy every ratio is 1. With other seeds it is not."""
    options = [*runtime, *noise, "fusion=mi", "fusion.sites=[core_input,policy]", "learner.batch_size=8"]
    learner, batch = collected(*options)
    torch.testing.assert_close(log_rhos(learner, batch), torch.zeros(int(batch["mask"].sum())), rtol=0, atol=1e-4)
    assert len(batch["context_seed"].unique()) >= 8
    learner, again = collected(*options)
    again["context_seed"] = again["context_seed"].flip(1)
    assert float(log_rhos(learner, again).abs().max()) > 0.05


def test_contexts_stay_few() -> None:
    """z is encoded once for each context and episode, not for each step."""
    learner, batch = collected("runtime=serial", *NOISY, "learner.batch_size=8")
    staged = learner.prefetcher.stage(batch)
    episodes = len(np.unique(np.stack([batch["task"], batch["context_seed"]]).reshape(2, -1), axis=1).T)
    assert staged.contexts.noise is not None
    distinct = len(np.unique(staged.segments.index.numpy()))
    assert distinct <= episodes < batch["task"].numel() / 2


@pytest.mark.slow
def test_a_noisy_run_resumes_bit_for_bit(tmp_path: Path) -> None:
    options = [*TINY, *NOISY, "runtime=serial", "display=false", "checkpoint_seconds=0", "keep_checkpoints=1000"]
    run = tmp_path / "run"
    assert train.main([*options, f"run={run}", "total_frames=400"]) == 0
    expected = load_checkpoint(list_checkpoints(run / "checkpoints")[-1])["learner"]["network"]
    (run / "result.json").unlink()
    for path in list_checkpoints(run / "checkpoints")[2:]:
        path.unlink()
    assert train.main([f"run={run}", "resume=true"]) == 0
    found = load_checkpoint(list_checkpoints(run / "checkpoints")[-1])["learner"]["network"]
    torch.testing.assert_close(found, expected, rtol=0, atol=0)
