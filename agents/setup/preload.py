"""Imported by the process that actors and their server are copies of (runtime/processes/fork_server.py), and by nobody else: what
they need is
imported once, in seconds, and each of them is there in a moment, with this memory shared.

A copy of it may do anything that a fresh process may, because it computes nothing, asks for no GPU and has no threads but those of NumPy's
BLAS, which that library ends before a fork and starts again when it wants them.
"""

from __future__ import annotations

import gc
import os

import numpy as np

from agents.cli.signals import end_with_the_parent, ignore_signals

end_with_the_parent()
ignore_signals()
# Copies that draw from NumPy's global stream, as environments may, must not all draw the same. `random` sees to that itself.
os.register_at_fork(after_in_child=np.random.seed)
# What the collector does not visit stays shared.
gc.collect()
gc.freeze()
