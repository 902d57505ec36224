"""English text from the Python installation: the topics of the language reference (`help("with")`), split by topic."""

from __future__ import annotations

import zlib
from pydoc_data.topics import topics

HELD_OUT = 0.1
"""Largest share of the characters for the validation text, and for the test text."""
_LONG = 60
"""Length in characters from which a paragraph is taken as copied when two topics have it, and not as equal by chance."""


def topic_parts() -> tuple[str, str, str]:
    """Training, validation and test text; the same for each call of one Python version.

    Topics repeat each other: `compound` contains `for`. Topics with a common paragraph stay in one part, which contains the paragraph
    once, so that the held-out text does not occur in the training text.
    """
    groups = sorted(_groups(topics), key=lambda names: zlib.crc32(names[0].encode()))
    texts = [_joined([topics[name] for name in names]) for names in groups]
    room = int(HELD_OUT * sum(map(len, texts)))
    parts = ["", "", ""]
    free = [0, room, room]
    for text in texts:
        # The held-out part with more room, or the training text if the group does not fit.
        part = max((1, 2), key=lambda at: free[at])
        part = part if len(text) <= free[part] else 0
        free[part] -= len(text)
        parts[part] += text
    return parts[0], parts[1], parts[2]


def _groups(content: dict[str, str]) -> list[list[str]]:
    """Groups of names of topics that share a paragraph, directly or through other topics."""
    groups: list[tuple[set[str], list[str]]] = []
    for name in sorted(content):
        paragraphs = {key for paragraph in content[name].split("\n\n") if len(key := _key(paragraph)) >= _LONG}
        names = [name]
        for group in [group for group in groups if group[0] & paragraphs]:
            groups.remove(group)
            paragraphs |= group[0]
            names += group[1]
        groups.append((paragraphs, names))
    return [sorted(names) for _, names in groups]


def _joined(texts: list[str]) -> str:
    """Joins texts and keeps each long paragraph once."""
    seen: set[str] = set()
    kept = []
    for paragraph in "\n\n".join(texts).split("\n\n"):
        key = _key(paragraph)
        if key not in seen:
            kept.append(paragraph.rstrip())
        if len(key) >= _LONG:
            seen.add(key)
    return "\n\n".join(kept) + "\n\n"


def _key(paragraph: str) -> str:
    """A paragraph without its indentation and line breaks."""
    return " ".join(paragraph.split())
