"""Who is asking: one caller for pages, API and WebSockets; keys, logins, browsers and addresses."""

from __future__ import annotations

import hashlib

import pytest
from starlette.datastructures import Headers
from starlette.websockets import WebSocketDisconnect

from playground.gate.addresses import is_here
from tests.gate.house import ADMIN_KEY, BROWSER, ELSEWHERE, HERE, KEY, PASSWORD, browser, log_in

AUTH = {"anna": PASSWORD, "ben": "another one"}
CLOSED = [
    "/v1/models",
    "/api/inference/models/loaded",
    "/generate",
    "/models",
    "/strategies",
    "/metrics",
    "/openapi.json",
]


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def asked(client, path="/v1/models", **more):
    return client.get(path, **more).json()


@pytest.mark.parametrize("path", [*CLOSED, "/docs"])
def test_with_keys_the_api_is_for_those_who_have_one(tmp_path, path):
    """A6: 401 in the error's shape for nobody and for a wrong key; a right one comes in, in either header."""
    client = browser(tmp_path, api_keys=(KEY,))
    for headers in ({}, bearer("sk-wrong-key"), {"Authorization": f"Basic {KEY}"}, {"x-api-key": KEY + "x"}):
        refused = client.get(path, headers=headers)
        assert (refused.status_code, refused.headers["www-authenticate"]) == (401, "Bearer")
        error = refused.json()["error"]
        assert error["code"] == "invalid_api_key"
        assert ("remedy" in error) is not path.startswith("/v1")
    for headers in (bearer(KEY), {"Authorization": f"bearer  {KEY}"}, {"x-api-key": KEY}):
        assert client.get(path, headers=headers).json()["half"] == "api"


def test_a_key_is_known_by_its_hash_and_never_shown(tmp_path):
    """S3: the caller's id and name hold nothing of the key."""
    client = browser(tmp_path, api_keys=(KEY, "sk-a-second-key"), admin_key=ADMIN_KEY)
    told = asked(client, headers=bearer(KEY))
    assert told["id"] == f"key {hashlib.sha256(KEY.encode()).hexdigest()[:12]}"
    assert KEY not in str(told)
    assert not told["admin"]
    admin = asked(client, headers=bearer(ADMIN_KEY))
    assert (admin["kind"], admin["admin"]) == ("key", True)
    assert len({told["id"], admin["id"], asked(client, headers=bearer("sk-a-second-key"))["id"]}) == 3


def test_health_is_open_to_everybody(tmp_path):
    """A6: also with a wrong key; who asks is known there, too."""
    client = browser(tmp_path, api_keys=(KEY,), auth=AUTH)
    for path in ("/health", "/ready"):
        assert asked(client, path)["kind"] == "address"
        assert asked(client, path, headers=bearer("sk-wrong-key"))["kind"] == "address"
        assert asked(client, path, headers=bearer(KEY))["kind"] == "key"


def test_with_keys_alone_the_pages_stay_open(tmp_path):
    """A6: keys are for programs; a password closes the pages."""
    assert asked(browser(tmp_path, api_keys=(KEY,)), "/", headers=BROWSER)["half"] == "pages"


def test_without_keys_any_key_is_passed_over(tmp_path):
    """A4: clients must send some key, and this server knows none."""
    client = browser(tmp_path)
    assert asked(client, headers=bearer("none"))["id"] == "address 127.0.0.1"
    assert asked(browser(tmp_path, admin_key=ADMIN_KEY), headers=bearer("none"))["kind"] == "address"


@pytest.mark.parametrize("path", ["/", "/?view=chat", "/config", "/gradio_api/queue/data"])
def test_with_a_password_pages_are_for_those_who_log_in(tmp_path, path):
    """A6, S2: browsers are sent to the login, what scripts fetch is 401 and never a page."""
    client = browser(tmp_path, auth=AUTH)
    for headers in (BROWSER | {"Sec-Fetch-Mode": "navigate"}, BROWSER):
        sent = client.get(path, headers=headers)
        assert sent.status_code == 303
        assert sent.headers["location"].startswith("/login?next=%2F")
    for headers in ({"Accept": "text/event-stream"}, BROWSER | {"Sec-Fetch-Mode": "cors"}):
        assert client.get(path, headers=headers).json()["error"]["code"] == "invalid_api_key"
    assert client.post(path, headers=BROWSER).status_code == 401
    assert log_in(client).status_code == 303
    assert asked(client, path)["id"] == "user anna"


def test_a_login_opens_the_api_and_its_documentation(tmp_path):
    """A6: one identity; a browser that wants /docs is sent to the login, a program gets 401."""
    client = browser(tmp_path, auth=AUTH, api_keys=(KEY,))
    assert client.get("/docs", headers=BROWSER).headers["location"] == "/login?next=%2Fdocs"
    assert client.get("/docs").status_code == 401
    log_in(client)
    for path in (*CLOSED, "/docs"):
        assert asked(client, path)["id"] == "user anna"
    assert asked(client, headers=bearer(KEY))["kind"] == "key"
    assert client.get("/v1/models", headers=bearer("sk-wrong-key")).status_code == 401
    assert client.post("/v1/chat/completions", headers={"Origin": "http://localhost:7860"}).json()["kind"] == "user"


def test_a_socket_is_refused_at_its_handshake_and_known_after_it(tmp_path):
    """A2, A6: the same rules and the same caller for WebSockets."""
    client = browser(tmp_path, auth=AUTH)
    url = "ws://localhost:7860/api/inference/stream"
    with pytest.raises(WebSocketDisconnect), client.websocket_connect(url):
        pass
    log_in(client)
    with client.websocket_connect(url, headers={"Origin": "http://localhost:7860"}) as ws:
        assert ws.receive_json()["id"] == "user anna"


