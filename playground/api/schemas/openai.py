"""The shapes of `/v1`: OpenAI's, with vLLM's further fields and ours."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema, model_validator
from pydantic_core import PydanticCustomError

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
from playground.types import BIAS_LIMIT, GenerationSettings, Message, Role

# What OpenAI's and vLLM's clients may send although it changes nothing here. Null passes everywhere.
NEUTRAL: Mapping[str, tuple[object, ...]] = {
    "allowed_token_ids": ([],),
    "audio": (),
    "bad_words": ([],),
    "function_call": ("none", "auto"),
    "functions": ([],),
    "ignore_eos": (False,),
    "include_stop_str_in_output": (False,),
    "length_penalty": (1,),
    "metadata": (ANYTHING,),
    "min_tokens": (0,),
    "modalities": (["text"],),
    "parallel_tool_calls": (True, False),
    "prediction": (),
    "priority": (0,),
    "prompt_cache_key": (ANYTHING,),
    "prompt_logprobs": (),
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
    "truncate_prompt_tokens": (),
    "use_beam_search": (False,),
    "user": (ANYTHING,),
    "verbosity": ("medium",),
    "web_search_options": (),
}
NEUTRAL_IN_CHAT: Mapping[str, tuple[object, ...]] = {
    "add_special_tokens": (False,),
    "best_of": (1,),
    "echo": (False,),
    "tool_prompt": (),
}
NEUTRAL_IN_COMPLETION: Mapping[str, tuple[object, ...]] = {
    "add_special_tokens": (True,),
    "continue_final_message": (False,),
    "suffix": ("",),
}
NEUTRAL_IN_TRANSFORMERS: Mapping[str, tuple[object, ...]] = {
    "_from_model_config": (True, False),
    "max_length": (),
    "num_beams": (1,),
    "num_return_sequences": (1,),
    "transformers_version": (ANYTHING,),
    "use_cache": (True,),
}
NEUTRAL_IN_MESSAGE: Mapping[str, tuple[object, ...]] = {
    "annotations": ([],),
    "audio": (),
    "function_call": (),
    "name": (),
    "refusal": (),
    "tool_calls": ([],),
}


MOST_PROMPTS = 64
DEFAULT_COMPLETION_TOKENS = 16
_IDS = {"type": "array", "items": {"type": "integer", "minimum": 0}, "minItems": 1}
_PROMPTS = {
    "anyOf": [
        {"type": "string"},
        {"type": "array", "items": {"type": "string"}, "minItems": 1, "maxItems": MOST_PROMPTS},
        _IDS,
        {"type": "array", "items": _IDS, "minItems": 1, "maxItems": MOST_PROMPTS},
    ]
}
_LONGEST_ID = 10  # digits
_JSON_TEXT = {"type": "string", "format": "json"}
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


_SERVED = {
    "id": "starter:pirate", "object": "model", "created": 1700000000, "owned_by": "adapter-playground",
    "parent": "starter", "loaded": True, "no_effect": False, "problems": [],
}  # fmt: skip


def _example(example: dict[str, Any]) -> ConfigDict:
    """What `/docs` shows of an answer."""
    return ConfigDict(json_schema_extra={"examples": [example]})


def prompts_of(value: Any) -> Any:
    """One prompt or several, as a list of texts and lists of token ids. Raises a validation error for anything else."""
    if isinstance(value, str) or _are(value, int):
        return [value]
    if not _are(value, str) and not (_are(value, list) and all(_are(ids, int) for ids in value)):
        raise PydanticCustomError(
            "prompt",
            "Input should be a text, a list of texts, a list of token ids, or a list of such lists, and not empty",
        )
    if len(value) > MOST_PROMPTS:
        raise PydanticCustomError("prompts", "{found} prompts were sent, and {most} are the most for one request",
                                  {"found": len(value), "most": MOST_PROMPTS})  # fmt: skip
    return value


def _are(value: Any, kind: type) -> bool:
    """Whether ``value`` is a list of ``kind`` with something in it."""
    return isinstance(value, list) and bool(value) and all(type(item) is kind for item in value)


def biases_of(value: Any) -> Any:
    """``value``, once its keys are seen to be token ids. Raises a validation error naming the first that is not."""
    for key in value if isinstance(value, dict) else ():
        if not (key.isascii() and key.isdigit() and len(key) <= _LONGEST_ID):
            raise PydanticCustomError("token_id", "{key} is not a token id", {"key": ascii(key)[:60]})
    return value


def object_of(value: Any) -> Any:
    """What a JSON text says. Raises a validation error where it says nothing."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        raise PydanticCustomError("json_text", "Input should be a JSON object as a text") from None


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


