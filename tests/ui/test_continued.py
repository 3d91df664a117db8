"""The Playground on a conversation, without a server: what is sent, what is kept, and what the page then shows."""

from __future__ import annotations

import asyncio
import json
from types import SimpleNamespace
from typing import Any

import pytest

from playground.conversation import Conversation
from playground.errors import HistoryUnavailable
from playground.types import Caller
from playground.ui import texts
from playground.ui.opened import Open
from playground.ui.views.said import messages
from tests.ui.fake_engine import FakeEngine
from tests.ui.page import Page, begun, collected, last

pytestmark = pytest.mark.anyio  # all of them: outside of a running loop Gradio makes one and never closes it

SOMEBODY = SimpleNamespace(session_hash="somebody")
ME = Caller("guest somebody", "guest")


def all_of(page: Page) -> list[Conversation]:
    history = page.services.history
    return [history.get(ME, one.id) for one in history.find(ME).summaries]


def sent(engine: FakeEngine) -> list[str]:
    """The messages of the last request."""
    return [message.content for message in engine.requests[-1].messages]


async def said(page: Page, prompt: str, key: str = "", **changes: Any) -> str:
    """Ask; the key of what is open then."""
    updates = await collected(page.run(prompt, key=key, **changes))
    opened: str = last(updates, page.opened.key)
    return opened


async def follow(
    page: Page, key: str, drawn: str = "", stage: str = "done", run: Any = None, brought: str = "", system: str = ""
) -> dict[Any, Any]:
    updates: dict[Any, Any] = await page.tab.following._followed(
        SOMEBODY, key, drawn, stage, run, "chat", brought, system
    )
    return updates


async def test_the_chat_template_sends_what_was_said_and_the_others_the_prompt_alone_and_all_is_kept(config):
    """P6: Chat sends the open conversation; Instruction and Raw do not; each is a turn of it."""
    engine = FakeEngine("One two three.")
    page = Page(engine, config)
    key = await said(page, "Hi")
    key = await said(page, "And then?", key)
    assert sent(engine) == ["Hi", "One two three.", "And then?"]
    key = await said(page, "Alone", key, template="raw")
    assert sent(engine) == ["Alone"]
    (kept,) = all_of(page)
    assert [turn.content for turn in kept.path()][::2] == ["Hi", "And then?", "Alone"]
    replies = [turn.reply for turn in kept.path() if turn.reply]
    assert [(reply.template, reply.alone) for reply in replies] == [("chat", False), ("chat", False), ("raw", True)]
    assert Open.parse(key).leaf == kept.leaf


async def test_only_a_prompt_of_the_chat_template_is_cleared(config):
    """P6, P2: the turn is kept, so the field is free for the next one; under the others the same is tried again."""
    page = Page(FakeEngine(), config)
    updates = await collected(page.run("Hi"))
    assert json.loads(last(updates, page.tab.area.sent))[1] == "Hi"
    for template in ("instruction", "raw"):
        assert not any(page.tab.area.sent in update for update in await collected(page.run("Hi", template=template)))


async def test_try_again_makes_another_version_of_the_last_answer(config):
    """P6, F1: the same prompt with what is chosen now; the first answer stays beside it."""
    engine = FakeEngine()
    page = Page(engine, config)
    key = await said(page, "Hi")
    engine.answer = "Four five."
    again = Open.parse(await said(page, "A draft", key, again=True))
    assert sent(engine) == ["Hi"]
    (kept,) = all_of(page)
    assert [turn.content for turn in kept.versions(again.leaf)] == ["One two three.", "Four five."]
    assert again.leaf == kept.leaf


async def test_a_failed_turn_leaves_the_history_as_it_was(config, toasts):
    """P6, I6: nothing is stored, and nothing on the page changes but the sentence."""
    page = Page(FakeEngine(), config)
    key = await said(page, "Hi")
    before = all_of(page)
    updates = await collected(page.run("word " * 600, key=key))
    assert 'data-state="error"' in last(updates, page.tab.area.status)
    assert all_of(page) == before
    assert not any(component in update for update in updates for component in (page.tab.area.sent, page.opened.key))


