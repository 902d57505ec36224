"""Transforms of rewards before learning. Reported returns use the raw rewards."""

from __future__ import annotations

import torch
from torch import Tensor

REWARD_TRANSFORMS = ("clip", "soft_asymmetric", "soft_asymmetric_paper", "none")


def transform_rewards(reward: Tensor, kind: str, clip: float) -> Tensor:
    """Raw rewards r [T, B] -> transformed rewards [T, B].

    Args:
        kind: One of REWARD_TRANSFORMS.
            `clip`: min(max(r, -c), c).
            `soft_asymmetric`: 5 tanh(r / 5), times 0.3 where r < 0. Range (-1.5, 5). IMPALA's transform for DMLab-30 in its released
            code (google-deepmind/scalable_agent, experiment.py), which reproduces the published numbers.
            `soft_asymmetric_paper`: 0.3 min(tanh r, 0) + 5 max(tanh r, 0). Range (-0.3, 5). The form in the paper (Espeholt et al.
            2018, caption of figure D.1). It saturates at rewards five times smaller.
            `none`: r.
        clip: c of `clip`; 0 disables clipping.
    """
    if kind == "soft_asymmetric":
        squeezed = 5 * torch.tanh(reward / 5)
        return torch.where(reward < 0, 0.3 * squeezed, squeezed)
    if kind == "soft_asymmetric_paper":
        squeezed = torch.tanh(reward)
        return torch.where(reward < 0, 0.3 * squeezed, 5 * squeezed)
    return reward.clamp(-clip, clip) if kind == "clip" and clip else reward
