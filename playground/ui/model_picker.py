"""The model picker: which model and adapter answer, loading them, and the list of what is in memory."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import gradio as gr

from playground.config import AppConfig
from playground.errors import AdapterInvalid, ModelNotLoaded, PlaygroundError
from playground.services.models import Models
from playground.services.uploads import Uploads
from playground.types import LoadedAdapter, ModelSpec, ResidentInfo, Status
from playground.ui import texts
from playground.ui.adapter_report import AdapterReportPanel
from playground.ui.add_adapter import AddAdapter
from playground.ui.remove_adapter import RemoveAdapter
from playground.ui.views.figures import bytes_text
from playground.ui.views.report import no_effect
from playground.ui.views.status import error_details, error_sentence, progress_line, status_line
from playground.ui.views.weights import (
    Choice,
    Failure,
    Weights,
    adapter_choice,
    adapter_problem,
    loaded_list,
    strength_of,
)
from playground.ui.visitor import caller_of, refuse_change_for_all
from playground.ui.wiring import LIGHT, LONG, Updates, clicks_of, report, show_html

if TYPE_CHECKING:
    from playground.ui.topbar import TopBar


def _pin(model: str, adapter: str) -> str:
    """What the hidden field holds when ``model`` and ``adapter`` were chosen together."""
    return json.dumps([model, adapter], ensure_ascii=False, separators=(",", ":"))


# Another model: the adapter returns to the base, which is always there, unless it was chosen together with this model.
_ANOTHER_MODEL = (
    "(model, adapter, pinned) => pinned && pinned === JSON.stringify([model, adapter]) "
    f"? [adapter, pinned] : [{json.dumps(texts.NO_ADAPTER)}, '']"
)


class ModelPicker:
    """Model, quantization, adapter and strength fields with Load and Swap, and the list of what is in memory.

    ``selection`` are the fields that name what answers, the values of a `Choice`; other parts of the page take them as
    inputs. ``failure`` holds the session's last choice that failed, so that its chip stays red. ``report`` is the adapter's
    report, for the tab to place.
    """

    def __init__(self, models: Models, config: AppConfig, uploads: Uploads) -> None:
        self._models = models
        self._config = config
        self.report = AdapterReportPanel(models)
        self._adding = AddAdapter(uploads, config)
        self._removing = RemoveAdapter(uploads, config)

    def render(self) -> None:
        """Make the widgets."""
        names = list(self._config.models)
        first = names[0] if names else ""
        self.failure = gr.State(None)
        # The model and adapter that were put into the fields together, until one of them is another.
        self.pinned = gr.Textbox("", visible="hidden", elem_id="pinned-adapter")
        self.model = gr.Dropdown(
            names, value=first, label="Base model", info=texts.MODEL_HELP, allow_custom_value=True,
            elem_id="model", elem_classes=["field", "hinted"],
        )  # fmt: skip
        self.quantization = gr.Dropdown(
            [(label, value) for value, label in texts.QUANTIZATIONS.items()], value=self._config.quantization,
            label="Quantization", info=texts.QUANTIZATION_HELP, elem_id="quantization",
            elem_classes=["field", "hinted"],
        )  # fmt: skip
        # The adapters follow the model, and Gradio's dropdown breaks when its choices become fewer while it is open:
        # this field is not the one that Tab opens after the model.
        self.adapter = gr.Dropdown(
            [texts.NO_ADAPTER], value=texts.NO_ADAPTER, label="Adapter", info=texts.ADAPTER_HELP,
            allow_custom_value=True, elem_id="adapter", elem_classes=["field", "hinted"],
        )  # fmt: skip
        self._render_strength()
        with gr.Row(elem_classes="buttons"):
            self.load = gr.Button("Load", elem_id="load", size="md", min_width=80)
            self.swap = gr.Button("Swap adapter", elem_id="swap", size="md", min_width=120)
        self._removing.render()
        self.progress = show_html("", elem_id="load-status", elem_classes="status-slot")
        self.loaded = show_html(
            loaded_list((), {}),
            elem_id="loaded-models",
            js_on_load=clicks_of("unload"),
        )
        self._adding.render()

    def _render_strength(self) -> None:
        """A number, which may be any, and beside it a slider for the usual ones; neither means anything to the base."""
        with gr.Row(elem_classes="strength", elem_id="strength-row"):
            self.strength = gr.Number(
                1.0, label=texts.STRENGTH, info=texts.STRENGTH_HELP, step=0.05, interactive=False,
                elem_id="strength", elem_classes=["field", "hinted"],
            )  # fmt: skip
            self.slider = gr.Slider(
                0.0, 2.0, 1.0, step=0.05, label=texts.STRENGTH, show_label=False, interactive=False, buttons=[],
                elem_id="strength-slider", elem_classes="field",
            )  # fmt: skip

    @property
    def selection(self) -> list[gr.components.Component]:
        """The fields that say what answers, in the order of `Choice`."""
        return [self.model, self.adapter, self.quantization, self.strength]

    @property
    def taken(self) -> list[gr.components.Component]:
        """The fields that `takes` fills."""
        return [self.model, self.adapter, self.pinned]

    def takes(self, model: str, adapter: str) -> Updates:
        """Choose ``model`` and ``adapter`` ("": the base alone) together; alone, another model would drop the adapter."""
        chosen = adapter.strip() or texts.NO_ADAPTER
        return {self.model: model, self.adapter: chosen, self.pinned: _pin(model, chosen)}

    def listen(self, demo: gr.Blocks, bar: TopBar) -> None:
        """Wire the widgets; ``bar`` shows the phase, and keeps the list of what is in memory."""
        self._bar = bar
        outputs = [self.progress, self.failure, *bar.status]
        gr.on([demo.load, self.model.change], self._offer_adapters, self.model, self.adapter, **LIGHT)
        # Done on the page: the server's word on one model could come after the next one was chosen.
        self.model.change(None, self.taken, [self.adapter, self.pinned], js=_ANOTHER_MODEL, **LIGHT)
        choices = [field.input for field in (self.model, self.adapter, self.quantization, self.strength, self.slider)]
        # What a person changes clears what was said of the choice before. It is done without asking the server, and not for
        # what the server changes: either would come after the answer to Swap, pressed right after choosing.
        gr.on(choices, None, None, self.progress, js="() => ''", **LIGHT)
        self.adapter.change(self._for_adapter, self.adapter, [self.strength, self.slider], **LIGHT)
        self.slider.input(None, self.slider, self.strength, js="(value) => value")
        self.strength.change(None, self.strength, self.slider, js="(value) => Math.min(Math.max(value ?? 1, 0), 2)")
        self._adding.listen(self)
        self._removing.listen(self)
        self.report.listen(self.model, self.adapter)
        self.load.click(self._load, self.selection, outputs, trigger_mode="once", **LONG)
        self.swap.click(self._swap, self.selection, outputs, trigger_mode="once", **LONG)
        self.loaded.click(self._unload, None, [self.progress, bar.again], **LONG)

    def spec(self, choice: Choice) -> ModelSpec:
        """What the fields name. Raises `ModelNotFound`, `AdapterInvalid` or `InvalidRequest`. Reads the disk."""
        adapter = adapter_choice(choice.adapter)
        strength = strength_of(choice.strength) if adapter else 1.0
        quantization: Any = choice.quantization or None
        return self._models.spec(choice.model or "", adapter, strength, quantization=quantization)

    def label(self, choice: Choice, spec: ModelSpec) -> str:
        """What answers, for people: ``starter + pirate ×0.5``."""
        return self._named(choice, spec).label

    def weights(self, choice: Choice, failure: Failure | None) -> Weights:
        """What would answer now, and what is wrong with it. Reads the disk; never raises for what a person typed."""
        failed = failure if failure and failure.choice == choice else None
        base_failure = failed.sentence if failed and not failed.of_adapter else ""
        adapter_failure = failed.sentence if failed and failed.of_adapter else ""
        chosen = adapter_choice(choice.adapter)
        try:
            base = self.spec(replace(choice, adapter=None))
        except PlaygroundError as error:
            return Weights((choice.model or "").strip(), chosen or "", base_problem=str(error))
        resident = self._models.resident(base)
        here = Weights(self._models.name(base), base_loaded=resident is not None, base_problem=base_failure)
        if chosen is None:
            return here
        try:
            spec = self.spec(choice)
            checked = self._models.report(choice.model or "", chosen)
        except PlaygroundError as error:
            return replace(here, adapter=chosen, adapter_problem=str(error))
        found, named = checked.info, self._named(choice, spec)
        attached = _attached(resident, spec.adapters[0][0])
        return replace(
            here,
            adapter=named.adapter,
            strength=named.strength,
            attached=attached,
            adapter_problem=adapter_problem(attached, found.problems, adapter_failure or no_effect(checked)),
            warnings=tuple(dict.fromkeys((*found.warnings, *(attached.warnings if attached else ())))),
        )

    def _named(self, choice: Choice, spec: ModelSpec) -> Weights:
        """Only the names and the strength."""
        if not spec.adapters:
            return Weights(self._models.name(spec))
        path, strength = spec.adapters[0]
        return Weights(self._models.name(spec), self.adapter_name(choice.model or "", path), strength=strength)

    def names(self) -> dict[str, str]:
        """The offered name of each base in memory."""
        return {resident.base: self._models.name(ModelSpec(resident.base)) for resident in self._models.loaded()}

    def adapter_choices(self, model: str | None) -> list[str]:
        """What the adapter field offers for ``model``. Reads the disk."""
        return [texts.NO_ADAPTER, *(info.name for info in self._models.adapters(model or ""))]

    def adapter_name(self, model: str, path: str) -> str:
        """What the adapter at ``path`` is called for ``model``, as `Models.adapter_name` says."""
        return self._models.adapter_name(model, path)

    async def _offer_adapters(self, model: str | None) -> Any:
        """Another model, other adapters. What is chosen among them is decided on the page."""
        return gr.update(choices=await asyncio.to_thread(self.adapter_choices, model))

    async def _for_adapter(self, adapter: str | None) -> tuple[Any, Any]:
        """The base alone has no strength."""
        enabled = gr.update(interactive=adapter_choice(adapter) is not None)
        return enabled, enabled

    async def _load(self, *choice: Any) -> AsyncIterator[Updates]:
        async for updates in self._fetch(Choice(*choice), swap=False):
            yield updates

    async def _swap(self, *choice: Any) -> AsyncIterator[Updates]:
        async for updates in self._fetch(Choice(*choice), swap=True):
            yield updates

    async def _fetch(self, choice: Choice, *, swap: bool) -> AsyncIterator[Updates]:
        """Load, or only attach: progress as it comes, then what answers now, or the one sentence that says why not."""
        bar = self._bar
        yield {self.progress: progress_line(Status("loading", "looking for the files")), **bar.shows("loading")}
        try:
            spec = await asyncio.to_thread(self.spec, choice)
            if swap and self._models.resident(spec) is None:
                raise ModelNotLoaded(
                    f"{choice.model} is not in memory.", "Press Load; it attaches the adapter as well."
                )
            async for status in self._models.load(spec):
                yield {self.progress: progress_line(status), **bar.shows("loading")}
            label = await asyncio.to_thread(self.label, choice, spec)
            done = status_line("done", f"{'Swapped' if swap else 'Ready'}: {label} answers now.")
            yield {self.progress: done, self.failure: None, **bar.shows("idle")}
        except Exception as error:
            sentence = report(error)
            yield {
                self.progress: status_line("error", sentence, error_details(error)),
                self.failure: failure_of(choice, error),
                **bar.shows("error"),
            }

    async def _unload(self, visitor: gr.Request, event: gr.EventData) -> Updates:
        """Drop the model whose button was pressed, and say how much memory came back."""
        base = str(event.value)
        name = self._models.name(ModelSpec(base))
        try:
            refuse_change_for_all(self._config, caller_of(visitor))
            freed = await self._models.unload(base)
            line = status_line("done", f"Unloaded {name}: {bytes_text(freed)} came back.")
        except Exception as error:
            line = status_line("error", report(error), error_details(error))
        return {self.progress: line, **self._bar.look_again()}


def failure_of(choice: Choice, error: BaseException) -> Failure:
    """``error`` as the session remembers it, so that the chip of this very choice is red until it works."""
    return Failure(choice, isinstance(error, AdapterInvalid), error_sentence(error))


def _attached(resident: ResidentInfo | None, path: str) -> LoadedAdapter | None:
    """The adapter at ``path`` on ``resident``, if it is attached; a link to its folder is the same one."""
    adapters = resident.adapters if resident else ()
    place = os.path.realpath(path)
    return next((adapter for adapter in adapters if os.path.realpath(adapter.path) == place), None)
