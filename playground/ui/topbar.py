"""The bar above all tabs: name, which weights answer, memory, how busy the engine is, theme, keys, and who is signed in."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import gradio as gr

from playground.config import AppConfig
from playground.services.generation import Generation
from playground.services.kept import Kept
from playground.services.models import Models
from playground.ui import texts
from playground.ui.model_picker import ModelPicker
from playground.ui.views import bar as view
from playground.ui.views.person import person
from playground.ui.views.report import proof_line
from playground.ui.views.weights import Choice, Failure, Weights, chips, loaded_list
from playground.ui.visitor import caller_of, may_change_for_all
from playground.ui.wiring import LIGHT, Updates, show_html

BUSY_SECONDS = 1.0
IDLE_SECONDS = 2.5
WEIGHTS_SECONDS = 2.0  # how long what the disk says of a choice is believed


class TopBar:
    """What the bar shows is written by `_refresh` alone: at every tick, which come faster while something is going on,
    and whenever somebody sets the session's phase with `shows` or asks for it with `look_again`.

    ``status`` are the outputs that `shows` fills, ``again`` the one of `look_again`. ``may_sign_in`` says that whoever
    is not signed in could be.
    """

    def __init__(self, models: Models, generation: Generation, config: AppConfig, may_sign_in: bool = False) -> None:
        self._models = models
        self._generation = generation
        self._config = config
        self._may_sign_in = may_sign_in
        self._weights: Kept[Weights] = Kept(WEIGHTS_SECONDS)

    def render(self) -> None:
        """Make the widgets."""
        self.phase = gr.State("idle")
        self.again = gr.State(0.0)
        self.shown = gr.State(())
        with gr.Row(elem_id="topbar"):
            show_html(f'<h1 class="brand">{texts.PRODUCT}</h1>', elem_id="brand")
            self.chips = show_html("", elem_id="chips")
            self.meter = show_html("", elem_id="memory")
            self.dot = show_html(view.dot("idle"), elem_id="status")
            show_html(view.bar_buttons(), elem_id="bar-buttons")
            self.person = show_html("", elem_id="person")
            self.figures = show_html("", elem_id="memory-popover")
        show_html(view.shortcuts_dialog(), elem_id="shortcuts-slot")
        self.timer = gr.Timer(IDLE_SECONDS)

    @property
    def status(self) -> list[gr.components.Component]:
        """The outputs that `shows` fills."""
        return [self.phase]

    def shows(self, phase: str) -> Updates:
        """Updates that show ``phase``: idle, queued, loading, generating or error."""
        return {self.phase: phase}

    def look_again(self) -> Updates:
        """Updates that make the bar look now, because something has changed that it shows."""
        return {self.again: time.monotonic()}

    def listen(self, demo: gr.Blocks, picker: ModelPicker) -> None:
        """Wire the bar to the fields that say what answers; it follows them, and the engine, by itself."""
        self._picker = picker
        triggers = [self.timer.tick, demo.load, self.phase.change, self.again.change, picker.failure.change]
        triggers += [field.change for field in picker.selection]
        inputs = [*picker.selection, picker.failure, self.phase, self.shown]
        shown = [self.chips, self.meter, self.figures, self.dot, picker.loaded, picker.report.proof]
        outputs = [*shown, self.timer, self.shown]
        # One event for all triggers, so that a page never has two looks on their way of which the older one wins.
        gr.on(triggers, self._refresh, inputs, outputs, trigger_mode="always_last", **LIGHT)
        demo.load(self._person, None, self.person, **LIGHT)

    def _person(self, visitor: gr.Request) -> str:
        return person(caller_of(visitor), self._may_sign_in)

    async def _refresh(
        self, visitor: gr.Request, model: str | None, adapter: str | None, quantization: str | None,
        strength: float | None, failure: Failure | None, phase: str, shown: tuple[Any, ...],
    ) -> tuple[Any, ...]:  # fmt: skip
        """Look again at memory, engine and choice; send only what looks different, so that tooltips stay open."""
        choice = Choice(model, adapter, quantization, strength)
        may_unload = may_change_for_all(self._config, caller_of(visitor))
        now = await asyncio.to_thread(self._look, choice, failure, phase, may_unload)
        before = shown if len(shown) == len(now) else (None,) * len(now)
        return (*(new if new != old else gr.skip() for new, old in zip(now, before, strict=True)), now)

    def _look(
        self, choice: Choice, failure: Failure | None, phase: str, may_unload: bool
    ) -> tuple[str, str, str, str, str, str, float]:
        """What the bar's parts show now, in the order of the outputs."""
        residents, names = self._models.loaded(), self._picker.names()
        held = tuple((resident.base, resident.quantization, resident.adapters) for resident in residents)
        weights = self._weights.get((choice, failure, held), lambda: self._picker.weights(choice, failure))
        attached = weights.attached
        answering, waiting = self._generation.activity()
        memory = self._models.memory()
        busy = phase not in ("idle", "error") or answering or waiting or memory.kv_cache
        return (
            chips(weights),
            view.memory_meter(memory),
            view.memory_figures(memory, residents, names),
            view.dot(phase, answering, waiting),
            loaded_list(residents, names, may_unload),
            proof_line(attached.proof, attached.moves_logits) if attached else "",
            BUSY_SECONDS if busy else IDLE_SECONDS,
        )
