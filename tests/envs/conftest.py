from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from typing import Any, ClassVar

import pytest

from envs import atari, process_engine

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


class _KeptProcess(process_engine.SlotProcess):
    """Goes back into the stock in place of ending."""

    stock: ClassVar[list[process_engine.SlotProcess]] = []

    def hang_up(self) -> None:
        self.stock.append(self)

    def end(self, deadline: float) -> None:
        pass


@pytest.fixture
def processes_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """Starting a process takes longer than most tests play, so those of earlier tests get another environment."""
    stock = _KeptProcess.stock
    monkeypatch.setattr(process_engine, "SlotProcess", lambda: stock.pop() if stock else _KeptProcess())
