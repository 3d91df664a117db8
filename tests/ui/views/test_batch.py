"""P7: what the batch test's page is told, as HTML and as lines that its script puts in their places."""

from __future__ import annotations

import json

import pytest

from playground.services.matching import match
from playground.services.trial_scores import scores
from playground.services.trials import Place, TrialPlan, TrialPrompt, TrialRow
from playground.types import GenerationSettings, GenerationStats, ModelSpec, Status
from playground.ui.views import batch as view

HOSTILE = "<img src=x onerror=alert(1)> ${alert(1)} </script> \"'`"
GREEDY = GenerationSettings(strategy="greedy")
PLAN = TrialPlan(
    (TrialPrompt("What is 1 + 1?", "2"), TrialPrompt("Hello")),
    (("starter (base)", ModelSpec("s")), ("starter + pirate", ModelSpec("s", (("p", 1.0),)))),
    (("Deterministic", GREEDY),),
)
ANSWER = TrialRow(0, 1, 0, "It is 2.", "stop", GenerationStats(9, 3, 1.5, 0.5), 1.0)


def html_of(line: str) -> str:
    assert line.endswith("\n")
    assert line.count("\n") == 1
    return str(json.loads(line)["html"])


def test_the_line_before_run_says_how_many_answers_it_makes():
    """P7: the numbers and what they come to; nothing to run, and too many, are told apart."""
    assert "12 prompts × 2 models × 3 sets of settings = 72 answers." in view.size_line(view.Size(12, 2, 3, 1000))
    assert "1 prompt × 1 model × 1 set of settings = 1 answer." in view.size_line(view.Size(1, 1, 1, 1000))
    assert 'data-state="none"' in view.size_line(view.Size(0, 1, 1, 1000))
    over = view.size_line(view.Size(600, 1, 2, 1000), ["Twice."])
    assert 'data-state="over"' in over
    assert "1,200 answers are too many: a batch test makes 1,000 at most." in over
    assert "Twice." in over


def test_the_table_has_a_row_for_each_prompt_and_a_column_for_each_model_with_settings():
    """P7: names above, prompts with their expected answers beside, and an empty cell for each answer."""
    line = view.table_line("abc", PLAN)
    html = html_of(line)
    assert json.loads(line)["test"] == "abc"
    assert html.count("<tr>") == 3
    assert html.count("data-cell=") == 4
    assert "<b>starter + pirate</b><small>Deterministic</small>" in html
    assert 'data-cell="1.1.0" data-state="waiting"' in html
    assert html.count(">Expected<") == 1


def test_a_cell_holds_the_answer_what_it_took_and_how_it_compares():
    """P7: text, tokens, seconds of its own turn, and the badge."""
    line = view.cell_line(ANSWER, match("It is 2.", "2"))
    html = html_of(line)
    assert json.loads(line)["cell"] == "0.1.0"
    assert json.loads(line)["state"] == "done"
    assert "It is 2." in html
    assert "3 tokens · 0.50 s" in html
    assert "No match · 22 % alike" in html
    assert 'data-match="match"' in html_of(view.cell_line(ANSWER, match("2", "2")))
    assert "Match but for case and punctuation" in html_of(view.cell_line(ANSWER, match("two!", "Two")))
    assert "data-match" not in html_of(view.cell_line(ANSWER))


def test_a_cell_says_why_there_is_no_answer_and_when_one_was_cut():
    """P7: an error with its remedy in its own cell; an answer at the limit, and an empty one, say so."""
    failed = view.cell_line(TrialRow(0, 0, 0, "Half", error="It broke.", remedy="Try again."))
    assert json.loads(failed)["state"] == "error"
    assert "It broke. Try again." in html_of(failed)
    assert "Half" in html_of(failed)
    assert "cut at the token limit" in html_of(view.cell_line(TrialRow(0, 0, 0, "a", "length")))
    assert "The model wrote nothing." in html_of(view.cell_line(TrialRow(0, 0, 0, " ", "stop")))


