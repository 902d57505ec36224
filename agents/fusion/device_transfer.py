"""Copies from host memory to a device: one block for all tensors, without waiting for the copy.

A copy from ordinary memory blocks until the device has finished its queued work. A copy from pinned memory does not, and torch's
allocator keeps the pinned block until the copy has finished, so the caller may drop it at once. Each copy has a fixed cost, so tensors
that travel together are packed into one block.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

_ALIGNMENT = 64


class Packing:
    """Offsets of tensors of these shapes and dtypes in one block of `num_bytes` bytes."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self._places: dict[str, tuple[int, torch.dtype, torch.Size]] = {}
        self.num_bytes = 0
        for key, tensor in tensors.items():
            self._places[key] = self.num_bytes, tensor.dtype, tensor.shape
            self.num_bytes += -(-tensor.numel() * tensor.element_size() // _ALIGNMENT) * _ALIGNMENT

    def views(self, block: Tensor) -> dict[str, Tensor]:
        """The tensors as views of `block`, uint8 [num_bytes]."""
        return {
            key: block[begin : begin + shape.numel() * dtype.itemsize].view(dtype).view(shape)
            for key, (begin, dtype, shape) in self._places.items()
        }


def pinned(num_bytes: int) -> Tensor:
    """A block uint8 [num_bytes] in pinned memory."""
    return torch.empty(num_bytes, dtype=torch.uint8, pin_memory=True)


def send(tensors: Mapping[str, Tensor], device: torch.device) -> dict[str, Tensor]:
    """The same tensors on `device`. Tensors that are on `device` already are returned unchanged."""
    elsewhere = {key: tensor for key, tensor in tensors.items() if tensor.device != device}
    if not elsewhere:
        return dict(tensors)
    packing = Packing(elsewhere)
    block = pinned(packing.num_bytes)
    for key, view in packing.views(block).items():
        view.copy_(elsewhere[key])
    return {**tensors, **packing.views(block.to(device, non_blocking=True))}


def send_one(tensor: Tensor, device: torch.device) -> Tensor:
    """`send` for a single tensor."""
    return tensor if tensor.device == device else send({"": tensor}, device)[""]
