"""What the rest of the program needs to know of a set of tasks before any environment exists. Plain, picklable data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Literal, TypeAlias

ActionKind: TypeAlias = Literal["discrete", "multi_discrete", "continuous"]


class Split(IntEnum):
    """Which half of the seed space an environment draws from; the halves share no seed (see envs/seeding.py)."""

    TRAIN = 0
    EVALUATION = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class ArraySpec:
    """Shape and NumPy dtype name of one array of one slot (no batch dimension)."""

    shape: tuple[int, ...]
    dtype: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Score:
    """Reference returns of a random policy and of a human, or with `reference="optimal"` of the best policy, on one task."""

    random: float
    human: float
    reference: Literal["human", "optimal"] = "human"


@dataclass(frozen=True, kw_only=True, slots=True)
class EnvSpec:
    """The interface of a suite with a given list of tasks.

    Attributes:
        suite: name of the suite.
        tasks: names, in the order of their task ids.
        observation: `image` and/or `vector` of one slot, and `action_mask`, bool, where its environments say at each step which actions
            are legal; never `instruction` or `task`. The mask has one entry for each action, of multi-discrete actions for each choice of
            each component, side by side, and at least one of them (of each component) is True.
        instruction_length: number of tokens L of `instruction`; 0 when the suite has no instructions.
        vocabulary: word of every token; token 0 is padding, token 1 any unknown word. Empty without instructions.
        num_actions: size A of the discrete action set shared by all tasks. Of other actions, the length of their code:
            the sum of `action_sizes`, or the number of continuous components.
        action_counts: per task, how many of the A actions it uses (the first ones); the others are masked. Only tasks with discrete
            actions differ here.
        action_sizes: multi-discrete actions: the choices of each of their components; empty for all others.
        action_low, action_high: continuous actions: the bounds of each component; empty for all others.
        action_repeat: env frames per agent step.
        engine: name of the engine that was chosen.
        image_kind: how to read `image`: "symbolic" (integer codes per cell, last axis = channels of codes), "pixels",
            or "none".
        symbol_counts: for symbolic images, number of codes per channel; empty otherwise.
        scores: reference scores of those tasks that have them.
        slow: whether a step usually takes longer than all that the agent does with it, acting and learning.
        has_success: whether an episode that terminates with a positive reward is a success, and any other none. What an environment
            itself tells of an episode comes first (`envs.engines.base.SuccessEngine`); where neither says anything, `success` is NaN.
        switches_tasks: whether a slot can play another task from one episode to the next (`envs.engines.base.SwitchingEngine`).
        frame_rates: env frames in a second of those tasks whose game has a clock; videos play at that rate.
    """

    suite: str
    tasks: tuple[str, ...]
    observation: Mapping[str, ArraySpec]
    instruction_length: int
    vocabulary: tuple[str, ...]
    num_actions: int
    action_counts: tuple[int, ...]
    action_repeat: int = 1
    engine: str = ""
    image_kind: str = "none"
    symbol_counts: tuple[int, ...] = ()
    scores: Mapping[str, Score] = field(default_factory=dict)
    slow: bool = False
    has_success: bool = True
    action_sizes: tuple[int, ...] = ()
    action_low: tuple[float, ...] = ()
    action_high: tuple[float, ...] = ()
    switches_tasks: bool = False
    frame_rates: Mapping[str, float] = field(default_factory=dict)

    @property
    def action_kind(self) -> ActionKind:
        """What an action of one slot is: an integer, integers int32 [len(action_sizes)], or float32 [len(action_low)]."""
        if self.action_sizes:
            return "multi_discrete"
        return "continuous" if self.action_low else "discrete"

    @property
    def action(self) -> ArraySpec:
        """Shape and dtype of an action of one slot, as the environment takes it."""
        shape = {"discrete": (), "multi_discrete": (len(self.action_sizes),), "continuous": (len(self.action_low),)}
        return ArraySpec(
            shape=shape[self.action_kind], dtype="float32" if self.action_kind == "continuous" else "int32"
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Slot:
    """One seat in a vector environment.

    Attributes:
        task: task id played in this slot, or played first.
        index: number of the slot among all slots of the run that play this task, or may come to play it; with the task
            it names the seed stream.
        episode: the first episode number to play (0 in a fresh run, the saved position after a resume).
    """

    task: int
    index: int
    episode: int = 0
