"""The shapes of `/api/inference`: loading, generating, comparing, and what is in memory."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema

from playground.api.schemas.common import TEXT_OR_TEXTS, Made, Strict, knob_field, one_or_many
from playground.errors import InvalidRequest
from playground.services.entries import UNSET, Entries, Unset
from playground.types import (
    Dtype,
    GenerationRequest,
    GenerationSettings,
    Message,
    ModelSpec,
    Quantization,
    Role,
    Template,
)

MOST_TOKENS = 4096
MOST_SOURCES = 8
UseCaseKey = Literal["chatbot", "code_generation", "summarization", "qa", "creative_writing", "domain_adaptation"]
_USE_CASES = get_args(UseCaseKey)
_NOT_BLANK = r"\S"
_DEVICE = r"^(auto|cpu|mps|cuda(:[0-9]{1,3})?)$"
_MODEL = "A base (`starter`), `base:adapter` (`starter:pirate`), or `base:adapter@0.5` for half its strength"
_DEFAULTS = {"max_new_tokens": 512, "temperature": 0.7, "top_p": 0.9, "top_k": 50, "repetition_penalty": 1.1}
SETTING_FIELDS = (
    "max_tokens", "temperature", "top_p", "top_k", "min_p", "repetition_penalty", "presence_penalty", "frequency_penalty",
    "stop_sequences", "seed", "reproducible",
)  # fmt: skip
_WHEN = "2026-01-31T12:00:00.000+00:00"
_TOLD: dict[str, Any] = {
    "response": "Arr! Th' capital o' France be Paris.",
    "generation_time_seconds": 0.11,
    "tokens_generated": 17,
    "prompt_tokens": 20,
    "reused_tokens": 0,
    "tokens_per_second": 209.1,
    "finish_reason": "stop",
    "seed": 371699474,
    "provenance": None,
}
_SETTING = {"max_tokens": "max_new_tokens", "stop_sequences": "stop"}  # where the field is called otherwise


def _setting(name: str, highest: float | None = None) -> Any:
    """A field with the bounds and the help of one setting, and the default that it has here."""
    return knob_field(name, _DEFAULTS.get(name, getattr(GenerationSettings(), name)), highest)


def _own_setting(name: str, highest: float | None = None) -> Any:
    """The same where it may be left out, for what holds for the whole request then."""
    return knob_field(name, highest=highest)


def _adapter_field() -> Any:
    return Field(
        default=None,
        pattern=_NOT_BLANK,
        description="An offered adapter's name, or a folder. Null is the base; left out, it is the model's default adapter, "
        "which load and swap-adapter set.",
    )


def _example(**fields: Any) -> ConfigDict:
    """What `/docs` shows of an answer."""
    return ConfigDict(json_schema_extra={"examples": [fields]})


def _underscored(value: Any) -> Any:
    return value.replace("-", "_") if isinstance(value, str) else value


UseCaseName = Annotated[
    UseCaseKey,
    BeforeValidator(_underscored),
    WithJsonSchema(
        {"type": "string", "enum": [*_USE_CASES, *(name.replace("_", "-") for name in _USE_CASES if "_" in name)]}
    ),
]
Stops = Annotated[list[str] | None, BeforeValidator(one_or_many), WithJsonSchema(TEXT_OR_TEXTS)]


class LoadBody(Strict):
    """Which model to bring into memory, how, and what for."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"model_id": "starter", "adapter_path": "pirate", "use_case": "chatbot"}]}
    )

    model_id: str = Field(description=f"{_MODEL}; on a machine of one's own a folder or a hub id too.")
    adapter_path: str | None = Field(
        default=None,
        pattern=_NOT_BLANK,
        description="An offered adapter's name, or a folder: what answers from now on where a request names no adapter. "
        "Null or left out is the base.",
    )
    quantization: Quantization | None = Field(
        default=None, description="How the weights are kept in memory; left out, the configuration decides."
    )
    dtype: Dtype | None = Field(default=None, description="What is computed in; left out, the configuration decides.")
    device: str | None = Field(
        default=None,
        pattern=_DEVICE,
        description="auto, cpu, cuda, cuda:N or mps; left out, the configuration decides.",
    )
    use_case: UseCaseName = Field(description="Decides which example prompts come back. Hyphens pass for underscores.")


