"""The statistics of an ablation's results, all together."""

from __future__ import annotations

from ablation.analysis import efficiency, statistics
from ablation.analysis.intervals import CONFIDENCE, RESAMPLES
from ablation.analysis.results import Analysis, Results
from ablation.analysis.scaling import scaling
from ablation.analysis.sentences import Unseen, sentences
from ablation.analysis.tuning import describe_tuning, summarize

RESAMPLED = (
    f"{CONFIDENCE:.0%} intervals, for other seeds on the same tasks. Whole runs were left out one by one (jackknife; for the IQM, "
    f"{RESAMPLES:,} bootstrap draws), never single scores, because one run plays all tasks; half-widths are Student's t times the "
    "standard error, on the logit scale for shares. There is none where all runs are alike."
)


def analyse(results: Results, threshold: float | None = None) -> Analysis:
    """The analysis of results; deterministic, bit for bit. `threshold`: of the sample efficiency; None: the default of the measure."""
    if threshold is None:
        threshold = efficiency.default_threshold(results)
    profile_values, frames = statistics.profile_values(results), efficiency.common_frames(results)
    probes = statistics.probes(results)
    means = {variant: results.matrix(variant).mean(axis=1) for variant in results.variants}
    unseen_means = {
        variant: results.unseen_matrix(variant).mean(axis=1) for variant in results.variants if results.unseen_tasks
    }
    families = 2 if unseen_means else 1
    comparisons, unseen_comparisons = (
        statistics.compare(values, statistics.difference_range(results.measure), results.groups, families)
        if values
        else ()
        for values in (means, unseen_means)
    )
    unseen = statistics.unseen(results)
    over_size = scaling(results, means, comparisons)
    speeds = statistics.compare(efficiency.speeds(results))
    tuning = summarize(results.choices)
    paces = {name: statistics.compare(runs) for name, runs in efficiency.comparable_paces(results, threshold).items()}
    return Analysis(
        aggregates=statistics.aggregates(results),
        tasks=statistics.tasks(results),
        profile_values=profile_values,
        profiles={variant: statistics.profile(results.matrix(variant), profile_values) for variant in results.variants},
        improvement=statistics.improvements(results),
        threshold=threshold,
        efficiency={variant: efficiency.efficiency(results, variant, threshold) for variant in results.variants},
        paces={name: pairs for name, pairs in paces.items() if pairs},
        frames=frames,
        curves={variant: efficiency.curves(results, variant, frames) for variant in results.variants},
        probes=probes,
        resampled=RESAMPLED,
        comparisons=comparisons,
        unseen=unseen,
        unseen_comparisons=unseen_comparisons,
        scaling=over_size,
        sentences=(
            *sentences(
                results,
                means,
                comparisons,
                probes,
                speeds,
                unseen=Unseen(unseen_means, unseen_comparisons, unseen),
                scaling=over_size,
            ),
            *describe_tuning(results, tuning),
        ),
        tuning=tuning,
    )
