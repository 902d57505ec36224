"""Copies minibatches to the learner's device, each while the one before it is learned from.

Questions about the data - distinct contexts, stretches between resets - are answered in host memory before the copy: asking a GPU
would synchronize with everything that was launched before.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import torch

from agents.fusion import Segments
from agents.fusion.device_transfer import send
from agents.learning.minibatches import Minibatch
from agents.network.context import ContextEncoder, Contexts, distinct_rows
from agents.trajectory import EPISODE_STATISTICS, Trajectory

_STAYS = (*EPISODE_STATISTICS, "instruction", "reset")
"""Keys that stay in host memory: statistics are not learned from, instructions travel as contexts, cores read resets there."""


class Staged(NamedTuple):
    """A minibatch on the learner's device.

    Attributes:
        batch: [T+1, B], on the device but for the keys in `_STAYS`.
        contexts, segments: the distinct contexts, and which one each of the (T + 1) B samples has, on the device.
        num_new: as in Minibatch; None where every column is new.
    """

    batch: Trajectory
    contexts: Contexts
    segments: Segments
    num_new: int | None = None


class _Copy(NamedTuple):
    """A minibatch whose copy is complete after `arrived`, where that is an event of the copying stream."""

    staged: Staged
    arrived: torch.cuda.Event | None


class Prefetcher:
    """Brings minibatches to a device. On the processor nothing is copied.

    Args:
        encoder: defines what a context is.
        device: of the learner.
        asynchronous: on a GPU, copy from pinned memory on a separate stream, so that the next minibatch travels while one is learned
            from; otherwise copy key by key, as `Tensor.to` does.
    """

    def __init__(self, encoder: ContextEncoder, device: torch.device, *, asynchronous: bool = True) -> None:
        self._encoder = encoder
        self._device = device
        self._stream = torch.cuda.Stream(device) if asynchronous and device.type == "cuda" else None

    def __call__(self, minibatches: Iterable[Minibatch]) -> Iterator[Staged]:
        """Yields each minibatch on the device. With a copying stream the next one is sent before the present one is yielded."""
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
            # The block of memory that holds all of it belongs to the copying stream, which must not reuse it before this stream is done.
            copy.staged.segments.index.record_stream(stream)
        return copy.staged

    def _send(self, batch: Trajectory, num_new: int | None) -> _Copy:
        instruction = batch["instruction"].numpy() if "instruction" in batch else None
        rows, index = distinct_rows(self._encoder.context_rows(batch["task"].numpy(), instruction))
        contexts = self._encoder.contexts_from_rows(rows)
        segments = Segments(torch.from_numpy(index), len(contexts.task))
        if self._device.type == "cpu":
            return _Copy(Staged(batch, contexts, segments, num_new), None)
        learned = {key: array for key, array in batch.items() if key not in _STAYS}
        of_contexts = {f"contexts/{key}": array for key, array in contexts._asdict().items()}
        parts = learned | of_contexts | {"segments": segments.index}
        if self._stream is None:
            moved, arrived = {key: array.to(self._device) for key, array in parts.items()}, None
        else:
            with torch.cuda.stream(self._stream):
                moved, arrived = send(parts, self._device), self._stream.record_event()
        staged = Staged(
            batch | {key: moved[key] for key in learned},
            Contexts(*(moved[f"contexts/{key}"] for key in Contexts._fields)),
            segments.on(moved["segments"]),
            num_new,
        )
        return _Copy(staged, arrived)
