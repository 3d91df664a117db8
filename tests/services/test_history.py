"""F1, F2, P6, A1: conversations as people and programs have them: whose they are, and what may be done with them."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from playground.config import AppConfig, load_config
from playground.conversation import Conversation, Query, Reply, Turn, new_id
from playground.errors import InvalidRequest, NotFound, NotPermitted, PlaygroundError
from playground.services import history as history_module
from playground.services.chat_files import EXPORT_FORMATS, write
from playground.services.history import LOCAL, History
from playground.store import Store
from playground.types import Caller, ModelSpec

ANNA, BERT = Caller("user anna", "user", address="10.0.0.1"), Caller("user bert", "user", address="10.0.0.1")
GUEST = Caller("guest 1", "guest", address="127.0.0.1")
SHARED = {"host": "0.0.0.0", "free_paths": False}
MADE_HERE = Reply(ModelSpec("starter", (("pirate", 1.0),)), "stop")


class Clock:
    def __init__(self) -> None:
        self.now = 1_795_000_000.0

    def __call__(self) -> float:
        self.now += 1
        return self.now


def history(**changes: Any) -> History:
    config: AppConfig = dataclasses.replace(load_config(), **changes)
    return History(Store.in_memory(), config, Clock())


def talk(kept: History, who: Caller = GUEST, conversation_id: str = "c") -> Conversation:
    """A question and an answer, as a program saves them."""
    kept.save_message(who, conversation_id, "user", "What is a LoRA?", "starter", "qa")
    return kept.save_message(who, conversation_id, "assistant", "Low rank.", "starter:pirate", "qa")


# --- whose they are ---


@pytest.mark.parametrize(
    "caller",
    [
        GUEST,
        Caller("guest 2", "guest", address="::1"),
        Caller("address 127.0.0.1", "address", address="127.0.0.1"),
        Caller("guest tab", "guest"),
        Caller("user admin", "user", address="127.0.0.1", admin=True),
        Caller("key 1", "key", address="127.0.0.1", admin=True),
    ],
)
def test_on_a_machine_of_ones_own_everybody_is_the_same_person(caller: Caller) -> None:
    """F2: what a program saves is seen on the pages, in every browser and after every restart."""
    kept = history()
    made = talk(kept)
    assert kept.owner(caller) == LOCAL
    assert kept.get(caller, made.id) == made


def test_programs_with_keys_have_histories_of_their_own() -> None:
    """F2: on this machine too; the pages, and the admin key that opens them, are the person's."""
    kept = history(api_keys=("one", "two"))
    first, second = Caller("key 1", "key", address="127.0.0.1"), Caller("key 2", "key", address="127.0.0.1")
    assert [kept.owner(one) for one in (first, second, GUEST)] == ["key 1", "key 2", LOCAL]
    assert kept.owner(dataclasses.replace(first, admin=True)) == LOCAL


@pytest.mark.parametrize("changes", [SHARED, {"auth": {"anna": "x", "bert": "y"}}, {"oauth_users": ("*",)}])
def test_where_people_are_told_apart_each_has_their_own(changes: dict[str, Any]) -> None:
    """S2: on shared servers, and wherever people log in; an administrator has no key to others' chats."""
    kept = history(**changes)
    guest = Caller("guest 7", "guest", address="10.0.0.1")
    admin = Caller("user admin", "user", address="127.0.0.1", admin=True)
    assert [kept.owner(one) for one in (ANNA, BERT, guest, admin)] == [ANNA.id, BERT.id, guest.id, admin.id]


def test_whom_a_proxy_lets_in_does_not_see_the_history_of_the_machine() -> None:
    """S2: the server believes to be alone on its machine, and is asked from elsewhere."""
    kept = history()
    made = talk(kept)
    stranger = Caller("guest 9", "guest", address="203.0.113.7")
    with pytest.raises(NotFound):
        kept.get(stranger, made.id)
    assert kept.find(stranger).total == 0


