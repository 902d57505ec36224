"""The interface of a set of tasks, known before any environment exists. Plain, picklable data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Literal, TypeAlias

ActionKind: TypeAlias = Literal["discrete", "multi_discrete", "continuous"]


class Split(IntEnum):
    """Which seeds and contexts episodes are drawn from (envs/seeding.py). Training shares no seed with the others.

    UNSEEN is evaluation on the contexts that training leaves out (envs/holdout.py); only suites with `Suite.holdout` know it.
    """

    TRAIN = 0
    EVALUATION = 1
    UNSEEN = 3

    @property
    def is_seen(self) -> bool:
        """Whether contexts are those of training."""
        return self != Split.UNSEEN


@dataclass(frozen=True, kw_only=True, slots=True)
class ArraySpec:
    """Shape and NumPy dtype name of one array of one slot (no batch dimension)."""

    shape: tuple[int, ...]
    dtype: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Score:
    """Reference returns of a random policy and of a human on one task. With `reference="optimal"` the second one is that of the best
    policy, with `"maximum"` the published highest return.
    """

    random: float
    human: float
    reference: Literal["human", "optimal", "maximum"] = "human"


@dataclass(frozen=True, kw_only=True, slots=True)
class EnvSpec:
    """The interface of a suite with a given list of tasks.

    Attributes:
        suite: Name of the suite.
        tasks: Names, in the order of their task ids.
        observation: The arrays `image` and/or `vector` of one slot. Also `action_mask`, bool, if the environments report at each step which
            actions are legal: one entry per action, or, for multi-discrete actions, one per choice of each component, concatenated.
            At least one entry (of each component) is True. Also `context`, f32 [V], if the suite describes the task of an episode by a
            vector of at most unit length, which agents with context=vector read. Never holds `instruction` or `task`.
        instruction_length: Number L of tokens of `instruction`; 0 without instructions.
        vocabulary: Word of every token; token 0 is padding, token 1 any unknown word. Empty without instructions.
        num_actions: Number A of discrete actions, shared by all tasks. For other kinds of actions the length of their encoding:
            the sum of `action_sizes`, or the number of continuous components.
        action_counts: Per task, how many of the A actions it uses (the first ones); the others are masked. Tasks differ only with
            discrete actions.
        action_sizes: Number of choices of each component of a multi-discrete action; empty for other kinds.
        action_low, action_high: Bounds of each component of a continuous action; empty for other kinds.
        action_repeat: Environment frames per agent step.
        engine: Name of the chosen engine.
        image_kind: Encoding of `image`: "symbolic" (integer codes per cell, last axis = channels of codes), "pixels", or "none".
        symbol_counts: Number of codes per channel of a symbolic image; empty otherwise.
        scores: Reference scores of the tasks that have them.
        slow: Whether a step usually takes longer than the agent's acting and learning on it.
        has_success: Whether an episode is a success exactly if it terminates with a positive reward. A success that the environment
            reports (`envs.engines.base.SuccessEngine`) takes precedence. Without either, `success` is NaN.
        switches_tasks: Whether a slot can change its task between episodes (`envs.engines.base.SlotEngine`).
        frame_rates: Environment frames per second of the tasks whose game has a clock; videos play at that rate.
    """

    suite: str
    tasks: tuple[str, ...]
    observation: Mapping[str, ArraySpec]
    num_actions: int
    action_counts: tuple[int, ...]
    instruction_length: int = 0
    vocabulary: tuple[str, ...] = ()
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
        """Kind of an action of one slot: an integer, int32 [len(action_sizes)], or float32 [len(action_low)]."""
        if self.action_sizes:
            return "multi_discrete"
        return "continuous" if self.action_low else "discrete"

    @property
    def action(self) -> ArraySpec:
        shape = {"discrete": (), "multi_discrete": (len(self.action_sizes),), "continuous": (len(self.action_low),)}
        return ArraySpec(
            shape=shape[self.action_kind], dtype="float32" if self.action_kind == "continuous" else "int32"
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Slot:
    """One slot of a vector environment.

    Attributes:
        task: Task id that the slot plays, or plays first.
        index: Number of the slot among all slots of the run that may play this task. Task and index name the seed stream.
        episode: Number of the first episode to play (0 in a new run, the saved position after a resume).
    """

    task: int
    index: int
    episode: int = 0
