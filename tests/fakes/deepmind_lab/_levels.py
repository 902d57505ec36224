"""The levels of the fake: their lengths, instructions and dynamics."""

from __future__ import annotations

import math
import random
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

DMLAB30 = "contributed/dmlab30/"

# fmt: off
SHAPES = (
    "apple2", "ball", "balloon", "banana", "bottle", "cake", "can", "car", "cassette", "chair", "cherries", "cow", "flower",
    "fork", "fridge", "guitar", "hair_brush", "hammer", "hat", "ice_lolly", "jug", "key", "knife", "ladder", "mug", "pencil",
    "pig", "pincer", "plant", "saxophone", "shoe", "spoon", "suitcase", "tennis_racket", "tomato", "toothbrush", "tree", "tv",
    "wine_glass", "zebra",
)
# fmt: on
COLOURS = ("red", "green", "blue", "cyan", "magenta", "yellow")
SENTENCES: dict[str, tuple[str, ...]] = {
    "select_described_object": ("{shape}",),
    "select_located_object": ("Pick the {colour} object in the {other_colour} room",),
    "execute_random_task": (
        *("{colour}", "{shape}", "{colour} {shape}", "Every {shape}", "Every {colour} object"),
        *("{shape} near {other_shape}", "{shape} near {colour} object", "{colour} object near {other_colour} object"),
    ),
    "answer_quantitative_question": (
        *("Are all {shape} objects {colour}?", "Is any {shape} {colour}?", "Is anything {colour}?"),
        "Are most {shape} objects {colour}?",
    ),
}
"""Sentences of the language levels."""
DESCRIBED = ("cake", "car", "cassette", "hat", "tv")
"""The shapes of select_described_object."""

FRAMES: dict[str, int] = {
    "rooms_select_nonmatching_object": 720,
    "rooms_watermaze": 7200,
    "rooms": 3600,
    "language_select_located_object": 7200,
    "language_execute_random_task": 7200,
    "language": 3600,
    "lasertag": 14400,
    "natlab": 3600,
    "skymaze": 3600,
    "psychlab_sequential_comparison": 18000,
    "psychlab": 9000,
    "explore_object_rewards_many": 7200,
    "explore_object_rewards_few": 5400,
}
"""Frames of an episode by prefix of the level's name; the first entry that matches applies."""

COMPILING = ("rooms_keys_doors", "lasertag", "skymaze", "explore")
"""Families whose every episode has a new map; the language levels change theirs within an episode."""
LAYOUTS = {"select_described_object": 1, "select_located_object": 4}
"""Number of maps of a language level, by default 3. Each gets its appearance once per instance."""

LEVELS = tuple(
    f"{DMLAB30}{name}"
    for name in (
        *(
            f"rooms_{name}_{split}"
            for name in ("collect_good_objects", "exploit_deferred_effects")
            for split in ("train", "test")
        ),
        *(f"rooms_{name}" for name in ("select_nonmatching_object", "watermaze", "keys_doors_puzzle")),
        *(f"language_{name}" for name in SENTENCES),
        *(f"lasertag_{number}_{size}" for number in ("one_opponent", "three_opponents") for size in ("small", "large")),
        *(f"natlab_{name}" for name in ("fixed_large_map", "varying_map_regrowth", "varying_map_randomized")),
        *(f"skymaze_irreversible_path_{name}" for name in ("hard", "varied")),
        *(f"psychlab_{name}" for name in ("arbitrary_visuomotor_mapping", "continuous_recognition")),
        *(f"psychlab_{name}" for name in ("sequential_comparison", "visual_search")),
        *(
            f"explore_{name}_{size}"
            for name in ("object_locations", "obstructed_goals", "goal_locations")
            for size in ("small", "large")
        ),
        *(f"explore_object_rewards_{name}" for name in ("few", "many")),
    )
) + (
    *("lt_chasm", "nav_maze_static_01", "nav_maze_random_goal_01", "seekavoid_arena_01", "stairway_to_melon"),
    "tests/event_test",
)


class Level(NamedTuple):
    """drifts_from: the frame from which an episode depends on the number of earlier episodes of the instance."""

    name: str
    frames: int
    sentences: tuple[str, ...] = ()
    shapes: tuple[str, ...] = SHAPES
    layouts: int = 3
    compiles: bool = False
    bots: bool = False
    drifts_from: float = math.inf
    needs_dataset: bool = False
    trials: int = 0
    events: bool = False


