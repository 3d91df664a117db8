"""The list of pairs without a server: what it sends to the page while a response is written, and for its buttons."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import gradio as gr
import pytest

from playground.config import load_config
from playground.conversation import Conversation, Turn
from playground.services.assembly import Services
from playground.types import Caller, GenerationEvent, GenerationRequest, GenerationStats, ModelSpec, Status
from playground.ui.bubbles import Writing
from playground.ui.chosen_sample import ChosenSample
from playground.ui.opened import Open, Opened
from playground.ui.pairs import Pairs
from playground.ui.side_panel import SidePanel
from playground.ui.views.answer import Answer
from playground.ui.views.pairs import SHOWN_PAIRS
from playground.ui.views.samples import Chosen
from playground.ui.views.transcript import Scene
from tests.ui.fake_engine import FakeEngine

pytestmark = pytest.mark.anyio  # all of them: outside of a running loop Gradio makes one and never closes it
ME = Caller("guest one", "guest")


class List:
    """The pairs over a history of their own, with the fields that a sample fills."""

    def __init__(self) -> None:
        config = load_config()
        self.services = Services.over(FakeEngine(), config)
        side, opened = SidePanel(config, self.services), Opened(self.services.history)
        self.pairs, self.sample = Pairs(), ChosenSample(side)
        with gr.Blocks(analytics_enabled=False):
            opened.render()
            self.prompt = gr.Textbox()
            self.sample.render()
            self.pairs.render()
            side.render()
            self.sample.listen(self.prompt)
            self.pairs.listen(self.services.history, opened, self.prompt, self.sample)

    def talk(self, pairs: int) -> Conversation:
        turns: list[Turn] = []
        for number in range(2 * pairs):
            parent = turns[-1].id if turns else ""
            turns.append(Turn(f"t{number}", parent, ("user", "assistant")[number % 2], f"Text {number}.", 0.0))  # type: ignore[arg-type]
        return self.services.history.append(ME, "c", turns, begins=True)

    def used_again(self, value: Any, held: str = "", system: str = "") -> dict[Any, Any]:
        return self.pairs._again(gr.EventData(None, {"value": value}), held, system)


@pytest.fixture
async def shown() -> List:
    return List()


async def test_what_is_being_written_stands_under_the_list_until_it_is_stored(shown):
    """I5: first what it waits for, then its text with its reasoning folded, beside what is expected; then nothing."""
    pairs, made = shown.pairs, shown.talk(1)
    writing = Writing(Answer(GenerationRequest(ModelSpec("starter"), "Two?"), "starter + pirate"))
    writing.answer.fold(GenerationEvent(Status("loading", "reading weights", 0.4), stats=GenerationStats(elapsed_s=2)))
    begun = pairs.begins(made, Scene(leaf="t1", pending="Two?", writing=True, expected="Deux."), writing)
    assert "starter + <b>pirate</b>" in begun[pairs.head]
    assert "reading weights 40 %" in begun[pairs.head]
    assert begun[pairs.live] == ""
    assert "Deux." in begun[pairs.awaited]
    assert "Two?" in begun[pairs.stored]
    assert pairs.summary not in begun, "what was counted so far stays"
    writing.answer.fold(GenerationEvent(Status("generating"), "<think>Hm.</think>\nTwo <b>"))
    update = pairs.writes(writing)
    assert update[pairs.live] == "Two &lt;b>"
    assert "Hm." in update[pairs.head]
    assert pairs.awaited not in update, "it is not drawn anew with every word"
    assert all(pairs.draws(made)[part] == "" for part in (pairs.head, pairs.live, pairs.awaited))
    assert set(pairs.draws(made)) == set(pairs.outputs)


async def test_a_prompt_is_used_again_with_the_answer_that_was_expected_of_it(shown):
    """I4, I5: both come back as a sample does; one of which nothing was expected takes the last sample away."""
    back = shown.used_again({"prompt": "Greet", "expected": "Ahoy."})
    assert back[shown.prompt] == "Greet"
    chosen = Chosen.parse(back[shown.sample.sample])
    assert (chosen.prompt, chosen.expected, chosen.row) == ("Greet", "Ahoy.", -1)
    assert "asked before" in back[shown.sample.answer]
    alone = shown.used_again({"prompt": "Greet", "expected": ""}, held=chosen.text)
    assert (alone[shown.prompt], alone[shown.sample.sample]) == ("Greet", "")


@pytest.mark.parametrize("odd", [None, "text", [], {"prompt": 3, "expected": {}}])
async def test_a_page_may_send_anything(shown, odd):
    """S2: texts are taken, and nothing else."""
    assert shown.used_again(odd)[shown.prompt] == ""


async def test_the_earlier_pairs_are_shown_when_they_are_asked_for(shown):
    """I5: one click; what is gone meanwhile changes nothing."""
    made = shown.talk(SHOWN_PAIRS + 5)
    visitor = SimpleNamespace(session_hash="one")
    assert "Text 0." not in shown.pairs.draws(made)[shown.pairs.stored]
    everything = await shown.pairs._everything(visitor, Open("c", made.leaf, made.revision).key)
    assert "Text 0." in everything
    assert everything.count("<article") == SHOWN_PAIRS + 5
    for key in ("", Open("gone", "x", 1).key, "no key"):
        assert await shown.pairs._everything(visitor, key) == gr.skip()
