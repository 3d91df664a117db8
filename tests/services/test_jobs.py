"""Long jobs over a scripted engine: they outlive who asked, the process, and each other."""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random

import pytest

from playground.errors import (
    JobsUnavailable,
    ModelNotFound,
    NotFound,
    QueueFull,
    RateLimited,
    ShuttingDown,
)
from playground.services import jobs as jobs_module
from playground.services.generation import Generation
from playground.services.jobs import Answered, Job, Jobs, Trouble
from playground.types import GenerationRequest, GenerationSettings, ModelSpec
from tests.api.fake_engine import FakeEngine, end, endless, text

ROOT = Path(__file__).resolve().parent.parent.parent
MINE, YOURS = "user anna", "user ben"


def asked(prompt: str = "Hello", seed: int | None = None) -> tuple[str, GenerationRequest]:
    settings = GenerationSettings(max_new_tokens=8, seed=seed)
    return "starter:pirate", GenerationRequest(ModelSpec("/models/starter"), prompt, settings=settings)


def wait_until(condition: Callable[[], object], limit_s: float = 20.0) -> None:
    """Return once ``condition`` holds; fail after a limit that only a hang reaches."""
    limit = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < limit, "still going on"
        time.sleep(0.005)


class Echo(FakeEngine):
    """Answers every prompt with itself; those that are ``held`` never end, those in ``failing`` raise."""

    def __init__(self) -> None:
        super().__init__()
        self.held: set[str] = set()
        self.failing: dict[str, list[Exception]] = {}

    def astream(self, request: GenerationRequest):
        prompt = str(request.prompt)
        if self.failing.get(prompt):
            error = self.failing[prompt].pop(0)
            self.script = lambda: [error]
        elif prompt in self.held:
            self.script = endless
        else:
            self.script = lambda: [text(f"{prompt} "), end("stop", "again", 2)]
        return super().astream(request)

    @property
    def prompts(self) -> list[str | None]:
        return [request.prompt for request in self.requests]


@pytest.fixture
def echo() -> Echo:
    return Echo()


@pytest.fixture
def over(echo: Echo, tmp_path: Path) -> Iterator[Callable[..., Jobs]]:
    """Jobs over the same folder, as a server has them after each of its starts; all closed at the end."""
    opened: list[Jobs] = []

    def make(**options: object) -> Jobs:
        opened.append(Jobs(Generation(echo), tmp_path / "data" / "jobs", **options))  # type: ignore[arg-type]
        return opened[-1]

    yield make
    for jobs in opened:
        jobs.close()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "data" / "jobs"


def finished(jobs: Jobs, job_id: str, owner: str = MINE) -> Job:
    """The job, once it has come to an end."""
    wait_until(lambda: jobs.get(owner, job_id)[0].finished_at)
    return jobs.get(owner, job_id)[1]


def texts(job: Job) -> list[str]:
    return [part.outcome.manifest.text if isinstance(part.outcome, Answered) else "" for part in job.parts]


def test_a_job_is_answered_in_the_background_and_its_answer_kept(over):
    """A9: accepted at once, answered by the worker, there for whoever comes back."""
    jobs = over()
    accepted = jobs.submit(MINE, [asked("Ahoy", seed=5)])
    assert (accepted.status, accepted.owner, accepted.requests) == ("queued", MINE, 1)
    job = finished(jobs, accepted.id)
    answer = job.parts[0].outcome
    assert isinstance(answer, Answered)
    assert (job.status, answer.manifest.text, answer.stats.completion_tokens) == ("done", "Ahoy again", 2)
    assert (job.parts[0].model_id, job.parts[0].request.settings.seed) == ("starter:pirate", 5)
    assert [state.tokens for state in jobs.of(MINE)] == [2]


def test_nothing_is_made_before_the_first_job_and_then_for_this_user_only(over, folder: Path):
    """A9, S3: a server without jobs leaves no trace; a job's file is nobody else's to read."""
    jobs = over()
    jobs.start()
    assert jobs.of(MINE) == []
    with pytest.raises(NotFound):
        jobs.get(MINE, "0" * 32)
    assert not folder.exists()
    accepted = jobs.submit(MINE, [asked()])
    finished(jobs, accepted.id)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {0o600}
    assert {path.name for path in folder.iterdir()} == {f"{accepted.id}.json", "lock"}


