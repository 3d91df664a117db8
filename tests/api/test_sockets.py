"""`WS /api/inference/stream`: many generations over one socket; in this process, on a real socket, on the real engine."""

from __future__ import annotations

import asyncio
import json
import socket
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from random import Random
from threading import Thread
from typing import Any
from urllib.parse import urlsplit

import pytest
from fastapi.testclient import TestClient
from starlette.testclient import WebSocketTestSession
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from playground.api import create_app, sockets
from playground.config import AppConfig
from playground.errors import OutOfMemory
from playground.gate import Gate
from playground.local_inference import LocalInference
from playground.services.assembly import Services
from playground.types import GenerationEvent, GenerationSettings, Provenance, ResidentInfo, Status
from tests.api.conftest import listening
from tests.api.fake_engine import GENERATING, LOADING, FakeEngine, end, endless, text

PATH = "/api/inference/stream"
HELLO = {"model_id": "starter", "prompt": "Hello"}
FIGURES = ("type", "total_tokens", "prompt_tokens", "reused_tokens", "generation_time", "finish_reason", "id")


class LoadedEngine(FakeEngine):
    """One with the starter in memory."""

    def __init__(self, path: str) -> None:
        super().__init__()
        self._path = path

    def residents(self) -> tuple[ResidentInfo, ...]:
        return (ResidentInfo(self._path, self._path, "none", "float32", "cpu", 1, 4, 512, 1.0),)


@pytest.fixture(scope="module")
def scripted(config: AppConfig) -> LoadedEngine:
    return LoadedEngine(config.models["starter"].path)


@pytest.fixture(scope="module")
def app(config: AppConfig, scripted: LoadedEngine) -> Gate:
    """One for all tests of this file, which leave it as it was."""
    return gated(scripted, config)


@pytest.fixture(scope="module")
def address(app: Gate) -> Iterator[str]:
    with listening(app) as url:
        yield url


@pytest.fixture
def fake(scripted: LoadedEngine) -> LoadedEngine:
    """The engine behind them all, idle and with nothing in its memory of tests."""
    wait_until(lambda: scripted.running == 0)
    scripted.script, scripted.requests = FakeEngine().script, []
    return scripted


def gated(engine: Any, config: AppConfig, services: Services | None = None) -> Gate:
    return Gate(create_app(config, services or Services.over(engine, config)), config=config)


@pytest.fixture
def ws(client: TestClient, fake: LoadedEngine) -> Iterator[WebSocketTestSession]:
    """A socket in this process."""
    with client.websocket_connect(PATH, headers={"host": "localhost"}) as opened:
        yield opened


@contextmanager
def opened(address: str, **options: Any) -> Iterator[ClientConnection]:
    """A real socket to the server at ``address``."""
    with connect(address.replace("http", "ws", 1) + PATH, close_timeout=2, **options) as connection:
        yield connection


def until_end(receive: Callable[[], Any], count: int = 1) -> dict[Any, list[dict[str, Any]]]:
    """Frames by id, until ``count`` generations have ended."""
    found: dict[Any, list[dict[str, Any]]] = {}
    while count:
        got = receive()
        frame = got if isinstance(got, dict) else json.loads(got)
        found.setdefault(frame["id"], []).append(frame)
        count -= frame["type"] in ("complete", "error")
    return found


def joined(frames: list[dict[str, Any]]) -> str:
    return "".join(frame["token"] for frame in frames if frame["type"] == "token")


def wait_until(condition: Callable[[], object], limit_s: float = 15.0) -> None:
    """Return once ``condition`` holds; fail after a limit that only a hang reaches."""
    limit = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < limit, "still going on"
        time.sleep(0.005)