class LoadReport(BaseModel):
    """What is in memory now under that name."""

    model_config = _example(
        model_id="starter", status="loaded", example_prompts=["What is the capital of France?"],
        loaded_at=_WHEN, memory_usage_mb=11.3, quantization="none", adapter="pirate",
    )  # fmt: skip

    model_id: str
    status: Literal["loaded"]
    example_prompts: list[str]
    loaded_at: str = Field(description="When the base came into memory (ISO 8601, UTC).")
    memory_usage_mb: float = Field(description="The base and all adapters on it, in millions of bytes.")
    quantization: str = Field(description="As it really is; `int4` is nf4, and told so.")
    adapter: str | None = Field(description="The adapter that answers where a request names none; null is the base.")


class PromptMessage(Strict):
    """One turn of a conversation."""

    role: Role
    content: str


class SettingsBody(Strict):
    """What every request for text may set. What is left out has the default that is shown."""

    template: Template | None = Field(
        default=None,
        description="How the prompt is put to the model: chat (the default), instruction, or raw as it is.",
    )
    max_tokens: int = _setting("max_new_tokens", MOST_TOKENS)
    temperature: float = _setting("temperature")
    top_p: float = _setting("top_p")
    top_k: int = _setting("top_k")
    min_p: float = _setting("min_p")
    repetition_penalty: float = _setting("repetition_penalty")
    presence_penalty: float = _setting("presence_penalty")
    frequency_penalty: float = _setting("frequency_penalty")
    stop_sequences: Stops = _own_setting("stop")
    seed: int | None = _own_setting("seed")
    reproducible: bool = _setting("reproducible")

    def settings(self) -> GenerationSettings:
        """The settings as the engine knows them. Raises `InvalidRequest` for what does not go together."""
        return GenerationSettings(**_as_settings({name: getattr(self, name) for name in SETTING_FIELDS}))


class GenerateBody(SettingsBody):
    """Something to generate: `prompt` or `messages`, one of them."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "model_id": "starter",
                    "adapter_path": "pirate",
                    "prompt": "What is the capital of France?",
                    "temperature": 0.3,
                    "max_tokens": 64,
                }
            ]
        }
    )

    model_id: str = Field(description=f"{_MODEL}. It must be loaded.")
    adapter_path: str | None = _adapter_field()
    prompt: str | None = Field(default=None, description="One user turn, or the text itself under the raw template.")
    messages: list[PromptMessage] | None = Field(
        default=None, min_length=1, description="A conversation, oldest turn first; for the chat template."
    )
    stream: bool | None = Field(default=None, description="Send the answer as server-sent events while it is written.")

    @property
    def shown_prompt(self) -> str:
        """What was asked: the prompt, or the conversation's last user turn."""
        said = [message.content for message in self.messages or () if message.role == "user"]
        return self.prompt if self.prompt is not None else said[-1] if said else ""

    def as_request(self, entries: Entries, user: str, *, must_be_loaded: bool = True) -> GenerationRequest:
        """What the engine is asked, with the default adapter as it is now; reads the disk.

        Raises `InvalidRequest` for an empty prompt or one given twice, and what `Entries.spec` raises.
        """
        if self.prompt is None and self.messages is None:
            raise InvalidRequest("There is neither a prompt nor messages.", "Send one of them.")
        if self.prompt is not None and self.messages is not None:
            raise InvalidRequest("Both a prompt and messages were given.", "Send one of them.")
        template = self.template or "chat"
        if self.messages is not None and template != "chat":
            raise InvalidRequest(f"messages were sent with the {template} template.", "It takes a prompt; send that.")
        request = GenerationRequest(
            spec=ModelSpec(self.model_id),  # what is wrong with the prompt is told before the model is looked for
            prompt=self.prompt,
            messages=tuple(Message(message.role, message.content) for message in self.messages or ()),
            settings=self.settings(),
            template=template,
            user=user,
        )
        adapter = said_of_adapter(self)
        return replace(request, spec=entries.spec(self.model_id, adapter, must_be_loaded=must_be_loaded))


