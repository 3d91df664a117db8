"""Files of the history on the disk itself: written through, for this system's user only."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

from playground.errors import HistoryUnavailable

BINARY = getattr(os, "O_BINARY", 0)  # Windows would write line ends of its own


def write_through(path: Path, content: bytes) -> None:
    """``content`` in a file at ``path`` that only its owner reads, on the disk itself when this returns."""
    opened = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_TRUNC | BINARY, 0o600)
    try:
        write_all(opened, content)
        os.fsync(opened)
    finally:
        os.close(opened)


def write_all(opened: int, content: bytes) -> None:
    """All of ``content`` into the open file. Raises `OSError`; some of it may be there then."""
    rest = memoryview(content)
    while rest:
        rest = rest[os.write(opened, rest) :]


def sync_folder(folder: Path) -> None:
    """The folder's own entries on the disk: without it a power cut may take back a replacement."""
    if os.name != "posix":
        return
    opened = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


def content_of(path: Path) -> bytes | None:
    """What is in the file, None where there is none. Raises `HistoryUnavailable` when it may not be read."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise HistoryUnavailable(
            f"The history in {path.parent} cannot be read: {error.strerror or error}.",
            "Make its files readable for whoever runs the app, or name another folder with --data-dir.",
        ) from error


def now() -> str:
    """The time, for the name of a file."""
    return time.strftime("%Y%m%d-%H%M%S")


def free_name(path: Path) -> Path:
    """``path``, or one with a number where that is taken."""
    return next(one for one in _numbered(path) if not one.exists())


def _numbered(path: Path) -> Iterator[Path]:
    yield path
    for number in range(2, 10_000):
        yield path.with_stem(f"{path.stem}-{number}")


def not_written(error: OSError, where: str = "the data folder") -> HistoryUnavailable:
    """``where`` is told where it is read by who runs the app alone: what users are told names no path."""
    return HistoryUnavailable(
        f"The history cannot be written in {where}: {error.strerror or error}.",
        "Whoever runs the app must make room there, let it write there, or name another folder with --data-dir.",
    )
