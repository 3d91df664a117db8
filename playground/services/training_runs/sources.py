"""What a run says of itself: base, datasets and trainer, from model cards and the trainers' own settings files."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from playground.services.training_runs.adapters import CONFIG_FILE, LOG_FILE, STATE_FILE
from playground.services.training_runs.reading import Folder, Reading

_MOST_TEXT = 200_000
_MOST_YAML = 3_000
_MOST_BRACKETS = 60
_MOST_SENTENCE = 1_000
_MOST_FILES = 6
_MOST_NAMES = 20
_LONGEST_NAME = 500
_DATASET_KEYS = ("datasets", "dataset", "dataset_name", "train.dataset", "train_file")
_TRAINERS = {"llama-factory": "LLaMA-Factory", "axolotl": "axolotl", "unsloth": "Unsloth", "trl": "TRL"}
_TUNED = "fine-tuned version of"
_ON_DATASETS = re.compile(r".{0,500}? on (?:the|an) (.{1,400}?) datasets?\b", re.DOTALL)
_LINK = re.compile(r"\[([^\]]+)\]\([^)]*\)")
_PLAIN = r"[A-Za-z0-9_./@-]+"
_NO_NAMES = {"null", "true", "false", "yes", "no", "on", "off"}


@dataclass(frozen=True)
class Source:
    """Base and datasets as the trainer wrote them down, and which trainer it was; "" and () for what is not said."""

    base: str = ""
    trainer: str = ""
    datasets: tuple[str, ...] = ()


def read_source(reading: Reading, folder: Folder, adapters: Sequence[Folder]) -> Source:
    """What is said in ``folder`` of a run, and in those of its ``adapters``: the first that says something counts."""
    configs = [_config(reading, adapter) for adapter in adapters[:1] or [folder]]
    said = [
        one
        for place in dict.fromkeys([folder.path, *(one.path for one in adapters[:1])])
        for one in _card(reading, place)
    ]
    said += [_Said(_text(reading, folder, file)) for file in _settings_files(folder)]
    bases = [*(config.get("base_model_name_or_path") for config in configs), *(one.get("base_model") for one in said)]
    base = next(filter(None, map(_name, bases)), "")
    datasets = next(filter(None, map(_datasets, said)), ())
    return Source(base, _trainer(folder, said, configs, base, adapters), datasets)


class _Said:
    """The YAML in a text, read key by key: what is broken elsewhere in it, or long, does not matter."""

    def __init__(self, text: str = "", known: Mapping[str, Any] | None = None) -> None:
        self._text = text
        self._known = known or {}

    def get(self, key: str) -> Any:
        """What stands under ``key`` at the top level; None where nothing does."""
        if key in self._known:
            return self._known[key]
        if not (
            found := re.search(rf"^{re.escape(key)}:.*\n?(?:(?:[ \t]|-[ \t]).*\n?|\r?\n)*", self._text, re.MULTILINE)
        ):
            return None
        block = found[0]
        if len(block) > _MOST_YAML:
            block = block[:_MOST_YAML].rpartition("\n")[0]
        simple = _simple(block[len(key) + 1 :])
        return simple if simple is not None else _parsed(block, key)


def _simple(value: str) -> str | list[str] | None:
    """Names in one of the three forms that nearly all cards have; None for others. YAML takes a hundred times as long."""
    if re.fullmatch(rf"(?:\s*\n(?:[ \t]*- {_PLAIN}[ \t]*\n?)+\s*)", value):
        names = re.findall(rf"- ({_PLAIN})", value)
    elif found := re.fullmatch(rf"\s*\[({_PLAIN}(?:, ?{_PLAIN})*)\]\s*", value):
        names = found[1].replace(" ", "").split(",")
    elif found := re.fullmatch(rf"[ \t]*({_PLAIN})\s*", value):
        return found[1] if found[1].lower() not in _NO_NAMES else None
    else:
        return None
    return names if not _NO_NAMES & {name.lower() for name in names} else None


def _parsed(block: str, key: str) -> Any:
    """The value in a few lines of YAML; None where they are none. libyaml's loader would crash on deep nesting."""
    if "<<" in block or block.count("[") + block.count("{") > _MOST_BRACKETS:  # both can be made to take forever
        return None
    try:
        parsed = yaml.safe_load(block)
    except (yaml.YAMLError, ValueError, RecursionError):
        return None
    return parsed.get(key) if isinstance(parsed, dict) else None


