"""Loading the first model on offer before anybody asks, where the operator wants that, and whether it is done."""

from __future__ import annotations

import logging
import threading

from playground.config import AppConfig
from playground.errors import PlaygroundError
from playground.local_inference import LocalInference
from playground.services.models import Models

_LOG = logging.getLogger(__name__)


class Preload:
    """Loads one model in the background, once. ``pending`` is True until that has ended, however it ended."""

    def __init__(self, engine: LocalInference, models: Models, config: AppConfig) -> None:
        self._engine, self._models = engine, models
        self._first = next(iter(config.models), "") if config.preload else ""
        self.pending = bool(self._first)

    def start(self) -> None:
        """Begin, unless nothing is to be loaded; returns at once."""
        if self.pending:
            threading.Thread(target=self.run, name="preload", daemon=True).start()

    def run(self) -> None:
        """Load it, and come back when it is there; a failure is a line in the log: models are loaded on first use, too."""
        try:
            self._engine.load(self._models.spec(self._first))
        except PlaygroundError as error:
            _LOG.warning("Preloading %s failed: %s", self._first, error)
        finally:
            self.pending = False
