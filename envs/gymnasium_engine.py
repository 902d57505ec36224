"""Any gymnasium environment as an engine: one object per slot, stepped in a loop."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import gymnasium
import numpy as np
from numpy.typing import NDArray

from envs.engine import Arrays, Outcome
from envs.instructions import TextColumn, Tokenizer
from envs.seeding import episode_seed
from envs.spec import EnvSpec, Slot, Split
from envs.working_directory import WorkingDirectory, in_their_folder

MakeEnv: TypeAlias = Callable[[str], "gymnasium.Env[Any, Any]"]
"""Task name -> environment. One that other processes use can be pickled."""

_CLOSE_SECONDS = 5.0
"""Time that an environment has to close."""


class GymnasiumEngine:
    """S gymnasium environments in this thread (see `envs.engine.Engine`); every episode is reset with its own seed of the
    seed tree.

    Args:
        make: builds the environment of a task. Its observations are dicts with the keys of `spec.observation`, and with
            `instruction`, a string, where the suite has instructions; its actions are those that `spec` describes.
            `render()` gives a picture [H, W, 3].
        spec, slots, split: see `envs.suites.make_env`.

    Attributes:
        stepping: see `envs.engine.LoopingEngine`.
        folder: in which the environments work.
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
        self.stepping = np.full(1, -1, np.int64)
        self._seed = 0
        self._episode: list[int] = []
        # The task of each environment; another one than what is assigned to its slot until the next episode.
        self._tasks = list(self._assigned)
        self.folder = WorkingDirectory()
        with self.folder:
            self._envs = [make(spec.tasks[task]) for task in self._tasks]

    @in_their_folder
    def start(self, seed: int) -> None:
        self._seed = seed
        self._assigned = [slot.task for slot in self._slots]
        self._episode = [slot.episode for slot in self._slots]
        self._reward[:], self._terminated[:], self._truncated[:] = 0, False, False
        for row in range(len(self._slots)):
            self._begin_episode(row)
        self._read_instructions()

    def assign(self, slot: int, task: int) -> None:
        """From its next episode on, this slot plays that task (id); until `start`."""
        self._assigned[slot] = task

    @in_their_folder
    def step(self, actions: NDArray[Any]) -> Outcome:
        ended = (self._terminated | self._truncated).tolist()
        self._reward[:], self._terminated[:], self._truncated[:] = 0, False, False
        # Plain ints for discrete actions, as environments expect them; rows of an array for all others.
        for row, action in enumerate(actions.tolist() if actions.ndim == 1 else actions):
            self.stepping[0] = row
            if ended[row]:
                self._episode[row] += 1
                self._begin_episode(row)
                continue
            seen, reward, terminated, truncated, _ = self._envs[row].step(action)
            self._show(row, seen)
            self._reward[row] = float(reward)
            self._terminated[row] = terminated
            self._truncated[row] = truncated and not terminated
        self.stepping[0] = -1
        self._read_instructions()
        return self._reward, self._terminated, self._truncated

    def _begin_episode(self, row: int) -> None:
        task = self._names[self._assigned[row]]
        if self._tasks[row] != self._assigned[row]:
            # One at a time: engines may allow only one in a process.
            close_env(self._envs[row])
            self._envs[row] = self._make(task)
            self._tasks[row] = self._assigned[row]
        place = self._seed, self._split, task, self._slots[row].index, self._episode[row]
        seen, _ = self._envs[row].reset(seed=episode_seed(*place))
        self._show(row, seen)

    def _show(self, row: int, seen: Any) -> None:
        """Writes what one environment observed into its row."""
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
