"""The settings panel: every generation setting as a widget, presets, and what was changed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import gradio as gr

from playground.config import AppConfig
from playground.services.models import Models
from playground.types import STRATEGIES, GenerationSettings, Knob, knobs
from playground.ui import texts
from playground.ui.views import settings as view
from playground.ui.wiring import AS_TYPED, LIGHT, Updates, Values, clicks_of, show_html


class SettingsPanel:
    """Every generation setting as a widget made from its `Knob`; presets; what was changed, and the way back.

    ``inputs`` are the preset field and then the settings in `names` order; `settings` turns their values into
    `GenerationSettings`.
    """

    # What is shown by nothing on this page yet joins with the view of the tokens.
    names = tuple(name for name in knobs() if name not in ("top_logprobs", "logit_bias"))
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
        values = view.panel_values(self._baseline(preset, model))
        with gr.Accordion(view.settings_heading(preset, ()), open=True, elem_id="settings") as self.frame:
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
        return view.settings_from(self._by_name(values))

    def listen(self, model: gr.Dropdown) -> None:
        """Wire the widgets; ``model`` is the field whose recommended settings are on offer."""
        outputs = [self.frame, self.changed, *self.inputs]
        # A pasted text is no `input` to Gradio.
        edits = [widget.change if isinstance(widget, gr.Textbox) else widget.input for widget in self.widgets.values()]
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
        old = view.panel_values(self._baseline(preset, model or ""))[name]
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
        current = view.panel_values(self._baseline(preset, model))
        updates = self._dress(model, preset, current)
        for name, widget in self.widgets.items():
            updates[widget] = gr.update(**updates[widget], value=current[name])
        return updates

    def _dress(self, model: str, preset: str, current: Mapping[str, Any]) -> Updates:
        """Everything about the panel but the values: heading, changed list, marks, and which settings are shown."""
        baseline = self._baseline(preset, model)
        changed = view.changed_settings(current, baseline)
        updates: Updates = {
            self.frame: gr.update(label=view.settings_heading(preset, changed)),
            self.changed: view.changed_list(current, baseline),
        }
        for name, widget in self.widgets.items():
            updates[widget] = {
                "elem_classes": _classes(name in changed),
                "visible": view.is_relevant(name, current["strategy"]),
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
        "info": view.knob_help(name),
        "elem_id": f"setting-{name}",
        "elem_classes": _classes(False),
        "visible": view.is_relevant(name, values["strategy"]),
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
