"""Takes the pictures in assets/screenshots from the real app, with the system's Chromium.

python docs/screenshots.py
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

from playwright.sync_api import Page, expect, sync_playwright

ROOT = Path(__file__).resolve().parent.parent
PICTURES = ROOT / "assets" / "screenshots"
PORT = 7997
URL = f"http://127.0.0.1:{PORT}/"


def main() -> None:
    """Start the app, make one answer with an adapter, and photograph it."""
    PICTURES.mkdir(parents=True, exist_ok=True)
    data = tempfile.mkdtemp()
    app = subprocess.Popen([sys.executable, str(ROOT / "app.py"), "--port", str(PORT), "--data-dir", data, "--preload"])
    places = {f"{ROOT}/": "", data: "data"}
    try:
        wait_for(URL)
        with sync_playwright() as playwright:
            chromium = next(path for name in ("chromium", "google-chrome") if (path := shutil.which(name)))
            browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
            page = browser.new_page(viewport={"width": 1280, "height": 800}, locale="en-US")
            page.goto(URL)
            answer(page, "pirate", "What is the capital of France?")
            photograph(page, "playground.png", places)
            page.goto(URL)
            compare(page, "pirate")
            photograph(page, "inference.png", places)
            browser.close()
    finally:
        app.terminate()
        app.wait()


def answer(page: Page, adapter: str, prompt: str) -> None:
    """Ask ``prompt`` of the starter with ``adapter``, and wait for the end."""
    page.locator("#adapter input").click()
    page.get_by_role("option", name=adapter, exact=True).click()
    page.locator("#prompt textarea").fill(prompt)
    page.locator("#generate").click()
    expect(page.locator("#answer-status")).to_contain_text("tokens/s", timeout=60_000)
    expect(page.locator("#generate")).to_be_visible(timeout=60_000)
    page.mouse.move(0, 0)
    page.wait_for_timeout(3_500)  # the memory meter looks every few seconds


def compare(page: Page, run: str) -> None:
    """Ask a sample prompt of ``run`` on the Inference tab, and wait for the response beside the expected answer."""
    page.set_viewport_size({"width": 1560, "height": 1520})
    page.locator("[data-sidebar=new]").first.click()
    page.get_by_role("tab", name="Inference", exact=True).click()
    page.locator("#training-run input").click()
    page.locator(f'li[role="option"][aria-label^="{run} ·"]').click()
    expect(page.locator("#run-status")).to_contain_text("Adapter validated", timeout=60_000)
    expect(page.locator("#samples-line")).to_contain_text("drawn at random", timeout=60_000)
    page.locator("#sample-prompts input").click()
    page.locator('li[role="option"]').first.click()
    page.locator("#inference-generate").click()
    expect(page.locator("#pairs .match-mark")).to_be_visible(timeout=60_000)
    page.mouse.move(0, 0)
    page.wait_for_timeout(3_500)


def photograph(page: Page, name: str, places: dict[str, str]) -> None:
    """Take the picture ``name`` without the ``places`` of this machine: each is shown as what it stands for."""
    page.evaluate(
        """(places) => {
          const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
          while (texts.nextNode()) for (const [place, shown] of Object.entries(places))
            texts.currentNode.data = texts.currentNode.data.replaceAll(place, shown);
        }""",
        places,
    )
    page.evaluate("window.scrollTo(0, 0)")
    page.screenshot(path=PICTURES / name)


def wait_for(url: str) -> None:
    """Return once the app answers."""
    for _ in range(1200):
        try:
            urllib.request.urlopen(url).close()
            return
        except OSError:
            time.sleep(0.1)
    raise SystemExit(f"{url} did not answer within two minutes.")


if __name__ == "__main__":
    main()
