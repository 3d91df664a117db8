"""The Playground tab: one prompt, one set of weights, the answer, and what it cost."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import Any

import gradio as gr

from playground.config import AppConfig, UseCase
from playground.conversation import Conversation
from playground.errors import PlaygroundError
from playground.services.assembly import Services
from playground.services.chat import Action, Ask
from playground.types import TEMPLATES, GenerationEvent, Template
from playground.ui import chat_view, texts
from playground.ui.continued import Continued
from playground.ui.model_picker import failure_of
from playground.ui.opened import Open, Opened
from playground.ui.pace import Pace
from playground.ui.prompt_size import PromptSize
from playground.ui.replays import Replays
from playground.ui.runs import Brought, Run, read_to_the_end
from playground.ui.side_panel import SidePanel
from playground.ui.topbar import TopBar
from playground.ui.views.answer import Answer, answer_status
from playground.ui.views.prompt import prompt_counter, rendered_preview
from playground.ui.views.status import error_details, error_sentence, status_line
from playground.ui.views.weights import Choice
from playground.ui.visitor import caller_of
from playground.ui.wiring import AS_TYPED, LIGHT, LONG, Updates, Values, clicks_of, report, show_html

KEPT_SECONDS = 6 * 3600  # how long the answer of a page that may be closed is remembered


class PlaygroundTab:
    """`render` makes the widgets inside the current tab, `listen` wires them."""

    def __init__(
        self, config: AppConfig, services: Services, side: SidePanel, opened: Opened, pace: Pace | None = None
    ) -> None:
        models, generation = services.models, services.generation
        self._config = config
        self._services = services
        self._chat = services.chat
        self._limits = services.limits
        self._pace = pace or Pace()
        self._unseen: set[asyncio.Task[None]] = set()
        self.picker = side.picker
        self.panel = side.settings
        self.opened = opened
        self.replays = Replays(services.replay, services.limits)
        self.size = PromptSize(models, generation, services.chat, self.picker)

    # --- widgets ---

    def render(self) -> None:
        """Make the widgets: the prompt, and under it the answer."""
        with gr.Column(elem_classes="tab-column"):
            self._render_prompt()
            self._render_buttons()
            self._render_answer()

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
            self.again.render()
            self.reset = gr.Button("Reset", elem_id="reset", size="md", min_width=90)
            self.undo = gr.Button("Undo reset", elem_id="undo-reset", size="md", min_width=110, visible=False)
            self.streaming = gr.Checkbox(
                True, label="Stream the answer", container=False, elem_id="streaming", min_width=120
            )

    def _render_answer(self) -> None:
        self.stage = gr.State("done")
        self.run = gr.State(None, time_to_live=KEPT_SECONDS)
        self.answer = gr.State(None, time_to_live=KEPT_SECONDS)
        self.before_reset = gr.State(None, time_to_live=KEPT_SECONDS)
        # Which answer the area below shows, and what was asked and is kept: held by the page, which acts on it.
        self.drawn = gr.Textbox(visible="hidden", elem_id="drawn-answer")
        self.sent = gr.Textbox(visible="hidden", elem_id="sent-prompt")
        # The system prompt that an opened conversation has brought, and the one that stood in the settings before.
        self.brought = gr.Textbox(visible="hidden", elem_id="brought-system")
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
            with gr.Row(elem_classes="card-buttons"):
                chat_view.open_button("open-chat-view")
                self.copy = gr.Button("Copy", elem_id="copy", elem_classes="copy", size="sm", min_width=0)
        with gr.Column(elem_classes="under"):
            self.status = show_html(answer_status(None), elem_id="answer-status", js_on_load=clicks_of("replay"))
            self.replays.render()
        self.continued.render_messages()
        with gr.Accordion("Rendered prompt", open=False, elem_id="rendered-prompt", elem_classes="card"):
            self.preview = show_html(rendered_preview(None, texts.PREVIEW_NOT_LOADED), elem_id="preview")
        self.replays.render_manifest()

    @property
    def _system(self) -> gr.components.Component:
        return self.panel.widgets["system_prompt"]

    # --- wiring ---

    def listen(self, demo: gr.Blocks, bar: TopBar) -> None:
        """Wire the widgets; ``bar`` shows the phase and which weights answer."""
        self._bar = bar
        self._listen_run()
        self._listen_prompt(demo)

    def _listen_run(self) -> None:
        inputs = [
            self.prompt, self.template, self.use_case, self.streaming, self.opened.key,
            *self.picker.selection, *self.panel.inputs,
        ]  # fmt: skip
        page = [self.opened.key, self.opened.awaited, self.drawn, self.sent]
        shown = [self.text, self.raw, self.status, self.replays.made, self.generate, self.stop, *self._bar.status]
        written = [
            *shown,
            *page,
            self.stage,
            self.run,
            self.answer,
            self.picker.failure,
            self.picker.progress,
            self.undo,
        ]
        # Before the runs: the page takes up what hangs on one click in turn, and waits for each to end.
        ends = [self.generate.click, self.again.click, self.reset.click, self.drawn.change]
        self.replays.listen(self.status, self.answer, ends)
        options = {"trigger_mode": "once", **LONG, **AS_TYPED}
        runs = [
            self.generate.click(self._run, inputs, written, **options),
            self.again.click(self._run_again, inputs, written, **options),
        ]
        self.stop.click(self._stopped, self.answer, [*shown, self.stage], cancels=runs, **LIGHT)
        # Also after a cancelled run, and then once its last updates, which the browser had still to show, are shown.
        for run in runs:
            ended = [self.stage, self.answer, self.before_reset]
            run.then(self._settled, ended, [*shown, *page], trigger_mode="multiple", **LIGHT)
        saved = [self.prompt, self.text, self.raw, self.status, self.replays.made, self.answer]
        cleared = [*saved, self.stage, self.before_reset, self.undo, self.generate, self.stop, *self._bar.status]
        self.reset.click(self._reset, saved, cleared, cancels=runs, **LIGHT)
        self.undo.click(self._undo, self.before_reset, [*saved, self.stage, self.undo], **LIGHT)
        self.copy.click(None, self.raw, None, js="(text) => window.playground.copy(text, 'Answer copied')")
        self._listen_conversation([*shown, self.stage, self.answer, self.drawn, self.sent])

    def _listen_conversation(self, area: list[gr.components.Component]) -> None:
        """``area`` is what an answer fills."""
        key = self.opened.key
        about = [key, self.drawn, self.stage, self.run, self.template, self.brought, self._system]
        options = [self.use_case, self.template, *self.examples, self.brought, self._system]
        shown = [*area, self.opened.awaited, *self.continued.outputs, *options]
        key.change(self._followed, about, shown, trigger_mode="always_last", **LIGHT)
        self.continued.line.click(self._begin_new, [self.stage, self.run], [*area, self.opened.awaited, key], **LIGHT)
        self.continued.listen(key, self.template)
        # What was typed meanwhile is not what was sent, so it stays.
        sent = "(sent, prompt) => window.playground.afterSending(sent, prompt)"
        self.sent.change(None, [self.sent, self.prompt], self.prompt, js=sent)

    def _listen_prompt(self, demo: gr.Blocks) -> None:
        # What was not sent yet is there again after a reload, also after the one when a server comes back.
        self.prompt.change(None, self.prompt, None, js="(text) => { window.playground.keepDraft(text); }")
        demo.load(None, self.prompt, self.prompt, js="(text) => window.playground.keptDraft(text)")
        for example in self.examples:
            example.click(None, example, self.prompt, js="(text) => text")
        self.use_case.input(self._for_use_case, self.use_case, [self.template, *self.examples], **LIGHT)
        told = [self.prompt, self.template, self._system, self.opened.key]
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
        run = Run(opened.conversation)
        yield {**self._buttons(running=True), self.stage: "running", self.run: run, self.undo: gr.update(visible=False)}
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
            named = await asyncio.to_thread(self.replays.named, spec)
            code = use_case == "code_generation"
            answer = run.answer = Answer(exchange.request, label, code=code, named=named, exchange=exchange)
            blank = {self.text: "", self.raw: "", **self.replays.shows(None)}
            waits = {} if opened.conversation else self.opened.awaits(exchange.conversation_id)
            if not run.left:
                yield {self.answer: answer, **blank, **waits, self.status: answer_status(answer)}
            async with aclosing(self._stream(run, answer, streaming)) as stream:
                async for updates in stream:
                    yield updates
            if answer.stopped or run.left:  # whoever pressed that has said already what there is to say
                return
            # What the picker said of an earlier try ("Press Load") is no longer true once this choice has answered.
            answered = {self.picker.failure: None, self.picker.progress: ""}
            ended = self._buttons(running=False) | {self.stage: "done"}
            yield {**answered, **self._bar.shows("idle"), **ended, **self._told(run, await exchange.saved())}
        except Exception as error:
            if run.left:
                report(error)
                return
            ended = self._buttons(running=False) | {self.stage: "done"} | self.opened.awaits("")
            yield {**self._failed(error, answer, choice), **ended}

    async def _stream(self, run: Run, answer: Answer, streaming: bool) -> AsyncGenerator[Updates, None]:
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
                        await self.replays.note_prompt(answer)
                    updates = self._shown(answer, with_text=streaming or not answer.running)
                    if answer.running and answer.phase != phase:
                        phase = answer.phase
                        updates |= self._bar.shows(phase)
                    yield updates
        finally:
            await self._let_go(run, events)

    async def _let_go(self, run: Run, events: AsyncGenerator[GenerationEvent, None]) -> None:
        """Close ``events``; where the page has only opened another conversation, let the answer end and be kept."""
        if not run.left:
            await events.aclose()
            return
        task = asyncio.create_task(read_to_the_end(events))
        self._unseen.add(task)
        task.add_done_callback(self._unseen.discard)

    def _told(self, run: Run, conversation: Conversation | None) -> Updates:
        """What the page holds once what was written is kept in ``conversation``; None where nothing was written."""
        updates = self.opened.awaits("")
        if conversation is None:
            return updates
        if run.sent:
            updates |= {self.sent: run.sent}
        return {**updates, **self.opened.shows(conversation), self.drawn: _name(conversation, conversation.leaf)}

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
            is_whole = not answer.running
            answer.fail(texts.NOT_KEPT.format(why=sentence) if is_whole else sentence)
            updates |= {self.text: answer.markdown, self.raw: answer.raw}
            if is_whole:  # it is there and could not be stored
                updates |= {self.status: answer_status(answer)}
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

    async def _settled(self, stage: str, answer: Answer | None, before_reset: Values | None = None) -> Updates:
        """What Stop or Reset has shown, once more: updates that were on their way to the page may have come after it.

        And what was written until then is kept by now, so the page opens it.
        """
        if stage == "left":
            now = self._area(answer)
            kept = {part: value for part, value in now.items() if part not in (self.stage, self.answer)}
            return {**kept, **self._buttons(running=False), **self._bar.shows("idle")}
        if stage == "cleared":
            kept = await self._kept(before_reset[-1] if before_reset else None)
            return {**self._cleared(), **self._buttons(running=False), **kept}
        if stage == "stopped" and answer is not None and (answer.stopped or answer.running):
            answer.cancel()  # Stop may have been pressed before there was an answer to cancel
            kept = await self._kept(answer)
            return {**self._shown(answer, with_text=True), **self._buttons(running=False), **kept}
        return {self.status: gr.skip()}

    async def _kept(self, answer: Answer | None) -> Updates:
        """Wait until what was written of ``answer`` is kept."""
        if answer is None or answer.exchange is None:
            return {}
        answer.exchange.stop()  # whatever has become of its reader
        try:
            return self._told(Run("", answer), await answer.exchange.saved())
        except PlaygroundError as error:
            return {**self.opened.awaits(""), self.status: status_line("error", error_sentence(error))}

    def _cleared(self) -> Updates:
        blank = {self.text: texts.EMPTY_ANSWER, self.raw: "", **self.replays.shows(None)}
        return {**blank, self.status: status_line("idle", texts.RESET_DONE)}

    # --- the conversation ---

    async def _followed(
        self,
        visitor: gr.Request,
        key: str,
        drawn: str,
        stage: str,
        run: Run | None,
        template: Template,
        brought: str = "",
        system: str = "",
    ) -> Updates:
        """Something has been added to what is open, or another conversation is: its last answer is shown, with its figures.

        An answer that is being written stays in sight as long as its own conversation is open.
        """
        opened, caller = Open.parse(key), caller_of(visitor)
        conversation = await self.continued.find(caller, opened)
        updates = self.continued.shows(conversation, opened.leaf, template)
        if stage == "running" and (run is None or run.writes_in(opened)):
            return updates
        if conversation is None:
            updates |= self._gives_back(brought, system)
        name = _name(conversation, opened.leaf) if conversation else ""
        if name == drawn:
            return updates
        updates |= self._area(await self.continued.answer(caller, conversation, opened.leaf) if conversation else None)
        updates |= {**self._left(stage, run), self.drawn: name}
        if conversation is not None and drawn.split(" ")[0] != conversation.id:
            updates |= self._brings(conversation, opened.leaf)
            before = Brought.parse(brought).before_is(system) if brought else system
            updates |= {self._system: conversation.system, self.brought: Brought(conversation.system, before).text}
        return updates

    def _gives_back(self, brought: str, system: str) -> Updates:
        """The system prompt of a conversation goes with it, unless another was written since."""
        if not brought:
            return {}
        return {self._system: Brought.parse(brought).before_is(system), self.brought: ""}

    def _area(self, answer: Answer | None) -> Updates:
        """The answer area with ``answer``, which has ended; None is nothing yet."""
        if answer is None:
            status = {self.status: answer_status(None), **self.replays.shows(None)}
            return {self.text: texts.EMPTY_ANSWER, self.raw: "", **status, self.answer: None, self.stage: "done"}
        return {**self._shown(answer, with_text=True), self.answer: answer, self.stage: "done"}

    def _left(self, stage: str, run: Run | None) -> Updates:
        """The answer that is being written goes on unseen, and is kept in its own conversation."""
        if stage != "running" or run is None:
            return {}
        run.left = True
        sent = {self.sent: run.sent} if run.sent else {}
        idle = {**self._buttons(running=False), **self._bar.shows("idle"), self.stage: "left"}
        return {**idle, **sent, **self.opened.awaits("")}

    def _brings(self, conversation: Conversation, leaf: str) -> Updates:
        """The use case of another conversation, and the template of its last answer."""
        if conversation.use_case not in self._config.use_cases:
            return {}
        template, *examples = self._for_use_case(conversation.use_case)
        answered = [turn.reply.template for turn in conversation.path(leaf) if turn.reply]
        updates: Updates = {self.use_case: conversation.use_case, self.template: answered[-1] if answered else template}
        return {**updates, **dict(zip(self.examples, examples, strict=True))}

    def _begin_new(self, stage: str, run: Run | None) -> Updates:
        """Nothing is open any more, and the answer area is empty; the prompt stays."""
        return {**self._area(None), **self._left(stage, run), **self.opened.shows(None), self.drawn: ""}

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


def _name(conversation: Conversation, leaf: str) -> str:
    """Which answer of which conversation it is."""
    return f"{conversation.id} {leaf}"
