"""Lines that say where something stands, or why it went wrong."""

from __future__ import annotations

import pytest

from playground.errors import AdapterInvalid
from playground.types import Status
from playground.ui import texts
from playground.ui.views.status import (
    error_details,
    error_lines,
    error_sentence,
    progress_line,
    status_line,
    status_text,
    worked,
    working,
)


def test_an_error_is_one_sentence_and_never_a_traceback():
    """P1: ours as it is; anything else a general sentence; what lies behind folds out."""
    error = AdapterInvalid("The adapter is broken.", "Train it again.")
    error.__cause__ = ValueError("header too large")
    assert error_sentence(error) == "The adapter is broken. Train it again."
    assert error_details(error) == "ValueError: header too large"
    assert error_sentence(KeyError("secret")) == texts.UNEXPECTED
    assert error_details(KeyError("secret")) == ""
    line = status_line("error", "No <b>.", "why")
    assert 'role="alert"' in line
    assert "No &lt;b&gt;." in line
    assert "<summary>Details</summary>" in line


@pytest.mark.parametrize(
    ("status", "said"),
    [(Status("loading", "reading weights", 0.42), "Loading: reading weights 42 %"),
     (Status("queued", "waiting"), "Getting ready"),
     (Status("queued", "next in line"), "Waiting in line: yours is next"),
     (Status("queued", "1 before this one"), "Waiting in line: 1 answer before yours"),
     (Status("queued", "3 before this one"), "Waiting in line: 3 answers before yours"),
     (Status("queued", "waiting for its turn"), "Waiting for its turn"),
     (Status("prefilling", "reading the prompt", 0.5), "Reading the prompt 50 %")],
)  # fmt: skip
def test_a_status_is_a_phrase(status, said):
    """P1, P3: what is happening or how many come first, never a bare spinner."""
    assert status_text(status) == said
    assert said in progress_line(status)


def test_the_line_in_which_one_waits_is_drawn_and_timed():
    """P3: a dot for each who comes before, one's own at the end; a long line shows its end; the seconds go on."""
    shown = progress_line(Status("queued", "3 before this one"), 12.4)
    assert "3 answers before yours · 12 s" in shown
    assert shown.count("<i") == 4
    assert progress_line(Status("queued", "200 before this one")).count("<i") < 20
    assert "bar unknown" in progress_line(Status("queued", "waiting"))


def test_what_came_of_a_piece_of_work_is_announced_and_an_error_loudly():
    """P1, P8: progress and results are a status, errors an alert; what lies behind an error folds out, escaped."""
    error = AdapterInvalid("It is <broken>.", "Mend it.")
    error.__cause__ = ValueError("<header>")
    shown = worked(error_lines(error), "error")
    assert 'role="alert"' in shown
    assert "It is &lt;broken&gt;. Mend it." in shown
    assert "<summary>Details</summary><p>ValueError: &lt;header&gt;</p>" in shown
    assert working("<p>1 of 2</p>") == '<div class="work" data-state="running" role="status"><p>1 of 2</p></div>'
    assert 'data-state="done" role="status"' in worked("<p>Done</p>")
