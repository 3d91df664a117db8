"""The shapes of the HTTP API: what may be sent, what comes back.

Bounds and explanations of the settings are taken from `types.knobs()`; a field that this server lacks passes with its
neutral value and is refused by name with any other, so that nothing that is accepted is ignored.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema, model_validator
from pydantic_core import PydanticCustomError

from playground.errors import InvalidRequest
from playground.types import GenerationSettings, Message, Role, knobs

ANYTHING = object()

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


def _texts(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


def _knob(setting: str) -> Any:
    """An optional field with the bounds and the help of one setting."""
    knob = knobs()[setting]
    return Field(default=None, ge=knob.low, le=knob.high, description=knob.help)


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
_TEXT_OR_TEXTS = {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}], "nullable": True}


class Strict(BaseModel):
    """No conversions between types, no NaN, and no field that is not declared."""

    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)


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
    temperature: float | None = _knob("temperature")
    top_p: float | None = _knob("top_p")
    top_k: int | None = _knob("top_k")
    min_p: float | None = _knob("min_p")
    max_tokens: int | None = _knob("max_new_tokens")
    max_completion_tokens: int | None = _knob("max_new_tokens")
    repetition_penalty: float | None = _knob("repetition_penalty")
    presence_penalty: float | None = _knob("presence_penalty")
    frequency_penalty: float | None = _knob("frequency_penalty")
    stop: Annotated[list[str] | None, BeforeValidator(_texts), WithJsonSchema(_TEXT_OR_TEXTS)] = _knob("stop")
    seed: int | None = _knob("seed")
    n: int | None = _knob("num_return_sequences")
    logprobs: bool | None = Field(default=None, description="Report the log-probability of each token of the answer.")
    top_logprobs: int | None = _knob("top_logprobs")
    reproducible: bool | None = _knob("reproducible")
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


class Problem(BaseModel):
    """What went wrong, in a sentence that says what to do next; `code` is stable."""

    message: str
    type: str
    param: str | None
    code: str | None


class Failure(BaseModel):
    """Every error of the API has this shape."""

    error: Problem


class HealthReport(BaseModel):
    """Whether the server is well, and what it is doing."""

    status: Literal["healthy"]
    models_loaded: int = Field(description="How many base models are in memory.")
    available_models: list[str]
    version: str
    device: str = Field(description="Where the models run; `auto` until the first one is loaded.")
    uptime_seconds: float
    queue_depth: int = Field(description="Requests waiting for their turn.")
