"""Copies minibatches to the learner's device, each during the update from the previous one.

Distinct contexts and stretches between resets are computed in host memory: reading them from a GPU would synchronize.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import torch

from agents.fusion import Segments
from agents.fusion.device_transfer import send
from agents.learning.minibatches import Minibatch
from agents.network.context import CONTEXT_KEYS, ContextEncoder, Contexts, distinct_contexts
from agents.trajectory import EPISODE_STATISTICS, Trajectory

_HOST_KEYS = (*EPISODE_STATISTICS, *CONTEXT_KEYS, "context_seed", "reset")
"""Keys that are not copied. The loss does not use statistics, `Staged.contexts` has the contexts, and cores read resets on the host."""


class Staged(NamedTuple):
    """A minibatch on the learner's device.

    Attributes:
        batch: [T+1, B], on the device except for `_HOST_KEYS`.
        contexts: The distinct contexts of the batch, on the device.
        segments: The index of the context of each of the (T + 1) B samples, on the device.
        num_new: See Minibatch; None if every column is new.
    """

    batch: Trajectory
    contexts: Contexts
    segments: Segments
    num_new: int | None = None


class _Copy(NamedTuple):
    """A minibatch and the event of the copying stream that follows its copy; None without a copying stream."""

    staged: Staged
    arrived: torch.cuda.Event | None


class Prefetcher:
    """Copies minibatches to a device. On the CPU it copies nothing.

    Args:
        encoder: The context encoder of the network; it defines the rows of a context.
        device: Of the learner.
        asynchronous: On a GPU, whether to copy from pinned memory on a separate stream, during the previous update. Otherwise each key
            is copied by `Tensor.to`.
    """

    def __init__(self, encoder: ContextEncoder, device: torch.device, *, asynchronous: bool = True) -> None:
        self._encoder = encoder
        self._device = device
        self._stream = torch.cuda.Stream(device) if asynchronous and device.type == "cuda" else None

    def __call__(self, minibatches: Iterable[Minibatch]) -> Iterator[Staged]:
        """Yields each minibatch on the device. With a copying stream it sends the next one before it yields this one."""
        ahead = 1 if self._stream else 0
        copies: deque[_Copy] = deque()
        for minibatch in minibatches:
            copies.append(self._send(minibatch.trajectory, minibatch.num_new))
            if len(copies) > ahead:
                yield self._wait(copies.popleft())
        while copies:
            yield self._wait(copies.popleft())

    def stage(self, batch: Trajectory, num_new: int | None = None) -> Staged:
        """One batch on the device, without prefetching."""
        return self._wait(self._send(batch, num_new))

    def _wait(self, copy: _Copy) -> Staged:
        """Makes the current stream wait for the copy; the host does not wait."""
        if copy.arrived is not None:
            stream = torch.cuda.current_stream(self._device)
            stream.wait_event(copy.arrived)
            # One allocation of the copying stream holds all keys. The caching allocator must not reuse it before this stream has finished.
            copy.staged.segments.index.record_stream(stream)
        return copy.staged

    def _send(self, batch: Trajectory, num_new: int | None) -> _Copy:
        """Starts the copy of one batch."""
        told = (batch[key].numpy() if key in batch else None for key in CONTEXT_KEYS)
        rows = self._encoder.context_rows(batch["task"].numpy(), *told)
        if "context_seed" in batch:
            rows = self._encoder.add_seeds(rows, batch["context_seed"].numpy())
        rows, index = distinct_contexts(rows)
        contexts = self._encoder.contexts_from_rows(rows)
        segments = Segments(torch.from_numpy(index), len(contexts.task))
        if self._device.type == "cpu":
            return _Copy(Staged(batch, contexts, segments, num_new), None)
        learned = {key: array for key, array in batch.items() if key not in _HOST_KEYS}
        of_contexts = {f"contexts/{key}": array for key, array in contexts.tensors().items()}
        parts = learned | of_contexts | {"segments": segments.index}
        if self._stream is None:
            moved, arrived = {key: array.to(self._device) for key, array in parts.items()}, None
        else:
            with torch.cuda.stream(self._stream):
                moved, arrived = send(parts, self._device), self._stream.record_event()
        staged = Staged(
            batch | {key: moved[key] for key in learned},
            Contexts(**{key: moved[f"contexts/{key}"] for key in contexts.tensors()}),
            segments.on(moved["segments"]),
            num_new,
        )
        return _Copy(staged, arrived)
