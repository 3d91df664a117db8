"""Long work that goes on when whoever asked for it has left, and after a restart: one file for each job, one worker.

A job is on disk before it is accepted. What was asked for is fixed then: model, adapters, settings, and the seed; so one
that has to begin again gives the same text (where the model itself does: see `Provenance.exact`). Answers are kept as they
are finished, and only what is unfinished is begun again.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
import secrets
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path
from typing import Literal

from playground.errors import (
    JobsUnavailable,
    NotFound,
    PlaygroundError,
    QueueFull,
    RateLimited,
    ShuttingDown,
)
from playground.services.generation import Generation
from playground.services.job_files import Answered as Answered
from playground.services.job_files import Job as Job
from playground.services.job_files import JobFiles
from playground.services.job_files import JobState as JobState
from playground.services.job_files import Part as Part
from playground.services.job_files import Trouble as Trouble
from playground.services.manifests import Recorder
from playground.types import GenerationRequest, GenerationStats

AT_ONCE = 2
TOGETHER = 4  # requests of one job that are answered at the same time: the engine batches their rows
MOST_REQUESTS = 100  # in one job, whose file is written anew after each answer
MOST_UNFINISHED = 20  # of one caller
MOST_UNFINISHED_IN_ALL = 200
KEPT_S = 7 * 24 * 3600.0
MOST_KEPT = 1000
MOST_BYTES = 500_000_000
MOST_STARTS = 3
AGAIN_S = 1.0
_CLOSE_S = 3.0
_SEEDS = 2**31
_MOST_TURNS = 10_000
_LOG = logging.getLogger(__name__)


class Interrupted(Exception):
    """The server is stopping; what was being answered is left for its next start."""


class Jobs:
    """Requests that are answered in the background, ``at_once`` jobs at the same time; safe from any thread.

    ``folder`` keeps them and is made with the first one. One process at a time has it. Finished jobs are kept for a week, a
    thousand and 500 MB of them at most. ``clock`` counts seconds since 1970.
    """

    def __init__(
        self, generation: Generation, folder: Path, at_once: int = AT_ONCE, clock: Callable[[], float] = time.time
    ) -> None:
        self._generation = generation
        self._files = JobFiles(folder)
        self._at_once = at_once
        self._clock = clock
        self._lock = threading.RLock()
        self._unfinished: dict[str, Job] = {}
        self._finished: dict[str, JobState] = {}
        self._sizes: dict[str, int] = {}
        self._tokens: dict[str, list[int]] = {}
        self._turns: dict[str, int] = {}  # caller → how many jobs were begun before their last one was
        self._open = self._closed = False
        self._worker: Worker | None = None

    def start(self) -> None:
        """Take up what an earlier run of the server left unfinished. Does nothing where there never was a job.

        When another process has the jobs it is logged: this one serves everything else.
        """
        try:
            self._opened()
        except JobsUnavailable as error:
            _LOG.warning("%s", error)

    def close(self) -> None:
        """Stop, leave what is unfinished to the next start, and let another process have the folder."""
        with self._lock:
            self._closed = True
            worker = self._worker
        if worker is not None:
            worker.stop()
        with self._lock:
            self._files.release()

    def submit(self, owner: str, asked: Sequence[tuple[str, GenerationRequest]], many: bool = False) -> JobState:
        """Accept a job of ``owner``: for each request the name that its model was asked for by, and the request.

        The job is on disk when this returns. Raises `RateLimited` when ``owner`` has too many unfinished ones, `QueueFull`
        when there are too many in all, and `JobsUnavailable`.
        """
        parts = tuple(Part(model_id, _fixed(request, owner)) for model_id, request in asked)
        with self._lock:
            self._opened(make=True)
            self._check_room(owner)
            job = Job(uuid.uuid4().hex, owner, self._clock(), parts, many)
            self._sizes[job.id] = self._files.write(job)
            self._take(job)
            self._tidy()
            self._wake()
            return job.state()

    def of(self, owner: str) -> list[JobState]:
        """The jobs of ``owner``, the latest first. Raises `JobsUnavailable`."""
        with self._lock:
            self._opened()
            self._tidy()
            unfinished = [self._state(job) for job in self._unfinished.values()]
            mine = [state for state in (*unfinished, *self._finished.values()) if state.owner == owner]
        return sorted(mine, key=lambda state: (state.created_at, state.id), reverse=True)

    def get(self, owner: str, job_id: str) -> tuple[JobState, Job]:
        """One job of ``owner``, and all that there is of it. Raises `NotFound`, also for somebody else's."""
        with self._lock:
            self._opened()
            self._tidy()
            job = self._unfinished.get(job_id)
            if job is None and job_id in self._finished:
                job = self._files.read(job_id)
                if job is None:  # somebody else took it away, or spoilt it
                    self._forget(job_id)
            if job is None or job.owner != owner:
                raise NotFound(f"There is no job {job_id[:80]!r}.", "GET /api/inference/jobs lists yours.")
            return self._state(job), job

    def remove(self, owner: str, job_id: str) -> Literal["cancelled", "deleted"]:
        """Cancel a job that is unfinished, which is then kept like a finished one; forget any other. Raises `NotFound`."""
        with self._lock:
            _, job = self.get(owner, job_id)
            if job_id in self._unfinished:
                self._end(replace(job, cancelled=True, finished_at=self._clock()))
                if self._worker:
                    self._worker.cancel(job_id)
                return "cancelled"
            self._forget(job_id)
            return "deleted"

    # What the worker asks for, from its own thread.

    def next(self, running: Sequence[str]) -> Job | None:
        """The job whose turn it is beside those that are ``running``, begun; None while there is none or no room for one.

        Callers take turns: the one with the fewest jobs running is next, among those the one who was served longest ago.
        """
        with self._lock:
            if self._closed or len(running) >= self._at_once:
                return None
            while job := self._first(running):
                if len(self._turns) > _MOST_TURNS:
                    self._turns.clear()
                self._turns[job.owner] = 1 + max(self._turns.values(), default=0)
                if job.starts < MOST_STARTS:
                    job = replace(job, started_at=self._clock(), starts=job.starts + 1)
                    self._keep(job)
                    return job
                self._give_up(job)
            return None

    def _first(self, running: Sequence[str]) -> Job | None:
        """Whose turn it is. One that the server went down with runs alone until it gets further, to spare the others."""
        beside = [self._unfinished[job_id] for job_id in running if job_id in self._unfinished]
        busy = [job.owner for job in beside]
        waiting = [job for job in self._unfinished.values() if job.id not in running]
        in_turn = sorted(
            waiting, key=lambda job: (busy.count(job.owner), self._turns.get(job.owner, 0), job.created_at)
        )
        if not in_turn or (running and in_turn[0].starts) or any(job.starts > 1 for job in beside):
            return None
        return in_turn[0]

    def _give_up(self, job: Job) -> None:
        trouble = Trouble(
            "engine_failure",
            f"The server went down {job.starts} times while it worked on this.",
            "It may be too large for the server's memory; ask for less at once.",
        )
        parts = tuple(part if part.outcome else replace(part, outcome=trouble) for part in job.parts)
        self._end(replace(job, parts=parts, finished_at=self._clock()))

    def told(self, job_id: str, index: int, tokens: int) -> None:
        """Answer ``index`` of a job has so many tokens so far."""
        with self._lock:
            if job_id in self._tokens:
                self._tokens[job_id][index] = tokens

    def answered(self, job_id: str, index: int, outcome: Answered | Trouble) -> None:
        """Keep what came of request ``index``; the last one ends the job."""
        with self._lock:
            job = self._unfinished.get(job_id)
            if job is None:  # cancelled meanwhile
                return
            self._tokens[job_id][index] = 0
            parts = (*job.parts[:index], replace(job.parts[index], outcome=outcome), *job.parts[index + 1 :])
            job = replace(job, parts=parts, starts=0)
            if all(part.outcome for part in parts):
                self._end(replace(job, finished_at=self._clock()))
            else:
                self._keep(job)

    def left(self, job_id: str) -> None:
        """The job was let go of in an orderly way, which does not count against it."""
        with self._lock:
            job = self._unfinished.get(job_id)
            if job is not None and job.started_at is not None:
                self._keep(replace(job, started_at=None, starts=max(0, job.starts - 1)))

    # Below: with the lock held.

    def _opened(self, make: bool = False) -> None:
        """Have the folder, and know what is in it; ``make`` it if need be. Raises `JobsUnavailable` and `ShuttingDown`."""
        with self._lock:
            if self._closed:
                raise ShuttingDown("The server is stopping.", "Come back when it runs again.")
            if self._open or not (make or self._files.exist()):
                return
            self._files.claim()
            for job, size in self._files.all():
                self._sizes[job.id] = size
                if job.finished_at is None:
                    self._take(replace(job, started_at=None))
                else:
                    self._finished[job.id] = job.state()
            self._open = True
            self._tidy()
            self._wake()

    def _check_room(self, owner: str) -> None:
        mine = sum(job.owner == owner for job in self._unfinished.values())
        if mine >= MOST_UNFINISHED:
            raise RateLimited(f"{mine} of your jobs are unfinished.", "Wait for one of them, or cancel it.", 30.0)
        if len(self._unfinished) >= MOST_UNFINISHED_IN_ALL:
            raise QueueFull(f"{len(self._unfinished)} jobs are waiting already.", "Try again later.")
        if sum(self._sizes[job_id] for job_id in self._unfinished) >= MOST_BYTES:
            raise QueueFull("The jobs that are waiting take all the room that there is for jobs.", "Try again later.")

    def _take(self, job: Job) -> None:
        self._unfinished[job.id] = job
        self._tokens[job.id] = [0] * len(job.parts)

    def _keep(self, job: Job) -> None:
        """``job`` as it is now, here and on disk. Where that fails it goes on: a restart begins at what was written last."""
        self._unfinished[job.id] = job
        try:
            self._sizes[job.id] = self._files.write(job)
        except JobsUnavailable as error:
            _LOG.error("Job %s: %s", job.id, error)

    def _end(self, job: Job) -> None:
        self._keep(job)
        del self._unfinished[job.id], self._tokens[job.id]
        self._finished[job.id] = job.state()
        self._tidy()

    def _state(self, job: Job) -> JobState:
        return job.state(sum(self._tokens.get(job.id, ())))

    def _forget(self, job_id: str) -> None:
        self._files.forget(job_id)
        del self._finished[job_id], self._sizes[job_id]

    def _tidy(self) -> None:
        """Forget finished jobs that are too old, and the oldest where there are too many or too large ones."""
        oldest_first = sorted(self._finished.values(), key=lambda state: state.finished_at or 0.0)
        size, since = sum(self._sizes.values()), self._clock() - KEPT_S
        for place, state in enumerate(oldest_first):
            too_many = len(oldest_first) - place > MOST_KEPT
            if (state.finished_at or 0.0) >= since and not too_many and size <= MOST_BYTES:
                return
            size -= self._sizes[state.id]
            self._forget(state.id)

    def _wake(self) -> None:
        """Let the worker look for something to do; it comes to life with the first job."""
        if not self._unfinished:
            return
        if self._worker is None:
            self._worker = Worker(self, self._generation)
        self._worker.look()


