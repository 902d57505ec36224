"""The tables of the report, as text in cells; the numbers themselves are in `ablation.report.data`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from ablation.analysis import numbers
from ablation.analysis.comparability import Configs, told
from ablation.analysis.numbers import Write
from ablation.analysis.results import Analysis, Comparison, Estimate, Results, Run


class Table(NamedTuple):
    """`head` names the columns, the first cell of a row names the row; `data` is the name of the CSV with its numbers.

    `numeric` says whether all cells but the first of a row are numbers.
    """

    name: str
    title: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    data: str
    numeric: bool = True


_AGGREGATES = {"iqm": "IQM", "median": "median", "mean": "mean", "optimality_gap": "optimality gap"}


def every(results: Results, analysis: Analysis, configs: Configs) -> dict[str, Table]:
    """All tables by name, in the order of the report."""
    variants, write = results.variants, numbers.of_measure(results.measure)
    probes = list(dict.fromkeys(probe for row in analysis.probes.values() for probe in row))
    tables = [
        _runs(results),
        _where(results),
        _varying(results, configs) if len(variants) == 1 else _differences(variants, configs),
        Table(
            "config_shared",
            f"Configuration: the {len(configs.shared)} keys that all runs share",
            ("key", "value"),
            tuple(configs.shared.items()),
            "config_shared",
            numeric=False,
        ),
        Table(
            "problems", "Problems", ("run", "reason"), tuple(map(tuple, results.problems)), "problems", numeric=False
        ),
        _estimates(
            "aggregates",
            "Aggregates over runs and tasks",
            {
                name: label
                for name, label in _AGGREGATES.items()
                if all(name in row for row in analysis.aggregates.values())
            },
            analysis.aggregates,
            write,
        ),
        _estimates(
            "improvement",
            "Probability that the row beats the column",
            {variant: variant for variant in variants} if len(variants) > 1 else {},
            analysis.improvement,
            numbers.probability,
        ),
        _comparisons(analysis, write),
        Table(
            "tasks",
            "Evaluation by task",
            ("task", *variants),
            tuple(
                (task, *(numbers.estimate(analysis.tasks[variant][task], write) for variant in variants))
                for task in results.tasks
            ),
            "tasks",
        ),
        _sample_efficiency(analysis, write),
        _pairs(
            "sample_efficiency_pairs",
            "Sample efficiency, every pair of variants",
            analysis,
            (
                ("frames_to", f"frames to {write(analysis.threshold)}", numbers.count),
                ("area", "mean during training", write),
            ),
        ),
        _wall_clock(analysis),
        _pairs(
            "wall_clock_pairs",
            "Wall-clock efficiency, every pair of variants",
            analysis,
            (
                ("seconds_to", f"time to {write(analysis.threshold)}", numbers.duration),
                ("frames_per_second", "frames per second", numbers.count),
            ),
        ),
        _estimates("probes", "What each probe takes", {probe: probe for probe in probes}, analysis.probes, write),
    ]
    return {table.name: table for table in tables if table.rows and len(table.head) > 1}


def _estimates(
    name: str, title: str, columns: Mapping[str, str], found: Mapping[str, Mapping[str, Estimate]], write: Write
) -> Table:
    rows = tuple(
        (variant, *(numbers.estimate(row[key], write) if key in row else "" for key in columns))
        for variant, row in found.items()
    )
    return Table(name, title, ("variant", *columns.values()), rows, name)


def _runs(results: Results) -> Table:
    def row(variant: str, runs: Sequence[Run]) -> tuple[str, ...]:
        return (
            variant,
            str(len(runs)),
            numbers.listed([run.seed for run in runs]),
            numbers.ranged([run.parameters for run in runs], numbers.count),
            numbers.ranged([run.multiply_adds for run in runs], numbers.count),
            numbers.ranged([run.frames for run in runs], numbers.count),
            numbers.ranged([run.episodes for run in runs], numbers.count),
            numbers.ranged([run.frames_per_second for run in runs], numbers.count),
            numbers.ranged([run.seconds for run in runs], numbers.duration),
        )

    return Table(
        "runs",
        "Variants" if len(results.variants) > 1 else "The runs",
        (
            *("variant", "runs", "seeds", "parameters", "multiply-adds of a step", "frames", "episodes per task"),
            *("frames/s", "time of a run"),
        ),
        tuple(row(variant, results.of(variant)) for variant in results.variants),
        "runs",
    )


def _differences(variants: Sequence[str], configs: Configs) -> Table:
    """Long rather than wide: a row for each variant, or for each key where there are more of them."""
    keys = tuple(configs.different)
    rows = tuple((variant, *(configs.different[key][variant] for key in keys)) for variant in variants)
    head: tuple[str, ...] = ("variant", *keys)
    if len(keys) > len(variants):
        head, *rest = zip(head, *rows, strict=True)
        head, rows = ("key", *head[1:]), tuple(rest)
    name = "config_differences"
    return Table(name, "Configuration: what differs between the variants", head, rows, name, numeric=False)


def _varying(results: Results, configs: Configs) -> Table:
    """Of one variant: a row for each run."""
    keys, name = configs.within, "config_varying"
    rows = tuple((run.name, *(told(run.config.get(key, "")) for key in keys)) for run in results.runs)
    return Table(name, "Configuration: what varies between the runs", ("run", *keys), rows, name, numeric=False)


def _where(results: Results) -> Table:
    """Code, versions and hardware, with every value that some run has."""
    found: dict[str, list[str]] = {}
    for run in results.runs:
        git = run.provenance.get("git", {})
        about = {"commit": git.get("commit", "unknown"), "uncommitted changes": "yes" if git.get("dirty") else "no"}
        for section in (about, run.provenance.get("machine", {}), run.provenance.get("versions", {})):
            for key, value in section.items():
                found.setdefault(str(key), []).append(told(value))
    return Table(
        "where",
        "Code, machine and versions",
        ("", "of the runs"),
        tuple((key, _counted(values)) for key, values in found.items()),
        "runs",
        numeric=False,
    )


def _counted(values: Sequence[str]) -> str:
    """The value of all runs, or each value with the number of runs that have it."""
    counts = Counter(values)
    return (
        values[0]
        if len(counts) == 1
        else ", ".join(f"{value} ({count} of {len(values)} runs)" for value, count in counts.items())
    )


def _comparisons(analysis: Analysis, write: Write) -> Table:
    rows = tuple(
        (
            _pair(pair),
            numbers.estimate(pair.difference, write),
            "< 0.001" if pair.p < 0.001 else f"{pair.p:.3f}",
            _verdict(pair),
        )
        for pair in analysis.verdict.comparisons
    )
    head = ("pair", "difference of the means", "p, corrected", "told apart")
    return Table("comparisons", "Every pair of variants", head, rows, "comparisons")


def _pairs(name: str, title: str, analysis: Analysis, columns: Sequence[tuple[str, str, Write]]) -> Table:
    """A row for each pair of variants, two columns for each of `ablation.analysis.efficiency.PACES` that there are: its name, head and
    writer."""
    found = [(head, write, analysis.paces[pace]) for pace, head, write in columns if pace in analysis.paces]
    rows: dict[str, tuple[str, ...]] = {}
    names = list(dict.fromkeys(_pair(pair) for _, _, pairs in found for pair in pairs))
    for _, write, pairs in found:
        cells = {_pair(pair): (numbers.estimate(pair.difference, write), _verdict(pair)) for pair in pairs}
        rows |= {pair: (*rows.get(pair, (pair,)), *cells.get(pair, ("-", "-"))) for pair in names}
    head = ("pair", *(text for head, _, _ in found for text in (head, "told apart")))
    return Table(name, title, head, tuple(rows.values()), name)


def _pair(pair: Comparison) -> str:
    return f"{pair.first} minus {pair.second}"


def _verdict(pair: Comparison) -> str:
    return "yes" if pair.claimed else "no test" if pair.difference.low is None else "no"


def _sample_efficiency(analysis: Analysis, write: Write) -> Table:
    rows = tuple(
        (
            variant,
            numbers.until(numbers.count)(one.frames_to_median),
            f"{one.reached} of {len(one.frames_to)}",
            numbers.estimate(one.area, write),
        )
        for variant, one in analysis.efficiency.items()
    )
    head = ("variant", f"frames to {write(analysis.threshold)}, median", "runs that came there", "mean during training")
    return Table("sample_efficiency", "Sample efficiency", head, rows, "sample_efficiency")


def _wall_clock(analysis: Analysis) -> Table:
    rows = tuple(
        (
            variant,
            numbers.until(numbers.duration)(one.seconds_to_median),
            numbers.estimate(one.frames_per_second, numbers.count),
        )
        for variant, one in analysis.efficiency.items()
    )
    head = ("variant", "time to the threshold, median", "frames per second")
    return Table("wall_clock", "Wall-clock efficiency", head, rows, "wall_clock")
