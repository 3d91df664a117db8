"""What a request may carry, on a real socket: sizes, slow senders, and messages of a WebSocket."""

from __future__ import annotations

import asyncio
import json
import socket
import time
from collections.abc import Iterator

import pytest
from starlette.testclient import TestClient
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from playground.config import AppConfig
from playground.gate import Gate
from playground.gate.bodies import Limited
from tests.api.conftest import listening
from tests.gate.house import KEY, browser, half

LIMIT = 1000


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    gate = Gate(half("pages"), half("api"), AppConfig(api_keys=(KEY,)), max_body_bytes=LIMIT, body_seconds=0.5)
    with listening(gate) as url:
        yield int(url.rpartition(":")[2])


def said(port: int, head: str, *parts: bytes, pause: float = 0.0) -> tuple[int, dict]:
    """The status and the error of what comes back when these bytes are sent."""
    lines = [head, "Host: localhost", f"x-api-key: {KEY}", "Connection: close", "", ""]
    with socket.create_connection(("127.0.0.1", port), timeout=20) as wire:
        wire.sendall("\r\n".join(lines).encode())
        for part in parts:
            time.sleep(pause)
            wire.sendall(part)
        answer = b"".join(iter(lambda: wire.recv(65536), b""))
    start, _, body = answer.partition(b"\r\n\r\n")
    return int(start.split()[1]), json.loads(body) if body.startswith(b"{") else {}


def test_a_body_that_is_declared_too_large_is_413_while_it_is_still_sent(port):
    """A6: the answer reaches a client that sends all of it first."""
    status, told = said(port, f"POST /v1/x HTTP/1.1\r\nContent-Length: {5 * LIMIT}", *[b"x" * LIMIT] * 5)
    assert (status, told["error"]["code"]) == (413, "too_large")
    assert "larger" in told["error"]["message"]


def test_a_client_that_asks_first_is_told_at_once(port):
    """A6: Expect: 100-continue; nothing of the body is waited for."""
    head = f"POST /generate HTTP/1.1\r\nContent-Length: {5 * LIMIT}\r\nExpect: 100-continue"
    status, told = said(port, head)
    assert (status, told["error"]["remedy"]) == (413, "Send less text.")


def test_a_body_in_pieces_is_cut_off_at_the_limit(port):
    """A6: nobody said how long it would be."""
    pieces = [b"190\r\n" + b"x" * 400 + b"\r\n"] * 3 + [b"0\r\n\r\n"]
    status, told = said(port, "POST /v1/x HTTP/1.1\r\nTransfer-Encoding: chunked", *pieces)
    assert (status, told["error"]["code"]) == (413, "too_large")
    status, told = said(port, "POST /v1/x HTTP/1.1\r\nTransfer-Encoding: chunked", *pieces[:2], pieces[-1])
    assert (status, told["bytes"]) == (200, 800)


def test_a_body_that_trickles_is_408(port):
    """A6: slow loris: a byte now and then holds no request open."""
    status, told = said(port, "POST /v1/x HTTP/1.1\r\nContent-Length: 100", b"x", b"y", pause=0.1)
    assert (status, told["error"]["code"]) == (408, "request_timeout")


def test_a_length_that_is_none_is_400(port, tmp_path):
    """A6: by the server's own parser, and by the gate where there is another one."""
    assert said(port, "POST /v1/x HTTP/1.1\r\nContent-Length: many")[0] == 400
    client = browser(tmp_path)
    for length in ("many", "-1", "+5", "1e3", "0x10", "٣", ""):
        refused = client.post("/v1/x", content=b"hello", headers={b"Content-Length": length.encode()})  # type: ignore[dict-item]
        assert refused.json()["error"]["code"] == "invalid_request"
    assert client.post("/v1/x", content=b"", headers={"Content-Length": "9" * 5000}).status_code == 413


def test_messages_of_a_socket_have_the_same_limit(port):
    """A6: close code 1009, for text and bytes, whatever a letter takes."""
    url, mine = f"ws://127.0.0.1:{port}/api/inference/stream", {"x-api-key": KEY}

    async def closed_by(message: str | bytes) -> int:
        async with connect(url, additional_headers=mine) as ws:
            await ws.recv()
            await ws.send("x" * LIMIT)
            assert json.loads(await ws.recv())["bytes"] == LIMIT
            await ws.send(message)
            with pytest.raises(ConnectionClosed) as closing:
                await ws.recv()
            assert closing.value.rcvd is not None
            return closing.value.rcvd.code

    for message in ("x" * (LIMIT + 1), b"x" * (LIMIT + 1), "é" * (LIMIT // 2 + 1)):
        assert asyncio.run(closed_by(message)) == 1009


def test_nothing_is_said_on_a_socket_after_its_end():
    """A6: an application that does not listen is not let through."""
    sent: list[str] = []

    async def talks_on(scope, receive, send):
        await receive()
        await send({"type": "websocket.send", "text": "and another thing"})

    async def receive():
        return {"type": "websocket.receive", "text": "x" * 11}

    async def send(message):
        sent.append(message["type"])

    asyncio.run(Limited(talks_on, limit=10)({"type": "websocket"}, receive, send))
    assert sent == ["websocket.close"]


def test_a_refused_socket_is_told_why(port):
    """A6: 401 without a key, 403 for another site's page, in the error's shape."""

    async def refusal(**headers: str) -> tuple[int, str]:
        with pytest.raises(InvalidStatus) as refused:
            await connect(f"ws://127.0.0.1:{port}/api/inference/stream", additional_headers=headers)
        answer = refused.value.response
        assert answer.headers["x-request-id"]
        return answer.status_code, json.loads(answer.body)["error"]["code"]

    assert asyncio.run(refusal()) == (401, "invalid_api_key")
    assert asyncio.run(refusal(Origin="http://evil.com")) == (403, "refused")


def test_a_history_may_come_in_where_files_are_imported(tmp_path):
    """P6, A6: one address of the API takes larger requests, and nothing else under it does."""
    gate = Gate(half("pages"), half("api"), AppConfig())
    path = "/api/inference/conversations/import"
    client = TestClient(gate, base_url="http://localhost")
    assert client.post(path, content=b"x" * 5_000_000).status_code == 200
    assert client.post(path, headers={"Content-Length": "60000000"}).status_code == 413
    for other in (f"{path}/", "/api/inference/conversations", "/v1/x"):
        assert client.post(other, headers={"Content-Length": "5000000"}).status_code == 413


def test_pages_may_send_more_but_not_everything(tmp_path):
    """A6, P8: files go through Gradio's upload, which has a limit of its own."""
    client = browser(tmp_path, gate={"max_body_bytes": 10})
    assert client.post("/gradio_api/queue/join", content=b"x" * 5_000_000).json()["bytes"] == 5_000_000
    assert client.post("/gradio_api/queue/join", headers={"Content-Length": "60000000"}).status_code == 413
    assert client.post("/gradio_api/upload", headers={"Content-Length": "60000000"}).status_code == 200
