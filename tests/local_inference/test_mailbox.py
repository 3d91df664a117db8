"""G5: a slow reader loses nothing and holds nobody up."""

from __future__ import annotations

import pytest

from playground.errors import EngineFailure
from playground.local_inference.mailbox import Mailbox
from playground.types import GenerationEvent, GenerationSettings, GenerationStats, Provenance, Status, Token


def _event(text: str, count: int, index: int = 0, **more: object) -> GenerationEvent:
    token = Token(count, text, -0.5)
    stats = GenerationStats(3, count)
    return GenerationEvent(Status("generating"), text, (token,), stats, index=index, **more)  # type: ignore[arg-type]


def test_what_a_slow_reader_missed_arrives_joined() -> None:
    """G5."""
    calls: list[int] = []
    mailbox = Mailbox(1, lambda: calls.append(1))
    for count, text in enumerate(("a", "b", "c"), 1):
        mailbox.put(_event(text, count, notice="once" if count == 1 else ""))
    (event,) = mailbox.take()
    assert (event.text, len(event.tokens), event.stats.completion_tokens, event.notice) == ("abc", 3, 3, "once")
    assert calls == [1], "one wake-up for a whole unread batch"
    assert mailbox.take() == []


def test_answers_are_kept_apart() -> None:
    """G3: several answers of one request."""
    mailbox = Mailbox(2, lambda: None)
    for index, text in ((0, "a"), (1, "x"), (0, "b")):
        mailbox.put(_event(text, 1, index))
    assert {event.index: event.text for event in mailbox.take()} == {0: "ab", 1: "x"}
    mailbox.put(_event("", 2, 0, finish_reason="stop"))
    mailbox.take()
    assert not mailbox.finished
    mailbox.put(_event("", 2, 1, finish_reason="stop"))
    mailbox.take()
    assert mailbox.finished


def test_what_was_said_before_an_error_is_read_first() -> None:
    """G6."""
    mailbox = Mailbox(1, lambda: None)
    mailbox.put(_event("a", 1))
    mailbox.put(EngineFailure("Broken."))
    assert [event.text for event in mailbox.take()] == ["a"]
    with pytest.raises(EngineFailure, match="Broken"):
        mailbox.take()


def test_what_answers_is_known_before_the_answer_ends() -> None:
    """G10: provenance comes early, and is not lost to a slow reader."""
    made = Provenance("starter", "", (), "none", "float32", "cpu", "chat", GenerationSettings(), 7, {})
    mailbox = Mailbox(1, lambda: None)
    mailbox.put(GenerationEvent(Status("queued"), provenance=made, prompt_hash="p", opened="<think>"))
    mailbox.put(_event("a", 1))
    (event,) = mailbox.take()
    assert (event.text, event.provenance, event.finish_reason) == ("a", made, None)
    assert (event.prompt_hash, event.opened) == ("p", "<think>")


def test_the_end_is_told_once_every_answer_has_ended() -> None:
    """G5: who waits for the next frame need not wait it out."""
    ends: list[int] = []
    mailbox = Mailbox(2, lambda: None, lambda: ends.append(1))
    mailbox.put(_event("a", 1, 0, finish_reason="stop"))
    assert not ends
    mailbox.put(_event("x", 1, 1, finish_reason="stop"))
    assert ends == [1]
    failing = Mailbox(2, lambda: None, lambda: ends.append(2))
    failing.put(EngineFailure("Broken."))
    assert ends == [1, 2]
