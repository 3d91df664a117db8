"""Files of rows as people have them: read whole or in part, row by row, with a sentence for each row that is bad."""

from __future__ import annotations

import contextlib
import csv
import gzip
import io
import json
import socket
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from playground.errors import InvalidRequest
from playground.services.tables import arrow_files, csv_files, json_files, json_lines, row_bytes
from playground.services.tables import files as dataset_files
from playground.services.tables.rows import NOT_NUMBERED, Remarks, Rows

ROWS = [{"question": f"Question {at}?", "answer": f"Answer\n{at}, said"} for at in range(40)]
Write = Callable[[str, "str | bytes"], Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """``write(name, content)`` makes a file."""

    def written(name: str, content: str | bytes) -> Path:
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return written


def lines(rows: Sequence[Any]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def table(rows: Sequence[dict[str, Any]], separator: str = ",") -> str:
    def cell(value: Any) -> str:
        return '"' + str(value).replace('"', '""') + '"'

    return (
        "\r\n".join(separator.join(map(cell, record)) for record in (rows[0], *(row.values() for row in rows))) + "\r\n"
    )


def values(rows: Rows) -> list[dict[str, Any]]:
    return [dict(row) for _, row in rows.rows]


def parquet(path: Path, rows: list[dict[str, Any]], group: int = 1000) -> Path:
    pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=group)
    return path


def every_kind(write: Write, tmp_path: Path) -> list[Path]:
    """The same rows in every kind of file."""
    return [
        write("a.jsonl", lines(ROWS)),
        write("b.ndjson", "\ufeff" + lines(ROWS).replace("\n", "\r\n")),
        write("c.json", json.dumps(ROWS, indent=1)),
        write("d.json", lines(ROWS)),
        write("e.json", json.dumps({"version": "1.0", "data": ROWS})),
        write("f.json", json.dumps({name: [row[name] for row in ROWS] for name in ROWS[0]})),
        write("g.json", json.dumps({name: {str(at): row[name] for at, row in enumerate(ROWS)} for name in ROWS[0]})),
        write("h.json", json.dumps({"rows": [{"row_idx": at, "row": row} for at, row in enumerate(ROWS)]})),
        write("i.jsonl", json.dumps(ROWS)),
        write(
            "s.json",
            json.dumps({"columns": ["question", "answer"], "index": [0], "data": [list(row.values()) for row in ROWS]}),
        ),
        write("j.csv", "\ufeff" + table(ROWS)),
        write("k.csv", table(ROWS, ";")),
        write("l.tsv", table(ROWS, "\t")),
        write("m.jsonl.gz", gzip.compress(lines(ROWS).encode())),
        write("n.csv.gz", gzip.compress(table(ROWS).encode())),
        write("o.jsonl", lines(ROWS).encode("utf-16")),
        write("p.csv", table(ROWS).encode("utf-16")),
        parquet(tmp_path / "q.parquet", ROWS, group=7),
    ]


def test_the_same_rows_are_read_from_every_kind_of_file(write: Write, tmp_path: Path) -> None:
    """I4: json in its usual shapes, jsonl, csv and tsv, parquet; packed, with a byte order mark, with any line ends."""
    for path in every_kind(write, tmp_path):
        head = dataset_files.head(path, 100)
        assert values(head) == ROWS, path.name
        assert head.columns == ("question", "answer"), path.name
        assert [at for at, _ in head.rows] == list(range(40)), path.name
        drawn = dataset_files.draw(path, 7, seed=5)
        assert len(drawn.rows) == 7
        assert drawn.total == 40, path.name
        assert all(ROWS[at] == row for at, row in drawn.rows), path.name
        assert drawn.notices == head.notices == (), path.name


def test_a_draw_comes_from_the_whole_file_and_again_from_the_same_seed(write: Write, tmp_path: Path) -> None:
    """I4: 5 random prompts, not the first five; another seed draws others, the same seed the same."""
    for path in every_kind(write, tmp_path):
        draws = [[at for at, _ in dataset_files.draw(path, 5, seed).rows] for seed in range(70)]
        assert {at for draw in draws for at in draw} == set(range(40)), path.name
        assert all(len(set(draw)) == 5 for draw in draws)
        assert any(draw != sorted(draw) for draw in draws), path.name
        assert [at for at, _ in dataset_files.draw(path, 5, 3).rows] == draws[3], path.name


def test_more_than_there_is_gives_what_there_is(write: Write, tmp_path: Path) -> None:
    """I4: a short file is drawn whole, each row once."""
    for path in every_kind(write, tmp_path):
        assert sorted(at for at, _ in dataset_files.draw(path, 100, 1).rows) == list(range(40)), path.name
        assert values(dataset_files.head(path, 2)) == ROWS[:2], path.name


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.jsonl", ""),
        ("a.json", " \n"),
        ("a.json", "[]"),
        ("a.csv", ""),
        ("a.tsv", "\n\n"),
        ("a.csv", "question,answer\n"),
    ],
)
def test_an_empty_file_has_no_rows_and_breaks_nothing(name: str, content: str, write: Write) -> None:
    """I4: nothing raises for a file that is only begun."""
    path = write(name, content)
    assert dataset_files.draw(path, 5, 1).rows == dataset_files.head(path, 5).rows == ()


