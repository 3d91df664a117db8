"""The shapes of what the server says of itself."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, Field


class HealthReport(BaseModel):
    """Whether the server is well, and what it is doing."""

    status: Literal["healthy"]
    models_loaded: int = Field(description="How many base models are in memory.")
    available_models: list[str]
    version: str
    device: str = Field(description="Where the models run; `auto` until the first one is loaded.")
    uptime_seconds: float
    queue_depth: int = Field(description="Requests waiting for their turn.")
