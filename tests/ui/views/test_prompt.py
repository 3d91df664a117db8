"""What is said of a prompt while it is written."""

from __future__ import annotations

from playground.types import RenderedPrompt
from playground.ui.views.prompt import hopeless_counter, is_hopeless, prompt_counter, rendered_preview


def test_the_counter_says_what_it_knows():
    """P2: characters always; tokens and share of the context once there is a tokenizer."""
    assert "1 character ·" in prompt_counter(1)
    counted = prompt_counter(16, 5, 26, 260)
    assert "16 characters · 5 tokens · 10 % of the context" in counted
    assert "26 of 260 tokens" in counted
    assert "too long" not in counted
    assert "too long for this model" in prompt_counter(16, 5, 261, 260)


def test_the_preview_is_escaped_and_cut():
    """P2, G7, S3: the rendered prompt and its ids."""
    shown = rendered_preview(RenderedPrompt("<|im_start|>${x}", (1, 2, 3), 100))
    assert "&lt;|im_start|&gt;&#36;&#123;x}" in shown
    assert ">1 2 3</pre>" in shown
    long = rendered_preview(RenderedPrompt("x" * 9000, tuple(range(1200)), 5000))
    assert "1,000 more characters" in long
    assert "… 200 more" in long


def test_a_prompt_that_cannot_fit_is_refused_without_counting_it():
    """P2, S5: megabytes in the prompt box cost nobody anything."""
    assert not is_hopeless(100_000, 1024)
    assert is_hopeless(4_000_000, 1024)
    assert "4,000,000 characters · <b" in hopeless_counter(4_000_000, 1024)
    assert "too long for this model" in hopeless_counter(4_000_000, 1024)
