"""The sidebar's HTML: the list of conversations by day, what finds them, and what was done to them. Pure functions."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta, timezone
from itertools import groupby

from playground.conversation import Found, Query, Summary
from playground.ui import texts
from playground.ui.safe_text import escape
from playground.ui.views.figures import plural

ROWS = 200  # shown at once, and how many more at a time
LONGEST_SHOWN = 200  # characters of a title or an excerpt; the rest would never be seen
FARTHEST_MINUTES = 14 * 60  # from Greenwich
_DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_MONTHS = (
    "January", "February", "March", "April", "May", "June",
    "July", "August", "September", "October", "November", "December",
)  # fmt: skip


@dataclass(frozen=True)
class Clock:
    """What time it is for whoever looks: ``now`` in seconds since 1970, ``minutes`` the distance from Greenwich."""

    now: float
    minutes: int = 0

    def local(self, at: float) -> datetime:
        """``at``, seconds since 1970, as that person's clock shows it."""
        minutes = max(-FARTHEST_MINUTES, min(FARTHEST_MINUTES, self.minutes))
        return datetime.fromtimestamp(at, UTC).astimezone(timezone(timedelta(minutes=minutes)))

    @property
    def today(self) -> date:
        return self.local(self.now).date()


def day_group(at: float, clock: Clock) -> str:
    """Under which heading a conversation of that time stands: Today, Yesterday, Previous 7 days, or its month."""
    day = clock.local(at).date()
    days = (clock.today - day).days
    if days <= 0:
        return "Today"
    if days == 1:
        return "Yesterday"
    if days <= 7:
        return "Previous 7 days"
    return f"{_MONTHS[day.month - 1]} {day.year}"


def when(at: float, clock: Clock) -> str:
    """The time beside a title: ``14:02`` within two days, ``Tue`` within a week, ``3 May`` before."""
    then = clock.local(at)
    days = (clock.today - then.date()).days
    if days <= 1:
        return f"{then:%H:%M}"
    return _DAYS[then.weekday()] if days < 7 else f"{then.day} {_MONTHS[then.month - 1][:3]}"


def model_label(model_id: str) -> str:
    """``base + adapter ×0.5`` for ``base:adapter@0.5``."""
    return " + ".join(model_id.split(":")).replace("@", " ×")


# --- the list ---


def conversation_list(found: Found, query: Query, clock: Clock) -> str:
    """The rows under their days; `marked`."""
    if not found.summaries:
        return marked(_nothing(query))
    hits = _hit_pattern(query.text)
    groups = groupby(found.summaries, key=lambda row: day_group(row.updated_at, clock))
    parts = [
        f'<section><h3>{escape(name)}</h3><ul role="list">{"".join(_row(row, hits, clock) for row in rows)}</ul></section>'
        for name, rows in groups
    ]
    return marked("".join(parts) + _more(found))


