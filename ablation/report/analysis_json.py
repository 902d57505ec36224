"""The content of analysis.json: results and analysis as plain data.

Values that depend on the speed of the machine are under the key `timing`, so that the rest of two reports can be compared.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from ablation.analysis.comparability import Configs
from ablation.analysis.results import Analysis, Results

_OF_RUN = (
    *("name", "variant", "seed", "values", "probed", "episodes", "parameters", "multiply_adds", "frames", "provenance"),
)
_TIMES_OF_RUN = ("name", "seconds", "frames_per_second")
_TIMES = {"seconds_to", "seconds_to_median", "frames_per_second"}
"""Keys of `Efficiency` and of `Analysis.paces` that depend on the speed of the machine."""


def to_json(results: Results, analysis: Analysis, configs: Configs, cautions: tuple[str, ...]) -> dict[str, Any]:
    """Everything as plain data; infinite and undefined numbers are None."""
    found: dict[str, Any] = plain(analysis)
    efficiency, paces, verdict = (found.pop(key) for key in ("efficiency", "paces", "verdict"))
    efficiency, times = _split(efficiency)
    (steady, speed) = _split({"paces": paces})
    return {
        "suite": results.suite,
        "measure": plain(results.measure),
        "tasks": list(results.tasks),
        "variants": list(results.variants),
        "command": results.command,
        "problems": plain(results.problems),
        "cautions": list(cautions),
        "config": plain(configs),
        "runs": [{key: plain(getattr(run, key)) for key in _OF_RUN} for run in results.runs],
        **found,
        "comparisons": verdict["comparisons"],
        "efficiency": efficiency,
        **steady,
        "timing": {
            # One sentence of the verdict reports the speed.
            "verdict": verdict["sentences"],
            "runs": [{key: plain(getattr(run, key)) for key in _TIMES_OF_RUN} for run in results.runs],
            "efficiency": times,
            **speed,
        },
    }


def _split(found: Mapping[str, Mapping[str, Any]]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The inner mappings without the keys in _TIMES, and with these alone."""
    rest = {outer: {key: value for key, value in row.items() if key not in _TIMES} for outer, row in found.items()}
    times = {outer: {key: value for key, value in row.items() if key in _TIMES} for outer, row in found.items()}
    return rest, times


def plain(value: Any) -> Any:
    """The value as JSON can hold it: structures as dictionaries, arrays as lists, infinite and undefined numbers as None."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {entry.name: plain(getattr(value, entry.name)) for entry in dataclasses.fields(value)}
    if hasattr(value, "_asdict"):
        return plain(value._asdict())
    if isinstance(value, Mapping):
        return {str(key): plain(entry) for key, entry in value.items()}
    if isinstance(value, np.ndarray | np.generic):
        return plain(value.tolist())
    if isinstance(value, list | tuple):
        return [plain(entry) for entry in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, bool | int | str) else str(value)
