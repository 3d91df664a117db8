"""Batch test, folded under the Playground: several prompts with several settings, in a table, and as files."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import Any

import gradio as gr

from playground.config import AppConfig
from playground.errors import PlaygroundError
from playground.services import trial_files
from playground.services.assembly import Services
from playground.services.trial_files import TRIAL_FORMATS, TrialFormat
from playground.services.trials import TrialPlan, TrialRow
from playground.types import Caller, Status
from playground.ui import texts
from playground.ui.batch_board import Board
from playground.ui.batch_columns import BatchColumns
from playground.ui.batch_prompts import KEPT_SECONDS, BatchPrompts
from playground.ui.safe_text import escape
from playground.ui.side_panel import SidePanel
from playground.ui.topbar import TopBar
from playground.ui.views import batch as view
from playground.ui.views.status import error_details, error_sentence, progress_line, status_line
from playground.ui.visitor import caller_of
from playground.ui.wiring import AS_TYPED, LIGHT, LONG, Updates, report, show_html

LOOK_SECONDS = 0.25  # between two updates; that somebody closed the page is noticed at one
LOOK_ANSWERS = 250  # a larger table takes a browser longer to draw again, so it is drawn that much less often
SUMMARY_SECONDS = 1.0


class BatchPanel:
    """`render` makes the widgets, `listen` wires them."""

    def __init__(self, config: AppConfig, services: Services, side: SidePanel) -> None:
        self._trials = services.trials
        self._named = services.replay.named_spec
        self._prompts = BatchPrompts(config, services)
        self._columns = BatchColumns(config, services, side)

    def render(self) -> None:
        """Make the widgets."""
        self.stage = gr.State("idle")
        self.board = gr.State(None, time_to_live=KEPT_SECONDS)
        self.file = gr.Textbox(visible="hidden", elem_id="batch-saved-file")
        with gr.Accordion(texts.BATCH, open=False, elem_id="batch-test", elem_classes="card") as self.fold:
            show_html(f'<p class="muted">{escape(texts.BATCH_HELP)}</p>', elem_id="batch-help")
            self._prompts.render()
            self._columns.render()
            self.size = show_html(view.size_line(view.Size(0, 1, 1, self._trials.most)), elem_id="batch-size")
            with gr.Row(elem_classes="buttons"):
                self.run = gr.Button("Run", variant="primary", elem_id="batch-run", size="md", min_width=110)
                self.stop = gr.Button(
                    "Stop", variant="stop", elem_id="batch-stop", elem_classes="stop-work", size="md", min_width=110,
                    visible=False,
                )  # fmt: skip
                self.saves: dict[TrialFormat, gr.Button] = {form: self._save_button(form) for form in TRIAL_FORMATS}
            self.progress = show_html("", elem_id="batch-progress")
            self.table = show_html(
                "", elem_id="batch-table", html_template="",
                js_on_load="window.playground.batchTable(element, props, watch);",
            )  # fmt: skip
            self.summary = show_html("", elem_id="batch-summary")

    @staticmethod
    def _save_button(form: TrialFormat) -> gr.Button:
        return gr.Button(texts.BATCH_FILES[form], visible=False, size="md", min_width=120, elem_id=f"batch-{form}")

    def listen(self, demo: gr.Blocks, bar: TopBar, template: gr.Radio) -> None:
        """Wire the widgets; ``template`` is how the Playground renders its prompts."""
        options = {**LIGHT, **AS_TYPED}
        counted = [*self._prompts.inputs, *self._columns.inputs]
        others = [self._prompts.typed.change, *self._columns.listen(self.fold, bar)]
        gr.on(others, self._sized, counted, self.size, trigger_mode="always_last", **options)
        for event in self._prompts.listen():
            event.then(self._sized, counted, self.size, trigger_mode="always_last", **options)
        shown = [self.progress, self.table, self.summary, self.run, self.stop, *self.saves.values(), self.stage]
        run = self.run.click(
            self._run, [template, *counted], [*shown, self.board], trigger_mode="once", **LONG, **AS_TYPED
        )
        self.stop.click(self._stopped, self.board, shown, cancels=[run], **LIGHT)
        # Also after a cancelled run, and then once its last updates, which the browser had still to show, are shown.
        run.then(self._settled, [self.stage, self.board], shown, trigger_mode="multiple", **LIGHT)
        for form, button in self.saves.items():
            saved = button.click(self._saver(form), self.board, [self.file, self.progress], **LIGHT)
            saved.then(None, self.file, self.file, js="(file) => window.playground.save(file)", show_progress="hidden")

    # --- how many answers it makes ---

    async def _sized(self, visitor: gr.Request, *asked: Any) -> str:
        """How many answers the choice makes, or what is wrong with it."""
        count = len(self._prompts.inputs)
        try:
            prompts = self._prompts.found(*asked[:count])
            columns = self._columns.chosen(caller_of(visitor), *asked[count:])
        except PlaygroundError as error:
            return status_line("error", error_sentence(error))
        size = view.Size(len(prompts), len(columns.choices), len(columns.settings), self._trials.most)
        return view.size_line(size, columns.notes)

    def _plan(self, caller: Caller, template: Any, *asked: Any) -> TrialPlan:
        """What the page asks for. Raises `InvalidRequest`, and what looking up the models raises."""
        count = len(self._prompts.inputs)
        prompts = self._prompts.found(*asked[:count])
        if not prompts:
            self._prompts.refuse_none(asked[0])
        columns = self._columns.chosen(caller, *asked[count:])
        return TrialPlan(prompts, self._columns.specs(columns.choices), columns.settings, template)

    # --- running ---

    async def _run(self, visitor: gr.Request, *asked: Any) -> AsyncIterator[Updates]:
        """A whole test, from the click to its last answer. Closing this iterator stops what is being answered."""
        async with aclosing(self._answering(caller_of(visitor), *asked)) as updates:
            async for update in updates:
                yield update

    async def _answering(self, caller: Caller, *asked: Any) -> AsyncGenerator[Updates, None]:
        begins = {self.stage: "running", self.progress: progress_line(Status("queued"))}
        yield {**begins, **self._buttons(running=True)}
        try:
            plan = await asyncio.to_thread(self._plan, caller, *asked)
            board = Board(plan)
            rows = self._trials.run(caller, plan, board.told)
            yield {self.board: board, **self._shown(board), self.summary: "", **self._saves(visible=False)}
            async with aclosing(self._filled(board, rows)) as updates:
                async for update in updates:
                    yield update
            board.end("done")
            yield {**self._whole(board), self.stage: "done"}
        except Exception as error:
            line = status_line("error", report(error), error_details(error))
            yield {self.progress: line, **self._buttons(running=False), self.stage: "done"}

    async def _filled(self, board: Board, rows: AsyncGenerator[TrialRow, None]) -> AsyncGenerator[Updates, None]:
        """Updates while the rows come in; they are taken in at once, whatever the page has time for."""
        taking = asyncio.create_task(_take_in(board, rows))
        summed_at, summed = time.monotonic(), 0
        pause = LOOK_SECONDS * max(1.0, board.plan.size / LOOK_ANSWERS)
        try:
            while not taking.done():
                await asyncio.wait({taking}, timeout=pause)
                updates = self._shown(board)
                if len(board.rows) > summed and time.monotonic() - summed_at >= SUMMARY_SECONDS:
                    summed_at, summed = time.monotonic(), len(board.rows)
                    updates |= {self.summary: board.summary, **self._saves(visible=True)}
                yield updates
            await taking
        finally:
            taking.cancel()
            await asyncio.gather(taking, return_exceptions=True)

    def _shown(self, board: Board) -> Updates:
        return {self.progress: board.progress, self.table: board.table}

    def _whole(self, board: Board) -> Updates:
        """A test that has ended."""
        saves = self._saves(visible=bool(board.rows))
        return {**self._shown(board), self.summary: board.summary, **saves, **self._buttons(running=False)}

    def _saves(self, *, visible: bool) -> Updates:
        return {button: gr.update(visible=visible) for button in self.saves.values()}

    def _buttons(self, *, running: bool) -> Updates:
        """Run and Stop take turns in one place, so nothing starts twice."""
        return {self.run: gr.update(visible=not running), self.stop: gr.update(visible=running)}

    async def _stopped(self, board: Board | None) -> Updates:
        """What Stop leaves behind: all that was finished until then."""
        idle = {**self._buttons(running=False), self.stage: "stopped"}
        if board is None or board.ended:  # it was pressed before there was a test
            return {self.progress: status_line("cancelled", texts.BATCH_STOPPED), **idle}
        board.end("stopped")
        return {**self._whole(board), **idle}

    async def _settled(self, stage: str, board: Board | None) -> Updates:
        """What Stop has shown, once more: updates that were on their way to the page may have come after it."""
        if stage != "stopped" or board is None:
            return {self.stage: gr.skip()}
        board.end("stopped")
        return {**self._whole(board), self.stage: "done"}

    # --- saving ---

    def _saver(self, form: TrialFormat) -> Any:
        async def save(board: Board | None) -> Updates:
            """The finished rows as a file, which the page's script saves."""
            if board is None:
                return {self.progress: status_line("error", texts.BATCH_FORGOTTEN)}
            rows = tuple(board.rows)
            file = await asyncio.to_thread(trial_files.write, board.plan, rows, form, time.time(), self._named)
            return {self.file: json.dumps([file.name, file.text])}

        return save


async def _take_in(board: Board, rows: AsyncGenerator[TrialRow, None]) -> None:
    async with aclosing(rows):
        async for row in rows:
            board.add(row)
