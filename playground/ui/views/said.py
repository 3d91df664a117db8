"""What the Playground shows of the conversation that it continues: one line by the prompt, the messages, and the last
answer with its figures. Pure functions.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

from playground.conversation import Conversation, Reply, Turn
from playground.services.manifests import Manifest
from playground.types import GenerationRequest, GenerationSettings, ModelSpec, Template
from playground.ui import texts
from playground.ui.safe_text import escape
from playground.ui.views.answer import Answer
from playground.ui.views.figures import plural
from playground.ui.views.weights import Weights

SHOWN_MESSAGES = 60  # the newest ones; all of them are in Full Chat
SHOWN_CHARACTERS = 4000  # of each message


def conversation_line(title: str, messages: int, template: Template) -> str:
    """What Generate does with what was said before, so that nobody sends it unawares; ``title`` is "" for a new one."""
    if not title:
        return f'<p class="continues" data-state="new">{texts.NEW_CONVERSATION}</p>'
    words = texts.CONTINUES if template == "chat" else texts.SENT_ALONE
    counted, named = plural(messages, "message"), f'<b class="title">“{escape(title)}”</b>'
    button = f'<button type="button" class="plain" data-conversation="new">{texts.BEGIN_NEW}</button>'
    said = words.format(title=named, messages=counted)
    return f'<p class="continues" data-state="open"><span>{said}</span> · {button}</p>'


def messages_heading(count: int) -> str:
    """The heading of the fold: ``This conversation · 4 messages``."""
    return f"{texts.THIS_CONVERSATION} · {plural(count, 'message')}"


def messages(path: Sequence[Turn]) -> str:
    """The messages with role, time and what answered, newest last; to read, nothing can be done with them."""
    if not path:
        return f'<p class="muted">{texts.NOTHING_SAID}</p>'
    hidden = len(path) - SHOWN_MESSAGES
    more = f'<p class="muted">{texts.EARLIER.format(messages=plural(hidden, "message"))}</p>' if hidden > 0 else ""
    return f'{more}<ol class="said-list" tabindex="0">{"".join(map(_message, path[-SHOWN_MESSAGES:]))}</ol>'


def _message(turn: Turn) -> str:
    who = texts.ROLES[turn.role]
    answered = f' · <span class="weights">{escape(label_of(turn))}</span>' if label_of(turn) else ""
    stopped = f" · <b>{texts.FINISH['cancelled']}</b>" if turn.stopped else ""
    cut = "…" if len(turn.content) > SHOWN_CHARACTERS else ""
    return (
        f'<li data-role="{turn.role}"><p class="muted">{who}{answered}{_time(turn.at)}{stopped}</p>'
        f'<div class="text">{escape(turn.content[:SHOWN_CHARACTERS])}{cut}</div></li>'
    )


def _time(at: float) -> str:
    """By this machine's clock; the page's script says it by its reader's."""
    exact = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(at))
    return f' · <time datetime="{exact}">{time.strftime("%H:%M", time.localtime(at))}</time>' if at else ""


def label_of(turn: Turn) -> str:
    """What answered, in the words of the line under an answer; "" for what nobody answered."""
    return reply_label(turn.reply) if turn.reply else turn.model_id


def reply_label(reply: Reply) -> str:
    """Which model and adapter gave it."""
    return reply.label if reply.adapters else Weights(reply.spec.base).label


def last_answer(conversation: Conversation, leaf: str) -> Turn | None:
    """The answer at the end of the path to ``leaf``; None where a question waits there, or nothing was said."""
    last = conversation.turn(leaf) if leaf else None
    return last if last is not None and last.role == "assistant" else None


def kept_answer(turn: Turn, manifest: Manifest | None, *, code: bool) -> Answer:
    """``turn``, which is stored, as the answer area shows it. ``manifest`` is what made it, None where nobody knows."""
    reply = turn.reply
    settings = manifest.request.settings if manifest else GenerationSettings()
    asked = GenerationRequest(ModelSpec(turn.answered_by), "kept", settings=settings.replace(num_return_sequences=1))
    answer = Answer(asked, label_of(turn), code=code, stored=True, kept=manifest)
    answer.parts[0] = turn.content
    if reply is None:
        answer.notices = [texts.NO_FIGURES]
        return answer
    answer.stats[0], answer.elapsed_s = reply.stats, reply.stats.elapsed_s
    answer.finish[0] = reply.finish_reason
    answer.token_ids[0] = list(reply.token_ids)
    answer.notices = list(reply.notices)
    answer.cached = {0} if reply.cached else set()
    if reply.provenance is not None:
        answer.provenance[0] = reply.provenance
    return answer
