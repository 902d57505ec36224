"""A checksum inside the file itself: the SHA-256 of a zip archive, stored as the archive's comment.

Zip readers ignore comments, so torch reads a sealed checkpoint like any other, and every copy of the file can be checked. torch does not
check what it reads.
"""

from __future__ import annotations

import hashlib
import io
import os
import re
from pathlib import Path

_WORDS = b"mimpala sha256 "
_COMMENT = re.compile(re.escape(_WORDS) + rb"([0-9a-f]{64})")
_LENGTH = len(_WORDS) + 64
_CHUNK = 2**20


def seal(archive: io.BytesIO) -> None:
    """Appends the checksum of all bytes before the comment to an archive that has no comment."""
    # The last field of an archive is the length of its comment, in two bytes.
    archive.seek(-2, os.SEEK_END)
    archive.write(_LENGTH.to_bytes(2, "little"))
    with archive.getbuffer() as content:
        digest = hashlib.sha256(content).hexdigest()
    archive.write(_WORDS + digest.encode())


def checksum_fits(path: Path) -> bool | None:
    """Whether the checksum of a file matches its bytes; None if it has no checksum. Raises OSError if it cannot be read."""
    with path.open("rb") as file:
        left = file.seek(0, os.SEEK_END) - _LENGTH
        file.seek(max(0, left))
        match = _COMMENT.fullmatch(file.read())
        if not match:
            return None
        digest = hashlib.sha256()
        file.seek(0)
        while left and (chunk := file.read(min(left, _CHUNK))):
            digest.update(chunk)
            left -= len(chunk)
    return digest.hexdigest().encode() == match[1]
