"""What the shapes of all parts of the API have in common: strictness, fields made from the settings, and errors.

Bounds and explanations of the settings are taken from `types.knobs()`. A field that this server lacks passes with its
neutral value and is refused by name with any other, so that nothing that is accepted is ignored.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from playground.types import knobs

ANYTHING = object()
TEXT_OR_TEXTS = {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}], "nullable": True}


class Strict(BaseModel):
    """No conversions between types, no NaN, and no field that is not declared."""

    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _refuse_unknown(cls, data: Any) -> Any:
        """Name the first field that is not declared, beside those that are; after what a subclass takes out first."""
        known = [field.alias or name for name, field in cls.model_fields.items()]
        unknown = [name for name in data if name not in known] if isinstance(data, dict) else []
        if unknown:
            field = str(unknown[0]).encode("utf-8", "backslashreplace").decode()  # pydantic cannot tell half characters
            raise PydanticCustomError(
                "unknown_field", "Unknown field {field}. Leave it out.", {"field": field, "known": known}
            )
        return data


def without_neutral(data: Any, neutral: Mapping[str, tuple[object, ...]]) -> Any:
    """``data`` without the fields that we lack. Raises a validation error naming the first that is not neutral."""
    if not isinstance(data, dict):
        return data
    for name, passing in neutral.items():
        value = data.get(name)
        if value is not None and value not in passing and ANYTHING not in passing:
            raise PydanticCustomError(
                "unsupported", "{field} is not supported by this server. Leave it out.", {"field": name}
            )
    return {name: value for name, value in data.items() if name not in neutral}


def text_of(content: Any) -> Any:
    """The text of a message: a text as it is, text parts joined by line breaks, null as nothing.

    Raises a validation error naming the kind of any other part.
    """
    if content is None:
        return ""
    if not isinstance(content, list):
        return content
    return "\n".join(_part_text(part) for part in content)


def _part_text(part: Any) -> str:
    kind = part.get("type") if isinstance(part, dict) else part
    text = part.get("text") if isinstance(part, dict) else None
    if kind != "text" or not isinstance(text, str):
        raise PydanticCustomError(
            "unsupported", "A message part of type {kind} is not supported. Send text parts only.", {"kind": repr(kind)}
        )
    return text


def one_or_many(value: Any) -> Any:
    """A text as a list of one; anything else as it is."""
    return [value] if isinstance(value, str) else value


def knob_field(setting: str, default: Any = None, highest: float | None = None) -> Any:
    """A field with the bounds and the help of one setting; ``highest`` where a part of the API allows less."""
    knob = knobs()[setting]
    return Field(default=default, ge=knob.low, le=highest or knob.high, description=knob.help)


class Made(BaseModel):
    """What really made an answer: enough to make it again."""

    base: str = Field(description="The hub id, or the folder's name.")
    revision: str = Field(description="The hub's commit; empty for a local folder.")
    adapters: list[tuple[str, str, float]] = Field(description="Name, SHA-256 of the files, and strength of each.")
    quantization: str
    dtype: str
    device: str
    template: str
    settings: dict[str, Any]
    seed: int = Field(description="The seed that was used, also when none was sent.")
    versions: dict[str, str]
    base_hash: str = Field(description="Identifies the base's files, wherever they lie.")
    template_hash: str = Field(description="SHA-256 of the chat template; empty where none was applied.")
    exact: bool = Field(
        description="True where the same request gives the same tokens whatever else runs: float32, or `reproducible`."
    )


class OpenAIProblem(BaseModel):
    """What went wrong, in a sentence that says what to do next; `code` is stable, `param` names the field."""

    message: str
    type: str
    param: str | None
    code: str | None


class Problem(OpenAIProblem):
    """What went wrong: `message` is the whole sentence, `remedy` its part that says what to do next."""

    remedy: str


class Failure(BaseModel):
    """Every error of the API has this shape, but for those under `/v1`."""

    error: Problem


class OpenAIFailure(BaseModel):
    """Every error under `/v1` has OpenAI's shape."""

    error: OpenAIProblem
