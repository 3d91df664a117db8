"""The Playground follows the conversation that is open: its last answer, its use case and its system prompt."""

from __future__ import annotations

import gradio as gr

from playground.conversation import Conversation
from playground.types import Template
from playground.ui.answer_area import AnswerArea, name_of
from playground.ui.asked import Asked, Brought
from playground.ui.continued import Continued
from playground.ui.opened import Open, Opened
from playground.ui.settings_panel import SettingsPanel
from playground.ui.use_cases import UseCases
from playground.ui.visitor import caller_of
from playground.ui.wiring import LIGHT, Updates


class Following:
    """`render` makes the hidden field, `listen` wires it; ``settings`` holds the system prompt."""

    def __init__(
        self, opened: Opened, continued: Continued, area: AnswerArea, cases: UseCases, settings: SettingsPanel
    ) -> None:
        self._opened = opened
        self._continued = continued
        self._area = area
        self._cases = cases
        self._settings = settings

    def render(self) -> None:
        """Make what holds the system prompt that an opened conversation has brought, and the one that stood there before."""
        self.brought = gr.Textbox(visible="hidden", elem_id="brought-system")

    @property
    def _system(self) -> gr.components.Component:
        return self._settings.widgets["system_prompt"]

    def listen(self) -> None:
        """Wire the widgets."""
        key, area, template = self._opened.key, self._area, self._cases.template
        about = [key, area.drawn, area.stage, area.run, template, self.brought, self._system]
        options = [*self._cases.outputs, self.brought, self._system]
        shown = [*area.whole, self._opened.awaited, *self._continued.outputs, *options]
        key.change(self._followed, about, shown, trigger_mode="always_last", **LIGHT)
        emptied = [*area.whole, self._opened.awaited, key]
        self._continued.line.click(self._begin_new, [area.stage, area.run], emptied, **LIGHT)
        self._continued.listen(key, template)

    async def _followed(
        self,
        visitor: gr.Request,
        key: str,
        drawn: str,
        stage: str,
        run: Asked | None,
        template: Template,
        brought: str = "",
        system: str = "",
    ) -> Updates:
        """Something has been added to what is open, or another conversation is: its last answer is shown, with its figures.

        An answer that is being written stays in sight as long as its own conversation is open.
        """
        opened, caller = Open.parse(key), caller_of(visitor)
        conversation = await self._continued.find(caller, opened)
        updates = self._continued.shows(conversation, opened.leaf, template)
        if stage == "running" and (run is None or run.writes_in(opened)):
            return updates
        if conversation is None:
            updates |= self._gives_back(brought, system)
        name = name_of(conversation, opened.leaf) if conversation else ""
        if name == drawn:
            return updates
        last = await self._continued.answer(caller, conversation, opened.leaf) if conversation else None
        updates |= {**self._area.holds(last), **self._area.left(stage, run), self._area.drawn: name}
        if conversation is not None and drawn.split(" ")[0] != conversation.id:
            updates |= self._cases.brought_by(conversation, opened.leaf) | self._brings(conversation, brought, system)
        return updates

    def _brings(self, conversation: Conversation, brought: str, system: str) -> Updates:
        """The system prompt of another conversation, and what is to stand there again once it is left."""
        before = Brought.parse(brought).before_is(system) if brought else system
        return {self._system: conversation.system, self.brought: Brought(conversation.system, before).text}

    def _gives_back(self, brought: str, system: str) -> Updates:
        """The system prompt of a conversation goes with it, unless another was written since."""
        if not brought:
            return {}
        return {self._system: Brought.parse(brought).before_is(system), self.brought: ""}

    def _begin_new(self, stage: str, run: Asked | None) -> Updates:
        """Nothing is open any more, and the answer area is empty; the prompt stays."""
        area = self._area
        return {**area.holds(None), **area.left(stage, run), **self._opened.shows(None), area.drawn: ""}
