"""Answers → what `/api/inference` and `/generate` tell of them. Pure functions."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from playground.services.answers import Answer


def moment(seconds: float | None = None) -> str:
    """``seconds`` since 1970, or now, in ISO 8601 (UTC)."""
    when = datetime.now(UTC) if seconds is None else datetime.fromtimestamp(seconds, UTC)
    return when.isoformat(timespec="milliseconds")


def megabytes(count: float) -> float:
    """``count`` bytes in millions."""
    return round(count / 1e6, 1)


def report(answer: Answer, notices: Sequence[str]) -> dict[str, Any]:
    """One finished answer with what it took; ``cached`` and ``notices`` only where there is something to say."""
    stats, made = answer.stats, answer.provenance
    speed = stats.tokens_per_second
    told: dict[str, Any] = {
        "response": answer.text,
        "generation_time_seconds": round(stats.elapsed_s, 4),
        "tokens_generated": stats.completion_tokens,
        "prompt_tokens": stats.prompt_tokens,
        "reused_tokens": stats.reused_tokens,
        "tokens_per_second": None if speed is None else round(speed, 2),
        "finish_reason": answer.finish_reason,
        "seed": made.seed if made else None,
        "provenance": dataclasses.asdict(made) if made else None,
    }
    if answer.cached:
        told["cached"] = True
    if notices:
        told["notices"] = list(notices)
    return told
