"""The learner's optimisers: torch's rules, TensorFlow's RMSProp, and Muon."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.optim.rmsprop import rmsprop

OPTIMIZERS = ("rmsprop", "rmsprop_tf", "adam", "muon")

State = dict[str, Tensor]
Rule = Callable[[list[Tensor], list[Tensor], list[State], float], None]
"""Updates parameters and their states in place, from their gradients and the learning rate."""


class Group(NamedTuple):
    """Parameters with one rule.

    Attributes:
        keys: Names of the tensors of a parameter's state. `step` is a scalar; the others have the parameter's shape.
        first: Value of a state before the first step, except of `step`, which is 0.
    """

    parameters: Sequence[Tensor]
    rule: Rule
    keys: tuple[str, ...]
    first: float = 0.0


class RuleOptimizer:
    """An optimiser around rules, with what the learner needs of torch.optim.Optimizer.

    torch's class imports torch.compile's packages (torch._dynamo) when it is made, which takes a second of each learner's start. Its
    bookkeeping takes as long as a step of a small network.

    A parameter without a gradient does not change, nor does its state.

    Args:
        groups: With parameters on one device.
        learning_rate: Of all groups. It can be set between steps.
    """

    def __init__(self, groups: Sequence[Group], *, learning_rate: float) -> None:
        self.groups = groups
        self.learning_rate = learning_rate
        self.state: dict[Tensor, State] = {}

    @torch.no_grad()
    def step(self) -> None:
        """Updates the parameters that have a gradient."""
        for group in self.groups:
            parameters = [parameter for parameter in group.parameters if parameter.grad is not None]
            gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
            states = [self._state(parameter, group) for parameter in parameters]
            if parameters:
                group.rule(parameters, gradients, states, self.learning_rate)

    def state_dict(self) -> dict[str, Any]:
        """As torch's, without the constants: the states by the index of their parameter, counted over all groups."""
        parameters = enumerate(parameter for group in self.groups for parameter in group.parameters)
        return {"state": {index: self.state[parameter] for index, parameter in parameters if parameter in self.state}}

    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        """The inverse of `state_dict`, also of torch's optimiser with the same rule.

        Raises:
            ValueError: The state is of another optimiser or of other parameters.
        """
        places = [(parameter, group) for group in self.groups for parameter in group.parameters]
        states = {}
        for index, state in saved["state"].items():
            if not 0 <= index < len(places) or set(state) != set(places[index][1].keys):
                raise ValueError(f"the optimiser's state of parameter {index} belongs to another optimiser")
            parameter, _ = places[index]
            if any(value.shape != (() if key == "step" else parameter.shape) for key, value in state.items()):
                raise ValueError(f"the optimiser's state of parameter {index} has another shape")
            states[parameter] = {
                key: value.to(parameter.device, torch.float32 if key == "step" else parameter.dtype)
                for key, value in state.items()
            }
        self.state = states

    def _state(self, parameter: Tensor, group: Group) -> State:
        """The state of a parameter; creates it at the first step."""
        if parameter not in self.state:
            self.state[parameter] = {
                key: torch.zeros((), device=parameter.device)
                if key == "step"
                else torch.full_like(parameter, group.first)
                for key in group.keys
            }
        return self.state[parameter]


_ADAM = ("step", "exp_avg", "exp_avg_sq")


