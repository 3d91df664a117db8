"""Five rows of a dataset at random: the field that offers them, how their columns are understood, and what went wrong."""

from __future__ import annotations

import logging
import secrets
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, fields, replace
from typing import Any

import gradio as gr

from playground.errors import PlaygroundError
from playground.services.assembly import Services
from playground.services.readiness import Verdict
from playground.services.samples import Columns, Drawn, NoPrompt
from playground.training_run import TrainingRun
from playground.ui import texts
from playground.ui.views import samples as view
from playground.ui.wiring import AS_TYPED, LONG, Updates, patiently, report, show_html

log = logging.getLogger(__name__)


@dataclass
class Turn:
    """Which draw of a page is its last one, by number; what an earlier one finds is not shown any more.

    ``listed_for`` is the folder of the run for which the datasets were listed, None before they were.
    """

    last: int = 0
    listed_for: str | None = None

    def begin(self) -> int:
        """The number of a new draw."""
        self.last += 1
        return self.last


@dataclass(frozen=True)
class Shown:
    """What a page draws from: ``dataset`` as it was chosen or typed, ``by_hand`` by the person and not by the run.

    ``columns`` of None are guessed; the ``seed`` is kept while they are changed, so that the same rows stay in view.
    """

    dataset: str = ""
    by_hand: bool = False
    seed: int = 0
    columns: Columns | None = None
    drawn: Drawn | None = None
    names: tuple[str, ...] = ()

    @property
    def understood(self) -> Columns:
        """How the columns are read: as somebody has set them, else as guessed."""
        return self.columns or (self.drawn.columns if self.drawn else Columns())


