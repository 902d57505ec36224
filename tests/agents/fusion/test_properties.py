"""check_fusion accepts every fusion, and names the property that a wrong one lacks."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from agents.fusion import FUSIONS, OPTIONS
from agents.fusion.base import Fusion, Modulation, bias, weight
from agents.fusion.properties import check_fusion
from agents.fusion.segments import Segments


@pytest.mark.parametrize("name", FUSIONS)
def test_every_fusion_has_the_properties(name: str) -> None:
    check_fusion(FUSIONS[name], **dict.fromkeys(OPTIONS.get(name, ()), 40))


class Right(Fusion):
    """y = (1 + tanh(U z)) * V x + b."""

    def __init__(self, x_size: int, z_size: int, out_size: int) -> None:
        super().__init__(x_size, z_size, out_size)
        self.V, self.b = weight(out_size, x_size, fan_in=x_size, share=0.7), bias(out_size)
        self.U = weight(out_size, z_size, fan_in=z_size)

    def condition(self, z: Tensor, samples: int | None = None) -> Modulation:
        return (1 + torch.tanh(z @ self.U.t()),)

    def modulate(self, x: Tensor, modulation: Modulation, segments: Segments) -> Tensor:
        return segments.rows(modulation[0]) * F.linear(x, self.V) + self.b


class Transposed(Right):
    def modulate(self, x: Tensor, modulation: Modulation, segments: Segments) -> Tensor:
        return super().modulate(x, modulation, segments).t()


class FirstContext(Right):
    def modulate(self, x: Tensor, modulation: Modulation, segments: Segments) -> Tensor:
        return modulation[0][:1] * F.linear(x, self.V) + self.b


class Detached(Right):
    def condition(self, z: Tensor, samples: int | None = None) -> Modulation:
        return (1 + torch.tanh((z.detach() if len(z) > 1 else z) @ self.U.t()),)


class Announced(Right):
    def condition(self, z: Tensor, samples: int | None = None) -> Modulation:
        return (super().condition(z)[0] * (1 if samples is None or samples == 1 else 2),)


class Single(Right):
    def condition(self, z: Tensor, samples: int | None = None) -> Modulation:
        return list(super().condition(z))  # type: ignore[return-value]


class OverContexts(Right):
    """Normalises over the contexts of a call, which then depend on each other."""

    def condition(self, z: Tensor, samples: int | None = None) -> Modulation:
        return (super().condition(z)[0] - super().condition(z)[0].mean(dim=0) * int(len(z) == 3),)


class Large(Right):
    def __init__(self, x_size: int, z_size: int, out_size: int) -> None:
        super().__init__(x_size, z_size, out_size)
        with torch.no_grad():
            self.V.mul_(4)


class Unused(Right):
    def __init__(self, x_size: int, z_size: int, out_size: int) -> None:
        super().__init__(x_size, z_size, out_size)
        self.unused = bias(out_size)


class NeedsContext(Right):
    def condition(self, z: Tensor, samples: int | None = None) -> Modulation:
        return (1 + torch.tanh(z @ self.U.t()) - int(not self.z_size),)


class Rough(Right):
    def modulate(self, x: Tensor, modulation: Modulation, segments: Segments) -> Tensor:
        return super().modulate(x, modulation, segments) + torch.is_autocast_enabled("cpu")


class NotLinear(Right):
    def modulate(self, x: Tensor, modulation: Modulation, segments: Segments) -> Tensor:
        return super().modulate(x.tanh() * 1.6, modulation, segments)


class NotAffine(Right):
    affine_in_z = True


@pytest.mark.parametrize(
    ("form", "sentence"),
    [
        (Transposed, "forward gives"),
        (FirstContext, "modulate for the contexts .* differs from one sample at a time"),
        (Detached, "gradients for the contexts .* differ from one sample at a time"),
        (Announced, "modulate for the contexts"),
        (Single, "condition returns something else than a tuple of tensors"),
        (OverContexts, "modulations of two calls of condition, joined, differ"),
        (Large, "the output starts with variance"),
        (Unused, "no gradient reaches unused at the start"),
        (NeedsContext, "without context features the output does not depend on the observation"),
        (Rough, "bf16 differs from single precision"),
        (NotLinear, "linear_in_x is true and the output is not"),
        (NotAffine, "affine_in_z is true and the form is no multiplicative interaction"),
    ],
)
def test_a_wrong_fusion_fails_with_the_property_that_it_lacks(form: type[Fusion], sentence: str) -> None:
    check_fusion(Right)
    with pytest.raises(AssertionError, match=sentence):
        check_fusion(form)


def test_the_global_generator_is_left_as_it_was() -> None:
    state = torch.random.get_rng_state()
    check_fusion(Right)
    assert torch.equal(torch.random.get_rng_state(), state)
