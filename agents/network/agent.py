"""The agent: torso + context -> fusion -> core -> heads. One method, `unroll`, for acting (T = 1) and learning alike."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from functools import partial
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from agents.fusion import TORSO
from agents.fusion.base import Fusion, Modulation, Tokens
from agents.fusion.segments import Segments
from agents.network.actions import ActionDistribution
from agents.network.context import ContextEncoder, Contexts
from agents.network.core import Core
from agents.network.heads import ActionMask, HistogramHead, ValueHead
from agents.network.initialization import FIRST_LOGITS, RELU_GAIN, keep_variance
from agents.network.normalizer import ObservationNormalizer

Modulations = dict[str, Modulation]
"""The result of `condition` for each fusion site."""


class AgentOutput(NamedTuple):
    """What `unroll` returns. Outputs that were not requested are empty.

    Attributes:
        policy_logits: [T, B, P], input of `ActionDistribution.parameters`.
        value_features: [T, B, F], input of the value head, behind the critic's hidden layer if there is one.
        core_state: [B, S], after the last step.
    """

    policy_logits: Tensor
    value_features: Tensor
    core_state: Tensor


class AgentNetwork(nn.Module):
    """One recurrent agent for all tasks.

    Args:
        torso: Observation -> features, with attribute `size`.
        fusions: Fusion layers by site (agents.fusion.SITES). A site without a fusion does not see the context.
        action_counts: Number of logits of each task. The logits beyond it are masked.
        num_values: Outputs of the value head: the number of tasks with PopArt, else 1.
        value_bins, value_bound: Bins of a HistogramHead and the bound of their support; 0 bins: a ValueHead.
        actor_size, critic_size: Units of a hidden layer of the policy and of the value alone, with ReLU; 0: none. A fusion at `policy` or
            `value` is that layer.
        normalizer: Applied to `vector` before the torso. None: no normalisation.

    Attributes:
        observe: Called by `unroll` with each site that it passes and the input there, [N, ...] (agents/learning/diagnostics); or None.
    """

    action_codes: Tensor

    def __init__(
        self,
        torso: nn.Module,
        context_encoder: ContextEncoder,
        fusions: Mapping[str, Fusion],
        core: Core,
        *,
        actions: ActionDistribution,
        action_counts: Sequence[int],
        num_values: int,
        value_bins: int = 0,
        value_bound: float = 10.0,
        actor_size: int = 0,
        critic_size: int = 0,
        normalizer: ObservationNormalizer | None = None,
    ) -> None:
        super().__init__()
        self.observe: Callable[[str, Tensor], None] | None = None
        self.actions = actions
        self.torso = torso
        self.normalizer = normalizer
        self.context_encoder = context_encoder
        context_encoder.tokens_have_noise = any(fusion.reads_tokens for fusion in fusions.values())
        self.fusions = nn.ModuleDict(fusions)
        self.core = core
        self.core_state_size = core.state_size
        is_policy_fused = "policy" in fusions
        self.actor = nn.Linear(core.size, actor_size) if actor_size and not is_policy_fused else None
        if self.actor:
            keep_variance(self.actor, RELU_GAIN)
        self._actor_size = actor_size
        # A fusion without a hidden layer behind it returns the logits.
        self.policy = (
            nn.Linear(actor_size or core.size, actions.num_parameters) if actor_size or not is_policy_fused else None
        )
        if self.policy:
            keep_variance(self.policy, FIRST_LOGITS / core.first_output)
        self.action_mask = ActionMask(tuple(action_counts), actions.num_parameters)
        self.register_buffer("action_codes", actions.codes(), persistent=False)
        is_fused = "value" in fusions
        self.critic = nn.Linear(core.size, critic_size) if critic_size and not is_fused else None
        if self.critic:
            keep_variance(self.critic, RELU_GAIN)
        self._critic_size = critic_size
        features = critic_size or (max(1, value_bins) if is_fused else core.size)
        self.value_head: ValueHead | HistogramHead = (
            HistogramHead(
                features, num_values, bins=value_bins, bound=value_bound, is_fused=is_fused and not critic_size
            )
            if value_bins
            else ValueHead(features, num_values)
        )

    @property
    def num_parameters(self) -> int:
        """Number of trainable parameters."""
        return sum(parameter.numel() for parameter in self.parameters() if parameter.requires_grad)

    @property
    def parts(self) -> dict[str, list[nn.Module]]:
        """The modules of torso, context, fusion, core and heads, which together hold all parameters."""
        heads = (self.value_head, self.critic, self.actor, self.policy)
        return {
            "torso": [self.torso],
            "context": [self.context_encoder],
            "fusion": [self.fusions],
            "core": [self.core],
            "heads": [head for head in heads if head is not None],
        }

    @property
    def trunk_matrices(self) -> list[nn.Parameter]:
        """Trainable matrices and convolutions of torso, context encoder and core, which are the same layers with every fusion.

        Without the embeddings: their rows are looked up one by one, not multiplied.
        """
        layers = (layer for part in (self.torso, self.context_encoder, self.core) for layer in part.modules())
        multiplied = (layer for layer in layers if not isinstance(layer, nn.Embedding))
        parameters = (parameter for layer in multiplied for parameter in layer.parameters(recurse=False))
        return [parameter for parameter in parameters if parameter.ndim > 1 and parameter.requires_grad]

    def condition(self, contexts: Contexts, samples: int | None = None) -> Modulations:
        """All computation that depends on the contexts alone, once per context. `samples` as in Fusion.condition."""
        fusions = cast(Mapping[str, Fusion], dict(self.fusions.items()))
        z: dict[bool, Tensor | Tokens] = {
            tokens: self.context_encoder(contexts, tokens=tokens)
            for tokens in {fusion.reads_tokens for fusion in fusions.values()}
        }
        return {
            site: fusion.condition(z[fusion.reads_tokens].to(fusion.dtype), samples) for site, fusion in fusions.items()
        }

    def unroll(
        self,
        inputs: Mapping[str, Tensor],
        core_state: Tensor,
        modulations: Modulations,
        segments: Segments,
        *,
        final_state: bool = True,
        values: bool = True,
        torso: Callable[..., Tensor] | None = None,
    ) -> AgentOutput:
        """Runs T steps of B columns.

        Args:
            inputs: Observed keys of a trajectory (agents/trajectory.py), each [T, B, ...]. `reset` may be in host memory.
            core_state: [B, S], before the first step.
            modulations: From `condition`, for U contexts.
            segments: Context of each of the T * B samples, time-major.
            final_state: Compute the state after the last step. The learner does not need it.
            values: Compute the value features. Actors do not need them.
            torso: Replaces the network's torso by one that computes the same, such as a compiled one.
        """
        length, batch = inputs["reset"].shape
        fuse = partial(self._fuse, TORSO, modulations=modulations, segments=segments) if TORSO in self.fusions else None
        observation = {key: inputs[key].flatten(0, 1) for key in ("image", "vector") if key in inputs}
        if self.normalizer is not None:
            observation["vector"] = self.normalizer(observation["vector"], inputs["task"].flatten())
        features = (torso or self.torso)(observation, fuse)
        last_action = self.actions.encode(inputs["last_action"].flatten(0, 1), self.action_codes.to(features.dtype))
        # A clamp alone would pass a NaN on to the core's state.
        last_reward = inputs["last_reward"].flatten().nan_to_num(nan=0.0).clamp(-1, 1).unsqueeze(1)
        x = torch.cat([features, last_action, last_reward.to(features.dtype)], dim=1)
        x = self._fuse("core_input", x, modulations, segments)
        y, core_state = self.core(x.view(length, batch, -1), inputs["reset"], core_state, final_state=final_state)
        device = y.device.type
        # No autocast after the core, because log-probabilities and values are compared between policies.
        with torch.autocast(device, enabled=False) if torch.is_autocast_enabled(device) else nullcontext():
            y = y.flatten(0, 1).float()
            logits = self._fuse("policy", y, modulations, segments)
            if self._actor_size:
                logits = (self.actor(logits) if self.actor else logits).relu()
            logits = self.policy(logits) if self.policy else logits
            legal = inputs["action_mask"].flatten(0, 1) if "action_mask" in inputs else None
            logits = self.action_mask(logits, inputs["task"].flatten(), legal)
            value_features = self._fuse("value", y, modulations, segments) if values else y[:0]
            if values and self._critic_size:
                value_features = (self.critic(value_features) if self.critic else value_features).relu()
        value_features = value_features.view(length if values else 0, batch, value_features.shape[1])
        return AgentOutput(logits.view(length, batch, -1), value_features, core_state)

    def lower_precision(self, dtype: torch.dtype) -> None:
        """Casts torso, core and the fusions before the core in place, which autocast would do at every call. For acting only."""
        fusions = (self.fusions[site] for site in (TORSO, "core_input") if site in self.fusions)
        for module in (self.torso, self.core, *fusions):
            module.to(dtype)

    def _fuse(self, site: str, x: Tensor, modulations: Modulations, segments: Segments) -> Tensor:
        if self.observe:
            self.observe(site, x)
        if site not in self.fusions:
            return x
        modulation = tuple(part.to(x.dtype) for part in modulations[site])
        fusion = cast(Fusion, self.fusions[site])
        return fusion.modulate(x, modulation, segments)
