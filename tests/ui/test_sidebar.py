"""The sidebar's handlers over real services, without a server: what is asked, what is done, and what a page is sent."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import gradio as gr
import pytest

from playground.config import AppConfig
from playground.conversation import Conversation, Query, Reply, Turn
from playground.services.assembly import Services
from playground.services.history import EXPORT_FORMATS
from playground.types import Caller, ModelSpec
from playground.ui.opened import Open, Opened
from playground.ui.sidebar import MOST_ROWS, Asked, Sidebar
from tests.ui.fake_engine import FakeEngine
from tests.ui.page import seen_by_the_gate

pytestmark = pytest.mark.anyio
ANNA, BERT = Caller("user anna", "user", "anna"), Caller("user bert", "user", "bert")


class Room:
    """A sidebar over an empty history, and what its handlers send; ``shown`` is what the page shows by now."""

    def __init__(self, config: AppConfig) -> None:
        self.services = Services.over(FakeEngine(), config)
        self.history = self.services.history
        self.opened = Opened(self.history)
        self.bar = Sidebar(config, self.services, self.opened)
        with gr.Blocks(analytics_enabled=False) as demo:
            self.opened.render()
            self.bar.render()
            self.opened.listen(demo)
            self.timer = gr.Timer()
            self.bar.listen(demo, self.timer)
        self.demo = demo

    def talk(self, prompt: str, caller: Caller = ANNA, adapter: str = "", use_case: str = "chatbot") -> Conversation:
        """A conversation of one question and its answer."""
        spec = ModelSpec("starter", adapters=((adapter, 1.0),) if adapter else ())
        turns = [Turn("u", "", "user", prompt, 1.0), Turn("a", "u", "assistant", "Aye.", 1.0, Reply(spec, "stop"))]
        return self.history.append(caller, self.history.begin(caller, use_case=use_case).id, turns)

    async def look(self, caller: Caller = ANNA, key: str = "", **asked: Any) -> dict[str, str]:
        """What `_look` sends that page: html of list and filters, and news; without what it leaves as it is."""
        return self._sent(await self.bar._look(seen_by_the_gate(caller), json.dumps(asked), key))

    async def act(
        self, do: str, caller: Caller = ANNA, key: str = "", deleted: tuple[Any, ...] = (), **more: Any
    ) -> dict[str, Any]:
        """What `_act` sends."""
        event = gr.EventData(None, {"value": {"do": do, "asked": "{}", **more}})
        return self._sent(await self.bar._act(seen_by_the_gate(caller), event, key, deleted))

    def _sent(self, updates: dict[Any, Any]) -> dict[str, Any]:
        bar = self.bar
        names = {
            bar.filters: "filters", bar.list: "list", bar.news: "news", bar.said: "said", bar.deleted: "deleted",
            bar.file: "file", self.opened.key: "key",
        }  # fmt: skip
        return {names[place]: value for place, value in updates.items() if value != gr.skip()}


@pytest.fixture
async def room(config: AppConfig) -> Room:
    return Room(dataclasses.replace(config, auth=(("anna", "x"), ("bert", "y"))))


def key_of(conversation: Conversation) -> str:
    return Open(conversation.id, conversation.leaf, conversation.revision).key


@pytest.mark.parametrize(
    "text", [None, "", "x", "[]", "3", '{"limit": "many"}', '{"limit": 1e999}', '{"minutes": []}', "[" * 100_000]
)
def test_what_no_page_of_ours_asks_is_a_list_of_everything(text):
    """S2: the page holds what it looks for, so it may say anything."""
    assert Asked.parse(text) == Asked()


def test_a_page_cannot_ask_for_more_rows_than_there_may_be():
    """S2: nor for fewer than one."""
    assert Asked.parse('{"limit": 1000000000}').query.limit == MOST_ROWS
    assert Asked.parse('{"limit": -5}').query.limit == 1
    assert Asked.parse(json.dumps({"text": "x" * 9999})).query.text == "x" * 500


async def test_a_list_is_sent_once_and_again_when_it_has_changed(room):
    """P6: a page says by a mark what it shows; nothing is sent twice."""
    room.talk("The sea")
    first = await room.look()
    assert "The sea" in first["list"]
    marks = {"mark": _mark(first["list"]), "filters_mark": _mark(first["filters"])}
    assert await room.look(**marks) == {}
    room.talk("The moon")
    assert set(await room.look(**marks)) == {"list"}


def _mark(html: str) -> str:
    return html.split('data-mark="')[1].split('"')[0]


async def test_search_and_filters_narrow_the_list(room):
    """P6: words in titles and answers; the adapter; the use case under its label."""
    room.talk("The sea", adapter="pirate")
    room.talk("A list", use_case="code_generation")
    assert "A list" not in (await room.look(text="sea"))["list"]
    assert "The sea" in (await room.look(text="AYE sea"))["list"]
    assert "A list" not in (await room.look(adapter="pirate"))["list"]
    narrowed = await room.look(use_case="code_generation")
    assert "The sea" not in narrowed["list"]
    assert ">Code Generation</option>" in narrowed["filters"]
    assert "No conversation fits" in (await room.look(text="nowhere"))["list"]


async def test_everybody_sees_their_own_and_nobody_elses(room):
    """F2, S2: list, search, opening, renaming, deleting, exporting, whatever id the page sends."""
    talk = room.talk("Anna's secret")
    assert "secret" not in str(await room.look(BERT))
    assert "secret" not in str(await room.look(BERT, text="secret"))
    for action in ("open", "rename", "delete", "export"):
        sent = await room.act(action, BERT, id=talk.id, title="Mine", format="json")
        assert "no such conversation" in sent["said"]
        assert "secret" not in str(sent)
        assert not set(sent) & {"key", "deleted", "file"}
    await room.act("delete-all", BERT)
    assert room.history.get(ANNA, talk.id) == talk


async def test_a_caller_without_a_history_is_told_so(room):
    """F2: in the list's place, in a sentence."""
    sent = await room.look(Caller("address 10.0.0.7", "address", address="10.0.0.7"))
    assert "sign in" in sent["list"]


