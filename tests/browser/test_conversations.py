"""The list of conversations in a real browser: what people do with it, by mouse, by keys and on a phone; and whose it is."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Locator, Page, expect

from playground.config import load_config
from playground.conversation import Conversation, Reply, Turn
from playground.services.assembly import Services
from playground.types import ModelSpec
from tests.browser.conftest import ask, finished
from tests.browser.test_leaving import hard_to_read
from tests.conftest import LiveApp
from tests.ui.fake_engine import FakeEngine

pytestmark = [
    pytest.mark.browser,
    pytest.mark.filterwarnings("ignore"),
]  # the libraries' own warnings, in this process
HOSTILE = "<img src=x onerror=\"document.title='taken'\"> ${document.title='taken'} {{x}} `y` \" '"


def rows(page: Page) -> Locator:
    return page.locator("#sidebar-list .conversation")


def titled(page: Page, title: str) -> Locator:
    return rows(page).filter(has=page.locator(".title", has_text=title))


def titles(page: Page) -> list[str]:
    return page.locator("#sidebar-list .title").all_inner_texts()


def key(page: Page) -> str:
    """What is open on the page."""
    return page.locator("#open-conversation textarea").input_value()


def opened(page: Page) -> str:
    """The id of the conversation that is open, "" for none."""
    return str(json.loads(key(page) or '[""]')[0])


def press(page: Page, row: Locator, action: str) -> None:
    """One of the buttons that a row shows while it is pointed at."""
    row.hover()
    row.locator(f'[data-sidebar="{action}"]').click()


def talk(name: str, title: str, hours_ago: float, adapter: str = "", use_case: str = "chatbot") -> Conversation:
    """A conversation of one question and its answer, as it is stored on a machine of one's own."""
    spec, at = ModelSpec("starter", adapters=((adapter, 1.0),) if adapter else ()), time.time() - 3600 * hours_ago
    turns = (
        Turn(f"u{name}", "", "user", title, at),
        Turn(f"a{name}", f"u{name}", "assistant", f"So much about {name}.", at, Reply(spec, "stop")),
    )
    return Conversation(name, "local", at, at, "", use_case, "", turns, f"a{name}", 1)


@pytest.fixture
def stored(serve: Callable[..., str]) -> Callable[..., str]:
    """Serve the pages over a history that holds the given conversations; the address."""

    def start(*conversations: Conversation) -> str:
        config, engine = load_config(), FakeEngine()
        services = Services.over(engine, config)
        services.history._store.conversations.put_all(conversations)
        return serve(engine, config, services)

    return start


@pytest.mark.long
def test_conversations_are_kept_listed_brought_back_renamed_found_and_deleted(page: Page) -> None:
    """P6, I6, F2: workflow 4 of the seed in the real app, which says in which file all of it is."""
    place = page.locator("#sidebar-foot .where").get_attribute("data-copy")
    assert Path(place or "").is_file()
    page.locator("#conversations .new").click()
    before = rows(page).count()
    ask(page, "What is the capital of France?")
    finished(page)
    expect(rows(page)).to_have_count(before + 1)
    page.locator("#prompt textarea").fill("Not sent yet")
    row = rows(page).first
    expect(row.locator("small")).to_contain_text("starter · ")
    expect(row.locator(".open")).to_have_attribute("aria-current", "true")
    expect(row.locator("small")).to_contain_text("2 messages")
    first = opened(page)

    page.reload()
    expect(row.locator(".open")).to_have_attribute("aria-current", "true")
    assert opened(page) == first
    expect(page.locator("#prompt textarea")).to_have_value("Not sent yet")

    page.locator("#conversations .new").click()
    expect(page.locator("#sidebar-list [aria-current]")).to_have_count(0)
    assert opened(page) == ""
    press(page, row, "rename")
    page.keyboard.type("Two <b>capitals</b>")
    page.keyboard.press("Enter")
    expect(titled(page, "Two <b>capitals</b>")).to_have_count(1)

    page.locator("#conversations .search").fill("france")
    expect(row.locator("mark").first).to_have_text("France")
    press(page, titled(page, "Two <b>capitals</b>"), "delete")
    expect(titled(page, "Two <b>capitals</b>")).to_have_count(0)
    page.locator("#sidebar-said .undo").click()
    expect(titled(page, "Two <b>capitals</b>").locator(".open")).to_have_attribute("aria-current", "true")
    assert opened(page) == first


