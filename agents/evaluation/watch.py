"""Plays a trained agent in a window, where a person can type the instruction that the agent reads."""

from __future__ import annotations

import contextlib
import importlib.util
import itertools
import os
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agents.acting.actor import Actor
from agents.acting.policy import ContextRows, Policy
from agents.evaluation.episodes import SavedAgent, make_actor
from agents.evaluation.video import LAST_FRAME_SECONDS, WITHOUT_CLOCK, Frame, describe_failure, moments, picture_rates
from conf.evaluate_schema import EvaluateConfig
from envs.instructions import UNKNOWN, Tokenizer, split_words
from envs.spec import EnvSpec
from system.errors import InputError
from system.words import count, shorten

_KEY = "watch=true"
_SIDE, _LINE, _CHARACTER = 512, 24, 9
"""In pixels: the side up to which a picture is enlarged, the height of a line of text, and the width of a letter."""
_LINES = 5

_WITHOUT_SCREEN = ("offscreen", "dummy")
"""Drivers of SDL that draw into memory. SDL falls back to them without a display."""


def check_watch() -> None:
    """Raises InputError if the package for windows is missing."""
    if not importlib.util.find_spec("pygame"):
        raise InputError(f'{_KEY} needs pygame: pip install "mimpala[watch]".')


def watch(agent: SavedAgent, spec: EnvSpec, config: EvaluateConfig) -> None:
    """Plays the tasks of `spec`, one after the other, until the person ends it. InputError without a display, or without pictures."""
    typed, rates = TypedInstruction(agent), picture_rates(spec)
    with contextlib.closing(Window(typing=typed.is_read)) as window:
        for task in itertools.cycle(spec.tasks):
            with contextlib.closing(make_actor(agent, spec, task, 1, config, typed.attach)) as actor:
                try:
                    if _play(actor, agent.env, task, rates.get(task, WITHOUT_CLOCK), window, typed) == "end":
                        return
                except InputError:
                    raise
                except Exception as error:
                    raise InputError(describe_failure(_KEY, task, error)) from error


def _play(actor: Actor, env: EnvSpec, task: str, rate: float, window: Window, typed: TypedInstruction) -> str:
    """Plays one task until the person wants the `next` one, or the `end`."""
    for moment in moments(actor, env):
        how = f": {moment.ended}" if moment.ended else ""
        for _ in range(max(1, round(LAST_FRAME_SECONDS * rate)) if moment.ended else 1):
            lines = [f"{task}   return {moment.earned:.2f}{how}"]
            lines += [f"instruction: {moment.words}"] if moment.words else []
            window.show(moment.picture, [*lines, *typed.lines()], rate)
            if wanted := window.read():
                return wanted
            typed.text = window.entered
    raise AssertionError("moments do not end")


class TypedInstruction:
    """A ContextOverride that replaces the instruction of an agent by a typed one.

    Attributes:
        text: The typed instruction; empty: the environment's own.
        is_read: Whether the agent reads instructions.
    """

    def __init__(self, agent: SavedAgent) -> None:
        self._tokenizer = Tokenizer(agent.env.vocabulary, agent.env.instruction_length)
        self._columns = slice(0)
        self.text, self.is_read = "", agent.config.context.name in ("instruction", "both")

    def attach(self, policy: Policy) -> None:
        """Lets the policy read the typed instruction."""
        self._columns = policy.network.context_encoder.instruction_columns
        policy.context_override = self

    def __call__(self, true: ContextRows, reset: NDArray[np.bool_]) -> ContextRows:
        if not self.text:
            return true
        rows = true.copy()
        rows[:, self._columns] = self._tokenizer.encode(self.text)
        return rows

    def lines(self) -> list[str]:
        """The instruction that the agent reads, and what of it the agent cannot read."""
        if not self.text:
            return []
        words, tokens = split_words(self.text), self._tokenizer.encode(self.text)
        unknown = [word for word, token in zip(words, tokens, strict=False) if token == UNKNOWN]
        dropped = words[len(tokens) :]
        lines = [f"you: {self.text}"]
        lines += [f"the agent does not know {', '.join(unknown)}"] if unknown else []
        return lines + (
            [f"the agent reads {count(len(tokens), 'word')}, without {' '.join(dropped)}"] if dropped else []
        )


class Window:
    """A window with a picture, lines of text below it, and a line to type into. InputError without a display.

    Attributes:
        entered: The last line that was ended with Enter.
    """

    def __init__(self, *, typing: bool) -> None:
        os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")
        import pygame

        self._pygame, self._typing = pygame, typing
        self._line = self.entered = ""
        if problem := _open_display(pygame):
            pygame.display.quit()
            raise InputError(f"{_KEY} cannot open a window ({problem}): start it on a desktop, or write video=true.")
        pygame.display.set_caption("mimpala")
        pygame.key.set_repeat(400, 40)
        self._font, self._clock = pygame.font.Font(None, _LINE), pygame.time.Clock()

    def show(self, picture: Frame, lines: Sequence[str], rate: float) -> None:
        """Draws the picture, enlarged by an integer factor, and the lines. Waits, so that there are at most `rate` pictures a second."""
        game, (height, width) = self._pygame, picture.shape[:2]
        factor = max(1, _SIDE // min(height, width))
        size = width * factor, height * factor
        whole = size[0], size[1] + _LINE * _LINES + 8
        surface = game.display.get_surface()
        if surface is None or surface.get_size() != whole:
            surface = game.display.set_mode(whole)
        surface.fill("gray90")
        drawn = game.image.frombuffer(picture.tobytes(), (width, height), "RGB")
        surface.blit(game.transform.scale(drawn, size), (0, 0))
        for number, line in enumerate([*lines[: _LINES - 1], self._prompt()]):
            text = self._font.render(shorten(line, whole[0] // _CHARACTER), True, "black")
            surface.blit(text, (4, size[1] + 4 + number * _LINE))
        game.display.flip()
        self._clock.tick(rate)

    def read(self) -> str:
        """Reads the keys since the last call. Returns `end` or `next` if the person wants that, otherwise an empty text."""
        game = self._pygame
        for event in game.event.get():
            key = event.key if event.type == game.KEYDOWN else None
            if event.type == game.QUIT or key == game.K_ESCAPE:
                return "end"
            if key == game.K_TAB:
                return "next"
            if not self._typing:
                continue
            if event.type == game.TEXTINPUT:
                self._line += event.text
            elif key == game.K_BACKSPACE:
                self._line = self._line[:-1]
            elif key in (game.K_RETURN, game.K_KP_ENTER):
                self.entered, self._line = self._line.strip(), ""
        return ""

    def close(self) -> None:
        """Closes the window."""
        self._pygame.display.quit()

    def _prompt(self) -> str:
        if self._line:
            return f"> {self._line}_"
        return f"{'type an instruction, Enter;  ' if self._typing else ''}Tab: next task;  Escape: end"


def _open_display(pygame: Any) -> str:
    """Initialises what a window needs. Returns the reason why there can be none; empty if all is well."""
    driver = os.environ.get("SDL_VIDEODRIVER")
    # Asked first, because a library of SDL prints about it.
    if sys.platform == "linux" and not (driver or os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        return "there is no display"
    try:
        # Not pygame.init, which opens the sound as well.
        pygame.display.init()
        pygame.font.init()
    except pygame.error as error:
        return str(error)
    found = pygame.display.get_driver()
    return "the display does not answer" if found in _WITHOUT_SCREEN and found != driver else ""
