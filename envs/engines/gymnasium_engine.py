"""Any gymnasium environment as an engine: one object per slot, stepped in a loop."""

from __future__ import annotations

import threading
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, NoReturn, TypeAlias

import gymnasium
import numpy as np
from numpy.typing import NDArray

from envs.engines.base import Arrays, Outcome
from envs.engines.working_directory import WorkingDirectory, in_their_folder
from envs.faults import NONFINITE, Fault, NotFiniteError
from envs.gymnasium_adapter.extras import success_of
from envs.instructions import TextColumn, Tokenizer
from envs.seeding import episode_seed
from envs.spec import EnvSpec, Slot, Split
from system.errors import InputError

MakeEnv: TypeAlias = Callable[[str], "gymnasium.Env[Any, Any]"]
"""Task name -> environment. One that other processes use can be pickled."""

FIRST_EPISODES = 3
"""So many episodes of a slot may fail to begin, one after the other, before `start` gives up."""

_FRUITLESS_EPISODES = 100
"""So many episodes of a slot may be broken off, one after the other, without one step that counts: more than happens by chance."""

_CLOSE_SECONDS = 5.0
"""Time that an environment has to close."""


class GymnasiumEngine:
    """S gymnasium environments in this thread (see `envs.engines.base.Engine`); every episode is reset with its own seed of the
    seed tree.

    Args:
        make: builds the environment of a task. Its observations are dicts with the keys of `spec.observation`, and with
            `instruction`, a string, where the suite has instructions; its actions are those that `spec` describes.
            `render()` gives a picture [H, W, 3].
        spec, slots, split: see `envs.suites.make_env`.

    Attributes:
        stepping: see `envs.engines.base.LoopingEngine`.
        success: see `envs.engines.base.TellingEngine`.
        interrupted, episode: see `envs.engines.base.InterruptingEngine`.
        folder: in which the environments work.

    Raises:
        InputError: an environment gives numbers that are not finite wherever it begins.
    """

    def __init__(self, make: MakeEnv, spec: EnvSpec, slots: Sequence[Slot], split: Split) -> None:
        self._make, self._names = make, spec.tasks
        self._slots, self._split = tuple(slots), split
        self._assigned = [slot.task for slot in self._slots]
        size = len(self._slots)
        self._parts = tuple(spec.observation)
        self.observation: Arrays = {
            key: np.zeros((size, *array.shape), array.dtype) for key, array in spec.observation.items()
        }
        self._texts = [""] * size
        self._instruction: TextColumn | None = None
        if spec.instruction_length:
            self._instruction = TextColumn(Tokenizer(spec.vocabulary, spec.instruction_length), size)
            self.observation["instruction"] = self._instruction.tokens
        self._reward = np.zeros(size, np.float32)
        self._terminated = np.zeros(size, np.bool_)
        self._truncated = np.zeros(size, np.bool_)
        self.success = np.full(size, np.nan, np.float32)
        self.stepping = np.full(1, -1, np.int64)
        self.interrupted = np.zeros(size, np.bool_)
        self.episode = np.array([slot.episode for slot in self._slots], np.int64)
        self._floats = [key for key, array in spec.observation.items() if np.dtype(array.dtype).kind == "f"]
        # What each slot shows, to be shown again where the next one is not finite.
        self._seen: list[Any] = [None] * size
        self._faults: list[Fault] = []
        # By slot, of the step that is made: what NotFiniteError says.
        self._told: dict[int, str] = {}
        # By slot: episodes broken off since its last step that counts.
        self._fruitless: Counter[int] = Counter()
        self._seed = 0
        # The task of each environment; another one than what is assigned to its slot until the next episode.
        self._tasks = list(self._assigned)
        self.folder = WorkingDirectory()
        with self.folder:
            self._envs = [make(spec.tasks[task]) for task in self._tasks]

    @in_their_folder
    def start(self, seed: int) -> None:
        self._seed = seed
        self._assigned = [slot.task for slot in self._slots]
        self.episode[:] = [slot.episode for slot in self._slots]
        self._reward[:], self._terminated[:], self._truncated[:], self.interrupted[:] = 0, False, False, False
        self._fruitless.clear()
        self._told.clear()
        for row in range(len(self._slots)):
            self._begin_first_episode(row)
        self._read_instructions()

    def assign(self, slot: int, task: int) -> None:
        """From its next episode on, this slot plays that task (id); until `start`."""
        self._assigned[slot] = task

    @in_their_folder
    def step(self, actions: NDArray[Any]) -> Outcome:
        ended = (self._terminated | self._truncated | self.interrupted).tolist()
        self._reward[:], self._terminated[:], self._truncated[:], self.interrupted[:] = 0, False, False, False
        before = self._seen.copy()
        # Plain ints for discrete actions, as environments expect them; rows of an array for all others.
        for row, action in enumerate(actions.tolist() if actions.ndim == 1 else actions):
            self.stepping[0] = row
            if ended[row]:
                self.episode[row] += 1
                self._begin_episode(row)
                continue
            try:
                seen, reward, terminated, truncated, info = self._envs[row].step(action)
            except NotFiniteError as error:
                self._told[row] = str(error)
                continue
            self._show(row, seen)
            self._reward[row] = float(reward)
            self._terminated[row] = terminated
            self._truncated[row] = truncated and not terminated
            if terminated or truncated:
                self.success[row] = success_of(info)
        self.stepping[0] = -1
        self._break_off(before, ended)
        self._read_instructions()
        return self._reward, self._terminated, self._truncated

    def take_faults(self) -> list[Fault]:
        """See `envs.engines.base.InterruptingEngine`."""
        faults, self._faults = self._faults, []
        return faults

    def _break_off(self, before: list[Any], resets: list[bool]) -> None:
        """Ends the episodes of this step whose numbers are not finite.

        Args:
            before: what each slot showed before it.
            resets: slots that only began an episode.
        """
        arrays = [self._reward, *(self.observation[key] for key in self._floats)]
        if not (self._fruitless or self._told) and all(np.isfinite(array).all() for array in arrays):
            return
        finite = [np.isfinite(array).reshape(len(self._slots), -1).all(axis=1) for array in arrays]
        broken = ~np.logical_and.reduce(finite)
        broken[list(self._told)] = True
        for row in np.flatnonzero(broken).tolist():
            self._record(row)
            self._reward[row], self._terminated[row], self._truncated[row], self.interrupted[row] = (
                0,
                False,
                False,
                True,
            )
            self._show(row, before[row])
            self._fruitless[row] += 1
            if self._fruitless[row] == _FRUITLESS_EPISODES:
                self._give_up(_FRUITLESS_EPISODES)
        for row in [row for row in self._fruitless if not (resets[row] or self.interrupted[row])]:
            del self._fruitless[row]

    def _record(self, row: int) -> None:
        """Adds the Fault of a slot that shows numbers that are not finite, or earned one."""
        told = [] if np.isfinite(self._reward[row]) else [f"the reward is {self._reward[row]}"]
        for key in self._floats:
            shown = self.observation[key][row]
            if count := int((~np.isfinite(shown)).sum()):
                told.append(f"{count} of the {shown.size} numbers of the observation's {key} are not finite")
        if row in self._told:
            told = [self._told.pop(row)]
        place = f"in episode {self.episode[row]} of slot {self._slots[row].index}"
        self._faults.append(Fault(self._names[self._tasks[row]], NONFINITE, f"{' and '.join(told)}, {place}"))

    def _give_up(self, episodes: int) -> NoReturn:
        fault = self._faults[-1]
        raise InputError(
            f"env.tasks={fault.task} gives numbers that are not finite: {fault.detail}, and in all of its {episodes} last episodes: "
            "mend the environment, or leave the task out."
        )

    def _begin_first_episode(self, row: int) -> None:
        """The first one whose first observation is finite."""
        for _ in range(FIRST_EPISODES):
            self._begin_episode(row)
            if row not in self._told and all(np.isfinite(self.observation[key][row]).all() for key in self._floats):
                return
            self._record(row)
            self.episode[row] += 1
        self._give_up(FIRST_EPISODES)

    def _begin_episode(self, row: int) -> None:
        task = self._names[self._assigned[row]]
        if self._tasks[row] != self._assigned[row]:
            # One at a time: engines may allow only one in a process.
            close_env(self._envs[row])
            self._envs[row] = self._make(task)
            self._tasks[row] = self._assigned[row]
        place = self._seed, self._split, task, self._slots[row].index, int(self.episode[row])
        try:
            seen, _ = self._envs[row].reset(seed=episode_seed(*place))
        except NotFiniteError as error:
            self._told[row] = str(error)
        else:
            self._show(row, seen)

    def _show(self, row: int, seen: Any) -> None:
        """Writes what one environment observed into its row."""
        self._seen[row] = seen
        for key in self._parts:
            self.observation[key][row] = seen[key]
        if self._instruction is not None:
            self._texts[row] = seen["instruction"]

    def _read_instructions(self) -> None:
        if self._instruction is not None:
            self._instruction.update(self._texts)

    @in_their_folder
    def render(self, slot: int) -> NDArray[np.uint8]:
        return np.asarray(self._envs[slot].render(), np.uint8)

    def state_dict(self) -> dict[str, Any] | None:
        return None

    def load_state_dict(self, state: dict[str, Any]) -> None:
        raise NotImplementedError("gymnasium's environments cannot be frozen; resume with Slot.episode")

    @in_their_folder
    def close(self) -> None:
        envs, self._envs = self._envs, []
        for env in envs:
            close_env(env)


def close_env(env: gymnasium.Env[Any, Any]) -> None:
    """Closes an environment. One that raises or takes longer than _CLOSE_SECONDS costs a warning and nothing else: what it was to play is
    played.
    """
    failed: list[str] = []

    def close() -> None:
        try:
            env.close()
        except Exception as error:
            failed.append(f"failed ({type(error).__name__}: {error})")

    # A daemon, because the program would wait for any other thread at its end.
    thread = threading.Thread(target=close, daemon=True)
    thread.start()
    thread.join(_CLOSE_SECONDS)
    if thread.is_alive():
        failed.append(f"did not end within {_CLOSE_SECONDS:g} seconds")
    if failed:
        warnings.warn(f"close() of an environment {failed[0]}: left as it is.", RuntimeWarning, stacklevel=2)
