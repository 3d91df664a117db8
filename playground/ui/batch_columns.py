"""What a batch test compares: which models and which settings are the columns of its table."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import gradio as gr

from playground.config import AppConfig
from playground.errors import InvalidRequest, PlaygroundError
from playground.services.assembly import Services
from playground.types import Caller, GenerationSettings, ModelSpec
from playground.ui import texts
from playground.ui.side_panel import SidePanel
from playground.ui.topbar import TopBar
from playground.ui.views.weights import Choice, adapter_choice
from playground.ui.visitor import caller_of
from playground.ui.wiring import LIGHT, Updates, Values

RIGHT = "*right"  # no adapter's and no preset's name: what the panel beside the tabs holds
BASE = "*base"
_ADAPTER = "adapter:"


@dataclass(frozen=True)
class Columns:
    """Which weights and settings are asked; ``notes`` say what was left out as the same."""

    choices: tuple[Choice, ...]
    settings: tuple[tuple[str, GenerationSettings], ...]
    notes: tuple[str, ...] = ()


class BatchColumns:
    """`render` makes the two fields, `listen` keeps what they offer; `chosen` is what the values of ``inputs`` mean."""

    def __init__(self, config: AppConfig, services: Services, side: SidePanel) -> None:
        self._config = config
        self._services = services
        self._picker = side.picker
        self._panel = side.settings

    def render(self) -> None:
        """Make the widgets."""
        with gr.Row(elem_classes="batch-fields"):
            self.models = gr.Dropdown(
                [(texts.BATCH_AS_CHOSEN, RIGHT), (texts.BATCH_BASE, BASE)], value=[RIGHT], multiselect=True,
                label=texts.BATCH_MODELS, info=texts.BATCH_MODELS_HELP, elem_id="batch-models",
                elem_classes=["field", "hinted"], min_width=240,
            )  # fmt: skip
            self.settings = gr.Dropdown(
                [(texts.BATCH_AS_SET, RIGHT), *((name, name) for name in self._config.presets)], value=[RIGHT],
                multiselect=True, label=texts.BATCH_SETTINGS, info=texts.BATCH_SETTINGS_HELP, elem_id="batch-settings",
                elem_classes=["field", "hinted"], min_width=240,
            )  # fmt: skip

    @property
    def inputs(self) -> list[gr.components.Component]:
        """What `chosen` takes: the two fields, and all that the panel on the right holds."""
        return [self.models, self.settings, *self._picker.selection, *self._panel.inputs]

    def listen(self, fold: gr.Accordion, bar: TopBar) -> list[Any]:
        """Wire the fields. Returns the triggers after which other columns may be chosen."""
        offers = [fold.expand, self._picker.model.change, self._panel.preset.change, bar.chips.change]
        known = [self._picker.model, self.models, self.settings]
        gr.on(offers, self._offer, known, [self.models, self.settings], trigger_mode="always_last", **LIGHT)
        beside = [self._picker.adapter.change, self._picker.model.change, self._panel.changed.change]
        return [self.models.change, self.settings.change, self._panel.preset.change, *beside]

    def chosen(self, caller: Caller, models: Any, settings: Any, *beside: Any) -> Columns:
        """The columns. Raises `InvalidRequest` for settings that make no sense or are no longer there."""
        count = len(self._picker.selection)
        right = Choice(*beside[:count])
        offered = self._presets(caller, right.model)
        choices, notes = self._choices(_texts(models), right)
        named, more = self._named(_texts(settings), offered, beside[count:])
        return Columns(choices, named, (*notes, *more))

    def specs(self, choices: Sequence[Choice]) -> tuple[tuple[str, ModelSpec], ...]:
        """What answers for each choice, with its name for people. Raises what `ModelPicker.spec` raises. Reads the disk."""
        specs = [(choice, self._picker.spec(choice)) for choice in choices]
        return tuple((self._picker.label(choice, spec), spec) for choice, spec in specs)

    def _choices(self, wanted: Sequence[str], right: Choice) -> tuple[tuple[Choice, ...], tuple[str, ...]]:
        """Each of the weights once, and what was said twice."""
        found: dict[Choice, str] = {}
        notes = []
        for name in sorted(wanted, key=lambda one: one != RIGHT):
            choice = _plain(self._choice(name, right))
            if choice in found:
                notes.append(texts.BATCH_SAME_MODEL.format(one=self._called(name)))
            found.setdefault(choice, name)
        in_order = [name for name in wanted if name in found.values()]
        by_name = {name: choice for choice, name in found.items()}
        return tuple(by_name[name] for name in dict.fromkeys(in_order)), tuple(notes)

    def _choice(self, name: str, right: Choice) -> Choice:
        if name == RIGHT:
            return right
        if name == BASE:
            return replace(right, adapter=None)
        return replace(right, adapter=name.removeprefix(_ADAPTER), strength=1.0)

    def _called(self, name: str) -> str:
        return texts.BATCH_BASE if name == BASE else name.removeprefix(_ADAPTER)

    def _named(
        self, wanted: Sequence[str], offered: Mapping[str, GenerationSettings], values: Values
    ) -> tuple[tuple[tuple[str, GenerationSettings], ...], tuple[str, ...]]:
        """Each of the settings once, under the name of a preset where they are one's."""
        found: dict[GenerationSettings, str] = {}
        notes = []
        for name in wanted:
            settings = self._panel.settings(values) if name == RIGHT else _preset(name, offered)
            preset = next((known for known, its in offered.items() if its == settings), texts.BATCH_AS_SET)
            called = preset if name == RIGHT else name
            if settings in found:
                one = texts.BATCH_AS_SET if name == RIGHT or found[settings] == called else name
                notes.append(texts.BATCH_SAME_SETTINGS.format(one=one, other=found[settings]))
            found.setdefault(settings, called)
        return tuple((name, settings) for settings, name in found.items()), tuple(notes)

    def _presets(self, caller: Caller, model: str | None) -> Mapping[str, GenerationSettings]:
        """What may be chosen, as the panel on the right offers it."""
        recommended = self._services.models.recommended(model or "")
        try:
            presets = self._services.presets.all(caller)
        except PlaygroundError:  # whoever has no history has no presets of their own either
            presets = self._config.presets
        return {**({texts.MODELS_OWN: recommended} if recommended else {}), **presets}

    async def _offer(self, visitor: gr.Request, model: str | None, models: list[str], settings: list[str]) -> Updates:
        """What can be chosen by now; what is chosen and no longer there goes."""
        caller = caller_of(visitor)
        adapters = (await asyncio.to_thread(self._picker.adapter_choices, model))[1:]
        weights = [(texts.BATCH_AS_CHOSEN, RIGHT), (texts.BATCH_BASE, BASE)]
        weights += [(name, f"{_ADAPTER}{name}") for name in adapters]
        presets = [(texts.BATCH_AS_SET, RIGHT), *((name, name) for name in self._presets(caller, model))]
        return {
            self.models: gr.update(choices=weights, value=_kept(models, weights)),
            self.settings: gr.update(choices=presets, value=_kept(settings, presets)),
        }


def _kept(chosen: Sequence[str] | None, choices: Sequence[tuple[str, str]]) -> list[str]:
    known = {value for _, value in choices}
    return [name for name in chosen or () if name in known]


def _texts(value: Any) -> list[str]:
    """A field's value: names, each once; anybody may have sent it."""
    names = value if isinstance(value, list) else []
    return list(dict.fromkeys(name for name in names if isinstance(name, str)))


def _preset(name: str, offered: Mapping[str, GenerationSettings]) -> GenerationSettings:
    if name not in offered:
        raise InvalidRequest(f"There are no settings {name[:60]!r} any more.", "Choose others.")
    return offered[name]


def _plain(choice: Choice) -> Choice:
    """``choice`` so that two of the same weights are equal: the base has no strength."""
    adapter = adapter_choice(choice.adapter)
    return replace(choice, adapter=adapter, strength=1.0 if adapter is None else choice.strength)
