"""The prompts of a batch test: typed, from a file that the browser reads, or from a dataset on offer."""

from __future__ import annotations

import asyncio
import base64
import binascii
import logging
from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import replace
from typing import Any

import gradio as gr

from playground.config import AppConfig
from playground.errors import InvalidRequest, PlaygroundError
from playground.services.assembly import Services
from playground.services.samples import Columns
from playground.services.trial_prompts import Brought, TrialPrompts, typed
from playground.services.trials import TrialPrompt
from playground.ui import texts
from playground.ui.views import batch as view
from playground.ui.views import samples as samples_view
from playground.ui.views.status import error_lines
from playground.ui.visitor import caller_of
from playground.ui.wiring import AS_TYPED, LIGHT, LONG, Updates, patiently, show_html

log = logging.getLogger(__name__)
KEPT_SECONDS = 6 * 3600  # how long the prompts of a page that may be closed are remembered
ROWS = 20  # of a dataset, unless somebody says how many


class BatchPrompts:
    """`render` makes the widgets, `listen` wires them; `found` are the prompts that the values of ``inputs`` mean."""

    def __init__(self, config: AppConfig, services: Services) -> None:
        self._services = services
        self._most = services.trials.most
        self._prompts = TrialPrompts(services.samples, config, self._most)

    def render(self) -> None:
        """Make the widgets: where from, and for each of the three its own fields."""
        self.file = gr.State(None, time_to_live=KEPT_SECONDS)
        self.rows = gr.State(None, time_to_live=KEPT_SECONDS)
        self.source = gr.Radio(
            [(label, name) for name, label in texts.BATCH_SOURCES.items()], value="typed", label="Prompts",
            elem_id="batch-source", elem_classes=["field", "inline", "segments"],
        )  # fmt: skip
        with gr.Column(elem_classes="batch-part") as typed_part:
            self.typed = gr.Textbox(
                label=texts.BATCH_TYPED, info=texts.BATCH_TYPED_HELP, lines=5, max_lines=14, elem_id="batch-typed",
                elem_classes="field",
            )  # fmt: skip
        with gr.Column(visible=False, elem_classes="batch-part") as file_part:
            self.field = show_html(
                view.file_field(self._prompts.largest_file), elem_id="batch-file",
                js_on_load="window.playground.batchFile(element, trigger);",
            )  # fmt: skip
            self.file_line = show_html("", elem_id="batch-file-line")
        with gr.Column(visible=False, elem_classes="batch-part") as dataset_part:
            self._render_dataset()
        with gr.Row(visible=False, elem_classes="batch-fields", elem_id="batch-columns") as self.columns:
            self.prompt_column = self._column(texts.BATCH_PROMPT_COLUMN, "batch-prompt-column")
            self.expected_column = self._column(texts.BATCH_EXPECTED_COLUMN, "batch-expected-column")
        self._parts = {"typed": typed_part, "file": file_part, "dataset": dataset_part}

    def _render_dataset(self) -> None:
        with gr.Row(elem_classes="batch-fields"):
            self.dataset = gr.Dropdown(
                [], value=None, label="Dataset", info=texts.BATCH_DATASET_HELP, elem_id="batch-dataset",
                elem_classes=["field", "hinted"], min_width=200, scale=3,
            )  # fmt: skip
            self.count = gr.Number(
                ROWS, label=texts.BATCH_ROWS, minimum=1, maximum=self._most, precision=0, step=1, elem_id="batch-rows",
                elem_classes="field", min_width=110, scale=1,
            )  # fmt: skip
        self.dataset_line = show_html("", elem_id="batch-dataset-line")

    @staticmethod
    def _column(label: str, elem_id: str) -> gr.Dropdown:
        return gr.Dropdown([], value=None, label=label, elem_id=elem_id, elem_classes="field", min_width=180)

    @property
    def inputs(self) -> list[gr.components.Component]:
        """What `found` takes."""
        return [self.source, self.typed, self.file, self.rows]

    @property
    def outputs(self) -> list[Any]:
        """What the handlers here fill."""
        columns = [self.columns, self.prompt_column, self.expected_column]
        return [*self._parts.values(), self.file, self.rows, self.file_line, self.dataset_line, *columns]

    def found(
        self, source: str, text: str | None, file: Brought | None, rows: Brought | None
    ) -> tuple[TrialPrompt, ...]:
        """The prompts that are chosen; none where nothing was."""
        if source == "typed":
            return typed(text or "")
        brought = file if source == "file" else rows
        return brought.prompts if brought else ()

    def refuse_none(self, source: str) -> None:
        """Raise `InvalidRequest` that says what to do where there are no prompts."""
        remedies = {"file": texts.BATCH_NO_FILE, "dataset": texts.BATCH_NO_DATASET}
        raise InvalidRequest(texts.BATCH_NO_PROMPTS, remedies.get(source, texts.BATCH_WRITE_ONE))

    def listen(self) -> list[Any]:
        """Wire the widgets. Returns the events after which there may be other prompts."""
        options = {**LIGHT, **AS_TYPED}
        held = [self.source, self.file, self.rows]
        switched = self.source.input(self._switched, held, self.outputs, **options)
        self.source.input(self._offered, [self.source, self.dataset], self.dataset, **options)
        came = self.field.click(self._file_came, None, self.outputs, **LIGHT)
        wanted = [self.dataset, self.count]
        chosen = [self.dataset.input, self.count.input]
        read = gr.on(chosen, self._read, wanted, self.outputs, trigger_mode="always_last", **LONG, **AS_TYPED)
        fields = [self.prompt_column, self.expected_column]
        mapped = gr.on(
            [field.input for field in fields], self._mapped, [*held, self.count, *fields], self.outputs,
            trigger_mode="always_last", **options,
        )  # fmt: skip
        return [switched, came, read, mapped]

    # --- what the page asks ---

    def _switched(self, source: str, file: Brought | None, rows: Brought | None) -> Updates:
        """Another place for the prompts: its fields; what was read before is still there."""
        shown = {part: gr.update(visible=name == source) for name, part in self._parts.items()}
        return {**shown, **self._columns_of({"file": file, "dataset": rows}.get(source))}

    async def _offered(self, source: str, current: str | None) -> Any:
        """The datasets on offer by now, once somebody wants one."""
        if source != "dataset":
            return gr.skip()
        try:
            offered = await asyncio.to_thread(self._services.datasets.offered)
        except PlaygroundError as error:
            log.warning("the datasets could not be listed: %s", error)
            return gr.skip()
        return gr.update(choices=samples_view.dataset_choices(offered, current or ""))

    async def _file_came(self, visitor: gr.Request, event: gr.EventData) -> Updates:
        """The browser has read a file; of one that is too large it sends the size alone."""
        said = event._data.get("value") if isinstance(event._data, dict) else None
        try:
            self._services.limits.admit_saving(caller_of(visitor))
            brought = await asyncio.to_thread(self._of_file, said if isinstance(said, dict) else {})
        except Exception as error:
            return {self.file: None, self.file_line: self._refused(error), **self._columns_of(None)}
        return {self.file: brought, self.file_line: _line(brought), **self._columns_of(brought)}

    def _of_file(self, said: dict[str, Any]) -> Brought:
        name, size, data = str(said.get("name") or "file")[:200], said.get("bytes"), said.get("base64")
        if not isinstance(data, str):
            raise self._prompts.too_large(name, size if isinstance(size, int) else 0)
        try:
            return self._prompts.of_file(name, base64.b64decode(data, validate=True))
        except binascii.Error as error:
            raise InvalidRequest(f"{name!r} did not arrive whole.", "Choose it again.") from error

    async def _read(self, visitor: gr.Request, dataset: str | None, count: Any) -> AsyncIterator[Updates]:
        """The first rows of a dataset; from the hub that may take a while."""
        if not dataset:
            yield {self.rows: None, self.dataset_line: "", **self._columns_of(None)}
            return
        yield {self.dataset_line: samples_view.reading_line(dataset)}
        try:
            self._services.limits.admit_saving(caller_of(visitor))
            number = _whole(count)
            async with aclosing(patiently(lambda: self._prompts.of_dataset(dataset, number), "prompts")) as news:
                async for item in news:
                    if isinstance(item, tuple):
                        yield {self.rows: item[0], self.dataset_line: _line(item[0]), **self._columns_of(item[0])}
                    else:
                        yield {self.dataset_line: samples_view.reading_line(dataset, item)}
        except Exception as error:
            yield {self.rows: None, self.dataset_line: self._refused(error), **self._columns_of(None)}

    async def _mapped(
        self,
        source: str,
        file: Brought | None,
        rows: Brought | None,
        count: Any,
        prompt: str | None,
        expected: str | None,
    ) -> Updates:
        """Other columns of the same rows."""
        brought = file if source == "file" else rows
        if brought is None or brought.columns is None:
            return {self.columns: gr.update(visible=False)}
        state, line = (self.file, self.file_line) if source == "file" else (self.rows, self.dataset_line)
        columns = mapped(brought.columns, prompt or "", expected or "")
        try:
            again = await asyncio.to_thread(lambda: self._prompts.again(brought, _whole(count), columns))
        except Exception as error:
            none = replace(brought, prompts=(), columns=columns)
            return {state: none, line: self._refused(error), **self._columns_of(none)}
        return {state: again, line: _line(again), **self._columns_of(again)}

    def _columns_of(self, brought: Brought | None) -> Updates:
        """The fields of the columns, where there are any to choose from."""
        if brought is None or brought.columns is None:
            return {self.columns: gr.update(visible=False)}
        choices, columns = samples_view.column_choices(brought.names), brought.columns
        prompt = columns.messages or columns.prompt
        return {
            self.columns: gr.update(visible=True),
            self.prompt_column: gr.update(choices=choices[1:], value=prompt or None),
            self.expected_column: gr.update(choices=choices, value=columns.expected),
        }

    def _refused(self, error: Exception) -> str:
        if not isinstance(error, PlaygroundError):
            log.error("prompts could not be read", exc_info=error)
        return f'<div class="batch-brought" role="alert">{error_lines(error)}</div>'


def mapped(before: Columns, prompt: str, expected: str) -> Columns:
    """The columns that the two fields name; what goes with the prompt's column stays only with it."""
    if prompt and prompt == before.messages:
        return before
    about = before.input if prompt == before.prompt else ""
    return Columns(prompt, expected, about, before.system)


def _line(brought: Brought) -> str:
    return view.brought_line(brought.name, brought.prompts, brought.total, brought.notices)


def _whole(count: Any) -> int:
    try:
        return int(count)
    except (TypeError, ValueError, OverflowError):
        raise InvalidRequest("How many rows is not a number.", "Type one.") from None