EVERYTHING: dict[str, Callable[[History, Caller, Conversation], Any]] = {
    "find": lambda kept, who, c: kept.find(who),
    "get": lambda kept, who, c: kept.get(who, c.id),
    "begin": lambda kept, who, c: kept.begin(who),
    "save_message": lambda kept, who, c: kept.save_message(who, c.id, "user", "mine", "", ""),
    "append": lambda kept, who, c: kept.append(who, c.id, [Turn("n", c.leaf, "user", "mine", 0)]),
    "rename": lambda kept, who, c: kept.rename(who, c.id, "mine"),
    "edit": lambda kept, who, c: kept.edit(who, c.id, c.leaf, "mine"),
    "switch": lambda kept, who, c: kept.switch(who, c.id, c.leaf),
    "thumb": lambda kept, who, c: kept.thumb(who, c.id, c.leaf, 1),
    "set_system": lambda kept, who, c: kept.set_system(who, c.id, "mine"),
    "branch": lambda kept, who, c: kept.branch(who, c.id, c.leaf),
    "delete": lambda kept, who, c: kept.delete(who, c.id),
    "delete_all": lambda kept, who, c: kept.delete_all(who),
    "restore": lambda kept, who, c: kept.restore(who, [c]),
    "export": lambda kept, who, c: kept.export(who, "json", [c.id]),
    "take_in": lambda kept, who, c: kept.take_in(who, "", json.dumps([{"role": "user", "content": "mine"}])),
    "check_ask": lambda kept, who, c: kept.check_ask(who, c.id, [], 1, system="", use_case="chatbot"),
}
THEIR_OWN = {"find", "begin", "save_message", "delete_all", "restore", "take_in"}  # these look at no other id


def test_every_way_to_the_history_is_tried() -> None:
    """S2: so that a new method is not forgotten below."""
    ways = {name for name in vars(History) if not name.startswith("_")} - {"owner", "place", "notices"}
    assert ways == EVERYTHING.keys()


@pytest.mark.parametrize("way", EVERYTHING)
def test_two_people_never_see_or_change_each_others_conversations(way: str) -> None:
    """S2: not by guessing an id, not by deleting all of theirs, not by bringing back what they were given."""
    kept = history(**SHARED)
    made = talk(kept, ANNA)
    if way in THEIR_OWN:
        EVERYTHING[way](kept, BERT, made)
    else:
        with pytest.raises(NotFound) as raised:
            EVERYTHING[way](kept, BERT, made)
        assert "LoRA" not in str(raised.value)
    assert kept.get(ANNA, made.id) == made
    assert kept.find(ANNA).total == 1
    assert all(one.title != "What is a LoRA?" for one in kept.find(BERT).summaries) or way == "restore"


@pytest.mark.parametrize("way", EVERYTHING)
def test_a_program_without_a_key_has_no_history_where_others_come_too(way: str) -> None:
    """S2: an address may be many people's."""
    kept = history(**SHARED)
    made = talk(kept, ANNA)
    with pytest.raises(NotPermitted, match="Send an API key, sign in"):
        EVERYTHING[way](kept, Caller("address 10.0.0.1", "address", address="10.0.0.1"), made)


def test_where_the_file_is_is_told_on_this_machine_only(tmp_path: Path) -> None:
    """S2."""
    store = Store.open(tmp_path / "history")
    try:
        assert History(store, load_config()).place == store.path
        assert History(store, dataclasses.replace(load_config(), **SHARED)).place is None  # type: ignore[arg-type]
        assert History(store, load_config()).notices == ()
    finally:
        store.close()
    assert history().place is None


# --- what programs save ---


def test_a_message_that_is_saved_begins_a_conversation_or_goes_on_with_it() -> None:
    """A1: conversation/save."""
    kept = history()
    made = talk(kept)
    assert [(turn.role, turn.content, turn.answered_by) for turn in made.path()] == [
        ("user", "What is a LoRA?", "starter"),
        ("assistant", "Low rank.", "starter:pirate"),
    ]
    assert (made.id, made.use_case, made.model_id, made.revision) == ("c", "qa", "starter:pirate", 1)
    assert made.shown_title == "What is a LoRA?"
    assert made.updated_at > made.created_at
    assert kept.save_message(GUEST, "", "user", "hi", "", "").id not in ("", "c")


def test_the_first_system_message_is_the_system_prompt_and_a_later_one_a_turn() -> None:
    """A1: both count as messages."""
    kept = history()
    made = kept.save_message(GUEST, "c", "system", "Be brief.", "starter", "")
    assert (made.system, made.turns, made.message_count) == ("Be brief.", (), 1)
    made = kept.save_message(GUEST, "c", "system", "Be kind.", "starter", "")
    assert (made.system, [turn.content for turn in made.turns], made.message_count) == ("Be brief.", ["Be kind."], 2)
    kept.save_message(GUEST, "d", "user", "hi", "starter", "")
    made = kept.save_message(GUEST, "d", "system", "Be brief.", "starter", "")
    assert (made.system, [turn.role for turn in made.turns]) == ("", ["user", "system"])


