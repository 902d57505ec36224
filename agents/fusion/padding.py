"""Sizes that come again.

The CPU kernels behind torch are compiled for the shapes they meet, and a shape that was not met before costs milliseconds: thirty times
the product it is for. What differs from batch to batch - contexts, stretches, distinct images - is therefore filled up to one of few
sizes.
"""

from __future__ import annotations


def repeating_size(count: int) -> int:
    """The least of 1 ... 8, 10, 12, 14, 16, 20, 24, 28, 32, 40, ... (four to each doubling) that is not below `count` >= 0."""
    step = 1 << max(0, (count - 1).bit_length() - 3)
    return -(-count // step) * step
