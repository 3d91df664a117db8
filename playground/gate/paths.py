"""Which half of the house a path belongs to, and which paths are open to everybody."""

from __future__ import annotations

API_PATHS = frozenset(
    {"/health", "/ready", "/metrics", "/openapi.json", "/models", "/strategies", "/generate", "/load_model"}
)
API_TREES = ("/v1", "/docs", "/api/inference")
LOGIN_TREES = ("/login", "/logout")
OPEN = frozenset({"/health", "/ready", "/gradio_api/startup-events"})  # the last is asked by Gradio itself at its start
UPLOADS = "/gradio_api/upload"


def is_api_path(path: str) -> bool:
    """True for the paths that the HTTP API owns."""
    return path in API_PATHS or _is_in(API_TREES, path)


def is_login_path(path: str) -> bool:
    """True for the paths at which one logs in and out, which the gate answers itself."""
    return _is_in(LOGIN_TREES, path)


def _is_in(trees: tuple[str, ...], path: str) -> bool:
    return any(path == tree or path.startswith(tree + "/") for tree in trees)