def test_the_use_case_that_was_named_last_counts() -> None:
    """A1: hyphens are accepted; an unknown one is refused, and nothing is saved."""
    kept = history()
    assert kept.save_message(GUEST, "c", "user", "hi", "", "").use_case == "chatbot"
    assert kept.save_message(GUEST, "c", "user", "hi", "", "creative-writing").use_case == "creative_writing"
    assert kept.save_message(GUEST, "c", "user", "hi", "", "").use_case == "creative_writing"
    with pytest.raises(InvalidRequest, match=r"Unknown use case 'poetry'.*domain_adaptation"):
        kept.save_message(GUEST, "c", "user", "hi", "", "poetry")
    assert len(kept.get(GUEST, "c").turns) == 3


@pytest.mark.parametrize("odd", ["a/b", "a b", " ", "日本語/👩‍👩‍👧", "..", "%2F", "x" * 200, "Ä" * 200])
def test_ids_are_any_text_that_a_program_likes(odd: str) -> None:
    """A1: slashes, spaces, Unicode."""
    kept = history()
    if odd == " ":
        with pytest.raises(InvalidRequest, match="spaces alone"):
            kept.save_message(GUEST, odd, "user", "hi", "", "")
        return
    assert kept.save_message(GUEST, odd, "user", "hi", "", "").id == odd
    assert kept.get(GUEST, odd).turns[0].content == "hi"
    assert kept.delete(GUEST, odd).id == odd


@pytest.mark.parametrize("bad", ["x" * 201, "a\nb", "a\0b", "\x7f", "\ud800", "a\x9bb"])
def test_ids_that_no_line_or_file_holds_are_refused(bad: str) -> None:
    """A1: too long, control characters, halves of characters."""
    kept = history()
    for act in (
        lambda: kept.save_message(GUEST, bad, "user", "hi", "", ""),
        lambda: kept.begin(GUEST, conversation_id=bad),
    ):
        with pytest.raises(InvalidRequest, match="conversation's id"):
            act()
    assert kept.find(GUEST).total == 0


BAD_TEXTS = {"half of a character": "a\ud800b", "NUL": "a\0b", "1,000,001 bytes": "x" * 1_000_001}


@pytest.mark.parametrize("told", BAD_TEXTS)
def test_what_no_file_holds_is_refused_before_it_is_stored(told: str) -> None:
    """F2: wherever a text comes in; the conversation stays as it was."""
    kept, bad = history(), BAD_TEXTS[told]
    made = talk(kept)
    for act in (
        lambda: kept.save_message(GUEST, "c", "user", bad, "", ""),
        lambda: kept.save_message(GUEST, "c", "user", "hi", bad, ""),
        lambda: kept.begin(GUEST, system=bad),
        lambda: kept.begin(GUEST, title=bad),
        lambda: kept.append(GUEST, "c", [Turn("n", made.leaf, "user", bad, 0)]),
        lambda: kept.append(GUEST, "c", [Turn("n", made.leaf, "user", "hi", 0)], system=bad),
        lambda: kept.rename(GUEST, "c", bad),
        lambda: kept.edit(GUEST, "c", made.leaf, bad),
        lambda: kept.set_system(GUEST, "c", bad),
        lambda: kept.check_ask(GUEST, "c", [Turn("n", "", "user", bad, 0)], 1, system="", use_case="qa"),
        lambda: kept.check_ask(GUEST, "c", [], 1, system=bad, use_case="qa"),
    ):
        with pytest.raises(InvalidRequest, match=told):
            act()
    assert kept.get(GUEST, "c") == made
    assert kept.find(GUEST).total == 1


def test_messages_say_something_and_are_of_a_role() -> None:
    """A1: 422 there."""
    kept = history()
    for empty in ("", " \n"):
        with pytest.raises(InvalidRequest, match="empty"):
            kept.save_message(GUEST, "c", "user", empty, "", "")
    with pytest.raises(InvalidRequest, match="Unknown role 'tool'"):
        kept.save_message(GUEST, "c", "tool", "hi", "", "")  # type: ignore[arg-type]
    assert kept.find(GUEST).total == 0


