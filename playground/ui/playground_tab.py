"""The Playground tab: one prompt, one set of weights, the answer, and what it cost."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import Any

import gradio as gr

from playground.config import AppConfig
from playground.errors import PlaygroundError
from playground.services.assembly import Services
from playground.services.chat import Action, Ask
from playground.types import GenerationEvent, Template
from playground.ui import texts
from playground.ui.answer_area import KEPT_SECONDS, AnswerArea
from playground.ui.asked import Asked, read_to_the_end
from playground.ui.batch_panel import BatchPanel
from playground.ui.continued import Continued
from playground.ui.following import Following
from playground.ui.model_picker import failure_of
from playground.ui.opened import Open, Opened
from playground.ui.pace import Pace
from playground.ui.prompt_size import PromptSize
from playground.ui.side_panel import SidePanel
from playground.ui.topbar import TopBar
from playground.ui.use_cases import UseCases
from playground.ui.views.answer import Answer
from playground.ui.views.prompt import prompt_counter, rendered_preview
from playground.ui.views.status import error_sentence, status_line
from playground.ui.views.weights import Choice
from playground.ui.visitor import caller_of
from playground.ui.wiring import AS_TYPED, LIGHT, LONG, Updates, Values, report, show_html


class PlaygroundTab:
    """`render` makes the widgets inside the current tab, `listen` wires them."""

    def __init__(
        self, config: AppConfig, services: Services, side: SidePanel, opened: Opened, pace: Pace | None = None
    ) -> None:
        self._services = services
        self._chat = services.chat
        self._limits = services.limits
        self._pace = pace or Pace()
        self._unseen: set[asyncio.Task[None]] = set()
        self.picker = side.picker
        self.panel = side.settings
        self.opened = opened
        self.cases = UseCases(config)
        self.area = AnswerArea(services, opened)
        self.batch = BatchPanel(config, services, side)
        self.size = PromptSize(services.models, services.generation, services.chat, self.picker)

    # --- widgets ---

    def render(self) -> None:
        """Make the widgets: the prompt, and under it the answer."""
        with gr.Column(elem_classes="tab-column"):
            self._render_prompt()
            self._render_buttons()
            self._render_answer()

    def _render_prompt(self) -> None:
        self.cases.render_options()
        self.again = gr.Button(
            "Try again", elem_id="try-again", size="md", min_width=90, interactive=False, render=False
        )
        self.continued = Continued(self._services.history, self._chat, self.again)
        self.continued.render_line()
        self.prompt = gr.Textbox(
            label="Prompt", show_label=False, placeholder=texts.FIRST_PROMPT, lines=4,
            max_lines=14, autofocus=True, container=False, elem_id="prompt", elem_classes=["prompt-box"],
        )  # fmt: skip
        self.counter = show_html(prompt_counter(0), elem_id="counter")
        self.cases.render_examples()

    def _render_buttons(self) -> None:
        with gr.Row(elem_classes="buttons actions"):
            self.area.render_buttons()
            self.again.render()
            self.reset = gr.Button("Reset", elem_id="reset", size="md", min_width=90)
            self.undo = gr.Button("Undo reset", elem_id="undo-reset", size="md", min_width=110, visible=False)
            self.streaming = gr.Checkbox(
                True, label="Stream the answer", container=False, elem_id="streaming", min_width=120
            )

    def _render_answer(self) -> None:
        self.before_reset = gr.State(None, time_to_live=KEPT_SECONDS)
        self.following = Following(self.opened, self.continued, self.area, self.cases, self.panel)
        self.following.render()
        self.area.render()
        self.continued.render_messages()
        with gr.Accordion("Rendered prompt", open=False, elem_id="rendered-prompt", elem_classes="card"):
            self.preview = show_html(rendered_preview(None, texts.PREVIEW_NOT_LOADED), elem_id="preview")
        self.area.replays.render_manifest()
        self.batch.render()

    # --- wiring ---

    def listen(self, demo: gr.Blocks, bar: TopBar) -> None:
        """Wire the widgets; ``bar`` shows the phase and which weights answer."""
        self._bar = bar
        self.area.listen(bar)
        self._listen_run()
        self.following.listen()
        # What was typed meanwhile is not what was sent, so it stays.
        sent = "(sent, prompt) => window.playground.afterSending(sent, prompt)"
        self.area.sent.change(None, [self.area.sent, self.prompt], self.prompt, js=sent)
        self._listen_prompt(demo)
        self.batch.listen(demo, bar, self.cases.template)

    def _listen_run(self) -> None:
        area = self.area
        inputs = [
            self.prompt, self.cases.template, self.cases.use_case, self.streaming, self.opened.key,
            *self.picker.selection, *self.panel.inputs,
        ]  # fmt: skip
        page = [self.opened.key, self.opened.awaited, area.drawn, area.sent]
        told = [area.stage, area.run, area.answer, self.picker.failure, self.picker.progress, self.undo]
        # Before the runs: the page takes up what hangs on one click in turn, and waits for each to end.
        ends = [area.generate.click, self.again.click, self.reset.click, area.drawn.change]
        area.replays.listen(area.status, area.answer, ends)
        options = {"trigger_mode": "once", **LONG, **AS_TYPED}
        written = [*area.shown, *page, *told]
        runs = [
            area.generate.click(self._run, inputs, written, **options),
            self.again.click(self._run_again, inputs, written, **options),
        ]
        area.stop.click(self._stopped, area.answer, [*area.shown, area.stage], cancels=runs, **LIGHT)
        # Also after a cancelled run, and then once its last updates, which the browser had still to show, are shown.
        for run in runs:
            ended = [area.stage, area.answer, self.before_reset]
            run.then(self._settled, ended, [*area.shown, *page], trigger_mode="multiple", **LIGHT)
        self._listen_reset(runs)

    def _listen_reset(self, runs: list[Any]) -> None:
        area, saved = self.area, self._cleared_by_reset
        cleared = [*saved, area.stage, self.before_reset, self.undo, area.generate, area.stop, *self._bar.status]
        self.reset.click(self._reset, saved, cleared, cancels=runs, **LIGHT)
        self.undo.click(self._undo, self.before_reset, [*saved, area.stage, self.undo], **LIGHT)

    @property
    def _cleared_by_reset(self) -> list[gr.components.Component]:
        """What Reset clears and Undo brings back."""
        area = self.area
        return [self.prompt, area.text, area.raw, area.status, area.replays.made, area.answer]

    def _listen_prompt(self, demo: gr.Blocks) -> None:
        # What was not sent yet is there again after a reload, also after the one when a server comes back.
        self.prompt.change(None, self.prompt, None, js="(text) => { window.playground.keepDraft(text); }")
        demo.load(None, self.prompt, self.prompt, js="(text) => window.playground.keptDraft(text)")
        self.cases.listen(self.prompt)
        told = [self.prompt, self.cases.template, self.panel.widgets["system_prompt"], self.opened.key]
        counted, shown = [*told, *self.picker.selection], [self.counter, self.preview]
        # The chips change when the model has been loaded or unloaded, by whoever it was.
        edits = [*(widget.change for widget in (*told, self.picker.adapter)), self._bar.chips.change]
        gr.on(edits, self.size.look, counted, shown, trigger_mode="always_last", **LIGHT)

    # --- answering ---

    async def _run(self, visitor: gr.Request, *asked: Any) -> AsyncIterator[Updates]:
        """One answer, from the click to its last event. Closing this iterator closes the engine's, and so stops it."""
        async with aclosing(self._answering(visitor, "send", *asked)) as updates:
            async for update in updates:
                yield update

    async def _run_again(self, visitor: gr.Request, *asked: Any) -> AsyncIterator[Updates]:
        """Another version of the last answer, with what is chosen now."""
        async with aclosing(self._answering(visitor, "regenerate", *asked)) as updates:
            async for update in updates:
                yield update

    async def _answering(
        self, visitor: gr.Request, action: Action, prompt: str, template: Template, use_case: str, streaming: bool,
        key: str, *chosen: Any,
    ) -> AsyncGenerator[Updates, None]:  # fmt: skip
        answer, caller, opened = None, caller_of(visitor), Open.parse(key)
        run = Asked(opened.conversation)
        begun = {**self.area.buttons(running=True), self.area.stage: "running", self.area.run: run}
        yield {**begun, self.undo: gr.update(visible=False)}
        count = len(self.picker.selection)
        choice, settings = Choice(*chosen[:count]), chosen[count:]
        try:
            self._limits.admit(caller)
            spec = await asyncio.to_thread(self.picker.spec, choice)
            ask = Ask(
                spec, action, opened.conversation, opened.leaf, prompt if action == "send" else "",
                self.panel.settings(settings), template, use_case=use_case,
            )  # fmt: skip
            exchange = await asyncio.to_thread(self._chat.ask, caller, ask)
            label = await asyncio.to_thread(self.picker.label, choice, spec)
            named = await asyncio.to_thread(self.area.replays.named, spec)
            code = use_case == "code_generation"
            answer = run.answer = Answer(exchange.request, label, code=code, named=named, exchange=exchange)
            waits = {} if opened.conversation else self.opened.awaits(exchange.conversation_id)
            if not run.left:
                yield {**self.area.begins(answer), **waits}
            async with aclosing(self._stream(run, answer, streaming)) as stream:
                async for updates in stream:
                    yield updates
            if answer.stopped or run.left:  # whoever pressed that has said already what there is to say
                return
            # What the picker said of an earlier try ("Press Load") is no longer true once this choice has answered.
            answered = {self.picker.failure: None, self.picker.progress: ""}
            ended = {**self.area.idle(), self.area.stage: "done"}
            yield {**answered, **ended, **self.area.told(run, await exchange.saved())}
        except Exception as error:
            if run.left:
                report(error)
                return
            ended = self.area.buttons(running=False) | {self.area.stage: "done"} | self.opened.awaits("")
            yield {**self._failed(error, answer, choice), **ended}

    async def _stream(self, run: Asked, answer: Answer, streaming: bool) -> AsyncGenerator[Updates, None]:
        """Fold the events into ``answer``; show it as often as a browser can draw it, and at its end."""
        shown_at, phase, exchange = 0.0, "", answer.exchange
        assert exchange is not None
        events = exchange.events()
        try:
            with self._pace.stream():
                async for event in events:
                    answer.fold(event)  # also after a stop: what has come is kept, so it is shown
                    if answer.stopped or run.left:
                        return
                    if answer.running and time.monotonic() - shown_at < self._pace.pause(answer.length):
                        continue
                    shown_at = time.monotonic()
                    if not answer.running:
                        await self.area.replays.note_prompt(answer)
                    updates = self.area.shows(answer, with_text=streaming or not answer.running)
                    if answer.running and answer.phase != phase:
                        phase = answer.phase
                        updates |= self._bar.shows(phase)
                    yield updates
        finally:
            await self._let_go(run, events)

    async def _let_go(self, run: Asked, events: AsyncGenerator[GenerationEvent, None]) -> None:
        """Close ``events``; where the page has only opened another conversation, let the answer end and be kept."""
        if not run.left:
            await events.aclose()
            return
        task = asyncio.create_task(read_to_the_end(events))
        self._unseen.add(task)
        task.add_done_callback(self._unseen.discard)

    def _failed(self, error: Exception, answer: Answer | None, choice: Choice) -> Updates:
        """The sentence in a toast and in the status line; text that was already there stays."""
        updates = self.area.failed(error, report(error), answer)
        if isinstance(error, PlaygroundError) and error.code.startswith(("adapter", "model")):
            updates[self.picker.failure] = failure_of(choice, error)
        return updates

    async def _stopped(self, answer: Answer | None) -> Updates:
        """What Stop leaves behind: the text so far, a line that says cancelled, and what made it."""
        idle = {**self.area.idle(), self.area.stage: "stopped"}
        if answer is None or answer.error:
            return idle
        answer.cancel()
        await self.area.replays.note_prompt(answer)
        return {**self.area.shows(answer, with_text=True), **idle}

    async def _settled(self, stage: str, answer: Answer | None, before_reset: Values | None = None) -> Updates:
        """What Stop or Reset has shown, once more: updates that were on their way to the page may have come after it.

        And what was written until then is kept by now, so the page opens it.
        """
        if stage == "left":
            now = self.area.holds(answer)
            kept = {part: value for part, value in now.items() if part not in (self.area.stage, self.area.answer)}
            return {**kept, **self.area.idle()}
        if stage == "cleared":
            kept = await self._kept(before_reset[-1] if before_reset else None)
            return {**self.area.cleared(), **self.area.buttons(running=False), **kept}
        if stage == "stopped" and answer is not None and (answer.stopped or answer.running):
            answer.cancel()  # Stop may have been pressed before there was an answer to cancel
            kept = await self._kept(answer)
            return {**self.area.shows(answer, with_text=True), **self.area.buttons(running=False), **kept}
        return {self.area.status: gr.skip()}

    async def _kept(self, answer: Answer | None) -> Updates:
        """Wait until what was written of ``answer`` is kept."""
        if answer is None or answer.exchange is None:
            return {}
        answer.exchange.stop()  # whatever has become of its reader
        try:
            return self.area.told(Asked("", answer), await answer.exchange.saved())
        except PlaygroundError as error:
            return {**self.opened.awaits(""), self.area.status: status_line("error", error_sentence(error))}

    # --- Reset and its Undo ---

    async def _reset(self, *saved: Any) -> Updates:
        """Clear prompt and answer, keeping both for Undo; an answer that is still being written is stopped."""
        prompt, *_, answer = saved
        if answer is not None and not answer.error:
            answer.cancel()
            await self.area.replays.note_prompt(answer)
            saved = (prompt, *self.area.shows(answer, with_text=True).values(), answer)
        return {
            **self.area.idle(), **self.area.cleared(), self.prompt: "", self.area.answer: None,
            self.area.stage: "cleared", self.before_reset: saved, self.undo: gr.update(visible=True),
        }  # fmt: skip

    def _undo(self, saved: Values | None) -> Updates:
        """Bring back what Reset cleared, unless that was so long ago that it is forgotten."""
        if saved is None:
            return {self.undo: gr.update(visible=False)}
        return {
            **dict(zip(self._cleared_by_reset, saved, strict=True)),
            self.area.stage: "done", self.undo: gr.update(visible=False),
        }  # fmt: skip
