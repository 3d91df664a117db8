"""F1, F2: an exchange in a conversation is stored whole or not at all, and nothing that was written is lost."""

from __future__ import annotations

import asyncio
import dataclasses
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from playground.config import AppConfig, load_config
from playground.conversation import Conversation, Reply, Turn
from playground.errors import (
    DeadlineExceeded,
    EngineFailure,
    HistoryUnavailable,
    InvalidRequest,
    NotFound,
    NotPermitted,
    OutOfMemory,
    PlaygroundError,
)
from playground.services.assembly import Services
from playground.services.chat import Ask, Exchange
from playground.services.written import NOTHING_TO_ADD
from playground.store import Store
from playground.types import Caller, GenerationEvent, GenerationSettings, ModelSpec
from tests.api.fake_engine import FakeEngine, Step, end, text
from tests.services.scripted_engine import MADE, made

ME, OTHER = Caller("user me", "user"), Caller("user other", "user")
SPEC = ModelSpec("starter")
LIMIT_S = 20  # which only a hang reaches
CONFIG = dataclasses.replace(load_config(), auth=(("me", "secret"), ("other", "secret")))


class House:
    """The services over an engine that plays a script, and what a test does with them."""

    def __init__(
        self, script: Callable[[], Iterable[Step]], store: Store | None = None, config: AppConfig = CONFIG
    ) -> None:
        self.engine = FakeEngine(lambda: _with_provenance(script()))
        self.services = Services.over(self.engine, config, store)  # type: ignore[arg-type]
        self.chat, self.history = self.services.chat, self.services.history

    def plays(self, *steps: Step) -> None:
        self.engine.script = lambda: _with_provenance(steps)

    @property
    def all(self) -> tuple[Conversation, ...]:
        return tuple(self.history.get(ME, one.id) for one in self.history.find(ME).summaries)

    def ask(self, action: str = "send", turn: str = "", content: str = "", **fields: Any) -> Exchange:
        if action == "send" and not content:
            content = "Hello"
        return self.chat.ask(ME, Ask(SPEC, action, turn=turn, content=content, **fields))  # type: ignore[arg-type]

    def said(self, *pairs: tuple[str, str]) -> Conversation:
        """A conversation of messages and answers that are stored."""
        found: Conversation | None = None
        for question, answer in pairs:
            where = {"conversation": found.id, "turn": found.leaf} if found else {}
            self.plays(text(answer), end())
            _, found = asyncio.run(through(self.ask(content=question, **where)))
        assert found is not None
        return found


def _with_provenance(steps: Iterable[Step]) -> Iterable[Step]:
    yield dataclasses.replace(made(), prompt_hash="p" * 64)
    yield from steps


async def through(exchange: Exchange) -> tuple[list[GenerationEvent], Conversation | None]:
    """All events of ``exchange``, and what was stored."""
    async with asyncio.timeout(LIMIT_S):
        events = [event async for event in exchange.events()]
        return events, await exchange.saved()


async def until_text(exchange: Exchange, events: AsyncIterator[GenerationEvent]) -> None:
    """Read on up to the first text."""
    async for event in events:
        if event.text:
            return


@pytest.fixture
def house() -> House:
    return House(lambda: [text("Hello"), end("stop", " there")])


def contents(conversation: Conversation) -> list[str]:
    return [turn.content for turn in conversation.path()]


# --- stored whole ---


def test_message_and_answer_are_stored_together_before_the_last_event_is_passed_on(house: House) -> None:
    """F1, F2: in one write; a new conversation is there from then on and not before."""
    seen: list[int] = []

    async def watch() -> None:
        exchange = house.ask(content="Hi")
        async for event in exchange.events():
            there = house.all
            seen.append(len(there))
            if event.finish_reason:
                assert there[0].id == exchange.conversation_id
                assert contents(there[0]) == ["Hi", "Hello there"]

    asyncio.run(watch())
    assert seen == [0, 0, 1]
    assert house.all[0].revision <= 1, "one write"


def test_the_events_of_the_engine_come_through_as_they_were(house: House) -> None:
    """G5."""
    events, _ = asyncio.run(through(house.ask()))
    assert events == list(house.engine.script())


