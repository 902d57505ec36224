"""TensorBoard's event files, written row by row into the run folder, so that TensorBoard shows the run by the folder's name.

TensorBoard's own writer passes rows to a thread, which keeps them for up to two minutes. A killed run loses them, and a failed write
ends the thread with a traceback. Here the complete row is in the file when `log` returns.
"""

from __future__ import annotations

import io
import math
import os
import socket
import struct
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from tensorboard.compat.proto.event_pb2 import Event, SessionLog  # type: ignore[import-untyped]
from tensorboard.compat.proto.summary_pb2 import Summary  # type: ignore[import-untyped]
from tensorboard.summary.writer.record_writer import RecordWriter  # type: ignore[import-untyped]
from torch.utils.tensorboard.summary import custom_scalars, hparams, text

from agents.run.trackers.tags import GROUPS, MEAN
from agents.run.trackers.tracker import TrackedRun
from conf.composition import flatten
from system.files import AppendedFile

_MOST_PICTURES, _LONGEST_SIDE = 150, 256
"""Bounds of a video in TensorBoard, which shows GIFs and keeps them in memory."""

_RESULTS = ("return", "success", "score")


class TensorBoard:
    """A new event file in the run folder. Raises OSError if it cannot be written.

    If the run has a first frame, TensorBoard hides rows of earlier files after it, and gets the configuration as hparams and as text.
    """

    def __init__(self, run: TrackedRun) -> None:
        # TensorBoard recognises the prefix and reads the files in the order of their names.
        name = f"events.out.tfevents.{time.time():.6f}.{socket.gethostname()}.{os.getpid()}"
        self._file = AppendedFile(run.folder / name)
        self._end: Any = None
        self._add(run.frames or 0, file_version="brain.Event:2")
        if run.frames is not None:
            self._begin(run.config, run.frames)

    def _begin(self, config: Mapping[str, Any], frames: int) -> None:
        self._add(frames + 1, session_log=SessionLog(status=SessionLog.START))
        values = {
            key: value if isinstance(value, int | float) else str(value) for key, value in flatten(config).items()
        }
        experiment, start, self._end = hparams(values, {f"{figure}/{MEAN}": 0.0 for figure in _RESULTS})
        # The tab of custom scalars has an order of its own: returns first. The other tabs sort the groups by name.
        layout = {group: {group: ["Multiline", [f"^{group}/.*"]]} for group in GROUPS}
        content = yaml.safe_dump(dict(config), sort_keys=False, allow_unicode=True)
        indented = "".join(f"    {line}\n" for line in content.splitlines())
        for summary in (experiment, start, custom_scalars(layout), text("configuration", indented)):
            self._add(frames, summary=summary)

    def log(self, frames: int, values: Mapping[str, float]) -> None:
        self._add_values(frames, [Summary.Value(tag=tag, simple_value=value) for tag, value in values.items()])

    def picture(self, frames: int, tag: str, png: Path) -> None:
        content = png.read_bytes()
        width, height = struct.unpack(">II", content[16:24])
        self._show(frames, tag, content, height, width)

    def video(self, frames: int, tag: str, path: Path) -> None:
        content = path.read_bytes() if path.suffix == ".gif" else _as_gif(path)
        width, height = struct.unpack("<HH", content[6:10])
        self._show(frames, tag, content, height, width)

    def close(self) -> None:
        try:
            if self._end is not None:
                self._add(0, summary=self._end)
        finally:
            self._file.close()

    def _show(self, frames: int, tag: str, content: bytes, height: int, width: int) -> None:
        image = Summary.Image(height=height, width=width, colorspace=3, encoded_image_string=content)
        self._add_values(frames, [Summary.Value(tag=tag, image=image)])

    def _add_values(self, frames: int, values: list[Any]) -> None:
        self._add(frames, summary=Summary(value=values))

    def _add(self, frames: int, **content: Any) -> None:
        RecordWriter(self._file).write(Event(wall_time=time.time(), step=frames, **content).SerializeToString())


def _as_gif(path: Path) -> bytes:
    """A video with fewer and smaller pictures, at its speed."""
    import imageio.v2 as imageio

    with imageio.get_reader(path) as reader:
        facts = reader.get_meta_data()
        every = max(1, math.ceil(facts["fps"] * facts["duration"] / _MOST_PICTURES))
        side = math.ceil(max(facts["size"]) / _LONGEST_SIDE)
        pictures = [picture[::side, ::side] for number, picture in enumerate(reader) if number % every == 0]
    content = io.BytesIO()
    imageio.mimwrite(content, pictures, format="GIF", duration=1000 * every / facts["fps"], loop=0)
    return content.getvalue()
