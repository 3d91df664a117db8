"""What made an answer as a table, and what running it again brought."""

from __future__ import annotations

from dataclasses import replace

from playground.services.replay import ReplayResult
from playground.types import GenerationEvent, GenerationSettings, GenerationStats, Provenance, Status, Token
from playground.ui import texts
from playground.ui.views.provenance import made_by, provenance_table, replay_button, replay_progress, replay_said

HASH = "0123456789abcdef" * 4
MADE = Provenance(
    "star<ter", "", (("pirate", HASH, 0.5),), "none", "float32", "cpu", "chat", GenerationSettings(), 2**62 + 1,
    {"torch": "2.13", "peft": "0.21"}, "a" * 64, "b" * 64, True,
)  # fmt: skip


def test_everything_that_decided_the_answer_has_a_row_with_its_meaning():
    """G14: base, hash, adapter with strength, quantization, precision, template, seed, versions; in plain words."""
    shown = provenance_table(MADE)
    for words in (
        "star&lt;ter",
        ">aaaaaaaaaaaa</code>",
        "pirate ×0.5",
        ">0123456789ab</code>",
        f'title="{HASH}"',
        "float32 on cpu",
        "Chat",
        str(2**62 + 1),
        "torch 2.13 · peft 0.21",
        texts.EXACT,
    ):
        assert words in shown
    assert shown.count("<th") == shown.count('<th scope="row" title="')


def test_what_is_not_exact_says_so_and_how_to_get_it():
    """G14: batch-dependent in plain words."""
    shown = provenance_table(replace(MADE, exact=False, adapters=(), template_hash="", revision="main-1"))
    assert texts.NOT_EXACT in shown
    assert "none, the base alone" in shown
    assert "main-1" in shown


def test_each_of_several_answers_has_a_fold_and_a_button_of_its_own():
    """G3, G14: numbered where there are several."""
    assert made_by([(0, MADE)]).count("<details") == 1
    assert "What made this answer</summary>" in made_by([(0, MADE)])
    both = made_by([(0, MADE), (1, MADE)], several=True)
    assert "What made answer 1</summary>" in both
    assert "What made answer 2</summary>" in both
    assert made_by([]) == ""
    assert 'aria-label="Run answer 2 again and compare"' in replay_button(1, several=True)
    assert 'data-replay="0"' in replay_button(0)


def test_a_replay_says_how_far_it_is():
    """G14: progress in tokens, and before that where it stands."""
    event = GenerationEvent(Status("generating"), stats=GenerationStats(5, 30, 1.0, 0.1))
    shown = replay_progress("Run again", event, 120)
    assert "Run again: 30 of 120 tokens" in shown
    assert "--share:0.250" in shown
    loading = replay_progress("Run again", GenerationEvent(Status("loading", "reading weights", 0.4)), 120)
    assert "Run again: loading: reading weights 40 %" in loading
    assert "Run again: getting ready" in replay_progress("Run again", None, 120)


def test_a_replay_is_identical_or_says_where_it_parted_and_what_has_changed():
    """G14: identical, or differs at token k."""
    same = ReplayResult(True, None, None, None, None, False, ())
    assert replay_said("Run again", same) == "<p>Run again: identical.</p>"
    parted = ReplayResult(
        False, 12, Token(1, " <cat>", -1.0), Token(2, " dog", -1.01), 0.01, True, ("The dtype was float32.",)
    )
    shown = replay_said("Answer 2", parted)
    assert "Answer 2: differs at token 12: was “ &lt;cat&gt;”, now “ dog”, 0.01 apart in log-probability." in shown
    assert texts.WITHIN_ROUNDING in shown
    assert "<li>The dtype was float32.</li>" in shown
    ended = ReplayResult(False, 3, None, None, None, False, (), "the replay ended there, the answer did not")
    assert "differs at token 3: the replay ended there" in replay_said("Run again", ended)
