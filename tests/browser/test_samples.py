"""Sample prompts in Chromium: a sample fills the prompt, its expected answer goes with it, and nothing of it can script."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from playground.config import AppConfig, load_config
from playground.local_inference import LocalInference

HOSTILE = "<img src=x onerror=\"document.title='owned'\">${document.title='owned'}"


def validated(page: Page) -> None:
    """Choose the newest completed run, and wait until its samples are there."""
    page.get_by_role("tab", name="Inference", exact=True).click()
    page.locator("#latest-run").click()
    expect(page.locator("#samples-line")).to_contain_text("drawn at random")


def pick(page: Page, field: str, text: str) -> None:
    """Choose the first entry of a list that has ``text`` in it."""
    page.locator(f"#{field} input").click()
    page.locator('li[role="option"]').filter(has_text=text).first.click()


def held(page: Page, field: str) -> str:
    """The value of a field, seen or not."""
    return page.locator(f"#{field} textarea").input_value()


@pytest.fixture
def strangers(tmp_path: Path) -> AppConfig:
    """A configuration with datasets that strangers wrote."""
    written = {
        "kind.jsonl": [{"prompt": f"Prompt {n}", "completion": f"Answer {n}", "system": "Be kind."} for n in range(6)],
        "hostile.jsonl": [{"prompt": HOSTILE, "completion": HOSTILE, "system": HOSTILE} for _ in range(2)],
        "strange.jsonl": [{"p": n, "q": n * 2} for n in range(4)],
    }
    for name, rows in written.items():
        (tmp_path / name).write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    config = load_config()
    return replace(config, datasets=(*config.datasets, str(tmp_path)))


@pytest.mark.long
def test_a_sample_fills_the_prompt_and_its_answer_goes_with_it_as_long_as_it_stands(page: Page):
    """I4: the run's own dataset first; the expected answer leaves with the first other letter, and comes back."""
    validated(page)
    expect(page.locator("#sample-dataset input")).to_have_value("triage/test.jsonl · of this run's own dataset")
    pick(page, "sample-prompts", "row")
    expect(page.locator("#inference-prompt textarea")).not_to_have_value("")
    expect(page.locator("#expected-answer .expected-text")).to_be_visible()
    answer = page.locator("#expected-answer .expected-text").inner_text()
    expect(page.locator("#expected textarea")).to_have_value(answer)
    page.locator("#inference-prompt textarea").press("x")
    expect(page.locator("#expected textarea")).to_have_value("")
    expect(page.locator("#expected-answer .expected-text")).to_be_hidden()
    page.get_by_role("button", name="Back to the sample").click()
    expect(page.locator("#expected textarea")).to_have_value(answer)


@pytest.mark.long
def test_a_samples_system_prompt_is_in_the_settings_until_another_dataset_is_chosen(
    visit: Callable[..., Page], serve: Callable[..., str], engine: LocalInference, strangers: AppConfig
):
    """I4: said under the prompt; a person's own comes back, and the sample's again when it is asked for."""
    page = visit(serve(engine, strangers), apart=True)
    validated(page)
    page.locator("#setting-system_prompt textarea").fill("Mine.")
    pick(page, "sample-dataset", "kind.jsonl")
    expect(page.locator("#samples-line")).to_contain_text("5 of 6")
    pick(page, "sample-prompts", "Prompt")
    expect(page.locator("#setting-system_prompt textarea")).to_have_value("Be kind.")
    expect(page.locator("#sample-system .system-stands")).to_be_visible()
    page.locator("#setting-system_prompt textarea").fill("Written since.")
    expect(page.locator("#sample-system .system-changed")).to_be_visible()
    page.locator("#sample-system [data-sample]").click()
    expect(page.locator("#setting-system_prompt textarea")).to_have_value("Be kind.")
    pick(page, "sample-dataset", "triage/test.jsonl")
    expect(page.locator("#setting-system_prompt textarea")).to_have_value("Written since.")
    expect(page.locator("#expected textarea")).to_have_value("")


@pytest.mark.long
def test_a_dataset_of_strangers_is_text(
    visit: Callable[..., Page], serve: Callable[..., str], engine: LocalInference, strangers: AppConfig
):
    """S3: nothing in a prompt, an answer or a system prompt is run, and nothing is fetched for it."""
    page = visit(serve(engine, strangers), apart=True)
    title = page.title()
    validated(page)
    pick(page, "sample-dataset", "hostile.jsonl")
    expect(page.locator("#samples-line")).to_contain_text("All 2 rows")
    pick(page, "sample-prompts", "row 1")
    expect(page.locator("#expected-answer .expected-text")).to_have_text(HOSTILE)
    expect(page.locator("#sample-system .system-stands q")).to_have_text(HOSTILE)
    assert held(page, "expected") == HOSTILE
    assert page.title() == title


@pytest.mark.long
def test_columns_that_nobody_recognises_can_be_set_and_a_typed_path_can_be_wrong(
    visit: Callable[..., Page], serve: Callable[..., str], engine: LocalInference, strangers: AppConfig
):
    """I4: the fold opens by itself; errors stand where the samples would be."""
    page = visit(serve(engine, strangers), apart=True)
    validated(page)
    pick(page, "sample-dataset", "strange.jsonl")
    expect(page.locator("#samples-line .error-line")).to_contain_text("strange.jsonl")
    pick(page, "column-prompt", "p")
    expect(page.locator("#samples-line")).to_contain_text("All 4 rows")
    expect(page.locator("#sample-columns > button")).to_contain_text("Columns · p · as you chose")
    page.locator("#sample-dataset input").fill("/nowhere/at/all.jsonl")
    page.locator("#sample-dataset input").press("Enter")
    expect(page.locator("#samples-line .error-line")).to_contain_text("There is no dataset")
