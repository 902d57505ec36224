"""Compares the two engines of BabyAI by statistics of the first states of every level that both have.

Their random numbers differ, so no episode is the same on both. Over many episodes every count must be equally frequent.
"""

from __future__ import annotations

import functools
import math
import re
from collections import Counter
from collections.abc import Hashable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from envs.babyai import levels
from envs.babyai.suite import ENGINES, BabyAIConfig, make_spec
from envs.spec import Slot, Split
from envs.suites import make_env

pytest.importorskip("envpool")
pytest.importorskip("minigrid")

COMMON = [task for task in levels.LEVELS if task not in levels.BROKEN]
SAMPLE = COMMON[::15]
"""Levels of the quick tier. Those of the tables are in the slow one, and all others, which take minutes, in the exhaustive one."""
RESETS = 200
FALSE_ALARM = 1e-6
"""Probability of a false alarm in each of about 50,000 comparisons. The seeds are fixed, so a test fails always or never."""

EMPTY, WALL, DOOR, KEY, BOX, LAVA = 1, 2, 4, 5, 7, 9
LOCKED = 2
CODES = {
    "red": 0,
    "green": 1,
    "blue": 2,
    "purple": 3,
    "yellow": 4,
    "grey": 5,
    "door": DOOR,
    "key": KEY,
    "ball": 6,
    "box": BOX,
}


class State(NamedTuple):
    """The first state of an episode.

    Attributes:
        cells, contents: Codes of the objects and of the contents of boxes, [width, height, 3].
        carried: Kind and colour, or None.
    """

    cells: np.ndarray
    contents: np.ndarray
    position: tuple[int, int]
    direction: int
    carried: tuple[int, int] | None
    mission: str
    max_steps: int
    image: np.ndarray


