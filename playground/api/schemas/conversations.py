"""The shapes of the conversations under `/api/inference`: saving, listing, reading, and files in and out."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from playground.api.schemas.common import Strict
from playground.api.schemas.inference import UseCaseName
from playground.conversation import Query
from playground.services.chat_files import ExportFormat
from playground.services.chat_limits import LONGEST_ID, LONGEST_MODEL_ID, LONGEST_TITLE
from playground.types import Role

MOST_AT_ONCE = 1000
LONGEST_FILE_NAME = 200
_FIRST, _LAST = "2026-01-31T12:00:00.000+00:00", "2026-01-31T12:00:05.000+00:00"
_ID = "3f0c2a6be71d4f0c9b8e5d2a1c7f4e60"
_WHO = "What said it: `base`, `base:adapter` or `base:adapter@0.5`"


def _example(**fields: Any) -> ConfigDict:
    return ConfigDict(json_schema_extra={"examples": [fields]})


class SaveBody(Strict):
    """One message, to be added at the end of a conversation."""

    model_config = _example(
        role="user", content="What is the capital of France?", model_id="starter:pirate", use_case="chatbot"
    )

    conversation_id: str | None = Field(
        default=None,
        min_length=1,
        max_length=LONGEST_ID,
        description="Which conversation: an id of any letters, signs and spaces, but no line breaks. One that you have not "
        "yet begins with this message; left out, a new one begins, and its id comes back.",
    )
    role: Role = Field(description="A system message that comes first is the conversation's system prompt.")
    content: str
    model_id: str | None = Field(
        default=None, max_length=LONGEST_MODEL_ID, description=f"{_WHO}. It need not be known here."
    )
    use_case: UseCaseName | None = Field(
        default=None,
        description="What the conversation is for; left out, it stays as it is, and a new one is `chatbot`. Hyphens pass "
        "for underscores.",
    )


class SaveReport(BaseModel):
    """Where the message is now. It is on the disk."""

    model_config = _example(conversation_id=_ID, message_count=1, updated_at=_FIRST)

    conversation_id: str
    message_count: int = Field(description="Of the versions that are open; the system prompt counts as one.")
    updated_at: str


class Said(BaseModel):
    """One message."""

    role: Role
    content: str
    timestamp: str
    model_id: str | None = Field(default=None, description=f"{_WHO}. Not there where it is not known.")


class ConversationReport(BaseModel):
    """A conversation as it is shown: of each message the version that is open. Times are ISO 8601, UTC."""

    model_config = _example(
        id=_ID, title="What is the capital of France?", use_case="chatbot", model_id="starter:pirate",
        created_at=_FIRST, updated_at=_LAST, messages=[
            {"role": "user", "content": "What is the capital of France?", "timestamp": _FIRST},
            {"role": "assistant", "content": "Arr! Paris.", "timestamp": _LAST, "model_id": "starter:pirate"},
        ],
    )  # fmt: skip

    id: str
    title: str = Field(description="As it was given, else the beginning of what was said first.")
    messages: list[Said] = Field(description="Oldest first; a system prompt before all others.")
    use_case: str
    model_id: str | None = Field(description="What answered last; null where nothing has.")
    created_at: str
    updated_at: str


class ListQuery(Strict):
    """Which conversations are asked for. What is no parameter is refused: a misspelt filter would let everything pass."""

    model_config = ConfigDict(strict=False)

    model_id: str | None = Field(
        default=None,
        max_length=LONGEST_MODEL_ID,
        description="Only those in which it answered: a base, with or without adapters; `base:adapter` at any strength.",
        examples=["starter:pirate"],
    )
    use_case: UseCaseName | None = Field(default=None, description="Hyphens pass for underscores.")
    q: str | None = Field(default=None, max_length=1000, description="Words that stand in the title or the messages.")
    limit: int = Field(default=200, ge=1, le=MOST_AT_ONCE, description="How many at the most.")
    offset: int = Field(default=0, ge=0, le=10**9, description="How many to leave out first.")

    def as_query(self) -> Query:
        """What the history is asked."""
        return Query(
            text=self.q or "",
            model=self.model_id or "",
            use_case=self.use_case or "",
            limit=self.limit,
            offset=self.offset,
        )


class ConversationLine(BaseModel):
    """A conversation without its messages."""

    id: str
    title: str
    use_case: str
    model_id: str | None = Field(description="What answered last; null where nothing has.")
    models: list[str] = Field(description="All that answered in it, in whatever version.")
    message_count: int = Field(description="Of the versions that are open; the system prompt counts as one.")
    created_at: str
    updated_at: str


class ConversationList(BaseModel):
    """Your conversations, the latest first."""

    model_config = _example(
        conversations=[{
            "id": _ID, "title": "What is the capital of France?", "use_case": "chatbot", "model_id": "starter:pirate",
            "models": ["starter", "starter:pirate"], "message_count": 4, "created_at": _FIRST, "updated_at": _LAST,
        }],
        total=1,
    )  # fmt: skip

    conversations: list[ConversationLine]
    total: int = Field(description="How many there are without limit and offset.")


class NoQuery(Strict):
    """No parameters: a filter that were left aside would delete what it was to keep."""


class Deleted(BaseModel):
    """It is gone."""

    model_config = _example(status="deleted", conversation_id=_ID)

    status: Literal["deleted"]
    conversation_id: str


class AllDeleted(BaseModel):
    """They are gone, from the disk as well."""

    model_config = _example(status="deleted", deleted=12)

    status: Literal["deleted"]
    deleted: int = Field(description="How many there were.")


class RenameBody(Strict):
    """Another title for a conversation."""

    model_config = _example(conversation_id=_ID, title="Capitals")

    conversation_id: str
    title: str = Field(max_length=LONGEST_TITLE, description="Empty is the beginning of what was said first, again.")


class Renamed(BaseModel):
    """What it is called now."""

    model_config = _example(conversation_id=_ID, title="Capitals", updated_at=_LAST)

    conversation_id: str
    title: str
    updated_at: str


class ExportQuery(Strict):
    """Which conversations, and as what."""

    model_config = ConfigDict(strict=False)

    id: list[str] | None = Field(
        default=None, min_length=1, max_length=MOST_AT_ONCE, description="May be repeated. Left out, all of yours."
    )
    format: ExportFormat = Field(
        default="json",
        description="`json` holds everything, versions and what made each answer included, and comes back with import as it "
        "was; `markdown` and `txt` are for reading, `chatml` and `sharegpt` (JSON lines) for training.",
    )


class ImportBody(Strict):
    """A file of conversations."""

    model_config = _example(
        name="chats.jsonl",
        text='{"messages": [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Ahoy!"}]}\n',
    )

    name: str = Field(
        max_length=LONGEST_FILE_NAME, description="The file's name; what it ends with says what it may be."
    )
    text: str = Field(min_length=1, description="What is in it: any of the formats that export writes.")


class ImportReport(BaseModel):
    """What was in the file, under new ids; had one been unreadable, none would have been taken."""

    model_config = _example(status="imported", conversation_ids=[_ID])

    status: Literal["imported"]
    conversation_ids: list[str]
