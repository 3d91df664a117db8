"""Training runs under the folders that are configured, or that somebody has pointed at: found, named, and looked up."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from threading import RLock
from typing import TypeVar

from playground.config import AppConfig, existing_folder
from playground.errors import InvalidRequest, NotFound, NotPermitted
from playground.services.training_runs.curves import read_curve
from playground.services.training_runs.search import Search
from playground.services.unique_names import unique_names
from playground.store import Store
from playground.training_run import Checkpoint, LossCurve, TrainingRun
from playground.types import Caller

T = TypeVar("T")
_MOMENT = 0.2  # seconds


@dataclass(frozen=True)
class Listing:
    """The runs that were found, the newest first, and sentences about what could not be looked at."""

    runs: tuple[TrainingRun, ...] = ()
    notices: tuple[str, ...] = ()

    @property
    def latest_completed(self) -> TrainingRun | None:
        """The newest completed run."""
        return next((run for run in self.runs if run.state == "completed"), None)


class Runs:
    """The training runs. Every method reads the disk, and is safe to call from any thread.

    Without a ``store`` the folders that somebody points at are forgotten with the process.
    """

    def __init__(self, config: AppConfig, store: Store | None = None) -> None:
        self._config = config
        self._store = store or Store.in_memory()
        self._lock = RLock()
        self._roots = [os.path.realpath(root) for root in config.adapter_roots]
        self._search = Search(self._roots, self._shown)
        self._known = (0.0, Listing())

    def all(self) -> Listing:
        """Every run; what was read of a folder is remembered until a file that counts in it changes."""
        with self._lock:
            runs, notices = self._search.below(self._tops())
            listing = Listing(_named(runs), tuple(notices))
            self._known = (time.monotonic(), listing)
        return listing

    def get(self, name: str) -> TrainingRun:
        """The run of that name. Raises `NotFound`."""
        run = self._sought(lambda run: run if run.name == name else None)
        if run is None:
            raise NotFound(
                f"There is no training run {name!r}.", "Refresh the list: its folder may have been moved or renamed."
            )
        return run

    def find(self, label: str) -> tuple[TrainingRun, Checkpoint] | None:
        """What ``label`` (`TrainingRun.label`) stands for; None for anything else."""
        return self._sought(lambda run: _labelled(run, label) if label.startswith(run.name) else None)

    def label(self, path: str) -> str | None:
        """The label of the adapter in the folder ``path``; None where no run has it."""
        real = os.path.realpath(os.path.expanduser(path))
        return self._sought(lambda run: next((run.label(one) for one in run.checkpoints if one.path == real), None))

    def curve(self, run: TrainingRun) -> LossCurve:
        """The run's losses, from the furthest `trainer_state.json` (or log) that it left."""
        return read_curve(self._roots, run.path)

    def point_at(self, caller: Caller, folder: str) -> tuple[TrainingRun, ...]:
        """Look for runs in ``folder`` as well, from now on and after a restart; returns those in it, the newest first.

        Raises `InvalidRequest` for what is no folder, or holds no run, and `NotPermitted` where no paths may be typed.
        """
        self._refuse_paths()
        path = existing_folder(folder.strip()) if folder.strip() else ""
        if not path:
            raise InvalidRequest(f"There is no folder {folder.strip()!r}.", "Check the path.")
        found, _ = Search(self._roots, self._shown).below([path])
        if not found:
            raise InvalidRequest(
                f"There is no training run and no adapter in {path!r}.",
                "Point at the folder that a trainer wrote, or at one above it.",
            )
        self._store.folders.add(path)
        inside = {run.path for run in found}
        return tuple(run for run in self.all().runs if inside & {run.path, *(one.path for one in run.checkpoints)})

    def forget(self, caller: Caller, folder: str) -> None:
        """Look no longer in a folder that somebody has pointed at. Raises `NotFound`, and `NotPermitted` as `point_at`."""
        self._refuse_paths()
        if not any(self._store.folders.remove(path) for path in (folder, existing_folder(folder)) if path):
            raise NotFound(f"Nobody has pointed at the folder {folder!r}.", "Those that can be taken away are listed.")

    def pointed_at(self) -> Sequence[Path]:
        """The folders that somebody has pointed at."""
        return tuple(map(Path, self._store.folders.all())) if self._config.free_paths else ()

    def _sought(self, wanted: Callable[[TrainingRun], T | None]) -> T | None:
        """The first thing that ``wanted`` finds in a run. The last listing serves for a moment: a page looks up many.

        What is not in it is looked for on the disk.
        """
        looked_at, listing = self._known
        if time.monotonic() - looked_at < _MOMENT:
            for run in listing.runs:
                if (found := wanted(run)) is not None:
                    return found
        return next((found for run in self.all().runs if (found := wanted(run)) is not None), None)

    def _refuse_paths(self) -> None:
        if not self._config.free_paths:
            raise NotPermitted(
                "Folders cannot be added from the page of a server that others can reach.",
                "Start it with --runs FOLDER.",
            )

    def _tops(self) -> Iterator[str]:
        """Where runs are looked for."""
        config = self._config
        yield from dict.fromkeys(
            [
                *config.runs,
                *(folder for entry in config.models.values() for folder in entry.adapters),
                *config.adapters,
                *([str(config.uploads)] if config.uploads.is_dir() else ()),
                *map(str, self.pointed_at()),
            ]
        )

    def _shown(self, path: str) -> str:
        """A path in a notice: whole only for this machine's own people, for others as it lies in the configured folder."""
        if self._config.free_paths:
            return repr(path)
        root = next((root for root in self._roots if Path(path).is_relative_to(root)), os.path.abspath(path))
        return repr(os.path.normpath(os.path.join(os.path.basename(root), os.path.relpath(path, root))))


def _named(runs: Sequence[TrainingRun]) -> tuple[TrainingRun, ...]:
    """The runs under names of their own that can be shown on one line, the newest first."""
    by_age = sorted(runs, key=lambda run: (-run.at, run.path))
    names = unique_names([(_printable(run.name), _printable(run.path)) for run in by_age])
    return tuple(replace(run, name=name) for run, name in zip(by_age, names, strict=True))


def _labelled(run: TrainingRun, label: str) -> tuple[TrainingRun, Checkpoint] | None:
    return next(((run, one) for one in run.checkpoints if run.label(one) == label), None)


def _printable(text: str) -> str:
    """``text`` without line breaks, and without characters that turn the direction of writing."""
    return (
        text
        if text.isprintable()
        else "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text)
    )
