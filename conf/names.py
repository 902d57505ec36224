"""The names that configuration values may take.

`conf` imports nothing of `agents`. If a table there has the same names as keys, tests/test_config.py holds both equal.
Plugins add names to the lists (agents/setup/plugins.py).
"""

from __future__ import annotations

FLAT_FUSIONS = [
    *("concat", "concat_mlp", "sum", "gated", "diagonal", "scale_shift", "film", "low_rank", "tucker", "mi"),
    *("hypernetwork", "mixture", "cross_attention", "multi_head", "paco", "care", "soft_modularization", "moore"),
]
"""Fusions of flat features (agents.fusion.FUSIONS)."""

SPATIAL_FUSIONS = ("film", "gated_attention", "attention", "dynamic_conv")
"""Fusions of the torso's feature map (agents.fusion.SPATIAL_FUSIONS)."""

FUSIONS = [*FLAT_FUSIONS, *(name for name in SPATIAL_FUSIONS if name not in FLAT_FUSIONS)]
TORSO_SITE = "torso"
SITES = (TORSO_SITE, "core_input", "policy", "value")
ATTENTION_KEYS = ("content", "position")

CONTEXTS = ("task", "instruction", "both", "vector", "none")
TASK_ENCODINGS = ("embedding", "one_hot")
INSTRUCTION_ENCODERS = ("lstm", "gru", "bag", "transformer", "table")
"""Of the instruction (agents.network.instructions.READERS, and `table`)."""
UNSEEN = ("refuse", "words")
CORES = ["lstm", "gru", "mingru", "mogrifier", "mlstm", "mi_lstm", "feedforward"]
TORSOS = ["auto", "grid", "shallow", "deep", "impoola", "mlp"]
INITIALIZATIONS = ("scaled", "sonnet", "torch")

LOSSES = ("impala", "appo")
VALUE_LOSSES = ("mse", "hl_gauss")
ADVANTAGE_NORMALIZATIONS = ("none", "batch", "task")
OPTIMIZERS = ("rmsprop", "rmsprop_tf", "adam", "muon")
REWARD_TRANSFORMS = ("clip", "soft_asymmetric", "soft_asymmetric_paper", "none")
PG_BOOTSTRAPS = ("mixed", "paper")
REDUCTIONS = ("mean", "sum")
SCHEDULES = ("linear", "constant", "cosine")
"""Of the learning rate (agents.learning.optimizers.rate_share)."""

RUNTIMES = ("serial", "local", "cluster")
NODE_RUNTIMES = ("local", "serial")
"""Runtimes of a run that a cluster places on one node."""
INFERENCE = ("auto", "actor", "server")
TASK_SCHEDULES = ("uniform_slots", "uniform_frames", "weighted")
PRECISIONS = ("auto", "fp32", "bf16")
LOGGERS = ("tensorboard", "wandb", "mlflow", "csv")
"""Trackers (agents.run.trackers.tracker.TRACKERS)."""
SWITCHES = ("auto", "true", "false")

PROBES = ["swap", "shuffle", "zero", "all"]
CONTEXT_GROUPS = ("both", "seen", "unseen")
"""Contexts of an evaluation: those of training, those that training left out (`env.holdout`), or both."""
THRESHOLDS = ("success", "return", "score")
"""Measures of `stop_at`."""
MATCHES = ("parameters", "multiply_adds")
"""What `match_params` makes equal."""
MEASURES = ("auto", "score", "success", "return")
TUNE_PER = ("seed", "variant")
"""What has a choice of its own in ablate.py's tuning."""

EPISODE_WINDOW = 100
"""Number of latest episodes per task that the statistics cover (agents.run.metrics.WINDOW)."""