class Worker:
    """Runs what `Jobs.next` hands out, on an event loop in a thread of its own."""

    def __init__(self, jobs: Jobs, generation: Generation) -> None:
        self._jobs = jobs
        self._generation = generation
        self._loop = asyncio.new_event_loop()
        self._news = asyncio.Event()
        self._running: dict[str, asyncio.Task[None]] = {}
        self._stopping = False
        self._thread = threading.Thread(target=self._work, name="jobs", daemon=True)
        self._thread.start()

    def look(self) -> None:
        """There may be something to do."""
        self._call(self._news.set)

    def cancel(self, job_id: str) -> None:
        """Stop a job where it is."""

        def stop() -> None:
            if job_id in self._running:
                self._running[job_id].cancel()

        self._call(stop)

    def stop(self) -> None:
        """Leave everything as it is; returns when it is left, or after a few seconds."""
        self._call(self._leave)
        self._thread.join(_CLOSE_S)

    def _call(self, what: Callable[[], object]) -> None:
        with contextlib.suppress(RuntimeError):  # the loop has ended already
            self._loop.call_soon_threadsafe(what)

    def _leave(self) -> None:
        self._stopping = True
        self._news.set()

    def _work(self) -> None:
        """The edge of the worker's thread."""
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(self._take_turns())

    async def _take_turns(self) -> None:
        while not self._stopping:
            self._news.clear()
            while job := self._jobs.next(tuple(self._running)):
                self._begin(job)
            await self._news.wait()
        running = dict(self._running)
        for task in running.values():
            task.cancel()
        await asyncio.gather(*running.values(), return_exceptions=True)
        for job_id in running:
            self._jobs.left(job_id)

    def _begin(self, job: Job) -> None:
        task = asyncio.create_task(self._run(job))
        self._running[job.id] = task

        def ended(_: asyncio.Task[None]) -> None:
            del self._running[job.id]
            self._news.set()

        task.add_done_callback(ended)

    async def _run(self, job: Job) -> None:
        """Answer what is unanswered of ``job``."""
        together = asyncio.Semaphore(TOGETHER)
        try:
            async with asyncio.TaskGroup() as group:
                for index, part in enumerate(job.parts):
                    if part.outcome is None:
                        group.create_task(self._answer(job.id, index, part.request, together))
        except ExceptionGroup as failed:
            stopping, bugs = failed.split(Interrupted)
            if bugs:  # begun again, and given up when that happens too often
                _LOG.error("Job %s was broken off", job.id, exc_info=bugs)
            if stopping:
                self._jobs.left(job.id)
                self._leave()

    async def _answer(self, job_id: str, index: int, request: GenerationRequest, together: asyncio.Semaphore) -> None:
        async with together:
            outcome = await self._outcome(request, lambda tokens: self._jobs.told(job_id, index, tokens))
        self._jobs.answered(job_id, index, outcome)

    async def _outcome(self, request: GenerationRequest, tell: Callable[[int], None]) -> Answered | Trouble:
        """What comes of ``request``; where the server is full it waits. Raises `Interrupted` when the server stops."""
        while True:
            try:
                return await self._answered(request, tell)
            except (QueueFull, RateLimited):
                await asyncio.sleep(AGAIN_S)
            except ShuttingDown as error:
                raise Interrupted from error
            except PlaygroundError as error:
                if self._stopping:
                    raise Interrupted from error
                return Trouble(error.code, error.message, error.remedy)
            except Interrupted:
                raise
            except Exception:  # a thread's edge: the job says that it failed, the log says how
                _LOG.exception("A job's request failed")
                return Trouble("internal_error", "Something went wrong in the server; its log says what.", "Try again.")

    async def _answered(self, request: GenerationRequest, tell: Callable[[int], None]) -> Answered:
        recorder, notices, cached, stats = Recorder(request), [], False, GenerationStats()
        async with aclosing(self._generation.astream(request, background=True)) as events:
            async for event in events:
                if event.finish_reason == "cancelled":
                    raise Interrupted
                recorder.add(event)
                cached, stats = cached or event.cached, event.stats
                if event.notice and event.notice not in notices:
                    notices.append(event.notice)
                tell(stats.completion_tokens)
        return Answered(recorder.manifests()[0], stats, tuple(notices), cached, time.time())


def _fixed(request: GenerationRequest, owner: str) -> GenerationRequest:
    """``request`` with all that was left to chance decided."""
    seed = request.settings.seed
    settings = request.settings.replace(seed=secrets.randbelow(_SEEDS) if seed is None else seed)
    return dataclasses.replace(request, settings=settings, user=owner)
