"""Pages of other sites: closed, but for the API where the operator allows an origin, and never with a cookie."""

from __future__ import annotations

import pytest

from tests.gate.house import ELSEWHERE, KEY, PASSWORD, browser, log_in

FRIEND = "https://friend.example"
ASK = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization, content-type"}


def test_without_an_allowed_origin_there_is_no_preflight(tmp_path):
    """A6: CORS is closed by default."""
    refused = browser(tmp_path).options("/v1/chat/completions", headers={"Origin": FRIEND, **ASK})
    assert refused.status_code == 403
    assert "access-control-allow-origin" not in refused.headers


def test_a_page_of_an_allowed_origin_may_call_the_api(tmp_path):
    """A6: its preflight needs no key, its request does; what it may read is said; nothing of it is kept for others."""
    client = browser(tmp_path, allow_origins=(FRIEND,), api_keys=(KEY,))
    asked = client.options("/v1/chat/completions", headers={"Origin": FRIEND, **ASK})
    assert asked.status_code == 200
    assert asked.headers["access-control-allow-origin"] == FRIEND
    assert "authorization" in asked.headers["access-control-allow-headers"]
    for headers, status in (({}, 401), ({"Authorization": f"Bearer {KEY}"}, 200)):
        answer = client.post("/v1/chat/completions", headers={"Origin": FRIEND, **headers})
        assert answer.status_code == status
        assert answer.headers["access-control-allow-origin"] == FRIEND
        assert "X-Request-ID" in answer.headers["access-control-expose-headers"]
        assert "Retry-After" in answer.headers["access-control-expose-headers"]
        assert "access-control-allow-credentials" not in answer.headers
        assert "Origin" in answer.headers["vary"]


@pytest.mark.parametrize("origin", ["https://foe.example", "http://friend.example", f"{FRIEND}:8443", "null"])
def test_no_other_origin_gains_by_it(tmp_path, origin):
    """A6: scheme and port count."""
    client = browser(tmp_path, allow_origins=(FRIEND,))
    for answer in (
        client.options("/v1/models", headers={"Origin": origin, **ASK}),
        client.get("/v1/models", headers={"Origin": origin}),
    ):
        assert answer.status_code == 403
        assert "access-control-allow-origin" not in answer.headers


def test_the_pages_stay_closed_to_it(tmp_path):
    """A6: Gradio's routes and the login are nobody else's."""
    client = browser(tmp_path, allow_origins=(FRIEND,))
    for path in ("/", "/gradio_api/queue/join", "/config", "/login"):
        assert client.get(path, headers={"Origin": FRIEND}).status_code == 403


def test_a_cookie_never_counts_for_it(tmp_path):
    """A6: neither a login nor this machine makes another site's page anybody."""
    client = browser(tmp_path, allow_origins=(FRIEND,), auth={"anna": PASSWORD})
    log_in(client)
    assert client.get("/v1/models").json()["id"] == "user anna"
    assert client.get("/v1/models", headers={"Origin": FRIEND}).status_code == 401
    at_home = browser(tmp_path, allow_origins=(FRIEND,))
    told = at_home.get("/v1/models", headers={"Origin": FRIEND}).json()
    assert (told["kind"], told["admin"]) == ("address", False)
    with at_home.websocket_connect("ws://localhost:7860/api/inference/stream", headers={"Origin": FRIEND}) as ws:
        assert not ws.receive_json()["admin"]


def test_the_operator_can_name_the_hosts(tmp_path):
    """A6: then no other name is answered to; loopback's and the address that is listened on always are."""
    bound = {"host": "192.0.2.1", "client": ELSEWHERE, "allow_hosts": ("demo.example", "other.example:8080")}
    client = browser(tmp_path, **bound)
    for host, status in (
        ("demo.example", 200), ("DEMO.example:7860", 200), ("other.example", 200), ("192.0.2.1:7860", 200),
        ("localhost:7860", 200), ("evil.com", 403), ("demo.example.evil.com", 403), ("", 403),
    ):  # fmt: skip
        assert client.get("/health", headers={"Host": host}).status_code == status
    two = [("Host", "demo.example"), ("Host", "demo.example")]
    assert client.get("/health", headers=two).status_code == 403  # type: ignore[arg-type]
    at_home = browser(tmp_path, allow_hosts=("demo.example",))
    assert at_home.get("/health", headers={"Host": "demo.example"}).status_code == 200
    assert at_home.get("/health", headers={"Host": "evil.com"}).status_code == 403


def test_on_a_space_its_own_names_are_answered_to(tmp_path, monkeypatch):
    """R4: and the container's own address, by which the Hub asks for a sign of life."""
    monkeypatch.setenv("SPACE_ID", "somebody/space")
    monkeypatch.setenv("SPACE_HOST", "somebody-space.hf.space,demo.example")
    client = browser(tmp_path)
    for host, status in (
        ("somebody-space.hf.space", 200), ("demo.example", 200), ("10.0.0.3:7860", 200), ("evil.com", 403),
    ):  # fmt: skip
        assert client.get("/health", headers={"Host": host}).status_code == status


def test_every_answer_has_the_headers_of_its_half(tmp_path):
    """S3: nosniff, no powers, no other window's reach; the API's answers are never kept."""
    client = browser(tmp_path, api_keys=(KEY,))
    for path in ("/", "/v1/models", "/login", "/health"):
        headers = client.get(path).headers
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["cross-origin-opener-policy"] == "same-origin"
        assert "camera=()" in headers["permissions-policy"]
        assert "strict-transport-security" not in headers
        assert headers["cache-control"] == ("private, no-cache" if path == "/" else "no-store")
    assert "default-src 'self'" in client.get("/v1/models").headers["content-security-policy"]
    files = browser(tmp_path).get("/docs/swagger-ui.css").headers
    assert files["cache-control"] == "no-cache"  # a large file, which may be kept when it is asked about again
