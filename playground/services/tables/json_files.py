"""JSON files: which shape one has, and rows of those that are one value; what is really JSON Lines is read as that."""

from __future__ import annotations

import json
import re
from codecs import getincrementaldecoder
from collections.abc import Iterator, Mapping, Sequence
from random import Random
from typing import Any, BinaryIO

from playground.errors import InvalidRequest
from playground.services.tables import json_lines
from playground.services.tables.json_values import WRAPPERS, loads, row_of, rows_of
from playground.services.tables.row_bytes import BOM, LONGEST_ROW, size_of
from playground.services.tables.rows import Remarks, Row, Rows, gathered

_WHOLE = 16_000_000  # up to here a file is read at once, whatever its shape
_MOST_READ = 128_000_000  # so that nobody waits for more than a few seconds
_STEP = 1 << 20
_START = re.compile(rf'\s*(?:\{{.*?"(?:{"|".join(WRAPPERS)})"\s*:\s*)?\[', re.DOTALL)
_BETWEEN = re.compile(r"[\s,]*")
_SAVE_AS_LINES = "Save it as JSON Lines: one row as an object on each line."


def draw(file: BinaryIO, count: int, random: Random, remarks: Remarks) -> Rows:
    """``count`` rows at random. Raises `InvalidRequest` for what is no JSON."""
    if _is_lines(file):
        return json_lines.draw(file, count, random, remarks)
    if size_of(file) > _WHOLE:
        return _reservoir(file, count, random, remarks)
    values = _values(file, remarks)
    return _kept(values, random.sample(range(len(values)), len(values)), count, remarks)


def head(file: BinaryIO, most: int, remarks: Remarks) -> Rows:
    """The first ``most`` rows. Raises `InvalidRequest` for what is no JSON."""
    if _is_lines(file):
        return json_lines.head(file, most, remarks)
    if size_of(file) > _WHOLE:
        return gathered([row for _, row in zip(range(most), _rows(file, remarks), strict=False)], None, remarks)
    values = _values(file, remarks)
    return _kept(values, range(len(values)), most, remarks)


def _is_lines(file: BinaryIO) -> bool:
    """Whether the first line is a value of its own and another one follows; or the first is bad and the second an object."""
    size_of(file)
    first, second = _first_lines(file)
    try:
        loads(first, Remarks())
        return bool(second)
    except ValueError:
        pass  # a piece of a value that goes on, or a bad row
    if first.startswith(b"[") or not second.startswith(b"{"):
        return False
    try:
        return isinstance(loads(second, Remarks()), Mapping)
    except ValueError:
        return False


def _first_lines(file: BinaryIO) -> tuple[bytes, bytes]:
    """The first two lines that are not empty, as far as there are any."""
    lines = iter(lambda: file.readline(LONGEST_ROW), b"")
    filled = (content for line in lines if (content := line.removeprefix(BOM).strip()))
    return next(filled, b""), next(filled, b"")


def _values(file: BinaryIO, remarks: Remarks) -> Sequence[Any]:
    """The rows of a file that is one value, as far as it is whole. Raises `InvalidRequest`."""
    size_of(file)
    content = file.read().removeprefix(BOM)
    if not content.strip():
        return []
    try:
        return rows_of(loads(content, remarks))
    except ValueError:
        return [value for _, value in _elements(file, remarks)]


def _kept(values: Sequence[Any], order: Sequence[int], count: int, remarks: Remarks) -> Rows:
    """The first ``count`` rows among ``values`` in that ``order``."""
    kept: list[tuple[int, Row]] = []
    for at in order:
        if len(kept) == count:
            break
        row = row_of(values[at])
        if row is None:
            remarks.leave_out(f"row {at + 1}", "it is not an object with columns")
        else:
            kept.append((at, row))
    return gathered(kept, len(values), remarks)


def _reservoir(file: BinaryIO, count: int, random: Random, remarks: Remarks) -> Rows:
    """``count`` rows of a large file, each as likely as any other that was read, with no more than those in memory."""
    kept: list[tuple[int, Row]] = []
    seen = 0
    for seen, row in enumerate(_rows(file, remarks), 1):
        if len(kept) < count:
            kept.append(row)
        elif (place := random.randrange(seen)) < count:
            kept[place] = row
    random.shuffle(kept)
    return gathered(kept, None if remarks.sentences() else seen, remarks)


def _rows(file: BinaryIO, remarks: Remarks) -> Iterator[tuple[int, Row]]:
    for at, value in _elements(file, remarks):
        row = row_of(value)
        if row is None:
            remarks.leave_out(f"row {at + 1}", "it is not an object with columns")
        else:
            yield at, row


def _elements(file: BinaryIO, remarks: Remarks) -> Iterator[tuple[int, Any]]:
    """The elements of the list in ``file``, one at a time, up to the first that cannot be read; each with its place.

    Raises `InvalidRequest` where there is no list near its beginning.
    """
    size_of(file)
    text = _Text(file)
    start = _START.match(text.more())
    if not start:
        raise InvalidRequest("It is not valid JSON, or too large to be read at once.", _SAVE_AS_LINES)
    at, place = start.end(), 0
    decoder = json.JSONDecoder()
    while True:
        at = _skipped(text, at)
        if text.unread[at : at + 1] == "]":
            return
        if file.tell() > _MOST_READ:
            remarks.say(f"Only the first {_MOST_READ // 1_000_000} MB were looked at. {_SAVE_AS_LINES}")
            return
        value, at = _decoded(decoder, text, at)
        if at < 0:
            remarks.say(f"The file is not valid JSON from row {place + 1} on; only what comes before was read.")
            return
        yield place, value
        place += 1
        if at > _STEP:
            text.unread, at = text.unread[at:], 0


class _Text:
    """The text of a file, read piece by piece: ``unread`` is what has not been understood yet."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._decoder = getincrementaldecoder("utf-8-sig")("replace")
        self.unread = ""
        self.is_whole = False

    def more(self) -> str:
        """Another piece, as long as what is there; returns all that is unread."""
        piece = self._file.read(max(_STEP, len(self.unread)))
        self.is_whole = not piece
        self.unread += self._decoder.decode(piece, final=self.is_whole)
        return self.unread


def _skipped(text: _Text, at: int) -> int:
    """Behind what stands between two elements."""
    while True:
        gap = _BETWEEN.match(text.unread, at)
        at = gap.end() if gap else at
        if at < len(text.unread) or text.is_whole:
            return at
        text.more()


def _decoded(decoder: json.JSONDecoder, text: _Text, at: int) -> tuple[Any, int]:
    """The element that begins at ``at`` and where it ends, -1 where there is none; reads on while it may be cut off."""
    while True:
        try:
            return decoder.raw_decode(text.unread, at)
        except RecursionError:
            return None, -1
        except ValueError:
            if text.is_whole or len(text.unread) - at > LONGEST_ROW:
                return None, -1
        text.more()
