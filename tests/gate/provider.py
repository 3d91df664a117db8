"""A provider of our own, standing in for Hugging Face: on this machine, with real sockets, real codes, real refusals."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qsl, urljoin, urlsplit

TOKEN = "hf_oauth_never_to_be_seen_again"
SECRET = "what only the Space knows"


@dataclass
class StandIn:
    """An OpenID provider: gives a code to whoever asks, takes each once and only with the verifier that belongs to it.

    ``ill`` maps a path to what it answers instead: a status, or bytes. ``asked`` are the requests it got.
    """

    url: str = ""
    account: object = "Ada-Lovelace"
    codes: dict[str, dict[str, str]] = field(default_factory=dict)
    ill: dict[str, int | bytes] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    held: threading.Event = field(default_factory=threading.Event)
    slow: str = ""

    def answer(self, path: str, query: dict[str, str], authorization: str) -> tuple[int, object]:
        """What is said to one request: a status, and an object for JSON or bytes as they are."""
        self.asked.append(path)
        if path == self.slow:
            self.held.wait(20)
        if path in self.ill:
            ill = self.ill[path]
            return (ill, {"error": TOKEN}) if isinstance(ill, int) else (200, ill)
        return {"/token": self._token, "/userinfo": self._userinfo}.get(path, self._discovery)(query, authorization)

    def _discovery(self, *_: object) -> tuple[int, object]:
        return 200, {f"{name}_endpoint": f"{self.url}/{name}" for name in ("authorization", "token", "userinfo")}

    def _token(self, query: dict[str, str], authorization: str) -> tuple[int, object]:
        begun = self.codes.pop(query["code"], None)
        challenge = base64.urlsafe_b64encode(hashlib.sha256(query["code_verifier"].encode()).digest()).rstrip(b"=")
        wanted = {"code_challenge": challenge.decode(), "redirect_uri": query["redirect_uri"], "client_id": "space"}
        basic = "Basic " + base64.b64encode(f"space:{SECRET}".encode()).decode()
        if begun is None or authorization != basic or any(begun[key] != value for key, value in wanted.items()):
            return 400, {"error": "invalid_grant"}
        return 200, {"access_token": TOKEN, "token_type": "bearer"}

    def _userinfo(self, _: dict[str, str], authorization: str) -> tuple[int, object]:
        return (200, {"preferred_username": self.account}) if authorization == f"Bearer {TOKEN}" else (401, {})

    def consent(self, location: str) -> str:
        """What the person does at the provider: the address that their browser is sent back to."""
        query = dict(parse_qsl(urlsplit(location).query))
        code = f"code-{len(self.codes)}-{len(self.asked)}"
        self.codes[code] = query
        return f"{urlsplit(query['redirect_uri']).path}?code={code}&state={query['state']}"


@contextmanager
def standing_in() -> Iterator[StandIn]:
    """One on a free port, until the end."""
    stand_in = StandIn()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path.startswith("/authorization?"):
                back = dict(parse_qsl(urlsplit(self.path).query))["redirect_uri"]
                self.send_response(303)
                self.send_header("Location", urljoin(back, stand_in.consent(self.path)))
                self.end_headers()
                return
            self._say(*stand_in.answer(self.path, {}, self.headers.get("Authorization", "")))

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"])).decode()
            self._say(*stand_in.answer(self.path, dict(parse_qsl(body)), self.headers.get("Authorization", "")))

        def _say(self, status: int, said: object) -> None:
            self.send_response(status)
            self.end_headers()
            try:
                self.wfile.write(said if isinstance(said, bytes) else json.dumps(said).encode())
            except OSError:
                self.close_connection = True  # whoever asked is gone, which some tests are about

        def log_message(self, *_: object) -> None:
            """Quiet."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    stand_in.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield stand_in
    finally:
        stand_in.held.set()
        server.shutdown()
        server.server_close()
        thread.join()


def environment(provider: StandIn) -> dict[str, str]:
    """What a Space with ``provider`` finds in its environment."""
    return {
        "OPENID_PROVIDER_URL": provider.url,
        "OAUTH_CLIENT_ID": "space",
        "OAUTH_CLIENT_SECRET": SECRET,
        "OAUTH_SCOPES": "openid profile",
    }
