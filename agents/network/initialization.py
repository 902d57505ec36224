"""Initial weights, chosen so that differences between observations survive every layer.

torch's default weights divide the mean square of their inputs by 3, and ReLU halves it again. After the four layers of the grid torso the
features of two observations differed by 0.002, but a fusion expects a variance of 1.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

RELU_GAIN = math.sqrt(2)
"""Gain of a layer before a ReLU, which halves the mean square of a symmetric variable."""
FIRST_LOGITS = 0.1
"""Root mean square of the initial policy's logits, close to uniform. With 0.01, DoorKey-5x5 took 1.8 times the frames to a success of
0.9 (4 seeds)."""


@torch.no_grad()
def initialize(network: nn.Module, name: str) -> None:
    """Draws the plain layers of a new network again by the rule `name`, one of conf.names.INITIALIZATIONS.

    scaled: the defaults of this package, unchanged. sonnet: IMPALA's released code. torch: the defaults of torch's layers.
    """
    if name == "sonnet":
        _initialize_as_sonnet(network)
    elif name == "torch":
        for module in network.modules():
            if isinstance(module, nn.Linear | nn.Conv2d | nn.LSTM):
                module.reset_parameters()


def keep_variance(layer: nn.Linear | nn.Conv2d, gain: float = 1.0) -> None:
    """Draws the weights of `layer` in place: the outputs' mean square is gain^2 times the inputs'. Biases are zero."""
    orthogonal_(layer.weight, gain)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)


def orthogonal_(weight: Tensor, gain: float = 1.0) -> Tensor:
    """Fills weight [K, ...], read as a matrix [K, X], with orthogonal rows of length `gain` (Saxe et al. 2014) and returns it.

    If K > X, the columns are orthogonal and the entries still have the variance gain^2 / X. The orthogonal weights of torch have 1 / K
    then: the 4 inputs of CartPole would reach 64 units at a quarter of their size.
    """
    rows, columns = len(weight), weight[0].numel()
    return nn.init.orthogonal_(weight, gain * math.sqrt(max(1.0, rows / columns)))


def _initialize_as_sonnet(network: nn.Module) -> None:
    """The initial weights of google-deepmind/scalable_agent (Sonnet 1 and TensorFlow 1), for every plain layer and nn.LSTM of `network`.

    - Linear and convolution: a normal distribution of standard deviation 1 / sqrt(X), truncated at two deviations. Biases are zero.
    - LSTM: Glorot's uniform distribution for [x; h] -> 4H as one matrix. Biases are zero, and 1 for the forget gate.
    - Embedding of V words: like a linear layer with V inputs.
    - Fusions, the other cores and the value head are unchanged.
    """
    for module in network.modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            _truncated_normal_(module.weight, module.weight[0].numel())
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Embedding):
            _truncated_normal_(module.weight, module.num_embeddings)
            if module.padding_idx is not None:
                module.weight[module.padding_idx] = 0.0
        elif isinstance(module, nn.LSTM):
            weight_x, weight_h, bias_x, bias_h = module.all_weights[0]
            bound = math.sqrt(6 / (weight_x.shape[1] + weight_h.shape[1] + len(weight_x)))
            weight_x.uniform_(-bound, bound)
            weight_h.uniform_(-bound, bound)
            # torch adds two biases. Its order is input, forget, candidate, output.
            bias_x.zero_()
            bias_h.zero_()
            bias_x[module.hidden_size : 2 * module.hidden_size] = 1.0


def _truncated_normal_(weight: Tensor, fan_in: int) -> None:
    deviation = fan_in**-0.5
    nn.init.trunc_normal_(weight, std=deviation, a=-2 * deviation, b=2 * deviation)
