"""The learner: one update of the parameters from one batch of trajectories."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from agents.learning import losses, nonfinite
from agents.learning.compile import Compiled
from agents.learning.optimizers import OPTIMIZERS, build_optimizer, check_moments
from agents.learning.popart import (
    CALM,
    SURGE_CLIP,
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
    """Too many updates in a row were not finite, and the learner is unchanged since the first of them; or the learner itself is not finite.

    Attributes:
        diagnosis: what was not finite, as plain data.
    """

    def __init__(self, message: str, diagnosis: dict[str, Any]) -> None:
        super().__init__(message)
        self.diagnosis = diagnosis


class Counters(NamedTuple):
    """Updates made, updates refused as not finite, and agent steps that were real transitions."""

    updates: int = 0
    refused: int = 0
    steps: int = 0


class _Targets(NamedTuple):
    """What the losses of one batch are computed from. Sums and counts are over all learners.

    Attributes:
        targets, advantages: normalised by PopArt, [T, B].
        valid_steps: of the batch.
        counts: new valid steps, valid steps of each task, `Learner.surges`; [1 + 2 K].
        seen: the moments of observations after this batch; None without a normalizer.
    """

    targets: Tensor
    advantages: Tensor
    valid_steps: Tensor
    counts: Tensor
    seen: Moments | None


class Learner:
    """IMPALA's learner with V-trace and per-task PopArt.

    Several learners, each with a shard of every batch's columns, make the updates that one learner makes with the whole batch. They start
    with equal weights and add up with `reduce`: first the sums behind PopArt's moments and the mean over valid steps, then the gradients.

    Args:
        network: trained in place, on its device.
        num_tasks: K.
        total_steps: agent steps after which the learning rate has annealed to 0.
        optimizer: a key of agents.learning.optimizers.OPTIMIZERS.
        learning_rate: at the start. `anneal` lowers it linearly to 0 over `total_steps`.
        rms_decay, epsilon, adam_betas: constants of the optimiser.
        max_gradient_norm: gradients are scaled down to this global norm.
        discounting: gamma.
        baseline_cost, entropy_cost: weights of the loss terms; the policy gradient has weight 1.
        reward_transform, reward_clip: see agents/learning/rewards.py.
        reduction: `mean` over valid steps, or `sum` over steps and columns as in the IMPALA paper.
        popart: normalise value targets per task. `popart_step_size` is the beta of its moments.
        clip_rho, clip_c, clip_pg_rho, lambda_: constants of V-trace.
        pg_bootstrap: one of agents.learning.vtrace.PG_BOOTSTRAPS.
        max_refused: updates in a row that may be refused as not finite before NonFiniteError.
        autocast: dtype of torso and core; None for full precision.
        compile: compile torso and V-trace with torch.compile (agents/learning/compile.py).
        staging: prefetch minibatches to a GPU (agents/learning/prefetch.py).
        reduce: replaces a tensor by its sum over all learners, in place. None with one learner.

    Attributes:
        prefetcher: copies minibatches to the device.
        counters: of updates and steps, over all learners.
        steps_by_task: valid steps of each task in the last batch, over all learners; K numbers.
        surges: by task, the root mean square of the last batch's targets in standard deviations where it was too large for PopArt's
            moments (agents.learning.popart.bounded_update), else 0; K numbers.
    """

    def __init__(
        self,
        network: AgentNetwork,
        num_tasks: int,
        *,
        total_steps: int,
        optimizer: str = "rmsprop_tf",
        learning_rate: float = 5e-4,
        anneal: bool = True,
        rms_decay: float = 0.99,
        epsilon: float = 0.01,
        adam_betas: tuple[float, float] = (0.9, 0.999),
        max_gradient_norm: float = 40.0,
        discounting: float = 0.99,
        baseline_cost: float = 0.5,
        entropy_cost: float = 0.01,
        reward_transform: str = "clip",
        reward_clip: float = 1.0,
        reduction: str = "mean",
        popart: bool = True,
        popart_step_size: float = 3e-4,
        clip_rho: float = 1.0,
        clip_c: float = 1.0,
        clip_pg_rho: float = 1.0,
        lambda_: float = 1.0,
        pg_bootstrap: str = "mixed",
        max_refused: int = 10,
        autocast: torch.dtype | None = None,
        compile: bool = False,
        staging: bool = True,
        reduce: Callable[[Tensor], None] | None = None,
    ) -> None:
        self.network = network
        self.total_steps = total_steps
        self.learning_rate = learning_rate
        self.anneal = anneal
        self.max_gradient_norm = max_gradient_norm
        self.discounting = discounting
        self.baseline_cost = baseline_cost
        self.entropy_cost = entropy_cost
        self.reward_transform = reward_transform
        self.reward_clip = reward_clip
        self.reduction = reduction
        self.use_popart = popart
        self.popart_step_size = popart_step_size
        self.clips = {"clip_rho": clip_rho, "clip_c": clip_c, "clip_pg_rho": clip_pg_rho, "lambda_": lambda_}
        self.mixed = pg_bootstrap == "mixed"
        self.max_refused = max_refused
        self.autocast = autocast
        self.device = next(network.parameters()).device
        self.prefetcher = Prefetcher(network.context_encoder, self.device, asynchronous=staging)
        self.counters = Counters()
        self.popart = initial_popart(num_tasks, self.device)
        self._torso = Compiled(network.torso) if compile else network.torso
        self._vtrace = Compiled(vtrace) if compile else vtrace
        self.steps_by_task, self.surges = [0.0] * num_tasks, [0.0] * num_tasks
        self._reduce = reduce
        # Parameters without gradients are set by other means (agents/network/normalizer.py).
        self._parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
        self._kept = OPTIMIZERS[optimizer]
        self._refused_in_a_row: deque[dict[str, float]] = deque(maxlen=max_refused)
        self.optimizer = build_optimizer(
            optimizer,
            self._parameters,
            learning_rate=learning_rate,
            rms_decay=rms_decay,
            epsilon=epsilon,
            adam_betas=adam_betas,
        )

    def step(self, batch: Trajectory, *, num_fresh: int | None = None) -> dict[str, Tensor]:
        """`update` of one batch [T+1, B] in host memory, of whose columns the first `num_fresh` are new; None: all of them."""
        return self.update(self.prefetcher.stage(batch, num_fresh))

    def update(self, staged: Staged) -> dict[str, Tensor]:
        """One update from a staged batch; other learners may have more columns of it.

        Only new columns (`Staged.num_new`) have their steps counted and move the moments of observations. Every column is learned from
        and moves PopArt's moments; a surge (agents.learning.popart.bounded_update) is judged by new columns alone.

        Returns:
            Scalars for the log, still on the device. An update whose loss, gradient or PopArt moments are not finite is refused: it is
            counted and leaves parameters, optimiser and PopArt unchanged.

        Raises:
            NonFiniteError: `max_refused` updates in a row were refused.
            Whatever `reduce` raises; the learner is then as before.
        """
        before = self._popart_snapshot()
        metrics, loss, counts, seen = self._loss(staged)
        for group in self.optimizer.param_groups:
            group["lr"] = self.current_learning_rate
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        if self._reduce:
            try:
                metrics = self._reduce_gradients(metrics)
            except BaseException:
                self._restore_popart(before)
                raise
        gradients = [parameter.grad for parameter in self._parameters if parameter.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients, foreach=True)
        # Squares of targets overflow before the loss does, whose scale is clipped.
        moments = [moment.flatten() for moment in (self.popart.mu, self.popart.nu, *(seen or ()))]
        finite = torch.isfinite(torch.cat([norm.reshape(1), metrics["loss/total"].reshape(1), *moments])).all()
        # The one question that the learner asks the device: all answers come together.
        answers = torch.stack([finite, norm > self.max_gradient_norm])
        is_finite, is_long, steps, *by_task = torch.cat([answers.to(counts.dtype), counts]).tolist()
        self.steps_by_task, self.surges = by_task[: len(self.popart.mu)], by_task[len(self.popart.mu) :]
        if not is_finite:
            self._refuse(before, staged.batch, metrics | {"loss/gradient_norm": norm})
            return metrics
        if is_long:
            torch.nn.utils.clip_grads_with_norm_(self._parameters, self.max_gradient_norm, norm, foreach=True)
        self.optimizer.step()
        if self.network.normalizer is not None and seen is not None:
            self.network.normalizer.take(seen)
        self._refused_in_a_row.clear()
        self.counters = self.counters._replace(
            updates=self.counters.updates + 1, steps=self.counters.steps + int(steps)
        )
        metrics |= {"loss/gradient_norm": norm, "loss/learning_rate": torch.tensor(self.current_learning_rate)}
        return metrics

    @property
    def current_learning_rate(self) -> float:
        """Linear annealing to 0 at `total_steps`."""
        left = max(0.0, 1 - self.counters.steps / self.total_steps) if self.anneal else 1.0
        return self.learning_rate * left

    def _loss(self, staged: Staged) -> tuple[dict[str, Tensor], Tensor, Tensor, Moments | None]:
        """Returns scalars for the log, the loss, `_Targets.counts` and `_Targets.seen`."""
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
        made = self._targets(staged, features, log_probs)
        baseline = self.network.value_head(features[:-1], task[:-1])
        divisor = made.valid_steps.clamp(min=1) if self.reduction == "mean" else torch.ones(())
        policy_loss = losses.policy_gradient_loss(log_probs, made.advantages, mask) / divisor
        value_loss = losses.baseline_loss(baseline, made.targets, mask) / divisor
        entropy = actions.entropy(policy).masked_fill(~mask, 0.0).sum() / divisor
        loss = policy_loss + self.baseline_cost * value_loss - self.entropy_cost * entropy
        metrics = {
            "loss/total": loss.detach(),
            "loss/policy": policy_loss.detach(),
            "loss/baseline": value_loss.detach(),
            "loss/entropy": entropy.detach(),
        }
        return metrics, loss, made.counts, made.seen

    @torch.no_grad()
    def _targets(self, staged: Staged, features: Tensor, log_probs: Tensor) -> _Targets:
        """V-trace on unnormalised values, then one step of PopArt's moments, by which targets and advantages are normalised.

        Args:
            features: of the value head, [T+1, B, F].
            log_probs: of the actions by the present policy, [T, B].
        """
        batch, num_new = staged.batch, staged.num_new
        mask, task = batch["mask"], batch["task"].long()
        deviation = sigma(self.popart)
        values = deviation[task] * self.network.value_head(features, task) + self.popart.mu[task]
        reward = transform_rewards(batch["reward"], self.reward_transform, self.reward_clip)
        discounts = self.discounting * (~batch["terminated"]).float()
        vs, advantages = self._vtrace(
            log_probs - batch["behaviour_log_probs"],
            discounts,
            reward,
            values[:-1],
            values[-1],
            mask,
            mixed=self.mixed,
            **self.clips,
        )
        new, normalizer, num_tasks = mask[:, :num_new], self.network.normalizer, len(self.popart.mu)
        sums = new_sums = target_sums(vs, task[:-1], mask, num_tasks)
        if new.shape != mask.shape:
            new_sums = target_sums(vs[:, :num_new], task[:-1, :num_new], new, num_tasks)
        observed = sums.new_empty(0)
        if normalizer is not None:
            observed = normalizer.sums(batch["vector"][:-1, :num_new], task[:-1, :num_new], new)
        sums, new_sums, observed = self._reduce_sums(sums, new_sums, observed)
        seen = None if normalizer is None else normalizer.updated(observed)
        surges = torch.zeros_like(sums[0])
        if self.use_popart:
            moments, surges = bounded_update(self.popart, sums, new_sums, self.popart_step_size)
            deviation = self._set_popart(moments, deviation)
        task = task[:-1]
        scale, shift = deviation[task], self.popart.mu[task]
        # Without a bound, the outliers of a surge would decide the whole update.
        most = torch.full_like(surges, math.inf).masked_fill(surges > 0, SURGE_CLIP)[task]
        targets, advantages = (torch.clamp(x / scale, -most, most) for x in (vs - shift, advantages))
        counts = torch.cat([new_sums[0].sum().reshape(1), sums[0], surges])
        return _Targets(targets, advantages, sums[0].sum(), counts, seen)

    def _reduce_sums(self, *parts: Tensor) -> list[Tensor]:
        """Turns sums over this learner's columns into sums over the whole batch."""
        if self._reduce:
            # Counts are exact in double precision.
            together = torch.cat([part.flatten().double() for part in parts])
            self._reduce(together)
            totals = together.split([part.numel() for part in parts])
            return [total.view_as(part).to(part.dtype) for total, part in zip(totals, parts, strict=True)]
        return list(parts)

    def _reduce_gradients(self, metrics: dict[str, Tensor]) -> dict[str, Tensor]:
        """Sums gradients and `metrics` over all learners. Both are additive: the loss terms were divided by the whole batch's steps."""
        assert self._reduce
        # Which parameters have a gradient depends on the network alone, so all learners agree.
        parameters = [parameter for parameter in self._parameters if parameter.grad is not None]
        parts = [*(parameter.grad for parameter in parameters), *metrics.values()]
        together = torch.cat([part.flatten() for part in parts if part is not None])
        self._reduce(together)
        *gradients, totals = together.split([*(parameter.numel() for parameter in parameters), len(metrics)])
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient.view_as(parameter)
        return dict(zip(metrics, totals, strict=True))

    def _set_popart(self, new: PopArt, old_sigma: Tensor) -> Tensor:
        """Sets PopArt's moments and rescales the head so that its outputs stay equal. Returns the new sigma, [K]."""
        old, head, new_sigma = self.popart, self.network.value_head, sigma(new)
        rescale_head(head.weight, head.bias, old.mu, old_sigma, new.mu, new_sigma)
        self.popart = new
        return new_sigma

    def _popart_snapshot(self) -> tuple[PopArt, Tensor, Tensor]:
        head = self.network.value_head
        return self.popart, head.weight.detach().clone(), head.bias.detach().clone()

    @torch.no_grad()
    def _restore_popart(self, snapshot: tuple[PopArt, Tensor, Tensor]) -> None:
        self.popart, weight, bias = snapshot
        self.network.value_head.weight.copy_(weight)
        self.network.value_head.bias.copy_(bias)

    def _refuse(self, before: tuple[PopArt, Tensor, Tensor], batch: Trajectory, metrics: dict[str, Tensor]) -> None:
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
                    "batch": nonfinite.arrays(batch),
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
        """Raises NonFiniteError if a parameter, or a moment of PopArt or of the optimiser, is not finite; no run could resume from it."""
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
            "popart": self.popart._asdict(),
            "counters": self.counters._asdict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse of `state_dict`.

        Raises:
            KeyError, TypeError, ValueError, RuntimeError: `state` belongs to another learner.
        """
        self.network.load_state_dict(state["network"])
        moments = state["optimizer"]["state"]
        check_moments(moments, self._parameters, self._kept)
        # The constants come from the configuration, not from the checkpoint.
        self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": moments})
        # Earlier checkpoints have no `calm`.
        popart = PopArt(**{"calm": torch.full_like(state["popart"]["mu"], CALM), **state["popart"]})
        if any(moment.shape != own.shape for moment, own in zip(popart, self.popart, strict=True)):
            raise ValueError(f"PopArt's moments of {len(popart.mu)} tasks in place of {len(self.popart.mu)}")
        self.popart = PopArt(*(moment.to(self.device, torch.float32) for moment in popart))
        self.counters = Counters(**{name: int(state["counters"][name]) for name in Counters._fields})