def test_two_programs_that_save_at_once_lose_nothing() -> None:
    """F2: also the first message of a conversation, which two of them begin."""

    def slow() -> float:
        time.sleep(0.005)  # others come in between
        return 1_795_000_000.0

    kept = History(Store.in_memory(), load_config(), slow)
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda n: kept.save_message(GUEST, f"c{n % 2}", "user", str(n), "", ""), range(16)))
    for number in (0, 1):
        path = kept.get(GUEST, f"c{number}").path()
        assert sorted(int(turn.content) for turn in path) == list(range(number, 16, 2))


# --- answers that were made here ---


def test_an_exchange_is_one_change() -> None:
    """I6: the user's turn and the answer come together, with the system prompt and the use case that they were made with."""
    kept = history()
    first = [Turn("a", "", "user", "hi", 1.0), Turn("b", "a", "assistant", "ho", 2.0, MADE_HERE)]
    made = kept.append(GUEST, "new", first, system="Be brief.", use_case="qa", begins=True)
    assert (made.revision, made.path(), made.system, made.use_case) == (0, tuple(first), "Be brief.", "qa")
    more = kept.append(
        GUEST, "new", [Turn("c", "b", "user", "and?", 3.0), Turn("d", "c", "assistant", "", 4.0, MADE_HERE)]
    )
    assert (more.revision, more.leaf, more.system, more.use_case) == (1, "d", "Be brief.", "qa")


def test_an_exchange_of_a_deleted_conversation_does_not_bring_it_back() -> None:
    """P6: another tab deleted it while the answer was written."""
    kept = history()
    made = talk(kept)
    kept.delete(GUEST, made.id)
    answer = [Turn("d", made.leaf, "assistant", "ho", 4.0, MADE_HERE)]
    for begins in (False, True):
        with pytest.raises(NotFound):
            kept.append(GUEST, made.id, answer, begins=begins)
    assert kept.find(GUEST).total == 0


def test_two_tabs_that_append_after_one_turn_are_both_kept() -> None:
    """F2: as versions; the later one is open."""
    kept = history()
    made = talk(kept)
    one = kept.append(GUEST, "c", [Turn("x", made.leaf, "user", "one", 1.0)])
    two = kept.append(GUEST, "c", [Turn("y", made.leaf, "user", "two", 1.0)])
    assert one.turns == two.turns[:-1]
    assert [turn.content for turn in two.versions("x")] == ["one", "two"]
    assert two.leaf == "y"


def test_of_several_answers_the_one_that_is_named_is_open() -> None:
    """F1: each is a version."""
    kept = history()
    said = [Turn("a", "", "user", "hi", 1.0), *(Turn(i, "a", "assistant", i, 2.0, MADE_HERE) for i in "bcd")]
    made = kept.append(GUEST, "new", said, begins=True, leaf="b")
    assert (made.leaf, [turn.id for turn in made.versions("b")]) == ("b", ["b", "c", "d"])


def test_what_a_model_has_written_is_never_refused() -> None:
    """F2: whatever its tokens spell; a text that no file holds is mended."""
    kept = history()
    said = [
        Turn("a", "", "user", "hi", 1.0),
        Turn("b", "a", "assistant", "x\0y\ud800" + "z" * 1_000_001, 2.0, MADE_HERE),
    ]
    made = kept.append(GUEST, "new", said, begins=True)
    assert made.turns[1].content.startswith("x\ufffdy?z")


def test_there_is_room_for_an_answer_before_it_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    """S2: a full history refuses the question; an answer that is there all the same is kept."""
    monkeypatch.setattr("playground.services.chat_limits.MOST_TURNS", 3)
    kept = history()
    made = talk(kept)
    question = Turn("q", made.leaf, "user", "and?", 1.0)
    kept.check_ask(GUEST, "c", [], 1, system="", use_case="qa")
    with pytest.raises(InvalidRequest, match=r"4 messages, and 3 are kept.*new conversation"):
        kept.check_ask(GUEST, "c", [question], 1, system="", use_case="qa")
    kept.append(GUEST, "c", [question, Turn("r", "q", "assistant", "so", 2.0, MADE_HERE)])
    with pytest.raises(InvalidRequest, match="5 messages"):
        kept.save_message(GUEST, "c", "user", "more", "", "")
    assert len(kept.get(GUEST, "c").turns) == 4


