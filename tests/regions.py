"""Names of the regions in which weights of blends are."""

from __future__ import annotations

import numpy as np


def names_of(weights: np.ndarray) -> list[set[str]]:
    """For each row of weights the names of its regions: the largest weight, and the two largest."""
    found = []
    for largest, second in np.argsort(-weights, axis=1)[:, :2].tolist():
        found.append({f"{largest}", f"{min(largest, second)}+{max(largest, second)}"})
    return found