def test_a_job_is_on_disk_before_it_is_accepted_with_its_seed_drawn(over, echo: Echo, folder: Path):
    """A9: whatever happens after the 202, the job is there and asks for the same again."""
    echo.held = {"Hello"}
    jobs = over()
    accepted = jobs.submit(MINE, [asked()])
    kept = json.loads((folder / f"{accepted.id}.json").read_text())
    seed = kept["parts"][0]["manifest"]["request"]["settings"]["seed"]
    assert isinstance(seed, int)
    wait_until(lambda: echo.requests)
    jobs.close()
    again = over()
    again.start()
    wait_until(lambda: len(echo.requests) == 2)
    assert [request.settings.seed for request in echo.requests] == [seed, seed]
    assert [request.user for request in echo.requests] == [MINE, MINE]


def test_a_restart_goes_on_where_it_was_and_keeps_what_was_finished(over, echo: Echo):
    """A9: finished answers survive; only the others are asked for again."""
    echo.held = {"two"}
    jobs = over()
    accepted = jobs.submit(MINE, [asked("one"), asked("two"), asked("three")], many=True)
    wait_until(lambda: jobs.get(MINE, accepted.id)[0].finished == 2)
    assert jobs.get(MINE, accepted.id)[0].status == "running"
    jobs.close()
    assert echo.running == 0
    echo.held.clear()
    echo.requests.clear()
    after = over()
    after.start()
    job = finished(after, accepted.id)
    assert (job.status, texts(job), job.many) == ("done", ["one again", "two again", "three again"], True)
    assert echo.prompts == ["two"]


def test_a_finished_job_reads_the_same_after_a_restart(over):
    """A9: text, counts, notices and times, by a process that has never seen it run."""
    jobs = over()
    before = finished(jobs, jobs.submit(MINE, [asked("Ahoy")]).id)
    jobs.close()
    assert over().get(MINE, before.id)[1] == before


def test_a_job_of_an_earlier_version_is_read(over, folder: Path):
    """A9, F2: one that was answered before it was counted what the model knew of a prompt; nothing is set aside."""
    jobs = over()
    before = finished(jobs, jobs.submit(MINE, [asked("Ahoy")]).id)
    jobs.close()
    path = folder / f"{before.id}.json"
    kept = json.loads(path.read_text())
    del kept["parts"][0]["answer"]["stats"]["reused_tokens"]
    path.write_text(json.dumps(kept))
    (part,) = over().get(MINE, before.id)[1].parts
    assert part.outcome.stats == dataclasses.replace(before.parts[0].outcome.stats, reused_tokens=0)


def test_cancelling_stops_the_generation_and_a_second_time_forgets_the_job(over, echo: Echo, folder: Path):
    """A9: a cancelled job is kept like a finished one until it is removed, also over a restart."""
    echo.held = {"Hello"}
    jobs = over()
    accepted = jobs.submit(MINE, [asked()])
    wait_until(lambda: echo.running == 1 and jobs.get(MINE, accepted.id)[0].tokens)
    assert jobs.remove(MINE, accepted.id) == "cancelled"
    assert jobs.get(MINE, accepted.id)[0].status == "cancelled"
    wait_until(lambda: echo.running == 0)
    jobs.close()
    after = over()
    after.start()
    assert [state.status for state in after.of(MINE)] == ["cancelled"]
    assert after.remove(MINE, accepted.id) == "deleted"
    assert [path.name for path in folder.iterdir()] == ["lock"]
    assert after.of(MINE) == []
    assert len(echo.requests) == 1


def test_a_job_that_waits_is_cancelled_before_it_begins(over, echo: Echo):
    """A9: and it is never asked for."""
    echo.held = {"first"}
    jobs = over(at_once=1)
    jobs.submit(MINE, [asked("first")])
    wait_until(lambda: echo.running == 1)
    waiting = jobs.submit(MINE, [asked("second")])
    assert jobs.remove(MINE, waiting.id) == "cancelled"
    jobs.submit(MINE, [asked("third")])
    for state in jobs.of(MINE):
        if state.status == "running":
            jobs.remove(MINE, state.id)
    wait_until(lambda: echo.prompts == ["first", "third"])


def test_somebody_elses_job_is_not_there(over, echo: Echo):
    """A9, S2: neither to look at nor to cancel, and not told apart from none at all."""
    echo.held = {"Hello"}
    jobs = over()
    accepted = jobs.submit(MINE, [asked()])
    assert jobs.of(YOURS) == []
    for look in (jobs.get, jobs.remove):
        with pytest.raises(NotFound) as theirs:
            look(YOURS, accepted.id)
        with pytest.raises(NotFound) as none:
            look(YOURS, "0" * 32)
        assert str(theirs.value).replace(accepted.id, "…") == str(none.value).replace("0" * 32, "…")
    assert jobs.get(MINE, accepted.id)[0].status in ("queued", "running")


