"""The shell: the bar above, conversations on the left, the tabs, and on the right what answers and how."""

from __future__ import annotations

from typing import Any

import gradio as gr

from playground.config import AppConfig
from playground.services.assembly import Services
from playground.ui import texts
from playground.ui.chat_tab import ChatTab
from playground.ui.inference_tab import InferenceTab
from playground.ui.last_changes import apart
from playground.ui.opened import Opened
from playground.ui.pace import Pace
from playground.ui.playground_tab import PlaygroundTab
from playground.ui.side_panel import SidePanel
from playground.ui.sidebar import Sidebar
from playground.ui.theme import launch_options
from playground.ui.topbar import TopBar

__all__ = ["build", "launch_options"]


class Pages(gr.Blocks):  # type: ignore[misc]
    """Gradio's pages, without the connection that each of them would hold open for as long as it is shown.

    A browser has six for one server, over all of its tabs. With one for every tab, and one more for every answer that is
    being written, a third tab's Stop would never be sent and a sixth tab would never open. A page that is closed while
    it is answered is noticed without it; states are forgotten by their age and number (see `launch_options`).
    """

    async def preprocess_data(
        self, block_fn: Any, inputs: list[Any], state: Any, explicit_call: bool = False
    ) -> list[Any]:
        """What a handler is given. Gradio would fetch the address that a file's place may be taken by: nothing here does."""
        if not explicit_call and names_an_address(inputs):
            raise gr.Error(texts.NO_ADDRESSES, print_exception=False)
        found: list[Any] = await super().preprocess_data(block_fn, inputs, state, explicit_call)
        return found

    def get_config_file(self) -> Any:
        """What a page is told of itself."""
        return {**apart(super().get_config_file()), "connect_heartbeat": False}


def names_an_address(value: Any) -> bool:
    """True when a file in what a page sent lies at an address, or under a name that no file here has."""
    if isinstance(value, dict):
        path = value.get("path")
        strange = isinstance(path, str) and ("://" in path or not path.isprintable())
        return strange or any(map(names_an_address, value.values()))
    return isinstance(value, list) and any(map(names_an_address, value))


def build(config: AppConfig, services: Services, *, may_sign_in: bool = False) -> gr.Blocks:
    """The pages over the given services; launch them with `launch_options`.

    ``may_sign_in`` offers signing in to whoever has come in without it.
    """
    bar = TopBar(services.models, services.generation, config, may_sign_in)
    side, opened = SidePanel(config, services), Opened(services.history)
    sidebar = Sidebar(config, services, opened)
    pace = Pace()
    playground = PlaygroundTab(config, services, side, opened, pace)
    inference = InferenceTab(config, services, side, opened, pace)
    chat = ChatTab(config, services, side, opened, pace)
    with Pages(title=texts.PRODUCT, analytics_enabled=False, fill_width=True, delete_cache=(3600, 86400)) as demo:
        bar.render()
        opened.render()
        with gr.Row(elem_classes="columns"):
            with gr.Column(scale=1, min_width=240, elem_id="conversations", elem_classes="left-column"):
                sidebar.render()
            with gr.Column(scale=3, min_width=320, elem_classes="main-column"), gr.Tabs(elem_id="tabs"):
                with gr.Tab("Playground", id="playground"):
                    playground.render()
                with gr.Tab("Inference", id="inference-tab", render_children=True):
                    inference.render()
                with gr.Tab("Full Chat", id="chat", render_children=True):
                    chat.render()
            with gr.Column(scale=1, min_width=300, elem_classes="side-column"):
                side.render()
        begun = side.listen(demo, bar)
        bar.listen(demo, side.picker)
        opened.listen(demo, begun)
        sidebar.listen(demo, bar.timer)
        playground.listen(demo, bar)
        inference.listen(demo, bar)
        chat.listen(demo, bar)
    return demo
