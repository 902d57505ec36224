"""The tables of the report: each has its numbers for a CSV file and, where a page shows it, the same numbers as text.

Tables that depend on the speed of the machine are separate (`wall_clock*`), so that the others of two reports can be compared.
"""

from __future__ import annotations

import csv
import io
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from ablation.analysis import numbers
from ablation.analysis.comparability import Configs, format_value
from ablation.analysis.numbers import Write
from ablation.analysis.results import Analysis, Array, Comparison, Curves, Estimate, Results, Scaling, split_width
from agents.cli.terminal import printable
from system.words import count

Row: TypeAlias = Sequence[Any]

MEAN_OVER_TASKS = "mean over tasks"
"""Name in tables of the task "" of `Analysis.curves`."""

_INTERVAL = ("low", "high")
_DIFFERENCE = ("first", "second", "difference", *_INTERVAL, "p", "claimed")
"""Columns of a comparison; the difference is first minus second, in the order in which the variants were given."""
_COMPARING = (
    "improvement",
    "comparisons",
    "unseen_comparisons",
    "config_differences",
    "sample_efficiency_pairs",
    "wall_clock_pairs",
)
"""Tables that a report on one variant leaves out."""
_AGGREGATES = {"iqm": "IQM", "median": "median", "mean": "mean", "optimality_gap": "optimality gap"}


class Data(NamedTuple):
    """A CSV file; `name` without the suffix, every row as long as the header."""

    name: str
    header: Row
    rows: Sequence[Row]

    @property
    def csv(self) -> str:
        """The file's text: numbers with all digits, `inf` for never, an empty cell for a missing value."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(self.header)
        writer.writerows([[_csv_text(value) for value in row] for row in self.rows])
        return text.getvalue()


def _csv_text(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    return repr(float(value)) if isinstance(value, float) else printable(str(value))


class Table(NamedTuple):
    """A table: `data` has its numbers, `head` and `rows` the text of the columns' names and of the cells. Without a title only the CSV
    file is written. The first cell of a row is the row's name; `numeric`: all others are numbers.
    """

    data: Data
    title: str = ""
    head: Row = ()
    rows: Sequence[Row] = ()
    numeric: bool = True

    @property
    def is_shown(self) -> bool:
        """Whether the page has it: it has a title, a row, and a column beside the rows' names."""
        return bool(self.title and self.rows and len(self.head) > 1)


def pivot(
    corner: str,
    rows: Iterable[str],
    columns: Iterable[Any],
    cells: Iterable[tuple[str, Any, str]],
    names: Mapping[Any, str] | None = None,
    missing: str = "",
) -> tuple[Row, list[Row]]:
    """Head and rows of a table of `cells`, each with its row and column; `names` are those of the columns in the head."""
    texts = {(row, column): text for row, column, text in cells}
    head = (corner, *((names or {}).get(column, column) for column in columns))
    return head, [(row, *(texts.get((row, column), missing) for column in columns)) for row in rows]


def make_tables(results: Results, analysis: Analysis, configs: Configs) -> dict[str, Table]:
    """All tables by name, in the order of the report."""
    variants, write = results.variants, numbers.of_measure(results.measure)
    aggregates = [key for key in _AGGREGATES if key in analysis.aggregates[variants[0]]]
    probes = dict.fromkeys(probe for row in analysis.probes.values() for probe in row)
    shared = f"Configuration: the {count(len(configs.shared), 'key')} that all runs share"
    beats = "Probability that the row beats the column"
    profiles = [
        (variant, *point)
        for variant, band in analysis.profiles.items()
        for point in zip(*map(np.ndarray.tolist, (analysis.profile_values, *band)), strict=True)
    ]
    values = [
        (run.variant, run.name, run.seed, task, float(run.values[task]))
        for run in results.runs
        for task in results.tasks
    ]
    tables = [
        _runs(results),
        _texts("problems", "Problems", ("run", "reason"), results.problems),
        _differences(variants, configs),
        _texts("config_shared", shared, ("key", "value"), configs.shared.items()),
        Table(curve_data(analysis.frames, analysis.curves)),
        _estimates(
            "aggregates",
            "Aggregates over runs and tasks",
            "aggregate",
            analysis.aggregates,
            write,
            aggregates,
            names=_AGGREGATES,
        ),
        Table(Data("profiles", ("variant", "value", "share", *_INTERVAL), profiles)),
        _estimates(
            "improvement", beats, "over", analysis.improvement, numbers.probability, variants, value="probability"
        ),
        _estimates(
            "tasks", "Evaluation by task", "task", analysis.tasks, write, results.tasks, value="mean", turned=True
        ),
        Table(Data("values", ("variant", "run", "seed", "task", "value"), values)),
        *([_scaling(analysis.scaling, write)] if analysis.scaling else []),
        _comparisons("comparisons", "Every pair of variants", analysis.comparisons, analysis, write),
        *_efficiency(results, analysis, write),
    ]
    if analysis.unseen:
        title, keys = "Seen and unseen contexts", ("seen", "unseen", "drop")
        tables.append(_estimates("unseen", title, "contexts", analysis.unseen, write, keys))
        title = "Every pair of variants on unseen contexts"
        tables.append(_comparisons("unseen_comparisons", title, analysis.unseen_comparisons, analysis, write))
    if probes:
        tables.append(
            _estimates("probes", "What each probe takes", "probe", analysis.probes, write, probes, value="loss")
        )
    if len(variants) == 1:
        tables = [table for table in tables if table.data.name not in _COMPARING]
        if configs.within:
            tables.append(_varying(results, configs))
    return {table.data.name: table for table in tables} | {"where": _where(results)}


