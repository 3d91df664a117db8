"""The Playground tab in a real browser, with the real engine and the bundled starter model."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from playground.config import ModelEntry, load_config
from tests.browser.conftest import ANSWER_LIMIT_MS, ask, begin_new, choose, fill, finished, provenance, unhurried
from tests.ui.fake_engine import FakeEngine

pytestmark = pytest.mark.browser


RECORD = """() => {
    window.texts = []; window.times = []; window.lines = [];
    const answer = document.querySelector("#answer-text [data-testid=markdown]");
    const line = document.querySelector("#answer-status");
    new MutationObserver(() => {
        const text = answer.innerText.trim();
        if (text === window.texts.at(-1)) return;
        window.texts.push(text);
        window.times.push(performance.now());
    }).observe(answer, {childList: true, subtree: true, characterData: true});
    new MutationObserver(() => window.lines.push(line.innerText.trim()))
        .observe(line, {childList: true, subtree: true, characterData: true});
}"""


def test_example_click_then_generate_answers_without_load(page: Page):
    """P1, P2, P3: one click on an example and Generate; the model is loaded on the way, and the page says how far."""
    page.locator(".example").first.click()
    expect(page.locator("#prompt textarea")).not_to_have_value("")
    page.evaluate(RECORD)
    page.locator("#generate").click()
    assert finished(page)
    line = page.locator("button.stats").inner_text()
    assert re.search(
        r"\d+ tokens? · .*total [\d.]+ s · (ended by itself|cut at the token limit) · seed \d+ · starter", line
    )
    expect(page.locator("#loaded-models")).to_contain_text("starter")
    expect(page.locator(".chip").first).to_have_attribute("data-state", "ready")
    expect(page.locator("#status .dot")).to_have_attribute("data-phase", "idle")


def test_load_shows_progress_and_unload_says_what_came_back(page: Page):
    """P1: Load with progress, the list with memory, Unload."""
    page.locator("#load").click()
    expect(page.locator("#load-status")).to_contain_text("Ready: starter (base) answers now", timeout=ANSWER_LIMIT_MS)
    unload = page.locator(".unload")
    expect(unload).to_contain_text(re.compile(r"Unload, frees [\d.]+ [kMG]B"))
    unload.click()
    expect(page.locator("#load-status")).to_contain_text(re.compile(r"Unloaded starter: .* came back"))
    expect(page.locator("#loaded-models")).to_contain_text("Nothing in memory yet")
    expect(page.locator(".chip").first).to_have_attribute("data-state", "waiting")


@pytest.mark.long
def test_swapping_an_adapter_changes_who_answers_and_none_returns_to_the_base(page: Page):
    """P1: Swap Adapter keeps the base in memory; the page says at any moment which weights answer."""
    choose(page, "preset", "Deterministic")
    page.locator("#load").click()
    expect(page.locator("#load-status")).to_contain_text("answers now", timeout=ANSWER_LIMIT_MS)
    question = "What is the capital of France?"
    ask(page, question)
    base_answer = finished(page)
    assert provenance(page)["provenance"]["adapters"] == []

    begin_new(page)
    choose(page, "adapter", "pirate")
    page.locator("#swap").click()
    expect(page.locator("#load-status")).to_contain_text("Swapped: starter + pirate answers now")
    expect(page.locator(".chip").nth(1)).to_contain_text("pirate")
    expect(page.locator(".adapters")).to_contain_text("pirate")
    ask(page, question)
    expect(page.locator("button.stats")).to_contain_text("starter + pirate")
    assert finished(page) != base_answer
    assert provenance(page)["provenance"]["adapters"][0][0] == "pirate"

    begin_new(page)
    choose(page, "adapter", "none (base)")
    page.locator("#swap").click()
    expect(page.locator("#load-status")).to_contain_text("Swapped: starter (base) answers now")
    ask(page, question)
    expect(page.locator("button.stats")).to_contain_text("starter (base)")
    assert finished(page) == base_answer


@pytest.mark.parametrize(
    ("field", "typed", "said"),
    [("adapter", "no-such-adapter", "There is no adapter"), ("model", "no-such-model", "There is no model")],
)
def test_a_wrong_name_is_refused_in_one_sentence_and_never_answered_by_the_base(page: Page, field, typed, said):
    """P1: a mistyped id gives the sentence and its remedy in a toast, the status line and a red chip; no answer."""
    page.locator(f"#{field} input").fill(typed)
    ask(page, "Hello!")
    expect(page.locator("#answer-status")).to_contain_text(said)
    expect(page.locator("#answer-status")).to_contain_text("Offered:")
    expect(page.locator(".toast-body")).to_contain_text(said)
    expect(page.locator(".chip[data-state=bad]")).to_be_visible()
    expect(page.locator("#answer-status")).not_to_contain_text("Traceback")
    expect(page.locator("button.stats")).to_have_count(0)
    expect(page.locator("#generate")).to_be_visible()


def test_empty_and_overlong_prompts_are_refused_with_their_remedy(page: Page):
    """P2, G7: an empty prompt, and one over the context; the counter says so while typing."""
    ask(page, "   ")
    expect(page.locator("#answer-status")).to_contain_text("The prompt is empty. Write something, or pick an example.")
    page.locator("#load").click()
    expect(page.locator("#load-status")).to_contain_text("answers now", timeout=ANSWER_LIMIT_MS)
    ask(page, "many words " * 2000)
    expect(page.locator("#answer-status .error-line")).to_contain_text("token")
    expect(page.locator("#counter")).to_contain_text("too long for this model")


def test_counts_and_preview_follow_what_is_typed_and_which_template_is_chosen(page: Page):
    """P2, G7: characters, tokens, share of the context; the preview shows the prompt as it is sent."""
    page.locator("#load").click()
    expect(page.locator("#load-status")).to_contain_text("answers now", timeout=ANSWER_LIMIT_MS)
    page.locator("#prompt textarea").fill("The sea is wide.")
    expect(page.locator("#counter")).to_contain_text(re.compile(r"16 characters · \d+ tokens · .* of the context"))
    page.get_by_role("button", name="Rendered prompt").click()
    expect(page.locator("pre.rendered")).to_contain_text("<|im_start|>user")
    page.get_by_text("Raw", exact=True).first.click()
    expect(page.locator("pre.rendered")).to_have_text("The sea is wide.")
    expect(page.locator("pre.ids")).to_contain_text(re.compile(r"^\d+( \d+)*$"))
    choose(page, "preset", "Deterministic")
    page.locator("#generate").click()
    finished(page)
    made = provenance(page)
    assert (made["request"]["template"], made["provenance"]["template"]) == ("raw", "raw")


def test_the_keyboard_generates_and_shows_its_list(page: Page):
    """P2: Ctrl+Enter generates, Ctrl+/ shows the list, Escape closes it."""
    page.keyboard.press("Control+/")
    expect(page.locator("#shortcuts")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.locator("#shortcuts")).to_be_hidden()
    page.locator("#prompt textarea").fill("Hello!")
    page.keyboard.press("Control+Enter")
    assert finished(page)


@pytest.fixture
def slow_page(visit: Callable[..., Page], serve: Callable[..., str]) -> Iterator[Page]:
    """The pages over an engine that takes its time for each step."""
    with unhurried(0.03) as (engine, _):
        yield visit(serve(engine))


@pytest.mark.long
def test_without_streaming_the_answer_appears_whole_while_the_status_lives(slow_page: Page):
    """P3: the streaming toggle."""
    page = slow_page
    page.get_by_label("Stream the answer").uncheck()
    page.evaluate(RECORD)
    ask(page, "Write a short story about a cat.")
    answer = finished(page)
    assert page.evaluate("window.texts") in (["", answer], [answer])
    assert any("tokens ·" in line and "ended" not in line for line in page.evaluate("window.lines"))


@pytest.mark.long
def test_with_streaming_the_answer_grows_and_never_more_often_than_every_50_ms(slow_page: Page):
    """P3: text deltas reach the page one after another, coalesced."""
    page = slow_page
    page.evaluate(RECORD)
    ask(page, "Write a short story about a cat.")
    answer = finished(page)
    texts, times = page.evaluate("window.texts"), page.evaluate("window.times")
    assert texts[-1] == answer
    assert len(texts) > 3
    assert len(times) < (times[-1] - times[0]) / 40 + 6


@pytest.mark.long
def test_several_answers_are_shown_one_under_another(page: Page):
    """P4, G3: num_return_sequences; each answer has its own figures."""
    page.locator("#setting-num_return_sequences input[type=number]").fill("2")
    page.locator("#setting-num_return_sequences input[type=number]").press("Tab")
    expect(page.locator("#settings")).to_contain_text("changed")
    ask(page, "Write a short poem about the sea.")
    expect(page.locator("button.stats")).to_have_count(2, timeout=ANSWER_LIMIT_MS)
    expect(page.locator("#answer-text")).to_contain_text("Answer 1")
    expect(page.locator("#answer-text")).to_contain_text("Answer 2")


@pytest.mark.long
def test_changed_settings_are_marked_and_lead_back_to_the_preset(page: Page):
    """P4: the preset's name, "changed", the marks, the way back; a strategy shows what it uses."""
    heading = page.locator("#settings > .label-wrap")
    choose(page, "preset", "Balanced")
    expect(heading).to_contain_text("Settings · Balanced")
    temperature = page.locator("#setting-temperature input[type=number]")
    expect(temperature).to_have_value("0.7")
    temperature.fill("1.2")
    temperature.press("Tab")
    expect(heading).to_contain_text("Balanced, changed")
    expect(page.locator("#setting-temperature")).to_have_class(re.compile(r"\bchanged\b"))
    page.locator(".undo").first.click()
    expect(temperature).to_have_value("0.7")
    expect(heading).not_to_contain_text("changed")
    page.locator("#setting-max_new_tokens input").fill("0")
    ask(page, "Hello!")
    expect(page.locator("#answer-status .error-line")).to_contain_text("max_new_tokens is 0. It must be at least 1.")
    choose(page, "setting-strategy", "Beam search")
    expect(page.locator("#setting-num_beams")).to_be_visible()
    expect(page.locator("#setting-temperature")).to_have_count(0)
    choose(page, "preset", "Creative")
    expect(page.locator("#setting-temperature input[type=number]")).to_have_value("1")


