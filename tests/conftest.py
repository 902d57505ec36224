"""Settings and shared fixtures of all tests."""

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

# Background shells and nohup start the tests with ignored signals, which every child process would inherit.
signal.signal(signal.SIGINT, signal.default_int_handler)
for ignored in (number for number in SIGNALS if signal.getsignal(number) == signal.SIG_IGN):
    signal.signal(ignored, signal.SIG_DFL)

# Before any test imports Ray, which reads these variables at import.
os.environ |= LOOPBACK

# Several test processes share the machine. More threads than cores make small networks many times slower.
configure_process(threads=1)

# The same examples in every run, so that a failure can be repeated.
settings.register_profile("mimpala", deadline=None, derandomize=True, max_examples=40)
settings.load_profile("mimpala")


@pytest.fixture
def nothing_is_left_behind() -> Iterator[None]:
    """Asserts that no process and no file in shared memory outlives the test."""
    assert not multiprocessing.active_children()
    yield
    assert not multiprocessing.active_children()
    shared = Path("/dev/shm")
    if shared.is_dir():
        assert not [path for path in shared.iterdir() if f"_{os.getpid()}_" in path.name]


@pytest.fixture
def processes_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reuses environment processes of earlier tests, because starting one takes longer than most tests."""
    stock = KeptProcess.stock
    monkeypatch.setattr(process_engine, "SlotProcess", lambda: stock.pop() if stock else KeptProcess())


@pytest.fixture
def process_settings() -> Iterator[None]:
    """Restores signal handlers and the number of threads, which entry points set for their process."""
    handlers = {number: signal.getsignal(number) for number in SIGNALS}
    threads = torch.get_num_threads()
    yield
    for number, handler in handlers.items():
        signal.signal(number, handler)
    torch.set_num_threads(threads)


@pytest.fixture
def tests_keep_their_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keeps evaluate.py from setting the number of threads, because it runs in the tests' process."""
    monkeypatch.setattr(evaluate, "configure_process", lambda threads: None)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of a small untrained agent on the suite `conditional`."""
    return make_checkpoint(tmp_path_factory.mktemp("agent"), *CONDITIONAL)


@pytest.fixture
def alone() -> Iterator[None]:
    """Forgets instances of DeepMind Lab in this process that other tests did not close."""
    level_env._open.clear()
    yield
    level_env._open.clear()
