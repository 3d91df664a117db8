"""A conversation as a tree of turns: frozen values and pure functions; standard library only.

Nothing that was said is overwritten: to edit a message, to answer again or to go on with an answer makes another version
beside it. A path from a first turn to a ``leaf`` is what a person sees and what a model is sent.
"""

from __future__ import annotations

import dataclasses
import re
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from playground.errors import InvalidRequest, NotFound
from playground.types import FinishReason, GenerationStats, ModelSpec, Provenance, Role, Template

Thumb = Literal[-1, 0, 1]
TITLE_CHARACTERS = 60
UNTITLED = "New conversation"


@dataclass(frozen=True)
class Reply:
    """What made an assistant's turn, and what it cost.

    ``spec`` is by the names that are offered here, so it holds no path of them. ``alone`` says that the prompt was sent
    without what was said before it. ``prefill`` is how the answer was made to begin; it is part of the turn's content.
    ``token_ids`` are the generated tokens, ``prompt_hash`` the SHA-256 of the prompt's token ids ("" where unknown), and
    ``thought_s`` the seconds until its reasoning ended, None where there was none. ``chat_template_kwargs`` are those of
    the request. ``index`` is its place among the answers of its request. ``opened`` is what the model's own template began
    the answer with (a ``<think>``): the turn's content is that, the prefill, and what was generated.
    """

    spec: ModelSpec
    finish_reason: FinishReason
    template: Template = "chat"
    alone: bool = False
    stats: GenerationStats = field(default_factory=GenerationStats)
    notices: tuple[str, ...] = ()
    provenance: Provenance | None = None
    prefill: str = ""
    token_ids: tuple[int, ...] = ()
    prompt_hash: str = ""
    thought_s: float | None = None
    cached: bool = False
    chat_template_kwargs: Mapping[str, Any] = field(default_factory=dict)
    index: int = 0
    opened: str = ""

    @property
    def model_id(self) -> str:
        """What a program calls what answered: ``base:adapter@0.5``."""
        return self.spec.base + "".join(
            f":{name}{'' if scale == 1 else f'@{scale:g}'}" for name, scale in self.adapters
        )

    @property
    def label(self) -> str:
        """What answered, for people: ``base + adapter ×0.5``."""
        return self.spec.base + "".join(
            f" + {name}{'' if scale == 1 else f' ×{scale:g}'}" for name, scale in self.adapters
        )

    @property
    def adapters(self) -> tuple[tuple[str, float], ...]:
        """(name, strength) of what was on top of the base."""
        return self.spec.adapters


@dataclass(frozen=True)
class Turn:
    """One message in its place: ``parent`` is the id of the turn before it, "" for a first one.

    ``content`` is the whole text, an answer's reasoning included. ``at`` is in seconds since 1970. ``reply`` is there for
    answers that were made here; ``model_id`` is what a program named that saved the message itself. ``edited`` says that
    a person wrote this version of what somebody else, or a model, had said. ``expected`` is, on a user's turn, the answer
    that it should get, "" where none was named: it is compared, and never sent to a model.
    """

    id: str
    parent: str
    role: Role
    content: str
    at: float
    reply: Reply | None = None
    model_id: str = ""
    thumb: Thumb = 0
    edited: bool = False
    expected: str = ""

    @property
    def answered_by(self) -> str:
        """The model's name as a program calls it, "" where none is known."""
        return self.reply.model_id if self.reply else self.model_id

    @property
    def stopped(self) -> bool:
        """Whether the answer was broken off before its end."""
        return self.reply is not None and self.reply.finish_reason == "cancelled"


