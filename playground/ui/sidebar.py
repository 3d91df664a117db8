"""The sidebar: all conversations, found, opened, named, deleted, taken in and out."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import gradio as gr

from playground.config import AppConfig, is_loopback
from playground.conversation import Conversation, Query
from playground.errors import InvalidRequest, PlaygroundError
from playground.services import chat_files
from playground.services.assembly import Services
from playground.services.history import EXPORT_FORMATS
from playground.types import Caller
from playground.ui import texts
from playground.ui.opened import Open, Opened
from playground.ui.views import conversations as view
from playground.ui.views.figures import plural
from playground.ui.views.status import error_lines
from playground.ui.visitor import caller_of
from playground.ui.wiring import LIGHT, Updates, show_html

log = logging.getLogger(__name__)

MOST_ROWS = 10_000
UNDO_CHARACTERS = 5_000_000  # of what was deleted on a shared server: each open page may hold so much for Undo
DELETED_SECONDS = 6 * 3600  # how long what a page has deleted can be brought back by it


@dataclass(frozen=True)
class Asked:
    """What a page says of its list: what is looked for in it, and ``mark``, what it shows already.

    ``awaited`` is the conversation that it opens when it is there.
    """

    query: Query = field(default_factory=lambda: Query(limit=view.ROWS))
    minutes: int = 0
    mark: str = ""
    filters_mark: str = ""
    awaited: str = ""

    @classmethod
    def parse(cls, text: Any) -> Asked:
        """What the page's script wrote; a list of everything for anything else: anybody may have written it."""
        try:
            said = json.loads(text or "{}")
            words = ("text", "model", "adapter", "use_case")
            text, model, adapter, use_case = (str(said.get(name) or "")[:500] for name in words)
            limit = max(1, min(MOST_ROWS, int(said.get("limit") or view.ROWS)))
            minutes = int(said.get("minutes") or 0)
            marks = (str(said.get(name) or "")[:200] for name in ("mark", "filters_mark", "awaited"))
        except (AttributeError, TypeError, ValueError, OverflowError, RecursionError):
            return cls()
        return cls(Query(text, model, adapter, use_case, limit), minutes, *marks)


@dataclass(frozen=True)
class Done:
    """What an action of the sidebar did: the line about it, and what else changes on the page; None changes nothing."""

    said: str | None = None
    key: str | None = None
    deleted: tuple[Conversation, ...] | None = None
    file: str | None = None
    redrawn: bool = True


@dataclass(frozen=True)
class Act:
    """An action that a page asks for: who asks, what is open there, what was deleted there last, and what was said."""

    caller: Caller
    shown: Open
    deleted: tuple[Conversation, ...]
    said: dict[str, Any] = field(default_factory=dict)

    def text(self, name: str) -> str:
        """A word of it, "" where the page said none."""
        value = self.said.get(name)
        return value if isinstance(value, str) else ""