@pytest.mark.long
def test_settings_reach_the_engine_as_they_are_shown(page: Page):
    """P4, G4: what the panel says is what provenance reports; the same seed gives the same answer."""
    choose(page, "preset", "Balanced")
    expect(page.locator("#settings > .label-wrap")).to_contain_text("Settings · Balanced")
    expect(page.locator("#setting-max_new_tokens input")).to_have_value("256")
    page.locator("#setting-max_new_tokens input").fill("12")
    expect(page.locator("#setting-max_new_tokens")).to_have_class(re.compile(r"\bchanged\b"))
    page.locator("#setting-seed input, #setting-seed textarea").fill("9007199254740993")
    page.locator("#setting-seed input, #setting-seed textarea").press("Tab")
    ask(page, "Write a short story about a cat.")
    first = finished(page)
    made = provenance(page)["provenance"]
    assert made["seed"] == 9007199254740993
    assert made["settings"]["max_new_tokens"] == 12
    assert made["settings"]["temperature"] == 0.7
    ready = page.locator("#try-again")
    expect(ready).to_be_enabled()
    page.evaluate("document.querySelectorAll('button.stats').forEach(line => line.remove())")
    ready.click()
    assert finished(page) == first


def test_a_code_answer_lands_highlighted_and_raw_is_exact(page: Page):
    """P5: the Code Generation use case; Raw shows the very text, and Copy copies it."""
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    choose(page, "use-case", "Code Generation")
    expect(page.locator(".example").first).to_contain_text("Python")
    page.locator(".example").first.click()
    page.locator("#generate").click()
    finished(page)
    expect(page.locator("#answer-text pre code .token").first).to_be_visible()
    exact = provenance(page)["text"]
    page.get_by_role("tab", name="Raw").click()
    expect(page.locator("#answer-raw textarea")).to_have_value(exact)
    page.locator("#copy").click()
    expect(page.locator("#copied-note")).to_have_text("Answer copied")
    assert page.evaluate("navigator.clipboard.readText()") == exact


