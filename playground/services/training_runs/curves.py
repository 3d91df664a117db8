"""The losses of a run, step by step, for a plot."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from playground.services.training_runs.folders import read_progress
from playground.services.training_runs.reading import Reading
from playground.training_run import LossCurve


def read_curve(roots: Sequence[str], path: str) -> LossCurve:
    """The losses of the run in the folder ``path``, as its furthest log has them."""
    progress = read_progress(Reading(roots), path)
    return LossCurve(
        _by_step((one.step, one.loss) for one in progress.log),
        _by_step((one.step, one.eval_loss) for one in progress.log),
        progress.diverged_at,
    )


def _by_step(losses: Iterable[tuple[int, float | None]]) -> tuple[tuple[int, float], ...]:
    """The last loss of each step: a training that was taken up again has some steps twice."""
    known = {step: loss for step, loss in losses if loss is not None and not math.isnan(loss)}
    return tuple(sorted(known.items()))
