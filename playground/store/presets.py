"""Settings that people have saved by name, and the one that each of them begins with."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from threading import RLock

from playground.errors import NotFound
from playground.store import records
from playground.store.documents import Documents
from playground.store.records import Document
from playground.types import GenerationSettings

_LOG = logging.getLogger(__name__)


class Presets:
    """Everybody's own presets; names are unique for each owner. Raises `HistoryUnavailable` when nothing can be written."""

    def __init__(self, presets: Documents, choices: Documents, lock: RLock) -> None:
        self._presets = presets
        self._choices = choices
        self._lock = lock
        self._kept: dict[str, dict[str, tuple[int, GenerationSettings | None]]] = {}
        for one in presets:
            if isinstance(owner := one.get("owner"), str) and isinstance(name := one.get("name"), str):
                self._kept.setdefault(owner, {})[name] = (one.doc_id, _settings(one))
        self._first = {str(one.get("owner")): (one.doc_id, str(one.get("name", ""))) for one in choices}

    def all(self, owner: str) -> Mapping[str, GenerationSettings]:
        """Name → settings, in the order of their names. One that this version cannot read is left out, and stays stored."""
        with self._lock:
            kept = sorted(self._kept.get(owner, {}).items(), key=lambda one: one[0])
        return {name: settings for name, (_, settings) in kept if settings is not None}

    def save(self, owner: str, name: str, settings: GenerationSettings) -> None:
        """Keep ``settings`` under ``name``, in the place of what had that name."""
        document = {"owner": owner, "name": name, "settings": records.settings_document(settings)}
        with self._lock:
            place, _ = self._kept.get(owner, {}).get(name, (None, None))
            [place] = self._presets.put([(place, document)])
            self._kept.setdefault(owner, {})[name] = (place, settings)

    def delete(self, owner: str, name: str) -> GenerationSettings:
        """Forget the preset; returns what it was. Raises `NotFound`."""
        with self._lock:
            place, settings = self._kept.get(owner, {}).get(name, (0, None))
            if settings is None:
                raise NotFound(f"There is no preset {name!r}.", "Reload the page.")
            self._presets.remove(doc_ids=[place])
            del self._kept[owner][name]
        return settings

    def count(self, kind: str) -> int:
        """How many presets and choices all owners of that kind have together; the kind is an owner's first word."""
        with self._lock:
            kept = sum(len(its) for owner, its in self._kept.items() if owner.partition(" ")[0] == kind)
            return kept + sum(owner.partition(" ")[0] == kind for owner in self._first)

    def first(self, owner: str) -> str:
        """The preset, built in or saved, that the owner's pages begin with; "" where none was chosen."""
        with self._lock:
            return self._first.get(owner, (0, ""))[1]

    def set_first(self, owner: str, name: str) -> None:
        """Begin with that preset from now on; "" for the app's own choice."""
        with self._lock:
            place, _ = self._first.get(owner, (None, ""))
            [place] = self._choices.put([(place, {"owner": owner, "name": name})])
            self._first[owner] = (place, name)


def _settings(document: Document) -> GenerationSettings | None:
    try:
        return records.settings(document.get("settings"))
    except ValueError as error:
        _LOG.warning("A stored preset cannot be read and is left out: %s", error)
        return None
