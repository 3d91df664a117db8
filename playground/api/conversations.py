"""`/api/inference/conversation…`: the caller's own conversations, the same that the pages show."""

from __future__ import annotations

from typing import Annotated, Any
from urllib.parse import quote

from fastapi import APIRouter, Path, Query, Request
from fastapi.responses import Response

from playground.api import failures
from playground.api.asker import caller_of
from playground.api.reports import moment
from playground.api.schemas.conversations import (
    AllDeleted,
    ConversationLine,
    ConversationList,
    ConversationReport,
    Deleted,
    ExportQuery,
    ImportBody,
    ImportReport,
    ListQuery,
    NoQuery,
    RenameBody,
    Renamed,
    Said,
    SaveBody,
    SaveReport,
)
from playground.conversation import Conversation, Summary, Turn
from playground.services.assembly import Services
from playground.services.chat_files import ExportFormat

ConversationId = Annotated[
    str,
    Path(
        description="The conversation's id, percent-encoded; slashes may stand as they are.",
        examples=["3f0c2a6be71d4f0c9b8e5d2a1c7f4e60"],
    ),
]
MEDIA: dict[ExportFormat, str] = {
    "json": "application/json",
    "markdown": "text/markdown",
    "txt": "text/plain",
    "chatml": "application/jsonl",
    "sharegpt": "application/jsonl",
}
_WHICH = {"conversation_id": "$response.body#/conversation_id"}
_SAVED: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The message is on the disk.",
        "links": {
            "Read": {"operationId": "inference_conversation", "parameters": _WHICH},
            "Go on": {
                "operationId": "inference_save_message",
                "requestBody": {**_WHICH, "role": "assistant", "content": "Paris.", "model_id": "starter"},
            },
            "Rename": {
                "operationId": "inference_rename_conversation",
                "requestBody": {**_WHICH, "title": "Capitals"},
            },
            "Delete": {"operationId": "inference_delete_conversation", "parameters": _WHICH},
        },
    }
}
_FILE: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The file, to be saved under the name that `Content-Disposition` gives it.",
        "headers": {"Content-Disposition": {"schema": {"type": "string"}}},
        "content": {media: {} for media in dict.fromkeys(MEDIA.values())},
    }
}


class Conversations:
    """The routes of conversations. They wait for the disk, so FastAPI runs them beside the event loop."""

    def __init__(self, services: Services) -> None:
        self._history = services.history
        self._limits = services.limits

    def save(self, body: SaveBody, http: Request) -> SaveReport:
        """Add a message to a conversation, or begin one with it. When this answers, the message is on the disk.

        It goes to the end of the path that is open. Two programs that save at the same time lose nothing.
        """
        caller = caller_of(http)
        self._limits.admit_saving(caller)
        saved = self._history.save_message(
            caller,
            body.conversation_id or "",
            body.role,
            body.content,
            body.model_id or "",
            body.use_case or "",
        )
        return SaveReport(
            conversation_id=saved.id, message_count=saved.message_count, updated_at=moment(saved.updated_at)
        )

    def one(self, conversation_id: ConversationId, http: Request) -> ConversationReport:
        """One of your conversations with its messages. 404 for one that there is not, or that is somebody else's."""
        found = self._history.get(caller_of(http), conversation_id)
        return ConversationReport(
            id=found.id,
            title=found.shown_title,
            messages=_messages(found),
            use_case=found.use_case,
            model_id=found.model_id or None,
            created_at=moment(found.created_at),
            updated_at=moment(found.updated_at),
        )

    def find(self, asked: Annotated[ListQuery, Query()], http: Request) -> ConversationList:
        """Your conversations, the latest first: those of a model, for a use case, with words in them, or all.

        Where others can reach the server, who comes without a key, a login or a browser's cookie has none: 403.
        """
        found = self._history.find(caller_of(http), asked.as_query())
        return ConversationList(conversations=[_line(one) for one in found.summaries], total=found.total)

    def rename(self, body: RenameBody, http: Request) -> Renamed:
        """Give one of your conversations another title."""
        renamed = self._history.rename(caller_of(http), body.conversation_id, body.title)
        return Renamed(conversation_id=renamed.id, title=renamed.shown_title, updated_at=moment(renamed.updated_at))

    def delete(self, conversation_id: ConversationId, http: Request) -> Deleted:
        """Delete one of your conversations, with all versions of its messages. There is no way back here."""
        self._history.delete(caller_of(http), conversation_id)
        return Deleted(status="deleted", conversation_id=conversation_id)

    def delete_all(self, _: Annotated[NoQuery, Query()], http: Request) -> AllDeleted:
        """Delete all your conversations, also from what is on the disk. There is no way back here."""
        return AllDeleted(status="deleted", deleted=len(self._history.delete_all(caller_of(http))))

    def export(self, asked: Annotated[ExportQuery, Query()], http: Request) -> Response:
        """Your conversations as a file, oldest first: those of the ids, or all. 404 when one of the ids is not yours."""
        file = self._history.export(caller_of(http), asked.format, asked.id)
        named = f"attachment; filename*=utf-8''{quote(file.name, safe='')}"
        return Response(file.text, media_type=MEDIA[asked.format], headers={"Content-Disposition": named})

    def take_in(self, body: ImportBody, http: Request) -> ImportReport:
        """Import a file of conversations as yours, under new ids: all that is in it, or nothing."""
        caller = caller_of(http)
        self._limits.admit(caller)
        taken = self._history.take_in(caller, body.name, body.text)
        return ImportReport(status="imported", conversation_ids=[one.id for one in taken])


