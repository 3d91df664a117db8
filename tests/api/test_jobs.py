"""`/api/inference/jobs` over HTTP: accepted, looked at, cancelled, and there again after a restart."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi.testclient import TestClient

from playground.api import create_app
from playground.api.schemas.jobs import JobReport
from playground.config import AppConfig
from playground.errors import OutOfMemory
from playground.gate import Gate
from playground.services import jobs as jobs_module
from playground.services.assembly import Services
from playground.types import GenerationSettings, Provenance
from tests.api.fake_engine import FakeEngine, end, endless, text
from tests.conftest import started_app

PATH = "/api/inference/jobs"
HELLO = {"model_id": "starter", "prompt": "Hello"}


@pytest.fixture
def config(config: AppConfig, tmp_path: Path) -> AppConfig:
    return replace(config, data_dir=tmp_path / "data")


@pytest.fixture
def start(config: AppConfig, fake: FakeEngine) -> Iterator[Callable[..., TestClient]]:
    """Start a server over the same data folder; the one before is stopped first."""
    running: list[Services] = []

    def anew(**options: Any) -> TestClient:
        for earlier in running:
            earlier.jobs.close()
        settings = replace(config, **options)
        services = Services.over(fake, settings)  # type: ignore[arg-type]
        running.append(services)
        services.jobs.start()
        return TestClient(
            Gate(create_app(settings, services), config=settings),
            base_url="http://localhost",
            client=("127.0.0.1", 50000),
        )

    yield anew
    for services in running:
        services.jobs.close()


@pytest.fixture
def client(start) -> TestClient:
    return start()


def ended(client: TestClient, job_id: str) -> dict[str, Any]:
    """The job's report, once it has come to an end."""
    limit = time.monotonic() + 20
    while True:
        report = client.get(f"{PATH}/{job_id}").json()
        if report["finished_at"]:
            return report
        assert time.monotonic() < limit, "still going on"
        time.sleep(0.005)


def wait_until(condition: Callable[[], object]) -> None:
    limit = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < limit, "still going on"
        time.sleep(0.005)


def test_a_job_is_accepted_with_its_place_and_answers_like_generate(client, fake: FakeEngine):
    """A9: 202 with the id and where to look; the result has generate's fields."""
    made = Provenance(
        "starter", "", (), "none", "float32", "cpu", "chat", GenerationSettings(seed=3), 3, {"torch": "2"}
    )
    fake.script = lambda: [text("Ahoy"), replace(end("stop", " there"), provenance=made)]
    accepted = client.post(PATH, json=HELLO | {"model_id": "starter:pirate", "seed": 3})
    assert accepted.status_code == 202
    assert accepted.json()["status"] == "queued"
    assert accepted.headers["Location"] == f"{PATH}/{accepted.json()['id']}"
    report = ended(client, accepted.json()["id"])
    JobReport.model_validate(report)
    result = report["result"]
    assert (report["status"], report["error"], report["results"]) == ("done", None, None)
    assert report["progress"] == {"requests": 1, "finished": 1, "failed": 0, "tokens": 2}
    assert (result["response"], result["prompt"], result["model_id"]) == ("Ahoy there", "Hello", "starter:pirate")
    assert (result["finish_reason"], result["tokens_generated"], result["seed"]) == ("stop", 2, 3)
    assert result["provenance"]["versions"] == {"torch": "2"}
    assert [job["id"] for job in client.get(PATH).json()["jobs"]] == [report["id"]]
    assert fake.requests[0].user == "address 127.0.0.1"


def test_a_model_need_not_be_loaded_when_its_job_is_accepted(client, fake: FakeEngine):
    """A9: the engine loads it when the job's turn comes; a name that there is not is refused at once."""
    assert fake.residents() == ()
    assert client.post(PATH, json=HELLO).status_code == 202
    unknown = client.post(PATH, json=HELLO | {"model_id": "starter:parrot"})
    assert (unknown.status_code, unknown.json()["error"]["code"]) == (404, "model_not_found")


def test_many_requests_are_one_job_with_a_result_for_each_in_their_order(client, fake: FakeEngine):
    """A9: those that fail carry their error in their place."""
    scripts = iter([[end("stop", "one", 1)], [OutOfMemory("No room.", "Ask for less.")], [end("length", "three", 4)]])

    def script():
        return next(scripts)

    fake.script = script
    body = {"requests": [HELLO | {"prompt": word} for word in ("1", "2", "3")]}
    report = ended(client, client.post(PATH, json=body).json()["id"])
    JobReport.model_validate(report)
    assert (report["status"], report["result"], report["error"]) == ("done", None, None)
    first, second, third = report["results"]
    assert (first["response"], first["prompt"], third["response"]) == ("one", "1", "three")
    assert second["error"]["code"] == "out_of_memory"
    assert second["error"]["message"] == "No room. Ask for less."
    assert report["progress"] == {"requests": 3, "finished": 3, "failed": 1, "tokens": 5}


