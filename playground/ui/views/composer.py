"""What stands around the field for the next message. Pure functions."""

from __future__ import annotations

from playground.ui.safe_text import escape
from playground.ui.views.figures import percent, plural


def answers_next(label: str, problem: str = "") -> str:
    """Which weights will answer, or why none can."""
    if problem:
        return f'<p class="answers-next error-line" title="{escape(problem)}">{escape(problem)}</p>'
    return f'<p class="answers-next">Next answer: <b>{escape(label)}</b></p>'


def context_meter(used: int | None, window: int = 0, dropped: int = 0) -> str:
    """How many of the ``window`` tokens are taken; nothing where that is not known.

    ``dropped`` earlier messages no longer fit and are left out.
    """
    if used is None or not window:
        return '<p class="chat-meter"></p>'
    share = used / window
    over = share > 1
    words = "too long for this model" if over else f"{percent(share) if share >= 0.01 else 'under 1 %'} of the context"
    left_out = f" · the first {plural(dropped, 'message')} left out" if dropped else ""
    exact = f"More than {window:,} tokens" if over else f"{used:,} of {window:,} tokens"
    kind = " over" if over else ""
    bar = f'<span class="bar known{kind}" style="--share:{min(share, 1.0):.3f}"></span>'
    title = f"{exact}: the conversation with this message, template included"
    return f'<p class="chat-meter{kind}" title="{title}">{bar}{words}{left_out}</p>'


def composer_line(sentence: str = "", state: str = "idle", details: str = "") -> str:
    """One sentence over the field: what went wrong, or what was done; ``state`` is idle, error or done."""
    if not sentence:
        return f'<div class="composer-line" data-state="{state}"></div>'
    more = f"<details><summary>Details</summary><p>{escape(details)}</p></details>" if details else ""
    role, kind = ("alert", "error-line") if state == "error" else ("status", "muted")
    line = f'<p class="{kind}">{escape(sentence)}</p>{more}'
    return f'<div class="composer-line" data-state="{state}" role="{role}">{line}</div>'
