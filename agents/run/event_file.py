"""TensorBoard's file format, written row by row.

TensorBoard's own writer passes rows to a thread, which keeps them for up to two minutes. A killed run loses them, and a failed write
ends the thread with a traceback. Here the complete row is in the file when `write` returns.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Mapping
from pathlib import Path

from tensorboard.compat.proto.event_pb2 import Event, SessionLog  # type: ignore[import-untyped]
from tensorboard.compat.proto.summary_pb2 import Summary  # type: ignore[import-untyped]
from tensorboard.summary.writer.record_writer import RecordWriter  # type: ignore[import-untyped]

from system.files import AppendedFile


class EventFile:
    """One file of scalars and pictures in a folder of TensorBoard, which is created if missing. Raises OSError if it cannot be written.

    From `first_step` of this file on, TensorBoard hides the events of earlier files. With None it shows all.
    """

    def __init__(self, folder: Path, first_step: int | None) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        # TensorBoard recognises the prefix and reads the files in the order of their names.
        name = f"events.out.tfevents.{time.time():.6f}.{socket.gethostname()}.{os.getpid()}"
        self._file = AppendedFile(folder / name)
        self._add(Event(wall_time=time.time(), step=first_step or 0, file_version="brain.Event:2"))
        if first_step is not None:
            start = SessionLog(status=SessionLog.START)
            self._add(Event(wall_time=time.time(), step=first_step, session_log=start))

    def write(self, step: int, row: Mapping[str, float]) -> None:
        """Adds the scalars of one step. Raises OSError if the file cannot be written."""
        values = [Summary.Value(tag=tag, simple_value=value) for tag, value in row.items()]
        self._add(Event(wall_time=time.time(), step=step, summary=Summary(value=values)))

    def show(self, step: int, tag: str, png: bytes, size: tuple[int, int]) -> None:
        """Adds a picture; `size` is its height and width. Raises OSError if the file cannot be written."""
        image = Summary.Image(height=size[0], width=size[1], colorspace=4, encoded_image_string=png)
        self._add(Event(wall_time=time.time(), step=step, summary=Summary(value=[Summary.Value(tag=tag, image=image)])))

    def close(self) -> None:
        self._file.close()

    def _add(self, event: Event) -> None:
        RecordWriter(self._file).write(event.SerializeToString())