def test_a_guest_is_a_browser_that_is_known_again(tmp_path):
    """A6: a random cookie, handed out with the first page only; its number is nowhere else."""
    client = browser(tmp_path)
    assert asked(client, "/config")["kind"] == "address"
    assert not client.cookies
    first = client.get("/", headers=BROWSER)
    cookie = first.headers["set-cookie"]
    assert cookie.startswith("playground_guest_7860=")
    for word in ("HttpOnly", "SameSite=Lax", "Path=/", "Max-Age=31536000"):
        assert word in cookie
    assert "Secure" not in cookie
    again = client.get("/", headers=BROWSER)
    assert "set-cookie" not in again.headers
    assert first.json()["id"] == again.json()["id"] == asked(client, "/v1/models")["id"]
    assert first.json()["kind"] == "guest"
    assert client.cookies["playground_guest_7860"] not in again.text
    assert browser(tmp_path).get("/", headers=BROWSER).json()["id"] != first.json()["id"]


@pytest.mark.parametrize("value", ["", "short", "x" * 500, "a" * 31 + "!", '"quoted"'])
def test_a_guests_cookie_that_is_none_is_replaced(tmp_path, value):
    """A6: nobody chooses their own number."""
    client = browser(tmp_path)
    told = client.get("/", headers=BROWSER | {"Cookie": f"playground_guest_7860={value}"})
    assert told.json()["kind"] == "guest"
    assert "playground_guest_7860" in told.headers["set-cookie"]


def test_a_guest_is_nobody_where_a_login_or_a_key_is_wanted(tmp_path):
    """A6: the cookie proves nothing."""
    client = browser(tmp_path)
    client.get("/", headers=BROWSER)
    guest = {"Cookie": f"playground_guest_7860={client.cookies['playground_guest_7860']}"}
    closed = browser(tmp_path, auth=AUTH, api_keys=(KEY,))
    assert closed.get("/", headers=BROWSER | guest).status_code == 303
    assert closed.get("/v1/models", headers=guest).status_code == 401


RELAYS = [{"X-Forwarded-For": "192.0.2.1"}, {"Forwarded": "for=192.0.2.1"}, {"X-Forwarded-Host": "a"}, {"Via": "1.1 a"},
          {"CF-Connecting-IP": "192.0.2.1"}]  # fmt: skip


def test_on_ones_own_machine_everybody_is_the_administrator(tmp_path):
    """A6: loopback on both ends, and nothing in between."""
    assert asked(browser(tmp_path))["admin"]
    assert browser(tmp_path).get("/", headers=BROWSER).json()["admin"]
    for headers in RELAYS:
        assert not asked(browser(tmp_path), headers=headers)["admin"]
    assert not asked(browser(tmp_path, client=ELSEWHERE))["admin"]
    assert not asked(browser(tmp_path, host="0.0.0.0"))["admin"]
    assert not is_here({"client": HERE, "http_version": "1.0"}, Headers())  # nginx as it comes
    assert is_here({"client": HERE, "http_version": "1.1"}, Headers())
    named = browser(tmp_path, allow_hosts=("demo.example",))  # what a proxy on this machine would send
    assert not asked(named, headers={"Host": "demo.example"})["admin"]
    assert not asked(browser(tmp_path, host="0.0.0.0", client=ELSEWHERE))["admin"]


def test_with_a_key_or_a_login_it_takes_the_admin_key(tmp_path):
    """A6: API keys administrate nothing; on one's own machine a login does until there is an admin key."""
    assert not asked(browser(tmp_path, api_keys=(KEY,)), headers=bearer(KEY))["admin"]
    assert not browser(tmp_path, api_keys=(KEY,)).get("/", headers=BROWSER).json()["admin"]
    assert not asked(browser(tmp_path, admin_key=ADMIN_KEY))["admin"]
    assert asked(browser(tmp_path, admin_key=ADMIN_KEY, client=ELSEWHERE, host="::"), headers=bearer(ADMIN_KEY))[
        "admin"
    ]
    for config, admin in (({}, True), ({"admin_key": ADMIN_KEY}, False), ({"host": "0.0.0.0"}, False)):
        client = browser(tmp_path, auth=AUTH, client=HERE, **config)
        log_in(client)
        assert asked(client)["admin"] is admin
        assert not config or not asked(client, headers=RELAYS[0])["admin"]


def test_the_admin_key_is_the_password_of_admin(tmp_path):
    """A6: unless somebody of that name has one."""
    client = browser(tmp_path, admin_key=ADMIN_KEY, host="0.0.0.0", client=ELSEWHERE)
    assert asked(client, "/")["half"] == "pages"
    assert log_in(client, "admin", ADMIN_KEY).status_code == 303
    assert asked(client)["id"] == "user admin"
    assert asked(client)["admin"]
    named = browser(tmp_path, admin_key=ADMIN_KEY, auth={"admin": PASSWORD}, host="0.0.0.0")
    assert log_in(named, "admin", ADMIN_KEY).status_code == 401
    assert log_in(named, "admin", PASSWORD).status_code == 303
    assert not asked(named)["admin"]


def test_on_a_space_the_visitors_address_is_the_one_that_the_hub_saw(tmp_path, monkeypatch):
    """A6: what a visitor writes into the header himself counts for nothing."""
    headers = {"X-Forwarded-For": "8.8.8.8, 1.1.1.1, 10.0.0.3"}
    assert asked(browser(tmp_path), headers=headers)["address"] == "127.0.0.1"
    monkeypatch.setenv("SPACE_ID", "somebody/space")
    told = asked(browser(tmp_path), headers=headers)
    assert (told["address"], told["admin"]) == ("1.1.1.1", False)