def test_the_frames_are_start_token_and_complete(ws, fake: FakeEngine):
    """A2: Appendix 1's fields; token frames are counted from 0, and their texts join to the whole answer."""
    fake.script = lambda: [LOADING, text("Hel"), text("lo", 2), end("stop", " there", 3)]
    ws.send_json(HELLO | {"id": "a"})
    frames = until_end(ws.receive_json)["a"]
    complete = frames.pop()
    assert frames == [
        {"type": "start", "model_id": "starter", "id": "a"},
        {"type": "token", "token": "Hel", "index": 0, "id": "a"},
        {"type": "token", "token": "lo", "index": 1, "id": "a"},
        {"type": "token", "token": " there", "index": 2, "id": "a"},
    ]
    assert {name: complete[name] for name in FIGURES} == {
        "type": "complete",
        "total_tokens": 3,
        "prompt_tokens": 5,
        "reused_tokens": 3,
        "generation_time": 0.2,
        "finish_reason": "stop",
        "id": "a",
    }


def test_what_the_client_asked_for_reaches_the_engine(ws, fake: FakeEngine):
    """A2, A5: every field of the body is honoured, and the adapter is the one that was named."""
    ws.send_json(HELLO | {"type": "generate", "adapter_path": "pirate", "seed": 7, "temperature": 0.25, "stream": True})
    until_end(ws.receive_json)
    request = fake.requests[0]
    assert (request.settings.seed, request.settings.temperature, request.prompt) == (7, 0.25, "Hello")
    assert request.spec.adapters[0][0].endswith("pirate")
    assert request.user == "address 127.0.0.1"


def test_notices_and_provenance_come_with_the_last_frame(ws, fake: FakeEngine):
    """A2, G10: seed and provenance are told, and a sentence that the person should read."""
    made = Provenance(
        "starter", "", (), "none", "float32", "cpu", "chat", GenerationSettings(seed=3), 3, {"torch": "2"}
    )
    last = replace(end("length"), provenance=made)
    fake.script = lambda: [GenerationEvent(GENERATING, notice="Old turns were left out."), text("x"), last]
    ws.send_json(HELLO)
    frames = next(iter(until_end(ws.receive_json).values()))
    assert (frames[-1]["seed"], frames[-1]["notices"]) == (3, ["Old turns were left out."])
    assert frames[-1]["provenance"]["versions"] == {"torch": "2"}
    assert frames[-1]["finish_reason"] == "length"


def test_without_an_id_one_is_made_and_a_number_comes_back_as_a_number(ws):
    """A2: two generations are never told by the same name."""
    ws.send_json(HELLO)
    ws.send_json(HELLO)
    ws.send_json(HELLO | {"id": 7})
    ws.send_json(HELLO | {"id": "7"})
    frames = until_end(ws.receive_json, 4)
    assert len(frames) == 4
    assert {7, "7"} <= set(frames)
    assert all(joined(one) == "Hello there" for one in frames.values())


def test_a_stop_ends_one_as_cancelled_and_leaves_the_others(ws, fake: FakeEngine):
    """A2, G6: the engine is told at once, and the last frame says how far it came."""
    fake.script = endless
    for name in ("a", "b"):
        ws.send_json(HELLO | {"id": name})
    while ws.receive_json()["type"] != "token":
        pass
    wait_until(lambda: fake.running == 2)
    ws.send_json({"type": "stop", "id": "a"})
    ended = until_end(ws.receive_json)
    assert (ended["a"][-1]["type"], ended["a"][-1]["finish_reason"]) == ("complete", "cancelled")
    assert fake.running == 1
    ws.send_json({"type": "stop"})
    ended = until_end(ws.receive_json)
    assert (ended["b"][-1]["finish_reason"], ended["b"][-1]["total_tokens"] > 0) == ("cancelled", True)
    assert fake.running == 0


def test_a_stop_before_the_first_word_still_gets_start_and_complete(ws, fake: FakeEngine):
    """A2, G6: also while a model is being loaded."""

    def loading():
        yield 3600.0

    fake.script = loading
    ws.send_json(HELLO | {"id": "a"})
    wait_until(lambda: fake.running)
    ws.send_json({"type": "stop", "id": "a"})
    frames = until_end(ws.receive_json)["a"]
    assert [frame["type"] for frame in frames] == ["start", "complete"]
    assert (frames[1]["finish_reason"], frames[1]["total_tokens"]) == ("cancelled", 0)


