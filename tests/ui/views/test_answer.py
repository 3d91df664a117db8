"""The fold of an answer's events, and the line under it."""

from __future__ import annotations

import html
import json
import re
from dataclasses import replace

from playground.conversation import Reply
from playground.types import (
    GenerationEvent,
    GenerationRequest,
    GenerationSettings,
    GenerationStats,
    ModelSpec,
    Provenance,
    Status,
    Token,
)
from playground.ui.views.answer import Answer, answer_status
from playground.ui.views.figures import known_text
from playground.ui.views.turns import figures


def an_answer(**settings) -> Answer:
    request = GenerationRequest(ModelSpec("starter"), "Hi", settings=GenerationSettings(**settings))
    return Answer(request, "starter (base)")


def made(seed: int = 7) -> Provenance:
    return Provenance("starter", "/m", (), "none", "float32", "cpu", "chat", GenerationSettings(), seed, {})


def event(text: str = "", tokens: int = 0, **fields) -> GenerationEvent:
    stats = GenerationStats(5, tokens, 0.1 * tokens, 0.1 if tokens else None)
    return GenerationEvent(Status("generating"), text, stats=stats, **fields)


def test_deltas_join_to_the_exact_text():
    """G5, P5: Raw is what the model wrote, with nothing added or lost."""
    answer = an_answer()
    for text in ("One", " <two>", "\n\n  three  "):
        answer.fold(event(text, 1))
    assert answer.raw == "One <two>\n\n  three  "


def test_the_status_line_lives_while_it_runs_and_then_names_everything():
    """P3: tokens, tokens/s, first token, total, finish reason, seed and who answered."""
    answer = an_answer()
    answer.fold(GenerationEvent(Status("loading", "reading weights", 0.42)))
    assert "Loading: reading weights 42 %" in answer_status(answer)
    answer.fold(event("a", 11))
    line = answer_status(answer)
    assert 'data-state="streaming"' in line
    assert "11 tokens · 10.0 tokens/s · first token 0.10 s · total 1.10 s" in line
    answer.fold(event("b", 12, finish_reason="length", provenance=made()))
    line = answer_status(answer)
    assert not answer.running
    assert 'data-state="done"' in line
    for word in ("cut at the token limit", "seed 7", "starter (base)"):
        assert word in line


def test_the_line_says_how_much_of_the_prompt_was_known():
    """P3, G11: why the first token came so soon; nothing where all of the prompt was read."""
    answer = an_answer()
    answer.fold(event("a", 11))
    assert "known" not in answer_status(answer)
    known = GenerationStats(2071, 11, 1.1, 0.1, 2040)
    answer.fold(GenerationEvent(Status("generating"), stats=known))
    words = re.sub("<[^>]*>", "", answer_status(answer))
    assert "first token 0.10 s · 2,040 of 2,071 prompt tokens already read · total 1.10 s" in words
    assert known_text(known) in figures(Reply(ModelSpec("starter"), "stop", stats=known))


def test_the_line_carries_the_provenance_as_json():
    """P3: a click copies what made the answer; a seed of 63 bits stays exact."""
    answer = an_answer()
    answer.fold(event("text", 2, finish_reason="stop", provenance=made(2**62 + 1)))
    attribute = re.search(r'data-copy="([^"]*)"', answer_status(answer))[1]
    copied = json.loads(html.unescape(attribute))
    assert copied["provenance"]["seed"] == 2**62 + 1
    assert copied["finish_reason"] == "stop"
    assert copied["text"] == "text"


def test_a_stop_keeps_the_text_and_says_cancelled():
    """P2, G5: the text so far stays, and the reason is the true one."""
    answer = an_answer()
    answer.fold(event("half", 3))
    answer.cancel()
    assert (answer.raw, answer.running) == ("half", False)
    assert "cancelled" in answer_status(answer)


def test_a_stop_after_the_end_changes_nothing():
    """G5: an answer that ended by itself did not get cancelled."""
    answer = an_answer()
    answer.fold(event("all", 3, finish_reason="stop", provenance=made()))
    answer.cancel()
    assert answer.finish == {0: "stop"}


def test_several_answers_run_until_the_last_of_them_has_ended():
    """P4, G3: num_return_sequences; each has its own text and figures."""
    answer = an_answer(num_return_sequences=2)
    answer.fold(event("one", 3, finish_reason="stop", provenance=made()))
    answer.fold(event("", 1))  # a sign of life repeats the first one
    assert answer.running
    answer.fold(event("two", 4, index=1, finish_reason="length", provenance=made(8)))
    assert not answer.running
    assert answer.markdown == "**Answer 1**\n\none\n\n---\n\n**Answer 2**\n\ntwo"
    assert answer_status(answer).count('class="stats"') == 2
    assert answer.stats[0].completion_tokens == 3


