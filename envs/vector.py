"""The environment that actors and evaluation use: a gymnasium vector environment of S slots around one engine.

The engine turns actions into observations and rewards. This class adds the spaces, the task ids, the episode statistics and the
episode counter.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gymnasium
import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

from envs.engines.base import (
    Arrays,
    Engine,
    FreezableEngine,
    LivesEngine,
    SequentialEngine,
    SlotEngine,
    SuccessEngine,
    SupervisedEngine,
)
from envs.faults import Fault
from envs.gymnasium_adapter.actions import sample_legal, suite_space
from envs.schedule import FrameBalance
from envs.spec import EnvSpec, Slot


class MultitaskVectorEnv(VectorEnv[Arrays, NDArray[Any], NDArray[Any]]):
    """S slots of a suite as one gymnasium `VectorEnv` with NEXT_STEP auto-reset.

    Observations are a dict of `image` (uint8) and/or `vector` (float32), `instruction` (int32 [S, L]), `context` (float32 [S, V]) and
    `action_mask` (bool [S, A]) if the suite has them, and `task` (int32 [S]). A discrete action must be below `spec.action_counts` of the
    slot's task.
    The step after an episode's end resets the slot: it ignores its action and returns the next episode's first observation with reward 0.
    With limited patience (`wait_for_resets`) a reset may take several steps. All but the last of them return the ended episode's last
    observation again, and set `info["resetting"]`.

    **Every returned array is valid until the next call of `reset` or `step`**: buffers are reused, so copy what you keep.

    `info` always holds these arrays [S]:
        - episode_return f32: Return of the episode that this step ended, summed in float64; NaN if none ended.
        - success f32: Success of that episode, as the environment reports it. If it reports none and the suite defines a success
          (`EnvSpec.has_success`): whether the episode terminated with a positive last reward. Otherwise NaN.
        - episode_length i32: Agent steps of that episode; 0 if none ended.
        - episode i64: Number of the episode that is observed, which is its place in the seed tree.
        - resetting bool: The slot's reset was not finished in this step, and continues.
        - interrupted bool: The slot's environment failed, so this step does not count. It gave a number that is not finite, or failed as
          in `supervise`. The observation is the last one before the failure, and the next step resets.
        - life_lost bool: The step lost a life, and the game continues. Learning does not bootstrap across it, but the episode, its return
          and its length are those of the whole game.

    Observations and rewards are finite.
    """

    def __init__(self, engine: Engine, spec: EnvSpec, slots: Sequence[Slot], seed: int) -> None:
        self.spec_of_suite = spec
        self.slots = tuple(slots)
        self.num_envs = len(self.slots)
        self.metadata = {"autoreset_mode": AutoresetMode.NEXT_STEP, "render_modes": ["rgb_array"]}
        self.render_mode = "rgb_array"
        self.single_observation_space = _observation_space(spec)
        sizes = spec.action_sizes or (spec.num_actions,)
        self.single_action_space = suite_space(spec.action_kind, sizes, spec.action_low, spec.action_high)
        self.observation_space = batch_space(self.single_observation_space, self.num_envs)
        self.action_space = batch_space(self.single_action_space, self.num_envs)
        self._action_dtype = np.dtype(spec.action.dtype)
        self._engine = engine
        self._seed = seed
        self._first_episode = np.array([slot.episode for slot in self.slots], np.int64)
        # For events that this engine never reports.
        never = np.zeros(self.num_envs, np.bool_)
        # Once here, because isinstance with a runtime protocol can take longer than a step.
        self._slot_engine = engine if isinstance(engine, SlotEngine) else None
        self._supervised = engine if isinstance(engine, SupervisedEngine) else None
        self._interrupted = self._slot_engine.interrupted if self._slot_engine else never
        self._resetting = self._supervised.resetting if self._supervised else never
        self._success = engine.success if isinstance(engine, SuccessEngine) else None
        self._life_lost = engine.life_lost if isinstance(engine, LivesEngine) else never
        # The argument of `balance_frames`; None if slots keep their tasks.
        self._steps_before: tuple[int, ...] | None = None
        self._begin_statistics()

    def wait_for_resets(self, patience: float) -> None:
        """From now on a step of a SupervisedEngine waits for a reset until `patience` seconds after the reset's start at most.

        Before this call steps wait without limit, and what is played follows from the seeds alone.
        """
        if self._supervised:
            self._supervised.patience = patience

    def supervise(self, hang_seconds: float, memory_limit: int, recycle_episodes: int) -> None:
        """From now on an environment of a SupervisedEngine that fails costs its slot one episode and the other slots nothing."""
        if self._supervised:
            self._supervised.supervise(hang_seconds, memory_limit, recycle_episodes)

    def show_stepping(self, stepping: NDArray[np.int64]) -> None:
        """From now on `stepping` int64 [1] holds the slot that is being stepped; always -1 if the engine is no SequentialEngine."""
        stepping[0] = -1
        if isinstance(self._engine, SequentialEngine):
            self._engine.stepping = stepping

    def take_faults(self) -> list[Fault]:
        """The faults since the last call: restarts of environments, and episodes that were broken off."""
        return self._slot_engine.take_faults() if self._slot_engine else []

    def balance_frames(self, steps: Sequence[int]) -> None:
        """From the next `reset` on, slots change their tasks between episodes so that all tasks get equal numbers of steps
        (`envs.schedule.FrameBalance`). Requires a SlotEngine (`EnvSpec.switches_tasks`). Every task has got `steps` [K] so far.

        `Slot.task` is then only the first task of a slot. No two slots may have the same `Slot.index`.
        """
        assert self._slot_engine
        self._steps_before = tuple(steps)

    def _begin_statistics(self) -> None:
        self._episode = self._first_episode.copy()
        self._return = np.zeros(self.num_envs, np.float64)
        self._length = np.zeros(self.num_envs, np.int32)
        # Slots that show the last observation of an ended or interrupted episode. Their next step resets, or continues the reset.
        self._ended = np.zeros(self.num_envs, np.bool_)
        self._task = np.array([slot.task for slot in self.slots], np.int32)
        # Task of the episode that a slot plays. While the slot resets, `_task` is still that of the observed episode.
        self._next_task = self._task.copy()
        self._balance = None if self._steps_before is None else FrameBalance(self._steps_before, self._task)

    def reset(
        self, *, seed: int | Sequence[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Arrays, dict[str, Any]]:
        """Starts every slot at its first episode (`Slot.episode`), which follows from the run seed.

        A `seed` replaces the run seed permanently. It must be one number, from which the seeds of all slots follow.
        """
        if seed is not None:
            if not isinstance(seed, int):
                raise TypeError("reset takes one run seed, from which the seeds of all slots follow")
            self._seed = seed
        self._begin_statistics()
        self._engine.start(self._seed)
        # No slot restarted, but an engine may have skipped episodes that could not begin.
        self._count_episodes(np.zeros(self.num_envs, np.bool_))
        nan = np.full(self.num_envs, np.nan, np.float32)
        return self._observe(), self._info(nan, np.zeros(self.num_envs, np.int32), nan)

    def write_into(self, arrays: Arrays) -> None:
        """From the next `step` on, writes the keys of WRITTEN_IN_PLACE into these arrays [S, ...]; saves a copy of large images."""
        self._engine.observation.update(arrays)

    def step(
        self, actions: NDArray[Any]
    ) -> tuple[Arrays, NDArray[np.float32], NDArray[np.bool_], NDArray[np.bool_], dict[str, Any]]:
        """One step of every slot; `actions` [S] or [S, D] as in the action space. The class describes the results."""
        self._choose_tasks()
        reward, terminated, truncated = self._engine.step(np.asarray(actions, self._action_dtype))
        playing = ~self._ended
        restarted = self._ended & ~self._resetting
        # A step of a reset sets the sums of its slot to zero and does not count for the new episode.
        self._return = np.where(playing, self._return, 0.0) + reward
        self._length = (self._length + 1) * playing
        self._count_episodes(restarted)
        ended = terminated | truncated
        self._ended = ended | self._resetting | self._interrupted
        if self._balance is not None:
            self._balance.count(playing & ~self._interrupted, ended, self._interrupted)
            self._task = np.where(restarted, self._next_task, self._task)
        episode_return = np.where(ended, self._return, np.nan).astype(np.float32)
        # A success that the environment reports replaces that of the suite.
        known = ended & self.spec_of_suite.has_success
        success = np.where(known, (terminated & (reward > 0)).astype(np.float32), np.float32(np.nan))
        if self._success is not None:
            success = np.where(ended & ~np.isnan(self._success), self._success, success)
        return self._observe(), reward, terminated, truncated, self._info(episode_return, self._length * ended, success)

    def sample_actions(self, observation: Arrays) -> NDArray[Any]:
        """Random legal actions of all slots, from the random numbers of `single_action_space`."""
        spec, actions = self.spec_of_suite, []
        for slot, task in enumerate(observation["task"]):
            legal = np.ones(spec.num_actions, np.bool_)
            if "action_mask" in observation:
                legal = observation["action_mask"][slot]
            if spec.action_kind == "discrete":
                legal = legal & (np.arange(spec.num_actions) < spec.action_counts[task])
            actions.append(sample_legal(self.single_action_space, legal))
        return np.stack(actions)

    def _count_episodes(self, restarted: NDArray[np.bool_]) -> None:
        """Advances the episode's number in the slots whose reset is done. An engine that skips episodes counts itself."""
        self._episode = self._slot_engine.episode.copy() if self._slot_engine else self._episode + restarted

    def _choose_tasks(self) -> None:
        """Assigns the next task to every slot whose reset starts in this step, if slots change their tasks."""
        if self._balance is None:
            return
        assert self._slot_engine
        for slot in np.flatnonzero(self._ended & ~self._resetting).tolist():
            self._next_task[slot] = task = self._balance.choose(slot)
            self._slot_engine.assign(slot, task)

    def _observe(self) -> Arrays:
        return {**self._engine.observation, "task": self._task}

    def _info(
        self, episode_return: NDArray[np.float32], length: NDArray[np.int32], success: NDArray[np.float32]
    ) -> dict[str, Any]:
        return {
            "episode_return": episode_return,
            "episode_length": length,
            "success": success,
            "episode": self._episode,
            "resetting": self._resetting,
            "interrupted": self._interrupted,
            "life_lost": self._life_lost,
        }

    def render(self, slot: int = 0) -> NDArray[np.uint8]:  # type: ignore[override]
        """Picture [H, W, 3] of the current state of one slot."""
        return self._engine.render(slot)

    def state_dict(self) -> dict[str, Any] | None:
        """Plain data and arrays from which `load_state_dict` continues exactly.

        None if the engine is no FreezableEngine, or if slots change their tasks. Such a run resumes at the beginning of an episode
        (`Slot.episode`).
        """
        if not isinstance(self._engine, FreezableEngine) or self._balance is not None:
            return None
        return {
            "engine": self._engine.state_dict(),
            "seed": self._seed,
            "episode": self._episode.copy(),
            "return": self._return.copy(),
            "length": self._length.copy(),
            "ended": self._ended.copy(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> Arrays:
        """Continues from the `state_dict` of an environment with the same slots; returns its current observation."""
        assert isinstance(self._engine, FreezableEngine)
        self._seed = int(state["seed"])
        self._episode = np.array(state["episode"], np.int64)
        self._return = np.array(state["return"], np.float64)
        self._length = np.array(state["length"], np.int32)
        self._ended = np.array(state["ended"], np.bool_)
        self._engine.load_state_dict(state["engine"])
        return self._observe()

    def close_extras(self, **kwargs: Any) -> None:
        """Called once by `close()`, which gymnasium makes safe to repeat."""
        self._engine.close()


def _observation_space(spec: EnvSpec) -> gymnasium.spaces.Dict:
    spaces: dict[str, gymnasium.Space[Any]] = {}
    for key, array in spec.observation.items():
        if array.dtype == "bool":
            spaces[key] = gymnasium.spaces.MultiBinary(array.shape)
        else:
            low, high, dtype = (0, 255, np.uint8) if array.dtype == "uint8" else (-np.inf, np.inf, np.float32)
            spaces[key] = gymnasium.spaces.Box(low, high, array.shape, dtype)
    if spec.instruction_length:
        shape = (spec.instruction_length,)
        spaces["instruction"] = gymnasium.spaces.Box(0, len(spec.vocabulary) - 1, shape, np.int32)
    spaces["task"] = gymnasium.spaces.Discrete(len(spec.tasks))
    return gymnasium.spaces.Dict(spaces)
