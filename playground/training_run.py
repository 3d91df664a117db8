"""Training runs: what a trainer has left in a folder, as frozen values; standard library only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

RunState = Literal["completed", "incomplete", "failed"]


@dataclass(frozen=True)
class Checkpoint:
    """An adapter that a run has saved: at its end (``final``), or on the way at ``step``.

    ``name`` is what it is called beside its run: the folder's name, such as ``checkpoint-500``, or "" for what lies in the
    folder of a completed run ("final" in that of another). ``at`` is in seconds since 1970; ``loss`` and ``eval_loss`` are
    the last ones known at that step.
    """

    path: str
    name: str
    step: int | None = None
    at: float = 0.0
    loss: float | None = None
    eval_loss: float | None = None
    final: bool = False


@dataclass(frozen=True)
class TrainingRun:
    """A training run as its folder tells it. ``name`` is unique among the runs that are listed.

    ``why`` says in a sentence why it is not completed, "" where it is. ``base`` is the base model as the trainer wrote it
    down; ``trainer`` is what left the folder, such as ``LLaMA-Factory``, "" where that is not known. ``step`` is how far it
    came and ``max_steps`` how far it was to go. ``datasets`` are what it was trained on, as it was named there.
    ``checkpoints`` are the adapters in it that can be tried, the final one first, then the latest step first.
    """

    path: str
    name: str
    state: RunState
    why: str = ""
    base: str = ""
    trainer: str = ""
    at: float = 0.0
    step: int | None = None
    max_steps: int | None = None
    loss: float | None = None
    eval_loss: float | None = None
    datasets: tuple[str, ...] = ()
    checkpoints: tuple[Checkpoint, ...] = ()

    @property
    def final(self) -> Checkpoint | None:
        """The adapter that the whole run came to; None for a run that is not completed."""
        return next((one for one in self.checkpoints if one.final), None)

    def label(self, checkpoint: Checkpoint) -> str:
        """What one of its adapters is called: ``pirate`` at its end, else ``pirate/checkpoint-500``."""
        return self.name if checkpoint.final else f"{self.name}/{checkpoint.name}"


@dataclass(frozen=True)
class LossCurve:
    """(step, loss) of a run, training and held-out, by step; values that are no number are left out.

    ``diverged_at`` is the first step at which the loss was no number.
    """

    train: tuple[tuple[int, float], ...] = ()
    evaluation: tuple[tuple[int, float], ...] = ()
    diverged_at: int | None = None
