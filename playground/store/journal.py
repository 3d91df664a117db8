"""TinyDB's storage over an append-only journal: a change costs one line, and what was saved survives being killed.

``history.json`` is what plain ``TinyDB(path)`` writes and opens. Beside it ``history.journal`` holds what has changed since:
one line for each transaction, with a checksum, on the disk itself before the change is reported. Every line holds whole
documents, so reading a line twice does no harm; that is why nothing is lost or doubled when the process dies between
writing the file anew (folding) and emptying the journal.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

import orjson
from tinydb.storages import Storage

from playground.errors import HistoryUnavailable
from playground.store.disk import (
    BINARY,
    content_of,
    free_name,
    not_written,
    now,
    sync_folder,
    write_all,
    write_through,
)

Tables = dict[str, dict[str, Any]]  # table → document id → document, as TinyDB has it
Changes = dict[str, dict[str, Any] | None]  # the same with what has changed; None for what was taken out
FOLD_FLOOR = 4 * 1024 * 1024  # bytes of journal below which it is never folded while running
_COPY = "before-"  # in the names of copies that were made to be safe
_LOG = logging.getLogger(__name__)


def _refused(self: Kept, *_: Any, **__: Any) -> NoReturn:
    raise TypeError("A stored document is replaced as a whole, never changed in place.")


class Kept(dict[str, Any]):
    """A document as the storage has it; nobody changes it. Its nested values must not be changed either."""

    __slots__ = ()
    __setitem__ = __delitem__ = __ior__ = update = pop = popitem = clear = setdefault = _refused


class Journal(Storage):
    """The documents in memory, and on the disk in the file at ``path`` and the journal beside it.

    To make one only reads: nothing on the disk is touched before `settle`, which the first write does by itself. Documents
    are replaced as a whole: one that is the very same object as before is the same, which is found without looking into
    thousands of them at every change. So TinyDB's ``update``, which changes in place, is refused with a `TypeError`; use
    `Documents.put`. One thread at a time. ``notices`` are sentences about what was found.

    Raises `HistoryUnavailable` when the file or the journal is there and the system will not let it be read.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.notices: list[str] = []
        self._journal = path.with_suffix(".journal")
        self._open: int | None = None
        self._settled = self._closed = False
        content = content_of(path)
        tables = None if content is None else _tables(content)
        self._unreadable = content is not None and tables is None
        self._folded = len(content or b"")  # bytes of the file
        self._stamp = _stamp(path)
        self._missing = content is None
        self._tables: Tables = tables or {}
        self._broken = 0  # lines that cannot be read
        self._size = self._replay(content_of(self._journal) or b"")  # bytes of the journal that count

    def read(self) -> Tables | None:
        """All documents, in tables that the caller may change; None where there was never a table."""
        return {name: table.copy() for name, table in self._tables.items()} or None

    def write(self, data: Mapping[str, Mapping[str, Any]]) -> None:
        """Make ``data`` what is kept: what differs goes to the journal, and is on the disk when this returns.

        Raises `HistoryUnavailable` when the disk does not take it; then everything is as it was before.
        """
        changes = _changes(self._tables, data)
        if not changes:
            return
        self.settle()
        self._append(_line(changes))
        _apply(self._tables, changes)
        if self._size > max(FOLD_FLOOR, 2 * self._folded):
            self._fold_if_possible()

    def settle(self) -> None:
        """Get ready to write: set aside what cannot be read, and fold what the journal holds. Once is enough.

        Raises `HistoryUnavailable` when the disk does not let it.
        """
        if self._closed:
            raise HistoryUnavailable("The history was closed: the app is stopping.", "Start it again.")
        if self._settled:
            return
        try:
            self._temporary.unlink(missing_ok=True)
            self._set_aside()
            self._open = os.open(self._journal, os.O_CREAT | os.O_RDWR | os.O_APPEND | BINARY, 0o600)
            os.ftruncate(self._open, self._size)  # without the line that was being written when the process ended
            if self._size or self._missing or self._unreadable:
                self._fold()
            else:
                sync_folder(self.path.parent)
        except OSError as error:
            self._let_go()
            raise not_written(error, str(self.path.parent)) from error
        self._settled = True

    def fold(self) -> None:
        """Write the file anew and empty the journal.

        Raises `HistoryUnavailable` when the disk does not let it; then file and journal are as they were.
        """
        self.settle()
        try:
            self._fold()
        except OSError as error:
            raise not_written(error) from error

    def keep_copy(self, what: str) -> Path:
        """Keep all that is there now in a file beside it, named after ``what``; returns its path.

        Raises `HistoryUnavailable` when the disk does not let it.
        """
        self.settle()
        copy = free_name(self.path.with_stem(f"{self.path.stem}.{_COPY}{what}"))
        try:
            write_through(copy, _dumped(self._tables))
            sync_folder(self.path.parent)
        except OSError as error:
            raise not_written(error) from error
        return copy

    def forget_deleted(self) -> None:
        """Fold, and remove the copies that `keep_copy` made: what was deleted is in no file afterwards.

        What could not be read and was set aside stays: it may be all that is left of somebody else's. Raises
        `HistoryUnavailable` when the disk does not let it; what was deleted is then still in the file.
        """
        try:
            self.fold()
            for copy in self.path.parent.glob(f"{self.path.stem}.{_COPY}*{self.path.suffix}"):
                copy.unlink(missing_ok=True)
        except (OSError, HistoryUnavailable) as error:
            reason = getattr(error, "message", error)
            raise HistoryUnavailable(
                f"It is deleted, but the texts are still on the disk. {reason}",
                "They go when the app is stopped, once it can write there.",
            ) from error

    def close(self) -> None:
        """Fold what the journal holds; nothing can be written afterwards."""
        if self._settled and not self._closed and self._size:
            self._fold_if_possible()
        self._closed = True
        self._let_go()

    @property
    def size(self) -> int:
        """Bytes on the disk, file and journal."""
        return self._folded + self._size

    @property
    def _temporary(self) -> Path:
        return self.path.with_suffix(".json.tmp")

    def _let_go(self) -> None:
        if self._open is not None:
            os.close(self._open)
            self._open = None

    def _replay(self, content: bytes) -> int:
        """Take in the journal's lines; returns the bytes up to the end of the last whole one."""
        end = content.rfind(b"\n") + 1  # what follows was never reported as saved
        for line in content[:end].split(b"\n")[:-1]:
            changes = _read_line(line)
            if changes is None:
                self._broken += 1
            else:
                _apply(self._tables, changes)
        return end

    def _set_aside(self) -> None:
        """Keep what cannot be read under another name, and tell it."""
        if self._broken:
            copy = free_name(self._journal.with_stem(f"{self.path.stem}.broken-{now()}"))
            write_through(copy, content_of(self._journal) or b"")
            self.notices.append(
                f"{self._broken} of the last changes to the history could not be read and are left out. A copy of the "
                f"journal is kept as {copy}."
            )
        if self._unreadable:
            aside = free_name(self.path.with_stem(f"{self.path.stem}.unreadable-{now()}"))
            self.path.replace(aside)
            self.notices.append(
                f"The history file could not be read. It was set aside as {aside}; what was not in the journal is missing."
            )

    def _append(self, line: bytes) -> None:
        """``line`` at the journal's end, on the disk itself; what a failed one has left is cut off first."""
        assert self._open is not None  # settled
        found = os.fstat(self._open)
        if not found.st_nlink:  # what is written into it now nobody would ever read
            raise HistoryUnavailable(
                "The history's journal was removed while the app runs; nothing can be saved.",
                "Whoever runs the app must stop it and start it again.",
            )
        try:
            if found.st_size != self._size:
                os.ftruncate(self._open, self._size)
            write_all(self._open, line)
            os.fsync(self._open)
        except OSError as error:
            with contextlib.suppress(OSError):  # else before the next line
                os.ftruncate(self._open, self._size)
            _LOG.error("The history cannot be written in %s: %s", self.path.parent, error)
            raise not_written(error) from error
        self._size += len(line)

    def _fold(self) -> None:
        """Raises `OSError`."""
        assert self._open is not None
        content = _dumped(self._tables)
        try:
            write_through(self._temporary, content)
            self._keep_foreign()
            self._temporary.replace(self.path)
        except OSError:
            with contextlib.suppress(OSError):
                self._temporary.unlink(missing_ok=True)
            raise
        sync_folder(self.path.parent)
        self._folded, self._stamp = len(content), _stamp(self.path)
        os.ftruncate(self._open, 0)
        self._size = 0
        os.fsync(self._open)

    def _keep_foreign(self) -> None:
        """Set aside what another program has written in the file's place; it has not been read here."""
        if _stamp(self.path) in (None, self._stamp):
            return
        aside = free_name(self.path.with_stem(f"{self.path.stem}.replaced-{now()}"))
        self.path.replace(aside)
        _LOG.warning("Another program has written %s while the app ran; that is kept as %s.", self.path, aside)

    def _fold_if_possible(self) -> None:
        """Everything is saved as it is; where folding fails, the next one makes up for it."""
        try:
            self._fold()
        except OSError as error:
            _LOG.warning("The history's journal was not folded into %s: %s", self.path, error)


