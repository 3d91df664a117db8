"""What lasts: conversations and presets of everybody, and folders pointed at, in one TinyDB file that survives being killed.

`Store.open` is the file of a data folder, `Store.in_memory` the same without one. Everything here is synchronous, safe to
call from many threads, and on the disk itself when it returns.
"""

from __future__ import annotations

import gc
import logging
import threading
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from filelock import FileLock, Timeout
from tinydb.storages import MemoryStorage, Storage

from playground.errors import HistoryUnavailable
from playground.store import migrations
from playground.store.conversations import Conversations
from playground.store.documents import Documents
from playground.store.folders import Folders
from playground.store.garbage import uncollected
from playground.store.journal import Journal
from playground.store.presets import Presets

LARGE = 2_000_000  # bytes of history from which on the garbage collector shall not look at it: that took up to a second
_LOG = logging.getLogger(__name__)

__all__ = ["Conversations", "Folders", "Presets", "Store"]


class Store:
    """One history and what is in it. ``notices`` are sentences about what was found when it was opened."""

    def __init__(self, storage: Storage, release: Callable[[], None] = lambda: None) -> None:
        """The history in ``storage``; ``release`` is called when it is closed.

        Raises `HistoryUnavailable` when a newer version wrote it, or it cannot be written.
        """
        if isinstance(storage, Journal):
            storage.settle()
        migrations.migrate(storage)
        self._storage = storage
        self._release = release
        self._lock = threading.RLock()
        self.conversations = Conversations(Documents(storage, "conversations"), self._lock, self._forget)
        self.presets = Presets(Documents(storage, "presets"), Documents(storage, "first_presets"), self._lock)
        self.folders = Folders(Documents(storage, "folders"), self._lock)
        self.notices = (*getattr(storage, "notices", ()), *_left_out(self.conversations.unreadable))
        for notice in self.notices:
            _LOG.warning("%s", notice)

    @classmethod
    def open(cls, folder: Path) -> Store:
        """The history in ``folder``, which is made where it is not there.

        Raises `HistoryUnavailable` when another process has it, a newer version wrote it, or it cannot be written. What
        cannot be read is set aside under another name, and told in ``notices``.
        """
        with ExitStack() as given_up, uncollected():
            lock = _claimed(folder)
            given_up.callback(lock.release)
            journal = Journal(folder / "history.json")
            given_up.callback(journal.close)
            migrations.check(journal.read())  # before anything there is touched
            store = cls(journal, lock.release)
            given_up.pop_all()
        if journal.size > LARGE:
            gc.freeze()  # what is loaded and unloaded later, models above all, is looked for as ever
        return store

    @classmethod
    def in_memory(cls) -> Store:
        """A store that is forgotten with the process."""
        return cls(MemoryStorage())  # type: ignore[no-untyped-call]

    @property
    def path(self) -> Path | None:
        """The TinyDB file; None in memory."""
        return self._storage.path if isinstance(self._storage, Journal) else None

    def close(self) -> None:
        """Fold everything into the file and let another process have it; calling it again does nothing."""
        with self._lock:
            self._storage.close()
            self._release()

    def _forget(self) -> None:
        if isinstance(self._storage, Journal):
            self._storage.forget_deleted()


def _claimed(folder: Path) -> FileLock:
    """The folder, made and kept from other processes until the lock is released or this process ends, however."""
    lock = FileLock(folder / "history.lock", timeout=0, mode=0o600, thread_local=False)
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock.acquire()
    except Timeout:
        raise HistoryUnavailable(
            f"The history in {folder} is in use by another process of this app.",
            "Stop that one, or start this one with a --data-dir of its own.",
        ) from None
    except OSError as error:
        raise HistoryUnavailable(
            f"The history cannot be kept in {folder}: {error.strerror or error}.",
            "Let the app write there, or name another folder with --data-dir.",
        ) from error
    return lock


def _left_out(unreadable: int) -> tuple[str, ...]:
    if not unreadable:
        return ()
    return (
        f"{unreadable} stored conversations cannot be read by this version and are not shown; they stay in the file.",
    )
