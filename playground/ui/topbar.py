"""The bar above all tabs: name, which weights answer, memory, what the engine is doing, theme and keys."""

from __future__ import annotations

import asyncio
from typing import Any

import gradio as gr

from playground.services.generation import Generation
from playground.services.models import Models
from playground.ui import texts, views
from playground.ui.panels import LIGHT, ModelPicker, Updates, show_html

REFRESH_SECONDS = 2.5


class TopBar:
    """``status`` are the dot and the session's phase; whoever starts something sets both with `shows`."""

    def __init__(self, models: Models, generation: Generation) -> None:
        self._models = models
        self._generation = generation

    def render(self) -> None:
        """Make the widgets."""
        self.phase = gr.State("idle")
        self.shown = gr.State(())
        with gr.Row(elem_id="topbar"):
            show_html(f'<h1 class="brand">{texts.PRODUCT}</h1>', elem_id="brand")
            self.chips = show_html("", elem_id="chips")
            self.meter = show_html("", elem_id="memory")
            self.dot = show_html(views.dot("idle"), elem_id="status")
            show_html(views.bar_buttons(), elem_id="bar-buttons")
        show_html(views.shortcuts_dialog(), elem_id="shortcuts-slot")
        self.timer = gr.Timer(REFRESH_SECONDS)

    @property
    def status(self) -> list[gr.components.Component]:
        """The outputs that `shows` fills."""
        return [self.dot, self.phase]

    def shows(self, phase: str) -> Updates:
        """Updates that show ``phase``: idle, loading, generating or error."""
        return {self.dot: views.dot(phase), self.phase: phase}

    def listen(self, demo: gr.Blocks, picker: ModelPicker) -> None:
        """Wire the bar to the fields that say what answers; it follows them, and the engine, by itself."""
        self._picker = picker
        inputs = [*picker.selection, picker.failure, self.phase, self.shown]
        outputs = [self.chips, self.meter, self.dot, self.shown]
        for event in (self.timer.tick, demo.load, picker.adapter.change, picker.quantization.change):
            event(self._refresh, inputs, outputs, **LIGHT)
        for event in picker.changes:
            event.then(self._refresh, inputs, outputs, **LIGHT)

    async def _refresh(
        self,
        model: str | None,
        adapter: str | None,
        quantization: str | None,
        failure: views.Failure | None,
        phase: str,
        shown: tuple[str, ...],
    ) -> tuple[Any, ...]:
        """Look again at memory, engine and choice; send only what looks different, so that tooltips stay open."""
        now = await asyncio.to_thread(self._look, model, adapter, quantization, failure, phase)
        before = shown if len(shown) == len(now) else ("",) * len(now)
        return (*(new if new != old else gr.skip() for new, old in zip(now, before, strict=True)), now)

    def _look(
        self,
        model: str | None,
        adapter: str | None,
        quantization: str | None,
        failure: views.Failure | None,
        phase: str,
    ) -> tuple[str, str, str]:
        weights = self._picker.weights(model, adapter, quantization, failure)
        rows, waiting = self._generation.activity()
        return views.chips(weights), views.memory_meter(self._models.memory()), views.dot(phase, rows, waiting)
