"""The answers of one request as they grow: a fold over its events, for every surface that shows them whole."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

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

    def usage(self) -> dict[str, Any]:
        """`usage_of` the one prompt."""
        return usage_of([[answer.stats for answer in self.all]])


def prompt_of(answers: Sequence[GenerationStats]) -> tuple[int, int]:
    """(tokens, reused tokens) of the prompt of these answers: reused is what none of them had to read anew."""
    return max(one.prompt_tokens for one in answers), min(one.reused_tokens for one in answers)


def usage_of(prompts: Sequence[Sequence[GenerationStats]]) -> dict[str, Any]:
    """True token counts as OpenAI tells them: ``prompts`` has the stats of each one's answers. A prompt counts once."""
    read = [prompt_of(answers) for answers in prompts]
    prompt = sum(tokens for tokens, _ in read)
    completion = sum(one.completion_tokens for answers in prompts for one in answers)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {"cached_tokens": sum(reused for _, reused in read)},
    }
