"""Lines that say where something stands, or why it went wrong. Pure functions."""

from __future__ import annotations

import re

from playground.errors import PlaygroundError
from playground.types import Status
from playground.ui import texts
from playground.ui.safe_text import escape
from playground.ui.views.figures import percent, plural

DOTS_AT_MOST = 12
_BEFORE = re.compile(r"(\d+) before this one")
_FIRST_IN_LINE = "next in line"


def before_this_one(status: Status) -> int | None:
    """How many come before a request that waits in line, or None where that is not known or it does not wait."""
    if status.phase != "queued":
        return None
    place = _BEFORE.fullmatch(status.detail)
    return int(place[1]) if place else 0 if status.detail == _FIRST_IN_LINE else None


def is_told(status: Status) -> bool:
    """True for a request that waits and knows for what; a new one is only on its way into the line."""
    return status.phase == "queued" and status.detail not in ("", "waiting")


def status_text(status: Status) -> str:
    """A `Status` as one phrase: ``Loading: reading weights 42 %``, ``Waiting in line: 3 answers before yours``."""
    phase = texts.PHASES.get(status.phase, status.phase.capitalize())
    ahead = before_this_one(status)
    if ahead is not None:
        return f"{phase}: {_place(ahead)}"
    if status.phase == "queued":
        return (status.detail[:1].upper() + status.detail[1:]) if is_told(status) else texts.NOT_YET_IN_LINE
    plain = status.detail.lower() in ("", status.phase, phase.lower())
    detail = phase if plain else f"{phase}: {status.detail}"
    already = status.detail.rstrip().endswith("%")
    return detail if status.fraction is None or already else f"{detail} {percent(status.fraction)}"


def _place(ahead: int) -> str:
    if not ahead:
        return "yours is next"
    return f"{plural(ahead, 'answer')} before yours"


def status_line(state: str, sentence: str, details: str = "") -> str:
    """One sentence in the status line; ``details`` fold out."""
    more = f"<details><summary>Details</summary><p>{escape(details)}</p></details>" if details else ""
    kind = ' class="error-line"' if state == "error" else ""
    line = f"<p{kind}>{escape(sentence)}</p>" if sentence else ""
    role = "alert" if state == "error" else "status"
    return f'<div class="answer-status" data-state="{escape(state)}" role="{role}">{line}{more}</div>'


def progress_line(status: Status, elapsed_s: float = 0.0) -> str:
    """A `Status` with how far it is: a bar, or the line in which it waits; after a second with the time it has taken."""
    taken = f" · {elapsed_s:.0f} s" if elapsed_s >= 1 else ""
    return f'<p class="progress-line">{escape(status_text(status) + taken)}{drawn(status)}</p>'


def drawn(status: Status) -> str:
    """How far it is as a picture: a bar, or the line in which it waits."""
    ahead = before_this_one(status)
    return _bar(status) if ahead is None else _line(ahead)


def working(progress: str) -> str:
    """A piece of work that goes on; ``progress`` is HTML."""
    return worked(progress, "running")


def worked(result: str, state: str = "done") -> str:
    """What came of a piece of work: ``result`` is HTML, ``state`` running, done, identical, differs, stopped or error."""
    role = "alert" if state == "error" else "status"
    return f'<div class="work" data-state="{escape(state)}" role="{role}">{result}</div>'


def error_lines(error: BaseException) -> str:
    """The one sentence for ``error``, and what lies behind it folded."""
    details = error_details(error)
    more = f"<details><summary>Details</summary><p>{escape(details)}</p></details>" if details else ""
    return f'<p class="error-line">{escape(error_sentence(error))}</p>{more}'


def error_sentence(error: BaseException) -> str:
    """The one sentence that a person sees for ``error``: its own where it is ours, else a general one."""
    return str(error) if isinstance(error, PlaygroundError) else texts.UNEXPECTED


def error_details(error: BaseException) -> str:
    """What lies behind ``error``, for the fold under the sentence; empty where there is nothing more to say."""
    cause = error.__cause__
    return f"{type(cause).__name__}: {cause}"[:600] if cause is not None and isinstance(error, PlaygroundError) else ""


def _bar(status: Status) -> str:
    """Filled as far as is known, else moving."""
    if status.fraction is None:
        return '<span class="bar unknown"></span>'
    return f'<span class="bar known" style="--share:{min(max(status.fraction, 0.0), 1.0):.3f}"></span>'


def _line(ahead: int) -> str:
    """A dot for each who comes before, and one's own at the end; a long line shows its end only."""
    others = "<i></i>" * min(ahead, DOTS_AT_MOST)
    more = "<b>…</b>" if ahead > DOTS_AT_MOST else ""
    return f'<span class="line" aria-hidden="true">{more}{others}<i class="own"></i></span>'
