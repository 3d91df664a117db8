"""Conversations and settings as JSON documents."""

from __future__ import annotations

import copy
import dataclasses
import json
import typing

import orjson
import pytest
from hypothesis import given, settings

from playground.conversation import Conversation, Reply, Turn
from playground.errors import InvalidRequest
from playground.store import records
from playground.store.outlines import outline
from playground.types import GenerationSettings
from tests.made_conversations import conversations
from tests.store.sayings import SETTINGS, reply, talk


def test_what_was_written_is_what_is_read_through_json():
    """F2, G10: tuples, settings, provenance and all."""
    said = talk("Hi", "Ahoy", "", "…", title="🙂", system="Ünïcode")
    document = json.loads(json.dumps(records.document(said)))
    assert records.conversation(document) == said
    assert document["turns"][1]["reply"]["model_id"] == "starter:pirate@0.5"
    assert records.settings(json.loads(json.dumps(records.settings_document(SETTINGS)))) == SETTINGS


@settings(max_examples=25, deadline=None)
@given(conversations())
def test_any_conversation_comes_back_as_it_was(said):
    """F2: whatever texts, trees and numbers, through the bytes of the file."""
    written = orjson.dumps(records.document(said))
    assert records.conversation(orjson.loads(written)) == said
    assert records.conversation(json.loads(written)) == said
    assert outline(orjson.loads(written)).summary.title == said.shown_title


def test_every_field_is_written_also_those_at_their_defaults():
    """G10: what a default meant when an answer was made does not change with a later version."""
    written = records.document(talk("Hi", "Ahoy"))

    def check(kind: type, values: dict[str, object], *derived: str) -> None:
        assert values.keys() == {one.name for one in dataclasses.fields(kind)} | set(derived)

    check(Conversation, written)
    check(Turn, written["turns"][1])
    check(Reply, written["turns"][1]["reply"], "model_id")
    check(GenerationSettings, written["turns"][1]["reply"]["provenance"]["settings"])


def test_a_field_with_a_default_may_lack_and_others_may_not():
    """F2: a later version can add a field without a migration; nothing else is guessed."""
    said = talk("Hi", "Ahoy", made=reply(cached=False, notices=()))
    document = records.document(said)
    del document["turns"][1]["reply"]["cached"], document["turns"][1]["reply"]["notices"], document["system"]
    del document["turns"][1]["reply"]["stats"]["reused_tokens"]
    assert records.conversation(document) == said
    del document["turns"][1]["reply"]["finish_reason"]
    with pytest.raises(ValueError, match="reply: the field 'finish_reason' is lacking"):
        records.conversation(document)


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        ("unknown", 1, "'unknown' is unknown"), ("title", None, "title: None is not str"), ("title", 5, "title: 5"),
        ("updated_at", "now", "updated_at: 'now'"), ("updated_at", True, "updated_at: True"),
        ("revision", 1.0, "revision: 1.0 is not int"), ("turns", {}, "turns: {} is no list"),
        ("turns", ["x"], "turns: 'x' is no object"), ("leaf", "nowhere", "'nowhere' is not there"),
        ("turns 0 role", "tool", "role: 'tool' is none of"), ("turns 0 thumb", True, "thumb: True is none of"),
        ("turns 0 thumb", 2, "thumb: 2"), ("turns 0 parent", "later", "follows 'later'"),
        ("turns 1 id", "", "is empty"), ("turns 0 unknown", 1, "turns: the field 'unknown' is unknown"),
        ("turns 1 reply spec base", "", "reply: spec: No model"), ("turns 1 reply spec adapters", [["x"]], "2 parts"),
        ("turns 1 reply spec adapters", [["x", 1e9]], "spec: The strength"),
        ("turns 1 reply finish_reason", "eaten", "finish_reason: 'eaten'"),
        ("turns 1 reply token_ids", [1.5], "token_ids: 1.5 is not int"), ("turns 1 reply stats", None, "stats: None"),
        ("turns 1 reply thought_s", "long", "thought_s: 'long'"),
        ("turns 1 reply provenance settings temperature", 9, "settings: temperature is 9"),
        ("turns 1 reply provenance versions", {"torch": 2}, "versions: 2 is not str"),
        ("turns 1 reply chat_template_kwargs", [], "chat_template_kwargs"),
    ],
)  # fmt: skip
def test_a_document_that_is_no_conversation_is_refused_by_what_is_wrong(path, value, words):
    """F2: reading is strict; what was damaged or is a later version's does not become something else."""
    document = copy.deepcopy(records.document(talk("Hi", "Ahoy")))
    *way, name = [int(step) if step.isdecimal() else step for step in path.split()]
    place: typing.Any = document
    for step in way:
        place = place[step]
    place[name] = value
    with pytest.raises(ValueError, match=words):
        records.conversation(document)


def test_a_tree_that_goes_in_circles_is_refused():
    """F2: a path would never end."""
    document = records.document(talk("Hi", "Ahoy"))
    document["turns"][0]["parent"] = document["turns"][1]["id"]
    with pytest.raises(ValueError, match="not before it"):
        records.conversation(document)


@pytest.mark.parametrize(
    "value", ["\ud800", float("nan"), float("inf"), 2**64, {1: "x"}, {"\udfff": 1}, b"bytes", object()]
)
def test_what_no_json_holds_is_refused_before_it_is_kept(value):
    """F2: else a conversation could be saved that nobody can read again."""
    said = talk("Hi", "Ahoy", made=reply(chat_template_kwargs={"deep": [value]}))
    with pytest.raises(InvalidRequest, match="cannot be kept"):
        records.document(said)


def test_what_is_nested_without_end_is_refused():
    """F2: the file has to be readable for others, too."""
    deep: list[typing.Any] = []
    for _ in range(5000):
        deep = [deep]
    with pytest.raises(InvalidRequest, match="levels deep"):
        records.document(talk("Hi", "Ahoy", made=reply(chat_template_kwargs={"deep": deep})))
