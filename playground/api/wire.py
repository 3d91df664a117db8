"""Events → OpenAI's JSON and server-sent events. Knows nothing of HTTP or of the engine.

A `ChatReply` speaks as `/v1/chat/completions`, a `TextReply` as `/v1/completions`; both fold the same events.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from playground.services.answers import Answer, Answers, usage_of
from playground.types import FinishReason, GenerationEvent, Provenance, Token

DONE = "data: [DONE]\n\n"
# OpenAI's number for a token that is as good as impossible: JSON has no minus infinity.
LEAST_LOGPROB = -9999.0
# How far behind the token before a token of the prompt is looked for: special tokens are not in its text.
_GAP = 8
_encode = json.JSONEncoder(ensure_ascii=False).encode  # json.dumps would make an encoder for each event


@dataclass(frozen=True)
class Reply(ABC):
    """What all parts of one reply have in common. ``usage`` says that a stream shall end with the token counts."""

    WHOLE: ClassVar[str]
    PART: ClassVar[str]

    id: str
    created: int
    model: str
    logprobs: bool = False
    usage: bool = False

    @abstractmethod
    def opening(self, n: int) -> Iterator[str]:
        """What a stream of ``n`` answers begins with."""

    @abstractmethod
    def progress(self, event: GenerationEvent, notices: Sequence[str] = ()) -> Iterator[str]:
        """One event as server-sent events: chunks for text and the end, else a comment that keeps the line alive.

        The chunk that ends an answer carries the ``notices`` so far, which clients do not see in comments, and the
        provenance.
        """

    @abstractmethod
    def choice(self, index: int, answer: Answer) -> dict[str, Any]:
        """One finished answer as it stands in the whole reply."""

    def counted(self, answers: Answers) -> dict[str, Any]:
        """The token counts."""
        return answers.usage()

    def whole(self, answers: Answers) -> dict[str, Any]:
        """The whole reply as one object."""
        cached = all(answer.cached for answer in answers.all)
        return {
            **self._frame(self.WHOLE),
            "choices": [self.choice(index, answer) for index, answer in enumerate(answers.all)],
            "usage": self.counted(answers),
            **_beside(answers.notices, answers.all[0].provenance, cached),
        }

    def closing(self, answers: Answers) -> Iterator[str]:
        """The usage chunk, where it was asked for, and the end mark."""
        if self.usage:
            yield sse({**self._frame(self.PART), "choices": [], "usage": self.counted(answers)})
        yield DONE

    def _chunk(self, choice: Mapping[str, Any], beside: Mapping[str, Any] = {}) -> str:
        usage = {"usage": None} if self.usage else {}
        return sse({**self._frame(self.PART), "choices": [choice], **usage, **beside})

    def _frame(self, kind: str) -> dict[str, Any]:
        return {"id": self.id, "object": kind, "created": self.created, "model": self.model}


class ChatReply(Reply):
    """A chat completion."""

    WHOLE, PART = "chat.completion", "chat.completion.chunk"

    def opening(self, n: int) -> Iterator[str]:
        """The first chunk of each answer, which names the role."""
        for index in range(n):
            yield self._part(index, {"role": "assistant", "content": ""})

    def progress(self, event: GenerationEvent, notices: Sequence[str] = ()) -> Iterator[str]:
        """See `Reply.progress`; text and the finish reason travel in chunks of their own."""
        if event.notice:
            yield comment(event.notice)
        if event.text or (self.logprobs and event.tokens):
            yield self._part(event.index, {"content": event.text}, event.tokens)
        if event.finish_reason:
            beside = _beside(notices, event.provenance, event.cached)
            yield self._part(event.index, {}, finish_reason=event.finish_reason, beside=beside)
        elif not event.text:
            yield _sign_of_life(event)

    def choice(self, index: int, answer: Answer) -> dict[str, Any]:
        """See `Reply.choice`."""
        return {
            "index": index,
            "message": {"role": "assistant", "content": answer.text},
            "logprobs": logprobs(answer.tokens) if self.logprobs else None,
            "finish_reason": answer.finish_reason,
        }

    def _part(
        self,
        index: int,
        delta: dict[str, str],
        tokens: tuple[Token, ...] = (),
        finish_reason: FinishReason | None = None,
        beside: Mapping[str, Any] = {},
    ) -> str:
        choice = {
            "index": index,
            "delta": delta,
            "logprobs": logprobs(tokens) if self.logprobs and tokens else None,
            "finish_reason": finish_reason,
        }
        return self._chunk(choice, beside)


@dataclass(frozen=True)
class TextReply(Reply):
    """A text completion of several prompts, with ``n`` answers for each; the first prompt's answers come first.

    An echoed prompt is the beginning of its answers' text and tokens.
    """

    WHOLE, PART = "text_completion", "text_completion"

    n: int = 1
    _written: dict[int, int] = field(default_factory=dict, repr=False, compare=False)

    def opening(self, n: int) -> Iterator[str]:
        """Nothing: a text has no role."""
        return iter(())

    def progress(self, event: GenerationEvent, notices: Sequence[str] = ()) -> Iterator[str]:
        """See `Reply.progress`; one chunk for an event."""
        if event.notice:
            yield comment(event.notice)
        if event.text or event.finish_reason or (self.logprobs and event.tokens):
            beside = _beside(notices, event.provenance, event.cached) if event.finish_reason else {}
            found = self._found(event) if self.logprobs and event.tokens else None
            yield self._chunk(_text_choice(event.index, event.text, found, event.finish_reason), beside)
        else:
            yield _sign_of_life(event)

    def choice(self, index: int, answer: Answer) -> dict[str, Any]:
        """See `Reply.choice`."""
        echoed = len(answer.tokens) - answer.stats.completion_tokens
        found = (
            text_logprobs(answer.tokens, text_offsets(answer.tokens, echoed, answer.text)) if self.logprobs else None
        )
        return _text_choice(index, answer.text, found, answer.finish_reason)

    def counted(self, answers: Answers) -> dict[str, Any]:
        """Each prompt's tokens once, and those of all answers."""
        stats = [answer.stats for answer in answers.all]
        return usage_of([stats[at : at + self.n] for at in range(0, len(stats), self.n)])

    def _found(self, event: GenerationEvent) -> dict[str, Any]:
        """The log-probabilities of the event's tokens, which stand behind what was written before."""
        at = self._written.get(event.index, 0)
        echoed = len(event.tokens) if event.stats.completion_tokens == 0 else 0
        written = len(event.text) if echoed else sum(len(token.text) for token in event.tokens)
        self._written[event.index] = at + written
        return text_logprobs(event.tokens, text_offsets(event.tokens, echoed, event.text, at))


