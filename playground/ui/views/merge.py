"""What an export left behind, and what merging an adapter into its base changes. Pure functions."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from playground.ui import texts
from playground.ui.safe_text import escape
from playground.ui.views.figures import percent, plural

if TYPE_CHECKING:
    from playground.services.exports import MergeComparison


def exported(path: Path, said: str = "") -> str:
    """Where the result lies, as text that one click copies, and what was ``said`` of it, folded after a sentence."""
    shown = escape(path)
    verdict, _, figures = said.partition(". ")
    more = f"<details><summary>Figures</summary><p>{escape(figures)}</p></details>" if figures else ""
    told = f"<p>{escape(verdict)}{'.' if figures else ''}</p>{more}" if said else ""
    return (
        "<p>Written to:</p>"
        f'<button type="button" class="plain path" data-copy="{shown}" data-copied="Path copied" title="Copy this path">'
        f"<code>{shown}</code></button>{told}"
    )


def comparison(found: MergeComparison) -> str:
    """The three figures of a merge against the adapter beside its base, and what they say together."""
    rows = (
        ("Largest change of a score", _small(found.max_logit_change)),
        ("Difference of the predictions", _small(found.divergence)),
        ("Same likeliest token", percent(found.agreement)),
    )
    lines = "".join(
        f'<tr><th scope="row" title="{escape(texts.MERGE_HELP[name])}">{name}</th><td>{value}</td></tr>'
        for name, value in rows
    )
    return (
        f"<p>{escape(verdict(found))}</p>"
        f'<table class="facts"><caption>Merged in {escape(found.dtype)}, over {plural(found.tokens, "token")}</caption>'
        f"<tbody>{lines}</tbody></table>"
    )


def verdict(found: MergeComparison) -> str:
    """In one sentence whether the merged model answers as the adapter beside its base does."""
    if found.differs:
        return "Merging changes the answers: keep the adapter beside its base, or merge in the other precision."
    if found.agreement < 1:
        return "Merging changes little: answers may part where two words are about as likely."
    return "Merging changes only the last digits: the merged model answers as the adapter does."


def _small(value: float) -> str:
    return f"{value:.3g}" if value >= 0.001 or value == 0 else "under 0.001"
