"""A manifest: one answer and all that it takes to make it again, as JSON that is read strictly.

What is in a manifest may come from anybody. It is data: nothing in it is run, and its paths are only names to look up.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from playground.errors import InvalidRequest
from playground.types import (
    SEED_LIMIT,
    TEMPLATES,
    FinishReason,
    GenerationEvent,
    GenerationRequest,
    GenerationSettings,
    Message,
    ModelSpec,
    Provenance,
    RenderedPrompt,
)

FORMAT = "adapter-playground manifest 1"
LONGEST_MANIFEST = 16_000_000
MOST_TOKENS = 1_000_000
_FINISHED: tuple[FinishReason, ...] = ("stop", "length", "cancelled")
_REMEDY = "Use a manifest as this app wrote it."

T = TypeVar("T")


@dataclass(frozen=True)
class Manifest:
    """One answer and all that it takes to make it again.

    ``index`` is the answer's place among those of its request. ``token_ids`` are the generated tokens as they were told,
    without the end token; empty for beam search, which tells its text only. ``prompt_hash`` is `prompt_hash` of the prompt
    as the model read it, "" where that is not known.
    """

    request: GenerationRequest
    index: int
    token_ids: tuple[int, ...]
    prompt_hash: str
    text: str
    finish_reason: FinishReason
    provenance: Provenance | None

    def to_json(self) -> str:
        """The manifest as JSON. The request's ``user`` stays out of it."""
        values = dataclasses.asdict(self)
        del values["request"]["user"]
        return json.dumps({"format": FORMAT, **values}, ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str) -> Manifest:
        """The manifest in ``text``. Raises `InvalidRequest` naming the first field that is unknown, missing or no good."""
        if len(text) > LONGEST_MANIFEST:
            raise InvalidRequest(f"This is no manifest: it has {len(text):,} characters.", _REMEDY)
        values = _parsed(text)
        if values.pop("format", None) != FORMAT:
            raise InvalidRequest(f"This is no manifest: its format is not {FORMAT!r}.", _REMEDY)
        _check_names("manifest", cls, values)
        tokens = _texts_or_numbers("token_ids", values["token_ids"], int)
        if len(tokens) > MOST_TOKENS or any(token < 0 for token in tokens):
            raise InvalidRequest(f"The manifest's token_ids are {len(tokens):,} or below 0.", _REMEDY)
        if values["finish_reason"] not in _FINISHED:
            raise InvalidRequest(f"The manifest's finish_reason is {_short(values['finish_reason'])}.", _REMEDY)
        return cls(
            request=_request(values["request"]),
            index=_checked("index", values["index"], lambda at: type(at) is int and 0 <= at < 64),
            token_ids=tokens,
            prompt_hash=_text("prompt_hash", values["prompt_hash"]),
            text=_text("text", values["text"]),
            finish_reason=values["finish_reason"],
            provenance=None if values["provenance"] is None else _provenance(values["provenance"]),
        )


@dataclass
class Recorder:
    """The manifests of a request's answers; a fold over its events."""

    request: GenerationRequest
    _ids: dict[int, list[int]] = field(default_factory=dict)
    _texts: dict[int, str] = field(default_factory=dict)
    _ends: dict[int, tuple[FinishReason, Provenance | None]] = field(default_factory=dict)

    def add(self, event: GenerationEvent) -> None:
        """Take in one event."""
        self._ids.setdefault(event.index, []).extend(token.id for token in event.tokens)
        self._texts[event.index] = self._texts.get(event.index, "") + event.text
        if event.finish_reason:
            self._ends[event.index] = (event.finish_reason, event.provenance)

    def manifests(self, prompt: str = "") -> tuple[Manifest, ...]:
        """One for each answer that has ended, in their order; ``prompt`` is the prompt's hash."""
        return tuple(
            Manifest(self.request, index, tuple(self._ids[index]), prompt, self._texts[index], reason, provenance)
            for index, (reason, provenance) in sorted(self._ends.items())
        )


def prompt_hash(rendered: RenderedPrompt) -> str:
    """SHA-256 of the prompt's token ids."""
    return rendered.hash


def _parsed(text: str) -> dict[str, Any]:
    def refuse(constant: str) -> Any:
        raise ValueError(f"{constant} is no number")

    try:
        values = json.loads(text, parse_constant=refuse)
    except (ValueError, RecursionError) as error:
        raise InvalidRequest(f"This is no manifest: {str(error)[:200]}.", _REMEDY) from error
    if not isinstance(values, dict):
        raise InvalidRequest("This is no manifest: it is not a JSON object.", _REMEDY)
    return values


