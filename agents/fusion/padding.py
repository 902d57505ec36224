"""Sizes are rounded up to a few buckets, so that oneDNN's kernels are reused.

torch's CPU kernels are compiled per shape. A new shape costs milliseconds, thirty times the product itself. So sizes that differ from
batch to batch (contexts, stretches between resets, distinct images) are padded to a bucket.
"""

from __future__ import annotations


def bucket_size(count: int) -> int:
    """The smallest bucket >= `count` >= 0. Buckets: 0 ... 8, 10, 12, 14, 16, 20, 24, 28, 32, 40, ... (four per doubling)."""
    step = 1 << max(0, (count - 1).bit_length() - 3)
    return -(-count // step) * step