def test_one_bad_row_is_left_out_and_named(write: Write, tmp_path: Path) -> None:
    """I4: a file with bad rows gives its good ones, and says which were left out and why."""
    bad = [json.dumps(ROWS[0]), '{"question": "cut', "[1, 2]", "", "17", json.dumps(ROWS[1])]
    for kind in ("a.jsonl", "a.json"):
        head = dataset_files.head(write(kind, "\n".join(bad)), 9)
        assert values(head) == ROWS[:2]
        assert [at for at, _ in head.rows] == [0, 5]
        assert head.notices == (
            "Line 2 was left out: it is not valid JSON.",
            "Line 3 was left out: it holds no object with columns.",
            "Line 5 was left out: it holds no object with columns.",
        )
        assert len(dataset_files.draw(tmp_path / kind, 5, 1).rows) == 2
    head = dataset_files.head(write("b.json", json.dumps([ROWS[0], 3, None, ROWS[1]])), 9)
    assert (values(head), head.notices[0]) == (ROWS[:2], "Row 2 was left out: it is not an object with columns.")
    head = dataset_files.head(write("c.csv", 'a,b\n1,2\n1,2,3\n"x\ny",z\nonly\n'), 9)
    assert values(head) == [{"a": "1", "b": "2"}, {"a": "x\ny", "b": "z"}, {"a": "only"}]
    assert head.notices == ("The row that ends at line 3 was left out: it has 3 fields, and the header names 2.",)


def test_many_bad_rows_are_counted_and_not_all_named(write: Write) -> None:
    """I4: a thousand bad rows are no wall of sentences."""
    head = dataset_files.head(write("a.jsonl", lines(ROWS[:1]) + "no\n" * 1000), 9)
    assert len(head.notices) == 4
    assert head.notices[-1] == "997 more rows were left out."


def test_a_json_file_that_was_cut_off_gives_the_rows_before(write: Write) -> None:
    """I4: what a broken download has is read, and the page says that it is not all."""
    for content in (json.dumps(ROWS)[:-30], json.dumps({"data": ROWS}, indent=1)[:-30]):
        head = dataset_files.head(write("a.json", content), 99)
        assert values(head) == ROWS[: len(head.rows)]
        assert len(head.rows) in (38, 39)
        assert "not valid JSON from row" in head.notices[0]


@pytest.mark.parametrize("content", ["this is no JSON", "{'single': 'quotes'}", "\x00\x01\x02", "<html>"])
def test_what_is_no_json_is_refused_by_name(content: str, write: Write) -> None:
    """I4: a sentence with the file's name and a remedy, no stack trace."""
    with pytest.raises(InvalidRequest, match=r"a\.json: It is not valid JSON.*Save it as JSON Lines"):
        dataset_files.draw(write("a.json", content), 5, 1)


def test_broken_parquet_and_broken_archives_are_refused_by_name(write: Write, tmp_path: Path) -> None:
    """I4: as above, for what cannot be read in part."""
    for name in ("a.parquet", "a.jsonl.gz"):
        with pytest.raises(InvalidRequest, match=name):
            dataset_files.draw(write(name, b"PAR1 no such thing"), 5, 1)
    damaged = bytearray(parquet(tmp_path / "c.parquet", ROWS).read_bytes())
    damaged[4:60] = b"\xff" * 56
    with pytest.raises(InvalidRequest, match=r"c\.parquet is no parquet file"):
        dataset_files.head(write("c.parquet", bytes(damaged)), 5)
    whole = gzip.compress(lines(ROWS).encode())
    with pytest.raises(InvalidRequest, match=r"b\.jsonl\.gz"):
        dataset_files.head(write("b.jsonl.gz", whole[:-20]), 5)