def _tables(content: bytes) -> Tables | None:
    """What a TinyDB file holds; None when it holds something else."""
    try:
        found = _loaded(content)
    except (ValueError, RecursionError):
        return None
    if not isinstance(found, dict) or not all(map(_is_table, found.values())):
        return None
    return {name: {key: Kept(one) for key, one in table.items()} for name, table in found.items()}


def _is_table(value: Any) -> bool:
    return isinstance(value, dict) and all(_is_place(key) and isinstance(one, dict) for key, one in value.items())


def _is_place(key: str) -> bool:
    return key.isascii() and key.isdecimal() and len(key) < 19  # TinyDB makes numbers of them


def _stamp(path: Path) -> tuple[int, int, int] | None:
    """What tells a file from another that was put in its place, or written into; None where there is none."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns


def _changes(before: Tables, after: Mapping[str, Mapping[str, Any]]) -> Changes:
    """What makes ``after`` of ``before``: every document that is another object than it was, and what is gone."""
    changes: Changes = {name: None for name in before if name not in after}
    for name, table in after.items():
        known = before.get(name, {})
        found: dict[str, Any] = {key: None for key in known if key not in table}
        found.update((key, one) for key, one in table.items() if known.get(key) is not one)
        if found or name not in before:
            changes[name] = found
    return changes


def _apply(tables: Tables, changes: Changes) -> None:
    for name, changed in changes.items():
        if changed is None:
            tables.pop(name, None)
            continue
        table = tables.setdefault(name, {})
        for key, one in changed.items():
            if one is None:
                table.pop(key, None)
            else:
                table[key] = Kept(one)


def _line(changes: Changes) -> bytes:
    content = _dumped(changes)
    return b"%08x %b\n" % (zlib.crc32(content), content)


def _read_line(line: bytes) -> Changes | None:
    """The changes in a line of the journal; None when it is not as it was written."""
    checksum, _, content = line.partition(b" ")
    if checksum != b"%08x" % zlib.crc32(content):
        return None
    try:
        found = _loaded(content)
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


def _dumped(value: Any) -> bytes:
    try:
        return orjson.dumps(value)
    except TypeError:  # what orjson is stricter about, such as half of a character that another program wrote
        return json.dumps(value).encode()


def _loaded(content: bytes) -> Any:
    try:
        return orjson.loads(content)
    except ValueError:
        return json.loads(content)
