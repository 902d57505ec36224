"""Success by the noise on the encoded context: the section `noise` of evaluation.json, and its figure."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agents.evaluation.episodes import Episodes, SavedAgent
from agents.evaluation.probe_report import comparison
from agents.evaluation.task_similarity import write

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FILE = Path("probes") / "noise.png"
"""Path of the figure in the run folder."""

_MOST_LINES = 10
"""Most tasks for which the figure has a line each."""

Sections = Mapping[str, Mapping[str, Any]]
"""By the level of noise, as text."""


def noise_report(
    agent: SavedAgent, played: Mapping[str, Episodes], noisy: Mapping[float, Mapping[str, Episodes]]
) -> dict[str, dict[str, Any]]:
    """The section `noise` of evaluation.json: for each level the rows of a probe, and its signal-to-noise ratio `snr` in decibels.

    The ratio is that of |z|^2 and E|noise|^2; None without noise.
    """
    sections = comparison(agent, played, {f"{level:g}": episodes for level, episodes in noisy.items()})
    # Subtracted from 0, so that a level of 1 has 0 dB and not -0.
    ratios = [0.0 - 20 * math.log10(level) if level else None for level in noisy]
    return {level: {"snr": ratio, **section} for (level, section), ratio in zip(sections.items(), ratios, strict=True)}


def write_curve(sections: Sections, folder: Path) -> Path:
    """Writes the figure of a section `noise` to the run folder and returns its path. InputError if it cannot be written."""
    return write(draw(sections), folder / FILE)


def draw(sections: Sections) -> Figure:
    """Mean success over tasks by noise, or mean return if success is unknown, with its 95% interval, and a line for each of a few tasks."""
    from matplotlib.figure import Figure

    rows = [section["aggregate"] for section in sections.values()]
    by_success = rows[0]["success"] is not None
    key, limits = ("success", "success_interval") if by_success else ("mean", "interval")
    levels = [float(level) for level in sections]
    figure = Figure(figsize=(5.5, 3.6), dpi=120, layout="constrained")
    axes = figure.add_subplot()
    tasks = list(next(iter(sections.values()))["tasks"])
    if 1 < len(tasks) <= _MOST_LINES:
        for task in tasks:
            values = [section["tasks"][task][key] for section in sections.values()]
            axes.plot(levels, values, linewidth=1, alpha=0.7, label=task)
    axes.plot(levels, [row[key] for row in rows], "o-", color="black", label="mean" if len(tasks) > 1 else tasks[0])
    if all(row[limits] for row in rows):
        low, high = zip(*(row[limits] for row in rows), strict=True)
        axes.fill_between(levels, low, high, color="black", alpha=0.15, linewidth=0)
    ratios = [section["snr"] for section in sections.values()]
    names = [
        f"{level:g}\n{'no noise' if snr is None else f'{snr:.0f} dB'}"
        for level, snr in zip(levels, ratios, strict=True)
    ]
    axes.set_xticks(levels, names, fontsize=7)
    axes.set_xlabel(
        "noise on the encoded context, relative to its root mean square, and signal-to-noise ratio", fontsize=7
    )
    axes.set_ylabel("success" if by_success else "return", fontsize=8)
    axes.tick_params(axis="y", labelsize=7)
    for text in axes.legend(fontsize=6).get_texts():
        # A task's name may hold `$`.
        text.set_parse_math(False)
    return figure
