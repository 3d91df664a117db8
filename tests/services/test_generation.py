"""The one door to the engine: who is let in, what ends at the deadline, what is kept, what is counted."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from concurrent.futures import CancelledError
from contextlib import aclosing
from dataclasses import replace

import pytest
from prometheus_client import CollectorRegistry

from playground.config import AppConfig, ModelEntry, load_config
from playground.errors import ContentRefused, DeadlineExceeded, EngineFailure, RateLimited, ShuttingDown
from playground.services.generation import Generation
from playground.services.manifests import Manifest
from playground.services.meters import Meters
from playground.services.models import Models
from playground.services.replay import Replay, ReplayResult
from playground.types import GenerationEvent, GenerationRequest, GenerationSettings, Token
from tests.api.fake_engine import endless, text
from tests.services.scripted_engine import MADE, ScriptedEngine, ask, joined, made

SEEDED = GenerationSettings(seed=5)
LIMIT_S = 20  # which only a hang reaches


def generation(engine: ScriptedEngine, **fields: object) -> Generation:
    config = AppConfig(models={"starter": ModelEntry("starter", "starter")}, **fields)  # type: ignore[arg-type]
    return Generation(engine, config, Meters(config.models))  # type: ignore[arg-type]


def counted(door: Generation, name: str, **labels: str) -> float:
    registry: CollectorRegistry = door._meters.registry
    return registry.get_sample_value(f"playground_{name}", labels) or 0.0


async def read(door: Generation, request: GenerationRequest, **how: bool) -> list[GenerationEvent]:
    async with asyncio.timeout(LIMIT_S):
        return [event async for event in door.astream(request, **how)]


def in_loop(door: Generation, request: GenerationRequest, **how: bool) -> list[GenerationEvent]:
    return asyncio.run(read(door, request, **how))


def in_thread(door: Generation, request: GenerationRequest, **how: bool) -> list[GenerationEvent]:
    return list(door.stream(request, **how))


both = pytest.mark.parametrize("answer", [in_loop, in_thread])
Answering = Callable[..., list[GenerationEvent]]


@both
def test_what_the_engine_says_comes_through(answer: Answering) -> None:
    """G5: every event as it was, in its order."""
    events = answer(generation(ScriptedEngine()), ask())
    assert [event.status.phase for event in events] == ["loading", "queued", "generating", "done"]
    assert (joined(events), events[-1].finish_reason, events[-1].cached) == ("Answer 1.", "stop", False)


def test_leaving_closes_the_engine_at_once_and_counts_as_a_cancellation() -> None:
    """A7, G6: closing the iterator is the stop, and what was written until then is counted."""
    engine = ScriptedEngine()
    engine.script = endless
    door = generation(engine)

    async def leave() -> int:
        async with aclosing(door.astream(ask())) as events:
            async for event in events:
                if event.stats.completion_tokens == 3:
                    break
        return engine.running

    assert asyncio.run(leave()) == 0
    assert counted(door, "cancellations_total") == 1
    assert counted(door, "answers_total", model="starter", finish_reason="cancelled") == 1
    assert counted(door, "completion_tokens_total", model="starter") == 3
    assert door.drain(0) == 0


def test_a_reader_that_is_cancelled_stops_it_too() -> None:
    """A7: the task of a dropped connection."""
    engine = ScriptedEngine()
    engine.script = lambda: [text("word"), 60.0]
    door = generation(engine)

    async def drop() -> None:
        task = asyncio.create_task(read(door, ask()))
        await asyncio.wait({task}, timeout=0.01)
        assert engine.running == 1
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(drop())
    assert (engine.running, counted(door, "cancellations_total")) == (0, 1)


def test_leaving_after_the_end_is_no_cancellation() -> None:
    """A6: a reader need not wait for the iterator to run dry."""
    door = generation(ScriptedEngine())

    async def leave() -> None:
        async with aclosing(door.astream(ask())) as events:
            async for event in events:
                if event.finish_reason:
                    break

    asyncio.run(leave())
    assert counted(door, "cancellations_total") == 0
    assert counted(door, "answers_total", model="starter", finish_reason="stop") == 1


@both
def test_a_failure_is_counted_by_its_code_and_passed_on(answer: Answering) -> None:
    """A6, G6: errors by code; a bug is internal_error; neither is a cancellation, and both cost tokens."""
    engine = ScriptedEngine()
    door = generation(engine)
    for error in (EngineFailure("Broken."), RuntimeError("bug")):
        engine.script = lambda error=error: [text("He", 2), error]  # type: ignore[misc]
        with pytest.raises(type(error)):
            answer(door, ask())
    assert counted(door, "errors_total", code="engine_failure") == 1
    assert counted(door, "errors_total", code="internal_error") == 1
    assert counted(door, "cancellations_total") == 0
    assert counted(door, "completion_tokens_total", model="starter") == 4
    assert (engine.running, door.drain(0)) == (0, 0)


@both
def test_the_deadline_ends_an_answer(answer: Answering) -> None:
    """A6: DeadlineExceeded with a remedy, and the engine works no longer for it."""
    engine = ScriptedEngine()
    engine.script = endless
    door = generation(engine, deadline=0.05)
    with pytest.raises(DeadlineExceeded, match=r"within 0\.05 seconds.*fewer tokens"):
        answer(door, ask())
    assert engine.running == 0
    assert counted(door, "errors_total", code="deadline_exceeded") == 1


def test_one_caller_has_so_many_running_and_others_have_theirs() -> None:
    """S2, A6: RateLimited says how many are running; a place is free again when one ends; nobody is nobody's caller."""
    engine = ScriptedEngine()
    engine.script = endless
    door = generation(engine, at_once=2)

    async def crowd() -> None:
        running = [door.astream(ask(user=user)) for user in ("key a", "key a", "key b", "", "", "")]
        for events in running:
            await anext(events)
        with pytest.raises(RateLimited, match=r"^2 of your requests are being answered.*Wait"):
            await anext(door.astream(ask(user="key a")))
        assert engine.running == 6
        await running[0].aclose()
        running.append(door.astream(ask(user="key a")))
        await anext(running[-1])
        for events in running:
            await events.aclose()

    asyncio.run(crowd())
    assert counted(door, "errors_total", code="rate_limited") == 1
    assert door._running == {}