def test_what_cannot_be_answered_fails_with_its_sentence(over, echo: Echo):
    """A9: code, message and remedy of the error are kept, also over a restart."""
    echo.failing = {"Hello": [ModelNotFound("There is no model 'x'.", "Pick another.")]}
    jobs = over()
    job = finished(jobs, jobs.submit(MINE, [asked()]).id)
    assert job.status == "failed"
    assert job.troubles == [Trouble("model_not_found", "There is no model 'x'.", "Pick another.")]
    jobs.close()
    assert over().get(MINE, job.id)[1].troubles == job.troubles


def test_a_bug_fails_one_request_and_is_logged(over, echo: Echo, caplog):
    """A9: its sentence tells nothing of the server's inside."""
    echo.failing = {"bad": [ValueError("secret detail")]}
    jobs = over()
    job = finished(jobs, jobs.submit(MINE, [asked("good"), asked("bad")], many=True).id)
    assert (job.status, texts(job)) == ("done", ["good again", ""])
    assert [trouble.code for trouble in job.troubles] == ["internal_error"]
    assert "secret" not in str(job.troubles)
    assert "secret detail" in caplog.text


def test_a_full_queue_is_waited_for(over, echo: Echo, monkeypatch):
    """A9, A7: interactive answers go first; a job is not lost for it."""
    monkeypatch.setattr(jobs_module, "AGAIN_S", 0.001)
    echo.failing = {"Hello": [QueueFull("Full."), RateLimited("Too many."), QueueFull("Full.")]}
    jobs = over()
    assert texts(finished(jobs, jobs.submit(MINE, [asked()]).id)) == ["Hello again"]
    assert len(echo.requests) == 4


@pytest.mark.parametrize("ending", [ShuttingDown("Stopping."), end("cancelled")])
def test_a_stopping_server_leaves_the_job_for_its_next_start(over, echo: Echo, ending):
    """A9: the engine going down is no failure of the job, however the worker hears of it."""
    jobs = over()
    if isinstance(ending, Exception):
        echo.failing = {"Hello": [ending]}
    else:
        echo.astream = lambda request: FakeEngine(lambda: [text("half"), ending]).astream(request)  # type: ignore
    accepted = jobs.submit(MINE, [asked()])
    wait_until(lambda: jobs._worker and not jobs._worker._thread.is_alive())
    assert jobs.get(MINE, accepted.id)[0].status == "queued"
    jobs.close()
    echo.__dict__.pop("astream", None)
    after = over()
    after.start()
    assert texts(finished(after, accepted.id)) == ["Hello again"]


def test_a_job_that_takes_the_server_down_is_given_up_in_the_end(over, echo: Echo, folder: Path):
    """A9: it is begun three times without getting any further, and then it has failed; a clean stop does not count."""
    echo.held = {"Hello"}
    first = over()
    accepted = first.submit(MINE, [asked()])
    first.close()
    for _ in range(5):
        jobs = over()
        jobs.start()
        wait_until(lambda jobs=jobs: jobs.get(MINE, accepted.id)[0].status == "running")
        jobs.close()
    path = folder / f"{accepted.id}.json"
    kept = json.loads(path.read_text())
    assert kept["starts"] == 0
    path.write_text(json.dumps(kept | {"starts": 3}))
    after = over()
    job = finished(after, accepted.id)
    assert (job.status, job.troubles[0].code) == ("failed", "engine_failure")
    assert "3 times" in job.troubles[0].message


def test_a_job_that_the_server_went_down_with_runs_alone(over, echo: Echo, folder: Path):
    """A9: so that no other job is given up with it."""
    echo.held = {"one", "two"}
    first = over()
    ids = [first.submit(MINE, [asked(prompt)]).id for prompt in ("one", "two")]
    wait_until(lambda: echo.running == 2)
    killed = {job_id: (folder / f"{job_id}.json").read_text() for job_id in ids}
    first.close()
    for job_id, content in killed.items():
        assert json.loads(content)["starts"] == 1
        (folder / f"{job_id}.json").write_text(content)
    echo.requests.clear()
    after = over()
    after.start()
    wait_until(lambda: echo.running == 1)
    assert sorted(state.status for state in after.of(MINE)) == ["queued", "running"]
    after.remove(MINE, ids[0])
    wait_until(lambda: echo.prompts == ["one", "two"])


