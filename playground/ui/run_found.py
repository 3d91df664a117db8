"""What a label in a field stands for, for the Inference tab: its run, its checkpoint, and how the run's loss went."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass

from playground.config import AppConfig
from playground.services.runs import Listing, Runs
from playground.training_run import Checkpoint, TrainingRun
from playground.ui import texts
from playground.ui.views.loss_curve import loss_curve
from playground.ui.views.runs import no_curve, visible

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Found:
    """The run and checkpoint that a label stands for, and the run's losses as HTML.

    ``listing`` is a new list of all runs where this one was not in the old one.
    """

    run: TrainingRun | None = None
    checkpoint: Checkpoint | None = None
    curve: str = ""
    listing: Listing | None = None


def find(runs: Runs, config: AppConfig, label: str, listed: Sequence[str]) -> Found:
    """The run of an adapter's label, of a folder that was typed, or of a run's own name; ``listed`` are the known names.

    Reads the disk. A run that is not completed is found by its name, without a checkpoint.
    """
    if os.path.isabs(label) and config.free_paths:
        label = runs.label(label) or label
    run, checkpoint = runs.find(label) or (None, None)
    if run is None:
        run = next((one for one in runs.all().runs if one.name == label), None)
    if run is None:
        return Found()
    return Found(run, checkpoint, _curve(runs, run, checkpoint), None if run.name in listed else runs.all())


def _curve(runs: Runs, run: TrainingRun, checkpoint: Checkpoint | None) -> str:
    """The run's losses; one that cannot be drawn is no reason not to ask its adapter."""
    try:
        return loss_curve(runs.curve(run), visible(run.name), checkpoint)
    except Exception:
        log.exception("the losses of a run could not be drawn")
        return no_curve(texts.NO_LOSSES)
