"""`create_app` as a server of its own."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from threading import Event

import httpx
import pytest
from fastapi.testclient import TestClient

import playground.api
from playground.api.stopping import Stopping
from playground.config import ROOT
from playground.errors import ConfigError, ShuttingDown
from playground.services.assembly import Services
from playground.store import Store
from playground.types import GenerationRequest, ModelSpec
from tests.api.fake_engine import FakeEngine, endless


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


REQUEST = GenerationRequest(ModelSpec("starter"), "Hello")


@pytest.fixture
def server_told():
    """Set once the handler that a server has for SIGTERM was called; the test's own handlers are put back."""
    told = Event()
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    signal.signal(signal.SIGTERM, lambda number, frame: told.set())
    yield told
    for number, handler in before.items():
        signal.signal(number, handler)


def test_a_signal_lets_answers_finish_before_the_server_hears_of_it(config, fake, server_told):
    """R4, A6: nothing new is taken meanwhile. A server would wait for the stream's last token and tell nobody."""
    fake.script = endless
    services = Services.over(fake, config)
    Stopping(services, fake, Store.in_memory(), drain=60).listen()

    async def stopped_meanwhile() -> None:
        answer = services.generation.astream(REQUEST)
        await anext(answer)
        signal.raise_signal(signal.SIGTERM)
        await asyncio.to_thread(_until, lambda: services.generation.draining)
        with pytest.raises(ShuttingDown):
            await anext(services.generation.astream(REQUEST))
        assert not server_told.is_set()
        assert not fake.closed
        await answer.aclose()

    asyncio.run(stopped_meanwhile())
    assert server_told.wait(30)
    assert fake.closed


def test_a_second_signal_is_the_servers_at_once(config, fake, server_told):
    """R4: whoever asks twice does not wait for answers."""
    fake.script = endless
    services = Services.over(fake, config)
    stopping = Stopping(services, fake, Store.in_memory(), drain=60)
    stopping.listen()

    async def stopped_twice() -> None:
        answer = services.generation.astream(REQUEST)
        await anext(answer)
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGTERM)
        assert server_told.is_set()
        assert not fake.closed
        await answer.aclose()

    asyncio.run(stopped_twice())
    stopping.close()
    assert fake.closed


@pytest.mark.long
def test_uvicorn_alone_ends_a_stream_with_a_last_event(tmp_path):
    """R4, A6, G5: the API without the pages, stopped in the middle of an answer that is longer than it may take."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port = one.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "uvicorn", "--factory", "playground.api:create_app", "--port", str(port)]
    own = {"PLAYGROUND_DATA_DIR": str(tmp_path), "PLAYGROUND_DRAIN": "0.2", "HF_HUB_OFFLINE": "1"}
    with subprocess.Popen(command, cwd=ROOT, env=os.environ | own) as process:
        try:
            _wait_for(url)
            never_ends = {"logit_bias": {"2": -100}, "max_tokens": 900, "n": 8}  # token 2 is the starter's end
            body = {"model": "starter", "prompt": "Once", "stream": True} | never_ends
            lines = []
            with httpx.stream("POST", f"{url}/v1/completions", json=body, timeout=60) as response:
                for line in response.iter_lines():
                    lines += [line] if line.startswith("data: ") else []
                    if len(lines) == 9:
                        process.terminate()
            assert json.loads(lines[-1].removeprefix("data: "))["error"]["code"] == "shutting_down"
            process.wait(20)
        finally:
            process.kill()


def _until(condition: Callable[[], bool]) -> None:
    while not condition():
        time.sleep(0.01)


def _wait_for(url: str) -> None:
    for _ in range(300):
        try:
            assert httpx.get(f"{url}/health").is_success
            return
        except httpx.ConnectError:
            time.sleep(0.1)
    pytest.fail("The server did not start.")
