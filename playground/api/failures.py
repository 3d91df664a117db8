"""Errors on the wire: every failure becomes one error object and a status, here and nowhere else.

Under `/v1` the object has OpenAI's four keys, and bad input is 400, as OpenAI's clients expect. Everywhere else it has
``remedy`` as well, and bad input is 422.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import ValidationError
from starlette.exceptions import HTTPException
from starlette.routing import Match

from playground.api.schemas.common import Failure, OpenAIFailure
from playground.errors import PlaygroundError, RateLimited

BAD_INPUT, OPENAI_BAD_INPUT = 422, 400
STATUS = {
    "invalid_request": BAD_INPUT,
    "context_length_exceeded": BAD_INPUT,
    "content_refused": BAD_INPUT,
    "model_unsupported": 422,
    "adapter_invalid": 422,
    "not_permitted": 403,
    "model_not_found": 404,
    "adapter_not_found": 404,
    "not_found": 404,
    "model_not_loaded": 409,
    "model_busy": 409,
    "rate_limited": 429,
    "out_of_memory": 503,
    "queue_full": 503,
    "shutting_down": 503,
    "jobs_unavailable": 503,
    "history_unavailable": 503,
    "deadline_exceeded": 504,
}
# Where OpenAI's clients expect another one: they repeat a request after a 503, and tell bad input by its 400.
OPENAI_STATUS = {
    "invalid_request": OPENAI_BAD_INPUT,
    "context_length_exceeded": OPENAI_BAD_INPUT,
    "content_refused": OPENAI_BAD_INPUT,
    "model_busy": 503,
}
_TYPES = {403: "permission_error", 429: "rate_limit_error"}
_METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE")
_HTTP_CODES = {
    400: "invalid_request",
    401: "invalid_api_key",
    403: "not_permitted",
    404: "not_found",
    405: "method_not_allowed",
    408: "request_timeout",
    413: "too_large",
    415: "unsupported_media_type",
}
RETRY_AFTER_S = 5
_UNREADABLE = "There was an error parsing the body"  # FastAPI's words for what is neither JSON nor text
_LONGEST_NAME = 120
_ERRORS = "The request cannot be answered; `error.message` says why and what to do."
_OUR_ERRORS = "The server cannot answer now. 503 carries `Retry-After`."
RESPONSES: dict[int | str, dict[str, Any]] = {
    "4XX": {"model": Failure, "description": _ERRORS},
    "5XX": {"model": Failure, "description": _OUR_ERRORS},
}
OPENAI_RESPONSES: dict[int | str, dict[str, Any]] = {
    "4XX": {"model": OpenAIFailure, "description": _ERRORS},
    "5XX": {"model": OpenAIFailure, "description": _OUR_ERRORS},
}
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Fault:
    """A failure as it is told: what happened, what to do about it, and which field of the request it is about."""

    status: int
    code: str
    message: str
    remedy: str = ""
    param: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)

    def body(self, path: str = "") -> dict[str, Any]:
        """The error object for a client of ``path``."""
        kind = _TYPES.get(self.status, "invalid_request_error" if self.status < 500 else "server_error")
        sentence = _whole(f"{self.message} {self.remedy}".strip())
        param = None if self.param is None else _whole(self.param)
        error: dict[str, Any] = {"message": sentence, "type": kind, "param": param, "code": self.code}
        return {"error": error if is_openai(path) else {**error, "remedy": _whole(self.remedy)}}


def install(app: FastAPI) -> None:
    """Let ``app`` answer every failure in one shape."""
    app.add_exception_handler(PlaygroundError, _on_playground_error)
    app.add_exception_handler(RequestValidationError, _on_validation_error)
    app.add_exception_handler(HTTPException, _on_http_exception)
    app.add_exception_handler(Exception, _on_bug)


def is_openai(path: str) -> bool:
    """True for the paths where errors are OpenAI's."""
    return path == "/v1" or path.startswith("/v1/")


def status_of(error: PlaygroundError, path: str = "") -> int:
    """The HTTP status for ``error`` at ``path``; 500 for what only the operator can mend."""
    usual = STATUS.get(error.code, 500)
    return OPENAI_STATUS.get(error.code, usual) if is_openai(path) else usual


def fault_of(error: Exception, path: str = "") -> Fault:
    """``error`` in its own words when it is meant to be read; a general sentence for a bug, whose traceback is logged."""
    if not isinstance(error, PlaygroundError):
        _LOG.error("Unexpected failure", exc_info=error)
        return Fault(500, "internal_error", "Something went wrong in the server; its log says what.", "Try again.")
    status = status_of(error, path)
    return Fault(status, error.code, error.message, error.remedy, None, _headers(error, status))


def body_of(error: Exception, path: str = "") -> dict[str, Any]:
    """The error object for ``error``, for whoever sends it in a frame of an open stream or WebSocket."""
    return fault_of(error, path).body(path)


def invalid(error: ValidationError | RequestValidationError, path: str = "") -> Fault:
    """What the first complaint of a validation says, with the field's name; for a WebSocket's frames too."""
    status = OPENAI_BAD_INPUT if is_openai(path) else BAD_INPUT
    return _complaint(error.errors()[0], status)