def test_what_made_the_answer_is_kept_with_it(house: House) -> None:
    """G10: tokens, figures, provenance, prompt, notices."""
    house.plays(dataclasses.replace(text("So"), notice="Mind you."), end("length"))
    settings = GenerationSettings(system_prompt="Be brief.")
    asked = house.ask(settings=settings, use_case="summarization", chat_template_kwargs={"enable_thinking": False})
    _, stored = asyncio.run(through(asked))
    assert stored is not None
    reply = stored.path()[1].reply
    assert reply == Reply(
        SPEC, "length", stats=end("length").stats, notices=("Mind you.",), provenance=MADE, prompt_hash="p" * 64,
        chat_template_kwargs={"enable_thinking": False},
    )  # fmt: skip
    assert (stored.system, stored.use_case) == ("Be brief.", "summarization")


def test_several_answers_are_versions_and_the_first_is_open(house: House) -> None:
    """G3, F1."""
    house.plays(text("One", index=0), text("Two", index=1), end(index=1), end(index=0))
    _, stored = asyncio.run(through(house.ask(settings=GenerationSettings(num_return_sequences=2))))
    assert stored is not None
    assert contents(stored) == ["Hello", "One"]
    assert [(one.content, one.reply and one.reply.index) for one in stored.versions(stored.leaf)] == [
        ("One", 0), ("Two", 1),
    ]  # fmt: skip


@pytest.mark.parametrize("action", ["send", "regenerate", "continue"])
def test_a_failed_answer_leaves_the_history_as_it_was(house: House, action: str) -> None:
    """F1: also when some of it was written already."""
    before = house.said(("Hi", "Well"))
    house.plays(text("Half"), EngineFailure("It broke.", "Try again."))
    asked = house.ask(action, before.leaf, conversation=before.id)
    with pytest.raises(EngineFailure):
        asyncio.run(through(asked))
    assert house.all == (before,)
    assert asyncio.run(asked.saved()) is None


def test_a_conversation_whose_first_answer_failed_never_was(house: House) -> None:
    """F1."""
    house.plays(EngineFailure("It broke.", "Try again."))
    with pytest.raises(EngineFailure):
        asyncio.run(through(house.ask()))
    assert house.all == ()


# --- stopped ---

Stop = Callable[[Exchange, AsyncIterator[GenerationEvent]], Awaitable[None]]


async def by_stop(exchange: Exchange, events: AsyncIterator[GenerationEvent]) -> None:
    """The button, while the engine is waited for: the events end by themselves, each answer with "cancelled"."""

    async def read() -> list[GenerationEvent]:
        return [event async for event in events]

    reader = asyncio.create_task(read())
    await asyncio.sleep(0.01)
    threading.Thread(target=exchange.stop).start()
    assert (await reader)[-1].finish_reason == "cancelled"


async def by_leaving(exchange: Exchange, events: AsyncIterator[GenerationEvent]) -> None:
    """A closed tab: the iterator is closed."""
    await events.aclose()  # type: ignore[attr-defined]


async def by_cancelling(exchange: Exchange, events: AsyncIterator[GenerationEvent]) -> None:
    """The reader's task is cancelled while it waits for the next event."""

    async def read() -> None:
        async for _ in events:
            pass

    reader = asyncio.create_task(read())
    await asyncio.sleep(0.01)
    reader.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reader


stops = pytest.mark.parametrize("stop", [by_stop, by_leaving, by_cancelling])
SILENT = 3600.0


@stops
@pytest.mark.parametrize("action", ["send", "regenerate", "continue"])
def test_what_was_written_before_a_stop_is_kept(house: House, stop: Stop, action: str) -> None:
    """F1: marked as stopped; the row is gone though the engine says nothing any more (G6)."""
    before = house.said(("Hi", "Well"))
    house.plays(text(" so far"), SILENT)
    asked = house.ask(action, before.leaf, conversation=before.id)

    async def run() -> Conversation | None:
        async with asyncio.timeout(LIMIT_S):
            events = asked.events()
            await until_text(asked, events)
            await stop(asked, events)
            assert house.engine.running == 0
            return await asked.saved()

    stored = asyncio.run(run())
    assert stored is not None
    last = stored.path()[-1]
    assert last.content == ("Well so far" if action == "continue" else " so far")
    assert last.stopped
    assert house.all == (stored,)
    assert stored.turn(before.leaf).content == "Well"


