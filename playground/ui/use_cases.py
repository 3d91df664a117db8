"""The use case of the Playground's prompt, with the template and the examples that come with it."""

from __future__ import annotations

from typing import Any

import gradio as gr

from playground.config import AppConfig, UseCase
from playground.conversation import Conversation
from playground.types import TEMPLATES
from playground.ui import texts
from playground.ui.wiring import LIGHT, Updates


class UseCases:
    """`render_options` and `render_examples` make the widgets, `listen` wires them to the ``prompt``."""

    def __init__(self, config: AppConfig) -> None:
        self._cases = config.use_cases

    def render_options(self) -> None:
        """Make the two choices above the prompt."""
        cases = list(self._cases.values())
        with gr.Row(elem_classes="prompt-options"):
            self.use_case = gr.Dropdown(
                [(case.label, case.key) for case in cases], value=cases[0].key, label="Use case", elem_id="use-case",
                min_width=120, elem_classes=["field", "inline"],
            )  # fmt: skip
            self.template = gr.Radio(
                [(texts.TEMPLATES[name], name) for name in TEMPLATES], value=cases[0].template, label="Template",
                elem_id="template", min_width=120, elem_classes=["field", "inline", "segments"],
            )  # fmt: skip

    def render_examples(self) -> None:
        """Make the examples under the prompt, as many as any use case has."""
        cases = list(self._cases.values())
        with gr.Row(elem_classes="examples", elem_id="examples"):
            most = max(len(case.examples) for case in cases)
            self.examples = [self._example(cases[0], position) for position in range(most)]

    @staticmethod
    def _example(case: UseCase, position: int) -> gr.Button:
        text = case.examples[position] if position < len(case.examples) else ""
        return gr.Button(text, visible=bool(text), size="sm", elem_classes="example", min_width=0)

    @property
    def outputs(self) -> list[gr.components.Component]:
        """What `brought_by` fills."""
        return [self.use_case, self.template, *self.examples]

    def listen(self, prompt: gr.Textbox) -> None:
        """Wire the widgets."""
        for example in self.examples:
            example.click(None, example, prompt, js="(text) => text")
        self.use_case.input(self._chosen, self.use_case, [self.template, *self.examples], **LIGHT)

    def brought_by(self, conversation: Conversation, leaf: str) -> Updates:
        """The use case of another conversation, and the template of its last answer."""
        if conversation.use_case not in self._cases:
            return {}
        template, *examples = self._chosen(conversation.use_case)
        answered = [turn.reply.template for turn in conversation.path(leaf) if turn.reply]
        updates: Updates = {self.use_case: conversation.use_case, self.template: answered[-1] if answered else template}
        return {**updates, **dict(zip(self.examples, examples, strict=True))}

    def _chosen(self, key: str) -> list[Any]:
        """The use case's own template and examples."""
        case = self._cases[key]
        padded = [*case.examples, *[""] * (len(self.examples) - len(case.examples))]
        return [case.template, *(gr.update(value=text, visible=bool(text)) for text in padded)]
