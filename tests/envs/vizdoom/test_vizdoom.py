from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from gymnasium.utils.env_checker import check_env
from processes import eventually, is_gone

from envs.vizdoom.scenarios import ACTIONS, BUTTONS, PRESETS, SCENARIOS, actions_of
from envs.vizdoom.suite import VizdoomConfig, VizdoomEnv, make_spec
from system.errors import InputError

pytestmark = pytest.mark.filterwarnings("ignore")
RESOLUTION = (120, 160)


@pytest.fixture(autouse=True)
def engine() -> None:
    pytest.importorskip("vizdoom")
    pytest.importorskip("cv2")


@pytest.mark.parametrize("task", SCENARIOS)
def test_the_table_of_scenarios_agrees_with_the_engine(task: str) -> None:
    import vizdoom

    game = vizdoom.DoomGame()
    game.load_config(str(Path(vizdoom.scenarios_path) / f"{task}.cfg"))
    theirs = {button.name for button in game.get_available_buttons()}
    assert set(SCENARIOS[task]) == theirs & set(BUTTONS)
    # Some buttons of deathmatch are deliberately missing.
    assert task == "deathmatch" or theirs <= set(BUTTONS)


def test_actions() -> None:
    assert actions_of("take_cover") == ((), ("MOVE_LEFT",), ("MOVE_RIGHT",))
    assert actions_of("basic")[:2] == ((), ("ATTACK",))
    assert all(set(ACTIONS[number]) <= set(BUTTONS) for number in range(len(ACTIONS)))
    spec = make_spec(VizdoomConfig(tasks=["take_cover", "deadly_corridor"]))
    assert (spec.num_actions, spec.action_counts) == (len(ACTIONS), (3, len(ACTIONS) - 1))
    assert make_spec(VizdoomConfig(full_action_space=True)).action_counts == (len(ACTIONS),) * 3
    assert len(make_spec(VizdoomConfig(tasks=["classic"])).tasks) == 10
    assert all(task in SCENARIOS for preset in PRESETS.values() for task in preset)


@pytest.mark.parametrize("options", [{}, {"full_action_space": True, "variables": True}])
def test_it_is_a_gymnasium_environment(options: dict[str, Any]) -> None:
    check_env(VizdoomEnv(VizdoomConfig(**options), "basic"), skip_close_check=True)


def play(env: VizdoomEnv, seed: int, steps: int) -> list[tuple[np.ndarray, np.ndarray, float, bool, bool]]:
    actions = np.random.default_rng(seed).integers(int(env.action_space.n), size=steps)
    seen, _ = env.reset(seed=seed)
    history = [(seen["image"], seen["vector"], 0.0, False, False)]
    for action in actions:
        seen, reward, terminated, truncated, _ = env.step(int(action))
        history.append((seen["image"], seen["vector"], reward, terminated, truncated))
        if terminated or truncated:
            break
    return history


@pytest.mark.parametrize("task", ["basic", "deadly_corridor"])
def test_an_episode_does_not_depend_on_earlier_ones(task: str) -> None:
    """To the pixel: the swing of the weapon must not continue in the next episode."""
    env = VizdoomEnv(VizdoomConfig(action_repeat=12, image_size=list(RESOLUTION), variables=True), task)
    first: dict[int, Any] = {}
    for seed in (1, 4, 3, 1, 1, 2, 4):
        found = play(env, seed, 40)
        for one, other in zip(first.setdefault(seed, found), found, strict=True):
            assert all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))
    assert not np.array_equal(first[1][-1][0], first[4][-1][0])


def test_an_action_lasts_four_frames_and_its_reward_is_their_sum() -> None:
    """The scenario basic subtracts a point per frame and lasts for 300 frames."""
    env = VizdoomEnv(VizdoomConfig(), "basic")
    env.reset(seed=1)
    rewards, truncated = [], False
    while not truncated:
        _, reward, terminated, truncated, _ = env.step(0)
        rewards.append(reward)
        assert not terminated
    assert rewards == [-4.0] * 75


