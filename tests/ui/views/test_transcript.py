"""A conversation as bubbles: who answered, what it cost, what can be done; and nothing that anybody said is obeyed."""

from __future__ import annotations

import re

import pytest

from playground.conversation import Conversation, Reply, Turn
from playground.errors import NotFound
from playground.types import GenerationSettings, GenerationStats, ModelSpec, Provenance
from playground.ui.views.composer import answers_next, composer_line, context_meter
from playground.ui.views.transcript import SHOWN_MESSAGES, Scene, answered_before, transcript
from playground.ui.views.turns import live_head

PIRATE = ModelSpec("starter", (("pirate", 0.5),))
HOSTILE = "${alert(1)}</textarea><script>x</script>\"'`{{y}}"


def reply(spec: ModelSpec = ModelSpec("starter"), **changes) -> Reply:  # noqa: B008
    stats = GenerationStats(5, 12, 1.2, 0.1)
    made = Provenance("starter", "", (), "none", "float32", "cpu", "chat", GenerationSettings(), 7, {})
    return Reply(**{"spec": spec, "finish_reason": "stop", "stats": stats, "provenance": made, **changes})


def talk(*turns: Turn, leaf: str = "", **changes) -> Conversation:
    return Conversation("c1", "local", 0, 0, turns=turns, leaf=leaf or turns[-1].id, **changes)


def user(name: str, content: str = "Hi", parent: str = "") -> Turn:
    return Turn(name, parent, "user", content, 1_700_000_000.0)


def answer(name: str, parent: str, content: str = "Hello.", made: Reply | None = None, **changes) -> Turn:
    return Turn(name, parent, "assistant", content, 1_700_000_000.0, made or reply(), **changes)


def bubbles(shown: str) -> list[str]:
    return re.findall(r"<article.*?</article>", shown, re.S)


def test_each_answer_says_which_model_and_adapter_it_came_from_and_marks_a_change():
    """F1: the adapter may be changed mid-conversation, and the bubble says so."""
    turns = user("u1"), answer("a1", "u1"), user("u2", parent="a1"), answer("a2", "u2", made=reply(PIRATE))
    first, second = bubbles(transcript(talk(*turns)))[1::2]
    assert "starter" in first
    assert "changed-mark" not in first
    assert "starter + <b>pirate ×0.5</b>" in second
    assert "changed-mark" in second


def test_the_figures_are_those_of_the_answer():
    """F1, P3: tokens, speed, first token, seed and finish under the bubble; a time that the page tells its reader's way."""
    shown = transcript(talk(user("u1"), answer("a1", "u1")))
    for words in ("12 tokens", "10.0 tokens/s", "first token 0.10 s", "seed 7", "ended by itself"):
        assert words in shown
    assert '<time datetime="2023-11-14T22:13:20Z">' in shown


@pytest.mark.parametrize(
    ("made", "mark"),
    [
        ({"finish_reason": "cancelled"}, ">stopped</b>"),
        ({"finish_reason": "length"}, ">cut at the limit</b>"),
        ({"template": "instruction", "alone": True}, ">Instruction · prompt alone<"),
        ({"notices": ("Two <turns> were left out.",)}, "Two &lt;turns&gt; were left out."),
        ({"cached": True}, ">kept from before<"),
    ],
)
def test_what_a_reader_must_know_of_an_answer_stands_on_it(made, mark):
    """P6, F1: stopped, cut, sent alone, with notices."""
    assert mark in transcript(talk(user("u1"), answer("a1", "u1", made=reply(**made))))
    assert mark not in transcript(talk(user("u1"), answer("a1", "u1")))


@pytest.mark.parametrize(
    ("content", "seconds", "summary", "said"),
    [
        ("<think>\nLet me see.\n</think>\n\nParis.", 3.2, "Thought for 3 s", "Paris."),
        ("Let me see.</think>Paris.", None, "Thought", "Paris."),
        ("<think>Let me see", 2.0, "Thinking, not finished", ""),
    ],
)
def test_reasoning_is_folded_away(content, seconds, summary, said):
    """F1: also where only its end was written, and where it never ended."""
    shown = transcript(talk(user("u1"), answer("a1", "u1", content, reply(thought_s=seconds))))
    fold = re.search(r"<details class=\"reasoning\".*?</details>", shown, re.S)
    assert fold
    assert f"<summary>{summary}</summary>" in fold[0]
    assert "Let me see" in fold[0]
    rest = shown.replace(fold[0], "")
    assert "Let me see" not in rest
    assert not said or f"<p>{said}</p>" in rest
    assert "think>" not in rest


def test_versions_have_arrows_and_the_ends_have_none_to_press():
    """F1: ‹ 2/3 › moves between the versions of one message."""
    turns = (user("u1"), *(answer(f"a{n}", "u1") for n in (1, 2, 3)))
    middle = bubbles(transcript(talk(*turns, leaf="a2")))[1]
    assert "<span>2/3</span>" in middle
    assert 'data-way="older" data-turn="a1"' in middle
    assert 'data-way="newer" data-turn="a3"' in middle
    last = bubbles(transcript(talk(*turns, leaf="a3")))[1]
    assert re.search(r'data-way="newer" data-turn="" [^>]* disabled', last)
    assert "versions" not in transcript(talk(*turns[:2]))


