"""What has been loaded by name: with which adapter it answers when a request names none, for what, and since when."""

from __future__ import annotations

from dataclasses import dataclass

from playground.services.models import Models
from playground.services.names import Names
from playground.types import ModelSpec


@dataclass(frozen=True)
class Entry:
    """A model in memory under the name that it was loaded by. ``spec`` is what answers where a request names no adapter."""

    model_id: str
    spec: ModelSpec
    use_case: str | None
    loaded_at: float


class Entries:
    """The models in memory with their default adapters. A default is read once, when a request is admitted."""

    def __init__(self, models: Models, names: Names) -> None:
        self._models = models
        self._names = names
