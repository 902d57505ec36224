"""The results of a population: result.json, a table, a figure of the hyperparameters, and a line about each comparison."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ablation.analysis.numbers import three_digits, write_distinct
from ablation.population.history import History
from agents.cli.tables import FittedTable, Row
from system.files import write_json, write_whole
from system.words import count

if TYPE_CHECKING:
    from matplotlib.axes import Axes

RESULT, FIGURE = "result.json", "hyperparameters.png"


def describe_comparison(rows: Sequence[Mapping[str, Any]], names: Sequence[str]) -> list[str]:
    """A line for each failed member, and one about the comparison; `rows` are the history's rows of one generation."""
    lines = []
    for name, row in zip(names, rows, strict=True):
        if row["failed"]:
            source = "as a copy of another member" if row["copied"] else "from its last checkpoint"
            lines.append(f"{name} failed: {row['failed']}: it continues {source}")
    at = count(rows[0]["frames"], "frame")
    known = [row for row in rows if row["fitness"] is not None]
    if not known:
        most = max(row["episodes"] for row in rows)
        why = f"because no member has finished enough episodes (at most {most} each)"
        return [*lines, f"{at}: no comparison, {why}"]
    ends = [end(row["fitness"] for row in known) for end in (min, max)]
    span = " to ".join(dict.fromkeys(write_distinct(ends, three_digits)))
    part = "" if len(known) == len(rows) else f" ({len(known)} of {len(rows)} members)"
    copied = sum(row["copied"] for row in rows)
    return [
        *lines,
        f"{at}: {known[0]['measure']} {span}{part}, {copied} of {len(rows)} members copied another member",
    ]


def summary(history: History, names: Sequence[str]) -> dict[str, Any]:
    """The content of result.json: fitness, hyperparameters and copies of each member.

    `best` is the member with the highest fitness, None before the first comparison. There is one run of each member and no interval,
    so `best` names the one to evaluate and ranks nothing.
    """
    members: dict[str, Any] = {}
    for index, name in enumerate(names):
        rows = history.of(index)
        members[name] = {
            "fitness": rows[-1]["fitness"],
            "hyperparameters": rows[-1]["hyperparameters"],
            "copies": sum(row["copied"] for row in rows),
            "copied_last": next((names[row["compared_with"]] for row in reversed(rows) if row["copied"]), None),
        }
    known = [name for name in names if members[name]["fitness"] is not None]
    best = max(known, key=lambda name: members[name]["fitness"], default=None)
    measure = next((row["measure"] for row in reversed(history.rows) if row["measure"]), None)
    return {"frames": history.rows[-1]["frames"], "measure": measure, "best": best, "members": members}


def write_summary(folder: Path, content: dict[str, Any], history: History) -> list[Path]:
    """Writes result.json and the figure; returns their paths."""
    write_json(folder / RESULT, content)
    write_whole(folder / FIGURE, figure(history, content))
    return [folder / RESULT, folder / FIGURE]


def table(content: dict[str, Any]) -> FittedTable:
    """The members in the order of their names, not ranked: there is one run of each, and no interval."""
    members: dict[str, Any] = content["members"]
    hyperparameters = list(next(iter(members.values()))["hyperparameters"])
    values = [[member["fitness"], *member["hyperparameters"].values()] for member in members.values()]
    columns = [write_distinct(column, three_digits) for column in zip(*values, strict=True)]
    rows = [
        Row(name, [*texts, str(member["copies"]), member["copied_last"] or ""])
        for (name, member), texts in zip(members.items(), zip(*columns, strict=True), strict=True)
    ]
    return FittedTable(["member", content["measure"] or "fitness", *hyperparameters, "copies", "last of"], rows)


def figure(history: History, content: dict[str, Any]) -> bytes:
    """A PNG of each hyperparameter and the fitness of every member over frames, coloured by final fitness."""
    # Imported here, because matplotlib takes a second.
    from ablation.report.drawing import Panel, draw

    names = next(iter(content["members"].values()))["hyperparameters"]
    panels = [Panel(label=name, size=(3.6, 3.0), draw=partial(_draw, history, content, name)) for name in names]
    label = content["measure"] or "fitness"
    panels.append(Panel(label=label, size=(3.6, 3.0), draw=partial(_draw, history, content, "")))
    return draw(panels, "hyperparameters").png


def _draw(history: History, content: dict[str, Any], name: str, axes: Axes) -> None:
    """Draws the hyperparameter of this name, or without a name the fitness."""
    from matplotlib import colormaps
    from matplotlib.ticker import MaxNLocator

    from ablation.report.panels import Ticks, label_log_axis

    members: dict[str, Any] = content["members"]
    known = [member["fitness"] for member in members.values() if member["fitness"] is not None]
    low, high = min(known, default=0.0), max(known, default=1.0)
    for index, (member_name, member) in enumerate(members.items()):
        rank = 0.0 if member["fitness"] is None or high == low else (member["fitness"] - low) / (high - low)
        style: dict[str, Any] = {"color": colormaps["viridis"](0.9 * rank), "linewidth": 1}
        if member_name == content["best"]:
            style |= {"linewidth": 2.5, "label": f"{member_name} (highest at the end)", "zorder": 3}
        rows = [row for row in history.of(index) if name or row["fitness"] is not None]
        frames = [row["frames"] for row in rows]
        if not name:
            axes.plot(frames, [row["fitness"] for row in rows], **style)
            continue
        values = [row["hyperparameters"][name] for row in rows]
        axes.plot(frames, values, drawstyle="steps-post", **style)
        copies = [number for number, row in enumerate(rows) if row["copied"]]
        axes.plot(frames, values, ".", markevery=copies, color=style["color"], markersize=4)
    axes.set_title(name or content["measure"] or "fitness")
    axes.set_xlabel("frames")
    axes.xaxis.set_major_locator(MaxNLocator(4))
    axes.xaxis.set_major_formatter(Ticks())
    if name:
        axes.set_yscale("log")
        label_log_axis(axes.yaxis)
        return
    axes.yaxis.set_major_formatter(Ticks())
    if content["measure"] == "success":
        axes.set_ylim(-3, 103)
    if content["best"]:
        axes.legend(fontsize=8)
