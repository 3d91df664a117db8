"""What programs with bad manners, and crowds of them, do to the server: it answers, goes on, and keeps nothing of them."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import random
import re
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

import httpx
import psutil
import pytest
import websockets

from playground.api import create_app
from playground.config import load_config
from playground.gate import Gate
from playground.local_inference import LocalInference, memory
from playground.services.assembly import Services
from playground.types import ResidentInfo
from tests.api.conftest import HELLO, listening
from tests.api.fake_engine import FakeEngine, endless
from tests.api.test_leaving import connected, wait_until

MODELS = ("starter", "starter:pirate", "starter:sql", "starter:json")
PATIENCE_S = 20  # for what a sound server does at once
TLS_HELLO = bytes.fromhex("16030100a5010000a10303") + bytes(range(150))
HEAD = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
BODY = json.dumps(HELLO).encode()

# Each is sent as it is; none of them is a request that a client in its right mind sends.
GARBAGE = {
    "nothing": b"",
    "empty lines": b"\r\n" * 1000,
    "a TLS hello": TLS_HELLO,
    "HTTP/2 at once": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(50),
    "another protocol": b"SSH-2.0-OpenSSH_9.6\r\n",
    "HTTP/0.9": b"GET /health\r\n\r\n",
    "a version that is none": b"GET /health HTTP/9.9\r\nHost: localhost\r\n\r\n",
    "a method that is none": b"\x00\xff\x00 /health HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "no Host": b"GET /health HTTP/1.1\r\n\r\n",
    "two Hosts": b"GET /health HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\n\r\n",
    "a header without a colon": b"GET /health HTTP/1.1\r\nHost localhost\r\n\r\n",
    "a header of zeros": b"GET /health HTTP/1.1\r\nHost: localhost\r\nX: " + bytes(100) + b"\r\n\r\n",
    "a header of a megabyte": b"GET /health HTTP/1.1\r\nHost: localhost\r\nX: " + b"x" * 1_000_000 + b"\r\n\r\n",
    "ten thousand headers": b"GET /health HTTP/1.1\r\nHost: localhost\r\n" + b"X: y\r\n" * 10_000 + b"\r\n",
    "an address of a megabyte": b"GET /" + b"a" * 1_000_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "an address that is no text": b"GET /%ff%00%c3%28/v1 HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "a model that is no text": b"GET /v1/models/%ff%00 HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "somebody else's address": b"GET http://evil.example/health HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "a tunnel": b"CONNECT evil.example:443 HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "a chunk without a length": HEAD + b"Transfer-Encoding: chunked\r\n\r\nhello\r\n0\r\n\r\n",
    "a chunk of minus one": HEAD + b"Transfer-Encoding: chunked\r\n\r\n-1\r\nhello\r\n0\r\n\r\n",
    "a chunk that is too short": HEAD + b"Transfer-Encoding: chunked\r\n\r\nff\r\nhello\r\n0\r\n\r\n",
    "a chunk of 2**80": HEAD + b"Transfer-Encoding: chunked\r\n\r\n100000000000000000000\r\nhello",
    "an encoding that is none": HEAD + b"Transfer-Encoding: parrot\r\n\r\n" + BODY,
    "a length and chunks": HEAD + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /",
    "two lengths": HEAD + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\n" + BODY,
    "a length below zero": HEAD + b"Content-Length: -5\r\n\r\n" + BODY,
    "a length that is a word": HEAD + b"Content-Length: five\r\n\r\n" + BODY,
    "a length of 10**40": HEAD + b"Content-Length: " + b"1" + b"0" * 40 + b"\r\n\r\n" + BODY,
    "less than was promised": HEAD + b"Content-Length: 100000\r\n\r\n" + BODY,
    "a body that is no text": HEAD + b"Content-Length: 4\r\n\r\n\xff\xfe\x00\x80",
    "a body packed as it says": HEAD + b"Content-Encoding: gzip\r\nContent-Length: 4\r\n\r\n\x1f\x8b\x08\x00",
    "a WebSocket without a key": b"GET /api/inference/stream HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\n"
    b"Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\r\n",
    "a WebSocket of another version": b"GET /api/inference/stream HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\n"
    b"Upgrade: websocket\r\nSec-WebSocket-Key: AAAA\r\nSec-WebSocket-Version: 99\r\n\r\n",
    "garbage on a WebSocket": b"GET /api/inference/stream HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\n"
    b"Upgrade: websocket\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
    + b"\xff" * 500,
}  # fmt: skip


def place(address: str) -> tuple[str, int]:
    """Host and port."""
    url = urlsplit(address)
    return str(url.hostname), int(url.port or 0)


def said_to(address: str, data: bytes) -> bytes:
    """What the server sends back before it closes; the client says that it has sent everything."""
    with socket.create_connection(place(address), PATIENCE_S) as connection:
        answer = b""
        with contextlib.suppress(ConnectionError):  # it hung up while we were still talking
            connection.sendall(data)
            with contextlib.suppress(OSError):  # likewise
                connection.shutdown(socket.SHUT_WR)
            while piece := connection.recv(65536):
                answer += piece
        return answer


def is_well(address: str) -> None:
    """The server answers; nothing is encrypted here, so that no certificates need be read each time."""
    assert httpx.get(f"{address}/health", timeout=PATIENCE_S, verify=False).status_code == 200


def random_garbage(seed: int) -> bytes:
    """Bytes by chance: nothing but noise, or one of the list above with some of it changed, cut, or doubled."""
    chance = random.Random(seed)
    if chance.random() < 0.3:
        return chance.randbytes(chance.randint(1, 3000))
    data = bytearray(chance.choice([*GARBAGE.values(), HEAD + b"Content-Length: %d\r\n\r\n" % len(BODY) + BODY])[:5000])
    for _ in range(chance.randint(1, 8)):
        at = chance.randrange(len(data) + 1)
        data[at : at + chance.randint(0, 4)] = chance.randbytes(chance.randint(0, 4))
    return bytes(data[: chance.randint(1, len(data) + 1)] * chance.choice([1, 1, 2]))


def refused(answer: bytes) -> bool:
    """Nothing, or one answer or more of which none is the server's fault."""
    statuses = [int(code) for code in re.findall(rb"HTTP/1\.1 (\d{3}) ", answer)]
    return all(status < 500 for status in statuses) and (bool(statuses) or not answer)


