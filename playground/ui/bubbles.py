"""The bubbles of a page: the open conversation, and under it the answer that is being written."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

import gradio as gr

from playground.conversation import Conversation, split_reasoning
from playground.ui import texts
from playground.ui.safe_text import safe_markdown
from playground.ui.views.answer import Answer
from playground.ui.views.status import progress_line
from playground.ui.views.transcript import PLAIN, Scene, transcript
from playground.ui.views.turns import live_head
from playground.ui.wiring import Updates, show_html

# A bubble's button says what it wants, of which turn, and what stands in the open editor. What makes a model write comes
# as another event than the rest: so it is never held up by it, and never sent twice. The sidebar's button for a new
# conversation changes nothing where none is open yet; here it leaves what is being written as well.
_CLICKS = """
element.addEventListener('click', (event) => {
  const button = event.target.closest('[data-act]');
  if (!button || button.disabled) return;
  const {act, turn = '', value = ''} = button.dataset;
  const editor = element.querySelector('textarea[data-editor]');
  const asks = ['regenerate', 'continue', 'save-send'].includes(act);
  trigger(asks ? 'submit' : 'click', {value: {act, turn, value, text: editor ? editor.value : ''}});
});
document.addEventListener('click', (event) => {
  if (event.target.closest?.('[data-sidebar=new]')) trigger('clear');
}, true);
"""


@dataclass
class Writing:
    """One answer on its way to a page, under the turns that it follows.

    ``before`` is the text that it begins with, ``changed`` whether somebody else answered last.
    """

    answer: Answer
    before: str = ""
    changed: bool = False
    begun_at: float = field(default_factory=time.monotonic)
    thought_s: float | None = None

    @property
    def text(self) -> str:
        """The text so far of the first answer, its beginning included."""
        return self.before + self.answer.parts.get(0, "")


class Bubbles:
    """`draws` shows what is stored, `writes` what is being written; ``outputs`` are what they fill.

    ``stored`` triggers ``click`` for what is done at once, ``submit`` for what a model is asked for, and ``clear`` for a
    new conversation.
    """

    def render(self) -> None:
        """Make the widgets."""
        self.stored = show_html(transcript(None), elem_id="bubbles", js_on_load=_CLICKS)
        with gr.Column(elem_id="live", elem_classes="live"):
            self.head = show_html("", elem_id="live-head")
            self.live = gr.Markdown(
                "", sanitize_html=True, line_breaks=True, latex_delimiters=[], elem_id="live-text",
                elem_classes=["bubble-text", "answer-like"],
            )  # fmt: skip

    @property
    def outputs(self) -> list[gr.components.Component]:
        """What `draws` and `writes` fill."""
        return [self.stored, self.head, self.live]

    def draws(self, conversation: Conversation | None, scene: Scene = PLAIN) -> Updates:
        """Updates that show ``conversation``, and nothing that is being written."""
        return {self.stored: transcript(conversation, scene), self.head: "", self.live: ""}

    def forgets(self) -> Updates:
        """Updates that show nothing that is being written, and leave what is stored as it is shown."""
        return {self.head: "", self.live: ""}

    def begins(self, conversation: Conversation | None, scene: Scene, writing: Writing) -> Updates:
        """Updates that show ``conversation`` with an answer under it that has yet to come."""
        return {self.stored: transcript(conversation, scene), **self.writes(writing)}

    def writes(self, writing: Writing) -> Updates:
        """Updates that show the answer as far as it is written: what is thought folds away."""
        head, text = written(writing)
        return {self.head: head, self.live: text}


def written(writing: Writing) -> tuple[str, str]:
    """(HTML of what stands above the answer, its text as Markdown) as far as it is written."""
    answer = writing.answer
    reasoning, said, ended = split_reasoning(writing.text)
    if reasoning is not None and ended and writing.thought_s is None:
        writing.thought_s = time.monotonic() - writing.begun_at
    waiting = answer.running and not answer.parts.get(0) and answer.status.phase != "generating"
    progress = progress_line(answer.status, answer.elapsed_s) if waiting else ""
    head = live_head(_label(answer), writing.changed, progress, reasoning, ended, writing.thought_s)
    return head, safe_markdown(said)


def _label(answer: Answer) -> str:
    several = answer.request.settings.num_return_sequences
    return answer.weights if several == 1 else f"{answer.weights} · {texts.FIRST_OF.format(several=several)}"
