"""Training of a language model by truncated back-propagation, its evaluation and its writing. Shapes as in studies/language_model.py."""

from __future__ import annotations

import copy
import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from studies.corpora import Tokens
from studies.language_model import LanguageModel
from studies.running import Checkpoint


class Rows:
    """A text cut into rows that are read side by side, each from where the one before it ends.

    Args:
        count: B. Up to B - 1 tokens at the end of the text are in no row.

    Attributes:
        width: tokens of a row that are read, and followed by one to predict.
    """

    def __init__(self, tokens: Tokens, count: int) -> None:
        self.width = (len(tokens) - 1) // count
        self._tokens = tokens
        self._starts = np.arange(count) * self.width

    def read(self, position: int, length: int) -> Tensor:
        """The tokens of all rows from `position` on, int64 [length + 1, B]: the last is to be predicted only."""
        index = self._starts + position + np.arange(length + 1)[:, None]
        return torch.from_numpy(self._tokens[index].astype(np.int64))


class Trained(NamedTuple):
    """steps: at which the validation text was read. losses: nats for each of its tokens there. best_step: whose weights were kept."""

    steps: list[int]
    losses: list[float]
    best_step: int


def train(
    model: LanguageModel,
    text: Tokens,
    validation: Tokens,
    *,
    generator: np.random.Generator,
    steps: int,
    batch_size: int,
    length: int,
    learning_rate: float,
    most_gradient: float,
    evaluations: int,
    patience: int,
    checkpoint: Checkpoint,
) -> Trained:
    """Adam with a cosine from `learning_rate` to zero, on rows of the text from a place of it that is drawn from the generator.

    The state goes on from one stretch to the next, without a gradient. The validation text is read `evaluations` times, evenly. The model
    keeps the weights that read it best, and training ends early when they have not changed for `patience` readings. Where there is a
    checkpoint it goes on from there, with the same numbers as if it had never been stopped.
    """
    rows = Rows(text, batch_size)
    optimizer = torch.optim.Adam(model.parameters(), lr=learning_rate, fused=True)
    looked_at = {round(number * steps / evaluations) for number in range(1, evaluations + 1)}
    kept = checkpoint.load()
    if kept is None:
        done, position, state = 0, int(generator.integers(rows.width)), model.initial_state(batch_size)
        trained = Trained([0], [evaluate(model, validation, batch_size, length)], 0)
        best = copy.deepcopy(model.state_dict())
    else:
        done, position, state, best = (kept[key] for key in ("step", "position", "state", "best"))
        trained = Trained(*kept["trained"])
        model.load_state_dict(kept["model"])
        optimizer.load_state_dict(kept["optimizer"])
        # What is dropped out next.
        torch.set_rng_state(kept["rng"])
    for step in range(done + 1, steps + 1):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate * 0.5 * (1 + math.cos(math.pi * (step - 1) / steps))
        if position == rows.width:
            position, state = 0, model.initial_state(batch_size)
        stretch = rows.read(position, min(length, rows.width - position))
        position += len(stretch) - 1
        optimizer.zero_grad()
        _, state = model.learn(stretch[:-1], state, stretch[1:])
        nn.utils.clip_grad_norm_(model.parameters(), most_gradient)
        optimizer.step()
        if step in looked_at:
            loss = evaluate(model, validation, batch_size, length)
            if loss < min(trained.losses):
                best, trained = copy.deepcopy(model.state_dict()), trained._replace(best_step=step)
            trained.steps.append(step)
            trained.losses.append(loss)
            if len(trained.steps) - 1 - trained.steps.index(trained.best_step) >= patience:
                break
        if checkpoint.due:
            own = {"step": step, "position": position, "state": state, "best": best, "trained": tuple(trained)}
            states = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
            checkpoint.save({**own, **states, "rng": torch.get_rng_state()})
    model.load_state_dict(best)
    return trained


def evaluate(model: LanguageModel, text: Tokens, count: int, length: int) -> float:
    """Nats for each token of a text that is read in `count` rows: with one of them, every token but the first is predicted from all that
    came before. What is not a number counts as the largest there is.
    """
    rows = Rows(text, count)
    state, total = model.initial_state(count), 0.0
    model.eval()
    for position in range(0, rows.width, length):
        stretch = rows.read(position, min(length, rows.width - position))
        cost, state = model.cost(stretch[:-1], state, stretch[1:])
        total += cost * stretch[1:].numel()
    model.train()
    loss = total / (rows.width * count)
    return loss if math.isfinite(loss) else float(np.finfo(np.float32).max)


def write(
    model: LanguageModel,
    beginning: Tokens,
    number: int,
    *,
    temperature: float,
    generator: torch.Generator,
    never: int | None,
) -> list[int]:
    """Symbols drawn one after the other, each heard before the next.

    Args:
        beginning: tokens that come before, at least one.
        number: of symbols.
        temperature: that logits are divided by.
        never: a symbol that is not drawn.
    """
    tokens, state = torch.from_numpy(beginning.astype(np.int64)).unsqueeze(1), model.initial_state(1)
    written: list[int] = []
    model.eval()
    with torch.no_grad():
        while len(written) < number:
            logits, state = model(tokens, state)
            following = logits[-1, 0] / temperature
            if never is not None:
                following[never] = -math.inf
            tokens = torch.multinomial(following.softmax(0), 1, generator=generator).unsqueeze(1)
            written.append(int(tokens))
    model.train()
    return written