async def test_a_stopped_answer_is_kept_as_far_as_it_came_and_opened(config):
    """P6: the part stays, marked as stopped; the page then goes on from it."""
    page = Page(FakeEngine("word " * 100, pause=0.01), config)
    run, answer = await begun(page)
    await page.tab._stopped(answer)
    await run.aclose()
    settled = await page.tab._settled("stopped", answer)
    (kept,) = all_of(page)
    assert Open.parse(settled[page.opened.key]).leaf == kept.leaf
    assert kept.turn(kept.leaf).stopped
    assert kept.turn(kept.leaf).content.startswith("word")
    assert "stopped" in messages(kept.path())


async def test_what_a_reset_breaks_off_is_kept_as_well(config):
    """P2, P6: Reset clears what is shown; the conversation stays, with the part that was written."""
    page = Page(FakeEngine("word " * 100, pause=0.01), config)
    run, answer = await begun(page)
    cleared = await page.tab._reset("Hi", "", "", "", "", answer)
    await run.aclose()
    settled = await page.tab._settled("cleared", None, cleared[page.tab.before_reset])
    assert settled[page.tab.area.text] == texts.EMPTY_ANSWER
    assert Open.parse(settled[page.opened.key]).conversation == all_of(page)[0].id


async def test_a_conversation_that_is_opened_shows_its_last_answer_with_its_figures(config):
    """P6, G10: text, figures, provenance and a manifest that can be run again; its use case; its messages."""
    page = Page(FakeEngine(), config)
    key = await said(page, "Hi <b>")
    shown = await follow(page, key)
    assert shown[page.tab.area.text] == "One two three."
    assert "seed 7" in shown[page.tab.area.status]
    assert "starter (base)" in shown[page.tab.area.status]
    assert "What made this answer" in shown[page.tab.area.replays.made]
    assert shown[page.tab.area.answer].can_replay(0)
    assert shown[page.tab.cases.use_case] == "chatbot"
    assert "Continues" in shown[page.tab.continued.line]
    assert "(2 messages)" in shown[page.tab.continued.line]
    assert "Hi &lt;b&gt;" in shown[page.tab.continued.messages]
    assert shown[page.tab.again]["interactive"] is True
    cleared = await follow(page, "", shown[page.tab.area.drawn])
    assert cleared[page.tab.area.text] == texts.EMPTY_ANSWER
    assert texts.NEW_CONVERSATION in cleared[page.tab.continued.line]


async def test_the_system_prompt_of_a_conversation_goes_with_it_and_ones_own_comes_back(config):
    """P6: also after several; what was written meanwhile stays."""
    page = Page(FakeEngine(), config)
    kind = await said(page, "Hi", system_prompt="Be kind.")
    plain = await said(page, "Ho")
    field, brought = page.tab.panel.widgets["system_prompt"], page.tab.following.brought
    first = await follow(page, kind, system="Mine")
    assert first[field] == "Be kind."
    second = await follow(page, plain, first[page.tab.area.drawn], brought=first[brought], system="Be kind.")
    assert second[field] == ""
    new = await follow(page, "", "", brought=second[brought], system="")
    assert (new[field], new[brought]) == ("Mine", "")
    written = await follow(page, "", "", brought=second[brought], system="Written since")
    assert written[field] == "Written since"
    assert field not in await follow(page, "", system="Mine")


async def test_what_this_page_shows_already_is_not_drawn_again(config):
    """P5: no flicker after one's own answer, nor where a title changed; only the line and the messages follow."""
    page = Page(FakeEngine(), config)
    updates = await collected(page.run("Hi"))
    followed = await follow(page, last(updates, page.opened.key), last(updates, page.tab.area.drawn))
    assert set(followed) == set(page.tab.continued.outputs)


