"""The figure of task similarity: its numbers and its labels."""

from __future__ import annotations

import io
import itertools

import numpy as np
import pytest
import torch

from agents.evaluation.task_similarity import cosines, draw, similarities
from agents.network.context import ContextEncoder, Contexts


def test_cosines() -> None:
    vectors = np.array([[1.0, 0.0], [3.0, 3.0], [-2.0, 0.0], [0.0, 0.0]])
    half = np.sqrt(0.5)
    expected = [[1, half, -1, 0], [half, 1, -half, 0], [-1, -half, 1, 0], [0, 0, 0, 0]]
    np.testing.assert_allclose(cosines(vectors), expected, atol=1e-12)


def test_similarities_of_embeddings_and_mean_encoded_instructions() -> None:
    torch.manual_seed(0)
    encoder = ContextEncoder("both", 3, 9, task_size=4, word_size=3, instruction_size=5)
    rng = np.random.default_rng(0)
    # Samples of different sizes, one of which the encoder pads, with instructions of different lengths.
    words = [rng.integers(1, 9, (size, 6)).astype(np.int32) * (np.arange(6) < size) for size in (2, 3, 9)]
    contexts = {
        str(task): encoder.context_rows(np.full(len(told), task, np.int32), told.astype(np.int32))
        for task, told in enumerate(words)
    }
    found = similarities(encoder, contexts)
    assert list(found) == ["task embedding", "mean encoded instruction"]
    embedding = encoder.task_embedding.weight.detach().double().numpy()
    means = np.array(
        [
            np.mean(
                [
                    encoder(Contexts(torch.zeros(1, dtype=torch.long), torch.from_numpy(row[None]).long()))[0, 4:]
                    .detach()
                    .numpy()
                    for row in told
                ],
                axis=0,
            )
            for told in words
        ]
    )
    for matrix, vectors in zip(found.values(), (embedding, means), strict=True):
        for (one, other), value in np.ndenumerate(matrix):
            product = vectors[one] @ vectors[other] / np.linalg.norm(vectors[one]) / np.linalg.norm(vectors[other])
            assert value == pytest.approx(product, abs=1e-5)


@pytest.mark.slow
def test_labels_of_57_tasks_are_complete_and_do_not_overlap() -> None:
    # `$` in a name must not start a formula.
    names = [f"BabyAI-UnlockPickup{number}Dist$^$_y-v0" for number in range(57)]
    figure = draw({"task embedding": np.eye(57), "mean encoded instruction": -np.eye(57)}, names)
    figure.savefig(io.BytesIO())
    width, height = figure.canvas.get_width_height()
    assert len(figure.axes) == 4  # two panels with a scale each
    for axes in (axes for axes in figure.axes if axes.get_title()):
        labels = axes.get_yticklabels()
        assert [label.get_text() for label in labels] == names
        boxes = [label.get_window_extent() for label in labels]
        assert all(box.x0 >= 0 and box.y0 >= 0 and box.x1 <= width and box.y1 <= height for box in boxes)
        assert all(upper.y0 >= lower.y1 for upper, lower in itertools.pairwise(boxes))
        boxes = [label.get_window_extent() for label in axes.get_xticklabels()]
        assert all(box.y0 >= 0 for box in boxes)
        assert all(left.x1 <= right.x0 for left, right in itertools.pairwise(boxes))
