"""The composer's edge: who answers next, and how much of the context the conversation and the draft take."""

from __future__ import annotations

import asyncio
from typing import Any

import gradio as gr

from playground.errors import ContextOverflow, ModelNotLoaded, PlaygroundError
from playground.services.assembly import Services
from playground.services.chat import Ask
from playground.types import Caller, GenerationSettings, ModelSpec
from playground.ui.model_picker import ModelPicker
from playground.ui.opened import Open
from playground.ui.safe_text import escape
from playground.ui.views.composer import answers_next, context_meter
from playground.ui.views.prompt import is_hopeless
from playground.ui.views.weights import Choice
from playground.ui.visitor import caller_of


class ChatEdge:
    """`look` is the handler behind every change of what would be sent; it loads nothing."""

    def __init__(self, services: Services, picker: ModelPicker) -> None:
        self._models = services.models
        self._generation = services.generation
        self._chat = services.chat
        self._picker = picker

    async def look(
        self, visitor: gr.Request, line: str | None, draft: str | None, prefill: str | None, key: str, system: str | None,
        *choice: Any,
    ) -> tuple[str, str]:  # fmt: skip
        """Who answers next, and the context meter. ``choice``: the picker's; ``line``: what is said over the composer."""
        caller, opened = caller_of(visitor), Open.parse(key)
        said = (draft or "", prefill or "", opened, system or "")
        return await asyncio.to_thread(self._look, caller, line or "", *said, Choice(*choice))

    def _look(
        self, caller: Caller, line: str, draft: str, prefill: str, opened: Open, system: str, choice: Choice
    ) -> tuple[str, str]:
        try:
            spec = self._picker.spec(choice)
            label = self._picker.label(choice, spec)
        except PlaygroundError as error:
            told = escape(str(error)) in line
            return "" if told else answers_next("", str(error)), context_meter(None)
        return answers_next(label), self._meter(caller, draft, prefill, opened, system, spec)

    def _meter(
        self, caller: Caller, draft: str, prefill: str, opened: Open, system: str, spec: ModelSpec
    ) -> str:  # fmt: skip
        resident = self._models.resident(spec)
        if resident is None or not (draft.strip() or opened.leaf):
            return context_meter(None)
        window = resident.context_window
        if is_hopeless(len(draft), window):
            return context_meter(window + 1, window)
        try:
            settings = GenerationSettings(system_prompt=system)
            ask = Ask(
                spec, conversation=opened.conversation, turn=opened.leaf, content=draft, settings=settings,
                prefill=prefill,
            )  # fmt: skip
            rendered = self._generation.render(self._chat.preview(caller, ask))
        except ContextOverflow:
            return context_meter(window + 1, window)
        except (ModelNotLoaded, PlaygroundError):  # the adapter is not attached yet, or the conversation is gone
            return context_meter(None)
        return context_meter(len(rendered.token_ids), rendered.window, rendered.dropped_turns)
