"""The journal and the file beside it: what is on the disk at every moment, and what becomes of what is broken."""

from __future__ import annotations

import dataclasses
import errno
import itertools
import json
import os
import shutil
import stat
from pathlib import Path
from typing import Any

import pytest
from tinydb import TinyDB, where

from playground.errors import HistoryUnavailable, NotFound
from playground.store import Store, journal
from playground.store.documents import Documents
from playground.store.journal import Journal
from tests.store.sayings import talk

FILE, JOURNAL = "history.json", "history.journal"


def titles(store: Store) -> list[str]:
    return sorted(one.shown_title for one in store.conversations.all("local"))


def as_killed(folder: Path) -> Path:
    """A copy of the files as they are on the disk now: what a process that is killed now leaves."""
    return Path(shutil.copytree(folder, folder.with_name(f"{folder.name}-{len(list(folder.parent.iterdir()))}")))


def left(folder: Path) -> list[str]:
    """The titles of what is there after the process was killed now."""
    store = Store.open(as_killed(folder))
    found = titles(store)
    assert store.notices == ()
    store.close()
    return found


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()} - {"history.lock"}


def put_with_disk_trouble(
    store: Store, monkeypatch: pytest.MonkeyPatch, call: str, trouble: Any, title: str = "lost"
) -> str:
    """Try to save while the system call fails; returns what was said about it."""
    with monkeypatch.context() as broken:
        broken.setattr(journal.os, call, trouble)
        with pytest.raises(HistoryUnavailable) as refused:
            store.conversations.put(talk(title))
    return str(refused.value)


def disk_full(*_: Any) -> Any:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_everything_that_was_saved_is_there_after_a_kill_and_the_file_is_plain_tinydb(folder):
    """F2: each change is on the disk when it is reported; both files parse at every moment."""
    store, saved = Store.open(folder), []
    for number in range(5):
        said = store.conversations.put(talk(f"number {number}"))
        saved = sorted([*saved, said.shown_title])
        assert left(folder) == saved
    store.close()
    assert (folder / JOURNAL).read_bytes() == b""
    with TinyDB(folder / FILE, encoding="utf-8") as plain:
        [found] = plain.table("conversations").search(where("id") == said.id)
        assert found["turns"][0]["content"] == "number 4"
        assert plain.table("meta").all() == [{"schema": 1}]


def test_what_plain_tinydb_wrote_is_read(folder):
    """F2: the file stays anybody's: another program may change it while the app does not run."""
    store = Store.open(folder)
    said = store.conversations.put(talk("Größe 🙂"))
    store.close()
    with TinyDB(folder / FILE, encoding="utf-8") as plain:
        plain.table("conversations").update({"title": "By another program"}, where("id") == said.id)
        plain.table("of others").insert({"half a character": "\ud800"})
    store = Store.open(folder)
    assert store.conversations.get("local", said.id) == dataclasses.replace(said, title="By another program")
    store.conversations.put(talk("more"))
    store.close()
    with TinyDB(folder / FILE, encoding="utf-8") as plain:
        assert plain.table("of others").all() == [{"half a character": "\ud800"}]
        assert len(plain.table("conversations")) == 2


def test_a_change_costs_a_line_of_its_own_documents(folder):
    """F2: not the whole file: what did not change is not written again."""
    store = Store.open(folder)
    store.conversations.put_all([talk("x" * 1000) for _ in range(50)])
    said = store.conversations.put(talk("Hi"))
    before, file = (folder / JOURNAL).stat().st_size, (folder / FILE).read_bytes()
    store.conversations.change("local", said.id, lambda one: dataclasses.replace(one, title="New"))
    assert 0 < (folder / JOURNAL).stat().st_size - before < 1000
    assert (folder / FILE).read_bytes() == file
    store.close()


