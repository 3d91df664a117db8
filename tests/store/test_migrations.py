"""From one version of the file to the next."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from tinydb.storages import MemoryStorage

from playground.errors import HistoryUnavailable
from playground.store import Store, migrations
from playground.store.journal import Journal, Tables
from tests.store.sayings import talk


def louder(tables: Tables) -> Tables:
    """A step that changes every conversation."""
    talks = {key: {**one, "title": one["title"].upper()} for key, one in tables["conversations"].items()}
    return {**tables, "conversations": talks}


def marked(tables: Tables) -> Tables:
    """A step that adds a table."""
    return {**tables, "marks": {"1": {"of": len(tables["conversations"])}}}


STEPS = {1: louder, 2: marked}


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def written(folder: Path) -> Path:
    """A history of this version, half of it in the journal: what a killed process left."""
    store = Store.open(folder)
    store.conversations.put(talk("Hi", title="in the file"))
    store.close()
    store = Store.open(folder)
    store.conversations.put(talk("Hi", title="in the journal"))
    killed = Path(shutil.copytree(folder, folder.with_name("killed")))
    store.close()
    return killed


def test_a_new_history_tells_its_version(folder):
    """F2: the schema's version stands in a table of its own."""
    Store.open(folder).close()
    assert json.loads((folder / "history.json").read_bytes()) == {"meta": {"1": {"schema": migrations.SCHEMA}}}


def test_steps_are_taken_one_after_another_with_a_copy_of_what_was(folder):
    """F2: the journal's changes are in both; the copy is a TinyDB file of the old version."""
    place = written(folder)
    storage = Journal(place / "history.json")
    before = storage.read()
    migrations.migrate(storage, STEPS, 3)
    tables = json.loads((place / "history.json").read_bytes())
    assert sorted(one["title"] for one in tables["conversations"].values()) == ["IN THE FILE", "IN THE JOURNAL"]
    assert (tables["marks"], tables["meta"]) == ({"1": {"of": 2}}, {"1": {"schema": 3}})
    assert json.loads((place / "history.before-schema-3.json").read_bytes()) == before
    assert (place / "history.journal").read_bytes() == b""
    migrations.migrate(storage, {}, 3)
    assert storage.read() == tables
    storage.close()


def test_a_step_that_fails_changes_nothing(folder):
    """F2: all of it is one transaction."""
    place = written(folder)

    def fails(tables: Tables) -> Tables:
        louder(tables)
        raise RuntimeError("a step is wrong")

    storage = Journal(place / "history.json")
    before = storage.read()
    with pytest.raises(RuntimeError):
        migrations.migrate(storage, {1: louder, 2: fails}, 3)
    storage.close()
    assert Journal(place / "history.json").read() == before


def test_a_newer_versions_file_is_refused_and_not_touched(folder):
    """F2: neither the file nor the journal nor what a kill left beside them; the folder is free afterwards."""
    place = written(folder)
    newer = Journal(place / "history.json")
    newer.write({**(newer.read() or {}), "meta": {"1": {"schema": 2}}})
    newer._let_go()  # as if it was killed: the version is in the journal only
    with (place / "history.journal").open("ab") as torn:
        torn.write(b"half a li")
    (place / "history.json.tmp").write_bytes(b"{")
    before = contents(place)
    for _ in range(2):
        with pytest.raises(HistoryUnavailable, match="newer version") as refused:
            Store.open(place)
        assert contents(place) == before
    assert "--data-dir" in str(refused.value)


def test_in_memory_the_same_steps_are_taken():
    """F2: the seam is the same."""
    storage = MemoryStorage()
    storage.write({"conversations": {"1": {"title": "a"}}, "meta": {"1": {"schema": 1}}})
    migrations.migrate(storage, STEPS, 3)
    assert storage.read()["conversations"] == {"1": {"title": "A"}}
    with pytest.raises(HistoryUnavailable, match="newer version"):
        Store(storage)
