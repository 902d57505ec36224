"""Data of an ablation: `Results` are read from run folders, and an `Analysis` is computed from them.

Only `Results.matrix` makes the runs x tasks matrix of a variant, from named runs and tasks, so that its axes cannot be swapped.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


_AT_WIDTH = re.compile(r"(.+) width=(\d+(?:\.\d+)?(?:e[+-]\d+)?)")


def name_at_width(form: str, width: float) -> str:
    """The variant of a form at one value of the axis `widths` of ablate.py."""
    return f"{form} width={width:g}"


def split_width(variant: str) -> tuple[str, float | None]:
    """Form and width of a variant (`name_at_width`); None without one."""
    found = _AT_WIDTH.fullmatch(variant)
    if found and name_at_width(found[1], width := float(found[2])) == variant:
        return found[1], width
    return variant, None


@dataclass(frozen=True, kw_only=True, slots=True)
class Measure:
    """The quantity that runs are compared by.

    Attributes:
        name: `score`, `success` or `return`.
        label: For axes and headings, with its scale: "human-normalised score (random 0, human 100)".
        best: Value of the reference agent (100 or 1), from which the optimality gap is measured; None if unknown, as for returns.
        floor: Value of the trivial reference (0 for a score); None if unknown.
    """

    name: str
    label: str
    best: float | None
    floor: float | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Curve:
    """A run's training, from metrics.jsonl.

    Attributes:
        frames, seconds: [N], rising; seconds of training, summed over resumptions.
        values: By task [N], the measure over the latest training episodes; NaN before a task's first.
    """

    frames: Array
    seconds: Array
    values: Mapping[str, Array]


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """One evaluated run.

    Attributes:
        variant: The setting that is compared, such as "mi" or "mi core=mlstm"; its runs differ in their seed only.
        values: By task, the mean of the measure over the evaluation's episodes.
        unseen: The same on contexts that training left out, for the tasks that have some; empty if it left none out.
        probed: By probe and task, the same with the context of the probe (agents/evaluation/probes.py); empty without probes.
        episodes: Of each task in the evaluation.
        parameters, multiply_adds, frames, seconds, frames_per_second: Of training; multiply_adds of one acting step.
        config: The whole configuration, dotted keys.
        provenance: Git commit and whether it was clean, versions, machine (provenance.json).
    """

    name: str
    variant: str
    seed: int
    values: Mapping[str, float]
    unseen: Mapping[str, float] = field(default_factory=dict)
    probed: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    curve: Curve
    episodes: int
    parameters: int
    multiply_adds: int
    frames: int
    seconds: float
    frames_per_second: float
    config: Mapping[str, Any]
    provenance: Mapping[str, Any]


class Problem(NamedTuple):
    """A run that the report leaves out, or a doubt about one that it has; `reason` is a sentence."""

    run: str
    reason: str


class TuningRun(NamedTuple):
    """One tuning run with these values of the tuned keys: the mean over tasks of the measure, or None and the reason why there is none."""

    run: str
    seed: int
    values: Mapping[str, Any]
    value: float | None
    frames: int
    reason: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Choice:
    """Values of the tuned keys for the runs of a variant, and the tuning runs that they were chosen from.

    Attributes:
        seed: Of the one run that the choice is for; None: it is for all runs of the variant.
        measure: Name of the measure that decided.
        chosen: None if no tuning run counts.
    """

    variant: str
    seed: int | None
    measure: str
    chosen: Mapping[str, Any] | None
    runs: tuple[TuningRun, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Results:
    """All runs of an ablation.

    Attributes:
        tasks: Of every evaluation, in the order of the suite.
        variants: In the order of the command line; each has at least one run.
        runs: In the order of variants and seeds.
        problems: Runs that are missing, unfinished, repeated or not comparable, with the reason.
        command: That made the grid; empty if unknown.
        choices: Of a tuned grid.
    """

    suite: str
    measure: Measure
    tasks: tuple[str, ...]
    variants: tuple[str, ...]
    runs: tuple[Run, ...]
    problems: tuple[Problem, ...] = ()
    command: str = ""
    choices: tuple[Choice, ...] = ()

    @property
    def widths(self) -> tuple[float, ...]:
        """The widths of all variants, rising; empty if a variant has none, or all have the same."""
        widths = {split_width(variant)[1] for variant in self.variants}
        found = sorted(width for width in widths if width is not None)
        return tuple(found) if len(widths) == len(found) > 1 else ()

    @property
    def groups(self) -> tuple[tuple[str, ...], ...]:
        """The variants that are compared with each other: those of the same width, or all."""
        if not self.widths:
            return (self.variants,)
        return tuple(
            tuple(variant for variant in self.variants if split_width(variant)[1] == width) for width in self.widths
        )

    def of(self, variant: str) -> tuple[Run, ...]:
        """The runs of a variant, in the order of their seeds."""
        runs = (run for run in self.runs if run.variant == variant)
        return tuple(sorted(runs, key=lambda run: (run.seed, run.name)))

    def matrix(self, variant: str) -> Array:
        """Values of a variant [its runs, tasks]."""
        return np.array([[run.values[task] for task in self.tasks] for run in self.of(variant)], np.float64)

    @property
    def unseen_tasks(self) -> tuple[str, ...]:
        """The tasks that every run has played on contexts that training left out."""
        return tuple(task for task in self.tasks if all(task in run.unseen for run in self.runs))

    def unseen_matrix(self, variant: str) -> Array:
        """Values of a variant on those contexts [its runs, unseen_tasks]."""
        return np.array([[run.unseen[task] for task in self.unseen_tasks] for run in self.of(variant)], np.float64)


class Estimate(NamedTuple):
    """A statistic with the 95% interval for its value over all seeds; low and high are None for a single run and for equal runs."""

    value: float
    low: float | None
    high: float | None

    def __neg__(self) -> Estimate:
        low, high = (None if end is None else -end for end in (self.high, self.low))
        return Estimate(-self.value, low, high)


class Band(NamedTuple):
    """Estimates along an axis [N]; low and high are NaN where there is no interval, all three where there is no value."""

    value: Array
    low: Array
    high: Array


Curves: TypeAlias = Mapping[str, Mapping[str, Band]]
"""By variant and task, and "" for the mean over tasks, the mean over runs."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Efficiency:
    """How fast a variant learns.

    Attributes:
        area: Under the curve of the mean over tasks, divided by the frames; the mean measure during training.
        frames_to, seconds_to: To the threshold, for each run in the order of seeds; infinite if never reached.
        frames_to_median, seconds_to_median: Over all runs; infinite if half of them never reached it.
    """

    area: Estimate
    reached: int
    frames_to: Array
    seconds_to: Array
    frames_to_median: float
    seconds_to_median: float
    frames_per_second: Estimate


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """Two variants, compared by a quantity of each run, such as its mean over tasks. Their order is that of the command line, no ranking.

    Attributes:
        difference: Of the means, `first` minus `second`; the intervals of all pairs hold together.
        p: Corrected for the number of pairs; 1 if a test is impossible.
        claimed: Whether the two differ significantly: p < 5%, and the interval excludes zero.
    """

    first: str
    second: str
    difference: Estimate
    p: float
    claimed: bool

    @property
    def name(self) -> str:
        return f"{self.first} minus {self.second}"

    @property
    def higher(self) -> str:
        """The variant with the higher mean; meaningful only if `claimed`."""
        return self.first if self.difference.value >= 0 else self.second

    @property
    def lower(self) -> str:
        return self.second if self.difference.value >= 0 else self.first

    @property
    def gain(self) -> Estimate:
        """`higher` minus `lower`."""
        return self.difference if self.difference.value >= 0 else -self.difference


