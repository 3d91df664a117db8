"""Rows of a dataset on the hub: the first few are fetched and kept in memory. `datasets` is imported only then.

Nothing is asked of the hub but by `HubRows.draw` and `HubRows.head`.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any, TypeVar

from playground.config import DATASET_ID
from playground.errors import InvalidRequest, NotFound, PlaygroundError
from playground.services.tables.rows import Row, Rows, columns_of

T = TypeVar("T")
_POOL = 1000  # rows that are drawn from
_MOST_CHARACTERS = 32_000_000
_MOST_KEPT = 4
_PATIENCE_S = 60.0
# Held-out rows first: the model has not seen them. And what people call the configuration that is meant.
_SPLITS = ("test", "validation", "valid", "dev", "eval", "train")
_CONFIGURATIONS = ("default", "main", "all", "en")


@dataclass(frozen=True)
class _Fetched:
    """The first rows of a split, of which ``asked`` were wanted; ``whole`` says that there are no more."""

    rows: tuple[Row, ...]
    asked: int
    whole: bool
    notices: tuple[str, ...]


class HubRows:
    """Rows of the hub's datasets. What was fetched of the last four is kept, so that another draw asks nobody.

    ``patience_s`` is for how long the hub is waited for.
    """

    def __init__(self, patience_s: float = _PATIENCE_S) -> None:
        self._patience_s = patience_s
        self._kept: OrderedDict[str, _Fetched] = OrderedDict()
        self._lock = threading.Lock()

    def draw(self, name: str, count: int, seed: int) -> Rows:
        """``count`` rows at random among the first thousand. Raises `NotFound`, and `InvalidRequest` where the hub cannot be
        reached or its rows cannot be read."""
        pool = self._first(name, max(count, _POOL))
        places = Random(seed).sample(range(len(pool.rows)), min(count, len(pool.rows)))
        some = () if pool.whole else (f"The prompts come from the first {len(pool.rows):,} rows.",)
        return _rows(pool, places, *some)

    def head(self, name: str, most: int) -> Rows:
        """The first ``most`` rows. Raises what `draw` raises."""
        pool = self._first(name, most)
        return _rows(pool, range(min(most, len(pool.rows))))

    def _first(self, name: str, most: int) -> _Fetched:
        """At least ``most`` rows, where there are as many."""
        with self._lock:
            kept = self._kept.get(name)
        if kept and (kept.whole or kept.asked >= most):
            return kept
        fetched = _within(self._patience_s, name, lambda: _fetch(name, most))
        with self._lock:
            self._kept[name] = fetched
            while len(self._kept) > _MOST_KEPT:
                self._kept.popitem(last=False)
        return fetched


def _rows(pool: _Fetched, places: Iterable[int], *more: str) -> Rows:
    rows = tuple((place, pool.rows[place]) for place in places)
    return Rows(columns_of(rows), rows, len(pool.rows) if pool.whole else None, (*pool.notices, *more))


def _within(seconds: float, name: str, work: Callable[[], T]) -> T:
    """What ``work`` returns, done in a thread that is left to itself when it takes too long. Raises `PlaygroundError`."""
    done: list[T] = []
    failed: list[Exception] = []

    def run() -> None:
        try:
            done.append(work())
        except Exception as error:  # it belongs to whoever waits
            failed.append(error)

    thread = threading.Thread(target=run, name=f"fetch {name}", daemon=True)
    thread.start()
    thread.join(seconds)
    if done:
        return done[0]
    if failed:
        raise _explained(name, failed[0]) from failed[0]
    raise InvalidRequest(
        f"The hub has not sent any rows of {name!r} in {seconds:g} seconds.",
        "Try again later, or download the file and type its path.",
    )


def _fetch(name: str, most: int) -> _Fetched:
    """The first ``most`` rows, from the split and configuration that ``name`` names or most likely means."""
    found = DATASET_ID.fullmatch(name)
    assert found is not None, name
    splits, configuration, others = _opened(found[1], found[2] or "")
    split = _split(name, list(splits), found[3] or "")
    source = splits[split]
    if source.features:
        source = source.decode(False)  # pictures and sound are not prompts, and need programs of their own
    rows, whole, trouble = _some(source, most)
    return _Fetched(rows, most, whole, (*_said(found[1], configuration, others, split, list(splits)), *trouble))


def _opened(repository: str, configuration: str) -> tuple[Mapping[str, Any], str, Sequence[str]]:
    """(splits by name, the configuration, which there are). One that was not named is chosen where it has to be."""
    import datasets

    # Else a second host, the hub's viewer, is asked about each dataset, and waited for.
    datasets.config.USE_PARQUET_EXPORT = False
    try:
        return datasets.load_dataset(repository, configuration or None, streaming=True), configuration, ()
    except ValueError as error:
        if configuration or "config" not in str(error).lower():
            raise
    names = datasets.get_dataset_config_names(repository)
    chosen = next((one for one in _CONFIGURATIONS if one in names), names[0])
    return datasets.load_dataset(repository, chosen, streaming=True), chosen, names


def _split(name: str, splits: Sequence[str], wanted: str) -> str:
    if wanted and wanted not in splits:
        raise NotFound(f"{name!r} has no split {wanted!r}.", f"It has {', '.join(splits)}.")
    return wanted or next((one for one in _SPLITS if one in splits), splits[0])


def _some(source: Iterable[Row], most: int) -> tuple[tuple[Row, ...], bool, tuple[str, ...]]:
    """The first rows, whether these are all, and what broke off; fewer where their texts are very long.

    Raises what `datasets` raises before the first row.
    """
    from datasets.exceptions import DatasetsError

    rows: list[Row] = []
    characters = 0
    try:
        for row in source:
            if len(rows) == most or characters > _MOST_CHARACTERS:
                return tuple(rows), False, ()
            rows.append({name: None if _is_media(value) else value for name, value in row.items()})
            characters += len(str(rows[-1]))
    except (DatasetsError, OSError, ValueError) as error:
        if not rows:
            raise
        return tuple(rows), False, (f"Only the first {len(rows):,} could be read: {_first_line(error)}.",)
    return tuple(rows), True, ()


def _is_media(value: object) -> bool:
    """Whether ``value`` is a picture or a sound."""
    return isinstance(value, bytes) or (isinstance(value, Mapping) and isinstance(value.get("bytes"), bytes))


def _said(
    repository: str, configuration: str, configurations: Sequence[str], split: str, splits: Sequence[str]
) -> tuple[str, ...]:
    """From where the rows are, where there was a choice."""
    said = []
    if len(configurations) > 1:
        said.append(f"Its configurations are {_few(configurations)}; these rows are of {configuration}.")
    if len(splits) > 1:
        said.append(f"Its splits are {_few(splits)}; these rows are of {split}.")
    if said:
        said.append(f"Others are named as {repository}:{configuration or 'default'}/{split}.")
    return tuple(said)


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")


def _explained(name: str, error: Exception) -> PlaygroundError:
    """What went wrong at the hub, as something to show."""
    from datasets.exceptions import DatasetNotFoundError
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError

    said = str(error)
    if isinstance(error, PlaygroundError):
        return error
    if isinstance(error, GatedRepoError) or (isinstance(error, DatasetNotFoundError) and "gated" in said):
        address = f"huggingface.co/datasets/{name.partition(':')[0]}"
        return InvalidRequest(
            f"{name!r} is gated.", f"Accept its terms at {address}, then start the app with HF_TOKEN set."
        )
    if isinstance(error, DatasetNotFoundError):
        return NotFound(
            f"The hub has no dataset {name!r}, or it is private.", "Check the id; for a private one set HF_TOKEN."
        )
    if isinstance(error, (ConnectionError, HfHubHTTPError)) or type(error).__module__.startswith("httpx"):
        return InvalidRequest(
            f"{name!r} could not be fetched: the hub cannot be reached.",
            "Check the network, or type the path of a file.",
        )
    return InvalidRequest(
        f"{name!r} cannot be read: {_first_line(error)}.", "Check the id, the configuration and the split."
    )


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__).rstrip(".")
