"""P6, I5: conversations as files: what is written is read back, what others write is understood or refused by name."""

from __future__ import annotations

import dataclasses
import json
import re
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from playground.conversation import Conversation, Reply, Turn
from playground.errors import InvalidRequest
from playground.services import chat_files, chat_json, chat_limits
from playground.services.chat_files import EXPORT_FORMATS, file_name, read, write
from playground.services.chat_rows import spoken
from playground.store import records
from playground.types import ROLES, GenerationSettings, Message, ModelSpec, Provenance
from tests.made_conversations import NOW, conversations, files

QUICK = settings(max_examples=15, deadline=None)
THOROUGH = settings(max_examples=300, deadline=None)
MARKS = {"markdown": "<!-- {} -->", "txt": "{}"}


def talk(*contents: str, **changes: Any) -> Conversation:
    """A conversation of one path, user and assistant by turns."""
    turns: list[Turn] = []
    for number, content in enumerate(contents):
        role: Any = ROLES[1 + number % 2]
        turns.append(Turn(f"t{number}", turns[-1].id if turns else "", role, content, NOW))
    leaf = turns[-1].id if turns else ""
    return Conversation("c", "", NOW, NOW, turns=tuple(turns), leaf=leaf, **changes)


def messages(row: Any) -> list[tuple[str, str]]:
    """What the one conversation of a file that holds ``row`` says."""
    (found,) = read(json.dumps(row), "chats.json", NOW)
    return [(one.role, one.content) for one in spoken(found)]


def refusal(text: str, name: str = "") -> str:
    with pytest.raises(InvalidRequest) as raised:
        read(text, name, NOW)
    assert raised.value.remedy
    return str(raised.value)


def check_json_round_trip(made: tuple[Conversation, ...]) -> None:
    assert read(write(made, "json"), "", NOW) == made


def check_page_round_trip(made: tuple[Conversation, ...], form: Any) -> None:
    back = read(write(made, form), "", NOW)
    assert [spoken(one) for one in back] == [spoken(one) for one in made]
    for one, was in zip(back, made, strict=True):
        assert one.shown_title == " ".join(was.shown_title.split())
        assert one.use_case == was.use_case
        answered = [turn.answered_by for turn in was.path()][-len(one.turns) or len(was.turns) :]
        assert [turn.answered_by for turn in one.turns] == answered
        assert all(abs(turn.at - old.at) < 1 for turn, old in zip(one.turns[::-1], was.path()[::-1], strict=False))


def check_rows_round_trip(made: tuple[Conversation, ...], form: Any) -> None:
    made = tuple(one for one in made if one.path())
    assume(made)
    text = write(made, form)
    assert text.count("\n") == len(made)
    assert [spoken(one) for one in read(text, "", NOW)] == [spoken(one) for one in made]


def older(*made: Conversation) -> dict[str, Any]:
    """A file as it was before turns shared what they have alike."""
    listed = [records.document(one) for one in made]
    for values in listed:
        del values["owner"], values["revision"]
    return {"format": chat_json.OLDER, "conversations": listed}


@QUICK
@given(files())
def test_the_older_form_brings_back_everything(made: tuple[Conversation, ...]) -> None:
    """P6: a file that was exported before is imported still."""
    assert read(json.dumps(older(*made)), "", NOW) == made


def test_what_turns_have_alike_is_written_once() -> None:
    """P6: a whole history can be exported to a file that is small enough to be imported."""
    made = [with_answers(10, f"c{number}") for number in range(20)]
    text = write(made, "json")
    assert read(text, "", NOW) == tuple(made)
    assert text.count("base_hash") == 1
    assert len(text) < 0.3 * len(json.dumps(older(*made)))


TURN = {"id": "b", "parent": "t0", "content": "ho", "at": 1}
ALIKE = {"role": "assistant", "reply": None, "model_id": "", "thumb": 0, "edited": False}