def test_an_id_is_free_again_once_its_last_frame_is_read(ws):
    """A2: a client that numbers its questions may begin at 1 each time."""
    for _ in range(20):
        ws.send_json(HELLO | {"id": 1})
        assert until_end(ws.receive_json)[1][-1]["type"] == "complete"


BAD = [
    ("{no json", "invalid_json", None),
    ("[1]", "invalid_value", None),
    ('"text"', "invalid_value", None),
    ("", "invalid_json", None),
    ('{"a": NaN}', "invalid_json", None),
    ('{"id": "x", "model_id": "starter", "prompt": "\\ud800"}', "invalid_json", None),
    ("[" * 100_000, "invalid_json", None),
    ({"id": "x"}, "missing_field", "x"),
    (HELLO | {"id": "x", "promt": "y"}, "unknown_field", "x"),
    (HELLO | {"id": "x", "temperature": "hot"}, "invalid_value", "x"),
    (HELLO | {"id": "x", "temperature": 3}, "invalid_value", "x"),
    (HELLO | {"id": "x", "prompt": " "}, "invalid_request", "x"),
    (HELLO | {"id": "x", "stream": False}, "invalid_request", "x"),
    (HELLO | {"id": "x" * 65}, "invalid_request", None),
    (HELLO | {"id": ""}, "invalid_request", None),
    (HELLO | {"id": True}, "invalid_request", None),
    (HELLO | {"id": 1.5}, "invalid_request", None),
    (HELLO | {"id": ["x"]}, "invalid_request", None),
    (HELLO | {"id": 2**60}, "invalid_request", None),
    (HELLO | {"id": "x", "type": "begin"}, "invalid_request", "x"),
    (HELLO | {"id": "x", "type": None}, "invalid_request", "x"),
    (HELLO | {"id": "x", "model_id": "starter:parrot"}, "model_not_found", "x"),
    (HELLO | {"id": "x", "adapter_path": "parrot"}, "model_not_found", "x"),
    ({"type": "stop", "id": "nobody"}, "invalid_request", "nobody"),
    ({"type": "stop", "id": {}}, "invalid_request", None),
    ({"type": "stop", "all": True}, "unknown_field", None),
]


def test_what_is_no_good_gets_an_error_frame_and_the_socket_lives(ws):
    """A2, A5: one error frame for each, with a code, a whole sentence, and the id where there is one."""
    for sent, code, about in BAD:
        ws.send_text(sent if isinstance(sent, str) else json.dumps(sent))
        frame = ws.receive_json()
        assert set(frame) == {"type", "error", "code", "param", "id"}, sent
        assert (frame["type"], frame["code"], frame["id"]) == ("error", code, about), (sent, frame)
        assert frame["error"].endswith((".", "?", "…")), frame
    ws.send_bytes(b'{"type": "stop"}')
    assert ws.receive_json()["code"] == "invalid_json"
    ws.send_json({"type": "stop"})  # nothing runs, which is what was wanted
    ws.send_json(HELLO | {"id": "y"})
    assert until_end(ws.receive_json)["y"][-1]["type"] == "complete"


def test_a_frame_larger_than_a_body_may_be_is_refused(ws, monkeypatch):
    """A6: the same limit as for a request's body."""
    monkeypatch.setattr(sockets, "MAX_BODY_BYTES", 1000)
    ws.send_json(HELLO | {"prompt": "é" * 600}, mode="text")
    assert ws.receive_json()["code"] == "too_large"


