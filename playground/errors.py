"""Every error that a person may see: what happened, with which input, and what to do next.

``str(error)`` is the whole sentence, remedy included; the surfaces (pages, HTTP, command line) only choose where to show
it. ``code`` is a stable machine-readable name that the HTTP surface maps to a status.
"""

from __future__ import annotations

from typing import Any


class PlaygroundError(Exception):
    """Something went wrong that the person in front of the screen can mend.

    ``message`` says what happened and with which input; ``remedy`` says what to do next.
    """

    code = "error"

    def __init__(self, message: str, remedy: str = "") -> None:
        self.message = message.strip()
        self.remedy = remedy.strip()
        super().__init__(f"{self.message} {self.remedy}".strip())

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        """Pickle by message and remedy, so that errors can cross a process border whole."""
        return type(self), (self.message, self.remedy)


class InvalidRequest(PlaygroundError):
    """The request itself is wrong (a setting out of bounds, an empty prompt); nothing was started."""

    code = "invalid_request"


class ContextOverflow(InvalidRequest):
    """The prompt alone does not fit the model's context window."""

    code = "context_length_exceeded"


class ModelNotFound(PlaygroundError):
    """No model of that name, path or hub id can be had."""

    code = "model_not_found"


class ModelUnsupported(PlaygroundError):
    """The checkpoint exists but is not one that this program can run (an encoder, a classifier, pickle weights)."""

    code = "model_unsupported"


class ModelNotLoaded(PlaygroundError):
    """The action needs a loaded model and this one is not."""

    code = "model_not_loaded"


class ModelBusy(PlaygroundError):
    """The model is answering and cannot be unloaded now."""

    code = "model_busy"


class AdapterInvalid(PlaygroundError):
    """The adapter directory is missing, broken, or does not fit the base."""

    code = "adapter_invalid"


class AdapterUnknown(AdapterInvalid):
    """There is no adapter of that name or path."""

    code = "adapter_not_found"


class OutOfMemory(PlaygroundError):
    """The device has no room for the model or for this request."""

    code = "out_of_memory"


class QueueFull(PlaygroundError):
    """Too many requests are waiting already."""

    code = "queue_full"


class RateLimited(PlaygroundError):
    """This caller has asked too often; ``retry_after_s`` says when to come again."""

    code = "rate_limited"

    def __init__(self, message: str, remedy: str = "", retry_after_s: float = 1.0) -> None:
        super().__init__(message, remedy)
        self.retry_after_s = retry_after_s

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        """Pickle with the seconds."""
        return type(self), (self.message, self.remedy, self.retry_after_s)


class DeadlineExceeded(PlaygroundError):
    """The answer was not finished in the time that this server gives to one."""

    code = "deadline_exceeded"


class ContentRefused(PlaygroundError):
    """The operator's content filter refused the text."""

    code = "content_refused"


class NotPermitted(PlaygroundError):
    """This caller is known but may not do that."""

    code = "not_permitted"


class NotFound(PlaygroundError):
    """There is no such thing (a job, a conversation), or it is somebody else's, which is not told apart."""

    code = "not_found"


class ShuttingDown(PlaygroundError):
    """The server finishes what it has begun and takes nothing more."""

    code = "shutting_down"


class JobsUnavailable(PlaygroundError):
    """Jobs cannot be kept or run by this process: another one has them, or the disk is full."""

    code = "jobs_unavailable"


class HistoryUnavailable(PlaygroundError):
    """The history cannot be opened or written: another process has it, it is a newer version's, or the disk is full."""

    code = "history_unavailable"


class EngineFailure(PlaygroundError):
    """The engine failed while working on this request; other requests are not affected."""

    code = "engine_failure"


class ConfigError(PlaygroundError):
    """A configuration file, environment variable or argument cannot be used."""

    code = "config"
