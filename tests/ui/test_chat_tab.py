"""The Full Chat tab over a scripted engine, without a server: what its handlers send to the page, and what they store."""

from __future__ import annotations

import asyncio
import dataclasses
import html
import json
import re
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import gradio as gr
import pytest

from playground.config import AppConfig
from playground.conversation import Conversation
from playground.types import Caller
from playground.ui import texts
from playground.ui.chat_tab import ChatTab, Look
from playground.ui.opened import Open
from playground.ui.views.composer import composer_line, context_meter
from tests.ui.fake_engine import FakeEngine
from tests.ui.page import Tab, collected, last

pytestmark = pytest.mark.anyio

ME = Caller("guest one", "guest")


class ChatPage(Tab):
    """The tab, built over ``engine``; ``key`` and ``look`` are what the page holds, as the last updates left them."""

    kind = ChatTab

    def __init__(self, engine: Engine, config: AppConfig) -> None:
        self.engine = engine
        super().__init__(engine, config)
        self.visitor: Any = SimpleNamespace(session_hash="one")
        self.key, self.look = "", Look().text

    def ask(self, draft: str = "", act: str = "", turn: str = "", text: str = "", prefill: str = "", **changes: Any):
        """The handler of Send, or of a bubble's button that asks the model."""
        data = {"value": {"act": act, "turn": turn, "text": text, "value": ""}} if act else None
        panel = self.side.settings
        values = [changes.get(name, widget.value) for name, widget in panel.widgets.items()]
        chosen = (changes.get("model", "starter"), changes.get("adapter", texts.NO_ADAPTER), "auto", 1.0)
        event = gr.EventData(None, data)
        return self.tab._ask(
            self.visitor, event, draft, prefill, self.key, self.look, *chosen, panel.preset.value, *values
        )

    async def says(self, draft: str = "", **options: Any) -> list[dict[Any, Any]]:
        """All updates of one exchange; the page holds afterwards what they brought."""
        updates = await collected(self.ask(draft, **options))
        for update in updates:
            self._take(update)
        return updates

    async def does(self, act: str, turn: str = "", text: str = "", value: str = "") -> dict[Any, Any]:
        """What a bubble's button brings at once."""
        event = gr.EventData(None, {"value": {"act": act, "turn": turn, "text": text, "value": value}})
        return self._take(await self.tab._act(self.visitor, event, self.key, self.look))

    async def draws(self, key: str | None = None) -> dict[Any, Any]:
        """What the page is sent when another part of it has opened ``key``."""
        self.key = self.key if key is None else key
        return self._take(await self.tab._draw(self.visitor, self.key, self.look))

    def _take(self, update: dict[Any, Any]) -> dict[Any, Any]:
        self.key = update.get(self.opened.key, self.key)
        self.look = update.get(self.tab.look, self.look)
        return update

    @property
    def conversation(self) -> Conversation:
        return self.services.history.get(self.caller, Open.parse(self.key).conversation)

    @property
    def caller(self) -> Caller:
        return Caller(f"guest {self.visitor.session_hash}", "guest")

    def bubbles(self, updates: list[dict[Any, Any]]) -> str:
        return str(last(updates, self.tab.bubbles.stored))

    def anew(self, answer: str, pause: float = 0.0) -> ChatPage:
        """The same tab for a visitor who has nothing yet; the engine says something else."""
        self.engine.answer, self.engine.pause = answer, pause
        self.engine.requests.clear()
        self.engine.unload_all()
        self.visitor, self.key, self.look = SimpleNamespace(session_hash="one"), "", Look().text
        self.services.history.delete_all(self.caller)
        return self


class Engine(FakeEngine):
    """One that can forget what it has in memory."""

    def unload_all(self) -> None:
        self._residents.clear()


@pytest.fixture(scope="module")
async def built(config: AppConfig) -> ChatPage:
    """One for all tests: making it takes longer than they do."""
    return ChatPage(Engine(), config)


@pytest.fixture
def chat(built: ChatPage) -> Callable[..., ChatPage]:
    return built.anew


async def until(page: ChatPage, updates: Any, wanted: str) -> dict[Any, Any]:
    """The first update in which the live bubble holds ``wanted``."""
    async for update in updates:
        if wanted in str(update.get(page.tab.bubbles.live, "")):
            return update
    raise AssertionError("it was never written")


