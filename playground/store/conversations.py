"""Everybody's conversations: whole values in, whole values out; each belongs to one owner, and nobody sees another's."""

from __future__ import annotations

import dataclasses
import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from threading import RLock

from playground.conversation import Conversation, Found, Query
from playground.errors import HistoryUnavailable, InvalidRequest, NotFound
from playground.store import records
from playground.store.documents import Documents
from playground.store.garbage import uncollected
from playground.store.outlines import Outline, excerpt, outline, words
from playground.store.records import Document

KEPT_DECODED = 50
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Row:
    """A conversation's place in the table, its document, and what lists need of it; None where it cannot be read."""

    place: int
    document: Document
    outline: Outline | None


@dataclass(frozen=True)
class _Listing:
    """What an owner has, newest first, and what there is to filter it by."""

    rows: tuple[tuple[_Row, Outline], ...]
    bases: tuple[str, ...]
    adapters: tuple[str, ...]
    use_cases: tuple[str, ...]


_NOTHING = _Listing((), (), (), ())


class Conversations:
    """The table of conversations. Every change is one transaction: on the disk, or as if it had never been asked for.

    ``forget`` makes sure that what was deleted is no longer on the disk. Raises `NotFound` for an id that the owner has
    not, whoever else may have it, and `HistoryUnavailable` when the disk will not take a change, or a conversation cannot
    be read by this version; that one stays stored as it is.
    """

    def __init__(self, table: Documents, lock: RLock, forget: Callable[[], None]) -> None:
        self._table = table
        self._lock = lock
        self._forget = forget
        self._rows: dict[str, dict[str, _Row]] = {}
        self._decoded: dict[tuple[str, str], Conversation] = {}
        self._sizes: Counter[str] = Counter()  # bytes of each owner, and of each kind of them
        self._sizes_of_kinds: Counter[str] = Counter()
        self._listings: dict[str, _Listing] = {}  # until something of the owner's changes
        self.unreadable = 0
        for document in table:
            self._take_in(document.doc_id, document)

    def get(self, owner: str, conversation_id: str) -> Conversation:
        """The conversation of that id."""
        with self._lock:
            return self._read(owner, conversation_id, self._row(owner, conversation_id))

    def put(self, conversation: Conversation) -> Conversation:
        """Add a conversation. Raises `InvalidRequest` where its owner has that id already."""
        with self._lock:
            if conversation.id in self._rows.get(conversation.owner, {}):
                raise InvalidRequest("There is a conversation of that id.", "Choose another id.")
            self._write([conversation])
        return conversation

    def put_all(self, conversations: Iterable[Conversation]) -> None:
        """Add or replace many in one transaction, all of them or none."""
        with uncollected(), self._lock:
            self._write(conversations)

    def change(self, owner: str, conversation_id: str, edit: Callable[[Conversation], Conversation]) -> Conversation:
        """Replace the conversation by what ``edit`` makes of it as it is now, its revision one higher; returns that.

        Nobody else changes it meanwhile. Where ``edit`` raises, or gives back what it was given, nothing is written. Owner
        and id stay, whatever it gives back.
        """
        with self._lock:
            before = self.get(owner, conversation_id)
            after = edit(before)
            if after is before:
                return before
            after = dataclasses.replace(after, owner=owner, id=conversation_id, revision=before.revision + 1)
            self._write([after])
            return after

    def remove(self, owner: str, conversation_id: str) -> Conversation:
        """Take the conversation out; returns it as it was.

        Its text leaves the disk when the file is next written anew: while the app runs once the journal has grown, at the
        latest when the app is stopped or started again.
        """
        with self._lock:
            found = self.get(owner, conversation_id)
            self._table.remove(doc_ids=[self._row(owner, conversation_id).place])
            self._drop(owner, conversation_id)
            return found

    def remove_all(self, owner: str) -> tuple[Conversation, ...]:
        """Take all of the owner's out, also from what is on the disk; returns them as they were.

        Those that cannot be read go as well. Raises `HistoryUnavailable` when the file cannot be written anew; where its
        sentence says so, they are deleted and their texts stay on the disk until it can.
        """
        with self._lock:
            found, rows = self.all(owner), self._rows.get(owner, {})
            if rows:
                self._table.remove(doc_ids=[row.place for row in rows.values()])
            for conversation_id in list(rows):
                self._drop(owner, conversation_id)
            self._forget()
            return found

    def find(self, owner: str, query: Query) -> Found:
        """What the owner has that ``query`` asks for, newest first; what there is to filter by is that of all."""
        mine, wanted = self._listing(owner), words(query)
        fitting = [(row, found.summary) for row, found in mine.rows if found.fits(query, wanted)]
        page = fitting[query.offset : query.offset + query.limit]
        if wanted:
            page = [(row, dataclasses.replace(one, excerpt=excerpt(row.document, wanted))) for row, one in page]
        return Found(
            tuple(one for _, one in page),
            len(fitting),
            bases=mine.bases,
            adapters=mine.adapters,
            use_cases=mine.use_cases,
        )

    def all(self, owner: str) -> tuple[Conversation, ...]:
        """All of the owner's, newest first. One that cannot be read is left out, and stays stored."""
        with uncollected():
            return tuple(_readable(row.document for row, _ in self._listing(owner).rows))

    def ids(self, owner: str) -> frozenset[str]:
        """The ids that the owner has in use, also those of conversations that cannot be read."""
        with self._lock:
            return frozenset(self._rows.get(owner, {}))

    def count(self, owner: str) -> int:
        """How many conversations the owner has, also those that cannot be read."""
        with self._lock:
            return len(self._rows.get(owner, {}))

    def size(self, owner: str) -> int:
        """Bytes of all that the owner has, as JSON: all versions, and what made them."""
        with self._lock:
            return self._sizes[owner]

    def size_of_all(self, kind: str) -> int:
        """Bytes of all that owners of this kind have together; the kind is an owner's first word."""
        with self._lock:
            return self._sizes_of_kinds[kind]

    def _listing(self, owner: str) -> _Listing:
        with self._lock:
            if owner not in self._listings and self._rows.get(owner):
                mine = self._rows[owner].values()
                self._listings[owner] = _listed((row, row.outline) for row in mine if row.outline)
            return self._listings.get(owner, _NOTHING)

    def _row(self, owner: str, conversation_id: str) -> _Row:
        found = self._rows.get(owner, {}).get(conversation_id)
        if found is None:
            raise NotFound("There is no such conversation.", "It may have been deleted; begin a new one.")
        return found

    def _read(self, owner: str, conversation_id: str, row: _Row) -> Conversation:
        key = (owner, conversation_id)
        found = self._decoded.pop(key, None) or _conversation(row.document)
        self._keep(key, found)
        return found

    def _write(self, conversations: Iterable[Conversation]) -> None:
        """All of them in one transaction; of two with one id the last counts."""
        values = {(one.owner, one.id): one for one in conversations}
        documents = {key: records.document(one) for key, one in values.items()}
        outlines = {key: outline(document) for key, document in documents.items()}
        known = {key: row.place if (row := self._rows.get(key[0], {}).get(key[1])) else None for key in documents}
        places = self._table.put([(known[key], document) for key, document in documents.items()]) if documents else []
        for key, place in zip(documents, places, strict=True):
            self._set_row(key[0], key[1], _Row(place, documents[key], outlines[key]))
            self._listings.pop(key[0], None)
            self._decoded.pop(key, None)
            self._keep(key, values[key])

    def _take_in(self, place: int, document: Document) -> None:
        """Know of what was in the file. What is no conversation is left where it is."""
        try:
            found = outline(document)
        except ValueError as error:
            found = None
            self.unreadable += 1
            _LOG.info("conversation %d of the history cannot be read: %s", place, error)
        owner, conversation_id = document.get("owner"), document.get("id")
        if isinstance(owner, str) and isinstance(conversation_id, str):
            self._set_row(owner, conversation_id, _Row(place, document, found))

    def _set_row(self, owner: str, conversation_id: str, row: _Row) -> None:
        mine = self._rows.setdefault(owner, {})
        self._count(owner, _size(row) - _size(mine.get(conversation_id)))
        mine[conversation_id] = row

    def _count(self, owner: str, more: int) -> None:
        self._sizes[owner] += more
        self._sizes_of_kinds[owner.partition(" ")[0]] += more

    def _drop(self, owner: str, conversation_id: str) -> None:
        mine = self._rows[owner]
        self._count(owner, -_size(mine.pop(conversation_id)))
        if not mine:
            del self._rows[owner], self._sizes[owner]
        self._listings.pop(owner, None)
        self._decoded.pop((owner, conversation_id), None)

    def _keep(self, key: tuple[str, str], conversation: Conversation) -> None:
        self._decoded[key] = conversation
        if len(self._decoded) > KEPT_DECODED:
            del self._decoded[next(iter(self._decoded))]


def _size(row: _Row | None) -> int:
    return row.outline.size if row and row.outline else 0


def _listed(rows: Iterable[tuple[_Row, Outline]]) -> _Listing:
    newest_first = sorted(rows, key=lambda one: (one[1].summary.updated_at, one[0].place), reverse=True)
    return _Listing(
        tuple(newest_first),
        bases=_each(found.bases for _, found in newest_first),
        adapters=_each(found.adapters for _, found in newest_first),
        use_cases=_each((found.summary.use_case,) for _, found in newest_first),
    )


def _readable(documents: Iterable[Document]) -> Iterator[Conversation]:
    for document in documents:
        try:
            yield _conversation(document)
        except HistoryUnavailable as error:
            _LOG.warning("%s", error)


def _conversation(document: Document) -> Conversation:
    try:
        return records.conversation(document)
    except ValueError as error:
        raise HistoryUnavailable(
            f"This conversation is stored, but cannot be read: {str(error)[:200]}.",
            "A newer version of this app may have written it; start that one.",
        ) from error


def _each(names: Iterable[Iterable[str]]) -> tuple[str, ...]:
    return tuple(sorted({name for some in names for name in some}))
