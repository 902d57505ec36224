"""`evaluate.py watch=true`: a window, with SDL's driver that draws into memory and with scripted keys."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from saved_agents import CONDITIONAL, make_checkpoint

import evaluate
from agents.acting.policy import ModulationCache
from agents.evaluation import watch
from agents.evaluation.episodes import load_agent
from agents.evaluation.watch import TypedInstruction, Window
from envs.instructions import Tokenizer

pygame = pytest.importorskip("pygame")
pytestmark = [pytest.mark.usefixtures("tests_keep_their_threads")]

Keys = Sequence[str]
"""What a person does at one picture: texts, and the names of keys."""

NAMED = {"enter": "K_RETURN", "backspace": "K_BACKSPACE", "tab": "K_TAB", "escape": "K_ESCAPE"}


def events(keys: Keys) -> Iterator[Any]:
    for key in keys:
        if key == "close":
            yield pygame.event.Event(pygame.QUIT)
        elif key in NAMED:
            yield pygame.event.Event(pygame.KEYDOWN, key=getattr(pygame, NAMED[key]))
        else:
            yield pygame.event.Event(pygame.TEXTINPUT, text=key)


class Person:
    """Presses the keys of `script`, one entry for each picture, then Escape. Keeps the lines of text that were shown."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *script: Keys) -> None:
        self.lines: list[list[str]] = []
        self.pictures: list[np.ndarray] = []
        self.contexts: list[list[int]] = []
        keys = itertools.chain(script, itertools.repeat(["escape"]))
        monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
        monkeypatch.setattr(pygame.event, "get", lambda: list(events(next(keys))))
        show, look_up = Window.show, ModulationCache.look_up

        def showing(window: Window, picture: np.ndarray, lines: Sequence[str], rate: float) -> None:
            show(window, picture, lines, 1e6)
            self.lines.append(list(lines))
            self.pictures.append(pygame.surfarray.array3d(pygame.display.get_surface()))

        def looking(cache: ModulationCache, rows: np.ndarray, *slots: Any) -> Any:
            self.contexts.append(rows[0].tolist())
            return look_up(cache, rows, *slots)

        monkeypatch.setattr(Window, "show", showing)
        monkeypatch.setattr(ModulationCache, "look_up", looking)


@pytest.fixture(scope="module")
def babyai(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("minigrid")
    keys = ["env=babyai", "env.tasks=[BabyAI-GoToObj-v0]", "env.engine=minigrid", "core.size=8", "fusion.size=8"]
    return make_checkpoint(tmp_path_factory.mktemp("babyai"), *keys, "torso.size=8")


@pytest.fixture(scope="module")
def conditional(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("conditional"), *CONDITIONAL)


def test_a_person_types_an_instruction_that_the_agent_reads(babyai: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    typed = [["go to the", " blu"], ["backspace", "ue door"], ["enter"], [], ["a zebra"], ["enter"], [], ["enter"], []]
    person = Person(monkeypatch, *typed)
    assert evaluate.main([f"run={babyai}", "watch=true"]) == 0
    env = load_agent(babyai).env
    encode = Tokenizer(env.vocabulary, env.instruction_length).encode
    own, door = person.contexts[0], encode("go to the blue door").tolist()
    assert person.contexts[1:3] == [own, own]
    # The step that follows Enter reads the line; an empty line gives back the environment's own.
    assert person.contexts[3:6] == [door] * 3
    assert person.contexts[6:8] == [encode("a zebra").tolist()] * 2
    assert person.contexts[8:] == [own] * 2
    assert own != door
    assert person.lines[3][2:] == ["you: go to the blue door"]
    assert person.lines[6][2:] == ["you: a zebra", "the agent does not know zebra"]
    assert person.lines[8] == person.lines[0]
    assert person.lines[0][0] == "BabyAI-GoToObj-v0   return 0.00" and person.lines[0][1].startswith(
        "instruction: go to "
    )
    # The picture is enlarged, and text is below it.
    assert person.pictures[0].shape[0] == 512 and person.pictures[0].shape[1] > 512 + 5 * 24
    assert not pygame.display.get_init()
    assert not list(babyai.parent.glob("*.json"))


def test_tab_shows_the_next_task_until_the_window_is_closed(
    conditional: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    person = Person(monkeypatch, [], ["tab"], ["x", "enter"], ["tab"], ["tab"], [], ["close"])
    assert evaluate.main([f"run={conditional}", "watch=true", "tasks=[map-1,memory-0]"]) == 0
    assert [lines[0].split()[0] for lines in person.lines] == [
        *("map-1", "map-1", "memory-0", "memory-0", "map-1", "memory-0", "memory-0")
    ]
    assert "watching" in capsys.readouterr().out
    # This agent reads no instruction.
    assert not any("x" in line for lines in person.lines for line in lines)


def test_episodes_follow_each_other(conditional: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    person = Person(monkeypatch, *[[]] * 60)
    assert evaluate.main([f"run={conditional}", "watch=true", "tasks=[memory-0]"]) == 0
    ended = [line.endswith((": end", ": success")) for line, *_ in person.lines]
    # Each end is shown for a moment.
    lengths = [len(list(group)) for is_end, group in itertools.groupby(ended) if is_end]
    assert len(lengths) > 2 and set(lengths[:-1]) == {6}


def test_a_long_line_is_shortened_and_words_beyond_the_limit_are_named(babyai: Path) -> None:
    typed = TypedInstruction(load_agent(babyai))
    length = load_agent(babyai).env.instruction_length
    typed.text = " ".join(["red"] * (length + 2))
    assert typed.lines()[1:] == [f"the agent reads {length} words, without red red"]


@pytest.mark.parametrize(
    ("variables", "reason"),
    [
        ({}, "there is no display"),
        ({"DISPLAY": ":9999"}, "the display does not answer"),
        ({"SDL_VIDEODRIVER": "nonsense"}, "nonsense not available"),
    ],
)
def test_without_a_display_there_is_one_sentence(
    conditional: Path,
    variables: dict[str, str],
    reason: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name in ("DISPLAY", "WAYLAND_DISPLAY", "SDL_VIDEODRIVER"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert evaluate.main([f"run={conditional}", "watch=true"]) == 2
    error = capsys.readouterr().err
    assert error == f"error: watch=true cannot open a window ({reason}): start it on a desktop, or write video=true.\n"


def test_missing_pygame_and_keys_that_write_are_refused(
    conditional: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert evaluate.main([f"run={conditional}", "watch=true", "video=true"]) == 2
    assert capsys.readouterr().err == "error: watch=true writes no result: leave video= out.\n"
    monkeypatch.setattr(watch.importlib.util, "find_spec", lambda name: None)
    assert evaluate.main([f"run={conditional}", "watch=true"]) == 2
    assert capsys.readouterr().err == 'error: watch=true needs pygame: pip install "mimpala[watch]".\n'


def test_an_environment_without_pictures_is_one_sentence(
    conditional: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Person(monkeypatch)

    def render(env: Any, slot: int = 0) -> Any:
        raise OSError("no font\nlibGL is missing.")

    monkeypatch.setattr("envs.vector.MultitaskVectorEnv.render", render)
    assert evaluate.main([f"run={conditional}", "watch=true"]) == 2
    assert capsys.readouterr().err == "error: watch=true: map-0 could not be drawn (OSError: libGL is missing).\n"
