"""RMSpropTF against its formula in NumPy, element by element, Adam against torch's, and Muon beside Adam."""

from __future__ import annotations

import math
from copy import deepcopy

import numpy as np
import pytest
import torch

from agents.learning.optimizers import FusedAdam, RMSpropTF, build_optimizer
from system.errors import InputError

SHAPES = ((3, 2), (4,), (), (1, 2, 2))


@pytest.mark.parametrize(("lr", "decay", "eps"), [(6e-4, 0.99, 0.01), (4.8e-4, 0.99, 0.1), (0.3, 0.5, 1e-8)])
def test_rmsprop_tf_is_the_formula_of_tensorflow(lr: float, decay: float, eps: float) -> None:
    """training_ops ApplyRMSProp with momentum 0: ms += (g^2 - ms) (1 - rho); var -= lr g / sqrt(ms + epsilon), and ms = 1 at first."""
    rng = np.random.default_rng(3)
    start = [rng.normal(size=shape) for shape in SHAPES]
    parameters = [torch.nn.Parameter(torch.tensor(array)) for array in start]
    optimizer = RMSpropTF(parameters, lr=lr, decay=decay, eps=eps)
    truth = [(np.array(array), np.ones(array.shape)) for array in start]
    for step in range(60):
        lr *= 0.97
        optimizer.param_groups[0]["lr"] = lr
        for number, (parameter, (weight, square)) in enumerate(zip(parameters, truth, strict=True)):
            # Parameter 1 has a gradient in every second step only.
            parameter.grad = None
            if number == 1 and step % 2:
                continue
            gradient = rng.normal(size=parameter.shape) * 10.0 ** rng.integers(-4, 2)
            parameter.grad = torch.tensor(gradient)
            for place in np.ndindex(weight.shape):
                square[place] += (gradient[place] ** 2 - square[place]) * (1 - decay)
                weight[place] -= lr * gradient[place] / math.sqrt(square[place] + eps)
        optimizer.step()
        for parameter, (weight, _) in zip(parameters, truth, strict=True):
            np.testing.assert_allclose(parameter.detach().numpy(), weight, rtol=1e-12)


@pytest.mark.parametrize("eps", [0.1, 0.01])
def test_first_updates_of_rmsprop_tf_are_smaller_than_pytorchs(eps: float) -> None:
    """A gradient of 0.01 moves a weight by about 0.01 lr; torch.optim.RMSprop moves it by up to lr."""
    moved = []
    for make in (RMSpropTF, torch.optim.RMSprop):
        weight = torch.nn.Parameter(torch.zeros(1))
        weight.grad = torch.full((1,), 0.01)
        make([weight], lr=1.0, eps=eps).step()
        moved.append(-weight.item())
    assert moved[0] == pytest.approx(0.01 / math.sqrt(0.99 + eps + 1e-6))
    assert 9 < moved[1] / moved[0] < 100


def test_adam_is_the_fused_one_of_torch() -> None:
    rng = np.random.default_rng(1)
    start = [torch.tensor(rng.normal(size=shape), dtype=torch.float32) for shape in SHAPES]
    found, expected = ([torch.nn.Parameter(array.clone()) for array in start] for _ in range(2))
    ours = FusedAdam(found, lr=1.0, betas=(0.8, 0.99), eps=1e-3)
    torchs = torch.optim.Adam(expected, lr=1.0, betas=(0.8, 0.99), eps=1e-3, fused=True)
    for step in range(20):
        for optimizer in (ours, torchs):
            optimizer.param_groups[0]["lr"] = 0.1 * 0.9**step
        for number, (one, other) in enumerate(zip(found, expected, strict=True)):
            # Parameter 1 has a gradient in every second step only.
            one.grad = (
                None if number == 1 and step % 2 else torch.tensor(rng.normal(size=one.shape), dtype=torch.float32)
            )
            other.grad = one.grad
        ours.step()
        torchs.step()
        # A state that torch's saved continues the same way.
        ours.load_state_dict({**ours.state_dict(), "state": deepcopy(torchs.state_dict()["state"])})
        assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))


CONSTANTS = {"learning_rate": 0.01, "rms_decay": 0.99, "epsilon": 1e-8, "adam_betas": (0.9, 0.999)}


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="torch has Muon from 2.9 on")
@pytest.mark.parametrize("shapes", [SHAPES, SHAPES[:1], SHAPES[1:]])
def test_muon_moves_matrices_and_adam_all_other_parameters(shapes: tuple[tuple[int, ...], ...]) -> None:
    rng = np.random.default_rng(0)
    start = [torch.tensor(rng.normal(size=shape), dtype=torch.float32) for shape in shapes]
    found, expected = ([torch.nn.Parameter(array.clone()) for array in start] for _ in range(2))
    together = build_optimizer("muon", found, **CONSTANTS)
    alone: list[torch.optim.Optimizer] = [
        torch.optim.Muon([one], lr=0.01, weight_decay=0.0, adjust_lr_fn="match_rms_adamw")
        if one.ndim == 2
        else torch.optim.Adam([one], lr=0.01)
        for one in expected
    ]
    for _ in range(5):
        for one, other in zip(found, expected, strict=True):
            one.grad = torch.tensor(rng.normal(size=one.shape), dtype=torch.float32)
            other.grad = one.grad.clone()
        for optimizer in (together, *alone):
            optimizer.step()
        # A saved and restored state continues the same way.
        together.load_state_dict(together.state_dict())
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other)


def test_muon_is_refused_where_torch_lacks_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(torch.optim, "Muon", raising=False)
    with pytest.raises(
        InputError, match="learner.optimizer=muon needs torch 2.9 .*: install a later torch, or use adam"
    ):
        build_optimizer("muon", [torch.nn.Parameter(torch.zeros(2, 2))], **CONSTANTS)
