"""Runs the code of environments: keeps its working directory apart from the program's, and limits what its output and `close` can do."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import warnings
from collections.abc import Iterator
from types import TracebackType
from typing import Any

import gymnasium

from system.errors import InputError

_CLOSE_SECONDS = 5.0
"""Time that an environment has to close."""


@contextlib.contextmanager
def explain_failed_import(module: str) -> Iterator[None]:
    """Raises InputError with the cause if the import of an installed engine fails, as where a library of the system is missing."""
    try:
        yield
    except ImportError as error:
        raise InputError(
            f"{module} is installed but cannot be imported ({' '.join(str(error).split())}): install what it needs "
            "(docs/installation.md), or another version of it."
        ) from error


class EnvFolder:
    """The working directory of environments. Inside the `with` statement the process is in the directory where they left it; outside it
    is in the program's.

    A copy of the process that an environment forked and that returns from it ends when it leaves the `with` statement.
    """

    def __init__(self) -> None:
        self._ours = self._theirs = ""
        self._process = 0

    def __enter__(self) -> None:
        self._process = os.getpid()
        self._ours = _working_directory()
        if self._theirs:
            # The environments may have removed it.
            with contextlib.suppress(OSError):
                os.chdir(self._theirs)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if os.getpid() != self._process:
            # The forked copy would play, answer and write as the original does.
            os._exit(1)
        now = _working_directory()
        self._theirs = "" if now == self._ours else now
        if now != self._ours and self._ours:
            os.chdir(self._ours)


def _working_directory() -> str:
    """The absolute path, or "" if the directory was removed."""
    try:
        return os.getcwd()
    except FileNotFoundError:
        return ""


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Sends the standard output of environments to standard error, and restores the working directory afterwards."""
    # Redirected, not swallowed: another thread may write to the terminal meanwhile.
    with contextlib.redirect_stdout(sys.stderr), contextlib.chdir("."):
        yield


def close_env(env: gymnasium.Env[Any, Any]) -> None:
    """Closes an environment. Warns, and does nothing else, if that raises or takes longer than _CLOSE_SECONDS."""
    failed: list[str] = []

    def close() -> None:
        try:
            env.close()
        except Exception as error:
            failed.append(f"failed ({type(error).__name__}: {error})")

    # A daemon, because the interpreter waits for any other thread at its end.
    thread = threading.Thread(target=close, daemon=True)
    thread.start()
    thread.join(_CLOSE_SECONDS)
    if thread.is_alive():
        failed.append(f"did not end within {_CLOSE_SECONDS:g} seconds")
    if failed:
        warnings.warn(
            f"close() of an environment {failed[0]}: the program continues without it.", RuntimeWarning, stacklevel=2
        )