def test_an_unreadable_file_is_set_aside_and_said_in_the_log(over, folder: Path, caplog):
    """A9: the other jobs are there all the same, and what was half written is swept away."""
    jobs = over()
    good = finished(jobs, jobs.submit(MINE, [asked()]).id)
    jobs.close()
    kept = json.loads((folder / f"{good.id}.json").read_text())
    spoilt = {
        "a" * 32: "{half",
        "b" * 32: json.dumps(kept | {"id": "c" * 32}),
        "d" * 32: json.dumps(kept | {"id": "d" * 32, "parts": [{"model_id": "x", "manifest": {}}]}),
        "e" * 32: json.dumps(kept | {"id": "e" * 32, "unknown": 1}),
        "f" * 32: "[]",
    }
    for name, content in spoilt.items():
        (folder / f"{name}.json").write_text(content)
    (folder / f".{good.id}.tmp").write_text("half")
    (folder / "notes.txt").write_text("somebody's own")
    after = over()
    with caplog.at_level(logging.WARNING):
        assert [state.id for state in after.of(MINE)] == [good.id]
    names = {path.name for path in folder.iterdir()}
    assert names == {f"{good.id}.json", "lock", "notes.txt", *(f"{name}.unreadable" for name in spoilt)}
    assert all(name in caplog.text for name in spoilt)


def test_a_second_process_is_refused_with_a_sentence(over, echo: Echo, caplog):
    """A9: only one runs the jobs of a folder; the other serves everything else, and takes over once the first has gone."""
    echo.held = {"Hello"}
    first, second = over(), over()
    accepted = first.submit(MINE, [asked()])
    for ask in (lambda: second.submit(MINE, [asked()]), lambda: second.of(MINE), lambda: second.get(MINE, accepted.id)):
        with pytest.raises(JobsUnavailable, match="Another server process"):
            ask()
    second.start()
    assert "Another server process" in caplog.text
    first.close()
    assert [state.id for state in second.of(MINE)] == [accepted.id]


def test_a_disk_that_refuses_is_an_error_and_leaves_nothing_behind(over, tmp_path: Path, folder: Path):
    """A9: nothing is accepted that is not kept."""
    (tmp_path / "data").write_text("in the way")
    with pytest.raises(JobsUnavailable, match="cannot be kept"):
        over().submit(MINE, [asked()])
    (tmp_path / "data").unlink()
    jobs = over()
    finished(jobs, jobs.submit(MINE, [asked()]).id)
    folder.rename(tmp_path / "elsewhere")
    with pytest.raises(JobsUnavailable, match="cannot be kept"):
        jobs.submit(MINE, [asked()])
    assert len(jobs.of(MINE)) == 1


def test_unfinished_jobs_are_bounded_for_each_caller_and_in_all(over, echo: Echo, monkeypatch):
    """A9, S2: one caller is told to wait, and nobody else for it, until the server has enough."""
    monkeypatch.setattr(jobs_module, "MOST_UNFINISHED", 2)
    monkeypatch.setattr(jobs_module, "MOST_UNFINISHED_IN_ALL", 3)
    echo.held = {"Hello"}
    jobs = over()
    mine = [jobs.submit(MINE, [asked()]) for _ in range(2)]
    with pytest.raises(RateLimited, match="2 of your jobs"):
        jobs.submit(MINE, [asked()])
    jobs.submit(YOURS, [asked()])
    with pytest.raises(QueueFull):
        jobs.submit("user carl", [asked()])
    jobs.remove(MINE, mine[0].id)
    jobs.submit(MINE, [asked()])


def test_finished_jobs_are_forgotten_by_age_number_and_size(over, monkeypatch, folder: Path):
    """A9: the oldest first; what is unfinished never."""
    now = [1000.0]
    jobs = over(clock=lambda: now[0])

    def run(prompt: str) -> str:
        now[0] += 1
        return finished(jobs, jobs.submit(MINE, [asked(prompt)]).id).id

    ids = [run(str(number)) for number in range(4)]
    monkeypatch.setattr(jobs_module, "MOST_KEPT", 3)
    assert [state.id for state in jobs.of(MINE)] == ids[:0:-1]
    size = (folder / f"{ids[-1]}.json").stat().st_size
    monkeypatch.setattr(jobs_module, "MOST_BYTES", size * 2 + 10)
    assert [state.id for state in jobs.of(MINE)] == ids[:1:-1]
    now[0] += jobs_module.KEPT_S - 0.5
    assert [state.id for state in jobs.of(MINE)] == ids[3:]
    now[0] += 1
    assert jobs.of(MINE) == []
    assert [path.name for path in folder.iterdir()] == ["lock"]


