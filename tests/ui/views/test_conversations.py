"""The sidebar's list: days, rows, filters, hits, and that nothing that people or models wrote is more than text."""

from __future__ import annotations

from datetime import UTC, datetime
from html.parser import HTMLParser

import pytest

from playground.conversation import Found, Query, Summary
from playground.services.history import EXPORT_FORMATS
from playground.ui.views.conversations import (
    ROWS,
    Clock,
    conversation_list,
    day_group,
    delete_all_asked,
    filters,
    foot,
    frame,
    mark_of,
    model_label,
    said,
    when,
)

NOW = datetime(2026, 11, 21, 18, 30, tzinfo=UTC).timestamp()  # a Saturday
ALL = Query()
HOUR, DAY = 3600.0, 86400.0
CLOCK = Clock(NOW)
HOSTILE = "<img src=x onerror=alert(1)> ${alert(2)} {{x}} `y` \" ' & <mark>"


def row(title: str = "The sea", **changes: object) -> Summary:
    values = {
        "id": "c1", "title": title, "use_case": "chatbot", "model_id": "starter:pirate@0.5",
        "models": ("starter:pirate@0.5",), "messages": 2, "created_at": NOW, "updated_at": NOW,
    }  # fmt: skip
    return Summary(**(values | changes))  # type: ignore[arg-type]


def drawn(*rows: Summary, query: Query = ALL, total: int | None = None, clock: Clock = CLOCK) -> str:
    return conversation_list(Found(rows, len(rows) if total is None else total), query, clock)


@pytest.mark.parametrize(
    ("ago", "group", "time"),
    [(0, "Today", "18:30"), (18 * HOUR, "Today", "00:30"), (19 * HOUR, "Yesterday", "23:30"), (-HOUR, "Today", "19:30"),
     (2 * DAY, "Previous 7 days", "Thu"), (7 * DAY, "Previous 7 days", "14 Nov"), (8 * DAY, "November 2026", "13 Nov"),
     (330 * DAY, "December 2025", "26 Dec")],
)  # fmt: skip
def test_a_conversation_stands_under_the_day_on_which_it_was_last_written(ago, group, time):
    """P6: Today, Yesterday, the last seven days, then months; beside the title the hour, the weekday or the day."""
    assert (day_group(NOW - ago, CLOCK), when(NOW - ago, CLOCK)) == (group, time)


def test_days_are_those_of_the_clock_of_whoever_looks():
    """P6: what was said at 23:30 in London was said today in Berlin; a clock nobody has is one at the edge."""
    at = NOW - 19 * HOUR
    assert day_group(at, Clock(NOW, 60)) == "Today"
    assert when(at, Clock(NOW, 60)) == "00:30"
    assert when(NOW, Clock(NOW, 10**9)) == when(NOW, Clock(NOW, 14 * 60))


def test_a_row_says_what_it_is_called_what_answered_when_and_how_much():
    """P6: title, model and adapter with its strength, time, messages; days are headings, the newest first."""
    shown = drawn(row(), row("Older", id="c0", updated_at=NOW - DAY, model_id="", messages=0, models=()))
    assert shown.index("<h3>Today</h3>") < shown.index("The sea") < shown.index("<h3>Yesterday</h3>")
    assert "starter + pirate ×0.5" in shown
    assert '18:30<span class="count"> · 2 messages' in shown
    assert '18:30<span class="count"> · empty' in shown
    assert model_label("org/base:a:b@2") == "org/base + a + b ×2"


