"""In step 3 of the Inference tab: a dataset, five of its prompts at random, and the answer that was expected."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from typing import Any

import gradio as gr

from playground.services.assembly import Services
from playground.services.datasets import Dataset
from playground.services.readiness import Verdict
from playground.training_run import TrainingRun
from playground.ui import texts
from playground.ui.chosen_sample import ChosenSample
from playground.ui.run_picker import RunPicker
from playground.ui.sample_draws import SampleDraws, Shown, Turn, run_of
from playground.ui.side_panel import SidePanel
from playground.ui.views import samples as view
from playground.ui.views.samples import Chosen
from playground.ui.wiring import AS_TYPED, LIGHT, LONG, Updates


class SamplesPanel:
    """`render` makes the widgets, `listen` wires them; a sample that is chosen fills ``prompt``.

    ``expected`` holds the expected answer that goes with the prompt as it stands: "" as soon as the prompt is another one
    than the sample's. Nothing is read before a run is validated or a dataset chosen, and nothing is fetched from the hub
    before somebody asks for it.
    """

    def __init__(self, services: Services, runs: RunPicker, side: SidePanel) -> None:
        self._datasets = services.datasets
        self._runs = runs
        self.draws = SampleDraws(services)
        self.chosen = ChosenSample(side)

    def render(self) -> None:
        """Make the widgets: dataset with refresh, samples with refresh, columns folded."""
        with gr.Column(elem_id="samples", elem_classes="samples"):
            with gr.Row(elem_classes="samples-fields"):
                with gr.Row(elem_classes="samples-field"):
                    typed = self._datasets.may_be_typed
                    self.dataset = gr.Dropdown(
                        [], value=None, label=texts.SAMPLES_DATASET, info=texts.SAMPLES_DATASET_HELP[typed],
                        allow_custom_value=typed, interactive=True, elem_id="sample-dataset",
                        elem_classes=["field", "hinted"], min_width=0,
                    )  # fmt: skip
                    self.relist = gr.Button(texts.SAMPLES_RELIST, size="sm", min_width=0, elem_id="relist-datasets")
                self.draws.render()
            self.draws.render_columns()

    def render_expected(self) -> None:
        """Make the place under the prompt that shows the expected answer, and which system prompt came with it."""
        self.chosen.render()

    @property
    def expected(self) -> gr.Textbox:
        """The expected answer that goes with the prompt as it stands."""
        return self.chosen.expected

    @property
    def widgets(self) -> list[gr.components.Component]:
        """Every field that is locked until a run is validated."""
        return [self.dataset, self.relist, *self.draws.widgets]

    def listen(self, demo: gr.Blocks, prompt: gr.Textbox) -> None:
        """Wire the widgets."""
        draws, chosen, verdict = self.draws, self.chosen, self._runs.verdict
        chosen.listen(prompt)
        known, now = [verdict, draws.turn, draws.shown], [chosen.sample, chosen.system]
        options: dict[str, Any] = {**LONG, **AS_TYPED}
        followed, taken = [self.dataset, *draws.outputs], [*draws.outputs, *chosen.held]
        self._runs.settled.change(self._follow, known, followed, trigger_mode="multiple", **options)
        self.dataset.input(self._take, [*known, self.dataset, *now], taken, trigger_mode="multiple", **options)
        self.relist.click(self._relist, known, [self.dataset, draws.line], trigger_mode="once", **options)
        picked, filled = [draws.samples, draws.shown, *now], [prompt, *chosen.held, draws.line]
        draws.samples.input(self._choose, picked, filled, trigger_mode="always_last", **LIGHT, **AS_TYPED)
        for event in draws.listen(
            verdict, self.dataset
        ):  # after it, for somebody may go on writing while rows are read
            event.then(self._renew, [prompt, draws.shown, *now], [prompt, draws.samples, *chosen.held], **LIGHT)

    # --- which dataset ---

    async def _follow(self, verdict: Verdict | None, turn: Turn, shown: Shown) -> AsyncIterator[Updates]:
        """Another run was validated: its own dataset, unless somebody has chosen one; the sample in the prompt stays."""
        run = run_of(verdict)
        if verdict is None or not verdict.is_sound or turn.listed_for == _place(run):
            yield {self.draws.line: gr.skip()}
            return
        turn.listed_for = _place(run)
        try:
            offered = await asyncio.to_thread(self._datasets.offered, run)
        except Exception as error:
            turn.listed_for = None
            yield self.draws.told(error)
            return
        own = next((dataset for dataset in offered if dataset.own), None)
        if shown.by_hand or own is None or own.name == shown.dataset:
            first = {} if shown.dataset else {self.draws.line: view.said_line(_unknown(run))}
            yield {**self._lists(offered, shown.dataset), **first}
            return
        shown = self.draws.anew(Shown(own.name))
        yield {**self._lists(offered, own.name), **self.draws.empties(shown)}
        if own.is_on_hub:
            turn.begin()
            yield {self.draws.line: view.said_line(texts.SAMPLES_TO_FETCH.format(name=view.one_line(own.name)))}
            return
        async with aclosing(self.draws.draws(run, turn, shown)) as updates:
            async for update in updates:
                yield update

    async def _take(
        self, verdict: Verdict | None, turn: Turn, shown: Shown, dataset: str | None, sample: str, system: str
    ) -> AsyncIterator[Updates]:
        """Somebody chooses a dataset, or types one: the sample of the one before goes, and its system prompt with it."""
        name = (dataset or "").strip()
        if name == shown.dataset:  # Gradio says so too of a field that is only left again
            yield {self.draws.line: gr.skip()}
            return
        taken = self.draws.anew(Shown(name, by_hand=bool(name)))
        yield {**self.draws.empties(taken), **self.chosen.goes(sample, system)}
        async with aclosing(self.draws.draws(run_of(verdict), turn, taken, aloud=True)) as updates:
            async for update in updates:
                yield update

    async def _relist(self, verdict: Verdict | None, turn: Turn, shown: Shown) -> Updates:
        """What is on offer by now; what is chosen stays chosen."""
        try:
            offered = await asyncio.to_thread(self._datasets.offered, run_of(verdict))
            return self._lists(offered, shown.dataset)
        except Exception as error:
            return self.draws.told(error, aloud=True)

    def _lists(self, offered: Sequence[Dataset], current: str) -> Updates:
        return {self.dataset: gr.update(choices=view.dataset_choices(offered, current), value=current or None)}

    # --- which sample ---

    def _choose(self, number: Any, shown: Shown, sample: str, system: str) -> Updates:
        """A sample is chosen: it fills the prompt, and the answer that is expected stands under it."""
        drawn = shown.drawn
        if number is None:
            return {self.draws.line: gr.skip()}
        if drawn is None or not (type(number) is int and 0 <= number < len(drawn.samples)):
            return {self.draws.line: view.said_line(texts.SAMPLES_FORGOTTEN)}
        return self.chosen.takes(drawn.samples[number], drawn.dataset, sample, system)

    def _renew(self, prompt: str, shown: Shown, sample: str, system: str) -> Updates:
        """The chosen sample as its columns are understood now; it stays chosen in the list."""
        updates = self.chosen.renews(shown.drawn, prompt, sample, system)
        held = Chosen.parse(updates.get(self.chosen.sample))
        rows = [one.row for one in shown.drawn.samples] if shown.drawn and held.prompt else []
        return {**updates, self.draws.samples: rows.index(held.row)} if held.row in rows else updates


def _place(run: TrainingRun | None) -> str:
    return run.path if run else ""


def _unknown(run: TrainingRun | None) -> str:
    """What to do where no dataset of the run's own is on offer."""
    if run is None:
        return texts.SAMPLES_FIRST
    if not run.datasets:
        return texts.SAMPLES_UNKNOWN
    return texts.SAMPLES_NOT_HERE.format(names=", ".join(f"“{view.one_line(name, 60)}”" for name in run.datasets[:4]))
