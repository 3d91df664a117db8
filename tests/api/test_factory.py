"""`create_app` as a server of its own."""

from __future__ import annotations

import pytest
from fastapi.testclient import TestClient

import playground.api
from playground.errors import ConfigError
from tests.api.fake_engine import FakeEngine


def test_alone_it_brings_its_engine_and_its_gate(monkeypatch):
    """R4: `uvicorn --factory playground.api:create_app`: the engine is closed with it, foreign hosts are refused."""
    engines: list[FakeEngine] = []

    def new_engine(**budgets: float) -> FakeEngine:
        engines.append(FakeEngine())
        return engines[-1]

    monkeypatch.setattr(playground.api, "LocalInference", new_engine)
    with TestClient(playground.api.create_app(), base_url="http://localhost") as client:
        assert client.get("/v1/models").status_code == 200
        assert client.get("/health", headers={"Host": "evil.com"}).status_code == 403
        assert client.post("/v1/chat/completions", content=b" " * 5_000_000).status_code == 413
        assert not engines[0].closed
    assert engines[0].closed


def test_alone_it_reads_the_environment(monkeypatch):
    """R1: PLAYGROUND_* variables, the configuration's path included."""
    monkeypatch.setattr(playground.api, "LocalInference", lambda **budgets: FakeEngine())
    monkeypatch.setenv("PLAYGROUND_MODEL", "org/one, org/two")
    with TestClient(playground.api.create_app(), base_url="http://localhost") as client:
        assert client.get("/health").json()["available_models"][-2:] == ["org/one", "org/two"]
    monkeypatch.setenv("PLAYGROUND_CONFIG", "/nowhere.toml")
    with pytest.raises(ConfigError, match=r"/nowhere\.toml"):
        playground.api.create_app()


def test_injected_services_are_not_closed(app, fake):
    """R4: who made the engine closes it."""
    with TestClient(app, base_url="http://localhost") as client:
        client.get("/health")
    assert not fake.closed
