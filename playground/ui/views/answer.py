"""One answer: the fold of its events, and the line under it. No gradio here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from playground.services.exchange import Exchange
from playground.services.manifests import Manifest
from playground.types import (
    FinishReason,
    GenerationEvent,
    GenerationRequest,
    GenerationStats,
    ModelSpec,
    Phase,
    Provenance,
    Status,
)
from playground.ui import texts
from playground.ui.safe_text import code_markdown, escape, safe_markdown
from playground.ui.views.figures import known_text, plural, seconds_text
from playground.ui.views.provenance import replay_button
from playground.ui.views.status import before_this_one, is_told, progress_line, status_line, status_text

# Which of several answers' states is told: that of the one which is furthest.
_FURTHEST: Mapping[Phase, int] = {"generating": 0, "prefilling": 1, "loading": 2, "queued": 3, "done": 4}


@dataclass
class Answer:
    """What one run has brought so far, folded from its events. ``weights`` names what answers, ``code`` the use case.

    With several answers to one prompt each has its own index; tokens, stats, finish and provenance are kept for each.
    ``prompt_hash`` is that of the prompt's token ids, "" as long as it is not known; ``named`` the request's spec by the
    names that are offered here: what is handed out holds no path of them. ``cached`` are those that were made earlier, for
    somebody who asked the same. ``stored`` says that it comes from the history, ``kept`` is its manifest then, None where
    nobody knows what made it. ``exchange`` is what brings it and stores it.
    """

    request: GenerationRequest
    weights: str
    code: bool = False
    parts: dict[int, str] = field(default_factory=dict)
    token_ids: dict[int, list[int]] = field(default_factory=dict)
    stats: dict[int, GenerationStats] = field(default_factory=dict)
    statuses: dict[int, Status] = field(default_factory=dict)
    finish: dict[int, FinishReason] = field(default_factory=dict)
    elapsed_s: float = 0.0
    provenance: dict[int, Provenance] = field(default_factory=dict)
    notices: list[str] = field(default_factory=list)
    cached: set[int] = field(default_factory=set)
    error: str = ""
    stopped: bool = False
    prompt_hash: str = ""
    named: ModelSpec | None = None
    stored: bool = False
    kept: Manifest | None = None
    exchange: Exchange | None = None

    def fold(self, event: GenerationEvent) -> None:
        """Take one event in."""
        self.elapsed_s = max(self.elapsed_s, event.stats.elapsed_s)
        if event.text:
            self.parts[event.index] = self.parts.get(event.index, "") + event.text
        self.token_ids.setdefault(event.index, []).extend(token.id for token in event.tokens)
        if self.finish.get(event.index) in (None, "cancelled"):  # a sign of life may repeat an answer that has ended
            self.stats[event.index] = event.stats
        if event.index not in self.finish:
            self.statuses[event.index] = event.status
        if event.notice and event.notice not in self.notices:
            self.notices.append(event.notice)
        if event.cached:
            self.cached.add(event.index)
        if event.finish_reason:
            self.finish[event.index] = event.finish_reason
        if event.provenance:
            self.provenance[event.index] = event.provenance
        self.prompt_hash = self.prompt_hash or event.prompt_hash

    def cancel(self) -> None:
        """The person stopped it: whatever has not finished is cancelled; the text so far stays."""
        self.stopped = self.stopped or self.running
        every = range(self.request.settings.num_return_sequences)
        self.finish.update({index: "cancelled" for index in every if index not in self.finish})

    def fail(self, sentence: str) -> None:
        """The run ended with an error."""
        self.error = sentence

    @property
    def running(self) -> bool:
        """True until every answer has its last event, a stop or an error."""
        return not (self.error or self.stored) and len(self.finish) < self.request.settings.num_return_sequences

    @property
    def status(self) -> Status:
        """Where it stands: with several answers, where the one stands that is furthest and not finished."""
        going = [status for index, status in self.statuses.items() if index not in self.finish]
        return min(going, key=lambda status: _FURTHEST[status.phase], default=Status("queued"))

    @property
    def in_line(self) -> list[int]:
        """For each answer that waits in line, how many come before it, the next one first."""
        waiting = [before_this_one(status) for index, status in self.statuses.items() if index not in self.finish]
        return sorted(ahead for ahead in waiting if ahead is not None)

    @property
    def phase(self) -> str:
        """What the top bar's dot shows for it: idle, queued, loading, generating or error."""
        if not self.running:
            return "error" if self.error else "idle"
        if self.status.phase == "queued":
            return "queued" if is_told(self.status) else "generating"
        return "loading" if self.status.phase == "loading" else "generating"

    @property
    def indices(self) -> list[int]:
        """The answers there are, the first one at least."""
        return sorted({0, *self.parts, *self.finish})

    @property
    def length(self) -> int:
        """Characters so far, of all answers."""
        return sum(len(part) for part in self.parts.values())

    @property
    def raw(self) -> str:
        """The exact text, nothing added; several answers are set apart by a line."""
        return "\n\n――――――――\n\n".join(self.parts.get(index, "") for index in self.indices)

    def manifest(self, index: int) -> Manifest | None:
        """All that it takes to make the answer ``index`` again; None as long as it has not ended."""
        finish = self.finish.get(index)
        if self.stored or finish is None:
            return self.kept
        ids, text = tuple(self.token_ids.get(index, ())), self.parts.get(index, "")
        request = replace(self.request, spec=self.named or self.request.spec)
        return Manifest(request, index, ids, self.prompt_hash, text, finish, self.provenance.get(index))

    def can_replay(self, index: int) -> bool:
        """True when the answer ``index`` has ended and it is known how it was drawn; one stopped before its first token
        has nothing to compare.
        """
        settings, finish = self.request.settings, self.finish.get(index)
        known = index in self.provenance or settings.seed is not None or settings.is_greedy
        begun = finish is not None and (finish != "cancelled" or bool(self.token_ids.get(index)))
        return begun and known and not self.error and not (self.stored and self.kept is None)

    @property
    def markdown(self) -> str:
        """The text for the Text tab: safe Markdown, numbered where there are several answers."""
        show = code_markdown if self.code else safe_markdown
        bodies = [show(self.parts.get(index, "")) for index in self.indices]
        if len(bodies) == 1:
            return bodies[0]
        return "\n\n---\n\n".join(f"**Answer {number}**\n\n{body}" for number, body in enumerate(bodies, start=1))


