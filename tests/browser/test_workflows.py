"""The five ways of working with the Playground, each from its first step to its last, on the real app.

Where PLAYGROUND_PICTURES names a folder, a picture of each step is left there, to be looked at.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from playground.config import ROOT
from tests.browser.conftest import ANSWER_LIMIT_MS, ask, begin_new, choose, fill, finished, provenance

pytestmark = [pytest.mark.browser, pytest.mark.long]
FRANCE = "What is the capital of France?"


@pytest.fixture
def picture(page: Page, request: pytest.FixtureRequest) -> Callable[[str], None]:
    """Photograph a step."""

    def take(step: str) -> None:
        if folder := os.environ.get("PLAYGROUND_PICTURES"):
            page.screenshot(path=Path(folder) / f"{request.node.name[5:30]}-{step}.png")

    return take


def type_into(page: Page, field: str, text: str) -> None:
    page.locator(f"#{field} input").fill(text)
    page.locator(f"#{field} input").press("Enter")


def load(page: Page) -> None:
    page.locator("#load").click()
    expect(page.locator("#load-status")).to_contain_text("answers now", timeout=ANSWER_LIMIT_MS)


def test_workflow_1_load_and_test_a_model(page: Page, picture):
    """P1, P2: the model's folder and an adapter's are typed, a use case chosen, loaded, asked."""
    type_into(page, "model", str(ROOT / "assets" / "models" / "starter"))
    type_into(page, "adapter", str(ROOT / "assets" / "adapters" / "sql"))
    choose(page, "use-case", "Code Generation")
    expect(page.locator(".example").first).to_contain_text("function")
    load(page)
    picture("loaded")
    expect(page.locator(".chip").nth(1)).to_contain_text("sql")
    ask(page, "Table products(name, color, price). Which products are red?")
    assert finished(page)
    expect(page.locator("button.stats")).to_contain_text("sql")
    picture("answered")


def test_workflow_2_experiment_with_the_settings(page: Page, picture):
    """P4: temperature, top p, length and repetition penalty are changed, marked, and what the answer is made with."""
    load(page)
    fill(page, temperature=1.2, top_p=0.8, max_new_tokens=24, repetition_penalty=1.3)
    picture("changed")
    ask(page, "Write a short story about a cat.")
    finished(page)
    used = provenance(page)["provenance"]["settings"]
    assert (used["temperature"], used["top_p"], used["max_new_tokens"], used["repetition_penalty"]) == (
        1.2,
        0.8,
        24,
        1.3,
    )
    fill(page, temperature=0.1)
    begin_new(page)
    ask(page, "Write a short story about a cat.")
    finished(page)
    assert provenance(page)["provenance"]["settings"]["temperature"] == 0.1
    picture("refined")


def test_workflow_3_watch_it_come(page: Page, picture):
    """P3: with and without streaming; the speed is seen. Stopping early is test_playground.py's, on a slow engine."""
    load(page)
    fill(page, max_new_tokens=300, temperature=1.5)
    page.locator("#streaming input").uncheck()
    ask(page, "Write a poem.")
    assert finished(page)
    page.locator("#streaming input").check()
    begin_new(page)
    page.locator("#prompt textarea").fill("Write a story about a dragon, a ship and a castle.")
    page.evaluate("document.querySelectorAll('button.stats').forEach(line => line.remove())")
    page.locator("#generate").click()
    expect(page.locator("#answer-status")).to_contain_text(re.compile(r"[\d.]+ tokens/s"), timeout=ANSWER_LIMIT_MS)
    picture("streaming")
    expect(page.locator("button.stats")).to_contain_text(re.compile("ended by itself|cut at"))
    picture("ended")


def test_workflow_4_conversations(page: Page, picture):
    """P6: a new one, two prompts, its messages read, another one, the first brought back and deleted."""
    page.locator("#conversations .new").click()
    rows = page.locator("#sidebar-list .open")
    before = rows.count()
    ask(page, "Hi, I'm Jasper!")
    finished(page)
    ask(page, "What is my name?")
    finished(page)
    expect(page.locator("#continues")).to_contain_text("(4 messages)")
    page.locator("#said-here > .label-wrap").click()
    expect(page.locator("#said-messages li")).to_have_count(4)
    picture("messages")
    page.locator("#conversations .new").click()
    ask(page, FRANCE)
    finished(page)
    expect(rows).to_have_count(before + 2)
    rows.nth(1).click()
    expect(page.locator("#said-messages li")).to_have_count(4)
    expect(page.locator("#said-messages")).to_contain_text("Jasper")
    picture("brought back")
    row = page.locator("#sidebar-list li").filter(has_text="Hi, I'm Jasper!").first
    row.hover()
    row.locator("[data-sidebar=delete]").click()
    expect(rows).to_have_count(before + 1)
    picture("deleted")


def test_workflow_5_swap_adapters_and_compare(page: Page, picture):
    """P1: the base is loaded once; an adapter's path is typed and swapped in; the two answers are beside each other."""
    choose(page, "preset", "Deterministic")
    load(page)
    ask(page, FRANCE)
    base = finished(page)
    for adapter in (str(ROOT / "assets" / "adapters" / "pirate"), "pirate-overfit/checkpoint-50"):
        begin_new(page)
        type_into(page, "adapter", adapter)
        page.locator("#swap").click()
        expect(page.locator("#load-status")).to_contain_text("Swapped: starter +", timeout=ANSWER_LIMIT_MS)
        ask(page, FRANCE)
        assert finished(page) != base
        picture(Path(adapter).name)
    expect(page.locator("button.stats")).to_contain_text("pirate-overfit/checkpoint-50")
    expect(page.locator("#conversations")).to_contain_text("starter + pirate-overfit/checkpoint-50")