def test_a_job_that_fails_says_why_in_the_shape_of_every_error(client, fake: FakeEngine):
    """A9: message, type, param, code and remedy."""
    fake.script = lambda: [OutOfMemory("No room.", "Ask for less.")]
    report = ended(client, client.post(PATH, json=HELLO).json()["id"])
    JobReport.model_validate(report)
    assert (report["status"], report["result"]) == ("failed", None)
    assert report["error"] == {
        "message": "No room. Ask for less.",
        "type": "server_error",
        "param": None,
        "code": "out_of_memory",
        "remedy": "Ask for less.",
    }


def test_deleting_cancels_what_runs_and_forgets_what_has_ended(client, fake: FakeEngine):
    """A9: the tokens so far are told meanwhile; a cancelled job is there until it is deleted."""
    fake.script = endless
    job_id = client.post(PATH, json=HELLO).json()["id"]
    wait_until(lambda: client.get(f"{PATH}/{job_id}").json()["progress"]["tokens"] > 1)
    assert client.get(f"{PATH}/{job_id}").json()["status"] == "running"
    assert client.delete(f"{PATH}/{job_id}").json() == {"status": "cancelled", "id": job_id}
    wait_until(lambda: fake.running == 0)
    assert client.get(f"{PATH}/{job_id}").json()["status"] == "cancelled"
    assert client.delete(f"{PATH}/{job_id}").json() == {"status": "deleted", "id": job_id}
    for gone in (client.get(f"{PATH}/{job_id}"), client.delete(f"{PATH}/{job_id}")):
        assert (gone.status_code, gone.json()["error"]["code"]) == (404, "not_found")


def test_a_restart_keeps_what_is_finished_and_goes_on_with_the_rest(start, fake: FakeEngine):
    """A9: nobody has to ask a second time."""
    client = start()
    done = ended(client, client.post(PATH, json=HELLO).json()["id"])
    fake.script = endless
    running = client.post(PATH, json=HELLO).json()["id"]
    wait_until(lambda: fake.running == 1)
    fake.script = lambda: [end("stop", "after all", 2)]
    client = start()
    assert client.get(f"{PATH}/{done['id']}").json() == done
    assert ended(client, running)["result"]["response"] == "after all"
    assert fake.requests[1] == fake.requests[2]


BAD = [
    (HELLO | {"max_tokens": 0}, "max_tokens"),
    (HELLO | {"promt": "x"}, "promt"),
    ({"prompt": "x"}, "model_id"),
    ({"requests": []}, "requests"),
    ({"requests": [HELLO] * 101}, "requests"),
    ({"requests": [HELLO], "prompt": "x"}, "prompt"),
    ({"requests": [HELLO, HELLO | {"top_p": 2}]}, "requests.1.top_p"),
    ({"requests": [HELLO, HELLO | {"prompt": ""}]}, None),
    (HELLO | {"prompt": " "}, None),
    (HELLO | {"stream": True}, None),
    ([], None),
]


def test_a_body_that_is_no_good_is_422_naming_the_field(client, fake: FakeEngine):
    """A9, A5: and nothing is accepted of it."""
    for body, param in BAD:
        refused = client.post(PATH, json=body)
        assert (refused.status_code, refused.json()["error"]["param"]) == (422, param), refused.text
    empty = client.post(PATH, json={"requests": [HELLO, HELLO | {"prompt": ""}]})
    assert empty.json()["error"]["message"].startswith("requests.1: The prompt is empty.")
    assert client.get(PATH).json() == {"jobs": []}
    assert not fake.requests


def test_too_many_unfinished_jobs_are_429_and_then_503(client, fake: FakeEngine, monkeypatch):
    """A9, A7: both say when to come again."""
    fake.script = endless
    monkeypatch.setattr(jobs_module, "MOST_UNFINISHED", 1)
    assert client.post(PATH, json=HELLO).status_code == 202
    mine = client.post(PATH, json=HELLO)
    assert (mine.status_code, mine.json()["error"]["code"], mine.headers["Retry-After"]) == (429, "rate_limited", "30")
    monkeypatch.setattr(jobs_module, "MOST_UNFINISHED", 5)
    monkeypatch.setattr(jobs_module, "MOST_UNFINISHED_IN_ALL", 1)
    full = client.post(PATH, json=HELLO)
    assert (full.status_code, full.json()["error"]["code"]) == (503, "queue_full")
    assert full.headers["Retry-After"]


