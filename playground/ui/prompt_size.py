"""How large a prompt is while it is written, by the model's own tokenizer, and how the model will read it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import gradio as gr

from playground.errors import ContextOverflow, ModelNotLoaded, PlaygroundError
from playground.services.chat import Ask, Chat
from playground.services.generation import Generation
from playground.services.models import Models
from playground.types import Caller, GenerationSettings, ModelSpec, Template
from playground.ui import texts
from playground.ui.model_picker import ModelPicker
from playground.ui.opened import Open
from playground.ui.views.prompt import hopeless_counter, is_hopeless, prompt_counter, rendered_preview
from playground.ui.views.weights import Choice
from playground.ui.visitor import caller_of


class PromptSize:
    """`look` is the handler behind every change of what would be sent; it loads nothing, and says where that leaves gaps."""

    def __init__(self, models: Models, generation: Generation, chat: Chat, picker: ModelPicker) -> None:
        self._models = models
        self._generation = generation
        self._chat = chat
        self._picker = picker

    async def look(
        self, visitor: gr.Request, prompt: str, template: Template, system_prompt: str, key: str, *choice: Any
    ) -> tuple[str, str]:
        """Characters and tokens of the prompt, and with all that is sent before it the share of the context; the prompt as
        the model will read it. ``key`` says what is open, ``choice`` are the picker's values.
        """
        settings = GenerationSettings(system_prompt=system_prompt)
        opened = Open.parse(key)

        def ask(spec: ModelSpec) -> Ask:
            return Ask(spec, "send", opened.conversation, opened.leaf, prompt, settings, template)

        return await asyncio.to_thread(self._look_at, caller_of(visitor), ask, prompt, Choice(*choice))

    def _look_at(self, caller: Caller, ask: Callable[[ModelSpec], Ask], prompt: str, choice: Choice) -> tuple[str, str]:
        characters = len(prompt)
        try:
            spec = self._picker.spec(choice)
            resident = self._models.resident(spec)
            if resident is None:
                return prompt_counter(characters), rendered_preview(None, texts.PREVIEW_NOT_LOADED)
            if is_hopeless(characters, resident.context_window):
                counter = hopeless_counter(characters, resident.context_window)
                return counter, rendered_preview(None, texts.PREVIEW_TOO_LONG)
            tokens = self._generation.count_tokens(spec, prompt)
            return self._rendered(caller, ask(spec), tokens, resident.context_window)
        except ModelNotLoaded:  # the base is there, this adapter is not yet
            return prompt_counter(characters), rendered_preview(None, texts.PREVIEW_NOT_LOADED)
        except PlaygroundError as error:
            return prompt_counter(characters), rendered_preview(None, str(error))

    def _rendered(self, caller: Caller, ask: Ask, tokens: int, window: int) -> tuple[str, str]:
        characters = len(ask.content)
        if not ask.content.strip() and not (ask.turn and ask.template == "chat"):  # nothing at all would be sent
            return prompt_counter(characters, tokens, tokens, window), rendered_preview(None, texts.PREVIEW_EMPTY)
        try:
            rendered = self._generation.render(self._chat.preview(caller, ask))
        except ContextOverflow as error:
            over = max(tokens, window + 1)
            return prompt_counter(characters, tokens, over, window), rendered_preview(None, str(error))
        counter = prompt_counter(characters, tokens, len(rendered.token_ids), rendered.window)
        return counter, rendered_preview(rendered)