def curve_data(frames: Array, curves: Curves) -> Data:
    """The learning curves, one row for each variant, task and number of frames."""
    rows = [
        (variant, task or MEAN_OVER_TASKS, float(at), *point)
        for variant, tasks in curves.items()
        for task, band in tasks.items()
        for at, *point in zip(frames, *map(np.ndarray.tolist, band), strict=True)
    ]
    return Data("learning_curves", ("variant", "task", "frames", "value", *_INTERVAL), rows)


def _texts(name: str, title: str, header: Row, rows: Iterable[Row]) -> Table:
    """A table of text, the same in CSV and on the page."""
    texts = list(rows)
    return Table(Data(name, header, texts), title, header, texts, numeric=False)


def _estimates(
    name: str,
    title: str,
    kind: str,
    found: Mapping[str, Mapping[str, Estimate]],
    write: Write,
    keys: Iterable[str],
    *,
    names: Mapping[str, str] | None = None,
    value: str = "value",
    turned: bool = False,
) -> Table:
    """Estimates by variant and a second key: a row for each variant, or a column if `turned`.

    `kind` and `value` are the column names of the second key and of the estimates; `names` are those of `keys` in the head of the table.
    """
    data = [(variant, key, *estimate) for variant, row in found.items() for key, estimate in row.items()]
    texts = [(*row[:2], numbers.estimate(Estimate(*row[2:]), write)) for row in data]
    if turned:
        shown = pivot(kind, keys, found, [(key, variant, text) for variant, key, text in texts])
    else:
        shown = pivot("variant", found, keys, texts, names)
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
    rows = [(key, variant, value) for key, row in configs.different.items() for variant, value in row.items()]
    if len(configs.different) > len(variants):
        shown = pivot("key", configs.different, variants, rows)
    else:
        shown = pivot("variant", variants, configs.different, [(variant, key, value) for key, variant, value in rows])
    title = "Configuration: what differs between the variants"
    return Table(Data("config_differences", ("key", "variant", "value"), rows), title, *shown, numeric=False)


def _varying(results: Results, configs: Configs) -> Table:
    rows = [(run.name, key, format_value(run.config.get(key, ""))) for run in results.runs for key in configs.within]
    shown = pivot("run", [run.name for run in results.runs], configs.within, rows)
    title = "Configuration: what varies between the runs"
    return Table(Data("config_varying", ("run", "key", "value"), rows), title, *shown, numeric=False)


def _where(results: Results) -> Table:
    """Commit, machine and versions, with the number of runs for each of several values; the CSV file is that of the runs."""
    found: dict[str, Counter[str]] = {}
    for run in results.runs:
        git = run.provenance.get("git", {})
        code = {"commit": git.get("commit", "unknown"), "uncommitted changes": "yes" if git.get("dirty") else "no"}
        for section in (code, run.provenance.get("machine", {}), run.provenance.get("versions", {})):
            for key, value in section.items():
                found.setdefault(str(key), Counter())[format_value(value)] += 1
    rows = tuple(
        (
            key,
            ", ".join(f"{value} ({number} of {counts.total()} runs)" for value, number in counts.items())
            if len(counts) > 1
            else next(iter(counts)),
        )
        for key, counts in found.items()
    )
    return Table(_runs(results).data, "Code, machine and versions", ("", "of the runs"), rows, numeric=False)


def _comparisons(name: str, title: str, pairs: Sequence[Comparison], analysis: Analysis, write: Write) -> Table:
    texts = tuple(
        (
            pair.name,
            numbers.estimate(pair.difference, write),
            "< 0.001" if pair.p < 0.001 else f"{pair.p:.3f}",
            _is_claimed(pair),
        )
        for pair in pairs
    )
    head = ("pair", "difference of the means", "p, corrected", "told apart")
    data = Data(name, _DIFFERENCE, list(map(_pair_row, pairs)))
    if analysis.scaling:
        by_width = [
            (f"{form} minus {split_width(pair.second)[0]}", width, f"{difference}{' *' if pair.claimed else ''}")
            for pair, (_, difference, *_) in zip(pairs, texts, strict=True)
            for form, width in [split_width(pair.first)]
        ]
        names = {width: f"width {width:g}" for width in analysis.scaling.widths}
        shown = pivot("pair", dict.fromkeys(row for row, _, _ in by_width), names, by_width, names, missing="-")
        return Table(data, f"{title} of the same width, told apart where a * is", *shown)
    return Table(data, title, head, texts)


