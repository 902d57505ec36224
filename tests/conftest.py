"""Settings that every test shares."""

from __future__ import annotations

import torch
from hypothesis import settings

# Tests of several processes share the machine; more threads than cores make small networks many times slower.
torch.set_num_threads(1)

# The same examples in every run: a test that fails for one person fails for all.
settings.register_profile("mimpala", deadline=None, derandomize=True, max_examples=40)
settings.load_profile("mimpala")
