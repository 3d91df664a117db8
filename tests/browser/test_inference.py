"""The Inference tab in a real browser, with the real engine, the bundled starter model and its training runs."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from playwright.sync_api import Locator, Page, expect

from playground.config import ROOT, load_config
from tests.browser.conftest import ANSWER_LIMIT_MS, choose, unhurried

pytestmark = pytest.mark.browser
FRANCE = "What is the capital of France?"
VALIDATED = "Adapter validated. Ready for inference."


def to_inference(page: Page) -> Page:
    page.get_by_role("tab", name="Inference", exact=True).click()
    expect(page.locator("#inference-prompt textarea")).to_be_visible()
    return page


def pick_run(page: Page, name: str) -> None:
    """Choose a training run from its list."""
    page.locator("#training-run input").click()
    page.locator(f'li[role="option"][aria-label^="{name} ·"]').click()


def validated(page: Page, name: str = "pirate") -> None:
    """Choose a run, and wait until its adapter may be asked."""
    pick_run(page, name)
    expect(page.locator("#run-status")).to_contain_text(VALIDATED)
    expect(page.locator("#inference-generate")).to_be_enabled()


def status(page: Page) -> Locator:
    return page.locator("#run-status [data-state]")


def pairs(page: Page) -> Locator:
    return page.locator("#pairs .pair")


def prompted(page: Page, prompt: str) -> None:
    page.locator("#inference-prompt textarea").fill(prompt)
    page.locator("#inference-generate").click()


def answered(page: Page, count: int) -> str:
    """Wait until so many pairs stand there, nothing is written and Generate is free again; the last response."""
    stored = page.locator("#pairs .pairs:not([data-writing]) .pair")
    expect(stored).to_have_count(count, timeout=ANSWER_LIMIT_MS)
    expect(page.locator("#inference-generate")).to_be_enabled(timeout=ANSWER_LIMIT_MS)
    return str(pairs(page).last.locator(".answer-like").inner_text()).strip()


def preset(page: Page, name: str) -> None:
    """Choose one of the three presets, and wait until the panel beside has it too."""
    page.locator("#inference-preset").get_by_text(name, exact=True).click()
    expect(page.locator("#settings")).to_contain_text(f"Settings · {name}")


def number(page: Page, slider: str) -> Locator:
    return page.locator(f"#inference-{slider} input[type=number]")


def test_a_run_is_chosen_validated_and_asked_and_full_chat_view_shows_the_same(page: Page):
    """I1, I2, I3, I5, I6: locked, then open with Balanced; Ctrl+Enter; the pair; the overlay, and Escape back to it."""
    to_inference(page)
    expect(page.locator("#inference-prompt textarea")).to_be_disabled()
    expect(page.locator("#prompt-step")).to_contain_text("Locked until")
    validated(page)
    expect(page.locator("#inference-preset label.selected")).to_have_text("Balanced")
    expect(page.locator("#settings")).to_contain_text("Settings · Balanced")
    preset(page, "Deterministic")
    expect(number(page, "temperature")).to_have_value("0")
    expect(number(page, "tokens")).to_have_value("128")

    page.locator("#inference-prompt textarea").fill(FRANCE)
    page.locator("#inference-prompt textarea").press("Control+Enter")
    response = answered(page, 1)
    expect(pairs(page).last).to_contain_text("starter + pirate")
    expect(status(page)).to_contain_text("Ready. starter + pirate answered.")
    expect(page.locator("#inference-prompt textarea")).to_have_value(FRANCE)

    page.locator("#inference-chat-view button").click()
    expect(page.locator("#chat")).to_have_attribute("role", "dialog")
    expect(page.locator("#bubbles .bubble")).to_have_count(2)
    assert page.locator("#bubbles .bubble .answer-like").inner_text().strip() == response
    page.keyboard.press("Escape")
    expect(page.locator("#inference-prompt textarea")).to_be_visible()
    expect(page.locator("#chat")).not_to_be_visible()


def tabbed(page: Page, presses: int) -> set[str]:
    """Where the Tab key leads, by the ids of what lies around it."""
    places = set()
    for _ in range(presses):
        page.keyboard.press("Tab")
        places.add(page.evaluate("document.activeElement.closest('#asking, #responses, #conversations')?.id ?? ''"))
    return places


@pytest.mark.long
@pytest.mark.timeout(400)  # the whole page of the seed: dozens of steps, on a machine that others use too
def test_the_whole_way_from_a_broken_run_to_an_exported_chat(page: Page, tmp_path: Path):
    """I1–I6: everything that the seed's page says of its own tab, one thing after another, on the bundled runs."""
    to_inference(page)
    # A run that did not end well: listed, red with its reason, a toast, and locked, for the keyboard too.
    expect(status(page)).to_have_attribute("data-state", "idle")
    page.locator("#refresh-runs").focus()
    assert "asking" not in tabbed(page, 25)
    pick_run(page, "json-failed")
    expect(status(page)).to_have_attribute("data-state", "error")
    expect(status(page)).to_contain_text("no number")
    expect(page.locator(".toast-body").first).to_contain_text("no number")
    expect(page.locator("#inference-generate")).to_be_disabled()
    pick_run(page, "sql-incomplete")
    expect(status(page)).to_contain_text("It stopped at step 150 of 500")
    expect(page.locator("#inference-prompt textarea")).to_be_disabled()

    # The latest completed one is sound; its meta line says where and on what, and the third step opens.
    page.get_by_role("button", name="Use latest completed run").click()
    expect(status(page)).to_contain_text(VALIDATED)
    expect(page.locator("#run-details")).to_contain_text("starter")
    expect(page.locator("#prompt-step")).not_to_contain_text("Locked")
    validated(page, "pirate-overfit")
    page.locator("#checkpoint input").click()
    page.locator('li[role="option"]').nth(1).click()
    expect(page.locator("#adapter input")).to_have_value(re.compile("pirate-overfit/checkpoint-"))
    expect(status(page)).to_contain_text(VALIDATED)

    # Presets set the three sliders; the sliders are the settings' own.
    for name, values in {
        "Creative": ("1", "512", "1.1"),
        "Balanced": ("0.7", "256", "1.15"),
        "Deterministic": ("0", "128", "1.2"),
    }.items():
        preset(page, name)
        for slider, value in zip(("temperature", "tokens", "penalty"), values, strict=True):
            expect(number(page, slider)).to_have_value(value)

    # The status says that the model is loaded, the ring turns; the second time it is there already.
    validated(page, "pirate")
    page.evaluate(RECORD)
    prompted(page, FRANCE)
    first = answered(page, 1)
    prompted(page, FRANCE)
    assert answered(page, 2) == first  # Deterministic
    said = page.evaluate("window.said")
    assert said["busy"]
    assert "Generating response from fine-tuned model..." in said["lines"]

    # A sample fills the prompt, and its expected answer stands beside the response.
    choose_dataset(page)
    page.locator("#sample-prompts input").click()
    page.locator('li[role="option"]').first.click()
    expect(page.locator("#inference-prompt textarea")).not_to_have_value(FRANCE)
    expect(page.locator("#expected-answer")).to_contain_text("Expected answer")
    page.locator("#inference-generate").click()
    answered(page, 3)
    expect(pairs(page).last.locator(".match-mark")).to_be_visible()

    # What is sent in the overlay is a pair here; Clear in one of them empties both, and Undo brings back both.
    page.locator("#inference-chat-view button").click()
    expect(page.locator("#bubbles .bubble")).to_have_count(6)
    page.locator("#chat-draft textarea").fill("And of Spain?")
    page.locator("#chat-draft textarea").press("Enter")
    expect(page.locator("#bubbles .bubble")).to_have_count(8, timeout=ANSWER_LIMIT_MS)
    expect(page.locator("#chat-send")).to_be_visible(timeout=ANSWER_LIMIT_MS)
    page.locator("#chat-view-head").get_by_role("button", name="Close").click()
    expect(pairs(page)).to_have_count(4)

    # Exports, as the browser saves them.
    for form, ending, held in (
        ("txt", "txt", FRANCE),
        ("markdown", "md", FRANCE),
        ("chatml", "jsonl", '"messages"'),
        ("sharegpt", "jsonl", '"conversations"'),
    ):
        with page.expect_download() as download:
            page.get_by_role("button", name="Export chats").click()
            page.locator(f'[data-export="{form}"]').click()
        saved = tmp_path / download.value.suggested_filename
        download.value.save_as(saved)
        assert saved.suffix == f".{ending}"
        text = saved.read_text(encoding="utf-8")
        assert held in text
        if ending == "jsonl":
            json.loads(text.splitlines()[0])
    page.keyboard.press("Escape")

    page.locator("#inference-clear").click()
    expect(pairs(page)).to_have_count(0)
    expect(page.locator("#history-said")).to_contain_text("Conversation deleted")
    page.locator("#inference-undo").click()
    expect(pairs(page)).to_have_count(4)
    page.locator("#inference-chat-view button").click()
    expect(page.locator("#bubbles .bubble")).to_have_count(8)
    page.locator("#chat-clear").click()
    expect(page.locator("#bubbles .bubble")).to_have_count(0)
    page.keyboard.press("Escape")
    expect(pairs(page)).to_have_count(0)


