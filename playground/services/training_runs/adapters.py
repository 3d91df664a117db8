"""Which adapters lie in a run's folder: the one of its end, its checkpoints, and what was saved beside them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from pathlib import Path

from playground.services.training_runs.reading import Folder, Reading

STATE_FILE = "trainer_state.json"
LOG_FILE = "trainer_log.jsonl"
CONFIG_FILE = "adapter_config.json"
_CHECKPOINT = re.compile(r"checkpoint[-_](?:(?P<step>\d{1,12})|.+)")
_NOT_TRAINED = {"ref", "reference", "pissa_init", "pissa_backup"}
_MOST = 1000


@dataclass(frozen=True)
class Saved:
    """A folder with an adapter in it, called ``name`` beside its run, saved at ``step``, written at ``at``."""

    folder: Folder
    name: str
    step: int | None
    at: float


def is_checkpoint(name: str) -> bool:
    """Whether a folder of that name is one that a trainer saves on the way."""
    return _CHECKPOINT.fullmatch(name) is not None


def step_in(name: str) -> int | None:
    """The step in a checkpoint's name; None where there is none."""
    found = _CHECKPOINT.fullmatch(name)
    return int(found["step"]) if found and found["step"] else None


def checkpoint_folders(reading: Reading, folder: Folder) -> list[Folder]:
    """The folders of checkpoints, the latest step first, each once: ``checkpoint-best`` is often a link to another.

    They may lie elsewhere, but not where the run itself lies.
    """
    names = sorted(filter(is_checkpoint, folder.folders), key=lambda name: step_in(name) or -1, reverse=True)
    if len(names) > _MOST:
        reading.notices.append(
            f"{reading.shown(folder.path)} has {len(names):,} checkpoints; the last {_MOST:,} are listed."
        )
    by_path: dict[str, str] = {}
    for name in names[:_MOST]:
        by_path.setdefault(folder.folders[name], name)
    return [
        replace(reading.folder(path), link=name)
        for path, name in by_path.items()
        if path == folder.within(name) or not _share_a_line(path, folder.path)
    ]


def saved_checkpoints(reading: Reading, places: Iterable[Folder]) -> list[Saved]:
    """The adapters in the folders of checkpoints, in their order."""
    return [one for place in places for one in _adapters_in(reading, place)]


def own_adapters(reading: Reading, folder: Folder, runs: AbstractSet[str]) -> list[Saved]:
    """The adapter in the run's folder, and those beside the checkpoints, such as ``lora_model``.

    ``runs`` are left out, and so are links: what they lead to is another run's, or this one's own.
    """
    names = [name for name, path in folder.folders.items() if path == folder.within(name) and path not in runs]
    beside = [reading.folder(folder.within(name)) for name in names if not is_checkpoint(name) and name[:4] != "tmp-"]
    here = [_saved(reading, folder, "")] if has_adapter(folder) else []
    return here + _trained([_saved(reading, place, place.name) for place in beside if has_adapter(place)], bool(here))


def has_adapter(place: Folder) -> bool:
    """Whether an adapter lies directly in the folder, with its weights."""
    return CONFIG_FILE in place.files and has_weights(place)


def has_weights(place: Folder) -> bool:
    """Whether a file with an adapter's weights lies directly in the folder."""
    return bool(_weights(place))


def written(reading: Reading, place: Folder, otherwise: AbstractSet[str] = frozenset()) -> float:
    """When the newest file that counts was written; without any the newest of ``otherwise``, or the folder itself."""
    for files in ([*_weights(place), *(place.files & {STATE_FILE, LOG_FILE})], place.files & otherwise):
        if files:
            return reading.newest(map(place.within, files))
    return reading.newest([place.path])


def _adapters_in(reading: Reading, place: Folder) -> list[Saved]:
    """The adapter of a checkpoint; where it has several, as TRL's ``policy`` and ``ref``, those that were trained."""
    if has_adapter(place):
        return [_saved(reading, place, place.name)]
    inside = [one for path in place.folders.values() if has_adapter(one := reading.folder(path))]
    trained = _trained([_saved(reading, one, f"{place.name}/{one.name}") for one in inside], False)
    step = step_in(place.name)
    return [replace(one, name=place.name if len(trained) == 1 else one.name, step=step) for one in trained]


def _saved(reading: Reading, place: Folder, name: str) -> Saved:
    return Saved(place, name, step_in(name), written(reading, place))


def _trained(adapters: Sequence[Saved], has_other: bool) -> list[Saved]:
    """Leave out what a training only began with or compared with, where it left something else."""
    trained = [one for one in adapters if one.folder.name not in _NOT_TRAINED]
    return trained if trained or has_other else list(adapters)


def _share_a_line(one: str, other: str) -> bool:
    """Whether one of two folders lies in the other, or is it."""
    return Path(one).is_relative_to(other) or Path(other).is_relative_to(one)


def _weights(place: Folder) -> list[str]:
    return [
        file for file in place.files if file.startswith("adapter_model") and file.endswith((".safetensors", ".bin"))
    ]
