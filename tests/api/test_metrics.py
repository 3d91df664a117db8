"""`GET /metrics`: what Prometheus reads, and labels that nobody can make up."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from dataclasses import replace

import pytest
from fastapi.testclient import TestClient
from prometheus_client.parser import text_string_to_metric_families
from starlette.responses import PlainTextResponse

from playground.api import create_app
from playground.api.metrics import Counted
from playground.config import ROOT
from playground.services.assembly import Services
from playground.services.meters import Meters
from tests.api.conftest import HELLO
from tests.api.fake_engine import FakeEngine, end, text


def samples(client: TestClient) -> dict[tuple[str, ...], float]:
    """(name, label values in the order of the labels' names …) → value."""
    response = client.get("/metrics")
    assert response.status_code == 200
    assert response.headers["content-type"].startswith("text/plain; version=0.0.4")
    return {
        (sample.name, *(value for _, value in sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(response.text)
        for sample in family.samples
    }


def test_answers_are_measured_whoever_makes_them(client, ask):
    """A6: by model and how they ended; tokens, time to the first one, speed."""
    ask()
    ask(script=[text("He"), end("length", "llo", 4)])
    ask(model="starter:pirate")
    found = samples(client)
    assert found["playground_answers_total", "stop", "starter"] == 1
    assert found["playground_answers_total", "length", "starter"] == 2
    assert found["playground_prompt_tokens_total", "starter"] == 15
    assert found["playground_completion_tokens_total", "starter"] == 10
    assert found["playground_time_to_first_token_seconds_count", "starter"] == 3
    assert found["playground_tokens_per_second_count", "starter"] == 3


def test_requests_are_counted_by_their_routes_template(client):
    """A6: many paths are one series: for what does not exist, and for what a path names."""
    for path in ("/v1/models/starter", "/v1/models/a/b c", "/v1/models/ü", "/nowhere/1", "/nowhere/2"):
        client.get(path)
    client.request("BREW", "/health")
    found = samples(client)
    counted = {key[1:]: value for key, value in found.items() if key[0] == "playground_http_requests_total"}
    assert counted[("GET", "/v1/models/{model_id:path}", "200")] == 1
    assert counted[("GET", "/v1/models/{model_id:path}", "404")] == 2
    assert counted[("GET", "other", "404")] == 2
    assert counted[("other", "/health", "405")] == 1
    assert not any(word in str(counted) for word in ("nowhere", "BREW", "ü"))
    assert found["playground_http_request_duration_seconds_count", "GET", "other"] == 2


@pytest.mark.parametrize("stream", [True, False])
def test_a_bug_is_a_500_in_the_count(client, ask, stream):
    """A6: whoever watches sees it."""
    assert ask(script=[RuntimeError("bug")], stream=stream).status_code == 500
    found = samples(client)
    assert found["playground_http_requests_total", "POST", "/v1/chat/completions", "500"] == 1
    assert found["playground_errors_total", "internal_error"] == 1


def test_sockets_are_counted_when_they_are_opened():
    """A6, A2: 101 for one that was let in, 403 for one that was not, and no duration."""
    meters = Meters()

    async def app(scope, receive, send):
        await receive()
        await send({"type": "websocket.accept" if scope["path"] == "/in" else "websocket.close"})
        await send({"type": "websocket.close"})

    async def open_one(path: str) -> None:
        async def receive():
            return {"type": "websocket.connect"}

        async def send(message):
            """Nobody is there."""

        await Counted(app, meters)({"type": "websocket", "path": path}, receive, send)

    asyncio.run(open_one("/in"))
    asyncio.run(open_one("/out"))
    lines = meters.text().decode().splitlines()
    assert 'playground_http_requests_total{method="WEBSOCKET",route="other",status="101"} 1.0' in lines
    assert 'playground_http_requests_total{method="WEBSOCKET",route="other",status="403"} 1.0' in lines
    assert not any(line.startswith("playground_http_request_duration_seconds_count{") for line in lines)


def test_counting_changes_nothing_of_an_answer():
    """A6: the same bytes, and the application's own failure."""
    meters = Meters()
    client = TestClient(Counted(PlainTextResponse("as it was"), meters))
    assert client.get("/").text == "as it was"

    async def broken(scope, receive, send):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        TestClient(Counted(broken, meters)).get("/")
    assert 'status="500"} 1.0' in meters.text().decode()


class Blocking(FakeEngine):
    """Whose memory takes its time to be looked at."""

    def __init__(self) -> None:
        super().__init__()
        self.seen_from: set[str] = set()

    def memories(self):
        self.seen_from.add(threading.current_thread().name)
        return super().memories()


def test_gauges_are_read_beside_the_event_loop(config):
    """A6: a GPU that answers slowly holds up no stream."""
    engine = Blocking()
    services = Services.over(engine, config)
    assert engine.seen_from == set()
    found = samples(TestClient(create_app(config, services), base_url="http://localhost"))
    assert engine.seen_from == {"metrics"}
    assert found["playground_memory_bytes", "cpu", "weights"] == 100
    assert found["playground_queue_depth",] == 0


def test_the_operator_may_do_without(config, fake):
    """A6: `metrics = false` is a 404, and nothing is counted."""
    without = replace(config, metrics=False)
    services = Services.over(fake, without)
    client = TestClient(create_app(without, services), base_url="http://localhost")
    assert client.get("/metrics").status_code == 404
    assert "/metrics" not in client.get("/openapi.json").json()["paths"]
    assert client.post("/v1/chat/completions", json=HELLO).status_code == 200
    assert b'route="' not in services.meters.text()


def test_a_scrape_of_the_real_engine_loads_no_torch():
    """R5: watching a server that nobody has asked for anything costs it nothing."""
    program = (
        "import sys\n"
        "from playground.config import load_config\n"
        "from playground.local_inference import LocalInference\n"
        "from playground.services.assembly import Services\n"
        "meters = Services.over(LocalInference(), load_config()).meters\n"
        'assert b\'playground_memory_bytes{device="cpu",of="total"}\' in meters.text()\n'
        "print([name for name in ('torch', 'transformers') if name in sys.modules])\n"
    )
    command = [sys.executable, "-c", program]
    assert subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip() == "[]"
