"""The Playground tab: one prompt, one set of weights, the answer, and what it cost."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import Any

import gradio as gr

from playground.config import AppConfig, UseCase
from playground.errors import PlaygroundError
from playground.services.assembly import Services
from playground.types import TEMPLATES, GenerationRequest, Template
from playground.ui import texts
from playground.ui.export_panel import ExportPanel
from playground.ui.model_picker import ModelPicker, failure_of
from playground.ui.prompt_size import PromptSize
from playground.ui.replays import Replays
from playground.ui.settings_panel import SettingsPanel
from playground.ui.topbar import TopBar
from playground.ui.views.answer import Answer, answer_status
from playground.ui.views.prompt import prompt_counter, rendered_preview
from playground.ui.views.status import error_details, status_line
from playground.ui.views.weights import Choice
from playground.ui.visitor import caller_of
from playground.ui.wiring import AS_TYPED, LIGHT, LONG, Updates, Values, clicks_of, report, show_html

UPDATE_SECONDS = 0.05  # a browser draws no more than this; the engine is never waited for
LONGEST_PAUSE = 0.4  # that somebody closed the page is noticed at an update
CHARACTERS_PER_SECOND = 40_000  # what a browser can draw afresh with room to spare: longer texts, fewer updates
UPDATES_PER_SECOND = 80  # to all pages together: each costs the server a few ms that the engine needs as well
KEPT_SECONDS = 6 * 3600  # how long the answer of a page that may be closed is remembered


class PlaygroundTab:
    """`render` makes the widgets inside the current tab, `listen` wires them."""

    def __init__(self, config: AppConfig, services: Services) -> None:
        models, generation = services.models, services.generation
        self._config = config
        self._models = models
        self._generation = generation
        self._limits = services.limits
        self.picker = ModelPicker(models, config, services.uploads)
        self.panel = SettingsPanel(models, config)
        self.exports = ExportPanel(services.exports)
        self.replays = Replays(services.replay, services.limits)
        self.size = PromptSize(models, generation, self.picker)
        self._streams = 0

    # --- widgets ---

    def render(self) -> None:
        """Make the widgets: prompt and answer on the left, model and settings on the right."""
        with gr.Row(elem_classes="tab-columns"):
            with gr.Column(scale=2, min_width=320, elem_classes="main-column"):
                self._render_prompt()
                self._render_buttons()
                self._render_answer()
            with gr.Column(scale=1, min_width=300, elem_classes="side-column"):
                with gr.Accordion("Model and adapter", open=True, elem_id="model-picker"):
                    self.picker.render()
                self.picker.report.render()
                self.panel.render()
                self.exports.render()

    def _render_prompt(self) -> None:
        cases = list(self._config.use_cases.values())
        first = cases[0]
        with gr.Row(elem_classes="prompt-options"):
            self.use_case = gr.Dropdown(
                [(case.label, case.key) for case in cases], value=first.key, label="Use case", elem_id="use-case",
                min_width=120, elem_classes=["field", "inline"],
            )  # fmt: skip
            self.template = gr.Radio(
                [(texts.TEMPLATES[name], name) for name in TEMPLATES], value=first.template, label="Template",
                elem_id="template", min_width=120, elem_classes=["field", "inline", "segments"],
            )  # fmt: skip
        self.prompt = gr.Textbox(
            label="Prompt", show_label=False, placeholder="Write a prompt, or pick an example below.", lines=4,
            max_lines=14, autofocus=True, container=False, elem_id="prompt", elem_classes=["prompt-box"],
        )  # fmt: skip
        self.counter = show_html(prompt_counter(0), elem_id="counter")
        with gr.Row(elem_classes="examples", elem_id="examples"):
            most = max(len(case.examples) for case in cases)
            self.examples = [self._example(first, position) for position in range(most)]

    @staticmethod
    def _example(case: UseCase, position: int) -> gr.Button:
        text = case.examples[position] if position < len(case.examples) else ""
        return gr.Button(text, visible=bool(text), size="sm", elem_classes="example", min_width=0)

    def _render_buttons(self) -> None:
        with gr.Row(elem_classes="buttons actions"):
            self.generate = gr.Button("Generate", variant="primary", elem_id="generate", size="md", min_width=120)
            self.stop = gr.Button("Stop", variant="stop", elem_id="stop", size="md", min_width=120, visible=False)
            self.reset = gr.Button("Reset", elem_id="reset", size="md", min_width=90)
            self.undo = gr.Button("Undo reset", elem_id="undo-reset", size="md", min_width=110, visible=False)
            self.streaming = gr.Checkbox(
                True, label="Stream the answer", container=False, elem_id="streaming", min_width=120
            )

    def _render_answer(self) -> None:
        self.stage = gr.State("done")
        self.answer = gr.State(None, time_to_live=KEPT_SECONDS)
        self.before_reset = gr.State(None, time_to_live=KEPT_SECONDS)
        with gr.Column(elem_classes="answer-card", elem_id="answer-card"):
            with gr.Tabs(elem_id="answer-tabs"):
                with gr.Tab("Text"):
                    self.text = gr.Markdown(
                        texts.EMPTY_ANSWER, sanitize_html=True, line_breaks=True, latex_delimiters=[],
                        elem_id="answer-text", elem_classes="answer-text",
                    )  # fmt: skip
                with gr.Tab("Raw"):
                    self.raw = gr.Textbox(
                        show_label=False, container=False, interactive=False, lines=12, max_lines=12, autoscroll=False,
                        elem_id="answer-raw", elem_classes="answer-raw",
                    )  # fmt: skip
            self.copy = gr.Button("Copy", elem_id="copy", elem_classes="copy", size="sm", min_width=0)
        with gr.Column(elem_classes="under"):
            self.status = show_html(answer_status(None), elem_id="answer-status", js_on_load=clicks_of("replay"))
            self.replays.render()
        with gr.Accordion("Rendered prompt", open=False, elem_id="rendered-prompt", elem_classes="card"):
            self.preview = show_html(rendered_preview(None, texts.PREVIEW_NOT_LOADED), elem_id="preview")
        self.replays.render_manifest()

    # --- wiring ---

    def listen(self, demo: gr.Blocks, bar: TopBar) -> None:
        """Wire the widgets; ``bar`` shows the phase and which weights answer."""
        self._bar = bar
        self.picker.listen(demo, bar)
        self.panel.listen(self.picker.model)
        self.exports.listen(self.picker)
        self._listen_run()
        self._listen_prompt(demo)

    def _listen_run(self) -> None:
        inputs = [
            self.prompt, self.template, self.use_case, self.streaming, *self.picker.selection, *self.panel.inputs,
        ]  # fmt: skip
        shown = [self.text, self.raw, self.status, self.replays.made, self.generate, self.stop, *self._bar.status]
        written = [*shown, self.stage, self.answer, self.picker.failure, self.picker.progress, self.undo]
        # Before the run: the page takes up what hangs on one click in turn, and waits for each to end.
        self.replays.listen(self.status, self.answer, [self.generate.click, self.reset.click])
        run = self.generate.click(self._run, inputs, written, trigger_mode="once", **LONG, **AS_TYPED)
        self.stop.click(self._stopped, self.answer, [*shown, self.stage], cancels=[run], **LIGHT)
        # Also after a cancelled run, and then once its last updates, which the browser had still to show, are shown.
        run.then(self._settled, [self.stage, self.answer], shown, trigger_mode="multiple", **LIGHT)
        saved = [self.prompt, self.text, self.raw, self.status, self.replays.made, self.answer]
        cleared = [*saved, self.stage, self.before_reset, self.undo, self.generate, self.stop, *self._bar.status]
        self.reset.click(self._reset, saved, cleared, cancels=[run], **LIGHT)
        self.undo.click(self._undo, self.before_reset, [*saved, self.stage, self.undo], **LIGHT)
        self.copy.click(None, self.raw, None, js="(text) => window.playground.copy(text, 'Answer copied')")

    def _listen_prompt(self, demo: gr.Blocks) -> None:
        for example in self.examples:
            example.click(None, example, self.prompt, js="(text) => text")
        self.use_case.input(self._for_use_case, self.use_case, [self.template, *self.examples], **LIGHT)
        counted = [self.prompt, self.template, self.panel.widgets["system_prompt"], *self.picker.selection]
        shown = [self.counter, self.preview]
        edited = [self.prompt, self.template, self.panel.widgets["system_prompt"], self.picker.adapter]
        # The chips change when the model has been loaded or unloaded, by whoever it was.
        edits = [*(widget.change for widget in edited), self._bar.chips.change]
        gr.on(edits, self.size.look, counted, shown, trigger_mode="always_last", **LIGHT)

    # --- answering ---

    async def _run(
        self, visitor: gr.Request, prompt: str, template: Template, use_case: str, streaming: bool, *chosen: Any
    ) -> AsyncIterator[Updates]:  # fmt: skip
        """One answer, from the click to its last event. Closing this iterator closes the engine's, and so stops it."""
        yield {**self._buttons(running=True), self.stage: "running", self.undo: gr.update(visible=False)}
        count = len(self.picker.selection)
        choice, settings = Choice(*chosen[:count]), chosen[count:]
        answer, caller = None, caller_of(visitor)
        try:
            self._limits.admit(caller)
            spec = await asyncio.to_thread(self.picker.spec, choice)
            request = GenerationRequest(
                spec, prompt, settings=self.panel.settings(settings), template=template, user=caller.id
            )
            label = await asyncio.to_thread(self.picker.label, choice, spec)
            named = await asyncio.to_thread(self.replays.named, spec)
            answer = Answer(request, label, code=use_case == "code_generation", named=named)
            blank = {self.text: "", self.raw: "", **self.replays.shows(None)}
            yield {self.answer: answer, **blank, self.status: answer_status(answer)}
            async with aclosing(self._stream(answer, streaming)) as stream:
                async for updates in stream:
                    yield updates
            if answer.stopped:  # Stop and Reset have said already what there is to say
                return
            # What the picker said of an earlier try ("Press Load") is no longer true once this choice has answered.
            answered = {self.picker.failure: None, self.picker.progress: ""}
            ended = self._buttons(running=False) | {self.stage: "done"}
            yield {**answered, **self._bar.shows("idle"), **ended}
        except Exception as error:
            ended = self._buttons(running=False) | {self.stage: "done"}
            yield {**self._failed(error, answer, choice), **ended}

    async def _stream(self, answer: Answer, streaming: bool) -> AsyncGenerator[Updates, None]:
        """Fold the engine's events into ``answer``; show it as often as a browser can draw it, and at its end."""
        shown_at, phase = 0.0, ""
        self._streams += 1
        try:
            async with aclosing(self._generation.astream(answer.request)) as events:
                async for event in events:
                    if answer.stopped:
                        return
                    answer.fold(event)
                    if answer.running and time.monotonic() - shown_at < self._pause(answer):
                        continue
                    shown_at = time.monotonic()
                    if not answer.running:
                        await self.replays.note_prompt(answer)
                    updates = self._shown(answer, with_text=streaming or not answer.running)
                    if answer.running and answer.phase != phase:
                        phase = answer.phase
                        updates |= self._bar.shows(phase)
                    yield updates
        finally:
            self._streams -= 1

    def _pause(self, answer: Answer) -> float:
        """Seconds between two updates of this page: what its browser can draw, and its share of what the server can."""
        wanted = max(UPDATE_SECONDS, answer.length / CHARACTERS_PER_SECOND, self._streams / UPDATES_PER_SECOND)
        return min(wanted, LONGEST_PAUSE)

    def _shown(self, answer: Answer, *, with_text: bool) -> Updates:
        status = {self.status: answer_status(answer)}
        if not answer.running:
            status |= self.replays.shows(answer)
        return {self.text: answer.markdown, self.raw: answer.raw, **status} if with_text else status

    def _buttons(self, *, running: bool) -> Updates:
        """Generate and Stop take turns in one place, so nothing moves and nothing starts twice."""
        return {self.generate: gr.update(visible=not running), self.stop: gr.update(visible=running)}

    def _failed(self, error: Exception, answer: Answer | None, choice: Choice) -> Updates:
        """The sentence in a toast and in the status line; text that was already there stays."""
        sentence = report(error)
        updates: Updates = {
            self.status: status_line("error", sentence, error_details(error)),
            **self._bar.shows("error"),
        }
        if answer is not None:
            answer.fail(sentence)
            updates |= {self.text: answer.markdown, self.raw: answer.raw}
        if isinstance(error, PlaygroundError) and error.code.startswith(("adapter", "model")):
            updates[self.picker.failure] = failure_of(choice, error)
        return updates

    async def _stopped(self, answer: Answer | None) -> Updates:
        """What Stop leaves behind: the text so far, a line that says cancelled, and what made it."""
        idle = {**self._buttons(running=False), **self._bar.shows("idle"), self.stage: "stopped"}
        if answer is None or answer.error:
            return idle
        answer.cancel()
        await self.replays.note_prompt(answer)
        return {**self._shown(answer, with_text=True), **idle}

    def _settled(self, stage: str, answer: Answer | None) -> Updates:
        """What Stop or Reset has shown, once more: updates that were on their way to the page may have come after it."""
        if stage == "cleared":
            return {**self._cleared(), **self._buttons(running=False)}
        if stage == "stopped" and answer is not None and (answer.stopped or answer.running):
            answer.cancel()  # Stop may have been pressed before there was an answer to cancel
            return {**self._shown(answer, with_text=True), **self._buttons(running=False)}
        return {self.status: gr.skip()}

    def _cleared(self) -> Updates:
        blank = {self.text: texts.EMPTY_ANSWER, self.raw: "", **self.replays.shows(None)}
        return {**blank, self.status: status_line("idle", texts.RESET_DONE)}

    # --- the prompt and the page ---

    def _for_use_case(self, key: str) -> list[Any]:
        """The use case's own template and examples."""
        case = self._config.use_cases[key]
        padded = [*case.examples, *[""] * (len(self.examples) - len(case.examples))]
        return [case.template, *(gr.update(value=text, visible=bool(text)) for text in padded)]

    async def _reset(self, *saved: Any) -> Updates:
        """Clear prompt and answer, keeping both for Undo; an answer that is still being written is stopped."""
        prompt, *_, answer = saved
        if answer is not None and not answer.error:
            answer.cancel()
            await self.replays.note_prompt(answer)
            saved = (prompt, *self._shown(answer, with_text=True).values(), answer)
        return {
            **self._buttons(running=False), **self._bar.shows("idle"),
            **self._cleared(), self.prompt: "", self.answer: None, self.stage: "cleared",
            self.before_reset: saved, self.undo: gr.update(visible=True),
        }  # fmt: skip

    def _undo(self, saved: Values | None) -> Updates:
        """Bring back what Reset cleared, unless that was so long ago that it is forgotten."""
        if saved is None:
            return {self.undo: gr.update(visible=False)}
        prompt, text, raw, status, made, answer = saved
        return {
            self.prompt: prompt, self.text: text, self.raw: raw, self.status: status, self.replays.made: made,
            self.answer: answer, self.stage: "done", self.undo: gr.update(visible=False),
        }  # fmt: skip
