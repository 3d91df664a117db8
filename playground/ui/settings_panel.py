"""The settings panel: every generation setting as a widget, presets, and what was changed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import gradio as gr

from playground.config import AppConfig
from playground.errors import PlaygroundError
from playground.services.models import Models
from playground.services.presets import OwnPresets
from playground.types import STRATEGIES, Caller, GenerationSettings, Knob, knobs
from playground.ui import texts
from playground.ui.preset_row import PresetRow
from playground.ui.settings_mirrors import SettingsMirrors
from playground.ui.views import settings as view
from playground.ui.visitor import caller_of
from playground.ui.wiring import AS_TYPED, LIGHT, Updates, Values, clicks_of, show_html


@dataclass(frozen=True)
class Offer:
    """What somebody may choose from for one model: name → settings, and the preset that pages begin with.

    ``own`` are the names that the person saved. ``chosen`` says that the person chose the first one, not the app.
    """

    settings: Mapping[str, GenerationSettings]
    first: str
    own: frozenset[str] = frozenset()
    chosen: bool = False

    def baseline(self, preset: str) -> GenerationSettings:
        """What ``preset`` stands for; the defaults for one that is no longer there."""
        return self.settings.get(preset) or GenerationSettings()


class SettingsPanel:
    """Every generation setting as a widget made from its `Knob`; presets; what was changed, and the way back.

    ``inputs`` are the preset field and then the settings in `names` order; `settings` turns their values into
    `GenerationSettings`. Another part of the page may show some of them as well: `SettingsMirrors`.
    """

    # What is shown by nothing on this page yet joins with the view of the tokens.
    names = tuple(name for name in knobs() if name not in ("top_logprobs", "logit_bias"))
    _FIRST = (
        "system_prompt", "strategy", "temperature", "top_p", "top_k", "num_beams", "max_new_tokens",
        "repetition_penalty", "num_return_sequences", "seed",
    )  # fmt: skip

    def __init__(self, models: Models, config: AppConfig, presets: OwnPresets) -> None:
        self._models = models
        self._config = config
        self._presets = presets
        self.row = PresetRow(presets, self)
        self.mirrors = SettingsMirrors(self, config.presets)

    def render(self) -> None:
        """Make the widgets, showing the preset that a new visitor starts with."""
        offer = self._offer(None, next(iter(self._config.models), ""))
        preset = offer.first
        values = view.panel_values(offer.baseline(preset))
        with gr.Accordion(view.settings_heading(preset, ()), open=True, elem_id="settings") as self.frame:
            self.preset = gr.Dropdown(
                list(offer.settings), value=preset, label="Preset", elem_id="preset", elem_classes="field"
            )
            self.row.render()
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

    @property
    def outputs(self) -> list[gr.components.Component]:
        """What `shows` and `fills` send."""
        return [self.frame, self.changed, *self.row.marks, *self.inputs, *self.mirrors.outputs]

    def own(self, caller: Caller) -> Mapping[str, GenerationSettings]:
        """The presets that ``caller`` has saved; none for whoever may not have any. Reads the disk."""
        try:
            return self._presets.own(caller)
        except PlaygroundError:
            return {}

    def listen(self, demo: gr.Blocks, model: gr.Dropdown) -> Any:
        """Wire the widgets; ``model`` is the field whose recommended settings are on offer. What fills a page at first."""
        # A pasted text is no `input` to Gradio.
        edits = [widget.change if isinstance(widget, gr.Textbox) else widget.input for widget in self.widgets.values()]
        options, known = {**LIGHT, **AS_TYPED}, [model, *self.inputs]
        gr.on(edits, self._edited, known, self.outputs, trigger_mode="always_last", **options)
        self.preset.input(self._chosen, [model, self.preset], self.outputs, **options)
        self.preset.focus(self._listed, [model, self.preset], self.preset, **options)
        self.changed.click(self._undone, known, self.outputs, **options)
        model.change(self._for_model, known, self.outputs, **options)
        self.row.listen(model)
        self.mirrors.listen(model)
        return demo.load(self._begun, known, self.outputs, **options)

    def _by_name(self, values: Values) -> dict[str, Any]:
        return dict(zip(self.names, values[1:], strict=True))

    def _offer(self, caller: Caller | None, model: str | None) -> Offer:
        """What ``caller`` may choose from; None is nobody in particular. Reads the disk."""
        recommended = self._models.recommended(model or "")
        shared = {**({texts.MODELS_OWN: recommended} if recommended else {}), **self._config.presets}
        own = self.own(caller) if caller else {}
        settings = {**shared, **{name: its for name, its in own.items() if name not in shared}}
        start = next((name for name in (texts.MODELS_OWN, "Balanced") if name in shared), next(iter(shared)))
        wanted = self._first(caller)
        chosen = wanted in settings
        return Offer(settings, wanted if chosen else start, frozenset(own) - frozenset(shared), chosen)

    def _first(self, caller: Caller | None) -> str:
        try:
            return self._presets.first(caller) if caller else ""
        except PlaygroundError:
            return ""

    # --- what is sent to the page ---

    def shows(self, caller: Caller, model: str | None, preset: str, values: Values) -> Updates:
        """The fields' ``values`` under ``preset``, "" for the one that pages begin with; what is on offer now."""
        offer = self._offer(caller, model)
        preset = preset or offer.first
        return {**self._dress(offer, preset, self._by_name(values)), **self._choices(offer, preset)}

    def fills(self, caller: Caller, model: str | None, preset: str) -> Updates:
        """The fields as ``preset`` has them; what is on offer now."""
        offer = self._offer(caller, model)
        return {**self._fill(offer, preset), **self._choices(offer, preset)}

    def begins_with(self, caller: Caller, model: str | None, preset: str, values: Values) -> Updates:
        """The fields as ``preset`` has them, unless the person chose another to begin with, or has changed something."""
        offer, shown = self._offer(caller, model), values[0]
        changed = view.changed_settings(self._by_name(values), offer.baseline(shown))
        if preset in offer.settings and shown == offer.first and not (offer.chosen or changed):
            return self.fills(caller, model, preset)
        return self.shows(caller, model, shown, values)

    def marked(self, caller: Caller, model: str | None, preset: str) -> Updates:
        """Whether ``preset`` is one's own, and the first."""
        return self._marks(self._offer(caller, model), preset)

    def _choices(self, offer: Offer, preset: str) -> Updates:
        return {self.preset: gr.update(choices=list(offer.settings), value=preset)}

    # --- what the page asks ---

    def _begun(self, visitor: gr.Request, model: str | None, *values: Any) -> Updates:
        """A page is opened: its person's own presets, and the one to begin with unless something was changed already."""
        caller = caller_of(visitor)
        offer, preset = self._offer(caller, model), values[0]
        if not (offer.own or offer.chosen):
            return {self.preset: gr.skip()}
        untouched = self._offer(None, model).first == preset
        if untouched and not view.changed_settings(self._by_name(values), offer.baseline(preset)):
            return self.fills(caller, model, offer.first)
        return self.shows(caller, model, preset, values)

    def _listed(self, visitor: gr.Request, model: str | None, preset: str) -> Any:
        """The list is about to be opened: what was saved on another page meanwhile is there."""
        names = list(self._offer(caller_of(visitor), model).settings)
        # Gradio's dropdown breaks when an entry that is chosen goes while the list is open.
        return gr.update(choices=names if preset in names else [*names, preset])

    def _edited(self, visitor: gr.Request, model: str | None, *values: Any) -> Updates:
        """Mark what differs from the preset, and show the settings that the strategy uses."""
        return self._dress(self._offer(caller_of(visitor), model), values[0], self._by_name(values))

    def _chosen(self, visitor: gr.Request, model: str | None, preset: str) -> Updates:
        """Another preset: its values, nothing changed."""
        return self._fill(self._offer(caller_of(visitor), model), preset)

    def chosen_elsewhere(self, visitor: gr.Request, model: str | None, preset: str) -> Updates:
        """Another preset, chosen in a mirror: its values, and its name in this panel's own field."""
        return self.fills(caller_of(visitor), model, preset)

    def mirrored(self, visitor: gr.Request, name: str, model: str | None, *values: Any) -> Updates:
        """What `_edited` does, for the setting ``name`` whose mirror is being moved."""
        return self._dress(self._offer(caller_of(visitor), model), values[0], self._by_name(values), moving=name)

    def _undone(self, visitor: gr.Request, event: gr.EventData, model: str | None, *values: Any) -> Updates:
        """Set the one setting whose button was pressed, or all of them, back to the preset's value."""
        offer, preset, name = self._offer(caller_of(visitor), model), values[0], str(event.value)
        if name == "*":
            return self._fill(offer, preset)
        old = view.panel_values(offer.baseline(preset))[name]
        current = {**self._by_name(values), name: old}
        updates = self._dress(offer, preset, current)
        updates[self.widgets[name]] = gr.update(**updates[self.widgets[name]], value=old)
        return updates

    def _for_model(self, visitor: gr.Request, model: str | None, *values: Any) -> Updates:
        """Another model has other settings of its own; any other preset stays as it is, changes included."""
        offer, preset = self._offer(caller_of(visitor), model), values[0]
        if preset == texts.MODELS_OWN or preset not in offer.settings:
            preset = preset if preset in offer.settings else offer.first
            updates = self._fill(offer, preset)
        else:
            updates = self._dress(offer, preset, self._by_name(values))
        return {**updates, **self._choices(offer, preset)}

    def _fill(self, offer: Offer, preset: str) -> Updates:
        current = view.panel_values(offer.baseline(preset))
        updates = self._dress(offer, preset, current)
        for name, widget in self.widgets.items():
            updates[widget] = gr.update(**updates[widget], value=current[name])
        return updates

    def _marks(self, offer: Offer, preset: str) -> Updates:
        first = preset == offer.first
        return self.row.shows(preset, own=preset in offer.own, first=first, only=not offer.chosen)

    def _dress(self, offer: Offer, preset: str, current: Mapping[str, Any], moving: str = "") -> Updates:
        """Everything about the panel but the values: heading, changed list, marks, and which settings are shown."""
        baseline = offer.baseline(preset)
        changed = view.changed_settings(current, baseline)
        updates: Updates = {
            self.frame: gr.update(label=view.settings_heading(preset, changed)),
            self.changed: view.changed_list(current, baseline),
            **self._marks(offer, preset),
            **self.mirrors.shows(preset, current, bool(changed), but=moving),
        }
        for name, widget in self.widgets.items():
            visible = view.is_relevant(name, current["strategy"])
            updates[widget] = gr.update(elem_classes=_classes(name in changed), visible=visible)
        return updates


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