def _complaint(first: Mapping[str, Any], status: int) -> Fault:
    kind, ctx = first["type"], first.get("ctx", {})
    where = [*first["loc"], *([ctx["field"]] if "field" in ctx else [])]
    param = _param(where)
    named = _named(param) if param else "The body"
    if kind == "json_invalid":
        where_to_look = f"{ctx.get('error', 'it ends too early')} at character {first['loc'][-1]}"
        return Fault(status, "invalid_json", f"The body is not valid JSON: {where_to_look}.", "Send one JSON object.")
    if kind == "unknown_field":
        return Fault(status, kind, f"Unknown field {named}.", _near(ctx["field"], ctx["known"]), param)
    if kind == "extra_forbidden":
        return Fault(status, "unknown_field", f"Unknown field {named}.", "Leave it out.", param)
    if kind == "unsupported":
        message, _, remedy = first["msg"].rstrip(".").partition(". ")
        return Fault(status, "unsupported_value", f"{message}.", f"{remedy or 'Leave it out'}.", param)
    if kind == "missing":
        if param is None:
            return Fault(status, "invalid_value", "The request has no body.", "Send one JSON object.")
        return Fault(status, "missing_field", f"{named} is missing.", "Send it as well.", param)
    if param is None and kind in ("model_attributes_type", "model_type", "dict_type"):
        return Fault(status, "invalid_value", "The body is not a JSON object.", "Send one, as application/json.")
    said = first["msg"].replace("Input should", f"{named} should", 1)
    message = said if named in said else f"{named}: {said}"
    return Fault(status, "invalid_value", f"{message.rstrip('.')}.", "Change it and send the request again.", param)


def _near(name: str, known: Sequence[str]) -> str:
    """What to do about a field that there is not."""
    near = get_close_matches(name[:_LONGEST_NAME], known, n=1, cutoff=0.7)
    return f"Did you mean {near[0]}? Else leave it out." if near else "Leave it out."


def _param(where: Sequence[int | str]) -> str | None:
    """``messages.0.content``: where in the request; the names that pydantic gives to the branches of a union left out."""
    parts = [str(part) for part in where if not isinstance(part, str) or not set(part) & set("[](){}")]
    if parts and parts[0] in ("body", "query", "path", "header", "cookie"):
        parts = parts[1:]
    return ".".join(parts) or None


def _named(param: str) -> str:
    return param if len(param) <= _LONGEST_NAME else f"{param[:_LONGEST_NAME]}…"


def _whole(text: str) -> str:
    """``text`` as it can be sent: it may hold what a client wrote, half characters included, and be of any length."""
    return text.encode("utf-8", "backslashreplace").decode()[:4000]


def _headers(error: PlaygroundError, status: int) -> dict[str, str]:
    """When to come again; and where that is of no use, a word to OpenAI's clients, which repeat every 5xx by themselves."""
    if isinstance(error, RateLimited):
        return {"Retry-After": str(max(1, math.ceil(error.retry_after_s)))}
    if status == 503:
        return {"Retry-After": str(RETRY_AFTER_S)}
    return {"X-Should-Retry": "false"} if status in (409, 504) else {}


def _answer(fault: Fault, path: str) -> JSONResponse:
    return JSONResponse(fault.body(path), fault.status, headers=dict(fault.headers))


async def _on_playground_error(http: Request, error: Exception) -> JSONResponse:
    path = http.scope["path"]
    return _answer(fault_of(error, path), path)


async def _on_validation_error(http: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    path, kind = http.scope["path"], http.headers.get("content-type", "")
    fault = invalid(error, path)
    if fault.param is None and fault.code == "invalid_value" and isinstance(error.body, bytes) and error.body:
        said = f"The body came as {kind.partition(';')[0][:_LONGEST_NAME] or 'nothing in particular'}."
        return _answer(Fault(415, _HTTP_CODES[415], said, "Send it with Content-Type: application/json."), path)
    return _answer(fault, path)


async def _on_http_exception(http: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    path, detail = http.scope["path"], str(error.detail).strip()
    status, headers = error.status_code, dict(error.headers or {})
    code = _HTTP_CODES.get(status, "http_error")
    if status == 400 and detail == _UNREADABLE:
        bad = OPENAI_BAD_INPUT if is_openai(path) else BAD_INPUT
        said = "The body cannot be read as JSON."
        return _answer(Fault(bad, "invalid_json", said, "Send one JSON object, as UTF-8."), path)
    if status == 404 and detail == "Not Found":
        said = f"There is nothing at {_named(path)}."
        return _answer(Fault(404, code, said, "/docs and /openapi.json list what there is."), path)
    if status == 405:
        said, allowed = f"{http.method[:20]} is not for {_named(path)}.", _methods_at(http)
        return _answer(Fault(405, code, said, f"Use {allowed}.", headers={"Allow": allowed}), path)
    message, _, remedy = detail.partition(". ")
    return _answer(Fault(status, code, f"{message.rstrip('.')}.", remedy, headers=headers), path)


def _methods_at(http: Request) -> str:
    """What may be sent to this address; the router itself names only those of the first route that has it.

    Where a route has just this address, those that take any name at its end are left aside.
    """
    path = http.scope["path"]
    fitting, any_name = _methods_of(http, path), _methods_of(http, f"{path}x")
    return ", ".join([method for method in fitting if method not in any_name] or fitting)


def _methods_of(http: Request, path: str) -> list[str]:
    scopes = [{**http.scope, "method": method, "path": path} for method in _METHODS]
    routes = http.app.routes
    return [scope["method"] for scope in scopes if any(route.matches(scope)[0] is Match.FULL for route in routes)]


async def _on_bug(http: Request, error: Exception) -> JSONResponse:
    path = http.scope["path"]
    return _answer(fault_of(error, path), path)