def _text_choice(index: int, text: str, found: dict[str, Any] | None, reason: FinishReason | None) -> dict[str, Any]:
    return {"index": index, "text": text, "logprobs": found, "finish_reason": reason}


def sse(data: dict[str, Any]) -> str:
    """One server-sent event."""
    return f"data: {_encode(data)}\n\n"


def comment(text: str) -> str:
    """A server-sent comment, which clients skip."""
    return f": {' '.join(text.split())}\n\n"


def logprobs(tokens: Sequence[Token]) -> dict[str, Any]:
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


def text_logprobs(tokens: Sequence[Token], offsets: Sequence[int]) -> dict[str, Any]:
    """Log-probabilities as OpenAI's completions API shows them: four lists, null where there is nothing to predict from."""
    return {
        "tokens": [token.text for token in tokens],
        "token_logprobs": [None if math.isnan(token.logprob) else _finite(token.logprob) for token in tokens],
        "top_logprobs": [None if math.isnan(token.logprob) else _alternatives(token) for token in tokens],
        "text_offset": list(offsets),
    }


def text_offsets(tokens: Sequence[Token], echoed: int, text: str, start: int = 0) -> list[int]:
    """Where in ``text``, which itself begins at ``start``, each token does: an echoed one where it is found.

    Those of the answer follow each other. They are not looked for, as a stream's text may come after its tokens.
    """
    offsets, at = [], start
    for number, token in enumerate(tokens):
        length = len(token.text)
        if number < echoed:
            found = text.find(token.text, at - start, at - start + length + _GAP)
            at, length = (start + found, length) if found >= 0 else (at, 0)
        offsets.append(at)
        at += length
    return offsets


def _alternatives(token: Token) -> dict[str, float]:
    """The likeliest tokens and the token itself. Of two that read alike, which parts of characters do, the likelier."""
    found: dict[str, float] = {}
    for _, text, logprob in (*token.top, (token.id, token.text, token.logprob)):
        found[text] = max(_finite(logprob), found.get(text, LEAST_LOGPROB))
    return found


def _token(text: str, logprob: float) -> dict[str, Any]:
    whole = "\ufffd" not in text
    return {"token": text, "logprob": _finite(logprob), "bytes": list(text.encode()) if whole else None}


def _finite(logprob: float) -> float:
    return logprob if logprob > LEAST_LOGPROB else LEAST_LOGPROB


def _sign_of_life(event: GenerationEvent) -> str:
    return comment(f"{event.status.phase} {event.status.detail}".strip())


def _beside(notices: Sequence[str], provenance: Provenance | None, cached: bool) -> dict[str, Any]:
    """What a reply has beyond OpenAI's; left out where there is nothing to say."""
    found: dict[str, Any] = {"notices": list(notices)} if notices else {}
    found |= {"cached": True} if cached else {}
    if provenance is None:
        return found
    return {"system_fingerprint": _fingerprint(provenance), **found, "provenance": dataclasses.asdict(provenance)}


def _fingerprint(made: Provenance) -> str:
    """OpenAI's ``system_fingerprint``: where it and the seed are the same, the answer is meant to be."""
    system = (made.base_hash, made.adapters, made.quantization, made.dtype, made.device, sorted(made.versions.items()))
    return f"fp_{hashlib.sha256(repr(system).encode()).hexdigest()[:12]}"
