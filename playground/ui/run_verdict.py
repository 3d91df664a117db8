"""Step 2 of the Inference tab: whether the adapter that is chosen may be asked, and what is known of it before."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass

import gradio as gr

from playground.services.readiness import Readiness, Verdict
from playground.ui import texts, wiring
from playground.ui.safe_text import escape
from playground.ui.views import runs as view
from playground.ui.views.status import error_sentence
from playground.ui.wiring import Updates, patiently, report, show_html

OPEN_REPORT = "() => window.runs.openReport()"


@dataclass
class Turn:
    """What a page has chosen last. Choices are numbered: what is found out about an earlier one is not shown any more.

    ``base`` and ``label`` are that choice, "" for none; ``run`` is the name of its run. ``listed`` are the names in the list
    of runs, ``first`` those that come first in it, because their folder was pointed at. ``beside`` is true for a choice that
    was made in the side panel.
    """

    number: int = 0
    base: str = ""
    label: str = ""
    run: str = ""
    listed: tuple[str, ...] = ()
    first: tuple[str, ...] = ()
    beside: bool = False

    def begins(self, base: str = "", label: str = "", *, beside: bool = False) -> int:
        """Another choice; its number."""
        self.number, self.base, self.label, self.run, self.beside = self.number + 1, base, label, "", beside
        return self.number


class RunVerdict:
    """`render` makes the widgets, ``outputs`` are those that `shows`, `waits` and `validate` fill.

    ``verdict`` holds the last `Verdict` about what is chosen, None before there is one and while it is being found out;
    ``settled`` changes once for each verdict, also when it is the same again: a State alone tells nobody of that.
    """

    def __init__(self, readiness: Readiness) -> None:
        self._readiness = readiness

    def render(self) -> None:
        """Make the widgets."""
        self.verdict = gr.State(None)
        self.settled = gr.Textbox(visible="hidden", elem_id="run-settled")
        with gr.Column(elem_classes="step", elem_id="step-validated"):
            with gr.Row(elem_classes="step-row"):
                show_html(view.step_heading(2, "Validated"), elem_classes="step-head")
                self.doctor = gr.Button(
                    texts.DOCTOR, visible=False, size="sm", min_width=0, elem_id="run-doctor", elem_classes="copy"
                )
            self.status = show_html(view.run_status("idle", texts.CHOOSE_RUN), elem_id="run-status")
            self.details = show_html("", elem_id="run-details")
        self.doctor.click(None, None, None, js=OPEN_REPORT)

    @property
    def outputs(self) -> list[gr.components.Component]:
        """What the updates of this class fill."""
        return [self.verdict, self.settled, self.status, self.details, self.doctor]

    def shows(self, verdict: Verdict) -> Updates:
        """Updates that show ``verdict``, and unlock or lock what follows."""
        return {
            self.verdict: verdict,
            **self._news("ready" if verdict.is_sound else "error", view.verdict_sentence(verdict)),
            self.details: view.run_details(verdict),
            self.doctor: gr.update(visible=verdict.report is not None),
        }

    def waits(self, sentence: str = texts.CHOOSE_RUN, *, wrong: bool = False) -> Updates:
        """Updates for no choice, or for one that is gone: what follows is locked."""
        return self._blank() | self._news("error" if wrong else "idle", sentence)

    def begins(self, base: str, label: str) -> Updates:
        """Updates for a choice that is about to be validated: what follows is locked until it has been."""
        return self._blank() | self._news("validating", "", self._validating(base, label, 0.0))

    async def validate(self, turn: Turn, mine: int, *, told: bool) -> AsyncGenerator[Updates, None]:
        """Updates while choice number ``mine`` is validated, and for its verdict; none once there is a later choice.

        ``told`` says that the verdict pops up as well.
        """
        base, label = turn.base, turn.label
        async with aclosing(patiently(lambda: self._readiness.check(base, label), "validate")) as news:
            async for item in news:
                if turn.number != mine:
                    return
                if isinstance(item, tuple):
                    if told:
                        _tell(item[0])
                    yield self.shows(item[0])
                else:
                    yield {self.status: self._validating(base, label, item)}

    def failed(self, error: Exception) -> Updates:
        """Updates for a choice that could not be looked at."""
        report(error)
        return self.waits(error_sentence(error), wrong=True)

    @staticmethod
    def _validating(base: str, label: str, elapsed_s: float) -> str:
        sentence = texts.VALIDATING.format(name=view.visible(label), base=view.visible(base))
        return view.run_status("validating", sentence, busy=True, elapsed_s=elapsed_s)

    def _blank(self) -> Updates:
        return {self.verdict: None, self.details: "", self.doctor: gr.update(visible=False)}

    def _news(self, state: view.RunStatus, sentence: str, line: str = "") -> Updates:
        return {self.status: line or view.run_status(state, sentence), self.settled: str(time.monotonic_ns())}


def _tell(verdict: Verdict) -> None:
    """A toast for a verdict. Only from a queued handler; Gradio renders toasts as HTML, hence the escaping."""
    if not verdict.is_sound:
        wiring.toast(
            view.visible(" ".join(verdict.problems[0]) if verdict.problems else view.verdict_sentence(verdict))
        )
        return
    said = texts.VALIDATED_TOAST.format(name=view.visible(verdict.label), base=view.visible(verdict.base))
    gr.Info(f'<span class="news-ready">{escape(said)}</span>', duration=4)