def test_a_request_that_nobody_reads_takes_no_place() -> None:
    """A6: what was never begun is neither counted nor in anybody's way."""
    door = generation(ScriptedEngine(), at_once=1)
    door.astream(ask(user="key a"))
    assert in_loop(door, ask(user="key a"))


def test_draining_takes_nothing_new_and_waits_for_what_runs() -> None:
    """A6: a graceful shutdown: what has begun ends by itself, what comes is told so."""
    engine, going_on = ScriptedEngine(), threading.Event()

    def script():
        yield text("one")
        while not going_on.is_set():
            yield 0.005
        yield from engine._answer()

    engine.script = script
    door = generation(engine)
    answers: list[str] = []
    reader = threading.Thread(target=lambda: answers.append(joined(in_loop(door, ask()))))
    reader.start()
    while not engine.running:
        time.sleep(0.001)
    assert not door.draining
    assert door.drain(0.01) == 1
    assert door.draining
    with pytest.raises(ShuttingDown, match="stopping"):
        in_loop(door, ask())
    with pytest.raises(ShuttingDown):
        in_thread(door, ask())
    with pytest.raises(ShuttingDown):
        door.prompt_tokens(ask(), 0)
    going_on.set()
    assert door.drain(LIMIT_S) == 0
    reader.join(LIMIT_S)
    assert answers == ["oneAnswer 1."]


def slow_no(texts: list[str]) -> str:
    time.sleep(0.1)
    return "not here"


def test_a_slow_content_filter_holds_up_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """A6, G5: it thinks in a thread; there are signs of life meanwhile, then the refusal, and the engine is not asked."""
    monkeypatch.setattr("playground.services.generation.HEARTBEAT_S", 0.01)
    engine = ScriptedEngine()
    door = generation(engine, content_filter=f"{__name__}:slow_no")
    events: list[GenerationEvent] = []

    async def wait() -> None:
        async for event in door.astream(ask()):
            events.append(event)

    with pytest.raises(ContentRefused, match="not here"):
        asyncio.run(wait())
    assert {event.status.detail for event in events} == {"the text is being checked"}
    assert engine.requests == []
    assert counted(door, "errors_total", code="content_refused") == 1


def test_every_way_to_the_engine_passes_the_content_filter() -> None:
    """A6: streams with and without a loop, and the prompt's own tokens."""
    engine = ScriptedEngine()
    door = generation(engine, content_filter=f"{__name__}:slow_no")
    with pytest.raises(ContentRefused):
        in_thread(door, ask())
    with pytest.raises(ContentRefused):
        door.prompt_tokens(ask(), 2)
    assert engine.requests == []


