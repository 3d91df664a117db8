"""CSV, with whatever separates its columns: quoted line breaks, bad rows, files larger than memory."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Iterator, Sequence
from random import Random
from typing import BinaryIO

from playground.errors import InvalidRequest
from playground.services.tables.row_bytes import LONGEST_ROW, size_of
from playground.services.tables.rows import NOT_NUMBERED, READ_AS_LATIN_1, Remarks, Row, Rows, gathered

_WHOLE = 128_000_000  # up to here every row is looked at
_BLOCK = 1 << 18
_MOST_BLOCKS = 16
_MOST_COUNTED = 1_000_000_000
_PIECE = 1 << 20
_SEPARATORS = ",;\t|"
_SNIFFED_ROWS = 20


def draw(file: BinaryIO, count: int, random: Random, remarks: Remarks, separator: str = "") -> Rows:
    """``count`` rows at random; ``separator`` "" is found out. Raises `InvalidRequest` for what is no text."""
    if size_of(file) > _WHOLE:
        return _from_blocks(file, count, random, remarks, separator)
    table = Table(file, remarks, separator)
    kept: list[tuple[int, list[str]]] = []
    total = 0
    for total, numbered in enumerate(table.records(), 1):
        if len(kept) < count:
            kept.append(numbered)
        elif (place := random.randrange(total)) < count:
            kept[place] = numbered
    random.shuffle(kept)
    return gathered([(at, table.row(cells)) for at, cells in kept], total, remarks, table.columns)


def head(file: BinaryIO, most: int, remarks: Remarks, separator: str = "") -> Rows:
    """The first ``most`` rows. Raises `InvalidRequest` for what is no text."""
    table = Table(file, remarks, separator)
    kept = [record for _, record in zip(range(most + 1), table.records(), strict=False)]
    rows = [(at, table.row(cells)) for at, cells in kept[:most]]
    return gathered(rows, None if len(kept) > most else len(rows), remarks, table.columns)


class Table:
    """A CSV file from its beginning: its columns, then its records.

    What is not UTF-8 is kept as surrogates until a row is wanted, and then taken for Latin-1, so that nothing has to be
    read twice. Raises `InvalidRequest` for what is no text.
    """

    def __init__(self, file: BinaryIO, remarks: Remarks, separator: str) -> None:
        # A field may be longer than the module's 128 kB: whole documents lie in datasets. It is one number for the process.
        csv.field_size_limit(LONGEST_ROW)
        size_of(file)
        self._remarks = remarks
        start = file.read(_BLOCK).decode("utf-8-sig", "replace")
        self.separator = separator or _separator(start)
        file.seek(0)
        self._text = io.TextIOWrapper(file, "utf-8-sig", "surrogateescape", newline="")
        self._reader = csv.reader(self._text, delimiter=self.separator)
        self.columns = _named([self._latin_1(cell) for cell in self._header()])
        if any("\0" in name for name in self.columns):
            raise InvalidRequest("Its first line is no text.", "Save it as CSV, in UTF-8.")

    def records(self) -> Iterator[tuple[int, list[str]]]:
        """Every sound record with its place; at the end the file belongs to the caller again."""
        at = -1
        try:
            while (cells := self._next()) is not None:
                if not cells:
                    continue  # an empty line
                at += 1
                if len(cells) <= len(self.columns):
                    yield at, cells
                else:
                    why = f"it has {len(cells)} fields, and the header names {len(self.columns)}"
                    self._remarks.leave_out(f"the row that ends at line {self._reader.line_num}", why)
        finally:
            self.let_go()

    def let_go(self) -> None:
        """Give the file back, open; nothing more is read of it here."""
        self._text.detach()

    def row(self, cells: Sequence[str]) -> Row:
        """A record as a row; columns that it is too short for are empty."""
        return dict(zip(self.columns, (self._latin_1(cell) for cell in cells), strict=False))

    def _header(self) -> list[str]:
        while (cells := self._next()) is not None:
            if cells:
                return cells
        return []

    def _next(self) -> list[str] | None:
        """The next record, None at the end; what the csv module refuses is left out."""
        while True:
            try:
                return next(self._reader, None)
            except csv.Error as error:
                self._remarks.leave_out(f"the row at line {self._reader.line_num}", f"it cannot be read ({error})")

    def _latin_1(self, cell: str) -> str:
        try:
            cell.encode()
        except UnicodeEncodeError:
            self._remarks.say(READ_AS_LATIN_1)
            return cell.encode("utf-8", "surrogateescape").decode("latin-1")
        return cell


def _named(header: Sequence[str]) -> tuple[str, ...]:
    """Names for the columns, each once; one without a name is called by its place."""
    wanted = [cell.strip() or f"column {place}" for place, cell in enumerate(header, 1)]
    known, numbers = set(wanted), Counter[str]()
    names: list[str] = []
    for name in wanted:
        numbers[name] += 1
        own = name
        while numbers[name] > 1 and (own := f"{name} ({numbers[name]})") in known:
            numbers[name] += 1
        names.append(own)
    return tuple(names)


def _separator(start: str) -> str:
    """What separates the columns: that by which most of the first records have as many fields as the header."""
    best, separator = (0.0, 0), ","
    for candidate in _SEPARATORS:
        try:
            reader = csv.reader(io.StringIO(start, newline=""), delimiter=candidate)
            records = [cells for _, cells in zip(range(_SNIFFED_ROWS), filter(None, reader), strict=False)]
        except csv.Error:
            continue
        width = len(records[0]) if records else 1
        alike = sum(len(cells) == width for cells in records) / max(1, len(records))
        if width > 1 and (alike, width) > best:
            best, separator = (alike, width), candidate
    return separator


def _from_blocks(file: BinaryIO, count: int, random: Random, remarks: Remarks, separator: str) -> Rows:
    """``count`` rows from random places of a large file."""
    remarks.say("The file is large: the rows come from random places in it and are not numbered.")
    table = Table(file, remarks, separator)
    table.let_go()
    size = min(size_of(file), _MOST_COUNTED)
    if size == _MOST_COUNTED:
        remarks.say(f"Only its first {size // 1_000_000:,} MB were looked at.")
    starts = sorted(random.randrange(max(1, size - _BLOCK)) for _ in range(_MOST_BLOCKS))
    found: list[list[str]] = []
    for start, is_inside in zip(starts, _inside_quotes(file, starts), strict=True):
        file.seek(start)
        records = whole_records(file.read(_BLOCK).decode("utf-8", "surrogateescape"), is_inside, table)
        found += random.sample(records, min(len(records), count // _MOST_BLOCKS + 1))
    rows = [table.row(cells) for cells in random.sample(found, min(count, len(found)))]
    return gathered([(NOT_NUMBERED, row) for row in rows], None, remarks, table.columns)


def _inside_quotes(file: BinaryIO, starts: Sequence[int]) -> list[bool]:
    """For each of these places, in order, whether it is between quotes: whether an odd number of them comes before it."""
    size_of(file)
    found, quotes, at = [], 0, 0
    for start in starts:
        while at < start:
            piece = file.read(min(start - at, _PIECE))
            quotes, at = quotes + piece.count(b'"'), at + len(piece)
        found.append(quotes % 2 == 1)
    return found


def whole_records(piece: str, is_inside: bool, table: Table) -> list[list[str]]:
    """The records in a ``piece`` from the middle of a file that are as wide as the header, without the first and the last,
    which may be cut."""
    text = f'"{piece}' if is_inside else piece
    try:
        records = list(filter(None, csv.reader(io.StringIO(text, newline=""), delimiter=table.separator)))
    except csv.Error:
        return []
    return [cells for cells in records[1:-1] if len(cells) == len(table.columns)]
