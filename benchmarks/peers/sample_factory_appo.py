"""Trains with sample-factory's asynchronous PPO on a level, without end.

    python -m benchmarks.peers.sample_factory_appo --task BabyAI-GoToLocal-v0 --seed 0 [options of sample-factory]

Needs sample-factory and minigrid (docs/performance.md). The network has mimpala's kinds of layers: embedded cells, three small
convolutions, the mean of the words, an LSTM; layers of 256. The settings are the best of those tried on two cores. Prints its progress
after each training iteration and counts in the folder BENCH_DIR (benchmarks/bench_dir.py).
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

# sample-factory's processes have one compute thread each; OpenMP reads this when torch is imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from sample_factory.algo.runners.runner import AlgoObserver
from sample_factory.algo.utils.context import global_model_factory
from sample_factory.cfg.arguments import parse_full_cfg, parse_sf_args
from sample_factory.envs.env_utils import register_env
from sample_factory.model.encoder import Encoder
from sample_factory.train import make_runner
from torch import nn

from benchmarks.bench_dir import Count, counting_folder, progress_line
from benchmarks.peers.level import NUM_DIRECTIONS, NUM_WORDS, Level
from envs.babyai.levels import SYMBOL_COUNTS

_SIZE = 256
_STOPPED = 10**6
"""Seconds for which a program may be stopped by SIGSTOP."""
SETTINGS = {
    "num_workers": 2,
    "num_envs_per_worker": 64,
    "worker_num_splits": 2,
    "set_workers_cpu_affinity": False,
    "rollout": 32,
    "batch_size": 4096,
    "num_batches_per_epoch": 1,
    "num_epochs": 1,
    "use_rnn": True,
    "rnn_type": "lstm",
    "rnn_size": _SIZE,
    "nonlinearity": "relu",
    "learning_rate": 5e-4,
    "gamma": 0.99,
    "exploration_loss_coeff": 0.01,
    "normalize_input": False,
    "normalize_returns": False,
    "decorrelate_envs_on_one_worker": False,
    # No checkpoints and no end; the parent decides when it has learned.
    "train_for_env_steps": 10**12,
    "save_every_sec": _STOPPED,
    "save_best_every_sec": _STOPPED,
    "heartbeat_reporting_interval": _STOPPED,
    "device": "cpu",
    "env_frameskip": 1,
}


class LevelEncoder(Encoder):  # type: ignore[misc]
    """Observations of Level -> features [N, 256]."""

    def __init__(self, cfg: Any) -> None:
        super().__init__(cfg)
        self._cells = nn.Embedding(sum(SYMBOL_COUNTS), 16)
        first = torch.tensor([0, SYMBOL_COUNTS[0], SYMBOL_COUNTS[0] + SYMBOL_COUNTS[1]])
        self.register_buffer("_first", first, persistent=False)
        self._convolutions = nn.Sequential(
            *(nn.Conv2d(16, 16, 2), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Conv2d(16, 32, 2), nn.ReLU()),
            *(nn.Conv2d(32, 64, 2), nn.ReLU()),
            nn.Flatten(),
        )
        self._direction = nn.Embedding(NUM_DIRECTIONS, 8)
        self._words = nn.EmbeddingBag(NUM_WORDS, 32, padding_idx=0)
        self._output = nn.Sequential(nn.Linear(64 + 8 + 32, _SIZE), nn.ReLU())

    def forward(self, observations: dict[str, torch.Tensor]) -> torch.Tensor:
        """See the class."""
        cells = self._cells(observations["image"] + self._first).sum(dim=-2)
        features = [
            self._convolutions(cells.permute(0, 3, 1, 2)),
            self._direction(observations["direction"].squeeze(1)),
            self._words(observations["words"]),
        ]
        output: torch.Tensor = self._output(torch.cat(features, dim=1))
        return output

    def get_out_size(self) -> int:
        """Number of features."""
        return _SIZE

    def type_for_input_tensor(self, input_tensor_name: str) -> torch.dtype:
        """Indices."""
        return torch.int64


class Reporter(AlgoObserver):  # type: ignore[misc]
    """Counts the optimiser's steps and prints the progress."""

    def __init__(self, folder: Path, steps_per_iteration: int) -> None:
        self._folder = folder
        self._steps_per_iteration = steps_per_iteration
        self._updates = Count(folder / "updates")

    def on_training_step(self, runner: Any, training_iteration_since_resume: int) -> None:
        """Called after each training iteration."""
        self._updates.add(self._steps_per_iteration)
        print(progress_line(self._folder), flush=True)


def make_level(name: str, cfg: Any, env_config: Any, render_mode: str | None = None) -> Level:
    """The environment that sample-factory asks for; without `env_config` one to read its spaces from."""
    return Level(name, (cfg.seed, env_config.env_id if env_config else 0))


def make_encoder(cfg: Any, obs_space: Any) -> LevelEncoder:
    """The encoder that sample-factory asks for."""
    return LevelEncoder(cfg)


def main(arguments: Sequence[str]) -> int:
    """Trains until a signal ends the process. Returns sample-factory's status."""
    parser = argparse.ArgumentParser(prog="benchmarks.peers.sample_factory_appo", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--task", required=True, help="a level of minigrid")
    parser.add_argument("--seed", type=int, default=0)
    options, others = parser.parse_known_args(arguments)
    register_env(options.task, make_level)
    global_model_factory().register_encoder_factory(make_encoder)
    with counting_folder() as folder:
        words = [f"--env={options.task}", f"--seed={options.seed}", f"--train_dir={folder}"]
        words += [*(f"--{key}={value}" for key, value in SETTINGS.items()), *others]
        cfg = parse_full_cfg(parse_sf_args(words)[0], words)
        cfg, runner = make_runner(cfg)
        runner.register_observer(Reporter(folder, cfg.num_epochs * cfg.num_batches_per_epoch))
        status: int = runner.init() or runner.run()
        return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
