"""Stopping, leaving and pressing twice, seen from the browser and from inside the engine at once."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from playground.config import ModelEntry, load_config
from playground.local_inference import LocalInference
from tests.browser.conftest import ANSWER_LIMIT_MS, ask, choose, fill, finished, unhurried, wait_until
from tests.conftest import started_app
from tests.ui.fake_engine import FakeEngine

pytestmark = [
    pytest.mark.browser,
    pytest.mark.filterwarnings("ignore"),
]  # the libraries' own warnings, in this process


STEP_S = 0.1  # 960 tokens last for 96 s
PROMPTLY_S = 5.0  # half a second on a machine of one's own; the answers would go on for twenty times as long


def start_long_answer(page: Page, engine: LocalInference) -> None:
    """Four answers of 960 tokens at once, seen to be growing."""
    fill(page, max_new_tokens=960, num_return_sequences=4)
    ask(page, "Write a very long story about a cat.")
    expect(page.locator('.answer-status[data-state="streaming"]')).to_be_visible(timeout=ANSWER_LIMIT_MS)
    assert engine.activity()[0] == 4


@pytest.fixture
def hosted(serve, endless_model: Path) -> Iterator[tuple[str, LocalInference]]:
    """The pages over a real engine, which the test can ask what it is doing; the model's answers are long."""
    config = replace(load_config(), models={"endless": ModelEntry("endless", str(endless_model))})
    with unhurried(STEP_S) as (engine, _):
        yield serve(engine, config), engine


def test_stop_leaves_the_text_says_stopped_and_idles_the_engine_at_once(visit, hosted):
    """P2, P6, G6: Stop; what was written is kept; the page then answers again."""
    url, engine = hosted
    page = visit(url)
    start_long_answer(page, engine)
    page.locator("#stop").click()
    assert wait_until(lambda: engine.activity() == (0, 0), page) < PROMPTLY_S
    expect(page.locator("button.stats").first).to_contain_text("stopped")
    expect(page.locator("#continues")).to_contain_text("(2 messages)")
    text = page.locator("#answer-text").inner_text()
    assert text.strip()
    page.wait_for_timeout(400)
    assert page.locator("#answer-text").inner_text() == text
    page.locator("#setting-max_new_tokens input").fill("5")
    ask(page, "Hello!")
    expect(page.locator("button.stats").first).to_contain_text("5 tokens")


@pytest.mark.long
def test_a_closed_tab_stops_its_answer(visit, hosted):
    """G6: nobody reads it any more, so nobody computes it any more."""
    url, engine = hosted
    page = visit(url)
    start_long_answer(page, engine)
    page.close()
    assert wait_until(lambda: engine.activity() == (0, 0)) < PROMPTLY_S


@pytest.mark.long
def test_escape_stops_only_the_answer_of_the_one_who_pressed_it(visit, hosted):
    """P2, G6: Escape; two visitors neither see nor stop each other's answers."""
    url, engine = hosted
    one, other = visit(url), visit(url)
    start_long_answer(one, engine)
    other.locator("#reset").click()
    other.locator("#prompt textarea").press("Escape")
    expect(other.locator("#answer-status")).to_contain_text("cleared")
    expect(other.locator("#generate")).to_be_visible()
    assert engine.activity()[0] == 4
    one.keyboard.press("Escape")
    assert wait_until(lambda: engine.activity() == (0, 0), one) < PROMPTLY_S
    expect(one.locator("button.stats").first).to_contain_text("stopped")


@pytest.mark.long
def test_a_reset_or_stop_while_text_comes_is_the_last_word(visit, serve):
    """P2: updates that are on their way to the page do not bring back what was cleared, nor a caret."""
    engine = FakeEngine("word " * 900, pause=0.1)  # 90 s, unless it is stopped
    page = visit(serve(engine))
    fill(page, max_new_tokens=900)
    streaming = page.locator('.answer-status[data-state="streaming"]')
    for button, said in (("reset", "Prompt and answer cleared"), ("stop", "stopped")) * 2:
        ask(page, "Hello!")
        expect(streaming).to_be_visible()
        page.wait_for_timeout(150)
        page.locator(f"#{button}").click()
        page.wait_for_timeout(400)
        expect(page.locator("#answer-status")).to_contain_text(said)
        expect(page.locator("#generate")).to_be_visible()
        expect(page.locator("#answer-text")).to_contain_text("Pick an example" if button == "reset" else "word word")
        assert streaming.count() == 0
    page.locator("#prompt textarea").fill("Hello!")
    for key in ("Control+Enter", "Escape"):  # before there is a Stop button
        page.keyboard.press(key)
    expect(page.locator("button.stats")).to_contain_text("stopped")
    expect(page.locator("#generate")).to_be_visible()
    wait_until(lambda: engine.running == 0, page)