@stops
@pytest.mark.parametrize("action", ["send", "regenerate", "continue"])
def test_stopped_before_the_first_character_nothing_is_stored(house: House, stop: Stop, action: str) -> None:
    """F1: the text stays with the person."""
    before = house.said(("Hi", "Well"))
    house.plays(SILENT)
    asked = house.ask(action, before.leaf, conversation=before.id)

    async def run() -> Conversation | None:
        async with asyncio.timeout(LIMIT_S):
            events = asked.events()
            await anext(events)
            await stop(asked, events)
            return await asked.saved()

    assert asyncio.run(run()) is None
    assert house.all == (before,)


def test_an_answer_that_a_stopping_server_cuts_off_is_kept(house: House) -> None:
    """F1, A3: the engine's own "cancelled"."""
    house.plays(text("So far"), end("cancelled"))
    _, stored = asyncio.run(through(house.ask()))
    assert stored is not None
    assert stored.path()[-1].stopped
    house.plays(end("cancelled"))
    assert asyncio.run(through(house.ask()))[1] is None


@pytest.mark.parametrize("kind", [DeadlineExceeded, OutOfMemory])
@pytest.mark.parametrize("action", ["send", "regenerate", "continue"])
def test_what_was_written_until_deadline_or_memory_ended_is_kept_with_its_sentence(
    house: House, action: str, kind: type[PlaygroundError]
) -> None:
    """F1, A6, G11: it was shown; an answer of which there was nothing to see is refused, and nothing is stored."""
    before = house.said(("Hi", "Well"))
    late = kind("It took too long.", "Ask for less.")
    house.plays(text(" so far"), late)
    asked = house.ask(action, before.leaf, conversation=before.id)
    events, stored = asyncio.run(through(asked))
    assert (events[-1].finish_reason, events[-1].notice) == ("cancelled", str(late))
    assert stored is not None
    last = stored.path()[-1]
    assert last.content == ("Well so far" if action == "continue" else " so far")
    assert last.stopped
    assert last.reply is not None
    assert last.reply.notices == (str(late),)
    house.plays(late)
    with pytest.raises(kind):
        asyncio.run(through(house.ask(action, before.leaf, conversation=before.id)))
    assert house.all == (stored,)


def test_of_several_answers_a_stop_keeps_those_that_have_text(house: House) -> None:
    """F1, G3."""
    house.plays(text("Two", index=1), text("Three", index=2), end(index=2), SILENT)
    asked = house.ask(settings=GenerationSettings(num_return_sequences=3))

    async def run() -> tuple[list[GenerationEvent], Conversation | None]:
        events = []
        async for event in asked.events():
            events.append(event)
            if event.finish_reason == "stop":
                asked.stop()
        return events, await asked.saved()

    events, stored = asyncio.run(run())
    assert [(event.index, event.finish_reason) for event in events[-2:]] == [(0, "cancelled"), (1, "cancelled")]
    assert stored is not None
    assert [(one.content, one.stopped) for one in stored.versions(stored.leaf)] == [("Two", True), ("Three", False)]
    assert stored.turn(stored.leaf).content == "Two"


def test_stopped_before_it_was_begun_nothing_is_asked_of_the_engine(house: House) -> None:
    """F1, G6."""
    asked = house.ask()
    asked.stop()
    events, stored = asyncio.run(through(asked))
    assert [event.finish_reason for event in events] == ["cancelled"]
    assert (stored, house.engine.requests) == (None, [])


def test_saved_may_be_asked_at_any_time_by_anybody(house: House) -> None:
    """F1: before it began, by several while it runs, one of whom leaves, and after its reader was cancelled."""
    house.engine.script = lambda: [made(), text("So"), SILENT]
    asked = house.ask()

    async def read() -> None:
        async for _ in asked.events():
            pass

    async def run() -> None:
        assert await asked.saved() is None
        reader = asyncio.create_task(read())
        await asyncio.sleep(0.01)
        asking = [asyncio.create_task(asked.saved()) for _ in range(3)]
        await asyncio.sleep(0.01)
        asking.pop().cancel()
        assert not any(one.done() for one in asking)
        reader.cancel()
        async with asyncio.timeout(LIMIT_S):
            first, second = await asyncio.gather(*asking)
            assert first is not None
            assert first == second == await asked.saved()

    asyncio.run(run())
    assert asyncio.run(asked.saved()) == house.all[0], "and in another loop"


