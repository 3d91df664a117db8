"""The open conversation in the Playground: the line by the prompt, the messages, and its last answer in the answer area."""

from __future__ import annotations

import asyncio
from typing import Any

import gradio as gr

from playground.conversation import Conversation
from playground.errors import InvalidRequest, PlaygroundError
from playground.services.chat import Chat
from playground.services.history import History
from playground.types import Caller, Template
from playground.ui.opened import Open
from playground.ui.views import said
from playground.ui.views.answer import Answer
from playground.ui.visitor import caller_of
from playground.ui.wiring import LIGHT, Updates, clicks_of, show_html

# The list's own button changes nothing where nothing is open yet; here it leaves what is being written as well.
_SIDEBARS_NEW = (
    "document.addEventListener('click', (event) => {"
    "  if (event.target.closest?.('[data-sidebar=new]')) trigger('click', {value: 'new'});"
    "}, true);"
)


class Continued:
    """`render_line` and `render_messages` make the widgets; ``again`` is the tab's button that answers once more."""

    def __init__(self, history: History, chat: Chat, again: gr.Button) -> None:
        self._history = history
        self._chat = chat
        self._again = again

    def render_line(self) -> None:
        """Make the line that says whether history is sent; its button begins a new conversation."""
        line = said.conversation_line("", 0, "chat")
        self.line = show_html(line, elem_id="continues", js_on_load=clicks_of("conversation") + _SIDEBARS_NEW)

    def render_messages(self) -> None:
        """Make the folded list of messages."""
        with gr.Accordion(said.messages_heading(0), open=False, elem_id="said-here", elem_classes="card") as self.fold:
            self.messages = show_html(said.messages(()), elem_id="said-messages")

    @property
    def outputs(self) -> list[gr.components.Component]:
        """What `shows` fills."""
        return [self.line, self.fold, self.messages, self._again]

    def listen(self, key: gr.Textbox, template: gr.Radio) -> None:
        """Another template sends the prompt alone, or with what was said before."""
        template.change(self._for_template, [key, template], self.line, **LIGHT)

    async def find(self, caller: Caller, opened: Open) -> Conversation | None:
        """The open conversation; None where none is, or where it is gone."""
        return await asyncio.to_thread(self._find, caller, opened)

    def shows(self, conversation: Conversation | None, leaf: str, template: Template) -> Updates:
        """Updates for ``conversation`` as far as ``leaf``; None is a new one."""
        path = conversation.path(leaf) if conversation else ()
        return {
            self.line: self._line(conversation, leaf, template),
            self.fold: gr.update(label=said.messages_heading(len(path))),
            self.messages: said.messages(path),
            self._again: gr.update(interactive=bool(path) and path[-1].role == "assistant"),
        }

    async def answer(self, caller: Caller, conversation: Conversation, leaf: str) -> Answer | None:
        """The answer at the end of the path to ``leaf`` with all that is known of it; None where there is none."""
        turn = said.last_answer(conversation, leaf)
        if turn is None:
            return None
        try:
            manifest = await asyncio.to_thread(self._chat.manifest, caller, conversation.id, turn.id)
        except InvalidRequest:  # it was not made here, or broken off before that was known
            manifest = None
        return said.kept_answer(turn, manifest, code=conversation.use_case == "code_generation")

    async def _for_template(self, visitor: gr.Request, key: str, template: Template) -> Any:
        opened = Open.parse(key)
        return self._line(await self.find(caller_of(visitor), opened), opened.leaf, template)

    def _line(self, conversation: Conversation | None, leaf: str, template: Template) -> str:
        title = conversation.shown_title if conversation else ""
        return said.conversation_line(title, len(conversation.path(leaf)) if conversation else 0, template)

    def _find(self, caller: Caller, opened: Open) -> Conversation | None:
        if not opened.conversation:
            return None
        try:
            found = self._history.get(caller, opened.conversation)
            found.path(opened.leaf)
        except PlaygroundError:  # deleted elsewhere, or never this person's
            return None
        return found
