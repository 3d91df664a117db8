"""What is said of a dataset and its samples: one line of each, quiet notices, the expected answer; all of it escaped."""

from __future__ import annotations

import json

import pytest

from playground.errors import InvalidRequest
from playground.services.datasets import Dataset
from playground.services.samples import Columns, Drawn, Sample
from playground.ui import texts
from playground.ui.views import samples as view
from playground.ui.views.samples import Chosen

HOSTILE = "<img src=x onerror=alert(1)>${alert(1)}"


def drawn(*samples: Sample, total: int | None = 100, notices: tuple[str, ...] = ()) -> Drawn:
    return Drawn("some.jsonl", samples, Columns("question", "answer"), ("question", "answer"), total, notices)


def test_a_sample_is_one_short_line_and_told_apart_by_its_row():
    """I4: prompts that begin alike differ by their row."""
    samples = [Sample("Summarize:\n\n" + "word " * 400, row=row) for row in (3, 17)]
    (first, _), (second, _) = view.sample_choices(drawn(*samples))
    assert first.startswith("Summarize: word word")
    assert first.endswith("… · row 4")
    assert second.endswith("… · row 18")
    assert "\n" not in first
    assert len(first) < 120


def test_samples_of_a_file_too_large_to_be_counted_are_numbered():
    """I4: rows without a number are told apart all the same."""
    labels = [label for label, _ in view.sample_choices(drawn(Sample("Hi", row=-1), Sample("Hi", row=-1)))]
    assert labels == ["Hi · sample 1", "Hi · sample 2"]


def test_a_line_holds_nothing_that_turns_it_around():
    """S3: control and direction characters of a dataset do not reach a list."""
    assert view.one_line("a\u202eb\x1b[31m\x00c\t\n d") == "a b [31m c d"
    assert view.one_line("می\u200cخواهم") == "می\u200cخواهم"


def test_the_own_datasets_of_a_run_are_marked_and_what_is_chosen_stays_listed():
    """I4: the run's own is known by its mark; a typed path is not lost when the list is made anew."""
    offered = [Dataset("mine.jsonl", "/a", own=True), Dataset("org/name"), Dataset("other.csv", "/b")]
    listed = view.dataset_choices(offered, "/typed/by/hand.json")
    assert listed[0] == (f"mine.jsonl · {texts.SAMPLES_OWN}", "mine.jsonl")
    assert listed[1:] == [
        (f"org/name · {texts.SAMPLES_ON_HUB}", "org/name"), ("other.csv", "other.csv"),
        ("/typed/by/hand.json", "/typed/by/hand.json"),
    ]  # fmt: skip
    assert view.dataset_choices(offered, "other.csv")[-1] == ("other.csv", "other.csv")


@pytest.mark.parametrize(
    ("count", "total", "said"),
    [
        (5, 1200, "5 of 1,200 rows, drawn at random."),
        (5, None, "5 rows, drawn at random."),
        (3, 3, "All 3 rows of it."),
        (1, 1, "Its only row."),
    ],
)
def test_the_line_says_how_many_rows_of_how_many(count, total, said):
    """I4: what was drawn from what."""
    assert said in view.drawn_line(drawn(*[Sample("Hi", row=n) for n in range(count)], total=total))


def test_notices_are_listed_and_escaped():
    """I4, S3: rows that were left out are told, and cannot script."""
    line = view.drawn_line(drawn(Sample("Hi"), notices=(f"Row 3 was left out: {HOSTILE}", "Drawn from a part.")))
    assert line.count("<li>") == 2
    assert "Drawn from a part." in line
    assert "<img" not in line
    assert "${" not in line


def test_the_heading_of_the_columns_says_how_they_are_understood():
    """I4: the mapping in a few words, folded or not."""
    columns = Columns("instruction", "output", "input")
    assert view.columns_heading(columns) == "Columns · instruction + input → output · as guessed"
    assert view.columns_heading(columns, as_guessed=False).endswith("as you chose")
    assert view.columns_heading(Columns(messages="messages")) == "Columns · messages · as guessed"
    assert view.columns_heading(None) == "Columns"


def test_the_expected_answer_is_shown_with_where_it_is_from_and_can_be_copied():
    """I4: the expected answer under the prompt."""
    html = view.expected_answer(Chosen.of(Sample("Hi", "Hello.", row=11), "greetings.csv", ""))
    assert ">Hello.</div>" in html
    assert "greetings.csv · row 12" in html
    assert 'data-copy="Hello."' in html
    assert "<details" not in html


@pytest.mark.parametrize("long", ["word " * 200, "line\n" * 12])
def test_a_long_expected_answer_is_folded(long):
    """I4: a long answer does not push the buttons away; all of it is there, and is what Copy takes."""
    html = view.expected_answer(Chosen("Hi", long))
    assert "<details><summary>" in html
    assert view.escape(long) in html.split("</summary>")[1]
    assert f'data-copy="{view.escape(long)}"' in html


def test_a_row_without_an_answer_says_so_and_a_cut_conversation_too():
    """I4: nothing is left blank, and what is left out is told."""
    html = view.expected_answer(Chosen("Hi", earlier=3))
    assert texts.SAMPLES_NO_ANSWER in html
    assert "data-copy" not in html
    assert "3 earlier messages of this conversation" in html
    assert view.expected_answer(Chosen()) == ""


def test_nothing_of_a_dataset_can_script():
    """S3: prompts, answers, system prompts, names: all of it is text."""
    chosen = Chosen(HOSTILE, HOSTILE, HOSTILE, HOSTILE, HOSTILE)
    long = Chosen(HOSTILE, HOSTILE * 30, HOSTILE * 30, "", HOSTILE)
    for html in (
        view.expected_answer(chosen), view.system_note(chosen), view.expected_answer(long), view.system_note(long),
        view.reading_line(HOSTILE), view.said_line(HOSTILE), view.error_line(InvalidRequest(HOSTILE, HOSTILE)),
    ):  # fmt: skip
        assert "<img" not in html
        assert "${" not in html
        assert "&lt;img" in html


def test_what_the_page_holds_is_read_back_and_anything_else_is_no_sample():
    """I4: a page may send what it likes."""
    chosen = Chosen.of(Sample("Hi\r\nyou", "Hello\rthere", "Be kind.", 4, 2), "a.csv", "Before.")
    assert chosen == Chosen("Hi\nyou", "Hello\nthere", "Be kind.", "Before.", "a.csv", 4, 2)
    assert Chosen.parse(chosen.text) == chosen
    for text in (None, "", "nonsense", "[1]", "[" * 100_000, json.dumps({"prompt": 3}), json.dumps({"row": True})):
        assert Chosen.parse(text) == Chosen()
    assert Chosen().text == ""


def test_a_prompt_is_the_samples_but_for_the_space_around_it():
    """I4: compared stripped."""
    assert Chosen("Hi ").is_prompt("\n Hi")
    assert not Chosen("Hi").is_prompt("Hi!")
    assert not Chosen().is_prompt("")


def test_the_system_prompt_of_a_person_is_never_taken_for_the_samples():
    """I4: what was written meanwhile stays; what the sample brought gives way to what stood before."""
    chosen = Chosen("Hi", system="Its own.", before="Mine.")
    assert chosen.before_is("Its own.") == "Mine."
    assert chosen.before_is("Written since.") == "Written since."
    assert Chosen("Hi", before="Mine.").before_is("") == ""
