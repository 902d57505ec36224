"""Environments that change the working directory, or fork, and a program that goes on as it was."""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Callable
from types import TracebackType
from typing import Concatenate, ParamSpec, Protocol, TypeVar

_P = ParamSpec("_P")
_R = TypeVar("_R")


class WorkingDirectory:
    """The working directory of environments. Inside the `with` statement it is that of the process, as they left it; outside it is the
    program's own.

    A copy of the process, which an environment has forked and let go on, ends at the end of the `with` statement.
    """

    def __init__(self) -> None:
        self._ours = self._theirs = ""
        self._process = 0

    def __enter__(self) -> None:
        self._process = os.getpid()
        self._ours = _current()
        if self._theirs:
            # They may have removed it.
            with contextlib.suppress(OSError):
                os.chdir(self._theirs)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if os.getpid() != self._process:
            # It would play, answer and write as the process does that it is a copy of.
            os._exit(1)
        now = _current()
        if now == self._ours:
            self._theirs = ""
        else:
            self._theirs = now
            if self._ours:
                os.chdir(self._ours)


class HasFolder(Protocol):
    """An engine with environments in this process."""

    folder: WorkingDirectory


_E = TypeVar("_E", bound=HasFolder)


def in_their_folder(method: Callable[Concatenate[_E, _P], _R]) -> Callable[Concatenate[_E, _P], _R]:
    """A method of an engine that calls environments, run in their working directory."""

    @functools.wraps(method)
    def run(engine: _E, /, *args: _P.args, **kwargs: _P.kwargs) -> _R:
        with engine.folder:
            return method(engine, *args, **kwargs)

    return run


def _current() -> str:
    """Empty where it was removed."""
    try:
        return os.getcwd()
    except FileNotFoundError:
        return ""
