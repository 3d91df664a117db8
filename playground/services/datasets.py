"""Datasets on this machine and on the hub: which there are, their columns, and rows of them."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from playground.config import AppConfig, is_dataset_id, is_path
from playground.errors import InvalidRequest, NotFound, NotPermitted
from playground.services.tables import files as dataset_files
from playground.services.tables import hub_rows
from playground.services.tables.rows import Rows as Rows
from playground.training_run import TrainingRun

_PARENTS = 4  # so many folders above a run, what it names is still looked for


@dataclass(frozen=True)
class Dataset:
    """A dataset that is on offer: a file (``path``), or on the hub. ``name`` is unique among those on offer.

    ``size`` is in bytes. ``own`` says that the chosen run was trained on it.
    """

    name: str
    path: str = ""
    size: int = 0
    own: bool = False

    @property
    def is_on_hub(self) -> bool:
        """Whether its rows have to be fetched."""
        return not self.path


class Datasets:
    """The datasets under the configured folders, those that runs name, and those of the hub. Blocks: reads the disk.

    On a shared server these are the configured ones only: neither a person nor what a run says of itself can name another
    file or hub id, and no link leads out of the configured folders.
    """

    def __init__(self, config: AppConfig) -> None:
        self._config = config
        self._hub = hub_rows.HubRows()

    @property
    def may_be_typed(self) -> bool:
        """Whether a file or hub id that is not on offer may be named."""
        return self._config.free_paths

    def offered(self, run: TrainingRun | None = None) -> Sequence[Dataset]:
        """Every dataset on offer: first what ``run`` was trained on, of that the held-out files first, then by name.

        Nobody is asked whether a hub id is on the hub.
        """
        configured = _told_apart(list(self._configured()))
        own = self._own(run, configured) if run else []
        mine = {_key(dataset) for dataset in own}
        return [
            *own,
            *sorted((one for one in configured if _key(one) not in mine), key=lambda one: one.name.casefold()),
        ]

    def find(self, name: str, run: TrainingRun | None = None) -> Dataset:
        """The dataset of that name, or a file, folder or hub id as a person types it where that is allowed.

        Of a folder it is the first file, a held-out one before others. Raises `NotFound` and `NotPermitted`.
        """
        name = name.strip()
        for dataset in self.offered(run):
            if dataset.name == name:
                return dataset
        if not self._config.free_paths:
            raise NotPermitted(f"The dataset {name!r} is not offered here.", "Choose one of those in the list.")
        return _typed(name)

    def draw(self, dataset: Dataset, count: int, seed: int) -> Rows:
        """``count`` rows at random, by ``seed``; fewer where there are fewer.

        Raises `InvalidRequest` for what cannot be read, and `NotFound` for what the hub does not have.
        """
        if dataset.is_on_hub:
            return self._hub.draw(dataset.name, count, seed)
        return dataset_files.draw(self._readable(dataset), count, seed)

    def head(self, dataset: Dataset, most: int) -> Rows:
        """The first ``most`` rows, in their order. Raises what `draw` raises."""
        if dataset.is_on_hub:
            return self._hub.head(dataset.name, most)
        return dataset_files.head(self._readable(dataset), most)

    def _readable(self, dataset: Dataset) -> Path:
        """The file, looked at again: it may be gone, or be a link to elsewhere by now."""
        if not os.path.isfile(dataset.path) or not self._is_allowed(dataset.path, self._roots()):
            raise InvalidRequest(f"The dataset {dataset.name} is no longer there.", "Refresh the list of datasets.")
        return Path(dataset.path)

    def _configured(self) -> Iterator[Dataset]:
        """What the configuration names: files under folders by their path in it, files by their name, hub ids."""
        roots = self._roots()
        for entry in self._config.datasets:
            place = os.path.expanduser(entry)
            if os.path.isdir(place):
                for file in dataset_files.found_in(Path(place)):
                    if self._is_allowed(str(file), roots):
                        yield _of_file(str(file), file.relative_to(place).as_posix())
            elif os.path.isfile(place):
                yield _of_file(place, os.path.basename(place))
            elif is_dataset_id(entry):
                yield Dataset(entry)

    def _is_allowed(self, path: str, roots: Sequence[str]) -> bool:
        """Whether ``path`` may be read: what leads out of the ``roots`` only where every path may be typed."""
        return self._config.free_paths or _is_under(path, roots)

    def _roots(self) -> Sequence[str]:
        """What is configured, and for a snapshot in the hub's cache the folder that its files are links into."""
        roots = [os.path.realpath(os.path.expanduser(entry)) for entry in self._config.datasets]
        cached = [Path(root).parents[1] for root in roots if Path(root).parent.name == "snapshots"]
        return [*roots, *(str(folder / "blobs") for folder in cached if folder.name.startswith("datasets--"))]

    def _own(self, run: TrainingRun, configured: Sequence[Dataset]) -> list[Dataset]:
        """What ``run`` was trained on, as far as it is to be had."""
        found: dict[str, Dataset] = {}
        for name in (one for one in run.datasets if one.strip() and one.isprintable()):
            mine = self._meant(run, name.strip(), configured)
            for dataset in sorted(mine, key=lambda one: dataset_files.split_order(one.name)):
                found.setdefault(_key(dataset), replace(dataset, own=True))
        return list(found.values())

    def _meant(self, run: TrainingRun, name: str, configured: Sequence[Dataset]) -> Sequence[Dataset]:
        """The datasets that a run means by ``name``: those on offer; a file or folder near it; an id on the hub."""
        places = [os.path.realpath(place) for place in self._places(name)]
        on_offer = [one for one in configured if one.name == name or (one.path and _is_under(one.path, places))]
        if on_offer or not self._config.free_paths:
            return on_offer
        for place in (
            os.path.expanduser(name),
            *(os.path.join(run.path, "../" * up, name) for up in range(_PARENTS + 1)),
        ):
            if _may_hold_data(place, run) and (files := _files(os.path.realpath(place))):
                listed = {_key(one): one for one in configured}
                return [listed.get(_key(file), file) for file in files]
        return [Dataset(name)] if _may_be_on_hub(name) else []

    def _places(self, name: str) -> Iterator[Path]:
        """Where ``name`` would lie under a configured folder: below it, or with the folder's own last names before it, as
        ``assets/datasets/pirate`` means ``pirate`` in a folder ``…/assets/datasets``."""
        wanted = Path(os.path.expanduser(name))
        if wanted.is_absolute():
            yield wanted
            return
        for entry in self._config.datasets:
            root = Path(os.path.abspath(os.path.expanduser(entry)))
            for shared in range(len(wanted.parts) + 1):
                if root.parts[len(root.parts) - shared :] == wanted.parts[:shared]:
                    yield root.joinpath(*wanted.parts[shared:])


