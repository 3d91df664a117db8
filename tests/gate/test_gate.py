"""The gate: who may come in, where a request goes, what a page may do."""

from __future__ import annotations

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route, WebSocketRoute
from starlette.testclient import TestClient
from starlette.websockets import WebSocket, WebSocketDisconnect

from playground.config import AppConfig
from playground.gate import Gate
from playground.gate.origins import is_own
from tests.api.conftest import HELLO
from tests.gate.house import half

LOCAL = [
    "localhost",
    "localhost:7860",
    "LOCALHOST:1",
    "127.0.0.1",
    "127.0.0.1:9000",
    "[::1]",
    "[::1]:7860",
    "127.8.0.1",
]
FOREIGN = [
    "evil.com",
    "evil.com:7860",
    "localhost.evil.com",
    "127.0.0.1.evil.com",
    "192.168.1.5:7860",
    "",
    "[",
    "evil.com@localhost",
]


def house(name: str) -> Starlette:
    async def answer(request: Request) -> PlainTextResponse:
        return PlainTextResponse(f"{name} {len(await request.body())}")

    async def socket(ws: WebSocket) -> None:
        await ws.accept()
        await ws.send_text(name)
        await ws.close()

    return Starlette(
        routes=[Route("/{path:path}", answer, methods=["GET", "POST"]), WebSocketRoute("/{path:path}", socket)]
    )


def gate(bound_to: str = "127.0.0.1", **options: object) -> TestClient:
    guarded = Gate(house("pages"), house("api"), AppConfig(host=bound_to), **options)  # type: ignore[arg-type]
    return TestClient(guarded, base_url="http://localhost:7860")


@pytest.mark.parametrize(
    ("path", "house"),
    [
        ("/", "pages"),
        ("/health", "api"),
        ("/healthy", "pages"),
        ("/v1/models", "api"),
        ("/v1", "api"),
        ("/v11", "pages"),
        ("/docs", "api"),
        ("/docs/swagger-ui.css", "api"),
        ("/openapi.json", "api"),
        ("/ready", "api"),
        ("/metrics", "api"),
        ("/models", "api"),
        ("/models/x", "pages"),
        ("/strategies", "api"),
        ("/generate", "api"),
        ("/load_model", "api"),
        ("/api/inference/load", "api"),
        ("/api/inference", "api"),
        ("/api/zzz", "api"),
        ("/generate/", "api"),
        ("/config", "pages"),
        ("/gradio_api/info", "pages"),
        ("/gradio_api/queue/join", "pages"),
        ("/gradio_api/v1/models", "pages"),
    ],
)
def test_each_path_goes_to_its_house(path, house):
    """A4, R1: one port for the pages and the API, HTTP and WebSocket."""
    client = gate()
    assert client.get(path).text.startswith(house)
    with client.websocket_connect(f"ws://localhost:7860{path}") as ws:
        assert ws.receive_text() == house