def test_a_stop_is_stored_though_its_reader_never_comes_back(house: House) -> None:
    """F1: a page that hangs holds up nobody who waits for what it wrote; what is read later adds nothing."""
    house.plays(text("So"), text(" far"), end())
    asked = house.ask()

    async def run() -> None:
        async with asyncio.timeout(LIMIT_S), aclosing(asked.events()) as events:
            await until_text(asked, events)
            asked.stop()
            await asyncio.sleep(0.01)
            stored = await asked.saved()
            assert stored is not None
            assert (stored.path()[-1].content, stored.path()[-1].stopped) == ("So", True)
            assert [event.finish_reason async for event in events] == ["cancelled"]
            assert await asked.saved() == stored == house.all[0]

    asyncio.run(run())


def test_events_are_read_once(house: House) -> None:
    """F1: two readers would generate twice and store twice."""
    asked = house.ask()
    asyncio.run(through(asked))
    with pytest.raises(RuntimeError, match="once"):
        asyncio.run(through(asked))
    assert len(house.all[0].turns) == 2


# --- what cannot be stored, or not yet ---


def slow_disk(house: House, monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Have nothing be stored until the event is set."""
    disk, append = threading.Event(), house.history.append

    def slow(*given: Any, **named: Any) -> Conversation:
        assert disk.wait(LIMIT_S)
        return append(*given, **named)

    monkeypatch.setattr(house.history, "append", slow)
    return disk


@pytest.mark.parametrize("first", [False, True])
def test_an_answer_whose_conversation_was_deleted_meanwhile_is_shown_and_brings_nothing_back(
    house: House, first: bool
) -> None:
    """F2: the events come whole, then it is said; also of a first message that was sent anew."""
    before = house.said(("Hi", "Well"))
    asked = house.ask(turn="" if first else before.leaf, conversation=before.id)
    events: list[GenerationEvent] = []

    async def run() -> None:
        async for event in asked.events():
            events.append(event)
            if event.text == "Hello":
                house.history.delete(ME, before.id)

    house.plays(text("Hello"), end("stop"))
    with pytest.raises(NotFound):
        asyncio.run(run())
    assert events[-1].finish_reason == "stop"
    with pytest.raises(NotFound):
        asyncio.run(asked.saved())
    assert house.all == ()


def test_an_answer_that_the_disk_refuses_is_shown_and_then_it_is_said(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """F2: nobody loses the text on the page."""

    def full(*_: object, **__: object) -> None:
        raise HistoryUnavailable("The disk is full.", "Make room.")

    monkeypatch.setattr(house.services.history, "append", full)
    asked = house.ask()
    events: list[GenerationEvent] = []

    async def run() -> None:
        async for event in asked.events():
            events.append(event)

    with pytest.raises(HistoryUnavailable, match="disk is full"):
        asyncio.run(run())
    assert "".join(event.text for event in events) == "Hello there"
    with pytest.raises(HistoryUnavailable):
        asyncio.run(asked.saved())
    assert house.all == ()


def test_a_slow_disk_holds_up_nobody_else(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """F2, G5: the event loop goes on while a turn is being written; and a server that closes waits for the turn."""
    disk = slow_disk(house, monkeypatch)

    async def run() -> None:
        first = asyncio.create_task(through(house.ask(content="First")))
        second = house.ask(content="Second")
        async with asyncio.timeout(LIMIT_S), aclosing(second.events()) as events:
            await until_text(second, events)
        await asyncio.sleep(0.01)
        assert not first.done()
        assert house.all == ()
        threading.Timer(0.05, disk.set).start()
        house.chat.close()
        assert sorted(contents(one)[0] for one in house.all) == ["First", "Second"]
        await first

    asyncio.run(run())
    with pytest.raises(HistoryUnavailable, match="stopping"):
        asyncio.run(through(house.ask()))


def test_a_reader_who_leaves_while_it_is_being_stored_changes_nothing(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """F1: the answer is stored whole, once."""
    disk = slow_disk(house, monkeypatch)
    asked = house.ask()

    async def run() -> None:
        reader = asyncio.create_task(through(asked))
        await asyncio.sleep(0.02)
        asked.stop()
        reader.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reader
        disk.set()
        stored = await asked.saved()
        assert stored is not None
        assert house.all == (stored,)
        assert [(turn.content, turn.stopped) for turn in stored.turns] == [("Hello", False), ("Hello there", False)]

    asyncio.run(run())


def test_a_stopping_server_waits_for_an_answer_that_is_being_stored(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """F2, A3: what has ended counts as running until it is on the disk."""
    disk = slow_disk(house, monkeypatch)

    async def run() -> None:
        answer = asyncio.create_task(through(house.ask()))
        await asyncio.sleep(0.01)
        drained = asyncio.create_task(asyncio.to_thread(house.services.generation.drain, LIMIT_S))
        await asyncio.sleep(0.05)
        assert not drained.done()
        disk.set()
        assert await drained == 0
        assert len(house.all) == 1
        await answer

    asyncio.run(run())


# --- what the model is sent ---


def test_the_open_path_is_sent_without_what_models_thought(house: House) -> None:
    """F1: reasoning stays in the turn; the other branch is not sent; a person's message is sent as it is."""
    before = house.said(("<think>is mine</think>", "<think>Hm.</think>\nWell"), ("And?", "No more </think>And so"))
    asyncio.run(through(house.ask("regenerate", before.leaf, conversation=before.id)))
    asked = house.ask(
        turn=before.leaf,
        content="Then?",
        conversation=before.id,
        settings=GenerationSettings(system_prompt="Be brief."),
    )
    sent = asked.request
    assert [(one.role, one.content) for one in sent.messages] == [
        ("user", "<think>is mine</think>"), ("assistant", "Well"), ("user", "And?"), ("assistant", "And so"),
        ("user", "Then?"),
    ]  # fmt: skip
    assert (sent.settings.system_prompt, sent.user, sent.prefill) == ("Be brief.", ME.id, "")
    assert before.path()[1].content == "<think>Hm.</think>\nWell"


@pytest.mark.parametrize("how", [{"template": "raw"}, {"template": "instruction"}, {"alone": True}])
def test_alone_the_last_message_is_sent(house: House, how: dict[str, Any]) -> None:
    """P6, I5: and the answer says so, also when it is made again."""
    before = house.said(("Hi", "Well"))
    asked = house.ask(turn=before.leaf, content="Alone", conversation=before.id, **how)
    assert [one.content for one in asked.request.messages] == ["Alone"]
    _, stored = asyncio.run(through(asked))
    assert stored is not None
    reply = stored.path()[-1].reply
    assert reply is not None
    assert (reply.alone, reply.template) == (True, how.get("template", "chat"))
    assert contents(stored) == ["Hi", "Well", "Alone", "Well"]
    again = house.chat.manifest(ME, stored.id, stored.leaf).request
    assert again == dataclasses.replace(asked.request, user="", settings=MADE.settings)


def test_an_expected_answer_is_kept_with_the_prompt_and_sent_to_nobody(house: House) -> None:
    """I5: so a pair says after a reload too whether it matches; another prompt has none."""
    asked = house.ask(content="Greet", expected="Hello there", alone=True)
    assert [one.content for one in asked.request.messages] == ["Greet"]
    assert "Hello there" not in repr(asked.request)
    _, stored = asyncio.run(through(asked))
    assert stored is not None
    assert [turn.expected for turn in stored.path()] == ["Hello there", ""]
    edited = house.history.edit(ME, stored.id, stored.path()[0].id, "Greet them")
    assert edited.path()[0].expected == ""
    branched = house.history.branch(ME, stored.id, stored.leaf)
    assert branched.path()[0].expected == "Hello there"


def test_regenerate_answers_again_with_the_settings_given_now(house: House) -> None:
    """F1: a version beside the old one; given a person's message, an answer to that."""
    before = house.said(("Hi", "Well"))
    hot = GenerationSettings(temperature=1.5)
    for turn in (before.leaf, before.path()[0].id):
        asked = house.ask("regenerate", turn, conversation=before.id, settings=hot)
        assert [one.content for one in asked.request.messages] == ["Hi"]
        assert asked.request.settings == hot
        _, stored = asyncio.run(through(asked))
    assert stored is not None
    assert [one.content for one in stored.versions(before.leaf)] == ["Well", "Well", "Well"]
    assert contents(stored) == ["Hi", "Well"]
    assert len(stored.turns) == 4


def test_a_dangling_message_may_be_answered_or_followed(house: House) -> None:
    """F1, A1: programs save messages one by one."""
    saved = house.history.save_message(ME, "from elsewhere", "user", "Hi", "", "chatbot")
    _, stored = asyncio.run(through(house.ask("regenerate", saved.leaf, conversation=saved.id)))
    assert stored is not None
    assert contents(stored) == ["Hi", "Hello there"]
    asked = house.ask(turn=saved.leaf, content="Anybody?", conversation=saved.id)
    assert [one.content for one in asked.request.messages] == ["Hi", "Anybody?"]


@pytest.mark.parametrize("old", ["Once upon", "<think>Hm.</think>\nOnce", "<think>Hm"])
def test_continue_goes_on_with_the_whole_answer(house: House, old: str) -> None:
    """F1: another version, which begins with the old text, its thoughts included."""
    before = house.said(("Hi", old))
    house.plays(text(" a time"), end("stop", "."))
    asked = house.ask("continue", before.leaf, conversation=before.id)
    assert asked.request.prefill == asked.prefill == old
    assert [one.content for one in asked.request.messages] == ["Hi"]
    _, stored = asyncio.run(through(asked))
    assert stored is not None
    assert [one.content for one in stored.versions(stored.leaf)] == [old, f"{old} a time."]
    manifest = house.chat.manifest(ME, stored.id, stored.leaf)
    assert (manifest.request.prefill, manifest.text) == (old, " a time.")


def test_an_answer_that_was_complete_is_not_doubled(house: House) -> None:
    """F1: the model ends it at once; that is told, and no version is stored."""
    before = house.said(("Hi", "Well"))
    house.plays(end("stop"))
    asked = house.ask("continue", before.leaf, conversation=before.id)
    events, stored = asyncio.run(through(asked))
    assert (events[-1].notice, stored, asked.nothing_to_add) == (NOTHING_TO_ADD, None, True)
    assert house.all == (before,)


def test_a_prefill_begins_the_answer(house: House) -> None:
    """F1."""
    asked = house.ask(prefill="Arr, ")
    assert (asked.request.prefill, asked.prefill) == ("Arr, ", "Arr, ")
    _, stored = asyncio.run(through(asked))
    assert stored is not None
    last = stored.path()[-1]
    assert last.content == "Arr, Hello there"
    assert last.reply is not None
    assert last.reply.prefill == "Arr, "


def test_a_system_message_in_the_conversation_does_not_hide_the_system_prompt(house: House) -> None:
    """F1, G4: both are sent."""
    for content in ("First.", "Second."):
        house.history.save_message(ME, "x", "system", content, "", "chatbot")
    there = house.history.get(ME, "x")
    settings = GenerationSettings(system_prompt="Third.")
    asked = house.ask(turn=there.leaf, conversation="x", settings=settings)
    assert [one.content for one in asked.request.messages] == ["Third.\n\nSecond.", "Hello"]


# --- reasoning ---


def thought(*steps: GenerationEvent) -> float | None:
    house = House(lambda: steps)
    _, stored = asyncio.run(through(house.ask()))
    assert stored is not None
    reply = stored.path()[-1].reply
    assert reply is not None
    return reply.thought_s


def at(elapsed_s: float, event: GenerationEvent) -> GenerationEvent:
    stats = dataclasses.replace(event.stats, elapsed_s=elapsed_s, first_token_s=1.0)
    return dataclasses.replace(event, stats=stats)


def test_how_long_a_model_thought_is_kept() -> None:
    """F1: from its first token to the end of its reasoning, which may come in pieces; None without any."""
    thinking = (at(1.0, text("<think>Hm")), at(3.0, text(".</th")), at(4.0, text("ink>So")), at(9.0, end()))
    assert thought(*thinking) == 3.0
    assert thought(at(1.0, text("Hm.")), at(2.5, text("</think>")), at(9.0, end())) == 1.5
    assert thought(at(1.0, text("<think>Hm.")), at(6.0, end("cancelled"))) == 5.0
    assert thought(at(1.0, text("So.")), at(9.0, end())) is None


def test_thoughts_that_the_template_has_opened_are_thoughts_from_the_first_token_on(house: House) -> None:
    """F1: also when the answer is stopped inside of them; they are never sent as what was said."""
    house.engine.script = lambda: [
        dataclasses.replace(made(), opened="<think>\n"), at(1.0, text("Let me see")), at(4.0, end("cancelled")),
    ]  # fmt: skip
    asked = house.ask()
    _, stored = asyncio.run(through(asked))
    assert stored is not None
    last = stored.path()[-1]
    assert last.content == "<think>\nLet me see"
    assert asked.prefill == "<think>\n"
    assert last.reply is not None
    assert (last.reply.thought_s, last.reply.prefill) == (3.0, "")
    assert house.chat.manifest(ME, stored.id, stored.leaf).text == "Let me see"
    asked = house.ask(turn=stored.leaf, content="And?", conversation=stored.id)
    assert [one.content for one in asked.request.messages] == ["Hello", "", "And?"]
    house.plays(at(1.0, text(" more.")), at(2.0, text("</think>So")), at(3.0, end()))
    _, stored = asyncio.run(through(house.ask("continue", stored.leaf, conversation=stored.id)))
    assert stored is not None
    last = stored.path()[-1]
    assert last.content == "<think>\nLet me see more.</think>So"
    assert last.reply is not None
    assert last.reply.thought_s == 4.0, "the seconds of both"


# --- refused before any work ---


@pytest.mark.parametrize(
    ("fields", "error", "words"),
    [
        ({"conversation": "unknown"}, NotFound, "no such conversation"),
        ({"conversation": "there", "turn": "unknown"}, NotFound, "no longer"),
        ({"turn": "unknown"}, InvalidRequest, "new conversation"),
        ({"content": "  "}, InvalidRequest, "empty"),
        ({"content": "half \ud800"}, InvalidRequest, "half of a character"),
        ({"expected": "half \ud800"}, InvalidRequest, "expected answer holds half of a character"),
        ({"expected": "x" * 1_000_001}, InvalidRequest, "expected answer has 1,000,001 bytes"),
        ({"use_case": "unknown"}, InvalidRequest, "use case"),
        ({"template": "unknown"}, InvalidRequest, "template"),
        ({"action": "unknown"}, InvalidRequest, "action"),
        ({"chat_template_kwargs": {"tools": []}}, InvalidRequest, "tools"),
        ({"chat_template_kwargs": {"x": object()}}, InvalidRequest, "cannot be kept"),
        ({"action": "regenerate"}, InvalidRequest, "nothing to regenerate"),
        ({"action": "continue"}, InvalidRequest, "nothing to continue"),
        ({"action": "continue", "conversation": "there", "turn": "user"}, InvalidRequest, "Only an answer"),
        (
            {"action": "continue", "conversation": "there", "turn": "answer", "prefill": "x"},
            InvalidRequest,
            "beginning",
        ),
        (
            {"action": "regenerate", "conversation": "there", "turn": "answer", "content": "x"},
            InvalidRequest,
            "message",
        ),
        (
            {"action": "regenerate", "conversation": "there", "turn": "answer", "expected": "x"},
            InvalidRequest,
            "expected answer",
        ),
        ({"action": "regenerate", "conversation": "greeting", "turn": "greeting"}, InvalidRequest, "no message before"),
    ],
)
def test_what_cannot_be_asked_is_refused_before_any_work(
    house: House, fields: dict[str, Any], error: type[Exception], words: str
) -> None:
    """F1: in a sentence; nothing is generated or stored."""
    turns = (Turn("user", "", "user", "Hi", 1.0), Turn("answer", "user", "assistant", "Well", 1.0))
    house.history.append(ME, "there", turns, begins=True)
    house.history.append(ME, "greeting", (Turn("greeting", "", "assistant", "Hey", 1.0),), begins=True)
    with pytest.raises(error, match=words):
        house.chat.ask(ME, Ask(SPEC, **({} if "action" in fields else {"content": "Hi"}) | fields))
    assert house.engine.requests == []
    assert len(house.all) == 2


def test_nobody_speaks_in_somebody_elses_conversation(house: House) -> None:
    """F2, S2: it is as if it were not there; a caller without a history is told so before any work."""
    mine = house.said(("Hi", "Well"))
    for action in ("send", "regenerate", "continue"):
        content = "Hi" if action == "send" else ""
        with pytest.raises(NotFound):
            house.chat.ask(OTHER, Ask(SPEC, action, mine.id, mine.leaf, content))  # type: ignore[arg-type]
    with pytest.raises(NotFound):
        house.chat.manifest(OTHER, mine.id, mine.leaf)
    with pytest.raises(NotFound):
        house.chat.preview(OTHER, Ask(SPEC, conversation=mine.id, turn=mine.leaf))
    with pytest.raises(NotPermitted):
        house.chat.ask(Caller("address 10.0.0.7", "address"), Ask(SPEC, content="Hi"))


def test_a_preview_is_the_request_that_would_be_sent(house: House) -> None:
    """P2: also while nothing is written yet."""
    mine = house.said(("Hi", "Well"))
    preview = house.chat.preview(ME, Ask(SPEC, conversation=mine.id, turn=mine.leaf))
    assert [one.content for one in preview.messages] == ["Hi", "Well", ""]
    asked = Ask(SPEC, conversation=mine.id, turn=mine.leaf, content="And?", prefill="So")
    assert house.chat.preview(ME, asked) == house.chat.ask(ME, asked).request


def test_a_message_that_no_model_gave_here_has_no_manifest(house: House) -> None:
    """G10."""
    mine = house.said(("Hi", "Well"))
    edited = house.history.edit(ME, mine.id, mine.leaf, "Better")
    for turn in (edited.leaf, mine.path()[0].id):
        with pytest.raises(InvalidRequest, match="not known"):
            house.chat.manifest(ME, mine.id, turn)


# --- at once ---

Talk = list[tuple[int, int, bool]]  # (conversation, who, whether it is stopped)


@hypothesis_settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 1), st.booleans()), min_size=2, max_size=16))
def test_many_exchanges_at_once_lose_nothing(talk: Talk) -> None:
    """F2: several people, each with several tabs on the same conversations: each message stands under its parent."""
    house = House(lambda: [text("Well"), 0.001, end("stop", ".")])
    people = (ME, OTHER)
    for who in people:
        for number in range(3):
            first = (Turn("a", "", "user", "Hi", 1.0), Turn("b", "a", "assistant", "Hey", 1.0))
            house.history.append(who, f"c{number}", first, begins=True)

    async def one(at: int, number: int, who: Caller, stopped: bool) -> None:
        asked = house.chat.ask(who, Ask(SPEC, "send", f"c{number}", "b", f"message {at}"))
        async for event in asked.events():
            if stopped and event.text:
                asked.stop()
        assert await asked.saved() is not None

    async def run() -> None:
        async with asyncio.timeout(LIMIT_S):
            await asyncio.gather(*(one(at, number, people[who], s) for at, (number, who, s) in enumerate(talk)))

    asyncio.run(run())
    for mine, who in enumerate(people):
        for number in range(3):
            found = house.history.get(who, f"c{number}")
            expected = {
                f"message {at}" for at, (where, whose, _) in enumerate(talk) if (where, whose) == (number, mine)
            }
            asked = [turn for turn in found.turns if turn.parent == "b"]
            assert {turn.content for turn in asked} == expected
            assert len(asked) == len(expected)
            answers = {turn.parent: turn.content for turn in found.turns if turn.role == "assistant" and turn.id != "b"}
            assert all(answers[turn.id] in ("Well", "Well.") for turn in asked)
            assert len(found.turns) == 2 + 2 * len(expected)


