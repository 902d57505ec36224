"""The content of evaluation.json as tables and sentences for the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from agents.cli.tables import Columns, FittedTable, task_table
from system.words import count

_RESULTS: Columns = (
    ("episodes", "episodes", ",d"),
    ("return", "mean", ".3f"),
    ("95% interval", "interval", ".3f"),
    ("success", "success", ".1%"),
    ("95% interval", "success_interval", ".1%"),
    ("length", "length", ".1f"),
)
_SCORES: Columns = (("score", "score", ".1f"), ("95% interval", "interval", ".1f"))
_PROBE: Columns = (
    ("return", "mean", ".3f"),
    ("drop", "return_drop", ".3f"),
    ("95% interval", "return_drop_interval", ".3f"),
    ("success", "success", ".1%"),
    ("drop", "success_drop", ".1%"),
    ("95% interval", "success_drop_interval", ".1%"),
)
_NOISE: Columns = (("SNR in dB", "snr", ".1f"), *_RESULTS[1:-1])
_UNSEEN: Columns = (*_RESULTS[:-1], ("drop", "success_drop", ".1%"), ("95% interval", "success_drop_interval", ".1%"))
_AGGREGATES = {"mean": "mean", "median": "median", "mean_capped": "mean, every task capped at 100 before"}


def result_tables(content: Mapping[str, Any]) -> list[FittedTable | str]:
    """Everything that evaluate.py prints about its result, in order."""
    return [
        task_table(_RESULTS, content["tasks"], _mean_row(content["aggregate"])),
        *unknown_intervals(content),
        *_unseen_tables(content),
        *score_tables(content),
        *_probe_tables(content),
        *_noise_tables(content),
    ]


def unknown_intervals(content: Mapping[str, Any]) -> list[str]:
    """A sentence about the tasks whose returns have no interval; empty if all have one."""
    alike = [task for task, row in content["tasks"].items() if row["interval"] is None and row["episodes"] > 1]
    reason = f"All episodes of {', '.join(alike)} have the same return, and what other returns there are is not known"
    return [f"{reason}: the mean has no interval."] if alike else []


def score_tables(content: Mapping[str, Any]) -> list[FittedTable]:
    """The normalised scores; empty if the suite has no reference scores."""
    section = content["scores"]
    if not section:
        return []
    totals = {label: section["aggregate"][name] for name, label in _AGGREGATES.items()}
    return [task_table(_SCORES, section["tasks"], totals, title="normalised scores")]


def _unseen_tables(content: Mapping[str, Any]) -> list[FittedTable | str]:
    section = content.get("unseen")
    if not section:
        return []
    title, without = "contexts that training left out", section["without"]
    table = (
        [task_table(_UNSEEN, section["tasks"], _mean_row(section["aggregate"]), title=title)]
        if section["tasks"]
        else []
    )
    missing = [f"No episode of {', '.join(without)} has one of the {title}."] if without else []
    return [*table, *missing]


def _probe_tables(content: Mapping[str, Any]) -> list[FittedTable | str]:
    sections = content.get("probes", {})
    everything = (*sections.values(), *content.get("noise", {}).values())
    notes = dict.fromkeys(section["note"] for section in everything if section["note"])
    tables = [
        task_table(_PROBE, section["tasks"], _mean_row(section["aggregate"]), title=f"probe={name}: {section['told']}")
        for name, section in sections.items()
    ]
    return [*tables, *notes]


def _noise_tables(content: Mapping[str, Any]) -> list[FittedTable]:
    """The means over tasks by the level of noise; empty without levels."""
    sections = content.get("noise", {})
    rows = {level: section["aggregate"] | {"snr": section["snr"]} for level, section in sections.items()}
    title = f"mean of {count(content['aggregate']['tasks'], 'task')} by the noise on the encoded context"
    return [task_table(_NOISE, rows, {}, title=title, heading="noise")] if rows else []


def _mean_row(aggregate: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    return {f"mean of {count(aggregate['tasks'], 'task')}": aggregate}
