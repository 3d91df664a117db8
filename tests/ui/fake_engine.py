"""An engine that answers from a script, for tests of the pages' own logic. The browser tests use the real one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import replace

from playground.errors import ContextOverflow, ModelNotFound, ModelNotLoaded
from playground.local_inference import LocalInference
from playground.types import (
    GenerationEvent,
    GenerationRequest,
    GenerationStats,
    LoadedAdapter,
    MemoryReport,
    ModelSpec,
    Provenance,
    RenderedPrompt,
    ResidentInfo,
    Status,
    Token,
)

WINDOW = 512


class FakeEngine(LocalInference):
    """Answers every prompt with ``answer``, a word at a time; a word is a token. ``running`` counts open streams,
    ``looks`` how often its memory was looked at; ``in_line`` are the places that a request has before it is answered.
    """

    def __init__(
        self, answer: str = "One two three.", pause: float = 0.0, noop: bool = False, in_line: tuple[int, ...] = ()
    ) -> None:
        self.answer = answer
        self.pause = pause
        self.noop = noop
        self.in_line = in_line
        self.running = 0
        self.looks = 0
        self.requests: list[GenerationRequest] = []
        self._residents: dict[str, ResidentInfo] = {}

    async def astream(self, request: GenerationRequest) -> AsyncIterator[GenerationEvent]:
        self.requests.append(request)
        self.running += 1
        try:
            if request.spec.base not in self._residents:
                yield GenerationEvent(Status("loading", "reading weights", 0.42))
                await asyncio.sleep(self.pause)
            self.load(request.spec)
            for ahead in self.in_line:
                yield GenerationEvent(Status("queued", f"{ahead} before this one" if ahead else "next in line"))
                await asyncio.sleep(self.pause)
            async for event in self._words(request):
                yield event
        finally:
            self.running -= 1

    async def _words(self, request: GenerationRequest) -> AsyncIterator[GenerationEvent]:
        if len(_asked(request).split()) > WINDOW:
            raise ContextOverflow("The prompt is too long.", "Shorten it.")
        stats, finish = GenerationStats(prompt_tokens=5), "stop"
        yield GenerationEvent(Status("queued"), stats=stats, provenance=_provenance(request))
        for number, word in enumerate(self.answer.split(" "), start=1):
            if number > request.settings.max_new_tokens:
                finish = "length"
                break
            stats = replace(stats, completion_tokens=number, first_token_s=0.1, elapsed_s=0.1 * number)
            text = word if number == 1 else f" {word}"
            yield GenerationEvent(Status("generating"), text, (Token(number, text, -0.1),), stats)
            await asyncio.sleep(self.pause)
        yield GenerationEvent(Status("done"), stats=stats, finish_reason=finish, provenance=_provenance(request))

    def load(self, spec: ModelSpec, report: Callable[[Status], None] | None = None) -> ResidentInfo:
        if "missing" in spec.base:
            raise ModelNotFound(f"There is no model {spec.base!r}.", "Check the name.")
        if report:
            report(Status("loading", "reading weights", 0.42))
        attached = tuple(
            LoadedAdapter(p.rsplit("/", 1)[-1], p, "0", 1000, False, not self.noop) for p, _ in spec.adapters
        )
        old = self._residents.get(spec.base) or _resident(spec.base)
        kept = tuple(adapter for adapter in old.adapters if adapter.path not in {new.path for new in attached})
        self._residents[spec.base] = replace(old, adapters=kept + attached)
        return self._residents[spec.base]

    def unload(self, base: str) -> int:
        if base not in self._residents:
            raise ModelNotLoaded(f"{base!r} is not loaded.", "Load it first.")
        return self._residents.pop(base).bytes

    def residents(self) -> tuple[ResidentInfo, ...]:
        return tuple(self._residents.values())

    def render(self, request: GenerationRequest) -> RenderedPrompt:
        said = [f"<{message.role}>{message.content}</{message.role}>" for message in request.messages]
        text = "".join(said) if request.template == "chat" else _asked(request)
        ids = tuple(range(len(text.split())))
        if len(ids) > WINDOW:
            raise ContextOverflow("The prompt is too long.", "Shorten it.")
        return RenderedPrompt(text, ids, WINDOW)

    def count_tokens(self, spec: ModelSpec, text: str) -> int:
        return len(text.split())

    def memory(self) -> MemoryReport:
        self.looks += 1
        return MemoryReport("cpu", 8_000_000_000, 6_000_000_000, 24_000_000, 1_000_000, 0, 900_000_000)

    def activity(self) -> tuple[int, int]:
        return self.running, 0

    def close(self) -> None:
        self._residents.clear()


def _asked(request: GenerationRequest) -> str:
    """The last message."""
    return request.messages[-1].content if request.messages else request.prompt or ""


def _resident(base: str) -> ResidentInfo:
    return ResidentInfo(base, base, "none", "float32", "cpu", 6_000_000, 24_000_000, WINDOW, 0.0, "small model")


def _provenance(request: GenerationRequest) -> Provenance:
    adapters = tuple((path.rsplit("/", 1)[-1], "0", scale) for path, scale in request.spec.adapters)
    seed = request.settings.seed if request.settings.seed is not None else 7
    return Provenance(
        request.spec.base.rsplit("/", 1)[-1], "", adapters, "none", "float32", "cpu", request.template,
        request.settings, seed, {"torch": "0"},
    )  # fmt: skip
