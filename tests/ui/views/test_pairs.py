"""Prompts and responses as pairs: which weights gave each, whether it is what was expected, and nothing said is obeyed."""

from __future__ import annotations

import re
from typing import Any

import pytest

from playground.conversation import Conversation, Reply, Turn
from playground.errors import NotFound
from playground.services.matching import Match, match
from playground.types import GenerationSettings, GenerationStats, ModelSpec, Provenance
from playground.ui.views.difference import difference, match_mark, match_words
from playground.ui.views.pairs import (
    LONG_PROMPT,
    SHOWN_PAIRS,
    SHOWN_WEIGHTS,
    awaited,
    expected_of,
    pairs,
    pairs_of,
    summary,
)
from playground.ui.views.transcript import Scene

PIRATE = ModelSpec("starter", (("pirate/checkpoint-500", 1.0),))
HOSTILE = (
    "${alert(1)}</textarea><script>alert(2)</script>\"'`{{y}} <img src=http://192.0.2.1/x onerror=alert(3)> "
    "![p](http://192.0.2.1/y.png) \u202egnp.exe"
)


def reply(spec: ModelSpec = PIRATE, **changes: Any) -> Reply:
    stats = GenerationStats(5, 12, 1.2, 0.1)
    made = Provenance("starter", "", (), "none", "float32", "cpu", "chat", GenerationSettings(), 7, {})
    return Reply(
        **{"spec": spec, "finish_reason": "stop", "stats": stats, "provenance": made, "alone": True, **changes}
    )


def talk(*said: tuple[str, str, dict[str, Any]]) -> Conversation:
    """A conversation of (role, content, other fields), one after another."""
    turns: list[Turn] = []
    for number, (role, content, fields) in enumerate(said):
        parent = turns[-1].id if turns else ""
        turns.append(Turn(f"t{number}", parent, role, content, 1_700_000_000.0, **fields))  # type: ignore[arg-type]
    return Conversation("c1", "local", 0, 0, turns=tuple(turns), leaf=turns[-1].id)


def asked(content: str = "Hi", expected: str = "") -> tuple[str, str, dict[str, Any]]:
    return ("user", content, {"expected": expected})


def said(content: str = "Ahoy.", **changes: Any) -> tuple[str, str, dict[str, Any]]:
    return ("assistant", content, {"reply": reply(**changes)})


def articles(shown: str) -> list[str]:
    return re.findall(r"<article.*?</article>", shown, re.S)


def words(shown: str) -> str:
    """What a person reads of ``shown``."""
    return " ".join(re.sub(r"<[^>]+>", " ", shown).split())


def test_an_answer_stands_with_the_prompt_before_it_newest_last():
    """I5: prompts and responses in pairs; a system message, a prompt without answer and a saved answer have a place."""
    made = talk(
        ("system", "Be brief.", {}), asked("One?"), said("First."), ("assistant", "Saved.", {"model_id": "x:y"}),
        asked("Two?"),
    )  # fmt: skip
    found = [
        tuple(turn.content if turn else None for turn in (pair.told, pair.prompt, pair.response))
        for pair in pairs_of(made.path())
    ]
    assert found == [
        ("Be brief.", None, None), (None, "One?", "First."), (None, None, "Saved."), (None, "Two?", None),
    ]  # fmt: skip
    told, first, saved, waiting = map(words, articles(pairs(made)))
    assert "Be brief." in told
    assert first.index("One?") < first.index("First.")
    assert "x:y" in saved
    assert "Not answered." in waiting


def test_without_any_pair_the_place_says_what_comes_there():
    """I5: a placeholder, also for a conversation that holds nothing yet."""
    for nothing in (None, Conversation("c", "local", 0, 0)):
        assert "No responses yet." in words(pairs(nothing))
        assert summary(nothing) == ""
    assert awaited(" ") == ""


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({}, "starter + pirate/checkpoint-500"),
        ({"spec": ModelSpec("starter", (("pirate", 0.5),))}, "starter + pirate ×0.5"),
        ({"spec": ModelSpec("starter")}, "starter (base)"),
        ({"finish_reason": "cancelled"}, "stopped ·"),
        ({"finish_reason": "length"}, "cut at the limit ·"),
        ({}, "12 tokens · 10.0 tokens/s · first token 0.10 s · seed 7 · ended by itself"),
        ({"notices": ("The prompt was cut.",)}, "The prompt was cut."),
        ({"cached": True}, "kept from before"),
    ],
)
def test_a_response_says_which_weights_gave_it_and_how_it_ended(changes: dict[str, Any], told: str):
    """I1, I5, P3: in small type under and over it."""
    assert told in words(pairs(talk(asked(), said(**changes))))


