"""An engine that plays a script instead of a model, and remembers what it was asked."""

from __future__ import annotations

import asyncio
import math
import re
from collections.abc import AsyncIterator, Callable, Iterable

from playground.types import (
    GenerationEvent,
    GenerationRequest,
    GenerationStats,
    MemoryReport,
    ModelSpec,
    RenderedPrompt,
    ResidentInfo,
    Status,
    Token,
)

Step = GenerationEvent | Exception | float
LOADING = GenerationEvent(Status("loading", "reading weights", 0.5))
GENERATING = Status("generating")


def text(piece: str, count: int = 1, index: int = 0, tokens: tuple[Token, ...] = ()) -> GenerationEvent:
    """New text, after ``count`` tokens in all. The prompt has five, three of which were known."""
    return GenerationEvent(GENERATING, piece, tokens, GenerationStats(5, count, 0.1, 0.05, 3), index=index)


def end(reason: str = "stop", piece: str = "", count: int = 2, index: int = 0) -> GenerationEvent:
    """The last event of one answer."""
    stats = GenerationStats(5, count, 0.2, 0.05, 3)
    return GenerationEvent(Status("done"), piece, (), stats, index=index, finish_reason=reason)  # type: ignore[arg-type]


def endless() -> Iterable[Step]:
    """An answer that never ends by itself: a token every 10 ms."""
    count = 0
    while True:
        count += 1
        yield text("word ", count)
        yield 0.01


class FakeEngine:
    """Plays ``script`` for every request: events are sent, exceptions raised, numbers are pauses in seconds."""

    def __init__(self, script: Callable[[], Iterable[Step]] = lambda: [text("Hello"), end("stop", " there")]) -> None:
        self.script = script
        self.requests: list[GenerationRequest] = []
        self.running = 0
        self.closed = False

    async def astream(self, request: GenerationRequest) -> AsyncIterator[GenerationEvent]:
        self.requests.append(request)
        self.running += 1
        try:
            for step in self.script():
                if isinstance(step, Exception):
                    raise step
                if isinstance(step, float):
                    await asyncio.sleep(step)
                else:
                    yield step
        finally:
            self.running -= 1

    def load(self, spec: ModelSpec, report: object = None) -> ResidentInfo:
        raise NotImplementedError

    def residents(self) -> tuple[ResidentInfo, ...]:
        return ()

    def prompt_tokens(self, request: GenerationRequest, top: int = 0, wanted: object = None) -> tuple[Token, ...]:
        """A token for each word or id; the first is not predicted, the others by as many alternatives as asked for."""
        words = re.findall(r"\s*\S+", request.prompt or "") or [f"<{token}>" for token in request.prompt_ids]
        others = tuple((100 + rank, f"other{rank}", -1.0 - rank) for rank in range(top))
        return tuple(Token(at, word, -at if at else math.nan, others if at else ()) for at, word in enumerate(words))

    def render(self, request: GenerationRequest) -> RenderedPrompt:
        text = "".join(f"<{token}>" for token in request.prompt_ids)
        return RenderedPrompt(text, request.prompt_ids, 1000)

    def activity(self) -> tuple[int, int]:
        return self.running, 0

    def memories(self) -> tuple[MemoryReport, ...]:
        return (MemoryReport("cpu", 1000, 400, 100, 10, 1, 200),)

    def close(self) -> None:
        self.closed = True
