"""Full Chat in a real browser, with the real engine and the bundled starter model."""

from __future__ import annotations

import asyncio
import re
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Locator, Page, expect

from playground.config import load_config
from playground.services.assembly import Services
from playground.types import Caller, Status
from tests.browser.conftest import ANSWER_LIMIT_MS, choose, fill, unhurried, wait_until
from tests.conftest import LiveApp

pytestmark = pytest.mark.browser
FRANCE = "What is the capital of France?"
ME = Caller("local", "guest")
LIVE = "#live-text [data-testid=markdown]"  # without the clock that Gradio keeps beside it, unseen


def to_chat(page: Page) -> Page:
    page.get_by_role("tab", name="Full Chat").click()
    expect(page.locator("#chat-draft textarea")).to_be_visible()
    return page


def say(page: Page, message: str) -> None:
    page.locator("#chat-draft textarea").fill(message)
    page.locator("#chat-draft textarea").press("Enter")


def answers(page: Page) -> Locator:
    return page.locator("#bubbles .bubble[data-role=assistant]")


def answered(page: Page, count: int) -> Locator:
    """Wait until so many answers stand there and nothing is being written; the last one."""
    expect(answers(page)).to_have_count(count, timeout=ANSWER_LIMIT_MS)
    expect(page.locator("#chat-send")).to_be_visible(timeout=ANSWER_LIMIT_MS)
    return answers(page).last


def act(bubble: Locator, name: str) -> None:
    bubble.hover()
    bubble.locator(f'[data-act="{name}"]').first.click()


def said(bubble: Locator) -> str:
    return bubble.locator(".answer-like").inner_text().strip()


def at_end(page: Page) -> float:
    """How far the end of the bubbles is below what is seen, in pixels."""
    return float(page.evaluate("(() => { const box = document.getElementById('chat-scroll'); "
                               "return box.scrollHeight - box.scrollTop - box.clientHeight; })()"))  # fmt: skip


TOP = "document.getElementById('chat-scroll').scrollTop"


def standing_still(page: Page) -> float:
    """Where the bubbles stand once a scroll has come to its end, and still while more is being written."""
    before = -1.0
    while page.evaluate(TOP) != before:
        before = page.evaluate(TOP)
        page.wait_for_timeout(200)
    written = page.locator(LIVE).inner_text()
    if page.locator("#chat-stop").is_visible():
        wait_until(
            lambda: page.locator(LIVE).inner_text() != written or not page.locator("#chat-stop").is_visible(), page
        )
    assert page.evaluate(TOP) == before
    return before


def test_a_message_is_answered_versions_are_kept_and_the_view_covers_the_page(page: Page):
    """F1, I6: send, answer again, the arrows lead back; Full Chat View is the same conversation, Escape leaves it."""
    to_chat(page)
    choose(page, "preset", "Deterministic")
    say(page, FRANCE)
    bubble = answered(page, 1)
    expect(page.locator("#chat-draft textarea")).to_have_value("")
    text = said(bubble)
    act(bubble, "regenerate")
    expect(bubble.locator(".versions")).to_contain_text("2/2", timeout=ANSWER_LIMIT_MS)
    assert said(answered(page, 1)) == text
    bubble.press("ArrowLeft")
    expect(bubble.locator(".versions")).to_contain_text("1/2")
    page.get_by_role("button", name="Full Chat View").last.click()
    expect(page.locator("body.chat-view #bubbles .bubble-text")).to_have_text([FRANCE, text])
    page.keyboard.press("Escape")
    expect(page.locator("body.chat-view")).to_have_count(0)


