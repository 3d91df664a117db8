"""What the pages show, as pure functions: events and figures in; text, Markdown and HTML out. No gradio here.

Whatever comes from a model, a file or a person goes through `escape` or `safe_markdown` before it reaches a page.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from playground.errors import InvalidRequest, PlaygroundError
from playground.types import (
    FinishReason,
    GenerationEvent,
    GenerationRequest,
    GenerationSettings,
    GenerationStats,
    LoadedAdapter,
    MemoryReport,
    Provenance,
    RenderedPrompt,
    ResidentInfo,
    Status,
    Strategy,
    knobs,
)
from playground.ui import texts
from playground.ui.safe_text import code_markdown, escape, safe_markdown

PREVIEW_CHARACTERS = 8000
PREVIEW_TOKENS = 1000


# --- figures ----------------------------------------------------------------------------------------------------------


def bytes_text(count: float) -> str:
    """``count`` bytes for a person: ``24 MB``, ``1.3 GB``."""
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= size:
            value = count / size
            return f"{value:.1f} {unit}" if value < 10 else f"{value:,.0f} {unit}"
    return f"{count:.0f} bytes"


def seconds_text(seconds: float) -> str:
    """``seconds`` for a person: ``0.42 s``, ``12.3 s``, ``2 min 5 s``."""
    if seconds < 10:
        return f"{seconds:.2f} s"
    if seconds < 100:
        return f"{seconds:.1f} s"
    return f"{int(seconds) // 60} min {int(seconds) % 60} s"


def plural(count: int, noun: str) -> str:
    """``1 token``, ``1,200 tokens``."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def status_text(status: Status) -> str:
    """A `Status` as one phrase: ``Loading: reading weights 42 %``."""
    phase = texts.PHASES.get(status.phase, status.phase.capitalize())
    plain = status.detail.lower() in ("", "waiting", status.phase, phase.lower())
    detail = phase if plain else f"{phase}: {status.detail}"
    already = status.detail.rstrip().endswith("%")
    return detail if status.fraction is None or already else f"{detail} {status.fraction:.0%}".replace("%", " %")


# --- one answer -------------------------------------------------------------------------------------------------------


@dataclass
class Answer:
    """What one run has brought so far, folded from its events. ``weights`` names what answers, ``code`` the use case.

    With several answers to one prompt each has its own index; stats, finish and provenance are kept for each.
    """

    request: GenerationRequest
    weights: str
    code: bool = False
    status: Status = field(default_factory=lambda: Status("queued"))
    parts: dict[int, str] = field(default_factory=dict)
    stats: dict[int, GenerationStats] = field(default_factory=dict)
    finish: dict[int, FinishReason] = field(default_factory=dict)
    provenance: dict[int, Provenance] = field(default_factory=dict)
    notices: list[str] = field(default_factory=list)
    error: str = ""

    def fold(self, event: GenerationEvent) -> None:
        """Take one event in."""
        self.status = event.status
        if event.text:
            self.parts[event.index] = self.parts.get(event.index, "") + event.text
        if event.index not in self.finish:  # a sign of life may repeat an answer that has ended
            self.stats[event.index] = event.stats
        if event.notice and event.notice not in self.notices:
            self.notices.append(event.notice)
        if event.finish_reason:
            self.finish[event.index] = event.finish_reason
        if event.provenance:
            self.provenance[event.index] = event.provenance

    def cancel(self) -> None:
        """The person stopped it: whatever has not finished is cancelled; the text so far stays."""
        every = range(self.request.settings.num_return_sequences)
        self.finish.update({index: "cancelled" for index in every if index not in self.finish})

    def fail(self, sentence: str) -> None:
        """The run ended with an error."""
        self.error = sentence

    @property
    def running(self) -> bool:
        """True until every answer has its last event, a stop or an error."""
        return not self.error and len(self.finish) < self.request.settings.num_return_sequences

    @property
    def indices(self) -> list[int]:
        """The answers there are, the first one at least."""
        return sorted({0, *self.parts, *self.finish})

    @property
    def length(self) -> int:
        """Characters so far, of all answers."""
        return sum(len(part) for part in self.parts.values())

    @property
    def raw(self) -> str:
        """The exact text, nothing added; several answers are set apart by a line."""
        return "\n\n――――――――\n\n".join(self.parts.get(index, "") for index in self.indices)

    @property
    def markdown(self) -> str:
        """The text for the Text tab: safe Markdown, numbered where there are several answers."""
        show = code_markdown if self.code else safe_markdown
        bodies = [show(self.parts.get(index, "")) for index in self.indices]
        if len(bodies) == 1:
            return bodies[0]
        return "\n\n---\n\n".join(f"**Answer {number}**\n\n{body}" for number, body in enumerate(bodies, start=1))