def test_nan_as_python_writes_it_is_read(write: Write) -> None:
    """I4: pandas and Python write NaN and Infinity into JSON, which the standard does not know."""
    path = write("a.jsonl", '{"question": "Q", "score": NaN}\n{"question": "R", "score": -Infinity}\n')
    assert [row["question"] for row in values(dataset_files.head(path, 9))] == ["Q", "R"]


def test_latin_1_is_read_and_said(write: Write) -> None:
    """I4: old files keep their accents, and the page says what was assumed."""
    for name, content in (("a.csv", "question,answer\nüber?,é\n"), ("a.jsonl", '{"question":"über?","answer":"é"}\n')):
        path = write(name, content.encode("latin-1"))
        for rows in (dataset_files.head(path, 9), dataset_files.draw(path, 9, 1)):
            assert values(rows) == [{"question": "über?", "answer": "é"}]
            assert "Latin-1" in rows.notices[0]
    assert values(dataset_files.head(write("b.csv", "question,naïve\nüber?,é\n"), 9)) == [
        {"question": "über?", "naïve": "é"}
    ]


def test_columns_without_a_name_or_with_the_same_are_told_apart(write: Write) -> None:
    """I4: the index that pandas writes has no name; no column hides another."""
    head = dataset_files.head(write("a.csv", ",text,text,\n0,a,b,c\n"), 9)
    assert head.columns == ("column 1", "text", "text (2)", "column 4")
    assert values(head) == [{"column 1": "0", "text": "a", "text (2)": "b", "column 4": "c"}]


def test_a_line_of_very_many_columns_is_read_and_few_are_offered(write: Write) -> None:
    """I4: a page with a hundred thousand choices would stand still."""
    head = dataset_files.head(write("a.csv", "," * 100_000 + "\n1\n"), 9)
    assert len(head.columns) == 500
    assert "It has 100,001 columns" in head.notices[0]
    assert len(dataset_files.head(write("a.jsonl", json.dumps({str(at): at for at in range(501)})), 9).columns) == 500


def test_columns_of_one_name_take_no_other_one_s(write: Write) -> None:
    """I4: "a (2)" may be a name that the file has itself."""
    assert dataset_files.head(write("a.csv", "a,a,a (2),a\n"), 9).columns == ("a", "a (3)", "a (2)", "a (4)")


def test_a_table_that_is_no_text_is_refused(write: Write) -> None:
    """I4: UTF-16 without a byte order mark, or something else under the name of CSV."""
    for name in ("a.csv", "a.tsv"):
        with pytest.raises(InvalidRequest, match=f"{name}: Its first line is no text"):
            dataset_files.draw(write(name, "prompt,answer\nx,y\n".encode("utf-16-le")), 3, 1)


def test_a_cell_that_python_has_no_value_for_is_empty(tmp_path: Path) -> None:
    """I4: a date in the year 146,138 takes neither its row nor the file with it."""
    far = pa.array([2**62, 0], pa.timestamp("us"))
    pq.write_table(pa.table({"q": ["a", "b"], "at": far}), tmp_path / "a.parquet")
    for rows in (dataset_files.head(tmp_path / "a.parquet", 2), dataset_files.draw(tmp_path / "a.parquet", 2, 1)):
        assert sorted((row["q"], row["at"] is None) for _, row in rows.rows) == [("a", True), ("b", False)]


def test_long_documents_and_commas_in_texts_do_not_move_columns(write: Write) -> None:
    """I4: a field may be longer than the csv module's 128 kB; a comma in a semicolon file separates nothing."""
    long = "word, word; " * 30_000
    assert values(dataset_files.head(write("a.csv", table([{"a": long, "b": "1"}])), 9)) == [{"a": long, "b": "1"}]
    content = "Frage;Antwort\nJa, oder nein, was?;Ja, nein, vielleicht\nUnd, dann?;Nichts\n"
    assert dataset_files.head(write("b.csv", content), 9).columns == ("Frage", "Antwort")
    prompts = dataset_files.head(write("c.csv", "prompt\nTell me\nWhy?\n"), 9)
    assert values(prompts) == [{"prompt": "Tell me"}, {"prompt": "Why?"}]


