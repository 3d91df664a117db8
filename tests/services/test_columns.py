"""Which columns are taken for what, in the layouts that datasets really have."""

from __future__ import annotations

from typing import Any

import pytest

from playground.services.samples import Columns, guessed, sample_of

TALK = [
    {"role": "system", "content": "Be kind."},
    {"role": "user", "content": "Hi"},
    {"role": "assistant", "content": "Hello!"},
    {"role": "user", "content": "And now?"},
    {"role": "assistant", "content": "Bye."},
]
SHAREGPT = [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello!"}]
LONG = "word " * 50

LAYOUTS: dict[str, tuple[dict[str, Any], Columns, tuple[str, str, str, int]]] = {
    # the row, how its columns are meant, and (prompt, expected, system, messages left out)
    "alpaca": (
        {"instruction": "Add.", "input": "1, 2", "output": "3", "text": "Below is…"},
        Columns("instruction", "output", "input"),
        ("Add.\n\n1, 2", "3", "", 0),
    ),
    "alpaca without input": (
        {"instruction": "Sing.", "input": "", "output": "La"},
        Columns("instruction", "output", "input"),
        ("Sing.", "La", "", 0),
    ),
    "dolly": (
        {"instruction": "Who?", "context": "Ada.", "response": "Ada", "category": "qa"},
        Columns("instruction", "response", "context"),
        ("Who?\n\nAda.", "Ada", "", 0),
    ),
    "llama-factory": (
        {"instruction": "Sing.", "input": "", "output": "La", "system": "You are a bird.", "history": [["a", "b"]]},
        Columns("instruction", "output", "input", "system"),
        ("Sing.", "La", "You are a bird.", 0),
    ),
    "prompt and completion": ({"prompt": "P", "completion": "C"}, Columns("prompt", "completion"), ("P", "C", "", 0)),
    "conversational prompt and completion": (
        {"prompt": TALK[:4], "completion": TALK[4:]},
        Columns("prompt", "completion"),
        ("And now?", "Bye.", "Be kind.", 2),
    ),
    "preferences": (
        {"prompt": "P", "chosen": "good", "rejected": "bad"},
        Columns("prompt", "chosen"),
        ("P", "good", "", 0),
    ),
    "conversational preferences": (
        {"prompt": "P", "chosen": SHAREGPT, "rejected": SHAREGPT, "score_chosen": 1.0},
        Columns("prompt", "chosen"),
        ("P", "Hello!", "", 0),
    ),
    "preferences without a prompt": (
        {"chosen": TALK, "rejected": TALK},
        Columns(messages="chosen"),
        ("And now?", "Bye.", "Be kind.", 2),
    ),
    "messages": ({"messages": TALK, "id": "x"}, Columns(messages="messages"), ("And now?", "Bye.", "Be kind.", 2)),
    "sharegpt": (
        {"id": "1", "conversations": SHAREGPT, "system": "S"},
        Columns(messages="conversations", system="system"),
        ("Hi", "Hello!", "S", 0),
    ),
    "sharegpt as text in a table": (
        {"conversations": '[{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello!"}]'},
        Columns(messages="conversations"),
        ("Hi", "Hello!", "", 0),
    ),
    "messages beside a prompt without an answer": (
        {"prompt": "Hi", "prompt_id": "abc", "messages": TALK},
        Columns(messages="messages"),
        ("And now?", "Bye.", "Be kind.", 2),
    ),
    "our own": (
        {"system": "S", "question": "Q", "answer": "A"},
        Columns("question", "answer", system="system"),
        ("Q", "A", "S", 0),
    ),
    "squad": (
        {
            "id": "1",
            "title": "T",
            "context": "C",
            "question": "Q",
            "answers": {"text": ["A", "B"], "answer_start": [0, 5]},
        },
        Columns("question", "answers", "context"),
        ("Q\n\nC", "A", "", 0),
    ),
    "prompt and response": ({"Prompt": "P", "Response": "R"}, Columns("Prompt", "Response"), ("P", "R", "", 0)),
    "query": ({"query": "Q", "response": "R", "type": "x"}, Columns("query", "response"), ("Q", "R", "", 0)),
    "numina": (
        {"source": "aime", "problem": "2+2", "solution": "It is 4.", "answer": "4"},
        Columns("problem", "solution"),
        ("2+2", "It is 4.", "", 0),
    ),
    "gsm8k": ({"question": "2+2?", "answer": "#### 4"}, Columns("question", "answer"), ("2+2?", "#### 4", "", 0)),
    "summaries": ({"article": "A", "highlights": "H", "id": "1"}, Columns("article", "highlights"), ("A", "H", "", 0)),
    "a tag called source": ({"source": "wiki", "text": "Once", "user": "ada"}, Columns("text"), ("Once", "", "", 0)),
    "source and target": ({"source": "Hi", "target": "Salut"}, Columns("source", "target"), ("Hi", "Salut", "", 0)),
    "text alone": ({"text": "Once"}, Columns("text"), ("Once", "", "", 0)),
    "text and a label": ({"text": "Nice!", "label": 1}, Columns("text", "label"), ("Nice!", "1", "", 0)),
    "input and output": ({"input": "I", "output": "O"}, Columns("input", "output"), ("I", "O", "", 0)),
    "names with spaces": (
        {"Question": "Q", "Expected Answer": "A"},
        Columns("Question", "Expected Answer"),
        ("Q", "A", "", 0),
    ),
    "words in names": (
        {"row_id": 7, "user_question": "Q", "model_answer": "A"},
        Columns("user_question", "model_answer"),
        ("Q", "A", "", 0),
    ),
    "unknown names": (
        {"n": 3, "url": "https://example.org/" + LONG, "foo": "What is it?", "bar": LONG, "lang": "en"},
        Columns("foo", "bar"),
        ("What is it?", LONG, "", 0),
    ),
    "a transcript": (
        {"chosen": "\n\nHuman: Hi\n\nAssistant: Yes?\n\nHuman: 2+2?\n\nAssistant: 4", "rejected": "\n\nHuman: Hi"},
        Columns(messages="chosen"),
        ("2+2?", "4", "", 2),
    ),
    "guanaco": ({"text": "### Human: Hi### Assistant: Yes?"}, Columns(messages="text"), ("Hi", "Yes?", "", 0)),
    "aya": ({"inputs": "Q", "targets": "A", "language": "en"}, Columns("inputs", "targets"), ("Q", "A", "", 0)),
    "mbpp": ({"task_id": 1, "text": "Add.", "code": "a + b"}, Columns("text", "code"), ("Add.", "a + b", "", 0)),
    "apps": (
        {"question": "Q", "solutions": "S", "input_output": "{}"},
        Columns("question", "solutions"),
        ("Q", "S", "", 0),
    ),
    "a source beside what is no text": ({"conversations": ["Q", "A"], "source": "web"}, Columns(), ("", "", "", 0)),
    "nothing but numbers": ({"a": 1, "b": 2.5}, Columns(), ("", "", "", 0)),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_columns_are_guessed_in_every_usual_layout(layout: str) -> None:
    """I4: the mapping is guessed from the names that trainers read, and from what is in them."""
    row, columns, expected = LAYOUTS[layout]
    assert guessed(list(row), [row]) == columns
    sample = sample_of(row, columns)
    assert (sample and (sample.prompt, sample.expected, sample.system, sample.earlier)) == (
        expected if expected[0] else None
    )


@pytest.mark.parametrize(
    ("messages", "expected"),
    [
        ([{"role": "user", "content": "Q"}], ("Q", "", "", 0)),
        ([*TALK, {"role": "user", "content": "Wait"}], ("And now?", "Bye.", "Be kind.", 2)),
        (
            [{"role": "user", "content": "Q"}, {"role": "tool", "content": "T"}, {"role": "assistant", "content": "A"}],
            ("Q", "A", "", 0),
        ),
        ([{"role": "user", "content": "Q"}, {"role": "assistant", "content": None}], ("Q", "", "", 0)),
        (
            [{"role": "user", "content": [{"type": "text", "text": "Q"}]}, {"role": "assistant", "content": "A"}],
            ("Q", "A", "", 0),
        ),
        (
            [{"from": "system", "value": "S"}, {"from": "human", "value": "Q"}, {"from": "gpt", "value": "A"}],
            ("Q", "A", "S", 0),
        ),
        (
            [
                {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "Q"}]},
                {"role": "assistant", "content": "A"},
            ],
            None,
        ),
        ([{"role": "assistant", "content": "Welcome."}], None),
        ([], None),
        ("no messages", None),
        (None, None),
        ([{"role": "user"}], None),
        ([{"role": 7, "content": "Q"}], None),
    ],
)
def test_a_conversation_gives_its_last_question_that_was_answered(messages: Any, expected: Any) -> None:
    """I4: prompt alone, comparable with the expected answer; what came before is counted, not silently dropped."""
    sample = sample_of({"m": messages}, Columns(messages="m"))
    assert (sample and (sample.prompt, sample.expected, sample.system, sample.earlier)) == expected


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (42, "42"), (True, "True"), (2.5, "2.5"), (None, ""), (float("nan"), ""), (b"bytes", ""),
        (["first", "second"], "first"), ([], ""), ({"text": ["A", "B"]}, "A"), ({"text": []}, ""),
        ({"a": 1, "b": None}, '{"a":1}'), ("\ud83d half", "? half"), ({"bytes": b"x", "path": None}, ""),
        ([{"text": "x"}], "x"), ([1, 2], "[1,2]"), ({}, ""),
    ],
)  # fmt: skip
def test_what_is_no_text_becomes_text_or_nothing(value: Any, text: str) -> None:
    """I4: numbers, lists of answers and objects as one would write them down; nothing that cannot be written."""
    sample = sample_of({"q": "Q", "a": value}, Columns("q", "a"))
    assert sample is not None
    assert sample.expected == text


def test_an_answer_nested_very_deeply_does_no_harm() -> None:
    """I4: nothing raises for one bad row."""
    value: Any = "x"
    for _ in range(900):
        value = {"text": [value]}
    assert sample_of({"q": "Q", "a": value}, Columns("q", "a")) is not None
