"""The API over a scripted engine, in this process and on a real socket."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import uvicorn
from fastapi.testclient import TestClient

from playground.api import create_app
from playground.config import AppConfig, load_config
from playground.gate import Gate
from playground.services.assembly import Services
from tests.api.fake_engine import FakeEngine, Step

HELLO = {"model": "starter", "messages": [{"role": "user", "content": "Hello"}]}


@pytest.fixture(scope="session")
def config(tmp_path_factory: pytest.TempPathFactory) -> AppConfig:
    """The bundled configuration; what the app writes goes where tests may write."""
    return load_config(overrides={"data_dir": str(tmp_path_factory.mktemp("data"))})


@pytest.fixture
def fake() -> FakeEngine:
    """The engine behind `client`; set its ``script`` before the request."""
    return FakeEngine()


def built(config: AppConfig, engine: FakeEngine) -> Gate:
    """The API behind its gate, as `app.py` builds it, without the pages."""
    return Gate(create_app(config, Services.over(engine, config)), config=config)


def visiting(app: Gate) -> TestClient:
    """A client on the machine itself."""
    here = ("127.0.0.1", 50000)
    return TestClient(app, base_url="http://localhost", raise_server_exceptions=False, client=here)


@pytest.fixture
def app(config: AppConfig, fake: FakeEngine) -> Gate:
    return built(config, fake)


@pytest.fixture
def client(app: Gate) -> Iterator[TestClient]:
    with visiting(app) as opened:
        yield opened


@pytest.fixture(scope="module")
def idle() -> FakeEngine:
    """The engine behind `refusing` and `standing`, which is never asked for anything."""
    return FakeEngine()


@pytest.fixture(scope="module")
def refusing(config: AppConfig, idle: FakeEngine) -> Iterator[TestClient]:
    """One client for all cases of a refusal: putting the API together takes longer than refusing a hundred bodies."""
    with visiting(built(config, idle)) as opened:
        yield opened


@pytest.fixture(scope="module")
def standing(config: AppConfig, idle: FakeEngine) -> Iterator[str]:
    """The address of one server for all cases of what no server should mind."""
    with listening(built(config, idle)) as url:
        yield url


@pytest.fixture
def ask(client: TestClient, fake: FakeEngine) -> Callable[..., object]:
    """Send a chat completion whose fields are laid over a minimal one; ``script`` replaces the engine's."""

    def send(script: Iterable[Step] | None = None, **fields: object):
        if script is not None:
            steps = list(script)
            fake.script = lambda: steps
        return client.post("/v1/chat/completions", json=HELLO | fields)

    return send


@contextmanager
def listening(app: object, **options: Any) -> Iterator[str]:
    """``app`` served by uvicorn on a free port of this machine; its address. ``options`` are uvicorn's."""
    config = uvicorn.Config(app, host="127.0.0.1", port=0, log_level="error", lifespan="off", **options)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()


@pytest.fixture
def address(app: Gate) -> Iterator[str]:
    with listening(app) as url:
        yield url