@pytest.mark.long
def test_nothing_that_was_said_is_more_than_text_and_the_keys_do_what_the_mouse_does(visit, stored) -> None:
    """S3, P6: a hostile title scripts nothing; arrows, Enter, F2, Escape, Delete; days; right-to-left."""
    page = visit(stored(
        talk("now", HOSTILE, 0), talk("sun", "متى تغرب الشمس في الصيف؟", 0.01), talk("sea", "The sea", 24 * 40, "pirate"),
    ))  # fmt: skip
    expect(rows(page)).to_have_count(3)
    assert titles(page)[0] == HOSTILE.strip()[:60].rsplit(" ", 1)[0] + "…"
    page.locator(".search").fill("taken img")
    expect(rows(page)).to_have_count(1)
    expect(rows(page).locator("mark").first).to_be_visible()
    page.locator(".search").press("Escape")
    expect(rows(page)).to_have_count(3)
    page.locator("#sidebar-filters summary").click()
    page.locator('[data-filter="adapter"]').select_option("pirate")
    expect(rows(page)).to_have_count(1)
    page.locator('[data-filter="adapter"]').select_option("")
    expect(rows(page)).to_have_count(3)
    assert page.locator("#conversations img").count() == 0
    assert page.title() != "taken"
    assert titled(page, "الشمس").locator(".title").evaluate("it => getComputedStyle(it).direction") == "rtl"

    page.locator(".search").press("ArrowDown")
    page.keyboard.press("End")
    page.keyboard.press("Enter")
    expect(titled(page, "The sea").locator(".open")).to_have_attribute("aria-current", "true")
    page.keyboard.press("F2")
    page.keyboard.type("Never mind")
    page.keyboard.press("Escape")
    expect(titled(page, "The sea").locator(".open")).to_be_focused()
    page.keyboard.press("Home")
    page.keyboard.press("Delete")
    expect(page.locator("#sidebar-said")).to_contain_text("Deleted")
    expect(rows(page)).to_have_count(2)
    expect(rows(page).first.locator(".open")).to_be_focused()
    assert opened(page) == "sea"


@pytest.mark.long
def test_all_are_exported_imported_and_deleted_and_every_text_can_be_read(visit, stored, tmp_path) -> None:
    """P6: files in and out of the browser, the question before all are deleted; contrast AA in both themes."""
    page = visit(stored(talk("sun", "The sun", 0), talk("sea", "The sea", 24 * 40, "pirate")))
    rows(page).last.locator(".open").click()
    page.locator("#sidebar-filters summary").click()
    for _ in ("light", "dark"):
        assert hard_to_read(page) == []
        page.get_by_role("button", name="Theme").click()

    page.locator('[data-sidebar="export-all"]').click()
    with page.expect_download() as download:
        page.locator('#sidebar-foot [data-format="chatml"]').click()
    file = tmp_path / "chats.jsonl"
    download.value.save_as(file)
    assert len(file.read_text(encoding="utf-8").splitlines()) == 2
    page.locator("#sidebar-foot input[type=file]").set_input_files(file)
    expect(page.locator("#sidebar-said")).to_contain_text("Imported 2 conversations")
    expect(rows(page)).to_have_count(4)
    page.locator('[data-sidebar="ask-delete-all"]').click()
    expect(page.locator("#sidebar-said")).to_contain_text("Deletes 4 conversations")
    page.locator('[data-sidebar="delete-all"]').click()
    expect(page.locator("#sidebar-list")).to_contain_text("will stand here")