def test_notices_are_shown_once_and_escaped():
    """G7: turns dropped, window reached."""
    answer = an_answer()
    answer.fold(event(notice="<b>Window</b> reached."))
    answer.fold(event(notice="<b>Window</b> reached."))
    assert answer_status(answer).count("&lt;b&gt;Window") == 1


def in_line(ahead: int, elapsed_s: float, index: int = 0) -> GenerationEvent:
    status = Status("queued", f"{ahead} before this one" if ahead else "next in line")
    return GenerationEvent(status, stats=GenerationStats(elapsed_s=elapsed_s), index=index)


def test_the_place_in_line_is_told_with_the_time_that_goes_on():
    """P3: who waits sees the line move; a sign of life repeats the place with a later time."""
    answer = an_answer()
    assert answer.phase == "generating"
    answer.fold(in_line(2, 0.1))
    assert "Waiting in line: 2 answers before yours<" in answer_status(answer)
    answer.fold(in_line(2, 3.2))
    assert "2 answers before yours · 3 s" in answer_status(answer)
    answer.fold(in_line(0, 4.3))
    assert "yours is next · 4 s" in answer_status(answer)
    assert (answer.phase, answer.running) == ("queued", True)
    answer.fold(event("Hello", 1))
    assert "line" not in answer_status(answer)
    assert answer.phase == "generating"


def test_of_several_answers_the_furthest_is_told_and_those_in_line_are_counted():
    """P3, G3: what waits does not hide what is being written, whichever spoke last."""
    answer = an_answer(num_return_sequences=3)
    for index in range(3):
        answer.fold(in_line(index, 0.5, index))
    assert "yours is next" in answer_status(answer)
    answer.fold(event("Hello", 1))
    answer.fold(in_line(0, 1.0, 1))
    assert "2 more answers waiting in line" in answer_status(answer)
    assert answer.phase == "generating"
    answer.fold(event("", 2, finish_reason="stop", provenance=made()))
    answer.fold(in_line(0, 2.0, 1))
    assert "yours is next · 2 s" in answer_status(answer)


def test_what_is_copied_does_not_say_who_asked():
    """P3: the provenance makes an answer again; a page's own name in the line is nobody else's business."""
    request = GenerationRequest(ModelSpec("starter"), "Hi", user="page secret")
    answer = Answer(request, "starter (base)")
    answer.fold(event("text", 2, finish_reason="stop", provenance=made()))
    assert "secret" not in answer_status(answer)


def test_an_answer_that_pauses_for_another_adapters_turn_says_so_in_its_own_line():
    """P3, G1: adapters that need the model to themselves take turns; the page does not jump for that."""
    answer = an_answer()
    answer.fold(event("Hello", 3))
    stats = GenerationStats(5, 3, 0.5, 0.1)
    answer.fold(GenerationEvent(Status("queued", "waiting for its turn: another adapter answers"), stats=stats))
    shown = answer_status(answer)
    assert "Waiting for its turn: another adapter answers" in shown
    assert shown.count("<p") == 1
    assert answer.phase == "queued"
    answer.fold(event(" there", 4))
    assert "turn" not in answer_status(answer)


def test_an_answers_manifest_holds_its_very_tokens_once_it_has_ended():
    """G14: token ids in order, signs of life left out; nothing to replay before the end, and a button after it."""
    answer = an_answer(seed=5)
    answer.fold(replace(event("One", 1), tokens=(Token(11, "One", -0.1),)))
    assert answer.manifest(0) is None
    assert "data-replay" not in answer_status(answer)
    answer.fold(event("", 1))
    end = event(" two", 2, finish_reason="stop", provenance=made())
    answer.fold(replace(end, tokens=(Token(12, " two", -0.1),)))
    answer.prompt_hash = "abc"
    manifest = answer.manifest(0)
    assert (manifest.token_ids, manifest.text, manifest.prompt_hash) == ((11, 12), "One two", "abc")
    assert manifest.provenance.seed == 7
    assert 'data-replay="0"' in answer_status(answer)


def test_an_answer_that_failed_offers_no_replay():
    """G14: there is nothing to compare with."""
    answer = an_answer(seed=5)
    answer.fold(event("half", 1))
    answer.fail("It broke.")
    answer.finish[0] = "cancelled"
    assert "data-replay" not in answer_status(answer)


def test_an_answer_that_was_kept_from_before_says_so():
    """A8: marked as what it is, and only that one of several."""
    answer = an_answer(num_return_sequences=2)
    answer.fold(event("a", 2, finish_reason="stop", provenance=made(), cached=True))
    answer.fold(event("b", 2, finish_reason="stop", provenance=made(), index=1))
    first, second = answer_status(answer).split("<b>Answer 2</b>")
    assert "kept from before" in first
    assert "kept from before" not in second
