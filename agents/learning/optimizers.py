"""The learner's optimisers: PyTorch's, and TensorFlow's RMSProp."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim.adam import adam
from torch.optim.rmsprop import rmsprop

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


State = dict[str, Tensor]
Rule = Callable[[list[Tensor], list[Tensor], list[State], float], None]
"""Updates parameters and their states in place, from their gradients and the learning rate."""


class RuleOptimizer:
    """The part of torch.optim.Optimizer's interface that the learner uses, around a rule.

    torch's class imports torch.compile's packages (torch._dynamo) when it is made, which takes a second of each learner's start.

    A parameter without a gradient does not change, nor does its state.

    Args:
        parameters: On one device.
        name: The key of OPTIMIZERS with the names of a state.
        first: The value of a state before the first step, except of `step`, which is 0.
    """

    def __init__(
        self, parameters: Iterable[Tensor], rule: Rule, name: str, *, learning_rate: float, first: float = 0.0
    ) -> None:
        self.param_groups: list[dict[str, Any]] = [{"params": list(parameters), "lr": learning_rate}]
        self.state: dict[Tensor, State] = {}
        self._rule, self._keys, self._first = rule, OPTIMIZERS[name], first

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Removes all gradients; `set_to_none` must be True."""
        assert set_to_none
        for parameter in self.param_groups[0]["params"]:
            parameter.grad = None

    @torch.no_grad()
    def step(self) -> None:
        """Updates the parameters that have a gradient."""
        (group,) = self.param_groups
        if parameters := [parameter for parameter in group["params"] if parameter.grad is not None]:
            for parameter in parameters:
                if parameter not in self.state:
                    self.state[parameter] = self._first_state(parameter)
            states = [self.state[parameter] for parameter in parameters]
            self._rule(parameters, [parameter.grad for parameter in parameters], states, group["lr"])

    def state_dict(self) -> dict[str, Any]:
        """As torch's, without the constants: the states by the index of their parameter."""
        parameters = enumerate(self.param_groups[0]["params"])
        return {"state": {index: self.state[parameter] for index, parameter in parameters if parameter in self.state}}

    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        """The inverse of `state_dict`, also of torch's optimiser of that name."""
        self.state.clear()
        for index, state in saved["state"].items():
            parameter = self.param_groups[0]["params"][index]
            self.state[parameter] = {
                key: value.to(parameter.device, torch.float32 if key == "step" else parameter.dtype)
                for key, value in state.items()
            }

    def _first_state(self, parameter: Tensor) -> State:
        return {
            key: torch.zeros((), device=parameter.device) if key == "step" else torch.full_like(parameter, self._first)
            for key in self._keys
        }


def adam_rule(betas: tuple[float, float], epsilon: float) -> Rule:
    """torch.optim.Adam, fused."""

    def update(parameters: list[Tensor], gradients: list[Tensor], states: list[State], learning_rate: float) -> None:
        averages, squares, steps = ([state[key] for state in states] for key in ("exp_avg", "exp_avg_sq", "step"))
        adam(
            *(parameters, gradients, averages, squares, [], steps),
            fused=True,
            amsgrad=False,
            beta1=betas[0],
            beta2=betas[1],
            lr=learning_rate,
            weight_decay=0.0,
            eps=epsilon,
            maximize=False,
        )

    return update


def rmsprop_rule(decay: float, epsilon: float) -> Rule:
    """torch.optim.RMSprop."""

    def update(parameters: list[Tensor], gradients: list[Tensor], states: list[State], learning_rate: float) -> None:
        squares, steps = ([state[key] for state in states] for key in ("square_avg", "step"))
        rmsprop(
            *(parameters, gradients, squares, [], [], steps),
            foreach=True,
            lr=learning_rate,
            alpha=decay,
            eps=epsilon,
            weight_decay=0.0,
            momentum=0.0,
            centered=False,
        )

    return update


def rmsprop_tf_rule(decay: float, epsilon: float) -> Rule:
    """TensorFlow's RMSProp (tf.train.RMSPropOptimizer, momentum 0), for which the constants of IMPALA and PopArt-IMPALA are published:

        s <- decay s + (1 - decay) g^2,   w <- w - lr g / sqrt(s + epsilon),   s = 1 before the first step

    torch.optim.RMSprop differs in two points: s starts at 0, and epsilon is added to the root. With the published constants its first
    updates are 10 to 90 times as large, and later ones 2 to 8 times.
    """

    def update(parameters: list[Tensor], gradients: list[Tensor], states: list[State], learning_rate: float) -> None:
        squares = [state["square_avg"] for state in states]
        torch._foreach_mul_(squares, decay)
        torch._foreach_addcmul_(squares, gradients, gradients, value=1 - decay)
        roots = torch._foreach_add(squares, epsilon)
        torch._foreach_sqrt_(roots)
        torch._foreach_addcdiv_(parameters, gradients, roots, value=-learning_rate)

    return update


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


Optimizer = RuleOptimizer | MuonWithAdam


def build_optimizer(
    name: str,
    parameters: Sequence[Tensor],
    *,
    learning_rate: float,
    rms_decay: float,
    epsilon: float,
    adam_betas: tuple[float, float],
) -> Optimizer:
    """The optimiser with that name in OPTIMIZERS. InputError if this version of torch lacks it."""
    if name == "muon":
        if not hasattr(torch.optim, "Muon"):
            raise InputError(
                f"learner.optimizer=muon needs torch 2.9 and this is torch {torch.__version__}: install a later torch, or use adam."
            )
        return MuonWithAdam(parameters, lr=learning_rate, betas=adam_betas, eps=epsilon)
    rules = {
        "rmsprop": rmsprop_rule(rms_decay, epsilon),
        "rmsprop_tf": rmsprop_tf_rule(rms_decay, epsilon),
        "adam": adam_rule(adam_betas, epsilon),
    }
    first = 1.0 if name == "rmsprop_tf" else 0.0
    return RuleOptimizer(parameters, rules[name], name, learning_rate=learning_rate, first=first)


def check_moments(moments: Mapping[int, Mapping[str, Tensor]], optimizer: Optimizer, name: str) -> None:
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