def test_one_person_cannot_fill_a_shared_server(monkeypatch: pytest.MonkeyPatch) -> None:
    """S2: by number and by bytes; others, and this machine's own people, are not counted with them."""
    monkeypatch.setattr(history_module, "MOST_CONVERSATIONS", 2)
    monkeypatch.setattr(history_module, "MOST_BYTES", 2_000)
    kept = history(**SHARED)
    made = talk(kept, ANNA)
    kept.begin(ANNA, system="x" * 50)
    imported = json.dumps([{"role": "user", "content": "hi"}])
    for act in (
        lambda: kept.begin(ANNA),
        lambda: kept.branch(ANNA, made.id, made.leaf),
        lambda: kept.save_message(ANNA, "another", "user", "hi", "", ""),
        lambda: kept.take_in(ANNA, "", imported),
        lambda: kept.check_ask(ANNA, "", [], 1, system="", use_case="qa"),
    ):
        with pytest.raises(InvalidRequest, match=r"2 conversations are kept for each person here\. Export and delete"):
            act()
    for act in (
        lambda: kept.save_message(ANNA, "c", "user", "x" * 1500, "", ""),
        lambda: kept.edit(ANNA, "c", made.leaf, "x" * 1500),
        lambda: kept.set_system(ANNA, "c", "x" * 1500),
        lambda: kept.check_ask(ANNA, "c", [Turn("q", "", "user", "x" * 1500, 0)], 1, system="", use_case="qa"),
        lambda: kept.check_ask(
            ANNA, "c", [Turn("q", "", "user", "x", 0, expected="x" * 1500)], 1, system="", use_case="qa"
        ),
    ):
        with pytest.raises(InvalidRequest, match=r"0\.002 MB are kept for each person here"):
            act()
    assert kept.get(ANNA, "c") == made
    assert kept.find(ANNA).total == 2
    for number in range(3):
        kept.save_message(BERT if number < 2 else GUEST, f"c{number}", "user", "x" * 600, "", "")
    alone = history()
    for _ in range(3):
        alone.begin(GUEST, system="x" * 3000)


def test_many_guests_cannot_fill_a_shared_server(monkeypatch: pytest.MonkeyPatch) -> None:
    """S2: a new cookie is a new owner, so all guests are counted together; who has a name or a key is not crowded out."""
    monkeypatch.setattr(history_module, "MOST_TOGETHER", 3_000)
    kept = history(**SHARED)
    guests = [Caller(f"guest {number}", "guest", address="10.0.0.1") for number in range(4)]
    for guest in guests[:2]:
        kept.save_message(guest, "c", "user", "x" * 1_000, "", "")
    file = write([kept.get(guests[0], "c")], "json")
    full = "no more room for conversations on this server"
    for act in (
        lambda: kept.save_message(guests[2], "c", "user", "x" * 1_000, "", ""),
        lambda: kept.take_in(guests[2], "", file),
        lambda: kept.check_ask(guests[0], "c", [Turn("q", "", "user", "x" * 1_000, 0)], 1, system="", use_case="qa"),
    ):
        with pytest.raises(InvalidRequest, match=full):
            act()
    kept.save_message(ANNA, "c", "user", "x" * 1_000, "", "")
    gone = kept.delete_all(guests[0])
    kept.save_message(guests[2], "c", "user", "x" * 1_000, "", "")
    with pytest.raises(InvalidRequest, match=full):
        kept.restore(guests[0], gone)
    kept.delete(guests[2], "c")
    kept.restore(guests[0], gone)
    assert kept.get(guests[0], "c") == gone[0]


def test_what_made_an_answer_counts_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    """S2: an imported file may hold more tokens than words."""
    monkeypatch.setattr(history_module, "MOST_BYTES", 20_000)
    kept = history(**SHARED)
    reply = dataclasses.replace(MADE_HERE, token_ids=(123_456,) * 5_000)
    made = Conversation("c", "", 0, 0, turns=(Turn("a", "", "assistant", "hi", 0, reply),), leaf="a")
    with pytest.raises(InvalidRequest, match="MB are kept for each"):
        kept.take_in(ANNA, "", write([made], "json"))


# --- what people do ---


