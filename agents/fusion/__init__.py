"""Fusion of the observation x with the context z: one family of layers behind one interface, each one word of config.

Read `base.py` for the interface, then one file per family:

    - additive.py: concat, sum, concat_mlp. The context shifts the output.
    - gating.py: gated, diagonal, scale_shift, film. The context scales the output, feature by feature.
    - multiplicative.py: mi, low_rank, tucker. The context makes the weight matrix.
    - hyper.py: hypernetwork, mixture. Features of the context make the weight matrix.
    - cross_attention.py: cross_attention. The observation queries the words of the instruction.
    - multitask.py: multi_head, paco, care, soft_modularization, moore. Each task has a head, or its own proportions of shared modules.
    - spatial.py: film, gated_attention, attention, dynamic_conv. The same ideas on the torso's feature map.

`segments.py` maps samples to contexts. `weight_generation.py` holds what `mi`, `hypernetwork`,
`mixture`, `paco` and `multi_head` share.
"""

from __future__ import annotations

from typing import Any

from agents.fusion.additive import Concat, ConcatMLP, Sum
from agents.fusion.cross_attention import CrossAttention
from agents.fusion.gating import Diagonal, FiLM, Gated, ScaleShift
from agents.fusion.hyper import Hypernetwork, Mixture
from agents.fusion.multiplicative import LowRank, MultiplicativeInteraction, Tucker
from agents.fusion.multitask import Care, Moore, MultiHead, PaCo, SoftModularization
from agents.fusion.segments import Segments as Segments
from agents.fusion.spatial import SPATIAL_FUSIONS

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
    "cross_attention": CrossAttention,
    "multi_head": MultiHead,
    "paco": PaCo,
    "care": Care,
    "soft_modularization": SoftModularization,
    "moore": Moore,
}
"""Name in the config -> class, for flat features. All take (x_size, z_size, out_size) and the options that OPTIONS lists."""

OPTIONS: dict[str, tuple[str, ...]] = {
    "concat_mlp": ("hidden",),
    "low_rank": ("rank",),
    "tucker": ("rank",),
    "hypernetwork": ("hidden",),
    "mixture": ("experts",),
    "cross_attention": ("hidden", "heads"),
    "paco": ("experts",),
    "care": ("hidden", "experts"),
    "soft_modularization": ("hidden", "experts"),
    "moore": ("hidden", "experts"),
    "attention": ("keys",),
    "dynamic_conv": ("kernel",),
}
"""Name -> further constructor arguments, taken from the config group `fusion`. Names that are missing here take none."""

FREE_DIMENSIONS = {name: options[0] for name, options in OPTIONS.items() if name in FUSIONS}
"""Name -> the option that match_params.py varies to match the number of parameters of another form: the first one. Forms without options
are matched by `fusion.size`, the width at the core's input."""

FUSION_NAMES = (*FUSIONS, *(name for name in SPATIAL_FUSIONS if name not in FUSIONS))
"""Every form."""

TORSO, FLAT_SITES = "torso", ("core_input", "policy", "value")
SITES = (TORSO, *FLAT_SITES)
"""Where a fusion can be: on the torso's feature map, before the core, as the policy head, before the value head."""
