"""The shapes of `/v1`: OpenAI's, with vLLM's further fields and ours."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema, model_validator

from playground.api.schemas.common import (
    ANYTHING,
    TEXT_OR_TEXTS,
    Made,
    Strict,
    knob_field,
    one_or_many,
    text_of,
    without_neutral,
)
from playground.errors import InvalidRequest
from playground.types import GenerationSettings, Message, Role

# What OpenAI's and vLLM's clients may send although it changes nothing here. Null passes everywhere.
NEUTRAL: Mapping[str, tuple[object, ...]] = {
    "add_generation_prompt": (True,),
    "audio": (),
    "best_of": (1,),
    "continue_final_message": (False,),
    "echo": (False,),
    "function_call": ("none", "auto"),
    "functions": ([],),
    "ignore_eos": (False,),
    "include_stop_str_in_output": (False,),
    "length_penalty": (1,),
    "logit_bias": ({},),
    "metadata": (ANYTHING,),
    "min_tokens": (0,),
    "modalities": (["text"],),
    "parallel_tool_calls": (True, False),
    "prediction": (),
    "priority": (0,),
    "prompt_cache_key": (ANYTHING,),
    "reasoning_effort": ("none",),
    "response_format": ({"type": "text"},),
    "safety_identifier": (ANYTHING,),
    "service_tier": ("auto", "default"),
    "skip_special_tokens": (True,),
    "spaces_between_special_tokens": (True,),
    "stop_token_ids": ([],),
    "store": (False,),
    "tool_choice": ("none", "auto"),
    "tools": ([],),
    "use_beam_search": (False,),
    "user": (ANYTHING,),
    "verbosity": ("medium",),
    "web_search_options": (),
}
NEUTRAL_IN_MESSAGE: Mapping[str, tuple[object, ...]] = {
    "annotations": ([],),
    "audio": (),
    "function_call": (),
    "name": (),
    "refusal": (),
    "tool_calls": ([],),
}


_TEXT_OR_PARTS = {
    "anyOf": [
        {"type": "string"},
        {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["type", "text"],
                "properties": {"type": {"type": "string", "enum": ["text"]}, "text": {"type": "string"}},
            },
        },
    ]
}


class ChatMessage(Strict):
    """One turn. `developer` is taken as `system`; tool turns and parts other than text are refused by name."""

    role: Literal["system", "developer", "user", "assistant"]
    content: Annotated[str, BeforeValidator(text_of), WithJsonSchema(_TEXT_OR_PARTS)]

    @model_validator(mode="before")
    @classmethod
    def _drop_neutral(cls, data: Any) -> Any:
        return without_neutral(data, NEUTRAL_IN_MESSAGE)

    def as_message(self) -> Message:
        """The message as the engine knows it."""
        role: Role = "system" if self.role == "developer" else self.role
        return Message(role, self.content)


class StreamOptions(Strict):
    """What a stream carries besides the text."""

    include_usage: bool | None = Field(default=None, description="Send the token counts in one more chunk at the end.")

    @model_validator(mode="before")
    @classmethod
    def _drop_neutral(cls, data: Any) -> Any:
        return without_neutral(data, {"include_obfuscation": (False,), "continuous_usage_stats": (False,)})


class ChatCompletionRequest(Strict):
    """A chat completion. What is left out comes from the model's recommended settings, else from the app's defaults."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "model": "starter:pirate",
                    "messages": [{"role": "user", "content": "What is the capital of France?"}],
                    "temperature": 0.3,
                    "max_tokens": 64,
                }
            ]
        }
    )

    model: str = Field(
        description="A name from `GET /v1/models`: a base (`starter`) or `base:adapter` (`starter:pirate`)."
    )
    messages: list[ChatMessage] = Field(min_length=1, description="The conversation so far, oldest turn first.")
    temperature: float | None = knob_field("temperature")
    top_p: float | None = knob_field("top_p")
    top_k: int | None = knob_field("top_k")
    min_p: float | None = knob_field("min_p")
    max_tokens: int | None = knob_field("max_new_tokens")
    max_completion_tokens: int | None = knob_field("max_new_tokens")
    repetition_penalty: float | None = knob_field("repetition_penalty")
    presence_penalty: float | None = knob_field("presence_penalty")
    frequency_penalty: float | None = knob_field("frequency_penalty")
    stop: Annotated[list[str] | None, BeforeValidator(one_or_many), WithJsonSchema(TEXT_OR_TEXTS)] = knob_field("stop")
    seed: int | None = knob_field("seed")
    n: int | None = knob_field("num_return_sequences")
    logprobs: bool | None = Field(default=None, description="Report the log-probability of each token of the answer.")
    top_logprobs: int | None = knob_field("top_logprobs")
    reproducible: bool | None = knob_field("reproducible")
    stream: bool | None = Field(default=None, description="Send the answer as server-sent events while it is written.")
    stream_options: StreamOptions | None = Field(default=None, description="Only together with `stream`.")
    chat_template_kwargs: dict[str, Any] | None = Field(
        default=None, description="Passed to the model's own chat template, for example `enable_thinking`."
    )

    @model_validator(mode="before")
    @classmethod
    def _drop_neutral(cls, data: Any) -> Any:
        return without_neutral(data, NEUTRAL)

    @property
    def wants_usage(self) -> bool:
        """True when a stream shall end with the token counts."""
        return bool(self.stream_options and self.stream_options.include_usage)

    def settings(self, defaults: GenerationSettings) -> GenerationSettings:
        """``defaults`` with what was sent laid over them. Raises `InvalidRequest` for values that do not fit."""
        self._check_companions()
        sent = {
            "temperature": self.temperature,
            "top_p": self.top_p,
            "top_k": self.top_k,
            "min_p": self.min_p,
            "max_new_tokens": self.max_completion_tokens or self.max_tokens,
            "repetition_penalty": self.repetition_penalty,
            "presence_penalty": self.presence_penalty,
            "frequency_penalty": self.frequency_penalty,
            "stop": None if self.stop is None else tuple(self.stop),
            "seed": self.seed,
            "num_return_sequences": self.n,
            "top_logprobs": self.top_logprobs,
            "reproducible": self.reproducible,
        }
        start: dict[str, Any] = {
            "strategy": "sampling",
            "temperature": 0.0 if defaults.is_greedy else defaults.temperature,
        }
        return defaults.replace(**start | {name: value for name, value in sent.items() if value is not None})

    def _check_companions(self) -> None:
        if self.top_logprobs is not None and not self.logprobs:
            raise InvalidRequest("top_logprobs was sent without logprobs.", "Set logprobs to true as well.")
        if self.stream_options is not None and not self.stream:
            raise InvalidRequest("stream_options was sent without stream.", "Set stream to true as well.")
        if None not in (self.max_tokens, self.max_completion_tokens) and self.max_tokens != self.max_completion_tokens:
            raise InvalidRequest("max_tokens and max_completion_tokens differ.", "Send one of them.")


