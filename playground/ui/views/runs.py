"""Training runs in words: the entries of the two lists, the status and what stands under it. Pure functions."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from playground.training_run import Checkpoint, TrainingRun
from playground.ui import texts
from playground.ui.safe_text import escape
from playground.ui.views.figures import plural
from playground.ui.views.loss_curve import figure
from playground.ui.views.report import description

if TYPE_CHECKING:
    from playground.services.readiness import Verdict

RunStatus = Literal["idle", "validating", "ready", "error"]
NOTICES_AT_MOST = 5
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


def step_heading(number: int, title: str) -> str:
    """The heading of one of the tab's three steps; whether it is lit follows from ``#run-status`` alone, in the styles."""
    return (
        f'<h2 class="step-heading"><span class="step-number" aria-hidden="true">{number}</span>'
        f"<span>{escape(title)}</span></h2>"
    )


def visible(name: str) -> str:
    """A folder's name without the letters that cannot be seen, or that turn the direction of what is read."""
    return "".join(letter if letter.isprintable() else "�" for letter in name)


def run_choices(runs: Sequence[TrainingRun]) -> list[tuple[str, str]]:
    """The entries of the list of runs, in their order, and each one's name."""
    return [(run_label(run), run.name) for run in runs]


def run_label(run: TrainingRun) -> str:
    """``pirate · completed · 3 May 2026, 14:02 · step 1,000 · loss 0.061``, as far as it is known."""
    facts = [visible(run.name), run.state, _date(run.at), _progress(run), _losses(run.loss)]
    return " · ".join(fact for fact in facts if fact)


def checkpoint_choices(run: TrainingRun | None) -> list[tuple[str, str]]:
    """The entries of the list of checkpoints, and the label of each one's adapter."""
    return [(checkpoint_label(one), run.label(one)) for one in run.checkpoints] if run else []


def checkpoint_label(checkpoint: Checkpoint) -> str:
    """``final · step 1,000 · loss 0.061``, or ``checkpoint-500 · step 500 · loss 0.07``."""
    name = "final" if checkpoint.final else visible(checkpoint.name)
    step = "" if checkpoint.step is None else f"step {checkpoint.step:,}"
    facts = [name, step, _losses(checkpoint.loss, checkpoint.eval_loss)]
    return " · ".join(fact for fact in facts if fact)


def _date(at: float) -> str:
    """A time by the server's clock; "" where it is not known, or is none."""
    try:
        when = time.localtime(at)
    except (OverflowError, ValueError, OSError):
        return ""
    month = _MONTHS[when.tm_mon - 1]
    return f"{when.tm_mday} {month} {when.tm_year}, {when.tm_hour:02}:{when.tm_min:02}" if at > 0 else ""


def _progress(run: TrainingRun) -> str:
    if run.step is None:
        return ""
    short = run.max_steps is not None and run.state != "completed" and run.step < run.max_steps
    return f"step {run.step:,} of {run.max_steps:,}" if short else f"step {run.step:,}"


def _losses(loss: float | None, held_out: float | None = None) -> str:
    known = (("loss", loss), ("held-out", held_out))
    return " · ".join(f"{name} {figure(value)}" for name, value in known if value is not None)


def run_status(state: RunStatus, sentence: str, *, busy: bool = False, elapsed_s: float = 0.0) -> str:
    """The status line; ``busy`` turns a ring before it, after a second with the time that it has taken."""
    ring = '<span class="ring" aria-hidden="true"></span>' if busy else ""
    taken = f' <span class="muted">{elapsed_s:.0f} s</span>' if elapsed_s >= 1 else ""
    role = "alert" if state == "error" else "status"
    return f'<p class="run-status" data-state="{state}" role="{role}">{ring}<span>{escape(sentence)}{taken}</span></p>'


