"""Under each answer: what made it, and running it again. Also a manifest that was copied from elsewhere."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import aclosing
from typing import Any

import gradio as gr

from playground.errors import InvalidRequest
from playground.services.limits import Limits
from playground.services.replay import Manifest, Replay, ReplayResult
from playground.types import Caller, GenerationEvent, ModelSpec
from playground.ui import texts
from playground.ui.views.answer import Answer
from playground.ui.views.provenance import made_by, replay_progress, replay_said
from playground.ui.views.status import worked
from playground.ui.visitor import caller_of
from playground.ui.wiring import LONG, Updates, WorkLine, show_html


class Replays:
    """Two places under the answer's line: a line for the replay, with its Stop, and the fold with what made each answer.

    The answer itself is never touched. ``made`` is filled by `shows`.
    """

    def __init__(self, replay: Replay, limits: Limits) -> None:
        self._replay = replay
        self._limits = limits
        self.work = WorkLine("replay", texts.REPLAY_STOPPED)

    def render(self) -> None:
        """Make the widgets that belong to the answer above them."""
        self.work.render()
        self.made = show_html("", elem_id="made-by")

    def render_manifest(self) -> None:
        """Make the folded field for a manifest from elsewhere."""
        with gr.Accordion(texts.REPLAY_MANIFEST, open=False, elem_id="replay-manifest", elem_classes="card"):
            self.manifest = gr.Textbox(
                label=texts.MANIFEST_HELP, lines=3, max_lines=8, placeholder='{"request": …}', elem_id="manifest",
                elem_classes="field",
            )  # fmt: skip
            self.paste = gr.Button("Replay", elem_id="replay-pasted", size="md", min_width=100)

    def shows(self, answer: Answer | None) -> Updates:
        """Updates that show what made ``answer``, as far as it has ended; None clears it."""
        if answer is None:
            return {self.made: ""}
        return {self.made: made_by(sorted(answer.provenance.items()), len(answer.indices) > 1)}

    async def note_prompt(self, answer: Answer) -> None:
        """Remember in ``answer`` which token ids its prompt was; quick, since its model is still at hand."""
        if answer.provenance and not answer.prompt_hash:
            answer.prompt_hash = await asyncio.to_thread(self._replay.prompt_hash, answer.request)

    def named(self, spec: ModelSpec) -> ModelSpec:
        """``spec`` by the names that are offered here. Reads the disk."""
        return self._replay.named_spec(spec)

    def listen(self, status: gr.HTML, answer: gr.State, ends: Sequence[Any]) -> None:
        """Wire the widgets: ``status`` holds the buttons, ``ends`` are the triggers after which there is another answer."""
        again = status.click(self._again, answer, self.work.outputs, trigger_mode="once", **LONG)
        pasted = self.paste.click(self._pasted, self.manifest, self.work.outputs, trigger_mode="once", **LONG)
        self.work.listen([again, pasted], ends)

    async def _again(self, visitor: gr.Request, event: gr.EventData, answer: Answer | None) -> AsyncIterator[Updates]:
        """Run the answer again whose button was pressed."""
        index = int(event.value)
        label = texts.AGAIN if answer is None or len(answer.indices) == 1 else f"{texts.AGAIN}, answer {index + 1}"
        tokens = len(answer.token_ids.get(index, ())) if answer else 0
        async with aclosing(self._show(lambda: _manifest(answer, index), visitor, label, tokens)) as shown:
            async for updates in shown:
                yield updates

    async def _pasted(self, visitor: gr.Request, text: str) -> AsyncIterator[Updates]:
        """Run again what was pasted."""
        async with aclosing(self._show(lambda: Manifest.from_json(text), visitor, texts.AGAIN_PASTED, 0)) as shown:
            async for updates in shown:
                yield updates

    def _show(
        self, read: Callable[[], Manifest], visitor: gr.Request, label: str, tokens: int
    ) -> AsyncGenerator[Updates, None]:
        """The updates of a replay. ``tokens`` is how many it will have, 0 where only the manifest knows."""

        def progress(item: GenerationEvent | ReplayResult | None) -> str | None:
            return None if isinstance(item, ReplayResult) else replay_progress(label, item, tokens)

        def done(result: ReplayResult) -> str:
            return worked(replay_said(label, result), "identical" if result.identical else "differs")

        return self.work.show(self._run(read, caller_of(visitor)), progress, done)

    async def _run(
        self, read: Callable[[], Manifest], caller: Caller
    ) -> AsyncGenerator[GenerationEvent | ReplayResult, None]:
        manifest = read()
        self._limits.admit(caller)
        async with aclosing(self._replay.run(manifest, caller.id)) as news:
            async for item in news:
                yield item


def _manifest(answer: Answer | None, index: int) -> Manifest:
    """The answer's manifest. Raises `InvalidRequest` where the page was open for so long that it is forgotten."""
    manifest = answer.manifest(index) if answer else None
    if manifest is None:
        raise InvalidRequest("This answer is forgotten.", "Generate it again.")
    return manifest
