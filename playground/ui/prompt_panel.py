"""Step 3 of the Inference tab: preset, samples, the prompt with its expected answer, three sliders, Generate and Stop."""

from __future__ import annotations

import gradio as gr

from playground.ui import texts
from playground.ui.samples_panel import SamplesPanel
from playground.ui.settings_mirrors import SettingsMirrors
from playground.ui.views.inference import prompt_heading
from playground.ui.wiring import Updates, show_html

_SLIDERS = {
    "temperature": "inference-temperature", "max_new_tokens": "inference-tokens", "repetition_penalty": "inference-penalty",
}  # fmt: skip


class PromptPanel:
    """`render` makes the widgets, all of them locked; `locks` and `busy` are what happens to them afterwards."""

    def __init__(self, samples: SamplesPanel, mirrors: SettingsMirrors) -> None:
        self._samples = samples
        self._mirrors = mirrors

    def render(self) -> None:
        """Make the widgets."""
        self.heading = show_html(prompt_heading(locked=True), elem_id="prompt-step")
        with gr.Column(elem_id="asking", elem_classes="asking"):
            self._render_fields()
            self._render_buttons()
        for field in self._samples.widgets:
            field.interactive = False

    def _render_fields(self) -> None:
        self.preset = self._mirrors.render_presets("inference-preset", interactive=False)
        self._samples.render()
        self.prompt = gr.Textbox(
            label="Prompt", placeholder=texts.GENERATE_PROMPT, lines=4, max_lines=14, interactive=False,
            elem_id="inference-prompt", elem_classes=["field", "prompt-box"],
        )  # fmt: skip
        self._samples.render_expected()
        with gr.Row(elem_classes="inference-sliders"):
            self.sliders = [self._mirrors.render(name, place, interactive=False) for name, place in _SLIDERS.items()]

    def _render_buttons(self) -> None:
        with gr.Row(elem_classes="buttons actions"):
            self.generate = gr.Button(
                "Generate", variant="primary", elem_id="inference-generate", size="md", min_width=120, interactive=False
            )
            self.stop = gr.Button(
                "Stop", variant="stop", elem_id="inference-stop", size="md", min_width=90, interactive=False
            )

    @property
    def outputs(self) -> list[gr.components.Component]:
        """What `locks` fills."""
        return [self.heading, *self._fields, *self.buttons]

    @property
    def buttons(self) -> list[gr.components.Component]:
        """What `busy` fills."""
        return [self.generate, self.stop]

    @property
    def _fields(self) -> list[gr.components.Component]:
        return [self.preset, *self._samples.widgets, self.prompt, *self.sliders]

    def locks(self, locked: bool, *, writing: bool = False) -> Updates:
        """Updates that lock every field, or open them; of a page that is ``writing``, an answer is not asked for again."""
        open_or_not = {field: gr.update(interactive=not locked) for field in self._fields}
        return {self.heading: prompt_heading(locked), **open_or_not, **self.busy(writing, locked=locked)}

    def busy(self, writing: bool, *, locked: bool = False) -> Updates:
        """Updates of the two buttons: a ring turns in Generate while it is ``writing``."""
        classes = ["running"] if writing else []
        return {
            self.generate: gr.update(interactive=not (writing or locked), elem_classes=classes),
            self.stop: gr.update(interactive=writing),
        }
