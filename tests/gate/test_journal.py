"""Request ids and the access log: a line for each request, and nothing in it that somebody wrote."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator

import pytest
from starlette.testclient import TestClient
from starlette.websockets import WebSocketDisconnect

from playground.config import AppConfig
from playground.gate import Gate, journal
from tests.api.conftest import HELLO
from tests.gate.house import BROWSER, KEY, PASSWORD, browser, log_in


class Lines(logging.Handler):
    """Keeps what is written."""

    def __init__(self) -> None:
        super().__init__()
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.texts.append(self.format(record))

    def read(self) -> list[dict]:
        """The lines so far, which are JSON and one line each."""
        assert not any("\n" in text or "\r" in text for text in self.texts)
        return [json.loads(text) for text in self.texts]


@pytest.fixture
def lines() -> Iterator[Lines]:
    kept = Lines()
    journal.switch(True)
    journal.LOG.handlers = [kept]
    yield kept
    journal.LOG.handlers = []
    journal.switch(False)


def test_every_answer_carries_the_requests_id(tmp_path):
    """A6: the client's own where it is a plain one, else a new one; on refusals and failures, too."""
    client = browser(tmp_path, api_keys=(KEY,))
    mine = {"X-Request-ID": "Abc-1_2.3"}
    for path, headers, status in (
        ("/", {}, 200), ("/health", {}, 200), ("/v1/models", {}, 401), ("/", {"Host": "evil.com"}, 403),
        ("/bug", {}, 500), ("/v1/bug", {"x-api-key": KEY}, 500), ("/login", {}, 303), ("/login/x", {}, 404),
    ):  # fmt: skip
        answer = client.get(path, headers=mine | headers)
        assert (answer.status_code, answer.headers["x-request-id"]) == (status, "Abc-1_2.3")
    for odd in ("", "a b", "x" * 65, "a\tb", "é".encode(), "<x>"):
        made = client.get("/", headers={"X-Request-ID": odd}).headers["x-request-id"]
        assert len(made) == 32
        assert made != client.get("/", headers={"X-Request-ID": odd}).headers["x-request-id"]
    with client.websocket_connect("ws://localhost:7860/x", headers=mine) as ws:
        assert (b"x-request-id", b"Abc-1_2.3") in ws.extra_headers


def test_a_bug_is_told_in_the_errors_shape_and_without_its_words(tmp_path):
    """A6: by the gate, where the house behind it fails before it has answered."""

    async def broken(scope, receive, send):
        raise ZeroDivisionError("with the words of somebody")

    gate = Gate(broken, broken, AppConfig(data_dir=tmp_path))
    client = TestClient(gate, base_url="http://localhost", raise_server_exceptions=False)
    for path in ("/", "/v1/models"):
        failed = client.get(path)
        assert failed.status_code == 500
        assert failed.json()["error"]["code"] == "internal_error"
        assert "words of somebody" not in failed.text


def test_a_request_is_one_line(tmp_path, lines):
    """A6: when, which, who, how long, how much; no query."""
    client = browser(tmp_path, api_keys=(KEY,))
    answer = client.get("/v1/models?prompt=my-secret", headers={"x-api-key": KEY, "X-Request-ID": "r1"})
    (line,) = lines.read()
    assert line["time"].endswith("+00:00")
    assert (line["id"], line["method"], line["path"], line["status"]) == ("r1", "GET", "/v1/models", 200)
    assert line["bytes"] == len(answer.content)
    assert line["ms"] >= 0
    assert line["caller"] == answer.json()["id"]
    assert line["address"] == "127.0.0.1"
    client.head("/health")
    assert lines.read()[-1]["bytes"] == 0


def test_nobody_writes_a_line_of_their_own(tmp_path, lines):
    """A6: paths are encoded and cut, methods are letters."""
    client = browser(tmp_path)
    client.get("/x%0a%7B%22status%22:1%7D\u2028é")
    client.get("/" + "y" * 5000)
    client.request('G"ET', "/")
    odd, long, method = lines.read()
    assert odd["path"] == "/x%0A%7B%22status%22%3A1%7D%E2%80%A8%C3%A9"
    assert len(long["path"]) == 200
    assert method["method"] == "?"


def test_a_socket_is_two_lines(tmp_path, lines):
    """A6: opened, and closed with what was sent; a refused one is one."""
    client = browser(tmp_path)
    with client.websocket_connect("ws://localhost:7860/x") as ws:
        ws.receive_json()
        (opened,) = lines.read()
    assert (opened["event"], opened["method"], opened["status"]) == ("opened", "WS", 101)
    closed = lines.read()[1]
    assert closed["event"] == "closed"
    assert closed["bytes"] > 0
    foreign = {"Origin": "http://evil.com"}
    with pytest.raises(WebSocketDisconnect), client.websocket_connect("ws://localhost:7860/x", headers=foreign):
        pass
    assert lines.read()[2]["status"] == 403
    assert len(lines.texts) == 3


def test_passwords_keys_and_cookies_are_in_no_line(tmp_path, lines):
    """S3: neither right nor wrong ones."""
    client = browser(tmp_path, auth={"anna": PASSWORD}, api_keys=(KEY,))
    client.get("/v1/models", headers={"Authorization": f"Bearer {KEY}"})
    client.get("/v1/models", headers={"Authorization": "Bearer sk-wrong-key"})
    log_in(client, password="a-wrong-password")
    log_in(client)
    client.get("/", headers=BROWSER)
    written = "\n".join(lines.texts)
    assert len(lines.texts) == 5
    for secret in (KEY, "sk-wrong-key", PASSWORD, "a-wrong-password", *client.cookies.values()):
        assert secret not in written
    assert lines.read()[-1]["caller"] == "user anna"


def test_no_prompt_and_no_answer_reaches_any_log(client, lines, caplog, fake):
    """S3, A6: the real API: answers, errors and refused fields, with all loggers listening."""
    caplog.set_level(logging.DEBUG)
    words = "the-secret-of-the-prompt"
    message = [{"role": "user", "content": words}]
    for body in (
        {"messages": message}, {"messages": message, "stream": True}, {"messages": message, words: 1},
        {"messages": message, "temperature": words}, {"messages": message, "model": "none-such"}, {"messages": words},
    ):  # fmt: skip
        client.post("/v1/chat/completions", json=HELLO | body, headers={"Authorization": f"Bearer {KEY}"})
    assert len(lines.texts) == 6
    everything = "\n".join([*lines.texts, *(record.getMessage() for record in caplog.records), caplog.text])
    assert words not in everything
    assert KEY not in everything


def test_it_is_written_only_where_the_operator_wants_it(tmp_path, capfd):
    """A6: to stderr."""
    for on in (False, True, False):
        journal.switch(on)
        browser(tmp_path).get("/health", headers={"X-Request-ID": f"asked-{on}"})
    written = capfd.readouterr()
    assert written.err.count("\n") == 1
    assert json.loads(written.err)["id"] == "asked-True"
    assert written.out == ""
