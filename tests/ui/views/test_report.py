"""What the checks say of an adapter, and what attaching it proved."""

from __future__ import annotations

from playground.services.models import AdapterReport, Finding
from playground.types import AdapterInfo, Proof
from playground.ui.views.report import NAMES_AT_MOST, adapter_report, no_effect, proof_line, report_heading

INFO = AdapterInfo("/a/pirate", "pirate", "starter", "LORA", 8, ("q_proj", "v_proj"), 600_000)
CUT = Finding("weights-cut-off", "problem", "The file is <cut> off.", "Copy it again.")
OTHER = Finding("other-base", "warning", "It was trained on another base.", "Make sure.")
IDLE = Finding("no-effect", "warning", "It changes nothing.", "Choose a later checkpoint.")


def test_a_sound_adapter_is_one_green_line():
    """G9: kind, rank, targets and size; nothing else to read."""
    shown = adapter_report(AdapterReport(INFO, ()))
    assert 'data-verdict="sound">Adapter checked: LoRA rank 8 on q_proj, v_proj · 600 kB</p>' in shown
    assert "<li" not in shown
    assert report_heading(AdapterReport(INFO, ())) == "Adapter report · sound"
    assert report_heading(None) == "Adapter report"


def test_each_problem_is_a_sentence_with_its_remedy_and_is_escaped():
    """G9, S3: what stands in a file cannot script the page; the heading says it without being opened."""
    report = AdapterReport(AdapterInfo("/a", "<b>${x}"), (CUT, OTHER))
    shown = adapter_report(report)
    assert "This adapter cannot be used: &lt;b&gt;&#36;&#123;x}" in shown
    assert '<li data-severity="problem"><b>Problem.</b> The file is &lt;cut&gt; off. ' in shown
    assert '<span class="remedy">Copy it again.</span>' in shown
    assert shown.index("cut") < shown.index("trained on another")
    assert 'role="alert"' in shown
    assert report_heading(report) == "Adapter report · cannot be used"
    assert report_heading(AdapterReport(INFO, (OTHER,))) == "Adapter report · 1 warning"


def test_an_adapter_of_zeros_is_red_although_it_could_be_loaded():
    """G10: a no-op is an error state everywhere, also before it is attached."""
    report = AdapterReport(INFO, (IDLE,))
    assert no_effect(report) == "It changes nothing. Choose a later checkpoint."
    assert not no_effect(AdapterReport(INFO, (OTHER,)))
    assert 'data-verdict="problems">This adapter has no effect' in adapter_report(report)
    assert report_heading(report) == "Adapter report · no effect"


def test_the_proof_counts_tensors_and_says_how_far_the_answers_moved():
    """G10: matched, missing and unexpected, and what eight fixed tokens did."""
    shown = proof_line(Proof(142, moved=3.21, flipped=5 / 8))
    assert "142 tensors matched, 0 missing, 0 unexpected" in shown
    assert "moved by up to 3.2, the likeliest token changed at 5 of 8 positions" in shown
    assert 'data-verdict="sound"' in shown
    assert proof_line(None) == ""
    idle = proof_line(Proof(142), has_effect=False)
    assert 'data-verdict="problems"' in idle
    assert "exactly as without it" in idle


def test_missing_names_are_listed_but_not_thousands_of_them():
    """G10: all names can be many; the page stays usable and says how many there are."""
    names = tuple(f"layer.{i}.<q>" for i in range(NAMES_AT_MOST + 5))
    shown = proof_line(Proof(1, missing=names, unexpected=("x",)))
    assert 'data-verdict="warnings"' in shown
    assert "Missing: 25 names" in shown
    assert "and 5 more" in shown
    assert "layer.0.&lt;q&gt;" in shown
    assert "Unexpected: 1 name<" in shown
