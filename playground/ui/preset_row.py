"""Under the preset field: saving the settings by a name, deleting such a preset, and which one pages begin with."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import gradio as gr

from playground.errors import PlaygroundError
from playground.services.presets import OwnPresets
from playground.types import GenerationSettings
from playground.ui import texts
from playground.ui.views.settings import preset_note
from playground.ui.views.status import error_sentence, status_line
from playground.ui.visitor import caller_of
from playground.ui.wiring import AS_TYPED, LIGHT, Updates, show_html

if TYPE_CHECKING:
    from playground.ui.settings_panel import SettingsPanel

log = logging.getLogger(__name__)
FOCUS = "() => setTimeout(() => document.querySelector('#preset-name :is(input, textarea)')?.select(), 60)"


@dataclass(frozen=True)
class Before:
    """What Undo brings back: a preset as it was, and whether pages began with it."""

    name: str
    settings: GenerationSettings
    first: bool = False


class PresetRow:
    """`render` makes the widgets under the preset field, `listen` wires them; ``panel`` shows what they change."""

    def __init__(self, presets: OwnPresets, panel: SettingsPanel) -> None:
        self._presets = presets
        self._panel = panel

    def render(self) -> None:
        """Make the widgets: two buttons, the field for a name, what was done, and the switch."""
        self.before = gr.State(None)
        with gr.Row(elem_classes="buttons preset-buttons"):
            self.save = gr.Button("Save as preset", size="sm", min_width=0, elem_id="preset-save")
            self.delete = gr.Button("Delete preset", size="sm", min_width=0, visible=False, elem_id="preset-delete")
        with gr.Row(visible=False, elem_classes="preset-form", elem_id="preset-form") as self.form:
            self.name = gr.Textbox(
                label="Name", max_lines=1, placeholder=texts.PRESET_NAME, elem_id="preset-name", elem_classes="field",
                min_width=0,
            )  # fmt: skip
            self.keep = gr.Button("Save", variant="primary", size="sm", min_width=0, elem_id="preset-keep")
            self.cancel = gr.Button("Cancel", size="sm", min_width=0, elem_id="preset-cancel")
            self.hint = show_html("", elem_id="preset-hint")
        with gr.Row(elem_classes="preset-said"):
            self.said = show_html("", elem_id="preset-said", elem_classes="status-slot")
            self.undo = gr.Button("Undo", size="sm", min_width=0, visible=False, elem_id="preset-undo")
        self.first = gr.Checkbox(
            True, label=texts.PRESET_FIRST, info=texts.PRESET_FIRST_HELP, container=False, interactive=False,
            elem_id="preset-first", elem_classes=["field", "hinted"],
        )  # fmt: skip

    @property
    def marks(self) -> list[gr.components.Component]:
        """What `shows` fills."""
        return [self.delete, self.first]

    def shows(self, preset: str, *, own: bool, first: bool, only: bool) -> Updates:
        """Updates for another ``preset``: one's ``own`` may be deleted; ``only`` says that it is first if none is chosen."""
        return {
            self.delete: gr.update(visible=own),
            self.first: gr.update(value=first, interactive=not (first and only)),
        }

    def listen(self, model: gr.Dropdown) -> None:
        """Wire the widgets."""
        panel, options = self._panel, {**LIGHT, **AS_TYPED}
        form, said = [self.form, self.name, self.hint], [self.said, self.undo, self.before]
        outputs = [*panel.outputs, *form, *said]
        self.save.click(self._open, panel.preset, [*form, *said], **LIGHT).then(None, None, None, js=FOCUS)
        self.cancel.click(lambda: gr.update(visible=False), None, self.form, **LIGHT)
        self.name.input(self._note, self.name, self.hint, trigger_mode="always_last", **LIGHT)
        kept = [model, self.name, *panel.inputs]
        gr.on([self.keep.click, self.name.submit], self._save, kept, outputs, trigger_mode="once", **options)
        self.delete.click(self._delete, [model, *panel.inputs], outputs, trigger_mode="once", **options)
        self.undo.click(self._undo, [model, self.before, *panel.inputs], outputs, trigger_mode="once", **options)
        self.first.input(self._begin_with, [model, panel.preset, self.first], [*self.marks, *said], **options)

    def _open(self, visitor: gr.Request, preset: str) -> Updates:
        """The field for a name; an own preset's is there already, to be replaced."""
        name = preset if preset in self._panel.own(caller_of(visitor)) else ""
        hint = {self.hint: preset_note(name, bool(name))}
        return {self.form: gr.update(visible=True), self.name: name, **hint, **self._says("")}

    def _note(self, visitor: gr.Request, name: str) -> str:
        """What saving under that name would do, while it is typed."""
        return preset_note(name, name.strip() in self._panel.own(caller_of(visitor)))

    def _save(self, visitor: gr.Request, model: str | None, name: str, *values: Any) -> Updates:
        """Keep the settings as they stand, in the place of an own preset of that name."""
        caller = caller_of(visitor)
        try:
            settings = self._panel.settings(values)
            before = self._panel.own(caller).get((name or "").strip())
            kept = self._presets.save(caller, name or "", settings)
        except Exception as error:
            return self._refused(error)
        said = texts.PRESET_REPLACED if before else texts.PRESET_SAVED
        closed = {self.form: gr.update(visible=False), self.name: ""}
        undo = Before(kept, before) if before else None
        return {**self._panel.shows(caller, model, kept, values), **closed, **self._done(said.format(name=kept), undo)}

    def _delete(self, visitor: gr.Request, model: str | None, preset: str, *values: Any) -> Updates:
        """Forget an own preset; the fields keep their values, under the preset that pages begin with then."""
        caller = caller_of(visitor)
        try:
            first = self._presets.first(caller) == preset
            before = Before(preset, self._presets.delete(caller, preset), first)
        except Exception as error:
            return self._refused(error)
        updates = self._panel.shows(caller, model, "", (preset, *values))
        return {
            **updates,
            self.form: gr.update(visible=False),
            **self._done(texts.PRESET_DELETED.format(name=preset), before),
        }

    def _undo(self, visitor: gr.Request, model: str | None, before: Before | None, *values: Any) -> Updates:
        """Bring back the preset that was deleted or replaced."""
        if before is None:
            return {self.undo: gr.update(visible=False)}
        caller = caller_of(visitor)
        try:
            self._presets.save(caller, before.name, before.settings)
            if before.first:
                self._presets.set_first(caller, before.name)
        except Exception as error:
            return self._refused(error)
        shown = self._panel.fills(caller, model, before.name)
        return {**shown, **self._done(texts.PRESET_BACK.format(name=before.name))}

    def _begin_with(self, visitor: gr.Request, model: str | None, preset: str, wanted: bool) -> Updates:
        caller = caller_of(visitor)
        try:
            self._presets.set_first(caller, preset if wanted else "")
        except Exception as error:
            return {**self._panel.marked(caller, model, preset), **self._refused(error)}
        said = texts.PRESET_BEGINS.format(name=preset) if wanted else texts.PRESET_BEGINS_AS_BEFORE
        return {**self._panel.marked(caller, model, preset), **self._done(said)}

    def _done(self, sentence: str, undo: Before | None = None) -> Updates:
        return {**self._says(status_line("done", sentence), undo=undo is not None), self.before: undo}

    def _says(self, line: str, *, undo: bool = False) -> Updates:
        return {self.said: line, self.undo: gr.update(visible=undo)}

    def _refused(self, error: Exception) -> Updates:
        """Why it was not done, in the line where it would be told; the field stays open."""
        if not isinstance(error, PlaygroundError):
            log.error("a preset could not be kept", exc_info=error)
        return self._says(status_line("error", error_sentence(error)))
