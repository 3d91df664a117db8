"""A real browser on the real app, and on pages of this process where a test must look inside the engine."""

from __future__ import annotations

import json
import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect, sync_playwright

from playground.config import ROOT, AppConfig, load_config, prepare_process
from playground.local_inference import LocalInference
from playground.services.assembly import Services
from tests.conftest import LiveApp, started_app

QUIET = (
    "--no-sandbox --disable-gpu --disable-background-networking --disable-quic --no-first-run "
    "--disable-component-update --disable-sync"
)
BEGUN = 3  # tokens that an unhurried engine writes at once, so that nobody waits to see that it answers
ANSWER_LIMIT_MS = 80_000  # a first answer imports torch and loads the model; only a hang takes this long
NOT_OURS = ("svelte-i18n", "Method not implemented.")  # what Gradio's own scripts print: on every page, on an upload
expect.set_options(timeout=30_000)  # Playwright's own five seconds are short where others use the machine


@pytest.fixture(scope="package")  # not longer: it holds an event loop that other tests need free
def chromium(browser_path: str) -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=browser_path, args=QUIET.split())
        yield browser
        browser.close()


@pytest.fixture
def serve() -> Iterator[Callable[..., str]]:
    """Serve the pages over an engine in this process; the address. Closed after the browser has left."""
    demos = []

    def start(
        engine: LocalInference, config: AppConfig | None = None, services: Services | None = None
    ) -> str:  # fmt: skip
        prepare_process()
        from playground.ui.app import build, launch_options

        config = config or load_config()
        demo = build(config, services or Services.over(engine, config))
        where = {"server_name": "127.0.0.1", "server_port": _free_port()}
        demo.launch(**where, prevent_thread_lock=True, quiet=True, **launch_options(config.upload_limit))
        demos.append(demo)
        return str(demo.local_url)

    yield start
    for demo in demos:
        demo.close(verbose=False)


def _free_port() -> int:
    """Gradio's own search for one leaves a socket open for each that is taken, by another worker's pages for one."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


@contextmanager
def unhurried(step_s: float, **options: int) -> Iterator[tuple[LocalInference, Callable[[], None]]]:
    """A real engine that takes ``step_s`` seconds for each step once answers have begun, until told to hurry.

    What a small model writes at once cannot be watched, and leaves the browser too little of two cores. However busy the
    machine is, an answer of n tokens is not over before n · ``step_s``. ``options`` are the step loop's.
    """
    prepare_process()
    from playground.local_inference import machinery

    in_a_hurry = threading.Event()

    class Slow(machinery.StepLoop):  # type: ignore[misc]
        def __init__(self, **given: Any) -> None:
            super().__init__(**given | options)

        def step(self) -> bool:
            if all(row.completion_tokens >= BEGUN for row in self.scheduler.live()):
                in_a_hurry.wait(step_s)
            return bool(super().step())

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(machinery, "StepLoop", Slow)
        engine = LocalInference()
        yield engine, in_a_hurry.set
        engine.close()


@pytest.fixture(scope="package")
def warm(chromium: Browser) -> Iterator[BrowserContext]:
    """One context for most tests: Gradio's hundreds of files are fetched once. A page load is a visitor of its own."""
    context = chromium.new_context(locale="en-US", color_scheme="light")
    yield context
    context.close()


@pytest.fixture
def visit(chromium: Browser, warm: BrowserContext, serve: Callable[..., str]) -> Iterator[Callable[..., Page]]:
    """Open a page as a new visitor; ``apart`` gives it a browser of its own, else it is one more tab of the same.

    Afterwards no page must have said anything in the console, or asked anybody else.
    """
    pages, contexts, complaints = [], [], []

    def open_page(url: str, width: int = 1400, height: int = 950, *, apart: bool = False) -> Page:
        if apart:
            contexts.append(chromium.new_context(locale="en-US", color_scheme="light"))
        page = (contexts[-1] if apart else warm).new_page()
        pages.append(page)
        page.set_viewport_size({"width": width, "height": height})
        page.on("pageerror", lambda error: complaints.append(f"script error: {error}"))
        page.on("console", lambda message: complaints.append(message.text) if _is_complaint(message) else None)
        page.on("request", lambda request: complaints.append(request.url) if _leaves(request.url, url) else None)
        page.goto(url)
        expect(page.locator("#chips .chip").first).to_be_visible(timeout=30_000)
        return page

    yield open_page
    for opened in (*pages, *contexts):
        opened.close()
    assert complaints == []


