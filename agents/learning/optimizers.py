"""The learner's optimisers: two of PyTorch's, and TensorFlow's RMSProp."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

OPTIMIZERS = {
    "rmsprop": ("step", "square_avg"),
    "rmsprop_tf": ("square_avg",),
    "adam": ("step", "exp_avg", "exp_avg_sq"),
}
"""Name -> keys of the optimiser's state for one parameter. `step` is a scalar; the others have the parameter's shape."""


class RMSpropTF(torch.optim.Optimizer):
    """TensorFlow's RMSProp (tf.train.RMSPropOptimizer, momentum 0), for which the constants of IMPALA and PopArt-IMPALA are published.

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


def build_optimizer(
    name: str,
    parameters: Sequence[Tensor],
    *,
    learning_rate: float,
    rms_decay: float,
    epsilon: float,
    adam_betas: tuple[float, float],
) -> torch.optim.Optimizer:
    """The optimiser with that name in OPTIMIZERS."""
    if name == "rmsprop":
        return torch.optim.RMSprop(parameters, lr=learning_rate, alpha=rms_decay, eps=epsilon, foreach=True)
    if name == "rmsprop_tf":
        return RMSpropTF(parameters, lr=learning_rate, decay=rms_decay, eps=epsilon)
    return torch.optim.Adam(parameters, lr=learning_rate, betas=adam_betas, eps=epsilon, fused=True)


def check_moments(
    moments: Mapping[int, Mapping[str, Tensor]], parameters: Sequence[Tensor], state_keys: Sequence[str]
) -> None:
    """Checks the saved state of an optimiser; `load_state_dict` accepts any, and torch would fail at the first step.

    Args:
        moments: State of each parameter, by its index in `parameters`.
        state_keys: Of the optimiser, from OPTIMIZERS.

    Raises:
        ValueError: The state is of another optimiser or of other parameters.
    """
    for index, saved in moments.items():
        if not 0 <= index < len(parameters) or set(saved) != set(state_keys):
            raise ValueError(f"the optimiser's state of parameter {index} belongs to another optimiser")
        shape = parameters[index].shape
        if any(value.shape != (() if name == "step" else shape) for name, value in saved.items()):
            raise ValueError(f"the optimiser's state of parameter {index} has another shape")
