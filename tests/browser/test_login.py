"""Signing in and out as people do it: a real browser on the real app behind a password."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect

from tests.browser.conftest import ask, finished, generate
from tests.conftest import LiveApp, started_app
from tests.gate.provider import TOKEN, environment, standing_in

pytestmark = pytest.mark.browser

PASSWORD, ADMIN_KEY = "a secret of her own", "the-key-of-the-operator"
OPTIONS = ("--auth", f"anna:{PASSWORD}", "--admin-key", ADMIN_KEY)


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveApp]:
    """The app with one user and an admin key."""
    with started_app(tmp_path_factory.mktemp("guarded"), *OPTIONS) as app:
        yield app


@pytest.fixture
def browser(chromium: Browser) -> Iterator[Callable[[], BrowserContext]]:
    """Browsers that know nothing of each other."""
    contexts: list[BrowserContext] = []

    def fresh() -> BrowserContext:
        contexts.append(chromium.new_context(locale="en-US", viewport={"width": 1400, "height": 950}))
        return contexts[-1]

    yield fresh
    for context in contexts:
        context.close()


def sign_in(page: Page, name: str = "anna", password: str = PASSWORD) -> None:
    """Fill in the login page that is open, and send it."""
    page.get_by_label("User name").fill(name)
    page.get_by_label("Password").fill(password)
    page.get_by_label("Password").press("Enter")


def inside(context: BrowserContext, app: LiveApp, name: str = "anna", password: str = PASSWORD) -> Page:
    """The Playground, opened by somebody who signs in first."""
    page = context.new_page()
    page.goto(app.url)
    sign_in(page, name, password)
    expect(page.locator("#chips .chip").first).to_be_visible()
    return page


def path_of(page: Page) -> str:
    return urlsplit(page.url).path


def test_on_a_machine_of_ones_own_nobody_is_asked_who_they_are(page: Page) -> None:
    """A6, R1: without a password the page is as it was: no name, no way in or out, everything in one's own hands."""
    expect(page.locator("#bar-buttons")).to_be_visible()
    assert page.locator("#person .person").count() == 0
    assert page.get_by_text("Sign in").count() == 0
    ask(page, "Hello!")
    assert finished(page)
    expect(page.locator("#loaded-models .unload")).to_be_visible()


@pytest.mark.long
def test_the_right_password_opens_the_page_and_signing_out_closes_it(browser, guarded: LiveApp) -> None:
    """A6, S2: wrong, then right; the answer comes; afterwards the door is shut again."""
    page = browser().new_page()
    page.goto(guarded.url)
    assert path_of(page) == "/login"
    sign_in(page, password="Secret")
    expect(page.get_by_role("alert")).to_contain_text("do not belong together")
    sign_in(page)
    expect(page.locator("#person .who")).to_have_text("anna")
    assert path_of(page) == "/"
    ask(page, "Hello!")
    assert finished(page)
    page.get_by_role("button", name="Sign out").click()
    expect(page.get_by_label("Password")).to_be_visible()
    page.goto(guarded.url)
    assert path_of(page) == "/login"


@pytest.mark.long
def test_a_browser_that_has_not_signed_in_sees_nothing(browser, guarded: LiveApp) -> None:
    """S2: not the page, not what it is made of, and not what somebody else is doing, while another browser is inside."""
    inside(browser(), guarded)
    stranger = browser()
    for path in ("/config", "/gradio_api/info", "/gradio_api/queue/data?session_hash=a", "/v1/models", "/metrics"):
        answer = stranger.request.get(guarded.url + path)
        assert answer.status == 401, path
        assert "starter" not in answer.text()
    page = stranger.new_page()
    page.goto(guarded.url + "/?anything=1")
    assert path_of(page) == "/login"
    assert "anna" not in page.content()
    assert page.locator("#prompt").count() == 0


@pytest.mark.long
def test_guessing_passwords_comes_to_an_end_and_says_for_how_long(browser, tmp_path: Path) -> None:
    """A6: the right password does not help then either."""
    with started_app(tmp_path, *OPTIONS) as app:
        page = browser().new_page()
        page.goto(app.url)
        for guess in range(5):
            sign_in(page, password=f"guess {guess}")
            expect(page.get_by_role("alert")).to_be_visible()
        sign_in(page)
        expect(page.get_by_role("alert")).to_have_text(re.compile(r"Too many wrong passwords.*(second|minute)"))
        assert path_of(page) == "/login"


