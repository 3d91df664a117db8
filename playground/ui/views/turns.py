"""What there is to say of one message, in the same words wherever messages are listed: who wrote it, its text, what it cost.

Pure functions.
"""

from __future__ import annotations

import time

from playground.conversation import Reply, Turn, split_reasoning
from playground.types import GenerationStats
from playground.ui import texts
from playground.ui.safe_text import escape
from playground.ui.views.figures import known_text, plural, seconds_text
from playground.ui.views.markdown import markdown_html, plain_html


def who_line(label: str, changed: bool, note: str = "") -> str:
    """Which model and adapter answered; ``changed`` marks another one than before, ``note`` is HTML."""
    mark = (
        f'<b class="changed-mark" title="{escape(texts.OTHER_WEIGHTS_HELP)}">{texts.OTHER_WEIGHTS}</b>'
        if changed
        else ""
    )
    base, plus, adapter = label.partition(" + ")
    named = f"{escape(base)}{f' + <b>{escape(adapter)}</b>' if plus else ''}" if label else "Assistant"
    return f'<p class="who"{" data-changed" if changed else ""}><span class="who-name">{named}</span>{mark}{note}</p>'


def alone_note(reply: Reply | None) -> str:
    """Says that the prompt was sent without what was said before it; "" where it was not."""
    if reply is None or not (reply.alone or reply.template != "chat"):
        return ""
    words = f"{texts.TEMPLATES[reply.template]} · prompt alone" if reply.alone else texts.TEMPLATES[reply.template]
    return f'<span class="quiet" title="{escape(texts.ALONE_HELP)}">{words}</span>'


def body_html(turn: Turn) -> str:
    """The text of a message: an answer as Markdown under its folded reasoning, anything else as it was written."""
    if turn.role != "assistant":
        return f'<div class="bubble-text">{plain_html(turn.content)}</div>'
    reasoning, answer, ended = split_reasoning(turn.content)
    thought_s = turn.reply.thought_s if turn.reply else None
    fold = reasoning_fold(reasoning, ended, thought_s, turn.id)
    shown = markdown_html(answer)
    if not answer.strip():
        shown = f'<p class="quiet">{texts.NOTHING_WRITTEN}</p>' if reasoning is None else ""
    return f'{fold}<div class="bubble-text answer-like">{shown}</div>'


def reasoning_fold(reasoning: str | None, ended: bool, thought_s: float | None, name: str) -> str:
    """What the model thought, folded; ``name`` tells folds apart, so that one that is open stays so."""
    if reasoning is None:
        return ""
    words = _thought_for(thought_s) if ended else texts.THINKING_UNFINISHED
    return (
        f'<details class="reasoning" data-fold="{escape(name)}"><summary>{words}</summary>'
        f'<div class="bubble-text">{plain_html(reasoning)}</div></details>'
    )


def live_head(
    label: str, changed: bool, progress: str, reasoning: str | None, ended: bool, thought_s: float | None
) -> str:
    """Above an answer that is being written: who writes it, what it waits for, and what it thinks.

    ``progress`` is HTML. ``ended`` says whether the reasoning has.
    """
    thought = ""
    if reasoning is not None:
        words = _thought_for(thought_s) if ended else texts.THINKING
        thought = (
            f'<details class="reasoning" data-fold="live"><summary>{words}</summary>'
            f'<div class="bubble-text">{plain_html(reasoning)}</div></details>'
        )
    state = "waiting" if progress else "thinking" if reasoning is not None and not ended else "streaming"
    return f'<div class="live-head" data-state="{state}">{who_line(label, changed)}{progress}{thought}</div>'


def marks(turn: Turn) -> list[str]:
    """What a reader must know of it: it was broken off, or a person rewrote it."""
    finish = turn.reply.finish_reason if turn.reply else ""
    stopped = f'<b class="mark-stopped" title="{escape(texts.FINISH_HELP["cancelled"])}">stopped</b>'
    cut = f'<b class="mark-cut" title="{escape(texts.FINISH_HELP["length"])}">cut at the limit</b>'
    return [
        *([stopped] if turn.stopped else []),
        *([cut] if finish == "length" else []),
        "<b>edited</b>" if turn.edited else "",
    ]


def figures(reply: Reply | None) -> list[str]:
    """Tokens · tokens/s · first token · seed · finish, as far as they are known."""
    if reply is None:
        return []
    stats: GenerationStats = reply.stats
    speed, first = stats.tokens_per_second, stats.first_token_s
    return [
        plural(stats.completion_tokens, "token") if stats.completion_tokens else "",
        "" if speed is None else f"{speed:.1f} tokens/s",
        "" if first is None else f"first token {seconds_text(first)}",
        known_text(stats),
        f"seed {reply.provenance.seed}" if reply.provenance else "",
        texts.FINISH["stop"] if reply.finish_reason == "stop" else "",
        f'<span title="{escape(texts.CACHED_HELP)}">{texts.CACHED}</span>' if reply.cached else "",
    ]


def time_html(at: float) -> str:
    """By this machine's clock; the page says it by its reader's."""
    if not at:
        return ""
    exact = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(at))
    return f'<time datetime="{exact}">{time.strftime("%H:%M", time.localtime(at))}</time>'


def _thought_for(thought_s: float | None) -> str:
    if thought_s is None:
        return "Thought"
    return f"Thought for {max(1, round(thought_s))} s" if thought_s < 100 else f"Thought for {seconds_text(thought_s)}"
