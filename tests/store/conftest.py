"""Conversations to store, and stores to put them into."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from playground.store import Store

STORAGES = ("memory", "journal")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where a history is kept; not made yet."""
    return tmp_path / "data" / "history"


@pytest.fixture(params=STORAGES)
def store(request: pytest.FixtureRequest, folder: Path) -> Iterator[Store]:
    """A store over each storage that there is."""
    opened = Store.in_memory() if request.param == "memory" else Store.open(folder)
    yield opened
    opened.close()
