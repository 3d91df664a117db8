"""Conversations for every surface: whose they are, what may be done with them, and taking them in and out as files."""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from pathlib import Path

from playground.config import AppConfig, is_loopback
from playground.conversation import Conversation, Found, Query, Thumb, Turn, new_id
from playground.errors import HistoryUnavailable, InvalidRequest, NotFound, NotPermitted
from playground.services import chat_files
from playground.services.chat_files import EXPORT_FORMATS, ExportFormat, TextFile
from playground.services.chat_limits import (
    LONGEST_MODEL_ID,
    LONGEST_TITLE,
    MOST_BYTES,
    MOST_CONVERSATIONS,
    MOST_TOGETHER,
    check_content,
    check_said,
    check_text,
    check_turns,
    checked_id,
    one_line,
)
from playground.store import Store, records
from playground.types import ROLES, Caller, Role

__all__ = ["EXPORT_FORMATS", "LOCAL", "ExportFormat", "History", "TextFile"]

LOCAL = "local"
EVERYTHING = Query()


class History:
    """What people do with conversations. Each method takes the caller, and works on what is theirs alone.

    Synchronous, and may wait for the disk: from the event loop, call it in a thread. Raises `NotFound` for what is not
    there or is somebody else's, `InvalidRequest` for what may not be, `NotPermitted` for callers who have no history,
    `HistoryUnavailable` when the disk refuses. ``clock`` tells the seconds since 1970.
    """

    def __init__(self, store: Store, config: AppConfig, clock: Callable[[], float] = time.time) -> None:
        self._store = store
        self._config = config
        self._clock = clock
        self._adding = threading.Lock()  # held while ids are looked up and conversations of them are added

    def owner(self, caller: Caller) -> str:
        """Whose conversations ``caller`` sees: on a machine of one's own everybody's are the same person's.

        Whom a proxy lets in from elsewhere is a person of their own there too. Raises `NotPermitted` for an address alone
        where it takes more to tell people apart.
        """
        elsewhere = bool(caller.address) and not is_loopback(caller.address)  # let in by a proxy
        if not (self._config.is_shared or self._config.needs_login or elsewhere):
            is_program = caller.kind == "key" and not caller.admin and self._config.api_keys
            return caller.id if is_program else LOCAL
        if caller.kind == "address":
            raise NotPermitted(
                "Conversations are kept for people and keys, and this request came with neither.",
                "Send an API key, sign in, or open the pages in a browser that keeps cookies.",
            )
        return caller.id

    @property
    def place(self) -> Path | None:
        """The file, for those who may know it; None where there is none."""
        return None if self._config.is_shared else self._store.path

    @property
    def notices(self) -> tuple[str, ...]:
        """What was found when the file was opened, such as that it could not be read and was set aside.

        They name files, so where strangers may read them there are none: the log has them for who runs the server.
        """
        return () if self._config.is_shared else self._store.notices

    def find(self, caller: Caller, query: Query = EVERYTHING) -> Found:
        """The caller's conversations that ``query`` asks for, newest first."""
        return self._store.conversations.find(self.owner(caller), query)

    def get(self, caller: Caller, conversation_id: str) -> Conversation:
        """One of the caller's conversations."""
        return self._store.conversations.get(self.owner(caller), conversation_id)

    def begin(
        self, caller: Caller, *, conversation_id: str = "", use_case: str = "chatbot", system: str = "", title: str = ""
    ) -> Conversation:
        """A new, empty conversation, stored; ``conversation_id`` "" makes an id."""
        new = self._new(caller, conversation_id, use_case, system)
        return self._add(dataclasses.replace(new, title=_title(title)))

    def save_message(
        self, caller: Caller, conversation_id: str, role: Role, content: str, model_id: str, use_case: str
    ) -> Conversation:
        """Append one message that a program has; a conversation of an id that is not there begins with it.

        A system message that comes first is the conversation's system prompt, a later one a turn. The conversation's use
        case is the one that was named last; "" names none.
        """
        if role not in ROLES:
            raise InvalidRequest(f"Unknown role {str(role)[:40]!r}.", f"Use one of {', '.join(ROLES)}.")
        check_content(content)
        model = one_line("model's name", model_id, LONGEST_MODEL_ID)
        empty = self._new(caller, conversation_id, use_case or "chatbot")
        self._check_room(empty.owner, (content,), conversations=not self._is_taken(empty.owner, empty.id))

        def with_message(found: Conversation) -> Conversation:
            found = dataclasses.replace(found, use_case=empty.use_case if use_case else found.use_case)
            if role == "system" and not found.turns and not found.system:
                return dataclasses.replace(found, system=content, updated_at=self._clock())
            turn = Turn(new_id(), found.leaf, role, content, self._clock(), model_id=model)
            return self._with_turns(found, (turn,))

        return self._change_or_begin(empty, with_message)

    def append(
        self, caller: Caller, conversation_id: str, turns: Sequence[Turn], *, system: str | None = None,
        use_case: str | None = None, begins: bool = False, leaf: str = "",
    ) -> Conversation:  # fmt: skip
        """Add turns that each follow one that is there; one write.

        With ``begins``, a conversation of an id that is not there (any new one) begins with them. ``system`` and
        ``use_case`` are the conversation's from now on, where they are given; ``leaf`` names the turn that is open, "" the
        last. Answers that were made here are never refused: ask `check_ask` before they are made.
        """
        cleaned = tuple(_checked_turn(turn) for turn in turns)
        prompt = None if system is None else _system(system)
        case = None if use_case is None else self._use_case(use_case)

        def with_turns(found: Conversation) -> Conversation:
            found = dataclasses.replace(
                found,
                system=found.system if prompt is None else prompt,
                use_case=found.use_case if case is None else case,
            )
            after = self._with_turns(found, cleaned)
            return dataclasses.replace(after, leaf=after.turn(leaf).id) if leaf else after

        owner = self.owner(caller)
        if not any(turn.reply for turn in cleaned):
            texts = (text for turn in cleaned for text in (turn.content, turn.expected))
            self._check_room(owner, texts, conversations=int(begins))
        if begins:
            return self._change_or_begin(self._new(caller, conversation_id, case or "chatbot"), with_turns)
        return self._store.conversations.change(owner, conversation_id, with_turns)

    def rename(self, caller: Caller, conversation_id: str, title: str) -> Conversation:
        """Give a title; an empty one brings back the one that is made of the first message."""
        kept = _title(title)
        return self._change(
            caller, conversation_id, lambda it: it if it.title == kept else dataclasses.replace(it, title=kept)
        )

    def edit(self, caller: Caller, conversation_id: str, turn_id: str, content: str) -> Conversation:
        """Another version of a message, which is open from now on; the one that was stays beside it."""
        check_content(content)
        self._check_room(self.owner(caller), (content,))

        def edited(found: Conversation) -> Conversation:
            old = found.turn(turn_id)
            if old.content == content:
                return found
            turn = Turn(new_id(), old.parent, old.role, content, self._clock(), model_id=old.answered_by, edited=True)
            return self._with_turns(found, (turn,))

        return self._change(caller, conversation_id, edited)

    def switch(self, caller: Caller, conversation_id: str, turn_id: str) -> Conversation:
        """Open the newest path through that version."""

        def switched(found: Conversation) -> Conversation:
            leaf = found.newest_leaf(found.turn(turn_id).id)
            return found if leaf == found.leaf else dataclasses.replace(found, leaf=leaf)

        return self._change(caller, conversation_id, switched)

    def thumb(self, caller: Caller, conversation_id: str, turn_id: str, thumb: Thumb) -> Conversation:
        """Judge an answer: 1 good, -1 bad, 0 takes it back."""
        if thumb not in (-1, 0, 1):
            raise InvalidRequest(f"A thumb is {str(thumb)[:20]}.", "It must be 1, -1 or 0.")

        def judged(found: Conversation) -> Conversation:
            turn = found.turn(turn_id)
            if turn.role != "assistant":
                raise InvalidRequest("Only answers are judged.", "Choose an answer.")
            return found if turn.thumb == thumb else found.with_turn(dataclasses.replace(turn, thumb=thumb))

        return self._change(caller, conversation_id, judged)

    def set_system(self, caller: Caller, conversation_id: str, system: str) -> Conversation:
        """Give the conversation that system prompt; "" takes it away."""
        kept = _system(system)
        self._check_room(self.owner(caller), (kept,))
        return self._change(
            caller, conversation_id, lambda it: it if it.system == kept else dataclasses.replace(it, system=kept)
        )

    def branch(self, caller: Caller, conversation_id: str, turn_id: str) -> Conversation:
        """A new conversation that begins with the path to that turn."""
        old = self.get(caller, conversation_id)
        new = self._new(caller, "", old.use_case, old.system)
        turns: list[Turn] = []
        for turn in old.path(old.turn(turn_id).id):
            turns.append(dataclasses.replace(turn, id=new_id(), parent=turns[-1].id if turns else ""))
        return self._add(dataclasses.replace(new.with_turns(turns, new.updated_at), title=old.title))

    def delete(self, caller: Caller, conversation_id: str) -> Conversation:
        """Delete; what is returned can be given to `restore`."""
        return self._store.conversations.remove(self.owner(caller), conversation_id)

    def delete_all(self, caller: Caller) -> tuple[Conversation, ...]:
        """Delete all that the caller has; what is returned can be given to `restore`."""
        return self._store.conversations.remove_all(self.owner(caller))

    def restore(self, caller: Caller, conversations: Iterable[Conversation]) -> None:
        """Bring back what was deleted, each as it was. One whose id is in use again by now gets a new one.

        Raises `InvalidRequest` where there is no room for them any more.
        """
        owner = self.owner(caller)
        with self._adding:
            back: dict[str, Conversation] = {}
            for one in conversations:
                taken = one.id in back or self._is_taken(owner, one.id)
                kept = new_id() if taken else one.id
                back[kept] = dataclasses.replace(one, owner=owner, id=kept)
            self._check_room_for(owner, back.values())
            self._store.conversations.put_all(back.values())

    def export(self, caller: Caller, form: ExportFormat, conversation_ids: Sequence[str] | None = None) -> TextFile:
        """Those conversations as a file, None for all of them, oldest first. Raises `InvalidRequest` for none."""
        if form not in EXPORT_FORMATS:
            raise InvalidRequest(f"Unknown format {str(form)[:40]!r}.", f"Use one of {', '.join(EXPORT_FORMATS)}.")
        if conversation_ids is None:
            chosen = self._store.conversations.all(self.owner(caller))
        else:
            chosen = tuple(self.get(caller, one) for one in dict.fromkeys(conversation_ids))
        oldest_first = sorted(chosen, key=lambda one: one.created_at)
        text = chat_files.write(oldest_first, form)
        if not chosen or not text:
            raise InvalidRequest("There is nothing to export: nothing was said yet.", "Begin a conversation first.")
        return TextFile(chat_files.file_name(oldest_first, form, self._clock()), text)

    def take_in(self, caller: Caller, name: str, text: str) -> tuple[Conversation, ...]:
        """Import a file of any of the formats, under new ids; all that is in it, or nothing. Raises `InvalidRequest`."""
        owner = self.owner(caller)
        found = tuple(
            dataclasses.replace(one, id=new_id(), owner=owner, revision=0, use_case=self._use_case(one.use_case))
            for one in chat_files.read(text, name, self._clock())
        )
        self._check_room_for(owner, found)
        self._store.conversations.put_all(found)
        return found

    def check_ask(
        self, caller: Caller, conversation_id: str, said: Sequence[Turn], answers: int, *, system: str, use_case: str
    ) -> None:
        """Raise what `append` would raise for turns that were ``said`` and so many answers, before these are made.

        ``conversation_id`` "" asks for a new conversation.
        """
        owner = self.owner(caller)
        for turn in said:
            check_said(turn)
        _system(system)
        self._use_case(use_case)
        texts = (text for turn in said for text in (turn.content, turn.expected))
        self._check_room(owner, (system, *texts), conversations=not conversation_id)
        if conversation_id:
            there = self._store.conversations.get(owner, conversation_id)
            check_turns(len(there.turns) + len(said) + answers)

    def _new(self, caller: Caller, conversation_id: str, use_case: str, system: str = "") -> Conversation:
        """An empty conversation of the caller's, not stored."""
        owner, now = self.owner(caller), self._clock()
        kept = checked_id("conversation's id", conversation_id) if conversation_id else new_id()
        return Conversation(
            kept, owner, created_at=now, updated_at=now, use_case=self._use_case(use_case), system=_system(system)
        )

    def _use_case(self, name: str) -> str:
        key, known = name.strip().replace("-", "_"), self._config.use_cases
        if key not in known and key != Conversation.use_case:  # the one that a conversation has by itself
            raise InvalidRequest(f"Unknown use case {name[:60]!r}.", f"Use one of {', '.join(known)}.")
        return key

    def _change(
        self, caller: Caller, conversation_id: str, edit: Callable[[Conversation], Conversation]
    ) -> Conversation:
        return self._store.conversations.change(self.owner(caller), conversation_id, edit)

    def _change_or_begin(self, empty: Conversation, edit: Callable[[Conversation], Conversation]) -> Conversation:
        """Change the conversation of that owner and id, or add what ``edit`` makes of ``empty``."""
        if not self._is_taken(empty.owner, empty.id):
            with self._adding:
                if not self._is_taken(empty.owner, empty.id):
                    return self._store.conversations.put(edit(empty))
        return self._store.conversations.change(empty.owner, empty.id, edit)

    def _add(self, new: Conversation) -> Conversation:
        self._check_room_for(new.owner, (new,))
        return self._store.conversations.put(new)

    def _is_taken(self, owner: str, conversation_id: str) -> bool:
        try:
            self._store.conversations.get(owner, conversation_id)
        except NotFound:
            return False
        except HistoryUnavailable:  # there is one, which this version cannot read
            return True
        return True

    def _check_room(self, owner: str, contents: Iterable[str] = (), conversations: int = 0) -> None:
        """Refuse more than there is room for where the server is shared. What is stored already stays."""
        self._check_bytes(owner, sum(len(text.encode("utf-8", "replace")) for text in contents), conversations)

    def _check_room_for(self, owner: str, new: Collection[Conversation]) -> None:
        if self._config.is_shared:
            self._check_bytes(owner, sum(map(records.size, new)), len(new))

    def _check_bytes(self, owner: str, more: int, conversations: int) -> None:
        if not self._config.is_shared:
            return
        kept, remedy = self._store.conversations, "Export and delete some first."
        if conversations and kept.count(owner) + conversations > MOST_CONVERSATIONS:
            raise InvalidRequest(f"{MOST_CONVERSATIONS:,} conversations are kept for each person here.", remedy)
        if more and kept.size(owner) + more > MOST_BYTES:
            raise InvalidRequest(f"{MOST_BYTES / 10**6:g} MB are kept for each person here.", remedy)
        if kept.size_of_all(owner.partition(" ")[0]) + more > MOST_TOGETHER:
            raise InvalidRequest(
                "There is no more room for conversations on this server.", "Delete some of yours, or ask who runs it."
            )

    def _with_turns(self, found: Conversation, turns: Sequence[Turn]) -> Conversation:
        if not any(turn.reply for turn in turns):  # what was made here is kept: `check_ask` was asked before
            check_turns(len(found.turns) + len(turns))
        return found.with_turns(turns, self._clock())


def _system(text: str) -> str:
    check_text("system prompt", text)
    return text


def _title(text: str) -> str:
    return one_line("title", text, LONGEST_TITLE)


def _checked_turn(turn: Turn) -> Turn:
    """``turn`` as it is stored. What a model has written is never refused: NUL characters in it become U+FFFD."""
    if turn.reply is None:
        check_said(turn)
        return turn
    whole = turn.content.encode("utf-8", "replace").decode().replace("\0", "�")
    return dataclasses.replace(turn, content=whole)
