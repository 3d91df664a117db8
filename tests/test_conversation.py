"""F1: a conversation is a tree: nothing that was said is overwritten, and every path through it can be opened."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from playground.conversation import (
    UNTITLED,
    Conversation,
    Reply,
    Turn,
    new_id,
    short_title,
    split_reasoning,
    without_reasoning,
)
from playground.errors import InvalidRequest, NotFound
from playground.types import ModelSpec, Role
from tests.made_conversations import NOW, conversations

QUICK = settings(max_examples=25, deadline=None)


def said(turn_id: str, parent: str = "", role: Role = "user", content: str = "hi") -> Turn:
    return Turn(turn_id, parent, role, content, NOW)


def conversation(*turns: Turn, **changes: str) -> Conversation:
    return Conversation("c", "me", NOW, NOW, **changes).with_turns(turns, NOW)  # type: ignore[arg-type]


@QUICK
@given(conversations())
def test_every_path_begins_with_a_first_turn_and_each_turn_follows_the_one_before(made: Conversation) -> None:
    """F1."""
    for turn in made.turns:
        path = made.path(turn.id)
        assert [one.parent for one in path] == ["", *(one.id for one in path[:-1])]
        assert path[-1] == turn
    assert made.path("") == ()
    assert made.path() == made.path(made.leaf)


@QUICK
@given(conversations())
def test_versions_are_what_stands_beside_a_turn_itself_included(made: Conversation) -> None:
    """F1: the arrows go through all of them, oldest first, and lead to the same ones from each."""
    for turn in made.turns:
        beside = made.versions(turn.id)
        assert turn in beside
        assert {(one.parent, one.role) for one in beside} == {(turn.parent, turn.role)}
        assert all(made.versions(one.id) == beside for one in beside)
        assert list(beside) == [one for one in made.turns if one in beside]


@QUICK
@given(conversations())
def test_the_newest_path_through_a_turn_goes_through_it_to_an_end(made: Conversation) -> None:
    """F1: a switch to a version shows it with what was said after it last."""
    for turn in made.turns:
        leaf = made.newest_leaf(turn.id)
        assert turn in made.path(leaf)
        assert made.follows(leaf, turn.id)
        assert not [one for one in made.turns if one.parent == leaf]


@QUICK
@given(conversations(), st.data())
def test_what_is_added_is_open_and_nothing_else_has_changed(made: Conversation, data: st.DataObject) -> None:
    """F1: an edit, another answer and a continuation are turns beside the old ones."""
    parent = data.draw(st.sampled_from(["", *(turn.id for turn in made.turns)]))
    first, second = said("new 1", parent), said("new 2", "new 1", "assistant")
    grown = made.with_turns([first, second], NOW + 1)
    assert grown.turns == (*made.turns, first, second)
    assert grown.path() == (*made.path(parent), first, second)
    assert grown.updated_at == NOW + 1
    assert dataclasses.replace(grown, turns=made.turns, leaf=made.leaf, updated_at=made.updated_at) == made


def test_a_turn_follows_one_that_is_there_and_has_an_id_of_its_own() -> None:
    """F1: else no path would lead to it, or two."""
    there = conversation(said("a"))
    with pytest.raises(NotFound, match="no longer there"):
        there.with_turns([said("b", "gone")], NOW)
    for turn_id in ("a", ""):
        with pytest.raises(InvalidRequest, match="id of its own"):
            there.with_turns([said(turn_id, "a")], NOW)
    with pytest.raises(InvalidRequest):
        there.with_turns([said("b", "a"), said("b", "a")], NOW)
    assert there.with_turns([], NOW).leaf == "a"


def test_a_turn_that_is_not_there_is_said_to_be_gone() -> None:
    """F1: another tab may have deleted and written it anew."""
    there = conversation(said("a"))
    for look in (there.turn, there.path, there.versions):
        with pytest.raises(NotFound, match="Reload the page"):
            look("gone")
    with pytest.raises(NotFound):
        there.with_turn(said("gone"))


def test_a_judged_answer_is_the_same_turn_in_its_place() -> None:
    """F1: thumbs change a turn, not the tree."""
    there = conversation(said("a"), said("b", "a", "assistant"), said("c", "b"))
    judged = there.with_turn(dataclasses.replace(there.turn("b"), thumb=1))
    assert [turn.id for turn in judged.turns] == ["a", "b", "c"]
    assert [turn.thumb for turn in judged.turns] == [0, 1, 0]
    assert judged.leaf == there.leaf


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", (None, "", True)),
        ("An answer.", (None, "An answer.", True)),
        ("<think>so</think>yes", ("so", "yes", True)),
        ("<think>\nso\n\nand so\n</think>\n\n  yes\n", ("so\n\nand so", "  yes\n", True)),
        ("\n <think>so</think>yes", ("so", "yes", True)),
        ("so\n</think>\n\nyes", ("so", "yes", True)),
        ("</think>yes", ("", "yes", True)),
        ("<think></think>yes", ("", "yes", True)),
        ("<think>so and", ("so and", "", False)),
        ("<think>", ("", "", False)),
        ("<thin", (None, "<thin", True)),
        ("a <think>b", (None, "a <think>b", True)),
        ("<think>a</think>b</think>c", ("a", "b</think>c", True)),
    ],
)
def test_reasoning_is_what_stands_before_the_answer(text: str, expected: tuple[str | None, str, bool]) -> None:
    """F1: with both marks, with the closing one alone (the prompt held the other), unclosed while it streams, with none."""
    assert split_reasoning(text) == expected
    assert without_reasoning(text) == expected[1]


@QUICK
@given(st.text(max_size=20), st.text(max_size=20), st.booleans())
def test_what_comes_after_the_reasoning_comes_whole(thought: str, answer: str, opened: bool) -> None:
    """F1: of the answer only the line breaks before its first line are left out."""
    thought = thought.replace("<", "")
    text = ("<think>" if opened else "") + thought + "</think>\n\n" + answer
    assert split_reasoning(text) == (thought.strip(), answer.lstrip("\n"), True)


def test_a_long_text_is_split_in_no_time() -> None:
    """F1: the split is done for every event of a stream, so it must not look at a text twice for each character."""
    text = "\n" * 200_000 + "<think" + "<think>" * 50_000
    assert split_reasoning(text) == (None, text, True)


def test_a_title_is_the_beginning_of_what_was_said_first() -> None:
    """P6: until a person gives another."""
    assert conversation().shown_title == UNTITLED
    there = conversation(said("s", "", "system", "rules"), said("a", "s", content="  What is\n a  LoRA? "))
    assert there.shown_title == "What is a LoRA?"
    assert dataclasses.replace(there, title="Adapters").shown_title == "Adapters"


@QUICK
@given(st.text(max_size=200))
def test_a_short_title_is_one_line_of_sixty_characters_at_most(text: str) -> None:
    """P6."""
    title = short_title(text)
    assert len(title) <= 61
    assert title == " ".join(title.split())
    assert title == " ".join(text.split()) or title.endswith("…")


def test_a_long_title_is_cut_between_words_where_there_are_some() -> None:
    """P6."""
    assert short_title("word " * 30) == "word " * 11 + "word…"
    assert short_title("x" * 100) == "x" * 60 + "…"


def test_an_answer_says_which_model_and_adapters_at_which_strength() -> None:
    """F1: on each bubble; the adapter may change from one to the next."""
    plain = Reply(ModelSpec("starter"), "stop")
    mixed = Reply(ModelSpec("starter", (("pirate", 1.0), ("json", 0.5))), "cancelled")
    assert (plain.model_id, plain.label) == ("starter", "starter")
    assert (mixed.model_id, mixed.label) == ("starter:pirate:json@0.5", "starter + pirate + json ×0.5")
    answers = [
        Turn("b", "a", "assistant", "1", NOW, reply=plain),
        Turn("c", "b", "assistant", "2", NOW, reply=mixed),
        Turn("d", "c", "assistant", "3", NOW, model_id="theirs"),
    ]
    there = conversation(said("a"), *answers)
    assert [turn.answered_by for turn in there.turns] == ["", "starter", "starter:pirate:json@0.5", "theirs"]
    assert [turn.stopped for turn in there.turns] == [False, False, True, False]
    assert there.model_id == "theirs"
    assert dataclasses.replace(there, leaf="b").model_id == "starter"
    assert dataclasses.replace(there, leaf="a").model_id == ""


def test_the_messages_that_are_counted_are_those_that_are_shown() -> None:
    """A1: the system prompt and the open path, no other versions."""
    there = conversation(said("a"), said("b", "a", "assistant"), said("b2", "a", "assistant"), system="Be brief.")
    assert there.message_count == 3
    assert dataclasses.replace(there, system="  ").message_count == 2
    assert conversation().message_count == 0


def test_ids_are_made_anew_each_time() -> None:
    """F2: so that two tabs, or two processes, never make the same."""
    assert len({new_id() for _ in range(1000)}) == 1000
