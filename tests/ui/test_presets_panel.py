"""The settings panel's presets without a server: what is on offer to whom, saving, deleting, beginning with one."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace
from typing import Any

import pytest

from playground.types import Caller
from playground.ui import texts
from playground.ui.settings_panel import SettingsPanel
from tests.ui.fake_engine import FakeEngine
from tests.ui.page import Page, seen_by_the_gate

pytestmark = pytest.mark.anyio  # all of them: outside of a running loop Gradio makes one and never closes it

BUILT_IN = [texts.MODELS_OWN, "Deterministic", "Balanced", "Creative"]
SOMEBODY = SimpleNamespace(session_hash="somebody")


@pytest.fixture
async def panel(config) -> SettingsPanel:
    return Page(FakeEngine(), config).tab.panel


def values(panel: SettingsPanel, preset: str = texts.MODELS_OWN, **changes: Any) -> list[Any]:
    """The preset field and the settings as they stand, with ``changes`` over them."""
    return [preset, *(changes.get(name, widget.value) for name, widget in panel.widgets.items())]


def save(panel: SettingsPanel, name: str, visitor: Any = SOMEBODY, **changes: Any) -> dict[Any, Any]:
    return panel.row._save(visitor, "starter", name, *values(panel, **changes))


def offered(panel: SettingsPanel, visitor: Any = SOMEBODY, model: str = "starter") -> list[str]:
    """What the list shows when it is opened."""
    listed: list[str] = panel._listed(visitor, model, "Balanced")["choices"]
    return [name for name, *_ in listed] if listed and isinstance(listed[0], tuple) else listed


async def test_the_presets_are_the_models_own_and_the_built_in_ones(panel):
    """P4: Deterministic, Balanced, Creative, and what the model recommends."""
    assert offered(panel) == BUILT_IN
    assert offered(panel, model="gpt2") == BUILT_IN[1:]
    assert panel.preset.value == texts.MODELS_OWN


async def test_another_model_brings_its_own_settings_and_leaves_another_preset_alone(panel):
    """P4: Model's own follows the model; what a person changed in Balanced stays."""
    _, *settings = values(panel)
    moved = panel._for_model(SOMEBODY, "gpt2", texts.MODELS_OWN, *settings)
    assert moved[panel.preset]["value"] == "Balanced"
    assert moved[panel.widgets["temperature"]]["value"] == 0.7
    kept = panel._for_model(SOMEBODY, "gpt2", "Balanced", *settings)
    assert "value" not in kept[panel.widgets["temperature"]]


async def test_a_saved_preset_holds_all_that_the_panel_has(panel):
    """P4: saved by name, chosen again: the system prompt and the stop sequences come with it."""
    changes = {"system_prompt": "Be kind.", "stop": "END\nline\\nbreak", "seed": "7", "temperature": 1.3, "top_k": 7}
    saved = save(panel, "  Mine ", **changes)
    assert saved[panel.preset] == saved[panel.preset] | {"value": "Mine", "choices": [*BUILT_IN, "Mine"]}
    assert saved[panel.frame]["label"] == "Settings · Mine"
    assert saved[panel.changed] == ""
    assert texts.PRESET_SAVED.format(name="Mine") in saved[panel.row.said]
    filled = panel._chosen(SOMEBODY, "starter", "Mine")
    assert {name: filled[panel.widgets[name]]["value"] for name in changes} == changes
    assert filled[panel.row.delete]["visible"] is True
    assert panel._chosen(SOMEBODY, "starter", "Balanced")[panel.row.delete]["visible"] is False


async def test_saving_over_a_preset_says_so_before_and_after_and_can_be_undone(panel):
    """P4: one's own preset is replaced knowingly; Undo brings the old one back."""
    save(panel, "Mine", temperature=1.3)
    assert "Saving replaces it" in panel.row._open(SOMEBODY, "Mine")[panel.row.hint]
    assert "Saving replaces it" in panel.row._note(SOMEBODY, " Mine ")
    assert panel.row._note(SOMEBODY, "Other") == ""
    replaced = save(panel, "Mine", temperature=0.2)
    assert "was replaced" in replaced[panel.row.said]
    assert replaced[panel.row.undo]["visible"] is True
    back = panel.row._undo(SOMEBODY, "starter", replaced[panel.row.before], *values(panel, "Mine"))
    assert back[panel.widgets["temperature"]]["value"] == 1.3


