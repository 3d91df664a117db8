"""Jobs on disk: one JSON file each, replaced as a whole, so that a killed process leaves the old state or the new one.

A file holds prompts and answers: it is for this system's user only, and it holds no key and no cookie.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from playground.errors import JobsUnavailable, PlaygroundError
from playground.services.manifests import Manifest
from playground.store.disk import sync_folder, write_through
from playground.types import GenerationRequest, GenerationStats

FORMAT = "adapter-playground job 1"
JobStatus = Literal["queued", "running", "done", "failed", "cancelled"]
_NAME = re.compile(r"[0-9a-f]{32}")
_LOCK = "lock"
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Trouble:
    """Why a request was not answered: a `PlaygroundError` as it is kept."""

    code: str
    message: str
    remedy: str = ""


@dataclass(frozen=True)
class Answered:
    """The answer to one request. ``at`` is when it was finished, in seconds since 1970."""

    manifest: Manifest
    stats: GenerationStats
    notices: tuple[str, ...]
    cached: bool
    at: float


@dataclass(frozen=True)
class Part:
    """One request of a job, with the name that its model was asked for by; what came of it, once something did."""

    model_id: str
    request: GenerationRequest
    outcome: Answered | Trouble | None = None


@dataclass(frozen=True)
class JobState:
    """How far a job is, without its texts. Times are seconds since 1970; counts are of requests and of tokens."""

    id: str
    owner: str
    status: JobStatus
    created_at: float
    started_at: float | None
    finished_at: float | None
    requests: int
    finished: int
    failed: int
    tokens: int


@dataclass(frozen=True)
class Job:
    """Requests that are answered in the background. ``many`` tells a list of one from a single request.

    ``starts`` counts how often it was begun without getting any further: a job that takes the process down with it is
    not begun for ever.
    """

    id: str
    owner: str
    created_at: float
    parts: tuple[Part, ...]
    many: bool = False
    started_at: float | None = None
    finished_at: float | None = None
    cancelled: bool = False
    starts: int = 0

    @property
    def answers(self) -> list[Answered]:
        """Those that there are."""
        return [part.outcome for part in self.parts if isinstance(part.outcome, Answered)]

    @property
    def troubles(self) -> list[Trouble]:
        """What went wrong, in the requests' order."""
        return [part.outcome for part in self.parts if isinstance(part.outcome, Trouble)]

    @property
    def status(self) -> JobStatus:
        """A job of many requests has failed when none of them was answered."""
        if self.cancelled:
            return "cancelled"
        if self.finished_at is None:
            return "queued" if self.started_at is None else "running"
        return "done" if self.answers else "failed"

    def state(self, running_tokens: int = 0) -> JobState:
        """How far it is; ``running_tokens`` belong to answers that are being written."""
        answers, failed = self.answers, len(self.troubles)
        return JobState(
            id=self.id,
            owner=self.owner,
            status=self.status,
            created_at=self.created_at,
            started_at=self.started_at,
            finished_at=self.finished_at,
            requests=len(self.parts),
            finished=len(answers) + failed,
            failed=failed,
            tokens=running_tokens + sum(answer.stats.completion_tokens for answer in answers),
        )


