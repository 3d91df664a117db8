"""`POST /load_model`: what `transformers chat` asks for first, and how far it is."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import Response
from pydantic import ConfigDict, Field

from playground.api import failures, wire
from playground.api.asker import caller_of
from playground.api.schemas.common import Strict
from playground.api.streaming import EventStream
from playground.local_inference.adapters import place
from playground.services.assembly import Services
from playground.types import ModelSpec, Status

_PERCENT = 100
_EXAMPLE = """data: {"status": "loading", "model": "starter", "stage": "weights", "progress": {"current": 40, "total": 100}}

data: {"status": "ready", "model": "starter", "cached": false}

"""
_RESPONSES: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "Server-sent events: `loading` with its progress, then `ready`, or `error` with the reason.",
        "content": {"text/event-stream": {"example": _EXAMPLE}},
    },
    # Without a model of their own, which would be said to come as events, too.
    **{
        status: {
            "description": response["description"],
            "content": {"application/json": {"schema": {"$ref": f"#/components/schemas/{response['model'].__name__}"}}},
        }
        for status, response in failures.RESPONSES.items()
    },
}


class LoadModelRequest(Strict):
    """The model to load."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"model": "starter:pirate"}]})

    model: str = Field(description="A name from `GET /v1/models`.")


class Warming:
    """`POST /load_model`."""

    def __init__(self, services: Services) -> None:
        self._models = services.models
        self._names = services.names
        self._limits = services.limits

    async def load(self, body: LoadModelRequest, http: Request) -> EventStream:
        """Load a model that is on offer, as the first question to it would, and say how far it is.

        This is the protocol of `transformers serve`, so that `transformers chat starter http://localhost:7860/v1` works.
        Loading goes on when the client leaves.
        """
        self._limits.admit(caller_of(http))
        spec = await asyncio.to_thread(self._names.spec, body.model)
        return EventStream(self._progress(body.model, spec))

    async def _progress(self, name: str, spec: ModelSpec) -> AsyncGenerator[str, None]:
        if self._is_loaded(spec):
            yield wire.sse({"status": "ready", "model": name, "cached": True})
            return
        try:
            async for status in self._models.load(spec):
                yield wire.sse({"status": "loading", "model": name, **_stage(status)})
            yield wire.sse({"status": "ready", "model": name, "cached": False})
        except Exception as error:  # the wire's edge: the status is sent already, so the error travels as an event
            said = failures.body_of(error)["error"]["message"]
            yield wire.sse({"status": "error", "model": name, "message": said})

    def _is_loaded(self, spec: ModelSpec) -> bool:
        wanted = {place(path) for path, _ in spec.adapters}
        return any(
            spec.base in (resident.base, resident.path) and wanted <= {place(a.path) for a in resident.adapters}
            for resident in self._models.loaded()
        )


def _stage(status: Status) -> dict[str, Any]:
    """The status as `transformers chat` draws it: a bar where there is a figure."""
    if status.fraction is None:
        return {"stage": "weights"}
    return {"stage": "weights", "progress": {"current": int(_PERCENT * status.fraction), "total": _PERCENT}}


def router(services: Services) -> APIRouter:
    """The route of `/load_model`."""
    routes = APIRouter(tags=["OpenAI-compatible"])
    routes.add_api_route(
        "/load_model",
        Warming(services).load,
        methods=["POST"],
        summary="Load a model (transformers chat)",
        response_class=Response,  # EventStream, which would be described as one text
        responses=_RESPONSES,
    )
    return routes
