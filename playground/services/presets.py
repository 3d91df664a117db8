"""Presets for every surface: the built-in ones, and each person's own."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping

from playground.config import AppConfig
from playground.errors import InvalidRequest, NotFound
from playground.services.chat_limits import check_controls, one_line
from playground.store import Presets, records
from playground.types import Caller, GenerationSettings

LONGEST_NAME = 60
MOST_PRESETS = 100
MOST_TOGETHER = 20_000  # of all guests, of all keys and of all who signed in, where the server is shared
LARGEST = 10_000  # bytes of one, there
MODELS_OWN = "Model's own"  # what the pages call the settings that a model's makers recommend


class OwnPresets:
    """What a caller may choose from and has saved. Synchronous, and may wait for the disk.

    Raises `InvalidRequest` for a name that is empty, too long or a built-in preset's, `NotFound`, `HistoryUnavailable`.
    """

    def __init__(self, presets: Presets, config: AppConfig, owner: Callable[[Caller], str]) -> None:
        self._presets = presets
        self._config = config
        self._owner = owner
        self._saving = threading.Lock()  # so that nobody counts the presets while another adds one

    def own(self, caller: Caller) -> Mapping[str, GenerationSettings]:
        """Name → settings of those that the caller has saved."""
        return self._presets.all(self._owner(caller))

    def all(self, caller: Caller) -> Mapping[str, GenerationSettings]:
        """The built-in ones first, then the caller's own."""
        built_in = self._config.presets
        return {**built_in, **{name: its for name, its in self.own(caller).items() if name not in built_in}}

    def save(self, caller: Caller, name: str, settings: GenerationSettings) -> str:
        """Keep ``settings`` in the place of what had that name; returns the name as it is kept, on one line."""
        owner, kept = self._owner(caller), self._cleaned(name)
        with self._saving:
            known = self._presets.all(owner)
            if kept not in known and len(known) >= MOST_PRESETS:
                raise InvalidRequest(f"There are {MOST_PRESETS} presets already.", "Delete one, or save over one.")
            self._check_room(owner, int(kept not in known), settings)
            self._presets.save(owner, kept, settings)
        return kept

    def delete(self, caller: Caller, name: str) -> GenerationSettings:
        """Forget one of the caller's own; returns what it was."""
        return self._presets.delete(self._owner(caller), name)

    def first(self, caller: Caller) -> str:
        """The preset that the caller's pages begin with; "" for the app's own choice, also when that preset is gone."""
        name = self._presets.first(self._owner(caller))
        return name if self._is_there(caller, name) else ""

    def set_first(self, caller: Caller, name: str) -> None:
        """Begin with that preset from now on; "" for the app's own choice."""
        if name and not self._is_there(caller, name):
            raise NotFound(f"There is no preset {name[:LONGEST_NAME]!r}.", "Reload the page.")
        owner = self._owner(caller)
        with self._saving:
            if name != self._presets.first(owner):
                self._check_room(owner, 1)
                self._presets.set_first(owner, name)

    def _check_room(self, owner: str, more: int, settings: GenerationSettings | None = None) -> None:
        """Refuse what is too much where the server is shared: a new cookie is a new owner."""
        if not self._config.is_shared:
            return
        if settings and records.size(records.settings_document(settings)) > LARGEST:
            raise InvalidRequest(f"A preset may have {LARGEST:,} bytes.", "Shorten its system prompt.")
        if more and self._presets.count(owner.partition(" ")[0]) >= MOST_TOGETHER:
            raise InvalidRequest("There is no more room for presets on this server.", "Ask who runs it.")

    def _is_there(self, caller: Caller, name: str) -> bool:
        return name == MODELS_OWN or name in self.all(caller)

    def _cleaned(self, name: str) -> str:
        """``name`` as it is kept. Raises `InvalidRequest`."""
        kept = one_line("preset's name", name, LONGEST_NAME)
        if not kept:
            raise InvalidRequest("The preset has no name.", "Type one.")
        check_controls("preset's name", kept)
        if kept.casefold() in {name.casefold() for name in (MODELS_OWN, *self._config.presets)}:
            raise InvalidRequest(f"{kept} is a built-in preset.", "Save yours under another name.")
        return kept
