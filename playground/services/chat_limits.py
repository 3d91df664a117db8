"""What may be in a conversation, whoever brings it: sizes, and characters that no file or page can hold."""

from __future__ import annotations

from typing import Any

from playground.conversation import Conversation, Turn
from playground.errors import InvalidRequest

LONGEST_ID = 200
LONGEST_TITLE = 200
LONGEST_MODEL_ID = 500
LONGEST_MESSAGE = 1_000_000  # bytes in UTF-8
MOST_TURNS = 5_000  # of one conversation, versions included
MOST_CONVERSATIONS = 10_000  # of one owner where the server is shared, and of one file
MOST_BYTES = 50_000_000  # of one owner where the server is shared, as stored, all that is known of the answers included
MOST_TOGETHER = 500_000_000  # of all guests, of all keys and of all who signed in, each together, where it is shared
_LATEST = 253_402_300_799.0  # the last second of the year 9999


def shown(value: Any) -> str:
    """``value`` for a sentence: it may come from anybody and be of any length."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:79]}…"


def check_text(what: str, text: str) -> None:
    """Refuse halves of characters, which no file holds; NUL characters, which programs end a text at; and too much."""
    try:
        size = len(text.encode())
    except UnicodeEncodeError as error:
        raise InvalidRequest(
            f"The {what} holds half of a character at position {error.start}.", "Send it as whole UTF-8."
        ) from error
    if "\0" in text:
        raise InvalidRequest(f"The {what} holds a NUL character at position {text.index(chr(0))}.", "Leave it out.")
    if size > LONGEST_MESSAGE:
        raise InvalidRequest(f"The {what} has {size:,} bytes.", f"It may have {LONGEST_MESSAGE:,}.")


def check_content(text: str) -> None:
    """Refuse a message that says nothing, or that `check_text` refuses."""
    check_text("message", text)
    if not text.strip():
        raise InvalidRequest("The message is empty.", "Write something.")


def check_said(turn: Turn) -> None:
    """Refuse a turn that says nothing, or whose text or expected answer `check_text` refuses."""
    check_content(turn.content)
    _check_expected(turn)


def check_turns(count: int) -> None:
    """Refuse more turns than one conversation may have."""
    if count > MOST_TURNS:
        raise InvalidRequest(
            f"The conversation would have {count:,} messages, and {MOST_TURNS:,} are kept.", "Begin a new conversation."
        )


def one_line(what: str, text: str, longest: int) -> str:
    """``text`` on one line. Raises `InvalidRequest` where that is longer than ``longest`` characters."""
    check_text(what, text)
    line = " ".join(text.split())
    if len(line) > longest:
        raise InvalidRequest(f"The {what} has {len(line):,} characters.", f"It may have {longest}.")
    return line


def check_controls(what: str, text: str) -> None:
    """Refuse control characters, which a name has no use for and a terminal obeys."""
    if any(character < " " or "\x7f" <= character < "\xa0" for character in text):
        raise InvalidRequest(f"The {what} holds a control character.", "Leave it out.")


def checked_id(what: str, text: str) -> str:
    """An id that somebody has chosen: any text on one line. Raises `InvalidRequest`."""
    if not text.strip() or len(text) > LONGEST_ID:
        raise InvalidRequest(
            f"The {what} has {len(text):,} characters.", f"Use 1 to {LONGEST_ID}, and not spaces alone."
        )
    check_text(what, text)
    check_controls(what, text)
    return text


def check_conversation(conversation: Conversation) -> None:
    """Refuse what is no conversation of ours; for what was read from a file. That its turns are a tree, and its use case
    one of ours, is looked at where these are known.
    """
    one_line("title", conversation.title, LONGEST_TITLE)
    check_text("system prompt", conversation.system)
    check_turns(len(conversation.turns))
    _check_time(conversation.created_at)
    _check_time(conversation.updated_at)
    for number, turn in enumerate(conversation.turns, 1):
        try:
            _check_turn(turn)
        except InvalidRequest as error:
            raise InvalidRequest(f"Message {number}: {error.message}", error.remedy) from error


def _check_turn(turn: Turn) -> None:
    checked_id("id", turn.id)
    if turn.thumb and turn.role != "assistant":
        raise InvalidRequest("It has a thumb and is no answer.", "Only answers are judged.")
    if turn.reply and turn.role != "assistant":
        raise InvalidRequest("It says how it was generated and is no answer.", "Take its reply out.")
    check_text("message", turn.content)
    _check_expected(turn)
    if one_line("model's name", turn.answered_by, LONGEST_MODEL_ID) != turn.answered_by:
        raise InvalidRequest(f"Its model's name is {shown(turn.answered_by)}.", "Write it on one line.")
    _check_time(turn.at)


def _check_expected(turn: Turn) -> None:
    if turn.expected and turn.role != "user":
        raise InvalidRequest("It has an expected answer and is no prompt.", "Only prompts have one.")
    check_text("expected answer", turn.expected)


def _check_time(at: float) -> None:
    if not 0 <= at <= _LATEST:  # NaN neither
        raise InvalidRequest(f"A time is {shown(at)}.", "Times are seconds since 1970.")