@pytest.mark.long
def test_a_login_that_has_ended_says_so_on_the_open_page_and_nothing_written_is_lost(browser, guarded: LiveApp) -> None:
    """S2, P2: Generate is not just ignored; after signing in again in another tab the same page goes on."""
    context = browser()
    page = inside(context, guarded)
    page.locator("#prompt textarea").fill("Hello, are you there?")
    other = context.new_page()
    other.goto(guarded.url + "/logout")
    other.get_by_role("button").click()
    expect(other.get_by_label("Password")).to_be_visible()
    page.locator("#generate").click()
    said = page.locator("#signed-out")
    expect(said).to_contain_text("no longer signed in")
    with context.expect_page() as opened:
        said.get_by_role("link", name="Sign in").click()
    sign_in(opened.value)
    expect(opened.value.locator("#chips .chip").first).to_be_visible()
    expect(said).to_have_count(0)
    expect(page.locator("#prompt textarea")).to_have_value("Hello, are you there?")
    generate(page)
    assert finished(page)


@pytest.mark.long
def test_a_server_that_comes_back_with_another_password_says_so_on_the_open_page(browser, tmp_path: Path) -> None:
    """S2: the old login is worth nothing, and the page shows the way to the new one."""
    (tmp_path / "first").mkdir()
    (tmp_path / "second").mkdir()
    with started_app(tmp_path / "first", *OPTIONS) as app:
        page = inside(browser(), app)
    port = str(urlsplit(app.url).port)
    with started_app(tmp_path / "second", "--auth", "anna:something new", "--port", port) as app:
        page.locator("#prompt textarea").fill("Hello!")
        page.locator("#generate").click()
        link = page.locator("#signed-out").get_by_role("link")
        expect(link).to_have_attribute("href", re.compile("^/login"))
        expect(page.locator("#generate")).to_be_visible()


@pytest.mark.long
def test_only_the_operator_unloads_what_others_use_and_the_pages_own_routes_know_it(browser, guarded: LiveApp) -> None:
    """A6: no button for anna, and none of the requests that the operator's button sends does anything for her."""
    hers = browser()
    page = inside(hers, guarded)
    ask(page, "Hello!")
    finished(page)
    expect(page.locator("#loaded-models .adapters, #loaded-models .muted").first).to_be_visible()
    assert page.locator("#loaded-models .unload").count() == 0
    sent: list[str] = []
    operator = inside(browser(), guarded, "admin", ADMIN_KEY)
    operator.on(
        "request", lambda request: sent.append(request.post_data or "") if "queue/join" in request.url else None
    )
    button = operator.locator("#loaded-models .unload")
    expect(button).to_be_visible()
    button.click()
    expect(operator.locator("#load-status")).to_contain_text("came back")
    ask(page, "Hello again!")
    finished(page)
    stolen = {**json.loads(sent[-1]), "session_hash": "hers"}
    assert hers.request.post(guarded.url + "/gradio_api/queue/join", data=stolen).ok
    said = hers.request.get(guarded.url + "/gradio_api/queue/data?session_hash=hers").text()
    assert "Only the operator" in said
    expect(page.locator("#loaded-models .loaded-list")).to_be_visible()


@pytest.mark.long
def test_where_only_an_admin_key_is_set_the_page_is_open_and_shows_the_way_in(browser, tmp_path: Path) -> None:
    """A6: a visitor uses it as before; whoever has the key finds the door in the bar."""
    with started_app(tmp_path, "--admin-key", ADMIN_KEY) as app:
        page = browser().new_page()
        page.goto(app.url)
        ask(page, "Hello!")
        assert finished(page)
        assert page.locator("#loaded-models .unload").count() == 0
        page.get_by_role("link", name="Sign in").click()
        sign_in(page, "admin", ADMIN_KEY)
        expect(page.locator("#person .who")).to_have_text("admin")
        expect(page.locator("#loaded-models .unload")).to_be_visible()


@pytest.mark.long
def test_on_a_space_a_visitor_may_sign_in_with_hugging_face_and_then_has_a_name(
    browser, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Issue 5, 4: from the link in the bar to the provider and back; nothing of it lies on the disk or in the log."""
    with standing_in() as provider:
        for name, value in environment(provider).items():
            monkeypatch.setenv(name, value)
        with started_app(tmp_path) as app:
            page = browser().new_page()
            page.goto(app.url)
            page.get_by_role("link", name="Sign in").click()
            page.get_by_role("link", name="Sign in with Hugging Face").click()
            expect(page.locator("#person .who")).to_have_text("Ada-Lovelace")
            assert path_of(page) == "/"
            ask(page, "Hello!")
            assert finished(page)
            page.goto(app.url + "/login/callback?code=made-up&state=made-up")
            expect(page.get_by_role("alert")).to_contain_text("Try again")
            printed = app.printed()
    written = [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]
    assert TOKEN not in printed
    assert not any(TOKEN.encode() in content for content in written)