class SizePoint(NamedTuple):
    """A form at one width: the size of its agent, multiply-adds of one acting step (0 = unknown), and its mean over tasks and runs."""

    width: float
    parameters: int
    multiply_adds: int
    mean: Estimate


class WidthClaim(NamedTuple):
    """`better` differs significantly from `worse` at these widths, by these gains."""

    better: str
    worse: str
    widths: tuple[float, ...]
    gains: tuple[float, ...]
    at_every_width: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Scaling:
    """A grid with several widths, by form: a variant without its width.

    Attributes:
        widths: Rising.
        points: By form, its points by rising width.
        claims: Of every two forms that differ at a width.
    """

    widths: tuple[float, ...]
    points: Mapping[str, tuple[SizePoint, ...]]
    claims: tuple[WidthClaim, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Combination:
    """Values of the tuned keys in all tuning runs of a variant.

    Attributes:
        runs: Those that count.
        mean: Over them; NaN without one.
        chosen: Number of choices that took these values.
    """

    values: Mapping[str, Any]
    runs: tuple[TuningRun, ...]
    mean: float
    chosen: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Tuning:
    """How a variant was tuned.

    Attributes:
        choices: Number of them; for each run one, or one for all.
        combinations: In the order in which the values were given.
        spread: Of their means, highest minus lowest: the sensitivity to the values. NaN if fewer than two have a mean.
        failed: Tuning runs that do not count.
        frames: Of all tuning runs.
    """

    measure: str
    choices: int
    combinations: tuple[Combination, ...]
    spread: float
    failed: tuple[TuningRun, ...]
    frames: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Analysis:
    """Statistics of `Results`. Mappings have the variant as first key, in the order of `Results.variants`.

    Attributes:
        aggregates: Over runs and tasks, by name of `statistics.AGGREGATES`; no optimality_gap if `Measure.best` is unknown.
        tasks: By task, the mean over runs.
        profile_values: [N] values of the measure; `profiles`: the share of runs x tasks above each.
        improvement: By variant and other variant, the probability that a run of the first beats one of the second on a random task.
        threshold: Of the sample efficiency, in the measure's unit, and `efficiency` by variant.
        paces: By name of `efficiency.PACES`, the comparisons of every pair; names without a value are left out.
        frames: [N] of all `curves`.
        probes: By probe, the loss of the mean over tasks; empty without probes.
        resampled: How intervals were made, one sentence.
        unseen: Means over the tasks with unseen contexts, as `seen`, `unseen` and their difference `drop`; empty without such contexts.
        unseen_comparisons: Of every pair by the mean on unseen contexts. They and `comparisons` are tested together.
        comparisons: Of every pair by the mean over tasks, with several widths of every pair of the same width.
        sentences: What the runs support, the main one first.
        scaling: Curves over size; None without the axis `widths`.
        tuning: Of a tuned grid (ablation/analysis/tuning.py).
    """

    aggregates: Mapping[str, Mapping[str, Estimate]]
    tasks: Mapping[str, Mapping[str, Estimate]]
    profile_values: Array
    profiles: Mapping[str, Band]
    improvement: Mapping[str, Mapping[str, Estimate]]
    threshold: float
    efficiency: Mapping[str, Efficiency]
    paces: Mapping[str, tuple[Comparison, ...]]
    frames: Array
    curves: Curves
    probes: Mapping[str, Mapping[str, Estimate]]
    resampled: str
    comparisons: tuple[Comparison, ...]
    sentences: tuple[str, ...]
    unseen: Mapping[str, Mapping[str, Estimate]] = field(default_factory=dict)
    unseen_comparisons: tuple[Comparison, ...] = ()
    scaling: Scaling | None = None
    tuning: Mapping[str, Tuning] = field(default_factory=dict)