def answer_status(answer: Answer | None) -> str:
    """The line under the answer: what is happening, then the figures; notices and errors with it, as HTML."""
    if answer is None:
        return status_line("idle", "")
    lines = [_phase_line(answer), *(f'<p class="notice">{escape(notice)}</p>' for notice in answer.notices)]
    lines += [_stats_line(answer, index) for index in answer.indices if _has_figures(answer, index)]
    if len(answer.indices) > 1 and not (answer.running or answer.error):
        lines.append(f'<p class="muted">{escape(texts.GOES_ON_WITH_FIRST)}</p>')
    state = "error" if answer.error else "running" if answer.running else "done"
    if answer.running and any(answer.parts.values()):
        state = "streaming"
    return f'<div class="answer-status" data-state="{state}" role="status">{"".join(lines)}</div>'


def _has_figures(answer: Answer, index: int) -> bool:
    return index in answer.finish or bool(answer.stats.get(index, GenerationStats()).completion_tokens)


def _phase_line(answer: Answer) -> str:
    """What is going on where the text itself does not show it; nothing once the answer is being written or done."""
    if answer.error:
        return f'<p class="error-line">{escape(answer.error)}</p>'
    if not answer.running:
        return ""
    if answer.status.phase != "generating" and not _is_written(answer):
        return progress_line(answer.status, answer.elapsed_s)
    waiting = len(answer.in_line)
    return f'<p class="muted">{plural(waiting, "more answer")} waiting in line</p>' if waiting else ""


def _is_written(answer: Answer) -> bool:
    """True when one of the answers that go on has begun: then its own line says why it pauses."""
    return any(stats.completion_tokens for index, stats in answer.stats.items() if index not in answer.finish)


def _pause_words(answer: Answer, index: int) -> str:
    status = answer.statuses.get(index)
    paused = status is not None and index not in answer.finish and is_told(status)
    return escape(status_text(status)) if status and paused else ""


def _stats_line(answer: Answer, index: int) -> str:
    stats = answer.stats.get(index, GenerationStats())
    speed, first = stats.tokens_per_second, stats.first_token_s
    seed = answer.provenance[index].seed if index in answer.provenance else answer.request.settings.seed
    finish = answer.finish.get(index)
    several = len(answer.indices) > 1
    figures = [
        f"<b>Answer {index + 1}</b>" if several else "",
        plural(stats.completion_tokens, "token"),
        "" if speed is None else f"{speed:.1f} tokens/s",
        "" if first is None else f"first token {seconds_text(first)}",
        known_text(stats),
        f"total {seconds_text(stats.elapsed_s)}",
        _finish_words(finish),
        f'<span title="{escape(texts.CACHED_HELP)}">{texts.CACHED}</span>' if index in answer.cached else "",
        "" if seed is None else f"seed {seed}",
        f'<span class="weights">{escape(answer.weights)}</span>',
        _pause_words(answer, index),
    ]
    line = " · ".join(figure for figure in figures if figure)
    manifest = answer.manifest(index)
    if manifest is None:
        return f'<p class="stats">{line}</p>'
    copy = escape(manifest.to_json())
    replay = replay_button(index, several) if answer.can_replay(index) else ""
    return (
        f'<div class="stats-row"><button type="button" class="stats" data-finish="{finish}" data-copy="{copy}" '
        f'data-copied="Provenance copied" title="{texts.COPY_HELP}">{line}</button>{replay}</div>'
    )


def _finish_words(finish: FinishReason | None) -> str:
    return f'<span title="{escape(texts.FINISH_HELP[finish])}">{escape(texts.FINISH[finish])}</span>' if finish else ""
