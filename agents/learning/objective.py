"""The objective of an update: forward pass, V-trace, PopArt and losses of one batch."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from agents.learning import losses
from agents.learning.compile import Compiled
from agents.learning.popart import (
    MOST_COUNTED,
    SURGE_CLIP,
    SURGE_MEMORY,
    PopArt,
    bounded_update,
    initial_popart,
    move_support,
    rescale_head,
    sigma,
    target_sums,
)
from agents.learning.prefetch import Staged
from agents.learning.rewards import transform_rewards
from agents.learning.vtrace import vtrace
from agents.network.agent import AgentNetwork
from agents.network.heads import HistogramHead
from agents.network.normalizer import Moments
from system.words import count


class BatchStatistics(NamedTuple):
    """Statistics of one batch over all learners.

    Attributes:
        new_steps: Valid steps of new columns; a scalar.
        steps_by_task: Valid steps of each task, [K].
        surges: For each task with a surge, the root mean square of its targets in standard deviations, else 0, [K]. See
            agents.learning.popart.bounded_update.
        observation_moments: The moments of observations after this batch; None without a normalizer.
    """

    new_steps: Tensor
    steps_by_task: Tensor
    surges: Tensor
    observation_moments: Moments | None


class LastUpdate(NamedTuple):
    """Tensors of a batch for the log, constants, [T, B] each.

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


class Targets(NamedTuple):
    """Constants in the losses of one batch, [T, B] each.

    Attributes:
        baseline, advantages: Targets of the baseline, and advantages, normalised by PopArt.
        log_rhos, values: See LastUpdate.
    """

    baseline: Tensor
    advantages: Tensor
    log_rhos: Tensor
    values: Tensor
    statistics: BatchStatistics


class Evaluation(NamedTuple):
    """The objective of one batch.

    Attributes:
        loss: With gradient. The losses of several learners add up to that of the whole batch, and so do their metrics.
        metrics: Scalars for the log.
    """

    loss: Tensor
    metrics: dict[str, Tensor]
    targets: Targets


class _Forward(NamedTuple):
    """What the network makes of a batch, with gradient.

    Attributes:
        policy: Parameters of the action distributions, [T, B, P].
        log_probs: Of the actions by the present policy, [T, B].
        features: Of the value head, [T+1, B, F].
    """

    policy: Tensor
    log_probs: Tensor
    features: Tensor


class Snapshot(NamedTuple):
    """What `Objective.__call__` changes: PopArt's moments, and the tensors of the value head."""

    popart: PopArt
    head: dict[str, Tensor]


