"""JSON Lines: rows drawn from anywhere in a file without reading it all into memory."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator
from itertools import accumulate
from random import Random
from typing import BinaryIO

from playground.services.tables.json_values import loads, row_of
from playground.services.tables.row_bytes import BOM, LONGEST_ROW, size_of
from playground.services.tables.rows import NOT_NUMBERED, Remarks, Row, Rows, gathered

_BLOCK = 1 << 20
_MOST_COUNTED = 1 << 30  # lines are counted in a second or so up to here; beyond, rows come from random places


def draw(file: BinaryIO, count: int, random: Random, remarks: Remarks) -> Rows:
    """``count`` rows at random, each as likely as any other in files of up to 1 GB."""
    if size_of(file) > _MOST_COUNTED:
        remarks.say("The file is very large: the rows come from random places in it and are not numbered.")
        return gathered(_first(count, _anywhere(file, count, random, remarks)), None, remarks)
    ends = _ends(file)
    total = ends[-1] if ends else 0
    # More than are wanted, because some may be empty or bad.
    tried = random.sample(range(total), min(total, 2 * count + 50))
    lines = ((at, _line(file, ends, at)) for at in tried)
    return gathered(_first(count, _parsed(lines, remarks)), total, remarks)


def head(file: BinaryIO, most: int, remarks: Remarks) -> Rows:
    """The first ``most`` rows."""
    size_of(file)
    kept = _first(most + 1, _parsed(enumerate(_lines(file)), remarks))
    return gathered(kept[:most], None if len(kept) > most else len(kept), remarks)


def _first(count: int, rows: Iterable[tuple[int, Row]]) -> list[tuple[int, Row]]:
    return [row for _, row in zip(range(count), rows, strict=False)]


def _lines(file: BinaryIO) -> Iterator[bytes]:
    """Every line; one that is too long to be a row is cut, and so no valid JSON."""
    while line := file.readline(LONGEST_ROW):
        yield line
        while len(line) == LONGEST_ROW and not line.endswith(b"\n"):
            line = file.readline(LONGEST_ROW)


def _parsed(lines: Iterable[tuple[int, bytes]], remarks: Remarks) -> Iterator[tuple[int, Row]]:
    """The rows of those lines that hold one; empty lines are passed over."""
    for at, line in lines:
        content = (line.removeprefix(BOM) if at == 0 else line).strip()
        row = _row(content, f"line {at + 1}", remarks) if content else None
        if row is not None:
            yield at, row


def _row(content: bytes, where: str, remarks: Remarks) -> Row | None:
    try:
        row = row_of(loads(content, remarks))
    except ValueError:
        remarks.leave_out(
            where, "it is not valid JSON" if len(content) < LONGEST_ROW - 1 else "it is longer than 16 MB"
        )
        return None
    if row is None:
        remarks.leave_out(where, "it holds no object with columns")
    return row


def _ends(file: BinaryIO) -> list[int]:
    """For each block of the file, how many lines have ended up to its end; the last one counts a line without an end."""
    counts, last = [], b"\n"
    while block := file.read(_BLOCK):
        counts.append(block.count(b"\n"))
        last = block[-1:]
    if counts and last != b"\n":
        counts[-1] += 1
    return list(accumulate(counts))


def _line(file: BinaryIO, ends: list[int], at: int) -> bytes:
    """Line ``at``, from 0: it begins behind the ``at``-th end of a line."""
    if at == 0:
        file.seek(0)
        return file.readline(LONGEST_ROW)
    block = bisect_left(ends, at)
    file.seek(block * _BLOCK)
    behind = file.read(_BLOCK).split(b"\n", at - (ends[block - 1] if block else 0))[-1]
    file.seek(file.tell() - len(behind))
    return file.readline(LONGEST_ROW)


def _anywhere(file: BinaryIO, count: int, random: Random, remarks: Remarks) -> Iterator[tuple[int, Row]]:
    """Rows behind random places of a file that is too large to be counted, none of them twice."""
    size, seen = size_of(file), set[int]()
    for _ in range(4 * count + 50):
        file.seek(random.randrange(size))
        file.readline(LONGEST_ROW)  # the rest of a line
        start = file.tell()
        line = file.readline(LONGEST_ROW).strip()
        if line and start not in seen:
            seen.add(start)
            row = _row(line, f"the row at byte {start:,}", remarks)
            if row is not None:
                yield NOT_NUMBERED, row
