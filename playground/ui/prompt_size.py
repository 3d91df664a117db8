"""How large a prompt is while it is written, by the model's own tokenizer, and how the model will read it."""

from __future__ import annotations

import asyncio
from typing import Any

from playground.errors import ContextOverflow, ModelNotLoaded, PlaygroundError
from playground.services.generation import Generation
from playground.services.models import Models
from playground.types import GenerationRequest, GenerationSettings, ModelSpec, Template
from playground.ui import texts
from playground.ui.model_picker import ModelPicker, resident_of
from playground.ui.views.prompt import hopeless_counter, is_hopeless, prompt_counter, rendered_preview
from playground.ui.views.weights import Choice


class PromptSize:
    """`look` is the handler behind every change of the prompt; it loads nothing, and says so where that leaves gaps."""

    def __init__(self, models: Models, generation: Generation, picker: ModelPicker) -> None:
        self._models = models
        self._generation = generation
        self._picker = picker

    async def look(self, prompt: str, template: Template, system_prompt: str, *choice: Any) -> tuple[str, str]:
        """Characters, tokens and share of the context; the prompt as the model will read it. ``choice``: the picker's."""
        return await asyncio.to_thread(self._look_at, prompt, template, system_prompt, Choice(*choice))

    def _look_at(self, prompt: str, template: Template, system_prompt: str, choice: Choice) -> tuple[str, str]:
        characters = len(prompt)
        try:
            spec = self._picker.spec(choice)
            resident = resident_of(self._models, spec)
            if resident is None:
                return prompt_counter(characters), rendered_preview(None, texts.PREVIEW_NOT_LOADED)
            if is_hopeless(characters, resident.context_window):
                counter = hopeless_counter(characters, resident.context_window)
                return counter, rendered_preview(None, texts.PREVIEW_TOO_LONG)
            tokens = self._generation.count_tokens(spec, prompt)
            if not prompt.strip():
                counter = prompt_counter(characters, tokens, tokens, resident.context_window)
                return counter, rendered_preview(None, texts.PREVIEW_EMPTY)
            return self._rendered(spec, prompt, template, system_prompt, tokens, resident.context_window)
        except ModelNotLoaded:  # the base is there, this adapter is not yet
            return prompt_counter(characters), rendered_preview(None, texts.PREVIEW_NOT_LOADED)
        except PlaygroundError as error:
            return prompt_counter(characters), rendered_preview(None, str(error))

    def _rendered(
        self, spec: ModelSpec, prompt: str, template: Template, system_prompt: str, tokens: int, window: int
    ) -> tuple[str, str]:
        settings = GenerationSettings(system_prompt=system_prompt)
        try:
            rendered = self._generation.render(GenerationRequest(spec, prompt, settings=settings, template=template))
        except ContextOverflow as error:
            over = max(tokens, window + 1)
            return prompt_counter(len(prompt), tokens, over, window), rendered_preview(None, str(error))
        counter = prompt_counter(len(prompt), tokens, len(rendered.token_ids), rendered.window)
        return counter, rendered_preview(rendered)
