"""The numbers behind every figure and table, as long tables for CSV and as one plain object for JSON.

What depends on how fast a machine was stands in tables of its own (`wall_clock*`) and under the key `timing`, so that two reports can be
compared but for that.
"""

from __future__ import annotations

import csv
import dataclasses
import io
import math
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from ablation.analysis.comparability import Configs, told
from ablation.analysis.results import Analysis, Comparison, Estimate, Results
from agents.cli.terminal import printable

MEAN_OVER_TASKS = "mean over tasks"
"""What a table calls the task "" of `Analysis.curves`."""


class Data(NamedTuple):
    """One CSV file: `name` without its ending; every row as long as the header."""

    name: str
    header: tuple[str, ...]
    rows: tuple[tuple[Any, ...], ...]

    @property
    def csv(self) -> str:
        """Numbers in full; nothing where there is none, `inf` for never."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(self.header)
        writer.writerows([[_cell(value) for value in row] for row in self.rows])
        return text.getvalue()


def _cell(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    return repr(float(value)) if isinstance(value, float) else printable(str(value))


_INTERVAL = ("low", "high")
_PAIR = ("first", "second", "difference", *_INTERVAL, "p", "claimed")
"""In the order in which the variants were asked for; the difference is first minus second."""
_OF_PAIRS = ("improvement", "comparisons", "config_differences", "sample_efficiency_pairs", "wall_clock_pairs")
"""What a report on one variant goes without."""
_OF_TIME = ("seconds_to", "frames_per_second")
"""Those of `ablation.analysis.efficiency.PACES` that depend on how fast a machine was."""


def every(results: Results, analysis: Analysis, configs: Configs) -> dict[str, Data]:
    """All data by name, in the order of the report."""
    tables = (
        _runs(results),
        Data("problems", ("run", "reason"), tuple(map(tuple, results.problems))),
        Data(
            "config_differences",
            ("key", "variant", "value"),
            tuple((key, *entry) for key, values in configs.different.items() for entry in values.items()),
        ),
        Data("config_shared", ("key", "value"), tuple(configs.shared.items())),
        Data(
            "learning_curves",
            ("variant", "task", "frames", "value", *_INTERVAL),
            tuple(
                (variant, task or MEAN_OVER_TASKS, float(frames), *point)
                for variant, tasks in analysis.curves.items()
                for task, band in tasks.items()
                for frames, *point in zip(analysis.frames, *map(np.ndarray.tolist, band), strict=True)
            ),
        ),
        Data("aggregates", ("variant", "aggregate", "value", *_INTERVAL), _estimates(analysis.aggregates)),
        Data(
            "profiles",
            ("variant", "value", "share", *_INTERVAL),
            tuple(
                (variant, *point)
                for variant, band in analysis.profiles.items()
                for point in zip(*map(np.ndarray.tolist, (analysis.profile_values, *band)), strict=True)
            ),
        ),
        Data("improvement", ("variant", "over", "probability", *_INTERVAL), _estimates(analysis.improvement)),
        Data("tasks", ("variant", "task", "mean", *_INTERVAL), _estimates(analysis.tasks)),
        Data(
            "values",
            ("variant", "run", "seed", "task", "value"),
            tuple(
                (run.variant, run.name, run.seed, task, float(run.values[task]))
                for run in results.runs
                for task in results.tasks
            ),
        ),
        Data(
            "comparisons",
            _PAIR,
            tuple(map(_pair, analysis.verdict.comparisons)),
        ),
        *_efficiency(results, analysis),
    )
    if any(analysis.probes.values()):
        tables += (Data("probes", ("variant", "probe", "loss", *_INTERVAL), _estimates(analysis.probes)),)
    if len(results.variants) == 1:
        tables = tuple(table for table in tables if table.name not in _OF_PAIRS)
        if configs.within:
            tables += (_varying(results, configs),)
    return {table.name: table for table in tables}


def _pair(pair: Comparison) -> tuple[Any, ...]:
    return (pair.first, pair.second, *pair.difference, float(pair.p), pair.claimed)


def _varying(results: Results, configs: Configs) -> Data:
    rows = ((run.name, key, told(run.config.get(key, ""))) for run in results.runs for key in configs.within)
    return Data("config_varying", ("run", "key", "value"), tuple(rows))


def _paces(name: str, analysis: Analysis, paces: tuple[str, ...]) -> Data:
    rows = tuple((pace, *_pair(pair)) for pace in paces for pair in analysis.paces.get(pace, ()))
    return Data(name, ("quantity", *_PAIR), rows)


def _estimates(table: Mapping[str, Mapping[str, Estimate]]) -> tuple[tuple[Any, ...], ...]:
    return tuple((outer, inner, *estimate) for outer, row in table.items() for inner, estimate in row.items())


def _runs(results: Results) -> Data:
    rows = tuple(
        (
            *(run.variant, run.name, run.seed, run.parameters, run.multiply_adds, run.frames, run.episodes),
            *(run.provenance.get("git", {}).get(key) for key in ("commit", "dirty")),
        )
        for run in results.runs
    )
    header = ("variant", "run", "seed", "parameters", "multiply_adds", "frames", "episodes", "commit", "dirty")
    return Data("runs", header, rows)


def _efficiency(results: Results, analysis: Analysis) -> Iterator[Data]:
    found = analysis.efficiency
    per_run = [
        (run, float(frames), float(seconds))
        for variant, efficiency in found.items()
        for run, frames, seconds in zip(results.of(variant), efficiency.frames_to, efficiency.seconds_to, strict=True)
    ]
    yield Data(
        "sample_efficiency",
        ("variant", "runs", "reached", "threshold", "frames_to_median", "area", "area_low", "area_high"),
        tuple(
            (
                *(variant, len(one.frames_to), one.reached, float(analysis.threshold), float(one.frames_to_median)),
                *one.area,
            )
            for variant, one in found.items()
        ),
    )
    yield Data(
        "sample_efficiency_runs",
        ("variant", "run", "seed", "frames_to"),
        tuple((run.variant, run.name, run.seed, frames) for run, frames, _ in per_run),
    )
    yield _paces("sample_efficiency_pairs", analysis, ("frames_to", "area"))
    speed = ("frames_per_second", "frames_per_second_low", "frames_per_second_high")
    yield Data(
        "wall_clock",
        ("variant", "threshold", "seconds_to_median", *speed),
        tuple(
            (variant, float(analysis.threshold), float(one.seconds_to_median), *one.frames_per_second)
            for variant, one in found.items()
        ),
    )
    yield Data(
        "wall_clock_runs",
        ("variant", "run", "seed", "seconds", "seconds_to", "frames_per_second"),
        tuple(
            (run.variant, run.name, run.seed, float(run.seconds), seconds, float(run.frames_per_second))
            for run, _, seconds in per_run
        ),
    )
    yield _paces("wall_clock_pairs", analysis, _OF_TIME)


def whole(results: Results, analysis: Analysis, configs: Configs, cautions: tuple[str, ...]) -> dict[str, Any]:
    """Everything as plain data: what is infinite or not a number is None."""
    found: dict[str, Any] = plain(analysis)
    timed = ("seconds_to", "seconds_to_median", "frames_per_second")
    return {
        "suite": results.suite,
        "measure": plain(results.measure),
        "tasks": list(results.tasks),
        "variants": list(results.variants),
        "command": results.command,
        "problems": plain(results.problems),
        "cautions": list(cautions),
        "config": plain(configs),
        "runs": [
            {
                "name": run.name,
                "variant": run.variant,
                "seed": run.seed,
                "values": plain(run.values),
                "probed": plain(run.probed),
                "episodes": run.episodes,
                "parameters": run.parameters,
                "multiply_adds": run.multiply_adds,
                "frames": run.frames,
                "provenance": plain(run.provenance),
            }
            for run in results.runs
        ],
        **{key: value for key, value in found.items() if key not in ("efficiency", "paces", "verdict")},
        "comparisons": found["verdict"]["comparisons"],
        "efficiency": {
            variant: {key: value for key, value in efficiency.items() if key not in timed}
            for variant, efficiency in found["efficiency"].items()
        },
        "paces": {name: pairs for name, pairs in found["paces"].items() if name not in _OF_TIME},
        "timing": {
            # One of them tells the speed.
            "verdict": found["verdict"]["sentences"],
            "runs": [
                {"name": run.name, "seconds": plain(run.seconds), "frames_per_second": plain(run.frames_per_second)}
                for run in results.runs
            ],
            "efficiency": {
                variant: {key: efficiency[key] for key in timed} for variant, efficiency in found["efficiency"].items()
            },
            "paces": {name: pairs for name, pairs in found["paces"].items() if name in _OF_TIME},
        },
    }


def plain(value: Any) -> Any:
    """Of what JSON can say: structures become dictionaries, arrays lists, infinite and undefined numbers None."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {entry.name: plain(getattr(value, entry.name)) for entry in dataclasses.fields(value)}
    if hasattr(value, "_asdict"):
        return plain(value._asdict())
    if isinstance(value, Mapping):
        return {str(key): plain(entry) for key, entry in value.items()}
    if isinstance(value, np.ndarray | np.generic):
        return plain(value.tolist())
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(entry) for entry in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, bool | int | str) else str(value)
