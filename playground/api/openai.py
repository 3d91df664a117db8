"""`/v1`: the part of OpenAI's API that a chat needs, over the same engine as the pages."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from playground.api import failures, wire
from playground.api.asker import asker
from playground.api.schemas import ChatCompletion, ChatCompletionRequest, ModelList, ServedModel
from playground.errors import ModelNotFound
from playground.local_inference.adapters import place
from playground.services.generation import Generation
from playground.services.models import Models
from playground.types import GenerationEvent, GenerationRequest, GenerationSettings, ModelSpec

CLIENT_GONE = 499
HOLD_BACK_S = 0.2
_STREAM_HEADERS = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
_CHAT_RESPONSES: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The answer: one object, or with `stream` server-sent events that end with `data: [DONE]`.",
        "content": {"text/event-stream": {"schema": {"type": "string"}}},
    },
    **failures.RESPONSES,
}

Events = AsyncGenerator[GenerationEvent, None]


class ServedModels:
    """The names of `/v1/models`: each base on offer or in memory, and ``base:adapter`` for each sound adapter."""

    def __init__(self, models: Models) -> None:
        self._models = models
        self._since = int(time.time())

    def list(self) -> ModelList:
        """Every model that a request may name."""
        states = self._states()
        served = [self._entry(name, base, adapter, states) for name, (base, adapter) in self._names().items()]
        return ModelList(object="list", data=served)

    def get(self, model_id: str) -> ServedModel:
        """One model of the list. Raises `ModelNotFound`."""
        base, adapter = self.resolve(model_id)
        return self._entry(model_id, base, adapter, self._states())

    def resolve(self, model_id: str) -> tuple[str, str | None]:
        """(base, adapter) that ``model_id`` names. Raises `ModelNotFound`: an unknown name is never the base.

        A broken adapter's name is known, so that asking for it says what is wrong with it.
        """
        names = self._names(broken=True)
        if model_id not in names:
            raise ModelNotFound(f"There is no model {model_id!r}.", f"Models: {', '.join(names)}.")
        return names[model_id]

    def _names(self, broken: bool = False) -> dict[str, tuple[str, str | None]]:
        names: dict[str, tuple[str, str | None]] = {}
        offered = self._models.offered()
        for model in offered:
            names[model.name] = (model.name, None)
            for adapter in model.adapters:
                if broken or not adapter.problems:
                    names[f"{model.name}:{adapter.name}"] = (model.name, adapter.name)
        for resident in self._models.loaded():
            if resident.base not in {model.path for model in offered}:
                names.setdefault(resident.base, (resident.base, None))
        return names

    def _states(self) -> dict[str, tuple[bool, str]]:
        """Name → (in memory, that it has no effect) of what is loaded; bases and ``base:adapter`` alike."""
        known: dict[str, tuple[bool, str]] = {}
        for resident in self._models.loaded():
            base = self._models.name(ModelSpec(resident.base))
            known[base] = (True, "")
            paths = {place(info.path): info.name for info in self._models.adapters(base)}
            for adapter in resident.adapters:
                name = paths.get(place(adapter.path), adapter.name)
                problem = "" if adapter.moves_logits else f"Adapter {name!r} has no effect: no answer changes with it."
                known[f"{base}:{name}"] = (True, problem)
        return known

    def _entry(self, name: str, base: str, adapter: str | None, states: Mapping[str, tuple[bool, str]]) -> ServedModel:
        loaded, no_effect = states.get(name, (False, ""))
        return ServedModel(
            id=name,
            object="model",
            created=self._since,
            owned_by="adapter-playground",
            parent=base if adapter else None,
            loaded=loaded,
            no_effect=bool(no_effect),
            problems=[no_effect] if no_effect else [],
        )


class Chat:
    """`POST /v1/chat/completions`."""

    def __init__(self, models: Models, served: ServedModels, generation: Generation) -> None:
        self._models = models
        self._served = served
        self._generation = generation

    async def create(self, body: ChatCompletionRequest, http: Request) -> Response:
        """Answer a conversation. The model is loaded first when it is not in memory.

        Fields left out come from the model's recommended settings, else from the app's defaults; `temperature` 0 is
        greedy. While nothing is written yet a stream carries comments (`: loading …`) at least every 250 ms. Leaving
        stops the answer.
        """
        request = await asyncio.to_thread(self._request, body, asker(http))
        reply = wire.Reply(
            id=f"chatcmpl-{uuid.uuid4().hex}",
            created=int(time.time()),
            model=body.model,
            logprobs=bool(body.logprobs),
            usage=body.wants_usage,
        )
        answers = wire.Answers(request.settings.num_return_sequences)
        events = self._generation.astream(request)
        if body.stream:
            return EventStream(_stream(reply, answers, await _settled(events)))
        return await _whole(reply, answers, events, http)

    def _request(self, body: ChatCompletionRequest, user: str) -> GenerationRequest:
        base, adapter = self._served.resolve(body.model)
        return GenerationRequest(
            spec=self._models.spec(base, adapter),
            messages=tuple(message.as_message() for message in body.messages),
            settings=body.settings(self._models.recommended(base) or GenerationSettings()),
            chat_template_kwargs=body.chat_template_kwargs or {},
            user=user,
        )


class EventStream(StreamingResponse):
    """Server-sent events; closes their source when the client has left, so that nothing goes on for nobody."""

    media_type = "text/event-stream"

    def __init__(self, content: AsyncGenerator[str, None]) -> None:
        super().__init__(content, headers=_STREAM_HEADERS)
        self._content = content

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with aclosing(self._content):
            await super().__call__(scope, receive, send)


def router(models: Models, generation: Generation) -> APIRouter:
    """The routes of `/v1`."""
    served = ServedModels(models)
    chat = Chat(models, served, generation)
    routes = APIRouter(prefix="/v1", tags=["OpenAI-compatible"], responses=failures.RESPONSES)
    routes.add_api_route("/models", served.list, summary="List models", response_model=ModelList)
    routes.add_api_route("/models/{model_id:path}", served.get, summary="One model", response_model=ServedModel)
    routes.add_api_route(
        "/chat/completions",
        chat.create,
        methods=["POST"],
        summary="Chat completion",
        response_model=ChatCompletion,
        responses=_CHAT_RESPONSES,
    )
    return routes


async def _settled(events: Events) -> Events:
    """``events``, once it is known that they begin well, or after a moment; what fails until then is raised here.

    So an over-long prompt or a full queue is an HTTP status even for a stream, and a slow load still shows signs of
    life.
    """
    first: list[GenerationEvent] = []
    started = time.monotonic()
    try:
        async for event in events:
            first.append(event)
            if event.status.phase not in ("queued", "loading") or time.monotonic() - started > HOLD_BACK_S:
                break
    except BaseException:
        await events.aclose()
        raise
    return _chained(first, events)


async def _chained(first: list[GenerationEvent], rest: Events) -> Events:
    async with aclosing(rest):
        for event in first:
            yield event
        async for event in rest:
            yield event


async def _stream(reply: wire.Reply, answers: wire.Answers, events: Events) -> AsyncGenerator[str, None]:
    """The whole reply as server-sent events; a failure is the last of them."""
    async with aclosing(events):
        try:
            for line in wire.opening(reply, answers.n):
                yield line
            async for event in events:
                answers.add(event)
                for line in wire.progress(reply, event, answers.notices):
                    yield line
            for line in wire.closing(reply, answers):
                yield line
        except Exception as error:  # the wire's edge: the status is sent already, so the error travels as an event
            yield wire.sse(failures.body_of(error))


async def _whole(reply: wire.Reply, answers: wire.Answers, events: Events, http: Request) -> Response:
    """The whole reply as one object, or nothing as soon as the client has left."""
    async with aclosing(events):
        async for event in events:
            answers.add(event)
            if await http.is_disconnected():
                return Response(status_code=CLIENT_GONE)
    return JSONResponse(wire.completion(reply, answers))