def find(path: str, settings: dict[str, str]) -> Level:
    """The level of that path. Raises the engine's ValueError if it does not exist or may not be played."""
    if path.endswith(".lua"):
        # Opened as a file anywhere; any other path is searched among the engine's levels.
        if not Path(path).is_file():
            raise ValueError(f"Script not found: {path}")
        return Level(path, 3600)
    if path not in LEVELS:
        raise ValueError(f"Script not found: levels/{path}.lua")
    name = path.removeprefix(DMLAB30)
    if name.endswith("_test") and path.startswith(DMLAB30) and settings.get("allowHoldOutLevels") != "true":
        raise ValueError("This level must only be used during evaluation.")
    if path == "tests/event_test":
        return Level(path, 60, events=True)
    if not path.startswith(DMLAB30):
        return Level(path, 36000 if path == "lt_chasm" else 3600, drifts_from=1)
    frames = next((frames for start, frames in FRAMES.items() if name.startswith(start)), 0)
    return Level(
        path,
        frames or (5400 if name.endswith("small") else 7200),
        sentences=SENTENCES.get(name.removeprefix("language_"), ()),
        shapes=DESCRIBED if "described" in name else SHAPES,
        layouts=LAYOUTS.get(name.removeprefix("language_"), 3),
        compiles=name.startswith(COMPILING),
        bots=name.startswith("lasertag"),
        # 15 steps of 4 frames.
        drifts_from=60 if name.startswith("lasertag") else math.inf,
        needs_dataset=name in ("psychlab_arbitrary_visuomotor_mapping", "psychlab_continuous_recognition"),
        trials=50 if name.startswith("psychlab") else 0,
    )


class Game:
    """One episode.

    Args:
        ahead: Number of frames by which it runs ahead.
        drift: Effect of earlier episodes, from `Level.drifts_from` on.
        stale: The picture that is shown until the first frame; None = its own.
        themes: Layout -> seed of its appearance, for the whole instance. The first episode that needs a layout sets it.

    Attributes:
        maps: Maps to load, by name and content.
    """

    def __init__(
        self,
        level: Level,
        seed: int,
        *,
        ahead: int,
        drift: int,
        stale: np.ndarray | None,
        sides: tuple[int, int],
        themes: dict[str, int],
    ) -> None:
        self.level = level
        self.frame, self.ahead, self.drift = 0, ahead, drift
        self.place = self.fired = 0
        self.draws = random.Random(seed)
        self.stale, self.sides, self.themes = stale, sides, themes
        self.maps = [("map", str(seed))] if level.compiles else []
        self.picture = self.noise(seed)
        self.good = self.draws.randrange(64)
        self.instruction = self.new_instruction()

    def noise(self, seed: int) -> np.ndarray:
        return np.random.default_rng(seed).integers(0, 256, (*self.sides, 3), np.uint8)

    def new_instruction(self) -> str:
        if not self.level.sentences:
            return ""
        layout, theme = f"layout{self.draws.randrange(self.level.layouts)}", self.draws.getrandbits(32)
        if layout not in self.themes:
            self.themes[layout] = theme
            self.maps.append((layout, str(theme)))
        self.picture = self.noise(self.themes[layout])
        colour, other_colour = self.draws.sample(COLOURS, 2)
        shape, other_shape = self.draws.sample(self.level.shapes, 2)
        sentence = self.draws.choice(self.level.sentences)
        return sentence.format(colour=colour, other_colour=other_colour, shape=shape, other_shape=other_shape)

    def advance(self, action: list[int]) -> tuple[float, bool]:
        """One frame: the reward, and whether there is a new instruction."""
        look, pitch, strafe, move, fire, jump, crouch = action
        self.stale = None
        self.frame += 1
        self.place += look // 10 + 3 * move + 5 * strafe + 7 * pitch + jump - crouch
        self.fired += fire
        # A new map of a language level starts about twice a second here, more often than in the engine.
        if self.level.sentences and (self.frame + self.ahead) % 32 == 0:
            reward = 10.0 if self.place % 2 else -10.0
            self.instruction = self.new_instruction()
            return reward, True
        return float((self.place + self.shift()) % 64 == self.good and not self.level.sentences), False

    def shift(self) -> int:
        """The part that depends on neither seed nor actions."""
        return self.ahead + (self.drift if self.frame >= self.level.drifts_from else 0)

    def over(self) -> bool:
        return self.frame >= self.level.frames or 0 < self.level.trials <= self.fired

    def view(self) -> np.ndarray:
        picture = np.roll(self.picture, self.place + self.shift(), axis=1)
        picture[0, 0] = self.frame & 255, self.frame >> 8, self.fired & 255
        return picture

    def observe(self, spec: dict[str, Any]) -> Any:
        name = spec["name"]
        if name == "INSTR":
            return self.instruction
        if name == "FRAMES_REMAINING_AT_60":
            return np.array([float(self.level.frames - self.frame)])
        if name in ("RGB_INTERLEAVED", "BGR_INTERLEAVED", "RGB"):
            picture = self.view() if self.stale is None else self.stale
            picture = picture[..., ::-1] if name.startswith("BGR") else picture
            return np.ascontiguousarray(np.moveaxis(picture, -1, 0) if name == "RGB" else picture).copy()
        return "" if spec["dtype"] is str else np.zeros(spec["shape"], spec["dtype"])


