"""Inputs of benchmarks: an actor's environments, and the learner's batches, recorded or synthetic."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import torch

from agents.acting.policy import Policy
from agents.learning.minibatches import split_columns
from agents.network.actions import action_distribution
from agents.runtime.base import StreamPositions
from agents.setup import builder
from agents.setup.plan import autocast_dtype, make_plan
from agents.trajectory import OBSERVED, Trajectory, concatenate, trajectory_spec
from conf.schema import TrainConfig
from envs.engines.envpool_engine import EnvpoolEngine
from envs.spec import EnvSpec, Split
from envs.suites import get_suite, make_env
from envs.vector import MultitaskVectorEnv

_WARM_UP_UNROLLS = 4
"""After so many unrolls the slots no longer reset at the same steps."""
_RESET_SHARE = 0.02


def collect(config: TrainConfig, env: EnvSpec, count: int) -> list[Trajectory]:
    """`count` unrolls of one actor with an untrained agent, each [T+1, slots]."""
    torch.manual_seed(config.seed)
    serial = replace(config, runtime=replace(config.runtime, name="serial", num_actors=1))
    # One unroll for each collect(), independent of the batch size.
    serial = replace(serial, learner=replace(config.learner, batch_size=0))
    runtime = builder.build_runtime(serial, env, builder.build_network(serial, env), StreamPositions(), 0)
    try:
        for _ in range(_WARM_UP_UNROLLS):
            runtime.collect()
        return [{key: value.clone() for key, value in runtime.collect().trajectory.items()} for _ in range(count)]
    finally:
        runtime.close()


def updates(config: TrainConfig, env: EnvSpec, unrolls: Sequence[Trajectory]) -> list[Trajectory]:
    """The learner's batches from these unrolls: several unrolls joined, or parts of one."""
    workload = make_plan(config, env).run
    joined = workload.unrolls_per_batch
    groups = [unrolls[first : first + joined] for first in range(0, len(unrolls) - joined + 1, joined)]
    batches = [concatenate(group) for group in groups]
    parts = [part for batch in batches for part in split_columns(batch, workload.columns)]
    return [{key: value.clone() for key, value in part.items()} for part in parts]


def make_policy(config: TrainConfig, env: EnvSpec, slots: int) -> Policy:
    """A policy for `slots` slots with a newly initialized network."""
    torch.manual_seed(config.seed)
    return Policy(builder.build_network(config, env), slots, autocast=autocast_dtype(config))


def precision(config: TrainConfig) -> str:
    """The precision of torso and core, as the configuration names it."""
    return "fp32" if autocast_dtype(config) is None else "bf16"


def acting(policy: Policy, unrolls: Sequence[Trajectory]) -> Callable[[], float]:
    """Work for `turns.cost`: acting on the recorded observations of one unroll after the other. Counts real transitions.

    As in training, the weights change before each unroll, so that modulations are computed again.
    """
    recorded = []
    for unroll in unrolls:
        observed = [key for key in OBSERVED if key in unroll]
        length = unroll["action"].shape[0]
        steps = [{key: unroll[key][t].contiguous() for key in observed} for t in range(length)]
        recorded.append((steps, int(unroll["mask"].sum())))
    turn = 0

    def work() -> float:
        nonlocal turn
        steps, transitions = recorded[turn % len(recorded)]
        turn += 1
        policy.weights_changed()
        for step in steps:
            policy.act(step)
        return transitions

    return work