def test_reset_clears_and_undo_brings_both_back_and_the_conversation_stays(page: Page):
    """P2, P6: Reset says what it did and can be undone; what is kept is kept."""
    ask(page, "Hello!")
    answer = finished(page)
    expect(page.locator("#continues")).to_contain_text("Continues “Hello!” (2 messages)")
    page.locator("#prompt textarea").fill("Hello!")
    page.locator("#reset").click()
    expect(page.locator("#prompt textarea")).to_have_value("")
    expect(page.locator("#answer-status")).to_contain_text("Prompt and answer cleared")
    expect(page.locator("#continues")).to_contain_text("Continues “Hello!” (2 messages)")
    page.locator("#undo-reset").click()
    expect(page.locator("#prompt textarea")).to_have_value("Hello!")
    expect(page.locator("#answer-text")).to_contain_text(answer[:20])


@pytest.mark.long
def test_two_visitors_neither_see_nor_stop_each_other(visit, live_app):
    """P1, P2: prompt, choice and answer belong to one visitor."""
    one, other = visit(live_app.url), visit(live_app.url)
    choose(one, "adapter", "pirate")
    ask(one, "Hello!")
    ask(other, "What is the capital of France?")
    finished(one), finished(other)
    assert provenance(one)["provenance"]["adapters"][0][0] == "pirate"
    assert provenance(other)["provenance"]["adapters"] == []
    assert [said["content"] for said in provenance(other)["request"]["messages"]] == ["What is the capital of France?"]
    expect(one.locator("#continues")).to_contain_text("“Hello!”")
    for page, draft in ((one, "Mine"), (other, "What is the capital of France?")):
        expect(page.locator("#prompt textarea")).to_have_value("")
        page.locator("#prompt textarea").fill(draft)
    one.locator("#reset").click()
    expect(one.locator("#prompt textarea")).to_have_value("")
    expect(other.locator("#prompt textarea")).to_have_value("What is the capital of France?")