def test_a_long_answer_is_folded_and_its_reasoning_left_out():
    """P7: shortened in its cell, whole when it is unfolded."""
    html = html_of(view.cell_line(TrialRow(0, 0, 0, "<think>hm</think>" + "word " * 100 + "end", "stop")))
    assert html.startswith("<details><summary")
    assert "hm" not in html
    assert "end</div></details>" in html
    endless = html_of(view.cell_line(TrialRow(0, 0, 0, "x" * 30_000, "stop")))
    assert "10,000 more characters; the files hold all" in endless


@pytest.mark.parametrize("where", ["prompt", "expected", "answer", "error", "notice", "model", "settings", "name"])
def test_nothing_that_somebody_wrote_is_markup(where: str):
    """P7: prompts, answers, names and errors are shown as they are, and neither run nor evaluated."""
    said = dict.fromkeys(("prompt", "expected", "answer", "error", "notice", "model", "settings", "name"), "ok")
    said[where] = HOSTILE
    plan = TrialPlan(
        (TrialPrompt(said["prompt"], said["expected"]),),
        ((said["model"], ModelSpec("m")),),
        ((said["settings"], GREEDY),),
    )
    row = TrialRow(0, 0, 0, said["answer"], "stop", notices=(said["notice"],))
    failed = TrialRow(0, 0, 0, said["answer"], error=said["error"])
    drawn = [
        html_of(view.table_line("t", plan)), html_of(view.cell_line(row)), html_of(view.cell_line(failed)),
        view.summary(plan, scores(plan, [row])), view.brought_line(said["name"], plan.prompts, 9, [said["notice"]]),
        view.size_line(view.Size(1, 1, 1, 9), [said["notice"]]),
    ]  # fmt: skip
    assert "&lt;img" in "".join(drawn)
    for html in drawn:
        assert "<img" not in html
        assert "${" not in html
        assert "</script>" not in html


def test_progress_says_how_many_are_there_and_how_long_the_rest_takes():
    """P7: the load first, then the count with the time that is left."""
    assert "reading weights" in view.progress(0, 10, 0, None, Status("loading", "reading weights", 0.4))
    said = view.progress(3, 10, 2, 65.2)
    assert "3 of 10 answers · 2 being written · about 65.0 s left" in said
    assert "--share:0.300" in said
    assert "left" not in view.progress(0, 10, 1, None)


def test_the_end_says_what_came_of_it():
    """P7: how many and how long, how many failed, and that it was stopped."""
    assert "10 answers in 4.00 s." in view.ended(10, 10, 0, 4.0, stopped=False)
    assert "8 answers in 4.00 s. 2 answers failed; the cells say why." in view.ended(10, 10, 2, 4.0, stopped=False)
    assert "Stopped after 3 of 10 answers." in view.ended(3, 10, 0, 4.0, stopped=True)


def test_the_summary_compares_the_columns():
    """P7: matches and likeness where answers were expected, tokens, speed, sameness and errors."""
    rows = [TrialRow(0, 0, 0, "2", "stop", ANSWER.stats), TrialRow(1, 0, 0, "Hi", "stop", ANSWER.stats), ANSWER]
    rows += [TrialRow(1, 1, 0, error="It broke.")]
    html = view.summary(PLAN, scores(PLAN, rows))
    base, pirate = html.split("<tr>")[2:]
    assert "1 of 1" in base
    assert "100 %" in base
    assert "<td>3.0</td><td>2</td><td>–</td><td>0</td>" in base
    assert "0 of 1" in pirate
    assert "<td class=error-line>1</td>" in pirate
    without = view.summary(PLAN, scores(PLAN, rows[1:2]))
    assert "Matches" not in without


def test_what_a_file_brought_can_be_looked_at():
    """P7: how many of how many rows, how many expected answers, and the first prompts on a line each."""
    html = view.brought_line("q.csv", [TrialPrompt("one\ntwo", "x"), TrialPrompt("three")], 5, ["Line 4 was left out."])
    assert "2 prompts of 5 rows from q.csv. 1 have an expected answer." in html
    assert "<li>one two</li>" in html
    assert "Line 4 was left out." in html


def test_a_writing_cell_and_the_end_are_lines_as_well():
    """P7: all that the page's script reads."""
    assert json.loads(view.begun_line(Place(1, 0, 2))) == {"cell": "1.0.2", "state": "writing", "html": ""}
    assert json.loads(view.end_line("stopped")) == {"ended": "stopped"}
