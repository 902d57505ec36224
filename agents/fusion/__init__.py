"""How the observation x meets the context z: one family of layers behind one interface, each one word of config."""

from __future__ import annotations

from typing import Any

from agents.fusion.additive import Concat, ConcatMLP, Sum
from agents.fusion.base import AffineForm, FullMI, Fusion, Modulation
from agents.fusion.gating import Diagonal, FiLM, Gated, ScaleShift
from agents.fusion.hyper import Hypernetwork, Mixture
from agents.fusion.multiplicative import LowRank, MultiplicativeInteraction, Tucker
from agents.fusion.segments import Segments, grouped_linear, identity_segments
from agents.fusion.spatial import KEYS, SPATIAL_FUSIONS, SpatialFusion

FUSIONS: dict[str, Any] = {
    "concat": Concat,
    "concat_mlp": ConcatMLP,
    "sum": Sum,
    "gated": Gated,
    "diagonal": Diagonal,
    "scale_shift": ScaleShift,
    "film": FiLM,
    "low_rank": LowRank,
    "tucker": Tucker,
    "mi": MultiplicativeInteraction,
    "hypernetwork": Hypernetwork,
    "mixture": Mixture,
}
"""Name in the config -> class, for flat features. All take (x_size, z_size, out_size) and the options that OPTIONS names."""

OPTIONS: dict[str, tuple[str, ...]] = {
    "concat_mlp": ("hidden",),
    "low_rank": ("rank",),
    "tucker": ("rank",),
    "hypernetwork": ("hidden",),
    "mixture": ("experts",),
    "attention": ("keys",),
    "dynamic_conv": ("kernel",),
}
"""Name -> the options of the config's `fusion` group that its class takes as well; none for the others."""

FREE_DIMENSIONS = {
    "concat_mlp": "hidden",
    "low_rank": "rank",
    "tucker": "rank",
    "hypernetwork": "hidden",
    "mixture": "experts",
}
"""Name -> the option that can be chosen freely, to match another form's parameters (agents/setup/match_params.py). The other forms have
none of
their own, and are fitted by `fusion.size`, the width at the core's input."""

FUSION_NAMES = (*FUSIONS, *(name for name in SPATIAL_FUSIONS if name not in FUSIONS))
"""Every form."""

TORSO, FLAT_SITES = "torso", ("core_input", "policy", "value")
SITES = (TORSO, *FLAT_SITES)
"""Where a fusion can sit: on the torso's feature map, in front of the core, as the policy head, under the value head."""

__all__ = [
    "FLAT_SITES",
    "FREE_DIMENSIONS",
    "FUSIONS",
    "FUSION_NAMES",
    "KEYS",
    "OPTIONS",
    "SITES",
    "SPATIAL_FUSIONS",
    "TORSO",
    "AffineForm",
    "Concat",
    "ConcatMLP",
    "Diagonal",
    "FiLM",
    "FullMI",
    "Fusion",
    "Gated",
    "Hypernetwork",
    "LowRank",
    "Mixture",
    "Modulation",
    "MultiplicativeInteraction",
    "ScaleShift",
    "Segments",
    "SpatialFusion",
    "Sum",
    "Tucker",
    "grouped_linear",
    "identity_segments",
]
