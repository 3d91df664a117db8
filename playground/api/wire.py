"""Events → OpenAI's JSON and server-sent events. Pure functions; knows nothing of HTTP or of the engine."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from playground.services.answers import Answers
from playground.types import FinishReason, GenerationEvent, Provenance, Token

DONE = "data: [DONE]\n\n"


@dataclass(frozen=True)
class Reply:
    """What all parts of one reply have in common."""

    id: str
    created: int
    model: str
    logprobs: bool = False
    usage: bool = False


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