def test_a_torn_last_line_is_dropped_quietly(folder):
    """F2: it was never reported as saved; what comes after it is whole."""
    store = Store.open(folder)
    store.conversations.put(talk("kept"))
    whole = (folder / JOURNAL).stat().st_size
    store.conversations.put(talk("torn"))
    line = (folder / JOURNAL).read_bytes()[whole:]
    for length in {1, 8, 9, 10, len(line) // 2, len(line) - 1}:
        torn = as_killed(folder)
        os.truncate(torn / JOURNAL, whole + length)
        opened = Store.open(torn)
        assert (titles(opened), opened.notices) == (["kept"], ())
        opened.conversations.put(talk("after"))
        assert left(torn) == ["after", "kept"]
        opened.close()
    store.close()


def test_a_broken_line_in_the_middle_is_told_and_the_rest_is_kept(folder, caplog):
    """F2: the journal as it was is set aside under a name that the notice says."""
    store = Store.open(folder)
    for title in ("one", "two", "three"):
        store.conversations.put(talk(title))
    damaged = as_killed(folder)
    lines = (damaged / JOURNAL).read_bytes().splitlines(keepends=True)
    lines[1] = lines[1].replace(b"two", b"tow")
    (damaged / JOURNAL).write_bytes(b"".join(lines))
    opened = Store.open(damaged)
    assert titles(opened) == ["one", "three"]
    [notice] = opened.notices
    [aside] = damaged.glob("history.broken-*.journal")
    assert str(aside) in notice
    assert str(aside) in caplog.text
    assert aside.read_bytes() == b"".join(lines)
    opened.close()
    assert left(damaged) == ["one", "three"]
    store.close()


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b'{"conversations": []}', b'{"conversations": {"1": 2}}', b'{"x": {"one": {}}}', b"\x00" * 4096,
     b"[" * 100_000, b'{"x": {"' + b"9" * 5000 + b'": {}}}', '{"x": {"²": {}}}'.encode()],
)  # fmt: skip
def test_an_unreadable_file_is_set_aside_and_the_app_runs(folder, content, caplog):
    """F2: named in the notice and the log; what the journal has is still there."""
    store = Store.open(folder)
    store.conversations.put(talk("in the file"))
    store.close()
    store = Store.open(folder)
    store.conversations.put(talk("in the journal"))
    damaged = as_killed(folder)
    (damaged / FILE).write_bytes(content)
    opened = Store.open(damaged)
    [aside] = damaged.glob("history.unreadable-*.json")
    assert aside.read_bytes() == content
    assert str(aside) in opened.notices[0]
    assert str(aside) in caplog.text
    assert titles(opened) == ["in the journal"]
    opened.conversations.put(talk("new"))
    assert left(damaged) == ["in the journal", "new"]
    opened.close()
    store.close()


