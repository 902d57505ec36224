"""The cost of each form as a single layer, for `python -m benchmarks.fusion cases=layers`: condition, modulate, both with gradients."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from agents.fusion import FUSIONS, OPTIONS
from agents.fusion.base import Fusion, Modulation, Tokens
from agents.fusion.multiplicative import MultiplicativeInteraction
from agents.fusion.segments import Segments
from agents.fusion.spatial import SPATIAL_FUSIONS
from benchmarks.options import Row
from benchmarks.turns import cost, microseconds, ratios, take_turns

X, Z, K = 256, 64, 256
MAP = (64, 4, 4)
"""The feature map of the grid torso."""
WORDS = 5
"""Tokens of a context, for forms that read them. "go to the red ball" has five."""
SHAPES = ((1, 64), (20, 32), (80, 32))
SIZES = {"rank": 64, "hidden": 64, "heads": 4, "experts": 8, "keys": "content", "kernel": 3}
POOL, CHANGE = 36, 1 / 20
"""Statistics of the contexts of BabyAI-GoToLocal: 36 instructions, drawn at every reset, about every 20 steps."""


def constant(length: int, batch: int) -> Tensor:
    """The same context for all samples."""
    return torch.zeros(length * batch, dtype=torch.long)


def occurring(length: int, batch: int) -> Tensor:
    """Contexts as in training, [length * batch], time-major."""
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randint(POOL, (length, batch), generator=generator)
    changes = torch.rand(length, batch, generator=generator) < CHANGE
    for t in range(1, length):
        drawn[t] = torch.where(changes[t], drawn[t], drawn[t - 1])
    index: Tensor = drawn.flatten().unique(return_inverse=True)[1]
    return index


def worst(length: int, batch: int) -> Tensor:
    """A different context for each sample."""
    return torch.arange(length * batch)


CONTEXTS = {"constant": constant, "occurring": occurring, "worst": worst}


class Layer(NamedTuple):
    """The three measured pieces of work of a form; each returns its number of samples."""

    condition: Callable[[], float]
    apply: Callable[[], float]
    train: Callable[[], float]
    multiply_adds: dict[str, int]
    num_contexts: int


def layer_rows(fusions: Sequence[str], rounds: int, seconds: float) -> Iterator[Row]:
    """A row for each form, shape and pattern of contexts, and for the plain implementations of `mi`."""
    forms: dict[str, Fusion] = {
        name: FUSIONS[name](X, Z, K, **options(name)) for name in FUSIONS if name in (*fusions, "concat")
    }
    for name in SPATIAL_FUSIONS:
        if name in fusions:
            forms[f"{name} on the map"] = SPATIAL_FUSIONS[name](MAP, Z, **options(name))
    for shape in SHAPES:
        for contexts, pattern in CONTEXTS.items():
            index = pattern(*shape)
            layers = {name: layer(form, index) for name, form in forms.items()}
            if isinstance(mi := forms.get("mi"), MultiplicativeInteraction):
                layers |= {f"mi, {name}": plain(mi, work, index) for name, work in PLAIN.items()}
            readings = {
                part: take_turns(
                    {name: partial(cost, getattr(work, part), seconds) for name, work in layers.items()}, rounds
                )
                for part in ("condition", "apply", "train")
            }
            for name, work in layers.items():
                times = {part: [reading.wall for reading in turns[name]] for part, turns in readings.items()}
                concat = {part: [reading.wall for reading in turns["concat"]] for part, turns in readings.items()}
                yield {
                    "case": "layers",
                    "fusion": name,
                    "T": shape[0],
                    "B": shape[1],
                    "contexts": contexts,
                    "num_contexts": work.num_contexts,
                    **{f"{part}_microseconds_per_sample": microseconds(times[part]) for part in times},
                    "apply_times_concat": ratios(times["apply"], concat["apply"]),
                    "train_times_concat": ratios(times["train"], concat["train"]),
                    "multiply_adds": work.multiply_adds,
                    "threads": torch.get_num_threads(),
                    "rounds": rounds,
                    "seconds": seconds,
                }


def options(name: str) -> dict[str, object]:
    """The options of a form at the measured sizes."""
    return {option: SIZES[option] for option in OPTIONS.get(name, ())}


def layer(form: Fusion, index: Tensor) -> Layer:
    """A form on samples whose contexts are `index`."""
    samples, count = len(index), int(index.max()) + 1
    x = torch.randn(samples, *(MAP if form.x_size != X else (X,)), requires_grad=True)
    values = torch.randn(count, *([WORDS] if form.reads_tokens else []), Z, requires_grad=True)
    parameters = list(form.parameters())

    def make(values: Tensor) -> Modulation:
        z = Tokens(values, torch.ones(count, WORDS, dtype=torch.bool)) if form.reads_tokens else values
        return form.condition(z, samples)

    with torch.no_grad():
        made = make(values.detach())

    @torch.no_grad()
    def condition() -> float:
        make(values.detach())
        return samples

    @torch.no_grad()
    def apply() -> float:
        form.modulate(x, made, Segments(index, count))
        return samples

    def train() -> float:
        # Views, because the counter of multiply-adds refuses a leaf as the input of a module.
        y = form.modulate(x.view_as(x), make(values.view_as(values)), Segments(index, count))
        torch.autograd.grad(y, [x, values, *parameters], torch.ones_like(y))
        return samples

    counted = {"condition": condition, "apply": apply, "train": train}
    return Layer(condition, apply, train, {name: flops(work) for name, work in counted.items()}, count)


def outer_product(form: MultiplicativeInteraction, x: Tensor, z: Tensor) -> Tensor:
    """Multiplies z x^T of every sample by W as one matrix."""
    tensor = form.W.view(Z, K, X).permute(0, 2, 1).reshape(Z * X, K)
    return torch.mm((z.unsqueeze(2) * x.unsqueeze(1)).flatten(1), tensor)


def contract_x_first(form: MultiplicativeInteraction, x: Tensor, z: Tensor) -> Tensor:
    """Computes x W for every z_j, then sums over j."""
    return torch.matmul(z.unsqueeze(1), torch.mm(x, form.W.view(Z * K, X).t()).view(-1, Z, K)).squeeze(1)


def weights_per_sample(form: MultiplicativeInteraction, x: Tensor, z: Tensor) -> Tensor:
    """Computes W'(z) of every sample, then multiplies it by x."""
    return torch.bmm(torch.mm(z, form.W).view(-1, K, X), x.unsqueeze(2)).squeeze(2)


