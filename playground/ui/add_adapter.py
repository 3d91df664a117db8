"""Adding an adapter from the page: a zip or the files of a folder, checked, unpacked, and chosen."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gradio as gr

from playground.config import AppConfig
from playground.services.uploads import Uploads
from playground.types import AdapterInfo, Status
from playground.ui import texts
from playground.ui.safe_text import escape
from playground.ui.views.status import error_lines, progress_line, status_line
from playground.ui.visitor import caller_of, refuse_change_for_all
from playground.ui.wiring import LONG, Updates, patiently, report, show_html

if TYPE_CHECKING:
    from playground.ui.model_picker import ModelPicker


class AddAdapter:
    """A folded place to drop files on; where that is not allowed, a sentence that says what to do instead."""

    def __init__(self, uploads: Uploads, config: AppConfig) -> None:
        self._uploads = uploads
        self._config = config

    def render(self) -> None:
        """Make the widgets."""
        with gr.Accordion(texts.ADD, open=False, elem_id="add-adapter", elem_classes="inner"):
            if not self._uploads.allowed:
                show_html(f'<p class="muted">{escape(texts.ADD_REFUSED)}</p>', elem_id="add-refused")
                return
            self.name = gr.Textbox(
                label="Name", info=texts.ADD_NAME_HELP, placeholder="as in the zip", max_lines=1,
                elem_id="adapter-name", elem_classes=["field", "hinted"],
            )  # fmt: skip
            self.files = gr.File(
                label=texts.ADD, show_label=False, file_count="multiple", height=118, elem_id="adapter-files",
                elem_classes="drop",
            )  # fmt: skip
            show_html(f'<p class="muted">{escape(texts.ADD_HELP)}</p>', elem_id="add-help")
            self.status = show_html("", elem_id="add-status", elem_classes="status-slot")

    def listen(self, picker: ModelPicker) -> None:
        """Wire the widgets; what was taken in is chosen in ``picker``."""
        if not self._uploads.allowed:
            return
        self._picker = picker
        outputs = [self.status, self.files, self.name, picker.adapter, picker.progress]
        self.files.upload(
            self._receive, [self.files, self.name, picker.model], outputs, trigger_mode="once", **LONG
        )  # fmt: skip

    async def _receive(
        self, visitor: gr.Request, files: list[str] | None, name: str, model: str | None
    ) -> AsyncIterator[Updates]:
        """Take the files in: where they are sound the adapter is chosen, else one sentence says what is wrong.

        It is offered to everybody from then on.
        """
        yield {self.status: progress_line(Status("loading", texts.RECEIVING))}
        paths = [Path(file) for file in files or ()]
        try:
            refuse_change_for_all(self._config, caller_of(visitor))
            async with aclosing(patiently(lambda: self._uploads.receive(paths, name), "upload")) as news:
                async for item in news:
                    if isinstance(item, tuple):
                        yield await asyncio.to_thread(self._chosen, item[0], model)
                    else:
                        yield {self.status: progress_line(Status("loading", texts.RECEIVING), item)}
        except Exception as error:
            report(error)
            yield {self.status: error_lines(error), self.files: None}

    def _chosen(self, info: AdapterInfo, model: str | None) -> dict[Any, Any]:
        choices = self._picker.adapter_choices(model)
        name = self._picker.adapter_name(model or "", info.path)
        return {
            self.status: status_line("done", f"Added {name}: it is chosen above."),
            self.files: None,
            self.name: "",
            self._picker.adapter: gr.update(choices=choices, value=name),
            self._picker.progress: "",
        }
