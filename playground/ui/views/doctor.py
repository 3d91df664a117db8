"""What the doctor found in an adapter: how much each layer changes, drawn, and its figures in a table. Pure functions."""

from __future__ import annotations

import re
import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from playground.ui import texts
from playground.ui.safe_text import escape
from playground.ui.views.figures import percent, plural
from playground.ui.views.report import kind_name

if TYPE_CHECKING:
    from playground.services.models import Diagnosis, Layer

# One row of bars for each kind of module, in units of the drawing: as wide as the side panel and as a phone's screen.
WIDTH, LABEL, ROW, BARS, AXIS = 332, 84, 34, 26, 18
_NUMBER = re.compile(r"(?:^|\.)(\d+)\.")
_NO_LAYER = -1

Cell = tuple[str, int]


def examined(diagnosis: Diagnosis) -> str:
    """The plot, what it shows in a sentence, the table, and what else was found."""
    findings = "".join(
        f'<li data-severity="{escape(finding.severity)}">{escape(finding.message)} '
        f'<span class="remedy">{escape(finding.remedy)}</span></li>'
        for finding in diagnosis.findings
    )
    listed = f'<ul class="findings">{findings}</ul>' if findings else ""
    return f'<div class="doctor">{norm_plot(diagnosis)}{figures(diagnosis)}{listed}</div>'


def norm_plot(diagnosis: Diagnosis) -> str:
    """Bars of ‖s·B·A‖ over the layers, a row for each kind of module, all to one scale; dead layers are crossed out."""
    if not diagnosis.layers:
        return f'<p class="muted">{escape(texts.NO_NORMS)}</p>'
    cells = _cells(diagnosis.layers)
    rows = sorted({kind for kind, _ in cells})
    columns = sorted({number for _, number in cells if number != _NO_LAYER}) or [0]
    tallest = max(layer.norm for layer in diagnosis.layers)
    drawn = "".join(_row(kind, at, cells, columns, tallest) for at, kind in enumerate(rows))
    height = len(rows) * ROW + AXIS
    largest = max(diagnosis.layers, key=lambda layer: layer.norm)
    said = f"Tallest bar: {_place(largest)}, norm {largest.norm:.3g}."
    dead = f" {plural(len(diagnosis.dead), 'dead layer')}, crossed out." if diagnosis.dead else ""
    return (
        f'<figure class="norms"><figcaption title="{escape(texts.NORM_HELP)}">{texts.NORMS}</figcaption>'
        f'<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-labelledby="norms-title norms-desc">'
        f'<title id="norms-title">{texts.NORMS}</title><desc id="norms-desc">{escape(said + dead)}</desc>'
        f'{drawn}{_axis(columns, height)}</svg><p class="muted">{escape(said + dead)}</p></figure>'
    )


def _cells(layers: Iterable[Layer]) -> dict[Cell, list[Layer]]:
    """(kind of module, number of its layer) → what was measured there; experts of one layer share a cell."""
    found: dict[Cell, list[Layer]] = {}
    rests = {layer.module: _split(layer.module) for layer in layers}
    last = Counter(rest.rsplit(".", 1)[-1] for rest in {rest for _, rest in rests.values()})
    for layer in layers:
        number, rest = rests[layer.module]
        short = rest.rsplit(".", 1)[-1]
        found.setdefault((short if last[short] == 1 else rest, number), []).append(layer)
    return found


def _split(module: str) -> tuple[int, str]:
    """``model.layers.3.self_attn.q_proj`` as (3, ``self_attn.q_proj``); without a number the layer is −1."""
    match = _NUMBER.search(module)
    if not match:
        return _NO_LAYER, module
    return int(match[1]), re.sub(r"\.\d+(?=\.|$)", "", module[match.end() :])


def _place(layer: Layer) -> str:
    number, rest = _split(layer.module)
    return rest if number == _NO_LAYER else f"layer {number}, {rest}"


def _row(kind: str, at: int, cells: Mapping[Cell, Sequence[Layer]], columns: Sequence[int], tallest: float) -> str:
    bottom = at * ROW + ROW - 4
    shown = kind if len(kind) <= 13 else f"…{kind[-12:]}"
    step = (WIDTH - LABEL) / len(columns)
    bars = "".join(
        _bar(cells[kind, number], LABEL + place * step, step, bottom, tallest)
        for place, number in [*enumerate(columns), (0, _NO_LAYER)]
        if (kind, number) in cells
    )
    return (
        f'<text class="label" x="0" y="{bottom - 6}"><title>{escape(kind)}</title>{escape(shown)}</text>'
        f'<line class="base" x1="{LABEL}" x2="{WIDTH}" y1="{bottom}" y2="{bottom}"/>{bars}'
    )