def test_callers_take_turns_and_only_so_many_jobs_run(over, echo: Echo):
    """A9, G11: whoever sends ten jobs does not keep the next one waiting for all of them."""
    echo.held = {"mine 1", "mine 2", "mine 3", "yours"}
    jobs = over(at_once=1)
    mine = [jobs.submit(MINE, [asked(f"mine {number}")]) for number in (1, 2, 3)]
    yours = jobs.submit(YOURS, [asked("yours")])
    wait_until(lambda: echo.prompts == ["mine 1"])
    jobs.remove(MINE, mine[0].id)
    wait_until(lambda: echo.prompts == ["mine 1", "yours"])
    assert [state.status for state in jobs.of(MINE)] == ["queued", "queued", "cancelled"]
    jobs.remove(YOURS, yours.id)
    wait_until(lambda: echo.prompts == ["mine 1", "yours", "mine 2"])


def test_requests_of_one_job_are_answered_together_but_not_all(over, echo: Echo):
    """A9, G11: the engine batches their rows; a hundred prompts do not fill its queue."""
    prompts = [f"prompt {number}" for number in range(10)]
    echo.held = set(prompts)
    jobs = over()
    accepted = jobs.submit(MINE, [asked(prompt) for prompt in prompts], many=True)
    wait_until(lambda: echo.running == jobs_module.TOGETHER)
    assert echo.prompts == prompts[: jobs_module.TOGETHER]
    jobs.remove(MINE, accepted.id)
    wait_until(lambda: echo.running == 0)
    assert len(echo.requests) == jobs_module.TOGETHER


def test_a_closed_service_takes_nothing_more(over):
    """A9, A6: the sentence says that the server is stopping; closing twice is no harm."""
    jobs = over()
    jobs.close()
    jobs.close()
    for ask in (lambda: jobs.submit(MINE, [asked()]), lambda: jobs.of(MINE)):
        with pytest.raises(ShuttingDown):
            ask()


PROGRAM = """
import sys
from pathlib import Path
from playground.services.generation import Generation
from playground.services.jobs import Jobs
from tests.services.test_jobs import MINE, Echo, asked, wait_until

jobs = Jobs(Generation(Echo()), Path(sys.argv[1]))
jobs.start()
told = set()
number = 0
while True:
    number += 1
    state = jobs.submit(MINE, [asked(f"{sys.argv[2]}-{number}-{part}") for part in range(3)], many=True)
    print(f"accepted {state.id}", flush=True)
    for state in jobs.of(MINE):
        if state.status == "done" and state.id not in told:
            told.add(state.id)
            print(f"done {state.id}", flush=True)
    wait_until(lambda: sum(state.finished_at is None for state in jobs.of(MINE)) < 10)
"""


@pytest.mark.long
def test_killed_at_any_moment_no_accepted_and_no_finished_job_is_lost(tmp_path: Path, monkeypatch):
    """A9: kill -9, thirty times; each next start goes on, and at the end everything that was accepted has its answers."""
    folder, draw = tmp_path / "jobs", Random(9)
    accepted: set[str] = set()
    done: set[str] = set()
    for start in range(30):
        command = [sys.executable, "-c", PROGRAM, str(folder), str(start)]
        process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, env={**os.environ})
        assert process.stdout
        lines: list[str] = []
        reader = threading.Thread(target=lambda out=process.stdout, into=lines: into.extend(out))
        reader.start()
        wait_until(lambda lines=lines: lines, 60)
        time.sleep(draw.random() * 0.3)
        process.kill()
        process.wait()
        reader.join()
        process.stdout.close()
        for line in (line for line in lines if line.endswith("\n")):  # the last one may be cut off
            (accepted if line.startswith("accepted") else done).add(line.split()[1])
        kept = {path.stem: json.loads(path.read_text()) for path in folder.glob("*.json")}
        assert accepted <= set(kept)
        assert all(kept[job_id]["finished_at"] for job_id in done)
    assert len(accepted) > 30
    assert done
    jobs = Jobs(Generation(Echo()), folder)
    jobs.start()
    wait_until(lambda: all(state.finished_at for state in jobs.of(MINE)), 60)
    for job_id in accepted:
        job = jobs.get(MINE, job_id)[1]
        assert texts(job) == [f"{part.request.prompt} again" for part in job.parts]
    assert not list(folder.glob("*.unreadable"))
    jobs.close()
