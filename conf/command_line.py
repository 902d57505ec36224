"""Quoting of values on a command line: from the shell to Hydra, and from a value to a command that can be pasted into a shell."""

from __future__ import annotations

import re
import shlex
import sys
import unicodedata
from collections.abc import Sequence

from system.files import is_text

TEXT_KEYS = frozenset(
    ("run", "init", "folder", "report", "output", "corpus", "runtime.address", "env.level_cache", "env.dataset_path")
)
"""Keys whose value is any text, usually a file name. Hydra would read 2024_01_01 as a number and a,b as two values."""

_MOST_SHOWN = 200
"""Most letters of an argument in a message."""

_PLAIN_WORD = re.compile(r"[A-Za-z_][A-Za-z0-9_./-]*")
_RESERVED_WORDS = ("null", "true", "false", "inf", "nan", "on", "off", "yes", "no")
"""Words that Hydra or YAML do not read as text."""


def quote_text_value(override: str) -> str:
    """The override in Hydra's grammar: the value of one of TEXT_KEYS is quoted, unless it has quotes already (`run='a b'`)."""
    key, equals, value = override.partition("=")
    quoted = len(value) > 1 and value[0] == value[-1] and value[0] in "'\""
    return f"{key}={_quote(value)}" if equals and value and key in TEXT_KEYS and not quoted else override


def shorten(text: str) -> str:
    """The text, cut for a message."""
    return text if len(text) <= _MOST_SHOWN else f"{text[:_MOST_SHOWN]}..."


def command_of(program: str) -> str:
    """The command that starts `program` as this process was started: `python evaluate.py`, or `mimpala evaluate`, which uses the option -P
    (mimpala/console.py).
    """
    return f"mimpala {program}" if sys.flags.safe_path else f"python {program}.py"


def format_argument(key: str, value: str | Sequence[str]) -> str:
    """`key=value` quoted for a shell; a list in Hydra's brackets."""
    if not isinstance(value, str):
        value = f"[{','.join(map(_quote_word, value))}]"
    elif key not in TEXT_KEYS:
        value = _quote_word(value)
    return quote_argument(f"{key}={value}")


def quote_argument(text: str) -> str:
    """An argument quoted for a shell."""
    if any(unicodedata.category(letter) in ("Cc", "Cs") for letter in text):
        return _escape_bytes(text)
    # Brackets need no quotes: a shell leaves the pattern unchanged if it matches no file.
    return text if re.fullmatch(r"[\w@%+=:,./\[\]-]+", text, re.ASCII) else shlex.quote(text)


def _escape_bytes(text: str) -> str:
    """`text` in the shell's `$'...'` quotes, for characters that a terminal cannot show, such as a file name that is not UTF-8."""
    letters = map(chr, text.encode(errors="surrogateescape" if is_text(text) else "backslashreplace"))
    shown = (letter if " " <= letter <= "~" and letter not in "'\\" else f"\\x{ord(letter):02x}" for letter in letters)
    return f"$'{''.join(shown)}'"


def _quote_word(text: str) -> str:
    """`text` as an element of a list in Hydra's grammar."""
    return text if _PLAIN_WORD.fullmatch(text) and text.lower() not in _RESERVED_WORDS else _quote(text)


def _quote(text: str) -> str:
    # Hydra reads backslashes as escapes only in front of a quote.
    return "'" + re.sub(r"(\\*)('|$)", lambda found: found[1] * 2 + ("\\'" if found[2] else ""), text) + "'"
