"""Records what a forward pass of the network shows: inputs of the fusions, contexts, the core's output, and dead units."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812
from torch.overrides import TorchFunctionMode

from agents.network.agent import AgentNetwork

_RELUS = (torch.relu, torch.relu_, Tensor.relu, Tensor.relu_, F.relu, F.relu_)


class Recorded:
    """What a forward pass shows, without gradient.

    Attributes:
        inputs: x at each site that it passes, [N, ...].
        z: The encoded contexts, [U, Z].
        core: Output of the core, [T, B, H].
    """

    def __init__(self) -> None:
        self.inputs: dict[str, Tensor] = {}
        self.z = self.core = torch.empty(0)
        # By part: for each ReLU, whether each of its units is dead.
        self._dead: dict[str, list[Tensor]] = {}

    def observe(self, site: str, x: Tensor) -> None:
        """For AgentNetwork.observe."""
        self.inputs[site] = x.detach()

    def count_units(self, part: str, y: Tensor) -> None:
        """Counts the units of a ReLU with output y: channels of a map [N, C, H, W], otherwise the features of the last dimension."""
        units = y.detach().movedim(1, -1) if y.dim() == 4 else y.detach()
        self._dead.setdefault(part, []).append(units.flatten(0, -2).amax(dim=0) <= 0)

    def dead_units(self) -> dict[str, Tensor]:
        """`dead_units/<part>`: the share of units of the part's ReLUs that are 0 for every sample. Parts without ReLU are left out."""
        return {f"dead_units/{part}": torch.cat(dead).float().mean() for part, dead in self._dead.items()}


class _ReLUs(TorchFunctionMode):
    """Calls `seen` with the output of every ReLU, whichever function computes it."""

    def __init__(self, seen: Callable[[Tensor], None]) -> None:
        super().__init__()
        self._seen = seen

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        y = func(*args, **(kwargs or {}))
        if func in _RELUS:
            self._seen(y)
        return y


@contextmanager
def record(network: AgentNetwork) -> Iterator[Recorded]:
    """Records the forward passes of `network` in its body. A ReLU outside of torso, context encoder and core belongs to the fusion before
    the core, and to the heads after it."""
    recorded, part = Recorded(), "fusion"

    def enter(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, inputs: Any) -> None:
            nonlocal part
            part = name

        return hook

    def leave(module: nn.Module, inputs: Any, output: Any) -> None:
        nonlocal part
        part = "heads" if module is network.core else "fusion"
        if module is network.core:
            recorded.core = output[0].detach()
        elif module is network.context_encoder and isinstance(output, Tensor):
            recorded.z = output.detach()

    with ExitStack() as stack:
        for name in ("torso", "context", "core"):
            (module,) = network.parts[name]
            stack.callback(module.register_forward_pre_hook(enter(name)).remove)
            stack.callback(module.register_forward_hook(leave).remove)
        network.observe = recorded.observe
        stack.callback(setattr, network, "observe", None)
        stack.enter_context(_ReLUs(lambda y: recorded.count_units(part, y)))
        yield recorded
