"""What the bar above all tabs shows of the engine: how busy it is, and what its memory holds. Pure functions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from playground.types import MemoryReport, ResidentInfo
from playground.ui import texts
from playground.ui.safe_text import escape
from playground.ui.views.figures import bytes_text, plural


def dot(phase: str, answering: int = 0, waiting: int = 0) -> str:
    """The status dot: one's own ``phase`` as its colour, and how busy the engine is with everybody's answers.

    A request that waits while nothing is answered waits for its model: that is loading.
    """
    if phase in ("idle", "error") and (answering or waiting):
        phase = "generating" if answering else "loading"
    busy = [f"{answering} answering"] if answering else []
    if phase == "loading":
        busy.insert(0, texts.DOTS["loading"])
    elif answering and waiting:
        busy.append(f"{waiting} waiting")
    words = " · ".join(busy) or texts.DOTS[phase]
    title = f' title="{escape(_together(answering, waiting))}"' if answering or waiting else ""
    return f'<span class="dot" data-phase="{escape(phase)}" role="status"{title}>{escape(words)}</span>'


def _together(answering: int, waiting: int) -> str:
    written = "is being written" if answering == 1 else "are being written at the same time"
    wait = "waits" if waiting == 1 else "wait"
    return (
        f"Everybody's together: {plural(answering, 'answer')} {written}; {waiting} {wait} for a place or for the model."
    )


def memory_meter(report: MemoryReport) -> str:
    """What our models and their caches hold, and what is free; a click shows the figures one by one."""
    if report.total <= 0:
        return ""
    models, cache = report.weights + report.adapters, report.kv_cache + report.reusable
    ours = models + cache
    used = max(report.total - report.free, 0)
    held = f"Models <b>{bytes_text(models)}</b> · cache <b>{bytes_text(cache)}</b>"
    return (
        '<button type="button" class="meter" data-action="memory" aria-controls="memory-figures" '
        'title="Memory; click for the figures of each model and adapter">'
        f'<span class="meter-text">{held if ours else "No model in memory"} · '
        f"free <b>{bytes_text(report.free)}</b></span>"
        f'<span class="meter-bar" style="--used:{used / report.total:.3f};--ours:{min(ours / report.total, 1):.3f}">'
        "</span></button>"
    )


def memory_figures(report: MemoryReport, residents: Sequence[ResidentInfo], names: Mapping[str, str]) -> str:
    """The meter's figures one by one: each model, each adapter, the caches, this program, the device."""
    rows = [row for resident in residents for row in _resident_rows(resident, names)] or [_row("No model", "", "")]
    rows += [
        _row("Cache", "keys and values of the answers being written", bytes_text(report.kv_cache), "total"),
        _row(
            "Kept for reuse",
            "earlier texts, faster copies of weights; freed when needed",
            bytes_text(report.reusable),
        ),
        _row("This program", "all of it, in main memory", bytes_text(report.process)),
        _row("Free", f"on {report.device}", f"{bytes_text(report.free)} of {bytes_text(report.total)}"),
    ]
    return (
        '<div id="memory-figures" role="region" aria-label="Memory"><table><caption>Memory</caption><tbody>'
        f"{''.join(rows)}</tbody></table></div>"
    )


def _resident_rows(resident: ResidentInfo, names: Mapping[str, str]) -> Iterable[str]:
    weights = resident.dtype if resident.quantization == "none" else resident.quantization
    at_work = f" · {plural(resident.rows, 'request')} now" if resident.rows else ""
    yield _row(names.get(resident.base, resident.base), weights + at_work, bytes_text(resident.bytes), "model")
    for adapter in resident.adapters:
        yield _row(adapter.name, "adapter", bytes_text(adapter.bytes), "adapter")


def _row(name: str, note: str, size: str, kind: str = "") -> str:
    small = f" <small>{escape(note)}</small>" if note else ""
    return f'<tr class="{kind}"><th scope="row">{escape(name)}{small}</th><td>{escape(size)}</td></tr>'


def bar_buttons() -> str:
    """The list of conversations, theme switch, key list, panel; the page's script gives them their meaning."""
    return (
        '<div class="bar-buttons"><button type="button" class="plain" data-action="chats" aria-controls="conversations" '
        'title="Show or hide the conversations on the left">Chats</button>'
        '<button type="button" class="plain" data-action="theme" '
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
