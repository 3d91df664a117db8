"""Answers on their way into the bubbles of pages: from what a person wants to what is stored."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Any, Protocol

import gradio as gr

from playground.conversation import Conversation, Reply
from playground.errors import PlaygroundError
from playground.services.assembly import Services
from playground.services.chat import Action, Ask, Exchange
from playground.types import Caller, GenerationEvent, ModelSpec
from playground.ui.asked import read_to_the_end
from playground.ui.bubbles import Writing
from playground.ui.opened import Open, Opened
from playground.ui.pace import Pace
from playground.ui.side_panel import SidePanel
from playground.ui.topbar import TopBar
from playground.ui.views.answer import Answer
from playground.ui.views.said import reply_label
from playground.ui.views.transcript import Scene, answered_before
from playground.ui.views.weights import Choice
from playground.ui.visitor import caller_of
from playground.ui.wiring import Updates, Values


@dataclass(frozen=True)
class Wish:
    """What a page wants answered in the conversation that it has open.

    ``turn`` is the turn that the button belongs to. ``edited`` sends ``content`` in place of that turn. ``alone`` sends it
    without what was said before, ``expected`` is the answer that it should get.
    """

    action: Action
    opened: Open
    turn: str = ""
    content: str = ""
    prefill: str = ""
    edited: bool = False
    alone: bool = False
    expected: str = ""

    @property
    def is_typed(self) -> bool:
        """Whether it came from the composer."""
        return self.action == "send" and not self.edited

    @property
    def is_blank(self) -> bool:
        """Whether it would send nothing."""
        return self.action == "send" and not self.content.strip()


def wish_of(event: Any, draft: str, prefill: str, opened: Open) -> Wish:
    """What the pressed button wants: Send the draft, a bubble's button what stands on it."""
    said = pressed(event)
    act = said.get("act", "")
    if act == "regenerate":
        return Wish("regenerate", opened, said["turn"], prefill=prefill)
    if act == "continue":
        return Wish("continue", opened, said["turn"])
    if act == "save-send":
        return Wish("send", opened, said["turn"], said["text"], prefill, edited=True)
    return Wish("send", opened, opened.leaf, draft or "", prefill)


def pressed(event: Any) -> dict[str, str]:
    """What a bubble's button said of itself; nothing for any other button. A page may send anything, so texts only."""
    data = getattr(event, "_data", None)
    value = data.get("value") if isinstance(data, dict) else None
    if not isinstance(value, dict) or "act" not in value:
        return {}
    return {name: str(value.get(name) or "") for name in ("act", "turn", "value", "text")}


@dataclass
class Run:
    """One exchange of a page. ``shown_instead`` is what the page has opened meanwhile; ``saved`` is what came of it."""

    conversation: str
    exchange: Exchange | None = None
    stopped: bool = False
    shown_instead: Open | None = None
    saved: Conversation | None = None

    @property
    def left(self) -> bool:
        """Whether the page shows something else by now."""
        return self.shown_instead is not None

    async def lost(self) -> PlaygroundError | None:
        """Why what was written could not be kept, such as that its conversation was deleted; None where it was."""
        try:
            if self.exchange:
                await self.exchange.saved()
        except PlaygroundError as error:
            return error
        return None

    def stop(self) -> None:
        """End it; what is written stays."""
        self.stopped = True
        if self.exchange:
            self.exchange.stop()


class Drawing(Protocol):
    """What draws a conversation and the answer that is being written in it: `Bubbles`, or `Pairs`."""

    def begins(self, conversation: Conversation | None, scene: Scene, writing: Writing) -> Updates:
        """Updates that show ``conversation`` with an answer under it that has yet to come."""

    def writes(self, writing: Writing) -> Updates:
        """Updates that show the answer as far as it is written."""


