"""What every tab needs, built once: the model picker, the settings panel, and the sentence that reports an error."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gradio as gr

from playground.config import AppConfig
from playground.errors import ModelNotLoaded, PlaygroundError
from playground.services.models import Models
from playground.types import STRATEGIES, GenerationSettings, Knob, LoadedAdapter, ModelSpec, ResidentInfo, Status, knobs
from playground.ui import texts, views
from playground.ui.safe_text import escape

if TYPE_CHECKING:
    from playground.ui.topbar import TopBar

log = logging.getLogger(__name__)

Updates = dict[Any, Any]
Values = tuple[Any, ...]

# Light handlers: answered at once, outside of the queue, without a progress veil, and not part of Gradio's API.
LIGHT: Mapping[str, Any] = {"queue": False, "show_progress": "hidden", "api_visibility": "private"}
# Long handlers: queued; how many run at once is the engine's business, not the queue's.
LONG: Mapping[str, Any] = {"show_progress": "hidden", "api_visibility": "private", "concurrency_limit": None}

# Values as they were typed: what is out of bounds is refused by the settings themselves, in a sentence that names it.
AS_TYPED: Mapping[str, Any] = {"preprocess": False}


def toast(sentence: str) -> None:
    """Show ``sentence`` as a toast. Only from a queued handler; Gradio renders toasts as HTML, hence the escaping."""
    gr.Warning(escape(sentence), duration=10, title="Not done")


def report(error: BaseException) -> str:
    """Say ``error`` in a toast and return the sentence; what is not ours goes to the log with its traceback."""
    if not isinstance(error, PlaygroundError):
        log.error("a page's action failed", exc_info=error)
    sentence = views.error_sentence(error)
    toast(sentence)
    return sentence


def show_html(value: str, **options: Any) -> gr.HTML:
    """A place for HTML from `views`, without Gradio's text styles around it."""
    return gr.HTML(value, apply_default_css=False, **{"js_on_load": None, **options})


def clicks_of(attribute: str) -> str:
    """Script for a `gr.HTML` whose buttons carry ``data-<attribute>``: their clicks reach Python with that value."""
    return (
        "element.addEventListener('click', (event) => {"
        f"  const button = event.target.closest('[data-{attribute}]');"
        f"  if (button) trigger('click', {{value: button.getAttribute('data-{attribute}')}});"
        "});"
    )


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
            views.loaded_list((), {}),
            elem_id="loaded-models",
            js_on_load=clicks_of("unload"),
        )

    @property
    def selection(self) -> list[gr.components.Component]:
        """The fields that say what answers."""
        return [self.model, self.adapter, self.quantization]

    def listen(self, demo: gr.Blocks, bar: TopBar) -> None:
        """Wire the widgets; ``bar`` shows the phase."""
        self._bar = bar
        outputs = [self.progress, self.loaded, self.failure, *bar.status]
        offering = gr.on([demo.load, self.model.change], self._offer_adapters, self.model, self.adapter, **LIGHT)
        gr.on(
            [self.model.change, self.quantization.change, self.adapter.change], lambda: "", None, self.progress, **LIGHT
        )
        loading = self.load.click(self._load, self.selection, outputs, trigger_mode="once", **LONG)
        swapping = self.swap.click(self._swap, self.selection, outputs, trigger_mode="once", **LONG)
        unloading = self.loaded.click(self._unload, None, [self.progress, self.loaded], **LONG)
        self.changes = (offering, loading, swapping, unloading)

    def spec(self, model: str | None, adapter: str | None, quantization: str | None) -> ModelSpec:
        """What the fields name. Raises `ModelNotFound` or `AdapterInvalid`. Reads the disk."""
        return self._models.spec(model or "", adapter_choice(adapter), quantization=quantization or None)  # type: ignore[arg-type]

    def weights(
        self, model: str | None, adapter: str | None, quantization: str | None, failure: views.Failure | None
    ) -> views.Weights:
        """What would answer now, and what is wrong with it. Reads the disk; never raises for what a person typed."""
        name, chosen = (model or "").strip(), adapter_choice(adapter)
        failed = failure if failure and (failure.model, failure.adapter) == (model, adapter) else None
        base_failure = failed.sentence if failed and not failed.of_adapter else ""
        adapter_failure = failed.sentence if failed and failed.of_adapter else ""
        try:
            spec = self.spec(model, None, quantization)
        except PlaygroundError as error:
            return views.Weights(name, chosen or "", base_problem=str(error))
        resident = resident_of(self._models, spec)
        shown = self._models.name(spec)
        if chosen is None:
            return views.Weights(shown, base_loaded=resident is not None, base_problem=base_failure)
        try:
            path = self.spec(model, adapter, quantization).adapters[0][0]
        except PlaygroundError as error:
            return views.Weights(shown, chosen, resident is not None, adapter_problem=str(error))
        attached = _attached(resident, path)
        problems = self._models.inspect(path).problems
        return views.Weights(
            shown,
            self._adapter_name(model or "", path),
            resident is not None,
            attached is not None,
            base_failure,
            views.adapter_problem(attached, problems, adapter_failure),
        )

    def loaded_html(self) -> str:
        """The list of what is in memory."""
        residents = self._models.loaded()
        return views.loaded_list(residents, {r.base: self._models.name(ModelSpec(r.base)) for r in residents})

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
        yield {self.progress: views.progress_line(Status("loading", "looking for the files")), **bar.shows("loading")}
        try:
            spec = await asyncio.to_thread(self.spec, model, adapter, quantization)
            if swap and resident_of(self._models, spec) is None:
                raise ModelNotLoaded(f"{model} is not in memory.", "Press Load; it attaches the adapter as well.")
            async for status in self._models.load(spec):
                yield {self.progress: views.progress_line(status)}
            weights = await asyncio.to_thread(self.weights, model, adapter, quantization, None)
            done = views.status_line("done", f"{'Swapped' if swap else 'Ready'}: {weights.label} answers now.")
            yield {self.progress: done, self.loaded: self.loaded_html(), self.failure: None, **bar.shows("idle")}
        except Exception as error:
            sentence = report(error)
            yield {
                self.progress: views.status_line("error", sentence, views.error_details(error)),
                self.loaded: self.loaded_html(),
                self.failure: failure_of(model, adapter, error),
                **bar.shows("error"),
            }

    async def _unload(self, event: gr.EventData) -> Updates:
        """Drop the model whose button was pressed, and say how much memory came back."""
        base = str(event.value)
        name = self._models.name(ModelSpec(base))
        try:
            freed = await self._models.unload(base)
            line = views.status_line("done", f"Unloaded {name}: {views.bytes_text(freed)} came back.")
        except Exception as error:
            line = views.status_line("error", report(error), views.error_details(error))
        return {self.progress: line, self.loaded: self.loaded_html()}


