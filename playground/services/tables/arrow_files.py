"""Parquet files: rows by group, so that no file has to fit into memory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random
from typing import Any

from playground.errors import InvalidRequest
from playground.services.tables.rows import Remarks, Row, Rows, gathered

_BATCH = 1024
_MOST_BYTES = 200_000_000  # unpacked


def draw(path: Path, count: int, random: Random, remarks: Remarks) -> Rows:
    """``count`` rows at random, from as many groups of rows as are read in a second or two.

    Raises `InvalidRequest` for what is no such file.
    """
    with _opened(path) as file:
        sizes = [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)]
        total = sum(sizes)
        wanted = _places(file, sizes, count, random, remarks)
        rows = [one for group in sorted(wanted) for one in _picked(file, group, wanted[group], sum(sizes[:group]))]
        random.shuffle(rows)
        return gathered(rows, total, remarks, _columns(file))


def head(path: Path, most: int, remarks: Remarks) -> Rows:
    """The first ``most`` rows. Raises `InvalidRequest` for what is no such file."""
    with _opened(path) as file:
        rows = [one for one, _ in zip(_all(file), range(most), strict=False)]
        return gathered(rows, file.metadata.num_rows, remarks, _columns(file))


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """The file, open; what is wrong with it is raised as `InvalidRequest`, also while it is read."""
    import pyarrow
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            yield file
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        raise InvalidRequest(
            f"{path.name} is no parquet file, or is not whole.", "Save it again, or take another."
        ) from error


def _columns(file: Any) -> list[str]:
    """Every column but pictures and sound, as `datasets` saves them: they hold no text, and take long to read."""
    from pyarrow import types

    def is_media(kind: Any) -> bool:
        return bool(types.is_struct(kind)) and any(
            types.is_binary(kind.field(at).type) for at in range(kind.num_fields)
        )

    return list(dict.fromkeys(column.name for column in file.schema_arrow if not is_media(column.type)))


def _places(file: Any, sizes: list[int], count: int, random: Random, remarks: Remarks) -> dict[int, set[int]]:
    """Which rows of which groups to take."""
    places = random.sample(range(sum(sizes)), min(count, sum(sizes)))
    by_group = _grouped(places, sizes)
    groups, left = [], _MOST_BYTES
    for group in dict.fromkeys(_group_of(place, sizes)[0] for place in places):
        if left > 0:
            groups.append(group)
            left -= file.metadata.row_group(group).total_byte_size
    if len(groups) == len(by_group):
        return by_group
    # A group is read from its beginning to the row, so many large ones would take long.
    remarks.say(f"The file is large: the rows come from {len(groups)} of its {len(sizes)} groups of rows.")
    pool = [sum(sizes[:group]) + row for group in groups for row in range(sizes[group])]
    return _grouped(random.sample(pool, min(count, len(pool))), sizes)


def _grouped(places: list[int], sizes: list[int]) -> dict[int, set[int]]:
    found: dict[int, set[int]] = {}
    for place in places:
        group, row = _group_of(place, sizes)
        found.setdefault(group, set()).add(row)
    return found


def _group_of(place: int, sizes: list[int]) -> tuple[int, int]:
    """(group, row in it) of a row of the file."""
    for group, size in enumerate(sizes):
        if place < size:
            return group, place
        place -= size
    raise IndexError(place)


def _picked(file: Any, group: int, rows: set[int], before: int) -> Iterator[tuple[int, Row]]:
    start = 0
    for batch in file.iter_batches(batch_size=_BATCH, row_groups=[group], columns=_columns(file)):
        for row in sorted(rows):
            if start <= row < start + batch.num_rows:
                yield before + row, _row(batch, row - start)
        start += batch.num_rows
        if start > max(rows):
            return


def _all(file: Any) -> Iterator[tuple[int, Row]]:
    at = 0
    for batch in file.iter_batches(batch_size=_BATCH, columns=_columns(file)):
        for row in range(batch.num_rows):
            yield at, _row(batch, row)
            at += 1


def _row(batch: Any, at: int) -> Row:
    """A row of a batch; a cell that Python has no value for, such as a date in the year 146,138, is empty."""
    try:
        row: Row = batch.slice(at, 1).to_pylist()[0]
    except (OverflowError, ValueError):
        return {name: _cell(column[at]) for name, column in zip(batch.schema.names, batch.columns, strict=True)}
    return row


def _cell(value: Any) -> Any:
    try:
        return value.as_py()
    except (OverflowError, ValueError):
        return None