class Tags(HTMLParser):
    """Which elements and attributes a page would make of some HTML."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.names: set[str] = set()
        self.attributes: set[str] = set()
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.names.add(tag)
        self.attributes.update(name for name, _ in attrs)


def test_titles_excerpts_and_names_are_text_and_nothing_else():
    """S3: no element, attribute or template mark of a hostile title, id, model or path reaches the page."""
    hostile = row(HOSTILE, id=HOSTILE, model_id=HOSTILE, models=(HOSTILE,), use_case=HOSTILE, excerpt=f"so {HOSTILE}")
    found = Found((hostile,), 1, (HOSTILE,), (HOSTILE,), (HOSTILE,))
    for html in (
        conversation_list(found, Query(text="alert img <mark>"), CLOCK), filters(found, Query(model=HOSTILE), {}),
        said(HOSTILE, undo="Undo"), foot(HOSTILE, (HOSTILE,)),
    ):  # fmt: skip
        tags = Tags(html)
        assert not tags.names & {"img", "script", "style"}
        assert not any(name.startswith("on") for name in tags.attributes)
        assert "${" not in html
        assert "{{" not in html
        assert "`" not in html


def test_what_was_searched_for_is_marked_in_title_and_excerpt():
    """P6: any word of it, in any letter case; escaping does not come between; the title is not told twice."""
    hit = row("Wide SEA", excerpt="… sailed the sea & a <wide> bay …")
    shown = drawn(hit, query=Query(text="sea wide"))
    assert '<span class="title" dir="auto"><mark>Wide</mark> <mark>SEA</mark></span>' in shown
    assert "the <mark>sea</mark> &amp; a &lt;<mark>wide</mark>&gt; bay" in shown
    assert 'class="excerpt"' not in drawn(row("Wide sea", excerpt="Wide sea"), query=Query(text="sea"))


def test_an_empty_list_says_what_will_be_there_and_a_search_without_hits_offers_all():
    """P6: the two are told apart."""
    assert "will stand here" in drawn()
    nothing = drawn(query=Query(use_case="chatbot"))
    assert "No conversation fits." in nothing
    assert 'data-sidebar="clear"' in nothing


def test_what_is_not_shown_is_counted_and_offered():
    """P6: two hundred at a time."""
    assert "Show 200 more of 5,000" in drawn(row(), total=5000)
    assert f"Show 7 more of {ROWS + 7}" in drawn(*(row(id=f"c{n}") for n in range(ROWS)), total=ROWS + 7)
    assert "more of" not in drawn(row())


def test_only_what_there_is_can_be_filtered_by_and_a_choice_stays():
    """P6: model, adapter, use case by their labels; a chosen one that is gone stays in its list."""
    found = Found((), 0, bases=("starter",), use_cases=("code_generation",))
    shown = filters(found, Query(use_case="code_generation", model="gone"), {"code_generation": "Code generation"})
    assert "Filter · 2" in shown
    assert 'data-filter="adapter"' not in shown
    assert '<option value="code_generation" selected>Code generation</option>' in shown
    assert '<option value="gone" selected>' in shown
    assert "select" not in filters(Found((), 0), Query(), {})


def test_the_mark_tells_what_is_shown_from_what_is_new():
    """P6: the same list has the same mark; another title, another day or another choice has another one."""
    assert mark_of(drawn(row())) == mark_of(drawn(row())) != ""
    others = (drawn(row("Another")), drawn(row(), clock=Clock(NOW + DAY)), drawn())
    assert len({mark_of(html) for html in (drawn(row()), *others)}) == 4
    assert mark_of("<p>") == ""


def test_the_foot_tells_the_place_only_where_it_is_given_and_deleting_all_says_how_many():
    """P6, F2, S2: the path can be copied; the question counts, and there is none without conversations."""
    assert 'data-copy="/data/history.json"' in foot("/data/history.json", ())
    assert "data-copy" not in foot("", ())
    assert 'data-notice="It was set aside."' in foot("", ("It was set aside.",))
    asked = delete_all_asked(1312)
    assert "Deletes 1,312 conversations" in asked
    assert 'data-sidebar="delete-all"' in asked
    assert "nothing to delete" in delete_all_asked(0)
    assert 'data-sidebar="delete-all"' not in delete_all_asked(0)


def test_every_format_can_be_exported_to():
    """P6: five buttons, each with a sentence."""
    shown = frame(EXPORT_FORMATS)
    assert all(f'data-format="{form}"' in shown for form in EXPORT_FORMATS)
