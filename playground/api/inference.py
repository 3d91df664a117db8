"""`/api/inference`: models are loaded by name, answer with their default adapter, and are compared with their base."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Path, Query, Request
from fastapi.responses import JSONResponse, Response

from playground.api import failures, wire
from playground.api.asker import admin, caller_of
from playground.api.frames import Frames
from playground.api.reports import megabytes, moment, report
from playground.api.schemas.inference import (
    CompareBody,
    CompareReport,
    GenerateBody,
    GenerateReport,
    LoadBody,
    LoadedModel,
    LoadedModels,
    LoadReport,
    SwapBody,
    SwapReport,
    UnloadReport,
    said_of_adapter,
)
from playground.api.streaming import Events, EventStream, finish, left, settled
from playground.config import AppConfig
from playground.errors import InvalidRequest
from playground.services.answers import Answers
from playground.services.assembly import Services
from playground.services.entries import Entry
from playground.types import GenerationRequest, ModelSpec, ResidentInfo

ModelId = Annotated[
    str,
    Path(
        description="The model's id as it was loaded, percent-encoded; slashes may stand as they are.",
        examples=["starter"],
    ),
]
_FRAMES = (
    'data: {"type": "start", "model_id": "starter", "id": "1"}\n\n'
    'data: {"type": "token", "token": "Arr!", "index": 0, "id": "1"}\n\n'
    'data: {"type": "complete", "total_tokens": 4, "generation_time": 0.1, "finish_reason": "stop", "id": "1"}\n\n'
)
_GENERATED: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The answer: one object, or with `stream` server-sent events whose data are the frames of the "
        "WebSocket: `start`, `token` …, and `complete` or `error`.",
        "content": {"text/event-stream": {}},
    }
}
_WHOM = {"model_id": "$response.body#/model_id"}
_AFTER_LOAD: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "It is in memory, and answers.",
        "links": {
            "Generate": {
                "operationId": "inference_generate",
                "requestBody": {**_WHOM, "prompt": "What is the capital of France?", "max_tokens": 16},
                "description": "Ask the model that was loaded.",
            },
            "SwapAdapter": {"operationId": "inference_swap_adapter", "parameters": _WHOM},
            "Unload": {"operationId": "inference_unload", "parameters": _WHOM},
        },
    }
}


class Loading:
    """The routes that change what is in memory, and the one that tells it."""

    def __init__(self, config: AppConfig, services: Services) -> None:
        self._use_cases = config.use_cases
        self._entries = services.entries
        self._models = services.models

    async def load(self, body: LoadBody) -> LoadReport:
        """Bring a model into memory, and set the adapter with which it answers when a request names none.

        Loading what is there already is quick, and changes nothing for answers that are running. For who runs the server.
        """
        entry = await self._entries.load(
            body.model_id,
            adapter_path=said_of_adapter(body),
            quantization=body.quantization,
            dtype=body.dtype,
            device=body.device,
            use_case=body.use_case,
        )
        return LoadReport(
            model_id=body.model_id,
            status="loaded",
            example_prompts=list(self._use_cases[body.use_case].examples),
            loaded_at=moment(entry.loaded_at),
            memory_usage_mb=_in_memory(entry.resident),
            quantization=entry.resident.quantization,
            adapter=await asyncio.to_thread(adapter_of, self._models.adapter_name, entry.spec),
        )

    def loaded(self) -> LoadedModels:
        """What is in memory: each base, and the names with an adapter that it was loaded by."""
        return LoadedModels(models=[self._line(entry) for entry in self._entries.loaded()])

    async def unload(self, model_id: ModelId) -> UnloadReport:
        """Drop a model's base from memory, with every adapter on it. For who runs the server.

        404 for a model that does not exist, 409 for one that is not loaded, or is answering.
        """
        freed = await self._entries.unload(model_id)
        return UnloadReport(status="unloaded", model_id=model_id, freed_mb=megabytes(freed))

    async def swap(
        self,
        model_id: ModelId,
        body: SwapBody | None = None,
        adapter_path: Annotated[
            str | None, Query(description="In place of the body; empty is the base.", examples=["sql"])
        ] = None,
    ) -> SwapReport:
        """Let another adapter answer where a request names none; the base stays in memory. For who runs the server.

        The adapter is checked and attached first: where that fails, nothing has changed. Running answers keep theirs.
        """
        wanted = _wanted(body, adapter_path)
        await self._entries.swap(model_id, wanted)
        return SwapReport(status="swapped", model_id=model_id, adapter_path=wanted, swapped_at=moment())

    def _line(self, entry: Entry) -> LoadedModel:
        name = self._models.adapter_name
        resident = entry.resident
        default = [name(entry.spec.base, path) for path, _ in entry.spec.adapters]
        others = [name(entry.spec.base, adapter.path) for adapter in resident.adapters]
        return LoadedModel(
            model_id=entry.model_id,
            status="loaded",
            loaded_at=moment(entry.loaded_at),
            use_case=entry.use_case,  # type: ignore[arg-type]  # only from LoadBody, or None
            adapters=list(dict.fromkeys([*default, *others])),
            quantization=resident.quantization,
            memory_usage_mb=_in_memory(resident),
        )


class Answering:
    """The routes that generate."""

    def __init__(self, services: Services) -> None:
        self._entries = services.entries
        self._models = services.models
        self._generation = services.generation
        self._limits = services.limits

    async def generate(self, body: GenerateBody, http: Request) -> Response:
        """Answer a prompt or a conversation with a model that is loaded (409 when it is not).

        Without `adapter_path` the model's default adapter answers, with null the base. Leaving stops the answer.
        """
        caller = caller_of(http)
        self._limits.admit(caller)
        request = await asyncio.to_thread(body.as_request, self._entries, caller.id)
        answers, events = Answers(1), self._generation.astream(request)
        if body.stream:
            return EventStream(_stream(Frames(body.model_id, _name(http)), answers, await settled(events)))
        if not await finish(answers, events, http):
            return left()
        told = report(answers.all[0], answers.notices)
        beside = {"model_id": body.model_id, "timestamp": moment()}
        return JSONResponse({"prompt": body.shown_prompt, "response": told.pop("response"), **beside, **told})

    async def compare(self, body: CompareBody, http: Request) -> Response:
        """Answer one prompt with several models at the same time; those on one base share a batch.

        `base_model_id` is answered by the untouched base. All draw with the same seed, unless a source names its own. Every
        model must be loaded (409), and every source is checked before anything is generated.
        """
        caller = caller_of(http)
        self._limits.admit(caller)
        asked = await asyncio.to_thread(body.as_requests, self._entries, caller.id)
        for spec in dict.fromkeys(request.spec for _, request in asked):
            await self._models.loaded_as(spec)  # its adapter is attached: from here on all can begin together
        answers = await self._all([request for _, request in asked], http)
        if answers is None:
            return left()
        outputs = [
            {"model_id": name, "adapter": adapter, **report(one.all[0], one.notices)}
            for (name, _), one, adapter in zip(
                asked, answers, await asyncio.to_thread(self._adapters, asked), strict=True
            )
        ]
        two = body.sources is None
        return JSONResponse(
            {
                "prompt": body.prompt,
                "fine_tuned_output": outputs[0]["response"] if two else None,
                "base_model_output": outputs[1]["response"] if two else None,
                "fine_tuned_model_id": body.fine_tuned_model_id,
                "base_model_id": body.base_model_id,
                "timestamp": moment(),
                "outputs": outputs,
            }
        )

    def _adapters(self, asked: Sequence[tuple[str, GenerationRequest]]) -> list[str | None]:
        return [adapter_of(self._models.adapter_name, request.spec) for _, request in asked]

    async def _all(self, requests: Sequence[GenerationRequest], http: Request) -> list[Answers] | None:
        """The answers to all, generated together; None when the client has left. One that fails ends the others."""
        answers = [Answers(1) for _ in requests]
        reading = [
            asyncio.create_task(finish(answer, self._generation.astream(request), http))
            for answer, request in zip(answers, requests, strict=True)
        ]
        try:
            return answers if all(await asyncio.gather(*reading)) else None
        finally:
            for task in reading:
                task.cancel()
            await asyncio.gather(*reading, return_exceptions=True)


def router(config: AppConfig, services: Services) -> APIRouter:
    """The routes of `/api/inference`."""
    loading, answering = Loading(config, services), Answering(services)
    routes = APIRouter(prefix="/api/inference", tags=["Inference"], responses=failures.RESPONSES)
    may = [Depends(admin)]
    post = ["POST"]
    routes.add_api_route(
        "/load", loading.load, methods=post, dependencies=may, summary="Load a model", response_model=LoadReport,
        operation_id="inference_load", responses=_AFTER_LOAD,
    )  # fmt: skip
    routes.add_api_route(
        "/generate", answering.generate, methods=post, summary="Generate", response_model=GenerateReport,
        operation_id="inference_generate", responses=_GENERATED,
    )  # fmt: skip
    routes.add_api_route(
        "/compare", answering.compare, methods=post, summary="Compare a fine-tune with its base",
        response_model=CompareReport, operation_id="inference_compare", response_description="What each of them says.",
    )  # fmt: skip
    routes.add_api_route(
        "/models/loaded", loading.loaded, summary="List what is loaded", response_model=LoadedModels,
        operation_id="inference_loaded", response_description="What is in memory.",
    )  # fmt: skip
    routes.add_api_route(
        "/models/{model_id:path}/unload", loading.unload, methods=post, dependencies=may, summary="Unload a model",
        response_model=UnloadReport, operation_id="inference_unload", response_description="It is no longer in memory.",
    )  # fmt: skip
    routes.add_api_route(
        "/models/{model_id:path}/swap-adapter", loading.swap, methods=post, dependencies=may,
        summary="Swap the adapter", response_model=SwapReport, operation_id="inference_swap_adapter",
        response_description="It answers from now on.",
    )  # fmt: skip
    return routes


def adapter_of(name: Any, spec: ModelSpec) -> str | None:
    """The adapter of ``spec`` for people, with its strength where that is not as trained; None for the base."""
    if not spec.adapters:
        return None
    path, scale = spec.adapters[0]
    return f"{name(spec.base, path)}@{scale:g}" if scale != 1 else str(name(spec.base, path))


def _wanted(body: SwapBody | None, query: str | None) -> str | None:
    """The adapter that body or query name. Raises `InvalidRequest` for none, and for two."""
    in_body = body is not None and "adapter_path" in body.model_fields_set
    if not in_body and query is None:
        raise InvalidRequest("No adapter_path was sent.", "Name an adapter in the body, or send null for the base.")
    named = (body.adapter_path if body else None) if in_body else (query or None)
    if in_body and query is not None and (query or None) != named:
        raise InvalidRequest("adapter_path differs in the body and in the query.", "Send one of them.")
    return named


def _in_memory(resident: ResidentInfo) -> float:
    return megabytes(resident.bytes + sum(adapter.bytes for adapter in resident.adapters))


def _name(http: Request) -> str:
    """What the frames of an answer are told apart by: the request's id, where the gate gives one."""
    return str(http.scope.get("state", {}).get("request_id") or uuid.uuid4().hex)


async def _stream(frames: Frames, answers: Answers, events: Events) -> AsyncGenerator[str, None]:
    """The frames as server-sent events, with comments while nothing is written; a failure is the last of them."""
    async with aclosing(events):
        try:
            yield wire.sse(frames.start())
            async for event in events:
                answers.add(event)
                written = [wire.sse(frame) for frame in frames.progress(event)]
                for line in written or [wire.comment(f"{event.status.phase} {event.status.detail}")]:
                    yield line
            yield wire.sse(frames.complete(answers))
        except Exception as error:  # the wire's edge: the status is sent already, so the error travels as a frame
            yield wire.sse(frames.error(error))
