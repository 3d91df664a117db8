"""Taking an adapter along: alone at its strength or merged into its base, and whether merging changes what it answers."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing
from pathlib import Path
from typing import Any, get_args

import gradio as gr

from playground.errors import InvalidRequest
from playground.services.exports import Exports, MergeComparison, MergedDtype
from playground.types import Status
from playground.ui import texts
from playground.ui.model_picker import ModelPicker
from playground.ui.safe_text import escape
from playground.ui.views.merge import comparison, exported
from playground.ui.views.status import progress_line, worked
from playground.ui.views.weights import adapter_choice, strength_of
from playground.ui.wiring import AS_TYPED, LONG, Updates, WorkLine, show_html


class ExportPanel:
    """Folded under the settings: three buttons that share one line of progress. Each works on the picker's choice."""

    def __init__(self, exports: Exports) -> None:
        self._exports = exports

    def render(self) -> None:
        """Make the widgets."""
        with gr.Accordion("Export", open=False, elem_id="export", elem_classes="card"):
            if not self._exports.allowed:
                show_html(f'<p class="muted">{escape(texts.EXPORT_REFUSED)}</p>', elem_id="export-refused")
                return
            show_html(f'<p class="muted">{escape(texts.EXPORT_HELP)}</p>', elem_id="export-help")
            self.dtype = gr.Radio(
                list(get_args(MergedDtype)), value="bfloat16", label="Merged model in", info=texts.MERGED_DTYPE_HELP,
                elem_id="export-dtype", elem_classes=["field", "hinted", "segments"],
            )  # fmt: skip
            with gr.Row(elem_classes="buttons"):
                self.adapter = gr.Button("Save adapter", elem_id="export-adapter", size="md", min_width=100)
                self.merged = gr.Button("Save merged model", elem_id="export-merged", size="md", min_width=120)
                self.compare = gr.Button("Does merging change it?", elem_id="compare-merged", size="md", min_width=120)
            self.work = WorkLine("export-status", texts.EXPORT_STOPPED)
            self.work.render()

    def listen(self, picker: ModelPicker) -> None:
        """Wire the widgets to the fields that say what to export."""
        if not self._exports.allowed:
            return
        inputs = [picker.model, picker.adapter, picker.strength, self.dtype]
        options: dict[str, Any] = {"trigger_mode": "once", **LONG, **AS_TYPED}
        works = [
            button.click(handler, inputs, self.work.outputs, **options)
            for button, handler in (
                (self.adapter, self._adapter),
                (self.merged, self._merged),
                (self.compare, self._compared),
            )
        ]
        self.work.listen(works)

    async def _adapter(self, *choice: Any) -> AsyncIterator[Updates]:
        async with aclosing(self._show(self._exports.adapter, *choice[:3])) as shown:
            async for updates in shown:
                yield updates

    async def _merged(self, *choice: Any) -> AsyncIterator[Updates]:
        async with aclosing(self._show(self._exports.merged, *choice[:3], dtype=choice[3])) as shown:
            async for updates in shown:
                yield updates

    async def _compared(self, *choice: Any) -> AsyncIterator[Updates]:
        async with aclosing(self._show(self._exports.compare_merged, *choice[:3], dtype=choice[3])) as shown:
            async for updates in shown:
                yield updates

    def _show(
        self, work: Callable[..., AsyncGenerator[Any, None]], model: str | None, adapter: str | None,
        strength: float | None, **options: Any,
    ) -> AsyncGenerator[Updates, None]:  # fmt: skip
        said = ""

        def result(item: Status | Path | MergeComparison) -> str:
            nonlocal said
            said = item.detail if isinstance(item, Status) else said
            return _result(item, said)

        return self.work.show(_started(work, model, adapter, strength, options), _progress, result)


async def _started(
    work: Callable[..., AsyncGenerator[Any, None]], model: str | None, adapter: str | None, strength: float | None,
    options: dict[str, Any],
) -> AsyncGenerator[Any, None]:  # fmt: skip
    """The news of ``work`` on what the fields say. Raises `InvalidRequest` without an adapter."""
    chosen = adapter_choice(adapter)
    if chosen is None:
        raise InvalidRequest("No adapter is chosen.", texts.EXPORT_NONE)
    async with aclosing(work(model or "", chosen, strength_of(strength), **options)) as news:
        async for item in news:
            yield item


def _progress(item: Any) -> str | None:
    """How far it is, at first nothing; None for a result, which comes last."""
    status = item or Status("loading", "starting")
    return progress_line(status) if isinstance(status, Status) and status.phase != "done" else None


def _result(item: Status | Path | MergeComparison, said: str) -> str:
    """What came of it; ``said`` is what was told of it before its path."""
    if isinstance(item, Path):
        return worked(exported(item, "" if str(item) in said else said))
    if isinstance(item, MergeComparison):
        return worked(comparison(item))
    return worked(f"<p>{escape(item.detail)}</p>")
