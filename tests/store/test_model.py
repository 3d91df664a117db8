"""The store against a plain model in memory, by whatever Hypothesis thinks of; the process is killed in between."""

from __future__ import annotations

import dataclasses
import itertools
import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from playground.conversation import Conversation, Query, Turn
from playground.errors import HistoryUnavailable, NotFound
from playground.store import Store, journal
from tests.store.sayings import reply
from tests.store.test_journal import disk_full

OWNERS = st.sampled_from(["local", "user anna"])
TEXTS = st.sampled_from(["", "Hi", "Straße nach Rom", "日本 🙂", "a\nb\r\u2028c", "x" * 400, '{"n": 1}'])
CHOICES = st.integers(0, 2**16)


@dataclasses.dataclass
class Talk:
    """What the model knows of a conversation: its turns as (id, parent, role, text), the open one, title, changes."""

    turns: list[tuple[str, str, str, str]]
    leaf: str
    title: str
    revision: int = 0

    @classmethod
    def of(cls, found: Conversation) -> Talk:
        turns = [(turn.id, turn.parent, turn.role, turn.content) for turn in found.turns]
        return cls(turns, found.leaf, found.title, found.revision)


class Histories(RuleBasedStateMachine):
    """Two owners' conversations in one folder."""

    def __init__(self) -> None:
        super().__init__()
        self.root = Path(tempfile.mkdtemp(prefix="store-model-"))
        self.floor, journal.FOLD_FLOOR = journal.FOLD_FLOOR, 4000
        self.numbers = itertools.count(1)
        self.clock = itertools.count(1)
        self.talks: dict[str, dict[str, Talk]] = {"local": {}, "user anna": {}}
        self.deleted: list[tuple[str, list[Conversation]]] = []
        self.folder = self.root / "0"

    @initialize()
    def begin(self) -> None:
        self.store = Store.open(self.folder)

    def teardown(self) -> None:
        journal.FOLD_FLOOR = self.floor
        self.store.close()
        shutil.rmtree(self.root)

    def chosen(self, owner: str, choice: int) -> str | None:
        """One of the owner's ids, None where there is none."""
        ids = sorted(self.talks[owner])
        return ids[choice % len(ids)] if ids else None

    def change(self, owner: str, conversation_id: str, edit: Any) -> None:
        after = self.store.conversations.change(owner, conversation_id, edit)
        self.talks[owner][conversation_id].revision += 1
        assert Talk.of(after) == self.talks[owner][conversation_id]

    def added(self, parent: str, role: Any, text: str) -> Turn:
        number = next(self.numbers)
        made = reply("starter", ("pirate", 0.5)) if role == "assistant" else None
        return Turn(f"turn {number}", parent, role, text, number, made)

    @rule(owner=OWNERS, title=TEXTS)
    def new(self, owner: str, title: str) -> None:
        conversation_id, now = f"talk {next(self.numbers)}", next(self.clock)
        self.store.conversations.put(Conversation(conversation_id, owner, now, now, title))
        self.talks[owner][conversation_id] = Talk([], "", title)

    @rule(owner=OWNERS, choice=CHOICES, text=TEXTS)
    def append(self, owner: str, choice: int, text: str) -> None:
        """A message and its answer at the end of the open path, in one change."""
        if conversation_id := self.chosen(owner, choice):
            talk = self.talks[owner][conversation_id]
            said = self.added(talk.leaf, "user", text)
            pair = (said, self.added(said.id, "assistant", text[::-1]))
            talk.turns += [(turn.id, turn.parent, turn.role, turn.content) for turn in pair]
            talk.leaf = pair[1].id
            now = next(self.clock)
            self.change(owner, conversation_id, lambda one: one.with_turns(pair, now))

    @rule(owner=OWNERS, choice=CHOICES, which=CHOICES, text=TEXTS)
    def edit(self, owner: str, choice: int, which: int, text: str) -> None:
        """Another version of a message, beside it."""
        conversation_id = self.chosen(owner, choice)
        if conversation_id and (turns := self.talks[owner][conversation_id].turns):
            _, parent, role, _ = turns[which % len(turns)]
            version = self.added(parent, role, text)
            turns.append((version.id, parent, role, text))
            self.talks[owner][conversation_id].leaf = version.id
            now = next(self.clock)
            self.change(owner, conversation_id, lambda one: one.with_turns([version], now))

    @rule(owner=OWNERS, choice=CHOICES, which=CHOICES)
    def branch(self, owner: str, choice: int, which: int) -> None:
        """A new conversation of the path to a message."""
        conversation_id = self.chosen(owner, choice)
        if conversation_id and (turns := self.talks[owner][conversation_id].turns):
            leaf, by_id, path = turns[which % len(turns)][0], {turn[0]: turn for turn in turns}, []
            while leaf:
                path.insert(0, by_id[leaf])
                leaf = by_id[leaf][1]
            branch_id, now = f"talk {next(self.numbers)}", next(self.clock)
            found = self.store.conversations.get(owner, conversation_id)
            same = tuple(found.turn(one[0]) for one in path)
            self.store.conversations.put(Conversation(branch_id, owner, now, now, turns=same, leaf=same[-1].id))
            self.talks[owner][branch_id] = Talk(path, path[-1][0], "")

    @rule(owner=OWNERS, choice=CHOICES, title=TEXTS)
    def rename(self, owner: str, choice: int, title: str) -> None:
        if conversation_id := self.chosen(owner, choice):
            self.talks[owner][conversation_id].title = title
            self.change(owner, conversation_id, lambda one: dataclasses.replace(one, title=title))

    @rule(owner=OWNERS, choice=CHOICES)
    def delete(self, owner: str, choice: int) -> None:
        if conversation_id := self.chosen(owner, choice):
            found = self.store.conversations.remove(owner, conversation_id)
            assert Talk.of(found) == self.talks[owner].pop(conversation_id)
            self.deleted.append((owner, [found]))

    @rule(owner=OWNERS)
    def delete_all(self, owner: str) -> None:
        found = self.store.conversations.remove_all(owner)
        assert {one.id: Talk.of(one) for one in found} == self.talks[owner]
        self.talks[owner] = {}
        self.deleted.append((owner, list(found)))

    @rule()
    def undo(self) -> None:
        """What was deleted last comes back as it was."""
        if self.deleted:
            owner, found = self.deleted.pop()
            self.store.conversations.put_all(found)
            self.talks[owner] |= {one.id: Talk.of(one) for one in found}

    @rule(owner=OWNERS, choice=CHOICES)
    def full_disk(self, owner: str, choice: int) -> None:
        """A change that the disk does not take: it was never made."""
        ids = self.chosen(owner, choice), "never"
        with pytest.MonkeyPatch.context() as broken:
            broken.setattr(journal.os, "fsync", disk_full)
            with pytest.raises(HistoryUnavailable):
                self.store.conversations.put_all([Conversation(one, owner, 1, 1, "no") for one in ids if one])

    @rule()
    def reopen(self) -> None:
        self.store.close()
        assert (self.folder / "history.journal").stat().st_size == 0
        self.store = Store.open(self.folder)

    @rule(torn=st.binary(max_size=40))
    def kill(self, torn: bytes) -> None:
        """The files as they are now, with half a line more, are all that is left."""
        killed = self.root / str(next(self.numbers))
        shutil.copytree(self.folder, killed)
        with (killed / "history.journal").open("ab") as journal_file:
            journal_file.write(torn.replace(b"\n", b""))
        self.store.close()
        shutil.rmtree(self.folder)
        self.folder = killed
        self.store = Store.open(killed)
        assert self.store.notices == ()

    @invariant()
    def the_store_says_what_the_model_says(self) -> None:
        for owner, talks in self.talks.items():
            assert {one.id: Talk.of(one) for one in self.store.conversations.all(owner)} == talks
            found = self.store.conversations.find(owner, Query("STRASSE"))
            assert {one.id for one in found.summaries} == {
                conversation_id
                for conversation_id, talk in talks.items()
                if "Straße" in talk.title or any("Straße" in turn[3] for turn in talk.turns)
            }
            assert self.store.conversations.ids(owner) == talks.keys()

    @invariant()
    def the_file_parses(self) -> None:
        assert json.loads((self.folder / "history.json").read_bytes())["meta"] == {"1": {"schema": 1}}

    @invariant()
    def nobody_sees_what_is_somebody_elses(self) -> None:
        for owner, other in (("local", "user anna"), ("user anna", "local")):
            for conversation_id in self.talks[owner].keys() - self.talks[other].keys():
                with pytest.raises(NotFound):
                    self.store.conversations.get(other, conversation_id)


def run(examples: int, steps: int, **more: Any) -> None:
    run_state_machine_as_test(
        Histories,
        settings=settings(
            max_examples=examples, stateful_step_count=steps, deadline=None, suppress_health_check=list(HealthCheck), **more
        ),
    )  # fmt: skip


def test_the_store_says_what_a_plain_model_says():
    """F2: append, edit, branch, rename, delete, undo, a full disk, a new start and a kill, in any order; the same ones."""
    run(20, 25, derandomize=True, database=None)


@pytest.mark.long
def test_the_store_says_what_a_plain_model_says_for_long():
    """F2: other ones each time."""
    run(150, 60)
