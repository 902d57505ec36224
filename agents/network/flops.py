"""Multiply-adds of an agent, per context and per acting step."""

from __future__ import annotations

import copy
import warnings
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from agents.fusion.segments import identity_segments
from agents.network.agent import AgentNetwork
from envs.spec import EnvSpec

WORDS = 8
"""Length of the instruction that the count assumes."""


class MultiplyAdds(NamedTuple):
    """condition: context encoder and every fusion's `condition`, for one context. apply: one acting step, values included."""

    condition: int
    apply: int


def multiply_adds(network: AgentNetwork, env: EnvSpec) -> MultiplyAdds:
    """Counts matrix products and convolutions in one forward pass. Element-wise operations are not counted."""
    network = copy.deepcopy(network).cpu().float().eval()
    words = np.zeros((1, env.instruction_length), np.int32)
    words[:, :WORDS] = 1
    contexts = network.context_encoder.contexts_from_rows(
        network.context_encoder.context_rows(np.zeros(1, np.int32), words)
    )
    inputs: dict[str, Any] = {
        key: torch.zeros(1, 1, *array.shape, dtype=getattr(torch, array.dtype))
        for key, array in env.observation.items()
    }
    inputs |= {
        "task": torch.zeros(1, 1, dtype=torch.int32),
        "reset": torch.zeros(1, 1, dtype=torch.bool),
        "last_action": network.actions.no_action(1).unsqueeze(0),
        "last_reward": torch.zeros(1, 1),
    }
    state = torch.zeros(1, network.core_state_size)
    with torch.inference_mode(), warnings.catch_warnings():
        # oneDNN's fused LSTM hides its products from the counter. Switching it off makes torch warn about Intel GPUs.
        warnings.simplefilter("ignore")
        with torch.backends.mkldnn.flags(enabled=False):
            with FlopCounterMode(display=False) as conditioning:
                modulations = network.condition(contexts)
            with FlopCounterMode(display=False) as acting:
                network.unroll(inputs, state, modulations, identity_segments(1))
    return MultiplyAdds(conditioning.get_total_flops() // 2, acting.get_total_flops() // 2)
