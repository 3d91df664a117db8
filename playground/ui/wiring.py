"""How the pages' handlers are wired to Gradio: two kinds of them, HTML with buttons in it, and how an error is told."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import gradio as gr

from playground.errors import PlaygroundError
from playground.ui.safe_text import escape
from playground.ui.views.status import error_sentence

log = logging.getLogger(__name__)

Updates = dict[Any, Any]
Values = tuple[Any, ...]

# Light handlers: answered at once, outside of the queue, without a progress veil, and not part of Gradio's API.
LIGHT: Mapping[str, Any] = {"queue": False, "show_progress": "hidden", "api_visibility": "private"}
# Long handlers: queued; how many run at once is the engine's business, not the queue's.
LONG: Mapping[str, Any] = {"show_progress": "hidden", "api_visibility": "private", "concurrency_limit": None}

# Values as they were typed: what is out of bounds is refused by the settings themselves, in a sentence that names it.
AS_TYPED: Mapping[str, Any] = {"preprocess": False}


def toast(sentence: str) -> None:
    """Show ``sentence`` as a toast. Only from a queued handler; Gradio renders toasts as HTML, hence the escaping."""
    gr.Warning(escape(sentence), duration=10, title="Not done")


def report(error: BaseException) -> str:
    """Say ``error`` in a toast and return the sentence; what is not ours goes to the log with its traceback."""
    if not isinstance(error, PlaygroundError):
        log.error("a page's action failed", exc_info=error)
    sentence = error_sentence(error)
    toast(sentence)
    return sentence


def show_html(value: str, **options: Any) -> gr.HTML:
    """A place for HTML from `views`, without Gradio's text styles around it."""
    return gr.HTML(value, apply_default_css=False, **{"js_on_load": None, **options})


def clicks_of(attribute: str) -> str:
    """Script for a `gr.HTML` whose buttons carry ``data-<attribute>``: their clicks reach Python with that value."""
    return (
        "element.addEventListener('click', (event) => {"
        f"  const button = event.target.closest('[data-{attribute}]');"
        f"  if (button) trigger('click', {{value: button.getAttribute('data-{attribute}')}});"
        "});"
    )
