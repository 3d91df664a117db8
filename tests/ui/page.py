"""The Playground tab built over a scripted engine, without a server: what its handlers send to the page."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import gradio as gr
from starlette.requests import Request

from playground.config import AppConfig
from playground.local_inference import LocalInference
from playground.services.assembly import Services
from playground.types import Caller
from playground.ui import texts
from playground.ui.opened import Opened
from playground.ui.playground_tab import PlaygroundTab
from playground.ui.side_panel import SidePanel
from playground.ui.topbar import TopBar


class Tab:
    """One tab, a `PlaygroundTab` or what ``kind`` is, built over ``engine`` with the bar and the panel beside it."""

    kind: Any = PlaygroundTab

    def __init__(self, engine: LocalInference, config: AppConfig) -> None:
        self.services = Services.over(engine, config)
        self.bar = TopBar(self.services.models, self.services.generation, config)
        self.side, self.opened = SidePanel(config, self.services), Opened(self.services.history)
        self.tab = self.kind(config, self.services, self.side, self.opened)
        with gr.Blocks(analytics_enabled=False) as self.demo:
            self.bar.render()
            self.opened.render()
            self.tab.render()
            self.side.render()
            self.side.listen(self.demo, self.bar)
            self.tab.listen(self.demo, self.bar)
            self.bar.listen(self.demo, self.side.picker)


class Page(Tab):
    """The Playground tab, and what its handlers send."""

    def run(
        self, prompt: str, model: str = "starter", adapter: str = texts.NO_ADAPTER, streaming: bool = True,
        visitor: Any = "somebody", strength: float | None = 1.0, template: str = "chat", key: str = "",
        again: bool = False, **changes: Any,
    ):  # fmt: skip
        """The handler of Generate, or of Try again, with the settings as they stand and ``changes`` over them.

        ``visitor`` is the session of an open page, or what `seen_by_the_gate` makes.
        """
        asks = SimpleNamespace(session_hash=visitor) if isinstance(visitor, str) else visitor
        panel = self.tab.panel
        values = [changes.get(name, widget.value) for name, widget in panel.widgets.items()]
        run = self.tab._run_again if again else self.tab._run
        return run(
            asks,
            prompt,
            template,
            "chatbot",
            streaming,
            key,
            model,
            adapter,
            "auto",
            strength,
            panel.preset.value,
            *values,
        )

    async def look(
        self, *choice: Any, phase: str = "idle", failure: Any = None, shown: tuple[Any, ...] = (), visitor: Any = None
    ) -> tuple[Any, ...]:
        """The top bar's parts as `_refresh` sends them, and what it remembers of them."""
        asks = visitor or SimpleNamespace(session_hash="somebody")
        return await self.bar._refresh(
            asks, *(choice or ("starter", texts.NO_ADAPTER, "auto", 1.0)), failure, phase, shown
        )


def seen_by_the_gate(caller: Caller) -> gr.Request:
    """The request of a page's event as Gradio hands it on, after the gate has seen it."""
    return gr.Request(Request({"type": "http", "headers": [], "state": {"caller": caller}}), session_hash="one")


async def begun(page: Page) -> tuple[Any, Any]:
    """A run of Generate that has shown its first text, and the answer as the page holds it then."""
    run, answer = page.run("Hi"), None
    async for update in run:
        answer = update.get(page.tab.area.answer, answer)
        if update.get(page.tab.area.text):
            break
    return run, answer


async def collected(updates) -> list[dict[Any, Any]]:
    return [update async for update in updates]


def last(updates: list[dict[Any, Any]], component: Any) -> Any:
    """What ``component`` was sent last."""
    return [update[component] for update in updates if component in update][-1]
