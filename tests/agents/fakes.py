"""Small tasks that no engine plays, networks for them, and trajectories as an actor would leave them."""

from __future__ import annotations

import math

import numpy as np
import torch

from agents.network.actions import action_distribution
from agents.network.agent import AgentNetwork
from agents.setup.builder import build_network
from agents.trajectory import Trajectory, trajectory_spec
from conf.schema import ContextConfig, CoreConfig, FusionConfig, LearnerConfig, RuntimeConfig, TorsoConfig, TrainConfig
from envs.spec import ArraySpec, EnvSpec
from envs.suite import EnvConfig

VECTOR = 3
CONTEXT = 2
INSTRUCTION_LENGTH = 4
WORDS = 7


ACTIONS: dict[str, dict[str, object]] = {
    "discrete": {"num_actions": 4},
    "multi_discrete": {"num_actions": 7, "action_sizes": (2, 3, 2)},
    "continuous": {"num_actions": 2, "action_low": (-1.0, 0.5), "action_high": (1.0, 8.5)},
}
"""Every kind of actions, as fields of an EnvSpec."""


def fake_env(
    *,
    actions: str = "discrete",
    num_tasks: int = 3,
    image: tuple[int, int, int] | None = None,
    kind: str = "none",
    **changes: object,
) -> EnvSpec:
    """Vectors (or images) with instructions and vectors as context; of discrete actions the second task has one less than the others."""
    observation = (
        {"image": ArraySpec(shape=image, dtype="uint8")}
        if image
        else {"vector": ArraySpec(shape=(VECTOR,), dtype="float32")}
    )
    observation["context"] = ArraySpec(shape=(CONTEXT,), dtype="float32")
    most = ACTIONS[actions]["num_actions"]
    counts = tuple(3 if task == 1 and actions == "discrete" else most for task in range(num_tasks))
    fields: dict[str, object] = {
        "suite": "fake",
        "tasks": tuple(f"task-{number}" for number in range(num_tasks)),
        "observation": observation,
        "instruction_length": INSTRUCTION_LENGTH,
        "vocabulary": ("", "?", *(f"word-{number}" for number in range(2, WORDS))),
        **ACTIONS[actions],
        "action_counts": counts,
        "image_kind": kind,
        "symbol_counts": (5,) * image[2] if image and kind == "symbolic" else (),
    }
    return EnvSpec(**(fields | changes))  # type: ignore[arg-type]


def fake_config(
    *,
    fusion: str = "mi",
    context: str = "both",
    core: str = "lstm",
    sites: tuple[str, ...] = ("core_input", "policy", "value"),
    spatial: str = "",
    torso: str = "auto",
    task_encoding: str = "embedding",
    actor_width: float = 0.0,
    critic_width: float = 0.0,
    **learner: object,
) -> TrainConfig:
    """A configuration of a tiny agent."""
    return TrainConfig(
        env=EnvConfig(name="fake", tasks=[]),
        fusion=FusionConfig(name=fusion, sites=list(sites), spatial=spatial, size=6, rank=4, hidden=5, experts=3),
        context=ContextConfig(name=context, task_encoding=task_encoding, task_size=3, word_size=4, instruction_size=5),
        core=CoreConfig(name=core, size=5),
        torso=TorsoConfig(name=torso, size=6, hidden=[6]),
        learner=LearnerConfig(**learner),  # type: ignore[arg-type]
        runtime=RuntimeConfig(name="serial", slots_per_actor=4),
        precision="fp32",
        actor_width=actor_width,
        critic_width=critic_width,
    )


def fake_network(env: EnvSpec, config: TrainConfig, seed: int = 0) -> AgentNetwork:
    """A network with random noise on every trained parameter, so that no bias or gate is 0."""
    torch.manual_seed(seed)
    network = build_network(config, env)
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.requires_grad:
                parameter.add_(0.3 * torch.randn_like(parameter))
    return network


