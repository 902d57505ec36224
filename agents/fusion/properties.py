"""The properties of every fusion as a function, for the tests of this project and of plugins."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from agents.fusion.base import Fusion
from agents.fusion.segments import Segments

_INDEXES = ([0] * 5, [3, 1, 4, 0, 2], [2, 2, 0, 2, 0], [7, 0, 7, 3, 3])
"""The context of each of five samples: one for all; one each, in another order; fewer than samples; more than samples."""
_X, _Z, _K = 5, 4, 6


def check_fusion(form: Callable[..., Fusion], **options: Any) -> None:
    """Checks the interface and the initialisation of a form. AssertionError with one sentence for the first property that fails.

    Args:
        form: The class, made with (x_size, z_size, out_size) and `options`.
    """
    state = torch.random.get_rng_state()
    torch.manual_seed(0)
    try:
        for check in (
            _check_segments,
            _check_modulation,
            _check_start,
            _check_no_context,
            _check_precision,
            _check_flags,
        ):
            check(lambda *sizes: form(*sizes, **options))
    finally:
        torch.random.set_rng_state(state)


Make = Callable[..., Fusion]
"""Sizes -> a form with its options."""


def _check_segments(make: Make) -> None:
    """`modulate` by segment equals one context per sample, in values and gradients, however many samples are announced."""
    fusion = _disturbed(make(_X, _Z, _K).double())
    for index in _INDEXES:
        rows, count = torch.tensor(index), max(index) + 2
        x, z, weights = _draw(5, _X).requires_grad_(), _draw(count, _Z).requires_grad_(), _draw(5, _K)
        alone = torch.cat([fusion(x[n : n + 1], z[rows[n], None].view(1, _Z)) for n in range(5)])
        _require(alone.shape == (5, _K), f"forward gives {list(alone.shape)} for 5 samples and {_K} outputs")
        expected = _gradients(fusion, alone, weights, x, z)
        for samples in (None, 5):
            y = fusion.modulate(x, fusion.condition(z, samples), Segments(rows, count))
            _require(_near(y, alone), f"modulate for the contexts {index} differs from one sample at a time")
            found = _gradients(fusion, y, weights, x, z)
            _require(
                all(map(_near, found, expected)), f"gradients for the contexts {index} differ from one sample at a time"
            )


def _check_modulation(make: Make) -> None:
    """A modulation is a tuple of tensors by context, whose rows are cached and concatenated when an agent acts."""
    fusion = _disturbed(make(_X, _Z, _K).double())
    x, z = _draw(8, _X), _draw(8, _Z)
    whole = fusion.condition(z)
    _require(
        isinstance(whole, tuple) and all(isinstance(part, Tensor) and len(part) == 8 for part in whole),
        "condition returns something else than a tuple of tensors with one row for each context",
    )
    parts = [fusion.condition(z[:3]), fusion.condition(z[3:])]
    joined = tuple(torch.cat(pair) for pair in zip(*parts, strict=True))
    segments = Segments(torch.arange(8), 8)
    _require(
        _near(fusion.modulate(x, joined, segments), fusion.modulate(x, whole, segments)),
        "modulations of two calls of condition, joined, differ from those of one call",
    )


def _check_start(make: Make) -> None:
    """The output starts with a variance near 1, and everything has a gradient."""
    for z_size in (1, 64):
        fusion = make(64, z_size, 48).double()
        with torch.no_grad():
            variance = float(fusion(_draw(512, 64), _draw(512, z_size)).var())
        _require(
            0.5 < variance < 2,
            f"the output starts with variance {variance:.2g} for {z_size} context features, not near 1",
        )
    fusion = make(_X, _Z, _K).double()
    x, z = _draw(7, _X).requires_grad_(), _draw(7, _Z).requires_grad_()
    labels = ("x", "z", *(name for name, _ in fusion.named_parameters()))
    for label, found in zip(labels, _gradients(fusion, fusion(x, z), _draw(7, _K), x, z), strict=True):
        _require(float(found.abs().max()) > 1e-4, f"no gradient reaches {label} at the start")


def _check_no_context(make: Make) -> None:
    """Without context features (z_size 0), as in an agent without context, the observation passes."""
    fusion = make(_X, 0, _K).double()
    x = _draw(7, _X)
    y = fusion.modulate(x, fusion.condition(_draw(1, 0)), Segments(torch.zeros(7, dtype=torch.long), 1))
    _require(_near(y, fusion(x, _draw(7, 0))), "without context features modulate differs from forward")
    _require(
        float(y.detach().std(dim=0).min()) > 1e-3,
        "without context features the output does not depend on the observation",
    )


def _check_precision(make: Make) -> None:
    """bf16 autocast is near single precision."""
    fusion, rows = make(8, _Z, _K).float(), torch.tensor([2, 0, 2, 1, 1, 1])
    x, z = torch.randn(6, 8), torch.randn(3, _Z)
    with torch.no_grad():
        exact = fusion.modulate(x, fusion.condition(z), Segments(rows, 3))
        with torch.autocast("cpu", torch.bfloat16):
            rough = fusion.modulate(x, fusion.condition(z), Segments(rows, 3))
    _require(
        _near(rough.float(), exact, relative=0.05, absolute=0.1),
        "bf16 differs from single precision by more than rounding",
    )


def _check_flags(make: Make) -> None:
    """`linear_in_x` and `affine_in_z` state what the form is."""
    fusion = _disturbed(make(_X, _Z, _K).double())
    x, z = _draw(9, _X), _draw(9, _Z)
    y = fusion(x, z)
    if fusion.linear_in_x:
        matrix, shift = fusion.affine_form(z)
        _require(
            _near(torch.einsum("nkx,nx->nk", matrix, x) + shift, y),
            "linear_in_x is true and the output is not W'(z) x + b'(z)",
        )
    if fusion.affine_in_z:
        _require(
            _near(fusion.to_full_mi()(x, z), y),
            "affine_in_z is true and the form is no multiplicative interaction of x and z",
        )


def _disturbed(fusion: Fusion) -> Fusion:
    """Adds noise to every parameter, so that no term is hidden by a zero."""
    with torch.no_grad():
        for parameter in fusion.parameters():
            parameter.add_(0.5 * torch.randn_like(parameter))
    return fusion


def _gradients(fusion: Fusion, y: Tensor, weights: Tensor, *inputs: Tensor) -> list[Tensor]:
    wanted = [*inputs, *fusion.parameters()]
    found: Iterator[Tensor | None] = iter(torch.autograd.grad((y * weights).sum(), wanted, allow_unused=True))
    return [torch.zeros_like(tensor) if one is None else one for one, tensor in zip(found, wanted, strict=True)]


def _near(a: Tensor, b: Tensor, *, relative: float = 1e-6, absolute: float = 1e-8) -> bool:
    return a.shape == b.shape and torch.allclose(a, b, rtol=relative, atol=absolute)


def _draw(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64)


def _require(holds: bool, sentence: str) -> None:
    if not holds:
        raise AssertionError(f"{sentence}.")
