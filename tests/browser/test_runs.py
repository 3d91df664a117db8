"""Steps 1 and 2 of the Inference tab in a real browser, on the real app: choosing a run, and what is said of it."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import Page, Request, expect

from playground.config import ROOT
from tests.browser.conftest import choose, wait_until
from tests.conftest import LiveApp, started_app

ADAPTERS = ROOT / "assets" / "adapters"
MANY = 500
QUIET_S = 2.0  # a page that never rests asks several times in it


def open_tab(page: Page) -> None:
    page.get_by_role("tab", name="Inference", exact=True).click()
    expect(page.locator("#training-run input")).to_be_visible()


def choose_run(page: Page, typed: str) -> None:
    """Type a part of a run's entry and take the first that fits."""
    page.locator("#training-run input").click()
    page.keyboard.press("ControlOrMeta+a")
    page.keyboard.type(typed)
    expect(page.locator("#training-run li[role=option]").first).to_contain_text(typed)
    page.keyboard.press("Enter")


def expect_state(page: Page, state: str) -> None:
    expect(page.locator(f'#run-status [data-state="{state}"]')).to_be_visible()


class Asked:
    """When a page has asked the server last, but for what its timers ask."""

    def __init__(self, page: Page) -> None:
        self._timers = page.evaluate(
            "gradio_config.components.filter((one) => one.type === 'timer').map((one) => one.id)"
        )
        self._at = time.monotonic()
        page.on("request", self._note)

    def _note(self, request: Request) -> None:
        if request.method == "POST" and (request.post_data_json or {}).get("trigger_id") not in self._timers:
            self._at = time.monotonic()

    def is_quiet(self) -> bool:
        return time.monotonic() - self._at > QUIET_S


@pytest.mark.long
def test_a_page_on_which_nobody_does_anything_asks_for_nothing(page):
    """I2, R1: however quickly the choices before came upon one another."""
    open_tab(page)
    asked = Asked(page)
    for typed in ("pirate-overfit", "triage", "sql"):
        choose_run(page, typed)
    choose(page, "adapter", "triage")
    choose_run(page, "pirate-overfit")
    expect_state(page, "ready")
    wait_until(asked.is_quiet, page)
    expect(page.locator("#adapter input")).to_have_value("pirate-overfit")


def test_a_run_is_chosen_and_validated_and_the_whole_page_has_it(page):
    """I1, I2: from the list to "Ready for inference."; one that was interrupted is red and says why."""
    open_tab(page)
    expect_state(page, "idle")
    choose_run(page, "pirate-overfit")
    expect(page.locator("#run-status")).to_have_text("Adapter validated. Ready for inference.")
    expect(page.locator("#run-details .run-meta")).to_contain_text(str(ADAPTERS / "pirate-overfit"))
    expect(page.locator("#run-details .verdict")).to_contain_text("LoRA rank 8")
    expect(page.locator("#run-curve svg polyline")).to_have_count(2)
    expect(page.locator("#adapter input")).to_have_value("pirate-overfit")
    expect(page.locator("#chips")).to_contain_text("pirate-overfit")
    choose_run(page, "sql-incomplete")
    expect_state(page, "error")
    expect(page.locator("#run-status")).to_contain_text("stopped at step 150 of 500")
    expect(page.locator("#adapter input")).to_have_value("pirate-overfit")
    choose(page, "adapter", "none (base)")
    expect_state(page, "idle")
    expect(page.locator("#training-run input")).to_have_value("")


@pytest.mark.long
def test_the_doctor_opens_the_report_and_plots_the_layers_of_the_chosen_checkpoint(page):
    """I1, I2: the report in the panel beside, measured without another click."""
    open_tab(page)
    choose_run(page, "pirate-overfit")
    expect_state(page, "ready")
    page.locator("#checkpoint input").click()
    page.locator("#checkpoint li[role=option]", has_text="checkpoint-50").click()
    expect(page.locator("#run-details .run-meta")).to_contain_text("checkpoint-50")
    expect(page.locator("#run-curve text.chosen")).to_have_text("step 50")
    page.locator("#run-doctor").click()
    expect(page.locator("#adapter-report .norms")).to_be_in_viewport()
    expect(page.locator("#adapter-report")).to_contain_text("checkpoint-50, examined")


@pytest.mark.long
def test_an_adapter_of_ones_own_is_asked_after_two_clicks(page, tmp_path):
    """I1, P8: point at a folder; its only completed run is chosen, validated and ready."""
    hostile = "<img src=x onerror=alert(1)>"
    shutil.copytree(ADAPTERS / "sql", tmp_path / "mine" / hostile)
    open_tab(page)
    page.locator("#another-folder .label-wrap").click()
    page.locator("#run-folder :is(input, textarea)").fill(str(tmp_path / "mine"))
    page.locator("#look-in-folder").click()
    expect_state(page, "ready")
    expect(page.locator("#run-details .run-meta")).to_contain_text("onerror")
    expect(page.locator("#inference img")).to_have_count(0)
    page.locator("[data-forget]").click()
    expect_state(page, "error")
    expect(page.locator("#training-run input")).to_have_value("")


@pytest.mark.long
def test_quick_choices_end_with_the_last_one_in_every_field(page):
    """I2: however fast one chooses, list, checkpoint, status and details tell of the same run."""
    open_tab(page)
    asked = Asked(page)
    for typed, final in (("pirate-overfit", True), ("sql-incomplete", False)):
        for earlier in ("triage", "json-failed"):
            choose_run(page, earlier)
        choose_run(page, typed)
        expect(page.locator("#run-details .run-meta b").first).to_contain_text(typed)
        expect_state(page, "ready" if final else "error")
        wait_until(asked.is_quiet, page)
        expect_state(page, "ready" if final else "error")
        assert page.locator("#training-run input").input_value().startswith(typed)
        assert page.locator("#checkpoint input").input_value().startswith("final") is final


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory):
    """The app over a folder that holds five hundred runs."""
    folder = tmp_path_factory.mktemp("runs")
    for number in range(MANY):
        run = folder / f"run-{number:03}"
        run.mkdir()
        for file in (ADAPTERS / "triage").iterdir():
            if file.is_file():
                os.link(file, run / file.name) if _same_disk(file, run) else shutil.copy(file, run)
    with started_app(tmp_path_factory.mktemp("many"), "--runs", str(folder)) as app:
        yield app


def _same_disk(file: Path, folder: Path) -> bool:
    return file.stat().st_dev == folder.stat().st_dev


@pytest.mark.long
def test_one_of_five_hundred_runs_is_found_by_typing(visit: Callable[..., Page], many: LiveApp):
    """I1: the list stays a list that can be used, and the page is there meanwhile."""
    page = visit(many.url, apart=True)
    open_tab(page)
    choose_run(page, "run-437")
    expect_state(page, "ready")
    expect(page.locator("#adapter input")).to_have_value("run-437")
