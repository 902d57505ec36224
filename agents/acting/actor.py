"""The actor: a vector environment and a policy that fill one trajectory per `unroll`. It does not depend on processes."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils._pytree import tree_map_only

from agents.acting.heartbeat import Heartbeat, heartbeat_spec
from agents.network.actions import ActionDistribution
from agents.trajectory import Trajectory, allocate
from envs.engines.base import WRITTEN_IN_PLACE
from envs.faults import Fault
from envs.vector import MultitaskVectorEnv

_INFO = ("episode_return", "episode_length", "success", "interrupted")


class ActingPolicy(Protocol):
    """The policy of an actor: agents/acting/policy.py, or the client of an inference server
    (agents/runtime/processes/inference_server.py)."""

    @property
    def core_state(self) -> Tensor:
        """[B, S], after the last step."""

    def seed(self, seed: int) -> None:
        """Restarts the stream of sampled actions. The actor calls it at the start of each unroll."""

    def act(self, inputs: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """One step in every slot: action [B, ...] and its log-probability [B]."""

    def weights_changed(self) -> None:
        """Drops all state that depends on earlier weights."""


class Actor:
    """Fills consecutive trajectories: each starts with the last observation of the one before.

    Args:
        env: NEXT_STEP vector environment. Its slots are the columns of the trajectories.
        policy: Its recurrent state is carried from unroll to unroll.
        seed: Of this actor's sampled actions (run seed, actor index). It is combined with the number of the unroll, so a resumed run
            repeats no random numbers.
        unrolls: Number of unrolls before this actor was started (after a resume).
        context_seeds: Whether trajectories and inputs of the policy have the key `context_seed`, a function of `seed`, slot and episode.

    Attributes:
        env_seconds, inference_seconds: Time that the last unroll spent in the environment and in the policy.
        first_episodes: Number of each slot's first episode, [slots].
        context_seeds: As given.
        faults: Environments that were restarted or whose episode was broken off during the last unroll
            (`MultitaskVectorEnv.take_faults`).
    """

    def __init__(
        self,
        env: MultitaskVectorEnv,
        policy: ActingPolicy,
        actions: ActionDistribution,
        *,
        seed: tuple[int, ...],
        unrolls: int = 0,
        context_seeds: bool = False,
    ) -> None:
        self.env = env
        self.policy = policy
        self.actions = actions
        self.seed = seed
        self.unrolls = unrolls
        self.env_seconds = 0.0
        self.inference_seconds = 0.0
        self.faults: list[Fault] = []
        slots = env.num_envs
        observation, info = env.reset()
        self._current = {key: torch.from_numpy(np.array(value)) for key, value in observation.items()}
        self._current |= {
            "task": self._current["task"].to(torch.int32),
            "reset": torch.ones(slots, dtype=torch.bool),
            "last_action": actions.no_action(slots),
            "last_reward": torch.zeros(slots),
        }
        self.first_episodes = info["episode"].copy()
        self.context_seeds = context_seeds
        self._seeds, self._seeded = np.zeros(slots, np.int32), np.full(slots, -1, np.int64)
        if context_seeds:
            self._current["context_seed"] = torch.from_numpy(self._draw_seeds(info["episode"]).copy())
        self.attach_heartbeat(Heartbeat(allocate(heartbeat_spec(slots))))
        self._no_action = actions.no_action(1).numpy()[0]
        self._ended = np.zeros(slots, bool)
        self._written_in_place = [key for key in observation if key in WRITTEN_IN_PLACE]
        self._copied = [key for key in observation if key not in WRITTEN_IN_PLACE]

    def attach_heartbeat(self, heartbeat: Heartbeat) -> None:
        """Replaces the heartbeat. Call it before the first unroll."""
        self.heartbeat = heartbeat
        self.env.show_stepping(heartbeat.stepping)
        heartbeat.beat(self.first_episodes, self._current["task"].numpy())

    def task(self) -> str:
        """Name of the task that was played last (`Heartbeat.task`); empty if that is ambiguous."""
        return self.heartbeat.task(self.env.spec_of_suite.tasks)

    def unroll(self, out: Trajectory) -> None:
        """Plays T steps in every slot and writes them into `out` (agents/trajectory.py). The length of `out` is T."""
        length = out["action"].shape[0]
        self.policy.seed(int(np.random.SeedSequence((*self.seed, self.unrolls)).generate_state(1)[0]))
        self.unrolls += 1
        for key, value in self._current.items():
            out[key][0] = value
        out["core_state"].copy_(self.policy.core_state)
        # NumPy and torch views of one buffer, to write and to act on. Indexing a row in NumPy costs a fifth of torch's indexing, and
        # `unbind` gives all rows of a tensor in one call.
        arrays = {key: value.numpy() for key, value in out.items()}
        inputs = {key: out[key].unbind(0) for key in self._current}
        env_seconds = inference_seconds = 0.0
        for t in range(length):
            began = time.perf_counter()
            chosen, log_probs = self.policy.act({key: rows[t] for key, rows in inputs.items()})
            action = chosen.numpy()
            acted = time.perf_counter()
            self.env.write_into({key: arrays[key][t + 1] for key in self._written_in_place})
            observation, reward, terminated, truncated, info = self.env.step(self.actions.for_env(action))
            inference_seconds += acted - began
            env_seconds += time.perf_counter() - acted
            # After the last observation of an episode a step only resets. A slow reset takes several steps.
            resetting = self._ended
            # A failed environment made no step. Its observation is repeated and is now the last of its episode.
            nothing_happened = resetting | info["interrupted"]
            self._ended = terminated | truncated | info["resetting"] | info["interrupted"]
            arrays["action"][t] = action
            arrays["behaviour_log_probs"][t] = log_probs.numpy()
            arrays["reward"][t] = arrays["last_reward"][t + 1] = reward
            arrays["terminated"][t] = terminated | info["life_lost"]
            arrays["mask"][t] = ~nothing_happened
            arrays["reset"][t + 1] = resetting & ~info["resetting"]
            arrays["last_action"][t + 1] = action
            arrays["last_action"][t + 1, nothing_happened] = self._no_action
            for key in _INFO:
                arrays[key][t] = info[key]
            for key in self._copied:
                arrays[key][t + 1] = observation[key]
            if self.context_seeds:
                arrays["context_seed"][t + 1] = self._draw_seeds(info["episode"])
            self.heartbeat.beat(info["episode"], observation["task"])
        arrays["episode"][:] = info["episode"]
        self._current = {key: rows[length].clone() for key, rows in inputs.items()}
        self.env_seconds, self.inference_seconds = env_seconds, inference_seconds
        self.faults = self.env.take_faults()

    def _draw_seeds(self, episodes: NDArray[np.int64]) -> NDArray[np.int32]:
        """The context seed of each slot's episode, [slots]; valid until the next call."""
        for slot in np.flatnonzero(episodes != self._seeded).tolist():
            word = int(np.random.SeedSequence((*self.seed, slot, int(episodes[slot]))).generate_state(1)[0])
            self._seeds[slot] = word >> 1 | 1
        self._seeded = episodes.copy()
        return self._seeds

    def state_dict(self) -> dict[str, Any] | None:
        """The state between two unrolls as tensors and plain data, from which `load_state_dict` resumes exactly.

        None if the environment cannot be saved (`MultitaskVectorEnv.state_dict`).
        """
        env = self.env.state_dict()
        if env is None:
            return None
        return {
            # Tensors, because a checkpoint may hold no NumPy arrays.
            "env": tree_map_only(np.ndarray, lambda array: torch.from_numpy(array.copy()), env),
            "current": {key: value.clone() for key, value in self._current.items()},
            "ended": torch.from_numpy(self._ended.copy()),
            "core_state": self.policy.core_state.clone(),
            "unrolls": self.unrolls,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores the `state_dict` of an actor with the same slots. Call it before the first unroll.

        Raises ValueError, LookupError or RuntimeError if the state is of other slots, or holds values that the network cannot read.
        """
        # Earlier checkpoints summed returns in float32.
        state = {**state, "env": {**state["env"], "return": state["env"]["return"].double()}}
        if _form(state) != _form(self.state_dict()):
            raise ValueError("the state of an actor is of other slots or environments")
        self.env.load_state_dict(tree_map_only(Tensor, lambda tensor: tensor.numpy().copy(), state["env"]))
        for key, value in state["current"].items():
            self._current[key].copy_(value)
        self._ended = state["ended"].numpy().copy()
        # A trial step raises here, instead of in the first unroll, if the state holds unknown tokens, task ids or actions.
        self.policy.act(self._current)
        with torch.inference_mode():
            self.policy.core_state.copy_(state["core_state"])
        self.unrolls = int(state["unrolls"])

    def close(self) -> None:
        """Closes the environment."""
        self.env.close()


def _form(tree: Any) -> Any:
    """The keys of nested dicts, with the types of their values; of tensors also shapes and dtypes."""
    if isinstance(tree, dict):
        return {key: _form(value) for key, value in tree.items()}
    return (tree.shape, tree.dtype) if isinstance(tree, Tensor) else type(tree)