def adam_rule(betas: tuple[float, float], epsilon: float) -> Rule:
    """torch.optim.Adam, fused."""

    def update(parameters: list[Tensor], gradients: list[Tensor], states: list[State], learning_rate: float) -> None:
        steps, averages, squares = ([state[key] for state in states] for key in _ADAM)
        torch._foreach_add_(steps, 1)
        torch._fused_adam_(
            *(parameters, gradients, averages, squares, [], steps),
            lr=learning_rate,
            beta1=betas[0],
            beta2=betas[1],
            weight_decay=0.0,
            eps=epsilon,
            amsgrad=False,
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


_MUON_MOMENTUM = 0.95
_MUON_COEFFICIENTS = (3.4445, -4.775, 2.0315)
"""Of the quintic Newton-Schulz iteration (Jordan et al. 2024)."""
_MUON_ITERATIONS = 3
"""With 5, GoToRedBallGrey and DoorKey-5x5 took as many frames."""


def muon_rule(precision: torch.dtype) -> Rule:
    """Muon (Jordan et al. 2024) with Nesterov momentum, for matrices [K, X]; of a convolution [K, C, h, w], X = C h w. The update is about
    the nearest orthogonal matrix to the momentum:

        m <- 0.95 m + 0.05 g,   w <- w - 0.2 lr sqrt(max(K, X)) orthogonal(0.95 m + 0.05 g)

    The factor gives it the usual size of Adam's update (Liu et al. 2025), so that one learning rate serves both. Its spectral norm is then
    0.2 lr sqrt(max(K, X)). Adam's reaches lr sqrt(K X) when the gradients of all samples agree, as they do along the mean of the inputs.
    Such updates saturate the gates of an LSTM (docs/performance.md).

    Args:
        precision: Of the iteration.
    """

    def update(parameters: list[Tensor], gradients: list[Tensor], states: list[State], learning_rate: float) -> None:
        momenta = [state["momentum_buffer"] for state in states]
        torch._foreach_lerp_(momenta, gradients, 1 - _MUON_MOMENTUM)
        directions = torch._foreach_lerp(gradients, momenta, _MUON_MOMENTUM)
        for parameter, direction in zip(parameters, directions, strict=True):
            matrix = direction.flatten(1)
            scale = 0.2 * learning_rate * math.sqrt(max(matrix.shape))
            parameter.sub_(orthogonalize(matrix.to(precision)).reshape(parameter.shape), alpha=scale)

    return update


def orthogonalize(matrix: Tensor) -> Tensor:
    """A matrix [K, X] with the same singular vectors, and singular values near 1: those above about 0.03 of the Frobenius norm are
    between 0.4 and 1.2."""
    a, b, c = _MUON_COEFFICIENTS
    is_tall = matrix.shape[0] > matrix.shape[1]
    x = matrix.t() if is_tall else matrix
    x = x / x.norm().clamp(min=1e-7)
    for _ in range(_MUON_ITERATIONS):
        gram = x @ x.t()
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.t() if is_tall else x


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
    matrices: Sequence[Tensor],
    learning_rate: float,
    rms_decay: float,
    epsilon: float,
    adam_betas: tuple[float, float],
    precision: torch.dtype,
) -> RuleOptimizer:
    """The optimiser with that name in OPTIMIZERS.

    Args:
        parameters: All that are trained.
        matrices: Those among them that `muon` orthogonalises, of two or more dimensions. The others have Adam's rule.
        learning_rate, rms_decay, epsilon, adam_betas: Constants of the rules.
        precision: See `muon_rule`.
    """
    adam = adam_rule(adam_betas, epsilon)
    if name == "muon":
        chosen = {id(matrix) for matrix in matrices}
        others = [parameter for parameter in parameters if id(parameter) not in chosen]
        groups = [Group(matrices, muon_rule(precision), ("momentum_buffer",)), Group(others, adam, _ADAM)]
    elif name == "rmsprop":
        groups = [Group(parameters, rmsprop_rule(rms_decay, epsilon), ("step", "square_avg"))]
    elif name == "rmsprop_tf":
        groups = [Group(parameters, rmsprop_tf_rule(rms_decay, epsilon), ("square_avg",), first=1.0)]
    else:
        groups = [Group(parameters, adam, _ADAM)]
    return RuleOptimizer(groups, learning_rate=learning_rate)


def total_norm(gradients: list[Tensor]) -> Tensor:
    """The Euclidean norm of all gradients, which are on one device, as of a single vector."""
    norm: Tensor = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))
    return norm
