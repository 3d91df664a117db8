"""Steps 1 and 2 of the Inference tab: which run and checkpoint, and whether that adapter may be asked."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing

import gradio as gr

from playground.config import AppConfig
from playground.errors import NotFound
from playground.services.assembly import Services
from playground.training_run import TrainingRun
from playground.ui import texts
from playground.ui.another_folder import AnotherFolder, the_only_completed
from playground.ui.run_fields import RunFields
from playground.ui.run_found import find
from playground.ui.run_verdict import RunVerdict, Turn
from playground.ui.side_panel import SidePanel
from playground.ui.topbar import TopBar
from playground.ui.views import runs as view
from playground.ui.views.status import error_sentence
from playground.ui.views.weights import adapter_choice
from playground.ui.visitor import caller_of
from playground.ui.wiring import AS_TYPED, LIGHT, LONG, Updates, report, show_html

log = logging.getLogger(__name__)


class RunPicker:
    """`render` makes the widgets, `listen` wires them. What is chosen goes into the side panel's model and adapter fields.

    ``verdict`` holds the last `Verdict` about what is chosen, None before there is one and while it is being found out:
    other parts of the tab listen to ``settled`` and unlock by it. It is a page's own state, so whoever generates asks
    `Readiness.check` again, and shows with `shows` what that has found. ``status`` is the status line.

    A run that cannot be chosen has a verdict of its own, and leaves the side panel as it was.
    """

    def __init__(self, config: AppConfig, services: Services, side: SidePanel) -> None:
        self._config = config
        self._runs = services.runs
        self._readiness = services.readiness
        self._picker = side.picker
        self._another = AnotherFolder(services.runs, config)
        none = texts.NO_RUNS if self._another.allowed else texts.NO_RUNS_HERE
        self._fields = RunFields(list(config.models), none)
        self._step = RunVerdict(services.readiness)
        self.shows = self._step.shows

    # --- widgets ---

    def render(self) -> None:
        """Make the widgets."""
        self.turn = gr.State(Turn())
        with gr.Column(elem_classes="step", elem_id="step-choose"):
            show_html(view.step_heading(1, "Choose"), elem_classes="step-head")
            with gr.Row(elem_classes="run-columns"):
                with gr.Column(elem_classes="run-fields", min_width=280):
                    self._fields.render()
                    self._another.render()
                self._fields.render_curve()
        self._step.render()
        self.verdict, self.settled, self.status = self._step.verdict, self._step.settled, self._step.status
        self.base, self.run, self.checkpoint = self._fields.base, self._fields.run, self._fields.checkpoint

    @property
    def outputs(self) -> list[gr.components.Component]:
        """What `shows` fills."""
        return self._step.outputs

    # --- wiring ---

    def listen(self, demo: gr.Blocks, bar: TopBar) -> None:
        """Wire the widgets."""
        picker, turn, another = self._picker, self.turn, self._another
        fields = self._fields
        followed = [*self._step.outputs, *fields.outputs, *another.outputs]
        outputs = [*followed, *picker.taken]
        # One line for all of them, or Gradio begins them in any order; and none waits for what an earlier one is about.
        options = {"trigger_mode": "multiple", "concurrency_id": "runs", **LONG, **AS_TYPED}
        demo.load(self._opened, [turn, *picker.taken], outputs, **LIGHT, **AS_TYPED)
        self.run.input(self._choose_run, [turn, self.run, self.base], outputs, **options)
        self.checkpoint.input(self._choose_checkpoint, [turn, self.checkpoint, self.base], outputs, **options)
        self.base.input(self._choose_base, [turn, self.base, picker.model], outputs, **options)
        fields.latest.click(self._choose_latest, [turn, self.base], outputs, **options)
        fields.refresh.click(self._refresh, [turn, *picker.taken], outputs, **options)
        if another.allowed:
            pointing = {**options, "trigger_mode": "once"}
            gr.on(
                [another.look.click, another.folder.submit],
                self._point_at,
                [turn, another.folder, self.base],
                outputs,
                **pointing,
            )
            another.pointed.click(self._forget, [turn, *picker.taken], outputs, **options)
        # The panel beside, by whoever it was changed: its model is followed on the page, and another one drops the adapter.
        picker.model.change(None, picker.model, self.base, js="(model) => model")
        picker.adapter.input(None, None, picker.pinned, js="() => ''")
        picker.adapter.change(self._follow, [turn, *picker.taken], followed, **options)

    # --- listing ---

    async def _opened(self, turn: Turn, *taken: str) -> Updates:
        """The runs for a page that is opened, and what the panel beside has chosen already."""
        try:
            updates = self._fields.lists(turn, await asyncio.to_thread(self._runs.all))
            updates |= await asyncio.to_thread(self._another.lists)
            async for update in self._follow(turn, *taken):
                updates |= update
            return updates
        except Exception as error:
            log.error("training runs could not be listed", exc_info=error)
            return {self._fields.notices: view.notices([error_sentence(error)])}

    async def _refresh(
        self, turn: Turn, model: str | None, adapter: str | None, pinned: str | None
    ) -> AsyncIterator[Updates]:
        """Look again; the choice stays where it is still there, and is validated as it is now."""
        chosen, label = turn.run, turn.label
        try:
            listed = self._fields.lists(turn, await asyncio.to_thread(self._runs.all))
            if chosen and chosen not in turn.listed:
                turn.begins()
                yield {**self._fields.empty(listed), **self._gone(model, adapter_choice(adapter) == label)}
            elif turn.label:
                async for update in self._choose(turn, turn.base, turn.label, told=False, listed=listed):
                    yield update
            else:
                yield listed
        except Exception as error:
            yield {self._fields.notices: view.notices([report(error)])}

    def _gone(self, model: str | None, beside: bool) -> Updates:
        """The run that was chosen is gone; its adapter does not stay in the panel beside, where that has it."""
        if not beside:
            return self._step.waits(texts.RUN_IS_GONE, wrong=True)
        return {**self._step.waits(texts.RUN_AND_ADAPTER_GONE, wrong=True), **self._picker.takes(model or "", "")}

    # --- choosing ---

    async def _choose_run(self, turn: Turn, name: str | None, base: str | None) -> AsyncIterator[Updates]:
        """The run's final adapter, on the base that it was trained on; a run that has none says why."""
        if not name or name == turn.run:  # Gradio tells of an input also when a field is only left
            yield {self.run: turn.run or None}
            return
        try:
            run = await asyncio.to_thread(self._runs.get, str(name))
            async for update in self._take(turn, run, base):
                yield update
        except Exception as error:
            turn.begins()
            yield self._step.failed(error)

    async def _choose_latest(self, turn: Turn, base: str | None) -> AsyncIterator[Updates]:
        """The newest completed run, looked for now."""
        try:
            listing = await asyncio.to_thread(self._runs.all)
            listed = self._fields.lists(turn, listing)
            if listing.latest_completed is None:
                yield listed
                raise NotFound(texts.NONE_COMPLETED, texts.NONE_COMPLETED_REMEDY)
            async for update in self._take(turn, listing.latest_completed, base, listed):
                yield update
        except Exception as error:
            turn.begins()
            yield self._step.failed(error)

    async def _point_at(
        self, visitor: gr.Request, turn: Turn, folder: str | None, base: str | None
    ) -> AsyncIterator[Updates]:
        """Look in another folder; its runs are listed first, and the only completed one is chosen."""
        found: list[TrainingRun] = []
        async for update in self._another.looks(caller_of(visitor), folder or "", found):
            yield update
        if not found:
            return
        try:
            turn.first = tuple(run.name for run in found)
            listed, only = self._fields.lists(turn, await asyncio.to_thread(self._runs.all)), the_only_completed(found)
            if only is None:
                yield listed
                return
            async for update in self._take(turn, only, base, listed):
                yield update
        except Exception as error:
            turn.begins()
            yield self._step.failed(error)

    async def _forget(
        self, visitor: gr.Request, event: gr.EventData, turn: Turn, *taken: str | None
    ) -> AsyncIterator[Updates]:
        """Look no longer in a folder."""
        yield await self._another.forgets(caller_of(visitor), str(event.value))
        async for update in self._refresh(turn, *taken):
            yield update

    async def _take(
        self, turn: Turn, run: TrainingRun, base: str | None, listed: Updates | None = None
    ) -> AsyncGenerator[Updates, None]:
        """``run`` is chosen: its final adapter, where it has one, which the panel beside takes then."""
        its_base = await asyncio.to_thread(self._readiness.base_of, run) or (base or "").strip()
        label = run.label(run.final) if run.final else run.name
        async for update in self._choose(turn, its_base, label, takes=run.final is not None, listed=listed):
            yield update

    async def _choose_checkpoint(self, turn: Turn, label: str | None, base: str | None) -> AsyncIterator[Updates]:
        """An adapter that the run has saved, at its end or on the way."""
        if not label or label == turn.label:
            yield {self.settled: gr.skip()}
            return
        async for update in self._choose(turn, (base or "").strip(), str(label or ""), takes=True):
            yield update

    async def _choose_base(self, turn: Turn, base: str | None, model: str | None) -> AsyncIterator[Updates]:
        """Another base for the same adapter. A run that has none is not sent to the panel beside now either."""
        if (base or "").strip() == (model or "").strip():
            yield {self.settled: gr.skip()}
            return
        takes = not turn.label or turn.label != turn.run or await asyncio.to_thread(self._has_adapter, turn.label)
        async for update in self._choose(turn, (base or "").strip(), turn.label, takes=takes):
            yield update

    def _has_adapter(self, label: str) -> bool:
        return self._runs.find(label) is not None

    async def _follow(
        self, turn: Turn, model: str | None, adapter: str | None, pinned: str | None
    ) -> AsyncIterator[Updates]:
        """The panel beside has another adapter: it is shown and validated here, unless it was sent there from here."""
        base, label = (model or "").strip(), adapter_choice(adapter) or ""
        # What was sent from here is an earlier choice then, unless it has overtaken a later one that was made beside.
        sent = _is_pinned(pinned, model, adapter) and not turn.beside
        if (base, label) == (turn.base, turn.label) or not (label or turn.label) or sent:
            yield {self.settled: gr.skip()}
            return
        async for update in self._choose(turn, base, label, told=False, beside=True):
            yield update

    async def _choose(
        self,
        turn: Turn,
        base: str,
        label: str,
        *,
        takes: bool = False,
        told: bool = True,
        beside: bool = False,
        listed: Updates | None = None,
    ) -> AsyncGenerator[Updates, None]:
        """Updates that show what ``label`` stands for, and then what validating it on ``base`` has found.

        ``takes`` sends it to the panel beside, ``beside`` says that it was chosen there, ``told`` has the verdict pop up,
        and ``listed`` is a new list of runs. A later choice ends this.
        """
        mine = turn.begins(base, label, beside=beside)
        sent = {**(listed or {}), self.base: base, **(self._picker.takes(base, label) if takes else {})}
        if not label:
            yield {**sent, **self._fields.empty(listed), **self._step.waits()}
            return
        yield {**sent, **self._step.begins(base, label)}
        try:
            found = await asyncio.to_thread(find, self._runs, self._config, label, turn.listed)
            if turn.number != mine:
                return
            turn.run = found.run.name if found.run else ""
            shown = self._fields.shows(turn, found, listed)
            # With what follows, not before it: of several updates that come at once a page may show the last one only.
            async with aclosing(self._step.validate(turn, mine, told=told)) as updates:
                async for update in updates:
                    yield {**shown, **update}
        except Exception as error:
            if turn.number == mine:
                yield self._step.failed(error)


def _is_pinned(pinned: str | None, model: str | None, adapter: str | None) -> bool:
    """Whether the fields beside still hold what was put into them together."""
    try:
        return bool(json.loads(pinned or "null") == [model, adapter])
    except ValueError:
        return False
