"""The pages without a server: one configuration, one kind of event loop, and what pops up."""

from __future__ import annotations

import pytest

from playground.config import AppConfig, load_config
from playground.ui import wiring


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module")
def config() -> AppConfig:
    return load_config()


@pytest.fixture
def toasts(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What would have popped up; Gradio shows toasts only from inside its queue."""
    shown: list[str] = []
    monkeypatch.setattr(wiring, "toast", shown.append)
    return shown
