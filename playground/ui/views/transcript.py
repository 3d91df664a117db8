"""A conversation as bubbles: what was said on the open path, who answered, and what can be done. Pure functions."""

from __future__ import annotations

import time
from dataclasses import dataclass

from playground.conversation import Conversation, Reply, Turn, split_reasoning
from playground.types import GenerationStats
from playground.ui import texts
from playground.ui.safe_text import escape
from playground.ui.views.figures import plural, seconds_text
from playground.ui.views.markdown import markdown_html, plain_html
from playground.ui.views.said import label_of

SHOWN_MESSAGES = 100  # a page with more of them gets slow; the earlier ones are a click away

# Drawn once, and used by every button: 16 units wide.
_ICONS = {
    "copy": "M5.5 5.5h7v8h-7zM10.5 5.5v-3h-7v8h2",
    "regenerate": "M13 8a5 5 0 1 1-1.6-3.7M13 2v3h-3",
    "edit": "M3 13l.6-2.8L10.8 3 13 5.2 5.8 12.4zM9.3 4.5l2.2 2.2",
    "branch": "M4.5 5.5v5M4.5 10.5c0-3 7-2 7-5M3 4a1.5 1.5 0 1 0 3 0a1.5 1.5 0 1 0-3 0"
    "M3 12a1.5 1.5 0 1 0 3 0a1.5 1.5 0 1 0-3 0M10 4a1.5 1.5 0 1 0 3 0a1.5 1.5 0 1 0-3 0",
    "continue": "M2.5 8h7M6.5 4.5L10 8l-3.5 3.5M13 3.5v9",
    "good": "M2.5 7.5H5v6H2.5zM5 7.5l2.600-5c1.200 0 1.700.8 1.500 2L8.700 6.500h3.600c.9 0 1.400.8 1.200 1.600"
    "l-1 4.200c-.2.8-.7 1.200-1.500 1.200H5",
    "bad": "M2.5 8.5H5v-6H2.5zM5 8.5l2.600 5c1.200 0 1.700-.8 1.500-2L8.700 9.500h3.600c.9 0 1.400-.8 1.200-1.600"
    "l-1-4.200c-.2-.8-.7-1.200-1.500-1.200H5",
    "provenance": "M4 2.5h5.500l2.500 2.500v8.500h-8zM6 8h4M6 10.500h4M6 5.500h2",
}  # fmt: skip


@dataclass(frozen=True)
class Scene:
    """What of a conversation is shown: the path to ``leaf`` (None: its own end), and how.

    ``editing`` is the turn that is being rewritten, as ``rewritten`` so far (None: as it stands). ``everything`` shows the
    earliest messages of a long conversation too. ``pending`` is what was sent and not answered yet. While ``writing``,
    nothing can be done with the bubbles but copy them.
    """

    leaf: str | None = None
    editing: str = ""
    rewritten: str | None = None
    everything: bool = False
    pending: str = ""
    writing: bool = False


PLAIN = Scene()


def transcript(conversation: Conversation | None, scene: Scene = PLAIN) -> str:
    """The bubbles as HTML; without anything said, what this place is for. Raises `NotFound` for a leaf that is gone."""
    path = conversation.path(scene.leaf) if conversation else ()
    if not path and not scene.pending:
        empty = f'<p class="chat-empty">{escape(texts.CHAT_EMPTY)}</p>'
        return f'<div class="transcript" role="log" data-conversation="">{_icons()}{empty}</div>'
    hidden = 0 if scene.everything else max(0, len(path) - SHOWN_MESSAGES)
    bubbles = [_bubble(conversation, path, place, scene) for place in range(hidden, len(path))] if conversation else []
    pending = [_pending(scene.pending)] if scene.pending else []
    name = escape(conversation.id if conversation else "")
    state = ' data-writing="yes"' if scene.writing else ""
    return (
        f'<div class="transcript" role="log" data-conversation="{name}"{state}>{_icons()}{_earlier(hidden)}'
        f"{''.join([*bubbles, *pending])}</div>"
    )


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
    return f'<div class="live-head" data-state="{state}">{_who(label, changed)}{progress}{thought}</div>'


def answered_before(conversation: Conversation | None, leaf: str) -> str:
    """The label of what answered last on the path to ``leaf``, "" where nothing did."""
    path = conversation.path(leaf) if conversation else ()
    return next((label_of(turn) for turn in reversed(path) if turn.role == "assistant" and label_of(turn)), "")


def _icons() -> str:
    drawn = "".join(
        f'<symbol id="i-{name}" viewBox="0 0 16 16"><path d="{path}"/></symbol>' for name, path in _ICONS.items()
    )
    return f'<svg class="icon-sheet" aria-hidden="true">{drawn}</svg>'


