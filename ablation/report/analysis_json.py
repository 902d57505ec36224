"""The content of analysis.json: results and analysis as plain data.

Values that depend on the speed of the machine are under the key `timing`, so that the rest of two reports can be compared.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np

from ablation.analysis.comparability import Configs
from ablation.analysis.results import Analysis, Results
from system.files import finite_or_null

_OF_RUN = (
    "name",
    "variant",
    "seed",
    "values",
    "probed",
    "episodes",
    "parameters",
    "multiply_adds",
    "frames",
    "provenance",
)
_TIMES_OF_RUN = ("name", "seconds", "frames_per_second")
_TIMES = {"seconds_to", "seconds_to_median", "frames_per_second"}
"""Keys of `Efficiency` and of `Analysis.paces` that depend on the speed of the machine."""


def to_json(results: Results, analysis: Analysis, configs: Configs, cautions: tuple[str, ...]) -> dict[str, Any]:
    """Everything as plain data; infinite and undefined numbers are None."""
    found: dict[str, Any] = plain(analysis)
    efficiency, paces, sentences, comparisons = (
        found.pop(key) for key in ("efficiency", "paces", "sentences", "comparisons")
    )
    content = {
        "suite": results.suite,
        "measure": results.measure,
        "tasks": results.tasks,
        "variants": results.variants,
        "command": results.command,
        "problems": results.problems,
        "cautions": cautions,
        "config": configs,
        "runs": [{key: getattr(run, key) for key in _OF_RUN} for run in results.runs],
        **found,
        "comparisons": comparisons,
        "efficiency": {variant: _part(row, timing=False) for variant, row in efficiency.items()},
        "paces": _part(paces, timing=False),
        "timing": {
            # One sentence of the verdict reports the speed.
            "verdict": sentences,
            "runs": [{key: getattr(run, key) for key in _TIMES_OF_RUN} for run in results.runs],
            "efficiency": {variant: _part(row, timing=True) for variant, row in efficiency.items()},
            "paces": _part(paces, timing=True),
        },
    }
    plain_content: dict[str, Any] = finite_or_null(plain(content))
    return plain_content


def _part(row: Mapping[str, Any], *, timing: bool) -> dict[str, Any]:
    """The entries whose keys are in _TIMES, or the others."""
    return {key: value for key, value in row.items() if (key in _TIMES) == timing}


def plain(value: Any) -> Any:
    """Structures as dictionaries, and arrays and tuples as lists."""
    if is_dataclass(value):
        value = {field.name: getattr(value, field.name) for field in fields(value)}
    elif hasattr(value, "_asdict"):
        value = value._asdict()
    elif isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    if isinstance(value, Mapping):
        return {str(key): plain(entry) for key, entry in value.items()}
    return [plain(entry) for entry in value] if isinstance(value, list | tuple) else value