def test_a_model_that_is_not_loaded_is_refused_and_never_loaded(ws, fake: FakeEngine, monkeypatch):
    """A2, A1: with the code that is a 409 over HTTP."""
    monkeypatch.setattr(fake, "residents", tuple)
    ws.send_json(HELLO | {"id": "x"})
    frame = ws.receive_json()
    assert (frame["type"], frame["code"], frame["id"]) == ("error", "model_not_loaded", "x")
    assert not fake.requests


def test_an_id_in_use_is_refused_without_harm_to_who_has_it(ws, fake: FakeEngine):
    """A2: the error carries no id, as that would tell the running one's reader that it has ended."""
    fake.script = endless
    ws.send_json(HELLO | {"id": "x"})
    ws.receive_json()
    for again in (HELLO | {"id": "x"}, {"id": "x", "model_id": 3}):
        ws.send_json(again)
        while (frame := ws.receive_json())["type"] == "token":
            pass
        assert (frame["type"], frame["id"]) == ("error", None)
    assert fake.running == 1


def test_a_failure_of_the_engine_is_one_error_frame(ws, fake: FakeEngine, caplog):
    """A2, G6: with its remedy; a bug's sentence tells nothing of the inside."""
    fake.script = lambda: [text("half"), OutOfMemory("No room.", "Ask for less.")]
    ws.send_json(HELLO | {"id": "a"})
    frames = until_end(ws.receive_json)["a"]
    assert [frame["type"] for frame in frames] == ["start", "token", "error"]
    assert (frames[-1]["error"], frames[-1]["code"]) == ("No room. Ask for less.", "out_of_memory")
    fake.script = lambda: [ValueError("secret")]
    ws.send_json(HELLO | {"id": "b"})
    assert "secret" not in str(until_end(ws.receive_json)["b"])
    assert "secret" in caplog.text


def test_only_so_many_generations_run_over_one_socket(ws, fake: FakeEngine, monkeypatch):
    """A2: one more gets an error frame, until one has ended."""
    monkeypatch.setattr(sockets, "MOST_AT_ONCE", 2)
    fake.script = endless
    for name in ("a", "b", "c"):
        ws.send_json(HELLO | {"id": name})
    assert until_end(ws.receive_json)["c"][-1]["code"] == "rate_limited"
    wait_until(lambda: fake.running == 2)
    ws.send_json({"type": "stop", "id": "a"})
    until_end(ws.receive_json)
    ws.send_json(HELLO | {"id": "d"})
    wait_until(lambda: len(fake.requests) == 3)


def test_every_generation_counts_for_the_rate_limit(config: AppConfig, fake: LoadedEngine):
    """A6: a socket is no way around it."""
    config = replace(config, rate_limit="2 per minute")
    app = gated(fake, config)
    with TestClient(app, base_url="http://localhost", client=("127.0.0.1", 50000)) as client:  # noqa: SIM117
        with client.websocket_connect(PATH, headers={"host": "localhost"}) as ws:
            for name in ("a", "b", "c"):
                ws.send_json(HELLO | {"id": name})
            ended = until_end(ws.receive_json, 3)
    assert [ended[name][-1]["type"] for name in "abc"] == ["complete", "complete", "error"]
    assert ended["c"][-1]["code"] == "rate_limited"


def test_another_sites_page_opens_no_socket(address, fake: FakeEngine):
    """A6, S2: browsers check no WebSocket's origin, so the server does."""
    with pytest.raises(InvalidStatus) as refused, opened(address, origin="https://elsewhere.example"):
        pass
    assert refused.value.response.status_code == 403
    with opened(address, origin=address) as connection:
        connection.send(json.dumps(HELLO))
        until_end(connection.recv)


def silent():
    """An engine that says one word and then nothing more."""
    yield text("word")
    yield 3600.0


@pytest.mark.parametrize("script", [endless, silent])
def test_a_closed_socket_stops_all_its_generations(address, fake: FakeEngine, script):
    """A7, G6: with a close frame, while writing and while nothing comes."""
    fake.script = script
    with opened(address) as connection:
        for name in range(5):
            connection.send(json.dumps(HELLO | {"id": name}))
        wait_until(lambda: fake.running == 5)
    wait_until(lambda: fake.running == 0)


