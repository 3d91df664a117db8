"""Further widgets for some of the settings, elsewhere on the page; the settings panel's own are the ones that count."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import gradio as gr

from playground.types import GenerationSettings, knobs
from playground.ui.views import settings as view
from playground.ui.wiring import AS_TYPED, LIGHT, Updates

if TYPE_CHECKING:
    from playground.ui.settings_panel import SettingsPanel

USUAL = {"max_new_tokens": 1024}  # how far a slider goes where the setting itself has no upper bound

# Moved above zero under a strategy that makes no draws, the temperature brings sampling with it; at zero there are none.
_TEMPERATURE_JS = """(shown, strategy, temperature) => {
  const draws = ["sampling", "top_k"].includes(strategy);
  if (shown > 0) return [draws ? strategy : "sampling", shown];
  return [draws ? "greedy" : strategy, temperature];
}"""


class SettingsMirrors:
    """`render` and `render_presets` make widgets inside the current column, `listen` wires them both ways.

    A mirror that is moved sets the panel's own widget without asking the server, so whatever reads the settings may read
    the panel's alone. Mirrors show what the panel holds as often as the panel changes; until then ``first``.
    """

    def __init__(
        self, panel: SettingsPanel, presets: Mapping[str, GenerationSettings], first: str = "Balanced"
    ) -> None:
        self._panel = panel
        self._presets = presets
        self.first = first if first in presets else next(iter(presets), "")
        self._begin = view.panel_values(presets.get(self.first) or GenerationSettings())
        self.widgets: dict[str, gr.Slider] = {}
        self.preset: gr.Radio | None = None

    def render_presets(self, elem_id: str, **options: Any) -> gr.Radio:
        """Make the choice of the built-in presets: none is marked where others, or changed values, are in force."""
        self.preset = gr.Radio(
            list(self._presets), value=self.first, label="Preset", elem_id=elem_id,
            elem_classes=["field", "inline", "segments"], **options,
        )  # fmt: skip
        return self.preset

    def render(self, name: str, elem_id: str, **options: Any) -> gr.Slider:
        """Make another slider for the setting ``name``; one without an upper bound goes as far as is usual."""
        knob = knobs()[name]
        self.widgets[name] = gr.Slider(
            knob.low, USUAL.get(name, knob.high), view.mirrored(name, self._begin), step=knob.step or 1, label=knob.label,
            info=view.knob_help(name), buttons=[], elem_id=elem_id, elem_classes=["field", "hinted"], **options,
        )  # fmt: skip
        return self.widgets[name]

    @property
    def outputs(self) -> list[gr.components.Component]:
        """What `shows` fills."""
        return [*([self.preset] if self.preset else []), *self.widgets.values()]

    def shows(self, preset: str, current: Mapping[str, Any], changed: bool, but: str = "") -> Updates:
        """Updates for the panel's values; not for the mirror ``but``, which somebody is moving."""
        marked = preset if preset in self._presets and not changed else None
        updates: Updates = {self.preset: gr.update(value=marked)} if self.preset else {}
        others = {name: widget for name, widget in self.widgets.items() if name != but}
        return {**updates, **{widget: _at(name, view.mirrored(name, current)) for name, widget in others.items()}}

    def listen(self, model: gr.Dropdown) -> None:
        """Wire the widgets to the panel's; ``model`` is the field whose presets are on offer."""
        panel, options = self._panel, {**LIGHT, **AS_TYPED}
        if self.preset:
            self.preset.input(panel.chosen_elsewhere, [model, self.preset], panel.outputs, **options)
        for name, widget in self.widgets.items():
            target = panel.widgets[name]
            if name == "temperature":
                drawn = [panel.widgets["strategy"], target]
                moved = widget.input(None, [widget, *drawn], drawn, js=_TEMPERATURE_JS, show_progress="hidden")
            else:
                moved = widget.input(None, widget, target, js="(value) => value", show_progress="hidden")
            self._listen_moved(moved, name, model)

    def _listen_moved(self, moved: Any, name: str, model: gr.Dropdown) -> None:
        """What the panel marks, once the mirror of ``name`` was moved."""
        panel = self._panel

        def marks(visitor: gr.Request, model: str | None, *values: Any) -> Updates:
            return panel.mirrored(visitor, name, model, *values)

        known = [model, *panel.inputs]
        moved.then(marks, known, panel.outputs, trigger_mode="always_last", **LIGHT, **AS_TYPED)


def _at(name: str, value: Any) -> Any:
    """An update of the slider for ``name``; it is made longer for what goes beyond the usual."""
    if name not in USUAL or not isinstance(value, (int, float)):
        return gr.update(value=value)
    return gr.update(value=value, maximum=max(USUAL[name], value))