@pytest.mark.long
def test_on_a_phone_the_list_slides_over_the_page_and_two_tabs_follow_each_other(visit, stored) -> None:
    """P6, I6: 390 px; Escape and a tap outside close it; what one tab opens, renames and deletes the other one learns."""
    url = stored(*(talk(f"c{number}", f"Talk {number}", number) for number in range(205)))
    page, other = visit(url, 390, 844), visit(url)
    for _ in range(2):
        expect(page.locator("#conversations")).not_to_be_in_viewport()
        page.get_by_role("button", name="Chats").click()
        expect(page.locator("#conversations .new")).to_be_in_viewport()
        page.keyboard.press("Escape")
    page.get_by_role("button", name="Chats").click()
    expect(page.locator("#conversations .new")).to_be_in_viewport()
    page.mouse.click(380, 400)
    expect(page.locator("#conversations")).not_to_be_in_viewport()
    page.get_by_role("button", name="Chats").click()
    rows(page).nth(3).locator(".open").click()
    expect(page.locator("#conversations")).not_to_be_in_viewport()
    expect(page.locator("#open-conversation textarea")).to_have_value(json.dumps(["c3", "ac3", 1]))
    assert page.evaluate("document.documentElement.scrollWidth") <= 390

    expect(rows(other)).to_have_count(200)
    other.locator("#sidebar-list .more").click()
    expect(rows(other)).to_have_count(205)
    assert opened(other) == ""  # another tab starts fresh
    press(other, titled(other, "Talk 3").first, "rename")
    other.keyboard.type("Named elsewhere")
    other.keyboard.press("Enter")
    expect(page.locator("#open-conversation textarea")).to_have_value(json.dumps(["c3", "ac3", 2]))
    press(other, titled(other, "Named elsewhere"), "delete")
    expect(page.locator("#open-conversation textarea")).to_have_value("")
    expect(page.locator("#sidebar-said")).to_contain_text("deleted elsewhere")

    other.get_by_role("button", name="Chats").click()
    expect(other.locator("#conversations")).to_be_hidden()
    other.reload()
    expect(other.locator("#chips .chip").first).to_be_visible()
    expect(other.locator("#conversations")).to_be_hidden()


@pytest.mark.long
def test_two_people_see_only_their_own_conversations(chromium: Browser, house: LiveApp) -> None:
    """F2, S2: two browsers; list, search and a forged key show nothing of the other's; a restart does not mix them up."""
    pages = {}
    for name, password in (("anna", "a secret of hers"), ("bert", "a secret of his")):
        page = pages[name] = chromium.new_context(locale="en-US").new_page()
        page.goto(house.url)
        page.get_by_label("User name").fill(name)
        page.get_by_label("Password").fill(password)
        page.get_by_label("Password").press("Enter")
        expect(page.locator("#sidebar-list")).to_contain_text("will stand here")
        ask(page, f"This is {name}.")
        finished(page)
        expect(titled(page, f"This is {name}.")).to_have_count(1)
    anna, bert = pages["anna"], pages["bert"]
    annas = key(anna)
    bert.locator("#conversations .search").fill("anna")
    expect(bert.locator("#sidebar-list")).to_contain_text("No conversation fits")
    bert.locator("#conversations .search").press("Escape")
    bert.evaluate("key => sessionStorage.setItem('playground-open', key)", annas)
    bert.reload()
    expect(titled(bert, "This is bert.")).to_have_count(1)
    expect(bert.locator("#open-conversation textarea")).to_have_value("")
    assert "This is anna." not in bert.content()
    expect(rows(bert)).to_have_count(1)
    for page in pages.values():
        page.context.close()


@pytest.mark.long
def test_a_reload_in_the_middle_of_a_first_answer_shows_what_was_kept_of_it(chromium: Browser, serve) -> None:
    """I6, F1: the page that asked is gone, and its answer stopped; the new one opens it as soon as it is kept."""
    page = chromium.new_page()
    page.goto(serve(FakeEngine("word " * 900, pause=0.1)))
    ask(page, "Hello!")
    expect(page.locator("#answer-text")).to_contain_text("word word")
    page.reload()
    expect(titled(page, "Hello!").locator(".open")).to_have_attribute("aria-current", "true")
    expect(page.locator("#answer-text")).to_contain_text("word word")
    page.close()