@pytest.mark.long
def test_a_double_click_starts_one_answer(visit, serve):
    """P2: Generate cannot be started twice."""
    engine = FakeEngine("word " * 20, pause=0.02)
    page = visit(serve(engine))
    page.locator("#prompt textarea").fill("Hello!")
    page.locator("#generate").dblclick()
    page.keyboard.press("Control+Enter")
    finished(page)
    assert len(engine.requests) == 1


HOSTILE = """<script>window.hacked = 1</script><img src="http://evil.example/a.png" onerror="window.hacked = 2">
<style>body { display: none }</style><div style="position:fixed;inset:0;background:red" class="cover">cover</div>
![picture](http://evil.example/b.png) ![ref]

[ref]: http://evil.example/c.png
`<img src=x onerror="window.hacked = 3">` \\`<img src=x onerror="window.hacked = 4">\\`
<iframe src="http://evil.example/d"></iframe><form action="http://evil.example"><button>Sign in</button></form>
```mermaid
graph TD; A["<img src=x onerror='window.hacked = 5'>"] --> B
```
```html
<img src=x onerror="window.hacked = 6">
```
${window.hacked = 7} {{constructor.constructor("window.hacked = 8")()}} [link](javascript:window.hacked=9)

    <img src=x onerror="window.hacked = 10">
The end."""


@pytest.mark.long
def test_a_hostile_answer_neither_scripts_nor_restyles_nor_fetches(visit, serve):
    """S3: what a model writes is shown, never obeyed; `visit` also fails the test for any request to another host."""
    engine = FakeEngine(HOSTILE, pause=0.003)
    page = visit(serve(engine))
    ask(page, HOSTILE)
    finished(page)
    expect(page.locator("#answer-text")).to_contain_text("<script>window.hacked = 1</script>")
    expect(page.locator("#answer-text")).to_contain_text("The end.")
    page.get_by_role("button", name="Rendered prompt").click()
    expect(page.locator("pre.rendered")).to_contain_text("${window.hacked = 7}")
    page.wait_for_timeout(200)
    assert page.evaluate("window.hacked") is None
    assert page.locator("#answer-text :is(img, style, iframe, form, script, .cover)").count() == 0
    page.get_by_role("tab", name="Raw").click()
    expect(page.locator("#answer-raw textarea")).to_have_value(HOSTILE)


@pytest.mark.long
def test_an_adapter_without_effect_turns_its_chip_red(visit, serve):
    """P1: a no-op adapter is shouted about, with the reason."""
    page = visit(serve(FakeEngine(noop=True)))
    choose(page, "adapter", "pirate")
    ask(page, "Hello!")
    finished(page)
    expect(page.locator(".chip[data-state=bad]")).to_contain_text("pirate")
    expect(page.locator(".chip-reason")).to_contain_text("This adapter has no effect")


@pytest.mark.long
def test_the_page_does_not_scroll_away_from_someone_who_scrolled_up(visit, serve):
    """P3: the answer follows its end only for those who are there."""
    lines = [f"Line\N{NO-BREAK SPACE}{number}" for number in range(1500)]  # each is one word: more than a minute
    page = visit(serve(FakeEngine(" \n\n".join(lines), pause=0.05)))
    ask(page, "Hello!")
    answer = page.locator("#answer-text .answer-text")
    wait_until(lambda: answer.evaluate("e => e.scrollTop") > 50, page)  # it follows
    answer.evaluate("e => { e.scrollTop = 0; e.dispatchEvent(new Event('scroll')) }")
    page.wait_for_timeout(250)
    expect(page.locator('.answer-status[data-state="streaming"]')).to_have_count(1)
    assert answer.evaluate("e => e.scrollTop") == 0
    page.locator("#stop").click()
    finished(page)


