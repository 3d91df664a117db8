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
    command = [sys.executable, str(ROOT / "app.py"), "--port", str(PORT), "--data-dir", tempfile.mkdtemp(), "--preload"]
    app = subprocess.Popen(command)
    try:
        wait_for(URL)
        with sync_playwright() as playwright:
            chromium = next(path for name in ("chromium", "google-chrome") if (path := shutil.which(name)))
            browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
            page = browser.new_page(viewport={"width": 1280, "height": 800}, locale="en-US")
            page.goto(URL)
            answer(page, "pirate", "What is the capital of France?")
            page.screenshot(path=PICTURES / "playground.png")
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


def wait_for(url: str) -> None:
    """Return once the app answers."""
    for _ in range(300):
        try:
            urllib.request.urlopen(url).close()
            return
        except OSError:
            time.sleep(0.1)
    raise SystemExit(f"{url} did not answer within 30 s.")


if __name__ == "__main__":
    main()
