"""Figures as a person reads them. Pure functions."""

from __future__ import annotations

from playground.types import GenerationStats
from playground.ui import texts
from playground.ui.safe_text import escape


def bytes_text(count: float) -> str:
    """``count`` bytes for a person: ``24 MB``, ``1.3 GB``, ``0``."""
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= size:
            value = count / size
            return f"{value:.1f} {unit}" if value < 10 else f"{value:,.0f} {unit}"
    return f"{count:.0f} bytes" if count else "0"


def seconds_text(seconds: float) -> str:
    """``seconds`` for a person: ``0.42 s``, ``12.3 s``, ``2 min 5 s``."""
    if seconds < 10:
        return f"{seconds:.2f} s"
    if seconds < 100:
        return f"{seconds:.1f} s"
    return f"{int(seconds) // 60} min {int(seconds) % 60} s"


def known_text(stats: GenerationStats) -> str:
    """How much of a prompt was not read anew, as HTML; "" where all of it was."""
    if not stats.reused_tokens:
        return ""
    words = texts.KNOWN.format(reused=stats.reused_tokens, prompt=stats.prompt_tokens)
    return f'<span title="{escape(texts.KNOWN_HELP)}">{words}</span>'


def plural(count: int, noun: str) -> str:
    """``1 token``, ``1,200 tokens``."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def percent(share: float) -> str:
    """``share`` of one, for a person: ``42 %``."""
    return f"{share:.0%}".replace("%", " %")


def strength_text(strength: float) -> str:
    """An adapter's strength for a person: ``×0.5``; ``×1`` is as trained."""
    return f"×{strength:.4g}".replace("-", "−")
