from __future__ import annotations

import importlib.util
import sys
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import deepmind_lab
import pytest
from dmlab30_cases import Spy
from newer_envpool import FAKE_ENVPOOL, has_newer_envpool

from envs.atari import suite as atari
from envs.vizdoom import suite as vizdoom

_EMULATORS: dict[tuple[str, int], list[tuple[Any, Any]]] = defaultdict(list)
_GAMES: dict[tuple[str, int], list[KeptGame]] = defaultdict(list)


@pytest.fixture
def newer_envpool(monkeypatch: pytest.MonkeyPatch) -> None:
    """envpool 1.2.7 or later, or the fake of it where none is installed."""
    if not has_newer_envpool():
        spec = importlib.util.spec_from_file_location("envpool", FAKE_ENVPOOL / "envpool" / "__init__.py")
        assert spec and spec.loader
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        monkeypatch.setitem(sys.modules, "envpool", module)
        # The version of an installed package is that of the first folder of the path that has one.
        monkeypatch.syspath_prepend(FAKE_ENVPOOL)


@pytest.fixture(autouse=True)
def emulators_are_kept(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Reuses the emulators of earlier tests in the state they left, because loading a ROM takes longer than most tests."""
    load, lent = atari._switch_on, []

    def switch_on(*key: Any) -> tuple[Any, Any]:
        emulator = _EMULATORS[key].pop() if _EMULATORS[key] else load(*key)
        lent.append((key, emulator))
        return emulator

    monkeypatch.setattr(atari, "_switch_on", switch_on)
    yield
    for key, emulator in lent:
        _EMULATORS[key].append(emulator)


class KeptGame:
    """A `vizdoom.DoomGame` whose `close` does nothing."""

    def __init__(self, game: Any) -> None:
        self.game = game

    def __getattr__(self, name: str) -> Any:
        return getattr(self.game, name)

    def close(self) -> None:
        pass


@pytest.fixture
def vizdoom_games_are_started() -> Iterator[None]:
    """For tests of the start and the end of a game; all other tests share the games of `vizdoom_games_are_kept`."""


@pytest.fixture(autouse=True)
def vizdoom_games_are_kept(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, games_end_with_the_tests: None
) -> Iterator[None]:
    """Reuses ViZDoom's processes, which take a second to start."""
    start, lent = vizdoom._start, []

    def kept(task: str, buttons: Any, folder: Any) -> KeptGame:
        key = task, len(buttons)
        game = _GAMES[key].pop() if _GAMES[key] else KeptGame(start(task, buttons, folder))
        lent.append((key, game))
        return game

    if "vizdoom_games_are_started" not in request.fixturenames:
        monkeypatch.setattr(vizdoom, "_start", kept)
    yield
    for key, game in lent:
        _GAMES[key].append(game)


@pytest.fixture(scope="session")
def games_end_with_the_tests() -> Iterator[None]:
    yield
    for games in _GAMES.values():
        for kept in games:
            kept.game.close()


@pytest.fixture
def spies(monkeypatch: pytest.MonkeyPatch) -> list[Spy]:
    """The engines that the test made; each records its calls."""
    monkeypatch.setattr(deepmind_lab, "Lab", Spy)
    monkeypatch.setattr(Spy, "made", [])
    return Spy.made
