"""What made an answer, as a table that a person can read, and what running it again brought. Pure functions."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from playground.types import GenerationEvent, Provenance, Status
from playground.ui import texts
from playground.ui.safe_text import escape
from playground.ui.views.figures import plural, strength_text
from playground.ui.views.status import drawn, status_text

if TYPE_CHECKING:
    from playground.services.replay import ReplayResult

_HASH = 12  # hexadecimal digits that are shown of one; the whole of it is in what is copied


def made_by(provenances: Sequence[tuple[int, Provenance]], several: bool = False) -> str:
    """For each (index, provenance) of one run its table, folded; numbered where there are several answers."""
    folds = "".join(
        f'<details class="made"><summary>What made {f"answer {index + 1}" if several else "this answer"}</summary>'
        f"{provenance_table(provenance)}</details>"
        for index, provenance in provenances
    )
    return f'<div class="made-by">{folds}</div>' if folds else ""


def provenance_table(provenance: Provenance) -> str:
    """One row for each thing that decided the answer; a row's heading explains itself when it is pointed at."""
    rows = "".join(
        f'<tr><th scope="row" title="{escape(texts.PROVENANCE_HELP[name])}">{name}</th><td>{value}</td></tr>'
        for name, value in _rows(provenance)
        if value
    )
    return f'<table class="facts"><tbody>{rows}</tbody></table>'


def _rows(provenance: Provenance) -> Iterable[tuple[str, str]]:
    """(heading, what stands there as HTML)."""
    template = texts.TEMPLATES[provenance.template]
    yield "Base", f"{escape(provenance.base)}{_hash(provenance.revision or provenance.base_hash)}"
    yield "Adapter", "<br>".join(_adapter(*adapter) for adapter in provenance.adapters) or "none, the base alone"
    yield "Quantization", "none" if provenance.quantization == "none" else escape(provenance.quantization)
    yield "Precision", f"{escape(provenance.dtype)} on {escape(provenance.device)}"
    yield "Template", f"{escape(template)}{_hash(provenance.template_hash)}"
    yield "Seed", f"<code>{provenance.seed}</code>"
    yield "Repeatable", escape(texts.EXACT if provenance.exact else texts.NOT_EXACT)
    yield "Versions", escape(" · ".join(f"{name} {number}" for name, number in provenance.versions.items()))


def _adapter(name: str, sha256: str, strength: float) -> str:
    return f"{escape(name)} {strength_text(strength)}{_hash(sha256)}"


def _hash(digits: str) -> str:
    """The first digits of a hash, all of them in its tooltip."""
    return f' <code title="{escape(digits)}">{escape(digits[:_HASH])}</code>' if digits else ""


def replay_button(index: int, several: bool = False) -> str:
    """The icon beside an answer's line that runs it again."""
    name = f"Run answer {index + 1} again and compare" if several else "Run it again and compare"
    return (
        f'<button type="button" class="replay" data-replay="{index}" aria-label="{name}" title="{name}">'
        '<svg viewBox="0 0 16 16" aria-hidden="true"><path d="M13 8a5 5 0 1 1-1.6-3.7M13 2v3h-3"/></svg></button>'
    )


def replay_progress(label: str, event: GenerationEvent | None, tokens: int) -> str:
    """How far the replay of an answer with ``tokens`` tokens is (0: not known); ``label`` says of which answer."""
    status, done = (event.status, event.stats.completion_tokens) if event else (Status("queued"), 0)
    if done:
        status = Status("generating", "", min(done / tokens, 1.0) if tokens else None)
    counted = f"{done} of {plural(tokens, 'token')}" if tokens else plural(done, "token")
    words = counted if done else status_text(status)
    said = f"{label}: {words[:1].lower()}{words[1:]}"
    return f'<p class="progress-line">{escape(said)}{drawn(status)}</p>'


def replay_said(label: str, result: ReplayResult) -> str:
    """What a replay found: identical, or where it parted and what is not as it was."""
    changed = "".join(f"<li>{escape(change)}</li>" for change in result.changed)
    listed = f"<p>{texts.CHANGED_SINCE}</p><ul>{changed}</ul>" if changed else ""
    rounding = f" {texts.WITHIN_ROUNDING}" if result.within_rounding and not result.identical else ""
    words = f"{label}: {_found(result)}"
    end = "" if words.endswith((".", "?", "!")) else "."
    return f"<p>{escape(words + end + rounding)}</p>{listed}"


def _found(result: ReplayResult) -> str:
    """``identical``, or ``differs at token 12: was “cat”, now “dog”, 0.03 apart in log-probability``."""
    if result.was is None or result.now is None or result.gap is None:
        return result.sentence
    apart = f"{abs(result.gap):.3g} apart in log-probability"
    return f"differs at token {result.differs_at}: was “{result.was.text}”, now “{result.now.text}”, {apart}"
