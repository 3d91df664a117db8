"""The list of prompt and response pairs: the open conversation, and under it the answer that is being written."""

from __future__ import annotations

import asyncio
from typing import Any

import gradio as gr

from playground.conversation import Conversation
from playground.errors import PlaygroundError
from playground.services.history import History
from playground.services.samples import Sample
from playground.ui import texts
from playground.ui.bubbles import Writing, written
from playground.ui.chosen_sample import ChosenSample
from playground.ui.opened import Open, Opened
from playground.ui.views import pairs as view
from playground.ui.views.transcript import PLAIN, Scene
from playground.ui.visitor import caller_of
from playground.ui.wiring import LIGHT, Updates, show_html

# A prompt and its expected answer go back as they stand on the page: texts, which nobody can change but its reader.
_CLICKS = """
element.addEventListener('click', (event) => {
  const button = event.target.closest('[data-pairs]');
  if (!button) return;
  const text = (name) => button.closest('.pair')?.querySelector(`[data-text="${name}"]`)?.textContent ?? '';
  if (button.dataset.pairs === 'earlier') trigger('click');
  else trigger('submit', {value: {prompt: text('prompt'), expected: text('expected')}});
});
document.addEventListener('click', (event) => {
  if (event.target.closest?.('[data-sidebar=new]')) trigger('clear');
}, true);
"""


class Pairs:
    """What `Bubbles` is to the Full Chat tab: `draws` shows what is stored, `writes` what is being written.

    ``stored`` triggers ``click`` for the earlier pairs, ``submit`` for a prompt that is to be used again, and ``clear`` for
    a new conversation.
    """

    def render(self) -> None:
        """Make the widgets."""
        self.summary = show_html("", elem_id="pairs-summary")
        with gr.Column(elem_id="pairs-scroll", elem_classes="pairs-scroll"):
            self.stored = show_html(view.pairs(None), elem_id="pairs", js_on_load=_CLICKS)
            with gr.Column(elem_id="pair-live", elem_classes="pair-live"):
                with gr.Column(elem_classes="pair-writing"):
                    self.head = show_html("", elem_id="pair-live-head")
                    self.live = gr.Markdown(
                        "", sanitize_html=True, line_breaks=True, latex_delimiters=[], elem_id="pair-live-text",
                        elem_classes=["bubble-text", "answer-like"],
                    )  # fmt: skip
                self.awaited = show_html("", elem_id="pair-live-expected")

    @property
    def outputs(self) -> list[gr.components.Component]:
        """What `draws` and `writes` fill."""
        return [self.summary, self.stored, self.head, self.live, self.awaited]

    def listen(self, history: History, opened: Opened, prompt: gr.Textbox, sample: ChosenSample) -> None:
        """Wire the buttons: earlier pairs, and a prompt that goes back into ``prompt``, as a sample does."""
        self._history = history
        self._prompt = prompt
        self._sample = sample
        self.stored.click(self._everything, opened.key, self.stored, **LIGHT)
        again = self.stored.submit(self._again, [sample.sample, sample.system], [prompt, *sample.held], **LIGHT)
        again.then(None, None, None, js="() => window.playground.toPrompt()")

    def draws(self, conversation: Conversation | None, scene: Scene = PLAIN) -> Updates:
        """Updates that show ``conversation``, and nothing that is being written."""
        return {
            self.stored: view.pairs(conversation, scene),
            self.summary: view.summary(conversation, scene.leaf),
            **self.forgets(),
        }

    def forgets(self) -> Updates:
        """Updates that show nothing that is being written, and leave what is stored as it is shown."""
        return {self.head: "", self.live: "", self.awaited: ""}

    def begins(self, conversation: Conversation | None, scene: Scene, writing: Writing) -> Updates:
        """Updates that show ``conversation`` with a pair under it whose response has yet to come."""
        expected = view.awaited(view.expected_of(conversation, scene))
        return {self.stored: view.pairs(conversation, scene), **self.writes(writing), self.awaited: expected}

    def writes(self, writing: Writing) -> Updates:
        """Updates that show the response as far as it is written."""
        head, text = written(writing)
        return {self.head: head, self.live: text}

    def _again(self, event: gr.EventData, held: str, system: str) -> Updates:
        """A prompt of before as if it were chosen again, with the answer that was expected of it."""
        prompt, expected = _text(event, "prompt"), _text(event, "expected")
        if expected:
            return self._sample.takes(Sample(prompt, expected, row=-1), texts.ASKED_BEFORE, held, system)
        return {**self._sample.goes(held, system), self._prompt: prompt}

    async def _everything(self, visitor: gr.Request, key: str) -> Any:
        """The open conversation with its earliest pairs too, until it is drawn anew."""
        opened = Open.parse(key)
        try:
            found = await asyncio.to_thread(self._history.get, caller_of(visitor), opened.conversation)
            return view.pairs(found, Scene(opened.leaf, everything=True))
        except PlaygroundError:  # deleted elsewhere: what follows the conversation says so
            return gr.skip()


def _text(event: gr.EventData, name: str) -> str:
    """A page may send anything; texts are taken."""
    value = event._data.get("value") if isinstance(event._data, dict) else None
    said = value.get(name) if isinstance(value, dict) else None
    return said if isinstance(said, str) else ""