@pytest.mark.long
def test_a_conversation_is_sent_regenerated_edited_continued_judged_and_comes_back(page: Page):
    """F1, I6: one conversation with everything that can be done in it; the reload brings it back."""
    to_chat(page)
    choose(page, "preset", "Deterministic")
    fill(page, max_new_tokens=4)
    say(page, FRANCE)
    expect(page.locator("#chat-draft textarea")).to_have_value("")
    bubble = answered(page, 1)
    expect(bubble.locator(".figures")).to_contain_text("cut at the limit")
    expect(bubble.locator(".who")).to_have_text("starter (base)")
    begun = said(bubble)

    act(bubble, "continue")
    expect(bubble.locator(".versions")).to_contain_text("2/2", timeout=ANSWER_LIMIT_MS)
    assert said(answered(page, 1)).startswith(begun)
    assert len(said(bubble)) > len(begun)
    bubble.press("ArrowLeft")
    expect(bubble.locator(".versions")).to_contain_text("1/2")
    assert said(bubble) == begun

    act(bubble, "regenerate")
    expect(bubble.locator(".versions")).to_contain_text("3/3", timeout=ANSWER_LIMIT_MS)
    answered(page, 1)
    act(bubble, "thumb")
    expect(bubble.locator('[aria-pressed="true"]')).to_have_count(1)

    question = page.locator("#bubbles .bubble[data-role=user]").first
    act(question, "edit")
    field = page.locator("#bubbles textarea")
    expect(field).to_be_focused()
    expect(field).to_have_value(FRANCE)
    field.fill("What is the capital of Italy?")
    page.get_by_role("button", name="Save and send").click()
    expect(question).to_contain_text("Italy", timeout=ANSWER_LIMIT_MS)
    expect(question.locator(".versions")).to_contain_text("2/2")
    answered(page, 1)

    page.locator("[data-chat-prefill]").click()
    page.locator("#chat-prefill :is(textarea, input)").fill("Ahoy, ")
    say(page, "And of Spain?")
    assert said(answered(page, 2)).startswith("Ahoy,")
    expect(page.locator("#chat-meter")).to_contain_text("% of the context")

    shown = page.locator("#bubbles .bubble-text").all_inner_texts()
    page.reload()
    to_chat(page)
    expect(page.locator("#bubbles .bubble-text")).to_have_text([re.compile(re.escape(text)) for text in shown])


@pytest.mark.long
def test_another_adapter_mid_conversation_is_seen_and_the_view_covers_the_page_and_goes(page: Page):
    """F1, I6: each bubble says who answered; the overlay is the same conversation, Escape leads back."""
    to_chat(page)
    choose(page, "preset", "Deterministic")
    say(page, FRANCE)
    plain = said(answered(page, 1))
    choose(page, "adapter", "pirate")
    expect(page.locator("#answers-next")).to_contain_text("starter + pirate")
    say(page, FRANCE)
    bubble = answered(page, 2)
    expect(bubble.locator(".who")).to_contain_text("starter + pirate")
    expect(bubble.locator(".changed-mark")).to_be_visible()
    assert said(bubble) != plain

    page.get_by_role("tab", name="Playground").click()
    expect(page.locator("#prompt textarea")).to_be_visible()
    page.locator("#answer-card [data-chat-view=open], #open-chat-view [data-chat-view=open]").first.click()
    view = page.get_by_role("dialog", name="Full Chat View")
    expect(view.locator(".bubble")).to_have_count(4)
    expect(page.locator("#chat-draft textarea")).to_be_focused()
    box = view.bounding_box()
    assert box is not None
    assert (box["x"], box["y"], box["width"], box["height"]) == (0, 0, 1400, 950)
    for _ in range(40):  # Tab never leaves it
        page.keyboard.press("Tab")
        assert page.evaluate("document.getElementById('chat').contains(document.activeElement)")
    page.keyboard.press("Escape")
    expect(page.locator("#prompt textarea")).to_be_visible()
    expect(page.locator("#chat")).not_to_be_visible()


