"""Events on the wire, without HTTP."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from playground.api import wire
from playground.api.schemas.common import Made
from playground.api.schemas.openai import ChatCompletion
from playground.errors import ShuttingDown
from playground.services.answers import Answers
from playground.types import GenerationEvent, GenerationSettings, GenerationStats, Provenance, Status, Token
from tests.api.fake_engine import LOADING, end, text

REPLY = wire.ChatReply("chatcmpl-1", 7, "starter:pirate")


def parsed(line: str) -> dict:
    assert line.startswith("data: ")
    assert line.endswith("\n\n")
    return json.loads(line[6:])


def test_the_first_chunk_of_each_answer_names_the_role():
    """A4: clients read the role from the first chunk."""
    first, second = (parsed(line) for line in REPLY.opening(2))
    assert first["choices"][0] == {
        "index": 0,
        "delta": {"role": "assistant", "content": ""},
        "logprobs": None,
        "finish_reason": None,
    }
    assert second["choices"][0]["index"] == 1
    assert first["object"] == "chat.completion.chunk"
    assert (first["id"], first["created"], first["model"]) == ("chatcmpl-1", 7, "starter:pirate")


def test_text_and_the_end_travel_in_chunks_of_their_own():
    """A4, G5: one chunk for the text, then one that carries the finish reason and no text."""
    first, last = (parsed(line)["choices"][0] for line in REPLY.progress(end("length", "mate")))
    assert (first["delta"], first["finish_reason"]) == ({"content": "mate"}, None)
    assert (last["delta"], last["finish_reason"]) == ({}, "length")


def test_while_nothing_is_written_a_comment_keeps_the_line_alive():
    """G5: progress of a load is a comment, which OpenAI's clients skip."""
    assert list(REPLY.progress(LOADING)) == [": loading reading weights\n\n"]


def test_a_notice_cannot_break_out_of_its_comment():
    """S3: line breaks in a comment would start an event of their own."""
    event = GenerationEvent(Status("prefilling"), notice="two turns\n\ndata: {}")
    assert next(REPLY.progress(event)) == ": two turns data: {}\n\n"


def test_logprobs_have_openais_shape_and_no_false_bytes():
    """A4: a token that is only part of a character has no bytes of its own to show."""
    tokens = (Token(1, "Hé", -0.5, ((1, "Hé", -0.5), (2, "\ufffd", -1.5))),)
    reply = wire.ChatReply("x", 0, "starter", logprobs=True)
    chunk = parsed(next(reply.progress(text("Hé", tokens=tokens))))
    assert chunk["choices"][0]["logprobs"]["content"] == [
        {
            "token": "Hé",
            "logprob": -0.5,
            "bytes": [72, 195, 169],
            "top_logprobs": [
                {"token": "Hé", "logprob": -0.5, "bytes": [72, 195, 169]},
                {"token": "\ufffd", "logprob": -1.5, "bytes": None},
            ],
        }
    ]


def test_the_end_of_an_answer_carries_what_made_it():
    """G10: in the whole reply and on the chunk with the finish reason; the schema knows every field of it."""
    made = Provenance("m", "", (("pirate", "ab", 0.5),), "none", "float32", "cpu", "chat", GenerationSettings(), 3, {})
    event = replace(end(), provenance=made)
    (last,) = REPLY.progress(event, ["Something to know."])
    assert parsed(last)["provenance"]["adapters"] == [["pirate", "ab", 0.5]]
    assert parsed(last)["notices"] == ["Something to know."]
    answers = Answers(1)
    answers.add(event)
    whole = json.loads(json.dumps(REPLY.whole(answers)))
    assert whole["provenance"] == parsed(last)["provenance"]
    assert set(whole["provenance"]) == set(Made.model_fields)
    assert ChatCompletion.model_validate(whole).provenance is not None


def test_usage_counts_the_prompt_once_and_the_answers_together():
    """A4: true token counts, also for several answers."""
    answers = Answers(2)
    for event in (text("a", 3, 0), text("b", 1, 1), end("stop", "", 4, 0), end("length", "", 2, 1)):
        answers.add(event)
    counted = answers.usage()
    assert counted.pop("prompt_tokens_details") == {"cached_tokens": 3}
    assert counted == {"prompt_tokens": 5, "completion_tokens": 6, "total_tokens": 11}


