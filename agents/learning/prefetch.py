"""What the learner needs of a batch, brought to where it computes: the batch itself, its contexts, and which sample has which.

Everything that depends on the data - distinct contexts, stretches between resets - is found in the processor's memory. On a device the
same question would make the learner wait for all that was computed before it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import torch

from agents.fusion import Segments
from agents.fusion.device_transfer import send
from agents.network.context import ContextEncoder, Contexts, distinct_rows
from agents.trajectory import EPISODE_STATISTICS, Trajectory

_STAYS = (*EPISODE_STATISTICS, "instruction", "reset")
"""Keys that no device is sent: they are not learned from, or known by other means (contexts), or read in the processor's memory (cores)."""


class Staged(NamedTuple):
    """A batch where it is learned from.

    Attributes:
        batch: on the device, but for `_STAYS`, which stay where they were.
        contexts, segments: the distinct contexts and the one of each of the (T + 1) B samples, on the device.
    """

    batch: Trajectory
    contexts: Contexts
    segments: Segments


class _Sent(NamedTuple):
    """Of `source`, on its way: there after `arrived`, where that is an event of a stream of its own."""

    source: Trajectory
    staged: Staged
    arrived: torch.cuda.Event | None


class Staging:
    """Brings batches to a device. On the processor there is nothing to bring, and a batch is passed on as it is.

    Args:
        encoder: says what a context is.
        device: that the learner computes on.
        asynchronous: from pinned memory and in a stream of its own, so that the next batch travels while one is learned from (`ahead`);
            otherwise key by key, as `Tensor.to` does it.
    """

    def __init__(self, encoder: ContextEncoder, device: torch.device, *, asynchronous: bool = True) -> None:
        self._encoder = encoder
        self._device = device
        self._stream = torch.cuda.Stream(device) if asynchronous and device.type == "cuda" else None
        self._sent: deque[_Sent] = deque()

    def ahead(self, parts: Iterable[tuple[Trajectory, int]]) -> Iterator[tuple[Trajectory, int]]:
        """The same parts (agents.learning.replay.iterate_minibatches); each is on its way to the device while the one before it is
        learned from."""
        if self._stream is None:
            yield from parts
            return
        self._sent.clear()
        waiting: deque[tuple[Trajectory, int]] = deque()
        for part in parts:
            self._sent.append(self._send(part[0]))
            waiting.append(part)
            if len(waiting) > 1:
                yield waiting.popleft()
        yield from waiting

    def take(self, batch: Trajectory) -> Staged:
        """A batch, which `ahead` may have sent already; whatever comes next on the current stream finds it there."""
        if not (self._sent and self._sent[0].source is batch):
            self._sent.clear()
            self._sent.append(self._send(batch))
        sent = self._sent.popleft()
        if sent.arrived is not None:
            stream = torch.cuda.current_stream(self._device)
            stream.wait_event(sent.arrived)
            # All of them lie in one block of memory, which belongs to the other stream: it may not be given away before this one is done.
            sent.staged.segments.index.record_stream(stream)
        return sent.staged

    def _send(self, batch: Trajectory) -> _Sent:
        instruction = batch["instruction"].numpy() if "instruction" in batch else None
        rows, index = distinct_rows(self._encoder.context_rows(batch["task"].numpy(), instruction))
        contexts = self._encoder.contexts_from_rows(rows)
        segments = Segments(torch.from_numpy(index), len(contexts.task))
        if self._device.type == "cpu":
            return _Sent(batch, Staged(batch, contexts, segments), None)
        learned = {key: array for key, array in batch.items() if key not in _STAYS}
        told = {f"contexts/{key}": array for key, array in contexts._asdict().items()} | {"segments": segments.index}
        if self._stream is None:
            moved, arrived = {key: array.to(self._device) for key, array in (learned | told).items()}, None
        else:
            with torch.cuda.stream(self._stream):
                moved, arrived = send(learned | told, self._device), self._stream.record_event()
        staged = Staged(
            batch | {key: moved[key] for key in learned},
            Contexts(*(moved[f"contexts/{key}"] for key in Contexts._fields)),
            segments.on(moved["segments"]),
        )
        return _Sent(batch, staged, arrived)
