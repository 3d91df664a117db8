"""The machine goes dark at any step of writing: what the disk was not told to write through is lost then."""

from __future__ import annotations

import gc
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from playground.conversation import Turn, new_id
from playground.store import Store, journal, migrations
from playground.store.journal import Journal
from tests.store.sayings import talk

OWNER = "local"


class Dark(BaseException):
    """No current any more. No program catches that."""


class Power:
    """The disk of one folder, and the calls that change it; after so many of them the current is cut.

    What a file holds beyond what was written through is gone then, which is what a machine may do to it.
    """

    CALLS = ("open", "write", "fsync", "ftruncate", "replace", "unlink")

    def __init__(self, folder: Path, calls: int) -> None:
        self._folder, self._left = folder, calls
        self._written_through: dict[int, int] = {}  # inode → bytes
        self._real = {name: getattr(os, name) for name in self.CALLS}

    @contextmanager
    def until_dark(self) -> Iterator[None]:
        """Cut the current inside, at the latest at its end."""
        with pytest.MonkeyPatch.context() as patch:
            for name in self.CALLS:
                patch.setattr(os, name, getattr(self, f"_{name}"))
            yield
        self._lose()

    @property
    def is_on(self) -> bool:
        return self._left > 0

    def _spend(self) -> None:
        self._left -= 1
        if not self.is_on:
            raise Dark

    def _open(self, path: object, flags: int, *rest: object, **more: object) -> int:
        self._spend()
        opened = self._real["open"](path, flags, *rest, **more)
        size = 0 if flags & os.O_TRUNC else os.fstat(opened).st_size
        self._written_through.setdefault(os.fstat(opened).st_ino, size)
        return int(opened)

    def _write(self, opened: int, content: bytes) -> int:
        self._real["write"](opened, bytes(content)[: len(content) // 2])
        self._spend()  # in the middle of it
        return len(content) // 2 + int(self._real["write"](opened, bytes(content)[len(content) // 2 :]))

    def _fsync(self, opened: int) -> None:
        self._spend()
        self._real["fsync"](opened)
        self._written_through[os.fstat(opened).st_ino] = os.fstat(opened).st_size

    def _ftruncate(self, opened: int, size: int) -> None:
        self._spend()
        self._real["ftruncate"](opened, size)
        number = os.fstat(opened).st_ino
        self._written_through[number] = min(size, self._written_through.get(number, 0))

    def _replace(self, source: object, target: object, **more: object) -> None:
        self._spend()
        self._real["replace"](source, target, **more)

    def _unlink(self, path: object, **more: object) -> None:
        self._spend()
        self._real["unlink"](path, **more)

    def _lose(self) -> None:
        for path in self._folder.iterdir():
            about = path.stat()
            kept = self._written_through.get(about.st_ino, about.st_size)
            if path.suffix != ".lock" and kept < about.st_size:
                os.truncate(path, kept)


Told = Callable[[str], None]


def appending(folder: Path, told: Told) -> None:
    """Turns, and folding in between; each is told once it is saved."""
    store = Store.open(folder)
    for one in store.conversations.all(OWNER) * 2:
        leaf = store.conversations.get(OWNER, one.id).leaf
        turn = Turn(new_id(), leaf, "user", "said " * 5, 1.0)
        store.conversations.change(OWNER, one.id, lambda now, turn=turn: now.with_turns([turn], 1.0))
        told(turn.id)
    store.close()


def importing(folder: Path, told: Told) -> None:
    """Many at once."""
    store = Store.open(folder)
    new = [talk("Hi") for _ in range(3)]
    store.conversations.put_all(new)
    for one in new:
        told(one.leaf)
    store.close()


def deleting(folder: Path, told: Told) -> None:
    """Everything, also from what is on the disk."""
    store = Store.open(folder)
    store.conversations.remove_all(OWNER)
    told("")
    store.close()


def migrating(folder: Path, told: Told) -> None:
    """To a later version of the form."""
    storage = Journal(folder / "history.json")
    migrations.migrate(storage, {1: lambda tables: {**tables, "marks": {"1": {}}}}, 2)
    told("")
    storage.close()


def interrupted(act: Callable[[Path, Told], None], folder: Path, calls: int) -> tuple[list[str], bool]:
    """What was told until the current was cut, and whether it was before all was done."""
    told: list[str] = []
    power = Power(folder, calls)
    with power.until_dark(), suppress(Dark):
        act(folder, told.append)
    gc.collect()  # the locks of what did not end
    return told, not power.is_on


def said_in(folder: Path) -> set[str]:
    """All turns; nothing was damaged, so nothing is set aside."""
    store = Store.open(folder)
    assert store.notices == ()
    found = {turn.id for one in store.conversations.all(OWNER) for turn in one.turns}
    store.close()
    return found


def each_moment(act: Callable[[Path, Told], None], tmp_path: Path) -> Iterator[tuple[Path, set[str], list[str]]]:
    """(the folder, what was there before, what was told) for each moment in which the current may be cut."""
    before = left_by_a_kill(tmp_path / "made")
    there = said_in(Path(shutil.copytree(before, tmp_path / "looked at")))
    calls, was_cut = 0, True
    while was_cut:
        calls += 1
        folder = Path(shutil.copytree(before, tmp_path / f"cut {calls}"))
        told, was_cut = interrupted(act, folder, calls)
        yield folder, there, told
        shutil.rmtree(folder)
    assert calls > 8, "there were moments"


def left_by_a_kill(folder: Path) -> Path:
    """A history of which some is in the file and some in the journal."""
    store = Store.open(folder)
    store.conversations.put_all([talk("Hi"), talk("Ho", "Hum")])
    store.close()
    store = Store.open(folder)
    store.conversations.put(talk("Hey"))
    left = Path(shutil.copytree(folder, folder.with_name("killed"), ignore=shutil.ignore_patterns("*.lock")))
    store.close()
    return left


@pytest.mark.long
def test_a_turn_that_was_told_outlives_a_power_cut_at_any_moment(tmp_path, monkeypatch):
    """F2: while a line is written, the file is written anew, it is put in place, the journal is emptied."""
    monkeypatch.setattr(journal, "FOLD_FLOOR", 500)
    for folder, there, told in each_moment(appending, tmp_path):
        found = said_in(folder)
        assert there | set(told) <= found
        assert len(found) <= len(there) + len(told) + 1


@pytest.mark.long
def test_an_import_is_there_whole_or_not_at_all_after_a_power_cut(tmp_path):
    """F2, P6: also where it was not told any more."""
    for folder, there, told in each_moment(importing, tmp_path):
        found = said_in(folder)
        assert there | set(told) <= found
        assert len(found) - len(there) in ((3,) if told else (0, 3))


@pytest.mark.long
def test_all_are_deleted_or_none_after_a_power_cut_and_what_was_told_as_gone_is_on_no_disk(tmp_path):
    """F2, S2: texts do not come back."""
    for folder, there, told in each_moment(deleting, tmp_path):
        if told:
            assert not any(b"Hum" in path.read_bytes() for path in folder.iterdir())
        assert said_in(folder) in (([set()]) if told else (set(), there))


@pytest.mark.long
def test_a_migration_that_is_cut_off_is_made_again(tmp_path):
    """F2: nothing is lost, whichever version is there."""
    for folder, there, _ in each_moment(migrating, tmp_path):
        storage = Journal(folder / "history.json")
        assert storage.notices == []
        tables = storage.read() or {}
        found = {turn["id"] for one in tables["conversations"].values() for turn in one["turns"]}
        assert found == there
        assert ("marks" in tables) == (migrations.version(tables) == 2)
        migrating(folder, lambda _: None)
