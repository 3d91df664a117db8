"""The shapes of the plain text API: `/models`, `/strategies` and `/generate`."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from playground.api.schemas.common import Made, Strict, knob_field
from playground.types import GenerationSettings, Strategy, knobs

MOST_TOKENS = 500
Kind = Literal["greedy", "beam_search", "nucleus_sampling", "top_k_sampling"]
KINDS: dict[Strategy, Kind] = {
    "greedy": "greedy",
    "beam_search": "beam_search",
    "sampling": "nucleus_sampling",
    "top_k": "top_k_sampling",
}
# The settings that `/generate` takes, under the names that they have there.
FIELDS = {
    "temperature": "temperature",
    "top_p": "top_p",
    "top_k": "top_k",
    "num_beams": "num_beams",
    "num_return_sequences": "num_return_sequences",
    "seed": "seed",
    "max_new_tokens": "max_length",
}

_GREEDY: dict[str, Any] = {
    "name": "greedy",
    "description": "Always the likeliest token.",
    "deterministic": True,
    "uses_temperature": False,
    "parameters": ["max_length"],
}


class GenerateTextBody(Strict):
    """A text to continue. Which of the settings count depends on the strategy; `GET /strategies` tells."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "prompt": "Once upon a time",
                    "model": "starter",
                    "strategy": "sampling",
                    "temperature": 0.8,
                    "max_length": 100,
                    "top_p": 0.95,
                    "top_k": 50,
                    "num_beams": 5,
                }
            ]
        }
    )

    prompt: str = Field(description="The text itself; no template is applied.")
    model: str = Field(description="A name from `GET /models`. It is loaded first when it is not in memory.")
    strategy: Strategy = Field(default="sampling", description=knobs()["strategy"].help)
    temperature: float = knob_field("temperature", 0.8)
    max_length: int = Field(default=100, ge=1, le=MOST_TOKENS, description="At most so many new tokens.")
    top_p: float = knob_field("top_p", 0.95)
    top_k: int = knob_field("top_k", 50)
    num_beams: int = knob_field("num_beams", 5)
    num_return_sequences: int = knob_field("num_return_sequences", 1)
    seed: int | None = knob_field("seed", None)

    def settings(self) -> GenerationSettings:
        """The settings as the engine knows them. Raises `InvalidRequest` for what does not go together."""
        sent = {setting: getattr(self, field) for setting, field in FIELDS.items()}
        return GenerationSettings(strategy=self.strategy, **sent)


class UsedParameters(BaseModel):
    """What was really used; settings that the strategy does not read are left out."""

    type: Kind = Field(description="Temperature 0 is greedy, whatever the strategy.")
    max_length: int
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    num_beams: int | None = None
    num_return_sequences: int | None = None
    seed: int | None = None


class GeneratedText(BaseModel):
    """The prompt with its continuation, and each of them where several were asked for."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "generated_text": "Once upon a time there was a dragon.",
                    "completion": " there was a dragon.",
                    "generated_texts": ["Once upon a time there was a dragon."],
                    "prompt": "Once upon a time",
                    "model": "starter",
                    "strategy": "greedy",
                    "parameters": {"type": "greedy", "max_length": 100},
                }
            ]
        }
    )

    generated_text: str = Field(description="The prompt and the first continuation.")
    completion: str = Field(description="The first continuation alone.")
    generated_texts: list[str] = Field(description="The prompt with each of the continuations.")
    prompt: str
    model: str
    strategy: Strategy
    parameters: UsedParameters
    provenance: Made | None = None
    cached: bool | None = Field(default=None, description="There, and true, when the answer was made earlier.")
    notices: list[str] | None = Field(default=None, description="There when, say, the text was cut at the window.")


class AvailableModel(BaseModel):
    """A model that `/generate` takes: a base, or an adapter on one."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"name": "starter", "description": "The bundled toy model.", "loaded": True}]}
    )

    name: str
    description: str
    loaded: bool = Field(description="Whether it is in memory.")


class StrategyLine(BaseModel):
    """A decoding strategy."""

    model_config = ConfigDict(json_schema_extra={"examples": [_GREEDY]})

    name: Strategy
    description: str
    deterministic: bool = Field(description="True when the same request gives the same text without a seed.")
    uses_temperature: bool
    parameters: list[str] = Field(description="The fields of `/generate` that it reads.")


class Strategies(BaseModel):
    """All decoding strategies."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"strategies": [_GREEDY]}]})

    strategies: list[StrategyLine]
