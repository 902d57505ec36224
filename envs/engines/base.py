"""The interface of an engine, which turns the actions of S slots into observations and rewards (`envs.vector.MultitaskVectorEnv`)."""

from __future__ import annotations

from typing import Any, Protocol, TypeAlias, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from envs.faults import Fault

Arrays: TypeAlias = dict[str, NDArray[Any]]
Outcome: TypeAlias = tuple[NDArray[np.float32], NDArray[np.bool_], NDArray[np.bool_]]


WRITTEN_IN_PLACE = ("image", "vector")
"""Parts of the observation that `MultitaskVectorEnv.write_into` may replace by the caller's arrays."""


class Engine(Protocol):
    """S environments advanced together, with NEXT_STEP auto-reset.

    An engine may also implement any of the protocols below. Unless it is a SlotEngine, it gives only finite numbers.

    Attributes:
        observation: `image` and/or `vector`, and `instruction` and `action_mask` if the suite has them, [S, ...]. `start` and `step`
            update it. They write every row of the keys in WRITTEN_IN_PLACE, because the arrays may have been replaced since the last
            call. `instruction` is always the same array, so that only changed rows need be written.
    """

    observation: Arrays

    def start(self, seed: int) -> None:
        """Starts the first episode of every slot under the run seed `seed`, and fills `observation`."""

    def step(self, actions: NDArray[Any]) -> Outcome:
        """Advances every slot by one step and fills `observation`.

        `actions` has the dtype and shape of the action space: int32 [S], int32 [S, D] or float32 [S, D].

        A slot whose episode ended in the step before ignores its action and starts its next episode, with reward 0.

        Returns:
            reward f32 [S], terminated bool [S], truncated bool [S]; the arrays may be reused. `terminated` and `truncated` are never
            both True.
        """

    def render(self, slot: int) -> NDArray[np.uint8]:
        """Picture [H, W, 3] of one slot."""

    def close(self) -> None:
        """Frees the engine's resources; may be called twice."""


@runtime_checkable
class FreezableEngine(Engine, Protocol):
    """An engine whose exact state can be saved. The others resume at the beginning of an episode (`Slot.episode`)."""

    def state_dict(self) -> dict[str, Any]:
        """Plain data and arrays from which `load_state_dict` continues exactly."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continues from `state_dict`; fills `observation`."""


@runtime_checkable
class SuccessEngine(Engine, Protocol):
    """An engine that reports whether an episode was a success.

    Attributes:
        success: f32 [S], always the same array: 1 or 0 for an episode that ended in this step; undefined for other slots. NaN if the
            environment does not report whether the episode was a success.
    """

    success: NDArray[np.float32]


@runtime_checkable
class SlotEngine(SuccessEngine, Protocol):
    """An engine with an environment of its own for every slot. The slot can change its task between two episodes.

    It breaks an episode off if its environment gives an observation or a reward that is not finite. This follows from the seeds and the
    actions alone, and is recorded as a Fault with cause `nonfinite`. A first observation that is not finite breaks off its episode, too;
    `start` then begins the slot's next episode at once.

    Attributes:
        interrupted: bool [S], always the same array: slots whose environment failed in this step. The step is no part of their episode:
            they show the last valid observation again, with reward 0, and the next step resets. The episode never ends otherwise.
        episode: i64 [S], always the same array: number of the episode that is played, or was broken off. Numbers of episodes that could
            not begin are skipped.
    """

    interrupted: NDArray[np.bool_]
    episode: NDArray[np.int64]

    def take_faults(self) -> list[Fault]:
        """Returns the faults since the last call."""

    def assign(self, slot: int, task: int) -> None:
        """The slot's next episodes are of task id `task`; `start` returns to `Slot.task`."""


@runtime_checkable
class SupervisedEngine(SlotEngine, Protocol):
    """An engine whose `step` can return before every reset has ended, and that can survive an environment that raises, dies or hangs: its
    slot is `interrupted`, too. Until `supervise` is called such a failure raises.

    Attributes:
        patience: Seconds after the start of a reset during which `step` waits for it; initially infinite.
        resetting: bool [S], always the same array: slots whose reset was still running when `step` returned. They show the last
            observation of their last episode again, with reward 0. Their next steps ignore the action, too.
    """

    patience: float
    resetting: NDArray[np.bool_]

    def supervise(self, hang_seconds: float, memory_limit: int, recycle_episodes: int) -> None:
        """From now on the environment of a slot that fails is started again, for the slot's next episode.

        Args:
            hang_seconds: Time without an answer after which an environment counts as failed.
            memory_limit: MiB of resident memory above which it is restarted between two episodes; 0 = none.
            recycle_episodes: Number of episodes after which it is restarted; 0 = never.
        """


@runtime_checkable
class LivesEngine(Engine, Protocol):
    """An engine whose episodes have parts that learning treats as episodes: the lives of a game.

    Attributes:
        life_lost: bool [S], always the same array: this step lost a life, but not the game. Learning does not bootstrap across the
            step. Nothing is reset: unless the episode ended in the same step, the next step continues it.
    """

    life_lost: NDArray[np.bool_]


@runtime_checkable
class SequentialEngine(Engine, Protocol):
    """An engine that steps one slot after the other and shows which one, so that a hang or a crash can be attributed.

    Attributes:
        stepping: int64 [1], the slot whose environment is being stepped; -1 between steps. May be replaced by shared memory.
    """

    stepping: NDArray[np.int64]