@pytest.mark.parametrize("reset", [False, True])
def test_a_socket_that_dies_without_a_word_stops_its_generation(address, fake: FakeEngine, reset):
    """A7: the line is cut, or the client's process is killed, while nothing is being sent."""
    fake.script = silent
    connection = raw_socket(address)
    connection.sendall(framed(HELLO))
    wait_until(lambda: fake.running == 1)
    if reset:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()
    wait_until(lambda: fake.running == 0)


def test_every_generation_ends_with_exactly_one_last_frame(address, fake: FakeEngine, monkeypatch):
    """A2, G5: however stops, ends and failures fall together; start comes first, and the token frames are counted."""
    monkeypatch.setattr(sockets, "MOST_AT_ONCE", 1000)
    draw = Random(2)

    def script():
        for count in range(1, draw.randrange(1, 6)):
            yield text("word ", count)
            yield draw.choice([0.0, 0.0, 0.001])
        yield draw.choice([end("stop", "end", 9), end("length", "", 9), OutOfMemory("No room.")])

    fake.script = script
    frames: dict[int, list[dict[str, Any]]] = {}
    with opened(address) as connection:
        asked = 200
        for number in range(asked):
            connection.send(json.dumps(HELLO | {"id": number}))
            if draw.random() < 0.7:
                connection.send(json.dumps({"type": "stop", "id": draw.randrange(max(0, number - 3), number + 1)}))
        ended = 0
        while ended < asked:
            frame = json.loads(connection.recv())
            if "is running over this socket" in frame.get("error", ""):
                continue  # a stop that came too late
            before = frames.setdefault(frame["id"], [])
            assert not before or before[-1]["type"] in ("start", "token"), "a frame after the last one"
            before.append(frame)
            ended += frame["type"] in ("complete", "error")
    kinds = {frame["type"] for one in frames.values() for frame in one}
    reasons = {one[-1].get("finish_reason") for one in frames.values()}
    assert (kinds, reasons) == ({"start", "token", "complete", "error"}, {"stop", "length", "cancelled", None})
    for one in frames.values():
        told = [frame["index"] for frame in one if frame["type"] == "token"]
        assert told == list(range(len(told)))
        assert [frame["type"] for frame in one][1:-1] == ["token"] * len(told)
        assert one[0]["type"] in ("start", "error")
    assert fake.running == 0


def test_one_socket_that_closes_does_not_stop_another(address, fake: FakeEngine):
    """A7, G2: their bug: one visitor's Stop stopped everybody."""
    fake.script = endless
    with opened(address) as staying:
        with opened(address) as leaving:
            for connection in (staying, leaving):
                connection.send(json.dumps(HELLO | {"id": "same"}))
            wait_until(lambda: fake.running == 2)
        wait_until(lambda: fake.running == 1)
        staying.send(json.dumps({"type": "stop", "id": "same"}))
        assert until_end(staying.recv)["same"][-1]["finish_reason"] == "cancelled"


def flood():
    """Far more text than any buffer holds, as fast as it is taken."""
    while True:
        yield text("x" * 100_000)
        yield 0.0


def raw_socket(address: str) -> socket.socket:
    """A handshake by hand, so that nothing is ever read of what follows, and no ping is answered."""
    url = urlsplit(address)
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.connect((url.hostname, url.port))
    connection.sendall(
        f"GET {PATH} HTTP/1.1\r\nHost: {url.netloc}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()
    )
    assert connection.recv(4096).startswith(b"HTTP/1.1 101")
    return connection


def framed(message: dict[str, Any]) -> bytes:
    """A masked text frame (with a mask of zeros)."""
    payload = json.dumps(message).encode()
    assert len(payload) < 126
    return bytes([0x81, 0x80 | len(payload), 0, 0, 0, 0]) + payload