def einsum(form: MultiplicativeInteraction, x: Tensor, z: Tensor) -> Tensor:
    """The textbook formula."""
    return torch.einsum("ni,nj,joi->no", x, z, form.W.view(Z, K, X))


PLAIN = {
    "outer product": outer_product,
    "x first": contract_x_first,
    "weights per sample": weights_per_sample,
    "einsum": einsum,
}


def plain(
    form: MultiplicativeInteraction, work: Callable[[MultiplicativeInteraction, Tensor, Tensor], Tensor], index: Tensor
) -> Layer:
    """A plain implementation, which computes every sample separately even if contexts repeat."""
    x, z = torch.randn(len(index), X, requires_grad=True), torch.randn(int(index.max()) + 1, Z, requires_grad=True)
    parameters = list(form.parameters())

    def forward() -> Tensor:
        context = z[index]
        return work(form, x, context / form.context_norm) + torch.addmm(form.b, context, form.U) + x @ form.V.t()

    @torch.no_grad()
    def apply() -> float:
        forward()
        return len(index)

    def train() -> float:
        y = forward()
        torch.autograd.grad(y, [x, z, *parameters], torch.ones_like(y))
        return len(index)

    counted = {"apply": flops(apply), "train": flops(train)}
    return Layer(lambda: len(index), apply, train, {"condition": 0, **counted}, len(z))


def flops(work: Callable[[], float]) -> int:
    """Multiply-adds of one call, over all samples."""
    with FlopCounterMode(display=False) as counter:
        work()
    return int(counter.get_total_flops() // 2)