def test_another_callers_job_is_404_and_keys_are_never_written_down(start, fake: FakeEngine, config: AppConfig):
    """A9, S3: jobs belong to a key; the key itself is in no file."""
    mine, yours = "key-of-anna-12345", "key-of-ben-1234567"
    client = start(api_keys=(mine, yours))
    headers = {name: {"Authorization": f"Bearer {key}"} for name, key in (("mine", mine), ("yours", yours))}
    job_id = client.post(PATH, json=HELLO, headers=headers["mine"]).json()["id"]
    wait_until(lambda: client.get(f"{PATH}/{job_id}", headers=headers["mine"]).json()["finished_at"])
    assert client.get(f"{PATH}/{job_id}", headers=headers["yours"]).status_code == 404
    assert client.delete(f"{PATH}/{job_id}", headers=headers["yours"]).status_code == 404
    assert client.get(PATH, headers=headers["yours"]).json() == {"jobs": []}
    assert client.get(PATH).status_code == 401
    kept = "".join(path.read_text() for path in (config.data_dir / "jobs").glob("*.json"))
    assert job_id in kept
    assert mine not in kept


def test_people_behind_one_address_do_not_see_each_others_jobs(start, fake: FakeEngine):
    """A9, S2: where others can reach the server an address is nobody in particular; the id alone finds a job."""
    client = start(free_paths=False)
    job_id = client.post(PATH, json=HELLO).json()["id"]
    assert client.get(PATH).json() == {"jobs": []}
    assert client.get(f"{PATH}/{job_id}").json()["id"] == job_id


def test_no_deadline_and_no_bound_on_answers_at_once_holds_for_a_job(start, fake: FakeEngine):
    """A9: those are for people who wait; the job's owner may have as many running beside it as ever."""
    fake.script = lambda: [text("one "), 0.15, text("two ", 2), end("stop", "three", 3)]
    client = start(deadline=0.05, at_once=1)
    many = {"requests": [HELLO] * 3}
    report = ended(client, client.post(PATH, json=many).json()["id"])
    assert [result["response"] for result in report["results"]] == ["one two three"] * 3


def test_ids_of_all_kinds_are_404_and_never_a_path(client):
    """A9, S1: an id is looked up, not opened."""
    client.post(PATH, json=HELLO)
    for odd in ("..%2Flock", "lock", "a" * 32, "%00", "ü", "x" * 300):
        response = client.get(f"{PATH}/{odd}")
        assert response.status_code in (404, 422), odd
        assert response.json()["error"]["message"]


def test_the_description_names_the_shapes_and_links(client):
    """A9: /openapi.json says what may be sent, what comes back, and how one leads to the other."""
    described = client.get("/openapi.json").json()
    post = described["paths"][PATH]["post"]
    sent = post["requestBody"]["content"]["application/json"]["schema"]
    assert {one["$ref"].rpartition("/")[2] for one in sent["anyOf"]} == {"GenerateBody", "ManyBody"}
    assert post["responses"]["202"]["content"]["application/json"]["schema"]["$ref"].endswith("JobLine")
    named = {link["operationId"] for link in post["responses"]["202"]["links"].values()}
    operations = {one["operationId"] for path in described["paths"].values() for one in path.values()}
    assert named <= operations


@pytest.mark.long
def test_a_real_server_killed_while_it_answers_goes_on_when_it_is_started_again(tmp_path: Path):
    """A9: kill -9 in the middle of a job of twenty prompts; the finished answers are the same, the others come."""
    body = {
        "requests": [
            {"model_id": name, "prompt": f"Tell me about {number}.", "max_tokens": 64, "seed": number}
            | {"reproducible": True}
            for number in range(10)
            for name in ("starter", "starter:pirate")
        ]
    }
    first, second = tmp_path / "first", tmp_path / "second"
    first.mkdir()
    second.mkdir()
    data = ("--data-dir", str(tmp_path / "data"))
    with started_app(first, *data) as app:
        job_id = httpx.post(f"{app.url}{PATH}", json=body, timeout=30).json()["id"]
        while (before := httpx.get(f"{app.url}{PATH}/{job_id}", timeout=30).json())["progress"]["finished"] < 3:
            time.sleep(0.02)
        app.process.kill()
        app.process.wait()
    kept = json.loads((tmp_path / "data" / "jobs" / f"{job_id}.json").read_text())
    assert kept["finished_at"] is None
    with started_app(second, *data) as app:
        while not (after := httpx.get(f"{app.url}{PATH}/{job_id}", timeout=30).json())["finished_at"]:
            time.sleep(0.05)
        assert (after["status"], after["progress"]["finished"]) == ("done", 20)
        for earlier, later in zip(before["results"], after["results"], strict=True):
            assert earlier is None or earlier == later
        alone = httpx.post(f"{app.url}/api/inference/generate", json=body["requests"][-1], timeout=60).json()
        assert alone["response"] == after["results"][-1]["response"]
