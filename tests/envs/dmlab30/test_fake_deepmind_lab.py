"""The fake `deepmind_lab` has the calls, errors and traps of the engine."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import deepmind_lab
import numpy as np
import pytest
from deepmind_lab import _levels

ROOMS = "contributed/dmlab30/rooms_select_nonmatching_object"
DESCRIBED = "contributed/dmlab30/language_select_described_object"
LOCATED = "contributed/dmlab30/language_select_located_object"
KEYS = "contributed/dmlab30/rooms_keys_doors_puzzle"
QUIET = {"width": "32", "height": "24", "logLevel": "WARN"}
SEEN = ["RGB_INTERLEAVED", "INSTR", "FRAMES_REMAINING_AT_60"]
FORWARD = np.array([20, 0, 0, 1, 0, 0, 0], np.intc)


@pytest.fixture
def lab() -> Iterator[deepmind_lab.Lab]:
    lab = deepmind_lab.Lab(ROOMS, SEEN, QUIET)
    lab.reset(seed=1)
    yield lab
    lab.close()


STILL = np.zeros(7, np.intc)


def begin(lab: deepmind_lab.Lab, seed: int | None) -> None:
    """A reset that shows the first picture of its episode, also within another episode."""
    if lab.is_running():
        lab.step(STILL, 1)
    lab.reset(seed=seed)


def episode(lab: deepmind_lab.Lab, seed: int, steps: int = 20) -> list[Any]:
    begin(lab, seed)
    found = [lab.observations()["RGB_INTERLEAVED"].tobytes()]
    for _ in range(steps):
        found += [lab.step(FORWARD, 4), lab.observations()["RGB_INTERLEAVED"].tobytes(), lab.observations()["INSTR"]]
    return found


def pictures(episode: list[Any]) -> list[bytes]:
    return [episode[0], *episode[2::3]]


@pytest.mark.parametrize(
    ("arguments", "kind", "message"),
    [
        ((3, []), TypeError, "must be str, not int"),
        ((ROOMS, None), TypeError, "must be list, not None"),
        ((ROOMS, ("INSTR",)), TypeError, "must be list, not tuple"),
        ((ROOMS, [], ["no"]), TypeError, "must be dict, not list"),
        ((ROOMS, [], {"width": 96}), TypeError, "bad argument type for built-in operation"),
        ((ROOMS, [], {}, "vulkan"), RuntimeError, 'must be "hardware" or "software"'),
        ((ROOMS, [], {"colour": "1"}), RuntimeError, "Invalid setting"),
        ((ROOMS, [], {"width": "94"}), RuntimeError, "Failed to apply setting 'width = 94' - "),
        ((ROOMS, [], {"mixerSeed": str(1 << 32)}), RuntimeError, "Failed to apply setting 'mixerSeed"),
        (("no/such_level", []), RuntimeError, "Failed to init environment - "),
        (("contributed/dmlab30/rooms_collect_good_objects_test", []), RuntimeError, "only be used during evaluation"),
        ((ROOMS, ["SMELL"]), ValueError, "Unknown observation 'SMELL'."),
    ],
)
def test_what_the_constructor_refuses(arguments: tuple[Any, ...], kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        deepmind_lab.Lab(*arguments)


@pytest.mark.parametrize(
    ("action", "kind", "message"),
    [
        ([0] * 7, TypeError, "must be ndarray"),
        (np.zeros(6, np.intc), ValueError, r"action must have shape \(7\)"),
        (np.zeros((1, 7), np.intc), ValueError, r"action must have shape \(7\)"),
        (np.zeros(7, np.int64), ValueError, "action must have dtype np.intc"),
    ],
)
def test_what_step_refuses(lab: deepmind_lab.Lab, action: Any, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        lab.step(action)


@pytest.mark.parametrize(
    ("seed", "kind"), [("1", ValueError), (1.0, ValueError), (np.int64(1), ValueError), (2**70, OverflowError)]
)
def test_what_reset_refuses(lab: deepmind_lab.Lab, seed: Any, kind: type[Exception]) -> None:
    with pytest.raises(kind):
        lab.reset(seed=seed)


def test_before_the_first_reset_after_the_end_and_after_close() -> None:
    lab = deepmind_lab.Lab(ROOMS, SEEN, QUIET)
    for moment in ("before", "after the end", "closed"):
        if moment == "after the end":
            lab.reset(seed=1)
            lab.step(FORWARD, 720)
            assert lab.events() == []
        if moment == "closed":
            assert lab.close() is True
            assert lab.close() is False
            with pytest.raises(RuntimeError, match="wrong status for call to events"):
                lab.events()
        assert not lab.is_running()
        with pytest.raises(RuntimeError, match="Environment in wrong status to advance"):
            lab.step(FORWARD)
        with pytest.raises(RuntimeError, match="wrong status for call to observations"):
            lab.observations()


def test_the_episode_ends_inside_a_step_that_counts_in_full(lab: deepmind_lab.Lab) -> None:
    steps = 0
    while lab.is_running():
        assert lab.observations()["FRAMES_REMAINING_AT_60"] == 720 - 7 * steps
        lab.step(FORWARD, 7)
        steps += 1
    assert lab.num_steps() == 7 * steps == 721
    lab.reset(seed=1)
    assert lab.num_steps() == 0
    lab.step(FORWARD, 0)
    lab.step(FORWARD, -3)
    assert lab.num_steps() == -3 and lab.is_running()


def test_one_step_of_four_frames_is_four_steps() -> None:
    for level in (ROOMS, DESCRIBED):
        one, other = (deepmind_lab.Lab(level, SEEN, QUIET) for _ in range(2))
        one.reset(seed=3), other.reset(seed=3)
        for _ in range(40):
            assert one.step(FORWARD, 4) == sum(other.step(FORWARD) for _ in range(4))
            np.testing.assert_equal(one.observations(), other.observations())


def test_observations_are_new_arrays_and_strings(lab: deepmind_lab.Lab) -> None:
    first, second = lab.observations(), lab.observations()
    image = first["RGB_INTERLEAVED"]
    assert image.shape == (24, 32, 3) and image.dtype == np.uint8 and image.flags.owndata and image.flags.writeable
    assert image is not second["RGB_INTERLEAVED"]
    assert first["INSTR"] == "" and first["FRAMES_REMAINING_AT_60"].dtype == np.float64
    assert list(first) == SEEN


def test_specs(lab: deepmind_lab.Lab) -> None:
    spec = {entry["name"]: entry for entry in lab.observation_spec()}
    assert len(spec) == 43
    assert spec["INSTR"] == {"name": "INSTR", "shape": (), "dtype": str}
    assert spec["RGB"]["shape"] == (3, 24, 32) and spec["RGBD_INTERLEAVED"]["shape"] == (24, 32, 4)
    assert spec["DEBUG.PLAYERS.EYE.POS"]["shape"] == (0, 3)
    assert [(entry["min"], entry["max"]) for entry in lab.action_spec()] == [(-512, 512)] * 2 + [(-1, 1)] * 2 + [
        (0, 1)
    ] * 3
    default = deepmind_lab.Lab(ROOMS, ["RGB_INTERLEAVED"], {"logLevel": "WARN"})
    default.reset(seed=1)
    assert default.observations()["RGB_INTERLEAVED"].shape == (240, 320, 3)
    assert (
        not hasattr(lab, "fps")
        and isinstance(deepmind_lab.version(), str)
        and Path(deepmind_lab.runfiles_path()).is_dir()
    )


def test_properties(lab: deepmind_lab.Lab) -> None:
    lab.write_property("params.episodes", "3")
    assert lab.read_property("params.episodes") == "3"
    assert lab.properties("params") == {"params.episodes": deepmind_lab.READ_WRITABLE}
    for call in (lambda: lab.read_property("x"), lambda: lab.write_property("x", "1"), lambda: lab.properties("x")):
        with pytest.raises(KeyError, match="'x' not found"):
            call()
    with pytest.raises(TypeError, match="not writable"):
        lab.write_property("engine.fps", "1")


def test_a_level_that_offers_pictures_only_and_has_events() -> None:
    with pytest.raises(ValueError, match="Unknown observation 'INSTR'"):
        deepmind_lab.Lab("tests/event_test", ["INSTR"])
    lab = deepmind_lab.Lab("tests/event_test", ["RGB_INTERLEAVED"], QUIET)
    lab.reset(episode=7, seed=1)
    assert lab.events() == [("TEXT", ["EPISODE 7"])]
    lab.step(FORWARD, 59)
    assert lab.is_running() and lab.events() == []
    lab.step(FORWARD)
    assert not lab.is_running() and lab.events() == [("LOG", ["Episode ended"])]


def test_the_instruction_changes_inside_an_episode() -> None:
    for name in _levels.SENTENCES:
        lab = deepmind_lab.Lab(f"contributed/dmlab30/language_{name}", ["INSTR"], QUIET)
        lab.reset(seed=2)
        instructions = []
        for _ in range(60):
            instructions.append(lab.observations()["INSTR"])
            lab.step(FORWARD, 4)
        assert len(set(instructions)) > 3 and all(instructions)


def test_levels_print_unless_log_level_forbids_it(capfd: pytest.CaptureFixture[str]) -> None:
    for settings, printed in (({}, True), ({"logLevel": "WARN"}, False)):
        deepmind_lab.Lab(DESCRIBED, [], settings).reset(seed=1)
        assert bool(capfd.readouterr().out) == printed


# Traps


def test_the_first_episode_of_an_instance_differs_from_later_ones() -> None:
    lab, other = (deepmind_lab.Lab(ROOMS, SEEN, QUIET) for _ in range(2))
    first, second, third = (episode(lab, 5) for _ in range(3))
    assert first != second == third
    assert episode(other, 5) == first


def test_without_a_seed_every_process_plays_the_same_sequence_of_episodes() -> None:
    lab = deepmind_lab.Lab(ROOMS, SEEN, QUIET)
    pictures = []
    for _ in range(3):
        begin(lab, None)
        pictures.append(lab.observations()["RGB_INTERLEAVED"].tobytes())
    assert len(set(pictures)) == 3


def test_seeds_are_truncated_to_a_c_int_and_the_mixer_seed_gives_other_maps() -> None:
    lab = deepmind_lab.Lab(ROOMS, SEEN, QUIET)
    lab.reset(seed=0)
    assert episode(lab, 7) == episode(lab, 2**32 + 7) != episode(lab, 8)
    assert episode(lab, -1) == episode(lab, 2**31 - 1)
    other = deepmind_lab.Lab(ROOMS, SEEN, {**QUIET, "mixerSeed": "9"})
    other.reset(seed=0)
    assert episode(other, 7) != episode(lab, 7)


LASERTAG = "contributed/dmlab30/lasertag_one_opponent_small"
OUTSIDE = ("lt_chasm", "nav_maze_static_01", "nav_maze_random_goal_01", "seekavoid_arena_01", "stairway_to_melon")


@pytest.mark.parametrize("level", [ROOMS, DESCRIBED, KEYS, "lt_chasm"])
def test_a_reset_within_an_observed_episode_shows_its_picture_again(level: str) -> None:
    lab = deepmind_lab.Lab(level, SEEN, QUIET)
    for seed, unseen_step in ((1, False), (2, True), (3, False)):
        lab.reset(seed=seed)
        lab.step(FORWARD, 4)
        last = lab.observations()["RGB_INTERLEAVED"]
        if unseen_step:
            lab.step(STILL, 1)
        lab.reset(seed=9)
        assert np.array_equal(lab.observations()["RGB_INTERLEAVED"], last) != unseen_step
        lab.step(STILL, 1)
        assert not np.array_equal(lab.observations()["RGB_INTERLEAVED"], last)


def test_after_the_end_of_an_episode_no_picture_is_shown_again() -> None:
    lab = deepmind_lab.Lab(ROOMS, SEEN, QUIET)
    lab.reset(seed=1)
    last = lab.observations()["RGB_INTERLEAVED"]
    lab.step(STILL, 720)
    lab.reset(seed=2)
    assert not np.array_equal(lab.observations()["RGB_INTERLEAVED"], last)


def test_a_layout_keeps_the_appearance_from_its_first_seed() -> None:
    lab, other = (deepmind_lab.Lab(DESCRIBED, SEEN, QUIET) for _ in range(2))
    for one, seed in ((lab, 1), (other, 2)):
        begin(one, seed)
    first, second = episode(lab, 2), episode(other, 2)
    assert first[3::3] == second[3::3] and first[1::3] == second[1::3], "instructions and rewards"
    assert all(one != another for one, another in zip(pictures(first), pictures(second), strict=True))


@pytest.mark.parametrize(("level", "steps"), [(LASERTAG, 15), *((level, 1) for level in OUTSIDE)])
def test_on_some_levels_an_episode_depends_on_the_number_of_earlier_ones(level: str, steps: int) -> None:
    lab = deepmind_lab.Lab(level, SEEN, QUIET)
    begin(lab, 0)
    first, again = (pictures(episode(lab, 5)) for _ in range(2))
    differ = [one != other for one, other in zip(first, again, strict=True)]
    assert not any(differ[:steps]) and all(differ[steps:])
    assert episode(deepmind_lab.Lab(level, SEEN, QUIET), 5) == episode(deepmind_lab.Lab(level, SEEN, QUIET), 5)


def test_a_level_may_be_a_file_anywhere_and_any_other_path_is_below_the_levels(tmp_path: Path) -> None:
    file = tmp_path / "mine.lua"
    with pytest.raises(RuntimeError, match="Script not found"):
        deepmind_lab.Lab(str(file), SEEN, QUIET)
    file.touch()
    deepmind_lab.Lab(str(file), SEEN, QUIET).reset(seed=1)
    for path in (str(file.with_suffix("")), "lt_chasm.lua"):
        with pytest.raises(RuntimeError, match="Script not found"):
            deepmind_lab.Lab(path, SEEN, QUIET)


def test_actions_out_of_bounds_are_silently_misread(lab: deepmind_lab.Lab) -> None:
    def shown(action: np.ndarray) -> bytes:
        lab.reset(seed=4)
        lab.step(action)
        return lab.observations()["RGB_INTERLEAVED"].tobytes()

    strided = np.zeros(14, np.intc)
    strided[::2] = FORWARD
    assert np.array_equal(strided[::2], FORWARD) and shown(strided[::2]) != shown(FORWARD)
    assert shown(np.array([9999, 0, 0, 0, 0, 0, 0], np.intc)) == shown(
        np.array([9999 - 10240, 0, 0, 0, 0, 0, 0], np.intc)
    )


def test_a_missing_data_set_fails_at_the_first_reset() -> None:
    level = "contributed/dmlab30/psychlab_continuous_recognition"
    lab = deepmind_lab.Lab(level, SEEN, QUIET)
    with pytest.raises(RuntimeError, match="Failed to start environment - .*dataset"):
        lab.reset(seed=1)
    assert deepmind_lab.Lab(level, SEEN, {**QUIET, "datasetPath": "dummy"}).reset(seed=1)


class Recorder:
    """A level cache that always misses, or claims hits that do not exist."""

    def __init__(self, answer: bool = False) -> None:
        self.answer, self.keys = answer, []

    def fetch(self, key: str, pk3_path: str) -> bool:
        self.keys.append(key)
        return self.answer

    def write(self, key: str, pk3_path: str) -> None:
        assert Path(pk3_path).stat().st_size


def test_the_cache_is_called_for_each_map_and_its_errors_propagate() -> None:
    cache = Recorder()
    lab = deepmind_lab.Lab(KEYS, SEEN, QUIET, level_cache=cache)
    for seed in (1, 2, 1):
        lab.reset(seed=seed)
    assert cache.keys[0] == cache.keys[2] != cache.keys[1]
    cache.keys.clear()
    lab = deepmind_lab.Lab(LOCATED, SEEN, QUIET, level_cache=cache)
    for seed in range(9):
        lab.reset(seed=seed)
        lab.step(FORWARD, 200)
    assert len(set(cache.keys)) == len(cache.keys) == 4, "each layout once"
    with pytest.raises(AttributeError, match="fetch"):
        deepmind_lab.Lab(KEYS, SEEN, QUIET, level_cache=object()).reset(seed=1)


@pytest.mark.parametrize(
    "lie",
    [
        "pass",
        "open(path, 'wb').write(b'PK')",
        "zipfile.ZipFile(path, 'w').writestr('maps/other.bsp', 'x')",
        "zipfile.ZipFile(path, 'w').writestr('maps/map.bsp', 'x' * 99), spoil(path)",
    ],
    ids=["no file", "no archive", "another map", "damaged"],
)
def test_a_cache_that_lies_kills_the_process(lie: str) -> None:
    code = (
        f"import sys; sys.path[:0] = {[str(Path(__file__).parents[1]), str(Path(deepmind_lab.__file__).parents[1])]}\n"
        "import deepmind_lab, zipfile\n"
        "def spoil(path):\n"
        "    whole = open(path, 'rb').read()\n"
        "    open(path, 'wb').write(whole.replace(b'xxx', b'yyy'))\n"
        "class Liar:\n"
        "    def fetch(self, key, path):\n"
        f"        {lie}\n"
        "        return True\n"
        f"deepmind_lab.Lab({KEYS!r}, [], {{}}, level_cache=Liar()).reset(seed=1)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=60, check=False)
    assert result.returncode == -11
