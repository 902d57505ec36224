"""What an agent computes: multiply-adds, split into what is done once for each context and what is done at every step."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from agents.fusion import identity_segments
from agents.network.agent import AgentNetwork
from agents.network.context import Contexts
from envs.spec import EnvSpec

WORDS = 8
"""Length of the instruction that is counted with."""


class MultiplyAdds(NamedTuple):
    """condition: the context encoder and every fusion's `condition`, for one context. apply: one acting step, values included."""

    condition: int
    apply: int


def multiply_adds(network: AgentNetwork, env: EnvSpec) -> MultiplyAdds:
    """Counted where they happen, in one forward pass: those of matrix products and convolutions, not of what goes element by element."""
    network = copy.deepcopy(network).cpu().float().eval()
    rows = network.context_encoder.context_rows(np.zeros(1, np.int32), _instruction(network, env))
    contexts = network.context_encoder.contexts_from_rows(rows)
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
        # oneDNN's fused LSTM would hide its products from the counter; torch warns of Intel GPUs when it is switched.
        warnings.simplefilter("ignore")
        with torch.backends.mkldnn.flags(enabled=False):
            return _counted(network, contexts, inputs, state)


def _counted(
    network: AgentNetwork, contexts: Contexts, inputs: Mapping[str, Tensor], core_state: Tensor
) -> MultiplyAdds:
    with FlopCounterMode(display=False) as conditioning:
        modulations = network.condition(contexts)
    with FlopCounterMode(display=False) as applying:
        network.unroll(inputs, core_state, modulations, identity_segments(1))
    return MultiplyAdds(conditioning.get_total_flops() // 2, applying.get_total_flops() // 2)


def _instruction(network: AgentNetwork, env: EnvSpec) -> Any:
    if not network.context_encoder.reads_instruction:
        return None
    words = np.zeros((1, env.instruction_length), np.int32)
    words[:, :WORDS] = 1
    return words
