"""The Playground's answer: the area it is shown in, the buttons that begin and stop it, and what the page holds of it."""

from __future__ import annotations

import gradio as gr

from playground.conversation import Conversation
from playground.services.assembly import Services
from playground.ui import chat_view, texts
from playground.ui.asked import Asked
from playground.ui.opened import Opened
from playground.ui.replays import Replays
from playground.ui.topbar import TopBar
from playground.ui.views.answer import Answer, answer_status
from playground.ui.views.status import error_details, status_line
from playground.ui.wiring import Updates, clicks_of, show_html

KEPT_SECONDS = 6 * 3600  # how long the answer of a page that may be closed is remembered


class AnswerArea:
    """`render_buttons` and `render` make the widgets, `listen` wires them; the other methods are updates of them."""

    def __init__(self, services: Services, opened: Opened) -> None:
        self._opened = opened
        self.replays = Replays(services.replay, services.limits)

    def render_buttons(self) -> None:
        """Make Generate and Stop."""
        self.generate = gr.Button("Generate", variant="primary", elem_id="generate", size="md", min_width=120)
        self.stop = gr.Button("Stop", variant="stop", elem_id="stop", size="md", min_width=120, visible=False)

    def render(self) -> None:
        """Make the area, and the places for what is remembered."""
        self.stage = gr.State("done")
        self.run = gr.State(None, time_to_live=KEPT_SECONDS)
        self.answer = gr.State(None, time_to_live=KEPT_SECONDS)
        # Which answer the area shows, and what was asked and is kept: held by the page, which acts on it.
        self.drawn = gr.Textbox(visible="hidden", elem_id="drawn-answer")
        self.sent = gr.Textbox(visible="hidden", elem_id="sent-prompt")
        with gr.Column(elem_classes="answer-card", elem_id="answer-card"):
            self._render_tabs()
            with gr.Row(elem_classes="card-buttons"):
                chat_view.open_button("open-chat-view")
                self.copy = gr.Button("Copy", elem_id="copy", elem_classes="copy", size="sm", min_width=0)
        with gr.Column(elem_classes="under"):
            self.status = show_html(answer_status(None), elem_id="answer-status", js_on_load=clicks_of("replay"))
            self.replays.render()

    def _render_tabs(self) -> None:
        with gr.Tabs(elem_id="answer-tabs"):
            with gr.Tab("Text"):
                self.text = gr.Markdown(
                    texts.EMPTY_ANSWER, sanitize_html=True, line_breaks=True, latex_delimiters=[],
                    elem_id="answer-text", elem_classes="answer-text",
                )  # fmt: skip
            with gr.Tab("Raw"):
                self.raw = gr.Textbox(
                    show_label=False, container=False, interactive=False, lines=12, max_lines=12, autoscroll=False,
                    elem_id="answer-raw", elem_classes="answer-raw",
                )  # fmt: skip

    def listen(self, bar: TopBar) -> None:
        """Wire the widgets; ``bar`` shows the phase."""
        self._bar = bar
        self.copy.click(None, self.raw, None, js="(text) => window.playground.copy(text, 'Answer copied')")

    @property
    def shown(self) -> list[gr.components.Component]:
        """What the updates of an answer on its way fill."""
        return [self.text, self.raw, self.status, self.replays.made, self.generate, self.stop, *self._bar.status]

    @property
    def whole(self) -> list[gr.components.Component]:
        """All that another answer in the area fills."""
        return [*self.shown, self.stage, self.answer, self.drawn, self.sent]

    # --- updates ---

    def shows(self, answer: Answer, *, with_text: bool) -> Updates:
        """``answer`` as far as it has come."""
        status = {self.status: answer_status(answer)}
        if not answer.running:
            status |= self.replays.shows(answer)
        return {self.text: answer.markdown, self.raw: answer.raw, **status} if with_text else status

    def holds(self, answer: Answer | None) -> Updates:
        """The area with ``answer``, which has ended; None is nothing yet."""
        if answer is None:
            status = {self.status: answer_status(None), **self.replays.shows(None)}
            return {self.text: texts.EMPTY_ANSWER, self.raw: "", **status, self.answer: None, self.stage: "done"}
        return {**self.shows(answer, with_text=True), self.answer: answer, self.stage: "done"}

    def begins(self, answer: Answer) -> Updates:
        """``answer`` is on its way, and nothing of it is there yet."""
        blank = {self.text: "", self.raw: "", **self.replays.shows(None)}
        return {self.answer: answer, **blank, self.status: answer_status(answer)}

    def cleared(self) -> Updates:
        """What Reset leaves."""
        blank = {self.text: texts.EMPTY_ANSWER, self.raw: "", **self.replays.shows(None)}
        return {**blank, self.status: status_line("idle", texts.RESET_DONE)}

    def failed(self, error: Exception, sentence: str, answer: Answer | None) -> Updates:
        """``sentence`` of ``error`` in the status line; text that was already there stays."""
        line = status_line("error", sentence, error_details(error))
        updates: Updates = {self.status: line, **self._bar.shows("error")}
        if answer is None:
            return updates
        is_whole = not answer.running
        answer.fail(texts.NOT_KEPT.format(why=sentence) if is_whole else sentence)
        updates |= {self.text: answer.markdown, self.raw: answer.raw}
        if is_whole:  # it is there and could not be stored
            updates |= {self.status: answer_status(answer)}
        return updates

    def buttons(self, *, running: bool) -> Updates:
        """Generate and Stop take turns in one place, so nothing moves and nothing starts twice."""
        return {self.generate: gr.update(visible=not running), self.stop: gr.update(visible=running)}

    def idle(self) -> Updates:
        """Nothing is being answered."""
        return {**self.buttons(running=False), **self._bar.shows("idle")}

    # --- the conversation that it belongs to ---

    def told(self, run: Asked, conversation: Conversation | None) -> Updates:
        """What the page holds once what was written is kept in ``conversation``; None where nothing was written."""
        updates = self._opened.awaits("")
        if conversation is None:
            return updates
        if run.sent:
            updates |= {self.sent: run.sent}
        return {**updates, **self._opened.shows(conversation), self.drawn: name_of(conversation, conversation.leaf)}

    def left(self, stage: str, run: Asked | None) -> Updates:
        """The answer that is being written goes on unseen, and is kept in its own conversation."""
        if stage != "running" or run is None:
            return {}
        run.left = True
        sent = {self.sent: run.sent} if run.sent else {}
        return {**self.idle(), self.stage: "left", **sent, **self._opened.awaits("")}


def name_of(conversation: Conversation, leaf: str) -> str:
    """Which answer of which conversation it is, as the page holds it."""
    return f"{conversation.id} {leaf}"
