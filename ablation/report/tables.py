"""The tables of the report: each has its numbers for a CSV file and, where a page shows it, the same numbers as text.

Tables that depend on the speed of the machine are separate (`wall_clock*`), so that the others of two reports can be compared.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from ablation.analysis import numbers
from ablation.analysis.comparability import Configs, format_value
from ablation.analysis.numbers import Write
from ablation.analysis.results import Analysis, Comparison, Efficiency, Estimate, Results, Run
from ablation.report.table import Data, Table, pivot

MEAN_OVER_TASKS = "mean over tasks"
"""Name in tables of the task "" of `Analysis.curves`."""

_INTERVAL = ("low", "high")
_DIFFERENCE = ("first", "second", "difference", *_INTERVAL, "p", "claimed")
"""Columns of a comparison; the difference is first minus second, in the order in which the variants were given."""
_COMPARING = ("improvement", "comparisons", "config_differences", "sample_efficiency_pairs", "wall_clock_pairs")
"""Tables that a report on one variant leaves out."""
_AGGREGATES = {"iqm": "IQM", "median": "median", "mean": "mean", "optimality_gap": "optimality gap"}


def make_tables(results: Results, analysis: Analysis, configs: Configs) -> dict[str, Table]:
    """All tables by name, in the order of the report."""
    variants, write = results.variants, numbers.of_measure(results.measure)
    aggregates = {
        key: label for key, label in _AGGREGATES.items() if all(key in row for row in analysis.aggregates.values())
    }
    probes = {probe: probe for row in analysis.probes.values() for probe in row}
    tables = [
        _runs(results),
        _texts("problems", "Problems", ("run", "reason"), results.problems),
        _differences(variants, configs),
        _texts(
            "config_shared",
            f"Configuration: the {len(configs.shared)} keys that all runs share",
            ("key", "value"),
            configs.shared.items(),
        ),
        _learning_curves(analysis),
        _estimates(
            "aggregates", "Aggregates over runs and tasks", "aggregate", analysis.aggregates, write, columns=aggregates
        ),
        _profiles(analysis),
        _estimates(
            "improvement",
            "Probability that the row beats the column",
            "over",
            analysis.improvement,
            numbers.probability,
            value="probability",
            columns={variant: variant for variant in variants},
        ),
        _estimates(
            "tasks",
            "Evaluation by task",
            "task",
            analysis.tasks,
            write,
            value="mean",
            rows=results.tasks,
        ),
        _values(results),
        _comparisons(analysis, write),
        *_sample_efficiency(results, analysis, write),
        *_wall_clock(results, analysis, write),
    ]
    if probes:
        tables.append(
            _estimates("probes", "What each probe takes", "probe", analysis.probes, write, value="loss", columns=probes)
        )
    if len(variants) == 1:
        tables = [table for table in tables if table.data.name not in _COMPARING]
        if configs.within:
            tables.append(_varying(results, configs))
    return {table.data.name: table for table in tables} | {"where": _where(results)}


def _texts(name: str, title: str, header: tuple[str, ...], rows: Iterable[Iterable[str]]) -> Table:
    """A table of text, the same in CSV and on the page."""
    texts = tuple(map(tuple, rows))
    return Table(Data(name, header, texts), title, header, texts, numeric=False)


def _estimates(
    name: str,
    title: str,
    kind: str,
    found: Mapping[str, Mapping[str, Estimate]],
    write: Write,
    *,
    value: str = "value",
    columns: Mapping[str, str] | None = None,
    rows: Sequence[str] = (),
) -> Table:
    """Estimates by variant and a second key.

    Args:
        kind: What the second key is, as a column's name.
        columns: Second keys to show as columns, one row for each variant; None shows `rows`, one column for each variant.
    """
    data = tuple((variant, key, *estimate) for variant, row in found.items() for key, estimate in row.items())
    texts = {
        (variant, key): numbers.estimate(estimate, write)
        for variant, row in found.items()
        for key, estimate in row.items()
    }
    if columns is None:
        names = {variant: variant for variant in found}
        shown = pivot(kind, rows, names, {(key, variant): text for (variant, key), text in texts.items()})
    else:
        shown = pivot("variant", found, columns, texts)
    return Table(Data(name, ("variant", kind, value, *_INTERVAL), data), title, *shown)


def _runs(results: Results) -> Table:
    """CSV: a row for each run; text: a row for each variant."""
    ranges: dict[str, tuple[str, Write]] = {
        "parameters": ("parameters", numbers.count),
        "multiply-adds of a step": ("multiply_adds", numbers.count),
        "frames": ("frames", numbers.count),
        "episodes per task": ("episodes", numbers.count),
        "frames/s": ("frames_per_second", numbers.count),
        "time of a run": ("seconds", numbers.duration),
    }
    rows = tuple(
        (
            *(run.variant, run.name, run.seed, run.parameters, run.multiply_adds, run.frames, run.episodes),
            *(run.provenance.get("git", {}).get(key) for key in ("commit", "dirty")),
        )
        for run in results.runs
    )
    header = ("variant", "run", "seed", "parameters", "multiply_adds", "frames", "episodes", "commit", "dirty")
    texts = tuple(
        (
            *(variant, str(len(runs)), numbers.listed([run.seed for run in runs])),
            *(numbers.ranged([getattr(run, key) for run in runs], write) for key, write in ranges.values()),
        )
        for variant in results.variants
        if (runs := results.of(variant))
    )
    title = "Variants" if len(results.variants) > 1 else "The runs"
    return Table(Data("runs", header, rows), title, ("variant", "runs", "seeds", *ranges), texts)


def _differences(variants: Sequence[str], configs: Configs) -> Table:
    """Rows are variants, or keys if there are more keys than variants, so that the table is long rather than wide."""
    rows = tuple((key, *entry) for key, values in configs.different.items() for entry in values.items())
    cells = {(variant, key): value for key, variant, value in rows}
    if len(configs.different) > len(variants):
        turned = {(key, variant): value for key, variant, value in rows}
        shown = pivot("key", configs.different, {variant: variant for variant in variants}, turned)
    else:
        shown = pivot("variant", variants, {key: key for key in configs.different}, cells)
    title = "Configuration: what differs between the variants"
    return Table(Data("config_differences", ("key", "variant", "value"), rows), title, *shown, numeric=False)


def _varying(results: Results, configs: Configs) -> Table:
    rows = tuple(
        (run.name, key, format_value(run.config.get(key, ""))) for run in results.runs for key in configs.within
    )
    cells = {(run, key): value for run, key, value in rows}
    shown = pivot("run", [run.name for run in results.runs], {key: key for key in configs.within}, cells)
    title = "Configuration: what varies between the runs"
    return Table(Data("config_varying", ("run", "key", "value"), rows), title, *shown, numeric=False)


def _where(results: Results) -> Table:
    """Commit, machine and versions, with the number of runs for each of several values; the CSV file is that of the runs."""
    found: dict[str, list[str]] = {}
    for run in results.runs:
        git = run.provenance.get("git", {})
        code = {"commit": git.get("commit", "unknown"), "uncommitted changes": "yes" if git.get("dirty") else "no"}
        for section in (code, run.provenance.get("machine", {}), run.provenance.get("versions", {})):
            for key, value in section.items():
                found.setdefault(str(key), []).append(format_value(value))
    rows = tuple((key, _count_values(values)) for key, values in found.items())
    return Table(_runs(results).data, "Code, machine and versions", ("", "of the runs"), rows, numeric=False)


def _count_values(values: Sequence[str]) -> str:
    counts = Counter(values)
    if len(counts) == 1:
        return values[0]
    return ", ".join(f"{value} ({count} of {len(values)} runs)" for value, count in counts.items())


def _learning_curves(analysis: Analysis) -> Table:
    rows = tuple(
        (variant, task or MEAN_OVER_TASKS, float(frames), *point)
        for variant, tasks in analysis.curves.items()
        for task, band in tasks.items()
        for frames, *point in zip(analysis.frames, *map(np.ndarray.tolist, band), strict=True)
    )
    return Table(Data("learning_curves", ("variant", "task", "frames", "value", *_INTERVAL), rows))


def _profiles(analysis: Analysis) -> Table:
    rows = tuple(
        (variant, *point)
        for variant, band in analysis.profiles.items()
        for point in zip(*map(np.ndarray.tolist, (analysis.profile_values, *band)), strict=True)
    )
    return Table(Data("profiles", ("variant", "value", "share", *_INTERVAL), rows))


def _values(results: Results) -> Table:
    rows = tuple(
        (run.variant, run.name, run.seed, task, float(run.values[task]))
        for run in results.runs
        for task in results.tasks
    )
    return Table(Data("values", ("variant", "run", "seed", "task", "value"), rows))


def _comparisons(analysis: Analysis, write: Write) -> Table:
    pairs = analysis.verdict.comparisons
    texts = tuple(
        (
            _pair_name(pair),
            numbers.estimate(pair.difference, write),
            "< 0.001" if pair.p < 0.001 else f"{pair.p:.3f}",
            _is_claimed(pair),
        )
        for pair in pairs
    )
    head = ("pair", "difference of the means", "p, corrected", "told apart")
    return Table(Data("comparisons", _DIFFERENCE, tuple(map(_pair_row, pairs))), "Every pair of variants", head, texts)


def _pairs(name: str, title: str, analysis: Analysis, quantities: Mapping[str, tuple[str, Write]]) -> Table:
    """A row for each pair of variants, and two columns for each quantity of `Analysis.paces`: difference and whether it is claimed.

    Args:
        quantities: Head and writer of each quantity.
    """
    found = {quantity: analysis.paces[quantity] for quantity in quantities if quantity in analysis.paces}
    cells: dict[tuple[str, Any], str] = {}
    for quantity, pairs in found.items():
        for pair in pairs:
            row = _pair_name(pair)
            cells[row, (quantity, "difference")] = numbers.estimate(pair.difference, quantities[quantity][1])
            cells[row, (quantity, "claimed")] = _is_claimed(pair)
    columns = {
        (quantity, part): text
        for quantity in found
        for part, text in (("difference", quantities[quantity][0]), ("claimed", "told apart"))
    }
    rows = tuple((quantity, *_pair_row(pair)) for quantity, pairs in found.items() for pair in pairs)
    shown = pivot("pair", dict.fromkeys(row for row, _ in cells), columns, cells, missing="-")
    return Table(Data(name, ("quantity", *_DIFFERENCE), rows), title, *shown)


def _pair_row(pair: Comparison) -> tuple[Any, ...]:
    return (pair.first, pair.second, *pair.difference, float(pair.p), pair.claimed)


def _pair_name(pair: Comparison) -> str:
    return f"{pair.first} minus {pair.second}"


def _is_claimed(pair: Comparison) -> str:
    return "yes" if pair.claimed else "no test" if pair.difference.low is None else "no"


def _listing(data: Data, title: str, analysis: Analysis, columns: Mapping[str, Callable[[Efficiency], str]]) -> Table:
    """A row for each variant, and `columns` of its efficiency."""
    rows = tuple((variant, *(write(one) for write in columns.values())) for variant, one in analysis.efficiency.items())
    return Table(data, title, ("variant", *columns), rows)


def _each_run(results: Results, analysis: Analysis) -> list[tuple[Run, float, float]]:
    """Every run with its frames and seconds to the threshold."""
    return [
        (run, float(frames), float(seconds))
        for variant, one in analysis.efficiency.items()
        for run, frames, seconds in zip(results.of(variant), one.frames_to, one.seconds_to, strict=True)
    ]


def _sample_efficiency(results: Results, analysis: Analysis, write: Write) -> list[Table]:
    threshold, name = write(analysis.threshold), "sample_efficiency"
    header = ("variant", "runs", "reached", "threshold", "frames_to_median", "area", "area_low", "area_high")
    rows = tuple(
        (variant, len(one.frames_to), one.reached, float(analysis.threshold), float(one.frames_to_median), *one.area)
        for variant, one in analysis.efficiency.items()
    )
    runs = tuple((run.variant, run.name, run.seed, frames) for run, frames, _ in _each_run(results, analysis))
    columns: dict[str, Callable[[Efficiency], str]] = {
        f"frames to {threshold}, median": lambda one: numbers.until(numbers.count)(one.frames_to_median),
        "runs that came there": lambda one: f"{one.reached} of {len(one.frames_to)}",
        "mean during training": lambda one: numbers.estimate(one.area, write),
    }
    quantities = {"frames_to": (f"frames to {threshold}", numbers.count), "area": ("mean during training", write)}
    return [
        _listing(Data(name, header, rows), "Sample efficiency", analysis, columns),
        Table(Data(f"{name}_runs", ("variant", "run", "seed", "frames_to"), runs)),
        _pairs(f"{name}_pairs", "Sample efficiency, every pair of variants", analysis, quantities),
    ]


def _wall_clock(results: Results, analysis: Analysis, write: Write) -> list[Table]:
    speed = "frames_per_second"
    header = ("variant", "threshold", "seconds_to_median", speed, f"{speed}_low", f"{speed}_high")
    rows = tuple(
        (variant, float(analysis.threshold), float(one.seconds_to_median), *one.frames_per_second)
        for variant, one in analysis.efficiency.items()
    )
    runs = tuple(
        (run.variant, run.name, run.seed, float(run.seconds), seconds, float(run.frames_per_second))
        for run, _, seconds in _each_run(results, analysis)
    )
    columns: dict[str, Callable[[Efficiency], str]] = {
        "time to the threshold, median": lambda one: numbers.until(numbers.duration)(one.seconds_to_median),
        "frames per second": lambda one: numbers.estimate(one.frames_per_second, numbers.count),
    }
    quantities = {
        "seconds_to": (f"time to {write(analysis.threshold)}", numbers.duration),
        speed: ("frames per second", numbers.count),
    }
    return [
        _listing(Data("wall_clock", header, rows), "Wall-clock efficiency", analysis, columns),
        Table(Data("wall_clock_runs", ("variant", "run", "seed", "seconds", "seconds_to", speed), runs)),
        _pairs("wall_clock_pairs", "Wall-clock efficiency, every pair of variants", analysis, quantities),
    ]
