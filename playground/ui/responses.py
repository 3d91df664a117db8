"""Below the prompt of the Inference tab: the pairs of the open conversation, and what is done with all of them."""

from __future__ import annotations

import asyncio
import json
import logging
from typing import Any

import gradio as gr

from playground.conversation import Conversation
from playground.errors import InvalidRequest, NotFound, PlaygroundError
from playground.services.assembly import Services
from playground.services.history import EXPORT_FORMATS
from playground.types import Caller
from playground.ui import chat_view, texts
from playground.ui.chat_answers import ChatAnswers
from playground.ui.chosen_sample import ChosenSample
from playground.ui.opened import Open, Opened
from playground.ui.pairs import Pairs
from playground.ui.views.inference import export_menu, history_line
from playground.ui.views.status import error_lines
from playground.ui.views.transcript import Scene
from playground.ui.visitor import caller_of
from playground.ui.wiring import LIGHT, LONG, Updates, report, show_html

log = logging.getLogger(__name__)
KEPT_SECONDS = 6 * 3600  # how long what was deleted on a page that may be closed can be brought back
_EXPORTS = "window.playground.exportMenu(element, trigger);"


class Responses:
    """`render` makes the widgets, `listen` wires them: they follow what is open, as Full Chat does.

    ``pairs`` are drawn by it while nothing is being written, and by ``answers`` while something is.
    """

    def __init__(self, services: Services, opened: Opened, pairs: Pairs, answers: ChatAnswers) -> None:
        self._history = services.history
        self._opened = opened
        self._pairs = pairs
        self._answers = answers

    # --- widgets ---

    def render(self) -> None:
        """Make the widgets."""
        self.drawn = gr.Textbox(visible="hidden", elem_id="pairs-drawn")  # the `Open.key` that the pairs were drawn for
        self.deleted = gr.State(None, time_to_live=KEPT_SECONDS)
        self.file = gr.Textbox(visible="hidden", elem_id="inference-file")
        self._pairs.render()
        with gr.Row(elem_classes="buttons history-buttons"):
            self.clear = gr.Button(
                "Clear history", elem_id="inference-clear", size="sm", min_width=100, interactive=False
            )
            self.undo = gr.Button("Undo", elem_id="inference-undo", size="sm", min_width=70, visible=False)
            self.export = show_html(export_menu(False), elem_id="export-chats", js_on_load=_EXPORTS)
            self.said = show_html("", elem_id="history-said")
            chat_view.open_button("inference-chat-view")

    @property
    def outputs(self) -> list[gr.components.Component]:
        """What `shows`, `opens` and `buttons` fill."""
        return [*self._pairs.outputs, self.drawn, self.clear, self.export, self.said, self._opened.key]

    # --- wiring ---

    def listen(self, prompt: gr.Textbox, chosen: ChosenSample) -> None:
        """Wire the widgets to what is open; a pair that is used again goes into ``prompt``, as a sample does."""
        key = self._opened.key
        self._pairs.listen(self._history, self._opened, prompt, chosen)
        drawn = [*self._pairs.outputs, self.drawn, self.clear, self.export]
        key.change(self._draw, [key, self.drawn], drawn, trigger_mode="always_last", **LIGHT)
        done = [*self.outputs, self.undo, self.deleted]
        self.clear.click(self._clear, key, done, trigger_mode="once", **LONG)
        self.undo.click(self._undo, self.deleted, done, trigger_mode="once", **LONG)
        saved = self.export.click(self._export, key, [self.said, self.file], trigger_mode="once", **LONG)
        saved.then(
            None, self.file, self.file, js="(file) => window.playground.save(file)", trigger_mode="multiple",
            show_progress="hidden",
        )  # fmt: skip
        blank = [*drawn, self._opened.awaited]
        self._pairs.stored.clear(self._begin_new, key, blank, **LIGHT)

    # --- showing ---

    def shows(self, conversation: Conversation | None, leaf: str | None = None) -> Updates:
        """Updates that show ``conversation`` at ``leaf``, and nothing that is being written."""
        key = "" if conversation is None else self._opened.shows(conversation, leaf)[self._opened.key]
        return {**self._pairs.draws(conversation, Scene(leaf=leaf)), self.drawn: key, **self.buttons(bool(key))}

    def opens(self, conversation: Conversation) -> Updates:
        """Updates that show ``conversation`` here, and open it in the other parts of the page."""
        return {**self.shows(conversation), **self._opened.shows(conversation)}

    def buttons(self, there: bool, *, writing: bool = False) -> Updates:
        """Updates of what is done with a history: nothing where there is none."""
        return {self.clear: gr.update(interactive=there and not writing), self.export: export_menu(there)}

    async def as_stored(self, visitor: gr.Request, opened: Open) -> Updates:
        """What is stored of ``opened``, once more: updates of what was being written may have come after it."""
        try:
            conversation = await self._answers.found(caller_of(visitor), opened)
            return self.shows(conversation, opened.leaf if conversation else None)
        except PlaygroundError:  # whatever is wrong with it has been said
            return self.shows(None)

    async def _draw(self, visitor: gr.Request, key: str, drawn: str) -> Updates:
        """The conversation that is open now, unless this page is just writing in it; another one goes on unseen."""
        opened, page = Open.parse(key), visitor.session_hash or ""
        if key == drawn or self._answers.is_writing(page, opened.conversation):
            return {self.drawn: gr.skip()}
        await self._answers.leave_for(page, opened, caller_of(visitor))
        return await self.as_stored(visitor, opened)

    def _begin_new(self, visitor: gr.Request, key: str) -> Updates:
        """Leave a first answer that is being written, for what is open does not change then."""
        page = visitor.session_hash or ""
        if key or not self._answers.is_writing(page, ""):
            return {self.drawn: gr.skip()}
        self._answers.leave(page, Open())
        return {**self.shows(None), **self._opened.awaits("")}

    # --- what is done with all of it ---

    async def _clear(self, visitor: gr.Request, key: str) -> Updates:
        """Delete the open conversation, with a way back."""
        opened, blank = Open.parse(key), {**self.shows(None), **self._opened.shows(None)}
        if not opened.conversation:
            return blank
        try:
            gone = await asyncio.to_thread(self._history.delete, caller_of(visitor), opened.conversation)
        except NotFound:
            return {**blank, self.said: history_line(texts.GONE)}
        except Exception as error:
            return self._refused(error)
        told = {self.said: history_line(texts.HISTORY_CLEARED), self.undo: gr.update(visible=True)}
        return {**blank, **told, self.deleted: gone}

    async def _undo(self, visitor: gr.Request, gone: Conversation | None) -> Updates:
        """Bring back what Clear deleted, and open it, unless that was so long ago that it is forgotten."""
        hidden: Updates = {self.undo: gr.update(visible=False), self.deleted: None, self.said: ""}
        if gone is None:
            return {**hidden, self.said: history_line(texts.NO_LONGER_UNDONE)}
        try:
            back = await asyncio.to_thread(self._restored, caller_of(visitor), gone)
        except Exception as error:
            return self._refused(error)
        return {**hidden, **self.opens(back)}

    def _restored(self, caller: Caller, gone: Conversation) -> Conversation:
        self._history.restore(caller, [gone])
        return self._history.get(caller, gone.id)

    async def _export(self, visitor: gr.Request, event: gr.EventData, key: str) -> Updates:
        """A file of the open conversation; the page's script saves it."""
        try:
            file = await asyncio.to_thread(self._file, caller_of(visitor), _wanted(event), Open.parse(key).conversation)
        except Exception as error:
            return self._refused(error)
        return {self.said: history_line(texts.SAVED_AS.format(name=file[0])), self.file: json.dumps(file)}

    def _file(self, caller: Caller, wanted: str, conversation: str) -> tuple[str, str]:
        """(name, text) of ``conversation`` in the format ``wanted``."""
        form = next((form for form in EXPORT_FORMATS if form == wanted), None)
        if form is None or not conversation:
            raise InvalidRequest(texts.NOTHING_TO_EXPORT, texts.NOTHING_TO_EXPORT_REMEDY)
        file = self._history.export(caller, form, [conversation])
        return file.name, file.text

    def _refused(self, error: Exception) -> Updates:
        report(error)
        return {self.said: history_line(error=error_lines(error))}


def _wanted(event: Any) -> str:
    """The format whose button was pressed; a page may send anything."""
    data = getattr(event, "_data", None)
    value = data.get("value") if isinstance(data, dict) else None
    return value if isinstance(value, str) else ""