class SampleDraws:
    """`render` makes the fields, `listen` wires them; `draws` fills them from a dataset.

    ``shown`` is what the page draws from, ``turn`` which of its draws is the last one.
    """

    def __init__(self, services: Services) -> None:
        self._services = services
        self._seed: Callable[[], int] = lambda: secrets.randbelow(2**31)

    # --- widgets ---

    def render(self) -> None:
        """Make the sample prompts with the button for others."""
        self.turn = gr.State(Turn())
        self.shown = gr.State(Shown())
        with gr.Row(elem_classes="samples-field"):
            self.samples = gr.Dropdown(
                [], value=None, label=texts.SAMPLES_PROMPTS, interactive=True, elem_id="sample-prompts",
                elem_classes="field", min_width=0,
            )  # fmt: skip
            self.more = gr.Button(texts.SAMPLES_AGAIN, size="sm", min_width=0, elem_id="more-samples")

    def render_columns(self) -> None:
        """Make the line that says how drawing went, and the columns under it."""
        self.line = show_html(view.said_line(texts.SAMPLES_FIRST), elem_id="samples-line")
        heading = view.columns_heading(None)
        with gr.Accordion(heading, open=False, elem_id="sample-columns", elem_classes="inner") as self.fold:
            with gr.Row(elem_classes="samples-columns"):
                self.columns = {name: _column(name) for name in texts.SAMPLES_COLUMNS_HELP}
            self.guess = gr.Button(texts.SAMPLES_AS_GUESSED, size="sm", min_width=0, elem_id="columns-as-guessed")

    @property
    def widgets(self) -> list[Any]:
        """The fields and buttons."""
        return [self.samples, self.more, *self.columns.values(), self.guess]

    @property
    def outputs(self) -> list[Any]:
        """What `draws` and `empties` fill."""
        return [self.samples, self.line, self.shown, self.fold, *self.columns.values()]

    # --- wiring ---

    def listen(self, verdict: gr.State, dataset: gr.Dropdown) -> list[Any]:
        """Wire the buttons and the columns; the events after which the same rows may read otherwise."""
        known = [verdict, self.turn, self.shown]
        options: dict[str, Any] = {**LONG, **AS_TYPED}
        self.more.click(self._again, [*known, dataset], self.outputs, trigger_mode="once", **options)
        edits, named = [field.input for field in self.columns.values()], [*known, *self.columns.values()]
        return [
            gr.on(edits, self._map, named, self.outputs, trigger_mode="multiple", **options),
            self.guess.click(self._unmap, known, self.outputs, trigger_mode="multiple", **options),
        ]

    async def _again(
        self, verdict: Verdict | None, turn: Turn, shown: Shown, dataset: str | None
    ) -> AsyncIterator[Updates]:
        """Five others of the same dataset, which the page names where the server was started again meanwhile."""
        shown = shown if shown.dataset else Shown((dataset or "").strip(), by_hand=True)
        async with aclosing(self.draws(run_of(verdict), turn, self.anew(shown), aloud=True)) as updates:
            async for update in updates:
                yield update

    async def _map(
        self, verdict: Verdict | None, turn: Turn, shown: Shown, *names: str | None
    ) -> AsyncIterator[Updates]:
        """The columns as somebody has set them: the same rows, read so."""
        columns = mapped(shown, dict(zip(self.columns, names, strict=True)))
        if columns == shown.understood:  # Gradio says so too of a field that is only left again
            yield {self.line: gr.skip()}
            return
        now = replace(shown, columns=columns)
        # Who changes two columns, one right after the other, changes the second one beside the first.
        yield {self.shown: now, **self._sets(columns)}
        async with aclosing(self.draws(run_of(verdict), turn, now)) as updates:
            async for update in updates:
                yield update

    async def _unmap(self, verdict: Verdict | None, turn: Turn, shown: Shown) -> AsyncIterator[Updates]:
        """The columns as guessed, once more."""
        now = replace(shown, columns=None)
        yield {self.shown: now}
        async with aclosing(self.draws(run_of(verdict), turn, now)) as updates:
            async for update in updates:
                yield update

    # --- drawing ---

    def anew(self, shown: Shown) -> Shown:
        """``shown``, with other rows to come."""
        return replace(shown, seed=self._seed())

    async def draws(
        self, run: TrainingRun | None, turn: Turn, shown: Shown, *, aloud: bool = False
    ) -> AsyncGenerator[Updates, None]:
        """Updates of a draw: how long it takes, then its samples, or why there are none. Silent once it is not the last.

        ``aloud`` says a failure in a toast as well.
        """
        number = turn.begin()
        if not shown.dataset:
            yield {self.line: view.said_line(texts.SAMPLES_FIRST)}
            return
        yield {self.line: view.reading_line(shown.dataset)}
        try:
            async with aclosing(patiently(lambda: self._draw(shown, run), "samples")) as news:
                async for item in news:
                    # Gradio sends the last update once more at the end: of an outdated draw that must be nothing.
                    yield self._fills(shown, item) if number == turn.last else {self.line: gr.skip()}
        except Exception as error:
            yield self._fails(shown, error, aloud) if number == turn.last else {self.line: gr.skip()}

    def empties(self, shown: Shown) -> Updates:
        """Updates before another dataset is read: nothing of the one before is on offer."""
        return {
            self.samples: gr.update(choices=[], value=None),
            self.fold: gr.update(label=view.columns_heading(None), open=False),
            self.shown: shown,
        }

    def told(self, error: Exception, *, aloud: bool = False) -> Updates:
        """Why it did not go, in its place, and ``aloud`` in a toast; what is not ours goes to the log."""
        if aloud:
            report(error)
        elif not isinstance(error, PlaygroundError):
            log.error("drawing samples failed", exc_info=error)
        return {self.line: view.error_line(error)}

    def _draw(self, shown: Shown, run: TrainingRun | None) -> Drawn:
        return self._services.samples.draw(shown.dataset, run=run, columns=shown.columns, seed=shown.seed)

    def _fills(self, shown: Shown, item: float | tuple[Drawn]) -> Updates:
        """The seconds that reading has taken, or the samples."""
        if not isinstance(item, tuple):
            return {self.line: view.reading_line(shown.dataset, item)}
        drawn = item[0]
        return {
            self.samples: gr.update(choices=view.sample_choices(drawn), value=None),
            self.line: view.drawn_line(drawn),
            self.shown: replace(shown, drawn=drawn, names=drawn.names),
            self.fold: gr.update(label=view.columns_heading(drawn.columns, as_guessed=shown.columns is None)),
            **self._offers(shown.names, drawn.names, drawn.columns),
        }

    def _fails(self, shown: Shown, error: Exception, aloud: bool) -> Updates:
        """Why there are no samples. Where only the columns are at fault they can be set: the fold opens."""
        names = error.names if isinstance(error, NoPrompt) else ()
        updates: Updates = {
            **self.told(error, aloud=aloud),
            self.samples: gr.update(choices=[], value=None),
            self.shown: replace(shown, drawn=None, names=names or shown.names),
        }
        if names:
            updates[self.fold] = gr.update(label=view.columns_heading(None), open=True)
            updates |= self._offers(shown.names, names, shown.columns or Columns())
        return updates

    def _sets(self, columns: Columns) -> Updates:
        return {field: getattr(columns, name) for name, field in self.columns.items()}

    def _offers(self, before: Sequence[str], names: Sequence[str], columns: Columns) -> Updates:
        """The fields of the columns. A list that is the same is not sent again: somebody may have it open."""
        new: dict[str, Any] = {} if tuple(before) == tuple(names) else {"choices": view.column_choices(names)}
        return {field: gr.update(value=getattr(columns, name), **new) for name, field in self.columns.items()}


def mapped(shown: Shown, names: dict[str, str | None]) -> Columns:
    """The columns that the fields name. Whole conversations and a prompt of its own exclude each other: the newer counts."""
    columns = Columns(**{name: value or "" for name, value in names.items()})
    before = shown.understood
    changed = {field.name for field in fields(Columns) if getattr(columns, field.name) != getattr(before, field.name)}
    if "messages" in changed and columns.messages:
        return Columns(messages=columns.messages, system=columns.system)
    return replace(columns, messages="") if changed & {"prompt", "expected", "input"} else columns


def run_of(verdict: Verdict | None) -> TrainingRun | None:
    """The run whose adapter is chosen, if it is one's."""
    return verdict.run if verdict else None


def _column(name: str) -> gr.Dropdown:
    label, info = texts.SAMPLES_COLUMNS_HELP[name]
    return gr.Dropdown(
        view.column_choices(()), value="", label=label, info=info, interactive=True, min_width=150,
        elem_id=f"column-{name}", elem_classes=["field", "hinted"],
    )  # fmt: skip
