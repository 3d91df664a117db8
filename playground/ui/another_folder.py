"""Looking for training runs in another folder: a field to type it in, and the folders that are looked through since then."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from pathlib import Path

import gradio as gr

from playground.config import AppConfig
from playground.services.runs import Runs
from playground.training_run import TrainingRun
from playground.types import Caller
from playground.ui import texts
from playground.ui.safe_text import escape
from playground.ui.views.figures import plural
from playground.ui.views.runs import looking, pointed_list, visible
from playground.ui.views.status import error_lines, status_line
from playground.ui.wiring import Updates, clicks_of, patiently, report, show_html


class AnotherFolder:
    """A folded field, only on a machine of one's own; what it finds goes to the `RunPicker` that placed it."""

    def __init__(self, runs: Runs, config: AppConfig) -> None:
        self._runs = runs
        self.allowed = config.free_paths

    def render(self) -> None:
        """Make the widgets, where paths may be typed."""
        if not self.allowed:
            return
        with gr.Accordion(texts.ANOTHER_FOLDER, open=False, elem_id="another-folder", elem_classes="inner"):
            with gr.Row(elem_classes="folder-row"):
                self.folder = gr.Textbox(
                    label="Folder", show_label=False, placeholder="/home/me/outputs", max_lines=1, min_width=0,
                    elem_id="run-folder", elem_classes="field",
                )  # fmt: skip
                self.look = gr.Button("Look", size="md", min_width=70, elem_id="look-in-folder")
            self.said = show_html(self._help(), elem_id="folder-said", elem_classes="status-slot")
            self.pointed = show_html("", elem_id="pointed-folders", js_on_load=clicks_of("forget"))

    @property
    def outputs(self) -> list[gr.components.Component]:
        """What its updates fill."""
        return [self.folder, self.said, self.pointed] if self.allowed else []

    @staticmethod
    def _help() -> str:
        return f'<p class="muted">{escape(texts.ANOTHER_FOLDER_HELP)}</p>'

    def lists(self) -> Updates:
        """Updates that show which folders are looked through because somebody has pointed at them. Reads the store."""
        return {self.pointed: pointed_list(self._runs.pointed_at())} if self.allowed else {}

    async def looks(self, caller: Caller, folder: str, found: list[TrainingRun]) -> AsyncGenerator[Updates, None]:
        """Look in ``folder``: how long it takes, then what came of it; the runs in it are put into ``found``."""
        yield {self.said: looking(texts.LOOKING_FOR_RUNS)}
        try:
            async with aclosing(patiently(lambda: self._runs.point_at(caller, folder), "runs")) as news:
                async for item in news:
                    if isinstance(item, tuple):
                        found.extend(item[0])
                    else:
                        yield {self.said: looking(texts.LOOKING_FOR_RUNS, item)}
            listed = await asyncio.to_thread(self.lists)
            yield {self.said: _found(folder, found), self.folder: "", **listed}
        except Exception as error:
            report(error)
            yield {self.said: error_lines(error)}

    async def forgets(self, caller: Caller, folder: str) -> Updates:
        """Look no longer in ``folder``; a sentence that says so, or why not."""
        try:
            await asyncio.to_thread(self._runs.forget, caller, folder)
            said = status_line("done", texts.FORGOTTEN.format(folder=visible(folder)))
        except Exception as error:
            report(error)
            said = error_lines(error)
        return {self.said: said, **await asyncio.to_thread(self.lists)}


def the_only_completed(found: list[TrainingRun]) -> TrainingRun | None:
    """The completed run among ``found``, where it is the only one."""
    completed = [run for run in found if run.state == "completed"]
    return completed[0] if len(completed) == 1 else None


def _found(folder: str, found: list[TrainingRun]) -> str:
    chosen = the_only_completed(found)
    words = texts.FOUND_AND_CHOSEN if chosen else texts.FOUND_RUNS
    name = visible(chosen.name) if chosen else ""
    place = visible(Path(folder.strip()).name or folder)
    return status_line("done", words.format(runs=plural(len(found), "run"), folder=place, name=name))
