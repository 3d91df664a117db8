"""Finished answers, kept for whoever asks the same of the same weights again: found by all that made them.

Only what comes out the same each time is kept: greedy answers, beam searches, and drawn ones whose request names a seed. The
key is the request and the provenance that the engine tells before the first token (the hashes of the base, its adapters and
the template, precision, device, versions), so an adapter that was trained again is another one; and the prompt's tokens, as
a template may tell the model what day it is.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import threading
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from playground.types import (
    FinishReason,
    GenerationEvent,
    GenerationRequest,
    GenerationStats,
    Provenance,
    Status,
    Token,
)

MOST_BYTES = 64 * 2**20
_GENERATING, _DONE = Status("generating", "kept from before"), Status("done", "kept from before")
# What Python takes for a token with its number, text and likelihood; for one alternative; and for an answer without any.
_TOKEN_BYTES, _ALTERNATIVE_BYTES, _ANSWER_BYTES = 250, 180, 4000


@dataclass(frozen=True)
class KeptAnswer:
    """One finished answer."""

    text: str
    tokens: tuple[Token, ...]
    notices: tuple[str, ...]
    finish_reason: FinishReason
    prompt_tokens: int
    completion_tokens: int
    provenance: Provenance | None
    end: Token | None = None

    @property
    def bytes(self) -> int:
        """About what it takes in memory."""
        alternatives = sum(len(token.top) for token in self.tokens)
        texts = 4 * (len(self.text) + sum(map(len, self.notices)))
        return _ANSWER_BYTES + texts + _TOKEN_BYTES * len(self.tokens) + _ALTERNATIVE_BYTES * alternatives

    def events(self, index: int, elapsed_s: float) -> Iterator[GenerationEvent]:
        """The answer as news: all at once, ``elapsed_s`` after it was asked for, with no speed made up for it."""
        stats = GenerationStats(self.prompt_tokens, self.completion_tokens, elapsed_s, elapsed_s)
        begun = dataclasses.replace(stats, completion_tokens=0, first_token_s=None)
        for notice in self.notices or ("",):
            yield GenerationEvent(_GENERATING, "", (), begun, notice, index, provenance=self.provenance, cached=True)
        yield GenerationEvent(_GENERATING, self.text, self.tokens, stats, index=index, cached=True)
        yield GenerationEvent(_DONE, "", (), stats, "", index, self.finish_reason, self.provenance, True, self.end)


class AnswerCache:
    """The last ``most`` requests' answers, up to ``most_bytes`` of memory; those used longest ago go first. 0 is off."""

    def __init__(self, most: int, most_bytes: int = MOST_BYTES) -> None:
        self._most, self._most_bytes = most, most_bytes
        self._lock = threading.Lock()
        self._kept: OrderedDict[str, tuple[KeptAnswer, ...]] = OrderedDict()
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._kept)

    def takes(self, request: GenerationRequest) -> bool:
        """Whether an answer to ``request`` can be kept: it comes out the same each time."""
        settings = request.settings
        beams = settings.strategy == "beam_search"
        return self._most > 0 and (settings.is_greedy or beams or settings.seed is not None)

    def get(self, key: str) -> tuple[KeptAnswer, ...] | None:
        """The answers kept under ``key``, in their order; None when there are none."""
        with self._lock:
            found = self._kept.get(key)
            if found is not None:
                self._kept.move_to_end(key)
            return found

    def put(self, key: str, answers: Iterable[KeptAnswer]) -> None:
        """Keep all answers of one request. What is too large for the whole cache is not kept."""
        kept = tuple(answers)
        size = _size(kept)
        if size > self._most_bytes:
            return
        with self._lock:
            self._bytes += size - _size(self._kept.pop(key, ()))
            self._kept[key] = kept
            while len(self._kept) > self._most or self._bytes > self._most_bytes:
                self._bytes -= _size(self._kept.popitem(last=False)[1])


@dataclass
class Recording:
    """A request's answers on their way into the cache; a fold over its events."""

    _parts: dict[int, list[GenerationEvent]] = field(default_factory=dict)
    _open: int = 0

    @classmethod
    def of(cls, request: GenerationRequest) -> Recording:
        """Nothing of ``request`` yet."""
        return cls(_open=request.settings.num_return_sequences)

    def add(self, event: GenerationEvent) -> None:
        """Take in one event; those that only say that time goes by are left out."""
        if event.text or event.tokens or event.notice or event.finish_reason:
            self._parts.setdefault(event.index, []).append(event)
            self._open -= event.finish_reason is not None

    def answers(self) -> tuple[KeptAnswer, ...]:
        """All of them in their order; () unless every one has ended by itself."""
        if self._open > 0 or any(parts[-1].finish_reason == "cancelled" for parts in self._parts.values()):
            return ()
        return tuple(_kept(parts) for _, parts in sorted(self._parts.items()))


def key_of(request: GenerationRequest, provenance: Provenance, prompt_hash: str = "") -> str:
    """What identifies the answers to ``request``: all that was asked, what the model reads of it, and all that answers.

    Not who asks, and not the seed that the engine has drawn, which matters to no answer that is kept.
    """
    values = [_plain(request, "user"), _plain(provenance, "seed"), prompt_hash]
    return hashlib.sha256(json.dumps(values, sort_keys=True, default=repr).encode()).hexdigest()


def _plain(value: GenerationRequest | Provenance, without: str) -> Mapping[str, object]:
    values = dataclasses.asdict(value)
    del values[without]
    return values


def _kept(parts: list[GenerationEvent]) -> KeptAnswer:
    last = parts[-1]
    assert last.finish_reason is not None
    return KeptAnswer(
        text="".join(part.text for part in parts),
        tokens=tuple(token for part in parts for token in part.tokens),
        notices=tuple(dict.fromkeys(part.notice for part in parts if part.notice)),
        finish_reason=last.finish_reason,
        prompt_tokens=last.stats.prompt_tokens,
        completion_tokens=last.stats.completion_tokens,
        provenance=last.provenance,
        end=last.end,
    )


def _size(answers: tuple[KeptAnswer, ...]) -> int:
    return sum(answer.bytes for answer in answers)
