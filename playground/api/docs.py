"""`/docs` and `/openapi.json`: Swagger UI from the installed package, so that they work without a network."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, FastAPI
from fastapi.openapi.utils import get_openapi
from fastapi.responses import FileResponse, HTMLResponse, Response
from starlette.exceptions import HTTPException
from swagger_ui_bundle import swagger_ui_path

ASSETS = ("swagger-ui.css", "swagger-ui-bundle.js", "favicon-32x32.png")
_KEY = {"type": "http", "scheme": "bearer", "description": "An API key, as the server's --api-key has it."}
_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Adapter Playground – HTTP API</title>
<link rel="icon" type="image/png" href="/docs/favicon-32x32.png">
<link rel="stylesheet" href="/docs/swagger-ui.css">
</head>
<body>
<div id="swagger-ui"></div>
<script src="/docs/swagger-ui-bundle.js"></script>
<script src="/docs/start.js"></script>
</body>
</html>
"""
_START = """SwaggerUIBundle({
  url: "/openapi.json",
  dom_id: "#swagger-ui",
  presets: [SwaggerUIBundle.presets.apis],
  deepLinking: true,
  validatorUrl: null,
});
"""


def router() -> APIRouter:
    """The documentation page and its files."""
    routes = APIRouter(prefix="/docs", include_in_schema=False)
    routes.add_api_route("", lambda: HTMLResponse(_PAGE), response_class=HTMLResponse)
    routes.add_api_route("/start.js", lambda: Response(_START, media_type="text/javascript"), response_class=Response)
    routes.add_api_route("/{name}", asset, response_class=FileResponse)
    return routes


def asset(name: str) -> FileResponse:
    """One of Swagger UI's files; anything else does not exist."""
    if name not in ASSETS:
        raise HTTPException(404, "There is no such file.")
    return FileResponse(swagger_ui_path / name)


def describe(app: FastAPI, needs_key: bool = False) -> dict[str, Any]:
    """The OpenAPI description of ``app``, in version 3.0.3, which is what the bundled Swagger UI reads.

    Where requests need a key, it says so, and the page has a place to enter one.
    """
    if app.openapi_schema is None:
        described = get_openapi(
            title=app.title, version=app.version, description=app.description, routes=app.routes, tags=app.openapi_tags
        )
        if needs_key:
            described["components"]["securitySchemes"] = {"key": _KEY}
            described["security"] = [{"key": []}]
        app.openapi_schema = {**as_version_3_0(described), "openapi": "3.0.3"}
    return app.openapi_schema


def as_version_3_0(node: Any) -> Any:
    """JSON Schema as OpenAPI 3.1 has it → as 3.0 has it: nullable, single-valued enum, one example."""
    if isinstance(node, list):
        return [as_version_3_0(item) for item in node]
    if not isinstance(node, dict):
        return node
    schema = {key: as_version_3_0(value) for key, value in node.items()}
    if "const" in schema:
        schema["enum"] = [schema.pop("const")]
    if isinstance(schema.get("examples"), list):
        schema["example"] = schema.pop("examples")[0]
    choices = schema.get("anyOf", [])
    if {"type": "null"} in choices:
        return _nullable(schema, [choice for choice in choices if choice != {"type": "null"}])
    return schema


def _nullable(schema: dict[str, Any], choices: list[Any]) -> dict[str, Any]:
    rest = {key: value for key, value in schema.items() if key != "anyOf"}
    if len(choices) > 1:
        return {**rest, "anyOf": choices, "nullable": True}
    if "$ref" in choices[0]:
        return {**rest, "allOf": choices, "nullable": True}
    if "enum" in choices[0]:  # in 3.0 null must be among them, too
        rest["enum"] = [*choices[0]["enum"], None]
    return {**choices[0], **rest, "nullable": True}