def test_a_response_that_knew_what_was_said_before_says_so():
    """I5: it compares with none that was given to the prompt alone; a first one knew nothing more."""
    first, second = articles(pairs(talk(asked(), said(alone=False), asked(), said(alone=False))))
    assert "knew what was said before" not in first
    assert "knew what was said before" in second
    assert "knew what" not in pairs(talk(asked(), said(), asked(), said()))


def test_of_several_versions_the_open_one_is_shown():
    """F1, I5: and it says that there are others."""
    made = talk(asked("One?"), said("Old."))
    made = made.with_turns([Turn("other", "t0", "assistant", "New.", 0.0, reply())], 0.0)
    shown = words(pairs(made))
    assert "New." in shown
    assert "Old." not in shown
    assert "version 2 of 2" in shown
    assert "Old." in words(pairs(made, Scene(leaf="t1")))
    with pytest.raises(NotFound):
        pairs(made, Scene(leaf="gone"))


@pytest.mark.parametrize(
    ("answer", "agreement", "told"),
    [
        ("Ahoy, crew!", "match", "Match"),
        ("<think>Crew?</think>Ahoy, crew!", "match", "Match"),
        ("ahoy crew", "near", "Match but for case and punctuation"),
        ("Ahoy, dear crew!", "none", "No match · 81 % alike"),
    ],
)
def test_beside_a_response_stands_what_was_expected_and_whether_it_matches(answer: str, agreement: str, told: str):
    """I4: match, nearly, or how alike; told by words and a sign, not by colour alone."""
    shown = pairs(talk(asked(expected="Ahoy, crew!"), said(answer)))
    assert f'<b class="match-mark" data-agreement="{agreement}">{told}</b>' in shown
    assert words(shown).index(told) < words(shown).rindex("Ahoy, crew!")
    assert ('<details class="difference"' in shown) == (agreement != "match")


def test_no_word_of_a_match_where_nothing_was_expected_or_answered():
    """I4: a prompt of one's own has no expected answer."""
    assert "match-mark" not in pairs(talk(asked(), said()))
    assert "match-mark" not in pairs(talk(asked(expected=" \n"), said()))
    waiting = pairs(talk(asked(expected="Ahoy.")))
    assert "match-mark" not in waiting
    assert "Ahoy." in words(waiting)


def test_the_difference_marks_what_is_missing_and_what_was_added():
    """I4: in elements that say so to a screen reader too, spaces outside of them."""
    expected, answer = "The sky is blue today", "The sea is blue"
    shown = difference(answer, expected, match(answer, expected), "a-difference")
    assert "<span>The</span> <del>sky</del> <ins>sea</ins> <span>is blue</span> <del>today</del>" in shown
    assert " open>" in shown.partition("<summary>")[0]


def test_the_difference_of_long_texts_and_of_strangers_is_folded_and_bounded():
    """I4: it must not push the list apart, nor make the page heavy."""
    long = "word " * 2000
    shown = difference(long, long + "more", match(long, long + "more"), "x")
    assert " open>" not in shown.partition("<summary>")[0]
    assert "The beginnings are shown" in shown
    assert len(shown) < 5000
    strangers = difference("abc def", "xyz uvw", Match("none", 0.1), "x")
    assert " open>" not in strangers.partition("<summary>")[0]


def test_a_long_prompt_is_folded_behind_its_beginning_and_whole_for_use_again():
    """I5: the page's script takes the text from its element."""
    text = "Tell me a tale. " * 100
    assert len(text) > LONG_PROMPT
    shown = pairs(talk(asked(text), said()))
    assert '<details class="long-text" data-fold="t0-text">' in shown
    assert f'data-text="prompt" dir="auto"><p class="as-written">{text}</p>' in shown
    assert "long-text" not in pairs(talk(asked("Short."), said()))


def test_a_long_list_shows_the_newest_and_offers_the_earlier_ones():
    """I5: so that two hundred pairs draw as fast as sixty."""
    many = talk(*(turn for number in range(SHOWN_PAIRS + 7) for turn in (asked(f"Prompt {number}."), said())))
    shown = pairs(many)
    assert len(articles(shown)) == SHOWN_PAIRS
    assert "Show 7 earlier pairs" in words(shown)
    assert 'aria-label="Pair 8"' in articles(shown)[0]
    assert "Prompt 66." in words(articles(shown)[-1])
    assert len(articles(pairs(many, Scene(everything=True)))) == SHOWN_PAIRS + 7