async def test_another_tabs_turn_on_the_same_conversation_is_shown_and_neither_is_lost(config):
    """P6: a run that was begun before keeps its turn as a version beside the other's."""
    engine = FakeEngine()
    page = Page(engine, config)
    key = await said(page, "Hi")
    for prompt in ("Mine", "Yours"):
        await said(page, prompt, key)
    (kept,) = all_of(page)
    first = Open.parse(key).leaf
    assert sorted(turn.content for turn in kept.turns if turn.parent == first) == ["Mine", "Yours"]


async def test_an_answer_whose_conversation_is_left_goes_on_unseen_and_is_kept(config):
    """P6: another conversation is shown at once, Generate is free, and nothing is lost."""
    engine = FakeEngine("word " * 20, pause=0.01)
    page = Page(engine, config)
    other = await said(page, "Other")
    updates, run = page.run("Hi"), None
    async for update in updates:
        run = update.get(page.tab.area.run, run)
        if update.get(page.tab.area.text):
            break
    shown = await follow(page, other, stage="running", run=run)
    assert shown[page.tab.area.generate]["visible"] is True
    assert json.loads(shown[page.tab.area.sent])[1] == "Hi"
    assert [update async for update in updates] == []
    last_word = await page.tab._settled(shown[page.tab.area.stage], shown[page.tab.area.answer])
    assert (
        last_word[page.tab.area.text] == shown[page.tab.area.text]
    )  # of what is open, whatever was on its way to the page
    assert last_word[page.tab.area.generate]["visible"] is True
    while page.tab._unseen:
        await asyncio.wait(page.tab._unseen)
        await asyncio.sleep(0)
    assert {one.shown_title for one in all_of(page)} == {"Hi", "Other"}
    (kept,) = (one for one in all_of(page) if one.shown_title == "Hi")
    assert not kept.turn(kept.leaf).stopped


async def test_the_counter_counts_what_was_said_before(config):
    """P2, P6: tokens of the prompt, and the share of the context with all that is sent; the preview shows it."""
    page = Page(FakeEngine(), config)
    key = await said(page, "Hi there")
    choice = ("starter", texts.NO_ADAPTER, "auto")
    counter, preview = await page.tab.size.look(SOMEBODY, "a b c", "chat", "", key, *choice)
    assert "3 tokens" in counter
    assert "6 of 512 tokens" in counter
    assert "Hi there" in preview
    alone, preview = await page.tab.size.look(SOMEBODY, "a b c", "raw", "", key, *choice)
    assert "3 of 512 tokens" in alone
    assert "Hi there" not in preview
    _, preview = await page.tab.size.look(SOMEBODY, "", "raw", "", key, *choice)
    assert texts.PREVIEW_EMPTY in preview


async def test_what_is_not_this_persons_is_not_shown(config):
    """P6, S2: the page may say any id; somebody else's conversation is as good as none."""
    page = Page(FakeEngine(), config)
    shown = await follow(page, Open("no such", "leaf", 1).key, drawn="something")
    assert shown[page.tab.area.text] == texts.EMPTY_ANSWER
    assert texts.NEW_CONVERSATION in shown[page.tab.continued.line]


async def test_an_answer_that_cannot_be_stored_is_shown_with_its_figures_and_says_so(config, monkeypatch):
    """P6, I6: a full disk loses nothing that is on the page; the prompt stays, and the history is as it was."""
    page = Page(FakeEngine(), config)

    def refuses(*_: Any, **__: Any) -> None:
        raise HistoryUnavailable("The disk is full.", "Make room.")

    monkeypatch.setattr(page.services.history, "append", refuses)
    with pytest.warns(UserWarning, match="disk is full"):  # a toast, where there is no page
        updates = await collected(page.run("Hi"))
    assert last(updates, page.tab.area.text) == "One two three."
    status = last(updates, page.tab.area.status)
    assert texts.NOT_KEPT.format(why="The disk is full. Make room.") in status
    assert "3 tokens" in status
    assert not any(update.get(page.tab.area.sent) for update in updates)
    assert all_of(page) == []
