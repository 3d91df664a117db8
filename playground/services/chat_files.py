"""Conversations as files: written in five formats, and read back from any of them and from what other programs write.

Pure functions. JSON holds everything: all versions, what made each answer, thumbs. The others hold the open path of each
conversation: Markdown and plain text to read, ChatML and ShareGPT as rows for training, with the reasoning left in the
answers.
"""

from __future__ import annotations

import collections
import json
import math
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

from playground.conversation import Conversation
from playground.errors import InvalidRequest
from playground.services import chat_json, chat_pages, chat_rows
from playground.services.chat_json import FORMAT, REMEDY
from playground.services.chat_limits import MOST_CONVERSATIONS, check_conversation, shown
from playground.store.garbage import uncollected

__all__ = ["EXPORT_FORMATS", "FORMAT", "ExportFormat", "TextFile", "file_name", "read", "too_large", "write"]

ExportFormat = Literal["json", "markdown", "txt", "chatml", "sharegpt"]
EXPORT_FORMATS: tuple[ExportFormat, ...] = ("json", "markdown", "txt", "chatml", "sharegpt")
LARGEST_FILE = 30_000_000  # bytes in UTF-8
_ENDINGS = {"json": ".json", "markdown": ".md", "txt": ".txt", "chatml": ".chatml.jsonl", "sharegpt": ".sharegpt.jsonl"}
_LONGEST_NAME = 60


@dataclass(frozen=True)
class TextFile:
    """A file to hand out: its name, and its text."""

    name: str
    text: str


def write(conversations: Sequence[Conversation], form: ExportFormat) -> str:
    """The text of a file with ``conversations`` in their order; rows leave out those in which nothing was said."""
    if form == "json":
        with uncollected():
            return chat_json.write(conversations)
    if form == "markdown" or form == "txt":
        return chat_pages.write(conversations, form)
    lines = (line for one in conversations for line in chat_rows.rows(one, form))
    return "".join(f"{line}\n" for line in lines)


def file_name(conversations: Sequence[Conversation], form: ExportFormat, now: float) -> str:
    """A name that every system takes, with the day: of the title for one conversation, else of how many there are."""
    title = conversations[0].shown_title if len(conversations) == 1 else f"{len(conversations)} conversations"
    words = re.sub(r"[^\w-]+", "-", title).strip("-_")[:_LONGEST_NAME].strip("-_") or "conversation"
    return f"{words}-{datetime.fromtimestamp(now, UTC):%Y-%m-%d}{_ENDINGS[form]}"


def read(text: str, name: str, now: float) -> tuple[Conversation, ...]:
    """The conversations in a file, in its order and without an owner; their ids are the file's or new ones.

    The format is found by the content; ``name`` is for sentences only. What says no time was said at ``now``. Raises
    `InvalidRequest` that names the place in the file and what is wrong there.
    """
    called = f"{shown(name.strip())}: " if name.strip() else ""
    try:
        with uncollected():
            found = tuple(_bounded(_conversations(_checked(text), now)))
    except InvalidRequest as error:
        raise InvalidRequest(f"{called}{error.message}", error.remedy) from error
    if not found:
        raise InvalidRequest(f"{called}There is no conversation in the file.", REMEDY)
    return found


def too_large(size: int, called: str = "") -> InvalidRequest:
    """Why a file of so many bytes is not taken, and what to do; ``called`` is what the sentence begins with."""
    return InvalidRequest(
        f"{called}The file has {size / 10**6:.1f} MB, and {LARGEST_FILE / 10**6:g} MB are taken at once.",
        "Cut ChatML and ShareGPT at the end of a line; export JSON, Markdown and text one conversation at a time, or "
        "move the history as a folder.",
    )


def _checked(text: str) -> str:
    """``text`` without a byte order mark. Raises `InvalidRequest` where it is no text, or too much."""
    try:
        size = len(text.encode())
    except UnicodeEncodeError as error:
        raise InvalidRequest("The file is no UTF-8 text.", "Save it as UTF-8 and import it again.") from error
    if size > LARGEST_FILE:
        raise too_large(size)
    return text.removeprefix("\ufeff")


def _bounded(conversations: Iterable[Conversation]) -> Iterator[Conversation]:
    """``conversations``, each looked at, and no more of them than are taken."""
    for number, one in enumerate(conversations, 1):
        if number > MOST_CONVERSATIONS:
            raise InvalidRequest(
                f"The file holds more than {MOST_CONVERSATIONS:,} conversations.", "Import it in parts."
            )
        try:
            check_conversation(one)
        except InvalidRequest as error:
            raise InvalidRequest(f"Conversation {number}: {error.message}", error.remedy) from error
        yield one


def _conversations(text: str, now: float) -> Iterator[Conversation]:
    if form := chat_pages.form_of(text):
        return chat_pages.read(text, form, now)
    if text.lstrip()[:1] not in ("{", "["):
        begins = shown(text.lstrip()[:40])
        raise InvalidRequest(f"The file is of no format that is known here; it begins {begins}.", REMEDY)
    try:
        whole = _parsed(text)
    except ValueError as error:
        return _rows(_lines(text, error), now)
    if isinstance(whole, dict) and "format" in whole:
        return chat_json.read(whole)
    return _rows(_listed(whole), now)


def _rows(found: Iterable[tuple[str, Any]], now: float) -> Iterator[Conversation]:
    return (chat_rows.conversation_of(row, where, now) for where, row in found)


def _listed(whole: Any) -> Iterator[tuple[str, Any]]:
    """The conversations of a file that is one JSON value: a list of them, a list of messages, or one conversation."""
    is_one = isinstance(whole, dict) or (whole and isinstance(whole[0], dict) and {"role", "from"} & whole[0].keys())
    for number, row in enumerate([whole] if is_one else whole, 1):
        yield f"Conversation {number}", row


def _lines(text: str, of_the_whole: ValueError) -> Iterator[tuple[str, Any]]:
    """The JSON values of a file with one on each line; blank lines count for nothing but their number.

    ``of_the_whole`` is what is wrong with it as a single value: told where not even the first line is one.
    """
    is_first = True
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = _parsed(line)
        except ValueError as error:
            told = f"The file is no JSON: {of_the_whole}" if is_first else f"Line {number} is no JSON: {error}"
            raise InvalidRequest(f"{told[:240]}.", "Mend it there, or export it again.") from error
        yield f"Line {number}", row
        is_first = False


def _parsed(text: str) -> Any:
    """``text`` as JSON. Raises `ValueError` with a sentence, also for NaN, doubled keys and what is nested too deeply."""
    try:
        return json.loads(
            text, parse_float=_finite, parse_constant=_refuse_constant, object_pairs_hook=_without_doubles
        )
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    except ValueError as error:
        if "int_max_str_digits" in str(error):  # Python's own, which tells programmers what to do
            raise ValueError("a number has thousands of digits") from error
        raise


def _finite(digits: str) -> float:
    number = float(digits)
    if math.isinf(number):
        raise ValueError(f"{shown(digits)} is no number")
    return number


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is no number")


def _without_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = collections.Counter(name for name, _ in pairs).most_common(1)[0][0]
        raise ValueError(f"{shown(twice)} stands twice in one object")
    return found
