"""From the processor's memory to the device that computes, in one copy and without anybody waiting for it.

A copy from ordinary memory makes the program wait until the device has done all that it was given before. From pinned memory it does not,
and torch's allocator keeps the pinned block until the copy is over, so whoever sends may forget it at once. Beginning a copy has a price
of its own, so what goes together goes as one block.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

_ALIGNMENT = 64


class Packing:
    """Where tensors of these shapes and dtypes lie in one block of bytes.

    Attributes:
        num_bytes: of the block.
    """

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self._places: dict[str, tuple[int, torch.dtype, torch.Size]] = {}
        self.num_bytes = 0
        for key, tensor in tensors.items():
            self._places[key] = self.num_bytes, tensor.dtype, tensor.shape
            self.num_bytes += -(-tensor.numel() * tensor.element_size() // _ALIGNMENT) * _ALIGNMENT

    def views(self, block: Tensor) -> dict[str, Tensor]:
        """The tensors that lie in uint8 [num_bytes]."""
        return {
            key: block[begin : begin + shape.numel() * dtype.itemsize].view(dtype).view(shape)
            for key, (begin, dtype, shape) in self._places.items()
        }


def pinned(num_bytes: int) -> Tensor:
    """uint8 [num_bytes] that devices read by themselves."""
    return torch.empty(num_bytes, dtype=torch.uint8, pin_memory=True)


def send(tensors: Mapping[str, Tensor], device: torch.device) -> dict[str, Tensor]:
    """The same tensors on `device`; those that are there already are passed on as they are."""
    there = {key: tensor for key, tensor in tensors.items() if tensor.device != device}
    if not there:
        return dict(tensors)
    packing = Packing(there)
    block = pinned(packing.num_bytes)
    for key, view in packing.views(block).items():
        view.copy_(there[key])
    return {**tensors, **packing.views(block.to(device, non_blocking=True))}


def send_one(tensor: Tensor, device: torch.device) -> Tensor:
    """`send` for a single one."""
    return tensor if tensor.device == device else send({"": tensor}, device)[""]
