"""Which weights answer: the chips of the top bar, and the list of what is in memory. Pure functions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from playground.types import LoadedAdapter, ResidentInfo
from playground.ui import texts
from playground.ui.safe_text import escape
from playground.ui.views.figures import bytes_text


@dataclass(frozen=True)
class Failure:
    """A choice of model and adapter (as the fields named them) that did not load, and why."""

    model: str
    adapter: str
    of_adapter: bool
    sentence: str


@dataclass(frozen=True)
class Weights:
    """Which weights would answer now: names, whether they are in memory, and what is wrong with them, if anything."""

    base: str
    adapter: str = ""
    base_loaded: bool = False
    adapter_loaded: bool = False
    base_problem: str = ""
    adapter_problem: str = ""

    @property
    def label(self) -> str:
        """``starter + pirate``, or ``starter (base)``."""
        return f"{self.base} + {self.adapter}" if self.adapter else f"{self.base} (base)"


def adapter_problem(adapter: LoadedAdapter | None, problems: Sequence[str], failure: str) -> str:
    """Why the adapter's chip is red; empty when it is fine."""
    if failure:
        return failure
    if problems:
        return " ".join(problems)
    if adapter is not None and not adapter.moves_logits:
        return (
            "This adapter has no effect: answers are the same as without it. "
            "Check that it was trained and saved fully, or swap to another one."
        )
    return ""


def chips(weights: Weights) -> str:
    """The two chips of the top bar: which base and which adapter answer; red with the reason when they cannot."""
    base_note = weights.base_problem or (
        "In memory" if weights.base_loaded else "Not in memory; the next answer loads it"
    )
    adapter_note = weights.adapter_problem or (
        ("Attached" if weights.adapter_loaded else "Not attached; the next answer attaches it")
        if weights.adapter
        else "Answers come from the base alone"
    )
    base = _chip(
        "Base", weights.base or "no model", base_note, bool(weights.base_problem), weights.base_loaded, "model"
    )
    adapter = _chip(
        "Adapter",
        weights.adapter or "none",
        adapter_note,
        bool(weights.adapter_problem),
        weights.adapter_loaded or (weights.base_loaded and not weights.adapter),
        "adapter",
    )
    return f'<div class="chips">{base}{adapter}{_reason(weights.base_problem or weights.adapter_problem)}</div>'


def _reason(problem: str) -> str:
    """Why a chip is red: what fits beside it, and all of it while it is pointed at or has the keyboard's focus."""
    if not problem:
        return ""
    return (
        f'<span class="chip-reason" role="alert" tabindex="0"><span class="excerpt">{escape(problem)}</span>'
        f'<span class="whole" aria-hidden="true">{escape(problem)}</span></span>'
    )


def _chip(kind: str, name: str, note: str, bad: bool, ready: bool, field_name: str) -> str:
    state = "bad" if bad else "ready" if ready else "waiting"
    shown = name if len(name) <= 36 else "…" + name[-35:]
    return (
        f'<button type="button" class="chip" data-state="{state}" data-open-picker="{field_name}" '
        f'title="{escape(f"{kind}: {name}. {note}. Click to change.".replace("..", "."))}">'
        f"<small>{kind}</small> <b>{escape(shown)}</b></button>"
    )


def loaded_list(residents: Sequence[ResidentInfo], names: Mapping[str, str]) -> str:
    """The models in memory, each with its size, its adapters and a button that unloads it. ``names``: base → name."""
    if not residents:
        return f'<p class="muted">{escape(texts.NOTHING_LOADED)}</p>'
    return f'<ul class="loaded-list">{"".join(_loaded_row(resident, names) for resident in residents)}</ul>'


def _loaded_row(resident: ResidentInfo, names: Mapping[str, str]) -> str:
    name = names.get(resident.base, resident.base)
    size = resident.bytes + sum(adapter.bytes for adapter in resident.adapters)
    facts = [
        f"{resident.parameters / 1e6:,.1f} M parameters",
        resident.dtype if resident.quantization == "none" else resident.quantization,
        resident.device,
        f"context {resident.context_window:,}",
    ]
    adapters = "".join(_adapter_row(adapter) for adapter in resident.adapters)
    attached = f'<ul class="adapters">{adapters}</ul>' if adapters else '<p class="muted">no adapters attached</p>'
    return (
        f'<li><div class="loaded-head"><b title="{escape(resident.reason)}">{escape(name)}</b>'
        f'<button type="button" class="unload" data-unload="{escape(resident.base)}" '
        f'title="Removes the model and its adapters from memory; files stay.">Unload, frees {bytes_text(size)}</button>'
        f'</div><p class="muted">{escape(" · ".join(facts))}</p>{attached}</li>'
    )


def _adapter_row(adapter: LoadedAdapter) -> str:
    problem = adapter_problem(adapter, (), "")
    mark = f' <span class="error-line" title="{escape(problem)}">no effect</span>' if problem else ""
    alone = " · takes turns of its own" if adapter.exclusive else ""
    return f"<li>{escape(adapter.name)} <span class='muted'>{bytes_text(adapter.bytes)}{alone}</span>{mark}</li>"
