"""The adapter's report: what the checks found, what attaching it proved, and on request each layer's figures."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

import gradio as gr

from playground.errors import PlaygroundError
from playground.services.models import Models
from playground.types import Status
from playground.ui import texts
from playground.ui.views.doctor import examined
from playground.ui.views.report import adapter_report, no_effect, report_heading
from playground.ui.views.status import error_lines, progress_line
from playground.ui.views.weights import adapter_choice
from playground.ui.wiring import LIGHT, LONG, Updates, patiently, report, show_html


class AdapterReportPanel:
    """Folded under the picker; it opens by itself where something is wrong. ``proof`` is filled by the bar's refresh."""

    def __init__(self, models: Models) -> None:
        self._models = models

    def render(self) -> None:
        """Make the widgets."""
        with gr.Accordion(texts.REPORT, open=False, elem_id="adapter-report", elem_classes="card") as self.frame:
            self.found = show_html(_nothing(), elem_id="report-found")
            self.proof = show_html("", elem_id="report-proof")
            self.examine = gr.Button("Examine", elem_id="examine", size="md", visible=False, min_width=100)
            self.diagnosis = show_html("", elem_id="diagnosis")

    def listen(self, model: gr.Dropdown, adapter: gr.Dropdown) -> None:
        """Wire the widgets to the fields that name the adapter."""
        choice = [model, adapter]
        examining = self.examine.click(self._examine, choice, self.diagnosis, trigger_mode="once", **LONG)
        shown = [self.frame, self.found, self.examine]
        changed = adapter.change(None, None, self.diagnosis, js="() => ''", cancels=[examining], **LIGHT)
        # After it, not beside it: what else hangs on the change would wait until the check has ended.
        changed.then(self._check, choice, shown, trigger_mode="always_last", **LONG)

    async def _check(self, model: str | None, adapter: str | None) -> AsyncIterator[Updates]:
        """Look at the chosen adapter's files; nothing is loaded for it."""
        chosen = adapter_choice(adapter)
        if chosen is None:
            yield {self.frame: gr.update(label=texts.REPORT), self.found: _nothing(), self.examine: _button(False)}
            return
        try:
            looking = patiently(lambda: self._models.report(model or "", chosen), "report")
            async with aclosing(looking) as news:
                async for item in news:
                    yield self._reported(item[0]) if isinstance(item, tuple) else self._waiting(item)
        except Exception as error:
            if not isinstance(error, PlaygroundError):
                report(error)
            heading = f"{texts.REPORT} · cannot be used"
            yield {
                self.frame: gr.update(label=heading, open=True),
                self.found: error_lines(error),
                self.examine: _button(False),
            }

    def _reported(self, found: Any) -> Updates:
        bad = found.verdict == "problems"
        opened = {"open": True} if bad or no_effect(found) else {}
        return {
            self.frame: gr.update(label=report_heading(found), **opened),
            self.found: adapter_report(found),
            self.examine: _button(not bad),
        }

    def _waiting(self, seconds: float) -> Updates:
        """The heading of the adapter before it must not stand over this one."""
        return {
            self.frame: gr.update(label=texts.REPORT),
            self.found: progress_line(Status("loading", texts.CHECKING), seconds),
            self.examine: _button(False),
        }

    async def _examine(self, model: str | None, adapter: str | None) -> AsyncIterator[str]:
        """Measure every layer; the plot and the table, or the one sentence that says why not."""
        yield progress_line(Status("loading", texts.EXAMINING))
        try:
            looking = patiently(lambda: self._models.diagnose(model or "", adapter_choice(adapter) or ""), "examine")
            async with aclosing(looking) as news:
                async for item in news:
                    if isinstance(item, tuple):
                        yield examined(item[0])
                    else:
                        yield progress_line(Status("loading", texts.EXAMINING), item)
        except Exception as error:
            report(error)
            yield error_lines(error)


def _nothing() -> str:
    return f'<p class="muted">{texts.REPORT_NONE}</p>'


def _button(visible: bool) -> Any:
    return gr.update(visible=visible)