@pytest.fixture(scope="module")
def scripted() -> FakeEngine:
    """A scripted engine in whose memory the starter is."""
    fake = FakeEngine()
    starter = str(load_config().models["starter"].path)
    info = ResidentInfo(starter, starter, "none", "float32", "cpu", 1, 1, 1024, 0.0)
    fake.residents = lambda: (info,)  # type: ignore[method-assign]
    return fake


@pytest.fixture(scope="module")
def served(scripted: FakeEngine) -> Iterator[str]:
    """The API over it on a socket: one server, which every test of this file leaves as it was."""
    config = load_config()
    with listening(Gate(create_app(config, Services.over(scripted, config)), config=config)) as url:
        yield url


@pytest.fixture
def fake(scripted: FakeEngine) -> FakeEngine:
    scripted.script, scripted.requests = FakeEngine().script, []
    return scripted


@pytest.fixture
def address(served: str, fake: FakeEngine) -> str:
    return served


@pytest.mark.parametrize("kind", GARBAGE)
def test_what_is_no_request_is_refused_and_harms_nobody(standing, idle: FakeEngine, kind):
    """S5: never a 500, and never a connection that hangs."""
    answer = said_to(standing, GARBAGE[kind])
    assert refused(answer), answer[:300]
    is_well(standing)
    wait_until(lambda: idle.running == 0)


@pytest.mark.parametrize("count", [200, pytest.param(3000, marks=pytest.mark.long)])
def test_random_bytes_are_refused_and_harm_nobody(address, fake: FakeEngine, count):
    """S5: the same for bytes by chance."""
    with ThreadPoolExecutor(8) as crowd:
        for seed, answer in enumerate(crowd.map(lambda seed: said_to(address, random_garbage(seed)), range(count))):
            assert refused(answer), (random_garbage(seed), answer[:300])
    is_well(address)
    wait_until(lambda: fake.running == 0)


@pytest.mark.parametrize("count", [60, pytest.param(400, marks=pytest.mark.long)])
def test_those_who_never_finish_a_sentence_keep_nobody_waiting(address, count):
    """S5: slow-loris: half of them never end their headers, half never their body; others are answered meanwhile."""
    slow = [socket.create_connection(place(address), PATIENCE_S) for _ in range(count)]
    beginnings = (b"GET /health HTTP/1.1\r\nHost: localhost\r\nX: ", HEAD + b"Content-Length: 9999\r\n\r\n{")
    for at, connection in enumerate(slow):
        connection.sendall(beginnings[at % 2])
    for _ in range(3):
        for connection in slow:
            connection.sendall(b" ")
        is_well(address)
        answer = httpx.post(f"{address}/v1/chat/completions", json=HELLO, timeout=PATIENCE_S)
        assert answer.json()["choices"][0]["message"]["content"] == "Hello there"
    for connection in slow:
        connection.close()
    is_well(address)


