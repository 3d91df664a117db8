"""G5: whole characters, joined deltas, stop sequences; on a byte decoder that splits everything that can be split."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from playground.local_inference.textstream import Detokenizer, StopFilter, TextStream, cut_at_stop


def by_bytes(ids: Sequence[int]) -> str:
    """A tokenizer whose tokens are single bytes."""
    return bytes(ids).decode("utf-8", errors="replace")


def by_words(ids: Sequence[int]) -> str:
    """A tokenizer that drops the first word's leading space, as sentencepiece ones do."""
    return "".join(f" w{i}" for i in ids).lstrip()


@given(st.text(max_size=60))
def test_deltas_join_to_the_text_and_none_holds_half_a_character(text: str) -> None:
    """G5."""
    detokenizer = Detokenizer(by_bytes)
    deltas = [detokenizer.push(byte) for byte in text.encode()] + [detokenizer.flush()]
    assert "".join(deltas) == text or "\ufffd" in text
    assert "\ufffd" in text or not any("\ufffd" in delta for delta in deltas)


@given(st.text(alphabet="abc", max_size=40), st.lists(st.text(alphabet="abc", min_size=1, max_size=4), max_size=3))
def test_what_is_shown_is_the_text_before_the_first_stop(text: str, stops: list[str]) -> None:
    """G5: whatever the pieces, at no moment is a character shown that belongs to a stop sequence."""
    stream = TextStream(by_bytes, stops)
    expected, cut = cut_at_stop(text, stops)
    shown = ""
    for byte in text.encode():
        shown += stream.push(byte)
        assert expected.startswith(shown)
        if stream.stopped:
            break
    shown += stream.flush()
    assert shown == expected
    assert stream.stopped == cut


def test_the_leading_space_is_kept_where_the_answer_continues_the_prompt() -> None:
    """G7: raw prompts and prefills go on in the middle of a line."""
    alone, behind = Detokenizer(by_words), Detokenizer(by_words, context=[1])
    assert [alone.push(2), alone.push(3)] == ["w2", " w3"]
    assert [behind.push(2), behind.push(3)] == [" w2", " w3"]


def test_an_unfinished_character_is_left_out_at_the_end() -> None:
    """G5."""
    detokenizer = Detokenizer(by_bytes)
    shown = [detokenizer.push(byte) for byte in "a🚀".encode()[:-1]]
    assert "".join(shown) + detokenizer.flush() == "a"


def test_bytes_that_never_become_a_character_do_not_hold_the_text_for_ever() -> None:
    """G6: a model that writes rubbish is shown to write rubbish."""
    detokenizer = Detokenizer(by_bytes)
    shown = "".join(detokenizer.push(0x80) for _ in range(40))
    assert shown
    assert detokenizer.push(ord("x")).endswith("x")


def test_text_held_back_for_a_stop_that_never_came_is_shown_at_the_end() -> None:
    """G5: deltas join to the exact text."""
    stops = StopFilter(["END"])
    assert stops.push("the EN") == "the "
    assert stops.flush() == "EN"


@pytest.mark.parametrize("stops", [["aab", "ab"], ["ab", "aab"]])
def test_the_stop_that_is_complete_first_wins(stops: list[str]) -> None:
    """G4."""
    assert cut_at_stop("xaaby", stops) == ("x", True)
    assert cut_at_stop("baa", ["baa", "a"]) == ("b", True)


def test_a_word_keeps_its_space_behind_a_token_that_shows_nothing() -> None:
    """G5: skipped special tokens are part of the decoded whole, and so of the deltas."""

    def skips_zero(ids: Sequence[int]) -> str:
        return by_words([i for i in ids if i])

    detokenizer = Detokenizer(skips_zero)
    deltas = [detokenizer.push(i) for i in (1, 0, 2, 0, 0, 3)]
    assert "".join(deltas) + detokenizer.flush() == "w1 w2 w3"
