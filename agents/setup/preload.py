"""Preloaded in the fork server (runtime/processes/fork_server.py), so that forked actors start at once and share its memory.

A forked child may do anything that a fresh process may, because the fork server computes nothing and initialises no GPU. Its only threads
are those of NumPy's BLAS, which stops them before a fork and starts them again on demand.
"""

from __future__ import annotations

import gc
import os

from agents.cli.signals import end_with_the_parent, ignore_signals
from system.imports import without_collection
from system.python_paths import SAFE_PATH_OF_FORK_SERVER

# First, because the imports take a second, in which the program may end.
end_with_the_parent()
ignore_signals()
if os.environ.get("PYTHONSAFEPATH") == SAFE_PATH_OF_FORK_SERVER:
    del os.environ["PYTHONSAFEPATH"]

with without_collection():
    import numpy as np

    import agents.setup.builder  # noqa: F401

# Forked children must not draw the same numbers from NumPy's global stream. `random` reseeds itself after a fork.
os.register_at_fork(after_in_child=np.random.seed)
# Memory that the garbage collector does not visit stays shared between parent and children.
gc.freeze()
