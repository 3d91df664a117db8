"""Step 3 of the Inference tab: whether it is locked, and what is done with all that was said. Pure functions."""

from __future__ import annotations

from typing import Literal

from playground.ui import texts
from playground.ui.safe_text import escape
from playground.ui.views.runs import run_status, step_heading

TurnState = Literal["busy", "ready", "error"]


def prompt_heading(locked: bool) -> str:
    """The heading of the step; a quiet line says what unlocks it."""
    hint = f'<p class="step-hint">{escape(texts.LOCKED)}</p>' if locked else ""
    state = "locked" if locked else "open"
    return f'<div class="prompt-head" data-state="{state}">{step_heading(3, texts.PROMPT_STEP)}{hint}</div>'


def export_menu(enabled: bool) -> str:
    """The button that offers the formats to save the open conversation in."""
    state = "" if enabled else " disabled"
    choices = "".join(
        f'<button type="button" class="plain" data-export="{name}" title="{escape(help_text)}">{escape(label)}</button>'
        for name, (label, help_text) in texts.CHAT_FORMATS.items()
    )
    return (
        '<div class="export-chats"><button type="button" class="plain outlined" data-export-menu aria-expanded="false"'
        f'{state}>{escape(texts.EXPORT_CHATS)}</button><div class="export-formats" role="group" '
        f'aria-label="{escape(texts.EXPORT_CHATS)}" hidden>{choices}</div></div>'
    )


def history_line(sentence: str = "", error: str = "") -> str:
    """What was done with the history, or the HTML of an ``error``."""
    if error:
        return f'<div class="history-line" role="alert">{error}</div>'
    return f'<div class="history-line" role="status"><p class="muted">{escape(sentence)}</p></div>' if sentence else ""


def turn_status(state: TurnState, sentence: str, details: str = "") -> str:
    """The status line of step 2 while a prompt is answered (``busy``), and after it; ``details`` fold out."""
    more = f"<details><summary>Details</summary><p>{escape(details)}</p></details>" if details else ""
    return run_status("ready" if state == "busy" else state, sentence, busy=state == "busy") + more