def test_a_body_that_trickles_in_is_given_up(config, fake: FakeEngine):
    """S5: slow-loris: nobody holds a connection for ever with a body of a byte a second."""
    with listening(Gate(create_app(config, Services.over(fake, config)), config=config, body_seconds=0.2)) as address:
        answer = b""
        with socket.create_connection(place(address), PATIENCE_S) as connection:
            connection.sendall(HEAD + b"Content-Length: 9999\r\n\r\n{")
            while piece := connection.recv(65536):
                answer += piece
        assert answer.startswith(b"HTTP/1.1 408 ")
        assert not fake.requests


def test_a_half_closed_stream_ends(address, fake: FakeEngine):
    """G6, A7: who closes its side of the connection after asking is not waited for, and the stream does not go on."""
    fake.script = endless
    connection = connected(address, stream=True)
    assert connection.recv(65536).startswith(b"HTTP/1.1 200")
    connection.shutdown(socket.SHUT_WR)
    wait_until(lambda: fake.running == 0)
    while connection.recv(65536):
        pass
    connection.close()


def test_requests_sent_in_one_go_are_answered_in_turn(address):
    """A4: HTTP/1.1's pipelining."""
    asked = HEAD + b"Content-Length: %d\r\n\r\n" % len(BODY) + BODY
    health = b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"
    last = health.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
    with socket.create_connection(place(address), PATIENCE_S) as connection:
        connection.sendall(health + asked + health + asked + last)
        answer = b""
        while piece := connection.recv(65536):
            answer += piece
    kinds = re.findall(rb'HTTP/1\.1 200 |"status": ?"healthy"|"content": ?"Hello there"', answer)
    healthy, hello = kinds[1], kinds[3]
    assert b"healthy" in healthy
    assert b"Hello" in hello
    assert kinds == [b"HTTP/1.1 200 ", healthy, b"HTTP/1.1 200 ", hello] * 2 + [b"HTTP/1.1 200 ", healthy]


async def drop_stream(address: str, chance: random.Random) -> None:
    """Ask for a stream of server-sent events and hang up somewhere: before, within, or after the answer."""
    body = {
        "model": chance.choice(MODELS),
        "messages": [{"role": "user", "content": "Write a story."}],
        "stream": True,
        "max_tokens": 40,
        "seed": 1,
    }
    data = json.dumps(body).encode()
    reader, writer = await asyncio.open_connection(*place(address))
    sent = HEAD + b"Content-Length: %d\r\n\r\n" % len(data) + data
    writer.write(sent[: chance.choice([len(sent), len(sent), len(sent), chance.randrange(len(sent))])])
    await writer.drain()
    with contextlib.suppress(TimeoutError, ConnectionError):
        async with asyncio.timeout(chance.choice([0.001, 0.02, 0.2])):
            for _ in range(chance.randrange(20)):
                await reader.read(200)
    if chance.random() < 0.5:
        writer.transport.abort()
    writer.close()
    with contextlib.suppress(ConnectionError):
        await writer.wait_closed()


async def drop_socket(address: str, chance: random.Random) -> None:
    """Ask for a few generations over one WebSocket and hang up somewhere."""
    socket_address = f"ws{address.removeprefix('http')}/api/inference/stream"
    async with websockets.connect(socket_address, compression=None, close_timeout=5) as connection:
        for at in range(chance.randint(1, 3)):
            frame = {"model_id": chance.choice(MODELS), "prompt": "Write a story.", "max_tokens": 40, "id": at}
            await connection.send(json.dumps(frame))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(chance.choice([0.001, 0.02, 0.2])):
                for _ in range(chance.randrange(20)):
                    await connection.recv()
        if chance.random() < 0.5:
            connection.transport.abort()


async def drop_many(address: str, seeds: Sequence[int], at_once: int = 16) -> None:
    """One stream for each seed, every second one over a WebSocket."""
    room = asyncio.Semaphore(at_once)

    async def drop(seed: int) -> None:
        async with room:
            await (drop_socket if seed % 2 else drop_stream)(address, random.Random(seed))

    await asyncio.gather(*(drop(seed) for seed in seeds))


def in_own_thread(run: Callable[[], Any]) -> Any:
    """The result of ``run``; a browser of other tests may hold this thread's event loop."""
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(run).result()


