"""The levels of DMLab-30 and the vocabulary of their instructions, as tables so that a config is checked without the engine.

Returns and level names come from google-deepmind/scalable_agent, suite.py; a test compares them with a copy. As there, a return on a
training level is scored with the constants of its test level.
"""

from __future__ import annotations

from typing import NamedTuple

FOLDER = "contributed/dmlab30/"
"""Folder of the levels of DMLab-30 in the engine."""


class Level(NamedTuple):
    """One level.

    Attributes:
        random, human: Mean returns of a random policy and of a human on the test level.
        test: The level that evaluation plays, if it is another one.
        needs_dataset: Whether it shows the pictures of Brady, Konkle and Oliva (2008).
    """

    random: float
    human: float
    test: str = ""
    needs_dataset: bool = False


LEVELS: dict[str, Level] = {
    "rooms_collect_good_objects_train": Level(0.073, 10.0, test="rooms_collect_good_objects_test"),
    "rooms_exploit_deferred_effects_train": Level(8.501, 85.65, test="rooms_exploit_deferred_effects_test"),
    "rooms_select_nonmatching_object": Level(0.312, 65.9),
    "rooms_watermaze": Level(4.065, 54.0),
    "rooms_keys_doors_puzzle": Level(4.135, 53.8),
    "language_select_described_object": Level(-0.07, 389.5),
    "language_select_located_object": Level(1.929, 280.7),
    "language_execute_random_task": Level(-5.913, 254.05),
    "language_answer_quantitative_question": Level(-0.33, 184.5),
    "lasertag_one_opponent_small": Level(-0.224, 12.65),
    "lasertag_three_opponents_small": Level(-0.214, 18.55),
    "lasertag_one_opponent_large": Level(-0.083, 18.6),
    "lasertag_three_opponents_large": Level(-0.102, 31.5),
    "natlab_fixed_large_map": Level(2.173, 36.9),
    "natlab_varying_map_regrowth": Level(2.989, 24.45),
    "natlab_varying_map_randomized": Level(7.346, 42.35),
    "skymaze_irreversible_path_hard": Level(0.1, 100.0),
    "skymaze_irreversible_path_varied": Level(14.4, 100.0),
    "psychlab_arbitrary_visuomotor_mapping": Level(0.163, 58.75, needs_dataset=True),
    "psychlab_continuous_recognition": Level(0.224, 58.3, needs_dataset=True),
    "psychlab_sequential_comparison": Level(0.129, 39.5),
    "psychlab_visual_search": Level(0.085, 78.5),
    "explore_object_locations_small": Level(3.575, 74.45),
    "explore_object_locations_large": Level(4.673, 65.65),
    "explore_obstructed_goals_small": Level(6.76, 206.0),
    "explore_obstructed_goals_large": Level(2.61, 119.5),
    "explore_goal_locations_small": Level(7.66, 267.5),
    "explore_goal_locations_large": Level(3.14, 194.5),
    "explore_object_rewards_few": Level(2.073, 77.7),
    "explore_object_rewards_many": Level(2.438, 106.7),
}

_FAMILIES = ("rooms", "language", "lasertag", "natlab", "skymaze", "psychlab", "explore")

PRESETS: dict[str, tuple[str, ...]] = {
    # Levels whose episodes start in less than a second, because no map is compiled. One of them has instructions.
    "starter": (
        "rooms_collect_good_objects_train",
        "rooms_select_nonmatching_object",
        "language_select_described_object",
    ),
    **{family: tuple(level for level in LEVELS if level.startswith(family)) for family in _FAMILIES},
    # All except the two levels that need a data set, which users must download by hand.
    "dmlab28": tuple(name for name, level in LEVELS.items() if not level.needs_dataset),
    "dmlab30": tuple(LEVELS),
}

INSTRUCTION_LENGTH = 16
"""Twice the longest of DMLab-30: "Pick the magenta object in the yellow room" has 8 words."""

# fmt: off
# The token of a word is its index. Append new words, because checkpoints depend on the order.
VOCABULARY: tuple[str, ...] = (
    "<pad>", "<unk>",
    # the words of the language levels besides colours and shapes
    "pick", "the", "object", "in", "room", "every", "near", "are", "all", "most", "objects", "is", "any", "anything", "?",
    # every colour and every shape of the engine's language levels, in its spelling
    "black", "gray", "white", "red", "orange", "brown", "yellow", "green", "cyan", "blue", "purple", "magenta", "pink",
    "apple2", "ball", "balloon", "banana", "bottle", "cake", "can", "car", "cassette", "chair", "cherries", "cow", "flower",
    "fork", "fridge", "guitar", "hair_brush", "hammer", "hat", "ice_lolly", "jug", "key", "knife", "ladder", "mug",
    "pencil", "pig", "pincer", "plant", "saxophone", "shoe", "spoon", "suitcase", "tennis_racket", "tomato", "toothbrush",
    "tree", "tv", "wine_glass", "zebra",
)
# fmt: on


def known_level(task: str) -> Level | None:
    """The entry of a task, given by name or full path; None for other levels of the engine."""
    return LEVELS.get(task.removeprefix(FOLDER))


def level_path(task: str, *, evaluation: bool) -> str:
    """The engine's path of the level of a task, in training or in evaluation."""
    level = known_level(task)
    if level is None:
        return task
    name = task.removeprefix(FOLDER)
    return FOLDER + (level.test or name if evaluation else name)