def provenance_json(answer: Answer, index: int) -> str:
    """What made this answer, as JSON text: enough to make it again."""
    provenance = answer.provenance.get(index)
    made_by = dataclasses.asdict(provenance) if provenance else None
    request = dataclasses.asdict(answer.request)
    stats = dataclasses.asdict(answer.stats.get(index, GenerationStats()))
    whole = {
        "provenance": made_by,
        "request": request,
        "stats": stats,
        "finish_reason": answer.finish.get(index),
        "text": answer.parts.get(index, ""),
    }
    return json.dumps(whole, indent=2, ensure_ascii=False, default=str)


def answer_status(answer: Answer | None) -> str:
    """The line under the answer: what is happening, then the figures; notices and errors with it, as HTML."""
    if answer is None:
        return status_line("idle", "")
    lines = [_phase_line(answer), *(f'<p class="notice">{escape(notice)}</p>' for notice in answer.notices)]
    lines += [_stats_line(answer, index) for index in answer.indices if _has_figures(answer, index)]
    state = "error" if answer.error else "running" if answer.running else "done"
    if answer.running and any(answer.parts.values()):
        state = "streaming"
    return f'<div class="answer-status" data-state="{state}" role="status">{"".join(lines)}</div>'


def status_line(state: str, sentence: str, details: str = "") -> str:
    """One sentence in the status line; ``details`` fold out."""
    more = f"<details><summary>Details</summary><p>{escape(details)}</p></details>" if details else ""
    kind = ' class="error-line"' if state == "error" else ""
    line = f"<p{kind}>{escape(sentence)}</p>" if sentence else ""
    role = "alert" if state == "error" else "status"
    return f'<div class="answer-status" data-state="{escape(state)}" role="{role}">{line}{more}</div>'


def _has_figures(answer: Answer, index: int) -> bool:
    return index in answer.finish or bool(answer.stats.get(index, GenerationStats()).completion_tokens)


def _phase_line(answer: Answer) -> str:
    if answer.error:
        return f'<p class="error-line">{escape(answer.error)}</p>'
    if not answer.running or answer.status.phase == "generating":
        return ""
    return progress_line(answer.status, answer.stats.get(0, GenerationStats()).elapsed_s)


def progress_line(status: Status, elapsed_s: float = 0.0) -> str:
    """A `Status` with a bar: filled as far as is known, else moving; after a second with the time that it has taken."""
    share = "" if status.fraction is None else f' style="--share:{min(max(status.fraction, 0.0), 1.0):.3f}"'
    kind = "unknown" if status.fraction is None else "known"
    taken = f" · {elapsed_s:.0f} s" if elapsed_s >= 1 else ""
    return f'<p class="progress-line">{escape(status_text(status) + taken)}<span class="bar {kind}"{share}></span></p>'


