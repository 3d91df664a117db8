"""A dataset and a few of its prompts: what the fields offer, what is said of them, and the answer that is expected.

Pure functions. What stands in a dataset was written by strangers: one line of it is made plain, all of it is escaped.
"""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields

from playground.services.datasets import Dataset
from playground.services.samples import Columns, Drawn, Sample
from playground.types import Status
from playground.ui import texts
from playground.ui.safe_text import escape
from playground.ui.views.figures import plural
from playground.ui.views.status import error_lines, progress_line

LABEL_CHARACTERS = 80
FOLDED_CHARACTERS = 480  # a longer answer is folded, so that the prompt and its answer stay in one view
FOLDED_LINES = 8
SHOWN_CHARACTERS = 20_000
_JOINERS = "\u200c\u200d"  # some scripts and signs need them


@dataclass(frozen=True)
class Chosen:
    """The sample that a page has chosen, as the page holds it; one with an empty ``prompt`` is none.

    ``before`` is the system prompt that stood in the settings before the sample brought its own.
    """

    prompt: str = ""
    expected: str = ""
    system: str = ""
    before: str = ""
    dataset: str = ""
    row: int = -1
    earlier: int = 0

    @classmethod
    def of(cls, sample: Sample, dataset: str, before: str) -> Chosen:
        """``sample`` with the line ends that a text field keeps, so that it can be compared with what is written there."""
        prompt, expected, system = (_fielded(text) for text in (sample.prompt, sample.expected, sample.system))
        return cls(prompt, expected, system, before, dataset, sample.row, sample.earlier)

    @classmethod
    def parse(cls, text: str | None) -> Chosen:
        """What `text` wrote; none for anything else, since the page holds it."""
        try:
            held = dict(json.loads(text or ""))
        except (TypeError, ValueError, RecursionError):
            return cls()
        known = {field.name: held.get(field.name, field.default) for field in fields(cls)}
        right = all(
            type(value) is type(field.default) for field, value in zip(fields(cls), known.values(), strict=True)
        )
        return cls(**known) if right else cls()

    @property
    def text(self) -> str:
        """One line for the page to hold; "" for none."""
        return json.dumps(asdict(self)) if self.prompt else ""

    def before_is(self, system: str) -> str:
        """What the settings have without the sample, where ``system`` stands in them now: what a person wrote stays."""
        return self.before if self.system and system == self.system else system

    def is_prompt(self, prompt: str | None) -> bool:
        """Whether ``prompt`` is the sample's, but for the space around it."""
        return bool(self.prompt) and (prompt or "").strip() == self.prompt.strip()


def _fielded(text: str) -> str:
    return text.replace("\r\n", "\n").replace("\r", "\n")


def one_line(text: str, most: int = LABEL_CHARACTERS) -> str:
    """``text`` as one line of at most ``most`` characters, without those that steer a terminal or turn a line around."""
    head = text[: most * 8]  # enough of it, however long it is
    plain = "".join(" " if unicodedata.category(c)[0] == "C" and c not in _JOINERS else c for c in head)
    line = " ".join(plain.split())
    return line if len(line) <= most and len(head) == len(text) else f"{line[: most - 1].rstrip()}…"


# --- what the fields offer ---


def dataset_choices(offered: Sequence[Dataset], current: str = "") -> list[tuple[str, str]]:
    """(label, name) of each dataset, the chosen run's own marked; ``current`` stays in the list whatever it is."""
    listed = [(_dataset_label(dataset), dataset.name) for dataset in offered]
    known = {dataset.name for dataset in offered}
    return listed if not current or current in known else [*listed, (one_line(current), current)]


def _dataset_label(dataset: Dataset) -> str:
    marks = [texts.SAMPLES_OWN] if dataset.own else []
    marks += [texts.SAMPLES_ON_HUB] if dataset.is_on_hub else []
    return " · ".join([one_line(dataset.name), *marks])


def sample_choices(drawn: Drawn) -> list[tuple[str, int]]:
    """(label, number) of each sample: its beginning in one line, and its row, by which two that begin alike differ."""
    return [(_sample_label(sample, number), number) for number, sample in enumerate(drawn.samples)]


def _sample_label(sample: Sample, number: int) -> str:
    where = f"row {sample.row + 1}" if sample.row >= 0 else f"sample {number + 1}"  # of a file too large to be counted
    return f"{one_line(sample.prompt)} · {where}"


def column_choices(names: Sequence[str]) -> list[tuple[str, str]]:
    """(label, name) of each column of a dataset, after one for none of them."""
    return [(texts.SAMPLES_NO_COLUMN, ""), *((one_line(name, 60) or "(no name)", name) for name in names if name)]


