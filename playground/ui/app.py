"""The shell: the bar above and the tabs below. A tab joins when it works; now there is one."""

from __future__ import annotations

import gradio as gr

from playground.config import AppConfig
from playground.services.generation import Generation
from playground.services.models import Models
from playground.ui import texts
from playground.ui.playground_tab import PlaygroundTab
from playground.ui.theme import launch_options
from playground.ui.topbar import TopBar

__all__ = ["build", "launch_options"]


def build(config: AppConfig, models: Models, generation: Generation) -> gr.Blocks:
    """The pages over the given services; launch them with `launch_options`."""
    bar = TopBar(models, generation)
    tab = PlaygroundTab(config, models, generation)
    with gr.Blocks(title=texts.PRODUCT, analytics_enabled=False, fill_width=True, delete_cache=(3600, 86400)) as demo:
        bar.render()
        with gr.Tabs(elem_id="tabs"), gr.Tab("Playground", id="playground"):
            tab.render()
        tab.listen(demo, bar)
        bar.listen(demo, tab.picker)
    return demo
