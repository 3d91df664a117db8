"""How often somebody may ask: rates by address and by key, kept in memory."""

from __future__ import annotations

from playground.config import AppConfig
from playground.types import Caller


class Limits:
    """Counts requests for text. One request is counted for its caller and for the address that it came from."""

    def __init__(self, config: AppConfig) -> None:
        self._config = config

    def admit(self, caller: Caller) -> None:
        """Count one request of ``caller``. Raises `RateLimited` when that is one too many; it is not counted then."""