@pytest.mark.parametrize(
    ("table", "turn", "told"),
    [
        ([ALIKE], {"like": 1}, "like 1, which is not in the table"),
        ([ALIKE], {"like": -1}, "like -1"),
        ([ALIKE], {"like": True}, "like True"),
        ([ALIKE], {"like": "0"}, "like '0'"),
        ([ALIKE], {"like": 0.0}, "like 0.0"),
        ([7], {"like": 0}, "row 0 of the table is 7"),
        ([[]], {"like": 0}, "row 0 of the table is []"),
        ([ALIKE], {"like": 0, "role": "user"}, "'role' stands in a message and in the row"),
        ([ALIKE], {"like": 0, "reply": {}}, "'reply' stands in a message and in the row"),
        ([ALIKE], {"like": 0, "extra": 1}, "'extra' is unknown"),
        ([{**ALIKE, "extra": 1}], {"like": 0}, "'extra' is unknown"),
        ([{**ALIKE, "like": 0}], {"like": 0}, "'like' is unknown"),
        ([{}], {"like": 0}, "'role' is lacking"),
        ([{**ALIKE, "role": "tool"}], {"like": 0}, "'tool'"),
        ([{**ALIKE, "reply": {"stats": {}}}], {"like": 0, "reply": {"stats": {}}}, "'stats' stands"),
        ("x", {"like": 0}, "alike are 'x'"),
        (None, {"like": 0}, "alike are None"),
    ],
)
def test_the_table_is_read_strictly(table: Any, turn: dict[str, Any], told: str) -> None:
    """P6: no field twice, none that is unknown, and only rows that are there."""
    whole = json.loads(write([talk("hi")], "json"))
    whole["alike"] = table
    whole["conversations"][0]["turns"] = [{**ALIKE, "role": "user", **TURN, "id": "t0", "parent": ""}, {**TURN, **turn}]
    assert told in refusal(json.dumps(whole))


def test_a_small_file_does_not_become_a_large_history(monkeypatch: pytest.MonkeyPatch) -> None:
    """S2: thousands of messages may name one row of the table, which counts for each of them."""
    monkeypatch.setattr(chat_json, "MOST_ALIKE", 1_000_000)
    whole = json.loads(write([with_answers(1)], "json"))
    row = whole["conversations"][0]["turns"][1]["like"]
    whole["alike"][row]["reply"]["notices"] = ["x" * 100_000]
    turns = whole["conversations"][0]["turns"]
    turns += [{**turns[1], "id": f"again {number}"} for number in range(8)]
    assert len(read(json.dumps(whole), "", NOW)[0].turns) == 10
    turns += [{**turns[1], "id": f"once more {number}"} for number in range(2)]
    assert "alike it is larger than 1 MB" in refusal(json.dumps(whole))


def with_answers(count: int, name: str = "c") -> Conversation:
    """A conversation with so many answers that were made here, each with a seed and tokens of its own."""
    made = talk(*["hi", "ho"] * count)
    settings = GenerationSettings(temperature=0.5)
    turns = []
    for number, turn in enumerate(made.turns):
        provenance = Provenance(
            "starter", "", (("pirate", "ab" * 32, 0.5),), "none", "float32", "cpu", "chat",
            dataclasses.replace(settings, seed=number + 1), number + 1, {"torch": "2.13.0"},
        )  # fmt: skip
        reply = Reply(ModelSpec("starter", (("pirate", 0.5),)), "stop", provenance=provenance, token_ids=(number, 7))
        turns.append(dataclasses.replace(turn, reply=reply) if turn.role == "assistant" else turn)
    return dataclasses.replace(made, id=name, turns=tuple(turns))


@QUICK
@given(files())
def test_json_brings_back_everything(made: tuple[Conversation, ...]) -> None:
    """P6: all versions, what made each answer, thumbs, times, and which path is open."""
    check_json_round_trip(made)


@QUICK
@given(files(), st.sampled_from(["markdown", "txt"]))
def test_what_is_written_to_be_read_is_read_back(made: tuple[Conversation, ...], form: Any) -> None:
    """P6: every character of every message, also of those that look like the file's own marks; times to the second."""
    check_page_round_trip(made, form)


@QUICK
@given(files(), st.sampled_from(["chatml", "sharegpt"]))
def test_rows_bring_back_what_was_said(made: tuple[Conversation, ...], form: Any) -> None:
    """I5: a line for each conversation, whatever line ends its messages hold."""
    check_rows_round_trip(made, form)


