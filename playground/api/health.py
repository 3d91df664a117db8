"""`GET /health`: whether the server is well. Answers at once and loads nothing."""

from __future__ import annotations

import time

from fastapi import APIRouter

from playground import __version__
from playground.api.schemas.server import HealthReport
from playground.config import AppConfig
from playground.services.assembly import Services
from playground.services.generation import Generation
from playground.services.models import Models


class Health:
    """What the server says of itself."""

    def __init__(self, config: AppConfig, models: Models, generation: Generation) -> None:
        self._config = config
        self._models = models
        self._generation = generation
        self._started = time.monotonic()

    def report(self) -> HealthReport:
        """State, models, device and queue, now."""
        loaded = self._models.loaded()
        return HealthReport(
            status="healthy",
            models_loaded=len(loaded),
            available_models=list(self._config.models),
            version=__version__,
            device=loaded[0].device if loaded else self._config.device,
            uptime_seconds=round(time.monotonic() - self._started, 3),
            queue_depth=self._generation.activity()[1],
        )


def router(config: AppConfig, services: Services) -> APIRouter:
    """The health route."""
    routes = APIRouter(tags=["Server"])
    health = Health(config, services.models, services.generation)
    routes.add_api_route("/health", health.report, summary="Health", response_model=HealthReport)
    return routes
