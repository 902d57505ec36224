"""Adam and RMSprop against torch's classes, rmsprop_tf against its formula in NumPy, element by element, and Muon beside Adam."""

from __future__ import annotations

import copy
import math
from typing import Any

import numpy as np
import pytest
import torch

from agents.learning.optimizers import build_optimizer, orthogonalize
from agents.network.core import LSTMCore

SHAPES = ((3, 2), (4,), (), (1, 2, 2))
CONSTANTS: dict[str, Any] = {
    "matrices": (),
    "learning_rate": 0.01,
    "rms_decay": 0.99,
    "epsilon": 1e-8,
    "adam_betas": (0.9, 0.999),
    "precision": torch.float32,
}


@pytest.mark.parametrize("name", ["adam", "rmsprop"])
def test_adam_and_rmsprop_are_torchs_to_the_bit(name: str) -> None:
    """Also when a parameter has no gradient in some steps, and when each continues from the other's state."""
    rng = np.random.default_rng(1)
    start = [torch.tensor(rng.normal(size=shape), dtype=torch.float32) for shape in SHAPES]
    found, expected = ([torch.nn.Parameter(array.clone()) for array in start] for _ in range(2))
    ours = build_optimizer(name, found, **{**CONSTANTS, "epsilon": 1e-3, "rms_decay": 0.9, "adam_betas": (0.8, 0.95)})
    torchs: torch.optim.Optimizer = (
        torch.optim.Adam(expected, lr=0.01, betas=(0.8, 0.95), eps=1e-3, fused=True)
        if name == "adam"
        else torch.optim.RMSprop(expected, lr=0.01, alpha=0.9, eps=1e-3, foreach=True)
    )
    for step in range(30):
        for number, (one, other) in enumerate(zip(found, expected, strict=True)):
            one.grad = other.grad = None
            if number != 1 or step % 2 or step < 4:
                one.grad = torch.tensor(rng.normal(size=one.shape), dtype=torch.float32)
                other.grad = one.grad.clone()
        ours.learning_rate = torchs.param_groups[0]["lr"] = 0.01 * 0.9**step
        ours.step(), torchs.step()
        assert all(map(torch.equal, found, expected))
        if step % 10 == 5:
            own, other = (copy.deepcopy(optimizer.state_dict()) for optimizer in (ours, torchs))
            ours.load_state_dict(other)
            torchs.load_state_dict({**other, "state": own["state"]})