async def test_a_click_opens_and_new_closes(room):
    """P6: the key that all tabs draw."""
    talk = room.talk("The sea")
    assert (await room.act("open", id=talk.id))["key"] == key_of(talk)
    assert (await room.act("new", key=key_of(talk)))["key"] == ""


async def test_a_title_is_changed_and_an_empty_one_brings_back_the_first_words(room):
    """P6: the open one's key gets the new revision; another one's stays."""
    talk, other = room.talk("The sea"), room.talk("The moon")
    sent = await room.act("rename", key=key_of(talk), id=talk.id, title="  Wide <water> ")
    assert "Wide &lt;water&gt;" in sent["list"]
    assert Open.parse(sent["key"]).revision == talk.revision + 1
    assert "key" not in await room.act("rename", key=key_of(other), id=talk.id, title="")
    assert room.history.get(ANNA, talk.id).shown_title == "The sea"
    assert "200" in (await room.act("rename", id=talk.id, title="x" * 201))["said"]


async def test_a_deleted_conversation_comes_back_as_it_was(room):
    """P6: deleted at once; Undo brings it back and opens it, and can be pressed once."""
    talk = room.talk("The sea")
    sent = await room.act("delete", key=key_of(talk), id=talk.id)
    assert 'data-sidebar="undo"' in sent["said"]
    assert "Deleted “The sea”." in sent["said"]
    assert sent["key"] == ""
    assert "will stand here" in sent["list"]
    back = await room.act("undo", deleted=sent["deleted"])
    assert back["key"] == key_of(talk)
    assert back["deleted"] == ()
    assert room.history.get(ANNA, talk.id) == talk
    assert "no longer" in (await room.act("undo", deleted=()))["said"]


async def test_undo_stays_until_something_else_could_be_undone(room):
    """P6: opening another conversation leaves the line; renaming takes it away, as it does any older news."""
    talk = room.talk("The sea")
    assert "said" not in await room.act("open", id=talk.id, undo=True)
    assert (await room.act("open", id=talk.id))["said"] == ""
    assert (await room.act("rename", id=talk.id, title="x", undo=True))["said"] == ""


async def test_deleting_another_conversation_leaves_the_open_one_open(room):
    """P6: whatever is shown stays shown."""
    talk, other = room.talk("The sea"), room.talk("The moon")
    assert "key" not in await room.act("delete", key=key_of(talk), id=other.id)


async def test_delete_all_asks_how_many_first_and_can_be_undone(room):
    """P6: the question deletes nothing; Keep takes it away; the others' stay."""
    theirs = room.talk("Bert's", BERT)
    talks = [room.talk("The sea"), room.talk("The moon")]
    assert "Deletes 2 conversations" in (await room.act("ask-delete-all"))["said"]
    assert (await room.act("keep"))["said"] == ""
    assert room.history.find(ANNA, Query()).total == 2
    sent = await room.act("delete-all", key=key_of(talks[0]))
    assert (sent["key"], len(sent["deleted"])) == ("", 2)
    assert room.history.find(ANNA, Query()).total == 0
    assert room.history.get(BERT, theirs.id) == theirs
    assert "Brought back 2 conversations" in (await room.act("undo", deleted=sent["deleted"]))["said"]
    assert [room.history.get(ANNA, talk.id) for talk in talks] == talks