def choose_dataset(page: Page) -> None:
    """The first dataset that is offered, which is the run's own where it is known."""
    if not page.locator("#sample-dataset input").input_value():
        page.locator("#sample-dataset input").click()
        page.locator('li[role="option"]').first.click()
    expect(page.locator("#samples-line, #sample-prompts").first).to_be_visible()


RECORD = """() => {
    window.said = {lines: [], busy: false};
    const line = document.querySelector("#run-status"), button = document.querySelector("#inference-generate");
    const look = () => {
        const text = line.innerText.trim();
        if (text !== window.said.lines.at(-1)) window.said.lines.push(text);
        window.said.busy ||= button.disabled && button.classList.contains("running");
    };
    new MutationObserver(look).observe(document.body, {childList: true, subtree: true, attributes: true});
}"""


@pytest.mark.long
def test_escape_stops_and_a_double_click_asks_once(visit: Callable[..., Page], serve: Callable[..., str]):
    """I5: Stop takes part as soon as Generate is pressed; the part is kept, marked, and the page is free again."""
    with unhurried(0.2) as (engine, _):
        page = to_inference(visit(serve(engine)))
        validated(page)
        preset(page, "Creative")
        page.locator("#inference-prompt textarea").fill("Tell me a long story about the sea.")
        page.locator("#inference-generate").dblclick()
        expect(page.locator("#inference-stop")).to_be_enabled()
        expect(page.locator("#pair-live-text")).to_contain_text(re.compile(r"\w+"), timeout=ANSWER_LIMIT_MS)
        page.keyboard.press("Escape")
        answered(page, 1)
        expect(pairs(page).last).to_contain_text("stopped")
        expect(status(page)).to_contain_text("Ready. Stopped")
        expect(page.locator("#inference-stop")).to_be_disabled()