@pytest.mark.parametrize(("lr", "decay", "eps"), [(6e-4, 0.99, 0.01), (4.8e-4, 0.99, 0.1), (0.3, 0.5, 1e-8)])
def test_rmsprop_tf_is_the_formula_of_tensorflow(lr: float, decay: float, eps: float) -> None:
    """training_ops ApplyRMSProp with momentum 0: ms += (g^2 - ms) (1 - rho); var -= lr g / sqrt(ms + epsilon), and ms = 1 at first."""
    rng = np.random.default_rng(3)
    start = [rng.normal(size=shape) for shape in SHAPES]
    parameters = [torch.nn.Parameter(torch.tensor(array)) for array in start]
    constants = {**CONSTANTS, "learning_rate": lr, "rms_decay": decay, "epsilon": eps}
    optimizer = build_optimizer("rmsprop_tf", parameters, **constants)
    truth = [(np.array(array), np.ones(array.shape)) for array in start]
    for step in range(60):
        lr *= 0.97
        optimizer.learning_rate = lr
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
    for name in ("rmsprop_tf", "rmsprop"):
        weight = torch.nn.Parameter(torch.zeros(1))
        weight.grad = torch.full((1,), 0.01)
        build_optimizer(name, [weight], **{**CONSTANTS, "learning_rate": 1.0, "epsilon": eps}).step()
        moved.append(-weight.item())
    assert moved[0] == pytest.approx(0.01 / math.sqrt(0.99 + eps + 1e-6))
    assert 9 < moved[1] / moved[0] < 100


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="torch has Muon from 2.9 on")
@pytest.mark.parametrize("shapes", [SHAPES, SHAPES[:1], SHAPES[1:]])
def test_muon_moves_the_given_matrices_and_adam_all_other_parameters(shapes: tuple[tuple[int, ...], ...]) -> None:
    rng = np.random.default_rng(0)
    start = [torch.tensor(rng.normal(size=shape), dtype=torch.float32) for shape in (*shapes, (3, 2))]
    found, expected = ([torch.nn.Parameter(array.clone()) for array in start] for _ in range(2))
    # The last matrix is not among the given ones.
    given = [one.ndim == 2 for one in found[:-1]] + [False]
    matrices = [one for one, is_given in zip(found, given, strict=True) if is_given]
    together = build_optimizer("muon", found, **CONSTANTS | {"matrices": matrices, "precision": torch.bfloat16})
    alone: list[torch.optim.Optimizer] = [
        torch.optim.Muon([one], lr=0.01, weight_decay=0.0, adjust_lr_fn="match_rms_adamw", ns_steps=3)
        if is_given
        else torch.optim.Adam([one], lr=0.01)
        for one, is_given in zip(expected, given, strict=True)
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


@pytest.mark.parametrize("shape", [(6, 2, 1, 2), (2, 3, 2, 2)])
def test_muon_moves_a_convolution_as_the_matrix_of_its_kernels(shape: tuple[int, ...]) -> None:
    rng = np.random.default_rng(0)
    start = torch.tensor(rng.normal(size=shape), dtype=torch.float32)
    # The strides of pictures whose channels come last differ from those of the matrix.
    moved, matrix = (
        torch.nn.Parameter(one)
        for one in (start.contiguous(memory_format=torch.channels_last), start.flatten(1).clone())
    )
    optimizers = [build_optimizer("muon", [one], **CONSTANTS | {"matrices": [one]}) for one in (moved, matrix)]
    for _ in range(3):
        gradient = torch.tensor(rng.normal(size=shape), dtype=torch.float32)
        moved.grad, matrix.grad = gradient.contiguous(memory_format=torch.channels_last), gradient.flatten(1)
        for optimizer in optimizers:
            optimizer.step()
    torch.testing.assert_close(moved.flatten(1), matrix)
    assert not torch.allclose(moved, start, atol=1e-3)


@pytest.mark.parametrize("shape", [(64, 16), (16, 64), (32, 32)])
def test_orthogonalized_matrices_have_singular_values_near_one(shape: tuple[int, int]) -> None:
    torch.manual_seed(0)
    matrix = torch.randn(shape) + 3 * torch.randn(shape[0], 1) * torch.randn(1, shape[1])
    before, after = (torch.linalg.svd(one, full_matrices=False) for one in (matrix, orthogonalize(matrix)))
    large = 0.03 * matrix.norm() < before.S
    assert large.sum() >= 8
    # The singular vectors stay, so the product with them is diagonal.
    values = (before.U.t() @ orthogonalize(matrix) @ before.Vh.t()).diagonal()[large]
    assert values.min() > 0.4 and values.max() < 1.25 and after.S.max() < 1.25
    torch.testing.assert_close(orthogonalize(torch.zeros(shape)), torch.zeros(shape))


@pytest.mark.parametrize(("name", "least", "most"), [("muon", 0.8, 1.3), ("adam", 2.0, math.inf)])
def test_muon_does_not_saturate_the_gates_of_a_core_and_adam_does(name: str, least: float, most: float) -> None:
    """Gradients on which all samples agree, as on a plateau: their sign is noise, and the mean of the inputs is common to all samples."""
    torch.manual_seed(0)
    core, mean = LSTMCore(64, 64), 0.8 * torch.randn(64)
    parameters = list(core.parameters())
    matrices = [parameter for parameter in parameters if parameter.ndim == 2]
    optimizer = build_optimizer(name, parameters, **CONSTANTS | {"matrices": matrices, "learning_rate": 1e-3})
    reset, state = torch.zeros(8, 32, dtype=torch.bool), torch.zeros(32, core.state_size)
    sizes = []
    for _ in range(600):
        x = mean + 0.5 * torch.randn(8, 32, 64)
        y, _ = core(x, reset, state)
        with torch.no_grad():
            weight_x, weight_h, bias_x, bias_h = core.lstm.all_weights[0]
            sizes.append((x[-1] @ weight_x.t() + y[-2] @ weight_h.t() + bias_x + bias_h).square().mean().sqrt().item())
        core.zero_grad()
        (y * torch.randn(64)).mean().backward()
        optimizer.step()
    assert least < sizes[-1] / sizes[0] < most
