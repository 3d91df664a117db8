"""Prompts drawn from datasets, with what one has to know about them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from playground.config import ROOT, AppConfig
from playground.errors import InvalidRequest
from playground.local_inference import LocalInference
from playground.services.assembly import Services
from playground.services.datasets import Datasets
from playground.services.samples import Columns, Drawn, Samples, drawn_from
from playground.services.tables.rows import NOT_NUMBERED, Rows
from playground.training_run import TrainingRun

ROWS = [{"question": f"Question {at}?", "answer": f"Answer {at}"} for at in range(50)]


def samples(*folders: Path) -> Samples:
    config = AppConfig(datasets=tuple(map(str, folders)))
    return Samples(Datasets(config))


def saved(tmp_path: Path, rows: list[Any], name: str = "a.jsonl") -> Samples:
    (tmp_path / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    return samples(tmp_path)


def prompts(drawn: Drawn) -> list[str]:
    return [sample.prompt for sample in drawn.samples]


def test_five_random_prompts_each_with_its_answer_and_its_place(tmp_path: Path) -> None:
    """I4: five of the whole file, others each time, the same again by seed."""
    drawn = saved(tmp_path, ROWS).draw("a.jsonl", seed=1)
    assert len(set(prompts(drawn))) == 5
    assert all(ROWS[one.row] == {"question": one.prompt, "answer": one.expected} for one in drawn.samples)
    assert (drawn.dataset, drawn.columns, drawn.names) == (
        "a.jsonl",
        Columns("question", "answer"),
        ("question", "answer"),
    )
    assert (drawn.total, drawn.notices) == (50, ())
    offer = samples(tmp_path)
    assert offer.draw("a.jsonl", seed=1) == drawn
    assert len({tuple(prompts(offer.draw("a.jsonl"))) for _ in range(5)}) > 1


def test_rows_without_a_prompt_are_left_out_and_named(tmp_path: Path) -> None:
    """I4: five prompts where there are five, and a sentence for what was passed over."""
    rows = [{"question": "", "answer": "A"}, {"answer": "B"}, {"question": None}, *ROWS[:5]]
    offer = saved(tmp_path, rows)
    drawn = offer.draw("a.jsonl", seed=3)
    assert sorted(prompts(drawn)) == [row["question"] for row in ROWS[:5]]
    everything = offer.all("a.jsonl", most=10)
    assert prompts(everything) == [row["question"] for row in ROWS[:5]]
    assert everything.notices[0] == "Row 1 was left out: there is no prompt in its column 'question'."
    assert len(everything.notices) == 3


def test_a_row_without_a_number_that_has_no_prompt_is_named_otherwise() -> None:
    """I4: of a file that is too large to be counted nobody knows the row's place, so none is told."""
    rows = Rows(("question",), ((NOT_NUMBERED, {"question": ""}), (NOT_NUMBERED, {"question": "Q"})))
    drawn = drawn_from("a.csv", rows, None, 5)
    assert drawn.notices == ("Number 1 of the rows drawn was left out: there is no prompt in its column 'question'.",)
    assert drawn.samples[0].row == NOT_NUMBERED


def test_a_table_with_very_many_columns_is_no_wall_of_names() -> None:
    """I4: the remedy names columns, as many as one reads."""
    names = tuple(f"c{at}" for at in range(5000))
    with pytest.raises(InvalidRequest, match="c18, c19 and 4,980 more"):
        drawn_from("a.csv", Rows(names, ((0, {"c1": 1}),)), None, 5)


def test_all_gives_the_first_in_order(tmp_path: Path) -> None:
    """B2, I4: a batch takes the rows as they lie."""
    assert prompts(saved(tmp_path, ROWS).all("a.jsonl", most=7)) == [row["question"] for row in ROWS[:7]]


def test_the_columns_can_be_chosen(tmp_path: Path) -> None:
    """I4: a guess that is wrong is changed; what is chosen is used and told back."""
    chosen = Columns(prompt="answer", expected="question")
    drawn = saved(tmp_path, ROWS).draw("a.jsonl", columns=chosen, seed=1)
    assert drawn.columns == chosen
    assert all(one.prompt.startswith("Answer") and one.expected.startswith("Question") for one in drawn.samples)


@pytest.mark.parametrize(
    ("columns", "says"),
    [
        (Columns(prompt="qustion"), "no column 'qustion'. Its columns are question, answer"),
        (Columns(), "No column of a.jsonl is known to hold prompts. Choose one of question, answer"),
        (
            Columns(messages="answer"),
            "has a prompt in its column 'answer'. Its columns are question, answer: choose others",
        ),
    ],
)
def test_columns_that_hold_no_prompt_are_refused_with_those_there_are(
    columns: Columns, says: str, tmp_path: Path
) -> None:
    """I4: the remedy names the columns."""
    with pytest.raises(InvalidRequest) as refused:
        saved(tmp_path, ROWS).draw("a.jsonl", columns=columns)
    assert says in str(refused.value)


def test_a_dataset_without_rows_says_why(tmp_path: Path) -> None:
    """I4: an empty file, and one whose rows are all bad."""
    for rows, says in (([], "There are no rows in a.jsonl"), ([1, 2], "Line 1 was left out")):
        with pytest.raises(InvalidRequest, match=says):
            saved(tmp_path, rows).draw("a.jsonl")


def test_rows_of_different_shapes_do_not_break_the_draw(tmp_path: Path) -> None:
    """I4: nothing raises for one odd row."""
    odd = [
        {"question": {"a": [1]}, "answer": [None]},
        {"question": ["x"]},
        {"other": 1},
        {"question": 3, "answer": True},
    ]
    drawn = saved(tmp_path, [*ROWS[:2], *odd]).all("a.jsonl", most=9)
    assert prompts(drawn) == ["Question 0?", "Question 1?", '{"a":[1]}', "x", "3"]


@pytest.mark.parametrize(
    "name", ["pirate/test.jsonl", "sql/train.parquet", "triage/test.csv", "conversations.jsonl", "starter.jsonl"]
)
def test_the_bundled_datasets_are_understood(name: str) -> None:
    """I4, R2: all that the repository ships, without a setting."""
    drawn = samples(ROOT / "assets" / "datasets").draw(name, seed=2)
    assert len(drawn.samples) == 5
    assert all(one.prompt and one.expected for one in drawn.samples)
    assert drawn.notices == ()


def test_the_services_draw_for_a_run_what_it_was_trained_on() -> None:
    """I4: put together as the app does it."""
    config = AppConfig(datasets=(str(ROOT / "assets" / "datasets"),))
    services = Services.over(LocalInference(), config)
    run = TrainingRun("/runs/pirate", "pirate", "completed", datasets=("assets/datasets/pirate",))
    first = services.datasets.offered(run)[0]
    assert (first.name, first.own) == ("pirate/test.jsonl", True)
    assert len(services.samples.draw(first.name, run=run).samples) == 5
