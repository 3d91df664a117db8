"""A conversation as pairs of prompt and response, each beside the answer that was expected. Pure functions."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from playground.conversation import Conversation, Turn, without_reasoning
from playground.services.matching import Match, match
from playground.ui import texts
from playground.ui.safe_text import escape
from playground.ui.views.difference import difference, expected_html, match_mark
from playground.ui.views.figures import plural
from playground.ui.views.markdown import plain_html
from playground.ui.views.said import label_of
from playground.ui.views.transcript import PLAIN, Scene
from playground.ui.views.turns import body_html, figures, marks, time_html, who_line

SHOWN_PAIRS = 60  # a page with more of them gets slow; the earlier ones are a click away
SHOWN_WEIGHTS = 6  # lines of the summary
LONG_PROMPT = 900  # characters; longer ones are folded
EXCERPT = 300


@dataclass(frozen=True)
class Pair:
    """A prompt and what was answered to it on one path; either may lack. ``told`` is a system message by itself."""

    prompt: Turn | None = None
    response: Turn | None = None
    told: Turn | None = None

    @property
    def id(self) -> str:
        """The id of its first turn."""
        return next((turn.id for turn in (self.prompt, self.response, self.told) if turn), "")


def pairs_of(path: Iterable[Turn]) -> list[Pair]:
    """The turns of ``path`` as pairs, in their order: an answer belongs to the prompt right before it."""
    found: list[Pair] = []
    for turn in path:
        last = found[-1] if found else Pair()
        if turn.role == "assistant" and last.prompt and not last.response:
            found[-1] = Pair(last.prompt, turn)
        elif turn.role == "system":
            found.append(Pair(told=turn))
        else:
            found.append(Pair(turn) if turn.role == "user" else Pair(response=turn))
    return found


def pairs(conversation: Conversation | None, scene: Scene = PLAIN) -> str:
    """The pairs as HTML, newest last; without any, what will stand here. Raises `NotFound` for a leaf that is gone."""
    name = escape(conversation.id if conversation else "")
    found = pairs_of(conversation.path(scene.leaf)) if conversation else []
    if not found and not scene.pending:
        return f'<div class="pairs" data-conversation="{name}"><p class="pairs-empty">{texts.NO_PAIRS}</p></div>'
    hidden = 0 if scene.everything else max(0, len(found) - SHOWN_PAIRS)
    shown = [_pair(conversation, found, place, scene) for place in range(hidden, len(found))] if conversation else []
    pending = [_article("", len(found) + 1, _pending(scene.pending))] if scene.pending else []
    state = ' data-writing="yes"' if scene.writing else ""
    return (
        f'<div class="pairs" data-conversation="{name}" role="group" aria-label="{texts.PAIRS}"{state}>{_earlier(hidden)}'
        f"{''.join([*shown, *pending])}</div>"
    )


def awaited(expected: str) -> str:
    """The expected answer beside a response that is being written; "" where there is none."""
    if not expected.strip():
        return ""
    return f'<div class="pair-expected">{expected_html(expected, f"<p class=quiet>{texts.COMPARED_LATER}</p>")}</div>'


def expected_of(conversation: Conversation | None, scene: Scene) -> str:
    """The answer that is expected of what is being written: by what was sent, or by the prompt that is answered again."""
    if scene.pending or conversation is None:
        return scene.expected
    path = conversation.path(scene.leaf)
    return path[-1].expected if path else ""


def summary(conversation: Conversation | None, leaf: str | None = None) -> str:
    """How many responses match what was expected, for each model and adapter; "" where nothing was expected."""
    matches: dict[str, list[Match]] = {}
    for pair in pairs_of(conversation.path(leaf)) if conversation else []:
        if pair.prompt and pair.response and pair.prompt.expected.strip():
            found = match(pair.response.content, pair.prompt.expected)
            matches.setdefault(label_of(pair.response), []).append(found)
    several = len(matches) > 1
    lines = [_tally(label if several else "", found) for label, found in matches.items()]
    hidden = len(lines) - SHOWN_WEIGHTS
    more = f"<p>{texts.EARLIER_WEIGHTS.format(count=hidden)}</p>" if hidden > 0 else ""
    return f'<div class="pairs-summary">{more}{"".join(lines[-SHOWN_WEIGHTS:])}</div>' if lines else ""


def _tally(label: str, found: Sequence[Match]) -> str:
    """``3 of 5 match, 1 more but for case and punctuation · 82 % alike on average``."""
    same, near = (sum(one.agreement == kind for one in found) for kind in ("match", "near"))
    besides = texts.NEAR_COUNT.format(near=near) if near else ""
    alike = int(100 * sum(one.similarity for one in found) / len(found))
    named = f"<bdi>{escape(label)}</bdi>: " if label else ""
    counted = texts.MATCH_COUNT.format(same=same, all=len(found))
    return f"<p>{named}<b>{counted}</b>{besides} · {texts.ALIKE.format(alike)}</p>"


def _earlier(hidden: int) -> str:
    if not hidden:
        return ""
    words = f"Show {plural(hidden, 'earlier pair')}"
    return f'<div class="earlier"><button type="button" class="plain" data-pairs="earlier">{words}</button></div>'


def _pair(conversation: Conversation, found: Sequence[Pair], place: int, scene: Scene) -> str:
    pair = found[place]
    if pair.told is not None:
        return _article(pair.id, place + 1, _told(pair.told))
    last = place == len(found) - 1
    answered_now = last and scene.writing and not scene.pending
    prompt = _prompt(conversation, pair.prompt) if pair.prompt else ""
    answer = (
        "" if answered_now and not pair.response else _answer(conversation, pair, found[place - 1] if place else None)
    )
    return _article(pair.id, place + 1, prompt + answer)


def _article(turn: str, number: int, inner: str) -> str:
    return f'<article class="pair" data-turn="{escape(turn)}" aria-label="{texts.PAIR} {number}">{inner}</article>'


def _told(turn: Turn) -> str:
    return f'<div class="pair-told">{_label("System")}{_whole_or_folded(turn.content, turn.id)}</div>'


def _pending(text: str) -> str:
    return f'<div class="pair-prompt">{_label(texts.PROMPT)}{_whole_or_folded(text, "pending")}</div>'


def _prompt(conversation: Conversation, turn: Turn) -> str:
    said = [*marks(turn), _version(conversation, turn)]
    again = f'class="plain" data-pairs="use" title="{texts.USE_AGAIN_HELP}"'
    head = _label(texts.PROMPT, said, f'<button type="button" {again}>{texts.USE_AGAIN}</button>')
    return f'<div class="pair-prompt">{head}{_whole_or_folded(turn.content, turn.id)}</div>'


def _label(words: str, said: Sequence[str] = (), button: str = "") -> str:
    line = " · ".join(part for part in (words, *said) if part)
    return f'<div class="pair-head"><p class="pair-label">{line}</p>{button}</div>'


def _whole_or_folded(text: str, name: str) -> str:
    """``text`` as it was written; a long one behind its beginning. The page's script takes it from ``data-text``."""
    whole = f'<div class="bubble-text" data-text="prompt" dir="auto">{plain_html(text)}</div>'
    if len(text) <= LONG_PROMPT:
        return whole
    start = escape(" ".join(text[:EXCERPT].split()))
    return (
        f'<details class="long-text" data-fold="{escape(name)}-text"><summary><span class="start">{start}… </span>'
        f'<span class="more">{texts.SHOW_ALL}</span><span class="less">{texts.SHOW_LESS}</span></summary>{whole}</details>'
    )


