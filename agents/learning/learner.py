"""The learner: one update of the parameters from one batch of trajectories."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from agents.learning import nonfinite
from agents.learning.nonfinite import NonFiniteError
from agents.learning.objective import BatchStatistics, Objective, Snapshot, sum_packed
from agents.learning.optimizers import build_optimizer, rate_share, total_norm
from agents.learning.popart import sigma
from agents.learning.prefetch import Prefetcher, Staged
from agents.trajectory import Trajectory
from system.words import count

if TYPE_CHECKING:
    from agents.learning.diagnostics.measurement import Diagnostics


class Counters(NamedTuple):
    """Updates made, updates refused as not finite, and agent steps that were real transitions."""

    updates: int = 0
    refused: int = 0
    steps: int = 0


class _Outcome(NamedTuple):
    """Results of one update that the host needs; see `Learner._read_outcome`."""

    is_finite: bool
    exceeds_max_norm: bool
    new_steps: int
    kl: float
    steps_by_task: list[float]
    surges: list[float]


class Learner:
    """Updates a network, batch by batch.

    Several learners, each with a shard of every batch's columns, make the updates that one learner makes with the whole batch. They
    start with equal weights and call `reduce` twice per update: for the sums behind PopArt's moments and the mean over valid steps
    (agents/learning/objective.py), and for the gradients.

    Args:
        objective: Its network is trained in place, on its device.
        total_steps: Agent steps after which the schedules of learning rate and entropy have ended.
        optimizer: A key of agents.learning.optimizers.OPTIMIZERS.
        learning_rate: The highest one of the schedule.
        schedule, warmup_steps: Of the learning rate, see agents.learning.optimizers.rate_share.
        rms_decay, epsilon, adam_betas: Constants of the optimiser.
        max_gradient_norm: Gradients are scaled down to this global norm.
        kl_bound: KL divergence from the behaviour policy above which `moved_too_far` holds; 0 = none.
        entropy_cost: Weight of the entropy at the start.
        entropy_final: Weight of the entropy after `total_steps`, to which it changes linearly.
        max_refused: Refused updates in a row that raise NonFiniteError.
        staging: Whether minibatches are prefetched to a GPU (agents/learning/prefetch.py).
        diagnostics: Measures the network of `objective` at some updates. None: at none.
        reduce: Replaces a tensor by its sum over all learners, in place. None with one learner.

    Attributes:
        prefetcher: Copies minibatches to the device.
        counters: Of updates and steps, over all learners.
        steps_by_task, surges: Of the last batch, over all learners (`BatchStatistics`); K numbers each.
        moved_too_far: Whether the last update measured a KL divergence above `kl_bound`; equal in all learners.
    """

    def __init__(
        self,
        objective: Objective,
        *,
        total_steps: int,
        optimizer: str,
        learning_rate: float,
        schedule: str,
        warmup_steps: int,
        rms_decay: float,
        epsilon: float,
        adam_betas: tuple[float, float],
        max_gradient_norm: float,
        kl_bound: float,
        entropy_cost: float,
        entropy_final: float,
        max_refused: int,
        staging: bool,
        diagnostics: Diagnostics | None = None,
        reduce: Callable[[Tensor], None] | None = None,
    ) -> None:
        self.objective, self.network, self.device = objective, objective.network, objective.device
        self.total_steps = total_steps
        self.learning_rate = learning_rate
        self.schedule, self.warmup_steps = schedule, warmup_steps
        self.max_gradient_norm = max_gradient_norm
        self.kl_bound = kl_bound
        self.entropy_cost = entropy_cost
        self.entropy_final = entropy_final
        self.max_refused = max_refused
        self.prefetcher = Prefetcher(self.network.context_encoder, self.device, asynchronous=staging)
        self.counters = Counters()
        num_tasks = len(objective.popart.mu)
        self.steps_by_task, self.surges = [0.0] * num_tasks, [0.0] * num_tasks
        self.moved_too_far = False
        self.diagnostics = diagnostics
        self._reduce = reduce
        # Parameters that need no gradient are set by other means (agents/network/normalizer.py).
        self._parameters = [parameter for parameter in self.network.parameters() if parameter.requires_grad]
        self._refused_in_a_row: deque[dict[str, float]] = deque(maxlen=max_refused)
        self.optimizer = build_optimizer(
            optimizer,
            self._parameters,
            matrices=self.network.trunk_matrices,
            learning_rate=learning_rate,
            rms_decay=rms_decay,
            epsilon=epsilon,
            adam_betas=adam_betas,
            precision=objective.autocast or torch.float32,
        )

    def step(self, batch: Trajectory, *, num_new: int | None = None) -> dict[str, Tensor]:
        """`update` from a batch [T+1, B] in host memory. Its first `num_new` columns are new; None: all of them."""
        return self.update(self.prefetcher.stage(batch, num_new))

    def update(self, staged: Staged) -> dict[str, Tensor]:
        """One update from a staged batch, which is this learner's shard if there are several learners.

        The update learns from every column, and PopArt's moments include every column. Only new columns (`Staged.num_new`) count as
        steps and move the moments of observations. New columns also decide whether a surge repeats an earlier one
        (agents.learning.popart.bounded_update).

        Returns:
            Scalars for the log, still on the device. An update whose loss, gradient or moments are not finite is refused: it is
            counted, and parameters, optimiser and PopArt stay unchanged.

        Raises:
            NonFiniteError: `max_refused` updates in a row were refused.
            Whatever `reduce` raises; the learner is then unchanged.
        """
        before = self.objective.snapshot()
        loss, metrics, targets = self.objective(staged, self.current_entropy_cost)
        statistics = targets.statistics
        self.optimizer.learning_rate = self.current_learning_rate
        for parameter in self._parameters:
            parameter.grad = None
        loss.backward()
        if self._reduce:
            try:
                metrics = self._reduce_gradients(metrics, self._reduce)
            except BaseException:
                self.objective.restore(before)
                raise
        norm = total_norm([parameter.grad for parameter in self._parameters if parameter.grad is not None])
        outcome = self._read_outcome(norm, metrics, statistics)
        self.steps_by_task, self.surges = outcome.steps_by_task, outcome.surges
        self.moved_too_far = 0 < self.kl_bound < outcome.kl
        if not outcome.is_finite:
            self._refuse(before, staged.batch, metrics | {"loss/gradient_norm": norm})
            return metrics
        if self.diagnostics and self.diagnostics.is_due(self.counters.updates):
            self.diagnostics.measure(staged, targets, self.current_entropy_cost)
        if outcome.exceeds_max_norm:
            torch.nn.utils.clip_grads_with_norm_(self._parameters, self.max_gradient_norm, norm, foreach=True)
        self.optimizer.step()
        if self.network.normalizer is not None and statistics.observation_moments is not None:
            self.network.normalizer.take(statistics.observation_moments)
        self._refused_in_a_row.clear()
        self.counters = self.counters._replace(
            updates=self.counters.updates + 1, steps=self.counters.steps + outcome.new_steps
        )
        metrics |= {"loss/gradient_norm": norm, "loss/learning_rate": torch.tensor(self.current_learning_rate)}
        return metrics

    def _read_outcome(self, norm: Tensor, metrics: dict[str, Tensor], statistics: BatchStatistics) -> _Outcome:
        """Copies to the host what an update needs there. One tensor holds all of it, because each copy from a GPU synchronizes."""
        # The moments overflow before the loss does: nu holds squares of targets, and the loss has targets divided by sigma.
        moments = (self.objective.popart.mu, self.objective.popart.nu, *(statistics.observation_moments or ()))
        finite = [norm, metrics["loss/total"], *moments]
        is_finite = torch.isfinite(torch.cat([value.flatten() for value in finite])).all()
        flags = torch.stack([is_finite, norm > self.max_gradient_norm])
        kl = metrics.get("loss/kl", torch.zeros_like(norm))
        counts = [statistics.new_steps.reshape(1), kl.reshape(1), statistics.steps_by_task, statistics.surges]
        packed = torch.cat([flags.to(statistics.new_steps.dtype), *counts]).tolist()
        num_tasks = len(statistics.surges)
        return _Outcome(
            bool(packed[0]), bool(packed[1]), int(packed[2]), packed[3], packed[4 : 4 + num_tasks], packed[-num_tasks:]
        )

    @property
    def current_learning_rate(self) -> float:
        """The learning rate of the schedule now."""
        return self.learning_rate * rate_share(self.schedule, self.counters.steps, self.total_steps, self.warmup_steps)

    @property
    def current_entropy_cost(self) -> float:
        """The weight of the entropy after annealing."""
        return self.entropy_final + (self.entropy_cost - self.entropy_final) * self._share_left()

    def _share_left(self) -> float:
        """The share of `total_steps` that is left."""
        return max(0.0, 1 - self.counters.steps / self.total_steps)

    def _reduce_gradients(self, metrics: dict[str, Tensor], reduce: Callable[[Tensor], None]) -> dict[str, Tensor]:
        """Sums gradients, in place, and `metrics` over all learners. The loss terms are already divided by the whole batch's steps."""
        # The network alone determines which parameters have a gradient, so all learners pack the same ones.
        gradients = {parameter: parameter.grad for parameter in self._parameters if parameter.grad is not None}
        totals = sum_packed([*gradients.values(), *metrics.values()], reduce)
        for parameter, total in zip(gradients, totals[: len(gradients)], strict=True):
            parameter.grad = total
        # Copies, because the log would keep the memory of all gradients.
        return {key: total.clone() for key, total in zip(metrics, totals[len(gradients) :], strict=True)}

    def _refuse(self, before: Snapshot, batch: Trajectory, metrics: dict[str, Tensor]) -> None:
        """Restores PopArt and counts the refusal. Raises NonFiniteError after `max_refused` of them in a row."""
        refused = self.objective.popart
        self.objective.restore(before)
        self.counters = self.counters._replace(refused=self.counters.refused + 1)
        self._refused_in_a_row.append({key: float(value) for key, value in metrics.items()})
        if len(self._refused_in_a_row) == self.max_refused:
            last = self._refused_in_a_row[-1]
            raise NonFiniteError(
                f"{count(self.max_refused, 'update')} in a row without finite numbers (last: loss {last['loss/total']}, gradient norm "
                f"{last['loss/gradient_norm']}): "
                f"lower learner.learning_rate={self.learning_rate} or learner.max_gradient_norm={self.max_gradient_norm}.",
                {
                    "counters": self.counters._asdict(),
                    "learning_rate": self.current_learning_rate,
                    "refused": list(self._refused_in_a_row),
                    "gradients": nonfinite.gradients(self.network),
                    "batch": nonfinite.arrays({key: value.cpu() for key, value in batch.items()}),
                    "steps_by_task": nonfinite.steps_by_task(batch, len(refused.mu)),
                    "popart": {
                        "mu": before.popart.mu.tolist(),
                        "sigma": sigma(before.popart).tolist(),
                        "refused_mu": refused.mu.tolist(),
                        "refused_nu": refused.nu.tolist(),
                    },
                },
            )

    def check_finite(self) -> None:
        """Raises NonFiniteError if a parameter, or a moment of PopArt or of the optimiser, is not finite: no run can resume from it."""
        popart = self.objective.popart
        named = dict(self.network.state_dict()) | {"popart.mu": popart.mu, "popart.nu": popart.nu}
        for name, parameter in self.network.named_parameters():
            state = self.optimizer.state.get(parameter, {})
            named |= {f"optimizer.{key} of {name}": value for key, value in state.items() if torch.is_tensor(value)}
        if broken := nonfinite.not_finite(named):
            raise NonFiniteError(
                f"numbers that are not finite in {count(len(broken), 'tensor')} of the learner, the first one {broken[0]}: lower "
                f"learner.learning_rate={self.learning_rate} or learner.max_gradient_norm={self.max_gradient_norm}.",
                {"counters": self.counters._asdict(), "not_finite": broken},
            )

    def state_dict(self) -> dict[str, Any]:
        """Parameters, optimiser, PopArt and counters: tensors and plain data."""
        return {
            "network": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "popart": self.objective.state_dict(),
            "counters": self.counters._asdict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse of `state_dict`.

        Raises:
            KeyError, ValueError, RuntimeError: `state` is of a different network, optimiser or number of tasks.
        """
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.objective.load_state_dict(state["popart"])
        self.counters = Counters(**{name: int(state["counters"][name]) for name in Counters._fields})
