"""The Full Chat tab: the open conversation as bubbles, and a composer. The same over the whole page as Full Chat View."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Any

import gradio as gr

from playground.config import AppConfig
from playground.conversation import Conversation, Thumb
from playground.errors import HistoryUnavailable, InvalidRequest, NotFound, PlaygroundError
from playground.services.assembly import Services
from playground.services.written import NOTHING_TO_ADD
from playground.types import Caller
from playground.ui import chat_view, texts
from playground.ui.bubbles import Bubbles
from playground.ui.chat_answers import ChatAnswers, Run, Wish, pressed, wish_of
from playground.ui.chat_edge import ChatEdge
from playground.ui.model_picker import failure_of
from playground.ui.opened import Open, Opened
from playground.ui.pace import Pace
from playground.ui.side_panel import SidePanel
from playground.ui.topbar import TopBar
from playground.ui.views.composer import answers_next, composer_line, context_meter
from playground.ui.views.status import error_details, error_sentence
from playground.ui.views.transcript import Scene
from playground.ui.views.weights import Choice
from playground.ui.visitor import caller_of
from playground.ui.wiring import AS_TYPED, LIGHT, LONG, Updates, Values, report, show_html

KEPT_SECONDS = 6 * 3600  # how long what was deleted on a page that may be closed can be brought back


_PLUS = (
    '<button type="button" class="plain plus" data-chat-prefill aria-expanded="false" aria-controls="chat-prefill" '
    'aria-label="Begin the answer yourself" title="Begin the answer yourself">+</button>'
)


@dataclass(frozen=True)
class Look:
    """How a page looks at its conversation: the `Open.key` it was drawn for, what is being rewritten, if all is shown."""

    key: str = ""
    editing: str = ""
    everything: bool = False

    @classmethod
    def parse(cls, text: str | None) -> Look:
        """What `text` wrote; the plain look for anything else, since the page holds it."""
        try:
            key, editing, everything = json.loads(text or "")
        except (TypeError, ValueError, RecursionError):
            return cls()
        return cls(str(key), str(editing), bool(everything))

    @property
    def text(self) -> str:
        """One line for the page to hold."""
        return json.dumps([self.key, self.editing, self.everything])


class ChatTab:
    """`render` makes the widgets inside the current tab, `listen` wires them."""

    def __init__(
        self, config: AppConfig, services: Services, side: SidePanel, opened: Opened, pace: Pace | None = None
    ) -> None:
        self._history = services.history
        self._chat = services.chat
        self._side = side
        self._opened = opened
        self.bubbles = Bubbles()
        self.answers = ChatAnswers(services, side, opened, self.bubbles, pace or Pace())
        self.edge = ChatEdge(services, side.picker)

    # --- widgets ---

    def render(self) -> None:
        """Make the widgets: what the model is told first, the bubbles, the composer."""
        self.look = gr.Textbox(Look().text, visible="hidden", elem_id="chat-look")
        self.deleted = gr.State(None, time_to_live=KEPT_SECONDS)
        with gr.Column(elem_id="chat", elem_classes="chat"):
            chat_view.header()
            with gr.Accordion("System prompt", open=False, elem_id="chat-system", elem_classes="chat-system"):
                self.system = gr.Textbox(
                    show_label=False, container=False, lines=2, max_lines=8,
                    placeholder="Who the model should be and how it should answer.", elem_id="chat-system-prompt",
                )  # fmt: skip
            with gr.Column(elem_id="chat-scroll", elem_classes="chat-scroll"):
                self.bubbles.render()
            self._render_composer()
            self.handed = gr.Textbox(visible="hidden", elem_id="chat-handed")

    def _render_composer(self) -> None:
        with gr.Column(elem_id="composer", elem_classes="composer"):
            self.line = show_html(composer_line(), elem_id="composer-line")
            self.prefill = gr.Textbox(
                label="The answer begins with", info=texts.PREFILL_HELP, max_lines=4, elem_id="chat-prefill",
                elem_classes=["field", "hinted", "prefill"],
            )  # fmt: skip
            with gr.Row(elem_classes="composer-row"):
                show_html(_PLUS, elem_id="chat-plus")
                self.draft = gr.Textbox(
                    label="Message", show_label=False, container=False, lines=1, max_lines=10, elem_id="chat-draft",
                    placeholder="Write a message", scale=1,
                )  # fmt: skip
                self.send = gr.Button("Send", variant="primary", elem_id="chat-send", min_width=84)
                self.stop = gr.Button("Stop", variant="stop", elem_id="chat-stop", min_width=84, visible=False)
            with gr.Row(elem_classes="composer-edge"):
                self.next = show_html(answers_next(""), elem_id="answers-next")
                self.meter = show_html(context_meter(None), elem_id="chat-meter")
            with gr.Row(elem_classes="buttons composer-buttons"):
                self.clear = gr.Button("Clear history", elem_id="chat-clear", size="sm", min_width=100)
                self.undo = gr.Button("Undo", elem_id="chat-undo", size="sm", min_width=70, visible=False)
                chat_view.open_button()
                chat_view.close_button()

    @property
    def _side_system(self) -> gr.components.Component:
        return self._side.settings.widgets["system_prompt"]

    # --- wiring ---

    def listen(self, demo: gr.Blocks, bar: TopBar) -> None:
        """Wire the widgets; ``bar`` shows the phase."""
        self._bar = bar
        self._listen_asking()
        self._listen_bubbles()
        self._listen_system(demo)
        said = [self.draft, self.prefill, self._opened.key, self._side_system]
        weighed = [*said, *self._side.picker.selection]
        # The chips change when the model has been loaded or unloaded, by whoever it was.
        triggers = [demo.load, bar.chips.change, *(field.change for field in weighed)]
        seen, shown = [self.line, *weighed], [self.next, self.meter]
        gr.on(triggers, self.edge.look, seen, shown, trigger_mode="always_last", **LIGHT)

    def _listen_asking(self) -> None:
        chosen = [*self._side.picker.selection, *self._side.settings.inputs]
        inputs = [self.draft, self.prefill, self._opened.key, self.look, *chosen]
        written = [
            *self._drawn, self.draft, self.prefill, self.send, self.stop, self.clear, self._opened.key, self._opened.awaited,
            *self._bar.status, self._side.picker.failure, self._side.picker.progress,
        ]  # fmt: skip
        asks = [self.send.click, self.bubbles.stored.submit]
        gr.on(asks, self._ask, inputs, written, trigger_mode="once", **LONG, **AS_TYPED)
        self.stop.click(self._stop, None, None, **LIGHT)

    def _listen_bubbles(self) -> None:
        about = [self._opened.key, self.look]
        acted = [*self._drawn, self._opened.key, self.handed, self.undo, self.deleted]
        act = self.bubbles.stored.click(self._act, about, acted, trigger_mode="once", **LONG)
        act.then(None, self.handed, None, js="(text) => { window.playground.copy(text, 'Copied what made it'); }")
        self.clear.click(self._clear, about, acted, trigger_mode="once", **LONG)
        self.undo.click(self._undo, [*about, self.deleted], acted, trigger_mode="once", **LONG)
        shown = [*self._drawn, self._side_system]
        self._opened.key.change(self._draw, about, shown, trigger_mode="always_last", **LIGHT)
        blank = [*self._drawn, self._opened.awaited]
        self.bubbles.stored.clear(self._begin_new, self._opened.key, blank, **LIGHT)

    def _listen_system(self, demo: gr.Blocks) -> None:
        """The settings' system prompt is the one that counts; here it is shown, and can be written, as well."""
        edits = [self.system.input, self.system.blur]  # a pasted text is no `input` to Gradio
        gr.on(edits, None, self.system, self._side_system, js="(text) => text")
        shows = [demo.load, self._side_system.change]
        gr.on(shows, None, self._side_system, self.system, js="(text) => text")

    @property
    def _drawn(self) -> list[gr.components.Component]:
        return [*self.bubbles.outputs, self.look, self.line]

    # --- showing ---

    async def _draw(self, visitor: gr.Request, key: str, look: str) -> Updates:
        """The conversation that is open now, unless this page is just writing in it; another one goes on unseen."""
        opened, page, before = Open.parse(key), visitor.session_hash or "", Look.parse(look)
        if before.key == opened.key or self.answers.is_writing(page, opened.conversation):
            return {self.line: gr.skip()}
        await self.answers.leave_for(page, opened, caller_of(visitor))
        is_other = Open.parse(before.key).conversation != opened.conversation
        now = Look(opened.key) if is_other else replace(before, key=opened.key)
        try:
            conversation = await self.answers.found(caller_of(visitor), opened)
            updates = self._shows(conversation, now, opened.leaf)
        except Exception as error:
            return {**self.bubbles.draws(None), self.look: now.text, self.line: _told(error)}
        if conversation is not None and is_other:
            updates |= {self._side_system: conversation.system, self.line: composer_line()}
        return updates

    def _begin_new(self, visitor: gr.Request, key: str) -> Updates:
        """Leave a first answer that is being written, for what is open does not change then."""
        page = visitor.session_hash or ""
        if key or not self.answers.is_writing(page, ""):
            return {self.line: gr.skip()}
        self.answers.leave(page, Open())
        return {**self.bubbles.draws(None), self.look: Look().text, **self._opened.awaits("")}

    def _shows(self, conversation: Conversation | None, look: Look, leaf: str | None = None) -> Updates:
        scene = Scene(leaf=leaf, editing=look.editing, everything=look.everything)
        return {**self.bubbles.draws(conversation, scene), self.look: look.text}

    def _opens(self, conversation: Conversation, look: Look) -> Updates:
        """Updates that show ``conversation`` here, and open it in the other parts of the page."""
        opened = self._opened.shows(conversation)
        return {**self._shows(conversation, replace(look, key=opened[self._opened.key])), **opened}

    # --- asking ---

    async def _ask(
        self, visitor: gr.Request, event: gr.EventData, draft: str, prefill: str, key: str, look: str, *chosen: Any
    ) -> AsyncIterator[Updates]:  # fmt: skip
        """One exchange, from Send or a bubble's button to its answer's end; what failed comes back to where it was."""
        wish, page = wish_of(event, draft, prefill or "", Open.parse(key)), visitor.session_hash or ""
        if wish.is_blank:
            yield {self.line: composer_line(texts.EMPTY_MESSAGE, "error")}
            return
        run, seen = self.answers.begin(page, wish), replace(Look.parse(look), editing="")
        sent: Updates = {self.draft: ""} if wish.is_typed else {}
        yield {**self._buttons(writing=True), **sent, self.look: seen.text, self.line: composer_line()}
        try:
            updates = self.answers.run(visitor, wish, run, chosen, seen.everything, self._bar)
            async with aclosing(updates):
                async for update in updates:
                    yield update
            self.answers.end(page, run)
            yield {**self._buttons(writing=False), **(await self._ended(visitor, wish, run, seen))}
        except Exception as error:
            self.answers.end(page, run)
            yield {**self._buttons(writing=False), **(await self._failed(visitor, wish, run, seen, error, chosen))}
        finally:
            self.answers.end(page, run)

    async def _ended(self, visitor: gr.Request, wish: Wish, run: Run, look: Look) -> Updates:
        """What is stored now in place of what was being written; nothing of it where the page shows something else."""
        idle = {
            **self._bar.shows("idle"), **self._opened.awaits(""),
            self._side.picker.failure: None, self._side.picker.progress: "",
        }  # fmt: skip
        if run.shown_instead is not None:
            idle |= await self._instead(visitor, run.shown_instead)
            if not run.stopped:
                return {**idle, self.line: composer_line(texts.MOVED_ON, "done")}
            lost = await run.lost()
            back: Updates = {self.draft: wish.content} if lost and wish.is_typed else {}
            return {**idle, **back, self.line: _told(lost) if lost else composer_line()}
        if run.saved is None:
            complete = run.exchange is not None and run.exchange.nothing_to_add
            told = {self.line: composer_line(NOTHING_TO_ADD if complete else texts.STOPPED_EARLY, "done")}
            return {**idle, **(await self._as_it_was(visitor, wish, look)), **told}
        used: Updates = {self.prefill: ""} if wish.prefill else {}
        return {**idle, **self._opens(run.saved, look), **used}

    async def _failed(
        self, visitor: gr.Request, wish: Wish, run: Run, look: Look, error: Exception, chosen: Values
    ) -> Updates:
        """The sentence in a toast and over the composer; the history as it was, and what was sent back in its field."""
        report(error)
        updates: Updates = {**self._bar.shows("error"), **self._opened.awaits(""), self.line: _told(error)}
        if isinstance(error, PlaygroundError) and error.code.startswith(("adapter", "model")):
            choice = Choice(*chosen[: len(self._side.picker.selection)])
            updates[self._side.picker.failure] = failure_of(choice, error)
        if run.shown_instead is not None:
            return {**updates, **(await self._instead(visitor, run.shown_instead))}
        if isinstance(error, HistoryUnavailable) and run.exchange is not None:
            return updates  # the answer could not be stored: it stays to be copied
        return {**updates, **(await self._as_it_was(visitor, wish, look))}

    async def _instead(self, visitor: gr.Request, opened: Open) -> Updates:
        """What the page shows by now, once more: updates of what it left may have come after it."""
        try:
            conversation = await self.answers.found(caller_of(visitor), opened)
            return self.bubbles.draws(conversation, Scene(opened.leaf))
        except PlaygroundError:  # whatever is wrong with it, its own drawing has said so
            return self.bubbles.draws(None)

    async def _as_it_was(self, visitor: gr.Request, wish: Wish, look: Look) -> Updates:
        """The conversation without what came to nothing; its text is in the field again that it came from."""
        back: Updates = {self.draft: wish.content} if wish.is_typed else {}
        look = replace(look, editing=wish.turn if wish.edited else "")
        scene = Scene(wish.opened.leaf, look.editing, wish.content if wish.edited else None, look.everything)
        try:
            conversation = await self.answers.found(caller_of(visitor), wish.opened)
            return {**back, **self.bubbles.draws(conversation, scene), self.look: look.text}
        except PlaygroundError:  # deleted elsewhere: what failed has said so
            return {**back, **self.bubbles.draws(None), self.look: look.text}

    def _buttons(self, *, writing: bool) -> Updates:
        """Send and Stop take turns in one place, so nothing moves and nothing is sent twice."""
        return {
            self.send: gr.update(visible=not writing), self.stop: gr.update(visible=writing),
            self.clear: gr.update(interactive=not writing),
        }  # fmt: skip

    def _stop(self, visitor: gr.Request) -> None:
        """End the answer; what is written of it is kept, and the handler that writes it shows that."""
        self.answers.stop(visitor.session_hash or "")

    # --- what is done with the bubbles ---

    async def _act(self, visitor: gr.Request, event: gr.EventData, key: str, look: str) -> Updates:
        """What a bubble's button stands for, at once."""
        said, opened = pressed(event), Open.parse(key)
        seen = replace(Look.parse(look), key=opened.key)
        try:
            return {self.handed: "", **(await self._acted(caller_of(visitor), said, opened, seen))}
        except Exception as error:
            report(error)
            return {self.handed: "", self.line: _told(error)}

    async def _acted(self, caller: Caller, said: dict[str, str], opened: Open, look: Look) -> Updates:
        act, turn = said.get("act", ""), said.get("turn", "")
        if act == "provenance":
            made = await asyncio.to_thread(self._chat.manifest, caller, opened.conversation, turn)
            return {self.handed: made.to_json()}
        if act in ("edit", "cancel", "earlier"):
            editing = turn if act == "edit" else "" if act == "cancel" else look.editing
            look = replace(look, editing=editing, everything=look.everything or act == "earlier")
            return self._shows(await self.answers.found(caller, opened), look, opened.leaf)
        changed = await asyncio.to_thread(self._changed, caller, opened.conversation, said)
        look = replace(look, editing="" if act == "save" else look.editing)
        return {**self._opens(changed, look), self.line: composer_line()}

    def _changed(self, caller: Caller, conversation: str, said: dict[str, str]) -> Conversation:
        """The conversation after what ``said`` names was done to it. Writes to the disk."""
        turn, history = said.get("turn", ""), self._history
        match said.get("act"):
            case "save":
                return self._rewritten(caller, conversation, turn, said["text"])
            case "switch":
                return history.switch(caller, conversation, turn)
            case "branch":
                return history.branch(caller, conversation, turn)
            case "thumb":
                thumb: Thumb = {"1": 1, "-1": -1}.get(said["value"], 0)  # type: ignore[assignment]
                return history.thumb(caller, conversation, turn, thumb)
        raise InvalidRequest("Nothing here is called that.", "Reload the page.")

    def _rewritten(self, caller: Caller, conversation: str, turn: str, text: str) -> Conversation:
        """Another version of a message, unless nothing was changed in it."""
        before = self._history.get(caller, conversation)
        if before.turn(turn).content == text:
            return before
        return self._history.edit(caller, conversation, turn, text)

    async def _clear(self, visitor: gr.Request, key: str, look: str) -> Updates:
        """Delete the open conversation, with a way back."""
        opened = Open.parse(key)
        blank = {**self.bubbles.draws(None), self.look: Look().text, **self._opened.shows(None), self.handed: ""}
        if not opened.conversation:
            return {**blank, self.line: composer_line()}
        try:
            gone = await asyncio.to_thread(self._history.delete, caller_of(visitor), opened.conversation)
        except NotFound:
            return {**blank, self.line: composer_line(texts.GONE, "done")}
        except Exception as error:
            report(error)
            return {self.line: _told(error)}
        told = {self.line: composer_line(texts.HISTORY_CLEARED, "done"), self.undo: gr.update(visible=True)}
        return {**blank, **told, self.deleted: gone}

    async def _undo(self, visitor: gr.Request, key: str, look: str, gone: Conversation | None) -> Updates:
        """Bring back what Clear deleted, and open it, unless that was so long ago that it is forgotten."""
        hidden: Updates = {self.undo: gr.update(visible=False), self.deleted: None}
        if gone is None:
            return hidden
        caller = caller_of(visitor)
        try:
            await asyncio.to_thread(self._history.restore, caller, [gone])
            back = await asyncio.to_thread(self._history.get, caller, gone.id)
        except Exception as error:
            report(error)
            return {self.line: _told(error)}
        return {**hidden, **self._opens(back, Look()), self.line: composer_line()}


def _told(error: Exception) -> str:
    """``error`` over the composer."""
    return composer_line(error_sentence(error), "error", error_details(error))
