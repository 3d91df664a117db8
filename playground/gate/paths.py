"""Which half of the house a path belongs to, and which paths are open to everybody."""

from __future__ import annotations

import re

API_PATHS = frozenset(
    {"/health", "/ready", "/metrics", "/openapi.json", "/models", "/strategies", "/generate", "/load_model"}
)
API_TREES = ("/v1", "/docs", "/api")
LOGIN_TREES = ("/login", "/logout")
OPEN = frozenset({"/health", "/ready", "/gradio_api/startup-events"})  # the last is asked by Gradio itself at its start
IMPORTS = "/api/inference/conversations/import"  # a whole history comes in here
UPLOADS = "/gradio_api/upload"
# What Gradio brings along and the pages never ask for: it fetches addresses for whoever names one (which the content
# security policy takes for our own), keeps what a page shows on disk for all who know its name, and prints what was asked.
_CLOSED = re.compile(
    r"/gradio_api/(?:file[=/].*://|proxy=|custom_component/|deep_link|stream/|process_recording|dev/|(?:undo-)?vibe-|runs|run-history)",
    re.IGNORECASE | re.DOTALL,
)


def is_api_path(path: str) -> bool:
    """True for the paths that the HTTP API owns."""
    return (path.rstrip("/") or "/") in API_PATHS or _is_in(API_TREES, path)


def is_closed_path(path: str) -> bool:
    """True for Gradio's doors that stay shut, wherever it is mounted."""
    return _CLOSED.search(path) is not None


def is_import_path(path: str) -> bool:
    """True where the API takes files of conversations, which are larger than other requests."""
    return path == IMPORTS


def is_upload_path(path: str) -> bool:
    """True where Gradio takes files: of any number, which the gate counts nowhere. Only a server of one's own has them."""
    return UPLOADS in path


def is_login_path(path: str) -> bool:
    """True for the paths at which one logs in and out, which the gate answers itself."""
    return _is_in(LOGIN_TREES, path)


def _is_in(trees: tuple[str, ...], path: str) -> bool:
    return any(path == tree or path.startswith(tree + "/") for tree in trees)
