"""The settings panel's values: what they mean, what was changed, and the way back. Pure functions."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from playground.errors import InvalidRequest
from playground.types import GenerationSettings, Strategy, knobs
from playground.ui import texts
from playground.ui.safe_text import escape

# Which settings mean anything under which strategy; those not named here always do.
_ONLY_FOR: Mapping[str, frozenset[Strategy]] = {
    "temperature": frozenset({"sampling", "top_k"}),
    "top_p": frozenset({"sampling", "top_k"}),
    "top_k": frozenset({"sampling", "top_k"}),
    "min_p": frozenset({"sampling", "top_k"}),
    "seed": frozenset({"sampling", "top_k"}),
    "num_beams": frozenset({"beam_search"}),
    "num_return_sequences": frozenset({"sampling", "top_k", "beam_search"}),
}


def is_relevant(name: str, strategy: str) -> bool:
    """True when the setting ``name`` changes anything under ``strategy``."""
    return strategy in _ONLY_FOR.get(name, frozenset({strategy}))


def settings_from(values: Mapping[str, Any]) -> GenerationSettings:
    """The settings that a panel's ``values`` mean. Those that the strategy does not use keep their defaults.

    Raises `InvalidRequest`, also for a seed that is not a number.
    """
    strategy = values.get("strategy", "sampling")
    chosen = {name: value for name, value in values.items() if is_relevant(name, strategy)}
    if "stop" in chosen:
        chosen["stop"] = stop_sequences(chosen["stop"])
    if "seed" in chosen:
        chosen["seed"] = seed_number(chosen["seed"])
    for name in ("max_new_tokens", "top_k", "num_beams", "num_return_sequences"):
        if name in chosen:
            chosen[name] = _whole(name, chosen[name])
    return GenerationSettings(**chosen)


def panel_values(settings: GenerationSettings) -> dict[str, Any]:
    """``settings`` as the panel's widgets hold them: the inverse of `settings_from`."""
    values = {name: getattr(settings, name) for name in knobs()}
    values["stop"] = "\n".join(text.replace("\\", "\\\\").replace("\n", "\\n") for text in settings.stop)
    values["seed"] = "" if settings.seed is None else str(settings.seed)
    return values


def mirrored(name: str, values: Mapping[str, Any]) -> Any:
    """The setting ``name`` as a slider elsewhere shows it: a temperature that counts for nothing is 0, without draws."""
    unused = name == "temperature" and not is_relevant(name, values["strategy"])
    return 0 if unused else values[name]


def stop_sequences(text: str | None) -> tuple[str, ...]:
    r"""Stop sequences from a box with one on each line; ``\n`` is a line break and ``\\`` a backslash."""
    marks = {"\\n": "\n", "\\\\": "\\", "\\t": "\t"}
    lines = (text or "").split("\n")
    return tuple(re.sub(r"\\[\\nt]", lambda mark: marks[mark[0]], line) for line in lines if line)


def seed_number(text: str | int | None) -> int | None:
    """A typed seed; empty means a new one each time. Text, since browsers round whole numbers above 2⁵³."""
    cleaned = str(text if text is not None else "").strip()
    if not cleaned:
        return None
    try:
        return int(cleaned)
    except ValueError:
        raise InvalidRequest(f"The seed is {cleaned!r}.", "It must be a whole number, or empty.") from None


def _whole(name: str, value: Any) -> Any:
    if value is None:
        raise InvalidRequest(f"{knobs()[name].label} is empty.", "Give it a number, or reset it.")
    return int(value) if isinstance(value, float) and value.is_integer() else value


def changed_settings(values: Mapping[str, Any], baseline: GenerationSettings) -> list[str]:
    """The names of the settings in ``values`` that differ from ``baseline`` and matter under the strategy chosen."""
    strategy = values.get("strategy", "sampling")
    expected = panel_values(baseline)
    return [name for name, value in values.items() if is_relevant(name, strategy) and value != expected[name]]


def changed_list(values: Mapping[str, Any], baseline: GenerationSettings) -> str:
    """The changed settings as small buttons that set each back, and one that sets all back."""
    changed = changed_settings(values, baseline)
    if not changed:
        return ""
    expected = panel_values(baseline)
    chips = [
        f'<button type="button" class="undo" data-knob="{name}" title="Back to {escape(_shown(expected[name]))}">'
        f"{escape(knobs()[name].label)} <span aria-hidden='true'>↺</span></button>"
        for name in changed
    ]
    everything = '<button type="button" class="undo all" data-knob="*">Reset all</button>' if len(changed) > 1 else ""
    return f'<div class="changed-list"><span>Changed:</span> {"".join(chips)}{everything}</div>'


def _shown(value: Any) -> str:
    return "empty" if value in ("", None) else texts.STRATEGIES.get(str(value), str(value))


def settings_heading(preset: str, changed: Iterable[str]) -> str:
    """The heading of the settings panel: ``Settings · Balanced, changed``."""
    return f"Settings · {preset}{', changed' if list(changed) else ''}"


def knob_help(name: str) -> str:
    """The tooltip of one setting."""
    return f"{knobs()[name].help} {texts.GUIDE.get(name, '')}".strip()


def preset_note(name: str, replaces: bool) -> str:
    """What saving under ``name`` would do, where that is more than adding it."""
    return f'<p class="notice">{escape(texts.PRESET_REPLACES.format(name=name.strip()))}</p>' if replaces else ""