def test_actions_are_buttons_with_names_and_a_thumb_is_pressed():
    """F1: keyboard and screen reader reach all of them; a second press takes a thumb back."""
    shown = bubbles(transcript(talk(user("u1"), answer("a1", "u1", thumb=1))))[1]
    buttons = re.findall(r"<button[^>]*>", shown)
    assert all('type="button"' in button and "aria-label=" in button for button in buttons)
    acts = set(re.findall(r'data-act="([a-z-]+)"', shown))
    assert acts == {"regenerate", "edit", "branch", "continue", "thumb", "provenance"}
    assert 'data-value="0" aria-pressed="true"' in shown
    assert 'data-value="-1" aria-pressed="false"' in shown


def test_while_an_answer_is_written_the_bubbles_can_only_be_copied():
    """F1: nothing can be sent twice, or changed under what is being written."""
    shown = transcript(talk(user("u1"), answer("a1", "u1")), Scene(leaf="a1", pending="More", writing=True))
    assert "data-act" not in shown
    assert shown.count("data-copy=") == 2
    assert bubbles(shown)[-1].count("More") == 1


def test_a_message_that_is_rewritten_is_a_field_with_its_text():
    """F1: Save for both, Save and send for what a person said; a begun text survives a failure."""
    turns = user("u1", "a <b>\n\nc"), answer("a1", "u1")
    mine = bubbles(transcript(talk(*turns), Scene(editing="u1")))[0]
    assert ">\na &lt;b&gt;\n\nc</textarea>" in mine
    assert "Save and send" in mine
    assert "Cancel" in mine
    theirs = bubbles(transcript(talk(*turns), Scene(editing="a1", rewritten="Other")))[1]
    assert ">\nOther</textarea>" in theirs
    assert "Save and send" not in theirs


def test_a_long_conversation_shows_its_end_and_the_rest_when_asked():
    """F1: a page with hundreds of bubbles stays quick."""
    turns = [user("u0")]
    for number in range(1, SHOWN_MESSAGES + 20):
        turns.append(user(f"u{number}", f"said {number}", turns[-1].id))
    shown = transcript(talk(*turns))
    assert len(bubbles(shown)) == SHOWN_MESSAGES
    assert "Show 20 earlier messages" in shown
    assert len(bubbles(transcript(talk(*turns), Scene(everything=True)))) == SHOWN_MESSAGES + 20


def test_nothing_that_is_said_anywhere_becomes_a_tag_or_a_template():
    """S3: texts, names, notices and labels of a hostile import are text in every place where they are shown."""
    made = reply(ModelSpec(HOSTILE, ((HOSTILE, 1.0),)), notices=(HOSTILE,))
    turns = (
        user("u1", HOSTILE), answer("a1", "u1", f"<think>{HOSTILE}</think>{HOSTILE}", made),
        answer("a2", "u1", HOSTILE, made), Turn("s", "a2", "system", HOSTILE, 0.0, model_id=HOSTILE),
        Turn(HOSTILE, "s", "assistant", HOSTILE, 0.0, None, HOSTILE),
    )  # fmt: skip
    for leaf in ("a1", HOSTILE):
        for scene in (Scene(leaf=leaf, pending=HOSTILE), Scene(leaf=leaf, editing=leaf, rewritten=HOSTILE)):
            shown = transcript(talk(*turns), scene)
            assert "<script" not in shown
            assert not {"$", "{", "`"} & set(shown)
    head = live_head(HOSTILE, True, "", HOSTILE, False, None)
    lines = answers_next(HOSTILE) + answers_next("", HOSTILE) + composer_line(HOSTILE, "error", HOSTILE)
    assert "<script" not in head + lines
    assert not {"$", "{", "`"} & set(head + lines)


def test_without_anything_said_the_page_says_what_it_is_for():
    """F1: an empty page explains itself; a leaf that is gone is said so."""
    assert "Write the first message below" in transcript(None)
    with pytest.raises(NotFound):
        transcript(talk(user("u1")), Scene(leaf="gone"))


def test_what_was_sent_last_can_be_answered_where_it_was_not():
    """F1: an edited message that was only saved has no answer yet."""
    assert "Answer this message" in transcript(talk(user("u1")))
    assert "Answer this message" not in transcript(talk(user("u1"), answer("a1", "u1")))


def test_the_last_label_before_a_turn_is_the_one_that_changes_are_told_against():
    """F1: the live bubble marks another adapter as soon as it begins."""
    conversation = talk(user("u1"), answer("a1", "u1", made=reply(PIRATE)), user("u2", parent="a1"))
    assert answered_before(conversation, "u2") == "starter + pirate ×0.5"
    assert answered_before(conversation, "u1") == answered_before(None, "") == ""
    assert "changed-mark" in live_head("starter", True, "", None, True, None)


def test_the_meter_tells_the_share_of_the_context():
    """P2, F1: the whole conversation with the draft; too long is said in words; nothing where it is not known."""
    assert "50 % of the context" in context_meter(256, 512)
    assert "256 of 512 tokens" in context_meter(256, 512)
    assert "too long for this model" in context_meter(513, 512)
    assert "the first 2 messages left out" in context_meter(500, 512, 2)
    assert "%" not in context_meter(None)
