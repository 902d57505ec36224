"""Evaluations in the trackers of their run, at the frames of the evaluated weights."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from agents.cli.terminal import warn
from agents.evaluation.episodes import SavedAgent
from agents.run.layout import holds_run
from agents.run.trackers.tags import MEAN
from agents.run.trackers.tracker import TrackedRun, Trackers
from agents.storage.exported import is_exported
from conf.loading import to_dict
from system.errors import InputError


def evaluation_values(content: Mapping[str, Any]) -> dict[str, float]:
    """The results in the content of evaluation.json as `evaluation/{return,success,score}/<task>`, and the same of `mean` over tasks.

    Those on contexts that training left out are `evaluation/unseen/{return,success}/<task>`.
    """
    values: dict[str, float] = {}
    for start, part in (("evaluation", content), ("evaluation/unseen", content.get("unseen", {}))):
        rows = {**part["tasks"], MEAN: part["aggregate"]} if part.get("tasks") else {}
        values |= {f"{start}/return/{name}": row["mean"] for name, row in rows.items()}
        values |= {
            f"{start}/success/{name}": row["success"] for name, row in rows.items() if row["success"] is not None
        }
    scores = content["scores"]
    for part in ("tasks", "aggregate") if scores else ():
        values |= {f"evaluation/score/{name}": row["score"] for name, row in scores[part].items()}
    return values


def track_evaluation(
    names: list[str], agent: SavedAgent, folder: Path, content: Mapping[str, Any], pictures: list[Path]
) -> Trackers:
    """Logs a result, and the figures of its probes, to the trackers `names` of the run in `folder`. Returns them for its videos.

    The checkpoint of no run has no trackers, nor has an exported agent.
    A tracker that cannot start costs the result nothing: it is reported.
    """
    run = TrackedRun(folder, to_dict(agent.config), None)
    try:
        is_of_run = holds_run(folder) and not is_exported(agent.path)
        trackers = Trackers(names if is_of_run else (), run, warn)
    except InputError as error:
        warn(f"warning: {error}")
        return Trackers((), run, warn)
    trackers.log(agent.frames, evaluation_values(content))
    for path in pictures:
        trackers.picture(agent.frames, f"evaluation/{path.stem}", path)
    return trackers