@pytest.mark.parametrize("host", LOCAL)
def test_loopback_names_come_in_with_any_port(host):
    """A6: port forwarding and IPv6 included."""
    assert gate().get("/health", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize("host", FOREIGN)
@pytest.mark.parametrize("path", ["/health", "/"])
def test_a_foreign_name_for_this_machine_is_refused(host, path):
    """A6: DNS rebinding: bound to loopback, the server answers to loopback names only."""
    response = gate().get(path, headers={"Host": host})
    assert response.status_code == 403
    assert "localhost" in response.json()["error"]["message"]


def test_bound_to_the_network_any_name_comes_in():
    """A6: the machine's own name is not known to the server then."""
    assert gate(bound_to="0.0.0.0").get("/health", headers={"Host": "my-server:7860"}).status_code == 200


@pytest.mark.parametrize(
    "origin", ["http://evil.com", "http://localhost:3000", "null", "http://localhost:7860.evil.com", ""]
)
@pytest.mark.parametrize("bound_to", ["127.0.0.1", "0.0.0.0"])
def test_another_sites_page_is_refused(origin, bound_to):
    """A6: over HTTP and WebSocket, whatever the server is bound to."""
    client = gate(bound_to=bound_to)
    headers = {"Origin": origin}
    for path in ("/v1/chat/completions", "/gradio_api/queue/join"):
        assert client.post(path, headers=headers).status_code == 403
        with (
            pytest.raises(WebSocketDisconnect),
            client.websocket_connect(f"ws://localhost:7860{path}", headers=headers),
        ):
            pass


def test_the_pages_own_requests_come_in():
    """A6: same origin, over HTTP and WebSocket."""
    client, headers = gate(), {"Origin": "http://localhost:7860"}
    assert client.post("/v1/chat/completions", headers=headers).status_code == 200
    with client.websocket_connect("ws://localhost:7860/x", headers=headers) as ws:
        assert ws.receive_text() == "pages"


@pytest.mark.parametrize(
    ("origin", "host", "https", "own"),
    [
        ("http://a.org", "a.org", False, True),
        ("http://a.org", "a.org:80", False, True),
        ("https://a.org", "a.org:443", True, True),
        ("https://a.org", "a.org", False, True),  # a proxy in front that does not say so
        ("http://a.org", "a.org", True, False),
        ("https://a.org:8443", "a.org", True, False),
        ("http://A.ORG:7860", "a.org:7860", False, True),
        ("http://[::1]:7860", "[::1]:7860", False, True),
        ("http://a.org/", "a.org", False, False),
        ("http://a.org@b.org", "a.org", False, False),
        ("http://a.org:x", "a.org:x", False, False),
        ("ftp://a.org", "a.org", False, False),
        ("null", "", False, False),
        ("http://", "", False, False),
    ],
)
def test_an_origin_is_the_apps_own_or_it_is_not(origin, host, https, own):
    """A6: scheme, name and port; behind https a plain page is another site."""
    assert is_own(origin, host, https) is own


def test_a_link_from_another_site_may_be_followed_but_not_embedded():
    """A6: browsers say so in Sec-Fetch-*."""
    cross = {"Sec-Fetch-Site": "cross-site"}
    assert gate().get("/", headers=cross | {"Sec-Fetch-Mode": "navigate"}).status_code == 200
    assert gate().post("/", headers=cross | {"Sec-Fetch-Mode": "navigate"}).status_code == 403
    for site in ("cross-site", "same-site"):
        headers = {"Sec-Fetch-Site": site, "Sec-Fetch-Mode": "no-cors"}
        assert gate().get("/v1/models", headers=headers).status_code == 403


def test_a_page_can_neither_fetch_nor_frame_nor_post_elsewhere():
    """S3: the content security policy on pages; the API's own is tighter."""
    page = gate().get("/").headers["content-security-policy"]
    for directive in (
        "connect-src 'self'",
        "img-src 'self' data: blob:",
        "frame-src 'self'",
        "frame-ancestors 'self'",
        "form-action 'self'",
    ):
        assert directive in page
    assert "unsafe-eval" not in gate().get("/docs").headers["content-security-policy"]
    assert (
        "huggingface.co"
        in gate(frame_ancestors="'self' https://huggingface.co").get("/").headers["content-security-policy"]
    )


def test_a_body_over_the_limit_is_413_however_it_is_sent(client):
    """A6: with a length and in chunks, in OpenAI's shape."""
    whole = b" " * (5 * 1024 * 1024)
    for content in (whole, iter([whole[:3_000_000], whole[3_000_000:]])):
        response = client.post("/v1/chat/completions", content=content, headers={"Content-Type": "application/json"})
        assert response.status_code == 413
        assert "larger" in response.json()["error"]["message"]
    assert client.post("/v1/chat/completions", json=HELLO).status_code == 200


def test_uploads_to_the_pages_are_not_the_gates_business():
    """P8: Gradio has a limit of its own for files."""
    assert gate(max_body_bytes=10).post("/gradio_api/upload", content=b"x" * 100).text == "pages 100"


@pytest.mark.parametrize("path", [
    "/gradio_api/file=https://evil.com/?what-was-said", "/gradio_api/file=HTTP://evil.com", "/gradio_api/file/http://evil.com",
    "/mounted/gradio_api/file=https://evil.com/", "/gradio_api/proxy=https://a.hf.space/", "/gradio_api/proxy=x",
    "/gradio_api/custom_component/a%0Aline/client/b/c", "/gradio_api/deep_link?session_hash=a", "/gradio_api/dev/reload",
    "/gradio_api/vibe-code", "/gradio_api/undo-vibe-edit", "/gradio_api/stream/a/1/2/playlist.m3u8",
    "/gradio_api/process_recording", "/gradio_api/runs", "/gradio_api/run-history/records",
])  # fmt: skip
@pytest.mark.parametrize("method", ["GET", "HEAD", "POST"])
def test_gradios_doors_that_the_pages_do_not_use_are_shut(method, path):
    """S2, S3: an image whose address is our own, and that the server fetches from elsewhere, would phone home."""
    assert gate().request(method, path).status_code == 404


@pytest.mark.parametrize("path", [
    "/gradio_api/file=/tmp/gradio/0a/adapter.zip", "/gradio_api/run/predict", "/gradio_api/queue/data", "/gradio_api/info",
    "/assets/proxy=-1a.js", "/gradio_api/heartbeat/a",
])  # fmt: skip
def test_gradios_other_doors_are_its_own(path):
    """S3: only what is named is shut."""
    assert gate().post(path).status_code != 404


@pytest.mark.parametrize(
    ("at", "bound_to", "status"),
    [("192.0.2.7", "127.0.0.1", 403), ("[2001:db8::7]", "localhost", 403), ("192.0.2.7", "0.0.0.0", 200),
     ("127.0.0.1", "127.0.0.1", 200), ("[::1]", "127.0.0.1", 200), ("[::ffff:127.0.0.1]", "::1", 200),
     ("server", "127.0.0.1", 200)],
)  # fmt: skip
def test_what_is_configured_for_this_machine_serves_no_other_network(at, bound_to, status):
    """S2: uvicorn --host 0.0.0.0 beside a configuration that says loopback, and a Host header that says so as well."""
    client = TestClient(Gate(half("pages"), half("api"), AppConfig(host=bound_to)), base_url=f"http://{at}:8000")
    response = client.get("/health", headers={"Host": "localhost"})
    assert response.status_code == status
    assert status == 200 or "PLAYGROUND_HOST" in response.json()["error"]["message"]


def test_no_files_are_taken_from_others():
    """S2: Gradio keeps on disk what it is sent, before anything of ours looks at it; shared pages have no use for files."""
    shared = TestClient(Gate(half("pages"), half("api"), AppConfig(free_paths=False)), base_url="http://localhost:7860")
    for path in ("/gradio_api/upload", "/gradio_api/upload/", "/gradio_api/upload_progress"):
        assert shared.post(path, files={"files": b"x"}).status_code == 404
        assert gate().post(path, files={"files": b"x"}).status_code == 200
