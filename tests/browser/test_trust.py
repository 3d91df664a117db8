"""Trust in a real browser, with the real engine: report, doctor, no-op, strength, provenance, replay, upload, export."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from playground.config import ROOT
from tests.browser.conftest import (
    ANSWER_LIMIT_MS,
    ask,
    begin_new,
    choose,
    finished,
    provenance,
    unhurried,
    wait_until,
)

pytestmark = pytest.mark.browser
PIRATE = ROOT / "assets" / "adapters" / "pirate"
FILES = ("adapter_config.json", "adapter_model.safetensors")
FRANCE = "What is the capital of France?"


def copied(folder: Path) -> Path:
    """The pirate adapter in another folder."""
    folder.mkdir()
    for name in FILES:
        shutil.copy(PIRATE / name, folder / name)
    return folder


def without_b(weights: Path) -> None:
    """Every lora_B in the file as zeros."""
    data = bytearray(weights.read_bytes())
    start = 8 + int.from_bytes(data[:8], "little")
    for name, tensor in json.loads(data[8:start]).items():
        if "lora_B" in name:
            first, end = tensor["data_offsets"]
            data[start + first : start + end] = bytes(end - first)
    weights.write_bytes(data)


def opened(page: Page, accordion: str) -> None:
    page.locator(f"#{accordion} > .label-wrap").click()


def typed(page: Page, field: str, value: object) -> None:
    page.locator(f"#{field} input").fill(str(value))
    page.locator(f"#{field} input").press("Enter")


def test_a_broken_adapter_is_red_with_its_remedy_and_a_sound_one_can_be_examined(page: Page, tmp_path: Path):
    """G9, P1: the report opens by itself; the doctor's plot has a bar for every layer."""
    broken = copied(tmp_path / "broken")
    config = json.loads((broken / FILES[0]).read_text()) | {"r": 16, "base_model_name_or_path": "<img src=x>"}
    (broken / FILES[0]).write_text(json.dumps(config))
    typed(page, "adapter", broken)
    expect(page.locator('.findings [data-severity="problem"]')).to_contain_text("copy both of them from one checkpoint")
    expect(page.locator(".findings")).to_contain_text("<img src=x>")
    expect(page.locator(".chip[data-state=bad]")).to_contain_text("broken")
    expect(page.locator("#examine")).to_have_count(0)
    choose(page, "adapter", "pirate")
    expect(page.locator("#adapter-report > .label-wrap")).to_contain_text("sound")
    expect(page.locator('.verdict[data-verdict="sound"]').first).to_contain_text("LoRA rank 8 on")
    page.wait_for_load_state("networkidle")  # what choosing has set off may still draw the button anew
    page.locator("#examine").click()
    expect(page.locator(".norms svg")).to_be_visible()
    expect(page.locator(".norms rect.norm")).to_have_count(42)
    expect(page.locator("#diagnosis .facts")).to_contain_text("Effective rank")


@pytest.mark.long
def test_an_adapter_that_changes_nothing_is_red_and_says_so(page: Page, tmp_path: Path):
    """G10, P1: before it is loaded by its numbers, afterwards by what was measured."""
    idle = copied(tmp_path / "idle")
    without_b(idle / FILES[1])
    typed(page, "adapter", idle)
    expect(page.locator(".chip[data-state=bad]")).to_contain_text("idle")
    expect(page.locator("#adapter-report > .label-wrap")).to_contain_text("no effect")
    page.locator("#load").click()
    expect(page.locator("#load-status")).to_contain_text("answers now", timeout=ANSWER_LIMIT_MS)
    expect(page.locator(".adapters")).to_contain_text("no effect")
    expect(page.locator("#report-proof")).to_contain_text("84 tensors matched, 0 missing")
    expect(page.locator(".chip[data-state=bad]")).to_contain_text("idle")
    choose(page, "adapter", "pirate")
    page.locator("#swap").click()
    expect(page.locator("#load-status")).to_contain_text("Swapped: starter + pirate answers now.")
    expect(page.locator("#adapter-report > .label-wrap")).to_contain_text(
        "sound"
    )  # whatever followed the choice is over
    expect(page.locator("#load-status")).to_contain_text("Swapped: starter + pirate answers now.")


@pytest.mark.long
def test_strength_changes_the_answer_and_each_answer_can_be_run_again(page: Page):
    """G14: 0 is the base, 1 the adapter; the line copies a manifest, the fold explains it, the replay is identical."""
    choose(page, "preset", "Deterministic")
    ask(page, FRANCE)
    base = finished(page)
    choose(page, "adapter", "pirate")
    expect(page.locator("#strength input")).to_be_enabled()
    answers = {}
    for strength in (0, 1):
        typed(page, "strength", strength)
        begin_new(page)
        ask(page, FRANCE)
        answers[strength] = finished(page)
        assert provenance(page)["provenance"]["adapters"][0][2] == strength
    assert answers[0] == base
    assert answers[1] != base
    page.locator(".made summary").click()
    expect(page.locator(".made .facts")).to_contain_text(re.compile(r"pirate ×1 [0-9a-f]{12}"))
    page.locator("button.replay").click()
    expect(page.locator("#replay")).to_contain_text("Run again: identical.")
    assert page.locator("#answer-text").inner_text().strip() == answers[1]
    text = page.locator("button.stats").get_attribute("data-copy")
    opened(page, "replay-manifest")
    page.locator("#manifest textarea").fill(text)
    page.locator("#replay-pasted").click()
    expect(page.locator("#replay")).to_contain_text("Manifest, run again: identical.")


