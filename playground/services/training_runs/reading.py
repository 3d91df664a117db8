"""Reading folders that others have written: listings and small files, with a note of all that was looked at."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Generic, TypeVar

from playground.config import is_text

T = TypeVar("T")
Stamp = tuple[int, int, int, int] | None

MOST_BYTES = 32_000_000
_TOO_FRESH_NS = 50_000_000  # a file system's clock has coarse ticks: what is written in one of them looks like one


@dataclass(frozen=True)
class Folder:
    """What lies directly in a folder, hidden names left out. ``path`` is absolute and resolved, and so are the values of
    ``folders``, which has the path of each by its name; ``files`` are regular ones. ``link`` is the name of the link by
    which it was come to, if by one.
    """

    path: str
    files: frozenset[str] = frozenset()
    folders: Mapping[str, str] = field(default_factory=dict)
    link: str = ""

    @property
    def name(self) -> str:
        """What the folder is called where it was found."""
        return self.link or os.path.basename(self.path) or self.path

    def within(self, file: str) -> str:
        """The path of what is called ``file`` in it."""
        return os.path.join(self.path, file)


class Reading:
    """One look at some files. Nothing in it raises for what is on the disk: what cannot be read is as if it were not there.

    Where there are ``roots`` no link is followed out of them. ``notices`` are sentences about what could not be looked at;
    ``shown`` makes of a path what they call it. ``trail`` has everything that was looked at.
    """

    def __init__(self, roots: Sequence[str] = (), shown: Callable[[str], str] = repr) -> None:
        self._roots = roots
        self._folders: dict[str, Folder] = {}
        self.shown = shown
        self.trail: dict[str, Stamp] = {}
        self.notices: list[str] = []

    @property
    def hides_paths(self) -> bool:
        """Whether others than this machine's own people read what is found."""
        return bool(self._roots)

    def folder(self, path: str) -> Folder:
        """The listing of ``path``, read once. Links are left out where they lead out of the roots, or nowhere."""
        if path not in self._folders:
            self._folders[path] = self._listed(path)
        return self._folders[path]

    def data(self, path: str, most: int = MOST_BYTES) -> bytes:
        """The first ``most`` bytes of a file; b"" where it cannot be read."""
        return self._bytes(path, 0, most)

    def tail(self, path: str, most: int) -> str:
        """The last ``most`` bytes of a file as text; "" where it cannot be read."""
        return self._bytes(path, -most, most).decode("utf-8", "replace")

    def _listed(self, path: str) -> Folder:
        self._note(path)
        files: list[str] = []
        folders: dict[str, str] = {}
        try:
            with os.scandir(path) as entries:
                for entry in entries:
                    self._sort_in(entry, files, folders)
        except OSError as error:
            self.notices.append(f"The folder {self.shown(path)} cannot be read: {error.strerror or error}.")
        return Folder(path, frozenset(files), dict(sorted(folders.items())))

    def _sort_in(self, entry: os.DirEntry[str], files: list[str], folders: dict[str, str]) -> None:
        if entry.name.startswith("."):
            return
        if not entry.name.isascii() and not is_text(entry.name):
            self.notices.append(
                f"In {self.shown(entry.path.rpartition(os.sep)[0])} a name is no text, and was left out."
            )
        elif entry.is_symlink() and not self._is_inside(entry.path):
            self.notices.append(
                f"{self.shown(entry.path)} leads out of the folders that are offered, and was left out."
            )
        elif entry.is_dir():
            folders[entry.name] = os.path.realpath(entry.path) if entry.is_symlink() else entry.path
        elif entry.is_file():
            files.append(entry.name)

    def _bytes(self, path: str, start: int, most: int) -> bytes:
        self._note(path)
        try:
            with open(path, "rb") as file:
                file.seek(max(0, os.fstat(file.fileno()).st_size + start) if start < 0 else start)
                return file.read(most)
        except OSError as error:
            self.notices.append(f"{self.shown(path)} cannot be read: {error.strerror or error}.")
            return b""

    def newest(self, paths: Iterable[str]) -> float:
        """When the newest of these files was written, in seconds since 1970; 0 where there is none of them."""
        stamps = [self._note(path) for path in paths]
        return max((stamp[0] for stamp in stamps if stamp), default=0) / 1e9

    def _note(self, path: str) -> Stamp:
        """What tells the file from a later one, kept as it was when it was first looked at."""
        if path not in self.trail:
            self.trail[path] = _stamp(path)
        return self.trail[path]

    def _is_inside(self, link: str) -> bool:
        """Whether a link stays inside the roots, where there are any."""
        real = os.path.realpath(link)
        return not self._roots or any(Path(real).is_relative_to(root) for root in self._roots)


class Remembered(Generic[T]):
    """What was found in folders, each until something changes that was looked at for it. Not safe from two threads."""

    def __init__(self, begin: Callable[[], Reading]) -> None:
        self._begin = begin
        self._kept: dict[str, tuple[int, dict[str, Stamp], T, tuple[str, ...]]] = {}

    def get(self, path: str, look: Callable[[Reading, str], T]) -> tuple[T, tuple[str, ...]]:
        """What ``look`` finds in ``path``, now or earlier, and its notices."""
        known = self._kept.get(path)
        if known and _holds(known[0], known[1]):
            return known[2], known[3]
        now, reading = time.time_ns(), self._begin()
        found = look(reading, path)
        self._kept[path] = (now, reading.trail, found, tuple(reading.notices))
        return found, tuple(reading.notices)

    def keep_only(self, paths: set[str]) -> None:
        """Forget everything else."""
        self._kept = {path: kept for path, kept in self._kept.items() if path in paths}


def _holds(read_at: int, trail: dict[str, Stamp]) -> bool:
    """Whether all is as it was, and was not written so shortly before it was read that more may have followed."""
    for path, stamp in trail.items():
        if stamp and 0 <= read_at - stamp[0] < _TOO_FRESH_NS:
            return False
        if _stamp(path) != stamp:
            return False
    return True


def _stamp(path: str) -> Stamp:
    try:
        stat = os.stat(path)
    except OSError:
        return None
    return stat.st_mtime_ns, stat.st_ctime_ns, stat.st_size, stat.st_ino