def columns_heading(columns: Columns | None, *, as_guessed: bool = True) -> str:
    """The heading of the fold: how the columns are understood, in a few words."""
    if columns is None:
        return texts.SAMPLES_COLUMNS
    asked = [columns.messages] if columns.messages else [columns.prompt, columns.input]
    said = " + ".join(one_line(name, 24) for name in asked if name)
    expected = "" if columns.messages else one_line(columns.expected, 24)
    how = "as guessed" if as_guessed else "as you chose"
    return f"{texts.SAMPLES_COLUMNS} · {said}{f' → {expected}' if expected else ''} · {how}"


# --- what is said under the fields ---


def reading_line(name: str, elapsed_s: float = 0.0) -> str:
    """That the rows of ``name`` are being read, after a second with the time it has taken."""
    return progress_line(Status("loading", f"reading the rows of {one_line(name, 60)}"), elapsed_s)


def said_line(sentence: str) -> str:
    """A quiet sentence under the fields."""
    return f'<p class="samples-said muted">{escape(sentence)}</p>'


def error_line(error: BaseException) -> str:
    """Why there are no samples, in red."""
    return f'<div class="samples-said" data-state="error" role="alert">{error_lines(error)}</div>'


def drawn_line(drawn: Drawn) -> str:
    """How many rows were drawn of how many, and the notices, quietly."""
    count = len(drawn.samples)
    if drawn.total is not None and count >= drawn.total:
        said = f"All {plural(count, 'row')} of it." if count > 1 else "Its only row."
    else:
        of = f" of {plural(drawn.total, 'row')}" if drawn.total is not None else ""
        said = f"{count}{of}, drawn at random." if of else f"{plural(count, 'row')}, drawn at random."
    notices = "".join(f"<li>{escape(one_line(notice, 300))}</li>" for notice in drawn.notices)
    return said_line(said) + (f'<ul class="samples-notices muted">{notices}</ul>' if notices else "")


# --- the chosen sample, under the prompt ---


def expected_answer(chosen: Chosen) -> str:
    """The expected answer of the chosen sample, and what stands in its place once the prompt is another one.

    Which of the two is seen, the page decides by itself while somebody writes (samples.js).
    """
    if not chosen.prompt:
        return ""
    stands = _expected(chosen) if chosen.expected else f'<p class="muted">{escape(texts.SAMPLES_NO_ANSWER)}</p>'
    return f'<div class="expected-stands">{_origin(chosen)}{stands}{_earlier(chosen)}</div>{_changed()}'


def _origin(chosen: Chosen) -> str:
    row = f" · row {chosen.row + 1}" if chosen.row >= 0 else ""
    where = one_line(chosen.dataset, 60) + row
    copy = (
        f'<button type="button" class="plain outlined" data-copy="{escape(chosen.expected)}" '
        'data-copied="Expected answer copied">Copy</button>'
    )
    return (
        f'<div class="expected-head"><b>{escape(texts.SAMPLES_EXPECTED)}</b>'
        f'<span class="muted">{escape(where)}</span>{copy if chosen.expected else ""}</div>'
    )


def _expected(chosen: Chosen) -> str:
    text, most = chosen.expected, SHOWN_CHARACTERS
    cut = f"\n… {len(text) - most:,} more characters; Copy takes all of them" if len(text) > most else ""
    whole = f'<div class="expected-text" dir="auto" tabindex="0">{escape(text[:most])}{escape(cut)}</div>'
    if len(text) <= FOLDED_CHARACTERS and text.count("\n") < FOLDED_LINES:
        return whole
    size = f'<span class="muted">{plural(len(text), "character")}</span>'
    return f"<details><summary><span dir=auto>{escape(one_line(text, 160))}</span> {size}</summary>{whole}</details>"


def _earlier(chosen: Chosen) -> str:
    if not chosen.earlier:
        return ""
    messages = plural(chosen.earlier, "earlier message")
    return f'<p class="muted">{escape(texts.SAMPLES_EARLIER.format(messages=messages))}</p>'


def _changed() -> str:
    back = f'<button type="button" class="plain" data-sample="prompt">{escape(texts.SAMPLES_BACK)}</button>'
    return f'<p class="expected-changed muted">{escape(texts.SAMPLES_CHANGED)} {back}</p>'


def system_note(chosen: Chosen) -> str:
    """That the sample has put its system prompt into the settings, and what stands there once it is another one."""
    if not chosen.system:
        return ""
    line = one_line(chosen.system, 160)
    use = f'<button type="button" class="plain" data-sample="system">{escape(texts.SAMPLES_USE_SYSTEM)}</button>'
    quoted = f"<q dir=auto>{escape(line)}</q>"
    return (
        f'<p class="system-stands muted">{escape(texts.SAMPLES_SYSTEM)} {quoted}</p>'
        f'<p class="system-changed">{escape(texts.SAMPLES_SYSTEM_CHANGED)} {quoted} {use}</p>'
    )