@dataclass(frozen=True)
class Conversation:
    """All that was said under one title; ``turns`` stand in the order in which they were written.

    ``owner`` and ``id`` name it: ids are unique for each owner. ``leaf`` is the last turn of the path that is open, ""
    before there is any. ``system`` is the system prompt that the next answer gets. ``revision`` counts changes.
    """

    id: str
    owner: str
    created_at: float
    updated_at: float
    title: str = ""
    use_case: str = "chatbot"
    system: str = ""
    turns: tuple[Turn, ...] = ()
    leaf: str = ""
    revision: int = 0

    @property
    def shown_title(self) -> str:
        """The title that a person gave it, else the beginning of what was said first."""
        first = next((turn.content for turn in self.turns if turn.role == "user"), "")
        return self.title or short_title(first) or UNTITLED

    @property
    def model_id(self) -> str:
        """What answered last on the open path, "" where nothing did."""
        return next((turn.answered_by for turn in reversed(self.path()) if turn.answered_by), "")

    @property
    def message_count(self) -> int:
        """How many messages are shown: the system prompt, where there is one, and the open path."""
        return bool(self.system.strip()) + len(self.path())

    def turn(self, turn_id: str) -> Turn:
        """The turn of that id. Raises `NotFound`."""
        for turn in self.turns:
            if turn.id == turn_id:
                return turn
        raise NotFound("That message is no longer in the conversation.", "Reload the page.")

    def path(self, leaf: str | None = None) -> tuple[Turn, ...]:
        """The turns from the first one to ``leaf``; None is the open path, "" is before the first. Raises `NotFound`."""
        by_id = {turn.id: turn for turn in self.turns}
        at, found = self.leaf if leaf is None else leaf, []
        while at:
            if at not in by_id:
                raise NotFound("That message is no longer in the conversation.", "Reload the page.")
            found.append(by_id[at])
            at = by_id[at].parent
        return tuple(reversed(found))

    def versions(self, turn_id: str) -> tuple[Turn, ...]:
        """The turn and those beside it, which follow the same turn and are of the same role, oldest first."""
        here = self.turn(turn_id)
        return tuple(turn for turn in self.turns if turn.parent == here.parent and turn.role == here.role)

    def newest_leaf(self, turn_id: str) -> str:
        """The end of the newest path through a turn: where a switch to that version leads."""
        last_child = {turn.parent: turn.id for turn in self.turns}
        while turn_id in last_child:
            turn_id = last_child[turn_id]
        return turn_id

    def follows(self, leaf: str, ancestor: str) -> bool:
        """Whether the path to ``leaf`` goes through ``ancestor`` ("" is before every path)."""
        return not ancestor or any(turn.id == ancestor for turn in self.path(leaf))

    def with_turns(self, turns: Iterable[Turn], now: float) -> Conversation:
        """A copy with ``turns`` added, each after one that is there, and the last of them open.

        Raises `NotFound` for a parent that is not there, `InvalidRequest` for an id that is.
        """
        known, added = {turn.id for turn in self.turns}, tuple(turns)
        for turn in added:
            if turn.parent and turn.parent not in known:
                raise NotFound("The message that this one follows is no longer there.", "Reload the page.")
            if not turn.id or turn.id in known:
                raise InvalidRequest(f"There is a message {turn.id!r} already.", "Give each an id of its own.")
            known.add(turn.id)
        leaf = added[-1].id if added else self.leaf
        return dataclasses.replace(self, turns=(*self.turns, *added), leaf=leaf, updated_at=now)

    def with_turn(self, changed: Turn) -> Conversation:
        """A copy in which the turn of that id is ``changed``. Raises `NotFound`."""
        self.turn(changed.id)
        return dataclasses.replace(self, turns=tuple(changed if turn.id == changed.id else turn for turn in self.turns))


@dataclass(frozen=True)
class Summary:
    """One conversation in a list.

    ``messages`` is `Conversation.message_count`, ``models`` are all that answered in it; ``excerpt`` is where a search found
    its words.
    """

    id: str
    title: str
    use_case: str
    model_id: str
    models: tuple[str, ...]
    messages: int
    created_at: float
    updated_at: float
    excerpt: str = ""


@dataclass(frozen=True)
class Query:
    """Which conversations are asked for: words in titles and messages, and filters; "" is any.

    ``model`` is a base, or a base with an adapter as in `Reply.model_id`, without a strength at any; ``adapter`` is an
    adapter's name.
    """

    text: str = ""
    model: str = ""
    adapter: str = ""
    use_case: str = ""
    limit: int = 200
    offset: int = 0


@dataclass(frozen=True)
class Found:
    """What a `Query` brought: the newest first, ``total`` of them without its limit; what there is to filter by."""

    summaries: tuple[Summary, ...]
    total: int
    bases: tuple[str, ...] = ()
    adapters: tuple[str, ...] = ()
    use_cases: tuple[str, ...] = ()


def new_id() -> str:
    """An id for a turn or a conversation: random, so that two processes never make the same."""
    return uuid.uuid4().hex


def short_title(text: str) -> str:
    """The beginning of ``text`` as one line of a list, cut at a word where there is one."""
    line = " ".join(text.split())
    if len(line) <= TITLE_CHARACTERS:
        return line
    cut = line[:TITLE_CHARACTERS]
    return f"{cut.rsplit(' ', 1)[0] if ' ' in cut[TITLE_CHARACTERS // 2 :] else cut}…"


_OPENS = re.compile(r"\s*<think>")
_CLOSES = "</think>"


def split_reasoning(text: str) -> tuple[str | None, str, bool]:
    """(reasoning, answer, whether the reasoning has ended) of an assistant's text; reasoning is None where there is none.

    Reasoning begins with ``<think>``, which may stand in the prompt instead: all before a first ``</think>`` is
    reasoning.
    """
    opened = _OPENS.match(text)
    before, closed, after = text.partition(_CLOSES)
    if closed:
        return (before[opened.end() :] if opened else before).strip(), after.lstrip("\n"), True
    if opened:
        return text[opened.end() :].strip(), "", False
    return None, text, True


def without_reasoning(text: str) -> str:
    """An assistant's text as it is sent back to a model: what it thought is left out."""
    return split_reasoning(text)[1]