def test_two_tabs_that_begin_at_once_begin_two_conversations(house: House) -> None:
    """F2."""

    async def run() -> None:
        await asyncio.gather(*(through(house.ask(content=f"Tab {number}")) for number in range(2)))

    asyncio.run(run())
    assert sorted(contents(one)[0] for one in house.all) == ["Tab 0", "Tab 1"]


def test_what_many_tabs_said_at_once_is_on_the_disk(tmp_path: Path) -> None:
    """F2: stored, stopped and left, all on one conversation; the file is opened again."""
    store = Store.open(tmp_path)
    house = House(lambda: [text("Well"), 0.002, end("stop", ".")], store)
    house.history.append(ME, "c", (Turn("a", "", "user", "Hi", 1.0),), begins=True)

    async def one(number: int) -> None:
        asked = house.ask(content=f"message {number}", conversation="c", turn="a")
        async with aclosing(asked.events()) as events:
            async for event in events:
                if event.text and number % 3 == 1:
                    asked.stop()
                if event.text and number % 3 == 2:
                    break
        assert await asked.saved() is not None

    async def run() -> None:
        async with asyncio.timeout(LIMIT_S):
            await asyncio.gather(*(one(number) for number in range(30)))

    asyncio.run(run())
    there = house.history.get(ME, "c")
    house.chat.close()
    store.close()
    again = Store.open(tmp_path)
    assert again.conversations.get(there.owner, "c") == there
    again.close()
    asked = [turn for turn in there.turns if turn.parent == "a"]
    assert sorted(turn.content for turn in asked) == sorted(f"message {number}" for number in range(30))
    answers = {turn.parent: turn.content for turn in there.turns if turn.role == "assistant"}
    assert [answers[turn.id] for turn in sorted(asked, key=lambda turn: int(turn.content.split()[1]))] == [
        "Well." if number % 3 == 0 else "Well" for number in range(30)
    ]