def test_the_summary_counts_matches_for_each_model_and_adapter():
    """I4: over all pairs that something was expected of, one line for each weights where there are several."""
    rows = [
        asked(expected="Yes."),
        said("Yes."),
        asked(expected="Yes."),
        said("yes"),
        asked(expected="Yes."),
        said("No."),
    ]
    alike = (1 + match("yes", "Yes.").similarity + match("No.", "Yes.").similarity) / 3
    told = f"1 of 3 match, 1 more but for case and punctuation · {int(100 * alike)} % alike on average"
    assert words(summary(talk(*rows, asked(), said(), asked(expected="Waiting")))).replace(" ,", ",") == told
    several = talk(*rows, asked(expected="Yes."), said("Yes.", spec=ModelSpec("starter")))
    lines = re.findall(r"<p>.*?</p>", summary(several))
    assert [words(line).split(" : ")[0] for line in lines] == ["starter + pirate/checkpoint-500", "starter (base)"]
    assert "1 of 1 match · 100 % alike" in words(lines[1])
    assert "of 1 match" not in summary(several, "t5"), "of the path that is shown"
    crowd = (
        turn
        for number in range(SHOWN_WEIGHTS + 2)
        for turn in (asked(expected="x"), said("x", spec=ModelSpec(f"model {number}")))
    )
    lines = re.findall(r"<p>.*?</p>", summary(talk(*crowd)))
    assert len(lines) == SHOWN_WEIGHTS + 1
    assert "2 more" in lines[0]


def test_what_is_being_answered_stands_at_the_end_without_a_word_of_its_answer():
    """I5: the live part of the list goes on under it; a prompt that is answered again is not called unanswered."""
    made = talk(asked("One?", expected="Uno."), said("Old."))
    scene = Scene(leaf="t1", pending="Two?", writing=True, expected="Dos.")
    shown = pairs(made, scene)
    assert 'data-writing="yes"' in shown
    assert words(articles(shown)[-1]) == "Prompt Two?"
    assert expected_of(made, scene) == "Dos."
    assert "Dos." in words(awaited("Dos."))
    again = Scene(leaf="t0", writing=True)
    assert words(articles(pairs(made, again))[-1]) == "Prompt Use again One?"
    assert expected_of(made, again) == "Uno."
    assert expected_of(None, Scene(pending="x", expected="y")) == "y"
    assert expected_of(talk(asked(), said()), Scene(leaf="", writing=True)) == ""


def test_nothing_that_a_model_a_file_or_a_person_wrote_is_obeyed():
    """S3: no script, no template, nothing fetched; a text that is written backwards stays in its place."""
    made = talk(
        ("system", HOSTILE, {}), asked(HOSTILE, expected=f"{HOSTILE} wanted"),
        said(f"<think>{HOSTILE}</think>{HOSTILE}", spec=ModelSpec(HOSTILE, ((HOSTILE, 1.0),)), notices=(HOSTILE,)),
        ("assistant", HOSTILE, {"model_id": HOSTILE}), asked(HOSTILE * 20, expected=HOSTILE), said(HOSTILE * 20),
    )  # fmt: skip
    everything = [pairs(made, Scene(pending=HOSTILE, writing=True)), pairs(made), summary(made), awaited(HOSTILE)]
    everything.append(difference(HOSTILE, "other", Match("none", 0.5), HOSTILE))
    for shown in everything:
        assert "${" not in shown
        assert "{{" not in shown
        assert "<script" not in shown
        assert "<img" not in shown
        assert "</textarea" not in shown
        for tag in re.findall(r"<(\w+)", shown):
            assert tag in {
                "div", "article", "p", "button", "b", "span", "bdi", "details", "summary", "ins", "del", "time", "a", "br",
                "code",
            }, tag  # fmt: skip
    assert "\u202e" in pairs(made), "what was written is shown as it is"
    assert 'dir="auto"' in pairs(made)


def test_the_words_of_a_comparison_are_the_same_wherever_it_is_told():
    """I4, P7: the batch test says them too."""
    assert match_words(Match("none", 0.876)) == "No match · 87 % alike"
    assert match_mark(Match("match", 1.0)) == '<b class="match-mark" data-agreement="match">Match</b>'
