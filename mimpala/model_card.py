"""The model card of an exported agent: README.md with the hub's metadata, tasks, scores with intervals, commands and videos."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any

import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined

from ablation.report.report import escape_markdown
from agents.cli.terminal import printable
from agents.evaluation.episodes import SavedAgent
from agents.run.layout import PROVENANCE
from system.files import read_json
from system.plain_data import COUNT, FINITE, PlainDataError, Test, check_form, plain_copy
from system.words import count

CARD = "README.md"


def _is_interval(value: Any) -> bool:
    return value is None or (isinstance(value, list) and len(value) == 2 and all(map(FINITE.passes, value)))


_INTERVAL = Test("an interval", _is_interval)
_SUCCESS = Test("a share, or null", lambda value: value is None or FINITE.passes(value))
_MEANS = {"mean": FINITE, "interval": _INTERVAL, "success": _SUCCESS, "success_interval": _INTERVAL}
_EVALUATION_FORM = {
    "tasks": {str: {"episodes": COUNT, **_MEANS}},
    "aggregate": _MEANS,
    "provenance": {"sha256": str, "episodes": COUNT, "seed": COUNT, "greedy": bool},
}

Evaluation = dict[str, Any]
"""The content of an evaluation.json."""


def find_evaluation(folder: Path, sha256: str, warn: Callable[[str], object]) -> Evaluation | None:
    """The evaluation in `folder` of the checkpoint with this checksum, the one with most episodes; None if there is none."""
    found = []
    for path in sorted(folder.glob("evaluation*.json")):
        try:
            content = plain_copy(read_json(path) or {}, most=20_000_000)
            if content.get("provenance", {}).get("sha256") != sha256 or "stopped" in content:
                continue
            check_form(content, _EVALUATION_FORM)
        except (PlainDataError, AttributeError):
            warn(f"{path} is left out, because it is damaged or another program wrote it")
        else:
            found.append(content)
    return max(found, key=lambda content: int(content["provenance"]["episodes"]), default=None)


def model_card(
    agent: SavedAgent, parameters: int, evaluation: Evaluation | None, videos: Sequence[str], folder: Path
) -> str:
    """The text of the card. `videos` are paths relative to it, `folder` is that of the run."""
    environment = Environment(
        loader=PackageLoader("mimpala"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"md": escape_markdown, "interval": _show_interval}
    return environment.get_template("model_card.md.j2").render(
        count=count,
        metadata=yaml.safe_dump(_metadata(agent, evaluation), sort_keys=False),
        agent=agent,
        parameters=parameters,
        evaluation=evaluation,
        videos=videos,
        command=_command(folder),
    )


def _metadata(agent: SavedAgent, evaluation: Evaluation | None) -> dict[str, Any]:
    """The card's metadata as the hub reads it; results in the form of its `model-index`."""
    tags = ["reinforcement-learning", "deep-reinforcement-learning", "multitask", "IMPALA", agent.env.suite]
    metadata = {"library_name": "mimpala", "pipeline_tag": "reinforcement-learning", "tags": tags}
    if not evaluation:
        return metadata
    results = [
        {
            "task": {"type": "reinforcement-learning", "name": "reinforcement-learning"},
            "dataset": {"name": task, "type": task},
            "metrics": _metrics(row),
        }
        for task, row in evaluation["tasks"].items()
    ]
    name = f"{agent.config.fusion.name}-{agent.env.suite}"
    return {**metadata, "model-index": [{"name": name, "results": results}]}


def _metrics(row: Mapping[str, Any]) -> list[dict[str, Any]]:
    values = {"mean_reward": (row["mean"], row["interval"]), "success": (row["success"], row["success_interval"])}
    return [
        {"type": name, "name": name, "value": f"{value:.3f} {_show_interval(ends)}".strip(), "verified": False}
        for name, (value, ends) in values.items()
        if value is not None
    ]


def _show_interval(ends: Sequence[float] | None) -> str:
    return f"[{ends[0]:.3f}, {ends[1]:.3f}]" if ends else ""


def _command(folder: Path) -> str:
    """The command of the training in one line; empty if it is unknown."""
    words = (read_json(folder / PROVENANCE) or {}).get("command")
    if not isinstance(words, list) or not words or not all(isinstance(word, str) for word in words):
        return ""
    program, *arguments = words
    named = ["python", PurePath(program).name] if program.endswith(".py") else [program]
    return printable(" ".join([*named, *map(shlex.quote, arguments)])).replace("\n", " ").replace("\t", " ")
