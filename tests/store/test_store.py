"""The store, the same over every storage: TinyDB's in memory, and the journal on the disk."""

from __future__ import annotations

import dataclasses
import threading
from pathlib import Path

import pytest

from playground.conversation import Conversation, Query, Turn, new_id
from playground.errors import InvalidRequest, NotFound
from playground.store import Store
from playground.types import GenerationSettings
from tests.store.sayings import SETTINGS, reply, talk


def test_what_was_put_is_what_one_gets(store):
    """F2, G10: every field of a conversation comes back, what made its answers included."""
    said = talk("Hi", "Ahoy", title="A talk", system="Be a pirate.", use_case="qa")
    judged = said.with_turn(dataclasses.replace(said.turns[1], thumb=-1, edited=True))
    named = judged.with_turns([Turn("last", said.leaf, "system", "…", 3.5, model_id="gpt-4")], 7.25)
    assert store.conversations.put(named) is named
    assert store.conversations.get("local", named.id) == named


def test_an_id_is_its_owners_alone(store):
    """F2, S2: two people may have the same id, and neither sees, changes or deletes the other's."""
    mine, theirs = talk("mine", id="same", owner="user anna"), talk("theirs", id="same", owner="user ben")
    only_theirs = talk("secret", owner="user ben")
    for one in (mine, theirs, only_theirs):
        store.conversations.put(one)
    assert store.conversations.get("user anna", "same") == mine
    assert store.conversations.remove("user anna", "same") == mine
    assert store.conversations.get("user ben", "same") == theirs
    for ask in (store.conversations.get, store.conversations.remove):
        with pytest.raises(NotFound) as refused:
            ask("user anna", only_theirs.id)
        with pytest.raises(NotFound) as unknown:
            ask("user anna", "nobody has this")
        assert str(refused.value) == str(unknown.value)
        assert only_theirs.id not in str(refused.value)
    with pytest.raises(NotFound):
        store.conversations.change("user anna", only_theirs.id, lambda one: one)
    assert store.conversations.remove_all("user anna") == ()
    assert store.conversations.find("user anna", Query("secret")).bases == ()
    assert store.conversations.find("user ben", Query("secret")).total == 1


def test_an_id_is_not_given_twice(store):
    """F2: to put is to add; what was there stays."""
    said = store.conversations.put(talk("first"))
    with pytest.raises(InvalidRequest):
        store.conversations.put(talk("second", id=said.id))
    assert store.conversations.get("local", said.id) == said


def test_a_change_counts_and_one_that_fails_leaves_everything(store):
    """F2: one transaction: the new revision, or as it was."""
    said = store.conversations.put(talk("Hi"))

    def rename(one: Conversation) -> Conversation:
        return dataclasses.replace(one, title="New", owner="somebody else", id="other")

    changed = store.conversations.change("local", said.id, rename)
    assert changed == dataclasses.replace(said, title="New", revision=1)
    assert store.conversations.change("local", said.id, lambda one: one).revision == 1

    def fails(one: Conversation) -> Conversation:
        raise InvalidRequest("No.")

    with pytest.raises(InvalidRequest):
        store.conversations.change("local", said.id, fails)
    for bad in ({"title": "\ud800"}, {"leaf": "nowhere"}, {"updated_at": float("nan")}):
        with pytest.raises(InvalidRequest, match="cannot be kept"):
            store.conversations.change("local", said.id, lambda one, bad=bad: dataclasses.replace(one, **bad))
    assert store.conversations.get("local", said.id) == changed


def test_many_are_put_in_one_transaction_or_none(store):
    """F2: an import, or taking back a deletion, is whole or was not."""
    kept = store.conversations.put(talk("Hi"))
    replaced, new = dataclasses.replace(kept, title="Again"), talk("New", owner="user ben")
    broken = dataclasses.replace(talk("x"), leaf="nowhere")
    with pytest.raises(InvalidRequest):
        store.conversations.put_all([replaced, new, broken])
    assert store.conversations.all("local") == (kept,)
    assert store.conversations.all("user ben") == ()
    store.conversations.put_all([replaced, new])
    assert store.conversations.all("local") == (replaced,)
    assert store.conversations.all("user ben") == (new,)
    store.conversations.put_all([])


