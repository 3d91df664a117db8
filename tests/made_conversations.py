"""Conversations for property tests: any tree of turns, with texts that have broken programs before."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from playground.conversation import Conversation, Reply, Turn
from playground.types import GenerationSettings, GenerationStats, ModelSpec, Provenance, Role

NOW = 1_795_000_000.0
_ODD = [
    "", " ", "\n", "a\r\nb", "\r", "\u2028", "\x85", "\x0c", "\x1b[0m", "\ufeff", "日本語", "👩‍👩‍👧", "# Title",
    "## User", "## User · now",
    "<!-- message -->", "\\<!-- message -->", "<!-- conversation -->", "<!-- Adapter Playground conversations 1 -->",
    "-" * 72, "\\" + "-" * 72, "\\\\" + "=" * 72, "=" * 72, "Adapter Playground conversations 1", "```\n# x\n```",
    "\\", '"', "{",
    "<think>\nso\n</think>\n\nyes", "a</think>b", "<think>open", "| a |", "*x*", "Title: x",
]  # fmt: skip
WHOLE = st.characters(exclude_categories=("Cs",), exclude_characters="\0")
SAID = st.lists(st.sampled_from(_ODD) | st.text(WHOLE, max_size=12), max_size=4).flatmap(
    lambda parts: st.sampled_from(["\n", ""]).map(lambda between: between.join(parts))
)
NAMES = st.sampled_from(["starter", "org/model 7B", "ü:x", "a · b", "pirate"])
WORDS = st.text(WHOLE, max_size=30).map(lambda text: " ".join(text.split()))
SECONDS = st.floats(0, 250_000_000_000)
SPECS = st.builds(
    ModelSpec, NAMES, st.lists(st.tuples(NAMES, st.floats(-100, 100)), max_size=2).map(tuple), backend=NAMES
)
SETTINGS = st.builds(
    GenerationSettings,
    temperature=st.floats(0, 2),
    stop=st.lists(st.text(WHOLE, min_size=1, max_size=3), max_size=2).map(tuple),
    seed=st.none() | st.integers(0, 2**63 - 1),
    logit_bias=st.dictionaries(st.integers(0, 2**31 - 1), st.floats(-100, 100), max_size=2),
)
PROVENANCES = st.builds(
    Provenance,
    base=NAMES,
    revision=WORDS,
    adapters=st.lists(st.tuples(NAMES, NAMES, st.floats(-100, 100)), max_size=2).map(tuple),
    quantization=st.just("none"),
    dtype=st.just("float32"),
    device=st.just("cpu"),
    template=st.sampled_from(["chat", "instruction", "raw"]),
    settings=SETTINGS,
    seed=st.integers(0, 2**63 - 1),
    versions=st.dictionaries(NAMES, NAMES, max_size=2),
)
REPLIES = st.builds(
    Reply,
    SPECS,
    st.sampled_from(["stop", "length", "cancelled"]),
    template=st.sampled_from(["chat", "instruction", "raw"]),
    alone=st.booleans(),
    stats=st.builds(
        GenerationStats,
        st.integers(0, 9),
        st.integers(0, 9),
        st.floats(0, 9),
        st.none() | st.floats(0, 9),
        st.integers(0, 9),
    ),
    notices=st.lists(WORDS, max_size=2).map(tuple),
    provenance=st.none() | PROVENANCES,
    prefill=SAID,
    token_ids=st.lists(st.integers(0, 2**31 - 1), max_size=3).map(tuple),
    thought_s=st.none() | st.floats(0, 9),
    chat_template_kwargs=st.dictionaries(NAMES, st.none() | st.booleans() | st.integers(-5, 5) | NAMES, max_size=2),
)


@st.composite
def turns(draw: Any, most: int = 7) -> tuple[Turn, ...]:
    """A tree of turns in the order in which they were written; roles need not take turns."""
    made: list[Turn] = []
    for number in range(draw(st.integers(0, most))):
        parent = draw(st.sampled_from(["", *(one.id for one in made)]))
        role: Role = draw(st.sampled_from(["user", "assistant", "system"]))
        is_answer = role == "assistant"
        reply = draw(st.none() | REPLIES) if is_answer else None
        made.append(
            Turn(
                f"t{number} ü/", parent, role, draw(SAID), draw(SECONDS), reply,
                model_id="" if reply else draw(st.just("") | NAMES),
                thumb=draw(st.sampled_from([-1, 0, 1])) if is_answer else 0, edited=draw(st.booleans()),
                expected=draw(st.just("") | SAID) if role == "user" else "",
            )
        )  # fmt: skip
    return tuple(made)


@st.composite
def conversations(draw: Any, number: int = 0) -> Conversation:
    """A conversation with any of its turns at the end of the open path."""
    said = draw(turns())
    return Conversation(
        f"c{number}", "", draw(SECONDS), draw(SECONDS), draw(st.just("") | WORDS),
        draw(st.sampled_from(["chatbot", "code_generation"])), draw(st.just("") | SAID), said,
        draw(st.sampled_from(["", *(turn.id for turn in said)])),
    )  # fmt: skip


def files(most: int = 3) -> st.SearchStrategy[tuple[Conversation, ...]]:
    """Some conversations, each under an id of its own."""
    return st.integers(1, most).flatmap(lambda count: st.tuples(*map(conversations, range(count))))
