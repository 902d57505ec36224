"""What a population has come to: result.json, a table, and a figure of its hyperparameters."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from ablation.analysis.numbers import apart, three_digits
from ablation.population.history import History
from system.files import write_json, write_whole

RESULT, FIGURE = "result.json", "hyperparameters.png"
_DPI = 200


def summary(history: History, names: Sequence[str]) -> dict[str, Any]:
    """Every member with its fitness, its hyperparameters and how often it copied, and as `best` the name of the one with the highest
    fitness; None before the first comparison. That is one run of each, without an interval: it says which to evaluate, and ranks nothing.
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
    """Writes result.json and the figure; the paths."""
    write_json(folder / RESULT, content)
    write_whole(folder / FIGURE, figure(history, content))
    return [folder / RESULT, folder / FIGURE]


def table(content: dict[str, Any]) -> Table:
    """The members in the order of their names: there is one run of each, and no interval to rank them by."""
    members: dict[str, Any] = content["members"]
    hyperparameters = list(next(iter(members.values()))["hyperparameters"])
    drawn = Table(box=None, padding=(0, 2, 0, 0))
    drawn.add_column("member")
    for heading in (content["measure"] or "fitness", *hyperparameters, "copies"):
        drawn.add_column(heading, justify="right")
    drawn.add_column("last of")
    columns = [_column([member["fitness"] for member in members.values()])]
    columns += [_column([member["hyperparameters"][key] for member in members.values()]) for key in hyperparameters]
    for (name, member), texts in zip(members.items(), zip(*columns, strict=True), strict=True):
        drawn.add_row(name, *texts, str(member["copies"]), member["copied_last"] or "")
    return drawn


def _column(values: Sequence[float | None]) -> list[str]:
    """Unequal numbers as unequal texts."""
    texts = iter(apart(values, three_digits))
    return ["-" if value is None else next(texts) for value in values]


def figure(history: History, content: dict[str, Any]) -> bytes:
    """A PNG: each hyperparameter and the fitness of every member over frames, the colour by the fitness at the end."""
    # Imported here, because it takes a second.
    from matplotlib import colormaps
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    from ablation.report.panels import Ticks

    members: dict[str, Any] = content["members"]
    known = [member["fitness"] for member in members.values() if member["fitness"] is not None]
    low, high = min(known, default=0.0), max(known, default=1.0)
    hyperparameters = list(next(iter(members.values()))["hyperparameters"])
    drawing = Figure(figsize=(3.6 * (len(hyperparameters) + 1), 3.0), dpi=_DPI, layout="constrained")
    canvas = FigureCanvasAgg(drawing)
    axes = drawing.subplots(1, len(hyperparameters) + 1, squeeze=False)[0]
    for index, (name, member) in enumerate(members.items()):
        rows = history.of(index)
        place = 0.0 if member["fitness"] is None or high == low else (member["fitness"] - low) / (high - low)
        style: dict[str, Any] = {"color": colormaps["viridis"](0.9 * place), "linewidth": 1}
        if name == content["best"]:
            style |= {"linewidth": 2.5, "label": f"{name} (highest at the end)", "zorder": 3}
        frames = [row["frames"] for row in rows]
        for panel, key in zip(axes, hyperparameters, strict=False):
            values = [row["hyperparameters"][key] for row in rows]
            panel.plot(frames, values, drawstyle="steps-post", **style)
            panel.plot(
                [row["frames"] for row in rows if row["copied"]],
                [row["hyperparameters"][key] for row in rows if row["copied"]],
                ".",
                color=style["color"],
                markersize=4,
            )
        judged = [row for row in rows if row["fitness"] is not None]
        axes[-1].plot([row["frames"] for row in judged], [row["fitness"] for row in judged], **style)
    for panel, title in zip(axes, [*hyperparameters, content["measure"] or "fitness"], strict=True):
        panel.set_title(title, loc="left", fontsize=10)
        panel.set_xlabel("frames")
        panel.xaxis.set_major_locator(MaxNLocator(4))
        panel.xaxis.set_major_formatter(Ticks())
        panel.spines[["top", "right"]].set_visible(False)
    for panel in axes[:-1]:
        panel.set_yscale("log")
    axes[-1].yaxis.set_major_formatter(Ticks())
    if content["measure"] == "success":
        axes[-1].set_ylim(-3, 103)
    if content["best"]:
        axes[-1].legend(frameon=False, fontsize=8)
    picture = io.BytesIO()
    canvas.print_png(picture, metadata={"Software": None})  # type: ignore[no-untyped-call]
    return picture.getvalue()
