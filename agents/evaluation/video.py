"""Videos of an agent: the rendered environment above a caption with the instruction and the return."""

from __future__ import annotations

import contextlib
import importlib.util
import itertools
import math
import os
import re
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from agents.acting.actor import Actor
from agents.trajectory import allocate, trajectory_spec
from envs.instructions import PADDING
from envs.spec import EnvSpec
from system.errors import InputError

Frame = NDArray[np.uint8]

WITHOUT_CLOCK = 8.0
"""Frames per second for an environment without a clock."""
_MOST_PER_SECOND = {".mp4": 60.0, ".gif": 50.0}
"""Highest frame rate that players can show. Frames of faster environments are skipped."""
_FEWEST_PER_SECOND = 0.1
LAST_FRAME_SECONDS = 0.75
"""Duration of an episode's last frame."""
_MOST_FRAMES = 30_000
"""Most frames of a video: the length of the longest Atari episode."""
_LEAST_SIDE = 256
_LINE, _LINES, _CHARACTER = 16, 4, 7
"""Caption: height of a line in pixels, number of lines, width of a character in pixels."""


def check_video() -> None:
    """Raises InputError if a package for writing videos is missing."""
    modules = {"imageio": "imageio", "pillow": "PIL"}
    if missing := [name for name, module in modules.items() if not importlib.util.find_spec(module)]:
        raise InputError(f'video=true needs {" and ".join(missing)}: pip install "mimpala[video]".')


def record_all(
    names: Mapping[str, str],
    make: Callable[[str], Actor],
    env: EnvSpec,
    episodes: int,
    folder: Path,
    rates: Mapping[str, float],
) -> Iterator[Path | str]:
    """Records a video per task and yields its path. For a task that fails, yields the reason and continues.

    `names` has the names of the files by task, `rates` the frames per second (`picture_rates`). `make` makes an actor with one slot.
    """
    for task, name in names.items():
        try:
            with contextlib.closing(make(task)) as actor:
                yield record(actor, env, episodes, folder, name, rates.get(task, WITHOUT_CLOCK))
        except InputError as error:
            yield str(error)
        except Exception as error:
            yield describe_failure("video=true", task, error)


def describe_failure(key: str, task: str, error: Exception) -> str:
    """A sentence about a task that cannot be drawn."""
    lines = str(error).strip().splitlines() or [""]
    return f"{key}: {task} could not be drawn ({type(error).__name__}: {lines[-1].rstrip('.')})."


def picture_rates(env: EnvSpec) -> dict[str, float]:
    """Task -> agent steps per second, for tasks whose environment has a clock."""
    return {task: rate / env.action_repeat for task, rate in env.frame_rates.items()}


def file_names(tasks: Sequence[str]) -> dict[str, str]:
    """A distinct file name without ending for each task, of letters, digits, `.`, `_` and `-`; never a path."""
    names: dict[str, str] = {}
    # Compared in lower case, for case-insensitive file systems.
    taken: set[str] = set()
    for task in tasks:
        base = re.sub(r"[^A-Za-z0-9._-]+", "_", task).strip("._")[:100] or "task"
        name, number = base, 1
        while name.lower() in taken:
            number += 1
            name = f"{base}-{number}"
        taken.add(name.lower())
        names[task] = name
    return names


def record(actor: Actor, env: EnvSpec, episodes: int, folder: Path, name: str, rate: float = WITHOUT_CLOCK) -> Path:
    """Plays `episodes` episodes in the first slot of `actor` and writes them as `folder/name.mp4`, or .gif without ffmpeg.

    `rate` is the number of steps per second. The file is written atomically. Raises InputError if the folder cannot be written.
    """
    import imageio.v2 as imageio

    ending = ".mp4" if importlib.util.find_spec("imageio_ffmpeg") else ".gif"
    path, temporary = folder / (name + ending), folder / f".{name}.tmp{ending}"
    rate = max(rate, _FEWEST_PER_SECOND)
    every = math.ceil(rate / _MOST_PER_SECOND[ending])
    if ending == ".mp4":
        # 4:2:0 colour needs even sides, which `captioned` makes. By default imageio would resize to multiples of 16.
        options: dict[str, Any] = {"fps": rate / every, "macro_block_size": 2}
    else:
        options = {"duration": 1000 * every / rate, "loop": 0}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        try:
            writer: Any = imageio.get_writer(temporary, **options)
            with writer:
                for frame in itertools.islice(frames(actor, env, episodes, rate), None, None, every):
                    writer.append_data(frame)
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise InputError(f"video=true cannot write {path} ({error}): make room or leave video= out.") from error
    return path


