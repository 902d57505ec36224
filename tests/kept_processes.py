"""Processes of environments that several tests reuse."""

from __future__ import annotations

from typing import ClassVar

from envs.engines.slot_process import SlotProcess


class KeptProcess(SlotProcess):
    """Returns to the stock instead of ending, unless it has already ended."""

    stock: ClassVar[list[SlotProcess]] = []

    def hang_up(self) -> None:
        if self._process.poll() is None:
            self.owed, self.built, self.episodes = 0, None, 0
            self.stock.append(self)
        else:
            super().hang_up()
            super().end()

    def has_left(self) -> bool:
        return True

    def end(self) -> None:
        pass
