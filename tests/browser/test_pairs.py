"""The list of pairs in a real browser: where it scrolls to, what stays in its place, and that hostile texts stay texts."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import gradio as gr
import pytest
from playwright.sync_api import Browser, Page, expect

from playground.conversation import Conversation, Reply, Turn
from playground.types import GenerationEvent, GenerationRequest, ModelSpec, Status
from playground.ui.bubbles import Writing
from playground.ui.pairs import Pairs
from playground.ui.theme import launch_options
from playground.ui.views.answer import Answer
from playground.ui.views.transcript import Scene
from playground.ui.wiring import LONG

pytestmark = pytest.mark.long
SPEC = ModelSpec("starter", (("pirate", 1.0),))
TEXT = "Ahoy there, the sea be **wide**.\n\n- one\n- two\n\nAnd that be all, matey."
HOSTILE = (
    "${document.title='owned'}</textarea><script>document.title='owned'</script>"
    "<img src=http://192.0.2.1/x onerror=\"document.title='owned'\"> ![p](http://192.0.2.1/y.png)"
)


def talk(pairs: int, text: str = TEXT) -> Conversation:
    turns: list[Turn] = []
    for number in range(pairs):
        before = turns[-1].id if turns else ""
        turns.append(Turn(f"u{number}", before, "user", f"{text} {number}", 0.0, expected=f"{text}!"))
        turns.append(Turn(f"a{number}", f"u{number}", "assistant", text, 0.0, Reply(SPEC, "stop")))
    return Conversation("c", "me", 0, 0, turns=tuple(turns), leaf=turns[-1].id)


def shows(conversation: Conversation) -> gr.Blocks:
    """A page with the pairs of ``conversation`` alone, and two buttons: to begin a response, and to write one to its end."""
    pairs, parts = Pairs(), TEXT.split(" ")

    def begun() -> tuple[Writing, dict[Any, Any]]:
        writing = Writing(Answer(GenerationRequest(SPEC, "Next?"), "starter + pirate"))
        scene = Scene(leaf=conversation.leaf, pending="Next?", writing=True, expected="Ahoy, the sea be wide.")
        return writing, pairs.begins(conversation, scene, writing)

    def write() -> Iterator[dict[Any, Any]]:
        writing, updates = begun()
        yield updates
        for part in parts:
            writing.answer.fold(GenerationEvent(Status("generating"), f"{part} "))
            yield pairs.writes(writing)

    def end() -> dict[Any, Any]:
        asked = Turn("asked", conversation.leaf, "user", "Next?", 0.0, expected="Ahoy, the sea be wide.")
        answered = Turn("answered", "asked", "assistant", TEXT, 0.0, Reply(SPEC, "stop"))
        return pairs.draws(conversation.with_turns([asked, answered], 0.0))

    with gr.Blocks() as demo:
        pairs.render()
        for name, handler in (("write", write), ("end", end), ("again", lambda: pairs.draws(conversation))):
            gr.Button(name, elem_id=name).click(handler, None, pairs.outputs, **LONG)
        demo.load(lambda: pairs.draws(conversation), None, pairs.outputs)
    return demo


@pytest.fixture
def opened(chromium: Browser) -> Iterator[Callable[[Conversation], Page]]:
    demos, pages = [], []

    def start(conversation: Conversation) -> Page:
        demo = shows(conversation)
        with socket.socket() as one:
            one.bind(("127.0.0.1", 0))
            port = int(one.getsockname()[1])
        demo.launch(server_name="127.0.0.1", server_port=port, prevent_thread_lock=True, quiet=True, **launch_options())
        demos.append(demo)
        page = chromium.new_page(viewport={"width": 1100, "height": 800}, locale="en-US")
        pages.append(page)
        page.goto(str(demo.local_url))
        expect(page.locator("#pairs .pair").first).to_be_attached()
        return page

    yield start
    for page in pages:
        page.close()
    for demo in demos:
        demo.close(verbose=False)


def below(page: Page) -> int:
    """Pixels under what is seen of the list."""
    return int(page.locator("#pairs-scroll").evaluate("box => box.scrollHeight - box.scrollTop - box.clientHeight"))


def at_end(page: Page) -> None:
    page.wait_for_function(
        "(box => box.scrollHeight - box.scrollTop - box.clientHeight < 4)(document.querySelector('#pairs-scroll'))"
    )


def test_the_list_follows_its_newest_unless_somebody_scrolled_up(opened: Callable[[Conversation], Page]):
    """I5: it opens at the newest pair; who reads further up is left there, until the next response begins."""
    page = opened(talk(12))
    at_end(page)
    page.locator("#pairs-scroll").hover()
    page.mouse.wheel(0, -600)
    page.wait_for_function("document.querySelector('#pairs-scroll').scrollTop > 0")
    page.wait_for_timeout(300)
    here = below(page)
    assert here > 100
    page.locator("#again").click()
    page.wait_for_timeout(500)
    assert below(page) == here
    page.locator("#write").click()
    expect(page.locator("#pair-live-text")).to_contain_text("matey")
    at_end(page)


def test_a_response_stays_where_it_was_read_when_it_has_ended(opened: Callable[[Conversation], Page]):
    """I5: its figures and what differs come below and beside it; no line moves."""
    page = opened(talk(3))
    page.set_viewport_size({"width": 420, "height": 800})  # what was expected stands below, and grows
    page.locator("#write").click()
    line = page.locator("#pair-live-text li").first
    expect(page.locator("#pair-live-text")).to_contain_text("matey")
    expect(page.locator("#pair-live-expected")).to_contain_text("Compared when the response has ended.")
    at_end(page)
    written = line.bounding_box()
    page.locator("#end").click()
    expect(page.locator("[data-turn=asked] .match-mark")).to_contain_text("No match")
    page.wait_for_timeout(600)
    stored = page.locator("[data-turn=asked] .pair-response li").first.bounding_box()
    assert written is not None
    assert stored is not None
    assert abs(stored["y"] - written["y"]) <= 1
    assert abs(stored["x"] - written["x"]) <= 1


def test_a_fold_stays_as_it_was_left(opened: Callable[[Conversation], Page]):
    """I5: what is drawn anew is not opened or closed over somebody's reading."""
    page = opened(talk(2))
    fold = page.locator("[data-turn=u1] details.difference")
    expect(fold).to_have_attribute("open", "")
    fold.locator("summary").click()
    expect(fold).not_to_have_attribute("open", "")
    page.locator("#end").click()
    expect(page.locator("[data-turn=asked]")).to_be_attached()
    expect(fold).not_to_have_attribute("open", "")


def test_what_anybody_wrote_does_nothing_on_the_page(opened: Callable[[Conversation], Page]):
    """S3: in prompts, responses, expected answers, names and differences."""
    made = talk(1, HOSTILE)
    named = replace(made.turns[1], reply=Reply(ModelSpec(HOSTILE, ((HOSTILE, 1.0),)), "stop", notices=(HOSTILE,)))
    fetched: list[str] = []
    page = opened(replace(made, turns=(made.turns[0], named)))
    page.on("request", lambda request: fetched.append(request.url))
    page.reload()
    expect(page.locator("#pairs .pair")).to_contain_text("<script>")
    page.wait_for_timeout(500)
    assert page.title() != "owned"
    assert not [url for url in fetched if "192.0.2.1" in url]
    assert page.locator("#pairs-scroll :is(img, script, textarea)").count() == 0
