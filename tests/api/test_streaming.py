"""What is held back of a stream until it is known whether it begins well."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import replace

import pytest
from fastapi.testclient import TestClient

from playground.api import streaming
from playground.errors import ContextOverflow
from playground.types import GenerationEvent, Status
from tests.api.conftest import HELLO
from tests.api.fake_engine import LOADING, FakeEngine, Step, end, text
from tests.services.scripted_engine import MADE

QUEUED = GenerationEvent(Status("queued", "the prompt is being read"))
TOO_LONG = ContextOverflow("The prompt has 9,000 tokens.", "Shorten it.")


def played(*steps: Step) -> AsyncGenerator[GenerationEvent, None]:
    return FakeEngine(lambda: steps).astream(None)  # type: ignore[arg-type, return-value]


async def all_of(events: AsyncGenerator[GenerationEvent, None]) -> list[GenerationEvent]:
    return [event async for event in events]


def test_a_prompt_that_takes_long_to_read_is_still_refused_with_a_status(
    client: TestClient, fake: FakeEngine, monkeypatch
):
    """A4, G6: tokenising 9,000 tokens on a busy machine outlasts the patience with a load, and it is no stream for that."""
    monkeypatch.setattr(streaming, "HOLD_BACK_S", 0.01)
    fake.script = lambda: [QUEUED, 0.03, QUEUED, 0.03, QUEUED, TOO_LONG]
    response = client.post("/v1/chat/completions", json=HELLO | {"stream": True})
    assert response.status_code == 400
    assert response.json()["error"]["code"] == "context_length_exceeded"


def test_a_prompt_that_is_never_read_shows_signs_of_life_in_the_end(monkeypatch):
    """G5: the patience has an end, and what was held back is not lost."""
    monkeypatch.setattr(streaming, "HOLD_BACK_UNREAD_S", 0.02)
    steps = [QUEUED, 0.03, QUEUED, TOO_LONG]

    async def asked() -> None:
        held = await streaming.settled(played(*steps))
        assert [await anext(held), await anext(held)] == [QUEUED, QUEUED]
        with pytest.raises(ContextOverflow):
            await anext(held)

    asyncio.run(asked())


def test_a_load_is_shown_after_a_moment_and_a_rendered_prompt_at_once(monkeypatch):
    """G5: what comes with provenance has its prompt measured; nothing is left that could be refused."""
    monkeypatch.setattr(streaming, "HOLD_BACK_UNREAD_S", 60.0)
    queued = replace(QUEUED, provenance=MADE)

    async def asked(first: GenerationEvent, patience: float) -> list[GenerationEvent]:
        monkeypatch.setattr(streaming, "HOLD_BACK_S", patience)
        held = await streaming.settled(played(first, 0.005, first, 30.0))
        found = [await anext(held)]
        await held.aclose()
        return found

    assert asyncio.run(asyncio.wait_for(asked(queued, 60.0), 10)) == [queued]
    assert asyncio.run(asyncio.wait_for(asked(LOADING, 0.001), 10)) == [LOADING]


def test_what_was_held_back_comes_first_and_once():
    """G5: nothing is lost, doubled or put in another order."""
    steps = [QUEUED, LOADING, replace(QUEUED, provenance=MADE), text("Hello"), end("stop", " there")]

    async def asked() -> list[GenerationEvent]:
        return await all_of(await streaming.settled(played(*steps)))

    assert asyncio.run(asked()) == steps


def test_the_source_is_closed_when_it_fails_and_when_nobody_reads_on():
    """G2: a reader who leaves ends the answer, also when it was only held back."""
    engine = FakeEngine(lambda: [QUEUED, text("Hello"), 30.0])

    async def asked() -> None:
        held = await streaming.settled(engine.astream(None))  # type: ignore[arg-type]
        await anext(held)
        assert engine.running == 1
        await held.aclose()
        assert engine.running == 0
        engine.script = lambda: [QUEUED, TOO_LONG]
        with pytest.raises(ContextOverflow):
            await streaming.settled(engine.astream(None))  # type: ignore[arg-type]
        assert engine.running == 0

    asyncio.run(asked())