def _stats_line(answer: Answer, index: int) -> str:
    stats = answer.stats.get(index, GenerationStats())
    speed, first = stats.tokens_per_second, stats.first_token_s
    seed = answer.provenance[index].seed if index in answer.provenance else answer.request.settings.seed
    finish = answer.finish.get(index)
    several = len(answer.indices) > 1
    figures = [
        f"<b>Answer {index + 1}</b>" if several else "",
        plural(stats.completion_tokens, "token"),
        "" if speed is None else f"{speed:.1f} tokens/s",
        "" if first is None else f"first token {seconds_text(first)}",
        f"total {seconds_text(stats.elapsed_s)}",
        _finish_words(finish),
        "" if seed is None else f"seed {seed}",
        f'<span class="weights">{escape(answer.weights)}</span>',
    ]
    line = " · ".join(figure for figure in figures if figure)
    if not finish:
        return f'<p class="stats">{line}</p>'
    copy = escape(provenance_json(answer, index))
    return (
        f'<button type="button" class="stats" data-finish="{finish}" data-copy="{copy}" '
        f'data-copied="Provenance copied" title="Copy what made this answer, as JSON">{line}</button>'
    )


def _finish_words(finish: FinishReason | None) -> str:
    return f'<span title="{escape(texts.FINISH_HELP[finish])}">{escape(texts.FINISH[finish])}</span>' if finish else ""


def error_sentence(error: BaseException) -> str:
    """The one sentence that a person sees for ``error``: its own where it is ours, else a general one."""
    return str(error) if isinstance(error, PlaygroundError) else texts.UNEXPECTED


def error_details(error: BaseException) -> str:
    """What lies behind ``error``, for the fold under the sentence; empty where there is nothing more to say."""
    cause = error.__cause__
    return f"{type(cause).__name__}: {cause}"[:600] if cause is not None and isinstance(error, PlaygroundError) else ""


# --- the prompt -------------------------------------------------------------------------------------------------------


def prompt_counter(
    characters: int, tokens: int | None = None, used: int | None = None, window: int | None = None
) -> str:
    """Characters · tokens · share of the context, with a small bar. Without a loaded model, characters only."""
    said = [plural(characters, "character")]
    if tokens is None:
        said.append('<span class="muted">tokens are counted once this model is loaded</span>')
        return f'<p class="counter">{" · ".join(said)}</p>'
    said.append(plural(tokens, "token"))
    if not window:
        return f'<p class="counter">{" · ".join(said)}</p>'
    share = (used if used is not None else tokens) / window
    over = share > 1
    fits = f"{share:.0%}".replace("%", " %") if share >= 0.01 or share == 0 else "under 1 %"
    said.append(f"{fits} of the context")
    title = f"{used if used is not None else tokens:,} of {window:,} tokens, template included"
    bar = f'<span class="bar known{" over" if over else ""}" style="--share:{min(share, 1.0):.3f}"></span>'
    warning = ' <b class="error-line">too long for this model</b>' if over else ""
    return f'<p class="counter" title="{escape(title)}">{" · ".join(said)}{warning}{bar}</p>'


def rendered_preview(rendered: RenderedPrompt | None, reason: str = "") -> str:
    """The prompt as the model reads it, and its token ids; ``reason`` says why there is none."""
    if rendered is None:
        return f'<p class="muted">{escape(reason)}</p>'
    text, ids = rendered.text, rendered.token_ids
    cut = f"\n… {len(text) - PREVIEW_CHARACTERS:,} more characters" if len(text) > PREVIEW_CHARACTERS else ""
    more = f" … {len(ids) - PREVIEW_TOKENS:,} more" if len(ids) > PREVIEW_TOKENS else ""
    listed = " ".join(str(i) for i in ids[:PREVIEW_TOKENS])
    notice = f'<p class="notice">{escape(rendered.notice)}</p>' if rendered.notice else ""
    return (
        f'{notice}<pre class="rendered" tabindex="0">{escape(text[:PREVIEW_CHARACTERS])}{cut}</pre>'
        f'<p class="muted">{plural(len(ids), "token id")}</p><pre class="ids" tabindex="0">{listed}{more}</pre>'
    )


# --- settings ---------------------------------------------------------------------------------------------------------

