"""The sample that fills the prompt: its expected answer under the prompt, its system prompt in the settings."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import gradio as gr

from playground.services.samples import Drawn, Sample
from playground.ui.side_panel import SidePanel
from playground.ui.views import samples as view
from playground.ui.views.samples import Chosen
from playground.ui.wiring import Updates, clicks_of, show_html


class ChosenSample:
    """`render` makes the widgets under the prompt, `listen` wires them.

    ``sample`` holds what was chosen (`Chosen.text`), ``expected`` its expected answer for as long as the prompt is its own.
    """

    def __init__(self, side: SidePanel) -> None:
        self._side = side

    def render(self) -> None:
        """Make the widgets."""
        self.sample = gr.Textbox(visible="hidden", elem_id="chosen-sample")
        self.expected = gr.Textbox(visible="hidden", elem_id="expected")
        clicks = clicks_of("sample")
        self.answer = show_html("", elem_id="expected-answer", elem_classes="samples-slot", js_on_load=clicks)
        self.note = show_html("", elem_id="sample-system", elem_classes="samples-slot", js_on_load=clicks)

    def listen(self, prompt: gr.Textbox) -> None:
        """What goes with the prompt, and with the settings' system prompt, as they stand: the page finds out by itself."""
        self._prompt = prompt
        gr.on(
            [prompt.change, self.sample.change], None, [prompt, self.sample], self.expected,
            js="(prompt, sample) => window.playground.samples.expected(prompt, sample)",
        )  # fmt: skip
        gr.on(
            [self.system.change, self.sample.change], None, [self.system, self.sample], None,
            js="(system, sample) => { window.playground.samples.watchSystem(system, sample); }",
        )  # fmt: skip
        self.answer.click(
            None, [self.sample, prompt], prompt, js="(sample, prompt) => window.playground.samples.prompt(sample, prompt)"
        )  # fmt: skip
        self.note.click(
            None, [self.sample, self.system], [self.system, self.sample],
            js="(sample, system) => window.playground.samples.useSystem(sample, system)",
        )  # fmt: skip

    @property
    def system(self) -> gr.components.Component:
        """The settings' system prompt."""
        return self._side.settings.widgets["system_prompt"]

    @property
    def held(self) -> list[Any]:
        """What `takes`, `renews` and `goes` fill beside the prompt."""
        return [self.sample, self.answer, self.note, self.system]

    def takes(self, sample: Sample, dataset: str, text: str, system: str) -> Updates:
        """Updates that choose ``sample`` in place of the one that ``text`` holds; ``system`` is in the settings now."""
        held = Chosen.parse(text)
        chosen = Chosen.of(sample, dataset, held.before_is(system))
        if replace(chosen, before=held.before) == held:  # the field was only left again: what was written stays
            return {self._prompt: gr.skip()}
        return {**self._puts(chosen, system), self._prompt: chosen.prompt}

    def renews(self, drawn: Drawn | None, prompt: str, text: str, system: str) -> Updates:
        """The sample that ``text`` holds as it is in ``drawn`` now; the prompt too, unless somebody has changed it."""
        before = Chosen.parse(text)
        if not before.prompt or drawn is None or drawn.dataset != before.dataset:
            return {self._prompt: gr.skip()}
        if before.row < 0:  # of a file too large to be counted: which of the rows it was is not known
            return self.goes(text, system)
        found = next((sample for sample in drawn.samples if sample.row == before.row), None)
        if found is None:
            return {self._prompt: gr.skip()}
        now = Chosen.of(found, before.dataset, before.before_is(system))
        fills: Updates = {self._prompt: now.prompt} if before.is_prompt(prompt) else {}
        return {**self._puts(now, system), **fills}

    def goes(self, text: str, system: str) -> Updates:
        """The sample that ``text`` holds goes, and what stood in the settings before it comes back. The prompt stays."""
        chosen = Chosen.parse(text)
        return {self.sample: "", self.answer: "", self.note: "", **self._tells(chosen.before_is(system), system)}

    def _puts(self, chosen: Chosen, system: str) -> Updates:
        updates: Updates = {
            self.sample: chosen.text,
            self.answer: view.expected_answer(chosen),
            self.note: view.system_note(chosen),
        }
        return {**updates, **self._tells(chosen.system or chosen.before, system)}

    def _tells(self, wanted: str, system: str) -> Updates:
        """The settings' system prompt, sent only where it becomes another one."""
        return {} if wanted == system else {self.system: wanted}