def marked(html: str) -> str:
    """``html`` with a mark by which it can be told from other, so that no page is sent what it shows already."""
    mark = hashlib.blake2b(html.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()
    return f'<div data-mark="{mark}">{html}</div>'


def mark_of(html: str) -> str:
    """The mark that `marked` has put on it."""
    found = re.search(r'data-mark="(\w+)"', html)
    return found[1] if found else ""


def _nothing(query: Query) -> str:
    if query.text or query.model or query.adapter or query.use_case:
        return (
            f'<p class="muted">{escape(texts.NOTHING_FOUND)}</p>'
            '<button type="button" class="plain small-button" data-sidebar="clear">Show all</button>'
        )
    return f'<p class="muted">{escape(texts.NO_CONVERSATIONS)}</p>'


def _row(row: Summary, hits: re.Pattern[str] | None, clock: Clock) -> str:
    title, model = row.title[:LONGEST_SHOWN], model_label(row.model_id)
    facts = f'<span class="model">{escape(model)}</span><span> · </span>' if model else ""
    count = plural(row.messages, "message") if row.messages else "empty"
    found = "" if row.excerpt.strip("… ") in row.title else row.excerpt[:LONGEST_SHOWN]
    excerpt = f'<span class="excerpt" dir="auto">{_with_hits(found, hits)}</span>' if found else ""
    # what does not fit into the column: the whole title, and all models that answered
    whole = "\n".join((title, plural(row.messages, "message"), ", ".join(map(model_label, row.models[:8])))).strip()
    return (
        f'<li class="conversation" data-id="{escape(row.id)}"><button type="button" class="open" tabindex="-1" '
        f'title="{escape(whole)}"><span class="title" dir="auto">{_with_hits(title, hits)}</span>'
        f'<small>{facts}<span class="when">{escape(when(row.updated_at, clock))}'
        f'<span class="count"> · {count}</span></span></small>'
        f"{excerpt}</button></li>"
    )


def _icon(name: str) -> str:
    return f'<svg aria-hidden="true"><use href="#icon-{name}"/></svg>'


_ROW_ACTIONS = '<span class="row-actions">{}</span>'.format(
    "".join(
        f'<button type="button" class="plain" tabindex="-1" data-sidebar="{action}" title="{title}" '
        f'aria-label="{title}">{_icon(action)}</button>'
        for action, title in (("rename", "Rename"), ("export", "Export"), ("delete", "Delete"))
    )
)


def _more(found: Found) -> str:
    left = found.total - len(found.summaries)
    if left <= 0:
        return ""
    return (
        '<button type="button" class="plain small-button more" data-sidebar="more">'
        f"Show {min(left, ROWS):,} more of {found.total:,}</button>"
    )


def _hit_pattern(text: str) -> re.Pattern[str] | None:
    """What a search for ``text`` marks: the whole of it where it stands so, else its words."""
    words = sorted({text.strip(), *text.split()} - {""}, key=len, reverse=True)
    return re.compile("|".join(map(re.escape, words)), re.IGNORECASE) if words else None


def _with_hits(text: str, hits: re.Pattern[str] | None) -> str:
    """``text`` for HTML, with what was searched for in it marked."""
    if hits is None:
        return escape(text)
    parts, end = [], 0
    for hit in hits.finditer(text):
        parts.append(f"{escape(text[end : hit.start()])}<mark>{escape(hit[0])}</mark>")
        end = hit.end()
    return "".join(parts) + escape(text[end:])


# --- what finds them ---

_SYMBOLS = (
    '<svg class="symbols" aria-hidden="true">'
    '<symbol id="icon-rename" viewBox="0 0 16 16"><path d="M10.8 2.7l2.5 2.5M2.5 13.5l.7-3.2 8-8 2.5 2.5-8 8z"/></symbol>'
    '<symbol id="icon-export" viewBox="0 0 16 16"><path d="M8 2v8M4.8 6.8L8 10l3.2-3.2M2.5 13.5h11"/></symbol>'
    '<symbol id="icon-delete" viewBox="0 0 16 16">'
    '<path d="M2.5 4h11M6 4V2.5h4V4M4 4l.7 9.5h6.6L12 4M6.7 6.5v4.5M9.3 6.5v4.5"/></symbol></svg>'
)


def frame(formats: Iterable[str]) -> str:
    """What stands above the list and never changes, with what the page's script puts into each row, sent once.

    ``formats`` are those of an export, offered where one is asked for.
    """
    choices = "".join(
        f'<button type="button" class="plain small-button" data-format="{escape(form)}" '
        f'title="{escape(texts.EXPORT_FORMATS[form][1])}">{escape(texts.EXPORT_FORMATS[form][0])}</button>'
        for form in formats
    )
    return (
        f'{_SYMBOLS}<div class="sidebar-head"><button type="button" class="new" data-sidebar="new">New conversation</button>'
        '<button type="button" class="plain close-drawer" data-action="chats">Close</button></div>'
        '<input type="search" class="search" placeholder="Search" maxlength="200" spellcheck="false" autocomplete="off" '
        f'aria-label="Search conversations" title="{escape(texts.SEARCH_HELP)}">'
        f'<template class="row-actions">{_ROW_ACTIONS}</template>'
        f'<template class="formats"><span class="formats" role="group" aria-label="Export as">{choices}</span></template>'
    )


def filters(found: Found, query: Query, use_cases: Mapping[str, str]) -> str:
    """What the list can be narrowed down to, folded; only what there is; `marked`. ``use_cases``: key → label."""
    fields = (
        _filter("model", "Model", found.bases, query.model, {}),
        _filter("adapter", "Adapter", found.adapters, query.adapter, {}),
        _filter("use_case", "Use case", found.use_cases, query.use_case, use_cases),
    )
    chosen = sum(map(bool, (query.model, query.adapter, query.use_case)))
    if not any(fields):
        return marked("")
    summary = f"Filter · {chosen}" if chosen else "Filter"
    return marked(f'<details class="filters"><summary>{summary}</summary>{"".join(fields)}</details>')


def _filter(name: str, label: str, values: Sequence[str], chosen: str, labels: Mapping[str, str]) -> str:
    """A choice; what is chosen stays in it, though nothing may be left that it fits."""
    offered = [*values, *([chosen] if chosen and chosen not in values else [])]
    if not offered:
        return ""
    selected = {chosen: " selected"}
    options = "".join(
        f'<option value="{escape(value)}"{selected.get(value, "")}>{escape(labels.get(value, value))}</option>'
        for value in offered
    )
    return f'<label>{escape(label)}<select data-filter="{name}"><option value="">Any</option>{options}</select></label>'


# --- what can be done with all of them, and what was done ---


def foot(place: str, notices: Sequence[str]) -> str:
    """What stands below the list: taking in and out, deleting all, and where the file is, "" where that is not told."""
    told = "".join(
        f'<p class="notice" data-notice="{escape(notice)}" hidden>{escape(notice)} '
        '<button type="button" class="plain small-button" data-sidebar="dismiss">Understood</button></p>'
        for notice in notices
    )
    where = (
        f'<button type="button" class="plain where" data-copy="{escape(place)}" data-copied="Path copied" '
        f'title="{escape(texts.PLACE_HELP.format(place=place))}">Kept in <span>{escape(place)}</span></button>'
        if place
        else ""
    )
    return (
        f'{told}<div class="sidebar-foot"><button type="button" class="plain small-button" data-sidebar="import" '
        f'title="{escape(texts.IMPORT_HELP)}">Import</button>'
        '<button type="button" class="plain small-button" data-sidebar="export-all">Export all</button>'
        '<button type="button" class="plain small-button" data-sidebar="ask-delete-all">Delete all</button>'
        '<input type="file" accept=".json,.jsonl,.md,.txt" multiple hidden tabindex="-1" aria-label="Files to import">'
        f"</div>{where}"
    )


def said(sentence: str, *, undo: str = "") -> str:
    """A quiet line about what was done; ``undo`` is the label of a button that takes it back, "" where none can."""
    button = f' <button type="button" class="undo" data-sidebar="undo">{escape(undo)}</button>' if undo else ""
    return f'<p class="said" role="status"><span dir="auto">{escape(sentence)}</span>{button}</p>'


def refused(error_html: str) -> str:
    """What could not be done; ``error_html`` is the line of `views.status.error_lines`."""
    return f'<div class="said" role="alert">{error_html}</div>'


def delete_all_asked(total: int) -> str:
    """The question before all are deleted: how many, and what it destroys."""
    if not total:
        return said(texts.NONE_TO_DELETE)
    return (
        f'<div class="said asked" role="alertdialog" aria-label="Delete all">'
        f"<p>{escape(texts.DELETE_ALL_ASKED.format(conversations=plural(total, 'conversation')))}</p>"
        '<button type="button" class="small-button danger" data-sidebar="delete-all">'
        f"Delete {total:,}</button> "
        '<button type="button" class="small-button plain" data-sidebar="keep">Keep</button></div>'
    )
