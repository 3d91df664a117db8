"""`POST /v1/completions`: the model goes on with a text, or says how likely it finds one."""

from __future__ import annotations

import asyncio
import threading
import time
import uuid
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import replace
from functools import partial

from fastapi import APIRouter, Request
from fastapi.responses import Response

from playground.api import wire
from playground.api.asker import caller_of
from playground.api.failures import OPENAI_RESPONSES
from playground.api.schemas.openai import Completion, CompletionRequest
from playground.api.streaming import Events, awaited, replied, streamed, together
from playground.config import AppConfig
from playground.errors import ContextOverflow
from playground.services.answers import Answers
from playground.services.assembly import Services
from playground.types import GenerationEvent, GenerationRequest, GenerationSettings, GenerationStats, Status, Token

# Prompts of one request that are in the engine at the same time; the others come after them. Where a caller may have only so
# much running, half of that, so that there is room for something else beside it.
AT_ONCE = 16
_READING = Status("queued", "reading the prompt")
_EXAMPLE = """data: {"id": "cmpl-1", "object": "text_completion", "created": 1700000000, "model": "starter", \
"choices": [{"index": 0, "text": " Paris", "logprobs": null, "finish_reason": null}]}

data: {"id": "cmpl-1", "object": "text_completion", "created": 1700000000, "model": "starter", \
"choices": [{"index": 0, "text": ".", "logprobs": null, "finish_reason": "stop"}]}

data: [DONE]

"""


class Completions:
    """`POST /v1/completions`."""

    def __init__(self, config: AppConfig, services: Services) -> None:
        self._at_once = min(AT_ONCE, max(1, config.at_once // 2) if config.at_once else AT_ONCE)
        self._models = services.models
        self._names = services.names
        self._generation = services.generation
        self._limits = services.limits

    async def create(self, body: CompletionRequest, http: Request) -> Response:
        """Go on with a text, or with token ids, as they are. The model is loaded first when it is not in memory.

        With `echo`, `logprobs` and `max_tokens` 0 or 1 it says how likely it finds each token of a given text, which is
        what evaluation programs ask for. Special tokens before a text are those that the model's own tokenizer adds.
        While nothing is written yet a stream carries comments at least every 250 ms. Leaving stops the answer.
        """
        caller = caller_of(http)
        self._limits.admit(caller)
        requests = await asyncio.to_thread(self._requests, body, caller.id)
        n = requests[0].settings.num_return_sequences
        reply = wire.TextReply(
            id=f"cmpl-{uuid.uuid4().hex}",
            created=int(time.time()),
            model=body.model,
            logprobs=body.logprobs is not None,
            usage=body.wants_usage,
            n=n,
        )
        events = together([partial(self._continued, body, request) for request in requests], n, self._at_once)
        return await replied(reply, Answers(n * len(requests)), events, http, bool(body.stream))

    def _requests(self, body: CompletionRequest, user: str) -> list[GenerationRequest]:
        named, spec = self._names.asked(body.model)
        settings = body.settings(self._models.recommended(named.base) or GenerationSettings())
        prompts = [(p, ()) if isinstance(p, str) else (None, tuple(p)) for p in body.prompt]
        return [
            GenerationRequest(spec, text, settings=settings, template="raw", prompt_ids=ids, user=user)
            for text, ids in prompts
        ]

    async def _continued(self, body: CompletionRequest, request: GenerationRequest) -> Events:
        """The events of one prompt; where it is echoed, its text and tokens come first."""
        read: list[tuple[str, tuple[Token, ...]]] = []
        if body.echo and body.logprobs is None and body.writes and request.prompt:
            read.append((request.prompt, ()))  # nothing that the client has not written itself
        elif body.echo:
            gone = threading.Event()
            work = partial(self._echo, request, body.logprobs, lambda: not gone.is_set())
            try:
                async with aclosing(awaited(work, _READING, read)) as waiting:
                    async for event in waiting:
                        yield event
            finally:
                gone.set()
        for text, tokens in read:
            stats = GenerationStats(prompt_tokens=len(tokens))
            for index in range(request.settings.num_return_sequences):
                yield GenerationEvent(Status("prefilling"), text, tokens, stats, index=index)
                if not body.writes:
                    yield GenerationEvent(Status("done"), stats=stats, index=index, finish_reason="length")
        if body.writes:
            async with aclosing(self._written(request)) as written:
                async for event in written:
                    yield event

    async def _written(self, request: GenerationRequest) -> Events:
        """The events of the engine; a token that ended the answer is one of its tokens here, as evaluations count on."""
        async with aclosing(self._generation.astream(request)) as events:
            async for event in events:
                yield replace(event, tokens=(*event.tokens, event.end)) if event.end else event

    def _echo(
        self, request: GenerationRequest, logprobs: int | None, wanted: Callable[[], bool]
    ) -> tuple[str, tuple[Token, ...]]:
        """The prompt's text, and its tokens with so many alternatives; blocks, as long as it is ``wanted``."""
        tokens = self._generation.prompt_tokens(request, logprobs or 0, wanted)
        if request.prompt is not None:
            return request.prompt, tokens
        try:
            return self._generation.render(request).text, tokens
        except ContextOverflow:  # it fills the window, which leaves no room for an answer, but is fine for reading
            return "".join(token.text for token in tokens), tokens


def router(config: AppConfig, services: Services) -> APIRouter:
    """The route of `/v1/completions`."""
    routes = APIRouter(prefix="/v1", tags=["OpenAI-compatible"], responses=OPENAI_RESPONSES)
    routes.add_api_route(
        "/completions",
        Completions(config, services).create,
        methods=["POST"],
        summary="Text completion",
        response_model=Completion,
        responses=streamed("The texts", _EXAMPLE),
    )
    return routes
