"""What an export left behind, and what merging changes."""

from __future__ import annotations

from pathlib import Path

from playground.services.exports import MergeComparison
from playground.ui.views.merge import comparison, exported


def test_the_three_figures_stand_under_a_sentence_that_says_what_they_mean():
    """G10: largest change of a logit, KL and agreement, in plain words."""
    shown = comparison(MergeComparison(0.107, 4.4e-5, 1.0, 163, "bfloat16"))
    for words in (
        "changes only the last digits",
        "0.107",
        "under 0.001",
        "100 %",
        "Merged in bfloat16, over 163 tokens",
    ):
        assert words in shown
    assert shown.count("<th") == shown.count(' title="')


def test_a_merge_that_changes_the_answers_says_so():
    """G10: a merged model that differs should not be taken for what was tested."""
    assert "changes the answers" in comparison(MergeComparison(9.0, 1.5, 0.6, 163, "float16"))
    assert "changes little" in comparison(MergeComparison(0.2, 0.001, 0.99, 163, "float16"))


def test_the_path_of_an_export_is_text_that_a_click_copies():
    """P8: the result is somewhere, and one can get there."""
    shown = exported(Path("/data/<exports>/pirate-x0.5"))
    assert 'data-copy="/data/&lt;exports&gt;/pirate-x0.5"' in shown
    assert "<code>/data/&lt;exports&gt;/pirate-x0.5</code>" in shown


def test_what_a_merge_was_found_to_change_is_a_sentence_with_its_figures_folded():
    """P8, G10: the verdict at a glance; the numbers for those who ask."""
    shown = exported(Path("/data/one"), "It answers as the adapter does. Mean KL 5e-05 nats.")
    assert "<p>It answers as the adapter does.</p>" in shown
    assert "<details><summary>Figures</summary><p>Mean KL 5e-05 nats.</p>" in shown
    assert "<details>" not in exported(Path("/data/one"))
