"""English text that every Python carries: the language reference's topics, which `help("with")` shows, in three parts by topic."""

from __future__ import annotations

import zlib
from pydoc_data.topics import topics

HELD_OUT = 0.1
"""Share of the characters that the validation text, and likewise the test text, may have."""
_LONG = 60
"""Characters of a paragraph that two topics share only if one was taken from the other, and not by chance."""


def topic_parts() -> tuple[str, str, str]:
    """Training, validation and test text; always the same ones of a version of Python.

    Topics repeat one another: `for` stands in `compound` once more. Those that share a paragraph are kept together, so that nothing
    that is held out has been read in training, and what they share is written once.
    """
    groups = sorted(_groups(topics), key=lambda names: zlib.crc32(names[0].encode()))
    texts = [_joined([topics[name] for name in names]) for names in groups]
    room = int(HELD_OUT * sum(map(len, texts)))
    parts: list[list[str]] = [[], [], []]
    free = [0, room, room]
    for text in texts:
        # The part with most room; what does not fit there is for training.
        part = max((1, 2), key=lambda at: free[at])
        part = part if len(text) <= free[part] else 0
        free[part] -= len(text)
        parts[part].append(text)
    train, validation, test = ("".join(part) for part in parts)
    return train, validation, test


def _groups(content: dict[str, str]) -> list[list[str]]:
    """Names of topics, those together that share a paragraph, directly or through others."""
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
    """One text of several, each long paragraph once."""
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
