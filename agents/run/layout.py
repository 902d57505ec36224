"""The folder of a run: its default name, the names of its files, and whether it holds a run.

Imports nothing slow, because train.py asks before it imports torch.
"""

from __future__ import annotations

from pathlib import Path

from conf.schema import TrainConfig
from system.errors import InputError

AGENT, CONFIG, DIAGNOSIS = "agent.json", "config.yaml", "diagnosis.json"
RESULT, PROVENANCE, VOCABULARY = "result.json", "provenance.json", "vocabulary.json"


def default_run(config: TrainConfig) -> str:
    """Default name of the run folder. It depends on the configuration, not on the time, so that a repeated run is noticed."""
    return f"runs/{config.env.name}-{config.fusion.name}-{config.context.name}-seed{config.seed}"


def holds_run(folder: Path) -> bool:
    """Whether the folder holds a run."""
    return (folder / CONFIG).exists()


def check_free(folder: Path, *, resume: bool) -> None:
    """Raises InputError if the folder holds a run and `resume` is off."""
    if holds_run(folder) and not resume:
        raise InputError(f"run={folder} already holds a run: add resume=true to continue it, or give another run=.")