def _bar(layers: Sequence[Layer], left: float, step: float, bottom: float, tallest: float) -> str:
    """One bar as high as the largest norm in it; the whole of its place shows the figures when it is pointed at."""
    norm = max(layer.norm for layer in layers)
    height = BARS * norm / tallest if tallest else 0.0
    wide = min(max(step * 0.7, 1.0), 24.0)
    middle = left + step / 2
    cross = ""
    if all(layer.dead for layer in layers):
        reach = min(3.5, wide / 2 + 1)
        cross = (
            f'<path class="dead" d="M{middle - reach:.1f} {bottom - 9:.1f}l{2 * reach:.1f} 7m0 -7l{-2 * reach:.1f} 7"/>'
        )
    return (
        f'<g><title>{escape(_figures_of(layers))}</title><rect class="hit" x="{left:.1f}" y="{bottom - BARS - 4:.1f}" '
        f'width="{step:.1f}" height="{BARS + 4}"/><rect class="norm" x="{middle - wide / 2:.1f}" y="{bottom - height:.1f}" '
        f'width="{wide:.1f}" height="{height:.1f}"/>{cross}</g>'
    )


def _figures_of(layers: Sequence[Layer]) -> str:
    layer = max(layers, key=lambda layer: layer.norm)
    share = "" if layer.relative is None else f", {layer.relative:.1%} of the base's weight".replace("%", " %")
    many = f" (largest of {len(layers)})" if len(layers) > 1 else ""
    dead = " · dead" if all(layer.dead for layer in layers) else ""
    rank = f"effective rank {layer.effective_rank:.1f} of {layer.rank}"
    return f"{_place(layer)}{many}: norm {layer.norm:.3g}{share} · {rank}{dead}"


def _axis(columns: Sequence[int], height: int) -> str:
    """Numbers under the first, the last and some layers between."""
    step = (WIDTH - LABEL) / len(columns)
    every = max(1, -(-len(columns) // 8))
    labels = "".join(
        f'<text class="tick" x="{LABEL + (at + 0.5) * step:.1f}" y="{height - 4}">{number}</text>'
        for at, number in enumerate(columns)
        if at % every == 0
    )
    return f'<text class="tick name" x="0" y="{height - 4}">layer</text>{labels}'


def figures(diagnosis: Diagnosis) -> str:
    """The adapter in figures; each row's heading explains itself when it is pointed at."""
    rows = [(name, value) for name, value in _figures(diagnosis) if value]
    lines = "".join(
        f'<tr><th scope="row" title="{escape(texts.DOCTOR_HELP[name])}">{name}</th><td>{escape(value)}</td></tr>'
        for name, value in rows
    )
    return f'<table class="facts"><caption>{escape(diagnosis.name)}, examined</caption><tbody>{lines}</tbody></table>'


def _figures(diagnosis: Diagnosis) -> Iterable[tuple[str, str]]:
    layers = [layer for layer in diagnosis.layers if not layer.dead]
    yield "Kind", kind_name(diagnosis.kind)
    yield "Rank", str(diagnosis.rank or "")
    yield "Alpha", "" if diagnosis.alpha is None else f"{diagnosis.alpha:g}"
    yield "Scaling", _span([layer.scaling for layer in layers], ".3g")
    variants = [name for name, on in (("rsLoRA", diagnosis.rslora), ("DoRA", diagnosis.dora)) if on]
    yield "Variants", ", ".join(variants) or "none"
    yield "Changes", ", ".join(diagnosis.target_modules)
    yield "Parameters", f"{diagnosis.parameters:,}"
    yield "Effective rank", _span([layer.effective_rank for layer in layers], ".1f")
    yield "Of the base", _shares(layers)
    yield "Changed most", ", ".join(_short_place(module) for module in diagnosis.most_changed[:3])
    yield "Dead layers", _dead(diagnosis)
    yield "Not measured", plural(len(diagnosis.unmeasured), "module") if diagnosis.unmeasured else ""
    written, installed = diagnosis.peft_written, diagnosis.peft_installed
    yield (
        "PEFT version",
        f"written with {written}, read with {installed}" if written else f"not told, read with {installed}",
    )


def _span(values: Sequence[float], form: str) -> str:
    """The middle value, and from where to where they go; one figure where they are all the same."""
    if not values:
        return ""
    low, high, middle = (format(value, form) for value in (min(values), max(values), statistics.median(values)))
    return middle if low == high else f"{middle} in the middle, {low} to {high}"


def _shares(layers: Sequence[Layer]) -> str:
    known = [layer.relative for layer in layers if layer.relative is not None]
    if not known:
        return ""
    low, high = (percent(share) if share >= 0.01 else "under 1 %" for share in (min(known), max(known)))
    return low if low == high else f"{low} to {high}"


def _dead(diagnosis: Diagnosis) -> str:
    if not diagnosis.layers:
        return ""
    if not diagnosis.dead:
        return "none"
    named = ", ".join(_short_place(module) for module in diagnosis.dead[:5])
    more = f" and {len(diagnosis.dead) - 5} more" if len(diagnosis.dead) > 5 else ""
    return f"{len(diagnosis.dead)} of {len(diagnosis.layers)}: {named}{more}"


def _short_place(module: str) -> str:
    """``q_proj of layer 3``."""
    number, rest = _split(module)
    short = rest.rsplit(".", 1)[-1]
    return short if number == _NO_LAYER else f"{short} of layer {number}"
