"""The chips, and the list of what is in memory."""

from __future__ import annotations

from playground.types import LoadedAdapter, ResidentInfo
from playground.ui import texts
from playground.ui.views.weights import Weights, adapter_problem, chips, loaded_list


def adapter(moves: bool = True) -> LoadedAdapter:
    return LoadedAdapter("pirate", "/a/pirate", "0", 300_000, False, moves)


def test_a_chip_is_red_with_the_reason_when_the_adapter_has_no_effect_is_broken_or_failed():
    """P1: never silently the base."""
    assert "no effect" in adapter_problem(adapter(False), (), "")
    assert adapter_problem(None, ("Rank is missing.",), "") == "Rank is missing."
    assert adapter_problem(None, (), "It failed.") == "It failed."
    assert adapter_problem(adapter(), (), "") == ""
    shown = chips(Weights("starter", "pirate", True, True, adapter_problem="It <failed>."))
    assert 'data-state="bad"' in shown
    assert "It &lt;failed&gt;." in shown


def test_the_chips_say_who_answers_and_whether_it_is_in_memory():
    """P1: at any moment."""
    assert 'data-state="waiting"' in chips(Weights("starter"))
    ready = chips(Weights("starter", "pirate", True, True))
    assert ready.count('data-state="ready"') == 2
    assert Weights("starter", "pirate").label == "starter + pirate"
    assert Weights("starter").label == "starter (base)"


def test_the_loaded_list_shows_memory_adapters_and_what_unloading_frees():
    """P1: loaded models with memory; Unload says what it frees."""
    resident = ResidentInfo(
        "/m", "/m", "none", "float32", "cpu", 6_000_000, 24_000_000, 1024, 0.0, "", (adapter(False),)
    )
    shown = loaded_list((resident,), {"/m": "star<ter"})
    assert "Unload, frees 24 MB" in shown
    assert "star&lt;ter" in shown
    assert "pirate" in shown
    assert "no effect" in shown
    assert texts.NOTHING_LOADED in loaded_list((), {})


def test_a_red_chips_reason_can_be_read_to_its_end():
    """P1: what does not fit beside the chip is shown while it is pointed at, or has the keyboard's focus."""
    reason = "It is broken. " * 40
    shown = chips(Weights("starter", "pirate", adapter_problem=reason))
    assert 'tabindex="0"' in shown
    assert f'<span class="whole" aria-hidden="true">{reason}</span>' in shown
