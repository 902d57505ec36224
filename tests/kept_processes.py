"""Processes of environments that one test leaves to the next."""

from __future__ import annotations

from typing import ClassVar

from envs.engines.slot_process import SlotProcess


class KeptProcess(SlotProcess):
    """Goes back into the stock in place of ending, unless it is gone already."""

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