class JobFiles:
    """The files in ``folder``, which is made when it is claimed and belongs to one process at a time."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lock: int | None = None

    def exist(self) -> bool:
        """Whether there ever was a job here."""
        return self._folder.is_dir()

    def claim(self) -> None:
        """Keep other processes out. Raises `JobsUnavailable` when one of them was first, or nothing can be written."""
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            lock = os.open(self._folder / _LOCK, os.O_CREAT | os.O_RDWR, 0o600)
        except OSError as error:
            raise _not_written(error) from error
        if not _locked(lock):
            os.close(lock)
            raise JobsUnavailable(
                "Another server process runs the jobs of this data folder.",
                "Ask that one, or start this one with a --data-dir of its own.",
            )
        self._lock = lock

    def release(self) -> None:
        """Let another process have the folder."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def write(self, job: Job) -> int:
        """Keep ``job`` as it is now; returns the file's bytes. Raises `JobsUnavailable` when the disk will not have it."""
        content = json.dumps(_values(job), ensure_ascii=False).encode()
        beside = self._folder / f".{job.id}.tmp"
        try:
            write_through(beside, content)
            beside.replace(self._path(job.id))
            sync_folder(self._folder)
        except OSError as error:
            with contextlib.suppress(OSError):
                beside.unlink(missing_ok=True)
            raise _not_written(error) from error
        return len(content)

    def read(self, job_id: str) -> Job | None:
        """The job of that name; None where there is none, or none that can be read."""
        try:
            return _job(json.loads(self._path(job_id).read_bytes()), job_id)
        except FileNotFoundError:
            return None
        except (OSError, PlaygroundError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            self._set_aside(job_id, error)
            return None

    def all(self) -> Iterator[tuple[Job, int]]:
        """Every job with its file's bytes. What cannot be read is set aside and logged; half-written files are removed."""
        for path in sorted(self._folder.iterdir()):
            if path.suffix == ".tmp":
                path.unlink(missing_ok=True)
            elif path.suffix == ".json" and _NAME.fullmatch(path.stem):
                size = path.stat().st_size
                job = self.read(path.stem)
                if job is not None:
                    yield job, size

    def forget(self, job_id: str) -> None:
        """Remove the file of a job."""
        self._path(job_id).unlink(missing_ok=True)

    def _path(self, job_id: str) -> Path:
        return self._folder / f"{job_id}.json"

    def _set_aside(self, job_id: str, error: Exception) -> None:
        aside = self._folder / f"{job_id}.unreadable"
        with contextlib.suppress(OSError):  # it stays where it is, and is told again
            self._path(job_id).replace(aside)
        _LOG.warning("The job file %s.json cannot be read and is set aside as %s: %s", job_id, aside.name, error)


def _locked(lock: int) -> bool:
    """Take the lock that the open file ``lock`` stands for; the system gives it back when this process ends, however."""
    try:
        import fcntl
    except ImportError:  # Windows: two servers over one folder are up to whoever starts them
        return True
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _not_written(error: OSError) -> JobsUnavailable:
    return JobsUnavailable(
        f"The job cannot be kept in the data folder: {error.strerror or error}.",
        "Whoever runs the server must make room there, or name another folder with --data-dir.",
    )


def _values(job: Job) -> dict[str, Any]:
    plain = {one.name: getattr(job, one.name) for one in dataclasses.fields(Job) if one.name != "parts"}
    return {"format": FORMAT, **plain, "parts": [_part_values(part) for part in job.parts]}


def _part_values(part: Part) -> dict[str, Any]:
    """A part as JSON. The request is kept in a manifest, which is the answer's where there is one."""
    outcome = part.outcome
    if isinstance(outcome, Answered):
        beside = {name: getattr(outcome, name) for name in ("notices", "cached", "at")}
        answer = {**beside, "stats": dataclasses.asdict(outcome.stats)}
        return {"model_id": part.model_id, "manifest": json.loads(outcome.manifest.to_json()), "answer": answer}
    trouble = {"trouble": dataclasses.asdict(outcome)} if outcome else {}
    nothing = Manifest(part.request, 0, (), "", "", "cancelled", None)
    return {"model_id": part.model_id, "manifest": json.loads(nothing.to_json()), **trouble}


def _job(values: Mapping[str, Any], job_id: str) -> Job:
    """The job in a file. Raises `ValueError`, `TypeError`, `KeyError` or `PlaygroundError` for what is no job."""
    if values.get("format") != FORMAT or values["id"] != job_id or not isinstance(values["owner"], str):
        raise ValueError(f"it is no {FORMAT!r} of that name")
    plain = {name: value for name, value in values.items() if name not in ("format", "parts")}
    job = Job(**plain, parts=tuple(_part(one, values["owner"]) for one in values["parts"]))
    times = (job.created_at, job.started_at, job.finished_at)
    if not all(one is None or isinstance(one, (int, float)) for one in times) or not job.parts or not job.created_at:
        raise ValueError("its times or requests are no good")
    return job


def _part(values: Mapping[str, Any], owner: str) -> Part:
    manifest = Manifest.from_json(json.dumps(values["manifest"]))
    request = dataclasses.replace(manifest.request, user=owner)
    if "trouble" in values:
        return Part(str(values["model_id"]), request, Trouble(**values["trouble"]))
    if "answer" not in values:
        return Part(str(values["model_id"]), request)
    kept = values["answer"]
    stats = GenerationStats(**kept["stats"])
    notices = tuple(map(str, kept["notices"]))
    return Part(
        str(values["model_id"]), request, Answered(manifest, stats, notices, bool(kept["cached"]), float(kept["at"]))
    )
