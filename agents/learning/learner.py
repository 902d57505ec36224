"""The learner: one update of the parameters from one batch of trajectories."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from agents.learning import losses, nonfinite
from agents.learning.advantages import normalize_advantages
from agents.learning.compile import Compiled
from agents.learning.optimizers import build_optimizer, check_moments, rate_share
from agents.learning.popart import (
    MOST_COUNTED,
    SURGE_CLIP,
    SURGE_MEMORY,
    PopArt,
    bounded_update,
    initial_popart,
    rescale_head,
    sigma,
    target_sums,
)
from agents.learning.prefetch import Prefetcher, Staged
from agents.learning.rewards import transform_rewards
from agents.learning.vtrace import vtrace
from agents.network.agent import AgentNetwork
from agents.network.normalizer import Moments
from agents.trajectory import Trajectory


class NonFiniteError(RuntimeError):
    """Too many updates in a row were not finite, or the learner itself is not finite. Refused updates leave the learner unchanged.

    Attributes:
        diagnosis: What was not finite, as plain data.
    """

    def __init__(self, message: str, diagnosis: dict[str, Any]) -> None:
        super().__init__(message)
        self.diagnosis = diagnosis


class Counters(NamedTuple):
    """Updates made, updates refused as not finite, and agent steps that were real transitions."""

    updates: int = 0
    refused: int = 0
    steps: int = 0


class LastUpdate(NamedTuple):
    """Tensors of an update for the log, constants, [T, B] each.

    Attributes:
        log_rhos: Log pi(a|x) - log mu(a|x), before the update.
        values: V(x_s), in units of the reward.
        baseline, targets: Output and target of the value head, normalised by PopArt.
        mask: bool, False where a step is no transition. A copy, because later batches may use the same memory.
    """

    log_rhos: Tensor
    values: Tensor
    baseline: Tensor
    targets: Tensor
    mask: Tensor


class _LossInputs(NamedTuple):
    """Inputs of the losses of one batch, and its counts. Counts include the columns of all learners.

    Attributes:
        targets, advantages: Normalised by PopArt, [T, B].
        new_steps: Valid steps of new columns; a scalar.
        steps_by_task: Valid steps of each task, [K].
        surges: See `Learner.surges`, [K].
        observation_moments: The moments of observations after this batch; None without a normalizer.
        log_rhos, values: See LastUpdate.
    """

    targets: Tensor
    advantages: Tensor
    new_steps: Tensor
    steps_by_task: Tensor
    surges: Tensor
    observation_moments: Moments | None
    log_rhos: Tensor
    values: Tensor


class _PolicyLoss(NamedTuple):
    """The loss of the policy, a sum over steps, and the sums of `clipped_surrogate_loss` for the log; empty for `impala`."""

    loss: Tensor
    sums: dict[str, Tensor]


class _Outcome(NamedTuple):
    """Results of one update that the host needs; see `Learner._read_outcome`."""

    is_finite: bool
    exceeds_max_norm: bool
    new_steps: int
    kl: float
    steps_by_task: list[float]
    surges: list[float]


class Learner:
    """IMPALA's learner with V-trace and per-task PopArt.

    Several learners, each with a shard of every batch's columns, make the updates that one learner makes with the whole batch. They
    start with equal weights and call `reduce` twice per update: for the sums behind PopArt's moments and the mean over valid steps,
    and for the gradients.

    Args:
        network: Trained in place, on its device.
        num_tasks: K.
        total_steps: Agent steps after which the schedules of learning rate and entropy have ended.
        optimizer: A key of agents.learning.optimizers.OPTIMIZERS.
        learning_rate: The highest one of the schedule.
        schedule, warmup_steps: Of the learning rate, see agents.learning.optimizers.rate_share.
        loss: A name in agents.learning.losses.LOSSES.
        clip_ratio: c of `appo`.
        kl_bound: KL divergence from the behaviour policy above which `moved_too_far` holds; 0 = none.
        normalize_advantage: A name in agents.learning.advantages.NORMALIZATIONS.
        rms_decay, epsilon, adam_betas: Constants of the optimiser.
        max_gradient_norm: Gradients are scaled down to this global norm.
        discounting: Gamma.
        baseline_cost, entropy_cost: Weights of the loss terms. The policy's loss has weight 1.
        entropy_final: Weight of the entropy after `total_steps`, to which it changes linearly.
        reward_transform, reward_clip: See agents/learning/rewards.py.
        reduction: `mean` over valid steps, or `sum` over steps and columns as in the IMPALA paper.
        popart: Whether value targets are normalised per task.
        popart_step_size: Beta of PopArt's moments.
        popart_warm: Whether the first moments are plain means (agents.learning.popart.warm_step_size).
        clip_rho, clip_c, clip_pg_rho, lambda_: Constants of V-trace.
        pg_bootstrap: One of agents.learning.vtrace.PG_BOOTSTRAPS.
        max_refused: Refused updates in a row that raise NonFiniteError.
        autocast: Dtype of torso and core; None for full precision.
        compile: Whether torso and V-trace are compiled (agents/learning/compile.py).
        staging: Whether minibatches are prefetched to a GPU (agents/learning/prefetch.py).
        reduce: Replaces a tensor by its sum over all learners, in place. None with one learner.

    Attributes:
        prefetcher: Copies minibatches to the device.
        counters: Of updates and steps, over all learners.
        steps_by_task: Valid steps of each task in the last batch, over all learners; K numbers.
        surges: For each task with a surge in the last batch, the root mean square of its targets in standard deviations, else 0;
            K numbers. See agents.learning.popart.bounded_update.
        last: Tensors of the last update, from which the log computes its figures (agents/run/diagnostics.py).
        moved_too_far: Whether the last update measured a KL divergence above `kl_bound`; equal in all learners.
    """

    def __init__(
        self,
        network: AgentNetwork,
        num_tasks: int,
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
        discounting: float,
        loss: str,
        clip_ratio: float,
        kl_bound: float,
        normalize_advantage: str,
        baseline_cost: float,
        entropy_cost: float,
        entropy_final: float,
        reward_transform: str,
        reward_clip: float,
        reduction: str,
        popart: bool,
        popart_step_size: float,
        popart_warm: bool,
        clip_rho: float,
        clip_c: float,
        clip_pg_rho: float,
        lambda_: float,
        pg_bootstrap: str,
        max_refused: int,
        autocast: torch.dtype | None,
        compile: bool,
        staging: bool,
        reduce: Callable[[Tensor], None] | None = None,
    ) -> None:
        self.network = network
        self.total_steps = total_steps
        self.learning_rate = learning_rate
        self.schedule, self.warmup_steps = schedule, warmup_steps
        self.max_gradient_norm = max_gradient_norm
        self.discounting = discounting
        self.baseline_cost = baseline_cost
        self.loss, self.clip_ratio, self.kl_bound = loss, clip_ratio, kl_bound
        self.normalize_advantage = normalize_advantage
        self.entropy_cost = entropy_cost
        self.entropy_final = entropy_final
        self.reduction = reduction
        self.use_popart = popart
        self.popart_step_size, self.popart_warm = popart_step_size, popart_warm
        self.max_refused = max_refused
        self.autocast = autocast
        self.device = next(network.parameters()).device
        self.prefetcher = Prefetcher(network.context_encoder, self.device, asynchronous=staging)
        self.counters = Counters()
        self.popart = initial_popart(num_tasks, self.device)
        self.steps_by_task, self.surges = [0.0] * num_tasks, [0.0] * num_tasks
        self.moved_too_far = False
        self._torso = Compiled(network.torso) if compile else network.torso
        self._transform_rewards = partial(transform_rewards, kind=reward_transform, clip=reward_clip)
        self._vtrace = partial(
            Compiled(vtrace) if compile else vtrace,
            clip_rho=clip_rho,
            clip_c=clip_c,
            # The surrogate has its own ratio.
            clip_pg_rho=clip_pg_rho if loss == "impala" else None,
            lambda_=lambda_,
            mixed=pg_bootstrap == "mixed",
        )
        self._reduce = reduce
        self.clip_rho = clip_rho
        self.last: LastUpdate | None = None
        # Parameters that need no gradient are set by other means (agents/network/normalizer.py).
        self._parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
        self._refused_in_a_row: deque[dict[str, float]] = deque(maxlen=max_refused)
        self._optimizer_name = optimizer
        self.optimizer = build_optimizer(
            optimizer,
            self._parameters,
            learning_rate=learning_rate,
            rms_decay=rms_decay,
            epsilon=epsilon,
            adam_betas=adam_betas,
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
        before = self._popart_snapshot()
        loss, metrics, inputs = self._loss(staged)
        for group in self.optimizer.param_groups:
            group["lr"] = self.current_learning_rate
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        if self._reduce:
            try:
                metrics = self._reduce_gradients(metrics, self._reduce)
            except BaseException:
                self._restore_popart(before)
                raise
        gradients = [parameter.grad for parameter in self._parameters if parameter.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients, foreach=True)
        outcome = self._read_outcome(norm, metrics, inputs)
        self.steps_by_task, self.surges = outcome.steps_by_task, outcome.surges
        self.moved_too_far = 0 < self.kl_bound < outcome.kl
        if not outcome.is_finite:
            self._refuse(before, staged.batch, metrics | {"loss/gradient_norm": norm})
            return metrics
        if outcome.exceeds_max_norm:
            torch.nn.utils.clip_grads_with_norm_(self._parameters, self.max_gradient_norm, norm, foreach=True)
        self.optimizer.step()
        if self.network.normalizer is not None and inputs.observation_moments is not None:
            self.network.normalizer.take(inputs.observation_moments)
        self._refused_in_a_row.clear()
        self.counters = self.counters._replace(
            updates=self.counters.updates + 1, steps=self.counters.steps + outcome.new_steps
        )
        metrics |= {"loss/gradient_norm": norm, "loss/learning_rate": torch.tensor(self.current_learning_rate)}
        return metrics

    def _read_outcome(self, norm: Tensor, metrics: dict[str, Tensor], inputs: _LossInputs) -> _Outcome:
        """Copies to the host what an update needs there. One tensor holds all of it, because each copy from a GPU synchronizes."""
        # The moments overflow before the loss does: nu holds squares of targets, and the loss has targets divided by sigma.
        moments = [moment.flatten() for moment in (self.popart.mu, self.popart.nu, *(inputs.observation_moments or ()))]
        is_finite = torch.isfinite(torch.cat([norm.reshape(1), metrics["loss/total"].reshape(1), *moments])).all()
        flags = torch.stack([is_finite, norm > self.max_gradient_norm])
        kl = metrics.get("loss/kl", torch.zeros_like(norm))
        counts = [inputs.new_steps.reshape(1), kl.reshape(1), inputs.steps_by_task, inputs.surges]
        packed = torch.cat([flags.to(inputs.new_steps.dtype), *counts]).tolist()
        num_tasks = len(inputs.surges)
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

    def _loss(self, staged: Staged) -> tuple[Tensor, dict[str, Tensor], _LossInputs]:
        """Returns the loss, scalars for the log, and the inputs of the loss. Moves PopArt's moments."""
        batch, contexts, segments, _ = staged
        mask, task = batch["mask"], batch["task"].long()
        with torch.autocast(self.device.type, self.autocast, enabled=self.autocast is not None):
            modulations = self.network.condition(contexts, samples=len(segments.index))
            output = self.network.unroll(
                batch, batch["core_state"], modulations, segments, final_state=False, torso=self._torso
            )
        features = output.value_features.float()
        actions = self.network.actions
        policy = actions.parameters(output.policy_logits[:-1])
        log_probs = actions.log_prob(policy, batch["action"])
        inputs = self._make_loss_inputs(staged, features, log_probs)
        # After the targets, which rescale the value head.
        baseline = self.network.value_head(features[:-1], task[:-1])
        self.last = LastUpdate(inputs.log_rhos, inputs.values, baseline.detach(), inputs.targets, mask.clone())
        num_steps = inputs.steps_by_task.sum().clamp(min=1)
        divisor = num_steps if self.reduction == "mean" else torch.ones(())
        policy_loss, sums = self._policy_loss(log_probs, batch["behaviour_log_probs"], inputs.advantages, mask)
        policy_loss = policy_loss / divisor
        value_loss = losses.baseline_loss(baseline, inputs.targets, mask) / divisor
        entropy = actions.entropy(policy).masked_fill(~mask, 0.0).sum() / divisor
        loss = policy_loss + self.baseline_cost * value_loss - self.current_entropy_cost * entropy
        metrics = {
            "loss/total": loss.detach(),
            "loss/policy": policy_loss.detach(),
            "loss/baseline": value_loss.detach(),
            "loss/entropy": entropy.detach(),
            # Means with either reduction, so that `kl_bound` does not depend on the size of the batch.
            **{f"loss/{name}": total / num_steps for name, total in sums.items()},
        }
        return loss, metrics, inputs

    def _policy_loss(
        self, log_probs: Tensor, behaviour_log_probs: Tensor, advantages: Tensor, mask: Tensor
    ) -> _PolicyLoss:
        if self.loss == "impala":
            return _PolicyLoss(losses.policy_gradient_loss(log_probs, advantages, mask), {})
        ratios = log_probs - behaviour_log_probs
        result = losses.clipped_surrogate_loss(ratios, advantages, mask, clip_ratio=self.clip_ratio)
        return _PolicyLoss(result.loss, {"kl": result.kl, "clipped": result.clipped})

    @torch.no_grad()
    def _make_loss_inputs(self, staged: Staged, features: Tensor, log_probs: Tensor) -> _LossInputs:
        """V-trace on unnormalised values, then one step of PopArt's moments, then normalisation by the moved moments.

        Args:
            features: Of the value head, [T+1, B, F].
            log_probs: Of the actions by the present policy, [T, B].
        """
        batch, num_new = staged.batch, staged.num_new
        mask, task = batch["mask"], batch["task"].long()
        deviation = sigma(self.popart)
        values = deviation[task] * self.network.value_head(features, task) + self.popart.mu[task]
        log_rhos = log_probs - batch["behaviour_log_probs"]
        vs, advantages = self._vtrace(
            log_rhos,
            self.discounting * (~batch["terminated"]).float(),
            self._transform_rewards(batch["reward"]),
            values[:-1],
            values[-1],
            mask,
        )
        task, new_mask = task[:-1], mask[:, :num_new]
        normalizer, num_tasks = self.network.normalizer, len(self.popart.mu)
        sums = new_sums = target_sums(vs, task, mask, num_tasks)
        if new_mask.shape != mask.shape:
            new_sums = target_sums(vs[:, :num_new], task[:, :num_new], new_mask, num_tasks)
        observation_sums = sums.new_empty(0)
        if normalizer is not None:
            observation_sums = normalizer.sums(batch["vector"][:-1, :num_new], task[:, :num_new], new_mask)
        normalizes = self.normalize_advantage != "none"
        advantage_sums = target_sums(advantages, task, mask, num_tasks) if normalizes else sums.new_empty(0)
        sums, new_sums, observation_sums, advantage_sums = self._reduce_sums(
            sums, new_sums, observation_sums, advantage_sums
        )
        surges = torch.zeros_like(sums[0])
        if self.use_popart:
            moments, surges = bounded_update(self.popart, sums, new_sums, self.popart_step_size, warm=self.popart_warm)
            deviation = self._set_popart(moments, deviation)
        scale, shift = deviation[task], self.popart.mu[task]
        advantages = advantages / scale
        if normalizes:
            advantages = normalize_advantages(
                advantages, task, advantage_sums, deviation, by_task=self.normalize_advantage == "task"
            )
        # Without this bound, the outliers of a surge would decide the whole update.
        bound = torch.full_like(surges, math.inf).masked_fill(surges > 0, SURGE_CLIP)[task]
        return _LossInputs(
            targets=torch.clamp((vs - shift) / scale, -bound, bound),
            advantages=torch.clamp(advantages, -bound, bound),
            new_steps=new_sums[0].sum(),
            steps_by_task=sums[0],
            surges=surges,
            observation_moments=None if normalizer is None else normalizer.updated(observation_sums),
            log_rhos=log_rhos,
            values=values[:-1],
        )

    def _reduce_sums(self, *parts: Tensor) -> list[Tensor]:
        """Turns sums over this learner's columns into sums over the whole batch."""
        if not self._reduce:
            return list(parts)
        # Counts are exact in double precision.
        totals = _reduce_packed([part.double() for part in parts], self._reduce)
        return [total.to(part.dtype) for total, part in zip(totals, parts, strict=True)]

    def _reduce_gradients(self, metrics: dict[str, Tensor], reduce: Callable[[Tensor], None]) -> dict[str, Tensor]:
        """Sums gradients, in place, and `metrics` over all learners. The loss terms are already divided by the whole batch's steps."""
        # The network alone determines which parameters have a gradient, so all learners pack the same ones.
        gradients = {parameter: parameter.grad for parameter in self._parameters if parameter.grad is not None}
        totals = _reduce_packed([*gradients.values(), *metrics.values()], reduce)
        for parameter, total in zip(gradients, totals[: len(gradients)], strict=True):
            parameter.grad = total
        return dict(zip(metrics, totals[len(gradients) :], strict=True))

    def _set_popart(self, new: PopArt, old_sigma: Tensor) -> Tensor:
        """Sets PopArt's moments and rescales the head so that its outputs stay equal. Returns the new sigma, [K]."""
        old, head, new_sigma = self.popart, self.network.value_head, sigma(new)
        rescale_head(head.weight, head.bias, old.mu, old_sigma, new.mu, new_sigma)
        self.popart = new
        return new_sigma

    def _popart_snapshot(self) -> tuple[PopArt, Tensor, Tensor]:
        """PopArt's moments, and copies of the weight and bias of the value head, for `_restore_popart`."""
        head = self.network.value_head
        return self.popart, head.weight.detach().clone(), head.bias.detach().clone()

    @torch.no_grad()
    def _restore_popart(self, snapshot: tuple[PopArt, Tensor, Tensor]) -> None:
        self.popart, weight, bias = snapshot
        self.network.value_head.weight.copy_(weight)
        self.network.value_head.bias.copy_(bias)

    def _refuse(self, before: tuple[PopArt, Tensor, Tensor], batch: Trajectory, metrics: dict[str, Tensor]) -> None:
        """Restores PopArt and counts the refusal. Raises NonFiniteError after `max_refused` of them in a row."""
        refused = self.popart
        self._restore_popart(before)
        self.counters = self.counters._replace(refused=self.counters.refused + 1)
        self._refused_in_a_row.append({key: float(value) for key, value in metrics.items()})
        if len(self._refused_in_a_row) == self.max_refused:
            last = self._refused_in_a_row[-1]
            raise NonFiniteError(
                f"{self.max_refused} updates in a row were not finite (last: loss {last['loss/total']}, gradient norm "
                f"{last['loss/gradient_norm']}): "
                f"lower learner.learning_rate={self.learning_rate} or learner.max_gradient_norm={self.max_gradient_norm}.",
                {
                    "counters": self.counters._asdict(),
                    "learning_rate": self.current_learning_rate,
                    "refused": list(self._refused_in_a_row),
                    "gradients": nonfinite.gradients(self.network),
                    "batch": nonfinite.arrays({key: value.cpu() for key, value in batch.items()}),
                    "steps_by_task": nonfinite.steps_by_task(batch, len(self.popart.mu)),
                    "popart": {
                        "mu": self.popart.mu.tolist(),
                        "sigma": sigma(self.popart).tolist(),
                        "refused_mu": refused.mu.tolist(),
                        "refused_nu": refused.nu.tolist(),
                    },
                },
            )

    def check_finite(self) -> None:
        """Raises NonFiniteError if a parameter, or a moment of PopArt or of the optimiser, is not finite: no run can resume from it."""
        named = dict(self.network.state_dict()) | {"popart.mu": self.popart.mu, "popart.nu": self.popart.nu}
        for name, parameter in self.network.named_parameters():
            state = self.optimizer.state.get(parameter, {})
            named |= {f"optimizer.{key} of {name}": value for key, value in state.items() if torch.is_tensor(value)}
        if broken := nonfinite.not_finite(named):
            raise NonFiniteError(
                f"{len(broken)} tensors of the learner are not finite, among them {broken[0]}: lower "
                f"learner.learning_rate={self.learning_rate} or learner.max_gradient_norm={self.max_gradient_norm}.",
                {"counters": self.counters._asdict(), "not_finite": broken},
            )

    def state_dict(self) -> dict[str, Any]:
        """Parameters, optimiser, PopArt and counters: tensors and plain data."""
        return {
            "network": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "popart": {
                "mu": self.popart.mu,
                "nu": self.popart.nu,
                "calm": self.popart.updates_since_surge,
                "updates": self.popart.updates,
            },
            "counters": self.counters._asdict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse of `state_dict`.

        Raises:
            KeyError, ValueError, RuntimeError: `state` is of a different network, optimiser or number of tasks.
        """
        self.network.load_state_dict(state["network"])
        moments = state["optimizer"]["state"]
        check_moments(moments, self.optimizer, self._optimizer_name)
        # The constants come from the configuration, not from the checkpoint.
        self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": moments})
        saved = state["popart"]
        # Old checkpoints have neither `calm` nor `updates`.
        since_surge = saved.get("calm", torch.full_like(saved["mu"], SURGE_MEMORY))
        updates = saved.get("updates", torch.full_like(saved["mu"], MOST_COUNTED))
        popart = PopArt(saved["mu"], saved["nu"], since_surge, updates)
        if any(moment.shape != own.shape for moment, own in zip(popart, self.popart, strict=True)):
            raise ValueError(f"PopArt has moments of {len(popart.mu)} tasks, not {len(self.popart.mu)}")
        self.popart = PopArt(*(moment.to(self.device, torch.float32) for moment in popart))
        self.counters = Counters(**{name: int(state["counters"][name]) for name in Counters._fields})


def _reduce_packed(parts: Sequence[Tensor], reduce: Callable[[Tensor], None]) -> list[Tensor]:
    """Sums tensors of one dtype over all learners in one call of `reduce`. Returns the sums."""
    packed = torch.cat([part.flatten() for part in parts])
    reduce(packed)
    totals = packed.split([part.numel() for part in parts])
    return [total.view_as(part) for total, part in zip(totals, parts, strict=True)]
