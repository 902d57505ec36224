"""Training of a language model by truncated back-propagation, evaluation and sampling. Shapes: studies/models/language_model.py."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass, fields
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from studies.data.corpora import Tokens
from studies.harness.jobs import Checkpoint
from studies.models.ensembles import anneal
from studies.models.language_model import LanguageModel
from system.plain_data import COUNT, FINITE, PlainDataError, check_form


class Rows:
    """A text cut into B rows that are read side by side; each row starts where the previous one ends.

    Attributes:
        count: B. Up to B - 1 tokens at the end of the text are in no row.
        width: Tokens of a row that are read and whose next token is predicted.
    """

    def __init__(self, tokens: Tokens, count: int) -> None:
        self.count = count
        self.width = (len(tokens) - 1) // count
        self._tokens = tokens
        self._starts = np.arange(count) * self.width

    def read(self, position: int, length: int) -> Tensor:
        """The tokens of all rows from `position` on, int64 [length + 1, B]: the last one is only predicted."""
        index = self._starts + position + np.arange(length + 1)[:, None]
        return torch.from_numpy(self._tokens[index].astype(np.int64))


@dataclass(kw_only=True)
class TrainingState:
    """Progress of a training.

    Attributes:
        step: Training steps so far.
        position: Column of the rows that is read next.
        core_state: [B, S] at that position.
        best: The weights with the smallest loss on the validation text.
        steps, losses: After which steps the validation text was read, and nats for each of its tokens then.
        best_step: The step of `best`.
    """

    step: int
    position: int
    core_state: Tensor
    best: dict[str, Tensor]
    steps: list[int]
    losses: list[float]
    best_step: int

    @property
    def without_gain(self) -> int:
        """Readings of the validation text since the best one. The first reading precedes all training steps."""
        return len(self.steps) - 1 - self.steps.index(self.best_step)


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
) -> TrainingState:
    """Adam with a cosine from `learning_rate` to zero, on rows of the text from a random position on.

    The core state is carried from one stretch to the next, without a gradient. The validation text is read `evaluations` times at equal
    distances. Training ends early after `patience` readings without a gain. The model ends with the weights of the best reading.

    A saved checkpoint resumes the training with the same numbers as without the stop.
    """
    rows = Rows(text, batch_size)
    optimizer = torch.optim.Adam(model.parameters(), lr=learning_rate, fused=True)
    readings = {round(number * steps / evaluations) for number in range(1, evaluations + 1)}
    now = _restore(checkpoint, model, optimizer, steps, rows)
    if now is None:
        # No number is drawn from the generator later, so checkpoints need not have its state.
        position = int(generator.integers(rows.width))
        now = TrainingState(
            step=0,
            position=position,
            core_state=model.initial_state(batch_size),
            best=copy.deepcopy(model.state_dict()),
            steps=[0],
            losses=[evaluate(model, validation, batch_size, length)],
            best_step=0,
        )
    while now.step < steps and now.without_gain < patience:
        checkpoint.reached(now.step / steps)
        anneal(optimizer, learning_rate, now.step, steps)
        if now.position == rows.width:
            now.position, now.core_state = 0, model.initial_state(batch_size)
        stretch = rows.read(now.position, min(length, rows.width - now.position))
        optimizer.zero_grad()
        now.core_state = model.learn(stretch[:-1], now.core_state, stretch[1:])
        nn.utils.clip_grad_norm_(model.parameters(), most_gradient)
        optimizer.step()
        now.step, now.position = now.step + 1, now.position + len(stretch) - 1
        if now.step in readings:
            loss = evaluate(model, validation, batch_size, length)
            if loss < min(now.losses):
                now.best, now.best_step = copy.deepcopy(model.state_dict()), now.step
            now.steps.append(now.step)
            now.losses.append(loss)
        # The work after the training can be long, so a training with checkpoints also saves its end.
        ends = now.step == steps or now.without_gain >= patience
        if checkpoint.due or (ends and checkpoint.exists):
            moments = optimizer.state_dict()["state"]
            checkpoint.save(vars(now) | {"model": model.state_dict(), "moments": moments, "rng": torch.get_rng_state()})
    model.load_state_dict(now.best)
    return now


_NUMBERS = {"step": COUNT, "position": COUNT, "steps": [COUNT], "losses": [FINITE], "best_step": COUNT}


def _restore(
    checkpoint: Checkpoint, model: LanguageModel, optimizer: torch.optim.Adam, steps: int, rows: Rows
) -> TrainingState | None:
    """Restores the model, the optimizer, torch's random state and the training state from the checkpoint.

    Returns None, and changes nothing, without a checkpoint whose tensors and numbers fit: the file can come from other people.
    """
    content = checkpoint.load()
    try:
        check_form(content, _NUMBERS)
    except PlainDataError:
        return None
    assert content is not None
    weights = model.state_dict()
    expected = {
        "model": weights,
        "best": weights,
        "moments": {
            index: {"step": torch.zeros(()), "exp_avg": value, "exp_avg_sq": value}
            for index, value in enumerate(model.parameters())
        },
        "core_state": model.initial_state(rows.count),
        "rng": torch.get_rng_state(),
    }
    # Shape and dtype in place of every tensor.
    kinds = partial(tree_map_only, Tensor, lambda tensor: (tensor.shape, tensor.dtype))
    fits = kinds({name: content.get(name) for name in expected}) == kinds(expected)
    in_range = 0 < content["step"] <= steps and content["position"] <= rows.width
    read = len(content["steps"]) == len(content["losses"]) and content["best_step"] in content["steps"]
    if not (fits and in_range and read):
        return None
    try:
        # For dropout.
        torch.set_rng_state(content["rng"])
    except RuntimeError:
        return None
    optimizer.load_state_dict({**optimizer.state_dict(), "state": content["moments"]})
    model.load_state_dict(content["model"])
    return TrainingState(**{field.name: content[field.name] for field in fields(TrainingState)})


def evaluate(model: LanguageModel, text: Tokens, count: int, length: int) -> float:
    """Nats for each token of a text that is read in `count` rows; the largest float32 where that is not finite.

    With one row, every token but the first is predicted from all previous ones.
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
    """Samples `number` symbols after `beginning`, at least one token; none is `never`. `temperature` divides the logits."""
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
