"""Any gymnasium environment as an engine, with one process per slot; all slots step at the same time.

It suits environments that allow one instance per process, that hold the interpreter lock while they work, that crash, or whose resets
take long: the other slots continue.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Sequence
from dataclasses import replace
from multiprocessing.connection import wait
from typing import Any

import numpy as np
from numpy.typing import NDArray

from envs.engines.base import Arrays, Engine, Outcome
from envs.engines.gymnasium_engine import FIRST_EPISODES, GymnasiumEngine, MakeEnv
from envs.engines.process_child import map_descriptor, shared_spec
from envs.engines.slot_process import SlotError, SlotProcess
from envs.faults import Fault
from envs.shared_arrays import layout_size
from envs.spec import EnvSpec, Slot, Split
from system.descendants import end_orphans
from system.errors import InputError
from system.words import count


def choose_engine(make: MakeEnv, spec: EnvSpec, slots: Sequence[Slot], split: Split, *, processes: bool) -> Engine:
    """An engine with one process per slot if `processes`, else one in this thread."""
    return (ProcessEngine if processes else GymnasiumEngine)(make, spec, slots, split)


class ProcessEngine:
    """S gymnasium environments in S processes: a SupervisedEngine (envs/engines/base.py) with the seeds and results of GymnasiumEngine.

    A step returns only after at least one slot has made a step, finished its reset, or failed.

    After `supervise`, a slot that fails in a step starts its new process within a reset, for which `step` waits as for any other. If it
    fails in a reset, `step` does not wait for it any more. Without `supervise`, only `close` may be called after a failure.

    Each slot has two banks in shared memory for its observation. Its process writes one bank while the slot still shows the other.

    The processes ignore Ctrl-C, end with this process however it ends, and print to standard error.

    `make` (see GymnasiumEngine) is pickled, and the processes import what it needs. Its InputErrors are raised here; SlotError if it raised
    something else, or a process ended. `hang_seconds` is the limit until `supervise` is called.
    """

    def __init__(
        self, make: MakeEnv, spec: EnvSpec, slots: Sequence[Slot], split: Split, *, hang_seconds: float = math.inf
    ) -> None:
        self.patience = math.inf
        self._make, self._spec, self._split, self._seed = make, spec, split, 0
        self._slots = tuple(slots)
        size = len(self._slots)
        self.resetting = np.zeros(size, np.bool_)
        self.interrupted = np.zeros(size, np.bool_)
        self.episode = np.array([slot.episode for slot in self._slots], np.int64)
        self._supervised = False
        self._hang_seconds, self._memory_limit, self._recycle_episodes = hang_seconds, 0, 0
        self._faults: list[Fault] = []
        # Number and task of the episode that a slot plays, or is resetting to.
        self._next_episode = self.episode.copy()
        self._tasks = [slot.task for slot in self._slots]
        # Task of the episodes after that; see `assign`.
        self._assigned = self._tasks.copy()
        # Time at which `step` stops waiting for a slot's reset.
        self._deadline = np.zeros(size)
        self._arrays = shared_spec(spec, size)
        # An anonymous file, which needs no removal however the processes end.
        self._memory = os.fdopen(os.memfd_create("slots"), "w+b")
        self._memory.truncate(layout_size(self._arrays))
        self._shared = map_descriptor(self._arrays, self._memory.fileno())
        self.success = self._shared["success"]
        seen = [*spec.observation, *(["instruction"] if spec.instruction_length else [])]
        # Both banks as one array of 2 * size rows, and the bank that holds the current observation of each slot.
        self._banks = {key: self._shared[key].reshape(2 * size, *self._shared[key].shape[2:]) for key in seen}
        self._bank = np.zeros(size, np.intp)
        self.observation: Arrays = {key: self._shared[key][0].copy() for key in seen}
        self._outcome: Outcome = np.zeros(size, np.float32), np.zeros(size, np.bool_), np.zeros(size, np.bool_)
        self._processes: list[SlotProcess] = []
        # Replaced processes that have not ended yet.
        self._leaving: list[SlotProcess] = []
        try:
            # All processes start before any is waited for, because each imports for a second.
            for _ in self._slots:
                self._processes.append(SlotProcess())
            for row, slot in enumerate(self._slots):
                self._attach(row)
                self._build(row, slot)
            for row in range(size):
                self._wait_for(row)
        except BaseException:
            self.close()
            raise

    def supervise(self, hang_seconds: float, memory_limit: int, recycle_episodes: int) -> None:
        self._supervised = True
        self._hang_seconds, self._memory_limit, self._recycle_episodes = hang_seconds, memory_limit, recycle_episodes

    def take_faults(self) -> list[Fault]:
        faults, self._faults = self._faults, []
        return faults

    def start(self, seed: int) -> None:
        """Under `supervise` it skips up to FIRST_EPISODES - 1 episodes of a slot that cannot begin."""
        # Finish running resets before any other message.
        for row in np.flatnonzero(self.resetting).tolist():
            try:
                self._wait_for(row)
            except (SlotError, InputError) as error:
                self._recover(row, error)
        self.resetting[:], self.interrupted[:] = False, False
        for array in self._outcome:
            array[:] = 0
        self._seed = seed
        self._tasks = [slot.task for slot in self._slots]
        self._assigned = self._tasks.copy()
        for row, slot in enumerate(self._slots):
            self._ask_for_first(row, slot)
        for row, slot in enumerate(self._slots):
            while self._processes[row].owed:
                try:
                    self._wait_for(row)
                except SlotError as error:
                    if self._next_episode[row] - slot.episode == FIRST_EPISODES - 1:
                        raise
                    self._recover(row, error)
                    self._ask_for_next(row)
        # Every process has written its first observation to the bank that its slot did not show.
        self._bank ^= 1
        # From shared memory, because a process skips episodes whose first observation is not finite.
        self.episode[:] = self._next_episode[:] = self._shared["episode"]
        self._observe()

    def assign(self, slot: int, task: int) -> None:
        self._assigned[slot] = task

    def step(self, actions: NDArray[Any]) -> Outcome:
        """All slots work at the same time: requests go out first, then the answers are awaited."""
        remaining = [process for process in self._leaving if not process.has_left()]
        if len(remaining) < len(self._leaving):
            end_orphans()
        self._leaving = remaining
        _, terminated, truncated = self._outcome
        ended = terminated | truncated | self.interrupted
        playing = ~(ended | self.resetting)
        self.interrupted[:] = False
        self._shared["action"][:] = actions
        playing_rows = np.flatnonzero(playing).tolist()
        for row in playing_rows:
            self._processes[row].ask("step", self._tasks[row], 1 - int(self._bank[row]))
        # Slots whose episode ended or was interrupted in the last step start to reset.
        self._deadline[ended] = time.monotonic() + self.patience
        self.resetting |= ended
        for row in np.flatnonzero(ended).tolist():
            self._renew_if_due(row)
            self._tasks[row] = self._assigned[row]
            self._ask_for_next(row)
        for row in playing_rows:
            try:
                self._wait_for(row)
            except (SlotError, InputError) as error:
                self._recover(row, error)
                self.interrupted[row] = True
        self._wait_for_resets(no_event_yet=not playing_rows)
        self.interrupted |= playing & self._shared["interrupted"]
        # Only a valid step shows the observation that the process has written to the other bank.
        stepped = playing & ~self.interrupted
        self._bank[stepped] ^= 1
        for array, key in zip(self._outcome, ("reward", "terminated", "truncated"), strict=True):
            array[:] = np.where(stepped, self._shared[key], 0)
        self._observe()
        return self._outcome

    def _wait_for_resets(self, *, no_event_yet: bool) -> None:
        """Waits until every reset is done or past its deadline.

        With `no_event_yet` no slot has made a step. Then also waits until one reset is done or has failed, whatever the deadlines.
        """
        while self.resetting.any():
            rows = {self._processes[row].connection: row for row in np.flatnonzero(self.resetting).tolist()}
            # Time at which the process of each slot counts as hung.
            hangs_from = np.array([process.asked for process in self._processes]) + self._hang_seconds
            until = hangs_from[self.resetting].min()
            if not no_event_yet:
                until = min(until, self._deadline[self.resetting].max())
            ready = wait(list(rows), None if until == math.inf else max(0.0, until - time.monotonic()))
            now = time.monotonic()
            due = {rows[connection] for connection in ready}  # type: ignore[index]
            due |= {row for row in rows.values() if hangs_from[row] <= now}
            if not due and not no_event_yet:
                return
            for row in due:
                try:
                    self._answer(row)
                except (SlotError, InputError) as error:
                    self._recover(row, error)
                    self._ask_for_next(row)
                    # Do not wait for a slot that may never start an episode: the caller must see its faults.
                    self._deadline[row] = now
                    no_event_yet = False
                    continue
                if not self._processes[row].owed:
                    no_event_yet = self.resetting[row] = False
                    # If the first observation is not finite, the slot keeps its bank, and the next step resets again.
                    self.interrupted[row] = self._shared["interrupted"][row]
                    self._bank[row] ^= not self.interrupted[row]
                    self.episode[row] = self._next_episode[row]

    def _observe(self) -> None:
        """Copies the current observations from shared memory. A process that is writing now writes to the slot's other bank."""
        rows = self._bank * len(self._slots) + np.arange(len(self._slots))
        for key, array in self.observation.items():
            # `clip`, because with the default mode np.take writes to `out` through a buffer.
            np.take(self._banks[key], rows, axis=0, out=array, mode="clip")

    def _attach(self, row: int) -> None:
        self._processes[row].ask("attach", self._arrays, row, descriptor=self._memory.fileno())

    def _build(self, row: int, slot: Slot) -> None:
        self._processes[row].built = slot
        self._processes[row].ask("build", self._make, self._spec, slot, self._split)

    def _ask_for_first(self, row: int, slot: Slot) -> None:
        """Asks for the episode `slot.episode`, from an environment that was made for this `slot` and counts its episodes from there."""
        if self._processes[row].built != slot:
            self._build(row, slot)
        self._next_episode[row] = slot.episode
        self._processes[row].episodes += 1
        self._processes[row].ask("start", self._seed, 1 - int(self._bank[row]))

    def _ask_for_next(self, row: int) -> None:
        """Asks for the next episode, from a new environment if the process has none.

        It is always the one after the last request: an episode that could not begin would fail again.
        """
        if self._processes[row].built is None:
            episode = int(self._next_episode[row]) + 1
            self._ask_for_first(row, replace(self._slots[row], task=self._tasks[row], episode=episode))
            return
        self._next_episode[row] += 1
        self._processes[row].episodes += 1
        self._processes[row].ask("step", self._tasks[row], 1 - int(self._bank[row]))

    def _renew_if_due(self, row: int) -> None:
        """Replaces a process between two episodes if it holds too much memory or has played enough episodes."""
        process = self._processes[row]
        if process.built is None:
            # The process is new and has no environment yet.
            return
        if self._memory_limit and (size := process.memory()) > self._memory_limit:
            cause, detail = "memory", f"held {size:,.0f} MiB of memory, more than {self._memory_limit:,}."
        elif self._recycle_episodes and process.episodes >= self._recycle_episodes:
            cause, detail = "recycled", f"played {count(process.episodes, 'episode')}."
        else:
            return
        task = self._task(row)
        self._faults.append(Fault(task, cause, f"the process of slot {row} (task {task}) {detail}"))
        self._replace(row)

    def _recover(self, row: int, error: SlotError | InputError) -> None:
        """Records a failure as a Fault and gives the slot a new process. Without `supervise` it raises the error instead."""
        if not self._supervised:
            raise error
        cause = error.cause if isinstance(error, SlotError) else "raised"
        self._faults.append(Fault(self._task(row), cause, str(error)))
        self._replace(row)

    def _replace(self, row: int) -> None:
        """Gives the slot a new process without an environment. The replaced one may end later."""
        old = self._processes[row]
        old.hang_up()
        if not old.has_left():
            self._leaving.append(old)
        self._processes[row] = SlotProcess()
        self._attach(row)

    def _wait_for(self, row: int) -> None:
        while self._processes[row].owed:
            self._answer(row)

    def _answer(self, row: int) -> Any:
        """Waits for one answer and returns it. Keeps the faults that it lists."""
        answer = self._processes[row].answer(row, self._task(row), self._hang_seconds)
        if isinstance(answer, list):
            self._faults += answer
        return answer

    def _task(self, row: int) -> str:
        """Name of the task that a slot plays, or is resetting to."""
        return self._spec.tasks[self._tasks[row]]

    def render(self, slot: int) -> NDArray[np.uint8]:
        if self.resetting[slot]:
            raise RuntimeError("a slot that is resetting has no picture")
        self._processes[slot].ask("render")
        picture: NDArray[np.uint8] = self._answer(slot)
        return picture

    def close(self) -> None:
        for process in self._processes:
            process.hang_up()
        for process in self._processes + self._leaving:
            process.end()
        self._processes, self._leaving = [], []
        end_orphans()
        self._memory.close()
