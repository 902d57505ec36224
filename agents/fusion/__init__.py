"""How the observation x meets the context z: one family of layers behind one interface, each one word of config."""

from __future__ import annotations

from collections.abc import Callable

from agents.fusion.additive import Concat
from agents.fusion.base import Fusion, Modulation
from agents.fusion.gating import FiLM, Gated
from agents.fusion.multiplicative import LowRank, MultiplicativeInteraction
from agents.fusion.segments import Segments, grouped_linear, identity_segments

FUSIONS: dict[str, Callable[..., Fusion]] = {
    "concat": Concat,
    "gated": Gated,
    "film": FiLM,
    "low_rank": LowRank,
    "mi": MultiplicativeInteraction,
}
"""Name in the config -> class. All take (x_size, z_size, out_size); low_rank also takes `rank`."""

SITES = ("core_input", "policy", "value")
"""Where a fusion can sit: in front of the core, as the policy head, under the value head."""

__all__ = [
    "FUSIONS",
    "SITES",
    "Concat",
    "FiLM",
    "Fusion",
    "Gated",
    "LowRank",
    "Modulation",
    "MultiplicativeInteraction",
    "Segments",
    "grouped_linear",
    "identity_segments",
]
