"""Folders that somebody has pointed at, to look for training runs in."""

from __future__ import annotations

from collections.abc import Sequence
from threading import RLock

from playground.store.documents import Documents


class Folders:
    """Absolute paths, in the order in which they came. Raises `HistoryUnavailable` when nothing can be written."""

    def __init__(self, folders: Documents, lock: RLock) -> None:
        self._folders = folders
        self._lock = lock
        self._kept = {path: one.doc_id for one in folders if isinstance(path := one.get("path"), str)}

    def all(self) -> Sequence[str]:
        """The folders."""
        with self._lock:
            return tuple(self._kept)

    def add(self, path: str) -> None:
        """Keep ``path``, once."""
        with self._lock:
            if path not in self._kept:
                [self._kept[path]] = self._folders.put([(None, {"path": path})])

    def remove(self, path: str) -> bool:
        """Forget ``path``; False where it was not kept."""
        with self._lock:
            place = self._kept.get(path)
            if place is None:
                return False
            self._folders.remove(doc_ids=[place])
            del self._kept[path]
            return True
