"""`GET /health` and `GET /ready`."""

from __future__ import annotations

import threading
from dataclasses import replace

import anyio.to_thread
import pytest
from fastapi.testclient import TestClient

from playground import __version__
from playground.api import create_app
from playground.config import AppConfig
from playground.errors import ModelNotFound
from playground.services.assembly import Services
from playground.types import Caller, ModelSpec, ResidentInfo
from tests.api.fake_engine import FakeEngine


class As:
    """The gate's word on who asks."""

    def __init__(self, app, caller: Caller) -> None:
        self._app, self._caller = app, caller

    async def __call__(self, scope, receive, send) -> None:
        await self._app(scope | {"state": {"caller": self._caller}}, receive, send)


def test_health_says_what_seed_003_promised_and_more(client, fake):
    """A3: the fields of the health report; it loads nothing."""
    report = client.get("/health").json()
    assert report.pop("uptime_seconds") >= 0
    assert report == {
        "status": "healthy",
        "models_loaded": 0,
        "available_models": ["starter", "gpt2", "qwen"],
        "version": __version__,
        "device": "auto",
        "queue_depth": 0,
    }
    assert fake.requests == []


@pytest.mark.parametrize(
    ("caller", "fields"),
    [
        (Caller("address 10.0.0.1", "address"), 1),
        (Caller("guest 12ab", "guest"), 1),
        (Caller("key 12ab", "key"), 7),
        (Caller("user anna", "user"), 7),
    ],
)
def test_strangers_are_told_that_it_is_well_and_no_more(config, fake, caller, fields):
    """A6: where keys are needed the names, the version and the queue are for those who have one."""
    closed = replace(config, api_keys=("a-key-of-ours",))
    client = TestClient(As(create_app(closed, Services.over(fake, closed)), caller), base_url="http://localhost")
    report = client.get("/health").json()
    assert (report["status"], len(report)) == ("healthy", fields)
    assert client.get("/ready").json() == {"status": "ready", "reason": ""}


def test_health_takes_no_thread_and_never_looks_at_the_disk(client, monkeypatch):
    """A3, issue 5: quick while every thread of the pool is busy, whatever lies in the adapters' folders."""

    async def none_left(*args: object, **kwargs: object) -> None:
        raise AssertionError("the pool was asked for a thread")

    monkeypatch.setattr(anyio.to_thread, "run_sync", none_left)
    monkeypatch.setattr("playground.services.models.adapter_folders", none_left)
    monkeypatch.setattr("os.scandir", none_left)
    assert client.get("/health").status_code == 200
    assert client.get("/ready").status_code == 200


class Slow(FakeEngine):
    """An engine that loads when it is told to, and then has one model, or none of that name."""

    def __init__(self, error: Exception | None = None) -> None:
        super().__init__()
        self.go_on = threading.Event()
        self.error = error

    def load(self, spec: ModelSpec, report: object = None) -> ResidentInfo:
        assert self.go_on.wait(20)
        if self.error:
            raise self.error
        return ResidentInfo("starter", spec.base, "none", "float32", "cpu", 1, 2, 3, 4.0)


@pytest.mark.parametrize("error", [None, ModelNotFound("Gone.", "Look again.")])
def test_it_is_ready_when_preloading_has_ended(config, error, caplog):
    """R1, issue 5: 503 with the reason until the first model is there; a model that cannot be had keeps nobody out."""
    engine, preloading = Slow(error), replace(config, preload=True)
    services = Services.over(engine, preloading)
    client = TestClient(create_app(preloading, services), base_url="http://localhost")
    waiting = client.get("/ready")
    assert (waiting.status_code, waiting.json()["status"]) == (503, "not_ready")
    assert "being loaded" in waiting.json()["reason"]
    assert waiting.headers["Retry-After"] == "5"
    assert client.get("/health").status_code == 200
    loading = threading.Thread(target=services.preload.run)
    loading.start()
    assert client.get("/ready").status_code == 503
    engine.go_on.set()
    loading.join(20)
    assert client.get("/ready").status_code == 200
    assert ("Look again." in caplog.text) == (error is not None)


def test_without_preloading_nothing_is_loaded(fake):
    """R5: nothing is loaded before it is asked for."""
    preload = Services.over(fake, AppConfig()).preload
    assert not preload.pending
    preload.start()
    assert not preload.pending


def test_a_stopping_server_is_well_but_not_ready(config, fake):
    """A6: a load balancer sends no more, and what runs is not killed."""
    services = Services.over(fake, config)
    client = TestClient(create_app(config, services), base_url="http://localhost")
    assert client.get("/ready").status_code == 200
    services.generation.drain(0)
    assert client.get("/ready").json() == {"status": "not_ready", "reason": "The server is stopping."}
    assert client.get("/health").status_code == 200