def observation_spec(level: Level, height: int, width: int) -> list[dict[str, Any]]:
    """All observations of a level: those of the engine, and those of its scripts if the level uses them."""
    planes = {"RGB_INTERLEAVED": 3, "RGBD_INTERLEAVED": 4, "BGR_INTERLEAVED": 3, "BGRD_INTERLEAVED": 4}
    shapes: dict[str, tuple[tuple[int, ...], type]] = {
        **{name: ((height, width, depth), np.uint8) for name, depth in planes.items()},
        **{name: ((depth, height, width), np.uint8) for name, depth in {"RGB": 3, "RGBD": 4}.items()},
        **{
            name: ((height, width, depth), np.uint8)
            for name, depth in {"RGB_INTERLACED": 3, "RGBD_INTERLACED": 4}.items()
        },
        "MAP_FRAME_NUMBER": ((1,), np.float64),
    }
    if not level.events:
        shapes |= dict.fromkeys(("VEL.TRANS", "VEL.ROT", "DEBUG.POS.TRANS", "DEBUG.POS.ROT"), ((3,), np.float64))
        shapes |= dict.fromkeys(("INSTR", "DEBUG.MAZE.LAYOUT", "DEBUG.MAZE.VARIATION", "DEBUG.PLAYERS.NAME"), ((), str))
        shapes |= {"TEAM.SCORE": ((2,), np.float64), "FRAMES_REMAINING_AT_60": ((1,), np.float64)}
        cameras = ("TOP_DOWN", "PLAYER_VIEW", "PLAYER_VIEW_NO_RETICLE")
        shapes |= {f"DEBUG.CAMERA_INTERLEAVED.{name}": ((height, width, 3), np.uint8) for name in cameras}
        shapes |= {f"DEBUG.CAMERA.{name}": ((3, height, width), np.uint8) for name in cameras}
        numbers = ("ARMOR", "GADGET", "GADGET_AMOUNT", "HEALTH", "HOLDING_FLAG", "TEAM", "CAPTURES", "SCORE")
        shapes |= {f"DEBUG.PLAYERS.{name}": ((0,), np.float64) for name in numbers}
        shapes |= {f"DEBUG.PLAYERS.{name}": ((0, 3), np.float64) for name in ("EYE.POS", "EYE.ROT", "VELOCITY")}
        shapes |= {f"DEBUG.PLAYERS.{name}": ((0,), np.uint8) for name in ("ID", "IS_BOT")}
        shapes |= {f"DEBUG.FLAGS.{name}": ((5,), np.float64) for name in ("RED", "BLUE")}
        shapes |= {f"DEBUG.FLAGS.{name}_HOME": ((4,), np.float64) for name in ("RED", "BLUE")}
        shapes["DEBUG.PLAYER_ID"] = ((1,), np.uint8)
    return [{"name": name, "shape": shape, "dtype": dtype} for name, (shape, dtype) in shapes.items()]