@contextmanager
def asked_meanwhile(address: str) -> Iterator[list[int]]:
    """/health is asked for again and again while the block runs; its statuses."""
    over, statuses = threading.Event(), []

    def ask() -> None:
        with httpx.Client(timeout=PATIENCE_S) as client:
            while not over.is_set() or not statuses:
                statuses.append(client.get(f"{address}/health").status_code)
                over.wait(0.05)

    with ThreadPoolExecutor(1) as thread:
        asking = thread.submit(ask)
        try:
            yield statuses
        finally:
            over.set()
            asking.result()


def test_dropped_streams_leave_nothing_running(address, fake: FakeEngine):
    """A7, G6: forty here, a thousand in the long run."""
    fake.script = endless
    with asked_meanwhile(address) as healthy:
        in_own_thread(lambda: asyncio.run(drop_many(address, range(40), 20)))
    wait_until(lambda: fake.running == 0)
    models = {request.spec.adapters for request in fake.requests}
    assert len(models) == len(MODELS), "streams of every model were begun"
    assert set(healthy) == {200}


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[LocalInference, str]]:
    """The real engine with the starter in float32, on a socket: the engine, and its address."""
    config = load_config(
        overrides={"data_dir": str(tmp_path_factory.mktemp("data")), "dtype": "float32", "device": "cpu"}
    )
    engine = LocalInference()
    services = Services.over(engine, config)
    for name in MODELS:
        engine.load(services.names.spec(name))
    with listening(Gate(create_app(config, services), config=config)) as address:
        yield engine, address
    engine.close()


def settled(engine: LocalInference) -> int:
    """Resident bytes of this process once nothing runs."""
    wait_until(lambda: engine.activity() == (0, 0), 60)
    gc.collect()
    memory.give_back("cpu")
    return psutil.Process().memory_info().rss


@pytest.mark.long
@pytest.mark.timeout(600)
def test_a_thousand_dropped_streams_leave_nothing_behind(real, monkeypatch):
    """A7, G6, S5: opened and dropped, half of them WebSockets; the engine is idle, and no thread, file or memory is left."""
    engine, address = real
    begun, submit = [], engine.submit
    monkeypatch.setattr(engine, "submit", lambda *args: (begun.append(args), submit(*args))[1])
    at: list[int] = []
    kept: list[tuple[int, int]] = []
    for hundred in range(10):
        with asked_meanwhile(address) as healthy:
            in_own_thread(lambda at=hundred: asyncio.run(drop_many(address, range(at * 100, at * 100 + 100))))
        assert set(healthy) == {200}
        at.append(settled(engine))
        process = psutil.Process()
        wait_until(lambda: not any(thread.name == "admit" for thread in threading.enumerate()))
        kept.append((process.num_fds(), threading.active_count()))
    assert len(begun) > 900, "most of them were begun"
    assert engine.memory().kv_cache == 0
    assert at[-1] <= 1.05 * at[1], f"resident MB after each hundred: {[round(rss / 1e6) for rss in at]}"
    files, threads = kept[-1]
    assert files <= kept[1][0] + 3, kept  # an idle connection may not be counted out yet
    assert threads <= kept[1][1] + 3, kept


def streamed(address: str, at: int) -> str:
    """The text of one streamed answer: ``at`` decides model, prompt, and whether it is greedy or seeded."""
    style: dict[str, Any] = {"temperature": 0} if at % 8 < 4 else {"temperature": 0.9, "top_k": 40, "seed": at}
    turn = {"role": "user", "content": f"Write a story about number {at}."}
    body = {"model": MODELS[at % 4], "messages": [turn], "stream": True, "max_tokens": 48, **style}
    with httpx.stream("POST", f"{address}/v1/chat/completions", json=body, timeout=300) as response:
        lines = [line.removeprefix("data: ") for line in response.iter_lines() if line.startswith("data: ")]
    assert lines[-1] == "[DONE]"
    chunks = [json.loads(line) for line in lines[:-1]]
    assert [choice["finish_reason"] for chunk in chunks for choice in chunk["choices"]][-1] in ("stop", "length")
    return "".join(choice["delta"].get("content") or "" for chunk in chunks for choice in chunk["choices"])


@pytest.mark.long
@pytest.mark.timeout(600)
def test_thirty_two_streams_at_once_have_the_texts_of_one_after_another(real):
    """S5, G2: base and three adapters, greedy and seeded; /health answers meanwhile."""
    engine, address = real
    alone = [streamed(address, at) for at in range(32)]
    with asked_meanwhile(address) as healthy, ThreadPoolExecutor(32) as crowd:
        together = list(crowd.map(lambda at: streamed(address, at), range(32)))
    assert together == alone
    assert len(set(alone)) > 16, "different prompts, adapters and seeds have different answers"
    assert set(healthy) == {200}
    wait_until(lambda: engine.activity() == (0, 0))