def _scaling(scaling: Scaling, write: Write) -> Table:
    """A row for each form at each width."""
    points = [(form, point) for form, row in scaling.points.items() for point in row]
    texts = [
        (form, f"{point.width:g}", *map(numbers.count, (point.parameters, point.multiply_adds)), mean)
        for form, point in points
        for mean in [numbers.estimate(point.mean, write)]
    ]
    header = ("variant", "width", "parameters", "multiply_adds", "mean", *_INTERVAL)
    head = ("variant", "width", "parameters", "multiply-adds of a step", "mean over tasks")
    return Table(
        Data("scaling", header, [(form, *point[:-1], *point.mean) for form, point in points]),
        "Curves over size",
        head,
        texts,
    )


def _pairs(name: str, title: str, analysis: Analysis, quantities: Mapping[str, tuple[str, Write]]) -> Table:
    """A row for each pair of variants, and two columns for each quantity of `Analysis.paces`: difference and whether it is claimed."""
    cells: list[tuple[str, Any, str]] = []
    columns: dict[Any, str] = {}
    rows: list[Row] = []
    for quantity, (head, write) in quantities.items():
        for pair in analysis.paces.get(quantity, ()):
            columns |= {(quantity, "difference"): head, (quantity, "claimed"): "told apart"}
            cells.append((pair.name, (quantity, "difference"), numbers.estimate(pair.difference, write)))
            cells.append((pair.name, (quantity, "claimed"), _is_claimed(pair)))
            rows.append((quantity, *_pair_row(pair)))
    shown = pivot("pair", dict.fromkeys(row for row, _, _ in cells), columns, cells, columns, missing="-")
    return Table(Data(name, ("quantity", *_DIFFERENCE), rows), title, *shown)


def _pair_row(pair: Comparison) -> Row:
    return (pair.first, pair.second, *pair.difference, float(pair.p), pair.claimed)


def _is_claimed(pair: Comparison) -> str:
    return "yes" if pair.claimed else "no test" if pair.difference.low is None else "no"


def _efficiency(results: Results, analysis: Analysis, write: Write) -> list[Table]:
    """Frames and time to the threshold: of each variant, of each run, and compared between the variants."""
    threshold, speed = float(analysis.threshold), "frames_per_second"
    frames_until, time_until = numbers.until(numbers.count), numbers.until(numbers.duration)
    samples, sample_texts, sample_runs, times, time_texts, time_runs = ([] for _ in range(6))
    for variant, one in analysis.efficiency.items():
        runs = len(one.frames_to)
        samples.append((variant, runs, one.reached, threshold, float(one.frames_to_median), *one.area))
        area = numbers.estimate(one.area, write)
        sample_texts.append((variant, frames_until(one.frames_to_median), f"{one.reached} of {runs}", area))
        times.append((variant, threshold, float(one.seconds_to_median), *one.frames_per_second))
        speeds = numbers.estimate(one.frames_per_second, numbers.count)
        time_texts.append((variant, time_until(one.seconds_to_median), speeds))
        for run, frames, seconds in zip(results.of(variant), one.frames_to, one.seconds_to, strict=True):
            name = (variant, run.name, run.seed)
            sample_runs.append((*name, float(frames)))
            time_runs.append((*name, float(run.seconds), float(seconds), float(run.frames_per_second)))
    sample_header = ("variant", "runs", "reached", "threshold", "frames_to_median", "area", "area_low", "area_high")
    sample_head = ("variant", f"frames to {write(threshold)}, median", "runs that came there", "mean during training")
    time_header = ("variant", "threshold", "seconds_to_median", speed, f"{speed}_low", f"{speed}_high")
    time_head = ("variant", "time to the threshold, median", "frames per second")
    by_frames = {"frames_to": (f"frames to {write(threshold)}", numbers.count), "area": ("mean during training", write)}
    by_time = {
        "seconds_to": (f"time to {write(threshold)}", numbers.duration),
        speed: ("frames per second", numbers.count),
    }
    return [
        Table(Data("sample_efficiency", sample_header, samples), "Sample efficiency", sample_head, sample_texts),
        Table(Data("sample_efficiency_runs", ("variant", "run", "seed", "frames_to"), sample_runs)),
        _pairs("sample_efficiency_pairs", "Sample efficiency, every pair of variants", analysis, by_frames),
        Table(Data("wall_clock", time_header, times), "Wall-clock efficiency", time_head, time_texts),
        Table(Data("wall_clock_runs", ("variant", "run", "seed", "seconds", "seconds_to", speed), time_runs)),
        _pairs("wall_clock_pairs", "Wall-clock efficiency, every pair of variants", analysis, by_time),
    ]