@pytest.mark.long
@THOROUGH
@given(files(), st.sampled_from(EXPORT_FORMATS))
def test_every_format_is_read_back_thoroughly(made: tuple[Conversation, ...], form: Any) -> None:
    """P6, I5: the same as the quick ones, for many more conversations."""
    if form == "json":
        check_json_round_trip(made)
    elif form in MARKS:
        check_page_round_trip(made, form)
    else:
        check_rows_round_trip(made, form)


def test_an_expected_answer_is_in_our_own_format_alone() -> None:
    """I5: it is compared on the pages, and no part of what was said: rows for trainers and pages for people leave it out."""
    first, second = talk("hi", "ho").turns
    made = talk("hi", "ho", title="T")
    made = dataclasses.replace(made, turns=(dataclasses.replace(first, expected="WANTED"), second))
    assert read(write([made], "json"), "", NOW)[0].turns[0].expected == "WANTED"
    for form in EXPORT_FORMATS:
        assert ("WANTED" in write([made], form)) == (form == "json"), form
    before = older(made)
    del before["conversations"][0]["turns"][0]["expected"]
    assert read(json.dumps(before), "", NOW)[0].turns[0].expected == "", "a file of before has none"


def test_nobody_learns_from_a_file_whose_it_was() -> None:
    """S3: an owner may be a key's number or somebody's name."""
    made = dataclasses.replace(talk("hi", "ho"), owner="key 3f9a", revision=7)
    for form in EXPORT_FORMATS:
        assert "3f9a" not in write([made], form)
    assert "revision" not in write([made], "json")


def test_rows_are_what_trainers_read() -> None:
    """I5: ChatML and ShareGPT, one object on each line, reasoning left in; where nothing was said there is no row."""
    made = [talk("2 + 2?", "<think>\nhm\n</think>\n\n4", system="Count."), talk(system="nothing was said")]
    chatml = {
        "messages": [
            {"role": "system", "content": "Count."},
            {"role": "user", "content": "2 + 2?"},
            {"role": "assistant", "content": "<think>\nhm\n</think>\n\n4"},
        ]
    }
    sharegpt = {
        "conversations": [
            {"from": "system", "value": "Count."},
            {"from": "human", "value": "2 + 2?"},
            {"from": "gpt", "value": "<think>\nhm\n</think>\n\n4"},
        ]
    }
    assert write(made, "chatml") == json.dumps(chatml) + "\n"
    assert write(made, "sharegpt") == json.dumps(sharegpt) + "\n"


def test_markdown_is_for_people() -> None:
    """I5: title, roles, times, models and texts; the marks do not show."""
    answered = dataclasses.replace(talk("What is a\nLoRA?", "Low rank.").turns[1], model_id="starter:pirate@0.5")
    made = talk("What is a\nLoRA?", "Low rank.", title="Adapters", system="Be brief.", use_case="code_generation")
    text = write([dataclasses.replace(made, turns=(made.turns[0], answered))], "markdown")
    assert re.sub(r"<!--.*?-->\n", "", text) == (
        "\n# Adapters\n\n*code generation*\n"
        "\n## System\n\nBe brief.\n"
        "\n## User · 2026-11-18 11:06:40 UTC\n\nWhat is a\nLoRA?\n"
        "\n## Assistant · 2026-11-18 11:06:40 UTC · starter:pirate@0.5\n\nLow rank.\n\n"
    )


def test_a_page_that_an_editor_has_saved_is_still_read() -> None:
    """P6: with other line ends, a byte order mark, spaces at the end cut off, and a message added by hand."""
    made = talk("one\ntwo", "three")
    for form in ("markdown", "txt"):
        text = write([made], form)  # type: ignore[arg-type]
        for changed in (text.replace("\n", "\r\n"), "\ufeff" + text, text.rstrip("\n"), text.rstrip("\n") + "\n"):
            (back,) = read(changed, "", NOW)
            assert spoken(back) == spoken(made)
    (back,) = read(write([made], "markdown") + "<!-- message -->\n## User\nfour\n", "", NOW + 5)
    assert back.turns[-1].content == "four"
    assert back.turns[-1].at == NOW + 5
    assert back.turns[-1].parent == back.turns[-2].id