def _answer(conversation: Conversation, pair: Pair, before: Pair | None) -> str:
    """The response, and beside it what was expected."""
    expected = pair.prompt.expected if pair.prompt and pair.prompt.expected.strip() else ""
    shown = f'<p class="quiet">{texts.NOT_ANSWERED}</p>'
    if pair.response:
        shown = _response(conversation, pair.response, before)
    beside = f'<div class="pair-expected">{_compared(pair, expected)}</div>' if expected else ""
    return f'<div class="pair-answer"><div class="pair-response">{shown}</div>{beside}</div>'


def _compared(pair: Pair, expected: str) -> str:
    if pair.response is None:
        return expected_html(expected, "")
    found = match(pair.response.content, expected)
    told = difference(pair.response.content, expected, found, f"{pair.response.id}-difference")
    return expected_html(expected, match_mark(found)) + told


def _response(conversation: Conversation, turn: Turn, before: Pair | None) -> str:
    notices = "".join(f'<p class="notice">{escape(one)}</p>' for one in (turn.reply.notices if turn.reply else ()))
    parts = (*marks(turn), *figures(turn.reply), _version(conversation, turn), time_html(turn.at))
    line = " · ".join(part for part in parts if part)
    copied = without_reasoning(turn.content)
    copy = f'<button type="button" class="plain" data-copy="{escape(copied)}">{texts.COPY}</button>' if copied else ""
    return (
        f"{who_line(label_of(turn), False, _in_conversation(turn, before))}{body_html(turn)}{notices}"
        f'<div class="pair-foot"><p class="figures">{line}</p>{copy}</div>'
    )


def _in_conversation(turn: Turn, before: Pair | None) -> str:
    """Says that a response also knew what was said before it: it compares with none that was asked alone."""
    if before is None or turn.reply is None or turn.reply.alone or turn.reply.template != "chat":
        return ""
    return f'<span class="quiet" title="{texts.IN_CONVERSATION_HELP}">{texts.IN_CONVERSATION}</span>'


def _version(conversation: Conversation, turn: Turn) -> str:
    """``version 2 of 3``, where there are several."""
    every = conversation.versions(turn.id)
    if len(every) < 2:
        return ""
    place = next(number for number, one in enumerate(every, 1) if one.id == turn.id)
    return f'<span title="{texts.VERSION_HELP}">{texts.VERSION.format(number=place, all=len(every))}</span>'