# Which settings mean anything under which strategy; those not named here always do.
_ONLY_FOR: Mapping[str, frozenset[Strategy]] = {
    "temperature": frozenset({"sampling", "top_k"}),
    "top_p": frozenset({"sampling", "top_k"}),
    "top_k": frozenset({"sampling", "top_k"}),
    "min_p": frozenset({"sampling", "top_k"}),
    "seed": frozenset({"sampling", "top_k"}),
    "num_beams": frozenset({"beam_search"}),
    "num_return_sequences": frozenset({"sampling", "top_k", "beam_search"}),
}


def is_relevant(name: str, strategy: str) -> bool:
    """True when the setting ``name`` changes anything under ``strategy``."""
    return strategy in _ONLY_FOR.get(name, frozenset({strategy}))


def settings_from(values: Mapping[str, Any]) -> GenerationSettings:
    """The settings that a panel's ``values`` mean. Those that the strategy does not use keep their defaults.

    Raises `InvalidRequest`, also for a seed that is not a number.
    """
    strategy = values.get("strategy", "sampling")
    chosen = {name: value for name, value in values.items() if is_relevant(name, strategy)}
    if "stop" in chosen:
        chosen["stop"] = stop_sequences(chosen["stop"])
    if "seed" in chosen:
        chosen["seed"] = seed_number(chosen["seed"])
    for name in ("max_new_tokens", "top_k", "num_beams", "num_return_sequences"):
        if name in chosen:
            chosen[name] = _whole(name, chosen[name])
    return GenerationSettings(**chosen)


def panel_values(settings: GenerationSettings) -> dict[str, Any]:
    """``settings`` as the panel's widgets hold them: the inverse of `settings_from`."""
    values = {name: getattr(settings, name) for name in knobs()}
    values["stop"] = "\n".join(text.replace("\\", "\\\\").replace("\n", "\\n") for text in settings.stop)
    values["seed"] = "" if settings.seed is None else str(settings.seed)
    return values


def stop_sequences(text: str | None) -> tuple[str, ...]:
    r"""Stop sequences from a box with one on each line; ``\n`` is a line break and ``\\`` a backslash."""
    marks = {"\\n": "\n", "\\\\": "\\", "\\t": "\t"}
    lines = (text or "").split("\n")
    return tuple(re.sub(r"\\[\\nt]", lambda mark: marks[mark[0]], line) for line in lines if line)


def seed_number(text: str | int | None) -> int | None:
    """A typed seed; empty means a new one each time. Text, since browsers round whole numbers above 2⁵³."""
    cleaned = str(text if text is not None else "").strip()
    if not cleaned:
        return None
    try:
        return int(cleaned)
    except ValueError:
        raise InvalidRequest(f"The seed is {cleaned!r}.", "It must be a whole number, or empty.") from None


def _whole(name: str, value: Any) -> Any:
    if value is None:
        raise InvalidRequest(f"{knobs()[name].label} is empty.", "Give it a number, or reset it.")
    return int(value) if isinstance(value, float) and value.is_integer() else value


def changed_settings(values: Mapping[str, Any], baseline: GenerationSettings) -> list[str]:
    """The names of the settings in ``values`` that differ from ``baseline`` and matter under the strategy chosen."""
    strategy = values.get("strategy", "sampling")
    expected = panel_values(baseline)
    return [name for name, value in values.items() if is_relevant(name, strategy) and value != expected[name]]


def changed_list(values: Mapping[str, Any], baseline: GenerationSettings) -> str:
    """The changed settings as small buttons that set each back, and one that sets all back."""
    changed = changed_settings(values, baseline)
    if not changed:
        return ""
    expected = panel_values(baseline)
    chips = [
        f'<button type="button" class="undo" data-knob="{name}" title="Back to {escape(_shown(expected[name]))}">'
        f"{escape(knobs()[name].label)} <span aria-hidden='true'>↺</span></button>"
        for name in changed
    ]
    everything = '<button type="button" class="undo all" data-knob="*">Reset all</button>' if len(changed) > 1 else ""
    return f'<div class="changed-list"><span>Changed:</span> {"".join(chips)}{everything}</div>'