def _check_names(where: str, kind: Any, values: Any, without: frozenset[str] = frozenset()) -> dict[str, Any]:
    """``values`` as an object with exactly the fields of ``kind``, but those in ``without``."""
    if not isinstance(values, dict):
        raise InvalidRequest(f"The manifest's {where} is {_short(values)}.", _REMEDY)
    names = {one.name for one in dataclasses.fields(kind)} - without
    if unknown := sorted(values.keys() - names):
        raise InvalidRequest(f"The manifest's {where} holds an unknown field {_short(unknown[0])}.", _REMEDY)
    if missing := sorted(names - values.keys()):
        raise InvalidRequest(f"The manifest's {where} lacks {missing[0]!r}.", _REMEDY)
    return values


def _checked(where: str, value: Any, good: Callable[[Any], bool]) -> Any:
    if not good(value):
        raise InvalidRequest(f"The manifest's {where} is {_short(value)}.", _REMEDY)
    return value


def _short(value: Any) -> str:
    return repr(value)[:80]


def _text(where: str, value: Any) -> str:
    """A text that is whole Unicode."""
    text: str = _checked(where, value, _is_text)
    return text


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and not any("\ud800" <= character <= "\udfff" for character in value)


def _texts_or_numbers(where: str, value: Any, kind: type[T]) -> tuple[T, ...]:
    _checked(where, value, lambda found: isinstance(found, list) and all(type(one) is kind for one in found))
    return tuple(value)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _triples(where: str, value: Any, *kinds: Callable[[Any], bool]) -> tuple[tuple[Any, ...], ...]:
    """A list of lists, each with one value of each kind."""
    _checked(where, value, lambda found: isinstance(found, list) and len(found) <= 64)
    for one in value:
        _checked(where, one, lambda found: isinstance(found, list) and len(found) == len(kinds))
        for good, part in zip(kinds, one, strict=True):
            _checked(where, part, good)
    return tuple(tuple(one) for one in value)


def _settings(values: Any) -> GenerationSettings:
    """Settings as they were recorded; one that this version has and that one had not is at its default."""
    if not isinstance(values, dict):
        raise InvalidRequest(f"The manifest's settings are {_short(values)}.", _REMEDY)
    names = {one.name for one in dataclasses.fields(GenerationSettings)}
    if unknown := sorted(values.keys() - names):
        raise InvalidRequest(f"The manifest's settings hold an unknown field {_short(unknown[0])}.", _REMEDY)
    stop = _texts_or_numbers("settings' stop", values.get("stop", []), str)
    return GenerationSettings(**{**values, "stop": stop, "logit_bias": values.get("logit_bias", [])})


def _request(values: Any) -> GenerationRequest:
    if isinstance(values, dict):
        values = {"prompt_ids": [], **values}  # older manifests have none
    values = _check_names("request", GenerationRequest, values, frozenset({"user"}))
    _checked("request's prompt", values["prompt"], lambda found: found is None or isinstance(found, str))
    _checked("request's messages", values["messages"], lambda found: isinstance(found, list))
    messages = tuple(_message(one) for one in values["messages"])
    kwargs = _checked("request's chat_template_kwargs", values["chat_template_kwargs"], lambda v: isinstance(v, dict))
    return GenerationRequest(
        spec=_spec(values["spec"]),
        prompt=values["prompt"],
        messages=messages,
        settings=_settings(values["settings"]),
        template=_checked("request's template", values["template"], lambda found: found in TEMPLATES),
        prefill=_text("request's prefill", values["prefill"]),
        chat_template_kwargs=kwargs,
        prompt_ids=_texts_or_numbers("request's prompt_ids", values["prompt_ids"], int),
    )


def _message(values: Any) -> Message:
    values = _check_names("message", Message, values)
    return Message(_checked("role", values["role"], _is_text), _text("message", values["content"]))


def _spec(values: Any) -> ModelSpec:
    values = _check_names("spec", ModelSpec, values)
    adapters = _triples("spec's adapters", values["adapters"], lambda name: _is_text(name) and name.strip(), _is_number)
    texts = {name: _text(f"spec's {name}", value) for name, value in values.items() if name != "adapters"}
    return ModelSpec(**{**texts, "adapters": adapters})  # type: ignore[arg-type]


def _provenance(values: Any) -> Provenance:
    values = _check_names("provenance", Provenance, values)
    others = ("adapters", "settings", "seed", "template", "versions", "exact")
    texts = {name: _text(f"provenance's {name}", value) for name, value in values.items() if name not in others}
    versions = _checked("provenance's versions", values["versions"], lambda found: isinstance(found, dict))
    return Provenance(
        **{
            **texts,
            "adapters": _triples("provenance's adapters", values["adapters"], _is_text, _is_text, _is_number),
            "settings": _settings(values["settings"]),
            "seed": _checked(
                "provenance's seed", values["seed"], lambda found: type(found) is int and 0 <= found <= SEED_LIMIT
            ),
            "versions": {_text("version", name): _text("version", number) for name, number in versions.items()},
            "template": _checked("provenance's template", values["template"], lambda found: found in TEMPLATES),
            "exact": _checked("provenance's exact", values["exact"], lambda found: isinstance(found, bool)),
        }
    )
