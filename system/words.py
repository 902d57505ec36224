"""Words of messages: a number with its noun, and names that fit a given room."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from os.path import commonprefix


def count(number: float, noun: str, plural: str = "") -> str:
    """`1 actor`, `2 actors`, `1,024 frames`; `plural` where it is not the noun with an s."""
    return f"{number:,.0f} {noun if number == 1 else plural or f'{noun}s'}"


def join_words(words: Iterable[str], last: str = "and") -> str:
    """`a`, `a and b`, `a, b and c`."""
    words = list(words)
    return f" {last} ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def shorten(name: str, most: int = 0) -> str:
    """The name as one printable line of at most `most` characters (0 = all); an ellipsis replaces the middle."""
    text = "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in name)
    if not most or len(text) <= most:
        return text
    head = (most - 1) // 2
    return f"{text[:head]}…{text[len(text) - (most - 1 - head) :]}"


def shorten_all(names: Sequence[str], most: int) -> list[str]:
    """`shorten(name, most)` of each; unequal names have unequal texts.

    Long names that would become equal show the part in which they differ, and a number if that is not enough.
    """
    alike: dict[str, list[str]] = {}
    for name in dict.fromkeys(names):
        alike.setdefault(shorten(name, most), []).append(name)
    texts: dict[str, str] = {}
    for text, group in alike.items():
        # By characters, which is what commonprefix compares.
        start, end = (len(commonprefix(part)) for part in (group, [name[::-1] for name in group]))  # noqa: RUF071
        for number, name in enumerate(group):
            found = text if len(group) == 1 or len(name) <= most else _excerpt(name, start, len(name) - end, most)
            texts[name] = f"{shorten(name, most - 5)} ({number + 1})" if found in texts.values() else found
    return [texts[name] for name in names]


def _excerpt(name: str, start: int, stop: int, most: int) -> str:
    """An excerpt of the name around name[start:stop], or the start of that part if it is longer."""
    room = most - 2
    first = max(0, min(start - max(0, room - (stop - start)) // 2, len(name) - room))
    return shorten(f"{'…' if first else ''}{name[first : first + room]}{'…' if first + room < len(name) else ''}")