async def test_a_message_and_its_answer_are_bubbles_and_stored_when_the_answer_ends(chat):
    """I6, F1: Send, the live bubble, and then both in the history, open in all parts of the page."""
    page = chat("One two three.")
    updates = await page.says("Hi <b>you</b>", system_prompt="Be kind.")
    assert updates[0][page.tab.draft] == ""
    assert "Hi &lt;b&gt;you&lt;/b&gt;" in next(
        u[page.tab.bubbles.stored] for u in updates if page.tab.bubbles.stored in u
    )
    assert [turn.content for turn in page.conversation.path()] == ["Hi <b>you</b>", "One two three."]
    assert page.conversation.system == "Be kind."
    assert "One two three." in page.bubbles(updates)
    assert last(updates, page.tab.bubbles.live) == ""
    assert last(updates, page.tab.send)["visible"] is True
    assert last(updates, page.tab.stop)["visible"] is False
    assert last(updates, page.bar.phase) == "idle"


async def test_the_model_is_sent_all_that_was_said(chat):
    """F1: several turns, one conversation; the whole open path each time."""
    page = chat("Yes.")
    await page.says("First?")
    await page.says("Second?")
    said = [(message.role, message.content) for message in page.engine.requests[-1].messages]
    assert said == [("user", "First?"), ("assistant", "Yes."), ("user", "Second?")]
    assert len(page.conversation.turns) == 4


async def test_regenerate_makes_a_version_and_switching_leads_back(chat):
    """F1: ‹ 2/2 ›, and the arrow to the older one."""
    page = chat("Yes.")
    await page.says("Really?")
    first = page.conversation.leaf
    page.engine.answer = "No."
    updates = await page.says(act="regenerate", turn=first)
    assert "2/2" in page.bubbles(updates)
    assert page.conversation.path()[-1].content == "No."
    back = await page.does("switch", first)
    assert "1/2" in back[page.tab.bubbles.stored]
    assert page.conversation.leaf == first
    assert Open.parse(page.key).leaf == first


async def test_an_edited_message_is_another_version_and_may_be_sent(chat):
    """F1: Save keeps it, Save and send answers it; what was there stays beside it."""
    page = chat("Yes.")
    await page.says("Realy?")
    question, answer = page.conversation.path()
    assert "<textarea" in (await page.does("edit", question.id))[page.tab.bubbles.stored]
    assert "<textarea" not in (await page.does("cancel", question.id))[page.tab.bubbles.stored]
    await page.does("save", answer.id, "Yes, sure.")
    assert [turn.content for turn in page.conversation.path()] == ["Realy?", "Yes, sure."]
    await page.does("save", answer.id, answer.content)
    assert len(page.conversation.turns) == 3, "nothing was changed, so there is no new version"
    await page.says(act="save-send", turn=question.id, text="Really?")
    assert [turn.content for turn in page.conversation.path()] == ["Really?", "Yes."]
    assert [turn.content for turn in page.conversation.versions(question.id)] == ["Realy?", "Really?"]


async def test_a_prompt_that_was_edited_is_another_one_and_nothing_is_expected_of_it(chat):
    """I5: what was expected of the old prompt stays with it; the same text sent again is the same prompt."""
    page = chat("Yes.")
    await page.says("Really?")
    made = page.conversation
    asked = dataclasses.replace(made.turns[0], id="asked", expected="Yes!")
    page.services.history.append(ME, made.id, [asked])
    await page.draws(page.tab._opened.followed(ME, page.key))
    for text, expected in (("Really?", "Yes!"), ("Truly?", "")):
        await page.says(act="save-send", turn="asked", text=text)
        assert [turn.content for turn in page.conversation.path()] == [text, "Yes."]
        assert page.conversation.path()[0].expected == expected


async def test_continue_goes_on_from_the_text_and_a_prefix_begins_it(chat):
    """F1: prefill, and a version that begins with the old text; the live bubble shows it from the start."""
    page = chat("and so on.")
    updates = await page.says("Why?", prefill="Because ")
    assert page.conversation.path()[-1].content == "Because and so on."
    assert last(updates, page.tab.prefill) == ""
    shown = await page.says(act="continue", turn=page.conversation.leaf)
    lives = [update[page.tab.bubbles.live] for update in shown if update.get(page.tab.bubbles.live)]
    assert all(live.startswith("Because and so on.") for live in lives)
    assert page.conversation.path()[-1].content == "Because and so on.and so on."
    assert len(page.conversation.path()) == 2


