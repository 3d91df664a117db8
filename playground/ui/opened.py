"""The conversation that a page has open: the same for its sidebar and for all of its tabs."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from typing import Any

import gradio as gr

from playground.conversation import Conversation
from playground.errors import HistoryUnavailable, NotFound, NotPermitted
from playground.services.history import History
from playground.types import Caller
from playground.ui.visitor import caller_of
from playground.ui.wiring import LIGHT, Updates


@dataclass(frozen=True)
class Open:
    """Which conversation, which end of its paths is shown, and at which revision the page last drew it."""

    conversation: str = ""
    leaf: str = ""
    revision: int = 0

    @classmethod
    def parse(cls, key: str | None) -> Open:
        """What `key` wrote; nothing open for anything else: the page holds it, so anybody may have written it."""
        try:
            conversation, leaf, revision = json.loads(key or "")
        except (TypeError, ValueError, RecursionError):
            return cls()
        if not (isinstance(conversation, str) and isinstance(leaf, str) and type(revision) is int):
            return cls()
        return cls(conversation, leaf, revision)

    @property
    def key(self) -> str:
        """One line of text that the page holds; "" where nothing is open."""
        return json.dumps([self.conversation, self.leaf, self.revision]) if self.conversation else ""


class Opened:
    """Where a page holds what is open: in a field that nobody sees, so that it outlives the server.

    Whatever reads it takes ``key`` as an input and parses it with `Open.parse`; whatever changes the conversation sends
    `shows`; whatever draws it listens to ``key.change``. Whether the conversation is the reader's own, `History` knows.

    A new conversation is stored when its first answer ends. Whoever asks it may send `awaits` (``awaited`` is the
    output), so that a page that is loaded again meanwhile opens it as soon as what was written is kept.
    """

    def __init__(self, history: History) -> None:
        self._history = history

    def render(self) -> None:
        """Make the fields."""
        self.key = gr.Textbox(visible="hidden", elem_id="open-conversation")
        self.awaited = gr.Textbox(visible="hidden", elem_id="awaited-conversation")

    def shows(self, conversation: Conversation | None, leaf: str | None = None) -> Updates:
        """Updates that open ``conversation`` at ``leaf`` (None: its own), or nothing for None."""
        if conversation is None:
            return {self.key: ""}
        return {self.key: Open(conversation.id, conversation.leaf if leaf is None else leaf, conversation.revision).key}

    def awaits(self, conversation_id: str) -> Updates:
        """Updates that say which conversation will be there when the answer that is being written has ended."""
        return {self.awaited: conversation_id}

    def listen(self, demo: gr.Blocks, begun: Any = None) -> None:
        """Keep what is open in the browser's tab, and bring it back after a reload.

        Where something else fills the page when it is opened, ``begun`` is that: what the conversation brings comes last.
        """
        self.key.change(None, self.key, None, js="(key) => window.playground.keepOpen(key)")
        self.awaited.change(None, self.awaited, None, js="(id) => window.playground.keepAwaited(id)")
        opens = begun.then if begun else demo.load
        opens(self._restored, [self.key, self.awaited], self.key, js="() => window.playground.keptOpen()", **LIGHT)

    async def _restored(self, visitor: gr.Request, key: str, awaited: str) -> str:
        return await asyncio.to_thread(self.followed, caller_of(visitor), key, awaited)

    def followed(self, caller: Caller, key: str, awaited: str = "") -> str:
        """The key that a page with ``key`` should have now: of what has been added since, "" where it is gone.

        It goes on with what was added at the end of the path that is shown; where another path is open elsewhere, this
        page stays on its own. With nothing open it is what the page ``awaited``, once that is there.
        """
        shown = Open.parse(key)
        try:
            conversation = self._history.get(caller, shown.conversation or awaited)
        except (HistoryUnavailable, NotFound, NotPermitted):
            return ""
        if not shown.conversation:
            return Open(conversation.id, conversation.leaf, conversation.revision).key
        if conversation.revision == shown.revision and _has(conversation, shown.leaf):
            return key
        return Open(conversation.id, _leaf(conversation, shown.leaf), conversation.revision).key


def _has(conversation: Conversation, leaf: str) -> bool:
    return not leaf or any(turn.id == leaf for turn in conversation.turns)


def _leaf(conversation: Conversation, shown: str) -> str:
    """The end of the path to show to whoever was shown the one to ``shown``."""
    if not _has(conversation, shown) or conversation.follows(conversation.leaf, shown):
        return conversation.leaf
    return shown
