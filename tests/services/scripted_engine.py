"""The scripted engine with what the services need of one: provenance before the first token, and a way without a loop."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator
from contextlib import aclosing

from playground.errors import ModelNotLoaded
from playground.types import (
    GenerationEvent,
    GenerationRequest,
    GenerationSettings,
    ModelSpec,
    Provenance,
    RenderedPrompt,
    Status,
    Token,
)
from tests.api.fake_engine import FakeEngine, Step, end, text

GREEDY = GenerationSettings(strategy="greedy")
MADE = Provenance(
    base="starter",
    revision="",
    adapters=(),
    quantization="none",
    dtype="float32",
    device="cpu",
    template="chat",
    settings=GREEDY,
    seed=1,
    versions={"torch": "2"},
    base_hash="b",
    template_hash="t",
    exact=True,
)


def ask(prompt: str = "Hello", settings: GenerationSettings = GREEDY, **fields: object) -> GenerationRequest:
    """A request for the model "starter"."""
    given = {"spec": ModelSpec("starter"), "prompt": prompt, "settings": settings} | fields
    return GenerationRequest(**given)  # type: ignore[arg-type]


def made(provenance: Provenance = MADE, notice: str = "", index: int = 0) -> GenerationEvent:
    """What the engine says of an answer before its first token."""
    return GenerationEvent(Status("queued"), notice=notice, index=index, provenance=provenance)


class ScriptedEngine(FakeEngine):
    """A `FakeEngine` that tells ``provenance`` first and with each end; ``made`` counts the answers that got to a token."""

    def __init__(self, provenance: Provenance = MADE, notice: str = "") -> None:
        super().__init__(self._answer)
        self.provenance, self.notice = provenance, notice
        self.asked_for = GREEDY
        self.made = 0

    def _answer(self) -> Iterator[Step]:
        yield GenerationEvent(Status("loading", "reading weights"))
        yield made(self.provenance, self.notice)
        self.made += 1
        for index in range(self.asked_for.num_return_sequences):
            yield text(f"Answer {self.made}", 2, index, (Token(7, "Answer", -0.5, ((7, "Answer", -0.5),)),))
            yield dataclasses.replace(end("stop", ".", 3, index), provenance=self.provenance)

    async def astream(self, request: GenerationRequest):
        self.asked_for = request.settings
        async with aclosing(super().astream(request)) as events:
            async for event in events:
                yield event

    def stream(self, request: GenerationRequest) -> Iterator[GenerationEvent]:
        """The script without a loop; exceptions are raised, pauses left out."""
        self.asked_for = request.settings
        self.requests.append(request)
        self.running += 1
        try:
            for step in self.script():
                if isinstance(step, Exception):
                    raise step
                if isinstance(step, GenerationEvent):
                    yield step
        finally:
            self.running -= 1

    def render(self, request: GenerationRequest) -> RenderedPrompt:
        raise ModelNotLoaded("There is none.", "Load it.")

    def prompt_tokens(self, request: GenerationRequest, top: int, wanted: object = None) -> tuple[Token, ...]:
        """One token, so that it can be told who was asked."""
        self.requests.append(request)
        return (Token(top, "x", 0.0),)


def joined(events: Iterable[GenerationEvent]) -> str:
    """The text of all events."""
    return "".join(event.text for event in events)
