"""What lists and searches need of a conversation, derived once when its document changes, and held in memory."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from playground.conversation import Conversation, Query, Summary, Turn
from playground.store import records
from playground.store.records import Document, check_tree, listed

_KINDS = {
    **dict.fromkeys(("id", "owner", "title", "use_case", "system", "leaf"), (str,)),
    **dict.fromkeys(("created_at", "updated_at"), (float, int)),
}
AROUND = 60  # characters of an excerpt on each side of what was found
_STRENGTH = re.compile(r"(?<=.)@[-+.\deE]+(?=:|$)")  # as in base:adapter@0.5


@dataclass(frozen=True)
class Outline:
    """A conversation in a list, and where a search looks. ``text`` is title and messages with letter case folded away.

    ``bases`` and ``adapters`` are the names of what answered, ``size`` the document's bytes as JSON.
    """

    summary: Summary
    bases: tuple[str, ...]
    adapters: tuple[str, ...]
    text: str
    size: int

    def fits(self, query: Query, wanted: list[str]) -> bool:
        """Whether the filters of ``query`` let it through, and each of its words ``wanted`` is somewhere in it."""
        if query.use_case and query.use_case != self.summary.use_case:
            return False
        if query.adapter and query.adapter not in self.adapters:
            return False
        if query.model and query.model not in self.bases and not self._answered(query.model):
            return False
        return all(word in self.text for word in wanted)

    def _answered(self, model: str) -> bool:
        """Whether ``model`` is among what answered; without a strength it is so at any."""
        models = self.summary.models
        return model in models or any(_STRENGTH.sub("", one) == model for one in models if "@" in one)


def words(query: Query) -> list[str]:
    """What is searched for: every word of it has to be there, in any place, of any letter case."""
    return query.text.casefold().split()


def outline(document: Document) -> Outline:
    """What a list needs of the conversation in ``document``. Raises `ValueError` when it is none."""
    turns = listed(document, "turns")
    try:
        light = _light(document, turns)
        summary = _summary(light)
        said = "\n".join((light.title, *(turn.content for turn in light.turns)))
        named = [names for turn in turns for names in _named(turn)]
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{type(error).__name__}: {str(error)[:80]}") from error
    bases = tuple(dict.fromkeys(base for base, _ in named))
    adapters = tuple(dict.fromkeys(adapter for _, adapters in named for adapter in adapters))
    return Outline(summary, bases, adapters, said.casefold(), records.size(document))


def excerpt(document: Document, wanted: list[str]) -> str:
    """Some of the text around the first place in the conversation where one of the words ``wanted`` is; else ""."""
    for text in (document["title"], *(turn["content"] for turn in document["turns"])):
        folded = text.casefold()
        places = [place for word in wanted if (place := folded.find(word)) >= 0]
        if places:
            return _around(text, _unfolded(text, folded, min(places)))
    return ""


def _light(document: Document, turns: list[Any]) -> Conversation:
    """The conversation without what made its answers: ten times as fast to read as all of it."""
    light = tuple(
        Turn(turn["id"], turn["parent"], turn["role"], turn["content"], turn["at"], model_id=_answered_by(turn))
        for turn in turns
    )
    check_tree([(turn.id, turn.parent) for turn in light], document["leaf"])
    return Conversation(**{name: _checked(document, name, kinds) for name, kinds in _KINDS.items()}, turns=light)


def _checked(document: Document, name: str, kinds: tuple[type, ...]) -> Any:
    value = document[name]
    if type(value) not in kinds:
        raise ValueError(f"{name}: {str(value)[:80]!r} is no {kinds[0].__name__}")
    return value


def _answered_by(turn: Any) -> str:
    reply = turn["reply"]
    return str(reply["model_id"] if reply else turn["model_id"])


def _summary(light: Conversation) -> Summary:
    models = tuple(dict.fromkeys(turn.model_id for turn in light.turns if turn.model_id))
    return Summary(
        light.id, light.shown_title, light.use_case, light.model_id, models, light.message_count, light.created_at,
        light.updated_at,
    )  # fmt: skip


def _named(turn: Any) -> Iterator[tuple[str, list[str]]]:
    """(base, adapters) that answered; what a program has only named is read as this app names models."""
    if turn["reply"]:
        spec = turn["reply"]["spec"]
        yield spec["base"], [name for name, _ in spec["adapters"]]
    elif turn["model_id"]:
        base, *adapters = turn["model_id"].split(":")
        yield base, [name.partition("@")[0] for name in adapters]


def _unfolded(text: str, folded: str, place: int) -> int:
    """Where in ``text`` the character is that stands at ``place`` in it with letter case folded away (ß becomes ss)."""
    if len(text) == len(folded):
        return place
    length = 0
    for at, character in enumerate(text):
        length += len(character.casefold())
        if length > place:
            return at
    return 0


def _around(text: str, place: int) -> str:
    start, end = max(0, place - AROUND), place + AROUND
    if start:
        start = text.find(" ", start, place) + 1 or start
    if end < len(text):
        cut = text.rfind(" ", place, end)
        end = cut if cut > place else end
    middle = " ".join(text[start:end].split())
    return f"{'…' if start else ''}{middle}{'…' if end < len(text) else ''}"