def test_a_title_that_was_made_of_the_first_message_stays_one() -> None:
    """P6: only what a person typed is a title of its own."""
    for form in ("markdown", "txt"):
        (back,) = read(write([talk("hello", "ho")], form), "", NOW)  # type: ignore[arg-type]
        assert (back.title, back.shown_title) == ("", "hello")


@pytest.mark.parametrize("name", ["user", "human", "User", "prompter"])
@pytest.mark.parametrize("answers", ["assistant", "gpt", "chatgpt", "bing", "bard"])
def test_roles_go_by_many_names(name: str, answers: str) -> None:
    """P6: the usual ones of other people's files."""
    rows = {"conversations": [{"from": name, "value": "hi"}, {"from": answers, "value": "ho"}]}
    assert messages(rows) == [("user", "hi"), ("assistant", "ho")]


def test_usual_shapes_of_other_peoples_files_are_understood() -> None:
    """P6: lists, one conversation alone, bare messages, mixed names, system prompts beside, empty fields, text parts."""
    said = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}]
    expected = [("user", "hi"), ("assistant", "ho")]
    for row in ({"messages": said}, [{"messages": said}], said, [said], {"conversations": said}):
        assert messages(row) == expected
    assert messages({"system": "rules", "tools": [], "meta": {}, "x": "", "id": 7, "messages": said})[0] == (
        "system",
        "rules",
    )
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    assert messages([{"role": "developer", "content": parts}, {**said[0], "tool_calls": None, "name": ""}]) == [
        ("system", "a\nb"),
        ("user", "hi"),
    ]
    (found,) = read(json.dumps({"messages": said, "title": "T", "model": "gpt-x"}), "", NOW)
    assert (found.title, found.model_id, found.turns[0].model_id) == ("T", "gpt-x", "")


def test_lines_may_be_blank_and_end_in_any_way() -> None:
    """P6: a byte order mark, blank lines, and Windows' line ends."""
    line = json.dumps({"messages": [{"role": "user", "content": "hi"}]})
    for text in (
        f"\ufeff{line}\n",
        f"\n{line}\r\n\r\n{line}",
        f"[{line},\n {line}]",
        json.dumps([line and json.loads(line)], indent=2),
    ):
        assert all(spoken(one) == (Message("user", "hi"),) for one in read(text, "", NOW))
    assert len(read(f"\n{line}\r\n\r\n{line}", "", NOW)) == 2


def test_a_later_system_message_is_a_turn() -> None:
    """A1: only the first is the system prompt."""
    rows = [{"role": role, "content": role} for role in ("system", "user", "system")]
    (found,) = read(json.dumps(rows), "", NOW)
    assert found.system == "system"
    assert [turn.role for turn in found.turns] == ["user", "system"]


