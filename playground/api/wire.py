"""Events → OpenAI's JSON and server-sent events. Pure functions; knows nothing of HTTP or of the engine."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from playground.errors import EngineFailure
from playground.types import FinishReason, GenerationEvent, GenerationStats, Provenance, Token

DONE = "data: [DONE]\n\n"


@dataclass(frozen=True)
class Reply:
    """What all parts of one reply have in common."""

    id: str
    created: int
    model: str
    logprobs: bool = False
    usage: bool = False


@dataclass
class Answer:
    """One answer as it grows; a fold over its events."""

    text: str = ""
    tokens: list[Token] = field(default_factory=list)
    stats: GenerationStats = field(default_factory=GenerationStats)
    finish_reason: FinishReason | None = None
    provenance: Provenance | None = None

    def add(self, event: GenerationEvent) -> None:
        """Take in one event of this answer."""
        self.text += event.text
        self.tokens += event.tokens
        self.stats = event.stats
        self.finish_reason = event.finish_reason or self.finish_reason
        self.provenance = event.provenance or self.provenance


@dataclass
class Answers:
    """The ``n`` answers of one request, with what was said beside them."""

    n: int
    notices: list[str] = field(default_factory=list)
    all: list[Answer] = field(init=False)

    def __post_init__(self) -> None:
        self.all = [Answer() for _ in range(self.n)]

    def add(self, event: GenerationEvent) -> None:
        """Take in one event. Raises `EngineFailure` when the engine gave the answer up."""
        if event.finish_reason == "cancelled":
            raise EngineFailure("The answer was cut off because the server is stopping.", "Send the request again.")
        if event.notice and event.notice not in self.notices:
            self.notices.append(event.notice)
        self.all[event.index].add(event)

    def usage(self) -> dict[str, int]:
        """True token counts: the prompt's once, the answers' together."""
        prompt = max(answer.stats.prompt_tokens for answer in self.all)
        completion = sum(answer.stats.completion_tokens for answer in self.all)
        return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}


def completion(reply: Reply, answers: Answers) -> dict[str, Any]:
    """The whole reply as one `chat.completion` object."""
    choices = [
        {
            "index": index,
            "message": {"role": "assistant", "content": answer.text},
            "logprobs": logprobs(answer.tokens) if reply.logprobs else None,
            "finish_reason": answer.finish_reason,
        }
        for index, answer in enumerate(answers.all)
    ]
    whole = {
        "id": reply.id,
        "object": "chat.completion",
        "created": reply.created,
        "model": reply.model,
        "choices": choices,
        "usage": answers.usage(),
    }
    return {**whole, **_beside(answers.notices, answers.all[0].provenance)}


def opening(reply: Reply, n: int) -> Iterator[str]:
    """The first chunk of each answer, which names the role."""
    for index in range(n):
        yield _chunk(reply, index, {"role": "assistant", "content": ""})


def progress(reply: Reply, event: GenerationEvent, notices: Sequence[str] = ()) -> Iterator[str]:
    """One event as server-sent events: chunks for text and the end, else a comment that keeps the line alive.

    The chunk that ends an answer carries the ``notices`` so far, which clients do not see in comments, and the provenance.
    """
    if event.notice:
        yield comment(event.notice)
    if event.text or (reply.logprobs and event.tokens):
        yield _chunk(reply, event.index, {"content": event.text}, event.tokens)
    if event.finish_reason:
        beside = _beside(notices, event.provenance)
        yield _chunk(reply, event.index, {}, finish_reason=event.finish_reason, beside=beside)
    elif not event.text:
        yield comment(f"{event.status.phase} {event.status.detail}".strip())


def closing(reply: Reply, answers: Answers) -> Iterator[str]:
    """The usage chunk, where it was asked for, and the end mark."""
    if reply.usage:
        yield sse({**_frame(reply), "choices": [], "usage": answers.usage()})
    yield DONE


def sse(data: dict[str, Any]) -> str:
    """One server-sent event."""
    return f"data: {json.dumps(data, ensure_ascii=False)}\n\n"


def comment(text: str) -> str:
    """A server-sent comment, which clients skip."""
    return f": {' '.join(text.split())}\n\n"


def logprobs(tokens: list[Token] | tuple[Token, ...]) -> dict[str, Any]:
    """Log-probabilities as OpenAI's chat API shows them."""
    return {
        "content": [
            {
                **_token(token.text, token.logprob),
                "top_logprobs": [_token(text, logprob) for _, text, logprob in token.top],
            }
            for token in tokens
        ],
        "refusal": None,
    }


def _token(text: str, logprob: float) -> dict[str, Any]:
    whole = "\ufffd" not in text
    return {"token": text, "logprob": logprob, "bytes": list(text.encode()) if whole else None}


def _frame(reply: Reply) -> dict[str, Any]:
    return {"id": reply.id, "object": "chat.completion.chunk", "created": reply.created, "model": reply.model}


def _chunk(
    reply: Reply,
    index: int,
    delta: dict[str, str],
    tokens: tuple[Token, ...] = (),
    finish_reason: FinishReason | None = None,
    beside: Mapping[str, Any] = {},
) -> str:
    choice = {
        "index": index,
        "delta": delta,
        "logprobs": logprobs(tokens) if reply.logprobs and tokens else None,
        "finish_reason": finish_reason,
    }
    usage = {"usage": None} if reply.usage else {}
    return sse({**_frame(reply), "choices": [choice], **usage, **beside})


def _beside(notices: Sequence[str], provenance: Provenance | None) -> dict[str, Any]:
    """What a reply has beyond OpenAI's; left out where there is nothing to say."""
    found: dict[str, Any] = {"notices": list(notices)} if notices else {}
    return {**found, "provenance": dataclasses.asdict(provenance)} if provenance else found
