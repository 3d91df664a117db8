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
    shown = chips(Weights("starter", "pirate", True, adapter(), adapter_problem="It <failed>."))
    assert 'data-state="bad"' in shown
    assert "It &lt;failed&gt;." in shown


def test_the_chips_say_who_answers_and_whether_it_is_in_memory():
    """P1: at any moment."""
    assert 'data-state="waiting"' in chips(Weights("starter"))
    ready = chips(Weights("starter", "pirate", True, adapter()))
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


def test_a_strength_that_is_not_as_trained_is_part_of_the_name():
    """G14: the same adapter at another strength is another set of weights."""
    assert Weights("starter", "pirate", strength=0.5).label == "starter + pirate ×0.5"
    assert Weights("starter", "pirate", strength=-1.5).label == "starter + pirate ×−1.5"
    assert "pirate ×0.5" in chips(Weights("starter", "pirate", True, adapter(), strength=0.5))
    assert Weights("starter", strength=0.5).label == "starter (base)"


def test_a_chip_with_warnings_has_a_mark_and_a_red_one_needs_none():
    """G9: warnings do not refuse, and are not hidden."""
    warned = chips(Weights("starter", "pirate", True, adapter(), warnings=("It was trained on <another> base.",)))
    assert 'class="mark"' in warned
    assert "trained on &lt;another&gt; base." in warned
    assert 'data-state="bad"' not in warned
    red = chips(Weights("starter", "pirate", adapter_problem="Broken.", warnings=("Other base.",)))
    assert 'class="mark"' not in red


def test_the_list_says_why_a_model_was_loaded_so_and_why_its_answers_wait():
    """G8, G2: the reason is text on the page, not only a tooltip."""
    why = "no GPU is present; nf4 to save memory"
    resident = ResidentInfo(
        "/m", "/m", "nf4", "bfloat16", "cpu", 6_000_000, 24_000_000, 1024, 0.0, why, (), 0, False, "It <slides>."
    )
    shown = loaded_list((resident,), {})
    assert "<li>No GPU is present.</li><li>Nf4 to save memory.</li>" in shown
    assert "take turns. It &lt;slides&gt;." in shown
    assert "nf4 · cpu" in shown
    together = ResidentInfo("/m", "/m", "none", "float32", "cpu", 6_000_000, 24_000_000, 1024, 0.0)
    assert "take turns" not in loaded_list((together,), {})


def test_a_base_in_two_precisions_is_unloaded_as_one_and_its_buttons_say_so():
    """G1, P1: one name, one unload; a button that drops more than its row must tell all that goes."""
    whole = ResidentInfo("/m", "/m", "none", "float32", "cpu", 6_000_000, 24_000_000, 1024, 0.0)
    small = ResidentInfo("/m", "/m", "int8", "float32", "cpu", 6_000_000, 6_000_000, 1024, 0.0)
    other = ResidentInfo("/n", "/n", "none", "float32", "cpu", 6_000_000, 9_000_000, 1024, 0.0)
    shown = loaded_list((whole, small, other), {"/m": "starter"})
    assert shown.count("Unload all 2, frees 30 MB") == 2
    assert "starter in every precision" in shown
    assert shown.count("Unload, frees 9.0 MB") == 1
    assert "reads 1,024 tokens" in shown


def test_an_attached_adapter_shows_its_kind_and_its_warnings():
    """G9, P1: what it is, what it takes, and what is to be known of it."""
    warned = LoadedAdapter("x", "/x", "0", 9_000, True, True, ("It has <own> tokens.",), "PREFIX_TUNING")
    resident = ResidentInfo("/m", "/m", "none", "float32", "cpu", 6_000_000, 24_000_000, 1024, 0.0, "", (warned,))
    shown = loaded_list((resident,), {})
    assert "prefix tuning · 9.0 kB · takes turns of its own" in shown
    assert "1 warning" in shown
    assert "It has &lt;own&gt; tokens." in shown
