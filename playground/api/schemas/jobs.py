"""The shapes of long jobs."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidatorFunctionWrapHandler, WrapValidator

from playground.api.schemas.common import Failure, Problem, Strict
from playground.api.schemas.inference import GenerateBody, GenerateReport
from playground.services.jobs import MOST_REQUESTS

_LINE: dict[str, Any] = {
    "id": "0f4c0a499d3a4c92bca8d623759baef8", "status": "running", "created_at": "2026-01-31T12:00:00.000+00:00",
    "started_at": "2026-01-31T12:00:01.000+00:00", "finished_at": None,
    "progress": {"requests": 1, "finished": 0, "failed": 0, "tokens": 17},
}  # fmt: skip


class ManyBody(Strict):
    """Several requests, of any models, as one job."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "requests": [
                        {"model_id": "starter", "prompt": "What is the capital of France?", "max_tokens": 16},
                        {"model_id": "starter:pirate", "prompt": "What is the capital of France?", "max_tokens": 16},
                    ]
                }
            ]
        }
    )

    requests: list[GenerateBody] = Field(
        min_length=1,
        max_length=MOST_REQUESTS,
        description="Generate bodies, of any models, that are answered as one job.",
    )


def _one_or_many(value: Any, _: ValidatorFunctionWrapHandler) -> GenerateBody | ManyBody:
    """The body that ``value`` was meant as, so that what is wrong with it is told in that one's words."""
    meant = ManyBody if isinstance(value, dict) and "requests" in value else GenerateBody
    return meant.model_validate(value)


JobBody = Annotated[GenerateBody | ManyBody, WrapValidator(_one_or_many)]


class Progress(BaseModel):
    """How far a job is."""

    requests: int
    finished: int = Field(description="How many of the requests have ended, those that failed included.")
    failed: int
    tokens: int = Field(description="Generated so far, by all of them.")


class JobLine(BaseModel):
    """A job without its answers. Times are ISO 8601, UTC."""

    model_config = ConfigDict(json_schema_extra={"examples": [_LINE]})

    id: str
    status: Literal["queued", "running", "done", "failed", "cancelled"] = Field(
        description="A job of many requests is `done` when at least one was answered; the others carry their errors."
    )
    created_at: str
    started_at: str | None = Field(description="When it was begun; after a restart of the server, begun anew.")
    finished_at: str | None
    progress: Progress


class JobReport(JobLine):
    """A job with what has come of it so far."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{**_LINE, "error": None, "result": None, "results": None}]}
    )

    error: Problem | None = Field(description="Why it failed; of many requests the first one's reason.")
    result: GenerateReport | None = Field(description="The answer to a single request.")
    results: list[GenerateReport | Failure | None] | None = Field(
        description="Of a job of many requests: an answer or an error for each, in their order; null while there is none."
    )


class JobList(BaseModel):
    """The caller's jobs, the latest first."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"jobs": [_LINE]}]})

    jobs: list[JobLine]


class JobRemoved(BaseModel):
    """What became of the job: `cancelled` when it had not ended, and then it is still there; else `deleted`."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"status": "cancelled", "id": _LINE["id"]}]})

    status: Literal["cancelled", "deleted"]
    id: str