class Asked(Strict):
    """What a request for text may say, whatever the text is made from."""

    model: str = Field(
        description="A name from `GET /v1/models`: a base (`starter`), `base:adapter` (`starter:pirate`), or "
        "`base:adapter@0.5` for another strength than as trained."
    )
    temperature: float | None = knob_field("temperature")
    top_p: float | None = knob_field("top_p")
    top_k: int | None = knob_field("top_k")
    min_p: float | None = knob_field("min_p")
    repetition_penalty: float | None = knob_field("repetition_penalty")
    presence_penalty: float | None = knob_field("presence_penalty")
    frequency_penalty: float | None = knob_field("frequency_penalty")
    logit_bias: Annotated[
        dict[str, Annotated[float, Field(ge=-BIAS_LIMIT, le=BIAS_LIMIT)]] | None, BeforeValidator(biases_of)
    ] = Field(
        default=None,
        description="Token id → what is added to its logit, from −100 (never) to 100. Log-probabilities stay the model's.",
    )
    stop: Annotated[list[str] | None, BeforeValidator(one_or_many), WithJsonSchema(TEXT_OR_TEXTS)] = knob_field("stop")
    seed: int | None = knob_field("seed")
    n: int | None = knob_field("num_return_sequences")
    reproducible: bool | None = knob_field("reproducible")
    stream: bool | None = Field(default=None, description="Send the answer as server-sent events while it is written.")
    stream_options: StreamOptions | None = Field(default=None, description="Only together with `stream`.")

    @property
    def wants_usage(self) -> bool:
        """True when a stream shall end with the token counts."""
        return bool(self.stream_options and self.stream_options.include_usage)

    def laid_over(self, defaults: GenerationSettings, **further: Any) -> GenerationSettings:
        """``defaults`` with what was sent and ``further`` laid over them; None is not sent. Raises `InvalidRequest`."""
        if self.stream_options is not None and not self.stream:
            raise InvalidRequest("stream_options was sent without stream.", "Set stream to true as well.")
        sent = {
            "temperature": self.temperature,
            "top_p": self.top_p,
            "top_k": self.top_k,
            "min_p": self.min_p,
            "repetition_penalty": self.repetition_penalty,
            "presence_penalty": self.presence_penalty,
            "frequency_penalty": self.frequency_penalty,
            "logit_bias": self.logit_bias and tuple((int(token), bias) for token, bias in self.logit_bias.items()),
            "stop": None if self.stop is None else tuple(self.stop),
            "seed": self.seed,
            "num_return_sequences": self.n,
            "reproducible": self.reproducible,
        }
        start: dict[str, Any] = {
            "strategy": "sampling",
            "temperature": 0.0 if defaults.is_greedy else defaults.temperature,
        }
        return defaults.replace(**start | _given(further) | _given(sent))


def _given(values: Mapping[str, Any]) -> dict[str, Any]:
    """``values`` without those that were not sent."""
    return {name: value for name, value in values.items() if value is not None}


class TransformersSettings(Strict):
    """The `generation_config` that `transformers chat` sends beside OpenAI's fields, which win over it."""

    do_sample: bool | None = Field(default=None, description="False is greedy.")
    temperature: float | None = knob_field("temperature")
    top_p: float | None = knob_field("top_p")
    top_k: int | None = knob_field("top_k")
    min_p: float | None = knob_field("min_p")
    max_new_tokens: int | None = knob_field("max_new_tokens")
    repetition_penalty: float | None = knob_field("repetition_penalty")
    stop_strings: Annotated[list[str] | None, BeforeValidator(one_or_many)] = knob_field("stop")

    @model_validator(mode="before")
    @classmethod
    def _drop_neutral(cls, data: Any) -> Any:
        return without_neutral(data, NEUTRAL_IN_TRANSFORMERS)

    def settings(self, defaults: GenerationSettings) -> dict[str, Any]:
        """What was sent, as settings. Sampling, where the ``defaults`` are greedy, is at our own temperature."""
        sampled = GenerationSettings().temperature if self.do_sample and defaults.is_greedy else None
        return {
            "temperature": 0.0
            if self.do_sample is False
            else self.temperature
            if self.temperature is not None
            else sampled,
            "top_p": self.top_p,
            "top_k": self.top_k,
            "min_p": self.min_p,
            "max_new_tokens": self.max_new_tokens,
            "repetition_penalty": self.repetition_penalty,
            "penalize_prompt": True if self.repetition_penalty else None,  # as transformers does
            "stop": None if self.stop_strings is None else tuple(self.stop_strings),
        }