@pytest.mark.long
def test_what_is_asked_goes_on_with_the_conversation_until_a_new_one_is_begun(page: Page):
    """P6: the chat template sends what was said before, and says so; the prompt clears, and Arrow up brings it back."""
    prompt, line = page.locator("#prompt textarea"), page.locator("#continues")
    ask(page, "What is the capital of France?")
    first = finished(page)
    expect(line).to_contain_text("Continues “What is the capital of France?” (2 messages)")
    expect(prompt).to_have_value("")
    prompt.press("ArrowUp")
    expect(prompt).to_have_value("What is the capital of France?")
    ask(page, "Hello!")
    finished(page)
    sent = [said["content"] for said in provenance(page)["request"]["messages"]]
    assert sent == ["What is the capital of France?", first, "Hello!"]
    expect(page.locator("#said-here > .label-wrap")).to_contain_text("This conversation · 4 messages")
    page.get_by_text("Instruction", exact=True).first.click()
    expect(line).to_contain_text("Sent alone, kept in “What is the capital of France?” (4 messages)")
    ask(page, "Who are you?")
    finished(page)
    assert [said["content"] for said in provenance(page)["request"]["messages"]] == ["Who are you?"]
    expect(line).to_contain_text("(6 messages)")
    expect(prompt).to_have_value("Who are you?")
    begin_new(page)
    expect(page.locator("#answer-text")).to_contain_text("Pick an example")
    expect(page.locator("button.stats")).to_have_count(0)