@pytest.mark.long
def test_a_run_that_is_deleted_meanwhile_turns_red_and_locks_the_step(visit, serve, tmp_path: Path):
    """I2: validation is repeated at Generate; nothing is asked, and what was typed stays."""
    ignored = shutil.ignore_patterns("checkpoint-*")
    shutil.copytree(ROOT / "assets" / "adapters" / "pirate", tmp_path / "mine", ignore=ignored)
    with unhurried(0.0) as (engine, _):
        page = to_inference(visit(serve(engine, replace(load_config(), runs=(str(tmp_path),)))))
        validated(page, "mine")
        prompted(page, FRANCE)
        answered(page, 1)
        shutil.rmtree(tmp_path / "mine")
        prompted(page, "And of Spain?")
        expect(status(page)).to_have_attribute("data-state", "error")
        expect(page.locator("#inference-generate")).to_be_disabled()
        expect(page.locator(".toast-body").first).to_be_visible()
        expect(pairs(page)).to_have_count(1)
        expect(page.locator("#inference-prompt textarea")).to_have_value("And of Spain?")


@pytest.mark.long
def test_the_sliders_are_the_panels_own_both_ways(page: Page):
    """I3, P4: moved here it is marked there, and the other way round; under greedy a temperature above 0 brings draws."""
    validated(to_inference(page))
    preset(page, "Deterministic")
    number(page, "temperature").fill("0.5")
    expect(page.locator("#setting-strategy input")).to_have_value("Sampling")
    expect(page.locator("#setting-temperature input[type=number]")).to_have_value("0.5")
    expect(page.locator("#settings")).to_contain_text("Settings · Deterministic, changed")
    expect(page.locator("#inference-preset label.selected")).to_have_count(0)
    number(page, "temperature").fill("0")
    expect(page.locator("#setting-strategy input")).to_have_value("Greedy")
    expect(page.locator("#inference-preset label.selected")).to_have_text("Deterministic")
    page.locator("#setting-max_new_tokens input").fill("3000")
    page.locator("#setting-max_new_tokens input").press("Tab")
    expect(number(page, "tokens")).to_have_value("3000")
    page.locator(".undo[data-knob=max_new_tokens]").click()
    expect(number(page, "tokens")).to_have_value("128")
    choose(page, "preset", "Creative")
    expect(page.locator("#inference-preset label.selected")).to_have_text("Creative")
    expect(number(page, "penalty")).to_have_value("1.1")


@pytest.mark.long
def test_the_base_alone_is_locked_and_a_changed_adapter_is_followed(page: Page):
    """I2: what is chosen lives in one place; the panel beside and this tab never say two different things."""
    validated(to_inference(page))
    choose(page, "adapter", "none (base)")
    expect(page.locator("#inference-generate")).to_be_disabled()
    expect(status(page)).to_have_attribute("data-state", "idle")
    choose(page, "adapter", "triage")
    expect(status(page)).to_contain_text(VALIDATED)
    expect(page.locator("#training-run input")).to_have_value(re.compile("^triage ·"))


@pytest.mark.long
@pytest.mark.parametrize("width", [390, 1500])
def test_nothing_is_wider_than_the_page(visit: Callable[..., Page], live_app, width: int):
    """I5: on a phone, too."""
    page = to_inference(visit(live_app.url, width, 900))
    validated(page)
    prompted(page, FRANCE)
    answered(page, 1)
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    page.get_by_role("button", name="Export chats").click()
    box = page.locator(".export-formats").bounding_box()
    assert box is not None
    assert box["x"] >= 0
    assert box["x"] + box["width"] <= width