def test_the_newest_comes_first_and_pages_follow_one_another(store):
    """P6: by the time of the last change; the total counts all."""
    said = [store.conversations.put(talk(f"number {at}", at=at)) for at in (1, 3, 2, 2)]
    newest_first = [said[1].id, said[3].id, said[2].id, said[0].id]
    assert [one.id for one in store.conversations.all("local")] == newest_first
    pages = [store.conversations.find("local", Query(limit=2, offset=at)) for at in (0, 2, 4)]
    assert [[one.id for one in page.summaries] for page in pages] == [newest_first[:2], newest_first[2:], []]
    assert [page.total for page in pages] == [4, 4, 4]


def test_a_list_tells_all_that_answered_and_what_there_is_to_filter_by(store):
    """P6: every model of every version, whatever the list is filtered by."""
    said = talk("Hi", "one", "more", "two", made=reply("starter", ("pirate", 0.5)))
    other = Turn(new_id(), said.turns[0].id, "assistant", "another", 9, reply("big", ("haiku", 1.0), ("pirate", 1.0)))
    said = store.conversations.put(dataclasses.replace(said.with_turns([other], 200), leaf=said.leaf, title="A talk"))
    imported = talk("Hello", use_case="qa", at=50).with_turns(
        [Turn("x", "", "assistant", "!", 1, model_id="gpt-4")], 50
    )
    store.conversations.put(imported)
    found = store.conversations.find("local", Query())
    summary = found.summaries[0]
    assert (summary.title, summary.messages, summary.use_case) == ("A talk", 4, "chatbot")
    assert (summary.model_id, summary.models) == ("starter:pirate@0.5", ("starter:pirate@0.5", "big:haiku:pirate"))
    assert (summary.created_at, summary.updated_at, summary.excerpt) == (100, 200, "")
    for query, ids in (
        (Query(model="big"), [said.id]),
        (Query(model="starter:pirate@0.5"), [said.id]),
        (Query(model="starter:pirate"), [said.id]),
        (Query(model="starter:pirate@2"), []),
        (Query(adapter="haiku"), [said.id]),
        (Query(adapter="haiku", use_case="qa"), []),
        (Query(use_case="qa"), [imported.id]),
        (Query(model="gpt-4"), [imported.id]),
    ):
        narrowed = store.conversations.find("local", query)
        assert [one.id for one in narrowed.summaries] == ids
        assert (narrowed.bases, narrowed.adapters) == (("big", "gpt-4", "starter"), ("haiku", "pirate"))
        assert narrowed.use_cases == ("chatbot", "qa")


def test_a_search_finds_words_in_titles_and_in_every_version(store):
    """F2, P6: letter case does not count, all words do, and the excerpt is around the first of them."""
    said = talk("Wo ist die Straße nach " + "weit " * 40 + "Göttingen?", "Folge dem FLUSS.", title="Reise")
    hidden = Turn(new_id(), said.turns[0].id, "assistant", "Ask İstanbul, then turn left.", 1, reply())
    said = store.conversations.put(dataclasses.replace(said.with_turns([hidden], 9), leaf=said.leaf))
    store.conversations.put(talk("Nothing of it"))

    def excerpts(text: str) -> list[str]:
        return [one.excerpt for one in store.conversations.find("local", Query(text)).summaries]

    assert excerpts("reise") == ["Reise"]
    assert excerpts("fluss STRASSE") == ["Wo ist die Straße nach weit weit weit weit weit weit weit weit weit…"]
    [found] = excerpts("göttingen")
    assert found.startswith("…weit")
    assert found.endswith("weit Göttingen?")
    assert excerpts("turn LEFT") == ["Ask İstanbul, then turn left."]
    assert excerpts("fluss nowhere") == []
    store.conversations.change("local", said.id, lambda one: dataclasses.replace(one, title="Fahrt"))
    assert excerpts("reise") == []
    assert excerpts("fahrt") == ["Fahrt"]


