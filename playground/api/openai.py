"""`/v1`: the part of OpenAI's API that a chat needs, over the same engine as the pages."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response

from playground.api import failures, wire
from playground.api.asker import caller_of
from playground.api.schemas.openai import ChatCompletion, ChatCompletionRequest, ModelList, ServedModel
from playground.api.streaming import Events, EventStream, finish, left, settled
from playground.local_inference.adapters import place
from playground.services.answers import Answers
from playground.services.assembly import Services
from playground.services.models import Models
from playground.services.names import Named, Names
from playground.types import GenerationRequest, GenerationSettings, ModelSpec

_CHAT_RESPONSES: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The answer: one object, or with `stream` server-sent events that end with `data: [DONE]`.",
        "content": {"text/event-stream": {"schema": {"type": "string"}}},
    },
    **failures.RESPONSES,
}


class ServedModels:
    """The names of `/v1/models`: each base on offer or in memory, and ``base:adapter`` for each sound adapter."""

    def __init__(self, models: Models, names: Names) -> None:
        self._models = models
        self._names = names
        self._since = int(time.time())

    def list(self) -> ModelList:
        """Every model that a request may name."""
        states = self._states()
        served = [self._entry(name, named, states) for name, named in self._names.all().items()]
        return ModelList(object="list", data=served)

    def get(self, model_id: str) -> ServedModel:
        """One model of the list. Raises `ModelNotFound`."""
        return self._entry(model_id, self._names.resolve(model_id), self._states())

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

    def _entry(self, name: str, named: Named, states: Mapping[str, tuple[bool, str]]) -> ServedModel:
        plain = f"{named.base}:{named.adapter}" if named.adapter else named.base
        loaded, no_effect = states.get(plain, (False, ""))
        return ServedModel(
            id=name,
            object="model",
            created=self._since,
            owned_by="adapter-playground",
            parent=named.base if named.adapter else None,
            loaded=loaded,
            no_effect=bool(no_effect),
            problems=[no_effect] if no_effect else [],
        )


class Chat:
    """`POST /v1/chat/completions`."""

    def __init__(self, services: Services) -> None:
        self._models = services.models
        self._names = services.names
        self._generation = services.generation
        self._limits = services.limits

    async def create(self, body: ChatCompletionRequest, http: Request) -> Response:
        """Answer a conversation. The model is loaded first when it is not in memory.

        Fields left out come from the model's recommended settings, else from the app's defaults; `temperature` 0 is
        greedy. While nothing is written yet a stream carries comments (`: loading …`) at least every 250 ms. Leaving
        stops the answer.
        """
        caller = caller_of(http)
        self._limits.admit(caller)
        request = await asyncio.to_thread(self._request, body, caller.id)
        reply = wire.Reply(
            id=f"chatcmpl-{uuid.uuid4().hex}",
            created=int(time.time()),
            model=body.model,
            logprobs=bool(body.logprobs),
            usage=body.wants_usage,
        )
        answers = Answers(request.settings.num_return_sequences)
        events = self._generation.astream(request)
        if body.stream:
            return EventStream(_stream(reply, answers, await settled(events)))
        return JSONResponse(wire.completion(reply, answers)) if await finish(answers, events, http) else left()

    def _request(self, body: ChatCompletionRequest, user: str) -> GenerationRequest:
        named = self._names.resolve(body.model)
        return GenerationRequest(
            spec=self._models.spec(named.base, named.adapter, named.scale),
            messages=tuple(message.as_message() for message in body.messages),
            settings=body.settings(self._models.recommended(named.base) or GenerationSettings()),
            chat_template_kwargs=body.chat_template_kwargs or {},
            user=user,
        )


def router(services: Services) -> APIRouter:
    """The routes of `/v1`."""
    served = ServedModels(services.models, services.names)
    chat = Chat(services)
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


async def _stream(reply: wire.Reply, answers: Answers, events: Events) -> AsyncGenerator[str, None]:
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
