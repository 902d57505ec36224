"""Lines of text, and below them, on a terminal, something that changes in place."""

from __future__ import annotations

import contextlib
from types import TracebackType
from typing import Self

from rich.console import Console, RenderableType
from rich.live import Live


class Terminal:
    """Where a program writes, as a context manager; the live part is there inside.

    Args:
        live: whether there is a live part, if it is a terminal.
        refresh_per_second: of the live part.

    Attributes:
        console: for what is neither a line nor live.
    """

    def __init__(self, *, live: bool, refresh_per_second: float = 2) -> None:
        self.console = Console()
        if not self.console.is_terminal:
            # A file has no width: nothing is wrapped or cut.
            self.console = Console(width=1000)
        shown = live and self.console.is_terminal
        self._live = Live(console=self.console, refresh_per_second=refresh_per_second) if shown else None

    @property
    def is_live(self) -> bool:
        """Whether `show` shows anything."""
        return self._live is not None

    def __enter__(self) -> Self:
        if self._live:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live:
            self._live.stop()

    def say(self, text: str) -> None:
        """A line above the live part."""
        # As it is: a path that is wrapped, or loses what looks like markup, cannot be copied.
        # And where the output goes into a file on a full disk, or to a reader that is gone, the run goes on.
        with contextlib.suppress(OSError):
            self.console.print(text, highlight=False, markup=False, soft_wrap=True)

    def show(self, live: RenderableType) -> None:
        """Puts this in place of the live part."""
        if self._live:
            self._live.update(live)
