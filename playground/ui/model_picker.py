"""The model picker: which model and adapter answer, loading them, and the list of what is in memory."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gradio as gr

from playground.config import AppConfig
from playground.errors import ModelNotLoaded, PlaygroundError
from playground.services.models import Models
from playground.types import LoadedAdapter, ModelSpec, ResidentInfo, Status
from playground.ui import texts
from playground.ui.views.figures import bytes_text
from playground.ui.views.status import error_details, error_sentence, progress_line, status_line
from playground.ui.views.weights import Failure, Weights, adapter_problem, loaded_list
from playground.ui.wiring import LIGHT, LONG, Updates, clicks_of, report, show_html

if TYPE_CHECKING:
    from playground.ui.topbar import TopBar


def resident_of(models: Models, spec: ModelSpec) -> ResidentInfo | None:
    """The model in memory that ``spec`` would use, if it is there."""
    wanted = {"int4": "nf4"}.get(spec.quantization, spec.quantization)
    for resident in models.loaded():
        same = spec.base in (resident.base, resident.path)
        if same and wanted in ("auto", resident.quantization):
            return resident
    return None


def adapter_choice(value: str | None) -> str | None:
    """The adapter field's value as `Models.spec` takes it: None for the base."""
    cleaned = (value or "").strip()
    return None if cleaned in ("", texts.NO_ADAPTER) else cleaned


