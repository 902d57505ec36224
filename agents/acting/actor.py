"""The actor: a vector environment and a policy, one trajectory per `unroll`. It knows nothing of processes."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from agents.acting.heartbeat import Heartbeat
from agents.network.actions import ActionDistribution
from agents.trajectory import Trajectory
from envs.engines.base import WRITTEN_IN_PLACE
from envs.faults import Fault
from envs.vector import MultitaskVectorEnv

_INFO = ("episode_return", "episode_length", "success", "interrupted")


class ActingPolicy(Protocol):
    """What an actor asks of its policy: agents/acting/policy.py, or a server that acts in its place
    (agents/runtime/processes/inference_server.py)."""

    @property
    def core_state(self) -> Tensor:
        """[B, S], after the last step."""

    def seed(self, seed: int) -> None:
        """Restarts the stream of sampled actions; called once at the beginning of each unroll."""

    def act(self, inputs: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """One step in every slot: action [B, ...] and its log-probability [B]."""

    def weights_changed(self) -> None:
        """Forgets what was derived from earlier weights."""


class Actor:
    """Fills trajectories, one unroll after the other, without a gap between them.

    Args:
        env: NEXT_STEP vector environment; its slots are the columns of the trajectories.
        policy: acts; its recurrent state is carried from unroll to unroll.
        actions: what its actions are; the same as the policy's.
        seed: names this actor's stream of sampled actions (run seed, actor index). Every unroll draws from a stream of its own, so
            that a resumed run repeats none.
        unrolls: unrolls made before this actor was started (after a resume).

    Attributes:
        env_seconds, inference_seconds: time that the last unroll spent in the environment and in the policy.
        heartbeat: what it shows of its life at every step.
        first_episodes: number of the episode that each slot began with, [slots].
        faults: environments that were started anew, or whose episode was broken off, up to the end of the last unroll and after the one
            before (`MultitaskVectorEnv.take_faults`).
    """

    def __init__(
        self,
        env: MultitaskVectorEnv,
        policy: ActingPolicy,
        actions: ActionDistribution,
        *,
        seed: tuple[int, ...],
        unrolls: int = 0,
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
        self.show_life(Heartbeat(slots))
        self._no_action = actions.no_action(1).numpy()[0]
        self._ended = np.zeros(slots, bool)
        self._written_in_place = [key for key in observation if key in WRITTEN_IN_PLACE]
        self._copied = [key for key in observation if key not in WRITTEN_IN_PLACE]

    def show_life(self, heartbeat: Heartbeat) -> None:
        """From now on signs of life go there; before the first unroll."""
        self.heartbeat = heartbeat
        self.env.show_stepping(heartbeat.stepping)
        heartbeat.beat(self.first_episodes, self._current["task"].numpy())

    def task(self) -> str:
        """Name of the task that it is busy with (agents/acting/heartbeat.py); empty where that is not known."""
        return self.heartbeat.task(self.env.spec_of_suite.tasks)

    def unroll(self, out: Trajectory) -> None:
        """Plays T steps in every slot and writes them into `out` (agents/trajectory.py), whose length sets T."""
        length = out["action"].shape[0]
        self.policy.seed(int(np.random.SeedSequence((*self.seed, self.unrolls)).generate_state(1)[0]))
        self.unrolls += 1
        for key, value in self._current.items():
            out[key][0] = value
        out["core_state"].copy_(self.policy.core_state)
        # The same memory twice: NumPy's rows to write, torch's to act on. Taking one costs a fifth in NumPy, and torch's come at once.
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
            # Where the observation was an episode's last, the step only resets; a slow reset may take several.
            resetting = self._ended
            # And where the environment failed there was no step at all: the observation stays, and is now its episode's last.
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
            self.heartbeat.beat(info["episode"], observation["task"])
        arrays["episode"][:] = info["episode"]
        self._current = {key: rows[length].clone() for key, rows in inputs.items()}
        self.env_seconds, self.inference_seconds = env_seconds, inference_seconds
        self.faults = self.env.take_faults()

    def state_dict(self) -> dict[str, Any] | None:
        """Between two unrolls: tensors and plain data from which `load_state_dict` goes on step for step. None where the environment
        cannot be frozen (`MultitaskVectorEnv.state_dict`).
        """
        env = self.env.state_dict()
        if env is None:
            return None
        return {
            "env": to_tensors(env),
            "current": {key: value.clone() for key, value in self._current.items()},
            "ended": torch.from_numpy(self._ended.copy()),
            "core_state": self.policy.core_state.clone(),
            "unrolls": self.unrolls,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes over the `state_dict` of an actor with the same slots, before the first unroll.

        Raises:
            ValueError, LookupError, RuntimeError: it is that of another one, or holds what the network cannot read.
        """
        # Earlier checkpoints summed returns in float32.
        state = {**state, "env": {**state["env"], "return": state["env"]["return"].double()}}
        if not same_form(state, self.state_dict()):
            raise ValueError("the state of an actor is of other slots or environments")
        self.env.load_state_dict(to_arrays(state["env"]))
        for key, value in state["current"].items():
            self._current[key].copy_(value)
        self._ended = state["ended"].numpy().copy()
        # A step that nobody takes: a word or a task that there is not, or an action, is noticed here and not in the first unroll.
        self.policy.act(self._current)
        with torch.inference_mode():
            self.policy.core_state.copy_(state["core_state"])
        self.unrolls = int(state["unrolls"])

    def close(self) -> None:
        """Closes the environment."""
        self.env.close()


def to_tensors(tree: Any) -> Any:
    """Nested data with tensors in place of arrays, which no checkpoint may hold."""
    if isinstance(tree, dict):
        return {key: to_tensors(value) for key, value in tree.items()}
    return torch.from_numpy(tree.copy()) if isinstance(tree, np.ndarray) else tree


def same_form(tree: Any, other: Any) -> bool:
    """Whether two such trees have the same keys, and tensors of the same shapes and dtypes, or plain values of one type."""
    if isinstance(tree, dict) and isinstance(other, dict):
        return tree.keys() == other.keys() and all(same_form(value, other[key]) for key, value in tree.items())
    if isinstance(tree, torch.Tensor) and isinstance(other, torch.Tensor):
        return (tree.shape, tree.dtype) == (other.shape, other.dtype)
    return type(tree) is type(other)


def to_arrays(tree: Any) -> Any:
    """The inverse of `to_tensors`."""
    if isinstance(tree, dict):
        return {key: to_arrays(value) for key, value in tree.items()}
    return tree.numpy().copy() if isinstance(tree, torch.Tensor) else tree
