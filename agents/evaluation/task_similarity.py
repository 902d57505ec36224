"""How alike a trained agent's tasks are to it: the cosine of what its context encoder makes of each two of them, as a picture."""

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
"""In the run folder."""

_INCHES_PER_TASK, _LEAST_INCHES = 0.17, 1.5
_LEGIBLE_NUMBERS = 12
"""Tasks up to which every cell holds its number."""


@torch.no_grad()
def similarities(encoder: ContextEncoder, contexts: Mapping[str, NDArray[np.int32]]) -> dict[str, Matrix]:
    """Cosine similarity of each two tasks, [K, K], for each part of the context that a similarity can be learned for.

    The parts are the task embedding (not a one-hot code, whose tasks are all alike by construction) and the mean encoded instruction.

    Args:
        encoder: the trained one.
        contexts: for each of the K tasks a sample of what its slots are told, [P, C] (`context_rows`).

    Returns:
        Matrices by the name of the part; none for an encoder that reads nothing.
    """
    means = []
    for rows in contexts.values():
        z = encoder(encoder.contexts_from_rows(rows))[: len(rows)]
        means.append(z.double().mean(dim=0).numpy())
    vectors = np.array(means)
    split = encoder.size - (encoder.instruction_lstm.hidden_size if encoder.reads_instruction else 0)
    found = {}
    if encoder.reads_task and encoder.task_encoding == "embedding":
        found["task embedding"] = cosines(vectors[:, :split])
    if encoder.reads_instruction:
        found["mean encoded instruction"] = cosines(vectors[:, split:])
    return found


def cosines(vectors: Matrix) -> Matrix:
    """Vectors [K, F] -> the cosine of the angle between each two [K, K]; 0 for a vector of zeros."""
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit = vectors / np.where(norms > 0, norms, 1)
    similarity: Matrix = np.clip(unit @ unit.T, -1, 1)
    return similarity


def draw(matrices: Mapping[str, Matrix], tasks: Sequence[str]) -> Figure:
    """One panel for each matrix, with the tasks' names along both axes; the panels grow with the number of tasks."""
    from matplotlib.figure import Figure

    side = max(_LEAST_INCHES, _INCHES_PER_TASK * len(tasks))
    names = 0.075 * max(map(len, tasks)) + 0.5
    width, height = side + names + 0.8, side + names + 0.4
    figure = Figure(figsize=(width * len(matrices), height), dpi=120, layout="constrained")
    for panel, (title, matrix) in enumerate(matrices.items(), start=1):
        axes = figure.add_subplot(1, len(matrices), panel)
        picture = axes.imshow(matrix, vmin=-1, vmax=1, cmap="RdBu_r")
        places = np.arange(len(tasks))
        # A task's name is text, whatever is in it.
        axes.set_xticks(places, tasks, rotation=90, fontsize=7, parse_math=False)
        axes.set_yticks(places, tasks, fontsize=7, parse_math=False)
        axes.set_title(f"cosine of {title}", fontsize=9)
        if len(tasks) <= _LEGIBLE_NUMBERS:
            for (row, column), value in np.ndenumerate(matrix):
                colour = "white" if abs(value) > 0.6 else "black"
                axes.text(column, row, f"{value:.2f}", ha="center", va="center", fontsize=6, color=colour)
        bar = figure.colorbar(picture, ax=axes, shrink=0.8)
        bar.ax.tick_params(labelsize=7)
    return figure


def write(figure: Figure, folder: Path, updates: int) -> Path:
    """Writes the figure as `folder/FILE` and into the TensorBoard files of `folder`, at so many updates. Returns the file.

    Raises:
        InputError: the folder cannot be written.
    """
    # Imported here, because TensorBoard takes a moment to import.
    from agents.run.event_file import EventFile

    content = io.BytesIO()
    figure.savefig(content, format="png")
    path = folder / FILE
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, content.getvalue())
        board = EventFile(folder / "tensorboard", None)
        height, width = pixels(figure).shape[:2]
        board.show(updates, "task_similarity", content.getvalue(), (height, width))
        board.close()
    except OSError as error:
        raise InputError(f"probe= cannot write {path} ({error.strerror}): make room or leave probe= out.") from error
    return path


def pixels(figure: Figure) -> NDArray[np.uint8]:
    """The drawn figure, [height, width, 3]."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    canvas.draw()  # type: ignore[no-untyped-call]
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()  # type: ignore[no-untyped-call]
