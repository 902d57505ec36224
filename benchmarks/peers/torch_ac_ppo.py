"""Trains with torch-ac's PPO on a level, without end.

    python -m benchmarks.peers.torch_ac_ppo --task BabyAI-GoToRedBallGrey-v0 --seed 0 [--text]

Needs torch-ac and minigrid (docs/performance.md). The network and the settings are those that its authors use for these levels: a small
convolutional network, an LSTM cell, and with --text a GRU over the instruction. Prints its progress after each update and counts in the
folder BENCH_DIR (benchmarks/bench_dir.py).
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

import numpy as np
import torch
import torch_ac
from torch import nn
from torch.distributions import Categorical

from benchmarks.bench_dir import Count, counting_folder, progress_line
from benchmarks.peers.level import NUM_WORDS, Level, Observation

_MEMORY, _WORD, _TEXT, _HEAD = 64, 32, 128, 64
"""Features of the LSTM cell, of a word, of an instruction, and of the layer of each head."""


class Model(nn.Module):
    """Actor and critic, as torch-ac calls them.

    Args:
        text: Whether it reads the instruction.
    """

    recurrent = True
    memory_size = 2 * _MEMORY

    def __init__(self, num_actions: int, text: bool) -> None:
        super().__init__()
        self._convolutions = nn.Sequential(
            *(nn.Conv2d(3, 16, 2), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Conv2d(16, 32, 2), nn.ReLU()),
            *(nn.Conv2d(32, 64, 2), nn.ReLU()),
            nn.Flatten(),
        )
        self._core = nn.LSTMCell(64, _MEMORY)
        # torch-ac reads the gradient of every parameter, so none may be unused.
        self._words = nn.Embedding(NUM_WORDS, _WORD) if text else None
        self._text = nn.GRU(_WORD, _TEXT, batch_first=True) if text else None
        features = _MEMORY + _TEXT * text
        self._actor = nn.Sequential(nn.Linear(features, _HEAD), nn.Tanh(), nn.Linear(_HEAD, num_actions))
        self._critic = nn.Sequential(nn.Linear(features, _HEAD), nn.Tanh(), nn.Linear(_HEAD, 1))
        for layer in (*self._actor, *self._critic):
            if isinstance(layer, nn.Linear):
                # Rows of random direction and length 1.
                nn.init.normal_(layer.weight)
                layer.weight.data /= layer.weight.data.norm(dim=1, keepdim=True)
                nn.init.zeros_(layer.bias)

    def forward(
        self, observations: torch_ac.DictList, memory: torch.Tensor
    ) -> tuple[Categorical, torch.Tensor, torch.Tensor]:
        """Action distributions and values [N], and the next memory, from observations [N, ...] and memory [N, memory_size]."""
        hidden, cell = self._core(self._convolutions(observations.image), tuple(memory.chunk(2, dim=1)))
        features = hidden
        if self._words is not None and self._text is not None:
            outputs, _ = self._text(self._words(observations.words))
            last = (observations.words > 0).sum(dim=1) - 1
            features = torch.cat([hidden, outputs[torch.arange(len(last)), last]], dim=1)
        values = self._critic(features).squeeze(1)
        return Categorical(logits=self._actor(features)), values, torch.cat([hidden, cell], dim=1)


def collate(observations: Sequence[Observation], device: torch.device | None = None) -> torch_ac.DictList:
    """A batch of observations: `image` float [N, 3, 7, 7] and `words` int64 [N, L], where L is the longest instruction."""
    images = np.stack([observation["image"] for observation in observations])
    words = np.stack([observation["words"] for observation in observations])
    length = max(1, int((words > 0).sum(axis=1).max()))
    return torch_ac.DictList(
        {
            "image": torch.as_tensor(images, dtype=torch.float32, device=device).permute(0, 3, 1, 2),
            "words": torch.as_tensor(words[:, :length], dtype=torch.int64, device=device),
        }
    )


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The options. Their defaults are for two cores."""
    parser = argparse.ArgumentParser(prog="benchmarks.peers.torch_ac_ppo", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--task", required=True, help="a level of minigrid")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--text", action="store_true", help="read the instruction; needless where it never changes")
    parser.add_argument("--processes", type=int, default=16, help="environments, each in a process")
    parser.add_argument("--frames-per-process", type=int, default=128, help="steps of each environment for an update")
    parser.add_argument("--recurrence", type=int, default=4, help="steps of the gradient through the memory")
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--entropy-cost", type=float, default=0.01)
    parser.add_argument("--threads", type=int, default=1, help="compute threads")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str]) -> None:
    """Trains until a signal ends the process."""
    options = parse(arguments)
    torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    np.random.seed(options.seed)  # noqa: NPY002  (torch-ac shuffles with NumPy's global generator)
    with counting_folder() as folder:
        levels = [Level(options.task, (options.seed, number)) for number in range(options.processes)]
        algorithm = torch_ac.PPOAlgo(
            levels,
            Model(int(levels[0].action_space.n), options.text),  # type: ignore[attr-defined]
            num_frames_per_proc=options.frames_per_process,
            lr=options.learning_rate,
            entropy_coef=options.entropy_cost,
            recurrence=options.recurrence,
            epochs=options.epochs,
            batch_size=options.batch_size,
            preprocess_obss=collate,
        )
        updates = Count(folder / "updates")
        algorithm.optimizer.register_step_post_hook(lambda *_: updates.add())
        while True:
            experiences, _ = algorithm.collect_experiences()
            algorithm.update_parameters(experiences)
            print(progress_line(folder), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