def test_what_was_deleted_can_be_put_back_as_it_was(store):
    """F2: deleting gives back what it took, for undoing it."""
    said = [store.conversations.put(talk("one", at=1)), store.conversations.put(talk("two", at=2))]
    other = store.conversations.put(talk("not mine", owner="user ben"))
    removed = store.conversations.remove("local", said[0].id)
    assert removed == said[0]
    assert store.conversations.ids("local") == {said[1].id}
    store.conversations.put(removed)
    taken = store.conversations.remove_all("local")
    assert taken == (said[1], said[0])
    assert store.conversations.all("local") == ()
    assert store.conversations.all("user ben") == (other,)
    store.conversations.put_all(taken)
    assert store.conversations.all("local") == taken


def test_nothing_is_lost_when_many_write_at_once(store):
    """F2: one lock: each of many threads appends to the same conversation, and to one of its own."""
    shared = store.conversations.put(talk("Hi"))

    def write(number: int) -> None:
        own = store.conversations.put(talk("mine"))
        for at in range(5):
            turn = Turn(f"{number}-{at}", shared.leaf, "assistant", "x", at)
            store.conversations.change("local", shared.id, lambda one, turn=turn: one.with_turns([turn], 1))
            store.conversations.change("local", own.id, lambda one: dataclasses.replace(one, title=one.title + "x"))
            store.conversations.find("local", Query("mine"))

    threads = [threading.Thread(target=write, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(store.conversations.get("local", shared.id).turns) == 41
    assert store.conversations.get("local", shared.id).revision == 40
    assert [one.title for one in store.conversations.all("local") if one.title] == ["xxxxx"] * 8


def test_presets_are_each_persons_own(store):
    """P4: saved, replaced and deleted by name; one of them to begin with."""
    warm = GenerationSettings(temperature=1.5)
    store.presets.save("local", "mine", SETTINGS)
    store.presets.save("local", "Fine", warm)
    store.presets.save("user ben", "mine", warm)
    assert list(store.presets.all("local").items()) == [("Fine", warm), ("mine", SETTINGS)]
    store.presets.save("local", "mine", warm)
    assert store.presets.all("local")["mine"] == warm
    store.presets.set_first("local", "mine")
    store.presets.set_first("local", "Fine")
    assert (store.presets.first("local"), store.presets.first("user ben")) == ("Fine", "")
    assert store.presets.delete("local", "mine") == warm
    for name in ("mine", "unknown"):
        with pytest.raises(NotFound, match=name):
            store.presets.delete("local", name)
    assert list(store.presets.all("user ben")) == ["mine"]
    with pytest.raises(InvalidRequest):
        store.presets.save("local", "x", GenerationSettings(stop=("\udfff",)))


def test_presets_outlive_the_process(folder):
    """P4, F2: the same file holds them."""
    store = Store.open(folder)
    store.presets.save("local", "mine", SETTINGS)
    store.presets.set_first("local", "mine")
    store.close()
    again = Store.open(folder)
    assert again.presets.all("local") == {"mine": SETTINGS}
    assert again.presets.first("local") == "mine"
    again.presets.save("local", "mine", GenerationSettings())
    assert again.presets.all("local") == {"mine": GenerationSettings()}
    again.close()


def test_in_memory_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """F2: without a folder there is no file, and two of them do not see each other."""
    monkeypatch.chdir(tmp_path)
    one, two = Store.in_memory(), Store.in_memory()
    said = one.conversations.put(talk("Hi"))
    one.conversations.remove_all("local")
    one.conversations.put(said)
    assert two.conversations.all("local") == ()
    assert one.path is None
    one.close()
    one.close()
    assert list(tmp_path.iterdir()) == []
