"""Conversations as rows for training: ChatML and ShareGPT, of which each conversation's open path is one object.

What is read is taken whole or refused by name: a row that lost its tool calls or images would be another conversation.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

from playground.conversation import Conversation, Turn, new_id
from playground.errors import InvalidRequest
from playground.services.chat_limits import LONGEST_MODEL_ID, LONGEST_TITLE, one_line, shown
from playground.types import ROLES, Message, Role

RowFormat = Literal["chatml", "sharegpt"]
_SHAREGPT: Mapping[Role, str] = {"system": "system", "user": "human", "assistant": "gpt"}
_ROLES: Mapping[str, Role] = {
    **{role: role for role in ROLES},
    "developer": "system",
    **dict.fromkeys(("human", "prompter"), "user"),
    **dict.fromkeys(("gpt", "chatgpt", "bing", "bard", "bot", "model"), "assistant"),
}
_LISTS = ("messages", "conversations", "conversation")
_NAMES_OF_ROLE = ("role", "from")
_NAMES_OF_CONTENT = ("content", "value")
_SET_ASIDE = {"id", "conversation_id", "source", "dataset"}  # where a row came from, which is not part of what was said
_ROW_NAMES = {*_LISTS, *_SET_ASIDE, "system", "title", "model"}
_REMEDY = "Take it out of the file where it may be lost, and import that."


def rows(conversation: Conversation, form: RowFormat) -> Iterator[str]:
    """The line of ``conversation``: its open path with the reasoning in the answers; none where nothing was said."""
    said = spoken(conversation)
    if not conversation.path():
        return
    if form == "chatml":
        row: Any = {"messages": [{"role": one.role, "content": one.content} for one in said]}
    else:
        row = {"conversations": [{"from": _SHAREGPT[one.role], "value": one.content} for one in said]}
    yield json.dumps(row, ensure_ascii=False)


def spoken(conversation: Conversation) -> tuple[Message, ...]:
    """The open path as it stands, the system prompt first where there is one."""
    system = (Message("system", conversation.system),) if conversation.system else ()
    return (*system, *(Message(turn.role, turn.content) for turn in conversation.path()))


def conversation_of(row: Any, where: str, now: float) -> Conversation:
    """The conversation that one ChatML or ShareGPT object, or a bare list of messages, spells; said at ``now``.

    Raises `InvalidRequest` that names ``where`` and what is not understood.
    """
    if isinstance(row, list):
        row = {"messages": row}
    if not isinstance(row, dict):
        raise InvalidRequest(f"{where} is {shown(row)}, not an object.", "Each conversation is a JSON object.")
    present = {name: value for name, value in row.items() if not _says_nothing(value) or name in _LISTS}
    if unknown := sorted(present.keys() - _ROW_NAMES):
        raise InvalidRequest(f"{where} holds {shown(unknown[0])}, which is not understood.", _REMEDY)
    model = one_line("model's name", _text(present.get("model", ""), f"{where}: its model"), LONGEST_MODEL_ID)
    said = [_message(one, f"{where}, message {at}") for at, one in enumerate(_messages(present, where), 1)]
    if system := _text(present.get("system", ""), f"{where}: its system prompt"):
        said = [Message("system", system), *said]
    title = one_line("title", _text(present.get("title", ""), f"{where}: its title"), LONGEST_TITLE)
    turns = [Turn("", "", one.role, one.content, now, model_id=model * (one.role == "assistant")) for one in said]
    return replace(one_path(turns, now), title=title)


def one_path(said: Sequence[Turn], now: float) -> Conversation:
    """A conversation of ``said``, one after another under new ids; a system's that comes first is its system prompt.

    It began and was changed when they were said; at ``now`` where there are none.
    """
    system = said[0].content if said and said[0].role == "system" else ""
    turns: list[Turn] = []
    for turn in said[1 if system else 0 :]:
        turns.append(replace(turn, id=new_id(), parent=turns[-1].id if turns else ""))
    times = [turn.at for turn in turns] or [now]
    return Conversation(
        new_id(), "", min(times), max(times), system=system, turns=tuple(turns), leaf=turns[-1].id if turns else ""
    )


def _messages(row: Mapping[str, Any], where: str) -> list[Any]:
    names = [name for name in _LISTS if name in row]
    if len(names) != 1:
        have = " and ".join(names) or "neither messages nor conversations"
        raise InvalidRequest(f"{where} has {have}.", 'Write {"messages": [...]} or {"conversations": [...]}.')
    found = row[names[0]]
    if not isinstance(found, list) or not found:
        raise InvalidRequest(f"{where}: its {names[0]} is {shown(found)}.", "It must be a list of messages.")
    return found


def _message(value: Any, where: str) -> Message:
    if not isinstance(value, dict):
        raise InvalidRequest(f"{where} is {shown(value)}, not an object.", "Each message has a role and a content.")
    of_role = [name for name in _NAMES_OF_ROLE if name in value]
    of_content = [name for name in _NAMES_OF_CONTENT if name in value]
    present = {name for name, part in value.items() if not _says_nothing(part)}
    if unknown := sorted(present - {*_NAMES_OF_ROLE, *_NAMES_OF_CONTENT}):
        raise InvalidRequest(f"{where} holds {shown(unknown[0])}, which is not understood.", _REMEDY)
    if len(of_role) != 1 or len(of_content) != 1:
        raise InvalidRequest(
            f"{where} has the fields {shown(sorted(value))}.", "Give each message one role and one content."
        )
    name = value[of_role[0]]
    role = _ROLES.get(name.strip().lower()) if isinstance(name, str) else None
    if role is None:
        raise InvalidRequest(f"{where} is of the role {shown(name)}, which is not understood.", _REMEDY)
    return Message(role, _content(value[of_content[0]], where))


def _content(value: Any, where: str) -> str:
    """The text of a message: as it is, or of several text parts on lines of their own."""
    if not isinstance(value, list):
        return _text(value, f"{where}: its content")
    texts = []
    for part in value:
        kind = part.get("type") if isinstance(part, dict) else None
        text = part if isinstance(part, str) else part.get("text") if kind == "text" and len(part) == 2 else None
        if not isinstance(text, str):
            what = f"of type {shown(kind)}" if kind not in (None, "text") else shown(part)
            raise InvalidRequest(f"{where} holds a part {what}, which is not understood.", _REMEDY)
        texts.append(text)
    return "\n".join(texts)


def _text(value: Any, what: str) -> str:
    if not isinstance(value, str):
        raise InvalidRequest(f"{what} is {shown(value)}, not a text.", "Write it as a text.")
    return value


def _says_nothing(value: Any) -> bool:
    """Whether a field is there in name only, as in files that give every row the same ones."""
    return value is None or value == "" or value == [] or value == {}
