"""The learner's optimisers: PyTorch's, and TensorFlow's RMSProp."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from system.errors import InputError

_ADAM = ("step", "exp_avg", "exp_avg_sq")
OPTIMIZERS = {
    "rmsprop": ("step", "square_avg"),
    "rmsprop_tf": ("square_avg",),
    "adam": _ADAM,
    "muon": ("momentum_buffer",),
}
"""Name -> keys of the optimiser's state for one parameter. `step` is a scalar; the others have the parameter's shape. With `muon`,
parameters that are no matrices have Adam's."""


class RMSpropTF(torch.optim.Optimizer):
    """TensorFlow's RMSProp (tf.train.RMSPropOptimizer, momentum 0), for which the constants of IMPALA and PopArt-IMPALA are published:

        s <- decay s + (1 - decay) g^2,   w <- w - lr g / sqrt(s + epsilon),   s = 1 before the first step

    torch.optim.RMSprop differs in two points: s starts at 0, and epsilon is added to the root. With the published constants its first
    updates are 10 to 90 times as large, and later ones 2 to 8 times.

    A parameter without a gradient does not change, nor does its s.

    Args:
        params: On one device.
        lr: Learning rate.
        decay: Of the mean square; `rms_decay` in the configuration.
        eps: Epsilon.
    """

    def __init__(self, params: Iterable[Tensor], *, lr: float, decay: float = 0.99, eps: float = 0.01) -> None:
        super().__init__(params, {"lr": lr, "decay": decay, "eps": eps})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Updates the parameters that have a gradient. `closure` must be None."""
        assert closure is None
        for group in self.param_groups:
            parameters = [parameter for parameter in group["params"] if parameter.grad is not None]
            if not parameters:
                continue
            gradients: list[Any] = [parameter.grad for parameter in parameters]
            squares = [self._square(parameter) for parameter in parameters]
            torch._foreach_mul_(squares, group["decay"])
            torch._foreach_addcmul_(squares, gradients, gradients, value=1 - group["decay"])
            roots = torch._foreach_add(squares, group["eps"])
            torch._foreach_sqrt_(roots)
            torch._foreach_addcdiv_(parameters, gradients, roots, value=-group["lr"])

    def _square(self, parameter: Tensor) -> Tensor:
        """s of a parameter; creates it at the first step."""
        state = self.state[parameter]
        if not state:
            state["square_avg"] = torch.ones_like(parameter, memory_format=torch.preserve_format)
        square: Tensor = state["square_avg"]
        return square


class MuonWithAdam(torch.optim.Optimizer):
    """torch.optim.Muon (Jordan et al. 2024) for matrices, and Adam for all other parameters.

    An update of Muon is the nearest orthogonal matrix to the momentum. It is scaled to the usual size of Adam's (Liu et al. 2025), so
    that one learning rate serves both.

    Args:
        params: On one device.
        lr: Learning rate.
        betas, eps: Of Adam.
    """

    def __init__(self, params: Iterable[Tensor], *, lr: float, betas: tuple[float, float], eps: float) -> None:
        params = list(params)
        matrices = [parameter for parameter in params if parameter.ndim == 2]
        others = [parameter for parameter in params if parameter.ndim != 2]
        self._parts: list[torch.optim.Optimizer] = []
        if matrices:
            self._parts.append(torch.optim.Muon(matrices, lr=lr, weight_decay=0.0, adjust_lr_fn="match_rms_adamw"))
        if others:
            self._parts.append(torch.optim.Adam(others, lr=lr, betas=betas, eps=eps, fused=True))
        super().__init__([part.param_groups[0] for part in self._parts], {})

    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Updates the parameters that have a gradient. `closure` must be None."""
        assert closure is None
        for part, group in zip(self._parts, self.param_groups, strict=True):
            # One state serves both, so that state_dict and load_state_dict of this class hold everything.
            part.state, part.param_groups = self.state, [group]
            part.step()


def rate_share(schedule: str, steps: int, total: int, warmup: int) -> float:
    """The learning rate after so many `steps` as a share of the highest one.

    It first rises linearly from 0 in `warmup` steps. Then it stays equal (`constant`), or falls to 0 at `total` steps, linearly (`linear`)
    or as half a cosine (`cosine`: Loshchilov & Hutter 2017, equation 5, without restarts).
    """
    if steps < warmup:
        return steps / warmup
    done = min(1.0, (steps - warmup) / max(1, total - warmup))
    if schedule == "cosine":
        return (1 + math.cos(math.pi * done)) / 2
    return 1 - done if schedule == "linear" else 1.0


def build_optimizer(
    name: str,
    parameters: Sequence[Tensor],
    *,
    learning_rate: float,
    rms_decay: float,
    epsilon: float,
    adam_betas: tuple[float, float],
) -> torch.optim.Optimizer:
    """The optimiser with that name in OPTIMIZERS. InputError if this version of torch lacks it."""
    if name == "muon":
        if not hasattr(torch.optim, "Muon"):
            raise InputError(
                f"learner.optimizer=muon needs torch 2.9 and this is torch {torch.__version__}: install a later torch, or use adam."
            )
        return MuonWithAdam(parameters, lr=learning_rate, betas=adam_betas, eps=epsilon)
    if name == "rmsprop":
        return torch.optim.RMSprop(parameters, lr=learning_rate, alpha=rms_decay, eps=epsilon, foreach=True)
    if name == "rmsprop_tf":
        return RMSpropTF(parameters, lr=learning_rate, decay=rms_decay, eps=epsilon)
    return torch.optim.Adam(parameters, lr=learning_rate, betas=adam_betas, eps=epsilon, fused=True)


def check_moments(moments: Mapping[int, Mapping[str, Tensor]], optimizer: torch.optim.Optimizer, name: str) -> None:
    """Checks the saved state of an optimiser; `load_state_dict` accepts any, and torch would fail at the first step.

    Args:
        moments: State of each parameter, by its index in the groups of `optimizer`.
        name: Its name in OPTIMIZERS.

    Raises:
        ValueError: The state is of another optimiser or of other parameters.
    """
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    for index, saved in moments.items():
        shape = parameters[index].shape if 0 <= index < len(parameters) else None
        keys = _ADAM if name == "muon" and shape is not None and len(shape) != 2 else OPTIMIZERS[name]
        if shape is None or set(saved) != set(keys):
            raise ValueError(f"the optimiser's state of parameter {index} belongs to another optimiser")
        if any(value.shape != (() if key == "step" else shape) for key, value in saved.items()):
            raise ValueError(f"the optimiser's state of parameter {index} has another shape")
