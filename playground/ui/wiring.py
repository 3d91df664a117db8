"""How the pages' handlers are wired to Gradio: two kinds of them, HTML with buttons in it, and how an error is told."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing
from typing import Any, TypeVar

import gradio as gr

from playground.errors import PlaygroundError
from playground.services.threads import in_own_thread
from playground.ui.safe_text import escape
from playground.ui.views.status import error_lines, error_sentence, worked, working

log = logging.getLogger(__name__)

T = TypeVar("T")
PATIENCE_SECONDS = 1.0  # what is done within it needs no word about how far it is
TICK_SECONDS = 0.5
WORK_SECONDS = 0.1  # between two updates of how far a piece of work is

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


async def patiently(work: Callable[[], T], name: str) -> AsyncGenerator[float | tuple[T], None]:
    """Do ``work`` in a thread of its own: the seconds that it has taken, every half after the first, then (its result,).

    Raises what it raises. Whoever leaves lets it go on unheard.
    """
    task = asyncio.create_task(in_own_thread(work, name))
    task.add_done_callback(lambda done: done.cancelled() or done.exception())  # never "exception not retrieved"
    started = time.monotonic()
    await asyncio.wait({task}, timeout=PATIENCE_SECONDS)
    while not task.done():
        yield time.monotonic() - started
        await asyncio.wait({task}, timeout=TICK_SECONDS)
    yield (task.result(),)


class WorkLine:
    """The place of one piece of work at a time: how far it is, with a Stop, and then what came of it.

    ``outputs`` are what `show` fills.
    """

    def __init__(self, elem_id: str, stopped: str) -> None:
        self._elem_id = elem_id
        # One that was cancelled without a word of Stop still says that it is running.
        self._words = {"stopped": worked(f"<p>{escape(stopped)}</p>", "stopped"), "running": ""}

    def render(self) -> None:
        """Make the widgets. The button is one of its own: one that is drawn anew at every update cannot be pressed."""
        self.stage = gr.State("idle")
        with gr.Row(elem_classes="work-row"):
            self.line = show_html("", elem_id=self._elem_id, elem_classes="work-slot")
            self.stop = gr.Button("Stop", visible=False, size="sm", min_width=60, elem_classes="stop-work")

    @property
    def outputs(self) -> list[gr.components.Component]:
        """What `show` fills."""
        return [self.line, self.stop, self.stage]

    def listen(self, works: Sequence[Any], ends: Sequence[Any] = ()) -> None:
        """``works`` are the events whose handlers yield from `show`; ``ends`` the triggers that stop and clear them."""
        self.stop.click(lambda: self._ended("stopped"), None, self.outputs, cancels=list(works), **LIGHT)
        if ends:  # nobody waits for the server to clear it
            gr.on(ends, None, None, self.line, js="() => ''", cancels=list(works), **LIGHT)
        for work in works:  # a cancelled one too: its last updates, on their way to the page, must not stay
            work.then(self._settled, self.stage, self.outputs, trigger_mode="multiple", **LIGHT)

    async def show(
        self, news: AsyncGenerator[Any, None], progress: Callable[[Any], str | None], done: Callable[[Any], str]
    ) -> AsyncGenerator[Updates, None]:
        """Updates for the items of ``news``: HTML from ``progress``, or, where that has none, the result from ``done``.

        ``progress`` of None is what is shown at first. What ``news`` raises is told in a toast and stays in the line.
        """
        yield {self.stage: "running", self.stop: gr.update(visible=True), self.line: working(progress(None) or "")}
        shown_at, ended = 0.0, {self.stage: "done", self.stop: gr.update(visible=False)}
        try:
            async with aclosing(news) as items:
                async for item in items:
                    running = progress(item)
                    if running is None:
                        yield {self.line: done(item)}
                    elif time.monotonic() - shown_at >= WORK_SECONDS:
                        shown_at = time.monotonic()
                        yield {self.line: working(running)}
            yield ended
        except Exception as error:
            report(error)
            yield {self.line: worked(error_lines(error), "error"), **ended}

    def _ended(self, stage: str) -> Updates:
        return {self.line: self._words[stage], self.stop: gr.update(visible=False), self.stage: stage}

    def _settled(self, stage: str) -> Updates:
        """What Stop or a clearing showed, once more."""
        return self._ended(stage) if stage in self._words else {self.line: gr.skip()}
