"""Long work that goes on when whoever asked for it has left, and after a restart: one file for each job, one worker."""

from __future__ import annotations

from pathlib import Path

from playground.services.generation import Generation


class Jobs:
    """Runs requests in the background. ``folder`` keeps their states, one JSON file each."""

    def __init__(self, generation: Generation, folder: Path) -> None:
        self._generation = generation
        self._folder = folder
