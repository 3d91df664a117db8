"""Files of rows as bytes: opened whatever they are packed in, told apart by their first bytes, read with bounds."""

from __future__ import annotations

import gzip
import io
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from playground.errors import InvalidRequest
from playground.services.tables.rows import Remarks

BOM = b"\xef\xbb\xbf"
LONGEST_ROW = 16_000_000
_UTF16 = (b"\xff\xfe", b"\xfe\xff")
_MOST_UNPACKED = 64_000_000
_UNREADABLE = (OSError, EOFError, zlib.error)


@contextmanager
def opened(path: Path, remarks: Remarks) -> Iterator[BinaryIO]:
    """``path`` open for reading from anywhere in it; what is packed (.gz) or UTF-16 is unpacked in memory first, as far as
    64 MB. Raises `InvalidRequest` when it cannot be read."""
    try:
        with path.open("rb") as file:
            start = file.read(2)
            file.seek(0)
            if path.suffix.lower() == ".gz":
                yield io.BytesIO(_utf8(_unpacked(file, remarks)))
            elif start in _UTF16:
                yield io.BytesIO(_utf8(_first(file, remarks)))
            else:
                yield file
    except _UNREADABLE as error:
        raise InvalidRequest(
            f"{path.name} cannot be read: {getattr(error, 'strerror', None) or error or 'it is not whole'}.",
            "Check the file and who may read it.",
        ) from error


def size_of(file: BinaryIO) -> int:
    """How many bytes ``file`` has; it is at its beginning afterwards."""
    size = file.seek(0, io.SEEK_END)
    file.seek(0)
    return size


def _unpacked(file: BinaryIO, remarks: Remarks) -> bytes:
    with gzip.open(file) as packed:
        return _first(packed, remarks)  # type: ignore[arg-type]


def _first(file: BinaryIO, remarks: Remarks) -> bytes:
    """What fits into memory, up to the end of a line where that is not all."""
    content = file.read(_MOST_UNPACKED + 1)
    if len(content) <= _MOST_UNPACKED:
        return content
    remarks.say(
        f"Only the first {_MOST_UNPACKED // 1_000_000} MB were looked at, because the file is packed or UTF-16."
    )
    return content[: content.rfind(b"\n") + 1] or content[:_MOST_UNPACKED]


def _utf8(content: bytes) -> bytes:
    return content.decode("utf-16", errors="replace").encode() if content[:2] in _UTF16 else content