async def test_thumbs_branches_and_provenance(chat):
    """F1: judged and taken back; a branch is a conversation of its own; the manifest comes when asked for."""
    page = chat("Yes.")
    await page.says("Really?")
    leaf, before = page.conversation.leaf, page.conversation.id
    assert 'aria-pressed="true"' in (await page.does("thumb", leaf, value="1"))[page.tab.bubbles.stored]
    assert page.conversation.turn(leaf).thumb == 1
    await page.does("thumb", leaf, value="0")
    assert page.conversation.turn(leaf).thumb == 0
    made = await page.does("provenance", leaf)
    assert json.loads(made[page.tab.handed])["text"] == "Yes."
    await page.does("branch", leaf)
    assert page.conversation.id != before
    assert len(page.conversation.path()) == 2


async def test_a_failed_turn_leaves_the_history_as_it_was_and_the_draft_comes_back(chat, toasts):
    """I6: the sentence in a toast and over the composer; nothing is stored."""
    page = chat("Yes.")
    await page.says("First?")
    before = page.conversation
    updates = await page.says("Second?", model="missing")
    assert page.conversation == before
    assert last(updates, page.tab.draft) == "Second?"
    assert "Second?" not in page.bubbles(updates)
    assert "First?" in page.bubbles(updates)
    assert "error-line" in last(updates, page.tab.line)
    assert len(toasts) == 1
    assert last(updates, page.tab.send)["visible"] is True
    assert last(updates, page.bar.phase) == "error"


async def test_a_failed_rewrite_comes_back_into_its_field(chat, toasts):
    """F1: what was written anew is not lost with the failure."""
    page = chat("Yes.")
    await page.says("Realy?")
    question = page.conversation.path()[0]
    updates = await page.says(act="save-send", turn=question.id, text="Really new?", model="missing")
    assert re.search(r"<textarea[^>]*>\nReally new\?</textarea>", page.bubbles(updates))
    assert len(page.conversation.turns) == 2


async def test_stop_keeps_what_was_written_and_says_so(chat):
    """P6, F1: the part stays, marked as stopped."""
    page = chat("word " * 200, pause=0.01)
    updates = page.ask("Go on")
    await until(page, updates, "word")
    page.tab._stop(page.visitor)
    rest = [page._take(update) async for update in updates]
    assert page.conversation.path()[-1].stopped
    assert ">stopped</b>" in page.bubbles(rest)
    assert page.engine.running == 0


async def test_stopped_before_the_first_word_nothing_is_stored_and_the_draft_comes_back(chat):
    """F1: as if it had not been sent."""
    page = chat("word " * 50, pause=0.2)
    updates = page.ask("Go on")
    await anext(updates)
    page.tab._stop(page.visitor)
    rest = [page._take(update) async for update in updates]
    assert last(rest, page.tab.draft) == "Go on"
    assert page.key == ""
    assert page.services.history.find(page.caller).total == 0
    assert texts.STOPPED_EARLY in last(rest, page.tab.line)


async def test_closing_the_page_keeps_what_was_written(chat):
    """F1, P6: the part that was there is in the history afterwards."""
    page = chat("word " * 200, pause=0.01)
    updates = page.ask("Go on")
    await until(page, updates, "word")
    await updates.aclose()
    for _ in range(500):
        if page.services.history.find(page.caller).total:
            break
        await asyncio.sleep(0.01)
    kept = page.services.history.find(page.caller).summaries[0]
    assert page.services.history.get(page.caller, kept.id).path()[-1].stopped
    assert page.engine.running == 0


