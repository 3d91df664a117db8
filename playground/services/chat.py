"""Conversations that models answer in: what is asked of one, checked and made into a request before any work starts."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

from playground.conversation import Conversation, Reply, Turn, new_id, without_reasoning
from playground.errors import InvalidRequest
from playground.services.exchange import Exchange
from playground.services.generation import Generation
from playground.services.history import History
from playground.services.manifests import Manifest
from playground.services.replay import Replay
from playground.services.written import Place
from playground.store import records
from playground.types import Caller, GenerationRequest, GenerationSettings, Message, ModelSpec, Template

__all__ = ["Action", "Ask", "Chat", "Exchange"]

Action = Literal["send", "regenerate", "continue"]
CLOSE_S = 3.0


@dataclass(frozen=True)
class Ask:
    """What is asked of a conversation; "" begins a new one.

    ``send`` adds ``content`` as a user's turn after ``turn`` ("" for a first one) and answers it: so an edited message is
    sent after the turn that the old one followed. ``regenerate`` answers again what ``turn``, an answer, answered; given a
    user's turn it answers that. ``continue`` goes on with ``turn``, an answer: another version of it that begins with its
    text. ``prefill`` is how the answer begins. ``alone`` sends the last message without what was said before; templates
    other than chat always do. ``expected`` is the answer that ``content`` should get, kept with it for comparing.
    """

    spec: ModelSpec
    action: Action = "send"
    conversation: str = ""
    turn: str = ""
    content: str = ""
    settings: GenerationSettings = field(default_factory=GenerationSettings)
    template: Template = "chat"
    prefill: str = ""
    alone: bool = False
    use_case: str = "chatbot"
    chat_template_kwargs: Mapping[str, Any] = field(default_factory=dict)
    expected: str = ""


class Chat:
    """Conversations that models answer in. ``clock`` tells the seconds since 1970."""

    def __init__(
        self, generation: Generation, history: History, replay: Replay, clock: Callable[[], float] = time.time
    ) -> None:
        self._generation = generation
        self._history = history
        self._replay = replay
        self._clock = clock
        self._store_thread = ThreadPoolExecutor(1, "history")
        self._going: set[Future[Conversation | None]] = set()  # what has begun, until it is known what is stored of it

    def ask(self, caller: Caller, ask: Ask) -> Exchange:
        """Prepare an exchange; nothing is generated or stored yet. Reads the disk.

        Raises `NotFound` for a conversation or turn that is not there, and `InvalidRequest`, before any work starts.
        """
        place, path = self._place(caller, ask)
        request = _request(ask, path, place.prefill, caller.id)
        _check_kwargs(ask)
        said, system = (place.said,) if place.said else (), ask.settings.system_prompt
        answers = ask.settings.num_return_sequences
        self._history.check_ask(caller, ask.conversation, said, answers, system=system, use_case=ask.use_case)
        keep = partial(
            self._history.append, caller, place.conversation_id,
            system=system, use_case=ask.use_case, begins=not ask.conversation,
        )  # fmt: skip
        named = self._replay.named_spec(ask.spec)
        return Exchange(
            self._generation, request, place, named, partial(self._store_thread.submit, keep), self._going, self._clock
        )

    def preview(self, caller: Caller, ask: Ask) -> GenerationRequest:
        """The request that ``ask`` would send, for counting its tokens; its content may be empty where history is not."""
        place, path = self._place(caller, ask)
        return _request(ask, path, place.prefill, caller.id)

    def manifest(self, caller: Caller, conversation_id: str, turn_id: str) -> Manifest:
        """All that it takes to make a stored answer again. Raises `InvalidRequest` for one that was not made here."""
        conversation = self._history.get(caller, conversation_id)
        turn = conversation.turn(turn_id)
        reply = turn.reply
        if reply is None or reply.provenance is None:
            raise InvalidRequest(
                "It is not known how this message was made.", "Choose an answer that a model gave here."
            )
        request = GenerationRequest(
            reply.spec,
            messages=_messages(conversation.path(turn.parent), reply.alone, reply.provenance.settings.system_prompt),
            settings=reply.provenance.settings,
            template=reply.template,
            prefill=reply.prefill,
            chat_template_kwargs=reply.chat_template_kwargs,
        )
        generated = turn.content[len(reply.opened + reply.prefill) :]
        return Manifest(
            request, reply.index, reply.token_ids, reply.prompt_hash, generated, reply.finish_reason, reply.provenance
        )

    def close(self, seconds: float = CLOSE_S) -> None:
        """Wait until what has begun is stored, ``seconds`` at most, and store nothing more."""
        wait(tuple(self._going), seconds)
        self._store_thread.shutdown(wait=False)

    def _place(self, caller: Caller, ask: Ask) -> tuple[Place, Sequence[Turn]]:
        """Where the answers go, and the turns that they answer."""
        there = self._history.get(caller, ask.conversation) if ask.conversation else None
        if ask.action == "send":
            return self._sent(ask, there)
        if ask.action not in ("regenerate", "continue"):
            raise InvalidRequest(f"Unknown action {str(ask.action)[:40]!r}.", "Use send, regenerate or continue.")
        if there is None:
            raise InvalidRequest(f"There is nothing to {ask.action} in a new conversation.", "Send a message first.")
        if ask.content or ask.expected:
            given = "A message" if ask.content else "An expected answer"
            raise InvalidRequest(f"{given} was given to {ask.action}.", "Send it, or leave it out.")
        turn = there.turn(ask.turn)
        return _again(ask, there, turn) if ask.action == "regenerate" else _continued(ask, there, turn)

    def _sent(self, ask: Ask, there: Conversation | None) -> tuple[Place, Sequence[Turn]]:
        if there is None and ask.turn:
            raise InvalidRequest("A new conversation has no message to follow.", "Name the conversation as well.")
        before = there.path(ask.turn) if there else ()
        said = Turn(new_id(), ask.turn, "user", ask.content, self._clock(), expected=ask.expected)
        place = Place(there.id if there else new_id(), said.id, ask.prefill, ask.alone or ask.template != "chat", said)
        return place, (*before, said)


def _again(ask: Ask, there: Conversation, turn: Turn) -> tuple[Place, Sequence[Turn]]:
    """An answer to what ``turn`` answered, or to ``turn`` itself where that is a user's."""
    parent = turn.id if turn.role == "user" else turn.parent
    path = there.path(parent)
    if turn.role == "system" or not any(one.role == "user" for one in path):
        raise InvalidRequest("There is no message before this one that could be answered.", "Send a message.")
    return Place(there.id, parent, ask.prefill, ask.alone or ask.template != "chat"), path


