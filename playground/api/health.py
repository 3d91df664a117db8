"""`GET /health`: whether the server is well; `GET /ready`: whether it takes requests. Both answer at once and load nothing.

They run on the event loop, so that they need no thread while all are busy, and look at nothing but memory.
"""

from __future__ import annotations

import time

from fastapi import APIRouter, Request, Response

from playground import __version__
from playground.api.asker import caller_of
from playground.api.failures import RESPONSES, RETRY_AFTER_S
from playground.api.schemas.server import HealthReport, ReadyReport
from playground.config import AppConfig
from playground.services.assembly import Services


class Health:
    """What the server says of itself."""

    def __init__(self, config: AppConfig, services: Services) -> None:
        self._config = config
        self._models = services.models
        self._generation = services.generation
        self._preload = services.preload
        self._started = time.monotonic()

    async def report(self, http: Request) -> HealthReport:
        """State, models, device and queue, now."""
        if self._config.needs_key and caller_of(http).kind in ("guest", "address"):
            return HealthReport(status="healthy")
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

    async def ready(self, response: Response) -> ReadyReport:
        """Ready, or 503 while the first model is preloaded and while the server is stopping."""
        reason = self._not_ready()
        if not reason:
            return ReadyReport(status="ready", reason="")
        response.status_code = 503
        response.headers["Retry-After"] = str(RETRY_AFTER_S)
        return ReadyReport(status="not_ready", reason=reason)

    def _not_ready(self) -> str:
        if self._generation.draining:
            return "The server is stopping."
        return "The first model is being loaded." if self._preload.pending else ""


def router(config: AppConfig, services: Services) -> APIRouter:
    """The two routes."""
    routes = APIRouter(tags=["Server"], responses=RESPONSES)
    health = Health(config, services)
    routes.add_api_route(
        "/health", health.report, summary="Health", response_model=HealthReport, response_model_exclude_none=True
    )
    routes.add_api_route(
        "/ready",
        health.ready,
        summary="Whether requests are taken",
        response_model=ReadyReport,
        responses={503: {"model": ReadyReport, "description": "Not now; `reason` says why."}},
    )
    return routes
