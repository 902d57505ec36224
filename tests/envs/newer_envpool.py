"""Where tests find an envpool with Procgen and Craftax: it needs Python 3.12, so elsewhere a fake takes its place."""

from __future__ import annotations

from importlib import metadata
from pathlib import Path

FAKE_ENVPOOL = Path(__file__).parents[1] / "fakes" / "envpool_1_2_7"


def has_newer_envpool() -> bool:
    """Whether envpool 1.2.7 or later is installed."""
    try:
        return tuple(int(number) for number in metadata.version("envpool").split(".")[:3]) >= (1, 2, 7)
    except metadata.PackageNotFoundError:
        return False