class ModelPicker:
    """Model, adapter and quantization fields with Load and Swap, and the list of what is in memory.

    ``selection`` are the fields that name what answers; other parts of the page take them as inputs. ``failure`` holds
    the session's last choice that failed, so that its chip stays red.
    """

    def __init__(self, models: Models, config: AppConfig) -> None:
        self._models = models
        self._config = config

    def render(self) -> None:
        """Make the widgets."""
        names = list(self._config.models)
        first = names[0] if names else ""
        self.failure = gr.State(None)
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
        with gr.Row(elem_classes="buttons"):
            self.load = gr.Button("Load", elem_id="load", size="md", min_width=80)
            self.swap = gr.Button("Swap adapter", elem_id="swap", size="md", min_width=120)
        self.progress = show_html("", elem_id="load-status", elem_classes="status-slot")
        self.loaded = show_html(
            loaded_list((), {}),
            elem_id="loaded-models",
            js_on_load=clicks_of("unload"),
        )

    @property
    def selection(self) -> list[gr.components.Component]:
        """The fields that say what answers."""
        return [self.model, self.adapter, self.quantization]

    def listen(self, demo: gr.Blocks, bar: TopBar) -> None:
        """Wire the widgets; ``bar`` shows the phase, and keeps the list of what is in memory."""
        self._bar = bar
        outputs = [self.progress, self.failure, *bar.status]
        gr.on([demo.load, self.model.change], self._offer_adapters, self.model, self.adapter, **LIGHT)
        gr.on(
            [self.model.change, self.quantization.change, self.adapter.change], lambda: "", None, self.progress, **LIGHT
        )
        self.load.click(self._load, self.selection, outputs, trigger_mode="once", **LONG)
        self.swap.click(self._swap, self.selection, outputs, trigger_mode="once", **LONG)
        self.loaded.click(self._unload, None, [self.progress, bar.again], **LONG)

    def spec(self, model: str | None, adapter: str | None, quantization: str | None) -> ModelSpec:
        """What the fields name. Raises `ModelNotFound` or `AdapterInvalid`. Reads the disk."""
        return self._models.spec(model or "", adapter_choice(adapter), quantization=quantization or None)  # type: ignore[arg-type]

    def weights(
        self, model: str | None, adapter: str | None, quantization: str | None, failure: Failure | None
    ) -> Weights:
        """What would answer now, and what is wrong with it. Reads the disk; never raises for what a person typed."""
        name, chosen = (model or "").strip(), adapter_choice(adapter)
        failed = failure if failure and (failure.model, failure.adapter) == (model, adapter) else None
        base_failure = failed.sentence if failed and not failed.of_adapter else ""
        adapter_failure = failed.sentence if failed and failed.of_adapter else ""
        try:
            spec = self.spec(model, None, quantization)
        except PlaygroundError as error:
            return Weights(name, chosen or "", base_problem=str(error))
        resident = resident_of(self._models, spec)
        shown = self._models.name(spec)
        if chosen is None:
            return Weights(shown, base_loaded=resident is not None, base_problem=base_failure)
        try:
            path = self.spec(model, adapter, quantization).adapters[0][0]
        except PlaygroundError as error:
            return Weights(shown, chosen, resident is not None, adapter_problem=str(error))
        attached = _attached(resident, path)
        problems = self._models.inspect(path).problems
        return Weights(
            shown,
            self._adapter_name(model or "", path),
            resident is not None,
            attached is not None,
            base_failure,
            adapter_problem(attached, problems, adapter_failure),
        )

    def names(self) -> dict[str, str]:
        """The offered name of each base in memory."""
        return {resident.base: self._models.name(ModelSpec(resident.base)) for resident in self._models.loaded()}

    def adapter_choices(self, model: str | None) -> list[str]:
        """What the adapter field offers for ``model``. Reads the disk."""
        return [texts.NO_ADAPTER, *(info.name for info in self._models.adapters(model or ""))]

    def _adapter_name(self, model: str, path: str) -> str:
        known = {info.path: info.name for info in self._models.adapters(model)}
        return known.get(path, Path(path).name)

    async def _offer_adapters(self, model: str | None) -> Any:
        """Another model, other adapters: the field returns to the base, which is always there."""
        return gr.update(choices=await asyncio.to_thread(self.adapter_choices, model), value=texts.NO_ADAPTER)

    async def _load(self, model: str | None, adapter: str | None, quantization: str | None) -> AsyncIterator[Updates]:
        async for updates in self._fetch(model, adapter, quantization, swap=False):
            yield updates

    async def _swap(self, model: str | None, adapter: str | None, quantization: str | None) -> AsyncIterator[Updates]:
        async for updates in self._fetch(model, adapter, quantization, swap=True):
            yield updates

    async def _fetch(
        self, model: str | None, adapter: str | None, quantization: str | None, *, swap: bool
    ) -> AsyncIterator[Updates]:
        """Load, or only attach: progress as it comes, then what answers now, or the one sentence that says why not."""
        bar = self._bar
        yield {self.progress: progress_line(Status("loading", "looking for the files")), **bar.shows("loading")}
        try:
            spec = await asyncio.to_thread(self.spec, model, adapter, quantization)
            if swap and resident_of(self._models, spec) is None:
                raise ModelNotLoaded(f"{model} is not in memory.", "Press Load; it attaches the adapter as well.")
            async for status in self._models.load(spec):
                yield {self.progress: progress_line(status), **bar.shows("loading")}
            weights = await asyncio.to_thread(self.weights, model, adapter, quantization, None)
            done = status_line("done", f"{'Swapped' if swap else 'Ready'}: {weights.label} answers now.")
            yield {self.progress: done, self.failure: None, **bar.shows("idle")}
        except Exception as error:
            sentence = report(error)
            yield {
                self.progress: status_line("error", sentence, error_details(error)),
                self.failure: failure_of(model, adapter, error),
                **bar.shows("error"),
            }

    async def _unload(self, event: gr.EventData) -> Updates:
        """Drop the model whose button was pressed, and say how much memory came back."""
        base = str(event.value)
        name = self._models.name(ModelSpec(base))
        try:
            freed = await self._models.unload(base)
            line = status_line("done", f"Unloaded {name}: {bytes_text(freed)} came back.")
        except Exception as error:
            line = status_line("error", report(error), error_details(error))
        return {self.progress: line, **self._bar.look_again()}


def failure_of(model: str | None, adapter: str | None, error: BaseException) -> Failure:
    """``error`` as the session remembers it, so that the chip of this very choice is red until it works."""
    is_adapters = isinstance(error, PlaygroundError) and error.code == "adapter_invalid"
    return Failure(model or "", adapter or "", is_adapters, error_sentence(error))


def _attached(resident: ResidentInfo | None, path: str) -> LoadedAdapter | None:
    """The adapter at ``path`` on ``resident``, if it is attached."""
    adapters = resident.adapters if resident else ()
    return next((adapter for adapter in adapters if adapter.path == path), None)