def verdict_sentence(verdict: Verdict) -> str:
    """What the status line says of ``verdict``: that it is ready, or the first thing that is wrong."""
    if verdict.is_sound:
        return texts.VALIDATED
    if not verdict.problems:
        return texts.CANNOT_BE_USED.format(name=verdict.label)
    more = f" And {plural(len(verdict.problems) - 1, 'more problem')}." if len(verdict.problems) > 1 else ""
    return verdict.problems[0][0] + more


def run_details(verdict: Verdict) -> str:
    """Where the adapter lies and on which base; then a green line, or each problem with its remedy; then the warnings."""
    sound = "yes" if verdict.is_sound else "no"
    warned = _list("warning", verdict.warnings)
    return f'<div class="run-details" data-sound="{sound}">{_meta(verdict)}{_found(verdict)}{warned}</div>'


def _meta(verdict: Verdict) -> str:
    place = verdict.place or verdict.label
    is_adapter = verdict.run is None or verdict.checkpoint is not None
    parts = [("Adapter" if is_adapter else "Run", visible(place)), ("Base", visible(verdict.base))]
    if verdict.run is None and verdict.report is not None:
        parts.append(("", texts.NO_RUN_OF_THE_LIST))
    elif verdict.run is not None and verdict.run.trainer:
        parts.append(("Trained with", visible(verdict.run.trainer)))
    shown = "".join(f"<span>{_titled(name)}<b>{escape(value)}</b></span>" for name, value in parts if value)
    return f'<p class="run-meta">{shown}</p>'


def _titled(name: str) -> str:
    return f"<small>{name}</small> " if name else ""


def _found(verdict: Verdict) -> str:
    if verdict.is_sound:
        told = description(verdict.report.info) if verdict.report else verdict.label
        sound = "warnings" if verdict.warnings else "sound"
        return f'<p class="verdict" data-verdict="{sound}">{escape(visible(told))}</p>'
    if len(verdict.problems) == 1:  # the status line has said it
        return f'<p class="run-remedy">{escape(verdict.problems[0][1])}</p>' if verdict.problems[0][1] else ""
    return _list("problem", verdict.problems)


def _list(severity: str, findings: Sequence[tuple[str, str]]) -> str:
    items = "".join(
        f'<li data-severity="{severity}"><b>{texts.SEVERITIES[severity]}</b> {escape(sentence)} '
        f'<span class="remedy">{escape(remedy)}</span></li>'
        for sentence, remedy in findings
    )
    return f'<ul class="findings">{items}</ul>' if items else ""


def no_curve(sentence: str = texts.NO_CURVE) -> str:
    """In the place of the losses."""
    return f'<figure class="loss-curve"><p class="muted">{escape(sentence)}</p></figure>'


def looking(sentence: str, elapsed_s: float = 0.0) -> str:
    """While folders are looked through."""
    taken = f" · {elapsed_s:.0f} s" if elapsed_s >= 1 else ""
    return f'<p class="progress-line">{escape(sentence + taken)}<span class="bar unknown"></span></p>'


def notices(found: Sequence[str]) -> str:
    """What could not be looked at; of very many the first ones."""
    more = len(found) - NOTICES_AT_MOST
    shown = [*found[:NOTICES_AT_MOST], *([f"And {plural(more, 'more notice')}."] if more > 0 else [])]
    lines = "".join(f"<li>{escape(visible(sentence))}</li>" for sentence in shown)
    return f'<ul class="run-notices">{lines}</ul>' if lines else ""


def pointed_list(folders: Sequence[Path]) -> str:
    """The folders that somebody has pointed at, each with a button that has it forgotten."""
    rows = "".join(
        f'<li><span title="{escape(visible(str(folder)))}">{escape(visible(str(folder)))}</span>'
        f'<button type="button" class="plain" data-forget="{escape(folder)}" title="{escape(texts.FORGET_HELP)}">'
        "Forget</button></li>"
        for folder in folders
    )
    return f'<ul class="pointed">{rows}</ul>' if rows else ""