class ChatAnswers:
    """What each page is writing: `run` writes it; `stop` ends it with what there is, `leave` lets it go on unseen."""

    def __init__(self, services: Services, side: SidePanel, opened: Opened, drawing: Drawing, pace: Pace) -> None:
        self._history = services.history
        self._chat = services.chat
        self._replay = services.replay
        self._limits = services.limits
        self._side = side
        self._opened = opened
        self._drawing = drawing
        self._pace = pace
        self._runs: dict[str, Run] = {}
        self._unseen: set[asyncio.Task[None]] = set()

    def begin(self, page: str, wish: Wish) -> Run:
        """Note that ``page`` is writing from now on; `end` it."""
        run = self._runs[page] = Run(wish.opened.conversation)
        return run

    def end(self, page: str, run: Run) -> None:
        """Forget ``run``; not another that the page has begun since."""
        if self._runs.get(page) is run:
            del self._runs[page]

    def is_writing(self, page: str, conversation: str) -> bool:
        """Whether ``page`` is writing in that conversation."""
        run = self._runs.get(page)
        return run is not None and not run.left and run.conversation == conversation

    def is_busy(self, page: str) -> bool:
        """Whether ``page`` is writing anything that it shows."""
        run = self._runs.get(page)
        return run is not None and not run.left

    def leave(self, page: str, opened: Open) -> Run | None:
        """The page shows ``opened`` now, and no longer what it is writing, if anything: that goes on unseen."""
        run = self._runs.get(page)
        if run is not None:
            run.shown_instead = opened
        return run

    async def leave_for(self, page: str, opened: Open, caller: Caller) -> None:
        """`leave`; where the conversation that is being written in was deleted, that ends as well."""
        run = self.leave(page, opened)
        if run is None or not run.conversation:
            return
        try:
            await self.found(caller, Open(run.conversation))
        except PlaygroundError:
            run.stop()

    async def found(self, caller: Caller, opened: Open) -> Conversation | None:
        """The conversation that is open, None where none is. Raises what `History.get` raises."""
        if not opened.conversation:
            return None
        return await asyncio.to_thread(self._history.get, caller, opened.conversation)

    def stop(self, page: str) -> None:
        """End what ``page`` is writing and shows; what is written stays."""
        run = self._runs.get(page)
        if run is not None and not run.left:
            run.stop()

    async def run(
        self, visitor: gr.Request, wish: Wish, run: Run, chosen: Values, everything: bool, bar: TopBar
    ) -> AsyncGenerator[Updates, None]:
        """Updates of one exchange, until it is stored or left. Raises what asking, generating and storing raise."""
        caller = caller_of(visitor)
        self._limits.admit(caller)
        ask, conversation = await asyncio.to_thread(self._prepared, caller, wish, chosen)
        run.exchange = await asyncio.to_thread(self._chat.ask, caller, ask)
        if run.stopped:
            run.exchange.stop()
        label = await asyncio.to_thread(self._label, ask.spec)
        scene = replace(_scene(wish, ask, conversation), everything=everything)
        before = answered_before(conversation, scene.leaf or "")
        answer = Answer(run.exchange.request, label)
        writing = Writing(answer, run.exchange.prefill, bool(before) and before != label)
        awaited = {} if wish.opened.conversation else self._opened.awaits(run.exchange.conversation_id)
        if not run.left:
            yield {**self._drawing.begins(conversation, scene, writing), **bar.shows("generating"), **awaited}
        async with aclosing(self._written(run, run.exchange, writing, bar)) as written:
            async for updates in written:
                yield updates
        if not run.left:
            run.saved = await run.exchange.saved()

    def _prepared(self, caller: Caller, wish: Wish, chosen: Values) -> tuple[Ask, Conversation | None]:
        """What to ask, and of which conversation. Reads the disk."""
        count, opened = len(self._side.picker.selection), wish.opened
        spec = self._side.picker.spec(Choice(*chosen[:count]))
        settings = self._side.settings.settings(chosen[count:])
        conversation = self._history.get(caller, opened.conversation) if opened.conversation else None
        turn, expected = wish.turn, wish.expected
        if wish.edited and conversation:
            old = conversation.turn(turn)
            turn, expected = old.parent, old.expected if old.content == wish.content else expected
        made = conversation.turn(turn).reply if conversation and wish.action == "continue" else None
        ask = Ask(
            spec, wish.action, opened.conversation, turn, wish.content, settings, prefill=wish.prefill,
            use_case=conversation.use_case if conversation else "chatbot",
            template=made.template if made else "chat", alone=made.alone if made else wish.alone, expected=expected,
        )  # fmt: skip
        return ask, conversation

    def _label(self, spec: ModelSpec) -> str:
        """What answers, as the bubble will say it once it is stored."""
        return reply_label(Reply(self._replay.named_spec(spec), "stop"))

    async def _written(
        self, run: Run, exchange: Exchange, writing: Writing, bar: TopBar
    ) -> AsyncGenerator[Updates, None]:  # fmt: skip
        """The answer as often as a browser can draw it. Closing this closes the exchange, and so stops the answer."""
        events, shown_at, phase = exchange.events(), 0.0, ""
        try:
            with self._pace.stream():
                async for event in events:
                    writing.answer.fold(event)
                    if run.left:
                        return
                    if writing.answer.running and time.monotonic() - shown_at < self._pace.pause(writing.answer.length):
                        continue
                    shown_at = time.monotonic()
                    writing.before = exchange.prefill  # the model's own template may have begun the answer
                    updates = self._drawing.writes(writing)
                    if writing.answer.running and writing.answer.phase != phase:
                        phase = writing.answer.phase
                        updates |= bar.shows(phase)
                    yield updates
        finally:
            if run.left:
                self._go_on(events)
            else:
                await events.aclose()

    def _go_on(self, events: AsyncGenerator[GenerationEvent, None]) -> None:
        """Read an answer to its end that no page shows, so that it is stored."""
        task = asyncio.create_task(read_to_the_end(events))
        self._unseen.add(task)
        task.add_done_callback(self._unseen.discard)


def _scene(wish: Wish, ask: Ask, conversation: Conversation | None) -> Scene:
    """What stands above the answer: the turns that it follows."""
    if ask.action == "send":
        return Scene(leaf=ask.turn, pending=wish.content, writing=True, expected=ask.expected)
    turn = conversation.turn(ask.turn) if conversation else None
    leaf = "" if turn is None else turn.parent if turn.role == "assistant" else turn.id
    return Scene(leaf=leaf, writing=True)