CONTRASTS = """() => {
    const rgb = (text) => text.match(/[\\d.]+/g).map(Number);
    const srgb = (text) => {  // color(srgb …) and rgb(…) alike
        const [r, g, b, a = 1] = rgb(text);
        return text.startsWith('color') ? [r * 255, g * 255, b * 255, a] : [r, g, b, a];
    };
    const light = ([r, g, b]) => {
        const [x, y, z] = [r, g, b].map(v => (v /= 255) <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
        return 0.2126 * x + 0.7152 * y + 0.0722 * z;
    };
    const behind = (element) => {
        for (let e = element; e; e = e.parentElement) {
            const color = srgb(getComputedStyle(e).backgroundColor);
            if (color[3] > 0.95) return color;
        }
        return [255, 255, 255];
    };
    const found = [];
    const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    while (walker.nextNode()) {
        const element = walker.currentNode.parentElement;
        const shown = element.checkVisibility({opacityProperty: true, visibilityProperty: true});
        if (!walker.currentNode.textContent.trim() || !shown) continue;
        const box = element.getBoundingClientRect();
        if (box.width < 2 || box.height < 2) continue;
        const [one, two] = [light(srgb(getComputedStyle(element).color)), light(behind(element))].sort((a, b) => b - a);
        const ratio = (one + 0.05) / (two + 0.05);
        const text = walker.currentNode.textContent.trim().slice(0, 40);
        if (ratio < 4.5) found.push(`${ratio.toFixed(2)} ${element.className || element.tagName}: ${text}`);
    }
    return found;
}"""


def hard_to_read(page: Page) -> list[str]:
    """Texts whose contrast is too low, once what is moving or fading has come to rest."""
    found: list[str] = []
    for _ in range(50):
        found = page.evaluate(CONTRASTS)
        if not found:
            break
        page.wait_for_timeout(100)
    return found


@pytest.mark.long
def test_every_text_has_enough_contrast_in_both_themes_and_the_choice_of_theme_is_kept(visit, serve):
    """P5 and the pages' look: AA (4.5 to 1), highlighted code and a red chip included; the switch is remembered."""
    code = "Here:\n\n```python\n@wraps\ndef add(a: int) -> str:\n    # note\n    return f'{a}' if True else None\n```\nDone."
    page = visit(serve(FakeEngine(code, noop=True)))
    choose(page, "adapter", "pirate")
    ask(page, "Hello!")
    finished(page)
    page.locator("#setting-temperature input[type=number]").fill("1")
    page.locator("#setting-temperature input[type=number]").press("Tab")
    expect(page.locator(".undo")).to_be_visible()
    expect(page.locator(".chip-reason")).to_be_visible()
    page.get_by_role("button", name="More").click()
    expect(page.locator("#setting-min_p")).to_be_visible()
    assert hard_to_read(page) == []
    page.get_by_role("button", name="Theme").click()
    expect(page.locator("body.dark")).to_be_attached()
    assert hard_to_read(page) == []
    page.reload()
    expect(page.locator("body.dark")).to_be_attached()
    page.get_by_role("button", name="Theme").click()
    expect(page.locator("body.dark")).to_have_count(0)


@pytest.mark.long
def test_a_page_is_told_that_its_answer_was_cut_off_by_a_stopping_server(
    chromium: Browser, endless_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """G5, A6: an answer that outlasts the drain ends on its page too, as the last thing that the server does."""
    monkeypatch.setenv("PLAYGROUND_DRAIN", "0.5")
    monkeypatch.setenv("PLAYGROUND_MODEL", str(endless_model))
    with started_app(tmp_path) as app:
        page = chromium.new_page(locale="en-US")
        page.goto(app.url)
        choose(page, "model", str(endless_model))
        expect(page.locator("#chips")).to_contain_text(endless_model.name)
        fill(page, max_new_tokens=960, num_return_sequences=4)
        ask(page, "Write a very long story about a cat.")
        expect(page.locator('.answer-status[data-state="streaming"]')).to_be_visible(timeout=ANSWER_LIMIT_MS)
        app.process.terminate()
        expect(page.locator("button.stats").first).to_contain_text("stopped")
        assert app.process.wait(20) == 0
        page.close()