@pytest.mark.long
def test_stop_keeps_what_was_written_and_a_failed_turn_gives_the_draft_back(visit, serve, endless_model: Path):
    """I6, P6, F1: Escape stops; the part is marked as stopped; a wrong model leaves the history as it was."""
    with unhurried(0.05) as (engine, _):
        page = to_chat(visit(serve(engine)))
        choose(page, "preset", "Balanced")  # another model leaves its values as they are
        page.locator("#model input").fill(str(endless_model))
        page.locator("#model input").press("Enter")
        fill(page, max_new_tokens=900)
        page.locator("#chat-draft textarea").fill("Tell me a story")
        page.locator("#chat-send").dblclick()  # the second click is not Stop's
        expect(page.locator(LIVE)).to_contain_text(re.compile(r"\w+ \w+"), timeout=ANSWER_LIMIT_MS)
        page.keyboard.press("Escape")
        bubble = answered(page, 1)
        expect(bubble.locator(".mark-stopped")).to_have_text("stopped")
        assert len(said(bubble).split()) >= 2
        expect(page.locator("#bubbles .bubble[data-role=user]")).to_have_count(1)

        page.locator("#model input").fill("no-such-model")
        page.locator("#model input").press("Enter")
        say(page, "Go on")
        expect(page.locator("#composer-line")).to_contain_text("There is no model")
        expect(page.locator(".toast-body")).to_contain_text("There is no model")
        expect(page.locator("#chat-draft textarea")).to_have_value("Go on")
        expect(page.locator("#bubbles .bubble")).to_have_count(2)


@pytest.mark.long
def test_on_a_phone_everything_is_in_reach_without_hovering(visit: Callable[..., Page], live_app):
    """F1: 390 px; actions are visible, nothing is wider than the page."""
    page = to_chat(visit(live_app.url, 390, 844))
    say(page, FRANCE)
    bubble = answered(page, 1)
    expect(bubble.locator(".acts")).to_have_css("opacity", "1")
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    for name in ("#chat-send", "#chat-draft", "#answers-next"):
        box = page.locator(name).bounding_box()
        assert box is not None
        assert box["x"] >= 0 and box["x"] + box["width"] <= 390  # noqa: PT018


@pytest.mark.long
def test_whoever_scrolled_up_is_left_alone_and_sending_leads_to_the_end(visit, serve):
    """F1: an answer that grows never takes the page away from a reader."""
    from tests.ui.fake_engine import FakeEngine

    page = to_chat(visit(serve(FakeEngine("word\n\n" + "more \n\n" * 100, pause=0.05), load_config())))
    page.locator("#chat-draft textarea").fill("line\n" * 60)
    page.locator("#chat-send").click()
    expect(page.locator(LIVE)).to_contain_text("more", timeout=ANSWER_LIMIT_MS)
    wait_until(lambda: at_end(page) < 32, page)
    page.locator("#chat-scroll").hover()
    page.mouse.wheel(0, -60)  # a small step is a wish as well
    there = standing_still(page)
    assert at_end(page) > 32
    page.mouse.wheel(0, -9000)
    there = standing_still(page)
    assert there < 100  # the wheel and the page's own last step may come in one frame
    answered(page, 1)
    assert page.evaluate(TOP) == there
    page.mouse.wheel(0, 99_000)
    wait_until(lambda: at_end(page) < 1, page)
    page.mouse.wheel(0, -300)
    standing_still(page)
    say(page, "More")
    wait_until(lambda: at_end(page) < 32, page)
    expect(page.locator(LIVE)).to_contain_text("more", timeout=ANSWER_LIMIT_MS)
    page.locator("#chat-scroll").focus()
    page.keyboard.press("PageUp")
    there = standing_still(page)
    assert at_end(page) > 32
    page.keyboard.press("Escape")
    answered(page, 2)
    assert page.evaluate(TOP) == there


@pytest.mark.long
def test_closing_the_page_mid_answer_keeps_what_was_written(visit, serve, endless_model: Path):
    """F1, P6: nobody is there to see it end, and it is in the list all the same, marked as stopped."""
    with unhurried(0.05) as (engine, _):
        services = Services.over(engine, load_config())
        page = to_chat(visit(serve(engine, services=services)))
        choose(page, "preset", "Balanced")
        page.locator("#model input").fill(str(endless_model))
        page.locator("#model input").press("Enter")
        fill(page, max_new_tokens=900)
        say(page, FRANCE)
        expect(page.locator(LIVE)).to_contain_text(re.compile(r"\w"), timeout=ANSWER_LIMIT_MS)
        page.close()
        history = services.history
        wait_until(lambda: history.find(ME).total == 1)
        kept = history.get(ME, history.find(ME).summaries[0].id)
        assert kept.path()[-1].stopped
        assert kept.path()[-1].content.strip()
        wait_until(lambda: engine.activity()[0] == 0)