def test_a_title_is_one_line_and_an_empty_one_is_made_of_the_first_message() -> None:
    """P6."""
    kept = history()
    made = talk(kept)
    assert kept.rename(GUEST, "c", "  My\n LoRAs ").shown_title == "My LoRAs"
    assert kept.rename(GUEST, "c", " ").shown_title == "What is a LoRA?"
    with pytest.raises(InvalidRequest, match="201 characters"):
        kept.rename(GUEST, "c", "x" * 201)
    assert kept.get(GUEST, "c").updated_at == made.updated_at  # it does not jump to the top of the list
    assert kept.begin(GUEST, title="T", system="S", use_case="code-generation").use_case == "code_generation"


def test_an_edit_is_another_version_beside_the_old_one() -> None:
    """F1: of a user's message, an answer or a system's; what followed the old one stays with it."""
    kept = history()
    made = talk(kept)
    question, answer = made.turns
    edited = kept.edit(GUEST, "c", question.id, "What is DoRA?")
    assert [turn.content for turn in edited.path()] == ["What is DoRA?"]
    assert edited.turns[:2] == made.turns
    assert edited.turns[2].edited
    assert kept.switch(GUEST, "c", question.id).path() == made.path()
    bettered = kept.edit(GUEST, "c", answer.id, "Low-rank adaptation.")
    assert [turn.content for turn in bettered.path()] == ["What is a LoRA?", "Low-rank adaptation."]
    assert bettered.turns[-1].reply is None
    system = kept.save_message(GUEST, "c", "system", "Be brief.", "", "")
    assert kept.edit(GUEST, "c", system.leaf, "Be kind.").path()[-1].content == "Be kind."


def test_an_edit_that_changes_nothing_writes_nothing() -> None:
    """F1: and so do a switch to what is open, the same thumb, title and system prompt."""
    kept = history()
    made = kept.thumb(GUEST, "c", talk(kept).leaf, 1)
    for same in (
        kept.edit(GUEST, "c", made.leaf, "Low rank."),
        kept.switch(GUEST, "c", made.turns[0].id),
        kept.thumb(GUEST, "c", made.leaf, 1),
        kept.rename(GUEST, "c", ""),
        kept.set_system(GUEST, "c", ""),
    ):
        assert same == made


def test_only_answers_get_thumbs() -> None:
    """F1: up, down, and taken back."""
    kept = history()
    made = talk(kept)
    for thumb in (1, -1, 0):
        assert kept.thumb(GUEST, "c", made.leaf, thumb).turns[1].thumb == thumb  # type: ignore[arg-type]
    with pytest.raises(InvalidRequest, match="Only answers"):
        kept.thumb(GUEST, "c", made.turns[0].id, 1)
    with pytest.raises(InvalidRequest, match="1, -1 or 0"):
        kept.thumb(GUEST, "c", made.leaf, 5)  # type: ignore[arg-type]


def test_a_branch_is_a_conversation_of_its_own() -> None:
    """F1: the path up to that turn, with what made its answers; the old one stays as it was."""
    kept = history()
    said = [Turn("a", "", "user", "hi", 1.0), Turn("b", "a", "assistant", "ho", 2.0, MADE_HERE, thumb=1)]
    kept.append(GUEST, "old", said, begins=True, system="Be brief.", use_case="qa")
    kept.rename(GUEST, "old", "Greetings")
    old = kept.append(GUEST, "old", [Turn("c", "b", "user", "more", 3.0)])
    new = kept.branch(GUEST, "old", "b")
    assert new.id != "old"
    assert (new.title, new.system, new.use_case) == ("Greetings", "Be brief.", "qa")
    as_old = [
        dataclasses.replace(turn, id=was.id, parent=was.parent) for turn, was in zip(new.path(), said, strict=True)
    ]
    assert as_old == said
    assert not {turn.id for turn in new.turns} & {turn.id for turn in old.turns}
    kept.delete(GUEST, new.id)
    assert kept.get(GUEST, "old") == old


def test_what_was_deleted_comes_back_as_it_was() -> None:
    """P6: one, or all; the undo of both."""
    kept = history()
    made = [talk(kept, conversation_id=name) for name in ("a", "b", "c")]
    gone = kept.delete(GUEST, "b")
    with pytest.raises(NotFound):
        kept.get(GUEST, "b")
    kept.restore(GUEST, [gone])
    all_gone = kept.delete_all(GUEST)
    assert kept.find(GUEST).total == 0
    kept.restore(GUEST, all_gone)
    assert [kept.get(GUEST, one.id) for one in made] == made


