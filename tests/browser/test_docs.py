"""The API's documentation in a real browser."""

from __future__ import annotations

import pytest

pytestmark = pytest.mark.browser


@pytest.mark.long
def test_docs_work_with_the_network_closed(live_app, chromium):
    """A4, S4: with every other host cut off, trying a route out, and without a complaint in the console."""
    complaints: list[str] = []
    page = chromium.new_page(locale="en-US")
    page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("requestfailed", lambda request: complaints.append(request.url))
    page.route(lambda url: not url.startswith(live_app.url), lambda route: route.abort())
    page.goto(f"{live_app.url}/docs")
    page.get_by_text("Chat completion", exact=True).click()
    page.get_by_text("While nothing is written yet").wait_for()
    page.get_by_role("button", name="Try it out").click()
    page.get_by_role("button", name="Execute").click()
    page.locator(".live-responses-table .response-col_status").get_by_text("200").wait_for(timeout=60_000)
    page.close()
    assert complaints == []
