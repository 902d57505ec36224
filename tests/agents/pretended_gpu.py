"""A simulated GPU: its tensors report the device `cuda:0` and are computed on the CPU.

It refuses what a GPU refuses: operations on tensors of both devices, and NumPy. It records every synchronization: each value that the
program reads. Values are real, so results can be compared with the CPU's. Speed, memory and the order of streams are not simulated.

torch's FakeTensorMode does not suffice, because it has shapes but no values, and control flow may depend on values.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils import _foreach_utils
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

from agents.acting import cuda_graphs
from agents.fusion import device_transfer

GPU = torch.device("cuda", 0)


class OnGPU(Tensor):
    """A tensor whose values are in `host`."""

    host: Tensor

    @staticmethod
    def __new__(cls, host: Tensor) -> OnGPU:
        # In inference mode a view of an ordinary tensor is an ordinary tensor.
        with torch.inference_mode(False):
            return cls._around(host)

    @classmethod
    def _around(cls, host: Tensor) -> OnGPU:
        shell = torch.empty_strided(host.size(), host.stride(), dtype=host.dtype, device="meta")
        # Meta for autograd, which would need a GPU's threads; CUDA for autocast.
        tensor: OnGPU = torch.Tensor._make_subclass(cls, shell, False, device_for_backend_keys=GPU)
        tensor.host = host
        return tensor

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        return GPU

    def record_stream(self, stream: object) -> None:
        pass

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise AssertionError(f"{function} outside of the pretended GPU")


class MixedDevicesError(RuntimeError):
    """Replaces torch's error for an operation on tensors of two devices."""


class _Computing(TorchDispatchMode):
    """Attributes:
    waits: names of the operations that synchronized.
    """

    # The key of FakeTensorMode, with which torch does not initialise CUDA.
    _mode_key = torch._C._TorchDispatchModeKey.FAKE

    def __init__(self) -> None:
        super().__init__()
        self.waits: list[str] = []
        self.capturing: Graph | None = None

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if torch.is_inference_mode_enabled():
            # Without inference mode, autograd has decomposed the operation already.
            with self:
                result = function.decompose(*args, **kwargs)
            if result is not NotImplemented:
                return result
        name = str(function.overloadpacket)
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        there = [isinstance(tensor, OnGPU) for tensor in tensors]
        result_there = any(there)
        if kwargs.get("device") is not None:
            # Autograd sees the device as meta.
            result_there = torch.device(kwargs["device"]).type in ("cuda", "meta")
            kwargs["device"] = torch.device("cpu")
        copies = name in ("aten.copy_", "aten._to_copy", "aten._foreach_copy_")
        if (
            any(there)
            and not copies
            and any(tensor.dim() and not on for tensor, on in zip(tensors, there, strict=True))
        ):
            raise MixedDevicesError(f"{name} of tensors of both sides")
        leaves = any(there) and (
            (name == "aten._to_copy" and not result_there) or (name == "aten.copy_" and not there[0])
        )
        if leaves or (any(there) and name in ("aten._local_scalar_dense", "aten.nonzero", "aten.equal")):
            if self.capturing is not None:
                raise RuntimeError(f"{name} is not permitted when stream is capturing")
            self.waits.append(name)
        host_args, host_kwargs = tree_map_only(OnGPU, lambda tensor: tensor.host, (args, kwargs))
        result = function(*host_args, **host_kwargs)
        if self.capturing is not None:
            self.capturing.calls.append((function, host_args, host_kwargs, result))
        if not result_there or (name == "aten.copy_" and not there[0]):
            # An in-place operation returns its argument.
            return args[0] if name == "aten.copy_" else result
        known = {id(tensor.host): tensor for tensor in tensors if isinstance(tensor, OnGPU)}
        return tree_map_only(Tensor, lambda tensor: known[id(tensor)] if id(tensor) in known else OnGPU(tensor), result)


_CAST = {
    *(
        torch.nn.functional.linear,
        torch.nn.functional.conv2d,
        torch.mm,
        torch.bmm,
        torch.matmul,
        torch.addmm,
        torch._VF.lstm,
    ),
    *(Tensor.matmul, Tensor.__matmul__),
}
"""The operations that agents use and autocast computes in low precision."""


class _Calling(TorchFunctionMode):
    """Handles what dispatch does not see: lists of values, autocast, and the fused LSTM, whose kernels exist on a GPU only."""

    def __init__(self, waits: list[str]) -> None:
        super().__init__()
        self._waits = waits

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function in _CAST and torch.is_autocast_enabled("cuda"):
            dtype = torch.get_autocast_dtype("cuda")
            args = tree_map_only(OnGPU, lambda tensor: tensor.to(dtype) if tensor.is_floating_point() else tensor, args)
        if function is torch._VF.lstm and isinstance(args[0], OnGPU):
            return _lstm(*args)
        if function is Tensor.tolist and isinstance(args[0], OnGPU):
            self._waits.append("tolist")
            return args[0].host.tolist()
        return function(*args, **(kwargs or {}))


