"""Similarity of tasks to a trained agent: the cosine between their encoded contexts, as a figure."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from agents.network.context import ContextEncoder
from system.errors import InputError
from system.files import write_whole

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Matrix = NDArray[np.float64]

FILE = Path("probes") / "task_similarity.png"
"""Path of the figure in the run folder."""

_INCHES_PER_TASK, _LEAST_INCHES = 0.17, 1.5
_LEGIBLE_NUMBERS = 12
"""Most tasks for which every cell shows its number."""


@torch.no_grad()
def similarities(encoder: ContextEncoder, contexts: Mapping[str, NDArray[np.int32]]) -> dict[str, Matrix]:
    """Cosine similarities of all pairs of tasks, [K, K], for each learned part of the context.

    The parts are the task embedding and the mean encoded instruction. A one-hot code is left out, because its similarities are fixed.
    `contexts` has a sample of contexts of each of the K tasks, [P, C] (`context_rows`).
    """
    means = []
    for rows in contexts.values():
        z = encoder(encoder.contexts_from_rows(rows))[: len(rows)]
        means.append(z.double().mean(dim=0).numpy())
    vectors = np.array(means)
    split = encoder.size - encoder.instruction_size
    found = {}
    if encoder.reads_task and encoder.task_encoding == "embedding":
        found["task embedding"] = cosines(vectors[:, :split])
    if encoder.reads_instruction:
        found["mean encoded instruction"] = cosines(vectors[:, split:])
    return found


def cosines(vectors: Matrix) -> Matrix:
    """Vectors [K, F] -> cosines of all pairs [K, K]; 0 for a vector of zeros."""
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit = vectors / np.where(norms > 0, norms, 1)
    similarity: Matrix = np.clip(unit @ unit.T, -1, 1)
    return similarity


def draw(matrices: Mapping[str, Matrix], tasks: Sequence[str]) -> Figure:
    """One panel per matrix, with the tasks' names along both axes. The panels grow with the number of tasks."""
    from matplotlib.figure import Figure

    side = max(_LEAST_INCHES, _INCHES_PER_TASK * len(tasks))
    names = 0.075 * max(map(len, tasks)) + 0.5
    width, height = side + names + 0.8, side + names + 0.4
    figure = Figure(figsize=(width * len(matrices), height), dpi=120, layout="constrained")
    for panel, (title, matrix) in enumerate(matrices.items(), start=1):
        axes = figure.add_subplot(1, len(matrices), panel)
        picture = axes.imshow(matrix, vmin=-1, vmax=1, cmap="RdBu_r")
        ticks = np.arange(len(tasks))
        # parse_math=False, because a task's name may hold `$`.
        axes.set_xticks(ticks, tasks, rotation=90, fontsize=7, parse_math=False)
        axes.set_yticks(ticks, tasks, fontsize=7, parse_math=False)
        axes.set_title(f"cosine of {title}", fontsize=9)
        if len(tasks) <= _LEGIBLE_NUMBERS:
            for (row, column), value in np.ndenumerate(matrix):
                colour = "white" if abs(value) > 0.6 else "black"
                axes.text(column, row, f"{value:.2f}", ha="center", va="center", fontsize=6, color=colour)
        bar = figure.colorbar(picture, ax=axes, shrink=0.8)
        bar.ax.tick_params(labelsize=7)
    return figure


def write(figure: Figure, path: Path) -> Path:
    """Writes the figure as PNG and returns the path. Raises InputError if the folder cannot be written."""
    content = io.BytesIO()
    figure.savefig(content, format="png")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, content.getvalue())
    except OSError as error:
        raise InputError(
            f"{path} cannot be written ({error.strerror}): make room, or leave probe= and noise= out."
        ) from error
    return path