async def test_opening_another_conversation_lets_the_answer_end_there(chat):
    """F1: nothing is lost, and the page is not torn back to it."""
    page = chat("word " * 30 + "end", pause=0.01)
    other = page.services.history.begin(page.caller, title="Other", system="Be brief.")
    await page.says("One", max_new_tokens=1)
    mine = page.conversation.id
    updates = page.ask("Two")
    await until(page, updates, "word")
    drawn = await page.draws(Open(other.id, "", other.revision).key)
    assert drawn[page.side.settings.widgets["system_prompt"]] == "Be brief."
    rest = [update async for update in updates]
    assert all(page.opened.key not in update for update in rest)
    assert not [update for update in rest if ">Two<" in update.get(page.tab.bubbles.stored, "")]
    assert last(rest, page.tab.bubbles.live) == ""
    assert last(rest, page.tab.send)["visible"] is True
    for _ in range(500):
        if len(page.services.history.get(page.caller, mine).turns) == 4:
            break
        await asyncio.sleep(0.01)
    assert page.services.history.get(page.caller, mine).path()[-1].content.endswith("end")


@pytest.mark.parametrize("message", ["New", "Other"])
async def test_a_first_answer_is_left_for_another_conversation_and_kept_in_its_own(chat, message):
    """F1, I6: New conversation while the first answer is written; nothing of it is shown in what is open then."""
    page = chat("word " * 30 + "end", pause=0.01)
    other = page.services.history.begin(page.caller, title="Other")
    updates = page.ask("One")
    await until(page, updates, "word")
    if message == "New":
        blank = page._take(page.tab._begin_new(page.visitor, page.key))
        assert 'class="chat-empty"' in blank[page.tab.bubbles.stored]
        assert blank[page.tab.bubbles.live] == blank[page.opened.awaited] == ""
    else:
        await page.draws(Open(other.id, "", other.revision).key)
    rest = [update async for update in updates]
    assert not [update for update in rest if "One" in update.get(page.tab.bubbles.stored, "")]
    assert not [update for update in rest if update.get(page.tab.bubbles.live)]
    assert all(page.opened.key not in update for update in rest)
    assert last(rest, page.tab.send)["visible"] is True
    for _ in range(500):
        if page.services.history.find(page.caller).total == 2:
            break
        await asyncio.sleep(0.01)
    kept = next(row.id for row in page.services.history.find(page.caller).summaries if row.id != other.id)
    assert page.services.history.get(page.caller, kept).path()[-1].content.endswith("end")


async def test_what_is_written_into_a_conversation_that_is_deleted_here_is_stopped(chat):
    """F1: nothing goes on for nobody, and nothing is said to be kept."""
    page = chat("word " * 500, pause=0.01)
    await page.says("One", max_new_tokens=1)
    updates = page.ask("Two")
    await until(page, updates, "word")
    page.services.history.delete(page.caller, page.conversation.id)
    await page.draws("")
    rest = [update async for update in updates]
    assert texts.MOVED_ON not in str(rest)
    assert last(rest, page.tab.draft) == "Two"  # what was asked is not lost with it
    assert "error-line" in last(rest, page.tab.line)
    for _ in range(200):
        if page.engine.running == 0:
            break
        await asyncio.sleep(0.01)
    assert page.engine.running == 0
    assert page.services.history.find(page.caller).total == 0


async def test_an_update_of_its_own_conversation_is_not_drawn_over_what_is_being_written(chat):
    """F1: two tabs on one conversation; the bubbles wait until this answer has ended."""
    page = chat("word " * 60, pause=0.01)
    await page.says("One", max_new_tokens=1)
    updates = page.ask("Two")
    await until(page, updates, "word")
    shown = Open.parse(page.key)
    drawn = await page.draws(Open(shown.conversation, shown.leaf, shown.revision + 1).key)
    assert page.tab.bubbles.stored not in drawn
    page.tab._stop(page.visitor)
    rest = [page._take(update) async for update in updates]
    assert "Two" in page.bubbles(rest)


async def test_what_another_part_of_the_page_opens_is_drawn_once(chat):
    """I6: what is generated in the Playground is seen here; what this tab has drawn itself is not drawn again."""
    page = chat("Yes.")
    await page.says("One")
    assert page.tab.bubbles.stored not in await page.draws()
    edited = page.services.history.edit(page.caller, page.conversation.id, page.conversation.leaf, "No.")
    drawn = await page.draws(page.opened.shows(edited)[page.opened.key])
    assert "No." in drawn[page.tab.bubbles.stored]
    assert page.side.settings.widgets["system_prompt"] not in drawn, "what is typed there stays"


