"""Conversations as Markdown and plain text: the open path for people to read, in a form that is read back exactly.

A line of its own marks where a conversation and where a message begins. A line of a message that looks like such a mark
gets a backslash in front, which is taken away again.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Literal

from playground.conversation import Conversation, Turn
from playground.errors import InvalidRequest
from playground.services.chat_limits import LONGEST_MODEL_ID, LONGEST_TITLE, one_line
from playground.services.chat_rows import one_path
from playground.types import Role

PageFormat = Literal["markdown", "txt"]
_WHEN = "%Y-%m-%d %H:%M:%S UTC"
_ROLES: dict[str, Role] = {"System": "system", "User": "user", "Assistant": "assistant"}
_BETWEEN = " · "
_REMEDY = "Import a file as this app wrote it."


@dataclass(frozen=True)
class _Form:
    """The lines that one of the formats begins with and marks its parts by."""

    first: str
    conversation: str
    message: str
    title: str
    role: str
    use_case: str

    @property
    def marks(self) -> re.Pattern[str]:
        """A line that is a mark, or one with backslashes in front."""
        return re.compile(rf"\\*(?:{re.escape(self.conversation)}|{re.escape(self.message)})")


_FORMS: dict[PageFormat, _Form] = {
    "markdown": _Form(
        "<!-- Adapter Playground conversations 1 -->", "<!-- conversation -->", "<!-- message -->", "# ", "## ", "*{}*"
    ),
    "txt": _Form("Adapter Playground conversations 1", "=" * 72, "-" * 72, "Title: ", "", "Use case: {}"),
}


def write(conversations: Iterable[Conversation], form: PageFormat) -> str:
    """The open path of each, with its title, roles, times and models."""
    lines = [_FORMS[form].first]
    for one in conversations:
        lines += ["", *_conversation(one, _FORMS[form])]
    return "\n".join([*lines, "", ""])


def form_of(text: str) -> PageFormat | None:
    """Which of the formats ``text`` is in, None where it is in neither."""
    first = text.partition("\n")[0].rstrip()
    return next((name for name, form in _FORMS.items() if form.first == first), None)


def read(text: str, form: PageFormat, now: float) -> Iterator[Conversation]:
    """What `write` wrote; messages without a time were said at ``now``. Raises `InvalidRequest` that names the line."""
    if text.partition("\n")[0].endswith("\r"):  # an editor has changed all line ends
        text = text.replace("\r\n", "\n")
    lines = text.removesuffix("\n").split("\n")
    marks = _FORMS[form]
    begins = [at for at, line in enumerate(lines) if line == marks.conversation]
    if any(line.strip() for line in lines[1 : begins[0] if begins else None]):
        raise InvalidRequest("Line 2 begins no conversation.", _REMEDY)
    for begin, end in itertools.pairwise([*begins, len(lines)]):
        yield _read_conversation(lines, begin, end, marks, now)


def _conversation(conversation: Conversation, form: _Form) -> Iterator[str]:
    yield form.conversation
    yield form.title + " ".join(conversation.shown_title.split())
    yield ""
    yield form.use_case.format(conversation.use_case.replace("_", " "))
    if conversation.system:
        yield from _message(form, "System", conversation.system)
    for turn in conversation.path():
        when = datetime.fromtimestamp(turn.at, UTC).strftime(_WHEN)
        heading = _BETWEEN.join(part for part in (turn.role.capitalize(), when, turn.answered_by) if part)
        yield from _message(form, " ".join(heading.split()), turn.content)


def _message(form: _Form, heading: str, content: str) -> Iterator[str]:
    yield from ("", form.message, form.role + heading, "")
    for line in content.split("\n"):
        yield f"\\{line}" if form.marks.fullmatch(line) else line


def _read_conversation(lines: Sequence[str], begin: int, end: int, form: _Form, now: float) -> Conversation:
    """The conversation whose mark is line ``begin``, counted from 0, and which goes on to before ``end``."""
    marks = [at for at in range(begin, end) if lines[at] == form.message]
    head = [line for line in lines[begin + 1 : marks[0] if marks else end] if line.strip()]
    if not head or not head[0].startswith(form.title) or len(head) > 2:
        raise InvalidRequest(f"Line {begin + 2} is no conversation's title and use case.", _REMEDY)
    title = _at_line(begin + 2, "title", head[0].removeprefix(form.title), LONGEST_TITLE)
    before, _, after = form.use_case.partition("{}")
    use_case = head[1].removeprefix(before).removesuffix(after).strip().replace(" ", "_") if head[1:] else "chatbot"
    said = [_read_turn(lines, mark, stop, form, now) for mark, stop in itertools.pairwise([*marks, end])]
    new = replace(one_path(said, now), use_case=use_case)
    return new if new.shown_title == title else replace(new, title=title)


def _read_turn(lines: Sequence[str], mark: int, stop: int, form: _Form, now: float) -> Turn:
    heading = lines[mark + 1].removeprefix(form.role) if mark + 1 < stop else ""
    role, _, rest = heading.partition(_BETWEEN)
    if role.strip() not in _ROLES:
        raise InvalidRequest(f"Line {mark + 2} is no heading of a message: {heading[:60]!r}.", _REMEDY)
    when, _, model = rest.partition(_BETWEEN)
    body = list(lines[mark + 2 : stop])
    if body and not body[0]:
        del body[0]
    if body and not body[-1]:
        del body[-1]
    content = "\n".join(line[1:] if line.startswith("\\") and form.marks.fullmatch(line) else line for line in body)
    model = _at_line(mark + 2, "model's name", model, LONGEST_MODEL_ID)
    return Turn("", "", _ROLES[role.strip()], content, _read_time(when, mark + 2, now), model_id=model)


def _read_time(text: str, line: int, now: float) -> float:
    if not text.strip():
        return now
    try:
        return datetime.strptime(text.strip(), _WHEN).replace(tzinfo=UTC).timestamp()
    except ValueError as error:
        raise InvalidRequest(
            f"Line {line} holds no time: {text[:40]!r}.", "Write it as 2026-05-31 18:00:00 UTC."
        ) from error


def _at_line(number: int, what: str, text: str, longest: int) -> str:
    try:
        return one_line(what, text, longest)
    except InvalidRequest as error:
        raise InvalidRequest(f"Line {number}: {error.message}", error.remedy) from error
