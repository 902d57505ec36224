"""Training of a language model by truncated back-propagation, its evaluation and its writing. Shapes as in
studies/models/language_model.py."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from studies.data.corpora import Tokens
from studies.harness.running import Checkpoint
from studies.models.language_model import LanguageModel
from system.plain_data import COUNT, FINITE, PlainDataError, check_form


class Rows:
    """A text cut into rows that are read side by side, each from where the one before it ends.

    Args:
        count: B. Up to B - 1 tokens at the end of the text are in no row.

    Attributes:
        count: B.
        width: tokens of a row that are read, and followed by one to predict.
    """

    def __init__(self, tokens: Tokens, count: int) -> None:
        self.count = count
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

    @property
    def without_gain(self) -> int:
        """Readings since the best one. The first of all is that before all steps."""
        return len(self.steps) - 1 - self.steps.index(self.best_step)


@dataclass(kw_only=True)
class _Progress:
    """How far training has come: `step` steps, the place in the rows that is read next, the state [B, S] there, the weights that read the
    validation text best.
    """

    step: int
    position: int
    state: Tensor
    best: dict[str, Tensor]
    trained: Trained


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
    checkpoint it goes on from there, with the same numbers as if it had never been stopped. The checkpoint hears what
    part of the steps is done.
    """
    rows = Rows(text, batch_size)
    optimizer = torch.optim.Adam(model.parameters(), lr=learning_rate, fused=True)
    looked_at = {round(number * steps / evaluations) for number in range(1, evaluations + 1)}
    now = _restored(checkpoint, model, optimizer, steps, rows)
    if now is None:
        loss, best = evaluate(model, validation, batch_size, length), copy.deepcopy(model.state_dict())
        # Nothing is drawn from the generator after this, so checkpoints need not have it.
        position = int(generator.integers(rows.width))
        now = _Progress(
            step=0, position=position, state=model.initial_state(batch_size), best=best, trained=Trained([0], [loss], 0)
        )
    while now.step < steps and now.trained.without_gain < patience:
        checkpoint.reached(now.step / steps)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate * 0.5 * (1 + math.cos(math.pi * now.step / steps))
        if now.position == rows.width:
            now.position, now.state = 0, model.initial_state(batch_size)
        stretch = rows.read(now.position, min(length, rows.width - now.position))
        optimizer.zero_grad()
        now.state = model.learn(stretch[:-1], now.state, stretch[1:])
        nn.utils.clip_grad_norm_(model.parameters(), most_gradient)
        optimizer.step()
        now.step, now.position = now.step + 1, now.position + len(stretch) - 1
        if now.step in looked_at:
            loss = evaluate(model, validation, batch_size, length)
            if loss < min(now.trained.losses):
                now.best, now.trained = copy.deepcopy(model.state_dict()), now.trained._replace(best_step=now.step)
            now.trained.steps.append(now.step)
            now.trained.losses.append(loss)
        # What comes after the end may take long, so the end of a training that has a checkpoint is kept, too.
        ends = now.step == steps or now.trained.without_gain >= patience
        if checkpoint.due or (ends and checkpoint.exists):
            checkpoint.save(_kept(now, model, optimizer))
    model.load_state_dict(now.best)
    return now.trained


_MOMENTS = ("exp_avg", "exp_avg_sq")
_NUMBERS = {
    "step": COUNT,
    "position": COUNT,
    "steps": [COUNT],
    "losses": [FINITE],
    "best_step": COUNT,
}


def _kept(now: _Progress, model: LanguageModel, optimizer: torch.optim.Adam) -> dict[str, Any]:
    """What a checkpoint holds: numbers, and tensors by name. The constants of the optimiser are those of the settings."""
    numbers = {"step": now.step, "position": now.position, **now.trained._asdict()}
    tensors = {f"model {name}": value for name, value in model.state_dict().items()}
    tensors |= {f"best {name}": value for name, value in now.best.items()}
    tensors |= {
        f"{moment} {number}": optimizer.state[parameter][moment]
        for number, parameter in enumerate(model.parameters())
        for moment in (*_MOMENTS, "step")
    }
    return {"numbers": numbers, "tensors": {**tensors, "state": now.state, "rng": torch.get_rng_state()}}


def _restored(
    checkpoint: Checkpoint, model: LanguageModel, optimizer: torch.optim.Adam, steps: int, rows: Rows
) -> _Progress | None:
    """What is in the checkpoint; the model, the optimiser and torch's random numbers become what they were then. None where there is none,
    and nothing is changed. The file may say anything: what does not fit counts as none.
    """
    content = checkpoint.load()
    try:
        check_form(content, {"numbers": _NUMBERS, "tensors": {str: Tensor}})
    except PlainDataError:
        return None
    assert content is not None
    numbers, tensors = content["numbers"], content["tensors"]
    parameters = list(model.parameters())
    shapes = {f"{part} {name}": value for part in ("model", "best") for name, value in model.state_dict().items()}
    for number, parameter in enumerate(parameters):
        shapes |= {f"{moment} {number}": parameter for moment in _MOMENTS} | {f"step {number}": torch.zeros(())}
    shapes |= {"state": model.initial_state(rows.count), "rng": torch.get_rng_state()}
    alike = tensors.keys() == shapes.keys() and all(
        tensors[name].shape == value.shape and tensors[name].dtype == value.dtype for name, value in shapes.items()
    )
    trained = Trained(numbers["steps"], numbers["losses"], numbers["best_step"])
    in_range = 0 < numbers["step"] <= steps and numbers["position"] <= rows.width
    if not (alike and in_range and len(trained.steps) == len(trained.losses) and trained.best_step in trained.steps):
        return None
    try:
        # What is dropped out next.
        torch.set_rng_state(tensors["rng"])
    except RuntimeError:
        return None
    state = {
        number: {moment: tensors[f"{moment} {number}"] for moment in (*_MOMENTS, "step")}
        for number in range(len(parameters))
    }
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state})
    model.load_state_dict({name: tensors[f"model {name}"] for name in model.state_dict()})
    best = {name: tensors[f"best {name}"] for name in model.state_dict()}
    step, position = numbers["step"], numbers["position"]
    return _Progress(step=step, position=position, state=tensors["state"], best=best, trained=trained)


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
