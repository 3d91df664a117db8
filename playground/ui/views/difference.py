"""How an answer compares with the one that was expected, in words and marks. Pure functions."""

from __future__ import annotations

from playground.services.matching import Kind, Match, Piece, differences
from playground.ui import texts
from playground.ui.safe_text import escape
from playground.ui.views.markdown import plain_html

OPEN_CHARACTERS = 400  # of both texts: what differs in longer ones is folded
OPEN_SIMILARITY = 0.3  # of texts that have less in common, a difference says little
_MARKS: dict[Kind, str] = {"same": "span", "missing": "del", "added": "ins"}


def match_words(found: Match) -> str:
    """``Match``, ``Match but for case and punctuation``, or ``No match · 87 % alike``."""
    if found.agreement == "none":
        return texts.NO_MATCH.format(percent=found.percent)
    return texts.MATCH if found.agreement == "match" else texts.NEAR_MATCH


def match_mark(found: Match) -> str:
    """`match_words` with a sign before it, so that colour is not all that tells them apart."""
    return f'<b class="match-mark" data-agreement="{found.agreement}">{match_words(found)}</b>'


def difference(answer: str, expected: str, found: Match, name: str) -> str:
    """What is missing and what was added, word by word, in a fold that ``name`` tells from others; "" for a match."""
    if found.agreement == "match":
        return ""
    pieces, cut = differences(answer, expected)
    marked = "".join(_marked(one) for one in pieces)
    more = f'<p class="quiet">{texts.DIFFERENCE_CUT}</p>' if cut else ""
    heading = f'{texts.DIFFERENCE} <span class="key">{texts.DIFFERENCE_KEY}</span>'
    is_short = len(answer) + len(expected) <= OPEN_CHARACTERS and found.similarity >= OPEN_SIMILARITY
    return (
        f'<details class="difference" data-fold="{escape(name)}"{" open" if is_short else ""}>'
        f'<summary>{heading}</summary><p class="difference-text" dir="auto">{marked}</p>{more}</details>'
    )


def _marked(piece: Piece) -> str:
    text, tag = piece.text.rstrip(), _MARKS[piece.kind]
    return f"<{tag}>{escape(text)}</{tag}>{' ' if len(text) < len(piece.text) else ''}"


def expected_html(expected: str, judged: str) -> str:
    """The expected answer under its heading; ``judged`` is HTML."""
    return (
        f'<p class="pair-label">{texts.EXPECTED}</p>{judged}<div class="bubble-text" data-text="expected" dir="auto">'
        f"{plain_html(expected)}</div>"
    )
