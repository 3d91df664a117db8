"""Deleting an adapter that was added from the page: offered for such ones only, and asked for once."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import gradio as gr

from playground.config import AppConfig
from playground.errors import PlaygroundError
from playground.services.uploads import Uploads
from playground.ui import texts
from playground.ui.safe_text import escape
from playground.ui.views.status import error_lines, status_line
from playground.ui.views.weights import Choice
from playground.ui.visitor import caller_of, may_change_for_all, refuse_change_for_all
from playground.ui.wiring import LIGHT, LONG, Updates, report, show_html

if TYPE_CHECKING:
    from playground.ui.model_picker import ModelPicker


class RemoveAdapter:
    """A button under the picker's fields while an uploaded adapter is chosen; pressed, it says what it destroys."""

    def __init__(self, uploads: Uploads, config: AppConfig) -> None:
        self._uploads = uploads
        self._config = config

    def render(self) -> None:
        """Make the widgets."""
        self.name = gr.State("")
        self.offer = gr.Button("Remove", visible=False, size="sm", elem_id="remove-adapter")
        with gr.Column(visible=False, elem_id="remove-asked", elem_classes="asked") as self.asked:
            self.question = show_html("", elem_id="remove-question")
            with gr.Row(elem_classes="buttons"):
                self.sure = gr.Button("Delete files", variant="stop", size="sm", elem_id="remove-sure", min_width=80)
                self.keep = gr.Button("Keep", size="sm", elem_id="remove-keep", min_width=80)
        self.said = show_html("", elem_id="remove-status", elem_classes="status-slot")

    def listen(self, picker: ModelPicker) -> None:
        """Wire the widgets to the fields that name the adapter."""
        if not self._uploads.allowed:
            return
        self._picker = picker
        shown = [self.name, self.offer, self.asked, self.question]
        gr.on(
            [picker.adapter.change, picker.model.change],
            self._offered, [picker.model, picker.adapter], shown, trigger_mode="always_last", **LIGHT,
        )  # fmt: skip
        picker.adapter.input(None, None, self.said, js="() => ''")
        self.offer.click(lambda: _asks(True), None, [self.offer, self.asked], **LIGHT)
        self.keep.click(lambda: _asks(False), None, [self.offer, self.asked], **LIGHT)
        outputs = [*shown, self.said, picker.adapter, picker.progress]
        self.sure.click(self._remove, [self.name, picker.model], outputs, trigger_mode="once", **LONG)

    async def _offered(self, visitor: gr.Request, model: str | None, adapter: str | None) -> Updates:
        """Whether what is chosen was uploaded; a question that is open about another one is withdrawn."""
        may = may_change_for_all(self._config, caller_of(visitor))
        name = await asyncio.to_thread(self._uploaded, Choice(model, adapter)) if may else ""
        question = f"<p>{escape(texts.REMOVE_ASKED.format(name=name))}</p>" if name else ""
        return {
            self.name: name,
            self.offer: gr.update(visible=bool(name), value=f"Remove {_short(name)}"),
            self.asked: gr.update(visible=False),
            self.question: question,
        }

    def _uploaded(self, choice: Choice) -> str:
        try:
            spec = self._picker.spec(choice)
        except PlaygroundError:  # the chip and the report say it
            return ""
        return self._uploads.uploaded_name(spec.adapters[0][0]) if spec.adapters else ""

    async def _remove(self, visitor: gr.Request, name: str, model: str | None) -> Updates:
        """Delete it; the base is chosen then. ``name`` is the one that the question was about."""
        try:
            refuse_change_for_all(self._config, caller_of(visitor))
            await asyncio.to_thread(self._uploads.remove, name)
        except Exception as error:
            report(error)
            return {self.said: error_lines(error), **dict.fromkeys((self.offer, self.asked), gr.update(visible=False))}
        choices = await asyncio.to_thread(self._picker.adapter_choices, model)
        return {
            self.name: "",
            self.offer: gr.update(visible=False),
            self.asked: gr.update(visible=False),
            self.said: status_line("done", f"Removed {name}: its uploaded files are deleted."),
            self._picker.adapter: gr.update(choices=choices, value=texts.NO_ADAPTER),
            self._picker.progress: "",
        }


def _asks(asked: bool) -> tuple[Any, Any]:
    return gr.update(visible=not asked), gr.update(visible=asked)


def _short(name: str) -> str:
    return name if len(name) <= 28 else f"{name[:27]}…"
