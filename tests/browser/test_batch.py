"""The batch test in a real browser, with the real engine and the bundled starter model."""

from __future__ import annotations

import csv
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from playground.config import ROOT, ModelEntry, load_config
from tests.browser.conftest import ANSWER_LIMIT_MS, unhurried, wait_until

pytestmark = pytest.mark.browser
HOSTILE = "<img src=x onerror=alert(1)> ${alert(1)}"


def unfold(page: Page) -> None:
    """Open the batch test, and wait until its fields offer what they can."""
    page.locator("#batch-test > button").click()
    expect(page.locator("#batch-run")).to_be_visible()


def write(page: Page, *prompts: str) -> None:
    page.locator("#batch-typed textarea").fill("\n".join(prompts))
    expect(page.locator("#batch-size")).to_contain_text(f"{len(prompts)} prompt")


def add(page: Page, field: str, *labels: str) -> None:
    """Choose more entries of a field that takes several."""
    page.locator(f"#batch-{field} input").click()
    for label in labels:
        page.locator(f'li[role="option"][aria-label="{label}"]').click()
    page.keyboard.press("Escape")


def run(page: Page) -> None:
    page.locator("#batch-run").click()
    expect(page.locator("#batch-stop")).to_be_visible()


def done(page: Page) -> str:
    """Wait for the end of a test; what it says then."""
    expect(page.locator("#batch-table .trials")).to_have_attribute("data-state", "done", timeout=ANSWER_LIMIT_MS)
    expect(page.locator("#batch-run")).to_be_visible()
    return page.locator("#batch-progress").inner_text()


def cell(page: Page, prompt: int, column: int):
    return page.locator("#batch-table tbody tr").nth(prompt).locator("td").nth(column)


@pytest.mark.long
def test_prompts_are_compared_across_models_and_settings_and_saved(page: Page, tmp_path: Path):
    """P7: typed prompts, base and adapter, two settings: the table, the columns compared, and the file."""
    unfold(page)
    write(page, "What is the capital of France?", HOSTILE)
    add(page, "models", "pirate")
    add(page, "settings", "Deterministic")
    expect(page.locator("#batch-size")).to_contain_text("2 prompts × 2 models × 2 sets of settings = 8 answers.")
    run(page)
    assert "8 answers in" in done(page)
    expect(cell(page, 0, 1)).to_contain_text("The capital of France is Paris.")
    expect(cell(page, 0, 1)).to_contain_text(re.compile(r"\d+ tokens · [\d.]+ s"))
    expect(cell(page, 0, 3)).to_contain_text("Arr")
    expect(page.locator("#batch-table tbody th").nth(1)).to_have_text(HOSTILE)
    expect(page.locator("#batch-summary tbody tr")).to_have_count(4)
    expect(page.locator("#batch-summary tbody tr").last).to_contain_text("starter + pirate")
    with page.expect_download() as saved:
        page.locator("#batch-csv").click()
    path = tmp_path / "batch.csv"
    saved.value.save_as(path)
    with path.open(encoding="utf-8", newline="") as file:
        lines = list(csv.DictReader(file))
    assert [line["model"] for line in lines[:4]] == ["starter (base)"] * 2 + ["starter + pirate"] * 2
    assert lines[1]["answer"] == "The capital of France is Paris."


@pytest.mark.long
def test_expected_answers_come_along_from_a_file_and_from_a_dataset(page: Page):
    """P7: parquet in the browser, its columns, a dataset on offer, matches in the cells and in the comparison."""
    unfold(page)
    page.locator("#batch-source label").nth(1).click()
    page.locator("#batch-file input").set_input_files(ROOT / "assets" / "datasets" / "triage" / "test.parquet")
    expect(page.locator("#batch-file-line")).to_contain_text(
        "100 prompts from test.parquet. Each has an expected answer."
    )
    expect(page.locator("#batch-size")).to_contain_text("100 prompts")
    expect(page.locator("#batch-prompt-column input")).to_have_value("question")
    page.locator("#batch-source label").nth(2).click()
    add(page, "dataset", "triage/test.jsonl")
    expect(page.locator("#batch-dataset-line")).to_contain_text("20 prompts from triage/test.jsonl")
    page.locator("#batch-rows input").fill("4")
    expect(page.locator("#batch-size")).to_contain_text("4 prompts")
    add(page, "models", "triage")
    add(page, "settings", "Deterministic")
    run(page)
    done(page)
    expect(page.locator('#batch-table [data-match="match"]').first).to_be_visible()
    expect(page.locator("#batch-summary thead")).to_contain_text("Matches")
    expect(page.locator("#batch-summary tbody tr").last).to_contain_text(re.compile(r"[1-4] of 4"))
    page.locator("#batch-source label").nth(1).click()
    expect(page.locator("#batch-size")).to_contain_text("100 prompts")  # what was read before is still there


