"""Fixtures that tests of the agent share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from pretended_gpu import PretendedGPU, pretended_gpu


@pytest.fixture
def gpu() -> Iterator[PretendedGPU]:
    with pretended_gpu() as pretended:
        yield pretended
