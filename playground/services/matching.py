"""An answer beside the one that was expected: the same, the same but for case and punctuation, or how alike they are."""

from __future__ import annotations

import functools
import itertools
import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from rapidfuzz.distance import Indel

from playground.conversation import without_reasoning

Agreement = Literal["match", "near", "none"]
Kind = Literal["same", "missing", "added"]
COMPARED_CHARACTERS = 10_000  # of each text, for how alike they are: a millisecond at most
CACHED_CHARACTERS = 4_000  # of both texts together: a long list is compared again whenever it is drawn
COMPARED_WORDS = 400  # of each text, for what differs; more of it nobody reads

_UNSPACED = "\u0e00-\u0eff\u3040-\u30ff\u3400-\u9fff"  # scripts that put no spaces between words
_WORDS = re.compile(rf"[{_UNSPACED}]\s?|[^\s{_UNSPACED}]+\s?")  # with the space behind it
_APOSTROPHES = re.compile("['’‘ʼ]")
_IN_NUMBER = re.compile(r"((?<=\d)[.,:/-](?=\d)|(?<![\w)])(?:-(?=\.?\d)|\.(?=\d)))")  # 3.5, 1,000, -2, .5


@dataclass(frozen=True)
class Match:
    """``near`` is the same but for case and punctuation; ``similarity`` is from 0 to 1, and 1 for a match."""

    agreement: Agreement
    similarity: float

    @property
    def percent(self) -> int:
        """How alike they are, rounded down: 100 is a match, and nothing else is."""
        return 100 if self.agreement == "match" else min(99, int(self.similarity * 100))


@dataclass(frozen=True)
class Piece:
    """Some words in a row, with the space behind them: in both texts, ``missing`` from the answer, or ``added`` in it."""

    kind: Kind
    text: str


def match(answer: str, expected: str) -> Match:
    """How ``answer`` compares with ``expected``, both without what a model thought on the way.

    White space counts as one space. The similarity is that of the first `COMPARED_CHARACTERS` of each: twice the
    characters that stand in both in the same order, as a share of all characters (normalised Indel). Cached for short texts.
    """
    return (_matched if len(answer) + len(expected) > CACHED_CHARACTERS else _matched_before)(answer, expected)


def _matched(answer: str, expected: str) -> Match:
    given, wanted = answered(answer), wanted_of(expected)
    if given == wanted:
        return Match("match", 1.0)
    similarity = Indel.normalized_similarity(given[:COMPARED_CHARACTERS], wanted[:COMPARED_CHARACTERS])
    bare = _bare(given)
    return Match("near" if bare and bare == _bare(wanted) else "none", similarity)


_matched_before = functools.lru_cache(4096)(_matched)


def differences(answer: str, expected: str) -> tuple[tuple[Piece, ...], bool]:
    """What is missing from ``answer`` and what it adds, word by word in reading order; whether texts were cut for that.

    Of what was replaced, the missing words come first.
    """
    given, given_cut = _words(answered(answer))
    wanted, wanted_cut = _words(wanted_of(expected))
    return tuple(_pieces(wanted, given)), given_cut or wanted_cut


def _words(text: str) -> tuple[list[str], bool]:
    words = _WORDS.findall(f"{text[:COMPARED_CHARACTERS]} ")
    return words[:COMPARED_WORDS], len(text) > COMPARED_CHARACTERS or len(words) > COMPARED_WORDS


def _pieces(wanted: Sequence[str], given: Sequence[str]) -> Iterator[Piece]:
    steps = Indel.opcodes([word.strip() for word in wanted], [word.strip() for word in given])
    for same, run in itertools.groupby(steps, lambda step: step.tag == "equal"):
        here = list(run)
        missing = "".join(word for step in here for word in wanted[step.src_start : step.src_end])
        added = "".join(word for step in here for word in given[step.dest_start : step.dest_end])
        if same:
            yield Piece("same", added)
            continue
        if missing:
            yield Piece("missing", missing)
        if added:
            yield Piece("added", added)


def answered(answer: str) -> str:
    """The part of an answer that is compared, on one line; "" where a model has thought and said nothing yet."""
    return _on_one_line(without_reasoning(answer))


def wanted_of(expected: str) -> str:
    """The part of an expected answer that is compared, on one line; all of it where it is nothing but reasoning."""
    return _on_one_line(without_reasoning(expected)) or _on_one_line(expected)


def _on_one_line(text: str) -> str:
    return " ".join(unicodedata.normalize("NFC", text).split())


def _bare(text: str) -> str:
    """``text`` without case and punctuation; what punctuation says in a number stays, so 3.5 is never 35."""
    parts = _IN_NUMBER.split(_APOSTROPHES.sub("", text))  # every other one is such a mark
    bare = (part if place % 2 else part.translate(_SPACED) for place, part in enumerate(parts))
    return " ".join("".join(bare).casefold().split())


class _Spaced(dict[int, str]):
    """A space for each punctuation mark, and every other character for itself; looked up once."""

    def __missing__(self, code: int) -> str:
        sign = chr(code)
        self[code] = " " if sign == "`" or unicodedata.category(sign).startswith("P") else sign
        return self[code]


_SPACED = _Spaced()
