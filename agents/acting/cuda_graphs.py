"""One acting step on a device: one copy of the observations to it, one copy of the distributions back.

A step is dozens of small kernels. A CUDA graph launches them in one call. It holds addresses and shapes, not values, so each combination
of shapes needs a graph. The shapes are the number of slots that take the step, and the number of cached contexts, rounded to bucket sizes.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from agents.fusion.device_transfer import Packing, pinned, send
from agents.fusion.segments import Segments
from agents.network.agent import AgentNetwork, Modulations

_SEEN_BEFORE = 2
"""Shapes are captured after this many steps. Rare shapes are not worth a capture."""
_MOST_GRAPHS = 64
"""Limits the memory of the graphs. Further shapes run kernel by kernel."""
_WARM_UP = 3
"""Runs before a capture, in which libraries select kernels and allocate workspaces."""
_TOLERANCE = 1e-2
"""Between a graph and the kernels one by one, whose bf16 sums may differ."""

Shapes = tuple[Any, ...]
Outputs = tuple[Tensor, Tensor]
"""Parameters of distributions [B, P] and core state [B, S]."""
Run = Callable[[Mapping[str, Tensor], Tensor], Outputs]


class ActingStep:
    """One acting step of a network on a device.

    Args:
        network: Acts. The addresses of its weights must not change, nor those of modulations of one shape.
        graphs: Capture steps as CUDA graphs. If a capture fails, a warning is issued once and all steps run kernel by kernel.
    """

    def __init__(self, network: AgentNetwork, *, graphs: bool) -> None:
        self._network = network
        self._device = next(network.parameters()).device
        self._captures = graphs
        self._seen: Counter[Shapes] = Counter()
        self._graphs: dict[Shapes, _Graph] = {}
        self._pool: Any = None

    def __call__(
        self,
        inputs: Mapping[str, Tensor],
        rows: Tensor,
        core_state: Tensor,
        modulations: Modulations,
        segments: Segments,
    ) -> Tensor:
        """Parameters [B, P] of the action distributions, in host memory. Advances the rows `rows` of `core_state`.

        Args:
            inputs: Observations, each [B, ...], in host memory.
            rows: int64 [B], the rows of `core_state` that take the step, in host memory.
            core_state: [slots, S], on the device.
            modulations: On the device.
            segments: Context of each slot, in host memory.
        """
        arrays = {**inputs, "rows": rows, "contexts": segments.index}
        # The modulations of tokens move when their shape grows.
        held = tuple(part.shape for parts in modulations.values() for part in parts)
        shapes = segments.count, held, tuple((key, array.shape) for key, array in arrays.items())
        graph = self._graphs.get(shapes)
        if graph is None and self._captures and len(self._graphs) < _MOST_GRAPHS:
            self._seen[shapes] += 1
            if self._seen[shapes] > _SEEN_BEFORE:

                def run(arrays: Mapping[str, Tensor], state: Tensor) -> Outputs:
                    # Not `segments.on`: a grid computed on the host would be frozen into the graph.
                    return self._run(arrays, state, modulations, Segments(arrays["contexts"], segments.count))

                graph = self._capture(shapes, run, arrays, core_state)
        if graph is not None:
            rows, (distribution, state) = graph.replay(arrays, core_state)
        else:
            moved = send(arrays, self._device)
            rows = moved["rows"]
            before = core_state.index_select(0, rows)
            distribution, state = self._run(moved, before, modulations, segments.on(moved["contexts"]))
        core_state.index_copy_(0, rows, state)
        return distribution.cpu()

    def _run(
        self, arrays: Mapping[str, Tensor], state: Tensor, modulations: Modulations, segments: Segments
    ) -> Outputs:
        step = {key: array.unsqueeze(0) for key, array in arrays.items() if key not in ("rows", "contexts")}
        output = self._network.unroll(step, state, modulations, segments, values=False)
        return self._network.actions.parameters(output.policy_logits[0]), output.core_state

    def _capture(self, shapes: Shapes, run: Run, arrays: Mapping[str, Tensor], core_state: Tensor) -> _Graph | None:
        try:
            with torch.cuda.device(self._device):
                self._pool = self._pool or torch.cuda.graph_pool_handle()
                graph = self._graphs[shapes] = _Graph(run, arrays, core_state, self._pool)
        except RuntimeError as error:
            self._captures = False
            reason = (str(error) or type(error).__name__).splitlines()[0]
            warnings.warn(
                f"acting steps cannot be captured as CUDA graphs and run kernel by kernel ({reason}): set runtime.cuda_graphs=false.",
                stacklevel=2,
            )
            return None
        return graph


class _Graph:
    """A CUDA graph of `run` for arrays of these shapes. Raises RuntimeError if the capture fails, or the graph gives other results."""

    def __init__(self, run: Run, arrays: Mapping[str, Tensor], core_state: Tensor, pool: Any) -> None:
        packing = Packing(arrays)
        self._host_block = pinned(packing.num_bytes)
        self._device_block = torch.empty(packing.num_bytes, dtype=torch.uint8, device=core_state.device)
        self._host, self._inputs = packing.views(self._host_block), packing.views(self._device_block)
        self._state = core_state.new_empty(len(arrays["rows"]), core_state.shape[1])
        self._fill(arrays, core_state)
        current, side = torch.cuda.current_stream(), torch.cuda.Stream()
        side.wait_stream(current)
        with torch.cuda.stream(side):
            for _ in range(_WARM_UP):
                expected = run(self._inputs, self._state)
        current.wait_stream(side)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph, pool=pool):
            self._outputs: Outputs = run(self._inputs, self._state)
        self._graph.replay()
        for found, wanted in zip(self._outputs, expected, strict=True):
            if not torch.allclose(found, wanted, rtol=_TOLERANCE, atol=_TOLERANCE, equal_nan=True):
                raise RuntimeError("a captured step gives other results")

    def replay(self, arrays: Mapping[str, Tensor], core_state: Tensor) -> tuple[Tensor, Outputs]:
        """`rows` on the device, and the outputs. The next replay of any graph overwrites both."""
        self._fill(arrays, core_state)
        self._graph.replay()
        return self._inputs["rows"], self._outputs

    def _fill(self, arrays: Mapping[str, Tensor], core_state: Tensor) -> None:
        # The last step has finished, because its result was copied to the host. So the pinned block is free.
        for key, view in self._host.items():
            view.copy_(arrays[key])
        self._device_block.copy_(self._host_block, non_blocking=True)
        torch.index_select(core_state, 0, self._inputs["rows"], out=self._state)