def _earlier(hidden: int) -> str:
    if not hidden:
        return '<div class="earlier"></div>'
    words = f"Show {plural(hidden, 'earlier message')}"
    return f'<div class="earlier"><button type="button" class="plain" data-act="earlier">{words}</button></div>'


def _bubble(conversation: Conversation, path: tuple[Turn, ...], place: int, scene: Scene) -> str:
    turn, last = path[place], place == len(path) - 1
    editing = scene.editing == turn.id and not scene.writing
    body = _editor(turn, scene.rewritten) if editing else _body(turn)
    under = "" if editing else _under(conversation, turn, last, scene.writing)
    names = {"user": "You", "assistant": f"Answer of {label_of(turn) or 'a model'}", "system": "System"}
    return (
        f'<article class="bubble" data-role="{turn.role}" data-turn="{escape(turn.id)}" tabindex="0" '
        f'aria-label="{escape(names.get(turn.role, turn.role))}">{_head(turn, path, place)}{body}{under}</article>'
    )


def _pending(text: str) -> str:
    body = f'<div class="bubble-text">{plain_html(text)}</div>'
    return f'<article class="bubble" data-role="user" data-turn="" aria-label="You">{body}</article>'


def _head(turn: Turn, path: tuple[Turn, ...], place: int) -> str:
    """Who answered, and whether that is somebody else than before; nothing over what a person said."""
    if turn.role == "user":
        return ""
    if turn.role == "system":
        return '<p class="who">System</p>'
    before = next((label_of(t) for t in reversed(path[:place]) if t.role == "assistant" and label_of(t)), "")
    label = label_of(turn)
    return _who(label, bool(before and label and before != label), _alone(turn.reply))


def _who(label: str, changed: bool, note: str = "") -> str:
    mark = (
        f'<b class="changed-mark" title="{escape(texts.OTHER_WEIGHTS_HELP)}">{texts.OTHER_WEIGHTS}</b>'
        if changed
        else ""
    )
    base, plus, adapter = label.partition(" + ")
    named = f"{escape(base)}{f' + <b>{escape(adapter)}</b>' if plus else ''}" if label else "Assistant"
    return f'<p class="who"{" data-changed" if changed else ""}><span class="who-name">{named}</span>{mark}{note}</p>'


def _alone(reply: Reply | None) -> str:
    if reply is None or not (reply.alone or reply.template != "chat"):
        return ""
    words = f"{texts.TEMPLATES[reply.template]} · prompt alone" if reply.alone else texts.TEMPLATES[reply.template]
    return f'<span class="quiet" title="{escape(texts.ALONE_HELP)}">{words}</span>'


def _body(turn: Turn) -> str:
    if turn.role != "assistant":
        return f'<div class="bubble-text">{plain_html(turn.content)}</div>'
    reasoning, answer, ended = split_reasoning(turn.content)
    thought_s = turn.reply.thought_s if turn.reply else None
    fold = reasoning_fold(reasoning, ended, thought_s, turn.id)
    shown = markdown_html(answer)
    if not answer.strip():
        shown = f'<p class="quiet">{texts.NOTHING_WRITTEN}</p>' if reasoning is None else ""
    return f'{fold}<div class="bubble-text answer-like">{shown}</div>'


def _thought_for(thought_s: float | None) -> str:
    if thought_s is None:
        return "Thought"
    return f"Thought for {max(1, round(thought_s))} s" if thought_s < 100 else f"Thought for {seconds_text(thought_s)}"


def _editor(turn: Turn, rewritten: str | None) -> str:
    """The bubble as a field. A line break after the tag is not part of the text."""
    text = escape(turn.content if rewritten is None else rewritten)
    send = _word_button("save-send", turn, "Save and send", "primary") if turn.role == "user" else ""
    name = "Your message" if turn.role == "user" else "The answer's text"
    return (
        f'<div class="editor"><textarea data-editor="{escape(turn.id)}" aria-label="{name}" rows="3">\n{text}</textarea>'
        f'<div class="editor-buttons">{send}{_word_button("save", turn, "Save", "" if send else "primary")}'
        f"{_word_button('cancel', turn, 'Cancel')}</div></div>"
    )


def _word_button(act: str, turn: Turn, words: str, kind: str = "") -> str:
    return f'<button type="button" class="plain {kind}" data-act="{act}" data-turn="{escape(turn.id)}">{words}</button>'


def _under(conversation: Conversation, turn: Turn, last: bool, writing: bool) -> str:
    """What there is to say of a bubble and to do with it."""
    notices = "".join(
        f'<p class="notice">{escape(notice)}</p>' for notice in (turn.reply.notices if turn.reply else ())
    )
    line = " · ".join(part for part in (*_marks(turn), *_figures(turn.reply), _time(turn.at)) if part)
    versions = _versions(conversation, turn, writing)
    return (
        f'{notices}<div class="bubble-foot">{versions}<p class="figures">{line}</p>'
        f'<div class="acts" role="group" aria-label="Actions">{_acts(turn, last, writing)}</div></div>'
    )