def first_states(engine: str, task: str) -> list[State]:
    """The first states of RESETS episodes."""
    spec = make_spec(config := BabyAIConfig(tasks=[task], engine=engine))
    count = RESETS if engine == "envpool" else 1
    env = make_env(config, spec, [Slot(task=0, index=index) for index in range(count)], 0, Split.TRAIN)
    inside: Any = env._engine
    states = []
    for seed in range(RESETS // count):
        images = env.reset(seed=seed)[0]["image"]
        raw = inside.pools[0].envs.debug_states() if engine == "envpool" else inside._envs
        read = _of_envpool if engine == "envpool" else _of_minigrid
        states += [read(one, image.copy()) for one, image in zip(raw, images, strict=True)]
    env.close()
    return states


def _of_envpool(raw: Any, image: np.ndarray) -> State:
    cells, contents = (np.array(grid).reshape(raw.width, raw.height, 3) for grid in (raw.grid, raw.grid_contains))
    carried = (raw.carrying_type, raw.carrying_color) if raw.has_carrying else None
    place = tuple(raw.agent_pos), raw.agent_dir
    return State(cells, contents, *place, carried, raw.mission, raw.max_steps, image)


def _of_minigrid(raw: Any, image: np.ndarray) -> State:
    cells = raw.grid.encode()
    contents = np.zeros_like(cells)
    for place, thing in enumerate(raw.grid.grid):
        if thing is not None and thing.type == "box" and thing.contains is not None:
            contents[place % raw.width, place // raw.width] = thing.contains.encode()
    carried = raw.carrying.encode()[:2] if raw.carrying else None
    place = tuple(map(int, raw.agent_pos)), int(raw.agent_dir)
    return State(cells, contents, *place, carried, raw.mission, raw.max_steps, image)


def counts(state: State) -> Counter[Hashable]:
    """Everything that is counted in one state. Walls and empty cells count in the view, but not in the map, because envpool surrounds
    some mazes with rooms that cannot be entered.
    """
    found: Counter[Hashable] = Counter()
    kinds = state.cells[..., 0]
    for kind, colour, status in state.cells[(kinds != EMPTY) & (kinds != WALL)].tolist():
        found.update([("objects",), ("kind", kind, status), ("object", kind, colour, status)])
    for kind, colour, _ in state.contents[(kinds == BOX) & (state.contents[..., 0] > EMPTY)].tolist():
        found.update([("contents", kind), ("contents", kind, colour)])
    for kind, colour, status in state.image.reshape(-1, 3).tolist():
        found.update([("seen", kind, status), ("seen", kind, colour, status)])
    found.update(("cell", place, kind) for place, kind in enumerate(state.image[..., 0].ravel().tolist()))
    colours = "red|green|blue|purple|yellow|grey"
    template = re.sub(r"ball|box|key|door", "OBJECT", re.sub(colours, "COLOUR", state.mission))
    x, y = state.position
    found.update([("x", x), ("y", y), ("direction", state.direction), ("carried", state.carried)])
    found.update([("limit", state.max_steps), ("mission", state.mission), ("template", template)])
    found.update(("word", word) for word in set(state.mission.split()))
    return found


@functools.cache
def chance(one: int, other: int, of: int) -> float:
    """Fisher's exact test, two-sided: the probability that counts of two samples of equal size differ at least this much."""
    both = one + other
    split = (k for k in range(max(0, both - of), min(both, of) + 1) if abs(2 * k - both) >= abs(one - other))
    return sum(math.comb(both, k) * math.comb(2 * of - both, of - k) for k in split) / math.comb(2 * of, of)


def differences(
    first: list[Counter[Hashable]], second: list[Counter[Hashable]]
) -> list[tuple[Hashable, int, int, int]]:
    """(what, n, numbers of states of each engine with n or more of it) for each difference that chance does not explain."""
    assert len(first) == len(second)
    found = []
    for what in set().union(*first, *second):
        here, there = (sorted(state[what] for state in states) for states in (first, second))
        for least in range(1, max(here[-1], there[-1]) + 1):
            one, other = (sum(number >= least for number in numbers) for numbers in (here, there))
            if chance(one, other, len(first)) < FALSE_ALARM:
                found.append((what, least, one, other))
    return found


def test_the_probability_is_that_of_fishers_test() -> None:
    assert chance(5, 5, 10) == chance(0, 0, 10) == 1
    # Of 3 tea cups among 6, all 3 chosen: 2 of the 20 ways are as extreme.
    assert chance(3, 0, 3) == pytest.approx(2 / 20)
    # 7 and 2, 8 and 1, 9 and 0, or vice versa.
    assert chance(7, 2, 9) == pytest.approx(2 * (36 * 36 + 9 * 9 + 1) / math.comb(18, 9))


def test_the_comparison_finds_real_differences_and_no_others() -> None:
    states = [counts(state) for state in first_states("minigrid", "BabyAI-GoToLocal-v0")]
    assert not differences(states[::2], states[1::2])
    more = [state + Counter({("objects",): 1}) for state in states]
    assert [what for what, *_ in differences(states, more)] == [("objects",)]


def is_hopeless(state: State) -> bool:
    """Whether the mission needs an object and all objects of its kind are unreachable, even with all reachable keys."""
    asked = re.fullmatch(r"(open|go to|pick up|get|fetch) (a|the) (\w+) (ball|box|key|door)", state.mission)
    if not asked:
        return False
    colour, kind = (CODES[word] for word in asked.groups()[2:])
    width, height, _ = state.cells.shape
    keys = {state.carried[1]} if state.carried and state.carried[0] == KEY else set()
    while True:
        reached, border, had = {state.position}, [state.position], set(keys)
        touched = set()
        while border:
            x, y = border.pop()
            for cell in ((x + 1, y), (x - 1, y), (x, y + 1), (x, y - 1)):
                if cell in reached or not (0 <= cell[0] < width and 0 <= cell[1] < height):
                    continue
                what, its_colour, status = state.cells[cell].tolist()
                touched.add(cell)
                if what in (WALL, LAVA) or (what == DOOR and status == LOCKED and its_colour not in keys):
                    continue
                reached.add(cell)
                border.append(cell)
                if what == KEY:
                    had.add(its_colour)
                if what == BOX and state.contents[cell][0] == KEY:
                    had.add(int(state.contents[cell][1]))
        if had == keys:
            break
        keys = had
    wanted = {(int(x), int(y)) for x, y in np.argwhere((state.cells[..., :2] == (kind, colour)).all(-1))}
    hidden = {(int(x), int(y)) for x, y in np.argwhere((state.contents[..., :2] == (kind, colour)).all(-1))}
    return not (wanted | hidden) & (reached if asked[1] == "open" else touched)


def tier(task: str) -> Any:
    """The task as a parameter of a test, with its marker."""
    in_a_table = task in levels.DIFFERENT or task in levels.PARTLY_UNSOLVABLE
    marks = () if task in SAMPLE else pytest.mark.slow if in_a_table else pytest.mark.exhaustive
    return pytest.param(task, marks=marks)


@pytest.mark.parametrize("task", [tier(task) for task in COMMON])
def test_the_engines_differ_exactly_in_the_levels_of_the_tables(task: str) -> None:
    states = {engine: first_states(engine, task) for engine in ENGINES}
    found = differences(*(list(map(counts, states[engine])) for engine in ENGINES))
    assert bool(found) == (task in levels.DIFFERENT), found[:5]
    hopeless = {engine for engine in ENGINES if any(map(is_hopeless, states[engine]))}
    assert hopeless == levels.PARTLY_UNSOLVABLE.get(task, {}).keys()


def test_the_tables_name_levels_of_both_engines_and_the_documentation_names_them_all() -> None:
    named = levels.DIFFERENT.keys() | levels.PARTLY_UNSOLVABLE.keys()
    assert named <= set(COMMON)
    page = (Path(__file__).parents[3] / "docs" / "suites.md").read_text(encoding="utf-8")
    assert all(f"`{task}`" in page for task in named)
