"""The answers of one request as they grow: a fold over its events, for every surface that shows them whole."""

from __future__ import annotations

from dataclasses import dataclass, field

from playground.errors import ShuttingDown
from playground.types import FinishReason, GenerationEvent, GenerationStats, Provenance, Token


@dataclass
class Answer:
    """One answer as it grows; a fold over its events."""

    text: str = ""
    tokens: list[Token] = field(default_factory=list)
    stats: GenerationStats = field(default_factory=GenerationStats)
    finish_reason: FinishReason | None = None
    provenance: Provenance | None = None
    cached: bool = False

    def add(self, event: GenerationEvent) -> None:
        """Take in one event of this answer."""
        self.text += event.text
        self.tokens += event.tokens
        self.stats = event.stats
        self.finish_reason = event.finish_reason or self.finish_reason
        self.provenance = event.provenance or self.provenance
        self.cached = self.cached or event.cached


@dataclass
class Answers:
    """The ``n`` answers of one request, with what was said beside them."""

    n: int
    notices: list[str] = field(default_factory=list)
    all: list[Answer] = field(init=False)

    def __post_init__(self) -> None:
        self.all = [Answer() for _ in range(self.n)]

    def add(self, event: GenerationEvent) -> None:
        """Take in one event. Raises `ShuttingDown` when the engine gave the answer up."""
        if event.finish_reason == "cancelled":
            raise ShuttingDown("The answer was cut off because the server is stopping.", "Send the request again.")
        if event.notice and event.notice not in self.notices:
            self.notices.append(event.notice)
        self.all[event.index].add(event)

    def usage(self) -> dict[str, int]:
        """True token counts: the prompt's once, the answers' together."""
        prompt = max(answer.stats.prompt_tokens for answer in self.all)
        completion = sum(answer.stats.completion_tokens for answer in self.all)
        return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}