def test_the_lines_of_a_large_file_are_counted_without_keeping_them(
    write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    """I4: rows across the blocks in which a file is counted are found whole, the last one without a line end too."""
    monkeypatch.setattr(json_lines, "_BLOCK", 64)
    path = write("a.jsonl", lines(ROWS).rstrip("\n"))
    for seed in range(30):
        drawn = dataset_files.draw(path, 6, seed)
        assert all(ROWS[at] == row for at, row in drawn.rows)
        assert drawn.total == 40


def test_rows_of_a_file_too_large_to_count_come_from_random_places_and_are_not_numbered(
    write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    """I4: bounded time, whatever the size; the page says so."""
    monkeypatch.setattr(json_lines, "_MOST_COUNTED", 100)
    monkeypatch.setattr(csv_files, "_WHOLE", 100)
    monkeypatch.setattr(csv_files, "_BLOCK", 600)
    for path in (write("a.jsonl", lines(ROWS)), write("a.csv", table(ROWS))):
        seen = []
        for seed in range(20):
            drawn = dataset_files.draw(path, 5, seed)
            assert {at for at, _ in drawn.rows} == {NOT_NUMBERED}
            assert drawn.total is None
            assert all(row in ROWS for row in values(drawn)), path.name
            assert "random places" in drawn.notices[0]
            seen += [row["question"] for row in values(drawn)]
        assert len(set(seen)) > 25, path.name


def test_a_piece_of_csv_that_begins_inside_quotes_is_read_from_the_next_row() -> None:
    """I4: line breaks and separators inside quotes are no rows of their own, wherever the reading begins."""
    text = table(ROWS)
    whole = csv_files.Table(io.BytesIO(text.encode()), Remarks(), "")
    expected = [list(row.values()) for row in ROWS]
    for start in range(0, 800, 7):
        found = csv_files.whole_records(text[start : start + 900], text[:start].count('"') % 2 == 1, whole)
        assert len(found) >= 10
        assert all(cells in expected for cells in found), start


def test_a_large_json_list_is_read_piece_by_piece(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    """I4: never the whole of it in memory; the same rows, and any of them."""
    monkeypatch.setattr(json_files, "_WHOLE", 10)
    monkeypatch.setattr(json_files, "_STEP", 50)
    for content in (json.dumps(ROWS), json.dumps({"version": "1", "data": ROWS}, indent=2)):
        path = write("a.json", content)
        assert values(dataset_files.head(path, 99)) == ROWS
        draws = [dataset_files.draw(path, 5, seed) for seed in range(70)]
        assert {at for drawn in draws for at, _ in drawn.rows} == set(range(40))
        assert all(ROWS[at] == row for drawn in draws for at, row in drawn.rows)
        assert draws[0].total == 40
    head = dataset_files.head(write("b.json", json.dumps(ROWS)[:900]), 99)
    assert 0 < len(head.rows) < 40
    assert head.notices
    monkeypatch.setattr(json_files, "_MOST_READ", 300)
    drawn = dataset_files.draw(write("c.json", json.dumps(ROWS)), 5, 1)
    assert drawn.total is None
    assert "were looked at" in drawn.notices[0]


def test_parquet_with_many_groups_is_read_from_a_few(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """I4: a file of hundreds of megabytes is not read from one end to the other; the page says so."""
    monkeypatch.setattr(arrow_files, "_MOST_BYTES", 300)
    path = parquet(tmp_path / "a.parquet", [{"n": at} for at in range(40)], group=4)
    drawn = dataset_files.draw(path, 8, 2)
    assert len(drawn.rows) == 8
    assert all(row["n"] == at for at, row in drawn.rows)
    assert len({at // 4 for at, _ in drawn.rows}) == 3
    assert "3 of its 10 groups" in drawn.notices[0]
    assert {at for seed in range(90) for at, _ in dataset_files.draw(path, 5, seed).rows} == set(range(40))


def test_pictures_are_not_read_with_the_texts_beside_them(tmp_path: Path) -> None:
    """I4: a dataset of pictures with captions gives its texts."""
    path = parquet(
        tmp_path / "a.parquet", [{"image": {"bytes": b"x" * 1000, "path": None}, "text": "T", "n": {"m": 1}}]
    )
    for rows in (dataset_files.draw(path, 5, 1), dataset_files.head(path, 5)):
        assert rows.columns == ("text", "n")
        assert values(rows) == [{"text": "T", "n": {"m": 1}}]


def test_a_packed_file_is_unpacked_only_so_far(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    """I4, S5: a small archive of a huge file does not fill the memory."""
    monkeypatch.setattr(row_bytes, "_MOST_UNPACKED", 500)
    head = dataset_files.head(write("a.jsonl.gz", gzip.compress(lines(ROWS).encode())), 99)
    assert values(head) == ROWS[: len(head.rows)]
    assert 0 < len(head.rows) < 40
    assert "were looked at" in head.notices[0]


def test_which_files_are_datasets_and_which_lie_beside_them(tmp_path: Path) -> None:
    """I4: recursive and in order; nothing hidden, no descriptions of data, no links to other folders followed."""
    for name in (
        "b/test.jsonl",
        "a.CSV",
        "b/.hidden.csv",
        ".cache/x.csv",
        "b/dataset_info.json",
        "b/notes.md",
        "b/c/d.tsv.gz",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("a\n")
    (tmp_path / "loop").symlink_to(tmp_path)
    found = [path.relative_to(tmp_path).as_posix() for path in dataset_files.found_in(tmp_path)]
    assert found == ["a.CSV", "b/test.jsonl", "b/c/d.tsv.gz"]


def test_a_folder_with_very_many_files_is_listed_as_far_as_is_bearable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """I4: nobody waits for a whole disk to be listed, and nobody scrolls through it."""
    for at in range(9):
        (tmp_path / f"{at}").mkdir()
        (tmp_path / f"{at}" / "a.csv").write_text("a\n")
    monkeypatch.setattr(dataset_files, "_MOST_FILES", 5)
    assert len(list(dataset_files.found_in(tmp_path))) == 5
    monkeypatch.setattr(dataset_files, "_MOST_FOLDERS", 4)
    assert len(list(dataset_files.found_in(tmp_path))) == 3


def test_held_out_files_come_first() -> None:
    """I4: on what it was trained on a model says what it has learned by heart."""
    names = ["train.jsonl", "test.csv", "test.parquet", "test.jsonl", "validation.jsonl", "contest.jsonl"]
    ordered = sorted(names, key=dataset_files.split_order)
    assert ordered == ["test.jsonl", "test.csv", "test.parquet", "validation.jsonl", "contest.jsonl", "train.jsonl"]


def test_nothing_goes_out_for_files(write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """S4: no address is looked up and no connection made while rows of files are read."""

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("something wants to leave this machine")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    for path in every_kind(write, tmp_path):
        assert dataset_files.draw(path, 3, 1).rows


@pytest.mark.long
def test_random_bytes_are_read_or_refused_and_nothing_else(write: Write) -> None:
    """I4, S5: whatever lies in a file, the answer is rows or a sentence."""
    random = Random(7)
    pieces = [
        b'{"a":',
        b'"x"',
        b"}",
        b"[",
        b"]",
        b",",
        b"\n",
        b"\r",
        b'"',
        b";",
        b"\t",
        b"\xff",
        b"\xc3",
        b"\x00",
        b"a,b",
        b"{}",
        b" ",
    ]
    for suffix in (".json", ".jsonl", ".csv", ".tsv", ".parquet", ".jsonl.gz"):
        for _ in range(600):
            path = write(f"a{suffix}", b"".join(random.choices(pieces, k=random.randrange(60))))
            with contextlib.suppress(InvalidRequest):
                assert len(dataset_files.draw(path, 5, 1).rows) <= 5
            with contextlib.suppress(InvalidRequest):
                assert len(dataset_files.head(path, 5).rows) <= 5


def test_the_limit_of_the_csv_module_is_wide_enough() -> None:
    """I4: it is one number for the whole process; whoever reads CSV first sets it."""
    csv_files.head(io.BytesIO(b"a\n1\n"), 1, Remarks())
    assert csv.field_size_limit() >= row_bytes.LONGEST_ROW
