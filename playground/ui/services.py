"""What the pages ask of the rest of the program, in one place: each service is made from the ones before it."""

from __future__ import annotations

from dataclasses import dataclass

from playground.config import AppConfig
from playground.services.exports import Exports
from playground.services.generation import Generation
from playground.services.models import Models
from playground.services.replay import Replay
from playground.services.uploads import Uploads


@dataclass(frozen=True)
class Services:
    """The services behind the pages."""

    models: Models
    generation: Generation
    replay: Replay
    exports: Exports
    uploads: Uploads

    @classmethod
    def over(cls, models: Models, generation: Generation, config: AppConfig) -> Services:
        """All of them over these two."""
        return cls(models, generation, Replay(generation, models), Exports(models, config), Uploads(config))
