"""What an ablation found, in three steps: runs as their folders tell of them, what statistics make of these, and nothing else.

The runs x tasks matrix of a variant exists in `Results.matrix` alone, which builds it from named runs and named tasks: nobody hands over an
array whose axes could be the wrong way round.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, slots=True)
class Measure:
    """What runs are compared by.

    Attributes:
        name: `score`, `success` or `return`.
        label: for axes and headings, with its scale: "human-normalised score (random 0, human 100)".
        best: the value of an agent as good as the reference (100, 1); None where none is known, as for raw returns. The
            optimality gap is the distance to it.
        floor: the value of the reference that does nothing clever (0 of a score); None where none is known.
    """

    name: str
    label: str
    best: float | None
    floor: float | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Curve:
    """A run's training, from metrics.jsonl.

    Attributes:
        frames, seconds: [N], rising; seconds count the time that the run was at work, over all its resumptions.
        values: by task [N], the measure over the latest training episodes; NaN before a task's first.
    """

    frames: Array
    seconds: Array
    values: Mapping[str, Array]


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """One evaluated run.

    Attributes:
        name: of its folder.
        variant: what it is a repetition of, such as "mi" or "mi core=mlstm"; runs of one variant differ in their seed alone.
        values: by task, the mean of the measure over the evaluation's episodes.
        probed: by probe and task, the same with another context (agents/evaluation/probes.py); empty without probes.
        episodes: of each task in the evaluation.
        parameters, multiply_adds, frames, seconds, frames_per_second: of training; multiply_adds of one acting step.
        config: the whole configuration, dotted keys.
        provenance: git commit and whether it was clean, versions, machine (provenance.json).
    """

    folder: Path
    name: str
    variant: str
    seed: int
    values: Mapping[str, float]
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
    """A run that the report goes without, or a doubt about one that it has; `reason` is a sentence."""

    run: str
    reason: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Results:
    """All runs of an ablation.

    Attributes:
        suite: name of the suite.
        tasks: that every run was evaluated on, in the order of the suite.
        variants: in the order in which they were asked for; each has at least one run.
        runs: in the order of variants and seeds.
        problems: what is missing, partial, double or does not belong, and why.
        command: what made it; empty if unknown.
    """

    suite: str
    measure: Measure
    tasks: tuple[str, ...]
    variants: tuple[str, ...]
    runs: tuple[Run, ...]
    problems: tuple[Problem, ...] = ()
    command: str = ""

    def of(self, variant: str) -> tuple[Run, ...]:
        """The runs of a variant, in the order of their seeds."""
        runs = (run for run in self.runs if run.variant == variant)
        return tuple(sorted(runs, key=lambda run: (run.seed, run.name)))

    def matrix(self, variant: str) -> Array:
        """The values of a variant: [its runs, tasks]."""
        return np.array([[run.values[task] for task in self.tasks] for run in self.of(variant)], np.float64)


class Estimate(NamedTuple):
    """A statistic with the 95% interval for what it would be over all seeds there are.

    low and high are None where there is nothing to make an interval of: a single run, or runs that do not differ at all.
    """

    value: float
    low: float | None
    high: float | None


class Band(NamedTuple):
    """Estimates along an axis: three arrays [N]; low and high are NaN where there is no interval, all three where there is no value."""

    value: Array
    low: Array
    high: Array


@dataclass(frozen=True, kw_only=True, slots=True)
class Efficiency:
    """How fast a variant learns.

    Attributes:
        area: under the curve of the mean over tasks against frames, divided by the frames: the mean measure during training.
        reached: of its runs, how many came to the threshold and stayed in the count to tell when.
        frames_to, seconds_to: to the threshold, for each run in the order of seeds; infinite for a run that never came to it.
        frames_to_median, seconds_to_median: over all runs; infinite where half of them never came to it.
        frames_per_second: of training.
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
    """One variant against another, by a quantity that every run has, such as its mean over tasks.

    The order is that in which the variants were asked for, not one of rank: of two that are not told apart none is the better one.

    Attributes:
        difference: of the means, `first` minus `second`, with an interval that holds for all pairs at once.
        p: corrected for the number of pairs; 1 where a test is impossible.
        claimed: whether the two are told apart: p is small, and the interval leaves out zero.
    """

    first: str
    second: str
    difference: Estimate
    p: float
    claimed: bool

    @property
    def higher(self) -> str:
        """The one with the higher mean. That means something only where the two are told apart."""
        return self.first if self.difference.value >= 0 else self.second

    @property
    def lower(self) -> str:
        """The other one."""
        return self.second if self.difference.value >= 0 else self.first

    @property
    def gain(self) -> Estimate:
        """`higher` minus `lower`."""
        value, low, high = self.difference
        return self.difference if value >= 0 else Estimate(-value, _minus(high), _minus(low))


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """What the runs support, in words, and what they do not. `comparisons` of every pair; `sentences` for people, the main one first."""

    comparisons: tuple[Comparison, ...]
    sentences: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Analysis:
    """What statistics make of `Results`; every mapping is keyed by variant first, in the order of `Results.variants`.

    Attributes:
        aggregates: over runs and tasks, by name of `ablation.analysis.statistics.AGGREGATES`: iqm, median, mean, optimality_gap (left out
        where
            `Measure.best` is unknown).
        tasks: by task, the mean over runs.
        profile_values: [N] values of the measure; `profiles`: for each, the share of runs x tasks above it.
        improvement: by variant and each other variant, the probability that a run of the first beats one of the second on a task drawn at
            random.
        threshold: of the sample efficiency, in the measure's unit, and `efficiency` by variant.
        paces: by name of `ablation.analysis.efficiency.PACES`, every pair of variants compared by it; without those that have no value.
        frames: [N] common to all curves; `curves`: by variant and task, and under "" for the mean over tasks, mean over runs.
        probes: by probe, what the mean over tasks loses under it; empty without probes.
        resampled: how intervals were made, one sentence.
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
    curves: Mapping[str, Mapping[str, Band]]
    probes: Mapping[str, Mapping[str, Estimate]]
    resampled: str
    verdict: Verdict


def _minus(value: float | None) -> float | None:
    return None if value is None else -value
