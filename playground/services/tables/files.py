"""Datasets that are files on this machine: which files are, what lies in a folder, and rows of one."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random

from playground.errors import InvalidRequest
from playground.services.tables import arrow_files, csv_files, json_files
from playground.services.tables.row_bytes import opened
from playground.services.tables.rows import Remarks, Rows

_TEXTUAL = (".jsonl", ".ndjson", ".json", ".csv", ".tsv")
KINDS = (*_TEXTUAL, ".parquet")
SUFFIXES = (*_TEXTUAL, ".parquet", *(f"{suffix}.gz" for suffix in _TEXTUAL))
# Files that lie beside data and hold none of it.
_NO_DATA = {"dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json"}
_NO_DATA |= {"adapter_config.json", "config.json", "tokenizer.json", "tokenizer_config.json", "trainer_state.json"}
_NO_DATA |= {
    "all_results.json",
    "train_results.json",
    "eval_results.json",
    "trainer_log.jsonl",
    "generation_config.json",
}
_DEEPEST = 6
_MOST_FILES = 2000
_MOST_FOLDERS = 5000
# Held-out rows come first: a model has seen the others, so they say little about it.
_SPLITS = ("test", "validation", "valid", "val", "dev", "eval")


def is_dataset(name: str) -> bool:
    """Whether a file of that name can hold rows."""
    lower = name.lower()
    return lower.endswith(SUFFIXES) and lower not in _NO_DATA and not lower.startswith(".")


def found_in(folder: Path) -> Iterator[Path]:
    """Every dataset under ``folder`` that can be read, by path; hidden folders are passed over, links to folders not
    followed. At most 2,000, at most six folders deep."""
    left = _MOST_FILES
    for _, (here, folders, names) in zip(range(_MOST_FOLDERS), os.walk(folder), strict=False):
        depth = len(Path(here).relative_to(folder).parts)
        folders[:] = sorted(name for name in folders if not name.startswith((".", "__")) and depth < _DEEPEST)
        for name in sorted(filter(is_dataset, names)):
            path = Path(here, name)
            if path.is_file() and os.access(path, os.R_OK):
                yield path
                left -= 1
            if not left:
                return


def split_order(path: str) -> tuple[bool, tuple[str, int, str]]:
    """Sort key: held-out files before those that were trained on, and of one in several formats JSON Lines first."""
    stem, _, suffix = path.rpartition("/")[2].lower().partition(".")
    held_out = any(word in _SPLITS for word in stem.replace("-", "_").split("_"))
    place = next((at for at, known in enumerate(SUFFIXES) if f".{suffix}".endswith(known)), len(SUFFIXES))
    return not held_out, (stem, place, path)


def draw(path: Path, count: int, seed: int) -> Rows:
    """``count`` rows at random, by ``seed``. Raises `InvalidRequest` for what cannot be read."""
    random, remarks = Random(seed), Remarks()
    if _suffix(path) == ".parquet":
        return arrow_files.draw(path, count, random, remarks)
    with opened(path, remarks) as file:
        if _suffix(path) in (".csv", ".tsv"):
            return _of(path, lambda: csv_files.draw(file, count, random, remarks, _separator(path)))
        return _of(path, lambda: json_files.draw(file, count, random, remarks))


def head(path: Path, most: int) -> Rows:
    """The first ``most`` rows. Raises `InvalidRequest` for what cannot be read."""
    remarks = Remarks()
    if _suffix(path) == ".parquet":
        return arrow_files.head(path, most, remarks)
    with opened(path, remarks) as file:
        if _suffix(path) in (".csv", ".tsv"):
            return _of(path, lambda: csv_files.head(file, most, remarks, _separator(path)))
        return _of(path, lambda: json_files.head(file, most, remarks))


def _suffix(path: Path) -> str:
    return Path(path.name.lower().removesuffix(".gz")).suffix


def _separator(path: Path) -> str:
    return "\t" if _suffix(path) == ".tsv" else ""


def _of(path: Path, read: Callable[[], Rows]) -> Rows:
    """What ``read`` returns; what it refuses is told with the file's name."""
    try:
        return read()
    except InvalidRequest as error:
        raise InvalidRequest(f"{path.name}: {error.message}", error.remedy) from error
