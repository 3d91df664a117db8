"""Several people at once, in browsers of their own and in tabs of one, over one engine that this process looks into."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from playwright.sync_api import Page, expect

from playground.api import create_app
from playground.config import AppConfig, ModelEntry, load_config
from playground.gate import Gate
from playground.local_inference import LocalInference
from playground.services.assembly import Services
from playground.ui.views.figures import bytes_text
from tests.browser.conftest import ANSWER_LIMIT_MS, ask, choose, fill, finished, provenance, unhurried, wait_until
from tests.browser.test_leaving import hard_to_read
from tests.ui.fake_engine import FakeEngine

pytestmark = [
    pytest.mark.browser,
    pytest.mark.filterwarnings("ignore"),
]  # the libraries' own warnings, in this process

STEP_S = 0.5  # an answer of 100 tokens is still being written when everybody has asked, on a busy machine as well
LIVE_ROWS = 3
STREAMING = '.answer-status[data-state="streaming"]'


@dataclass
class House:
    """The pages and the API over one engine with few live rows; the model's answers run to their limit.

    They take their time until `hurry` is called.
    """

    url: str
    engine: LocalInference
    config: AppConfig
    hurry: Callable[[], None]

    def alone(self, made: dict[str, Any], model: str) -> str:
        """The text of the API for what a page's provenance says, with nobody else around."""
        settings, request = made["request"]["settings"], made["request"]
        names = (
            "temperature",
            "top_p",
            "top_k",
            "min_p",
            "repetition_penalty",
            "presence_penalty",
            "frequency_penalty",
        )
        body = {
            "model": model, "messages": request["messages"],
            "seed": made["provenance"]["seed"], "max_tokens": settings["max_new_tokens"],
        } | {name: settings[name] for name in names}  # fmt: skip
        api = Gate(create_app(self.config, Services.over(self.engine, self.config)))
        with TestClient(api, base_url="http://localhost") as client:
            answer = client.post("/v1/chat/completions", json=body)
        text: str = answer.json()["choices"][0]["message"]["content"]
        return text


@pytest.fixture
def house(serve: Callable[..., str], endless_model: Path) -> Iterator[House]:
    starter = load_config().models["starter"]
    entry = ModelEntry("endless", str(endless_model), adapters=starter.adapters)
    config = replace(load_config(), models={"endless": entry})
    with unhurried(STEP_S, slots=LIVE_ROWS) as (engine, hurry):
        yield House(serve(engine, config), engine, config, hurry)


def text_of(page: Page) -> str:
    return page.locator("#answer-text").inner_text()


def grows(page: Page) -> bool:
    """True when the answer gets longer, and is not at its end."""
    before = text_of(page)
    wait_until(lambda: len(text_of(page)) > len(before), page)
    return page.locator(STREAMING).count() == 1


def begin(page: Page, prompt: str, **settings: object) -> None:
    """Set ``settings``, ask, and see the answer begin."""
    fill(page, **settings)
    ask(page, prompt)
    expect(page.locator(STREAMING)).to_be_visible(timeout=ANSWER_LIMIT_MS)


@pytest.mark.long
def test_people_are_answered_side_by_side_as_if_each_were_alone(visit, house):
    """P3, G2: two browsers and two tabs of one, other adapters and settings; all texts grow at once and are right."""
    one, other = visit(house.url, apart=True), visit(house.url)
    tab = visit(house.url)
    choose(one, "adapter", "pirate")
    choose(tab, "adapter", "sql")
    begin(one, "Tell me about the sea.", max_new_tokens=160, seed=11, temperature=0.9)
    begin(other, "Write a story about a cat.", max_new_tokens=130, seed=12, temperature=1.2)
    begin(tab, "List the names of all users.", max_new_tokens=100, seed=13, temperature=0.6)
    assert house.engine.activity() == (3, 0)
    for page in (one, other, tab):
        assert grows(page)
    assert house.engine.activity() == (3, 0)
    expect(one.locator("#status")).to_contain_text("3 answering")
    house.hurry()
    for page, model in ((tab, "endless:sql"), (other, "endless"), (one, "endless:pirate")):
        finished(page)
        made = provenance(page)
        assert made["text"] == house.alone(made, model)
        assert text_of(page).strip()


@pytest.mark.long
def test_one_users_stop_swap_and_unload_leave_the_others_running(visit, house):
    """P1, P3, G6: the other's text goes on and is the right one; a model that is answering cannot be unloaded."""
    one, other = visit(house.url), visit(house.url)
    begin(other, "Write a story about a cat.", max_new_tokens=160, seed=5, temperature=1.0)
    begin(one, "Tell me about the sea.", max_new_tokens=900, temperature=0.9)
    one.locator("#stop").click()
    expect(one.locator("button.stats")).to_contain_text("stopped")
    wait_until(lambda: house.engine.activity() == (1, 0), one)
    choose(one, "adapter", "pirate")
    one.locator("#swap").click()
    expect(one.locator("#load-status")).to_contain_text("endless + pirate answers now")
    expect(other.locator(".adapters")).to_contain_text("pirate")  # everybody sees what is in memory
    one.locator(".unload").click()
    expect(one.locator("#load-status")).to_contain_text("answering")
    one.locator("#reset").click()
    one.close()
    assert grows(other)
    expect(other.locator(".toast-body")).to_have_count(0)
    expect(other.locator(".chip").nth(1)).to_contain_text("none")
    house.hurry()
    finished(other)
    made = provenance(other)
    assert made["finish_reason"] == "length"
    assert made["text"] == house.alone(made, "endless")