class SourceBody(Strict):
    """One of the models to compare. Settings that are left out are those of the whole request."""

    model_id: str = Field(description=f"{_MODEL}. It must be loaded.")
    adapter_path: str | None = _adapter_field()
    max_tokens: int | None = _own_setting("max_new_tokens", MOST_TOKENS)
    temperature: float | None = _own_setting("temperature")
    top_p: float | None = _own_setting("top_p")
    top_k: int | None = _own_setting("top_k")
    min_p: float | None = _own_setting("min_p")
    repetition_penalty: float | None = _own_setting("repetition_penalty")
    presence_penalty: float | None = _own_setting("presence_penalty")
    frequency_penalty: float | None = _own_setting("frequency_penalty")
    stop_sequences: Stops = _own_setting("stop")
    seed: int | None = _own_setting("seed")
    reproducible: bool | None = _own_setting("reproducible")

    def over(self, settings: GenerationSettings) -> GenerationSettings:
        """``settings`` with this source's own laid over them. Raises `InvalidRequest`."""
        own = {name: value for name in SETTING_FIELDS if (value := getattr(self, name)) is not None}
        return settings.replace(**_as_settings(own))


class CompareBody(SettingsBody):
    """One prompt for several models: `fine_tuned_model_id` and `base_model_id`, or up to eight `sources`."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "prompt": "What is the capital of France?",
                    "fine_tuned_model_id": "starter:pirate",
                    "base_model_id": "starter",
                    "temperature": 0.3,
                    "max_tokens": 64,
                }
            ]
        }
    )

    prompt: str = Field(description="One user turn, or the text itself under the raw template.")
    fine_tuned_model_id: str | None = Field(
        default=None,
        description=f"{_MODEL}; a base's name answers with its default adapter. Together with base_model_id.",
    )
    base_model_id: str | None = Field(
        default=None, description="A base; it answers as it is, whatever its default adapter. With fine_tuned_model_id."
    )
    sources: list[SourceBody] | None = Field(
        default=None, min_length=1, max_length=MOST_SOURCES, description="In place of the two."
    )

    def as_requests(self, entries: Entries, user: str) -> list[tuple[str, GenerationRequest]]:
        """(model_id, what the engine is asked) for each; reads the disk. All draw with one seed unless theirs is named.

        Raises `InvalidRequest`, and what `Entries.spec` raises for the first of them that is wrong.
        """
        shared = self.settings()
        if shared.seed is None:
            shared = shared.replace(seed=secrets.randbelow(2**31))
        asked = GenerationRequest(
            ModelSpec("?"), self.prompt, settings=shared, template=self.template or "chat", user=user
        )
        return [
            (name, replace(asked, spec=spec, settings=settings))
            for name, spec, settings in self._asked(entries, shared)
        ]

    def _asked(self, entries: Entries, shared: GenerationSettings) -> list[tuple[str, ModelSpec, GenerationSettings]]:
        if self.sources is not None:
            if self.fine_tuned_model_id is not None or self.base_model_id is not None:
                raise InvalidRequest("Both sources and two model ids were given.", "Send one or the other.")
            return [(one.model_id, _spec(entries, one), one.over(shared)) for one in self.sources]
        if self.fine_tuned_model_id is None or self.base_model_id is None:
            raise InvalidRequest(
                "It is not said what to compare.", "Send fine_tuned_model_id and base_model_id, or sources."
            )
        tuned, base = entries.spec(self.fine_tuned_model_id), entries.base(self.base_model_id)
        if tuned == base:
            raise InvalidRequest(
                f"Both are {self.base_model_id!r} without an adapter, so there is nothing to compare.",
                "Name the adapter, as in base:adapter, or load the model with it.",
            )
        return [(self.fine_tuned_model_id, tuned, shared), (self.base_model_id, base, shared)]


class Told(BaseModel):
    """An answer, and what it took."""

    response: str
    generation_time_seconds: float = Field(
        description="From the request's arrival to the last token, loading included."
    )
    tokens_generated: int
    prompt_tokens: int = Field(description="The prompt's length in tokens.")
    reused_tokens: int = Field(
        description="How many of them were not read anew: the model had read them before, with the same adapters."
    )
    tokens_per_second: float | None = Field(description="While writing; null for an answer of a single token.")
    finish_reason: Literal["stop", "length"]
    seed: int | None = Field(description="The seed that was used, also when none was sent.")
    provenance: Made | None
    cached: bool | None = Field(default=None, description="There, and true, when the answer was made earlier.")
    notices: list[str] | None = Field(default=None, description="There when, say, the adapter has no effect.")


class GenerateReport(Told):
    """The answer. With `stream` the same comes as frames: start, token, complete, or error."""

    model_config = _example(prompt="What is the capital of France?", model_id="starter", timestamp=_WHEN, **_TOLD)

    prompt: str = Field(description="What was asked; of a conversation its last user turn.")
    model_id: str
    timestamp: str = Field(description="When the answer was finished (ISO 8601, UTC).")


class Output(Told):
    """What one of the compared models says."""

    model_id: str
    adapter: str | None = Field(description="The adapter that answered; null is the base.")


class CompareReport(BaseModel):
    """What each of the models says to the same prompt, in the order in which they were named."""

    model_config = _example(
        prompt="What is the capital of France?", fine_tuned_output=_TOLD["response"],
        base_model_output="The capital of France is Paris.", fine_tuned_model_id="starter:pirate", base_model_id="starter",
        timestamp=_WHEN, outputs=[{"model_id": "starter:pirate", "adapter": "pirate", **_TOLD}],
    )  # fmt: skip

    prompt: str
    fine_tuned_output: str | None = Field(description="Null where sources were sent.")
    base_model_output: str | None = Field(description="The untouched base's. Null where sources were sent.")
    fine_tuned_model_id: str | None
    base_model_id: str | None
    timestamp: str
    outputs: list[Output]


class LoadedModel(BaseModel):
    """A model in memory. Names on one base share what it takes."""

    model_id: str
    status: Literal["loaded"]
    loaded_at: str = Field(description="When the base came into memory (ISO 8601, UTC).")
    use_case: UseCaseKey | None = Field(description="What it was loaded for; null for what the pages or /v1 loaded.")
    adapters: list[str] = Field(description="The adapters on the base. The default one, if there is one, comes first.")
    quantization: str
    memory_usage_mb: float = Field(description="The base and all adapters on it, in millions of bytes.")


class LoadedModels(BaseModel):
    """What is in memory."""

    model_config = _example(
        models=[{
            "model_id": "starter", "status": "loaded", "loaded_at": _WHEN, "use_case": "chatbot", "adapters": ["pirate"],
            "quantization": "none", "memory_usage_mb": 11.3,
        }]
    )  # fmt: skip

    models: list[LoadedModel]


class UnloadReport(BaseModel):
    """What unloading gave back."""

    model_config = _example(status="unloaded", model_id="starter", freed_mb=26.1)

    status: Literal["unloaded"]
    model_id: str
    freed_mb: float = Field(description="What was measured to have come back, in millions of bytes.")


class SwapBody(Strict):
    """The adapter that shall answer from now on."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"adapter_path": "sql"}]})

    adapter_path: str | None = Field(
        default=None, pattern=_NOT_BLANK, description="An offered adapter's name, or a folder; null is the base."
    )


class SwapReport(BaseModel):
    """What answers from now on."""

    model_config = _example(status="swapped", model_id="starter", adapter_path="sql", swapped_at=_WHEN)

    status: Literal["swapped"]
    model_id: str
    adapter_path: str | None = Field(description="As it was sent; null is the base.")
    swapped_at: str


def said_of_adapter(body: LoadBody | GenerateBody | SourceBody) -> str | Unset | None:
    """The body's adapter_path; `UNSET` where it has none, which is not the same as null."""
    return body.adapter_path if "adapter_path" in body.model_fields_set else UNSET


def _spec(entries: Entries, source: SourceBody) -> ModelSpec:
    return entries.spec(source.model_id, said_of_adapter(source))


def _as_settings(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of a body under the names of the settings."""
    named = {_SETTING.get(name, name): value for name, value in fields.items()}
    return named | {"stop": tuple(named["stop"] or ())} if "stop" in named else named