HOSTILE = """<think>${document.title = 'owned'} <b>x</b>
</think>
<script>document.title='owned'</script> ${document.title='owned'} {{constructor}} `${document.title='owned'}`
<style>body{display:none}</style><img src=x onerror="document.title='owned'"> ![p](http://192.0.2.1/p.png)
[run](javascript:document.title='owned') <iframe src=//192.0.2.1></iframe> </div></article></textarea>

```html
</code></pre><script>document.title='owned'</script> ${document.title='owned'}
```
"""


@pytest.mark.long
def test_hostile_output_can_neither_script_nor_restyle_nor_fetch(visit, serve):
    """S3: an answer, a message, a title and a system prompt that try; while written, stored, edited, and drawn again."""
    from tests.ui.fake_engine import FakeEngine

    page = to_chat(visit(serve(FakeEngine(HOSTILE, pause=0.02), load_config())))
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    title = page.title()
    say(page, HOSTILE.replace("\n", " "))
    bubble = answered(page, 1)
    for _ in range(2):
        expect(bubble).to_contain_text("<script>")
        act(bubble, "edit")
        expect(page.locator("#bubbles textarea")).to_have_value(re.compile("iframe"))
        page.keyboard.press("Escape")
        expect(page.locator("#bubbles textarea")).to_have_count(0)
        act(page.locator("#bubbles .bubble").first, "branch")
        expect(page.locator("#bubbles .bubble")).to_have_count(1)
        page.locator("#conversations .conversation").nth(1).get_by_role("button").first.click()
        expect(page.locator("#bubbles .bubble")).to_have_count(2)
    bubble.locator("summary").click()
    foreign = (
        "#chat :is(script, style, img, iframe, link, object, embed), #bubbles [onerror], #bubbles [href^='javascript']"
    )
    assert page.locator(foreign).count() == 0
    assert page.title() == title
    assert page.locator("#topbar").is_visible()
    assert not [url for url in asked if "192.0.2.1" in url]


@pytest.mark.long
def test_what_is_asked_in_the_playground_is_seen_in_full_chat_and_clear_wipes_both(page: Page):
    """I6: one history; Clear can be undone."""
    page.locator("#prompt textarea").fill(FRANCE)
    page.locator("#generate").click()
    expect(page.locator("button.stats").first).to_be_visible(timeout=ANSWER_LIMIT_MS)
    to_chat(page)
    bubble = answered(page, 1)
    act(bubble, "provenance")
    expect(page.locator("#copied-note")).to_contain_text("Copied what made it")
    page.locator("#chat-clear").click()
    expect(page.locator("#bubbles .bubble")).to_have_count(0)
    expect(page.locator("#composer-line")).to_contain_text("Conversation deleted")
    page.locator("#chat-undo").click()
    expect(page.locator("#bubbles .bubble")).to_have_count(2)


JUMPS = (
    "Here is **bold**, `code` and https://a.example/b_c.\n\n- one\n- two\n  - three\n\n1. first\n\n   more of it\n"
    "2. second\n\n"
    "```python\nx = 1\n```\n\n|a|b|\n|-|:-:|\n|`1`|2|\n\n> quoted\n\n### Heading\n\n"
    + "long" * 60
    + "\n\n`"
    + "code" * 60
    + "`\n\n"
    "مرحبا **بالعالم**\n\n- שלום\n\nThe last words\nin two lines."
)
BLOCKS = """(place) => { // where each block of the text stands, and how large it is
    const all = document.querySelectorAll(place), text = all[all.length - 1], from = text.getBoundingClientRect();
    return [text, ...text.querySelectorAll("p, li, pre, td, th, h3, blockquote, a, :not(pre) > code")]
        .filter((one) => !one.closest(".code-head")).map((one) => {
            const at = one.getBoundingClientRect();
            return [one.tagName, ...[at.left - from.left, at.top - from.top, at.width, at.height].map(Math.round)];
        });
}"""