def test_the_deadline_holds_for_a_prompt_that_is_only_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """A7: the engine is told to stop, and why is said."""
    engine = ScriptedEngine()

    def endless(request: GenerationRequest, top: int, wanted: Callable[[], bool]) -> tuple[Token, ...]:
        while wanted():
            time.sleep(0.01)
        raise CancelledError

    monkeypatch.setattr(engine, "prompt_tokens", endless)
    door = generation(engine, deadline=0.05)
    with pytest.raises(DeadlineExceeded):
        door.prompt_tokens(ask(), 0)
    door = generation(engine)
    with pytest.raises(CancelledError):
        door.prompt_tokens(ask(), 0, lambda: False)
    assert counted(door, "cancellations_total") == 1
    assert counted(door, "errors_total", code="internal_error") == 0


def test_a_prompt_that_is_only_read_is_no_answer() -> None:
    """A4, A6: for `echo`: its tokens are counted, and nothing was cancelled."""
    door = generation(ScriptedEngine())
    assert [token.id for token in door.prompt_tokens(ask(), 2)] == [2]
    assert counted(door, "prompt_tokens_total", model="starter") == 1
    assert counted(door, "cancellations_total") == 0
    assert door.drain(0) == 0


@both
@pytest.mark.parametrize("settings", [GenerationSettings(strategy="greedy", top_logprobs=1), SEEDED], ids=str)
def test_an_answer_that_comes_out_the_same_is_kept(answer: Answering, settings: GenerationSettings) -> None:
    """A8: the same text, tokens, end and provenance, marked, without the engine's work and without a speed made up."""
    engine = ScriptedEngine(notice="Two turns were dropped.")
    door = generation(engine, answer_cache=10)
    first, again = (answer(door, ask(settings=settings)) for _ in range(2))
    assert engine.made == 1
    assert engine.running == 0
    assert joined(again) == joined(first) == "Answer 1."
    kept = [event for event in again if event.cached]
    assert [token for event in kept for token in event.tokens] == [token for event in first for token in event.tokens]
    assert "".join(event.notice for event in again) == "Two turns were dropped."
    last = again[-1]
    assert (last.finish_reason, last.cached, last.provenance) == ("stop", True, MADE)
    assert (last.stats.prompt_tokens, last.stats.completion_tokens, last.stats.reused_tokens) == (5, 3, 0)
    assert last.stats.tokens_per_second is None
    assert first[-1].stats.elapsed_s != last.stats.elapsed_s
    assert not any(event.cached for event in first)


def test_the_cache_is_counted_apart_from_what_was_generated() -> None:
    """A8, A6: hits and misses; a kept answer is an answer, but no tokens, and no time to the first one."""
    door = generation(ScriptedEngine(), answer_cache=10)
    for _ in range(3):
        in_loop(door, ask())
    assert counted(door, "answer_cache_total", result="hit") == 2
    assert counted(door, "answer_cache_total", result="miss") == 1
    assert counted(door, "prompt_tokens_total", model="starter") == 5
    assert counted(door, "reused_prompt_tokens_total", model="starter") == 3
    assert counted(door, "answers_total", model="starter", finish_reason="stop") == 3
    assert counted(door, "completion_tokens_total", model="starter") == 3
    assert counted(door, "time_to_first_token_seconds_count", model="starter") == 1
    assert counted(door, "cancellations_total") == 0


OTHERS = {
    "another prompt": {"prompt": "Bye"},
    "another seed": {"settings": GenerationSettings(seed=6)},
    "another setting": {"settings": GenerationSettings(seed=5, top_p=0.5)},
    "a prefill": {"prefill": "Well"},
    "another template": {"template": "raw"},
    "something for the template": {"chat_template_kwargs": {"enable_thinking": False}},
}


@pytest.mark.parametrize("other", OTHERS)
def test_whatever_else_is_asked_is_another_answer(other: str) -> None:
    """A8: the key is the whole request, but for who asks."""
    engine = ScriptedEngine()
    door = generation(engine, answer_cache=10)
    in_loop(door, ask(settings=SEEDED, user="key a"))
    in_loop(door, ask(settings=SEEDED, user="key b"))
    assert engine.made == 1
    in_loop(door, ask(**({"settings": SEEDED} | OTHERS[other])))
    assert engine.made == 2


