"""What a page of the Playground keeps in mind of one press of Generate, and of the conversation that it has opened."""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass

from playground.types import GenerationEvent
from playground.ui.opened import Open
from playground.ui.views.answer import Answer

log = logging.getLogger(__name__)


@dataclass
class Asked:
    """One press of Generate or Try again, in ``conversation``, "" for a new one, until its ``answer`` is there.

    ``left`` says that the page shows something else by now, so that nobody sees the rest.
    """

    conversation: str
    answer: Answer | None = None
    left: bool = False

    def writes_in(self, opened: Open) -> bool:
        """Whether it is answered into the conversation that is open."""
        exchange = self.answer.exchange if self.answer else None
        return opened.conversation in (self.conversation, exchange.conversation_id if exchange else "")

    @property
    def sent(self) -> str:
        """What was said, for the page to hold; "" where the field keeps it."""
        said = self.answer.exchange.place.said if self.answer and self.answer.exchange else None
        if said is None or self.answer is None or self.answer.request.template != "chat":
            return ""
        return json.dumps([said.id, said.content])


@dataclass(frozen=True)
class Brought:
    """The system prompt that an opened conversation has ``brought``, and what stood in its place ``before``."""

    brought: str = ""
    before: str = ""

    @classmethod
    def parse(cls, text: str) -> Brought:
        """What `text` wrote; the page holds it, so anybody may have written it."""
        try:
            brought, before = json.loads(text or "")
        except (TypeError, ValueError, RecursionError):
            return cls()
        return cls(str(brought), str(before))

    @property
    def text(self) -> str:
        """One line for the page to hold."""
        return json.dumps([self.brought, self.before])

    def before_is(self, system: str) -> str:
        """What a new conversation begins with where ``system`` is in the field now."""
        return self.before if system == self.brought else system


async def read_to_the_end(events: AsyncGenerator[GenerationEvent, None]) -> None:
    """Have an answer that nobody watches written to its end, and so kept."""
    try:
        async with aclosing(events):
            async for _ in events:
                pass
    except Exception as error:  # there is no place on the page for it any more
        log.warning("an answer whose page shows another conversation was not finished: %s", error)
