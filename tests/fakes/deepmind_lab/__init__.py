"""A fake of DeepMind Lab's C module, for machines without it: the same calls, the same errors, the same traps.

It imitates the engine's source and the observed behaviour of the running engine. Its pictures are noise that scrolls as the agent turns.
Every level, reward and instruction is a pure function of level, seed, mixer seed and actions, with the exceptions of the engine:

- the first episode of an instance runs a frame ahead of later ones with the same seed;
- on language levels each layout of the map keeps the appearance from the first episode that needed it, as long as the instance lives;
- an episode depends on the number of earlier episodes of the instance: on lasertag levels from the 15th step of 4 frames, and on levels
  with a prebuilt map outside DMLab-30 from the first frame;
- after a reset within an episode whose picture was just observed, the first picture is the last one of that episode;
- an episode without a seed takes one from a generator that is seeded with the second of the import.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import random
import shutil
import signal
import tempfile
import time
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from deepmind_lab import _levels

READABLE, WRITABLE, READ_WRITABLE, LISTABLE = 1, 2, 3, 4

_rand = random.Random(int(time.time()))
_runfiles = str(Path(__file__).parent)

_ACTIONS = (
    ("LOOK_LEFT_RIGHT_PIXELS_PER_FRAME", -512, 512),
    ("LOOK_DOWN_UP_PIXELS_PER_FRAME", -512, 512),
    ("STRAFE_LEFT_RIGHT", -1, 1),
    ("MOVE_BACK_FORWARD", -1, 1),
    ("FIRE", 0, 1),
    ("JUMP", 0, 1),
    ("CROUCH", 0, 1),
)
_ENGINE_SETTINGS = ("width", "height", "fps", "mixerSeed", "levelDirectory", "appendCommand")
_LEVEL_SETTINGS = ("logLevel", "allowHoldOutLevels", "datasetPath", "episodeLengthSeconds", "randomSeed", "playerId")


def version() -> str:
    return "1.0"


def runfiles_path() -> str:
    return _runfiles


def set_runfiles_path(path: str) -> bool:
    global _runfiles  # noqa: PLW0603  (the module's own state, as in C)
    _argument("set_runfiles_path", path, str)
    _runfiles = path
    return True


class Lab:
    def __init__(
        self,
        level: str,
        observations: list[str],
        config: dict[str, str] = {},  # noqa: B006  (never written to)
        renderer: str = "software",
        level_cache: Any = None,
        temp_folder: str | None = None,
    ) -> None:
        for value, kind in ((level, str), (observations, list), (config, dict), (renderer, str)):
            _argument("Lab", value, kind)
        if renderer not in ("", "software", "hardware"):
            raise RuntimeError(f'Failed to set renderer must be "hardware" or "software" actual "{renderer}"!')
        self._cache, self._temporary = level_cache, temp_folder
        self._status = "closed"
        self._sides = {"width": 320, "height": 240}
        self._mixer_seed = 0
        self._settings: dict[str, str] = {}
        for key, value in config.items():
            if not isinstance(key, str) or not isinstance(value, str):
                raise TypeError("bad argument type for built-in operation")
            self._apply(key, value)
        try:
            self._level = _levels.find(level, self._settings)
        except ValueError as error:
            raise RuntimeError(f'Failed to init environment - "{error}"') from None
        self._status = "made"
        self._spec = _levels.observation_spec(self._level, self._sides["height"], self._sides["width"])
        for name in observations:
            if name not in {spec["name"] for spec in self._spec}:
                raise ValueError(f"Unknown observation '{name}'.")
        self._names = list(observations)
        self._properties = {"params.episodes": "0"}
        self._episode = self._num_steps = self._resets = 0
        self._events: list[tuple[str, list[Any]]] = []
        self._looked = False
        self._themes: dict[str, int] = {}
        self._game: _levels.Game

    def _apply(self, key: str, value: str) -> None:
        problem = ""
        if key in self._sides:
            if not value.isdecimal() or int(value) % 4 or not int(value):
                problem = f"Invalid {key}, must be a positive multiple of 4"
            else:
                self._sides[key] = int(value)
        elif key == "mixerSeed":
            if not value.isdecimal() or int(value) >= 1 << 32:
                problem = "Invalid mixerSeed value, must be a positive integer not greater than '4294967295'."
            else:
                self._mixer_seed = int(value)
        elif key == "fps" and value != "60":
            problem = "Invalid int setting"
        elif key not in _ENGINE_SETTINGS:
            self._settings[key] = value
        if problem:
            raise RuntimeError(f"Failed to apply setting '{key} = {value}' - \"{problem}\"")
        for name in self._settings:
            if name not in _LEVEL_SETTINGS:
                raise RuntimeError(f'Failed to init environment - "Invalid setting: "{name}" = "{value}""')

    def reset(self, episode: int = -1, seed: int | None = None) -> bool:
        if episode >= 0:
            self._episode = episode
        if seed is None:
            seed = _rand.getrandbits(31)
        elif not isinstance(seed, int):
            raise ValueError(f"'seed' must be int or None, was '{type(seed).__name__}'.")
        elif not -(1 << 63) <= seed < 1 << 63:
            raise OverflowError("Python int too large to convert to C long")
        if self._status == "closed":
            raise RuntimeError('Failed to start environment - "closed"')
        seed = ctypes.c_int(seed).value
        seed += 1 << 31 if seed < 0 else 0
        if self._level.needs_dataset and not self._settings.get("datasetPath"):
            raise RuntimeError('Failed to start environment - "Follow instructions to download datasets here"')
        self._say(f"Episode {self._episode} of {self._level.name}")
        stale = self._game.view() if self._status == "running" and self._looked else None
        self._looked = False
        self._game = _levels.Game(
            self._level,
            zlib.crc32(f"{self._mixer_seed} {seed}".encode()),
            ahead=int(self._resets == 0),
            drift=self._resets,
            stale=stale,
            sides=(self._sides["height"], self._sides["width"]),
            themes=self._themes,
        )
        self._load_maps()
        self._events = [("TEXT", [f"EPISODE {self._episode}"])] if self._level.events else []
        self._resets += 1
        self._episode += 1
        self._num_steps = 0
        self._status = "running"
        return True

    def _load_maps(self) -> None:
        maps, self._game.maps = self._game.maps, []
        for name, content in maps:
            self._compile(name, content)

    def _compile(self, name: str, content: str) -> None:
        """A new map, from the cache if possible. If the file is missing or is no map, the engine's process dies."""
        if self._cache is None:
            return
        if self._temporary is None:
            self._temporary = tempfile.mkdtemp(prefix="fake_dmlab_")
        path = os.path.join(self._temporary, f"{name}.pk3")
        digest = hashlib.md5(f"{self._level.name} {content}".encode()).hexdigest()
        files = [f"maps/{name}.bsp", *([f"maps/{name}.aas"] if self._level.bots else [])]
        key = f"{name}_{'aas' if self._level.bots else 'noaas'}_{digest}"
        if self._cache.fetch(key, path):
            try:
                with zipfile.ZipFile(path) as map_:
                    for file in files:
                        map_.read(file)
            except Exception:
                os.kill(os.getpid(), signal.SIGSEGV)
        else:
            with zipfile.ZipFile(path, "w") as map_:
                for file in files:
                    map_.writestr(file, digest.encode() * 50)
            self._cache.write(key, path)
        os.unlink(path)

    def _say(self, text: str) -> None:
        if self._settings.get("logLevel") != "WARN":
            print(text)

    def step(self, action: np.ndarray, num_steps: int = 1) -> float:
        _argument("step", action, np.ndarray)
        if self._status != "running":
            raise RuntimeError("Environment in wrong status to advance.")
        if action.shape != (len(_ACTIONS),):
            raise ValueError(f"action must have shape ({len(_ACTIONS)})")
        if action.dtype != np.intc:
            raise ValueError("action must have dtype np.intc")
        # Reads the raw memory and ignores strides.
        numbers = list((ctypes.c_int * len(_ACTIONS)).from_address(action.ctypes.data))
        numbers[:2] = [(number + 512) % 1024 - 512 for number in numbers[:2]]
        self._num_steps += num_steps
        self._events = []
        reward = 0.0
        for _ in range(num_steps):
            self._looked = False
            gained, has_instruction = self._game.advance(numbers)
            reward += gained
            if has_instruction:
                self._load_maps()
                self._say(f"Instruction: {self._game.instruction}")
            if self._game.over():
                self._status = "over"
                self._events = [("LOG", ["Episode ended"])] if self._level.events else []
                break
        return reward

    def observations(self) -> dict[str, Any]:
        if self._status != "running":
            raise RuntimeError("Environment in wrong status for call to observations()")
        by_name = {spec["name"]: spec for spec in self._spec}
        self._looked = True
        return {name: self._game.observe(by_name[name]) for name in self._names}

    def is_running(self) -> bool:
        return self._status == "running"

    def events(self) -> list[tuple[str, list[Any]]]:
        if self._status not in ("running", "over"):
            raise RuntimeError("Environment in wrong status for call to events()")
        return list(self._events)

    def num_steps(self) -> int:
        return self._num_steps

    def observation_spec(self) -> list[dict[str, Any]]:
        for name in ("RGB_INTERLACED", "RGBD_INTERLACED"):  # regardless of logLevel
            print(f"Using deprecated observation format: '{name}'")
        return [dict(spec) for spec in self._spec]

    def action_spec(self) -> list[dict[str, Any]]:
        return [{"name": name, "min": low, "max": high} for name, low, high in _ACTIONS]

    def read_property(self, key: str) -> str:
        if key not in self._properties:
            raise KeyError(f"'{key}' not found.")
        return self._properties[key]

    def write_property(self, key: str, value: str) -> None:
        if key == "engine.fps":
            raise TypeError(f"'{key}' not writable.")
        if key not in self._properties:
            raise KeyError(f"'{key}' not found.")
        self._properties[key] = value

    def properties(self, key: str = "") -> dict[str, int]:
        if key in self._properties:
            raise TypeError(f"'{key}' not listable.")
        found = {name: READ_WRITABLE for name in self._properties if name.startswith(key)}
        if not found:
            raise KeyError(f"'{key}' not found.")
        return found

    def close(self) -> bool:
        was_open = self._status != "closed"
        self._status = "closed"
        if self._temporary is not None:
            shutil.rmtree(self._temporary, ignore_errors=True)
        return was_open


def _argument(function: str, value: object, kind: type) -> None:
    if not isinstance(value, kind):
        raise TypeError(f"{function}() argument must be {kind.__name__}, not {type(value).__name__}")