def failure_of(model: str | None, adapter: str | None, error: BaseException) -> views.Failure:
    """``error`` as the session remembers it, so that the chip of this very choice is red until it works."""
    is_adapters = isinstance(error, PlaygroundError) and error.code == "adapter_invalid"
    return views.Failure(model or "", adapter or "", is_adapters, views.error_sentence(error))


def _attached(resident: ResidentInfo | None, path: str) -> LoadedAdapter | None:
    """The adapter at ``path`` on ``resident``, if it is attached."""
    adapters = resident.adapters if resident else ()
    return next((adapter for adapter in adapters if adapter.path == path), None)


class SettingsPanel:
    """Every generation setting as a widget made from its `Knob`; presets; what was changed, and the way back.

    ``inputs`` are the preset field and then the settings in `names` order; `settings` turns their values into
    `GenerationSettings`.
    """

    # Reported per token, and shown by nothing on this page yet: it joins with the view of the tokens.
    names = tuple(name for name in knobs() if name != "top_logprobs")
    _FIRST = (
        "system_prompt", "strategy", "temperature", "top_p", "top_k", "num_beams", "max_new_tokens",
        "repetition_penalty", "num_return_sequences", "seed",
    )  # fmt: skip

    def __init__(self, models: Models, config: AppConfig) -> None:
        self._models = models
        self._config = config

    def render(self) -> None:
        """Make the widgets, showing the preset that a new visitor starts with."""
        model = next(iter(self._config.models), "")
        preset = self._start_preset(model)
        values = views.panel_values(self._baseline(preset, model))
        with gr.Accordion(views.settings_heading(preset, ()), open=True, elem_id="settings") as self.frame:
            self.preset = gr.Dropdown(
                self._preset_names(model), value=preset, label="Preset", elem_id="preset", elem_classes="field"
            )
            self.changed = show_html("", elem_id="changed", js_on_load=clicks_of("knob"))
            widgets = {name: _widget(name, values) for name in self._FIRST}
            with gr.Accordion("More", open=False, elem_id="more-settings"):
                widgets |= {name: _widget(name, values) for name in self.names if name not in widgets}
        self.widgets = {name: widgets[name] for name in self.names}

    @property
    def inputs(self) -> list[gr.components.Component]:
        """The preset field and the settings' widgets."""
        return [self.preset, *self.widgets.values()]

    def settings(self, values: Values) -> GenerationSettings:
        """The settings that the values of `inputs` mean. Raises `InvalidRequest`."""
        return views.settings_from(self._by_name(values))

    def listen(self, model: gr.Dropdown) -> None:
        """Wire the widgets; ``model`` is the field whose recommended settings are on offer."""
        outputs = [self.frame, self.changed, *self.inputs]
        edits = [widget.input for widget in self.widgets.values()]
        options = {**LIGHT, **AS_TYPED}
        gr.on(edits, self._edited, [model, *self.inputs], outputs, trigger_mode="always_last", **options)
        self.preset.input(self._chosen, [model, self.preset], outputs, **options)
        self.changed.click(self._undone, [model, *self.inputs], outputs, **options)
        model.change(self._for_model, [model, *self.inputs], outputs, **options)

    def _by_name(self, values: Values) -> dict[str, Any]:
        return dict(zip(self.names, values[1:], strict=True))

    def _preset_names(self, model: str) -> list[str]:
        own = [texts.MODELS_OWN] if self._models.recommended(model) else []
        return [*own, *self._config.presets]

    def _start_preset(self, model: str) -> str:
        names = self._preset_names(model)
        return next((name for name in (texts.MODELS_OWN, "Balanced") if name in names), names[0])

    def _baseline(self, preset: str, model: str) -> GenerationSettings:
        own = self._models.recommended(model) if preset == texts.MODELS_OWN else None
        return own or self._config.presets.get(preset) or GenerationSettings()

    def _edited(self, model: str | None, *values: Any) -> Updates:
        """Mark what differs from the preset, and show the settings that the strategy uses."""
        return self._dress(model or "", values[0], self._by_name(values))

    def _chosen(self, model: str | None, preset: str) -> Updates:
        """Another preset: its values, nothing changed."""
        return self._fill(model or "", preset)

    def _undone(self, event: gr.EventData, model: str | None, *values: Any) -> Updates:
        """Set the one setting whose button was pressed, or all of them, back to the preset's value."""
        preset, name = values[0], str(event.value)
        if name == "*":
            return self._fill(model or "", preset)
        old = views.panel_values(self._baseline(preset, model or ""))[name]
        current = {**self._by_name(values), name: old}
        updates = self._dress(model or "", preset, current)
        updates[self.widgets[name]] = gr.update(**updates[self.widgets[name]], value=old)
        return updates

    def _for_model(self, model: str | None, *values: Any) -> Updates:
        """Another model has other settings of its own; a built-in preset stays as it is, changes included."""
        preset, names = values[0], self._preset_names(model or "")
        if preset == texts.MODELS_OWN or preset not in names:
            preset = preset if preset in names else self._start_preset(model or "")
            updates = self._fill(model or "", preset)
        else:
            updates = self._dress(model or "", preset, self._by_name(values))
        return {**updates, self.preset: gr.update(choices=names, value=preset)}

    def _fill(self, model: str, preset: str) -> Updates:
        current = views.panel_values(self._baseline(preset, model))
        updates = self._dress(model, preset, current)
        for name, widget in self.widgets.items():
            updates[widget] = gr.update(**updates[widget], value=current[name])
        return updates

    def _dress(self, model: str, preset: str, current: Mapping[str, Any]) -> Updates:
        """Everything about the panel but the values: heading, changed list, marks, and which settings are shown."""
        baseline = self._baseline(preset, model)
        changed = views.changed_settings(current, baseline)
        updates: Updates = {
            self.frame: gr.update(label=views.settings_heading(preset, changed)),
            self.changed: views.changed_list(current, baseline),
        }
        for name, widget in self.widgets.items():
            updates[widget] = {
                "elem_classes": _classes(name in changed),
                "visible": views.is_relevant(name, current["strategy"]),
            }
        return {key: gr.update(**value) if key in self.widgets.values() else value for key, value in updates.items()}


