"""The shapes of what the server says of itself."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class HealthReport(BaseModel):
    """Whether the server is well, and what it is doing. Where keys are needed, a stranger is told ``status`` alone."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "status": "healthy",
                    "models_loaded": 1,
                    "available_models": ["starter", "gpt2", "qwen"],
                    "version": "0.1.0",
                    "device": "cpu",
                    "uptime_seconds": 12.5,
                    "queue_depth": 0,
                }
            ]
        }
    )

    status: Literal["healthy"]
    models_loaded: int | None = Field(default=None, description="How many base models are in memory.")
    available_models: list[str] | None = Field(default=None, description="The base models on offer.")
    version: str | None = None
    device: str | None = Field(default=None, description="Where the models run; `auto` until the first one is loaded.")
    uptime_seconds: float | None = None
    queue_depth: int | None = Field(default=None, description="Requests waiting for their turn.")


class ReadyReport(BaseModel):
    """Whether requests are taken. ``reason`` says why not."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"status": "ready", "reason": ""}]})

    status: Literal["ready", "not_ready"]
    reason: str
