"""The results of a search: result.json and a table of its trials."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ablation.analysis.numbers import three_digits, write_distinct
from ablation.search.search import Search
from agents.cli.tables import FittedTable, Row
from system.files import write_json

RESULT = "result.json"


def summary(search: Search) -> dict[str, Any]:
    """The content of result.json. `best` is the finished trial with the highest value, None without one. There is one run of each trial
    and no interval, so `best` names the one to repeat with other seeds and ranks nothing.
    """
    trials = {
        search.name_of(trial.number): {
            "state": trial.state.name.lower(),
            "value": trial.value,
            "measure": trial.user_attrs.get("measure", ""),
            "frames": trial.last_step or 0,
            "parameters": dict(trial.params),
        }
        for trial in search.study.trials
    }
    finished = [name for name, trial in trials.items() if trial["state"] == "complete"]
    best = max(finished, key=lambda name: float(trials[name]["value"]), default=None)
    measure = next((trial["measure"] for trial in trials.values() if trial["measure"]), None)
    return {"best": best, "measure": measure, "trials": trials}


def write_summary(folder: Path, content: dict[str, Any]) -> Path:
    """Writes result.json; returns its path."""
    write_json(folder / RESULT, content)
    return folder / RESULT


def table(content: dict[str, Any]) -> FittedTable:
    """The trials in the order of their names, not ranked."""
    trials: dict[str, Any] = content["trials"]
    keys = list(dict.fromkeys(key for trial in trials.values() for key in trial["parameters"]))
    values = write_distinct([trial["value"] for trial in trials.values()], three_digits)
    rows = []
    for (name, trial), value in zip(trials.items(), values, strict=True):
        parameters = (trial["parameters"].get(key, "") for key in keys)
        shown = [f"{number:.4g}" if isinstance(number, float) else str(number) for number in parameters]
        pruned = "pruned" if trial["state"] == "pruned" else ""
        rows.append(Row(name, [value, pruned, f"{trial['frames']:,}", *shown]))
    headings = [content["measure"] or "value", "", "frames", *(key.removeprefix("learner.") for key in keys)]
    return FittedTable(["trial", *headings], rows)