def _may_hold_data(place: str, run: TrainingRun) -> bool:
    """Whether what ``run`` names by ``place`` can be its data: not a folder of adapters, which are often called like their
    data, nor one that the run itself lies in."""
    if any(os.path.exists(os.path.join(place, name)) for name in ("adapter_config.json", "trainer_state.json")):
        return False
    return os.path.isabs(place) and not _is_under(run.path, [os.path.realpath(place)])


def _typed(name: str) -> Dataset:
    """A file, folder or hub id that somebody has typed. Raises `NotFound`."""
    place = os.path.expanduser(name)
    if files := _files(place):
        return replace(files[0], name=name) if os.path.isfile(place) else files[0]
    if _may_be_on_hub(name):
        return Dataset(name)
    if name and os.path.exists(place):
        kinds = ", ".join(dataset_files.KINDS)
        raise NotFound(f"{name!r} is no dataset that can be read.", f"Files may be {kinds}, or text packed as .gz.")
    raise NotFound(
        f"There is no dataset {name!r}.",
        "Choose one of the list, or type a file, a folder or a hub id such as org/name.",
    )


def _of_file(path: str, name: str) -> Dataset:
    try:
        size = os.path.getsize(path)
    except OSError:
        size = 0
    return Dataset(name, os.path.abspath(path), size)


def _files(place: str) -> list[Dataset]:
    """The datasets at ``place``: itself, or those under it, the held-out ones first; named by their whole path.

    Two slashes are another machine's on Windows; looking there would ask it.
    """
    if not place or place.startswith(("//", "\\\\")):
        return []
    if os.path.isfile(place):
        return [_of_file(place, place)] if dataset_files.is_dataset(os.path.basename(place)) else []
    if not os.path.isdir(place):
        return []
    files = [_of_file(str(file), str(file)) for file in dataset_files.found_in(Path(place))]
    return sorted(files, key=lambda one: dataset_files.split_order(one.name))


def _may_be_on_hub(name: str) -> bool:
    """Whether ``name`` can only be meant as a hub id. What is there, and the name of a file, never is: nobody is asked for
    what was meant as a path."""
    is_file = is_path(name.partition(":")[0]) or dataset_files.is_dataset(name)
    return is_dataset_id(name) and not is_file and not os.path.exists(name)


def _is_under(path: str, roots: Sequence[str]) -> bool:
    """Whether ``path``, with all links followed, lies in one of the roots or is one."""
    real = Path(os.path.realpath(path))
    return any(real.is_relative_to(root) for root in roots)


def _key(dataset: Dataset) -> str:
    """What makes it the same dataset under another name."""
    return os.path.realpath(dataset.path) if dataset.path else f"hub:{dataset.name}"


def _told_apart(datasets: Sequence[Dataset]) -> list[Dataset]:
    """The same, none twice; one whose name is taken has as many of its folders before it as it takes, else a number."""
    once: dict[str, Dataset] = {}
    for dataset in datasets:
        once.setdefault(dataset.path or dataset.name, dataset)
    named: dict[str, Dataset] = {}
    for dataset in once.values():
        parts, taken = Path(dataset.path).parts, len(Path(dataset.name).parts)
        longer = ("/".join(parts[-count:]) for count in range(taken + 1, len(parts)))
        numbered = (f"{dataset.name} ({number})" for number in range(2, len(once) + 2))
        name = next(name for name in (dataset.name, *longer, *numbered) if name not in named)
        named[name] = replace(dataset, name=name)
    return list(named.values())
