"""How values stand on a command line: texts as they are typed, and commands that can be typed as they are printed."""

from __future__ import annotations

import re
import shlex
import unicodedata
from collections.abc import Sequence

from system.files import is_text

TEXT_KEYS = frozenset(
    ("run", "folder", "report", "output", "corpus", "runtime.address", "env.level_cache", "env.dataset_path")
)
"""Keys whose value is any text: names of files mostly. Hydra reads 2024_01_01 as a number, and a,b as two values."""

_PLAIN = re.compile(r"[A-Za-z_][A-Za-z0-9_./-]*")
_WORDS = ("null", "true", "false", "inf", "nan", "on", "off", "yes", "no")
"""That Hydra or YAML read as something else than text."""


def as_typed(override: str) -> str:
    """The override in Hydra's grammar, in which the text of one of TEXT_KEYS is what was typed after the `=`.

    One in quotes of its own is left as it is: `run='a b'`.
    """
    key, equals, value = override.partition("=")
    quoted = len(value) > 1 and value[0] == value[-1] and value[0] in "'\""
    return f"{key}={_quoted(value)}" if equals and value and key in TEXT_KEYS and not quoted else override


def argument(key: str, value: str | Sequence[str]) -> str:
    """`key=value` as it is typed into a shell."""
    if not isinstance(value, str):
        value = f"[{','.join(map(_word, value))}]"
    elif key not in TEXT_KEYS:
        value = _word(value)
    text = f"{key}={value}"
    if any(unicodedata.category(letter) in ("Cc", "Cs") for letter in text):
        return _in_bytes(text)
    # Brackets are patterns of a shell, which takes them as they are where no file has such a name.
    return text if re.fullmatch(r"[\w@%+=:,./\[\]-]+", text, re.ASCII) else shlex.quote(text)


def _in_bytes(text: str) -> str:
    """A text that a terminal does not show as it is, such as a file's name that is no UTF-8, in the quotes that shells have for escapes."""
    letters = map(chr, text.encode(errors="surrogateescape" if is_text(text) else "backslashreplace"))
    shown = (letter if " " <= letter <= "~" and letter not in "'\\" else f"\\x{ord(letter):02x}" for letter in letters)
    return f"$'{''.join(shown)}'"


def _word(text: str) -> str:
    """A text as an element of a list in Hydra's grammar."""
    return text if _PLAIN.fullmatch(text) and text.lower() not in _WORDS else _quoted(text)


def _quoted(text: str) -> str:
    # Backslashes count only in front of a quote.
    return "'" + re.sub(r"(\\*)('|$)", lambda found: found[1] * 2 + ("\\'" if found[2] else ""), text) + "'"