def router(services: Services) -> APIRouter:
    """The routes of conversations."""
    here = Conversations(services)
    routes = APIRouter(prefix="/api/inference", tags=["Conversations"], responses=failures.RESPONSES)
    post, delete = ["POST"], ["DELETE"]
    routes.add_api_route(
        "/conversation/save", here.save, methods=post, summary="Save a message", response_model=SaveReport,
        operation_id="inference_save_message", responses=_SAVED,
    )  # fmt: skip
    routes.add_api_route(
        "/conversations", here.find, summary="List your conversations", response_model=ConversationList,
        operation_id="inference_conversations", response_description="Those that were asked for.",
    )  # fmt: skip
    routes.add_api_route(
        "/conversations", here.delete_all, methods=delete, summary="Delete all your conversations",
        response_model=AllDeleted, operation_id="inference_delete_conversations", response_description="They are gone.",
    )  # fmt: skip
    routes.add_api_route(
        "/conversations/export", here.export, summary="Export conversations", response_class=Response,
        operation_id="inference_export_conversations", responses=_FILE,
    )  # fmt: skip
    routes.add_api_route(
        "/conversations/import", here.take_in, methods=post, summary="Import conversations",
        response_model=ImportReport, operation_id="inference_import_conversations",
        response_description="All of them are here.",
    )  # fmt: skip
    routes.add_api_route(
        "/conversations/rename", here.rename, methods=post, summary="Rename a conversation",
        response_model=Renamed, operation_id="inference_rename_conversation", response_description="It is renamed.",
    )  # fmt: skip
    routes.add_api_route(
        "/conversation/{conversation_id:path}", here.one, summary="One conversation",
        response_model=ConversationReport, response_model_exclude_unset=True, operation_id="inference_conversation",
        response_description="The conversation, system prompt first.",
    )  # fmt: skip
    routes.add_api_route(
        "/conversation/{conversation_id:path}", here.delete, methods=delete, summary="Delete a conversation",
        response_model=Deleted, operation_id="inference_delete_conversation", response_description="It is gone.",
    )  # fmt: skip
    return routes


def _messages(found: Conversation) -> list[Said]:
    """What is shown of a conversation: the system prompt, and the open path with its reasoning."""
    system = [Said(role="system", content=found.system, timestamp=moment(found.created_at))]
    return [*(system if found.system.strip() else []), *(_said(turn) for turn in found.path())]


def _said(turn: Turn) -> Said:
    known = {"model_id": turn.answered_by} if turn.answered_by else {}
    return Said(role=turn.role, content=turn.content, timestamp=moment(turn.at), **known)


def _line(summary: Summary) -> ConversationLine:
    return ConversationLine(
        id=summary.id,
        title=summary.title,
        use_case=summary.use_case,
        model_id=summary.model_id or None,
        models=list(summary.models),
        message_count=summary.messages,
        created_at=moment(summary.created_at),
        updated_at=moment(summary.updated_at),
    )