@pytest.mark.long
def test_who_waits_sees_the_line_move_and_the_bar_tells_what_everybody_does(visit, house):
    """P1, P3, G6: places with the seconds that go on; one who leaves moves the others up; at the end all is given back."""
    one, leaving, phone = visit(house.url), visit(house.url), visit(house.url, 390, 844)
    begin(one, "Write a story.", max_new_tokens=900, num_return_sequences=3)
    ask(leaving, "Hello!")
    expect(leaving.locator("#answer-status")).to_contain_text("Waiting in line: yours is next")
    fill(phone, max_new_tokens=900)
    ask(phone, "Hello!")
    expect(phone.locator("#answer-status")).to_contain_text("Waiting in line: 1 answer before yours")
    expect(phone.locator("#answer-status")).to_contain_text(re.compile(r"before yours · [1-9] s"))
    expect(phone.locator("#status .dot")).to_have_attribute("data-phase", "queued")
    expect(phone.locator("#status")).to_contain_text("3 answering · 2 waiting")
    expect(one.locator("#memory")).to_contain_text(re.compile(r"cache [\d.]+ [kM]B"))
    assert phone.evaluate("document.documentElement.scrollWidth") <= 390
    leaving.close()
    expect(phone.locator("#answer-status")).to_contain_text("yours is next")
    phone.locator("#stop").click()
    expect(phone.locator("button.stats")).to_contain_text("0 tokens")
    ask(phone, "Hello!")
    expect(phone.locator("#answer-status")).to_contain_text("yours is next")
    one.locator("#stop").click()
    expect(phone.locator(STREAMING)).to_be_visible()
    phone.locator("#memory button").click()
    expect(phone.locator("#memory-figures")).to_contain_text("1 request now")
    phone.keyboard.press("Escape")
    expect(phone.locator("#memory-figures")).to_be_hidden()
    assert grows(phone)
    phone.keyboard.press("Escape")
    for page in (one, phone):
        expect(page.locator("#status")).to_contain_text("Idle")
        kept = bytes_text(house.engine.memory().reusable)  # what makes way for anything else
        expect(page.locator("#memory")).to_contain_text(f"cache {kept} ")
    assert house.engine.memory().kv_cache == 0


@pytest.mark.long
def test_stop_is_heard_with_three_tabs_of_one_browser_being_answered(visit, serve):
    """P2, P3: a browser has six connections to a server; each answer takes one, and an open page none."""
    engine = FakeEngine("word " * 900, pause=0.1)  # 90 s: only Stop ends it earlier
    url = serve(engine)
    tabs = [visit(url) for _ in range(3)]
    for tab in tabs:
        begin(tab, "Hello!", max_new_tokens=900)
    assert engine.running == 3
    tabs[2].locator("#stop").click()
    wait_until(lambda: engine.running == 2, tabs[2])
    expect(tabs[2].locator("button.stats")).to_contain_text("stopped")
    assert grows(tabs[0])


@pytest.mark.long
def test_the_line_and_the_memorys_figures_have_enough_contrast(visit, serve):
    """P5 and the pages' look: AA in both themes while one waits."""
    page = visit(serve(FakeEngine(in_line=(3,) * 100, pause=0.2)))
    ask(page, "Hello!")
    expect(page.locator(".line i")).to_have_count(4)
    page.locator("#memory button").click()
    expect(page.locator("#memory-figures")).to_contain_text("This program")
    for theme in ("light", "dark"):
        expect(page.locator("body.dark")).to_have_count(int(theme == "dark"))
        assert hard_to_read(page) == []
        page.get_by_role("button", name="Theme").click()


@pytest.mark.long
def test_a_reload_while_an_answer_is_written_stops_it_and_the_page_answers_again(chromium, serve):
    """G6: the page that asked is gone; the new one shows what was kept. Gradio's script grumbles as it goes."""
    engine = FakeEngine("word " * 900, pause=0.1)  # 90 s, unless it is stopped
    page = chromium.new_page()
    page.goto(serve(engine))
    begin(page, "Hello!", max_new_tokens=900)
    page.reload()
    wait_until(lambda: engine.running == 0, page)
    expect(page.locator("#generate")).to_be_visible()
    expect(page.locator("button.stats")).to_contain_text("stopped")
    ask(page, "Hello!")
    expect(page.locator(STREAMING)).to_be_visible()
    page.close()
