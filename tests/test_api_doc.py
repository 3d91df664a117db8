"""docs/api.md is true: its lines are run, in their order, against the app; each route of the API has one."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from playground.config import ROOT
from tests.conftest import LiveApp, started_app

WRITTEN = "http://127.0.0.1:7860"
PAGE = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```", PAGE, re.M | re.S)
LINES = [
    pytest.param(code, *BLOCKS[at + 1], id=re.findall(r"7860(/\S*)", code)[0])
    for at, (kind, code) in enumerate(BLOCKS)
    if kind == "bash"
]
UNDOCUMENTED: set[tuple[str, str]] = set()


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveApp]:
    """An app of its own: these lines load, swap and unload."""
    with started_app(tmp_path_factory.mktemp("api_doc")) as app:
        yield app


def holds(expected: Any, found: Any) -> bool:
    """Whether ``found`` has the shape of the example: its keys, at every depth; a list's first item stands for all."""
    if isinstance(expected, dict):
        return isinstance(found, dict) and all(
            key in found and holds(value, found[key]) for key, value in expected.items()
        )
    if isinstance(expected, list):
        return isinstance(found, list) and (not expected or (bool(found) and holds(expected[0], found[0])))
    return (
        isinstance(found, type(expected)) or (isinstance(expected, float) and isinstance(found, int)) or found is None
    )


@pytest.mark.long
@pytest.mark.parametrize(("code", "kind", "expected"), LINES)
def test_each_curl_line_does_what_the_page_says(fresh: LiveApp, tmp_path: Path, code: str, kind: str, expected: str):
    """A1–A4, A9: every documented line against a fresh app."""
    script = "set -euo pipefail\n" + code.replace(WRITTEN, fresh.url)
    done = subprocess.run(
        ["bash", "-c", script], cwd=tmp_path, check=False, capture_output=True, text=True, timeout=100
    )
    assert done.returncode == 0, done.stderr
    if kind == "json":
        assert holds(json.loads(expected), json.loads(done.stdout)), done.stdout
    else:
        assert expected.strip() in done.stdout


@pytest.mark.long
@pytest.mark.parametrize("code", [code for kind, code in BLOCKS if kind == "python"], ids=["websocket", "client"])
def test_the_python_of_the_page_runs(fresh: LiveApp, code: str):
    """A2, A4: the WebSocket example and the tiny client."""
    with httpx.Client(base_url=fresh.url, timeout=60) as http:
        http.post("/api/inference/load", json={"model_id": "starter", "use_case": "chatbot"}).raise_for_status()
    there = code.replace(WRITTEN, fresh.url).replace(WRITTEN.replace("http", "ws"), fresh.url.replace("http", "ws"))
    done = subprocess.run([sys.executable, "-c", there], check=False, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    assert "Paris" in done.stdout


def test_every_route_has_a_line_on_the_page(live_app: LiveApp):
    """A1: what is in OpenAPI is in docs/api.md."""
    paths = httpx.get(f"{live_app.url}/openapi.json").json()["paths"]
    shell = "\n".join(code for kind, code in BLOCKS if kind == "bash")
    for path, methods in paths.items():
        written = re.escape(path).replace(r"\{", "{").replace(r"\}", "}")
        pattern = re.sub(r"\{[^}]*\}", r"[^\\s/]+", written) + r"(?=[\s'\"]|$)"
        calls = [line for line in re.split(r"\n(?=\S)", shell) if re.search(f"7860{pattern}", line)]
        assert calls, f"{path} has no line"
        for method in methods:
            assert any(_method(call) == method.upper() for call in calls), f"{method} {path} has no line"


def _method(call: str) -> str:
    named = re.search(r"-X (\w+)", call)
    return named[1] if named else "POST" if " -d " in call else "GET"
