"""A conversation as bubbles: what was said on the open path, who answered, and what can be done. Pure functions."""

from __future__ import annotations

from dataclasses import dataclass

from playground.conversation import Conversation, Turn, split_reasoning
from playground.ui import texts
from playground.ui.safe_text import escape
from playground.ui.views.figures import plural
from playground.ui.views.markdown import plain_html
from playground.ui.views.said import label_of
from playground.ui.views.turns import alone_note, body_html, figures, marks, time_html, who_line

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
    earliest messages of a long conversation too. ``pending`` is what was sent and not answered yet, ``expected`` the answer
    that it should get. While ``writing``, nothing can be done with the bubbles but copy them.
    """

    leaf: str | None = None
    editing: str = ""
    rewritten: str | None = None
    everything: bool = False
    pending: str = ""
    writing: bool = False
    expected: str = ""


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
    body = _editor(turn, scene.rewritten) if editing else body_html(turn)
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
    return who_line(label, bool(before and label and before != label), alone_note(turn.reply))


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
    line = " · ".join(part for part in (*marks(turn), *figures(turn.reply), time_html(turn.at)) if part)
    versions = _versions(conversation, turn, writing)
    return (
        f'{notices}<div class="bubble-foot">{versions}<p class="figures">{line}</p>'
        f'<div class="acts" role="group" aria-label="Actions">{_acts(turn, last, writing)}</div></div>'
    )


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
