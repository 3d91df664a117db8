"""P7: the rows of a batch test as files, and files and texts as its prompts."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import replace
from pathlib import Path

import pytest

from playground.config import AppConfig, load_config
from playground.errors import InvalidRequest
from playground.services import trial_files
from playground.services.datasets import Datasets
from playground.services.manifests import Manifest
from playground.services.samples import Columns, Samples
from playground.services.trial_prompts import TrialPrompts, typed
from playground.services.trials import TrialPlan, TrialPrompt, TrialRow
from playground.types import GenerationRequest, GenerationSettings, GenerationStats, ModelSpec
from tests.services.scripted_engine import MADE

NOW = 1_790_000_000.0  # 21 September 2026
PLAN = TrialPlan(
    (TrialPrompt("What is 1 + 1?", "2"), TrialPrompt("=1+1")),
    (
        ("starter (base)", ModelSpec("/secret/place/starter")),
        ("starter + pirate", ModelSpec("s", (("/secret/p", 1.0),))),
    ),
    (("Greedy", GenerationSettings(strategy="greedy", stop=("\n", "END"), presence_penalty=-0.5)),),
)
MANIFEST = Manifest(GenerationRequest(PLAN.specs[0][1], "What is 1 + 1?"), 0, (17, 4), "abc", "2", "stop", MADE)
ROWS = (
    TrialRow(1, 1, 0, error="It broke.", remedy="Try again."),
    TrialRow(0, 0, 0, "2", "stop", GenerationStats(9, 3, 1.5, 0.5), 1.0, MADE, MANIFEST),
    TrialRow(0, 1, 0, "Arr, „zwei“ 🦜\nmatey", "length", GenerationStats(9, 3, 1.5, 0.5)),
    TrialRow(1, 0, 0, '=HYPERLINK("http://x")', "stop"),
)


def named(spec: ModelSpec) -> ModelSpec:
    """``spec`` without a path of this machine."""
    return replace(spec, base="named", adapters=())


def read_csv(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text, newline="")))


def test_a_csv_has_a_line_for_each_answer_in_the_order_of_the_plan():
    """P7: prompt, model, settings with their values, answer, figures, match and manifest, whatever order they came in."""
    file = trial_files.write(PLAN, ROWS, "csv", NOW, named)
    assert file.name == "batch-test-2026-09-21.csv"
    lines = read_csv(file.text)
    assert [(one["prompt"], one["model"]) for one in lines] == [
        ("What is 1 + 1?", "starter (base)"), ("What is 1 + 1?", "starter + pirate"),
        ("'=1+1", "starter (base)"), ("'=1+1", "starter + pirate"),
    ]  # fmt: skip
    first = lines[0]
    assert (first["settings"], first["strategy"], first["presence_penalty"], first["stop"]) == (
        "Greedy", "greedy", "-0.5", '["\\n", "END"]',
    )  # fmt: skip
    assert (first["answer"], first["match"], first["similarity"], first["finish_reason"]) == (
        "2",
        "match",
        "1.0",
        "stop",
    )
    assert (first["completion_tokens"], first["seconds"], first["tokens_per_second"]) == ("3", "0.5", "2.0")
    assert first["seed"] == "1"
    again = Manifest.from_json(first["manifest"])
    assert (again.request.spec.base, again.text, again.token_ids, again.provenance) == ("named", "2", (17, 4), MADE)
    assert lines[1]["answer"] == "Arr, „zwei“ 🦜\nmatey"
    assert (lines[3]["error"], lines[3]["remedy"], lines[3]["answer"], lines[3]["match"]) == (
        "It broke.",
        "Try again.",
        "",
        "",
    )


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t", "\r", " =", "＝", "\n@"])
def test_no_text_in_a_csv_is_taken_for_a_formula(start: str):
    """P7: whatever a model or a file has written, a spreadsheet shows it and runs nothing."""
    hostile = f'{start}HYPERLINK("http://x","y")'
    plan = TrialPlan(
        (TrialPrompt(hostile, hostile, hostile),), ((hostile, ModelSpec("m")),), ((hostile, PLAN.settings[0][1]),)
    )
    rows = [TrialRow(0, 0, 0, hostile, error=hostile, remedy=hostile)]
    (line,) = read_csv(trial_files.write(plan, rows, "csv", NOW, named).text)
    held = {name: value for name, value in line.items() if "HYPERLINK" in value}
    assert set(held) == {"prompt", "expected", "model", "settings", "answer", "error", "remedy", "system_prompt"}
    assert all(value == f"'{hostile}" for value in held.values())


def test_jsonl_holds_every_text_as_it_is():
    """P7: one object to a line with the same fields in each, nothing escaped away, and numbers as numbers."""
    lines = trial_files.write(PLAN, ROWS, "jsonl", NOW, named).text.splitlines()
    documents = [json.loads(line) for line in lines]
    assert len(documents) == 4
    assert {tuple(one) for one in documents} == {tuple(documents[0])}
    assert documents[2]["answer"] == '=HYPERLINK("http://x")'
    assert documents[1]["answer"] == "Arr, „zwei“ 🦜\nmatey"
    assert "„zwei“" in lines[1]
    assert documents[0]["values"]["presence_penalty"] == -0.5
    assert documents[3]["manifest"] is None


def test_no_path_of_this_machine_is_in_a_file():
    """P7, S2: models are named as the page names them."""
    for form in trial_files.TRIAL_FORMATS:
        assert "/secret" not in trial_files.write(PLAN, ROWS, form, NOW, named).text


def test_a_test_without_rows_is_an_empty_file():
    """P7: stopped before the first answer."""
    assert trial_files.write(PLAN, [], "csv", NOW, named).text == "prompt\r\n"
    assert trial_files.write(PLAN, [], "jsonl", NOW, named).text == ""


# --- prompts ---


@pytest.mark.parametrize(
    ("text", "prompts"),
    [
        ("one\n\n  two  \r\nthree", ["one", "two", "three"]),
        ("one\ntwo\n---\nthree\n\nfour\n --- \n\n---\n", ["one\ntwo", "three\n\nfour"]),
        (" \n\t\n", []),
        ("---", []),
        ("a --- b\n----", ["a --- b", "----"]),
    ],
)
def test_typed_prompts_are_lines_or_parts_between_lines_of_three_dashes(text: str, prompts: list[str]):
    """P7: one to a line, and longer ones where a line of only --- stands between them."""
    assert [one.text for one in typed(text)] == prompts


@pytest.fixture(scope="module")
def prompts() -> TrialPrompts:
    config = load_config()
    return TrialPrompts(Samples(Datasets(config)), config, 50)


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_a_file_brings_its_expected_answers(prompts: TrialPrompts, suffix: str):
    """P7: the columns are understood as everywhere else, and no more rows are taken than a test may have."""
    path = Path("assets/datasets/triage") / f"test.{suffix}"
    brought = prompts.of_file(f"../../mine.{suffix}", path.read_bytes())
    assert brought.columns == Columns("question", "answer")
    assert len(brought.prompts) == 50
    assert all(one.text and one.expected for one in brought.prompts)
    swapped = prompts.again(brought, 50, Columns("answer"))
    assert swapped.prompts[0] == TrialPrompt(brought.prompts[0].expected)


def test_a_dataset_on_offer_brings_its_first_rows(prompts: TrialPrompts):
    """P7: as many as somebody wants, and what is left out of longer conversations is said."""
    assert len(prompts.of_dataset("triage/test.csv", 3).prompts) == 3
    brought = prompts.of_dataset("conversations.jsonl", 20)
    assert any("longer conversations" in notice for notice in brought.notices)
    with pytest.raises(InvalidRequest, match="51 rows"):
        prompts.of_dataset("triage/test.csv", 51)


@pytest.mark.parametrize(
    ("name", "data", "said"),
    [
        ("photo.png", b"x", "is no file that prompts are read from"),
        ("adapter_config.json", b"{}", "is no file that prompts are read from"),
        ("empty.csv", b"question\n", "There are no rows in empty.csv"),
        ("broken.parquet", b"PAR1 no", "broken.parquet"),
        ("blank.txt", b" \n\n", "There are no prompts in 'blank.txt'"),
        ("latin.txt", "é".encode("latin-1"), "is not text in UTF-8"),
    ],
)
def test_a_file_without_prompts_is_refused_by_name(prompts: TrialPrompts, name: str, data: bytes, said: str):
    """P7: what is wrong with it, and never a path of the server."""
    with pytest.raises(InvalidRequest) as refused:
        prompts.of_file(name, data)
    assert said in str(refused.value)
    assert "/tmp" not in str(refused.value)


def test_a_file_that_is_too_large_is_not_read():
    """P7, S2: 20 MB, and less where each visitor of a shared server may bring one."""
    few = TrialPrompts(None, AppConfig(free_paths=False), 10)  # type: ignore[arg-type]
    with pytest.raises(InvalidRequest, match=r"has 4.0 MB, and 4 MB are read at most"):
        few.of_file("big.txt", b"x" * 4_000_001)