def frames(actor: Actor, env: EnvSpec, episodes: int, rate: float) -> Iterator[Frame]:
    """The captioned frames of the next `episodes` episodes of the first slot, all of one size.

    The last frame of an episode is repeated to last LAST_FRAME_SECONDS at `rate` frames per second.
    """
    size, ended = None, 0
    # An episode may never end.
    for moment in itertools.islice(moments(actor, env), _MOST_FRAMES):
        how = f": {moment.ended}" if moment.ended else ""
        frame = captioned(moment.picture, f"{moment.words}\nreturn {moment.earned:.2f}{how}", size)
        size = frame.shape[:2]
        for _ in range(max(1, round(LAST_FRAME_SECONDS * rate)) if moment.ended else 1):
            yield frame
        ended += bool(moment.ended)
        if ended == episodes:
            return


class Moment(NamedTuple):
    """What is seen of a slot at one step.

    Attributes:
        picture: uint8 [H, W, 3].
        words: The instruction; empty without one.
        earned: The return so far.
        ended: `success` or `end` at the last moment of an episode, otherwise empty.
    """

    picture: Frame
    words: str
    earned: float
    ended: str = ""


def moments(actor: Actor, env: EnvSpec) -> Iterator[Moment]:
    """Plays the first slot of `actor` without end, one step for each moment. The step that resets has none."""
    slots, state_size = actor.policy.core_state.shape
    step = allocate(trajectory_spec(env, 1, slots, state_size, context_seeds=actor.context_seeds))
    earned = 0.0
    while True:
        picture = actor.env.render(0)
        actor.unroll(step)
        words = _instruction(step["instruction"][0, 0].tolist(), env.vocabulary) if env.instruction_length else ""
        yield Moment(picture, words, earned)
        # An interrupted episode has no return: the next one starts from 0.
        earned = 0.0 if step["interrupted"][0, 0] else earned + float(step["reward"][0, 0])
        if not np.isnan(float(step["episode_return"][0, 0])):
            how = "success" if float(step["success"][0, 0]) == 1 else "end"
            yield Moment(actor.env.render(0), words, earned, how)
            actor.unroll(step)
            earned = 0.0


def captioned(picture: Frame, text: str, size: tuple[int, ...] | None = None) -> Frame:
    """The picture above `text`, enlarged by an integer factor to at least 256 pixels, cropped or padded to `size` (height, width)."""
    from PIL import Image, ImageDraw

    factor = -(-_LEAST_SIDE // min(picture.shape[:2]))
    large = picture.repeat(factor, axis=0).repeat(factor, axis=1)
    height, width = size or tuple(side + side % 2 for side in (large.shape[0] + _LINE * _LINES + 8, large.shape[1]))
    canvas = np.full((height, width, 3), 255, np.uint8)
    rows, columns = min(large.shape[0], height), min(large.shape[1], width)
    canvas[:rows, :columns] = large[:rows, :columns]
    image = Image.fromarray(canvas)
    draw = ImageDraw.Draw(image)
    wrapped = [part for line in text.split("\n") for part in textwrap.wrap(line, max(8, (width - 8) // _CHARACTER))]
    # A long text loses its middle, because the last line holds the return.
    lines = wrapped if len(wrapped) <= _LINES else [*wrapped[: _LINES - 2], "...", wrapped[-1]]
    for number, line in enumerate(lines):
        top = height - _LINE * _LINES - 4 + number * _LINE
        # Pillow's built-in font may have Latin letters only.
        draw.text((4, top), line.encode("latin-1", "replace").decode("latin-1"), fill=(0, 0, 0), font_size=13)
    return np.asarray(image, np.uint8)


def _instruction(tokens: Sequence[int], vocabulary: Sequence[str]) -> str:
    return " ".join(vocabulary[token] for token in tokens if token != PADDING).replace(" ,", ",")