def _classes(changed: bool) -> list[str]:
    return ["field", "hinted", *(["changed"] if changed else [])]


def _widget(name: str, values: Mapping[str, Any]) -> gr.components.Component:
    """The widget that suits a setting: its kind from the value, its bounds, step and help from the `Knob`."""
    knob: Knob = knobs()[name]
    value = values[name]
    shared: dict[str, Any] = {
        "label": knob.label,
        "info": views.knob_help(name),
        "elem_id": f"setting-{name}",
        "elem_classes": _classes(False),
        "visible": views.is_relevant(name, values["strategy"]),
        "interactive": True,
    }
    if name == "strategy":
        return gr.Dropdown([(texts.STRATEGIES[s], s) for s in STRATEGIES], value=value, **shared)
    if isinstance(value, bool):
        return gr.Checkbox(value, **shared)
    if name == "seed":
        return gr.Textbox(value, placeholder="a new one each time", max_lines=1, **shared)
    if isinstance(value, str):
        return gr.Textbox(value, lines=2, max_lines=6, **shared)
    if knob.low is None or knob.high is None:
        return gr.Number(value, minimum=knob.low, maximum=knob.high, step=knob.step or 1, precision=0, **shared)
    return gr.Slider(knob.low, knob.high, value, step=knob.step, buttons=[], **shared)
