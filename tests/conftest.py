"""Settings and fixtures that tests share."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import settings
from kept_processes import KeptProcess
from ray_cluster import LOOPBACK
from saved_agents import CONDITIONAL, make_checkpoint

import evaluate
from agents.cli.signals import SIGNALS
from agents.runtime.processes.process import configure_process
from envs.dmlab30 import level_env
from envs.engines import process_engine

pytest_plugins = ("tiers", "pytester")

# A shell that starts the tests in its background, or nohup, ignores them for the tests and for all programs that they start.
signal.signal(signal.SIGINT, signal.default_int_handler)
for ignored in (number for number in SIGNALS if signal.getsignal(number) == signal.SIG_IGN):
    signal.signal(ignored, signal.SIG_DFL)

# Ray looks when it is imported, by whichever test comes first.
os.environ |= LOOPBACK

# Tests of several processes share the machine; more threads than cores make small networks many times slower.
configure_process(threads=1)

# The same examples in every run: a test that fails for one person fails for all.
settings.register_profile("mimpala", deadline=None, derandomize=True, max_examples=40)
settings.load_profile("mimpala")


@pytest.fixture
def nothing_is_left_behind() -> Iterator[None]:
    """No process and no file in shared memory outlives a test."""
    assert not multiprocessing.active_children()
    yield
    assert not multiprocessing.active_children()
    shared = Path("/dev/shm")
    if shared.is_dir():
        assert not [path for path in shared.iterdir() if f"_{os.getpid()}_" in path.name]


@pytest.fixture
def processes_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """Starting a process takes longer than most tests play, so those of earlier tests get another environment."""
    stock = KeptProcess.stock
    monkeypatch.setattr(process_engine, "SlotProcess", lambda: stock.pop() if stock else KeptProcess())


@pytest.fixture
def process_settings() -> Iterator[None]:
    """Programs set signal handlers and threads for their process; here that is the tests' process."""
    handlers = {number: signal.getsignal(number) for number in SIGNALS}
    threads = torch.get_num_threads()
    yield
    for number, handler in handlers.items():
        signal.signal(number, handler)
    torch.set_num_threads(threads)


@pytest.fixture
def tests_keep_their_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """evaluate.py sets threads for its process; here that is the tests' process."""
    monkeypatch.setattr(evaluate, "configure_process", lambda threads: None)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a small agent on the suite `conditional` that was never trained."""
    return make_checkpoint(tmp_path_factory.mktemp("agent"), *CONDITIONAL)


@pytest.fixture
def alone() -> Iterator[None]:
    """No instance of DeepMind Lab is left in this process, whatever other tests did not close."""
    level_env._open.clear()
    yield
    level_env._open.clear()
