"""The shapes of long jobs."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidatorFunctionWrapHandler, WrapValidator

from playground.api.schemas.common import Failure, Problem, Strict
from playground.api.schemas.inference import GenerateBody, GenerateReport
from playground.services.jobs import MOST_REQUESTS


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

    requests: list[GenerateBody] = Field(min_length=1, max_length=MOST_REQUESTS)


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

    error: Problem | None = Field(description="Why it failed; of many requests the first one's reason.")
    result: GenerateReport | None = Field(description="The answer to a single request.")
    results: list[GenerateReport | Failure | None] | None = Field(
        description="Of a job of many requests: an answer or an error for each, in their order; null while there is none."
    )


class JobList(BaseModel):
    """The caller's jobs, the latest first."""

    jobs: list[JobLine]


class JobRemoved(BaseModel):
    """What became of the job: `cancelled` when it had not ended, and then it is still there; else `deleted`."""

    status: Literal["cancelled", "deleted"]
    id: str
