"""What a page is told of its listeners, so that it rests when nobody does anything."""

from __future__ import annotations

import gradio as gr
import pytest

from playground.config import AppConfig
from playground.services.assembly import Services
from playground.ui.app import build
from playground.ui.last_changes import apart
from tests.ui.fake_engine import FakeEngine

pytestmark = pytest.mark.anyio  # all of them: outside of a running loop Gradio makes one and never closes it


async def test_no_listener_that_waits_sends_an_event_to_others_again(config: AppConfig) -> None:
    """I2, R1: two of them on one event would set off each other for ever."""
    told = build(config, Services.over(FakeEngine(), config)).get_config_file()
    waiting = [one for one in told["dependencies"] if one["trigger_mode"] == "always_last" and one["backend_fn"]]
    assert waiting
    assert {event for one in waiting for event in one["targets"]} == {(None, "then")}


async def test_a_relay_listens_to_the_events_of_the_one_behind_it_and_is_on_its_page() -> None:
    """I2: nothing that happens is missed, and the listeners themselves stay as they are."""
    with gr.Blocks(analytics_enabled=False) as demo:
        one, other = gr.Textbox(), gr.Textbox()
        gr.on([one.change, demo.load], lambda: "", None, other, trigger_mode="always_last")
        other.submit(lambda: "", None, one)
    before = demo.get_config_file()
    relay, behind, alone = apart(before)["dependencies"]
    assert relay["targets"] == [(one._id, "change"), (demo._id, "load")]
    assert (relay["backend_fn"], relay["outputs"], relay["trigger_mode"]) == (False, [], "multiple")
    assert behind["trigger_after"] == relay["id"]
    assert alone == before["dependencies"][1]
    assert relay["id"] in apart(before)["page"][""]["dependencies"]
    assert len(before["dependencies"]) == 2