def test_a_truncated_file_is_set_aside_and_a_second_one_beside_it(folder):
    """F2: cut anywhere; what was set aside before is not overwritten."""
    store = Store.open(folder)
    store.conversations.put(talk("Hi"))
    store.close()
    whole = (folder / FILE).read_bytes()
    for number, length in enumerate((len(whole) // 2, len(whole) - 1, 1), start=1):
        (folder / FILE).write_bytes(whole[:length])
        opened = Store.open(folder)
        assert titles(opened) == []
        opened.close()
        asides = {path.read_bytes() for path in folder.glob("history.unreadable-*.json")}
        assert len(asides) == number


def test_a_kill_between_folding_and_emptying_the_journal_does_no_harm(folder):
    """F2: the lines are read once more, and say what the file says; deletions too."""
    store = Store.open(folder)
    said = [store.conversations.put(talk(title)) for title in ("one", "two", "three")]
    store.conversations.remove("local", said[0].id)
    store.conversations.change("local", said[1].id, lambda one: dataclasses.replace(one, title="2"))
    before = (folder / JOURNAL).read_bytes()
    store.close()
    (folder / JOURNAL).write_bytes(before)
    (folder / "history.json.tmp").write_bytes(b'{"half')
    opened = Store.open(folder)
    assert (titles(opened), opened.notices) == (["2", "three"], ())
    opened.close()
    assert names(folder) == {FILE, JOURNAL}
    (folder / "history.json.tmp").write_bytes(
        b'{"half'
    )  # of a fold for deleting everything, when the journal was empty
    Store.open(folder).close()
    assert names(folder) == {FILE, JOURNAL}


@pytest.mark.parametrize("call", ["write", "fsync"])
def test_a_write_that_fails_leaves_memory_and_disk_as_they_were(folder, monkeypatch, call):
    """F2, S2: a sentence with the remedy, which names no folder as users elsewhere read it; the next one is whole."""
    store = Store.open(folder)
    kept = store.conversations.put(talk("kept"))
    before = (folder / JOURNAL).read_bytes()
    said = put_with_disk_trouble(store, monkeypatch, call, disk_full)
    assert "No space left on device" in said
    assert str(folder) not in said
    assert "--data-dir" in said
    assert (folder / JOURNAL).read_bytes() == before
    assert store.conversations.all("local") == (kept,)
    for attempt in (
        lambda: store.conversations.remove("local", kept.id),
        lambda: store.conversations.remove_all("local"),
        lambda: store.conversations.change("local", kept.id, lambda one: dataclasses.replace(one, title="x")),
        lambda: store.presets.set_first("local", "x"),
    ):
        with monkeypatch.context() as broken:
            broken.setattr(journal.os, call, disk_full)
            with pytest.raises(HistoryUnavailable):
                attempt()
    assert store.conversations.all("local") == (kept,)
    assert store.presets.first("local") == ""
    store.conversations.put(talk("after"))
    assert left(folder) == ["after", "kept"]
    store.close()


def test_a_line_that_could_not_be_cut_off_is_cut_off_before_the_next(folder, monkeypatch):
    """F2: half a line, and a disk that does not even take it back: nothing of it is read later."""
    store = Store.open(folder)
    store.conversations.put(talk("kept"))
    whole = (folder / JOURNAL).stat().st_size
    write, times = os.write, iter(range(2))

    def half(opened: int, content: Any) -> int:
        return write(opened, content[:100]) if next(times) == 0 else disk_full()

    with monkeypatch.context() as broken:
        broken.setattr(journal.os, "ftruncate", disk_full)
        put_with_disk_trouble(store, broken, "write", half)
    assert (folder / JOURNAL).stat().st_size == whole + 100
    assert left(folder) == ["kept"]
    store.conversations.put(talk("after"))
    assert left(folder) == ["after", "kept"]
    store.close()


def test_the_journal_is_folded_when_it_has_grown(folder, monkeypatch):
    """F2: at twice the file's size, and not below a floor; a fold that fails loses nothing and is made up for."""
    monkeypatch.setattr(journal, "FOLD_FLOOR", 3000)
    store = Store.open(folder)
    sizes = []
    for number in range(40):
        store.conversations.put(talk(f"number {number}" + "x" * 500))
        sizes.append((folder / JOURNAL).stat().st_size)
    folds = [at for at, (before, after) in enumerate(itertools.pairwise(sizes)) if after < before]
    assert folds
    assert folds[0] < 5
    assert len(folds) < 5, "each is at twice the size of the one before"
    with monkeypatch.context() as broken:
        broken.setattr(Path, "replace", disk_full)
        store.conversations.put(talk("y" * 100_000))
    assert (folder / JOURNAL).stat().st_size > 100_000
    assert names(folder) == {FILE, JOURNAL}
    assert len(left(folder)) == 41
    store.conversations.put(talk("one more"))
    assert (folder / JOURNAL).stat().st_size == 0
    store.close()


def test_deleting_everything_leaves_nothing_on_the_disk(folder):
    """F2, P6: no file of the folder holds the text any more, and others keep theirs."""
    store = Store.open(folder)
    store.conversations.put(talk("a secret of mine"))
    store.close()
    store = Store.open(folder)
    store.conversations.put(talk("another secret of mine"))
    store.conversations.put(talk("somebody else's", owner="user ben"))
    (folder / "history.before-schema-9.json").write_bytes((folder / FILE).read_bytes())
    store.conversations.remove_all("local")
    left = b"".join(path.read_bytes() for path in folder.iterdir())
    assert b"secret" not in left
    assert b"somebody else's" in left
    assert names(folder) == {FILE, JOURNAL}
    store.close()


def test_one_deleted_conversation_is_gone_from_the_disk_at_the_next_start(folder):
    """F2, P6: also where the app was killed in between."""
    store = Store.open(folder)
    said = store.conversations.put(talk("a secret"))
    store.conversations.remove("local", said.id)
    killed = as_killed(folder)
    Store.open(killed).close()
    store.close()
    for place in (killed, folder):
        assert b"secret" not in b"".join(path.read_bytes() for path in place.iterdir())


def test_deleting_everything_says_when_texts_stay_on_the_disk(folder, monkeypatch):
    """F2: what could not be done is not promised."""
    store = Store.open(folder)
    store.conversations.put(talk("a secret"))
    with monkeypatch.context() as broken:
        broken.setattr(Path, "replace", disk_full)
        with pytest.raises(HistoryUnavailable, match="still on the disk"):
            store.conversations.remove_all("local")
    assert store.conversations.all("local") == ()
    assert left(folder) == []
    store.close()
    assert b"secret" not in b"".join(path.read_bytes() for path in folder.iterdir())


def test_files_are_for_this_systems_user_only(folder):
    """F2, S2: 0600 in a folder of 0700, whatever the process would make."""
    before = os.umask(0)
    try:
        store = Store.open(folder)
        store.conversations.put(talk("Hi"))
        store.close()
        (folder / FILE).write_bytes(b"{")
        Store.open(folder).close()
    finally:
        os.umask(before)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    kept = {path.name: stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()}
    assert len(kept) == 4
    assert set(kept.values()) == {0o600}, kept


def test_a_second_one_is_refused_with_the_folder_and_the_remedy(folder):
    """F2: one process at a time; after it was closed the next may have it, and closing twice is closing once."""
    store = Store.open(folder)
    with pytest.raises(HistoryUnavailable, match="in use by another process") as refused:
        Store.open(folder)
    assert str(folder) in str(refused.value)
    assert "--data-dir" in str(refused.value)
    store.conversations.put(talk("Hi"))
    store.close()
    store.close()
    again = Store.open(folder)
    with pytest.raises(HistoryUnavailable, match="closed"):
        store.conversations.put(talk("too late"))
    assert titles(again) == ["Hi"]
    again.close()


def test_a_folder_that_nothing_can_be_kept_in_is_one_sentence(tmp_path):
    """F2: not a traceback: a file where the folder should be, a folder where the file should be."""
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(HistoryUnavailable, match=r"cannot be kept in .*file"):
        Store.open(tmp_path / "file" / "history")
    (tmp_path / "history" / FILE).mkdir(parents=True)
    for _ in range(2):  # the lock was given back
        with pytest.raises(HistoryUnavailable, match=r"cannot be read.*--data-dir"):
            Store.open(tmp_path / "history")


def test_what_cannot_be_opened_is_not_half_open(folder, monkeypatch):
    """F2: a disk that is full at the start: a sentence, nothing is lost, and the next start finds everything."""
    store = Store.open(folder)
    store.conversations.put(talk("kept"))
    killed = as_killed(folder)
    with monkeypatch.context() as broken:
        broken.setattr(journal.os, "write", disk_full)
        with pytest.raises(HistoryUnavailable, match="No space left"):
            Store.open(killed)
    opened = Store.open(killed)
    assert titles(opened) == ["kept"]
    opened.close()
    store.close()


def test_a_stored_conversation_that_cannot_be_read_stays_where_it_is(folder):
    """F2: a newer version's, or a damaged one: told, not shown, not overwritten, and gone when all are deleted."""
    store = Store.open(folder)
    said = {name: store.conversations.put(talk(name, "answer")) for name in ("good", "shallow", "deep")}
    store.close()
    tables = json.loads((folder / FILE).read_bytes())
    for document in tables["conversations"].values():
        if document["id"] == said["shallow"].id:
            del document["turns"]
        if document["id"] == said["deep"].id:
            document["turns"][1]["reply"]["of the future"] = 1
    (folder / FILE).write_text(json.dumps(tables), encoding="utf-8")
    store = Store.open(folder)
    [notice] = store.notices
    assert "1 stored conversation" in notice
    assert titles(store) == ["good"]
    for name in ("shallow", "deep"):
        with pytest.raises(HistoryUnavailable, match="cannot be read"):
            store.conversations.get("local", said[name].id)
    with pytest.raises(NotFound):
        store.conversations.get("user ben", said["deep"].id)
    store.close()
    assert json.loads((folder / FILE).read_bytes()) == tables
    store = Store.open(folder)
    assert store.conversations.remove_all("local") == (said["good"],)
    assert json.loads((folder / FILE).read_bytes())["conversations"] == {}
    store.close()


def test_tinydbs_own_tables_work_over_the_journal(tmp_path):
    """F2: what they add and remove is on the disk; to change a document in place is refused, as it would be unseen."""
    path = tmp_path / "any.json"

    def killed() -> TinyDB:
        copy = as_killed(tmp_path)
        return TinyDB(storage=lambda: Journal(copy / "any.json"))

    db = TinyDB(storage=lambda: Journal(path))
    db.insert_multiple([{"n": 1, "deep": {"x": [1]}}, {"n": 2}, {"n": 3}])
    db.table("other").insert({"n": 4})
    db.remove(where("n") == 3)
    with pytest.raises(TypeError, match="replaced as a whole"):
        db.update({"n": 20}, where("n") == 2)
    assert killed().all() == db.all() == [{"n": 1, "deep": {"x": [1]}}, {"n": 2}]
    Documents(db.storage, "_default").put([(2, {"n": 20}), (1, {"n": True}), (None, {"n": 30})])
    assert killed().all() == db.all() == [{"n": True}, {"n": 20}, {"n": 30}]
    assert killed().all()[0]["n"] is True
    db.drop_table("other")
    assert killed().tables() == {"_default"}
    db.drop_tables()
    assert killed().tables() == set()
    db.insert({"n": 5})
    db.close()
    with TinyDB(path) as plain:
        assert plain.all() == [{"n": 5}]


def test_nothing_is_called_saved_once_the_journal_was_removed(folder):
    """F2: a folder that somebody deletes takes every later line with it."""
    store = Store.open(folder)
    store.conversations.put(talk("Hi"))
    shutil.rmtree(folder)
    with pytest.raises(HistoryUnavailable, match="was removed while the app runs"):
        store.conversations.put(talk("Ho"))
    assert len(store.conversations.all("local")) == 1
    store.close()
    assert not folder.exists()


def test_what_another_program_wrote_in_the_files_place_is_kept(folder, caplog):
    """F2: beside ours, under a name that says so."""
    store = Store.open(folder)
    store.conversations.put(talk("Hi"))
    (folder / "history.json").write_text('{"theirs": {"1": {"x": 1}}}', encoding="utf-8")
    store.close()
    (aside,) = folder.glob("history.replaced-*.json")
    assert "theirs" in aside.read_text(encoding="utf-8")
    assert str(aside) in caplog.text
    store = Store.open(folder)
    assert len(store.conversations.all("local")) == 1
    store.close()


@pytest.mark.parametrize("schema", [0, -5])
def test_a_schema_that_no_version_wrote_is_refused_with_a_sentence(folder, schema):
    """F2: and what is there stays as it is."""
    folder.mkdir(parents=True)
    content = json.dumps({"meta": {"1": {"schema": schema}}, "conversations": {}})
    (folder / "history.json").write_text(content, encoding="utf-8")
    with pytest.raises(HistoryUnavailable, match=rf"its schema is {schema}, which no version"):
        Store.open(folder)
    assert (folder / "history.json").read_text(encoding="utf-8") == content
