"""`/v1/models` and `/v1/chat/completions`: OpenAI's, over the same engine as the pages."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Mapping

from fastapi import APIRouter, Request
from fastapi.responses import Response

from playground.api import failures, wire
from playground.api.asker import caller_of
from playground.api.schemas.openai import ChatCompletion, ChatCompletionRequest, ModelList, ServedModel
from playground.api.streaming import replied, streamed
from playground.local_inference.adapters import place
from playground.services.answers import Answers
from playground.services.assembly import Services
from playground.services.models import Models
from playground.services.names import Named, Names
from playground.types import GenerationRequest, GenerationSettings, ModelSpec

_EXAMPLE = """data: {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1700000000, "model": "starter", \
"choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}, "logprobs": null, "finish_reason": null}]}

data: {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1700000000, "model": "starter", \
"choices": [{"index": 0, "delta": {"content": "Paris."}, "logprobs": null, "finish_reason": null}]}

data: {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1700000000, "model": "starter", \
"choices": [{"index": 0, "delta": {}, "logprobs": null, "finish_reason": "stop"}]}

data: [DONE]

"""


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
                known_as = paths.get(place(adapter.path)) or self._models.known_name(base, adapter.path)
                name = known_as or adapter.name
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
        reply = wire.ChatReply(
            id=f"chatcmpl-{uuid.uuid4().hex}",
            created=int(time.time()),
            model=body.model,
            logprobs=bool(body.logprobs),
            usage=body.wants_usage,
        )
        answers = Answers(request.settings.num_return_sequences)
        return await replied(reply, answers, self._generation.astream(request), http, bool(body.stream))

    def _request(self, body: ChatCompletionRequest, user: str) -> GenerationRequest:
        named, spec = self._names.asked(body.model)
        messages, begun = body.turns()
        return GenerationRequest(
            spec=spec,
            messages=messages,
            settings=body.settings(self._models.recommended(named.base) or GenerationSettings()),
            prefill=begun,
            chat_template_kwargs=body.chat_template_kwargs or {},
            user=user,
        )


def router(services: Services) -> APIRouter:
    """The routes of `/v1`."""
    served = ServedModels(services.models, services.names)
    chat = Chat(services)
    routes = APIRouter(prefix="/v1", tags=["OpenAI-compatible"], responses=failures.OPENAI_RESPONSES)
    routes.add_api_route("/models", served.list, summary="List models", response_model=ModelList)
    routes.add_api_route("/models/{model_id:path}", served.get, summary="One model", response_model=ServedModel)
    routes.add_api_route(
        "/chat/completions",
        chat.create,
        methods=["POST"],
        summary="Chat completion",
        response_model=ChatCompletion,
        responses=streamed("The answer", _EXAMPLE),
    )
    return routes