def test_a_death_terminates_and_a_timeout_truncates() -> None:
    standing = VizdoomEnv(VizdoomConfig(action_repeat=20), "health_gathering")
    standing.reset(seed=1)
    ends, last = (False, False), 0.0
    while not any(ends):
        _, last, *ends, _ = standing.step(0)
    assert ends == [True, False] and last < -50  # the penalty for dying
    home = VizdoomEnv(VizdoomConfig(action_repeat=100), "my_way_home")
    home.reset(seed=1)
    ends = [False, False]
    while not any(ends):
        seen, _, *ends, _ = home.step(0)
    assert ends == [False, True]
    assert seen["image"].std() > 0  # the last picture of the game, although the engine shows none after it


def test_an_unseeded_reset_starts_another_episode() -> None:
    env = VizdoomEnv(VizdoomConfig(), "predict_position")
    images = [env.reset(seed=5)[0]["image"], env.reset()[0]["image"], env.reset()[0]["image"]]
    again = [env.reset(seed=5)[0]["image"], env.reset()[0]["image"], env.reset()[0]["image"]]
    assert all(np.array_equal(one, other) for one, other in zip(images, again, strict=True))
    assert not np.array_equal(images[0], images[1]) and not np.array_equal(images[1], images[2])


def processes_of_this_one() -> set[int]:
    """The child processes of all threads of this process."""
    return {process.pid for process in psutil.Process().children()}


def shared_files(game: int) -> Callable[[], list[Path]]:
    """Returns a function that lists the shared memory files of a game's process, also after its end."""
    arguments = Path(f"/proc/{game}/cmdline").read_text().split("\0")
    name = arguments[arguments.index("+viz_instance_id") + 1]
    return lambda: list(Path("/dev/shm").glob(f"ViZDoom*{name}"))


@pytest.mark.usefixtures("vizdoom_games_are_started")
def test_a_game_leaves_nothing_and_the_error_of_a_dead_one_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    before = processes_of_this_one()
    env = VizdoomEnv(VizdoomConfig(), "basic")
    (process,) = processes_of_this_one() - before
    files = shared_files(process)
    assert files()
    env.reset(seed=1)
    # Ctrl-C reaches the whole process group, but must not end the game.
    os.kill(process, signal.SIGINT)
    env.step(0)
    os.kill(process, signal.SIGKILL)
    with pytest.raises(RuntimeError, match="env.tasks=basic .*ViZDoom"):
        for _ in range(100):
            env.step(0)
    env.close()
    env.close()
    eventually(lambda: processes_of_this_one() == before)
    assert files() == []
    assert os.listdir(tmp_path) == []
    assert capfd.readouterr().out == ""


ORPHAN = """
import psutil, sys
from envs.vizdoom.suite import VizdoomConfig, VizdoomEnv
env = VizdoomEnv(VizdoomConfig(), "basic")
env.reset(seed=1)
(game,) = psutil.Process().children()
print(game.pid, flush=True)
sys.stdin.read()
"""


@pytest.mark.usefixtures("vizdoom_games_are_started")
def test_a_game_ends_with_a_parent_that_is_killed(tmp_path: Path) -> None:
    root = Path(__file__).parents[3]
    parent = subprocess.Popen(
        [sys.executable, "-c", ORPHAN],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(root)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert parent.stdout is not None
    game = int(parent.stdout.readline())
    files = shared_files(game)
    parent.kill()
    parent.communicate()
    eventually(lambda: is_gone(game))
    # The test removes the files of the killed process.
    for file in files():
        file.unlink()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"tasks": ["basics"]}, ("env.tasks=basics", "did you mean basic")),
        ({"tasks": ["zzz"]}, ("env.tasks=zzz", "starter")),
        ({"image_size": [72]}, ("env.image_size=[72]",)),
        ({"image_size": [72, 0]}, ("env.image_size=[72, 0]",)),
        ({"action_repeat": 0}, ("env.action_repeat=0",)),
    ],
)
def test_bad_options_are_refused(options: dict[str, Any], words: tuple[str, ...]) -> None:
    with pytest.raises(InputError) as refusal:
        make_spec(VizdoomConfig(**options))
    assert all(word in str(refusal.value) for word in words)


@pytest.mark.parametrize("module", ["vizdoom", "cv2"])
def test_the_message_for_a_missing_engine_names_the_extra(monkeypatch: pytest.MonkeyPatch, module: str) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == module else find(name))
    with pytest.raises(InputError, match=f'needs {module}.*"mimpala\\[vizdoom\\]"'):
        make_spec(VizdoomConfig())
