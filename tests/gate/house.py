"""Two halves of a house behind a real gate: they say who asked, and what they were sent."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route, WebSocketRoute
from starlette.testclient import TestClient
from starlette.websockets import WebSocket

from playground.config import AppConfig
from playground.gate import Gate

HERE, ELSEWHERE = ("127.0.0.1", 50000), ("192.0.2.7", 50000)
KEY, ADMIN_KEY, PASSWORD = "sk-a-key-for-tests", "sk-an-admin-key-for-tests", "open sesame"
BROWSER = {"Accept": "text/html,application/xhtml+xml"}


def half(name: str) -> Starlette:
    """An application that answers everything with what it was told."""

    async def answer(request: Request) -> JSONResponse:
        if request.url.path.endswith("/bug"):
            raise ZeroDivisionError
        body = await request.body()
        return JSONResponse({"half": name, "bytes": len(body), **told(request.scope)})

    async def socket(ws: WebSocket) -> None:
        await ws.accept()
        await ws.send_json({"half": name, **told(ws.scope)})
        async for text in ws.iter_text():
            await ws.send_json({"bytes": len(text)})

    methods = ["GET", "POST", "PUT", "DELETE", "OPTIONS"]
    return Starlette(routes=[Route("/{path:path}", answer, methods=methods), WebSocketRoute("/{path:path}", socket)])


def told(scope: Any) -> dict[str, Any]:
    """Who asks, as the gate says."""
    caller = scope["state"]["caller"]
    return {"id": caller.id, "kind": caller.kind, "name": caller.name, "admin": caller.admin, "address": caller.address}


def browser(
    folder: Path, client: tuple[str, int] = HERE, url: str = "http://localhost:7860", gate: Any = None, **config: Any
) -> TestClient:
    """A client of the house under this configuration; it keeps cookies, and follows nothing."""
    settings = AppConfig(data_dir=folder, **config)
    guarded = Gate(half("pages"), half("api"), settings, **(gate or {}))
    return TestClient(guarded, base_url=url, client=client, follow_redirects=False, raise_server_exceptions=False)


def log_in(client: TestClient, name: str = "anna", password: str = PASSWORD, **more: Any) -> Any:
    """Send the form of the login page."""
    return client.post("/login", data={"name": name, "password": password, **more.pop("data", {})}, **more)
