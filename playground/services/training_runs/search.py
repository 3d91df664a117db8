"""Looking for training runs below some folders, however deep within bounds."""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace

from playground.services.training_runs.folders import Place, Read, look_at, read_run
from playground.services.training_runs.reading import Reading, Remembered
from playground.training_run import TrainingRun

MOST_DEPTH = 6
MOST_FOLDERS = 20_000
MOST_RUNS = 2_000
_FRESH_SECONDS = 300
_OF_OTHERS = {"node_modules", "site-packages", "__pycache__", "wandb", "mlruns"}


@dataclass
class _Found:
    """What one search has come to; ``notices`` each once, in their order."""

    runs: dict[str, TrainingRun] = field(default_factory=dict)
    notices: dict[str, None] = field(default_factory=dict)
    seen: set[str] = field(default_factory=set)
    faint: list[str] = field(default_factory=list)
    too_deep: bool = False
    too_many: bool = False


class Search:
    """Finds runs; what was read of a folder is remembered until something in it changes. Not safe from two threads.

    Where there are ``roots`` nothing outside them is looked at. ``shown`` makes of a path what notices call it.
    """

    def __init__(self, roots: Sequence[str], shown: Callable[[str], str]) -> None:
        def begin() -> Reading:
            return Reading(roots, shown)

        self._shown = shown
        self._places: Remembered[Place] = Remembered(begin)
        self._runs: Remembered[Read] = Remembered(begin)

    def below(self, tops: Iterable[str]) -> tuple[list[TrainingRun], list[str]]:
        """The runs in and below the folders ``tops``, in no order, and sentences about what was left out."""
        found = _Found()
        self._walk(deque((path, 0) for path in self._existing(tops, found)), found)
        self._add_faint(found)
        self._places.keep_only(found.seen)
        self._runs.keep_only(set(found.runs))
        found_inside = {  # a checkpoint may be named itself as well
            one.path for run in found.runs.values() for one in run.checkpoints if one.path.startswith(run.path + os.sep)
        }
        runs = [run for path, run in found.runs.items() if path not in found_inside]
        return runs, [*found.notices, *_left_out(found)]

    def _existing(self, tops: Iterable[str], found: _Found) -> Iterator[str]:
        for top in tops:
            path = os.path.realpath(os.path.expanduser(top))
            if os.path.isdir(path):
                yield path
            else:
                found.notices[f"There is no folder {self._shown(top)} to look for training runs in."] = None

    def _walk(self, ahead: deque[tuple[str, int]], found: _Found) -> None:
        """Look at the folders ``ahead`` and all below them, the nearest first: what is too much is far down then."""
        while ahead:
            path, depth = ahead.popleft()
            if path in found.seen:
                continue
            if len(found.seen) >= MOST_FOLDERS or len(found.runs) >= MOST_RUNS:
                found.too_many = True
                return
            found.seen.add(path)
            place = self._place(path, found)
            if depth < MOST_DEPTH:
                ahead.extend(
                    (inside, depth + 1) for inside in place.inside if os.path.basename(inside) not in _OF_OTHERS
                )
            else:
                found.too_deep = found.too_deep or bool(place.inside)

    def _place(self, path: str, found: _Found) -> Place:
        place, notices = self._places.get(path, look_at)
        found.notices.update(dict.fromkeys(notices))
        if place.is_run:
            self._add(path, found)
        elif place.is_faint:
            found.faint.append(path)
        return place

    def _add_faint(self, found: _Found) -> None:
        """Take the folders with faint signs for runs, but for those that have runs, or such folders, below them."""
        for path in sorted(found.faint, key=len, reverse=True):
            if not any(run.startswith(path + os.sep) for run in found.runs):
                self._add(path, found)

    def _add(self, path: str, found: _Found) -> None:
        read, notices = self._runs.get(path, read_run)
        found.runs[path] = _running(read.run) if read.is_open and _is_fresh(read.run) else read.run
        found.notices.update(dict.fromkeys(notices))


def _is_fresh(run: TrainingRun) -> bool:
    return 0 <= time.time() - run.at < _FRESH_SECONDS


def _running(run: TrainingRun) -> TrainingRun:
    """A run whose end is open and whose files are minutes old."""
    return replace(
        run, state="incomplete", why=f"{run.why} It may still be running: its files are less than five minutes old."
    )


def _left_out(found: _Found) -> Iterator[str]:
    if found.too_many:
        yield (
            f"There are more than {MOST_RUNS:,} runs or {MOST_FOLDERS:,} folders: those furthest down were left out. "
            "Name folders nearer to the runs."
        )
    if found.too_deep:
        yield f"Folders more than {MOST_DEPTH} levels down were not looked into. Name a folder nearer to the runs."
