"""The panel beside all tabs: which model and adapter answer, with which settings, and taking an adapter along."""

from __future__ import annotations

from typing import Any

import gradio as gr

from playground.config import AppConfig
from playground.services.assembly import Services
from playground.ui.export_panel import ExportPanel
from playground.ui.model_picker import ModelPicker
from playground.ui.settings_panel import SettingsPanel
from playground.ui.topbar import TopBar


class SidePanel:
    """One picker and one set of settings, which every tab reads: what is chosen here answers everywhere."""

    def __init__(self, config: AppConfig, services: Services) -> None:
        self.picker = ModelPicker(services.models, config, services.uploads)
        self.settings = SettingsPanel(services.models, config, services.presets)
        self.exports = ExportPanel(services.exports)

    def render(self) -> None:
        """Make the widgets."""
        with gr.Accordion("Model and adapter", open=True, elem_id="model-picker"):
            self.picker.render()
        self.picker.report.render()
        self.settings.render()
        self.exports.render()

    def listen(self, demo: gr.Blocks, bar: TopBar) -> Any:
        """Wire the widgets to each other and to the bar; what fills the settings of a page that is opened."""
        self.picker.listen(demo, bar)
        self.exports.listen(self.picker)
        return self.settings.listen(demo, self.picker.model)
