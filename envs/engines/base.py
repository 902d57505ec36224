"""What an engine is: it turns the actions of S slots into observations and rewards (see `envs.vector.MultitaskVectorEnv`)."""

from __future__ import annotations

from typing import Any, Protocol, TypeAlias, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from envs.faults import Fault

Arrays: TypeAlias = dict[str, NDArray[Any]]
Outcome: TypeAlias = tuple[NDArray[np.float32], NDArray[np.bool_], NDArray[np.bool_]]


WRITTEN_IN_PLACE = ("image", "vector")
"""Parts of the observation that an engine writes where it is told to (`MultitaskVectorEnv.write_into`)."""


class Engine(Protocol):
    """S environments advanced together, with NEXT_STEP auto-reset.

    An engine may be more than this: a SlowResetEngine, an InterruptingEngine, a SupervisedEngine, which is both, a SwitchingEngine, a
    TellingEngine, a LivesEngine, or several of them. One that is no InterruptingEngine never gives a number that is not finite.

    Attributes:
        observation: `image` and/or `vector`, and `instruction` and `action_mask` where the suite has them, [S, ...]; brought up to date
            by `start` and `step`. Those of WRITTEN_IN_PLACE are written whole at each of them, because the arrays may be
            others than before; `instruction` is the engine's own, and only what changed need be written.
    """

    observation: Arrays

    def start(self, seed: int) -> None:
        """Begins the first episode of every slot under the run seed `seed`, and fills `observation`."""

    def step(self, actions: NDArray[Any]) -> Outcome:
        """Advances every slot by one step and fills `observation`.

        `actions` has the dtype and shape of the action space: int32 [S], int32 [S, D] or float32 [S, D].

        A slot whose episode ended in the step before ignores its action and starts its next episode, with reward 0.

        Returns:
            reward f32 [S], terminated bool [S], truncated bool [S], fresh or reused; never both terminated and
            truncated.
        """

    def render(self, slot: int) -> NDArray[np.uint8]:
        """Picture [H, W, 3] of one slot."""

    def state_dict(self) -> dict[str, Any] | None:
        """Plain data from which `load_state_dict` continues exactly, or None where the engine cannot be frozen."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continues where `state_dict` was taken; fills `observation`."""

    def close(self) -> None:
        """Frees the engine's resources; may be called twice."""


@runtime_checkable
class SlowResetEngine(Engine, Protocol):
    """An engine whose `step` does not wait for every reset to end.

    Attributes:
        patience: seconds after its beginning for which a step still waits for a reset; infinite at first.
        resetting: bool [S], always the same array: slots whose reset has begun and had not ended when `step` returned. They show
            the last observation of their last episode again, with reward 0; further steps ignore their actions, too.
    """

    patience: float
    resetting: NDArray[np.bool_]


@runtime_checkable
class InterruptingEngine(Engine, Protocol):
    """An engine that breaks an episode off where its environment gives an observation or a reward that is not finite.

    That follows from the seeds and the actions alone, and is recorded as a Fault of cause `nonfinite`. A first observation that is
    not finite breaks off its episode, too; in `start` the slot goes on to its next one at once.

    Attributes:
        interrupted: bool [S], always the same array: slots whose environment failed in the step just made. It was no step of
            their episode: they show the last valid observation before it, with reward 0, and the next step resets. The episode
            has no end.
        episode: i64 [S], always the same array: number of the episode that is played, or was broken off. One that cannot begin is
            left out.
    """

    interrupted: NDArray[np.bool_]
    episode: NDArray[np.int64]

    def take_faults(self) -> list[Fault]:
        """What was broken off or started anew, and why, since this was called last."""


@runtime_checkable
class SupervisedEngine(SlowResetEngine, InterruptingEngine, Protocol):
    """An engine that can also go on when the environment of a slot raises, dies or hangs, which is `interrupted`, too. It does so once
    `supervise` was called; until then such a failure raises.
    """

    def supervise(self, hang_seconds: float, memory_limit: int, recycle_episodes: int) -> None:
        """From now on a slot's environment that fails is started anew, for the slot's next episode.

        Args:
            hang_seconds: without an answer, after which it counts as failed.
            memory_limit: MiB of resident memory above which it is started anew between two episodes; 0 = none.
            recycle_episodes: after which it is, too; 0 = never.
        """


@runtime_checkable
class LivesEngine(Engine, Protocol):
    """An engine whose episodes have parts that learning takes for whole ones: the lives of a game.

    Attributes:
        life_lost: bool [S], always the same array: in the step just made a life was lost, though not the game. Learning bootstraps
            nothing across that step. Nothing is reset: unless the step ended the episode too, the next one goes on with it.
    """

    life_lost: NDArray[np.bool_]


@runtime_checkable
class SwitchingEngine(Engine, Protocol):
    """An engine whose slots can play another task from one episode to the next."""

    def assign(self, slot: int, task: int) -> None:
        """The slot's next episodes are of that task (id); `start` takes this back."""


@runtime_checkable
class TellingEngine(Engine, Protocol):
    """An engine whose environments may tell whether an episode was a success.

    Attributes:
        success: f32 [S], always the same array: 1 or 0 for an episode that ended in the step just made, NaN where its environment does
            not tell; of other slots anything.
    """

    success: NDArray[np.float32]


@runtime_checkable
class LoopingEngine(Engine, Protocol):
    """An engine that steps one slot after the other, and tells which, so that it is known whose environment hangs or crashes.

    Attributes:
        stepping: int64 [1], the slot whose environment is being stepped; -1 between steps. May be replaced by memory that others see.
    """

    stepping: NDArray[np.int64]