class RandomPlay:
    """An actor's vector environment with random actions. Resets cost time but do not count as steps.

    Args:
        slots: None = as many as an actor of the configuration has.
    """

    def __init__(self, config: TrainConfig, env: EnvSpec, slots: int | None = None) -> None:
        if slots:
            config = replace(config, runtime=replace(config.runtime, slots_per_actor=slots))
        seats = builder.make_slots(config, env, 0, None)
        self.env: MultitaskVectorEnv = make_env(config.env, env, seats, config.seed, Split.TRAIN)
        self.env.reset()
        actions = action_distribution(env)
        logits = torch.zeros(len(seats), actions.num_parameters)
        if env.action_kind == "discrete":
            counts = torch.tensor([env.action_counts[seat.task] for seat in seats])
            logits[torch.arange(actions.num_parameters) >= counts.unsqueeze(1)] = -math.inf
        drawn = actions.noise(256, len(seats), torch.Generator().manual_seed(config.seed))
        parameters = actions.parameters(logits)
        self.actions = [actions.for_env(actions.choose(parameters, noise).numpy()) for noise in drawn]
        self._ended = np.zeros(len(seats), bool)

    def play(self) -> float:
        """Makes 256 vector steps. Returns the number of real transitions."""
        transitions = 0
        for actions in self.actions:
            _, _, terminated, truncated, _ = self.env.step(actions)
            transitions += len(actions) - int(np.count_nonzero(self._ended))
            self._ended = terminated | truncated
        return transitions

    def close(self) -> None:
        """Closes the environment."""
        self.env.close()


class EnginePlay:
    """envpool alone: the environments and actions of a `RandomPlay`, sent to all pools at once."""

    def __init__(self, config: TrainConfig, env: EnvSpec, slots: int) -> None:
        suite = RandomPlay(config, env, slots)
        suite.close()
        self._engine = get_suite(env.suite).make_engine(config.env, env, suite.env.slots, Split.TRAIN)
        assert isinstance(self._engine, EnvpoolEngine)
        self._engine.start(config.seed)
        self._pools = [(pool.envs, np.zeros(len(pool.rows), np.bool_)) for pool in self._engine.pools]
        self._actions = [[actions[pool.rows] for pool in self._engine.pools] for actions in suite.actions]

    def play(self) -> float:
        """Makes 256 vector steps. Returns the number of real transitions."""
        transitions = 0
        for actions in self._actions:
            for (envs, _), action in zip(self._pools, actions, strict=True):
                envs.send(action)
            for envs, ended in self._pools:
                _, _, terminated, truncated, _ = envs.recv()
                transitions += len(ended) - int(np.count_nonzero(ended))
                np.logical_or(terminated, truncated, out=ended)
        return transitions

    def close(self) -> None:
        self._engine.close()


def synthetic(env: EnvSpec, unroll_length: int, columns: int, core_state_size: int, seed: int = 0) -> Trajectory:
    """A random trajectory: every value is in its range, 2% of the steps are resets, and slot i has task i modulo the number of tasks."""
    generator = np.random.default_rng(seed)
    arrays = {
        key: np.zeros(array.shape, array.dtype)
        for key, array in trajectory_spec(env, unroll_length, columns, core_state_size).items()
    }
    if "image" in arrays:
        limits = np.array(env.symbol_counts or [256] * arrays["image"].shape[-1])
        arrays["image"][:] = generator.random(arrays["image"].shape, np.float32) * limits
    if "vector" in arrays:
        arrays["vector"][:] = generator.standard_normal(arrays["vector"].shape)
    if "action_mask" in arrays:
        arrays["action_mask"][:] = True
    arrays["task"][:] = np.arange(columns) % len(env.tasks)
    arrays["reset"][:] = generator.random(arrays["reset"].shape) < _RESET_SHARE
    # The step that leads to a reset is no transition.
    arrays["mask"][:] = ~arrays["reset"][1:]
    actions, samples = action_distribution(env), unroll_length * columns
    parameters = actions.parameters(torch.zeros(samples, actions.num_parameters))
    action = actions.choose(parameters, actions.noise(1, samples, torch.Generator().manual_seed(seed))[0])
    arrays["action"][:] = action.numpy().reshape(arrays["action"].shape)
    arrays["behaviour_log_probs"][:] = actions.log_prob(parameters, action).numpy().reshape(unroll_length, columns)
    arrays["last_action"][1:] = arrays["action"]
    arrays["last_action"][arrays["reset"]] = arrays["last_action"][0] = actions.no_action(1).numpy()[0]
    arrays["reward"][:] = generator.random(arrays["reward"].shape) < _RESET_SHARE
    return {key: torch.from_numpy(array) for key, array in arrays.items()}
