"""`/models`, `/strategies` and `/generate`: plain text in, plain text out, with a choice of decoding strategies."""

from __future__ import annotations

import asyncio
import dataclasses
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response

from playground.api import failures
from playground.api.asker import caller_of
from playground.api.schemas.classic import (
    FIELDS,
    KINDS,
    AvailableModel,
    GeneratedText,
    GenerateTextBody,
    Strategies,
    StrategyLine,
)
from playground.api.streaming import finish, left
from playground.local_inference.adapters import place
from playground.local_inference.strategies import STRATEGY_TABLE
from playground.services.answers import Answers
from playground.services.assembly import Services
from playground.services.models import Models
from playground.types import GenerationRequest, GenerationSettings, ModelSpec, Provenance


class Classic:
    """The plain text routes."""

    def __init__(self, services: Services) -> None:
        self._models = services.models
        self._names = services.names
        self._generation = services.generation
        self._limits = services.limits

    def models(self) -> list[AvailableModel]:
        """Every model that `/generate` takes: the bases on offer or in memory, and `base:adapter` for each adapter."""
        known = {model.name: model.description for model in self._models.offered()}
        there = in_memory(self._models)
        return [
            AvailableModel(
                name=name,
                description=f"Adapter {named.adapter} on {named.base}." if named.adapter else known.get(name, ""),
                loaded=(named.base, named.adapter) in there,
            )
            for name, named in self._names.all().items()
        ]

    def strategies(self) -> Strategies:
        """The decoding strategies, and which fields of `/generate` each of them reads."""
        return Strategies(
            strategies=[
                StrategyLine(
                    name=info.name,
                    description=info.description,
                    deterministic=info.deterministic,
                    uses_temperature=info.uses_temperature,
                    parameters=[FIELDS[name] for name in FIELDS if name in info.parameters],
                )
                for info in STRATEGY_TABLE.values()
            ]
        )

    async def generate(self, body: GenerateTextBody, http: Request) -> Response:
        """Continue a text. The model is loaded first when it is not in memory; leaving stops the answer.

        `parameters` of the answer tells what was really used: settings that the strategy does not read are left out.
        """
        caller = caller_of(http)
        self._limits.admit(caller)
        request = await asyncio.to_thread(self._request, body, caller.id)
        answers = Answers(request.settings.num_return_sequences)
        if not await finish(answers, self._generation.astream(request), http):
            return left()
        return JSONResponse(_whole(body, request.settings, answers))

    def _request(self, body: GenerateTextBody, user: str) -> GenerationRequest:
        asked = GenerationRequest(
            ModelSpec("?"), prompt=body.prompt, settings=body.settings(), template="raw", user=user
        )  # the prompt and the settings are looked at before the model
        return dataclasses.replace(asked, spec=self._names.spec(body.model))


def router(services: Services) -> APIRouter:
    """The plain text routes."""
    classic = Classic(services)
    routes = APIRouter(tags=["Plain text"], responses=failures.RESPONSES)
    routes.add_api_route(
        "/models", classic.models, summary="List models", response_model=list[AvailableModel],
        operation_id="classic_models", response_description="The models.",
    )  # fmt: skip
    routes.add_api_route(
        "/strategies", classic.strategies, summary="List decoding strategies", response_model=Strategies,
        operation_id="classic_strategies", response_description="The strategies.",
    )  # fmt: skip
    routes.add_api_route(
        "/generate", classic.generate, methods=["POST"], summary="Continue a text", response_model=GeneratedText,
        operation_id="classic_generate", response_description="The text.",
    )  # fmt: skip
    return routes


def in_memory(models: Models) -> set[tuple[str, str | None]]:
    """(base, adapter) of all that is in memory, by the names on offer; (base, None) for each base."""
    found: set[tuple[str, str | None]] = set()
    for resident in models.loaded():
        base = models.name(ModelSpec(resident.base))
        names = {place(info.path): info.name for info in models.adapters(base)}
        found.add((base, None))
        found |= {(base, names[place(one.path)]) for one in resident.adapters if place(one.path) in names}
    return found


def used(settings: GenerationSettings, made: Provenance | None) -> dict[str, Any]:
    """What `/generate` says of the settings: those that counted, with the seed that was drawn."""
    strategy = "greedy" if settings.is_greedy else settings.strategy
    told: dict[str, Any] = {"type": KINDS[strategy]}
    for name, field in FIELDS.items():
        if name in STRATEGY_TABLE[strategy].parameters:
            told[field] = made.seed if name == "seed" and made else getattr(settings, name)
    return told


def _whole(body: GenerateTextBody, settings: GenerationSettings, answers: Answers) -> dict[str, Any]:
    texts = [body.prompt + answer.text for answer in answers.all]
    made = answers.all[0].provenance
    whole = {
        "generated_text": texts[0],
        "completion": answers.all[0].text,
        "generated_texts": texts,
        "prompt": body.prompt,
        "model": body.model,
        "strategy": body.strategy,
        "parameters": used(settings, made),
        "provenance": dataclasses.asdict(made) if made else None,
    }
    beside = {"cached": True} if any(answer.cached for answer in answers.all) else {}
    return whole | beside | ({"notices": answers.notices} if answers.notices else {})
