"""Any gymnasium environment as an engine: one object per slot, stepped in a loop."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn, TypeAlias

import gymnasium
import numpy as np
from numpy.typing import NDArray

from envs.engines.base import Arrays, Outcome
from envs.engines.foreign_code import EnvFolder, close_env
from envs.faults import NONFINITE, Fault, NoContextError, NotFiniteError
from envs.instructions import Tokenizer
from envs.seeding import episode_seed
from envs.spec import EnvSpec, Slot, Split
from system.errors import InputError
from system.words import count

MakeEnv: TypeAlias = Callable[[str], "gymnasium.Env[Any, Any]"]
"""Task name -> environment. ProcessEngine pickles it."""

FIRST_EPISODES = 3
"""Consecutive episodes of a slot that may fail to begin before `start` raises."""

LIFE_LOST = "envs.life_lost"
"""Key of an info: whether the step lost a life (`envs.engines.base.LivesEngine`)."""

_SUCCESS = ("is_success", "success")

_ATTEMPTS = 1000
"""Resets in search of a context. A level that shows one in 1% of its episodes misses it once in 23,000 searches."""

_FRUITLESS_EPISODES = 100
"""Consecutive episodes of a slot that may be broken off without one valid step. More than chance explains."""


class GymnasiumEngine:
    """S gymnasium environments in this thread (envs/engines/base.py). Each episode is reset with its seed of the seed tree.

    Args:
        make: Builds the environment of a task. Its observations are dicts with the keys of `spec.observation`, and `instruction`,
            a string, if the suite has instructions. It takes the actions of `spec`. `render()` gives a picture [H, W, 3].
        instruction_key: Key of the instruction in observations.
        accepts: Whether an episode with this instruction is played. If not, it is reset again, with the next seed of its place in the
            seed tree. None: every episode is played.

    Raises InputError if an environment gives numbers that are not finite in all of several consecutive episodes, and NoContextError if
    _ATTEMPTS seeds of an episode give no instruction that is accepted.
    """

    def __init__(
        self,
        make: MakeEnv,
        spec: EnvSpec,
        slots: Sequence[Slot],
        split: Split,
        *,
        instruction_key: str = "instruction",
        accepts: Callable[[str], bool] | None = None,
    ) -> None:
        self._make, self._names, self._accepts = make, spec.tasks, accepts
        self._slots, self._split, self._seed = tuple(slots), split, 0
        size = len(self._slots)
        self.observation: Arrays = {
            key: np.zeros((size, *array.shape), array.dtype) for key, array in spec.observation.items()
        }
        self._keys = tuple(spec.observation)
        self._float_keys = [key for key, array in self.observation.items() if array.dtype.kind == "f"]
        self._tokenizer: Tokenizer | None = None
        self._instruction_key = instruction_key
        self._texts: list[Any] = [None] * size
        if spec.instruction_length:
            self._tokenizer = Tokenizer(spec.vocabulary, spec.instruction_length)
            self.observation["instruction"] = np.zeros((size, spec.instruction_length), np.int32)
        self._outcome: Outcome = np.zeros(size, np.float32), np.zeros(size, np.bool_), np.zeros(size, np.bool_)
        self._reward, self._terminated, self._truncated = self._outcome
        self.life_lost = np.zeros(size, np.bool_)
        self.success = np.full(size, np.nan, np.float32)
        self.stepping = np.full(1, -1, np.int64)
        self.interrupted = np.zeros(size, np.bool_)
        self.episode = np.array([slot.episode for slot in self._slots], np.int64)
        # The observation that each slot shows. It is shown again if the next one is not finite.
        self._seen: list[Any] = [None] * size
        self._faults: list[Fault] = []
        # Slot -> message of the NotFiniteError that its environment raised in this step.
        self._errors: dict[int, str] = {}
        # Slot -> episodes broken off since its last valid step.
        self._fruitless: Counter[int] = Counter()
        # The task of each slot's next episode, and the task of its environment.
        self._assigned = [slot.task for slot in self._slots]
        self._tasks = list(self._assigned)
        self._folder = EnvFolder()
        with self._folder:
            self._envs = [make(spec.tasks[task]) for task in self._tasks]

    def start(self, seed: int) -> None:
        self._seed = seed
        self._assigned = [slot.task for slot in self._slots]
        self.episode[:] = [slot.episode for slot in self._slots]
        self._clear_outcome()
        self._fruitless.clear()
        self._errors.clear()
        with self._folder:
            for row in range(len(self._slots)):
                self._begin_first_episode(row)

    def assign(self, slot: int, task: int) -> None:
        self._assigned[slot] = task

    def step(self, actions: NDArray[Any]) -> Outcome:
        ended = (self._terminated | self._truncated | self.interrupted).tolist()
        self._clear_outcome()
        before = self._seen.copy()
        with self._folder:
            # Python integers for discrete actions, as environments expect them; rows of the array for all others.
            for row, action in enumerate(actions.tolist() if actions.ndim == 1 else actions):
                self.stepping[0] = row
                if ended[row]:
                    self.episode[row] += 1
                    self._begin_episode(row)
                else:
                    self._step_env(row, action)
            self.stepping[0] = -1
        self._break_off(before, ended)
        return self._outcome

    def _clear_outcome(self) -> None:
        self._reward[:] = 0
        self._terminated[:] = self._truncated[:] = self.interrupted[:] = self.life_lost[:] = False

    def _step_env(self, row: int, action: Any) -> None:
        try:
            seen, reward, terminated, truncated, info = self._envs[row].step(action)
        except NotFiniteError as error:
            self._errors[row] = str(error)
            return
        self._show(row, seen)
        self._reward[row] = float(reward)
        self._terminated[row] = terminated
        self._truncated[row] = truncated and not terminated
        self.life_lost[row] = info.get(LIFE_LOST, False)
        if terminated or truncated:
            self.success[row] = success_of(info)

    def take_faults(self) -> list[Fault]:
        faults, self._faults = self._faults, []
        return faults

    def _break_off(self, before: list[Any], resets: list[bool]) -> None:
        """Ends the episodes whose observation or reward of this step is not finite.

        `before` is what each slot showed before the step; `resets`: slots that only reset in it.
        """
        arrays = [self._reward, *(self.observation[key] for key in self._float_keys)]
        if not (self._fruitless or self._errors) and all(np.isfinite(array).all() for array in arrays):
            return
        finite = [np.isfinite(array).reshape(len(self._slots), -1).all(axis=1) for array in arrays]
        broken = ~np.logical_and.reduce(finite)
        broken[list(self._errors)] = True
        for row in np.flatnonzero(broken).tolist():
            self._record(row)
            self._reward[row], self._terminated[row], self._truncated[row] = 0, False, False
            self.interrupted[row] = True
            self._show(row, before[row])
            self._fruitless[row] += 1
            if self._fruitless[row] == _FRUITLESS_EPISODES:
                self._give_up(_FRUITLESS_EPISODES)
        for row in [row for row in self._fruitless if not (resets[row] or self.interrupted[row])]:
            del self._fruitless[row]

    def _record(self, row: int) -> None:
        reasons = [] if np.isfinite(self._reward[row]) else [f"the reward is {self._reward[row]}"]
        for key in self._float_keys:
            shown = self.observation[key][row]
            if broken := int((~np.isfinite(shown)).sum()):
                reasons.append(
                    f"{broken} of the {count(shown.size, 'number')} of the observation's {key} are not finite"
                )
        if row in self._errors:
            reasons = [self._errors.pop(row)]
        place = f"in episode {self.episode[row]} of slot {self._slots[row].index}"
        self._faults.append(Fault(self._names[self._tasks[row]], NONFINITE, f"{' and '.join(reasons)}, {place}"))

    def _give_up(self, episodes: int) -> NoReturn:
        fault = self._faults[-1]
        raise InputError(
            f"env.tasks={fault.task} gives numbers that are not finite: {fault.detail}, and in all of its "
            f"{count(episodes, 'last episode')}: correct the environment, or leave the task out."
        )

    def _begin_first_episode(self, row: int) -> None:
        """Begins the slot's first episode, or the next one if its first observation is not finite."""
        for _ in range(FIRST_EPISODES):
            self._begin_episode(row)
            if row not in self._errors and all(
                np.isfinite(self.observation[key][row]).all() for key in self._float_keys
            ):
                return
            self._record(row)
            self.episode[row] += 1
        self._give_up(FIRST_EPISODES)

    def _begin_episode(self, row: int) -> None:
        task = self._names[self._assigned[row]]
        if self._tasks[row] != self._assigned[row]:
            # Closed first: an engine may allow only one environment in a process.
            close_env(self._envs[row])
            self._envs[row] = self._make(task)
            self._tasks[row] = self._assigned[row]
        place = self._seed, self._split, task, self._slots[row].index, int(self.episode[row])
        try:
            for attempt in range(_ATTEMPTS):
                seen, _ = self._envs[row].reset(seed=episode_seed(*place, attempt))
                if self._accepts is None or self._accepts(seen[self._instruction_key]):
                    self._show(row, seen)
                    return
        except NotFiniteError as error:
            self._errors[row] = str(error)
            return
        group = "outside of env.holdout" if self._split.is_seen else "of env.holdout"
        raise NoContextError(
            f"env.tasks={task} shows no instruction {group} in {_ATTEMPTS:,} resets: leave the task out, or change env.holdout."
        )

    def _show(self, row: int, seen: Any) -> None:
        self._seen[row] = seen
        for key in self._keys:
            self.observation[key][row] = seen[key]
        # Most environments return the same string object until the text changes.
        if self._tokenizer is not None and (text := seen[self._instruction_key]) is not self._texts[row]:
            self._texts[row] = text
            self.observation["instruction"][row] = self._tokenizer.encode(text)

    def render(self, slot: int) -> NDArray[np.uint8]:
        with self._folder:
            return np.asarray(self._envs[slot].render(), np.uint8)

    def close(self) -> None:
        envs, self._envs = self._envs, []
        with self._folder:
            for env in envs:
                close_env(env)


def success_of(info: Mapping[str, Any]) -> float:
    """1 or 0 as the info of an episode's last step reports it; NaN if it reports nothing."""
    final = info.get("final_info")
    if isinstance(final, list | tuple | np.ndarray) and len(final) == 1:
        final = final[0]
    for reported in (final, info) if isinstance(final, dict) else (info,):
        for key in _SUCCESS:
            value = reported.get(key)
            if value is not None and np.size(value) == 1:
                number = float(np.ravel(value)[0])
                return math.nan if math.isnan(number) else float(number >= 0.5)
    return math.nan