def test_what_comes_back_does_not_take_the_place_of_what_came_since() -> None:
    """P6: an id that is in use again belongs to the new one."""
    kept = history()
    gone = talk(kept)
    kept.delete(GUEST, "c")
    new = kept.save_message(GUEST, "c", "user", "since then", "", "")
    kept.restore(GUEST, [gone, gone])
    assert kept.get(GUEST, "c") == new
    back = [kept.get(GUEST, one.id) for one in kept.find(GUEST).summaries if one.id != "c"]
    assert [one.turns for one in back] == [gone.turns] * 2
    kept.delete_all(GUEST)
    kept.restore(GUEST, [gone, gone])
    assert kept.find(GUEST).total == 2


def test_a_conversation_is_found_by_its_words_and_filters() -> None:
    """P6, F2: over all of one's chats."""
    kept = history()
    talk(kept)
    kept.save_message(GUEST, "d", "user", "Write a poem", "other", "creative_writing")
    assert [one.id for one in kept.find(GUEST).summaries] == ["d", "c"]
    assert [one.id for one in kept.find(GUEST, Query(text="rank lora")).summaries] == ["c"]
    assert [one.id for one in kept.find(GUEST, Query(use_case="creative_writing")).summaries] == ["d"]
    assert [one.id for one in kept.find(GUEST, Query(model="starter:pirate")).summaries] == ["c"]


# --- files ---


@pytest.mark.parametrize("form", EXPORT_FORMATS)
def test_what_is_exported_is_imported_by_somebody_else(form: Any) -> None:
    """P6: all of one's own, oldest first, under new ids."""
    kept = history(**SHARED)
    talk(kept, ANNA, "first")
    kept.save_message(ANNA, "second", "user", "hi", "starter", "chatbot")
    file = kept.export(ANNA, form)
    assert file.name.startswith("2-conversations-2026-11-18")
    came = kept.take_in(BERT, file.name, file.text)
    assert [one.shown_title for one in came] == ["What is a LoRA?", "hi"]
    assert [kept.get(BERT, one.id) for one in came] == list(came)
    assert not {one.id for one in came} & {"first", "second"}
    assert {one.owner for one in came} == {BERT.id}


def test_a_file_is_taken_whole_or_not_at_all() -> None:
    """P6."""
    kept = history()
    good = json.dumps([{"role": "user", "content": "hi"}])
    for bad in ('{"messages": 7}', '{"messages": [{"role": "tool", "content": "x"}]}'):
        with pytest.raises(InvalidRequest, match="Line 2"):
            kept.take_in(GUEST, "chats.jsonl", f"{good}\n{bad}")
    text = kept.export(GUEST, "json", [kept.take_in(GUEST, "", good)[0].id]).text.replace("chatbot", "poetry")
    with pytest.raises(InvalidRequest, match="Unknown use case 'poetry'"):
        kept.take_in(GUEST, "", text)
    assert kept.find(GUEST).total == 1


def test_an_export_of_nothing_says_so() -> None:
    """I5: an empty file would look like a failure; conversations that are not there are 404."""
    kept = history()
    with pytest.raises(InvalidRequest, match="nothing to export"):
        kept.export(GUEST, "json")
    empty = kept.begin(GUEST)
    with pytest.raises(InvalidRequest, match="nothing to export"):
        kept.export(GUEST, "chatml", [empty.id])
    assert kept.export(GUEST, "json", [empty.id, empty.id]).text.count('"turns"') == 1
    with pytest.raises(NotFound):
        kept.export(GUEST, "json", [empty.id, "gone"])
    with pytest.raises(InvalidRequest, match="Unknown format 'pdf'"):
        kept.export(GUEST, "pdf")  # type: ignore[arg-type]


def test_what_is_refused_is_told_with_a_remedy() -> None:
    """S2: whatever goes wrong, a person is told what to do next."""
    kept = history()
    for act in (
        lambda: kept.get(GUEST, new_id()),
        lambda: kept.begin(GUEST, use_case="poetry"),
        lambda: kept.save_message(GUEST, "c", "user", "", "", ""),
        lambda: kept.take_in(GUEST, "", "hello"),
    ):
        with pytest.raises(PlaygroundError) as raised:
            act()
        assert raised.value.remedy
