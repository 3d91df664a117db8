"""The settings panel's values."""

from __future__ import annotations

import pytest

from playground.errors import InvalidRequest
from playground.types import GenerationSettings, knobs
from playground.ui.views import settings as view


def test_panel_values_and_settings_are_each_others_inverse():
    """P4, G4: what the panel shows is what is sent."""
    settings = GenerationSettings(
        stop=("END", "a\nb", "\\n"), seed=2**62 + 1, temperature=1.3, system_prompt="Be kind."
    )
    assert view.settings_from(view.panel_values(settings)) == settings


def test_settings_that_the_strategy_does_not_use_keep_their_defaults():
    """P4: what is hidden has no effect, and raises no error."""
    values = {**view.panel_values(GenerationSettings()), "strategy": "greedy", "num_return_sequences": 3, "seed": "x"}
    assert view.settings_from(values) == GenerationSettings(strategy="greedy")


@pytest.mark.parametrize(("name", "value"), [("seed", "twelve"), ("max_new_tokens", None), ("temperature", 3.0)])
def test_a_value_that_cannot_be_is_refused(name, value):
    """G4: a clear error, never a silent clamp."""
    with pytest.raises(InvalidRequest):
        view.settings_from({**view.panel_values(GenerationSettings()), name: value})


def test_changed_settings_are_named_with_the_value_they_lead_back_to():
    """P4: marks and the way back; what the strategy does not use is not called changed."""
    baseline = GenerationSettings()
    values = {**view.panel_values(baseline), "temperature": 1.1, "num_beams": 9}
    assert view.changed_settings(values, baseline) == ["temperature"]
    assert 'data-knob="temperature" title="Back to 0.7"' in view.changed_list(values, baseline)
    assert view.settings_heading("Balanced", ["temperature"]) == "Settings · Balanced, changed"
    assert view.changed_list(view.panel_values(baseline), baseline) == ""


def test_every_setting_has_a_tooltip_of_its_own():
    """P4: a tooltip each."""
    assert all(len(view.knob_help(name)) > 20 for name in knobs())