def test_a_slow_reader_holds_up_nobody_and_is_still_stopped(address, fake: FakeEngine):
    """A7: what it does not read is not fetched from the engine; others go on, and its own stop frame is heard."""
    fetched = 0

    def counted():
        nonlocal fetched
        for step in flood():
            fetched += isinstance(step, GenerationEvent)
            yield step

    fake.script = counted
    slow = raw_socket(address)
    slow.sendall(framed(HELLO | {"id": "s"}))
    seen = -1
    while seen != fetched or fetched < 2:  # until it stands still
        seen = fetched
        time.sleep(0.2)
    fake.script = lambda: [text("Hello"), end("stop", " there")]
    with opened(address) as other:
        other.send(json.dumps(HELLO | {"id": "o"}))
        assert joined(until_end(other.recv)["o"]) == "Hello there"
    assert fake.running == 1
    slow.sendall(framed({"type": "stop"}))
    wait_until(lambda: fake.running == 0)
    slow.close()


def test_who_answers_no_ping_is_gone(config: AppConfig, fake: LoadedEngine):
    """A7: a line that was cut without a word is found while nothing is being sent."""
    fake.script = silent
    with listening(gated(fake, config), ws_ping_interval=0.1, ws_ping_timeout=0.1) as address:
        gone = raw_socket(address)
        gone.sendall(framed(HELLO))
        wait_until(lambda: fake.requests)
        wait_until(lambda: fake.running == 0)
        gone.close()


def test_who_reads_nothing_for_too_long_is_let_go(address, fake: FakeEngine, monkeypatch):
    """A7: a half-open connection keeps no generation running for ever."""
    monkeypatch.setattr(sockets, "STALLED_S", 0.2)
    fake.script = flood
    gone = raw_socket(address)
    gone.sendall(framed(HELLO))
    wait_until(lambda: fake.requests)
    wait_until(lambda: fake.running == 0)
    gone.close()


def test_a_stopping_server_lets_streams_end_and_then_says_goodbye(config: AppConfig, fake: LoadedEngine):
    """A6: what runs is finished, what is new is refused, and the socket is closed as going away."""
    fake.script = lambda: [text("one "), 0.3, end("stop", "two")]
    services = Services.over(fake, config)  # type: ignore[arg-type]
    with listening(gated(fake, config, services)) as address, opened(address) as busy, opened(address) as idle:
        busy.send(json.dumps(HELLO | {"id": "a"}))
        wait_until(lambda: fake.running == 1)
        draining = Thread(target=services.generation.drain, args=(10,))
        draining.start()
        wait_until(lambda: services.generation.draining)
        busy.send(json.dumps(HELLO | {"id": "b"}))
        ended = until_end(busy.recv, 2)
        assert (joined(ended["a"]), ended["b"][-1]["code"]) == ("one two", "shutting_down")
        for connection in (busy, idle):
            with pytest.raises(ConnectionClosed) as closed:
                connection.recv(timeout=10)
            assert closed.value.rcvd is not None
            assert closed.value.rcvd.code == 1001
        draining.join()


def test_what_outlasts_the_patience_of_a_stopping_server_ends_as_cancelled(config: AppConfig, fake: LoadedEngine):
    """A6: with a last frame, and before the socket is closed."""
    fake.script = endless
    services = Services.over(fake, config)  # type: ignore[arg-type]
    with listening(gated(fake, config, services)) as address, opened(address) as connection:
        connection.send(json.dumps(HELLO | {"id": "a"}))
        wait_until(lambda: fake.running == 1)
        services.generation.drain(0.05)
        assert until_end(connection.recv)["a"][-1]["finish_reason"] == "cancelled"
        with pytest.raises(ConnectionClosed):
            connection.recv(timeout=10)
    assert fake.running == 0


