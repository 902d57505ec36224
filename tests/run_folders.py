"""Run folders as train.py and evaluate.py write them, without training."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

from agents.run.layout import AGENT, CONFIG, PROVENANCE, RESULT
from conf.loading import compose_train, save_train
from conf.schema import TrainConfig

TASKS = ("map-0", "map-1")
SMALL = ("env=conditional", f"env.tasks=[{','.join(TASKS)}]", "runtime=serial", "total_frames=1000")


def write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content), encoding="utf-8")


@functools.cache
def composed(*overrides: str) -> TrainConfig:
    """The configuration of such a run, cached because Hydra is slow."""
    return compose_train([*SMALL, *overrides])


def write_run(
    folder: Path,
    *overrides: str,
    returns: float = 0.5,
    unseen: float | None = None,
    episodes: int = 10,
    tasks: tuple[str, ...] = TASKS,
) -> Path:
    """A finished, evaluated run of suite `conditional`: every task has the same return, all of it lost under probe swap. `unseen` is the
    return of the first task on contexts that training left out.
    """
    config = composed(*overrides)
    folder.mkdir(parents=True, exist_ok=True)
    save_train(config, folder / CONFIG)
    counters = {"updates": 7, "frames": 1024, "seconds": 2.0, "frames_per_second": 500.0, "parameters": 99}
    write_json(folder / RESULT, {"finished": True, **counters})
    write_json(folder / AGENT, {"parameters": 99, "multiply_adds": {"apply": 11, "condition": 5}})
    write_json(folder / PROVENANCE, {"git": {"commit": "abc", "dirty": False}, "versions": {}, "machine": {}})

    def section(value: float) -> dict[str, Any]:
        return {task: {"episodes": episodes, "mean": value, "success": value / 2} for task in tasks}

    evaluation: dict[str, Any] = {
        "tasks": section(returns),
        "probes": {"swap": {"tasks": section(0.0)}},
        "provenance": {"updates": 7, "seed": 0, "greedy": False},
    }
    if unseen is not None:
        rows = {task: row for task, row in section(unseen).items() if task == tasks[0]}
        evaluation["unseen"] = {"tasks": rows, "contexts": ["0+1"], "without": list(tasks[1:])}
        evaluation["provenance"]["contexts"] = "both"
    write_json(folder / "evaluation.json", evaluation)
    lines = []
    for updates in (1, 4, 7):
        row: dict[str, float] = {"updates": updates, "frames": 128 * updates, "seconds": updates / 4}
        # The first task finishes its first episode after the first log step.
        row |= {f"tasks/{task}/return": returns * updates / 7 for task in (tasks if updates > 1 else tasks[1:])}
        row |= {f"tasks/{task}/success": returns * updates / 14 for task in (tasks if updates > 1 else tasks[1:])}
        lines.append(json.dumps(row))
    (folder / "metrics.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


def change(path: Path, **values: Any) -> None:
    """Overwrites keys of a JSON file."""
    write_json(path, json.loads(path.read_text(encoding="utf-8")) | values)