def fake_batch(env: EnvSpec, core_state_size: int, length: int, columns: int, seed: int = 0) -> Trajectory:
    """A trajectory laid out as agents/trajectory.py says, with random episodes and an instruction that changes inside them."""
    rng = np.random.default_rng(seed)
    spec = trajectory_spec(env, length, columns, core_state_size)
    batch = {key: np.zeros(array.shape, array.dtype) for key, array in spec.items()}
    for key, array in env.observation.items():
        if key == "context":
            continue
        shape = batch[key].shape
        batch[key] = (
            rng.integers(0, 5, shape, np.uint8) if array.dtype == "uint8" else rng.normal(size=shape).astype(np.float32)
        )
    task = rng.integers(0, len(env.tasks), columns)
    batch["task"][:] = task
    counts = np.array(env.action_counts)[task]
    ended = np.zeros((length + 1, columns), bool)
    ended[:-1] = rng.random((length, columns)) < 0.3
    if length > 3:
        # Both kinds of ending happen in the middle of column 0, and the rest is left to chance.
        ended[: min(length, 6), 0] = False
        ended[1, 0] = True
    for t in range(1, length + 1):
        ended[t] &= ~ended[t - 1]
    batch["terminated"] = ended[:-1] & (rng.random((length, columns)) < 0.5)
    batch["mask"][0] = rng.random(columns) < 0.8
    batch["mask"][1:] = ~ended[: length - 1]
    ended[0] &= batch["mask"][0]
    batch["terminated"] &= batch["mask"]
    batch["reset"][0] = batch["mask"][0] & (rng.random(columns) < 0.3)
    batch["reset"][1:] = ~batch["mask"]
    batch["action"] = random_actions(rng, env, counts, length)
    batch["reward"] = (rng.normal(size=(length, columns)) * batch["mask"]).astype(np.float32)
    batch["behaviour_log_probs"] = np.log(rng.uniform(0.1, 0.9, (length, columns))).astype(np.float32)
    batch["last_action"][0] = random_actions(rng, env, counts, 1)[0]
    batch["last_action"][1:] = batch["action"]
    batch["last_action"][batch["reset"]] = action_distribution(env).no_action(1)[0].numpy()
    batch["last_reward"][1:] = batch["reward"]
    batch["core_state"] = rng.normal(size=batch["core_state"].shape).astype(np.float32)
    if env.instruction_length:
        for column in range(columns):
            words = random_instruction(rng, env)
            for t in range(length + 1):
                if batch["reset"][t, column] or rng.random() < 0.2:
                    words = random_instruction(rng, env)
                batch["instruction"][t, column] = words
    if "context" in batch:
        batch["context"] = rng.normal(size=batch["context"].shape).astype(np.float32)
    for key in ("episode_return", "success"):
        batch[key][:] = math.nan
    return {key: torch.from_numpy(np.ascontiguousarray(value)) for key, value in batch.items()}


def random_actions(rng: np.random.Generator, env: EnvSpec, counts: np.ndarray, length: int) -> np.ndarray:
    """In the form that trajectories have, [length, B, ...]; `counts` [B] is how many discrete ones each column has."""
    if env.action_kind == "continuous":
        return rng.normal(size=(length, len(counts), env.num_actions)).astype(np.float32)
    if env.action_kind == "multi_discrete":
        return rng.integers(0, env.action_sizes, (length, len(counts), len(env.action_sizes)))
    return rng.integers(0, counts, (length, len(counts)))


def random_instruction(rng: np.random.Generator, env: EnvSpec) -> np.ndarray:
    """Between no word and as many as there is room for, of a vocabulary small enough for repetitions."""
    tokens = np.zeros(env.instruction_length, np.int32)
    length = rng.integers(0, env.instruction_length + 1)
    tokens[:length] = rng.integers(1, min(4, len(env.vocabulary)), length)
    return tokens