async def test_a_conversation_that_was_deleted_elsewhere_is_said_so(chat, toasts):
    """F1, I6: sending from a page that still shows it; nothing is made anew under its name."""
    page = chat("Yes.")
    await page.says("One")
    page.services.history.delete(page.caller, page.conversation.id)
    updates = await page.says("Two")
    assert last(updates, page.tab.draft) == "Two"
    assert "error-line" in last(updates, page.tab.line)
    assert len(toasts) == 1
    assert len(page.engine.requests) == 1
    assert page.services.history.find(page.caller).total == 0


async def test_clear_deletes_the_open_conversation_and_undo_brings_it_back(chat):
    """I6: Clear wipes both views; every destructive action can be undone."""
    page = chat("Yes.")
    await page.says("One")
    gone = page.conversation
    cleared = page._take(await page.tab._clear(page.visitor, page.key, page.look))
    assert page.key == ""
    assert texts.HISTORY_CLEARED in cleared[page.tab.line]
    assert page.services.history.find(page.caller).total == 0
    back = page._take(await page.tab._undo(page.visitor, page.key, page.look, cleared[page.tab.deleted]))
    assert page.conversation.turns == gone.turns
    assert "One" in back[page.tab.bubbles.stored]


async def test_nothing_is_sent_without_words(chat):
    """F1: an empty composer asks nobody."""
    page = chat("Yes.")
    updates = await page.says("  \n ")
    assert texts.EMPTY_MESSAGE in last(updates, page.tab.line)
    assert page.engine.requests == []


async def test_nobody_reads_or_changes_somebody_elses_conversation(chat, toasts, monkeypatch):
    """F2: a page may lie about ids; whose it is is checked each time."""
    page = chat("Yes.")
    monkeypatch.setattr(page.services.history, "owner", lambda caller: caller.id)
    await page.says("Secret")
    secret, leaf = page.conversation.id, page.conversation.leaf
    page.visitor = SimpleNamespace(session_hash="two")
    page.look = Look().text
    assert "Secret" not in str(await page.draws())
    for act in ("edit", "thumb", "branch", "switch", "provenance", "save"):
        update = await page.does(act, leaf, "Mine", "1")
        assert "error-line" in update[page.tab.line]
        assert not update[page.tab.handed]
    await page.says("Mine")
    await page.says(act="continue", turn=leaf)
    assert len(page.engine.requests) == 1
    assert len(page.services.history.get(Caller("guest one", "guest"), secret).turns) == 2


async def test_whatever_a_page_sends_as_a_button_is_answered_with_a_sentence(chat, toasts):
    """S3: a page's routes can be called with anything."""
    page = chat("Yes.")
    for value in (None, 5, "x", [], {}, {"act": {"a": 1}}, {"act": "drop", "turn": ["x"]}):
        event = gr.EventData(None, {"value": value})
        assert "error-line" in (await page.tab._act(page.visitor, event, "[1,2", "{"))[page.tab.line]


async def test_each_request_is_counted_once(chat, monkeypatch):
    """S2: the rate limit is asked once for an exchange."""
    page = chat("Yes.")
    asked = []
    monkeypatch.setattr(page.tab.answers, "_limits", SimpleNamespace(admit=asked.append))
    await page.says("One")
    await page.says(act="regenerate", turn=page.conversation.leaf)
    assert len(asked) == 2


async def test_the_edge_tells_who_answers_next_and_how_full_the_context_is(chat):
    """F1, P2: the picker's choice, and the whole conversation with the draft, once the model is in memory."""
    page = chat("Yes.")
    choice = ("starter", texts.NO_ADAPTER, "auto", 1.0)
    who, meter = await page.tab.edge.look(page.visitor, None, "Hi", None, page.key, None, *choice)
    assert "starter (base)" in who
    assert "%" not in meter
    await page.says("One")
    _, meter = await page.tab.edge.look(page.visitor, "", "Hi", "", page.key, "", *choice)
    assert "of the context" in meter
    _, meter = await page.tab.edge.look(page.visitor, "", "Hi " * 200_000, "", page.key, "", *choice)
    assert "too long" in meter
    unknown = ("Hi", "", page.key, "", "starter", "no-such", "auto", 1.0)
    who, _ = await page.tab.edge.look(page.visitor, "", *unknown)
    assert "error-line" in who
    said = composer_line(html.unescape(who.split(">")[1].split("<")[0]), "error")
    assert await page.tab.edge.look(page.visitor, said, *unknown) == ("", context_meter(None))
