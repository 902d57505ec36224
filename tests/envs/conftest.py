from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import deepmind_lab
import pytest
from dmlab30_cases import Spy

from envs.atari import suite as atari
from envs.vizdoom import suite as vizdoom

_EMULATORS: dict[tuple[str, int], list[tuple[Any, Any]]] = defaultdict(list)
_GAMES: dict[tuple[str, int], list[KeptGame]] = defaultdict(list)


@pytest.fixture(autouse=True)
def emulators_are_kept(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Loading a ROM takes longer than most tests play, so those of earlier tests are used again, as they were left."""
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
    """A `vizdoom.DoomGame` that closing leaves open."""

    def __init__(self, game: Any) -> None:
        self.game = game

    def __getattr__(self, name: str) -> Any:
        return getattr(self.game, name)

    def close(self) -> None:
        pass


@pytest.fixture
def vizdoom_games_are_started() -> Iterator[None]:
    """For tests of the start and the end of a game; all others share what `vizdoom_games_are_kept` keeps."""


@pytest.fixture(autouse=True)
def vizdoom_games_are_kept(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, games_end_with_the_tests: None
) -> Iterator[None]:
    """The same for ViZDoom's processes, which take a second to start."""
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
    """The engines that were made, which note what they are told."""
    monkeypatch.setattr(deepmind_lab, "Lab", Spy)
    monkeypatch.setattr(Spy, "made", [])
    return Spy.made
