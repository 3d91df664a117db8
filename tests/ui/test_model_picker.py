"""The picker takes a model and an adapter together, and keeps them together until somebody chooses otherwise."""

from __future__ import annotations

import json
from typing import Any

import pytest

from playground.config import ROOT, AppConfig
from playground.ui import texts
from playground.ui.model_picker import ModelPicker
from playground.ui.views.weights import Choice
from tests.ui.fake_engine import FakeEngine
from tests.ui.page import Page

STEP_50 = "pirate-overfit/checkpoint-50"


pytestmark = pytest.mark.anyio  # as in test_app.py


def _sent(picker: ModelPicker, model: str, adapter: str) -> list[Any]:
    """What the fields get, in the order of ``taken``."""
    updates = picker.takes(model, adapter)
    assert set(updates) == set(picker.taken)
    return [updates[field] for field in picker.taken]


async def test_model_and_adapter_are_sent_with_a_note_that_they_belong_together(config: AppConfig) -> None:
    """I1: else the new model would drop the adapter that was chosen with it."""
    page = Page(FakeEngine(), config)
    model, adapter, pinned = _sent(page.side.picker, "starter", STEP_50)
    assert (model, adapter) == ("starter", STEP_50)
    assert json.loads(pinned) == ["starter", STEP_50]
    model, adapter, pinned = _sent(page.side.picker, "gpt2", " ")
    assert (model, adapter, json.loads(pinned)) == ("gpt2", texts.NO_ADAPTER, ["gpt2", texts.NO_ADAPTER])


async def test_the_server_never_says_which_adapter_is_chosen_for_a_model(config: AppConfig) -> None:
    """I1: its word on one model may come when the next one, with an adapter, was chosen already."""
    page = Page(FakeEngine(), config)
    offered = await page.side.picker._offer_adapters("starter")
    assert "value" not in offered
    assert "pirate" in offered["choices"]


async def test_what_becomes_of_the_adapter_is_decided_on_the_page(config: AppConfig) -> None:
    """I1: from what the fields hold then, without asking anybody."""
    page = Page(FakeEngine(), config)
    picker = page.side.picker
    decided = [one for one in page.demo.fns.values() if (picker.model, "change") in _triggers(page, one) and one.js]
    (one,) = [one for one in decided if one.outputs == [picker.adapter, picker.pinned]]
    assert one.fn is None
    assert one.inputs == picker.taken


def _triggers(page: Page, event: Any) -> list[tuple[Any, str]]:
    return [(page.demo.blocks.get(block), name) for block, name in event.targets]


async def test_a_label_answers_and_is_shown_as_it_was_chosen(config: AppConfig) -> None:
    """I1: the same weights in every tab, under one name."""
    page = Page(FakeEngine(), config)
    picker, choice = page.side.picker, Choice("starter", STEP_50, "auto", 0.5)
    folder = ROOT / "assets" / "adapters" / "pirate-overfit" / "checkpoint-50"
    spec = picker.spec(choice)
    assert spec.adapters == ((str(folder), 0.5),)
    assert picker.label(choice, spec) == f"starter + {STEP_50} ×0.5"
    assert picker.weights(choice, None).adapter_problem == ""
    typed = Choice("starter", str(folder), "auto", 1.0)
    assert picker.label(typed, picker.spec(typed)) == f"starter + {STEP_50}"