def _config(reading: Reading, adapter: Folder) -> dict[str, Any]:
    if CONFIG_FILE not in adapter.files:
        return {}
    try:
        config = json.loads(reading.data(adapter.within(CONFIG_FILE), 10_000_000))
    except (ValueError, RecursionError):
        return {}
    return config if isinstance(config, dict) else {}


def _card(reading: Reading, path: str) -> Iterator[_Said]:
    """What a model card says: its front matter, axolotl's settings printed in it, and the sentence about the dataset."""
    text = _text(reading, reading.folder(path), "README.md").removeprefix("\ufeff")
    if text.startswith("---") and (end := text.find("\n---", 3)) > 0:
        yield _Said(text[3:end])
    start, end = text.find("```yaml\n"), -1
    if start >= 0 and (end := text.find("\n```", start + 8)) > 0:
        yield _Said(text[start + 8 : end])
    at = text.find(_TUNED)
    sentence = _ON_DATASETS.match(text[at : at + _MOST_SENTENCE]) if at >= 0 else None
    if sentence and "unknown" not in sentence[1]:
        names = re.split(r",\s*(?:and )?(?:the )?|\s+and (?:the )?", _LINK.sub(r"\1", sentence[1]))
        yield _Said(known={"datasets": names})


def _settings_files(folder: Folder) -> list[str]:
    files = sorted(file for file in folder.files if file.endswith((".yaml", ".yml")))
    return sorted(files, key=lambda file: file != "training_args.yaml")[:_MOST_FILES]


def _text(reading: Reading, folder: Folder, file: str) -> str:
    return reading.data(folder.within(file), _MOST_TEXT).decode("utf-8", "replace") if file in folder.files else ""


def _datasets(said: _Said) -> tuple[str, ...]:
    """The datasets that one source names, under whichever key it has."""
    return next(filter(None, (tuple(dict.fromkeys(_names(said.get(key)))) for key in _DATASET_KEYS)), ())


def _names(value: Any) -> list[str]:
    """Names in a text (LLaMA-Factory: apart by commas), in a list, or in axolotl's list of ``path``s."""
    parts = value.split(",") if isinstance(value, str) else value if isinstance(value, list) else []
    return [name for part in parts[:_MOST_NAMES] if (name := _name(part))]


def _name(value: Any) -> str:
    """A name as such, as the first of a list, or under ``path`` or ``name``; "" for what is none."""
    if isinstance(value, list):
        value = value[0] if value else ""
    if isinstance(value, dict):
        value = value.get("path") or value.get("name")
    return value.strip() if isinstance(value, str) and len(value) <= _LONGEST_NAME else ""


def _trainer(
    folder: Folder, said: Sequence[_Said], configs: Sequence[Mapping[str, Any]], base: str, adapters: Sequence[Folder]
) -> str:
    if folder.files & {LOG_FILE, "llamaboard_config.yaml"}:
        return "LLaMA-Factory"
    tags = {tag.lower() for one in said for tag in _names(one.get("tags"))}
    for tag, name in _TRAINERS.items():
        if tag in tags:
            return name
    mappings = [config.get("auto_mapping") for config in configs]
    if base.lower().startswith("unsloth/") or any(isinstance(one, dict) and "unsloth_fixed" in one for one in mappings):
        return "Unsloth"
    has_state = any(STATE_FILE in place.files for place in (folder, *adapters))
    return "Trainer" if has_state or "training_args.bin" in folder.files else ""