def _is_complaint(message) -> bool:
    return message.type in ("error", "warning") and not any(word in message.text for word in NOT_OURS)


def _leaves(requested: str, url: str) -> bool:
    return not requested.startswith((url.rstrip("/"), "data:", "blob:"))


@pytest.fixture
def page(visit: Callable[..., Page], live_app: LiveApp) -> Page:
    """The Playground in the real app."""
    return visit(live_app.url)


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveApp]:
    """The real app for two people, with a history that a module's tests have for themselves."""
    options = ("--auth", "anna:a secret of hers", "--auth", "bert:a secret of his")
    with started_app(tmp_path_factory.mktemp("house"), *options) as app:
        yield app


@pytest.fixture(scope="session")
def endless_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The starter with another end token, one it never writes: its answers run to their limit."""
    folder = tmp_path_factory.mktemp("models") / "endless"
    shutil.copytree(ROOT / "assets" / "models" / "starter", folder)
    for name, changes in (
        ("config.json", {"eos_token_id": 0}),
        ("generation_config.json", {"eos_token_id": 0}),
        ("tokenizer_config.json", {"eos_token": "<|endoftext|>"}),
    ):
        content = json.loads((folder / name).read_text(encoding="utf-8")) | changes
        (folder / name).write_text(json.dumps(content), encoding="utf-8")
    return folder


def choose(page: Page, field: str, label: str) -> None:
    """Pick an entry from a dropdown's list."""
    page.locator(f"#{field} input").click()
    page.locator(f'li[role="option"][aria-label="{label}"]').click()  # the list's filters have options as well


def fill(page: Page, **settings: object) -> None:
    """Type values into the settings' fields, and wait until the panel has taken them."""
    for name, value in settings.items():
        field = page.locator(f"#setting-{name} :is(input[type=number], input[type=text], textarea)").first
        field.fill(str(value))
        field.press("Tab")
        expect(page.locator(f".undo[data-knob={name}]")).to_be_visible()


def provenance(page: Page) -> dict[str, Any]:
    """What the stats line copies."""
    copied: dict[str, Any] = json.loads(page.locator("button.stats").first.get_attribute("data-copy") or "")
    return copied


def wait_until(condition: Callable[[], bool], page: Page | None = None, limit_s: float = 30.0) -> float:
    """The seconds until ``condition`` holds. ``page`` keeps the browser's events going meanwhile."""
    started = time.monotonic()
    while not condition():
        assert time.monotonic() - started < limit_s, "it never happened"
        page.wait_for_timeout(10) if page else time.sleep(0.01)
    return time.monotonic() - started


def ask(page: Page, prompt: str) -> None:
    """Write a prompt and press Generate."""
    page.locator("#prompt textarea").fill(prompt)
    generate(page)


def generate(page: Page) -> None:
    """Press Generate; the line under an earlier answer is taken away first, so that `finished` waits for the new one."""
    page.evaluate("document.querySelectorAll('button.stats').forEach(line => line.remove())")
    page.locator("#generate").click()


def begin_new(page: Page) -> None:
    """Leave the open conversation: what is asked next is sent without it."""
    page.locator("#continues button").click()
    expect(page.locator("#continues .continues")).to_have_text("Begins a new conversation.")


def finished(page: Page) -> str:
    """Wait for the answer's end; its exact text."""
    expect(page.locator("button.stats").first).to_be_visible(timeout=ANSWER_LIMIT_MS)
    expect(page.locator("#generate")).to_be_visible()
    return page.locator("#answer-text").inner_text().strip()
