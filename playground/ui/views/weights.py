"""Which weights answer: the chips of the top bar, and the list of what is in memory. Pure functions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from playground.errors import InvalidRequest
from playground.types import LoadedAdapter, ResidentInfo
from playground.ui import texts
from playground.ui.safe_text import escape
from playground.ui.views.figures import bytes_text, plural, strength_text
from playground.ui.views.report import kind_name

_MARK = '<span class="mark" role="img" aria-label="with warnings">!</span>'


@dataclass(frozen=True)
class Choice:
    """What the picker's fields hold, as they were typed: which weights a person asks for."""

    model: str | None
    adapter: str | None = None
    quantization: str | None = None
    strength: float | None = 1.0


def adapter_choice(value: str | None) -> str | None:
    """The adapter field's value as a service takes it: None for the base."""
    cleaned = (value or "").strip()
    return None if cleaned in ("", texts.NO_ADAPTER) else cleaned


def strength_of(value: float | None) -> float:
    """The strength field's value. Raises `InvalidRequest` for an empty one."""
    if value is None:
        raise InvalidRequest("The strength is empty.", "Give it a number; 1 is as trained.")
    return float(value)


@dataclass(frozen=True)
class Failure:
    """A choice that did not load or answer, and why."""

    choice: Choice
    of_adapter: bool
    sentence: str


@dataclass(frozen=True)
class Weights:
    """Which weights would answer now: names, whether they are in memory, and what is wrong with them, if anything.

    ``attached`` is the adapter as it is in memory; ``warnings`` are what the checks say of it without refusing it.
    """

    base: str
    adapter: str = ""
    base_loaded: bool = False
    attached: LoadedAdapter | None = None
    base_problem: str = ""
    adapter_problem: str = ""
    strength: float = 1.0
    warnings: tuple[str, ...] = ()

    @property
    def shown_adapter(self) -> str:
        """The adapter's name, with its strength where that is not as trained: ``pirate ×0.5``."""
        return self.adapter if self.strength == 1.0 else f"{self.adapter} {strength_text(self.strength)}"

    @property
    def label(self) -> str:
        """``starter + pirate``, ``starter + pirate ×0.5``, or ``starter (base)``."""
        return f"{self.base} + {self.shown_adapter}" if self.adapter else f"{self.base} (base)"


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
        ("Attached" if weights.attached else "Not attached; the next answer attaches it")
        if weights.adapter
        else "Answers come from the base alone"
    )
    base = _chip(
        "Base", weights.base or "no model", base_note, bool(weights.base_problem), weights.base_loaded, "model"
    )
    adapter = _chip(
        "Adapter",
        weights.shown_adapter if weights.adapter else "none",
        " ".join((adapter_note, *weights.warnings)),
        bool(weights.adapter_problem),
        weights.attached is not None or (weights.base_loaded and not weights.adapter),
        "adapter",
        bool(weights.warnings) and not weights.adapter_problem,
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


def _chip(kind: str, name: str, note: str, bad: bool, ready: bool, field_name: str, marked: bool = False) -> str:
    """``marked`` says that there are warnings, which the adapter report lists."""
    state = "bad" if bad else "ready" if ready else "waiting"
    shown = name if len(name) <= 36 else "…" + name[-35:]
    return (
        f'<button type="button" class="chip" data-state="{state}" data-open-picker="{field_name}" '
        f'title="{escape(f"{kind}: {name}. {note}. Click to change.".replace("..", "."))}">'
        f"<small>{kind}</small> <b>{escape(shown)}</b>{_MARK if marked else ''}</button>"
    )


def loaded_list(residents: Sequence[ResidentInfo], names: Mapping[str, str], may_unload: bool = True) -> str:
    """The models in memory, each with its size, its adapters and a button that unloads it. ``names``: base → name.

    Who may not unload sees the size alone.
    """
    if not residents:
        return f'<p class="muted">{escape(texts.NOTHING_LOADED)}</p>'
    rows = "".join(
        _loaded_row(resident, names, [other for other in residents if other.base == resident.base], may_unload)
        for resident in residents
    )
    return f'<ul class="loaded-list">{rows}</ul>'


def _loaded_row(
    resident: ResidentInfo, names: Mapping[str, str], copies: Sequence[ResidentInfo], may_unload: bool
) -> str:
    """``copies`` are the base in every precision that is in memory: they are unloaded together."""
    name = names.get(resident.base, resident.base)
    facts = [
        f"{resident.parameters / 1e6:,.1f} M parameters",
        resident.dtype if resident.quantization == "none" else resident.quantization,
        resident.device,
        f"reads {resident.context_window:,} tokens",
    ]
    adapters = "".join(_adapter_row(adapter) for adapter in resident.adapters)
    attached = f'<ul class="adapters">{adapters}</ul>' if adapters else '<p class="muted">no adapters attached</p>'
    return (
        f'<li><div class="loaded-head"><b>{escape(name)}</b>{_unload_button(name, copies, may_unload)}</div>'
        f'<p class="muted">{escape(" · ".join(facts))}</p>{_why(resident)}{attached}</li>'
    )


def _unload_button(name: str, copies: Sequence[ResidentInfo], may_unload: bool) -> str:
    size = bytes_text(sum(copy.bytes + sum(adapter.bytes for adapter in copy.adapters) for copy in copies))
    if not may_unload:
        return f'<span class="muted" title="{escape(texts.OPERATORS_ONLY)}">{size}</span>'
    unload = "Unload" if len(copies) == 1 else f"Unload all {len(copies)}"
    what = "the model and its adapters" if len(copies) == 1 else f"{name} in every precision, and all adapters of it,"
    return (
        f'<button type="button" class="unload" data-unload="{escape(copies[0].base)}" '
        f'title="Removes {escape(what)} from memory; files stay.">{unload}, frees {size}</button>'
    )


def _why(resident: ResidentInfo) -> str:
    """Why it was loaded as it was, folded, one reason to a line; and why its answers wait for one another, if they do."""
    reasons = "".join(
        f"<li>{escape(reason[:1].upper() + reason[1:])}.</li>" for reason in resident.reason.split("; ") if reason
    )
    why = f"<details class='why'><summary>{texts.WHY_SO}</summary><ul>{reasons}</ul></details>" if reasons else ""
    alone = "" if resident.together else f'<p class="notice">{texts.ONE_AT_A_TIME} {escape(resident.alone_because)}</p>'
    return f"{why}{alone}"


def _adapter_row(adapter: LoadedAdapter) -> str:
    problem = adapter_problem(adapter, (), "")
    mark = f' <span class="error-line" title="{escape(problem)}">no effect</span>' if problem else ""
    if adapter.warnings and not problem:
        warned = escape(" ".join(adapter.warnings))
        mark = f' <span class="notice" title="{warned}">{plural(len(adapter.warnings), "warning")}</span>'
    facts = [kind_name(adapter.kind), bytes_text(adapter.bytes), "takes turns of its own" if adapter.exclusive else ""]
    shown = escape(" · ".join(fact for fact in facts if fact))
    return f"<li>{escape(_shown_name(adapter))} <span class='muted'>{shown}</span>{mark}</li>"


def _shown_name(adapter: LoadedAdapter) -> str:
    """A checkpoint's folder alone would not say of which run it is."""
    is_checkpoint = adapter.name.startswith("checkpoint")
    return f"{Path(adapter.path).parent.name}/{adapter.name}" if is_checkpoint else adapter.name