@pytest.mark.long
def test_nothing_jumps_when_an_answer_ends(visit, serve):
    """F1: every block of the live bubble stands where it stands in the stored one, on a phone as well."""
    from tests.ui.fake_engine import FakeEngine

    class Held(FakeEngine):
        """Writes all at once, and ends when it is told to."""

        async def _words(self, request):
            async for event in super()._words(request):
                while event.finish_reason and not done.is_set():
                    yield replace(event, status=Status("generating"), finish_reason=None)
                    await asyncio.sleep(0.1)
                yield event

    done = threading.Event()
    url = serve(Held(JUMPS), load_config())
    for width in (1400, 390):
        done.clear()
        page = to_chat(visit(url, width))
        say(page, "Show me")
        expect(page.locator(f"{LIVE} p").last).to_contain_text("in two lines", timeout=ANSWER_LIMIT_MS)
        page.wait_for_timeout(300)  # colours come late
        live = page.evaluate(BLOCKS, LIVE)
        done.set()
        answered(page, 1)
        assert len(live) > 20
        assert page.evaluate(BLOCKS, "#bubbles [data-role=assistant] .answer-like")[1:] == live[1:]


@pytest.mark.long
def test_two_people_in_full_chat_see_only_their_own(chromium: Browser, house: LiveApp):
    """F1, F2, S2: two browsers, two logins; a forged key opens nothing and writes nothing."""
    pages = {}
    for name, password in (("anna", "a secret of hers"), ("bert", "a secret of his")):
        page = pages[name] = chromium.new_context(locale="en-US").new_page()
        page.goto(house.url)
        page.get_by_label("User name").fill(name)
        page.get_by_label("Password").fill(password)
        page.get_by_label("Password").press("Enter")
        expect(page.locator("#chips .chip").first).to_be_visible()
        to_chat(page)
        say(page, f"This is {name}.")
        answered(page, 1)
    anna, bert = pages["anna"], pages["bert"]
    for page, mine, other in ((anna, "anna", "bert"), (bert, "bert", "anna")):
        expect(page.locator("#conversations .conversation")).to_have_count(1)
        assert f"This is {mine}." in page.content()
        assert f"This is {other}." not in page.content()
    key = anna.locator("#open-conversation textarea").input_value()
    bert.evaluate("key => sessionStorage.setItem('playground-open', key)", key)
    bert.reload()
    to_chat(bert)
    expect(bert.locator(".chat-empty")).to_be_visible()
    bert.evaluate("""key => { const field = document.querySelector('#open-conversation textarea');
        field.value = key; field.dispatchEvent(new Event('input', {bubbles: true})); }""", key)  # fmt: skip
    say(bert, "Let me in")
    expect(bert.locator("#open-conversation textarea")).not_to_have_value(key, timeout=ANSWER_LIMIT_MS)
    expect(bert.locator("#chat-send")).to_be_visible(timeout=ANSWER_LIMIT_MS)
    assert "This is anna." not in bert.content()
    anna.reload()
    to_chat(anna)
    expect(anna.locator("#bubbles .bubble")).to_have_count(2)
    for page in pages.values():
        page.context.close()


@pytest.mark.long
def test_a_first_answer_is_left_by_new_conversation_and_kept(visit, serve):
    """F1, I6: the page is empty at once and stays so; the answer is in the list when it has ended."""
    from tests.ui.fake_engine import FakeEngine

    page = to_chat(visit(serve(FakeEngine("word " * 60 + "end", pause=0.05), load_config())))
    say(page, "One")
    expect(page.locator(LIVE)).to_contain_text("word word", timeout=ANSWER_LIMIT_MS)
    page.get_by_role("button", name="New conversation").first.click()
    expect(page.locator(".chat-empty")).to_be_visible()
    expect(page.locator("#chat-send")).to_be_visible()
    expect(page.locator("#composer-line")).to_contain_text("goes on and is kept there")
    assert not page.locator("#live").is_visible()
    expect(page.locator("#conversations .conversation")).to_have_count(1, timeout=ANSWER_LIMIT_MS)
    expect(page.locator(".chat-empty")).to_be_visible()
    page.locator("#conversations .conversation .open").click()
    expect(answers(page).last).to_contain_text("word end")