def _marks(turn: Turn) -> list[str]:
    """What a reader must know of it: it was broken off, or a person rewrote it."""
    finish = turn.reply.finish_reason if turn.reply else ""
    marks = (
        [f'<b class="mark-stopped" title="{escape(texts.FINISH_HELP["cancelled"])}">stopped</b>']
        if turn.stopped
        else []
    )
    if finish == "length":
        marks.append(f'<b class="mark-cut" title="{escape(texts.FINISH_HELP["length"])}">cut at the limit</b>')
    return [*marks, "<b>edited</b>" if turn.edited else ""]


def _figures(reply: Reply | None) -> list[str]:
    """Tokens · tokens/s · first token · seed · finish, as far as they are known."""
    if reply is None:
        return []
    stats: GenerationStats = reply.stats
    speed, first = stats.tokens_per_second, stats.first_token_s
    return [
        plural(stats.completion_tokens, "token") if stats.completion_tokens else "",
        "" if speed is None else f"{speed:.1f} tokens/s",
        "" if first is None else f"first token {seconds_text(first)}",
        f"seed {reply.provenance.seed}" if reply.provenance else "",
        texts.FINISH["stop"] if reply.finish_reason == "stop" else "",
        f'<span title="{escape(texts.CACHED_HELP)}">{texts.CACHED}</span>' if reply.cached else "",
    ]


def _time(at: float) -> str:
    """By this machine's clock; the page says it by its reader's."""
    if not at:
        return ""
    exact = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(at))
    return f'<time datetime="{exact}">{time.strftime("%H:%M", time.localtime(at))}</time>'


def _versions(conversation: Conversation, turn: Turn, writing: bool) -> str:
    """‹ 2/3 ›: the versions beside this one; nothing where it is the only one."""
    every = conversation.versions(turn.id)
    if len(every) < 2:
        return ""
    place = next(number for number, other in enumerate(every) if other.id == turn.id)
    older = every[place - 1].id if place else ""
    newer = every[place + 1].id if place + 1 < len(every) else ""
    return (
        f'<span class="versions">{_arrow("older", older, writing)}<span>{place + 1}/{len(every)}</span>'
        f"{_arrow('newer', newer, writing)}</span>"
    )


def _arrow(which: str, turn_id: str, writing: bool) -> str:
    words, sign = ("Older version", "‹") if which == "older" else ("Newer version", "›")
    off = "" if turn_id and not writing else " disabled"
    return (
        f'<button type="button" class="plain" data-act="switch" data-way="{which}" data-turn="{escape(turn_id)}" '
        f'aria-label="{words}" title="{words}"{off}>{sign}</button>'
    )


def _acts(turn: Turn, last: bool, writing: bool) -> str:
    copy = (
        f'<button type="button" class="act" data-copy="{escape(_copied(turn))}" aria-label="Copy" title="Copy">'
        '<svg aria-hidden="true"><use href="#i-copy"/></svg></button>'
    )
    if writing:
        return copy
    if turn.role != "assistant":
        again = _act("regenerate", turn, texts.ANSWER_THIS) if last and turn.role == "user" else ""
        return copy + _act("edit", turn, "Edit") + _act("branch", turn, texts.BRANCH_HELP) + again
    judged = [_thumb(turn, 1, "good", "Good answer"), _thumb(turn, -1, "bad", "Bad answer")]
    made = _act("provenance", turn, texts.COPY_HELP) if turn.reply else ""
    offered = [("regenerate", "Regenerate"), ("edit", "Edit"), ("branch", texts.BRANCH_HELP), ("continue", "Continue")]
    return "".join([copy, *(_act(name, turn, words) for name, words in offered), *judged, made])


def _copied(turn: Turn) -> str:
    """An answer is copied without what was thought before it."""
    return split_reasoning(turn.content)[1] if turn.role == "assistant" else turn.content


def _act(act: str, turn: Turn, words: str, icon: str = "", more: str = "") -> str:
    return (
        f'<button type="button" class="act" data-act="{act}" data-turn="{escape(turn.id)}" aria-label="{escape(words)}" '
        f'title="{escape(words)}"{more}><svg aria-hidden="true"><use href="#i-{icon or act}"/></svg></button>'
    )


def _thumb(turn: Turn, value: int, icon: str, words: str) -> str:
    """A second press takes the judgement back."""
    pressed = turn.thumb == value
    more = f' data-value="{0 if pressed else value}" aria-pressed="{"true" if pressed else "false"}"'
    return _act("thumb", turn, words, icon, more)
