"""An answer beside the one that was expected: what counts as the same, and what differs, word by word."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from playground.services.matching import COMPARED_CHARACTERS, COMPARED_WORDS, Match, Piece, differences, match

PHRASES = st.text("aB .,;!?'0123-é日 \n", max_size=30)


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("Ahoy, crew!", "Ahoy, crew!"),
        ("  Ahoy,\n\n\tcrew!\n", "Ahoy, crew!"),
        ("<think>\nWhat do they want?\n</think>\n\nAhoy, crew!", "Ahoy, crew!"),
        ("what the template began</think>Ahoy, crew!", "Ahoy, crew!"),
        ("Ahoy, crew!", "<think>as the data set has it</think>Ahoy, crew!"),
        ("cafe\u0301", "caf\u00e9"),
    ],
)
def test_the_same_but_for_white_space_and_what_was_thought_is_a_match(answer: str, expected: str):
    """I4: the answer is compared with the expected one, not its spaces nor the way to it."""
    assert match(answer, expected) == Match("match", 1.0)


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("yes captain", "Yes, captain."),
        ("**42**", "42"),
        ("Dont panic", "Don’t panic!"),
        ("hello,world", "Hello, world."),
        ("`print`", "print"),
        ("STRASSE", "straße"),
    ],
)
def test_case_and_punctuation_alone_are_told_apart_from_another_answer(answer: str, expected: str):
    """I4: nearly the same is neither a match nor a miss."""
    assert match(answer, expected).agreement == "near"


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("3.5", "35"), ("-2", "2"), ("1,000", "1.000"), ("2026-01-02", "2026 01 02"), (".5", "5"), ("-.5", ".5"),
        ("1:30", "130"), ("$5", "5"), ("a + b", "a b"), ("…", "!"), ("<think>yes", "yes"), ("", "yes"),
    ],
)  # fmt: skip
def test_another_number_sign_or_silence_is_no_near_match(answer: str, expected: str):
    """I4: 3.5 is not 35, whatever one leaves out; and a model that has only thought has not answered."""
    assert match(answer, expected).agreement == "none"


def test_how_alike_two_texts_are_is_a_share_and_only_a_match_is_a_hundred():
    """I4: the percentage under a response is rounded down."""
    assert match("abcd", "abcx").similarity == pytest.approx(6 / 8)
    assert match("abcd", "abcx").percent == 75
    assert match("", "abc").percent == 0
    nearly = match("x" * 5000, "x" * 5000 + "y")
    assert nearly.agreement == "none"
    assert nearly.percent == 99
    same_start = match("x" * (COMPARED_CHARACTERS + 1), "x" * (COMPARED_CHARACTERS + 2))
    assert (same_start.agreement, same_start.percent) == ("none", 99)


@given(PHRASES, PHRASES)
def test_a_share_is_between_nothing_and_all_and_the_same_either_way(one: str, other: str):
    """I4: any texts can be compared."""
    there, back = match(one, other), match(other, one)
    assert there == back
    assert 0 <= there.similarity <= 1
    assert (there.percent == 100) == (there.agreement == "match")


def test_what_differs_is_told_word_by_word_missing_words_first():
    """I4: the difference between a response and the expected answer can be read off."""
    pieces, cut = differences("The sea be wide", "The sky is wide today")
    assert [(piece.kind, piece.text.strip()) for piece in pieces] == [
        ("same", "The"), ("missing", "sky is"), ("added", "sea be"), ("same", "wide"), ("missing", "today"),
    ]  # fmt: skip
    assert not cut


def test_a_script_without_spaces_is_told_apart_sign_by_sign():
    """I4: a Chinese sentence is not one word."""
    pieces, _ = differences("这是一个测试", "这是两个测试")
    assert [(piece.kind, piece.text.strip()) for piece in pieces] == [
        ("same", "这是"), ("missing", "两"), ("added", "一"), ("same", "个测试"),
    ]  # fmt: skip


@given(PHRASES, PHRASES)
def test_the_difference_holds_both_texts_whole(answer: str, expected: str):
    """I4: no word is lost, and none is made up; only spaces may be those of the other text."""

    def words(pieces: tuple[Piece, ...], *kinds: str) -> str:
        return "".join("".join(piece.text for piece in pieces if piece.kind in kinds).split())

    pieces, cut = differences(answer, expected)
    assert not cut
    assert words(pieces, "same", "added") == "".join(answer.split())
    assert words(pieces, "same", "missing") == "".join(expected.split())


def test_the_difference_of_long_texts_is_cut_and_says_so():
    """I4: a page must not grow with what nobody reads, nor a hostile text keep the server busy."""
    pieces, cut = differences("a b " * COMPARED_WORDS, "b a c " * COMPARED_WORDS)
    assert cut
    assert sum(len(piece.text.split()) for piece in pieces) <= 2 * COMPARED_WORDS
    one_word, cut = differences("x" * 1_000_000, "y" * 1_000_000)
    assert cut
    assert sum(len(piece.text) for piece in one_word) <= 2 * COMPARED_CHARACTERS + 2
