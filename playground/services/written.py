"""The answers of one exchange as they grow, and the turns that they become: a fold over its events."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from playground.conversation import Reply, Turn, new_id, split_reasoning
from playground.types import (
    FinishReason,
    GenerationEvent,
    GenerationRequest,
    GenerationStats,
    ModelSpec,
    Provenance,
    Status,
)

NOTHING_TO_ADD = "The model had nothing to add to its answer."
_CLOSES = "</think>"


@dataclass(frozen=True)
class Place:
    """Where answers go: after ``parent``, in a conversation. ``said`` is the user's turn that comes with them, if any.

    ``prefill`` is how they are made to begin, ``continues`` the answer whose text that is, if it is one. ``alone`` says that
    what was said before is not sent.
    """

    conversation_id: str
    parent: str
    prefill: str = ""
    alone: bool = False
    said: Turn | None = None
    continues: Turn | None = None


@dataclass
class _Answer:
    """One answer as it grows."""

    parts: list[str] = field(default_factory=list)
    token_ids: list[int] = field(default_factory=list)
    notices: list[str] = field(default_factory=list)
    stats: GenerationStats = field(default_factory=GenerationStats)
    finish_reason: FinishReason | None = None
    provenance: Provenance | None = None
    cached: bool = False
    thought_s: float | None = None
    _tail: str = ""

    def add(self, event: GenerationEvent) -> None:
        """Take in one event. A sign of life may repeat an answer that has ended."""
        self.provenance = event.provenance or self.provenance
        self.cached = self.cached or event.cached
        if event.notice and event.notice not in self.notices:
            self.notices.append(event.notice)
        if self.finish_reason is None:
            self.stats = event.stats
            self.finish_reason = event.finish_reason
        self.token_ids += [token.id for token in event.tokens]
        if event.text:
            self.parts.append(event.text)
            if self.thought_s is None and _CLOSES in self._tail + event.text:
                self.thought_s = self.written_s
            self._tail = (self._tail + event.text)[1 - len(_CLOSES) :]

    @property
    def text(self) -> str:
        return "".join(self.parts)

    @property
    def written_s(self) -> float:
        """Seconds since its first token."""
        first = self.stats.first_token_s
        return 0.0 if first is None else self.stats.elapsed_s - first


class Written:
    """The answers of one exchange as they grow, and the turns that they become."""

    def __init__(self, request: GenerationRequest, place: Place, named: ModelSpec) -> None:
        self._request, self._place, self._named = request, place, named
        self._all = [_Answer() for _ in range(request.settings.num_return_sequences)]
        self._prompt_hash = ""
        self.opened = ""

    @property
    def ended(self) -> bool:
        """Whether every answer has."""
        return all(answer.finish_reason for answer in self._all)

    def add(self, event: GenerationEvent) -> None:
        """Take in one event."""
        self._prompt_hash = self._prompt_hash or event.prompt_hash
        self.opened = self.opened or event.opened
        self._all[event.index].add(event)

    @property
    def begun(self) -> bool:
        """Whether there is any text yet."""
        return any(answer.text for answer in self._all)

    def cut_off(self, notice: str = "") -> tuple[GenerationEvent, ...]:
        """End what has not ended by itself; the events that say so, with ``notice``, which is kept as well."""
        events = []
        for index, answer in enumerate(self._all):
            if answer.finish_reason is None:
                answer.finish_reason = "cancelled"
                answer.notices += [notice] if notice else []
                events.append(
                    GenerationEvent(
                        Status("done"), stats=answer.stats, index=index, finish_reason="cancelled", notice=notice,
                        provenance=answer.provenance, cached=answer.cached,
                    )
                )  # fmt: skip
        return tuple(events)

    def last_word(self, event: GenerationEvent) -> GenerationEvent:
        """The last event; it says so where an answer was to be continued and was complete."""
        if not self.nothing_to_add:
            return event
        return replace(event, notice=" ".join(filter(None, (event.notice, NOTHING_TO_ADD))))

    @property
    def nothing_to_add(self) -> bool:
        """Whether an answer was to be continued that was complete."""
        if self._place.continues is None or self._kept():
            return False
        return all(answer.finish_reason in ("stop", "length") for answer in self._all)

    def turns(self, now: float) -> tuple[Turn, ...]:
        """What there is to store: the user's turn and the answers, or nothing."""
        answers = tuple(
            Turn(new_id(), self._place.parent, "assistant", self._content(answer), now, self._reply(index, answer))
            for index, answer in self._kept()
        )
        said = (self._place.said,) if self._place.said and answers else ()
        return (*said, *answers)

    def _kept(self) -> list[tuple[int, _Answer]]:
        """The answers that are worth it, with their index: what has text, and what a model has ended without any."""
        complete = ("stop", "length") if self._place.continues is None else ()
        return [(at, one) for at, one in enumerate(self._all) if one.text or one.finish_reason in complete]

    def _content(self, answer: _Answer) -> str:
        return self.opened + self._place.prefill + answer.text

    def _reply(self, index: int, answer: _Answer) -> Reply:
        return Reply(
            spec=self._named,
            finish_reason=answer.finish_reason or "cancelled",
            template=self._request.template,
            alone=self._place.alone,
            stats=answer.stats,
            notices=self._notices(answer),
            provenance=answer.provenance,
            prefill=self._place.prefill,
            token_ids=tuple(answer.token_ids),
            prompt_hash=self._prompt_hash,
            thought_s=self._thought_s(answer),
            cached=answer.cached,
            chat_template_kwargs=dict(self._request.chat_template_kwargs),
            index=index,
            opened=self.opened,
        )

    def _notices(self, answer: _Answer) -> tuple[str, ...]:
        """What was said of the answer, and with the first one of the prompt that they share."""
        first = self._all[0].notices
        return (*first, *(one for one in answer.notices if not any(one in other for other in first)))

    def _thought_s(self, answer: _Answer) -> float | None:
        """Seconds until its reasoning had ended, those of the answer that it continues included."""
        reasoning, _, closed = split_reasoning(self._content(answer))
        if reasoning is None:
            return None
        old = self._place.continues
        before = old.reply.thought_s if old and old.reply else None
        if _CLOSES in self._place.prefill:
            return before
        here = answer.thought_s if closed and answer.thought_s is not None else answer.written_s
        return (before or 0.0) + here