def _lstm(x: Tensor, state: tuple[Tensor, Tensor], weights: list[Tensor], *_: object) -> tuple[Tensor, Tensor, Tensor]:
    weight_x, weight_h, bias_x, bias_h = weights
    hidden, cell = (part[0] for part in state)
    outputs = []
    for row in x.unbind():
        gates = torch.nn.functional.linear(row, weight_x, bias_x) + torch.nn.functional.linear(hidden, weight_h, bias_h)
        keep_in, forget, candidate, out = gates.chunk(4, dim=1)
        cell = forget.sigmoid() * cell + keep_in.sigmoid() * candidate.tanh()
        hidden = out.sigmoid() * cell.tanh()
        outputs.append(hidden)
    return torch.stack(outputs), hidden.unsqueeze(0), cell.unsqueeze(0)


class Event:
    """Of a stream."""

    def __init__(self) -> None:
        self.waited_for = False


class Stream:
    """A stream on which all work is done at once."""

    def __init__(self, device: object = None) -> None:
        self.events: list[Event] = []

    def record_event(self) -> Event:
        self.events.append(Event())
        return self.events[-1]

    def wait_event(self, event: Event) -> None:
        event.waited_for = True

    def wait_stream(self, stream: Stream) -> None:
        pass


class Graph:
    """The captured calls with their arguments and results. A replay computes the results again in place."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, Any, Any, Any]] = []
        self.replays = 0

    def replay(self) -> None:
        self.replays += 1
        for function, args, kwargs, results in self.calls:
            for new, old in zip(tree_leaves(function(*args, **kwargs)), tree_leaves(results), strict=True):
                if new is not old and new.data_ptr() != old.data_ptr():
                    old.copy_(new)


class PretendedGPU:
    """Attributes:
    waits: names of the operations for whose answer the program has waited.
    graphs: that were captured.
    """

    def __init__(self, computing: _Computing) -> None:
        self.waits = computing.waits
        self.graphs: list[Graph] = []


@contextmanager
def pretended_gpu() -> Iterator[PretendedGPU]:
    """Inside the context, `cuda:0` is a simulated GPU."""
    computing = _Computing()
    stream = Stream()
    gpu = PretendedGPU(computing)

    @contextmanager
    def capture(graph: Graph, pool: object = None) -> Iterator[None]:
        computing.capturing = graph
        try:
            yield
        finally:
            computing.capturing = None
        gpu.graphs.append(graph)

    @contextmanager
    def entered(_: object) -> Iterator[None]:
        yield

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.cuda, "Stream", Stream)
        patch.setattr(torch.cuda, "stream", entered)
        patch.setattr(torch.cuda, "device", entered)
        patch.setattr(torch.cuda, "current_stream", lambda device=None: stream)
        patch.setattr(torch.cuda, "CUDAGraph", Graph)
        patch.setattr(torch.cuda, "graph", capture)
        patch.setattr(torch.cuda, "graph_pool_handle", object)
        patch.setattr(torch.cuda.amp.common, "amp_definitely_not_available", lambda: False)
        patch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: True)
        patch.setattr(torch.backends.cudnn, "is_acceptable", lambda tensor: False)
        for module in (device_transfer, cuda_graphs):
            patch.setattr(module, "pinned", lambda num_bytes: torch.empty(num_bytes, dtype=torch.uint8))
        # Adam and the norm of gradients read the device in C++, where it is meta.
        patch.setattr(_foreach_utils, "_get_foreach_kernels_supported_devices", lambda: ["meta"])
        before = torch.__future__.get_overwrite_module_params_on_conversion()
        torch.__future__.set_overwrite_module_params_on_conversion(True)
        lifted = torch._C._only_lift_cpu_tensors()
        # torch.tensor then creates its tensors on the CPU and moves them.
        torch._C._set_only_lift_cpu_tensors(True)
        try:
            with computing, _Calling(computing.waits):
                yield gpu
        finally:
            torch.__future__.set_overwrite_module_params_on_conversion(before)
            torch._C._set_only_lift_cpu_tensors(lifted)


def host(tree: Any) -> Any:
    """Nested data with its tensors on the CPU, without synchronization."""
    return tree_map_only(OnGPU, lambda tensor: tensor.host, tree)
