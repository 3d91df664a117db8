"""Errors on the wire: every failure becomes OpenAI's error object and a status, here and nowhere else."""

from __future__ import annotations

import logging
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from playground.api.schemas.common import Failure
from playground.errors import PlaygroundError

STATUS = {
    "invalid_request": 400,
    "context_length_exceeded": 400,
    "model_not_found": 404,
    "model_not_loaded": 409,
    "model_unsupported": 422,
    "adapter_invalid": 422,
    "model_busy": 503,
    "out_of_memory": 503,
    "queue_full": 503,
}
RETRY_AFTER_S = 5
RESPONSES: dict[int | str, dict[str, Any]] = {
    "4XX": {
        "model": Failure,
        "description": "The request cannot be answered; `error.message` says why.",
    },
    "5XX": {"model": Failure, "description": "The server cannot answer now. 503 carries `Retry-After`."},
}
_LOG = logging.getLogger(__name__)


def install(app: FastAPI) -> None:
    """Let ``app`` answer every failure in one shape."""
    app.add_exception_handler(PlaygroundError, _on_playground_error)
    app.add_exception_handler(RequestValidationError, _on_validation_error)
    app.add_exception_handler(HTTPException, _on_http_exception)
    app.add_exception_handler(Exception, _on_bug)


def body(message: str, status: int, code: str | None = None, param: str | None = None) -> dict[str, Any]:
    """OpenAI's error object."""
    kind = "invalid_request_error" if status < 500 else "server_error"
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def body_of(error: Exception) -> dict[str, Any]:
    """The error object for ``error``: its own sentence when it is meant to be read, a general one for a bug."""
    if isinstance(error, PlaygroundError):
        return body(str(error), status_of(error), error.code)
    _LOG.error("Unexpected failure", exc_info=error)
    return body("Something went wrong in the server; its log says what. Try again.", 500, "internal_error")


def status_of(error: PlaygroundError) -> int:
    """The HTTP status for ``error``; 500 for what only the operator can mend."""
    return STATUS.get(error.code, 500)


def _answer(content: dict[str, Any], status: int, headers: dict[str, str] | None = None) -> JSONResponse:
    retry = {"Retry-After": str(RETRY_AFTER_S)} if status == 503 else {}
    return JSONResponse(content, status, headers={**(headers or {}), **retry})


async def _on_playground_error(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, PlaygroundError)
    return _answer(body_of(error), status_of(error))


async def _on_validation_error(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    where = [str(part) for part in first["loc"] if part != "body"]
    kind = first["type"]
    if kind == "json_invalid":
        return _answer(body("The body is not valid JSON.", 400, "invalid_json"), 400)
    if kind == "unsupported":
        param = ".".join([*where, *([first["ctx"]["field"]] if "field" in first["ctx"] else [])])
        return _answer(body(first["msg"], 400, "unsupported_value", param), 400)
    param = ".".join(where)
    if kind == "extra_forbidden":
        return _answer(body(f"Unknown field {param}. Leave it out.", 400, "unknown_field", param), 400)
    return _answer(body(f"{param or 'The body'}: {first['msg']}.", 400, "invalid_value", param or None), 400)


async def _on_http_exception(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    return _answer(body(str(error.detail), error.status_code), error.status_code, dict(error.headers or {}))


async def _on_bug(_: Request, error: Exception) -> JSONResponse:
    return _answer(body_of(error), 500)
