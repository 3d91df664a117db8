"""What the Playground shows of its conversation: nothing that was said can become part of the page."""

from __future__ import annotations

from playground.conversation import Conversation, Reply, Turn
from playground.types import GenerationStats, ModelSpec
from playground.ui.views import said
from playground.ui.views.answer import answer_status

HOSTILE = "<img src=x onerror=alert(1)> ${alert(2)} `x`"


def conversation(*turns: Turn) -> Conversation:
    return Conversation("c", "me", 0.0, 0.0, turns=turns, leaf=turns[-1].id if turns else "")


def test_the_line_says_whether_history_is_sent_and_offers_a_new_conversation():
    """P6: nobody sends what was said before unawares."""
    assert "Begins a new conversation" in said.conversation_line("", 0, "chat")
    assert "button" not in said.conversation_line("", 0, "chat")
    line = said.conversation_line("Paris", 4, "chat")
    assert "Continues" in line
    assert "“Paris”" in line
    assert "(4 messages)" in line
    assert 'data-conversation="new"' in line
    assert "Sent alone, kept in" in said.conversation_line("Paris", 1, "raw")
    assert "(1 message)" in said.conversation_line("Paris", 1, "raw")


def test_titles_messages_and_names_cannot_script():
    """S3: what people and models write is text."""
    reply = Reply(ModelSpec(HOSTILE), "cancelled")
    path = (Turn("1", "", "user", HOSTILE, 1.0), Turn("2", "1", "assistant", HOSTILE, 2.0, reply))
    for shown in (said.conversation_line(HOSTILE, 2, "chat"), said.messages(path)):
        assert "<img" not in shown
        assert "${" not in shown


def test_messages_show_role_time_what_answered_and_that_it_was_stopped_newest_last():
    """P6: a part that was kept is marked; the earliest of a long conversation are left out, and it says how many."""
    reply = Reply(ModelSpec("starter", (("pirate", 0.5),)), "cancelled")
    turns = [Turn("0", "", "user", "first", 1.0), Turn("1", "0", "assistant", "Arr", 2.0, reply)]
    shown = said.messages(turns)
    assert shown.index("first") < shown.index("Arr")
    assert shown.count("<time datetime=") == 2
    assert "starter + pirate ×0.5" in shown
    assert "<b>stopped</b>" in shown
    many = [Turn(str(number), "", "user", "x", 1.0) for number in range(said.SHOWN_MESSAGES + 3)]
    assert "3 messages before these" in said.messages(many)
    assert said.messages(many).count("<li") == said.SHOWN_MESSAGES


def test_a_kept_answer_is_shown_with_what_is_known_of_it():
    """P6: figures of one that was made here; text alone of one that a program saved."""
    stats = GenerationStats(completion_tokens=3, elapsed_s=1.5)
    made = Turn("2", "1", "assistant", "One two", 1.0, Reply(ModelSpec("starter"), "length", stats=stats))
    answer = said.kept_answer(made, None, code=False)
    assert (answer.raw, answer.weights, answer.running) == ("One two", "starter (base)", False)
    assert (answer.stats[0], answer.finish[0], answer.manifest(0)) == (stats, "length", None)
    assert not answer.can_replay(0)
    saved = said.kept_answer(Turn("2", "1", "assistant", "Hi", 1.0, model_id="gpt"), None, code=False)
    assert (saved.raw, saved.weights, saved.running) == ("Hi", "gpt", False)
    line = answer_status(saved)
    assert "not known how this message was made" in line
    assert "tokens" not in line


def test_a_question_that_waits_has_no_answer_to_show():
    """P6: a conversation may end with what a person said."""
    asked = Turn("1", "", "user", "Hi", 1.0)
    assert said.last_answer(conversation(asked), "1") is None
    assert said.last_answer(conversation(), "") is None
