"""`/api/inference/jobs`: requests for text that nobody waits for, and that outlive the server's restart."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

from fastapi import APIRouter, Path, Request
from fastapi.responses import JSONResponse, Response

from playground.api import failures
from playground.api.asker import caller_of
from playground.api.reports import moment, report
from playground.api.schemas.inference import GenerateBody
from playground.api.schemas.jobs import JobBody, JobLine, JobList, JobRemoved, JobReport, ManyBody, Progress
from playground.config import AppConfig
from playground.errors import InvalidRequest, PlaygroundError
from playground.services.answers import Answer
from playground.services.assembly import Services
from playground.services.jobs import Answered, Job, JobState, Part, Trouble
from playground.types import GenerationRequest

PATH = "/api/inference/jobs"
JobId = Annotated[str, Path(description="The id that came with the 202.", max_length=200)]
_WHICH = {"job_id": "$response.body#/id"}
_ACCEPTED: dict[int | str, dict[str, Any]] = {
    202: {
        "description": "It is accepted, and on the server's disk.",
        "headers": {"Location": {"description": "Where to ask for it.", "schema": {"type": "string"}}},
        "links": {
            "Look": {"operationId": "inference_job", "parameters": _WHICH},
            "Remove": {"operationId": "inference_remove_job", "parameters": _WHICH},
        },
    }
}


class LongJobs:
    """The routes of long jobs. They block, so FastAPI runs them beside the event loop."""

    def __init__(self, config: AppConfig, services: Services) -> None:
        self._shared = config.is_shared
        self._jobs = services.jobs
        self._entries = services.entries
        self._limits = services.limits

    def submit(self, body: JobBody, http: Request) -> Response:
        """Accept a generate body, or up to 100 of them as `requests`, to be answered in the background.

        Model, adapter, settings and seed are decided now; the model is loaded when the job's turn comes. Finished jobs are
        kept for a week. 429 when too many of yours are unfinished, 503 when too many are in all.
        """
        caller = caller_of(http)
        self._limits.admit(caller)
        many = isinstance(body, ManyBody)
        bodies = body.requests if isinstance(body, ManyBody) else [body]
        state = self._jobs.submit(caller.id, self._asked(bodies, caller.id, many), many)
        return JSONResponse(line(state).model_dump(), 202, {"Location": f"{PATH}/{state.id}"})

    def all(self, http: Request) -> JobList:
        """Your jobs, the latest first, without their answers.

        Where others can reach the server, who comes without a key, a login or a browser's cookie gets none: an address may
        be many people's. With its id each job is still found.
        """
        caller = caller_of(http)
        nobody = self._shared and caller.kind == "address"
        return JobList(jobs=[] if nobody else [line(state) for state in self._jobs.of(caller.id)])

    def get(self, job_id: JobId, http: Request) -> Response:
        """One of your jobs: how far it is, and the answers that there are. 404 for anybody else's."""
        return JSONResponse(told(*self._jobs.get(caller_of(http).id, job_id)))

    def remove(self, job_id: JobId, http: Request) -> JobRemoved:
        """Cancel a job that has not ended, and keep what was answered; forget one that has, with its answers."""
        return JobRemoved(status=self._jobs.remove(caller_of(http).id, job_id), id=job_id)

    def _asked(self, bodies: Sequence[GenerateBody], user: str, many: bool) -> list[tuple[str, GenerationRequest]]:
        """What the engine will be asked. Raises the first problem, which of ``many`` names the request it is in."""
        asked = []
        for index, body in enumerate(bodies):
            try:
                if body.stream:
                    raise InvalidRequest("stream is true, and a job has no stream.", "Leave it out.")
                asked.append((body.model_id, body.as_request(self._entries, user, must_be_loaded=False)))
            except PlaygroundError as error:
                if many:
                    raise type(error)(f"requests.{index}: {error.message}", error.remedy) from error
                raise
        return asked


def router(config: AppConfig, services: Services) -> APIRouter:
    """The routes of long jobs."""
    jobs = LongJobs(config, services)
    routes = APIRouter(prefix=PATH, tags=["Long jobs"], responses=failures.RESPONSES)
    routes.add_api_route(
        "", jobs.submit, methods=["POST"], status_code=202, summary="Start a job", response_model=JobLine,
        operation_id="inference_start_job", responses=_ACCEPTED,
    )  # fmt: skip
    routes.add_api_route(
        "", jobs.all, summary="List your jobs", response_model=JobList, operation_id="inference_jobs"
    )  # fmt: skip
    routes.add_api_route(
        "/{job_id}", jobs.get, summary="One job", response_model=JobReport, operation_id="inference_job"
    )  # fmt: skip
    routes.add_api_route(
        "/{job_id}", jobs.remove, methods=["DELETE"], summary="Cancel or forget a job", response_model=JobRemoved,
        operation_id="inference_remove_job",
    )  # fmt: skip
    return routes


def line(state: JobState) -> JobLine:
    """A job without its answers."""
    return JobLine(
        id=state.id,
        status=state.status,
        created_at=moment(state.created_at),
        started_at=None if state.started_at is None else moment(state.started_at),
        finished_at=None if state.finished_at is None else moment(state.finished_at),
        progress=Progress(
            requests=state.requests, finished=state.finished, failed=state.failed, tokens=state.tokens
        ),
    )  # fmt: skip


def told(state: JobState, job: Job) -> dict[str, Any]:
    """A job with what has come of it so far."""
    results = [_result(part) for part in job.parts]
    only = job.parts[0].outcome
    return {
        **line(state).model_dump(),
        "error": _error(job.troubles[0]) if state.status == "failed" else None,
        "result": results[0] if not job.many and isinstance(only, Answered) else None,
        "results": results if job.many else None,
    }


def _result(part: Part) -> dict[str, Any] | None:
    if isinstance(part.outcome, Trouble):
        return {"error": _error(part.outcome)}
    if part.outcome is None:
        return None
    kept, manifest = part.outcome, part.outcome.manifest
    answer = Answer(
        text=manifest.text,
        stats=kept.stats,
        finish_reason=manifest.finish_reason,
        provenance=manifest.provenance,
        cached=kept.cached,
    )
    beside = {"prompt": _prompt(part.request), "model_id": part.model_id, "timestamp": moment(kept.at)}
    return report(answer, kept.notices) | beside


def _prompt(request: GenerationRequest) -> str:
    """What was asked: the prompt, or the conversation's last user turn."""
    said = [message.content for message in request.messages if message.role == "user"]
    return request.prompt if request.prompt is not None else said[-1] if said else ""


def _error(trouble: Trouble) -> Any:
    status = failures.STATUS.get(trouble.code, 500)
    return failures.Fault(status, trouble.code, trouble.message, trouble.remedy).body()["error"]