def _shown(value: Any) -> str:
    return "empty" if value in ("", None) else texts.STRATEGIES.get(str(value), str(value))


def settings_heading(preset: str, changed: Iterable[str]) -> str:
    """The heading of the settings panel: ``Settings · Balanced, changed``."""
    return f"Settings · {preset}{', changed' if list(changed) else ''}"


def knob_help(name: str) -> str:
    """The tooltip of one setting."""
    return f"{knobs()[name].help} {texts.GUIDE.get(name, '')}".strip()


# --- models -----------------------------------------------------------------------------------------------------------


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
    problem = weights.base_problem or weights.adapter_problem
    reason = (
        f'<span class="chip-reason" role="alert" title="{escape(problem)}">{escape(problem)}</span>' if problem else ""
    )
    return f'<div class="chips">{base}{adapter}{reason}</div>'


def _chip(kind: str, name: str, note: str, bad: bool, ready: bool, field_name: str) -> str:
    state = "bad" if bad else "ready" if ready else "waiting"
    shown = name if len(name) <= 36 else "…" + name[-35:]
    return (
        f'<button type="button" class="chip" data-state="{state}" data-open-picker="{field_name}" '
        f'title="{escape(f"{kind}: {name}. {note}. Click to change.".replace("..", "."))}">'
        f"<small>{kind}</small> <b>{escape(shown)}</b></button>"
    )


def dot(phase: str, rows: int = 0, waiting: int = 0) -> str:
    """The status dot: idle, loading, generating n, or error."""
    words = {"idle": "Idle", "loading": "Loading", "error": "Error"}
    if phase == "generating" or rows or waiting:
        phase = phase if phase == "loading" else "generating"
    word = words.get(phase) or (f"Generating {rows}" if rows else "Generating")
    also = f", {waiting} waiting" if waiting and phase == "generating" else ""
    return f'<span class="dot" data-phase="{escape(phase)}" role="status">{escape(word + also)}</span>'


def memory_meter(report: MemoryReport) -> str:
    """Model, cache and free memory of the engine's device as one short bar."""
    if report.total <= 0:
        return ""
    ours = report.weights + report.adapters + report.kv_cache
    used = max(report.total - report.free, 0)
    models = f"Models <b>{bytes_text(ours)}</b>" if ours else "No model in memory"
    title = (
        f"{report.device}: models {bytes_text(report.weights)}, adapters {bytes_text(report.adapters)}, "
        f"cache {bytes_text(report.kv_cache)}, this program {bytes_text(report.process)}, "
        f"free {bytes_text(report.free)} of {bytes_text(report.total)}"
    )
    return (
        f'<div class="meter" title="{escape(title)}"><span class="meter-text">{models} · '
        f"free <b>{bytes_text(report.free)}</b> of {bytes_text(report.total)}</span>"
        f'<span class="meter-bar" style="--used:{used / report.total:.3f};--ours:{min(ours / report.total, 1):.3f}">'
        f"</span></div>"
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


def bar_buttons() -> str:
    """Theme switch and key list; the page's script gives them their meaning."""
    return (
        '<div class="bar-buttons"><button type="button" class="plain" data-action="theme" '
        'title="Switch between light and dark">Theme</button>'
        '<button type="button" class="plain" data-action="shortcuts" '
        'title="Keyboard shortcuts (Ctrl + /)">Keys</button>'
        '<button type="button" class="plain" data-action="panel" title="Show or hide the panel on the right">Panel'
        "</button></div>"
    )


def shortcuts_dialog() -> str:
    """The list of keys, opened with Ctrl + /."""
    rows = "".join(f"<dt>{escape(keys)}</dt><dd>{escape(meaning)}</dd>" for keys, meaning in texts.SHORTCUTS)
    return (
        '<dialog id="shortcuts" aria-label="Keyboard shortcuts"><h2>Keyboard</h2>'
        f'<dl>{rows}</dl><form method="dialog"><button class="plain">Close</button></form></dialog>'
    )
