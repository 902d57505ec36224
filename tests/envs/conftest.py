from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import deepmind_lab
import pytest
from dmlab30_cases import Spy

from envs import atari, dmlab30, dmlab30_env
from envs.gymnasium_engine import GymnasiumEngine

_STOCK: dict[tuple[str, int], list[tuple[Any, Any]]] = defaultdict(list)


@pytest.fixture(autouse=True)
def emulators_are_kept(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Loading a ROM takes longer than most tests play, so those of earlier tests are used again, as they were left."""
    load, lent = atari._switch_on, []

    def switch_on(*key: Any) -> tuple[Any, Any]:
        emulator = _STOCK[key].pop() if _STOCK[key] else load(*key)
        lent.append((key, emulator))
        return emulator

    monkeypatch.setattr(atari, "_switch_on", switch_on)
    yield
    for key, emulator in lent:
        _STOCK[key].append(emulator)


@pytest.fixture(autouse=True)
def dmlab_stays_in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the suite does by default: a process for each slot takes longer to begin than most tests play."""
    monkeypatch.setattr(dmlab30, "ENGINE", GymnasiumEngine)


@pytest.fixture
def spies(monkeypatch: pytest.MonkeyPatch) -> list[Spy]:
    """The engines that were made, which note what they are told."""
    monkeypatch.setattr(deepmind_lab, "Lab", Spy)
    monkeypatch.setattr(Spy, "made", [])
    return Spy.made


@pytest.fixture
def alone() -> Iterator[None]:
    """No instance of DeepMind Lab is left in this process, whatever other tests did not close."""
    dmlab30_env._open.clear()
    yield
    dmlab30_env._open.clear()
