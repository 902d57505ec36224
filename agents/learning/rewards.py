"""What the learner makes of a reward before it learns from it; reported returns are never changed. Pure functions on [T, B] tensors."""

from __future__ import annotations

import torch
from torch import Tensor

REWARD_TRANSFORMS = ("clip", "soft_asymmetric", "soft_asymmetric_paper", "none")


def transform_rewards(reward: Tensor, kind: str, clip: float) -> Tensor:
    """Raw rewards r [T, B] -> rewards to learn from [T, B].

    Args:
        kind: one of REWARD_TRANSFORMS.
            `clip`: min(max(r, -c), c).
            `soft_asymmetric`: 5 tanh(r / 5), times 0.3 where r < 0, so in (-1.5, 5). IMPALA's for DMLab-30 as its released code has
            it (google-deepmind/scalable_agent, experiment.py), from which the published numbers can be reproduced.
            `soft_asymmetric_paper`: 0.3 min(tanh r, 0) + 5 max(tanh r, 0), so in (-0.3, 5). The same as the paper has it (Espeholt
            et al. 2018, caption of figure D.1), which saturates five times earlier.
            `none`: r.
        clip: c of `clip`; 0 leaves the rewards as they are.
    """
    if kind == "soft_asymmetric":
        squeezed = 5 * torch.tanh(reward / 5)
        return torch.where(reward < 0, 0.3 * squeezed, squeezed)
    if kind == "soft_asymmetric_paper":
        squeezed = torch.tanh(reward)
        return torch.where(reward < 0, 0.3 * squeezed, 5 * squeezed)
    return reward.clamp(-clip, clip) if kind == "clip" and clip else reward