async def test_a_deleted_preset_is_gone_and_undo_brings_it_back_as_the_first(panel):
    """P4: deleting says what it did; the fields keep their values, and pages begin with it again after Undo."""
    save(panel, "Mine", temperature=1.3)
    panel.row._begin_with(SOMEBODY, "starter", "Mine", True)
    gone = panel.row._delete(SOMEBODY, "starter", *values(panel, "Mine", temperature=1.3))
    assert gone[panel.preset] == gone[panel.preset] | {"value": texts.MODELS_OWN, "choices": BUILT_IN}
    assert "value" not in gone[panel.widgets["temperature"]]
    assert "Temperature" in gone[panel.changed]
    assert offered(panel) == BUILT_IN
    panel.row._undo(SOMEBODY, "starter", gone[panel.row.before], *values(panel))
    assert panel._begun(SOMEBODY, "starter", *values(panel))[panel.preset]["value"] == "Mine"


@pytest.mark.parametrize(
    ("name", "changes", "said"),
    [
        ("balanced", {}, "balanced is a built-in preset. Save yours under another name."),
        (texts.MODELS_OWN, {}, "is a built-in preset"),
        ("  ", {}, "The preset has no name. Type one."),
        ("x" * 61, {}, "61 characters"),
        ("Mine", {"seed": "x"}, "The seed is"),
    ],
)
async def test_what_cannot_be_saved_is_one_sentence_and_the_field_stays_open(panel, name, changes, said):
    """P4: built-in names, no name, a name too long, settings that mean nothing."""
    refused = save(panel, name, **changes)
    assert said in refused[panel.row.said].replace("&#x27;", "'")
    assert panel.row.form not in refused
    assert offered(panel) == BUILT_IN


async def test_pages_begin_with_the_persons_first_preset_unless_something_was_changed(panel):
    """P4: the switch is kept for the person; a page on which somebody has begun is left alone."""
    assert set(panel._begun(SOMEBODY, "starter", *values(panel))) == {panel.preset}  # nothing to say
    save(panel, "Mine", temperature=1.3)
    begun = panel._begun(SOMEBODY, "starter", *values(panel))
    assert begun[panel.preset] == begun[panel.preset] | {"value": texts.MODELS_OWN, "choices": [*BUILT_IN, "Mine"]}
    on = panel.row._begin_with(SOMEBODY, "starter", "Mine", True)
    assert on[panel.row.first] == on[panel.row.first] | {"value": True, "interactive": True}
    begun = panel._begun(SOMEBODY, "starter", *values(panel))
    assert begun[panel.preset]["value"] == "Mine"
    assert begun[panel.widgets["temperature"]]["value"] == 1.3
    changed = panel._begun(SOMEBODY, "starter", *values(panel, temperature=0.1))
    assert changed[panel.preset]["value"] == texts.MODELS_OWN
    assert "value" not in changed[panel.widgets["temperature"]]
    off = panel.row._begin_with(SOMEBODY, "starter", "Mine", False)
    assert off[panel.row.first]["value"] is False
    assert panel._begun(SOMEBODY, "starter", *values(panel))[panel.preset]["value"] == texts.MODELS_OWN


async def test_two_people_on_one_server_see_their_own_presets_only(config):
    """P4, S2: on a shared server each login has its own; another page of the same person has them as well."""
    shared = dataclasses.replace(config, free_paths=False)
    panel = Page(FakeEngine(), shared).tab.panel
    one, other = (seen_by_the_gate(Caller(f"user {name}", "user", name)) for name in ("ann", "ben"))
    save(panel, "Mine", one)
    assert offered(panel, one) == [*BUILT_IN, "Mine"]
    assert offered(panel, other) == BUILT_IN


async def test_who_may_have_no_history_has_the_built_in_presets_and_is_told_why(config):
    """P4, S2: on a shared server nobody in particular can be known again."""
    shared = dataclasses.replace(config, free_paths=False)
    panel = Page(FakeEngine(), shared).tab.panel
    nobody = seen_by_the_gate(Caller("address 192.0.2.1", "address"))
    assert offered(panel, nobody) == BUILT_IN
    assert 'data-state="error"' in save(panel, "Mine", nobody)[panel.row.said]
