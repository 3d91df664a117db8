"""The Inference tab: choose a training run, have its adapter validated, then prompts, and responses beside the expected."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

import gradio as gr

from playground.config import AppConfig
from playground.conversation import Turn
from playground.errors import AdapterInvalid, HistoryUnavailable, InvalidRequest, PlaygroundError
from playground.services.assembly import Services
from playground.services.readiness import Verdict
from playground.ui import texts
from playground.ui.chat_answers import ChatAnswers, Run, Wish
from playground.ui.model_picker import failure_of
from playground.ui.opened import Open, Opened
from playground.ui.pace import Pace
from playground.ui.pairs import Pairs
from playground.ui.prompt_panel import PromptPanel
from playground.ui.responses import Responses
from playground.ui.run_picker import RunPicker
from playground.ui.samples_panel import SamplesPanel
from playground.ui.side_panel import SidePanel
from playground.ui.topbar import TopBar
from playground.ui.views.inference import turn_status
from playground.ui.views.said import reply_label
from playground.ui.views.status import error_details, error_sentence
from playground.ui.views.weights import Choice, adapter_choice
from playground.ui.visitor import caller_of
from playground.ui.wiring import AS_TYPED, LIGHT, LONG, Updates, Values, report


@dataclass(frozen=True)
class Typed:
    """What stands in the fields when Generate is pressed."""

    prompt: str
    expected: str
    opened: Open
    verdict: Verdict | None
    chosen: Values

    @property
    def wish(self) -> Wish:
        """The prompt alone, so that its response can be compared with what was expected."""
        return Wish("send", self.opened, self.opened.leaf, self.prompt, alone=True, expected=self.expected)


class InferenceTab:
    """`render` makes the widgets inside the current tab, `listen` wires them."""

    def __init__(
        self, config: AppConfig, services: Services, side: SidePanel, opened: Opened, pace: Pace | None = None
    ) -> None:
        self._readiness = services.readiness
        self._side = side
        self._opened = opened
        self.runs = RunPicker(config, services, side)
        self.samples = SamplesPanel(services, self.runs, side)
        self.panel = PromptPanel(self.samples, side.settings.mirrors)
        self.pairs = Pairs()
        self.answers = ChatAnswers(services, side, opened, self.pairs, pace or Pace())
        self.responses = Responses(services, opened, self.pairs, self.answers)

    # --- widgets ---

    def render(self) -> None:
        """Make the widgets: three steps, one under the other."""
        with gr.Column(elem_classes="tab-column", elem_id="inference"):
            self.runs.render()
            with gr.Column(elem_classes="step", elem_id="prompt-and-responses"):
                self.panel.render()
                self.responses.render()
            self.begun = gr.Textbox(visible="hidden", elem_id="inference-begun")  # "yes" once a run was sound here

    # --- wiring ---

    def listen(self, demo: gr.Blocks, bar: TopBar) -> None:
        """Wire the widgets; ``bar`` shows the phase."""
        self._bar = bar
        self.runs.listen(demo, bar)
        self.samples.listen(demo, self.panel.prompt)
        self.responses.listen(self.panel.prompt, self.samples.chosen)
        self._listen_lock()
        self._listen_generate()

    def _listen_lock(self) -> None:
        picker, settings = self._side.picker, self._side.settings
        known = [self.runs.verdict, self.begun, picker.model, *settings.inputs]
        unlocked = [*self.panel.outputs, self.begun, *settings.outputs]
        self.runs.settled.change(self._settled, known, unlocked, trigger_mode="always_last", **LIGHT, **AS_TYPED)

    def _listen_generate(self) -> None:
        picker = self._side.picker
        fields = [self.panel.prompt, self.samples.expected, self._opened.key, self.runs.verdict]
        written = [
            *self.panel.outputs, *self.responses.outputs, *self.runs.outputs, self._opened.awaited, *self._bar.status,
            picker.failure, picker.progress,
        ]  # fmt: skip
        asked = self.panel.generate.click(
            self._generate, [*fields, *picker.selection, *self._side.settings.inputs], written,
            trigger_mode="once", **LONG, **AS_TYPED,
        )  # fmt: skip
        asked.then(self._let_go, self.runs.verdict, self.panel.outputs, trigger_mode="multiple", **LIGHT)
        self.panel.stop.click(self._stop, None, None, **LIGHT)
        self._opened.key.change(self._emptied, [self._opened.key, self.runs.verdict], self.runs.status, **LIGHT)

    # --- locked or open ---

    async def _settled(
        self, visitor: gr.Request, verdict: Verdict | None, begun: str, model: str, *values: Any
    ) -> Updates:
        """A verdict is there, or is being found out: the step is open for a sound one alone.

        With the first one of a page the settings become this tab's own preset, where nobody has chosen others.
        """
        sound = verdict is not None and verdict.is_sound
        updates = self.panel.locks(not sound, writing=self.answers.is_busy(visitor.session_hash or ""))
        if not sound or begun:
            return updates
        settings = self._side.settings
        fills = await asyncio.to_thread(settings.begins_with, caller_of(visitor), model, settings.mirrors.first, values)
        both = {field: {**fills[field], **updates[field]} for field in settings.mirrors.outputs}
        return {**updates, **fills, **both, self.begun: "yes"}

    async def _let_go(self, visitor: gr.Request, verdict: Verdict | None) -> Updates:
        """After an answer: what is chosen may have become another run meanwhile, locked or not by its own verdict."""
        sound = verdict is not None and verdict.is_sound
        return self.panel.locks(not sound, writing=self.answers.is_busy(visitor.session_hash or ""))

    async def _emptied(self, visitor: gr.Request, key: str, verdict: Verdict | None) -> Any:
        """Nothing is open any more, by whichever Clear: the status line is as it was before the first response."""
        writing = self.answers.is_busy(visitor.session_hash or "")
        if key or writing or verdict is None or not verdict.is_sound:
            return gr.skip()
        return turn_status("ready", texts.VALIDATED)

    # --- generating ---

    async def _generate(
        self, visitor: gr.Request, prompt: str, expected: str, key: str, verdict: Verdict | None, *chosen: Any
    ) -> AsyncIterator[Updates]:
        """One answer, from the click until it is stored; what failed leaves the history, and the prompt, as they were."""
        typed, page = Typed(prompt or "", expected or "", Open.parse(key), verdict, chosen), visitor.session_hash or ""
        run = self.answers.begin(page, typed.wish)
        there = bool(typed.opened.conversation)
        yield {**self.panel.busy(True), **self.responses.buttons(there, writing=True), self.responses.said: ""}
        try:
            async with aclosing(self._answering(visitor, typed, run)) as updates:
                async for update in updates:
                    yield update
            self.answers.end(page, run)
            yield await self._ended(visitor, typed, run)
        except Exception as error:
            self.answers.end(page, run)
            yield await self._failed(visitor, typed, run, error)
        finally:
            self.answers.end(page, run)

    async def _answering(self, visitor: gr.Request, typed: Typed, run: Run) -> AsyncGenerator[Updates, None]:
        """Updates of a prompt that is there, on an adapter that is sound at this moment."""
        if typed.wish.is_blank:
            raise InvalidRequest(texts.EMPTY_PROMPT, texts.EMPTY_PROMPT_REMEDY)
        verdict = await asyncio.to_thread(self._checked, typed)
        if not verdict.is_sound:
            yield self.runs.shows(verdict)
            raise AdapterInvalid(*verdict.problems[0])
        loaded = await asyncio.to_thread(self._readiness.is_loaded, verdict)
        yield {
            self.runs.status: turn_status("busy", texts.GENERATING if loaded else texts.LOADING_AND_GENERATING),
            **({} if typed.verdict else {self.runs.verdict: verdict}),  # the server has been started again meanwhile
        }
        async with aclosing(self.answers.run(visitor, typed.wish, run, typed.chosen, False, self._bar)) as updates:
            async for update in updates:
                yield update

    def _checked(self, typed: Typed) -> Verdict:
        """What is chosen, as it is now. Raises `InvalidRequest` where nothing is. Reads the disk."""
        if typed.verdict is not None and not typed.verdict.is_sound:
            return typed.verdict
        choice = Choice(*typed.chosen[: len(self._side.picker.selection)])
        adapter = adapter_choice(choice.adapter)
        if adapter is None:
            raise InvalidRequest(texts.NO_RUN_CHOSEN, texts.NO_RUN_CHOSEN_REMEDY)
        return self._readiness.check(choice.model or "", adapter)

    async def _ended(self, visitor: gr.Request, typed: Typed, run: Run) -> Updates:
        """What is stored now in place of what was being written; nothing of it where the page shows something else."""
        picker = self._side.picker
        idle = {**self._bar.shows("idle"), **self._opened.awaits(""), picker.failure: None, picker.progress: ""}
        if run.shown_instead is not None:
            instead = await self.responses.as_stored(visitor, run.shown_instead)
            lost = await run.lost() if run.stopped else None
            told = self._told(lost) if lost else {self.runs.status: turn_status("ready", texts.READY_AGAIN)}
            return {**idle, **instead, **told}
        if run.saved is None:
            told = {self.runs.status: turn_status("ready", texts.STOPPED_BEFORE)}
            return {**idle, **(await self.responses.as_stored(visitor, typed.opened)), **told}
        sentence = texts.RESPONSE_STOPPED if run.stopped else texts.ANSWERED.format(weights=_weights(run.saved.path()))
        return {**idle, **self.responses.opens(run.saved), self.runs.status: turn_status("ready", sentence)}

    async def _failed(self, visitor: gr.Request, typed: Typed, run: Run, error: Exception) -> Updates:
        """The sentence in a toast and in the status line; the history as it was. A run that is no longer sound is locked."""
        report(error)
        updates: Updates = {**self._bar.shows("error"), **self._opened.awaits(""), **self._told(error)}
        if isinstance(error, PlaygroundError) and error.code.startswith(("adapter", "model")):
            choice = Choice(*typed.chosen[: len(self._side.picker.selection)])
            updates[self._side.picker.failure] = failure_of(choice, error)
        if isinstance(error, HistoryUnavailable) and run.exchange is not None and run.shown_instead is None:
            return updates  # the answer could not be stored: it stays to be copied
        return {**updates, **(await self.responses.as_stored(visitor, run.shown_instead or typed.opened))}

    def _told(self, error: Exception) -> Updates:
        return {self.runs.status: turn_status("error", error_sentence(error), error_details(error))}

    def _stop(self, visitor: gr.Request) -> None:
        """End the answer; what is written of it is kept, and the handler that writes it shows that."""
        self.answers.stop(visitor.session_hash or "")


def _weights(path: tuple[Turn, ...]) -> str:
    """Which weights gave the last answer on ``path``."""
    reply = next((turn.reply for turn in reversed(path) if turn.reply), None)
    return reply_label(reply) if reply else ""