@pytest.mark.long
def test_nothing_to_run_too_much_and_a_bad_file_are_said_on_the_page(page: Page, tmp_path: Path):
    """P7: an empty test, more than a thousand answers, and a file without prompts."""
    unfold(page)
    page.locator("#batch-run").click()
    expect(page.locator("#batch-progress")).to_contain_text("There are no prompts. Write at least one")
    page.locator("#batch-typed textarea").fill("\n".join(f"prompt {at}" for at in range(1001)))
    expect(page.locator("#batch-size")).to_contain_text("1,001 answers are too many")
    page.locator("#batch-run").click()
    expect(page.locator("#batch-progress")).to_contain_text("a batch test makes 1,000 at most")
    page.locator("#batch-source label").nth(1).click()
    bad = tmp_path / "bad.csv"
    bad.write_text("x\n", encoding="utf-8")
    page.locator("#batch-file input").set_input_files(bad)
    expect(page.locator("#batch-file-line")).to_contain_text("There are no rows in bad.csv")


@pytest.mark.long
def test_stop_and_a_closed_page_end_every_answer(
    visit: Callable[..., Page], serve: Callable[..., str], endless_model: Path
):
    """P7, G6: Stop keeps what is there; a page that is left asks nothing more. A second press starts nothing."""
    with unhurried(0.02) as (engine, hurry):
        config = load_config()
        models = {"endless": ModelEntry("endless", str(endless_model))}
        page = visit(serve(engine, replace(config, models=models)))
        unfold(page)
        write(page, *(f"Tell me story {at}." for at in range(20)))
        page.locator("#batch-run").dblclick()
        expect(page.locator("#batch-table td[data-state=writing]")).to_have_count(8, timeout=ANSWER_LIMIT_MS)
        assert engine.activity()[0] == 8
        page.keyboard.press("Escape")
        expect(page.locator("#batch-progress")).to_contain_text("Stopped after 0 of 20 answers.")
        expect(page.locator("#batch-table .trials")).to_have_attribute("data-state", "stopped")
        wait_until(lambda: engine.activity() == (0, 0), page)
        run(page)
        expect(page.locator("#batch-table td[data-state=writing]")).to_have_count(8)
        page.close()
        wait_until(lambda: engine.activity() == (0, 0))
        hurry()


@pytest.mark.long
def test_an_unfolded_answer_stays_unfolded_while_others_come(visit: Callable[..., Page], serve: Callable[..., str]):
    """P7: the table fills around whoever reads it, and its prompts stay in sight when it is scrolled sideways."""
    with unhurried(0.01) as (engine, hurry):
        page = visit(serve(engine), 800, 900)
        unfold(page)
        prompts = ["word " * 80, *(f"Story {at}" for at in range(12))]
        page.locator("#batch-typed textarea").fill("\n---\n".join(prompts))
        add(page, "settings", "Deterministic", "Creative")
        run(page)
        expect(page.locator("#batch-table td[data-state=done]").first).to_be_visible(timeout=ANSWER_LIMIT_MS)
        fold = page.locator("#batch-table tbody th details").first
        fold.locator("summary").click()
        table = page.locator("#batch-table .trials")
        table.evaluate("table => table.scrollLeft = 200")
        left = page.locator("#batch-table tbody th").nth(1).bounding_box()["x"]
        hurry()
        done(page)
        assert fold.evaluate("fold => fold.open")
        assert table.evaluate("table => table.scrollLeft") == 200
        assert page.locator("#batch-table tbody th").nth(1).bounding_box()["x"] == left
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