@pytest.mark.parametrize("form", EXPORT_FORMATS)
async def test_what_is_exported_can_be_imported(room, form):
    """P6: one conversation or all, in each of the formats, handed to the browser as text."""
    talk = room.talk("The sea")
    room.talk("The moon")
    name, text = json.loads((await room.act("export", id=talk.id, format=form))["file"])
    assert "The sea" in text
    assert "The moon" not in text
    assert "The moon" in json.loads((await room.act("export", format=form))["file"])[1]
    sent = await room.act("import", name=name, text=text)
    assert "Imported 1 conversation" in sent["said"]
    new = room.history.get(ANNA, Open.parse(sent["key"]).conversation)
    assert new.id != talk.id
    assert [turn.content for turn in new.path()] == ["The sea", "Aye."]
    assert room.history.find(ANNA, Query()).total == 3


async def test_files_that_cannot_be_taken_in_are_refused_in_a_sentence(room):
    """P6: too large, or nothing of ours; nothing is stored."""
    assert "40.0 MB, and 30 MB are taken" in (await room.act("import", name="<big>.json", bytes=40_000_000))["said"]
    assert "error-line" in (await room.act("import", name="x.json", text="{"))["said"]
    assert "error-line" in (await room.act("export", format="exe"))["said"]
    assert room.history.find(ANNA, Query()).total == 0


@pytest.mark.parametrize("wish", [None, 7, "open", [], {"do": 3}, {"do": "format the disk"}, {"do": "open", "id": {}}])
async def test_an_action_that_no_page_of_ours_asks_for_is_refused(room, wish):
    """S2: events can be sent by anybody who may open the page."""
    event = gr.EventData(None, {"value": wish})
    assert "error-line" in room._sent(await room.bar._act(seen_by_the_gate(ANNA), event, "", ()))["said"]


async def test_a_bug_is_logged_and_told_in_one_sentence(room, caplog, monkeypatch):
    """F2: not its traceback."""
    monkeypatch.setattr(room.history, "delete", lambda *_: 1 / 0)
    sent = await room.act("delete", id="x")
    assert "Something went wrong" in sent["said"]
    assert "ZeroDivisionError" in caplog.text


async def test_a_tick_tells_what_was_added_and_what_is_gone_in_one_request(room):
    """I6: follow and list come together; a page that has gone on meanwhile can tell that it is not meant."""
    talk = room.talk("The sea")
    longer = room.history.append(ANNA, talk.id, [Turn("u2", "a", "user", "And?", 1.0)])
    sent = await room.look(key=key_of(talk))
    assert {"list", "news"} <= set(sent)
    assert json.loads(sent["news"])[:3] == [key_of(talk), key_of(longer), ""]
    room.history.delete(ANNA, talk.id)
    before, now, line, _ = json.loads((await room.look(key=key_of(longer)))["news"])
    assert (before, now) == (key_of(longer), "")
    assert "deleted elsewhere" in line
    assert "news" not in await room.look()


async def test_an_open_page_sends_one_request_at_each_tick(room):
    """I6: what is added, what is gone and what is listed come with one light one, which waits in no line."""
    ticks = [fn for fn in room.demo.fns.values() if any(target[0] == room.timer._id for target in fn.targets)]
    assert len(ticks) == 1
    assert not ticks[0].queue


async def test_a_page_that_waits_for_a_new_conversation_gets_it_when_it_is_there(room):
    """I6: after a reload in the middle of a first answer."""
    assert "news" not in await room.look(awaited="not-yet")
    talk = room.talk("The sea")
    assert json.loads((await room.look(awaited=talk.id))["news"])[:2] == ["", key_of(talk)]


@pytest.mark.parametrize(("shared", "address", "told"), [(False, "127.0.0.1", True), (True, "127.0.0.1", False),
                                                         (False, "203.0.113.9", False)])  # fmt: skip
async def test_where_the_file_is_stands_only_where_the_machine_is_ones_own(
    config, tmp_path: Path, monkeypatch, shared, address, told
):
    """F2, S2: path and what was found in it are not told on a shared server, nor to whom a proxy has let in."""
    room = Room(dataclasses.replace(config, free_paths=not shared))
    monkeypatch.setattr(type(room.history._store), "path", tmp_path / "history.json")
    room.history._store.notices = ("A file was set aside.",)
    foot = room.bar._foot(seen_by_the_gate(Caller("guest 1", "guest", address=address)))
    assert (str(tmp_path) in foot) == told
    assert ("set aside" in foot) == told
    assert 'data-sidebar="import"' in foot