class ChatCompletionRequest(Asked):
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

    messages: list[ChatMessage] = Field(min_length=1, description="The conversation so far, oldest turn first.")
    max_tokens: int | None = knob_field("max_new_tokens")
    max_completion_tokens: int | None = knob_field("max_new_tokens")
    logprobs: bool | None = Field(default=None, description="Report the log-probability of each token of the answer.")
    top_logprobs: int | None = knob_field("top_logprobs")
    continue_final_message: bool | None = Field(
        default=None,
        description="Go on with the last message, an assistant's, instead of answering it; the answer is what is new.",
    )
    add_generation_prompt: bool | None = Field(
        default=None, description="False only together with `continue_final_message`, where it goes without saying."
    )
    chat_template_kwargs: dict[str, Any] | None = Field(
        default=None, description="Passed to the model's own chat template, for example `enable_thinking`."
    )
    generation_config: Annotated[
        TransformersSettings | None, BeforeValidator(object_of), WithJsonSchema(_JSON_TEXT | {"nullable": True})
    ] = Field(
        default=None, description="What `transformers chat` sends: its settings as JSON. Our own fields win over it."
    )

    @model_validator(mode="before")
    @classmethod
    def _drop_neutral(cls, data: Any) -> Any:
        return without_neutral(data, {**NEUTRAL, **NEUTRAL_IN_CHAT})

    def settings(self, defaults: GenerationSettings) -> GenerationSettings:
        """``defaults`` with what was sent laid over them. Raises `InvalidRequest` for values that do not fit."""
        if self.top_logprobs and not self.logprobs:  # none of them is none of them: vLLM's clients send 0 always
            raise InvalidRequest("top_logprobs was sent without logprobs.", "Set logprobs to true as well.")
        if None not in (self.max_tokens, self.max_completion_tokens) and self.max_tokens != self.max_completion_tokens:
            raise InvalidRequest("max_tokens and max_completion_tokens differ.", "Send one of them.")
        further = self.generation_config.settings(defaults) if self.generation_config else {}
        limit = self.max_completion_tokens or self.max_tokens or further.get("max_new_tokens")
        return self.laid_over(defaults, **further | {"max_new_tokens": limit, "top_logprobs": self.top_logprobs})

    def turns(self) -> tuple[tuple[Message, ...], str]:
        """The conversation, and the text that its answer begins with. Raises `InvalidRequest`."""
        messages = tuple(message.as_message() for message in self.messages)
        if not self.continue_final_message:
            if self.add_generation_prompt is False:
                raise InvalidRequest(
                    "add_generation_prompt is false, so nothing says whose turn it is.",
                    "Leave it out, or set continue_final_message to true.",
                )
            return messages, ""
        if self.add_generation_prompt or messages[-1].role != "assistant":
            raise InvalidRequest(
                "continue_final_message needs an assistant's message at the end, and no generation prompt behind it.",
                "Send the beginning of the answer as the last message, and leave add_generation_prompt out.",
            )
        return messages[:-1], messages[-1].content