class TokenLogprob(BaseModel):
    """A token with its log-probability under the raw model. `bytes` is null for a token that is part of a character."""

    token: str
    logprob: float
    bytes: list[int] | None


class ChosenToken(TokenLogprob):
    """The token of the answer at one position, with the likeliest ones there."""

    top_logprobs: list[TokenLogprob]


class Logprobs(BaseModel):
    """Log-probabilities of an answer's tokens."""

    content: list[ChosenToken]


class AnswerMessage(BaseModel):
    """The answer."""

    role: Literal["assistant"]
    content: str


class Choice(BaseModel):
    """One of the answers."""

    index: int
    message: AnswerMessage
    logprobs: Logprobs | None
    finish_reason: Literal["stop", "length"]


class Usage(BaseModel):
    """Token counts by the model's own tokenizer; with several answers `completion_tokens` is their sum."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class ChatCompletion(BaseModel):
    """The answers to one request. `notices` is there when, say, old turns had to be left out.

    In a stream the chunk with the finish reason carries `notices` and `provenance`.
    """

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    choices: list[Choice]
    usage: Usage
    notices: list[str] | None = None
    provenance: Made | None = None


class ServedModel(BaseModel):
    """A base model, or an adapter on one: then `parent` names the base."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    parent: str | None
    loaded: bool = Field(description="Whether it is in memory.")
    no_effect: bool = Field(description="True for a loaded adapter that changes nothing; unknown before it is loaded.")
    problems: list[str] = Field(description="What is wrong with it, in a sentence each.")


class ModelList(BaseModel):
    """What may be named as `model`."""

    object: Literal["list"]
    data: list[ServedModel]