@pytest.mark.parametrize(
    ("message", "named"),
    [
        ({"role": "tool", "content": "4"}, "role 'tool'"),
        ({"from": "function_call", "value": "{}"}, "role 'function_call'"),
        ({"role": ["user"], "content": "hi"}, "role ['user']"),
        ({"role": "assistant", "content": "", "tool_calls": [{"id": "1"}]}, "'tool_calls'"),
        ({"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}, "type 'image_url'"),
        ({"role": "user", "content": [{"type": "text", "text": "x", "cache": 1}]}, "part"),
        ({"role": "user", "content": [7]}, "part 7"),
        ({"role": "assistant", "content": None}, "content is None"),
        ({"role": "user", "content": 7}, "content is 7"),
        ({"role": "user"}, "fields ['role']"),
        ({"role": "user", "from": "human", "content": "hi"}, "one role and one content"),
        ({"role": "user", "content": "hi", "weight": 0}, "'weight'"),
        ("hi", "'hi', not an object"),
    ],
)
def test_what_is_not_understood_is_named_with_its_line(message: Any, named: str) -> None:
    """P6: a row without its tool calls or images would be another conversation, so none of the file is taken."""
    good = {"messages": [{"role": "user", "content": "hi"}]}
    bad = {"messages": [{"role": "user", "content": "hi"}, message]}
    with pytest.raises(InvalidRequest) as raised:
        read(f"{json.dumps(good)}\n\n{json.dumps(bad)}\n", "chats.jsonl", NOW)
    assert "Line 3, message 2" in str(raised.value)
    assert named in str(raised.value)
    assert str(raised.value).startswith("'chats.jsonl': ")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "no format that is known"),
        ("hello", "no format that is known"),
        ("[]", "no conversation in the file"),
        ("{}", "neither messages nor conversations"),
        ('{"messages": []}', "must be a list of messages"),
        ('{"messages": [], "conversations": []}', "messages and conversations"),
        ('{"messages": [{"role": "user", "content": "hi"}], "tools": [1]}', "'tools'"),
        ('{"messages": [', "The file is no JSON: Expecting value: line 1 column 15"),
        ('{"messages": [{"role": "user", "content": "hi"}]}\n{"messages": ', "Line 2 is no JSON"),
        ('{"messages": [{"role": "user", "content": "hi", "content": "ho"}]}', "'content' stands twice"),
        ('{"messages": NaN}', "NaN is no number"),
        ("[1]", "Conversation 1 is 1, not an object"),
        ("[" * 100_000, "nested too deeply"),
        ('{"a": ' + "9" * 5000 + "}", "no JSON"),
        ('{"format": "adapter-playground manifest 1"}', "format is 'adapter-playground manifest 1'"),
        ('{"format": "adapter-playground conversations 1"}', "conversations are None"),
        ('[1e999]', "'1e999' is no number"),
        ("[" + "9" * 5000 + "]", "a number has thousands of digits"),
        ('{"format": "adapter-playground conversations 1", "conversations": [], "x": 1}', "unknown field 'x'"),
        ('{"format": "adapter-playground conversations 1", "conversations": [7]}', "Conversation 1 is 7"),
        ('{"messages": [{"role": "user", "content": "\\ud800"}]}', "half of a character"),
        ('{"messages": [{"role": "user", "content": "\\u0000"}]}', "NUL"),
        ("\ud800", "no UTF-8"),
        ("<!-- Adapter Playground conversations 1 -->\n", "no conversation in the file"),
        ("<!-- Adapter Playground conversations 1 -->\nhello", "Line 2 begins no conversation"),
        ("<!-- Adapter Playground conversations 1 -->\n<!-- conversation -->", "Line 3"),
        ("<!-- Adapter Playground conversations 1 -->\n<!-- conversation -->\n# T\n<!-- message -->\nhi", "'hi'"),
        (
            "<!-- Adapter Playground conversations 1 -->\n<!-- conversation -->\n# T\n<!-- message -->\n## User · soon",
            "Line 5 holds no time: 'soon'",
        ),
    ],
)  # fmt: skip
def test_a_file_that_cannot_be_read_says_where_and_why(text: str, told: str) -> None:
    """P6: nothing of it is taken."""
    assert told in refusal(text)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"owner": "somebody"}, "unknown field 'owner'"),
        ({"revision": 3}, "unknown field 'revision'"),
        ({"extra": 3}, "extra"),
        ({"leaf": "gone"}, "gone"),
        ({"created_at": -1}, "time is -1"),
        ({"updated_at": 10**30}, "bits"),
        ({"title": "x" * 201}, "title has 201"),
        ({"system": "\0"}, "NUL"),
        ({"system": "\ud800"}, "half of a character"),
        ({"turns": {}}, "turns"),
        ({"turns.parent": "t1"}, "t1"),
        ({"turns.id": ""}, "message id"),
        ({"turns.thumb": 1}, "no answer"),
        ({"turns.thumb": True}, "thumb"),
        ({"turns.role": "tool"}, "tool"),
        ({"turns.content": None}, "content"),
        ({"turns.expected": "half \ud800"}, "half of a character"),
        ({"turns.expected": "\0"}, "expected answer holds a NUL"),
        ({"turns.expected": "yes", "turns.role": "assistant"}, "is no prompt"),
        ({"turns.model_id": "a\nb"}, "one line"),
        ({"turns.reply": {}}, "lacking"),
        ({"turns.reply": {"spec": {"base": "b"}, "finish_reason": "stop"}}, "no answer"),
        ({"turns.reply": {"spec": {"base": " "}, "finish_reason": "stop"}}, "No model was named"),
    ],
)
def test_json_is_read_strictly(change: dict[str, Any], told: str) -> None:
    """P6: whoever wrote the file, what is stored is a conversation as this app makes them."""
    whole = older(talk("hi", "ho"))
    for name, value in change.items():
        values = whole["conversations"][0]["turns"][0] if name.startswith("turns.") else whole["conversations"][0]
        values[name.removeprefix("turns.")] = value
    message = refusal(json.dumps(whole))
    assert "Conversation 1" in message
    assert told in message