class CompletionRequest(Asked):
    """A text completion: the model goes on with the prompt as it is, without a chat template.

    What is left out comes from the model's recommended settings, else from the app's defaults.
    """

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "model": "starter",
                    "prompt": "The capital of France is",
                    "temperature": 0,
                    "max_tokens": 8,
                    "logprobs": 2,
                }
            ]
        }
    )

    prompt: Annotated[list[str | list[int]], BeforeValidator(prompts_of), WithJsonSchema(_PROMPTS)] = Field(
        description=f"A text, a list of token ids, or up to {MOST_PROMPTS} of either, which are answered together. The "
        "choices of the first come first."
    )
    max_tokens: int | None = Field(
        default=None,
        ge=0,
        description="16 where it is left out, as OpenAI has it. 0 only with `echo`: read, do not write.",
    )
    echo: bool | None = Field(
        default=None, description="Let each answer begin with its prompt, log-probabilities as well."
    )
    logprobs: int | None = Field(
        default=None,
        ge=0,
        le=20,
        description="Report the log-probability of each token, and so many of the likeliest there. The first token of an "
        "echoed prompt has none.",
    )
    best_of: int | None = Field(default=None, ge=1, description="Only the same as `n`: every answer is returned.")

    @model_validator(mode="before")
    @classmethod
    def _drop_neutral(cls, data: Any) -> Any:
        return without_neutral(data, {**NEUTRAL, **NEUTRAL_IN_COMPLETION})

    @property
    def writes(self) -> bool:
        """False where the prompts are only read."""
        return self.max_tokens != 0

    def settings(self, defaults: GenerationSettings) -> GenerationSettings:
        """``defaults`` with what was sent laid over them. Raises `InvalidRequest` for values that do not fit."""
        if not self.writes and not self.echo:
            raise InvalidRequest("max_tokens is 0.", "Ask for at least one token, or set echo to true.")
        if self.best_of not in (None, self.n or 1):
            raise InvalidRequest("best_of is not n, and answers are not compared here.", "Leave best_of out.")
        limit = DEFAULT_COMPLETION_TOKENS if self.max_tokens is None else max(1, self.max_tokens)
        return self.laid_over(defaults, max_new_tokens=limit, top_logprobs=self.logprobs, system_prompt="")


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


class PromptTokens(BaseModel):
    """What became of the prompt's tokens."""

    cached_tokens: int = Field(
        description="Not read anew: the model had read the same beginning before, with the same adapters."
    )


class Usage(BaseModel):
    """Token counts by the model's own tokenizer; with several answers `completion_tokens` is their sum."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokens


class Beside(BaseModel):
    """What a reply has beyond OpenAI's; each is there only where there is something to say."""

    system_fingerprint: str | None = Field(
        default=None, description="The same for the same weights, adapters, precision and versions."
    )
    notices: list[str] | None = Field(default=None, description="What to know about it, such as old turns left out.")
    cached: bool | None = Field(default=None, description="True where the answer was made earlier and kept.")
    provenance: Made | None = None


class ChatCompletion(Beside):
    """The answers to one request. `notices` is there when, say, old turns had to be left out.

    In a stream the chunk with the finish reason carries `notices` and `provenance`.
    """

    model_config = _example({
        "id": "chatcmpl-1", "object": "chat.completion", "created": 1700000000, "model": "starter:pirate",
        "choices": [{
            "index": 0, "message": {"role": "assistant", "content": "Arr! Th' capital o' France be Paris."},
            "logprobs": None, "finish_reason": "stop",
        }],
        "usage": {
            "prompt_tokens": 20, "completion_tokens": 17, "total_tokens": 37, "prompt_tokens_details": {"cached_tokens": 0},
        },
    })  # fmt: skip

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    choices: list[Choice]
    usage: Usage


class TextLogprobs(BaseModel):
    """Four lists of the same length, an entry for each token, the one that ended the answer included."""

    tokens: list[str]
    token_logprobs: list[float | None] = Field(description="Null for the first token of an echoed prompt.")
    top_logprobs: list[dict[str, float] | None] = Field(description="The likeliest tokens there, and the token itself.")
    text_offset: list[int] = Field(description="Where in `text` the token begins.")


class TextChoice(BaseModel):
    """One of the texts. Prompt number p has the indexes from n·p on."""

    index: int
    text: str
    logprobs: TextLogprobs | None
    finish_reason: Literal["stop", "length"]


class Completion(Beside):
    """The texts to one request. In a stream the chunk with the finish reason carries `notices` and `provenance`."""

    model_config = _example({
        "id": "cmpl-1", "object": "text_completion", "created": 1700000000, "model": "starter",
        "choices": [{"index": 0, "text": " Paris.", "logprobs": None, "finish_reason": "stop"}],
        "usage": {
            "prompt_tokens": 7, "completion_tokens": 5, "total_tokens": 12, "prompt_tokens_details": {"cached_tokens": 0},
        },
    })  # fmt: skip

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    choices: list[TextChoice]
    usage: Usage


class ServedModel(BaseModel):
    """A base model, or an adapter on one: then `parent` names the base."""

    model_config = _example(_SERVED)

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

    model_config = _example({"object": "list", "data": [_SERVED]})

    object: Literal["list"]
    data: list[ServedModel]
