"""How a training run's loss went, drawn, told in a sentence and as figures. Pure functions."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from playground.training_run import Checkpoint, LossCurve
from playground.ui import texts
from playground.ui.safe_text import escape
from playground.ui.views.figures import plural

# In units of the drawing, which is as wide as its place beside the fields.
WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 340, 168, 40, 10, 16, 22
BUCKETS = 150  # a line is drawn through the lowest and the highest value of each, so no spike is lost
ROWS_AT_MOST = 12
_TYPICAL = 0.98  # the share of the values that the scale must hold; spikes far above are cut off at its upper end
_SPIKE = 2.0
_LOGARITHMIC = 8.0  # a loss that falls by this factor is drawn on a logarithmic scale

_LARGEST = 1e30  # nothing is drawn above it

Points = Sequence[tuple[int, float]]


@dataclass(frozen=True)
class _Scale:
    """From steps and losses to places in the drawing."""

    first: int
    last: int
    low: float
    high: float
    logarithmic: bool

    def x(self, step: float) -> float:
        share = (step - self.first) / (self.last - self.first)
        return LEFT + min(max(share, 0.0), 1.0) * (WIDTH - LEFT - RIGHT)

    def y(self, loss: float) -> float:
        value, low, high = (self._place(one) for one in (loss, self.low, self.high))
        return TOP + (1 - min(max((value - low) / (high - low), 0.0), 1.0)) * (HEIGHT - TOP - BOTTOM)

    def _place(self, loss: float) -> float:
        return math.log(max(loss, self.low)) if self.logarithmic else loss


def loss_curve(curve: LossCurve, name: str, chosen: Checkpoint | None = None) -> str:
    """The losses of the run called ``name`` over its steps, the step of the ``chosen`` checkpoint marked.

    Beside the drawing stands what it shows in a sentence, and, folded, some of its figures.
    """
    if not curve.train and not curve.evaluation:
        return f'<figure class="loss-curve"><p class="muted">{texts.NO_LOSSES}</p>{_diverged_line(curve)}</figure>'
    scale = _scale(curve, chosen)
    said = escape(told(curve, chosen))
    drawn = f"{_axes(scale)}{_line('train', curve.train, scale)}{_line('held-out', curve.evaluation, scale)}"
    return (
        f'<figure class="loss-curve"><figcaption>{_legend(curve)}</figcaption>'
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-labelledby="loss-title loss-desc">'
        f'<title id="loss-title">{escape(texts.LOSS_OF.format(name=name))}</title><desc id="loss-desc">{said}</desc>'
        f"{drawn}{_end(curve, scale)}{_mark(curve, chosen, scale)}</svg>"
        f'<p class="muted">{said}</p>{_table(curve)}</figure>'
    )


def told(curve: LossCurve, chosen: Checkpoint | None = None) -> str:
    """What the drawing shows, in sentences."""
    said = []
    for points, label in ((curve.train, "Training loss"), (curve.evaluation, "Held-out loss")):
        if len(points) > 1:
            (first, before), (last, after) = points[0], points[-1]
            said.append(f"{label} {figure(before)} at step {first:,}, {figure(after)} at step {last:,}.")
        elif points:
            said.append(f"{label} {figure(points[0][1])} at step {points[0][0]:,}.")
    if len(curve.evaluation) > 2:
        step, loss = min(curve.evaluation, key=lambda point: point[1])
        said.append(f"Lowest held-out loss {figure(loss)} at step {step:,}.")
    if curve.diverged_at is not None:
        said.append(texts.DIVERGED.format(step=f"{curve.diverged_at:,}"))
    if chosen and chosen.step is not None:
        said.append(f"Chosen: step {chosen.step:,}.")
    return " ".join(said)


def figure(loss: float) -> str:
    """A loss for a person: ``1.32``, ``0.0547``."""
    return f"{loss:.3g}".replace("-", "−")


def thinned(points: Points, buckets: int = BUCKETS) -> list[tuple[int, float]]:
    """At most two points for each of ``buckets`` ranges of steps, the lowest and the highest; first and last stay."""
    if len(points) <= 2 * buckets:
        return list(points)
    first, last = points[0][0], points[-1][0]
    held: dict[int, list[tuple[int, float]]] = {}
    for point in points[1:-1]:
        held.setdefault((point[0] - first) * buckets // (last - first + 1), []).append(point)
    kept = [points[0]]
    for group in held.values():
        ends = {min(group, key=lambda point: point[1]), max(group, key=lambda point: point[1])}
        kept.extend(sorted(ends))
    return [*kept, points[-1]]


def _scale(curve: LossCurve, chosen: Checkpoint | None) -> _Scale:
    points = [*curve.train, *curve.evaluation]
    steps = [step for step, _ in points]
    steps += [step for step in (curve.diverged_at, chosen.step if chosen else None) if step is not None]
    first, last = min(steps), max(steps)
    losses = sorted(min(max(loss, -_LARGEST), _LARGEST) for _, loss in points)
    low, high = losses[0], _without_spikes(losses)
    logarithmic = low > 0 and high / low >= _LOGARITHMIC
    if not logarithmic and 0 < low <= high / 2:
        low = 0.0
    if high <= low:
        low, high = low - abs(low) / 2 - 0.5, high + abs(high) / 2 + 0.5
    return _Scale(first, last if last > first else first + 1, low, high, logarithmic)


def _without_spikes(losses: Sequence[float]) -> float:
    """The upper end of the scale for sorted ``losses``: the highest, unless it is far above what nearly all are."""
    low, typical, high = losses[0], losses[int(_TYPICAL * (len(losses) - 1))], losses[-1]
    if low >= typical:
        return high
    if low > 0:  # far above in how many times it is as much
        far = math.log(high / low) > _SPIKE * math.log(typical / low)
        return typical * (typical / low) ** 0.25 if far else high
    return typical + (typical - low) / 4 if high - low > _SPIKE * (typical - low) else high


def ticks(low: float, high: float, logarithmic: bool) -> list[float]:
    """A few round numbers between ``low`` and ``high``."""
    if logarithmic:
        exponents = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
        for steps in ((1, 2, 5), (1, 3), (1,)):
            found = [step * 10.0**exponent for exponent in exponents for step in steps]
            found = [value for value in found if low <= value <= high]
            if len(found) <= 5:
                return found
        return found[:: -(-len(found) // 4)]
    rough = (high - low) / 4
    unit = 10.0 ** math.floor(math.log10(rough))
    step = next(unit * factor for factor in (1, 2, 2.5, 5, 10) if unit * factor >= rough)
    return [step * count for count in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]


def _axes(scale: _Scale) -> str:
    bottom, right = HEIGHT - BOTTOM, WIDTH - RIGHT
    levels = "".join(
        f'<line class="grid" x1="{LEFT}" x2="{right}" y1="{scale.y(value):.1f}" y2="{scale.y(value):.1f}"/>'
        f'<text class="tick level" x="{LEFT - 6}" y="{scale.y(value) + 3.5:.1f}">{figure(value)}</text>'
        for value in ticks(scale.low, scale.high, scale.logarithmic)
    )
    steps = [step for step in ticks(scale.first, scale.last, False) if scale.x(step) < right - 36]
    places = "".join(
        f'<text class="tick step" x="{scale.x(step):.1f}" y="{HEIGHT - 6}">{step:,.0f}</text>'
        for step in steps
        if step == int(step)
    )
    return (
        f'{levels}<line class="axis" x1="{LEFT}" x2="{right}" y1="{bottom}" y2="{bottom}"/>{places}'
        f'<text class="tick name" x="{right}" y="{HEIGHT - 6}">step</text>'
    )


def _line(kind: str, points: Points, scale: _Scale) -> str:
    """A line through the points; a single one is a dot."""
    if not points:
        return ""
    if len(points) == 1:
        step, loss = points[0]
        return f'<circle class="{kind} dot" cx="{scale.x(step):.1f}" cy="{scale.y(loss):.1f}" r="3"/>'
    path = " ".join(f"{scale.x(step):.1f},{scale.y(loss):.1f}" for step, loss in thinned(points))
    return f'<polyline class="{kind}" points="{path}"/>'


def _end(curve: LossCurve, scale: _Scale) -> str:
    """Where the loss became no number."""
    if curve.diverged_at is None:
        return ""
    return _upright("diverged", scale.x(curve.diverged_at), texts.DIVERGED_MARK)


def _mark(curve: LossCurve, chosen: Checkpoint | None, scale: _Scale) -> str:
    """The step of the chosen checkpoint, with a dot on the lines."""
    if chosen is None or chosen.step is None:
        return ""
    x = scale.x(chosen.step)
    dots = "".join(
        f'<circle class="{kind} dot" cx="{x:.1f}" cy="{scale.y(_at(points, chosen.step)):.1f}" r="3.5"/>'
        for kind, points in (("train", curve.train), ("held-out", curve.evaluation))
        if points
    )
    return _upright("chosen", x, f"step {chosen.step:,}") + dots


def _upright(kind: str, x: float, label: str) -> str:
    """A line from top to bottom with its label on the side where there is room."""
    side, shift = ("end", -4) if x > (LEFT + WIDTH - RIGHT) / 2 else ("start", 4)
    return (
        f'<line class="{kind}" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP - 6}" y2="{HEIGHT - BOTTOM}"/>'
        f'<text class="{kind}" text-anchor="{side}" x="{x + shift:.1f}" y="{TOP - 4}">{escape(label)}</text>'
    )


def _at(points: Points, step: int) -> float:
    """The loss that is nearest to ``step``."""
    return min(points, key=lambda point: abs(point[0] - step))[1]


def _legend(curve: LossCurve) -> str:
    kinds: list[tuple[str, str, Callable[[LossCurve], Points]]] = [
        ("train", "Training loss", lambda one: one.train),
        ("held-out", "Held-out loss", lambda one: one.evaluation),
    ]
    return "".join(f'<span class="{kind}">{label}</span>' for kind, label, of in kinds if of(curve))


def _diverged_line(curve: LossCurve) -> str:
    if curve.diverged_at is None:
        return ""
    return f'<p class="error-line">{escape(texts.DIVERGED.format(step=f"{curve.diverged_at:,}"))}</p>'


def _table(curve: LossCurve) -> str:
    """Some of the figures, folded; every held-out loss stands beside the training loss nearest to it."""
    leading = curve.evaluation or curve.train
    every = max(1, -(-len(leading) // ROWS_AT_MOST))
    shown = list(leading[::every])
    if shown[-1] != leading[-1]:
        shown.append(leading[-1])
    rows = "".join(_row(curve, step, loss) for step, loss in shown)
    left_out = len(leading) - len(shown)
    more = f'<p class="muted">{plural(left_out, "more step")} between them.</p>' if left_out else ""
    heads = "".join(
        f'<th scope="col">{label}</th>'
        for label, points in (("Training", curve.train), ("Held-out", curve.evaluation))
        if points
    )
    return (
        f"<details><summary>Figures</summary><table><thead><tr><th scope='col'>Step</th>{heads}</tr></thead>"
        f"<tbody>{rows}</tbody></table>{more}</details>"
    )


def _row(curve: LossCurve, step: int, loss: float) -> str:
    losses = [_at(curve.train, step)] if curve.train and curve.evaluation else []
    cells = "".join(f"<td>{figure(value)}</td>" for value in (*losses, loss))
    return f'<tr><th scope="row">{step:,}</th>{cells}</tr>'
