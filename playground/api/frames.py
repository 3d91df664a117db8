"""Events → the frames of `/api/inference`, for its WebSocket and for its server-sent events alike. Pure functions."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

from playground.api.failures import Fault, fault_of
from playground.services.answers import Answers
from playground.types import GenerationEvent

Id = str | int


class Frames:
    """The frames of one answer: start, then a token frame for each piece of text, then complete or error.

    ``id`` is on each of them.
    """

    def __init__(self, model_id: str, id: Id) -> None:
        self._model_id = model_id
        self._id = id
        self._pieces = 0

    def start(self) -> dict[str, Any]:
        """The first frame."""
        return {"type": "start", "model_id": self._model_id, "id": self._id}

    def progress(self, event: GenerationEvent) -> Iterator[dict[str, Any]]:
        """A frame with the event's text, where it has some. ``index`` counts these frames from 0."""
        if event.text:
            yield {"type": "token", "token": event.text, "index": self._pieces, "id": self._id}
            self._pieces += 1

    def complete(self, answers: Answers) -> dict[str, Any]:
        """The last frame of an answer that has ended by itself, or was stopped."""
        answer = answers.all[0]
        made = answer.provenance
        return {
            "type": "complete",
            "total_tokens": answer.stats.completion_tokens,
            "prompt_tokens": answer.stats.prompt_tokens,
            "reused_tokens": answer.stats.reused_tokens,
            "generation_time": answer.stats.elapsed_s,
            "finish_reason": answer.finish_reason or "cancelled",
            "id": self._id,
            "seed": made.seed if made else None,
            "tokens_per_second": answer.stats.tokens_per_second,
            "notices": answers.notices,
            "provenance": dataclasses.asdict(made) if made else None,
            "cached": answer.cached,
        }

    def error(self, failure: Exception) -> dict[str, Any]:
        """The last frame of an answer that has failed."""
        return error_frame(fault_of(failure), self._id)


def error_frame(fault: Fault, about: Id | None) -> dict[str, Any]:
    """What went wrong, in the sentence and with the code that HTTP has for it."""
    said = fault.body()["error"]
    return {"type": "error", "error": said["message"], "id": about, "code": said["code"], "param": said["param"]}
