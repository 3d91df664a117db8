"""One folder that a trainer has left, read as a `TrainingRun`: its adapters, how far it came, and how it ended."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from playground.services.training_runs.adapters import (
    CONFIG_FILE,
    LOG_FILE,
    STATE_FILE,
    Saved,
    checkpoint_folders,
    is_checkpoint,
    own_adapters,
    saved_checkpoints,
    step_in,
    written,
)
from playground.services.training_runs.endings import Ending, ending, is_named_final
from playground.services.training_runs.reading import Folder, Reading
from playground.services.training_runs.sources import read_source
from playground.services.training_runs.states import Progress, read_log, read_state
from playground.training_run import Checkpoint, TrainingRun

_FAINT_SIGNS = {
    "train.log", "training.log", "trainer.log", "running_log.txt", "debug.log", "training_args.bin", "training_args.yaml",
    "llamaboard_config.yaml", "train_results.json",
}  # fmt: skip
_OF_ANSWERING = {"predict_results.json", "generated_predictions.jsonl", "eval_results.json"}
_NOTHING = Progress(is_whole=False)
_MOST_SEARCHED = 20


@dataclass(frozen=True)
class Place:
    """A folder as the search sees it. ``is_faint`` are signs that count where no run lies further down.

    ``inside`` are the folders to look into: all of them, or in a run's own those that are runs themselves.
    """

    is_run: bool
    is_faint: bool
    inside: tuple[str, ...]


@dataclass(frozen=True)
class Read:
    """A run, and whether its end is open: no adapter of its end, but no error either. It may be running still."""

    run: TrainingRun
    is_open: bool = False


def look_at(reading: Reading, path: str) -> Place:
    """What the folder ``path`` is."""
    folder = reading.folder(path)
    if _is_run(folder):
        return Place(True, False, tuple(_nested(reading, folder)))
    is_faint = bool(folder.files & _FAINT_SIGNS) or _has_events(reading, folder)
    return Place(False, is_faint, tuple(folder.folders.values()))


def _is_run(folder: Folder) -> bool:
    """Whether a trainer has left the folder. LLaMA-Factory leaves its log also where a model was only asked."""
    if folder.files & {STATE_FILE, CONFIG_FILE} or any(map(is_checkpoint, folder.folders)):
        return True
    return LOG_FILE in folder.files and ("train_results.json" in folder.files or not folder.files & _OF_ANSWERING)


def read_run(reading: Reading, path: str) -> Read:
    """The run in the folder ``path``, which gives it its name. Never raises for what is on the disk."""
    folder = reading.folder(path)
    places = checkpoint_folders(reading, folder)
    checkpoints = saved_checkpoints(reading, places)
    progress, log = _logs(reading, folder, places)
    own = _at_end(own_adapters(reading, folder, set(_nested(reading, folder))), checkpoints, progress, log)
    end = ending(reading, folder, own, checkpoints, progress)
    return Read(_run(reading, folder, _named([*own, *checkpoints], end), progress, end), end.is_open)


def read_progress(reading: Reading, path: str) -> Progress:
    """How far the run in the folder ``path`` came, with its whole log."""
    folder = reading.folder(path)
    return _logs(reading, folder, checkpoint_folders(reading, folder))[0]


def _run(reading: Reading, folder: Folder, saved: Sequence[Saved], progress: Progress, end: Ending) -> TrainingRun:
    source = read_source(reading, folder, [one.folder for one in saved])
    losses = [progress.losses(one.step) for one in saved]
    loss, eval_loss = progress.losses(end.final.step if end.final else None)
    return TrainingRun(
        path=folder.path,
        name=_called(folder),
        state=end.state,
        why=end.why,
        base=source.base,
        trainer=source.trainer,
        at=max([written(reading, folder, _FAINT_SIGNS), *(one.at for one in saved)]),
        step=max((step for step in (progress.step, *(one.step for one in saved)) if step is not None), default=None),
        max_steps=progress.max_steps,
        loss=loss,
        eval_loss=eval_loss,
        datasets=source.datasets,
        checkpoints=_ordered(
            Checkpoint(one.folder.path, one.name, one.step, one.at, *known, final=one is end.final)
            for one, known in zip(saved, losses, strict=True)
        ),
    )


def _called(folder: Folder) -> str:
    """The folder's name; in the hub's cache, where that is a number, the name that the adapter has on the hub."""
    above = Path(folder.path).parent
    is_cached = above.name == "snapshots" and above.parent.name.startswith("models--")
    return above.parent.name.rpartition("--")[2] if is_cached else folder.name


def _at_end(own: list[Saved], checkpoints: Sequence[Saved], furthest: Progress, log: Progress) -> list[Saved]:
    """The run's own adapters with the step of its end, as its ``log`` says, or where the last checkpoint is of that step."""
    last = checkpoints[0].step if checkpoints else None
    step = log.step if log.step is not None else last if last == furthest.max_steps else None
    return [replace(one, step=step) if one.step is None and is_named_final(one) else one for one in own]


def _named(saved: Sequence[Saved], end: Ending) -> list[Saved]:
    """Each under a name: what lies in the folder of a run that is not completed is no run's whole end."""
    taken = {one.name for one in saved}
    name = next(name for name in ("final", *(f"final-{at}" for at in range(len(saved)))) if name not in taken)
    return [replace(one, name=name) if one.name == "" and one is not end.final else one for one in saved]


def _nested(reading: Reading, folder: Folder) -> list[str]:
    """The folders inside a run's own that are runs themselves: with a log or checkpoints, not just an adapter of it."""
    inside = [reading.folder(path) for name, path in folder.folders.items() if not is_checkpoint(name)]
    return [one.path for one in inside if one.files & {STATE_FILE, LOG_FILE} or any(map(is_checkpoint, one.folders))]


def _has_events(reading: Reading, folder: Folder) -> bool:
    """Whether TensorBoard's files lie where the Trainer puts them, all that is left of a run which failed at once."""
    if "runs" not in folder.folders:
        return False
    inside = list(reading.folder(folder.folders["runs"]).folders.values())[:_MOST_SEARCHED]
    return any(file.startswith("events.out.tfevents") for path in inside for file in reading.folder(path).files)


def _logs(reading: Reading, folder: Folder, checkpoints: Sequence[Folder]) -> tuple[Progress, Progress]:
    """What the furthest log says, and the one in the run's own folder: where training went on, that one is behind."""
    own = furthest = _state(reading, folder) if STATE_FILE in folder.files else _NOTHING
    for place in checkpoints:
        if furthest.is_whole and (step_in(place.name) or 0) <= (furthest.step or 0):
            break
        if STATE_FILE in place.files:
            furthest = _further(furthest, _state(reading, place))
    if LOG_FILE in folder.files and not own.is_whole:
        own = read_log(reading.data(folder.within(LOG_FILE)))
        furthest = _further(furthest, own)
    return furthest, own


def _state(reading: Reading, place: Folder) -> Progress:
    said = len(reading.notices)
    progress = read_state(reading.data(place.within(STATE_FILE)))
    if not progress.is_whole and said == len(reading.notices):
        reading.notices.append(f"{reading.shown(place.within(STATE_FILE))} breaks off; it was read up to there.")
    return progress


def _further(one: Progress, other: Progress) -> Progress:
    return other if (other.step or -1, len(other.log)) > (one.step or -1, len(one.log)) else one


def _ordered(checkpoints: Iterable[Checkpoint]) -> tuple[Checkpoint, ...]:
    return tuple(sorted(checkpoints, key=lambda one: (not one.final, -(one.step or 0), one.name)))