def test_tokens_that_one_answer_had_to_read_are_not_called_known():
    """A4, G11: of several answers to one prompt the first reads it, and the others find it read."""
    first, second = (
        replace(end(), stats=GenerationStats(90, 2)),
        replace(end(index=1), stats=GenerationStats(90, 2, 0, None, 89)),
    )
    answers = Answers(2)
    answers.add(second)
    answers.add(first)
    assert answers.usage()["prompt_tokens_details"] == {"cached_tokens": 0}


def test_the_usage_chunk_comes_last_and_only_when_asked_for():
    """A4: stream_options.include_usage."""
    answers = Answers(1)
    answers.add(end())
    assert list(REPLY.closing(answers)) == [wire.DONE]
    usage, done = wire.ChatReply("x", 0, "starter", usage=True).closing(answers)
    assert (parsed(usage)["choices"], parsed(usage)["usage"]["total_tokens"], done) == ([], 7, wire.DONE)


def test_an_answer_that_the_server_gave_up_is_an_error_and_not_a_stop():
    """G5: a finish reason is true or there is none."""
    with pytest.raises(ShuttingDown, match="cut off"):
        Answers(1).add(end("cancelled"))


def test_the_fingerprint_is_the_systems_and_not_the_answers():
    """A4: OpenAI's system_fingerprint: another seed leaves it, another strength of the adapter does not."""
    made = Provenance("m", "", (("pirate", "ab", 0.5),), "none", "float32", "cpu", "chat", GenerationSettings(), 3, {})

    def told(provenance: Provenance) -> str:
        (last,) = REPLY.progress(replace(end(), provenance=provenance))
        return parsed(last)["system_fingerprint"]

    assert told(made).startswith("fp_")
    assert told(made) == told(replace(made, seed=4))
    assert told(made) != told(replace(made, adapters=(("pirate", "ab", 1.0),)))


@pytest.mark.parametrize("reply", [REPLY, wire.TextReply("cmpl-1", 7, "starter")])
def test_an_answer_that_was_kept_is_marked(reply):
    """A8: `cached` is there, and true, only where the answer was made earlier."""
    for cached in (False, True):
        answers = Answers(1)
        answers.add(replace(end(), cached=cached))
        assert reply.whole(answers).get("cached", False) is cached
        assert parsed(next(reply.progress(replace(end(), cached=cached)))).get("cached", False) is cached


def test_a_text_has_one_chunk_for_an_event():
    """A4, G5: text and the finish reason together; while nothing is written, a comment."""
    reply = wire.TextReply("cmpl-1", 7, "starter", n=2)
    assert list(reply.opening(4)) == []
    (last,) = reply.progress(end("length", "mate", index=3))
    choice = {"index": 3, "text": "mate", "logprobs": None, "finish_reason": "length"}
    assert parsed(last)["choices"] == [choice]
    assert list(reply.progress(LOADING)) == [": loading reading weights\n\n"]


def test_tokens_are_found_where_they_stand_in_the_prompt():
    """A4: special tokens are not in the text, and a word's leading space may not be in the token."""
    tokens = [
        Token(number, piece, -1.0) for number, piece in enumerate(("<s>", "Hé", "llo", "\ufffd", "you", "!", "?"))
    ]
    assert wire.text_offsets(tokens, 5, "Héllo \u00e9 you") == [0, 0, 2, 5, 8, 11, 12]
    assert wire.text_offsets(tokens[5:], 0, "", 40) == [40, 41]


def test_usage_counts_each_prompt_once():
    """A4: also where each has several answers."""
    answers = Answers(4)
    for index, count in enumerate((1, 2, 3, 4)):
        answers.add(end(count=count, index=index))
    assert wire.TextReply("x", 0, "m", n=2).counted(answers) == {
        "prompt_tokens": 10,
        "completion_tokens": 10,
        "total_tokens": 20,
        "prompt_tokens_details": {"cached_tokens": 6},
    }