@pytest.mark.long
def test_a_hundred_sockets_come_and_go_and_leave_nothing(address, fake: FakeEngine):
    """A7: opened, half-way through, dropped."""
    fake.script = endless

    async def come_and_go() -> None:
        from websockets.asyncio.client import connect as open_socket

        async def one(number: int) -> None:
            async with open_socket(address.replace("http", "ws", 1) + PATH) as connection:
                await connection.send(json.dumps(HELLO | {"id": number}))
                await connection.recv()
                if number % 2:
                    connection.transport.abort()

        for batch in range(0, 100, 20):
            await asyncio.gather(*(one(number) for number in range(batch, batch + 20)))

    own_thread = Thread(target=lambda: asyncio.run(come_and_go()))  # a browser of other tests may hold this one's loop
    own_thread.start()
    own_thread.join()
    wait_until(lambda: fake.running == 0)
    assert len(fake.requests) == 100


QUESTIONS = ["What is the capital of France?", "Tell me about the sea.", "Who are you?"]


def test_a_stop_on_the_real_engine_takes_the_row_away(config: AppConfig, engine: LocalInference):
    """G6, A2: and the engine has nothing left to do."""
    services = Services.over(engine, config)
    app = gated(engine, config, services)
    with listening(app) as address:
        asyncio.run(services.entries.load("starter"))
        with opened(address) as connection:
            body = {
                "model_id": "starter",
                "prompt": "Once upon a time",
                "template": "raw",
                "max_tokens": 400,
                "seed": 1,
            }
            connection.send(json.dumps(body | {"id": "long", "temperature": 1.5}))
            while json.loads(connection.recv())["type"] != "token":
                pass
            connection.send(json.dumps({"type": "stop", "id": "long"}))
            assert until_end(connection.recv)["long"][-1]["finish_reason"] in ("cancelled", "stop")
            wait_until(lambda: engine.activity() == (0, 0))


def test_interleaved_generations_of_three_adapters_equal_sequential_ones(config: AppConfig, engine: LocalInference):
    """A2, G11, S5: on the real engine eight at once over one socket give what each gives alone."""
    services = Services.over(engine, config)
    app = gated(engine, config, services)
    models = ["starter", "starter:pirate", "starter:sql", "starter:json"]
    asked = {
        number: {
            "model_id": models[number % 4],
            "prompt": QUESTIONS[number % 3],
            "seed": number,
            "id": number,
        }
        | {"max_tokens": 16 + number, "temperature": 0.0 if number % 2 else 0.9}
        for number in range(8)
    }
    with listening(app) as address:
        asyncio.run(services.entries.load("starter", dtype="float32"))
        with opened(address) as connection:
            alone = {}
            for number, body in asked.items():
                connection.send(json.dumps(body))
                alone[number] = until_end(connection.recv)[number]
            for body in asked.values():
                connection.send(json.dumps(body))
            frames = []
            ended = 0
            while ended < len(asked):
                frames.append(json.loads(connection.recv()))
                ended += frames[-1]["type"] in ("complete", "error")
    together = {number: [frame for frame in frames if frame["id"] == number] for number in asked}
    assert {number: joined(one) for number, one in together.items()} == {
        number: joined(one) for number, one in alone.items()
    }
    assert {one[-1]["type"] for one in together.values()} == {"complete"}
    order = [frame["id"] for frame in frames if frame["type"] == "token"]
    assert order != sorted(order, key=order.index), "they came one after another"
    for one in together.values():
        assert [frame["index"] for frame in one if frame["type"] == "token"] == list(range(len(one) - 2))


def test_status_phases_are_never_frames(ws, fake: FakeEngine):
    """A2: only four kinds of frames exist; waiting and loading are silent."""
    fake.script = lambda: [GenerationEvent(Status("queued")), LOADING, text("x"), end()]
    ws.send_json(HELLO)
    frames = next(iter(until_end(ws.receive_json).values()))
    assert [frame["type"] for frame in frames] == ["start", "token", "complete"]