def _continued(ask: Ask, there: Conversation, turn: Turn) -> tuple[Place, Sequence[Turn]]:
    if turn.role != "assistant" or not turn.content.strip():
        raise InvalidRequest(
            "Only an answer that has some text can be continued.", "Choose an answer, or send a message."
        )
    if ask.prefill:
        raise InvalidRequest(
            "A beginning was given to an answer that is to be continued.", "Leave it out, or regenerate."
        )
    alone = ask.alone or ask.template != "chat"
    return Place(there.id, turn.parent, turn.content, alone, continues=turn), there.path(turn.parent)


def _request(ask: Ask, path: Sequence[Turn], prefill: str, user: str) -> GenerationRequest:
    return GenerationRequest(
        ask.spec,
        messages=_messages(path, ask.alone or ask.template != "chat", ask.settings.system_prompt),
        settings=ask.settings,
        template=ask.template,
        prefill=prefill,
        chat_template_kwargs=ask.chat_template_kwargs,
        user=user,
    )


def _check_kwargs(ask: Ask) -> None:
    """Refuse what no file can hold, such as objects or numbers without an end, before it is part of an answer."""
    if ask.chat_template_kwargs:
        reply = Reply(ask.spec, "stop", chat_template_kwargs=ask.chat_template_kwargs)
        records.document(Conversation("-", "-", 0.0, 0.0, turns=(Turn("-", "", "assistant", "", 0.0, reply),)))


def _messages(path: Sequence[Turn], alone: bool, system: str) -> tuple[Message, ...]:
    """``path`` as a model is sent it, or its last message of a user alone; what models thought is left out.

    A system message that begins it would hide the request's own system prompt, so it comes behind that.
    """
    if alone:
        return tuple([Message("user", turn.content) for turn in path if turn.role == "user"][-1:])
    said = [
        Message(turn.role, without_reasoning(turn.content) if turn.role == "assistant" else turn.content)
        for turn in path
    ]
    if said and said[0].role == "system" and system.strip():
        said[0] = Message("system", f"{system}\n\n{said[0].content}")
    return tuple(said)