class Sidebar:
    """`render` makes the widgets inside the left column, `listen` wires them.

    What the page looks for is held by the page itself, and what it shows it says by a mark; the server remembers only
    what was deleted last, for Undo.
    """

    def __init__(self, config: AppConfig, services: Services, opened: Opened) -> None:
        self._config = config
        self._history = services.history
        self._limits = services.limits
        self._opened = opened
        self._use_cases = {case.key: case.label for case in config.use_cases.values()}
        self._actions: dict[str, Callable[[Act], Done]] = {
            "open": self._open,
            "new": lambda act: Done(key="", redrawn=False),
            "rename": self._rename,
            "delete": self._delete,
            "undo": self._undo,
            "ask-delete-all": self._ask_delete_all,
            "delete-all": self._delete_all,
            "keep": lambda act: Done("", redrawn=False),
            "export": self._export,
            "import": self._import,
        }

    def render(self) -> None:
        """Make the widgets."""
        self.deleted = gr.State((), time_to_live=DELETED_SECONDS)
        self.asked = gr.Textbox(visible="hidden", elem_id="sidebar-asked")
        self.news = gr.Textbox(visible="hidden", elem_id="sidebar-news")
        self.file = gr.Textbox(visible="hidden", elem_id="sidebar-file")
        self.frame = show_html(
            view.frame(EXPORT_FORMATS),
            elem_id="sidebar-frame",
            js_on_load="window.playground.sidebar(element, trigger);",
        )
        # Drawn by the page's script, row by row, so that a row keeps the focus and what is being typed in it.
        drawn = {"html_template": "", "js_on_load": "window.playground.drawn(element, props, watch);"}
        self.filters = show_html("", elem_id="sidebar-filters", **drawn)
        self.said = show_html("", elem_id="sidebar-said")
        self.list = show_html("", elem_id="sidebar-list", **drawn)
        self.foot = show_html("", elem_id="sidebar-foot", **drawn)

    def listen(self, demo: gr.Blocks, timer: gr.Timer) -> None:
        """Wire the widgets to what is open. At each tick of ``timer`` a page asks once what has changed."""
        key = self._opened.key
        gr.on(
            [timer.tick, demo.load, key.change, self.frame.submit],
            self._look, [self.asked, key], [self.filters, self.list, self.news],
            js="(asked, key) => [window.playground.asked(), key]", trigger_mode="always_last", **LIGHT,
        )  # fmt: skip
        # A page that has gone on meanwhile keeps what it shows.
        self.news.change(
            None, [self.news, key, self.said], [key, self.said], show_progress="hidden",
            js="(...held) => window.playground.followed(...held)",
        )  # fmt: skip
        demo.load(self._foot, None, self.foot, **LIGHT)
        outputs = [key, self.said, self.deleted, self.file, self.filters, self.list]
        done = self.frame.click(self._act, [key, self.deleted], outputs, trigger_mode="multiple", **LIGHT)
        done.then(
            None, self.file, self.file, js="(file) => window.playground.save(file)", trigger_mode="multiple",
            show_progress="hidden",
        )  # fmt: skip

    # --- looking ---

    async def _look(self, visitor: gr.Request, said: str, key: str) -> Updates:
        """What has changed: the list, what it can be narrowed down to, and what the page should have open."""
        asked, caller = Asked.parse(said), caller_of(visitor)
        if not key and not asked.awaited:
            return await asyncio.to_thread(self._drawn, caller, asked)
        followed = await asyncio.to_thread(self._opened.followed, caller, key, asked.awaited)
        updates = await asyncio.to_thread(self._drawn, caller, asked)
        if followed != key:
            line = "" if followed else view.said(texts.DELETED_ELSEWHERE)
            updates[self.news] = json.dumps([key, followed, line, time.monotonic()])
        return updates

    def _drawn(self, caller: Caller, asked: Asked) -> Updates:
        """The list and the filters, each where it is not what the page shows already."""
        try:
            found = self._history.find(caller, asked.query)
        except PlaygroundError as error:
            narrowed, rows = view.marked(""), view.marked(view.refused(error_lines(error)))
        else:
            narrowed = view.filters(found, asked.query, self._use_cases)
            rows = view.conversation_list(found, asked.query, view.Clock(time.time(), asked.minutes))
        drawn = ((self.filters, narrowed, asked.filters_mark), (self.list, rows, asked.mark))
        return {place: html if view.mark_of(html) != mark else gr.skip() for place, html, mark in drawn}

    def _foot(self, visitor: gr.Request) -> str:
        """Where the file is, and what was found when it was opened: for those whose machine it is."""
        caller = caller_of(visitor)
        elsewhere = bool(caller.address) and not is_loopback(caller.address)
        if self._config.is_shared or elsewhere:
            return view.foot("", ())
        return view.foot(str(self._history.place or ""), self._history.notices)

    # --- doing ---

    async def _act(
        self, visitor: gr.Request, event: gr.EventData, key: str, deleted: tuple[Conversation, ...]
    ) -> Updates:
        """Do what was asked for; what goes wrong is said in the line above the list."""
        wish = event._data.get("value") if isinstance(event._data, dict) else None
        act = Act(caller_of(visitor), Open.parse(key), deleted or (), wish if isinstance(wish, dict) else {})
        try:
            done = await asyncio.to_thread(self._done, act)
        except Exception as error:
            if not isinstance(error, PlaygroundError):
                log.error("an action of the sidebar failed", exc_info=error)
            done = Done(view.refused(error_lines(error)))
        drawn = await asyncio.to_thread(self._drawn, act.caller, Asked.parse(act.text("asked"))) if done.redrawn else {}
        said_before = None if act.said.get("undo") else ""  # Undo stays until something else could be undone
        line = said_before if done.said is None else done.said
        changes = {
            self._opened.key: done.key, self.said: line, self.deleted: done.deleted, self.file: done.file,
        }  # fmt: skip
        return {component: gr.skip() if value is None else value for component, value in changes.items()} | drawn

    def _done(self, act: Act) -> Done:
        action = self._actions.get(act.text("do"))
        if action is None:
            raise InvalidRequest(f"Unknown action {act.text('do')[:40]!r}.", "Reload the page.")
        return action(act)

    def _open(self, act: Act) -> Done:
        return Done(key=_key(self._history.get(act.caller, act.text("id"))), redrawn=False)

    def _rename(self, act: Act) -> Done:
        renamed = self._history.rename(act.caller, act.text("id"), act.text("title"))
        return Done("", _key(renamed, act.shown.leaf) if act.shown.conversation == renamed.id else None)

    def _delete(self, act: Act) -> Done:
        gone = self._history.delete(act.caller, act.text("id"))
        was_open = gone.id == act.shown.conversation
        return Done(
            view.said(f"Deleted “{gone.shown_title}”.", undo="Undo"), "" if was_open else None, (gone,)
        )  # fmt: skip

    def _undo(self, act: Act) -> Done:
        if not act.deleted:
            return Done(view.said(texts.NO_LONGER_UNDONE))
        self._history.restore(act.caller, act.deleted)
        if len(act.deleted) > 1:
            return Done(view.said(f"Brought back {plural(len(act.deleted), 'conversation')}."), deleted=())
        back = act.deleted[0]
        return Done(
            view.said(f"Brought back “{back.shown_title}”."), None if act.shown.conversation else _key(back), ()
        )  # fmt: skip

    def _ask_delete_all(self, act: Act) -> Done:
        return Done(view.delete_all_asked(self._history.find(act.caller, Query(limit=0)).total), redrawn=False)

    def _delete_all(self, act: Act) -> Done:
        gone = self._history.delete_all(act.caller)
        line = f"Deleted {plural(len(gone), 'conversation')}."
        if self._config.is_shared and _characters(gone) > UNDO_CHARACTERS:
            return Done(view.said(f"{line} {texts.TOO_MUCH_TO_UNDO}"), "", ())
        return Done(view.said(line, undo="Undo"), "", gone)

    def _export(self, act: Act) -> Done:
        """A file of one conversation, or, without an id, of all; the page's script saves it."""
        form = next((form for form in EXPORT_FORMATS if form == act.text("format")), None)
        if form is None:
            raise InvalidRequest(f"Unknown format {act.text('format')[:40]!r}.", f"Use {', '.join(EXPORT_FORMATS)}.")
        file = self._history.export(act.caller, form, [act.text("id")] if act.text("id") else None)
        return Done(view.said(f"Saved as {file.name}."), file=json.dumps([file.name, file.text]), redrawn=False)

    def _import(self, act: Act) -> Done:
        """Take in a file that the page has read; of one that is too large it sends the size alone."""
        if act.said.get("bytes"):
            size = act.said["bytes"]
            raise chat_files.too_large(size if isinstance(size, int) else 0, f"{act.text('name')[:100]}: ")
        self._limits.admit(act.caller)
        came = self._history.take_in(act.caller, act.text("name"), act.text("text"))
        line = view.said(f"Imported {plural(len(came), 'conversation')} from {act.text('name')[:100]}.")
        return Done(line, _key(came[0]) if len(came) == 1 else None)


def _key(conversation: Conversation, leaf: str | None = None) -> str:
    return Open(conversation.id, conversation.leaf if leaf is None else leaf, conversation.revision).key


def _characters(conversations: Iterable[Conversation]) -> int:
    return sum(len(turn.content) for one in conversations for turn in one.turns)