class Objective:
    """The loss of IMPALA or APPO with V-trace and per-task PopArt.

    Args:
        network: The value head is rescaled whenever PopArt's moments move.
        num_tasks: K.
        discounting: Gamma.
        loss: A name in agents.learning.losses.LOSSES.
        clip_ratio: c of `appo`.
        normalize_advantage: A name in agents.learning.losses.NORMALIZATIONS.
        baseline_cost: Weight of the baseline's loss. The policy's loss has weight 1.
        reward_transform, reward_clip: See agents/learning/rewards.py.
        reduction: `mean` over valid steps, or `sum` over steps and columns as in the IMPALA paper.
        popart: Whether value targets are normalised per task.
        popart_step_size: Beta of PopArt's moments.
        popart_warm: Whether the first moments are plain means (agents.learning.popart.warm_step_size).
        clip_rho, clip_c, clip_pg_rho, lambda_: Constants of V-trace.
        pg_bootstrap: One of agents.learning.vtrace.PG_BOOTSTRAPS.
        autocast: Dtype of torso and core; None for full precision.
        compile: Whether torso and V-trace are compiled (agents/learning/compile.py).
        reduce: Replaces a tensor by its sum over all learners, in place. None with one learner.

    Attributes:
        popart: Moments of the value targets.
        last: Tensors of the last batch, from which the log computes its figures (agents/run/diagnostics.py).
    """

    def __init__(
        self,
        network: AgentNetwork,
        num_tasks: int,
        *,
        discounting: float,
        loss: str,
        clip_ratio: float,
        normalize_advantage: str,
        baseline_cost: float,
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
        autocast: torch.dtype | None,
        compile: bool,
        reduce: Callable[[Tensor], None] | None = None,
    ) -> None:
        self.network = network
        self.discounting = discounting
        self.loss, self.clip_ratio = loss, clip_ratio
        self.normalize_advantage = normalize_advantage
        self.baseline_cost = baseline_cost
        self.reduction = reduction
        self.use_popart = popart
        self.popart_step_size, self.popart_warm = popart_step_size, popart_warm
        self.clip_rho = clip_rho
        self.autocast = autocast
        self.device = next(network.parameters()).device
        self.popart = initial_popart(num_tasks, self.device)
        self.last: LastUpdate | None = None
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

    def __call__(self, staged: Staged, entropy_cost: float) -> Evaluation:
        """The loss of a batch, with `entropy_cost` as the weight of the entropy. Moves PopArt's moments."""
        forward, mask = self._forward(staged, self._torso), staged.batch["mask"]
        targets = self._make_targets(staged, forward.features, forward.log_probs)
        # After the targets, which rescale the value head.
        loss, metrics, baseline = self._loss(staged, forward, targets, mask, entropy_cost)
        self.last = LastUpdate(targets.log_rhos, targets.values, baseline.detach(), targets.baseline, mask.clone())
        return Evaluation(loss, metrics, targets)

    def loss_of_steps(self, staged: Staged, targets: Targets, entropy_cost: float) -> Callable[[Tensor], Tensor]:
        """The loss of a batch as a function of the steps that count, bool [T, B]. It is a sum over them: `mask` gives that of the update.

        The network runs once more, uncompiled. Nothing else changes.
        """
        forward = self._forward(staged, self.network.torso)
        return lambda steps: self._loss(staged, forward, targets, steps, entropy_cost)[0]

    def _forward(self, staged: Staged, torso: Callable[..., Tensor]) -> _Forward:
        batch, contexts, segments, _ = staged
        with torch.autocast(self.device.type, self.autocast, enabled=self.autocast is not None):
            modulations = self.network.condition(contexts, samples=len(segments.index))
            output = self.network.unroll(
                batch, batch["core_state"], modulations, segments, final_state=False, torso=torso
            )
        actions = self.network.actions
        policy = actions.parameters(output.policy_logits[:-1])
        return _Forward(policy, actions.log_prob(policy, batch["action"]), output.value_features.float())

    def _loss(
        self, staged: Staged, forward: _Forward, targets: Targets, steps: Tensor, entropy_cost: float
    ) -> tuple[Tensor, dict[str, Tensor], Tensor]:
        """The loss of `steps`, bool [T, B], its terms for the log, and the normalised baseline [T, B]."""
        batch, task = staged.batch, staged.batch["task"][:-1].long()
        baseline, value_loss = self._value_loss(forward.features[:-1], task, targets.baseline, steps)
        num_steps = targets.statistics.steps_by_task.sum().clamp(min=1)
        divisor = num_steps if self.reduction == "mean" else torch.ones(())
        behaviour = batch["behaviour_log_probs"]
        policy_loss, sums = self._policy_loss(forward.log_probs, behaviour, targets.advantages, steps)
        policy_loss = policy_loss / divisor
        value_loss = value_loss / divisor
        entropy = self.network.actions.entropy(forward.policy).masked_fill(~steps, 0.0).sum() / divisor
        loss = policy_loss + self.baseline_cost * value_loss - entropy_cost * entropy
        metrics = {
            "loss/total": loss.detach(),
            "loss/policy": policy_loss.detach(),
            "loss/baseline": value_loss.detach(),
            "loss/entropy": entropy.detach(),
            # Means with either reduction, so that `kl_bound` does not depend on the size of the batch.
            **{f"loss/{name}": total / num_steps for name, total in sums.items()},
        }
        return loss, metrics, baseline

    def _policy_loss(
        self, log_probs: Tensor, behaviour_log_probs: Tensor, advantages: Tensor, mask: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The policy's loss as a sum over steps, and sums over steps for the log."""
        if self.loss == "impala":
            return losses.policy_gradient_loss(log_probs, advantages, mask), {}
        ratios = log_probs - behaviour_log_probs
        surrogate = losses.clipped_surrogate_loss(ratios, advantages, mask, clip_ratio=self.clip_ratio)
        return surrogate.loss, {"kl": surrogate.kl, "clipped": surrogate.clipped}

    def _value_loss(self, features: Tensor, task: Tensor, targets: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """The normalised baseline [T, B], and its loss as a sum over steps."""
        head = self.network.value_head
        if not isinstance(head, HistogramHead):
            baseline = head(features, task)
            return baseline, losses.baseline_loss(baseline, targets, mask)
        logits = head.logits(features, task)
        in_bins = (targets.masked_fill(~mask, 0.0) - head.shift[task]) / head.scale[task, 0]
        return head.decode(logits, task), losses.histogram_loss(logits, losses.histogram(in_bins, head.centres), mask)

    @torch.no_grad()
    def _make_targets(self, staged: Staged, features: Tensor, log_probs: Tensor) -> Targets:
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
            advantages = losses.normalize_advantages(
                advantages, task, advantage_sums, deviation, by_task=self.normalize_advantage == "task"
            )
        # Without this bound, the outliers of a surge would decide the whole update.
        bound = torch.full_like(surges, math.inf).masked_fill(surges > 0, SURGE_CLIP)[task]
        return Targets(
            baseline=torch.clamp((vs - shift) / scale, -bound, bound),
            advantages=torch.clamp(advantages, -bound, bound),
            log_rhos=log_rhos,
            values=values[:-1],
            statistics=BatchStatistics(
                new_steps=new_sums[0].sum(),
                steps_by_task=sums[0],
                surges=surges,
                observation_moments=None if normalizer is None else normalizer.updated(observation_sums),
            ),
        )

    def _reduce_sums(self, *parts: Tensor) -> list[Tensor]:
        """Turns sums over this learner's columns into sums over the whole batch."""
        if not self._reduce:
            return list(parts)
        # Counts are exact in double precision.
        totals = sum_packed([part.double() for part in parts], self._reduce)
        return [total.to(part.dtype) for total, part in zip(totals, parts, strict=True)]

    def _set_popart(self, new: PopArt, old_sigma: Tensor) -> Tensor:
        """Sets PopArt's moments and rescales the head so that its values stay equal (but for a move of a histogram's support,
        agents.learning.popart.move_support). Returns the new sigma, [K].
        """
        old, head, new_sigma = self.popart, self.network.value_head, sigma(new)
        rescale_head(*head.output_layer, old.mu, old_sigma, new.mu, new_sigma)
        if isinstance(head, HistogramHead):
            move_support(head.weight, head.bias, head.scale, head.shift, head.centres)
        self.popart = new
        return new_sigma

    def snapshot(self) -> Snapshot:
        """A copy of what a call changes, for `restore`."""
        head = self.network.value_head.state_dict()
        return Snapshot(self.popart, {name: tensor.clone() for name, tensor in head.items()})

    def restore(self, snapshot: Snapshot) -> None:
        """The inverse of `snapshot`."""
        self.popart = snapshot.popart
        self.network.value_head.load_state_dict(snapshot.head)

    def state_dict(self) -> dict[str, Tensor]:
        """PopArt."""
        popart = self.popart
        return {"mu": popart.mu, "nu": popart.nu, "calm": popart.updates_since_surge, "updates": popart.updates}

    def load_state_dict(self, saved: Mapping[str, Tensor]) -> None:
        """The inverse of `state_dict`. Raises ValueError if `saved` is of a different number of tasks."""
        # Old checkpoints have neither `calm` nor `updates`.
        since_surge = saved.get("calm", torch.full_like(saved["mu"], SURGE_MEMORY))
        updates = saved.get("updates", torch.full_like(saved["mu"], MOST_COUNTED))
        popart = PopArt(saved["mu"], saved["nu"], since_surge, updates)
        if any(moment.shape != own.shape for moment, own in zip(popart, self.popart, strict=True)):
            raise ValueError(f"PopArt has moments of {count(len(popart.mu), 'task')}, not {len(self.popart.mu)}")
        self.popart = PopArt(*(moment.to(self.device, torch.float32) for moment in popart))


def sum_packed(parts: Sequence[Tensor], reduce: Callable[[Tensor], None]) -> list[Tensor]:
    """Sums tensors of one dtype over all learners in one call of `reduce`. Returns the sums."""
    packed = torch.cat([part.flatten() for part in parts])
    reduce(packed)
    totals = packed.split([part.numel() for part in parts])
    return [total.view_as(part) for total, part in zip(totals, parts, strict=True)]