@pytest.mark.long
def test_a_dropped_zip_is_chosen_answers_and_can_be_taken_along(page: Page, tmp_path: Path):
    """P8: dropped, checked, chosen; exported at a strength, and the path can be copied; removed when that is confirmed."""
    packed = shutil.make_archive(str(tmp_path / "my-pirate"), "zip", copied(tmp_path / "packed"))
    opened(page, "add-adapter")
    page.locator("#adapter-files input[type=file]").set_input_files(packed)
    expect(page.locator("#add-status")).to_contain_text("Added my-pirate: it is chosen above.")
    expect(page.locator("#adapter input")).to_have_value("my-pirate")
    expect(page.locator("#adapter-report > .label-wrap")).to_contain_text("sound")
    typed(page, "strength", 0.5)
    ask(page, "Hello!")
    expect(page.locator("button.stats")).to_contain_text("starter + my-pirate ×0.5", timeout=ANSWER_LIMIT_MS)
    opened(page, "export")
    page.locator("#export-adapter").click()
    path = page.locator("#export .path").text_content()
    assert (Path(path) / FILES[1]).is_file()
    page.locator("#remove-adapter").click()
    expect(page.locator("#remove-asked")).to_contain_text("Deletes the uploaded files of my-pirate")
    page.locator("#remove-sure").click()
    expect(page.locator("#remove-status")).to_contain_text("Removed my-pirate")
    expect(page.locator("#adapter input")).to_have_value("none (base)")
    expect(page.locator("#remove-adapter")).to_have_count(0)


def stopped_midway(page: Page) -> str:
    """Stop what is being answered once it has twenty tokens; its text."""
    expect(page.locator("#answer-status")).to_contain_text(re.compile(r"\b[2-9]\d tokens"), timeout=ANSWER_LIMIT_MS)
    page.locator("#stop").click()
    expect(page.locator("button.stats")).to_contain_text("stopped")
    return page.locator("#answer-text").inner_text().strip()


@pytest.mark.long
def test_a_stopped_answer_is_run_again_as_far_as_it_goes(visit, serve: Callable[..., str], endless_model: Path):
    """G14, G6: stopping that, by button or Escape, leaves the engine idle and the answer as it was; so does the next one."""
    with unhurried(0.12) as (engine, hurry):
        page = visit(serve(engine))
        typed(page, "model", endless_model)
        ask(page, "Write a short story about a cat.")
        stopped_midway(page)
        expect(page.locator(".made summary")).to_be_visible()
        expect(page.locator("#continues")).to_contain_text("Continues")  # kept, with the word that was on its way
        answer = page.locator("#answer-text").inner_text().strip()
        progress = re.compile(r"Run again: \d+ of \d+ tokens")
        for stop in (lambda: page.locator(".under .stop-work").click(), lambda: page.keyboard.press("Escape")):
            page.locator("button.replay").click()
            expect(page.locator("#replay")).to_contain_text(progress)
            stop()
            expect(page.locator("#replay")).to_contain_text("Stopped.")
            wait_until(lambda: engine.activity() == (0, 0), page)
            expect(page.locator("#replay .work")).to_have_attribute("data-state", "stopped")
        assert page.locator("#answer-text").inner_text().strip() == answer
        page.locator("button.replay").click()
        expect(page.locator("#replay")).to_contain_text(progress)
        ask(page, "Write a short story about a cat.")
        expect(page.locator("#replay .work")).to_have_count(0)
        wait_until(lambda: engine.activity() == (1, 0), page)  # the new answer goes on alone
        stopped_midway(page)
        expect(page.locator("#replay .work")).to_have_count(0)
        hurry()
        page.locator("button.replay").click()
        expect(page.locator("#replay")).to_contain_text("identical as far as it goes")


def test_tab_leaves_no_list_open_behind_it(page: Page):
    """P1: a dropdown opens when the keyboard comes to it, and closes when it goes on; Escape closes it as well."""
    for field in ("use-case", "model", "quantization", "adapter", "preset"):
        page.locator(f"#{field} input").focus()
        expect(page.locator("li[role=option]").first).to_be_visible()
        page.keyboard.press("Tab")
        expect(page.locator(f"#{field} input")).to_have_attribute("aria-expanded", "false")
    page.locator("#use-case input").focus()
    page.keyboard.press("Escape")
    expect(page.locator("li[role=option]")).to_have_count(0)