@pytest.mark.parametrize(
    "changed",
    [
        {"adapters": (("pirate", "another sha", 1.0),)},
        {"adapters": (("pirate", "sha", 0.5),)},
        {"base_hash": "other"},
        {"template_hash": "other"},
        {"dtype": "bfloat16"},
        {"device": "cuda"},
        {"versions": {"torch": "3"}},
    ],
    ids=str,
)
def test_another_model_is_another_answer(changed: dict[str, object]) -> None:
    """A8: an adapter that was trained again in its folder, another strength, another precision: found by what answers."""
    engine = ScriptedEngine(replace(MADE, adapters=(("pirate", "sha", 1.0),)))
    door = generation(engine, answer_cache=10)
    in_loop(door, ask())
    engine.provenance = replace(engine.provenance, **changed)  # type: ignore[arg-type]
    in_loop(door, ask())
    assert engine.made == 2


def test_the_seed_that_the_engine_drew_does_not_matter_to_a_greedy_answer() -> None:
    """A8: greedy answers are found again although each request has another seed."""
    engine = ScriptedEngine()
    door = generation(engine, answer_cache=10)
    in_loop(door, ask())
    engine.provenance = replace(MADE, seed=99)
    assert in_loop(door, ask())[-1].cached


@pytest.mark.parametrize(
    ("cache", "settings", "fresh"),
    [(0, SEEDED, False), (10, GenerationSettings(), False), (10, SEEDED, True)],
    ids=["off by default", "drawn without a seed", "fresh"],
)
def test_what_is_not_to_be_kept_is_made_again(cache: int, settings: GenerationSettings, fresh: bool) -> None:
    """A8: off by default; a drawn answer is drawn anew; replay and benchmarks ask for a fresh one."""
    engine = ScriptedEngine()
    door = generation(engine, answer_cache=cache)
    for _ in range(2):
        assert not in_loop(door, ask(settings=settings), fresh=fresh)[-1].cached
    assert engine.made == 2
    assert len(door._cache) == 0
    assert AppConfig().answer_cache == 0


def test_fresh_leaves_what_is_kept_alone() -> None:
    """A8: a replay does not change what others are given."""
    engine = ScriptedEngine()
    door = generation(engine, answer_cache=10)
    in_loop(door, ask())
    assert joined(in_loop(door, ask(), fresh=True)) == "Answer 2."
    assert joined(in_loop(door, ask())) == "Answer 1."


def test_all_answers_of_a_request_are_kept_together() -> None:
    """A8: n answers come back as n, each with its own end, in their order."""
    settings = GenerationSettings(seed=5, num_return_sequences=3)
    engine = ScriptedEngine()
    door = generation(engine, answer_cache=10)
    in_loop(door, ask(settings=settings))
    again = in_loop(door, ask(settings=settings))
    assert engine.made == 1
    assert [event.index for event in again if event.finish_reason] == [0, 1, 2]
    assert [joined(event for event in again if event.index == at) for at in range(3)] == ["Answer 1."] * 3


def test_what_was_cut_off_is_never_kept() -> None:
    """A8: an answer that was stopped, that failed, or of which one part was cancelled."""
    engine = ScriptedEngine()
    door = generation(engine, answer_cache=10)

    async def leave() -> None:
        async with aclosing(door.astream(ask())) as events:
            async for event in events:
                if event.text:
                    return

    asyncio.run(leave())
    engine.script = lambda: [made(), text("Half"), EngineFailure("Broken.")]
    with pytest.raises(EngineFailure):
        in_loop(door, ask())
    cut = replace(list(ScriptedEngine()._answer())[-1], finish_reason="cancelled")
    engine.script = lambda: [made(), text("Half"), cut]
    in_loop(door, ask())
    assert len(door._cache) == 0


def test_a_replay_is_computed_and_never_looked_up() -> None:
    """A8, G10: what is compared with an answer must have been made again."""
    engine, config = ScriptedEngine(), replace(load_config(), answer_cache=10)
    door = Generation(engine, config)  # type: ignore[arg-type]
    models = Models(engine, config)  # type: ignore[arg-type]
    again = Replay(door, models)
    manifest = Manifest(ask(spec=models.spec("starter")), 0, (7,), "", "Answer 1.", "stop", None)

    async def run() -> list[object]:
        return [event async for event in again.run(manifest)]

    for times in (1, 2):
        assert isinstance(asyncio.run(run())[-1], ReplayResult)
        assert engine.made == times
    assert len(door._cache) == 0