def test_files_are_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    """S2: in bytes, conversations, and messages of one; each with a sentence."""
    monkeypatch.setattr(chat_files, "LARGEST_FILE", 2_000_000)
    assert "2.0 MB" in refusal("ü" * 1_000_001)
    assert "has 1,000,001 bytes" in refusal(json.dumps([{"role": "user", "content": "x" * 1_000_001}]))
    monkeypatch.setattr(chat_files, "MOST_CONVERSATIONS", 3)
    assert len(read(write([talk("hi")] * 3, "chatml"), "", NOW)) == 3
    assert "more than 3 conversations" in refusal(write([talk("hi")] * 4, "chatml"))
    monkeypatch.setattr(chat_limits, "MOST_TURNS", 3)
    assert "4 messages" in refusal(write([talk("a", "b", "c", "d")], "txt"))


def test_file_names_are_safe_and_dated() -> None:
    """I5: of the title for one conversation; nothing in it leads to another folder or is hidden."""
    one = talk("hi", "ho", title="../.. C:\\a*b? “Ünïcode” \u202e.exe")
    assert file_name([one], "markdown", NOW) == "C-a-b-Ünïcode-exe-2026-11-18.md"
    assert file_name([talk("...", "ho")], "json", NOW) == "conversation-2026-11-18.json"
    assert file_name([one, one], "chatml", NOW) == "2-conversations-2026-11-18.chatml.jsonl"
    assert file_name([talk("x" * 300)], "sharegpt", NOW) == "x" * 60 + "-2026-11-18.sharegpt.jsonl"


@QUICK
@given(conversations())
def test_every_title_gives_a_file_name(made: Conversation) -> None:
    """I5."""
    name = file_name([made], "txt", NOW)
    assert re.fullmatch(r"[\w-]+-2026-11-18\.txt", name)
    assert not name.startswith("-")
    assert len(name) < 80


JSON_LIKE = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.sampled_from(["user", "gpt"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [
                    "format",
                    "conversations",
                    "messages",
                    "role",
                    "from",
                    "content",
                    "value",
                    "turns",
                    "reply",
                    "id",
                    "system",
                ]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


def check_fuzzed(text: str) -> None:
    try:
        found = read(text, "fuzz", NOW)
    except InvalidRequest:
        return
    for form in EXPORT_FORMATS:
        write(found, form)


def shaken(data: st.DataObject) -> str:
    """Something that is almost a file: one of ours with a piece cut out, doubled or put in."""
    text = write(data.draw(files(2)), data.draw(st.sampled_from(EXPORT_FORMATS)))
    start = data.draw(st.integers(0, len(text)))
    end = data.draw(st.integers(start, min(len(text), start + 40)))
    return text[:start] + data.draw(st.sampled_from(["", text[start:end] * 2, "\n", "0", '"', "{}"])) + text[end:]


@QUICK
@given(st.data())
def test_no_file_breaks_the_import(data: st.DataObject) -> None:
    """P6: it is taken, and can be written again, or refused with a sentence."""
    check_fuzzed(data.draw(st.text(max_size=80) | JSON_LIKE.map(json.dumps)))
    check_fuzzed(shaken(data))


@pytest.mark.long
@THOROUGH
@given(st.data())
def test_no_file_breaks_the_import_thoroughly(data: st.DataObject) -> None:
    """P6: the same, for many more files."""
    check_fuzzed(data.draw(st.text(max_size=80) | JSON_LIKE.map(json.dumps)))
    check_fuzzed(shaken(data))