@pytest.mark.long
def test_a_conversation_that_is_opened_again_shows_its_last_answer_with_its_figures(page: Page):
    """P6, G10: by a click in the list; what made it is known, and running it again gives the same."""
    fill(page, system_prompt="Be kind.")
    choose(page, "use-case", "Question Answering")
    ask(page, "What is a contract?")
    answer = finished(page)
    expect(page.locator("#continues")).to_contain_text("What is a contract?")
    figures, made = page.locator("button.stats").inner_text(), provenance(page)
    begin_new(page)
    page.locator(".undo[data-knob=system_prompt]").click()
    choose(page, "use-case", "Chatbot")
    page.locator("#sidebar-list").get_by_text("What is a contract?").first.click()
    expect(page.locator("#answer-text")).to_have_text(answer)
    expect(page.locator("button.stats")).to_have_text(figures)
    expect(page.locator("#use-case input")).to_have_value("Question Answering")
    expect(page.locator("#setting-system_prompt textarea")).to_have_value("Be kind.")
    kept = provenance(page)
    assert {**kept, "request": None} == {**made, "request": None}
    page.locator("button.replay").click()
    expect(page.locator("#replay")).to_contain_text("Run again: identical.")


@pytest.fixture
def endless_page(visit: Callable[..., Page], serve: Callable[..., str], endless_model: Path) -> Iterator[Page]:
    """The pages over a model whose answers end at their limit, and an engine that takes its time for each step."""
    config = replace(load_config(), models={"endless": ModelEntry("endless", str(endless_model))})
    with unhurried(0.1) as (engine, _):
        yield visit(serve(engine, config))


@pytest.mark.long
def test_a_stopped_answer_keeps_its_part_and_says_so_also_after_a_reload(endless_page: Page):
    """P3, P6: workflow 3: watch the text come and its speed, stop early; the part is kept in the conversation, marked."""
    page = endless_page
    fill(page, max_new_tokens=400)
    ask(page, "Write a short story about a cat.")
    status = page.locator("#answer-status")
    expect(status).to_contain_text(re.compile(r"\d tokens · [\d.]+ tokens/s"), timeout=ANSWER_LIMIT_MS)
    page.locator("#stop").click()
    expect(page.locator("button.stats")).to_contain_text("stopped")
    expect(page.locator("#continues")).to_contain_text("(2 messages)")
    expect(page.locator("#prompt textarea")).to_have_value("")
    part = page.locator("#answer-text").inner_text().strip()  # what had come by then is shown once it is kept
    page.locator("#said-here > .label-wrap").click()
    kept = page.locator("#said-messages li").last
    expect(kept).to_contain_text("stopped")
    assert kept.locator(".text").inner_text().strip() == part
    page.reload()
    expect(page.locator("button.stats")).to_contain_text("stopped")
    assert page.locator("#answer-text").inner_text().strip() == part


@pytest.mark.long
def test_an_answer_goes_on_unseen_where_another_conversation_is_begun_meanwhile(endless_page: Page):
    """P6: nothing is lost by looking elsewhere; the new prompt is answered at once, and both are kept."""
    page = endless_page
    fill(page, max_new_tokens=60)
    ask(page, "Write a short story about a cat.")
    expect(page.locator('.answer-status[data-state="streaming"]')).to_be_visible(timeout=ANSWER_LIMIT_MS)
    page.locator("#sidebar-frame").get_by_text("New conversation").click()
    expect(page.locator("#answer-text")).to_contain_text("Pick an example")
    ask(page, "Hello!")
    finished(page)
    rows = page.locator("#sidebar-list")
    expect(rows).to_contain_text("Hello!")
    expect(rows).to_contain_text("Write a short story about a cat.")
    rows.get_by_text("Write a short story about a cat.").first.click()
    expect(page.locator("button.stats")).not_to_contain_text("stopped")


