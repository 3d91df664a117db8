"""How a run ended: completed, incomplete or failed, and why, in a sentence."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from playground.services.training_runs.adapters import CONFIG_FILE, Saved, checkpoint_folders, has_weights
from playground.services.training_runs.reading import Folder, Reading
from playground.services.training_runs.states import Progress
from playground.training_run import RunState

_FINAL = re.compile(
    r"(?:checkpoint[-_])?final(?:[-_].*)?|lora(?:[-_](?:model|adapter|weights))?|adapter(?:[-_](?:model|weights))?|policy|default|train"
)
_WHOLE_MODEL = re.compile(r"(?:model|pytorch_model)(?:-\d+-of-\d+)?\.(?:safetensors|bin)")
_SHARDS = re.compile(r"global_step\d+|pytorch_model_fsdp_\d+")
_MLX = "adapters.safetensors"
_LOGS = (".log", ".out", ".err", "running_log.txt")
_MOST_LOGS = 4
_LOG_TAIL = 16_000
_LONGEST_ERROR = 200
_MOST_LINE = 4_000
_RANK = re.compile(r"^\[rank\d{1,4}\]:\s?")
_FOLDERS = re.compile(r"(?<![\w./])/(?:[^\s/'\":,]+/)+")


@dataclass(frozen=True)
class Ending:
    """How a run ended. ``final`` is the adapter of its end; ``is_open`` says that there is neither one nor an error."""

    state: RunState
    why: str = ""
    final: Saved | None = None
    is_open: bool = False


def ending(
    reading: Reading, folder: Folder, own: Sequence[Saved], checkpoints: Sequence[Saved], progress: Progress
) -> Ending:
    """How the run in ``folder`` ended, with its ``own`` adapters and the ``checkpoints``, the latest first."""
    if progress.diverged:
        return Ending("failed", f"The loss was no number any more at step {progress.diverged_at}{_of(progress)}.")
    final = _final(own, checkpoints, progress)
    if final:
        return Ending("completed", final=final)
    error = _error(reading, folder)
    is_open = not error and progress.step is not None
    if own or checkpoints:
        return Ending("incomplete", _stopped(reading, folder, checkpoints, progress) + error, is_open=is_open)
    another = _of_another_kind(reading, folder)
    return Ending(
        "failed", (another or _nothing_left(reading, folder, progress)) + error, is_open=is_open and not another
    )


def is_named_final(adapter: Saved) -> bool:
    """Whether the adapter lies where a run's last one does: in the run's own folder, or in one with such a name."""
    return adapter.name == "" or _FINAL.fullmatch(adapter.name) is not None


def _final(own: Sequence[Saved], checkpoints: Sequence[Saved], progress: Progress) -> Saved | None:
    """The adapter of the run's end: the one that lies where that should, or the checkpoint of the last step."""
    saved = filter(is_named_final, [*own, *checkpoints])
    named = sorted(saved, key=lambda one: (one.name != "", not one.name.startswith("final")))
    if named:
        return named[0]
    if not checkpoints or len({one.step for one in checkpoints[:2]}) < len(checkpoints[:2]):
        return None  # two adapters of one step: nobody has said which of them is meant
    last = checkpoints[0]
    is_at_end = progress.max_steps is not None and (last.step or 0) >= progress.max_steps
    return last if is_at_end or (progress.ended and (last.step or 0) >= (progress.step or 0)) else None


def _stopped(reading: Reading, folder: Folder, checkpoints: Sequence[Saved], progress: Progress) -> str:
    step = progress.step if progress.step is not None else checkpoints[0].step if checkpoints else None
    if step is None:
        return "It stopped before its end."
    if progress.max_steps and step >= progress.max_steps:
        return f"It came to its last step, {step}, but saved no adapter of it."
    broken = {one.path for one in checkpoint_folders(reading, folder)[:1]} - {one.folder.path for one in checkpoints}
    left_out = f" The adapter of its last checkpoint, step {step}, is not whole." if broken and checkpoints else ""
    return f"It stopped at step {step}{_of(progress)}.{left_out}"


def _of_another_kind(reading: Reading, folder: Folder) -> str:
    """What there is instead of an adapter that can be loaded, so that waiting does not help; "" for nothing."""
    places = [folder, *checkpoint_folders(reading, folder)[:1]]
    if _MLX in folder.files:
        return f"It left an adapter of MLX, {_MLX}, which cannot be loaded here: convert it to PEFT's format."
    if any(_WHOLE_MODEL.fullmatch(file) for place in places for file in place.files):
        return "It left whole models, and no adapter."
    return ""


def _nothing_left(reading: Reading, folder: Folder, progress: Progress) -> str:
    if folder.files & {CONFIG_FILE} and progress.step is None:
        return f"There is {CONFIG_FILE} and no file with the adapter's weights."
    if has_weights(folder) and CONFIG_FILE not in folder.files:
        return f"It left an adapter's weights without {CONFIG_FILE}, which says what they are for."
    at = f" It stopped at step {progress.step}{_of(progress)}." if progress.step is not None else ""
    checkpoints = checkpoint_folders(reading, folder)[:1]
    if any(_SHARDS.fullmatch(name) for place in checkpoints for name in place.folders):
        return f"Its checkpoints hold no adapter, only shards of DeepSpeed or FSDP that must be put together first.{at}"
    return f"It left no adapter.{at}"


def _of(progress: Progress) -> str:
    return f" of {progress.max_steps}" if progress.max_steps else ""


def _error(reading: Reading, folder: Folder) -> str:
    """The error that a log of the run ends with, as a sentence of its own; "" where there is none."""
    for file in sorted(file for file in folder.files if file.endswith(_LOGS))[:_MOST_LOGS]:
        lines = [_RANK.sub("", line) for line in reading.tail(folder.within(file), _LOG_TAIL).splitlines()]
        traces = [at for at, line in enumerate(lines) if line.startswith("Traceback (most recent call last):")]
        raised = [line for line in lines[traces[-1] + 1 :] if line.strip() and not line[0].isspace()] if traces else []
        if raised:
            return f" Its log ends with: {_short(reading, raised[0])}"
    return ""


def _short(reading: Reading, line: str) -> str:
    """``line`` on one line, not too long, and without folders where others than this machine's own people read it."""
    line = "".join(char if char.isprintable() else " " for char in line[:_MOST_LINE])
    line = _FOLDERS.sub("", line) if reading.hides_paths else line
    return line if len(line) <= _LONGEST_ERROR else line[: _LONGEST_ERROR - 1] + "…"
