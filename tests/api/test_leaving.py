"""Clients that leave, over a real socket: a generation that nobody reads is stopped."""

from __future__ import annotations

import asyncio
import json
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit

import pytest

from tests.api.conftest import HELLO
from tests.api.fake_engine import LOADING, FakeEngine, endless, text


def wait_until(condition, limit_s: float = 10.0) -> None:
    """Return once ``condition`` holds; fail after a limit that only a hang reaches."""
    limit = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < limit, "still going on"
        time.sleep(0.01)


def connected(address: str, **fields: object) -> socket.socket:
    """A raw connection on which a chat completion was asked for."""
    url = urlsplit(address)
    body = json.dumps(HELLO | fields).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: {url.netloc}\r\nContent-Type: application/json\r\n"
    connection = socket.create_connection((url.hostname, url.port))
    connection.settimeout(10)
    connection.sendall(head.encode() + f"Content-Length: {len(body)}\r\n\r\n".encode() + body)
    return connection


def quiet():
    """A load that takes for ever, with its heartbeats."""
    while True:
        yield LOADING
        yield 0.25


def silent():
    """An engine that says one word and then nothing more."""
    yield text("word")
    yield 3600.0


@pytest.mark.parametrize("script", [endless, quiet, silent])
def test_a_stream_that_is_left_stops_its_generation(address, fake: FakeEngine, script):
    """A7, G6: while writing, while loading, and while nothing comes at all."""
    fake.script = script
    connection = connected(address, stream=True)
    assert connection.recv(65536).startswith(b"HTTP/1.1 200")
    assert fake.running == 1
    connection.close()
    wait_until(lambda: fake.running == 0)


@pytest.mark.parametrize("script", [endless, quiet])
def test_a_whole_answer_that_is_left_stops_its_generation(address, fake: FakeEngine, script):
    """A7, G6: without streaming there is nobody to write to, so the connection itself is watched."""
    fake.script = script
    connection = connected(address)
    wait_until(lambda: fake.running == 1)
    connection.close()
    wait_until(lambda: fake.running == 0)


def test_one_that_leaves_does_not_stop_another(address, fake: FakeEngine):
    """A7, G2: their bug: one visitor's Stop stopped everybody."""
    fake.script = endless
    leaving, staying = connected(address, stream=True), connected(address, stream=True)
    assert leaving.recv(65536)
    assert staying.recv(65536)
    leaving.close()
    wait_until(lambda: fake.running == 1)
    assert staying.recv(65536)
    staying.close()
    wait_until(lambda: fake.running == 0)


def test_the_official_clients_cancellation_arrives(address, fake: FakeEngine):
    """A7: an async client that closes its stream, or is cancelled while it waits for a whole answer."""
    openai = pytest.importorskip("openai")
    fake.script = endless

    async def leave_twice() -> None:
        async with openai.AsyncOpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0) as client:
            stream = await client.chat.completions.create(**HELLO, stream=True)
            async for _ in stream:
                break
            await stream.close()
            waiting = asyncio.create_task(client.chat.completions.create(**HELLO))
            while len(fake.requests) < 2:  # noqa: ASYNC110 – the server is on another thread
                await asyncio.sleep(0.01)
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting

    with ThreadPoolExecutor() as own_thread:  # a browser of other tests may hold this thread's event loop
        own_thread.submit(lambda: asyncio.run(leave_twice())).result()
    wait_until(lambda: fake.running == 0)
    assert len(fake.requests) == 2
