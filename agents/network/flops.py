"""Multiply-adds of an agent, per context and per acting step."""

from __future__ import annotations

import copy
import warnings
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

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
    vector = np.zeros((1, *env.observation["context"].shape), np.float32) if "context" in env.observation else None
    encoder = network.context_encoder
    rows = encoder.add_seeds(encoder.context_rows(np.zeros(1, np.int32), words, vector), np.ones(1, np.int32))
    contexts = encoder.contexts_from_rows(rows)
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
            with _FlopCount() as conditioning:
                modulations = network.condition(contexts)
            with _FlopCount() as acting:
                network.unroll(inputs, state, modulations, identity_segments(1))
    return MultiplyAdds(conditioning.flops // 2, acting.flops // 2)


class _FlopCount(TorchDispatchMode):
    """Adds up the floating-point operations inside, by the formulas of torch.utils.flop_counter.

    The FlopCounterMode there imports torch.compile's packages, which takes a second of each run's start.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.flops = 0


def _count(self: _FlopCount, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
    kwargs = kwargs or {}
    formula = flop_registry.get(function._overloadpacket)
    if formula is None:
        # In inference mode an operation such as `linear` arrives whole.
        with self:
            if (result := function.decompose(*args, **kwargs)) is not NotImplemented:
                return result
    result = function(*args, **kwargs)
    self.flops += formula(*args, **kwargs, out_val=result) if formula else 0
    return result


# Set afterwards: a method that the body of the class defines is wrapped by torch, and the wrapper imports torch.compile's packages.
_FlopCount.__torch_dispatch__ = _count  # type: ignore[method-assign, assignment]
