"""The batch test: how many answers it makes, how far it is, the table as it fills, and the columns compared. Pure functions.

The table's text is lines that only ever grow in number, so that each update carries what is new and nothing else: the first
is the empty table, every other one a cell, or that it is over. The page's script (batch.js) puts them in their places, so a
cell that somebody has unfolded stays unfolded. What models and files have written is escaped here.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from playground.conversation import without_reasoning
from playground.services.matching import Match
from playground.services.trial_scores import Score
from playground.services.trials import Place, TrialPlan, TrialPrompt, TrialRow
from playground.types import Status
from playground.ui import texts
from playground.ui.safe_text import escape
from playground.ui.views.figures import percent, plural, seconds_text
from playground.ui.views.samples import one_line
from playground.ui.views.status import progress_line, status_line

FOLDED_CHARACTERS = 220  # a longer text is folded, so that a row stays a row
FOLDED_LINES = 5
FOLDED_PROMPT = 120  # its column is narrower
SHOWN_CHARACTERS = 20_000  # the files hold all of it
LISTED_PROMPTS = 20


@dataclass(frozen=True)
class Size:
    """How many answers a test makes: so many prompts, models and settings, of at most ``most`` answers."""

    prompts: int
    models: int
    settings: int
    most: int

    @property
    def answers(self) -> int:
        """How many answers that makes."""
        return self.prompts * self.models * self.settings


def size_line(size: Size, notes: Sequence[str] = ()) -> str:
    """How many answers Run would make, or why it would make none; ``notes`` are sentences about the choice."""
    counted = " × ".join((plural(size.prompts, "prompt"), plural(size.models, "model"), _settings(size.settings)))
    if not size.answers:
        sentence, state = texts.BATCH_NOTHING.format(counted=counted), "none"
    elif size.answers > size.most:
        sentence, state = texts.BATCH_TOO_MANY.format(counted=f"{size.answers:,}", most=f"{size.most:,}"), "over"
    else:
        sentence, state = f"{counted} = {plural(size.answers, 'answer')}.", "fits"
    more = "".join(f' <span class="muted">{escape(note)}</span>' for note in notes)
    role = ' role="alert"' if state == "over" else ""
    return f'<p class="batch-size" data-state="{state}"{role}><b>{escape(sentence)}</b>{more}</p>'


def _settings(count: int) -> str:
    return f"{count:,} set of settings" if count == 1 else f"{count:,} sets of settings"


def brought_line(name: str, prompts: Sequence[TrialPrompt], total: int | None, notices: Sequence[str] = ()) -> str:
    """What was taken from a file or a dataset: how many prompts, with how many expected answers, and which."""
    of = f" of {plural(total, 'row')}" if total is not None and total > len(prompts) else ""
    expected = sum(bool(prompt.expected.strip()) for prompt in prompts)
    known = texts.BATCH_EXPECTED[0 if not expected else 1 if expected == len(prompts) else 2]
    said = f"{plural(len(prompts), 'prompt')}{of} from {one_line(name, 80)}. {known.format(count=f'{expected:,}')}"
    listed = "".join(f"<li>{escape(one_line(prompt.text, 160))}</li>" for prompt in prompts[:LISTED_PROMPTS])
    more = f"<li>… and {len(prompts) - LISTED_PROMPTS:,} more</li>" if len(prompts) > LISTED_PROMPTS else ""
    fold = f"<details><summary>{texts.BATCH_LOOK}</summary><ol>{listed}{more}</ol></details>" if prompts else ""
    told = "".join(f"<li>{escape(one_line(notice, 300))}</li>" for notice in notices)
    return (
        f'<div class="batch-brought" role="status"><p>{escape(said)}</p>'
        f"{f'<ul class=muted>{told}</ul>' if told else ''}{fold}</div>"
    )


def file_field(limit_bytes: int) -> str:
    """The field that a file is chosen with, or dropped on; the browser reads it."""
    size = f"{limit_bytes / 10**6:g} MB"
    return (
        f'<label class="batch-drop" data-limit="{limit_bytes}"><input type="file" '
        'accept=".txt,.csv,.tsv,.json,.jsonl,.ndjson,.parquet">'
        f"<span><b>{texts.BATCH_CHOOSE_FILE}</b> {escape(texts.BATCH_FILE_HELP.format(size=size))}</span></label>"
    )


# --- how far it is ---


def progress(done: int, total: int, writing: int, left_s: float | None, status: Status | None = None) -> str:
    """How many answers are there, how many are being written, and how long the others will take; ``status`` of a load."""
    if status is not None and not done and not writing:
        return progress_line(status)
    said = [f"{done:,} of {plural(total, 'answer')}"]
    said += [f"{writing:,} being written"] if writing else []
    said += [f"about {seconds_text(max(1.0, round(left_s)))} left"] if left_s is not None and done < total else []
    bar = f'<span class="bar known" style="--share:{done / max(total, 1):.3f}"></span>'
    return f'<p class="progress-line" role="status">{escape(" · ".join(said))}{bar}</p>'


def ended(done: int, total: int, errors: int, elapsed_s: float, *, stopped: bool) -> str:
    """What came of it."""
    failed = f" {plural(errors, 'answer')} failed; the cells say why." if errors else ""
    if stopped:
        return status_line("cancelled", f"Stopped after {done:,} of {plural(total, 'answer')}.{failed}")
    return status_line("done", f"{plural(done - errors, 'answer')} in {seconds_text(elapsed_s)}.{failed}")


# --- the table, line by line ---


def table_line(name: str, plan: TrialPlan) -> str:
    """The empty table of the test called ``name``: a row for each prompt, a column for each model with settings."""
    heads = "".join(
        f'<th scope="col"><b>{escape(plan.specs[spec][0])}</b><small>{escape(plan.settings[setting][0])}</small></th>'
        for spec, setting in plan.columns
    )
    rows = "".join(_row(plan, at) for at in range(len(plan.prompts)))
    head = f'<thead><tr><th scope="col" class="prompt">Prompt</th>{heads}</tr></thead>'
    return _line({"test": name, "html": f"<table>{head}<tbody>{rows}</tbody></table>"})


def _row(plan: TrialPlan, at: int) -> str:
    prompt = plan.prompts[at]
    cells = "".join(
        f'<td data-cell="{at}.{spec}.{setting}" data-state="waiting"></td>' for spec, setting in plan.columns
    )
    expected = ""
    if prompt.expected.strip():
        wanted = _text(prompt.expected, FOLDED_PROMPT)
        expected = f'<div class="expected"><small>{texts.BATCH_EXPECTED_ANSWER}</small>{wanted}</div>'
    return f'<tr><th scope="row" class="prompt">{_text(prompt.text, FOLDED_PROMPT)}{expected}</th>{cells}</tr>'


def begun_line(place: Place) -> str:
    """That an answer is being written."""
    return _line({"cell": f"{place.prompt}.{place.spec}.{place.setting}", "state": "writing", "html": ""})


def cell_line(row: TrialRow, found: Match | None = None) -> str:
    """One answer in its place: the text, what it took, and how it compares, ``found``; or why there is none."""
    state = "error" if row.error else "done"
    return _line({"cell": f"{row.prompt}.{row.spec}.{row.setting}", "state": state, "html": _cell(row, found)})


def end_line(state: str) -> str:
    """That no more cells will come; ``state`` is done or stopped."""
    return _line({"ended": state})


def _line(value: dict[str, str]) -> str:
    return json.dumps(value, ensure_ascii=False) + "\n"


def _cell(row: TrialRow, found: Match | None) -> str:
    if row.error:
        why = " ".join(filter(None, (row.error, row.remedy)))
        return f'<p class="error-line" role="note">{escape(why)}</p>{_text(row.text) if row.text else ""}'
    answer = without_reasoning(row.text) or row.text
    said = _text(answer) if answer.strip() else f'<p class="muted">{texts.NOTHING_WRITTEN}</p>'
    notices = "".join(f'<p class="notice">{escape(notice)}</p>' for notice in row.notices)
    return f"{said}{notices}<p class=under>{_badge(found)}{_figures(row)}</p>"


def _figures(row: TrialRow) -> str:
    figures = [plural(row.stats.completion_tokens, "token"), seconds_text(row.seconds)]
    figures += [texts.FINISH["length"]] if row.finish_reason == "length" else []
    return f"<small>{escape(' · '.join(figures))}</small>"


def _badge(found: Match | None) -> str:
    if found is None:
        return ""
    if found.agreement == "none":
        return f'<span class="match" data-match="none">{texts.BATCH_MATCH["none"]} · {found.percent} % alike</span>'
    return f'<span class="match" data-match="{found.agreement}">{texts.BATCH_MATCH[found.agreement]}</span>'


def _text(text: str, most: int = FOLDED_CHARACTERS) -> str:
    """``text`` as it is, one of more than ``most`` characters folded."""
    cut = (
        f"\n… {len(text) - SHOWN_CHARACTERS:,} more characters; the files hold all"
        if len(text) > SHOWN_CHARACTERS
        else ""
    )
    whole = f'<div class="text" dir="auto">{escape(text[:SHOWN_CHARACTERS])}{escape(cut)}</div>'
    if len(text) <= most and text.count("\n") < FOLDED_LINES:
        return whole
    return f'<details><summary dir="auto">{escape(one_line(text, most - 40))}</summary>{whole}</details>'


# --- compared across settings ---


def summary(plan: TrialPlan, scores: Sequence[Score]) -> str:
    """The columns beside each other: a line for each model with settings."""
    expects = any(score.compared for score in scores)
    heads = [*(texts.BATCH_MATCHES if expects else ()), *texts.BATCH_MEANS]
    head = "".join(f'<th scope="col" title="{escape(why)}">{escape(name)}</th>' for name, why in heads)
    lines = "".join(_score_line(plan, score, at, expects) for at, score in enumerate(scores))
    return (
        f'<h3 class="batch-heading">{texts.BATCH_COMPARED}</h3><div class="batch-scroll" tabindex="0"><table class="scores">'
        f'<thead><tr><th scope="col">{texts.BATCH_COLUMN}</th>{head}</tr></thead><tbody>{lines}</tbody></table></div>'
    )


def _score_line(plan: TrialPlan, score: Score, at: int, expects: bool) -> str:
    model, settings = plan.specs[score.spec][0], plan.settings[score.setting][0]
    cells = []
    if expects:
        near = f" + {score.near:,} near" if score.near else ""
        cells += [_share(f"{score.matches:,} of {score.compared:,}{near}", _of(score.matches, score.compared))]
        cells += [_share("–" if score.similarity is None else percent(score.similarity), score.similarity)]
    same = "–" if not score.beside else f"{score.same:,} of {score.beside:,}"
    cells += [_mean(score.tokens, "{:,.1f}"), _mean(score.speed, "{:,.0f}")]
    cells += ["<td>–</td>" if not at else f"<td>{same}</td>"]
    cells += [f"<td{' class=error-line' if score.errors else ''}>{score.errors:,}</td>"]
    name = f"<b>{escape(model)}</b><small>{escape(settings)}</small>"
    return f'<tr><th scope="row">{name}</th>{"".join(cells)}</tr>'


def _of(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def _share(text: str, share: float | None) -> str:
    """A figure with a bar as long as its share of one."""
    bar = "" if share is None else f'<span class="bar" style="--share:{share:.3f}"></span>'
    return f"<td>{escape(text)}{bar}</td>"


def _mean(value: float | None, form: str) -> str:
    return f"<td>{'–' if value is None else form.format(value)}</td>"
