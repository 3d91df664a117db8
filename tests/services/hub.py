"""A hub of our own for datasets, on this machine: what `datasets` and huggingface_hub ask of the real one, and no more."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class Hub:
    """``repositories`` maps an id to its files; one that is in ``gated`` is refused.

    ``asked`` are the requests that it got, such as ``GET 127.0.0.1:5000 /api/datasets/org/name``.
    """

    repositories: Mapping[str, Mapping[str, bytes]] = field(default_factory=dict)
    gated: frozenset[str] = frozenset()
    url: str = ""
    asked: list[str] = field(default_factory=list)

    def answer(self, path: str) -> tuple[int, bytes, dict[str, str]]:
        """(status, body, headers) for one request."""
        parts = [unquote(part) for part in path.strip("/").split("/")]
        is_api = parts[0] == "api"
        rest = parts[1:] if is_api else parts
        repository, what = "/".join(rest[1:3]), rest[3:]
        if repository in self.gated:
            return 403, b"{}", {"X-Error-Code": "GatedRepo", "X-Error-Message": "Access to it is restricted."}
        if rest[0] != "datasets" or repository not in self.repositories:
            return 401, b"{}", {"X-Error-Code": "RepoNotFound"}
        files = self.repositories[repository]
        return self._described(repository, files, what) if is_api else _file(files, "/".join(what[2:]))

    def _described(
        self, repository: str, files: Mapping[str, bytes], what: list[str]
    ) -> tuple[int, bytes, dict[str, str]]:
        if what[:1] == ["tree"]:
            inside = [_entry(name, content) for name, content in files.items() if name.startswith("/".join(what[2:]))]
            return 200, json.dumps(inside).encode(), {}
        if what[:1] == ["paths-info"]:
            return 200, json.dumps([_entry(name, content) for name, content in files.items()]).encode(), {}
        names = [{"rfilename": name} for name in files]
        return 200, json.dumps({"id": repository, "sha": COMMIT, "siblings": names, "private": False}).encode(), {}


def _entry(name: str, content: bytes) -> dict[str, object]:
    return {"type": "file", "path": name, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}


def _file(files: Mapping[str, bytes], name: str) -> tuple[int, bytes, dict[str, str]]:
    if name not in files:
        return 404, b"", {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": COMMIT}
    etag = hashlib.sha1(files[name]).hexdigest()
    return 200, files[name], {"ETag": f'"{etag}"', "X-Repo-Commit": COMMIT, "Accept-Ranges": "bytes"}


@contextmanager
def hub_of(repositories: Mapping[str, Mapping[str, bytes]], gated: frozenset[str] = frozenset()) -> Iterator[Hub]:
    """A hub with these repositories, at its ``url`` until the end."""
    hub = Hub(repositories, gated)

    class Answering(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _answer(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            path = urlsplit(self.path).path
            hub.asked.append(f"{self.command} {self.headers.get('Host')} {path}")
            status, body, headers = hub.answer(path)
            asked = self.headers.get("Range", "")
            if status == 200 and asked.startswith("bytes="):
                first, _, last = asked.removeprefix("bytes=").partition("-")
                end = min(int(last or len(body) - 1), len(body) - 1)
                headers["Content-Range"] = f"bytes {first}-{end}/{len(body)}"
                status, body = 206, body[int(first) : end + 1]
            self.send_response(status)
            for key, value in {**headers, "Content-Length": str(len(body))}.items():
                self.send_header(key, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        do_GET = do_HEAD = do_POST = _answer

        def log_message(self, *_: object) -> None:
            """Nothing is printed."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Answering)
    server.daemon_threads = True
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