@pytest.mark.long
def test_what_was_on_its_way_to_the_page_does_not_come_after_the_conversation_was_left(visit, serve):
    """P6: New conversation at any moment of an answer: nothing of it stays, and Generate is free."""
    page = visit(serve(FakeEngine("word " * 60, pause=0.05)))
    press_both = "document.querySelector('#generate').click(); setTimeout(() => document.querySelector(%r).click(), %d)"
    for number, wait_ms in enumerate((0, 15, 60, 200, 700)):
        page.locator("#prompt textarea").fill(f"Question {number}")
        page.evaluate(press_both % ("#conversations .new", wait_ms))
        expect(page.locator("#sidebar-list")).to_contain_text(f"Question {number}")  # it went on unseen, and is kept
        expect(page.locator("#generate")).to_be_visible()
        expect(page.locator("#answer-text")).to_contain_text("Pick an example")
        expect(page.locator("#continues")).to_contain_text("Begins a new conversation")


@pytest.mark.long
def test_a_failed_turn_leaves_the_conversation_and_the_prompt_as_they_were(page: Page):
    """I6, P6: the sentence says why; nothing of it is kept, and the prompt can be sent again."""
    ask(page, "Hello!")
    finished(page)
    expect(page.locator("#continues")).to_contain_text("(2 messages)")
    page.locator("#adapter input").fill("no-such-adapter")
    ask(page, "Are you there?")
    expect(page.locator("#answer-status .error-line")).to_contain_text("There is no adapter")
    expect(page.locator("#continues")).to_contain_text("(2 messages)")
    expect(page.locator("#prompt textarea")).to_have_value("Are you there?")


@pytest.mark.long
def test_a_preset_of_ones_own_is_saved_chosen_begun_with_and_deleted(page: Page):
    """P4: by name, with the system prompt; the page begins with it after a reload; Undo brings a deleted one back."""
    heading, said = page.locator("#settings > .label-wrap"), page.locator("#preset-said")
    fill(page, temperature=1.3, system_prompt="Be brief.")
    page.locator("#preset-save").click()
    for name, answer in (("Creative", "is a built-in preset"), ("Stormy", "Saved as “Stormy”.")):
        page.locator("#preset-name :is(input, textarea)").fill(name)
        page.keyboard.press("Enter")
        expect(said).to_contain_text(answer)
    expect(heading).to_have_text(re.compile("Settings · Stormy"))
    page.locator("#preset-first input").check()
    expect(said).to_contain_text("Your pages begin with “Stormy”")
    page.reload()
    expect(heading).to_contain_text("Settings · Stormy")
    expect(page.locator("#setting-system_prompt textarea")).to_have_value("Be brief.")
    choose(page, "preset", "Balanced")
    expect(page.locator("#preset-delete")).to_have_count(0)
    choose(page, "preset", "Stormy")
    expect(page.locator("#setting-temperature input[type=number]")).to_have_value("1.3")
    page.locator("#preset-delete").click()
    expect(heading).to_contain_text("Settings · Model's own, changed")
    page.locator("#preset-undo").click()
    expect(heading).to_contain_text("Settings · Stormy")
    page.locator("#preset-delete").click()  # for whoever uses this app after this test
    expect(said).to_contain_text("was deleted")


@pytest.mark.long
def test_a_phone_shows_everything_without_scrolling_sideways(visit, live_app):
    """P1: 390 px wide, everything in reach, nothing cut off."""
    page = visit(live_app.url, 390, 844)
    ask(page, "Hello!")
    finished(page)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    page.locator(".chip").nth(1).click()
    expect(page.locator("#adapter input")).to_be_in_viewport()
