"""Which columns of a dataset hold the prompt and the expected answer, by their names and by what is in them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from playground.services.tables.values import is_conversation, text_of


@dataclass(frozen=True)
class Columns:
    """Which columns of a dataset are what; "" for none. With ``messages`` only ``system`` counts beside it,
    for conversations that have no system message of their own.

    ``input`` is what an instruction is about (Alpaca): it follows the prompt after an empty line.
    """

    prompt: str = ""
    expected: str = ""
    input: str = ""
    system: str = ""
    messages: str = ""


# As data sets name them, the plainest first: Alpaca, TRL, question answering, mathematics, summaries.
_PROMPTS = (
    "instruction", "prompt", "question", "query", "problem", "input", "user", "human", "user_message", "user_prompt",
    "request", "source", "src", "article", "document", "dialogue", "text", "content", "sentence",
    "inputs",
)  # fmt: skip
# Instead of the usual order, what answers belong to these prompts.
_PAIRS = {
    "prompt": ("completion", "response", "chosen"),
    "question": ("answer", "answers", "response"),
    "problem": ("solution", "answer"),
    "article": ("highlights", "summary"),
    "source": ("target",),
    "text": ("code",),
}
_EXPECTED = (
    "output", "response", "completion", "answer", "answers", "chosen", "solution", "expected", "expected_answer",
    "expected_output", "ground_truth", "reference", "reference_answer", "target", "tgt", "assistant", "gpt", "bot", "reply",
    "summary", "highlights", "label", "final_answer",
    "solutions", "targets",
)  # fmt: skip
# Names that are as often something else, a tag or somebody's name: prompts only beside an answer to them.
_ONLY_WITH = {
    "source": ("target", "tgt"),
    "src": ("target", "tgt"),
    "user": ("assistant", "bot", "response", "reply"),
    "human": ("assistant", "gpt", "bot", "response", "reply"),
}
_INPUTS = {
    "instruction": ("input", "context", "passage"),
    "question": ("context", "passage"),
    "query": ("context", "passage"),
}
_SYSTEMS = ("system", "system_prompt", "system_message")
_MESSAGES = ("messages", "conversations", "conversation", "chat", "dialog", "dialogue", "turns", "chosen")
_NO_TEXT = ("rejected", "id", "url", "uuid", "hash", "source", "dataset", "category", "language", "lang")


def guessed(names: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> Columns:
    """How the columns of a dataset are meant: by their names as far as these are known, else the longest texts in them."""
    known = {_plain(name): name for name in reversed(names)}
    system = _first(_SYSTEMS, known)
    prompt = _first([name for name in _PROMPTS if _is_prompt(name, known)], known)
    conversations = [name for name in names if any(is_conversation(row.get(name)) for row in rows)]
    if not _has_plain_pair(prompt, known) and (messages := _messages(conversations, known)):
        return Columns(messages=messages, system=system)
    if prompt:
        expected = _first((*_PAIRS.get(_plain(prompt), ()), *_EXPECTED), known, besides=prompt)
        about = _first(_INPUTS.get(_plain(prompt), ()), known)
        return Columns(prompt, expected or _near(_EXPECTED, known, prompt, about, system), about, system)
    return _by_content(names, rows, known, system)


def _plain(name: str) -> str:
    """A name as it is compared: "Expected Answer" is "expected_answer"."""
    return "_".join(name.strip().casefold().replace("-", " ").replace("_", " ").split())


def _is_prompt(name: str, known: Mapping[str, str]) -> bool:
    """Whether a column of that name holds prompts, seeing what is beside it."""
    return name not in _ONLY_WITH or any(other in known for other in _ONLY_WITH[name])


def _first(wanted: Sequence[str], known: Mapping[str, str], besides: str = "") -> str:
    return next((known[name] for name in wanted if name in known and known[name] != besides), "")


def _near(wanted: Sequence[str], known: Mapping[str, str], *besides: str) -> str:
    """The first column that has one of the wanted words in its name, such as ``model_answer``."""
    rest = {plain: name for plain, name in known.items() if name not in besides and not _is_no_text(plain)}
    return next((name for word in wanted for plain, name in rest.items() if word in plain.split("_")), "")


def _has_plain_pair(prompt: str, known: Mapping[str, str]) -> bool:
    """Whether there are columns for prompt and answer, so that a conversation beside them is the same once more."""
    return bool(prompt and _first(_EXPECTED, known, besides=prompt))


def _messages(conversations: Sequence[str], known: Mapping[str, str]) -> str:
    """The column of whole conversations, by its name before others."""
    named = [known[name] for name in _MESSAGES if known.get(name) in conversations]
    return next(iter((*named, *(one for one in conversations if not _is_no_text(_plain(one))))), "")


def _is_no_text(plain: str) -> bool:
    return plain in _NO_TEXT or plain.endswith(("_id", "_url"))


def _by_content(
    names: Sequence[str], rows: Sequence[Mapping[str, Any]], known: Mapping[str, str], system: str
) -> Columns:
    """Columns whose names hold a known word, and the longest texts for what is still missing, in the order of the file."""
    prompt = _near(_PROMPTS, known, system)
    expected = _near(_EXPECTED, known, prompt, system)
    left = [name for name in names if name not in (prompt, expected, system) and not _is_no_text(_plain(name))]
    longest = sorted((name for name in left if _length(name, rows)), key=lambda name: -_length(name, rows))
    missing = (not prompt) + (not expected)
    found = sorted(longest[:missing], key=list(names).index)
    prompt = prompt or (found.pop(0) if found else "")
    expected = expected or (found.pop(0) if found else "")
    return Columns(prompt, expected, system=system)


def _length(name: str, rows: Sequence[Mapping[str, Any]]) -> float:
    """How many characters the texts in a column have together; numbers and the like are none."""
    return sum(
        len(row[name])
        for row in rows
        if isinstance(row.get(name), str) and text_of(row[name]) and not _is_number(row[name])
    )


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
