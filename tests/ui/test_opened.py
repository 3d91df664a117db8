"""What a page has open: its key, what a reload brings back, and how it follows what is added elsewhere."""

from __future__ import annotations

import dataclasses
import json
from types import SimpleNamespace

import gradio as gr
import pytest

from playground.config import AppConfig
from playground.conversation import Conversation, Turn
from playground.services.history import History
from playground.store import Store
from playground.types import Caller
from playground.ui.opened import Open, Opened

pytestmark = pytest.mark.anyio
ANNA, BERT = Caller("user anna", "user"), Caller("user bert", "user")


@pytest.fixture
def history(config: AppConfig) -> History:
    return History(Store.in_memory(), dataclasses.replace(config, auth=(("anna", "x"), ("bert", "y"))))


@pytest.fixture
def opened(history: History) -> Opened:
    return Opened(history)


def turn(name: str, parent: str = "", role: str = "user") -> Turn:
    return Turn(name, parent, role, f"This is {name}.", 1.0)  # type: ignore[arg-type]


@pytest.fixture
def talk(history: History) -> Conversation:
    """One question and its answer, Anna's."""
    begun = history.begin(ANNA)
    return history.append(ANNA, begun.id, [turn("u1"), turn("a1", "u1", "assistant")])


def key_of(conversation: Conversation, leaf: str | None = None) -> str:
    return Open(conversation.id, conversation.leaf if leaf is None else leaf, conversation.revision).key


@pytest.mark.parametrize(
    "key", [None, "", "x", "[]", "{}", "[1, 2, 3]", '["a", "b"]', '["a", "b", "1"]', '["a", "b", true]', "[" * 100_000]
)
def test_a_key_that_no_page_of_ours_wrote_opens_nothing(key, opened):
    """S2: the page holds it, so it may say anything."""
    assert Open.parse(key) == Open()
    assert opened.followed(ANNA, key or "") == ""


def test_a_key_is_read_as_it_was_written():
    """P6: ids with slashes, spaces, quotes and Unicode too."""
    there = Open('a/b "ü" 日本', "leaf", 7)
    assert Open.parse(there.key) == there
    assert Open().key == ""


async def test_a_reload_brings_back_what_was_open_as_it_is_now(opened, history, talk):
    """P6, I6: with what was kept of an answer that the reload stopped; a page without a gate is a guest of its own."""
    visitor = SimpleNamespace(session_hash="s")
    guest = Caller("guest s", "guest")
    begun = history.append(guest, history.begin(guest).id, [turn("u1")])
    history.append(guest, begun.id, [turn("a1", "u1", "assistant")])
    restored = Open.parse(await opened._restored(visitor, key_of(begun), ""))
    assert (restored.conversation, restored.leaf) == (begun.id, "a1")
    assert await opened._restored(visitor, key_of(talk), "") == ""  # Anna's


def test_a_page_follows_what_is_added_at_the_end_of_what_it_shows(opened, history, talk):
    """I6: another tab asks on; with nothing new the key stays as it is."""
    assert opened.followed(ANNA, key_of(talk)) == key_of(talk)
    longer = history.append(ANNA, talk.id, [turn("u2", "a1"), turn("a2", "u2", "assistant")])
    assert opened.followed(ANNA, key_of(talk)) == key_of(longer)
    assert Open.parse(key_of(longer)).leaf == "a2"


def test_a_page_on_another_path_stays_there_and_learns_only_that_something_changed(opened, history, talk):
    """F1: somebody regenerates elsewhere; who reads the first version goes on reading it."""
    other = history.append(ANNA, talk.id, [turn("b1", "u1", "assistant")])
    followed = Open.parse(opened.followed(ANNA, key_of(talk)))
    assert (followed.leaf, followed.revision) == ("a1", other.revision)
    assert other.leaf == "b1"


def test_a_leaf_that_is_not_there_gives_way_to_the_open_path(opened, talk):
    """S2: an invented or forgotten leaf shows nothing that is not there."""
    assert Open.parse(opened.followed(ANNA, key_of(talk, "invented"))).leaf == talk.leaf


def test_what_was_deleted_elsewhere_or_is_somebody_elses_is_not_open(opened, history, talk):
    """F2, S2: the page is left with nothing open; a stranger's forged key too."""
    assert opened.followed(BERT, key_of(talk)) == ""
    assert opened.followed(BERT, "", talk.id) == ""
    history.delete(ANNA, talk.id)
    assert opened.followed(ANNA, key_of(talk)) == ""


def test_a_new_conversation_opens_on_the_page_that_was_loaded_again_while_its_first_answer_was_written(
    opened, history, talk
):
    """I6: as soon as it is kept; what is open already is not put aside for it."""
    assert opened.followed(ANNA, "", "not-yet-there") == ""
    assert opened.followed(ANNA, "", talk.id) == key_of(talk)
    other = history.begin(ANNA)
    assert Open.parse(opened.followed(ANNA, key_of(other), talk.id)).conversation == other.id


async def test_what_is_shown_is_named_by_conversation_leaf_and_revision(opened, talk):
    """I6: for whoever opens one, at its own leaf or at another, or closes it."""
    with gr.Blocks(analytics_enabled=False):
        opened.render()
    assert json.loads(opened.shows(talk)[opened.key]) == [talk.id, talk.leaf, talk.revision]
    assert json.loads(opened.shows(talk, "u1")[opened.key])[1] == "u1"
    assert opened.shows(None)[opened.key] == ""
    assert opened.awaits("x") == {opened.awaited: "x"}
