"""The nouns of the program, as frozen dataclasses; standard library only.

Every surface builds a `GenerationRequest` and folds over the `GenerationEvent`s that come back. Requests and events are
immutable, hashable where they serve as keys, and picklable, so that the engine may live in another process.
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from playground.errors import InvalidRequest

Strategy = Literal["greedy", "sampling", "top_k", "beam_search"]
Template = Literal["chat", "instruction", "raw"]
FinishReason = Literal["stop", "length", "cancelled"]
Phase = Literal["queued", "loading", "prefilling", "generating", "done"]
Role = Literal["system", "user", "assistant"]
Quantization = Literal["auto", "none", "int8", "int4", "nf4", "fp4"]
Dtype = Literal["auto", "float32", "bfloat16", "float16"]

STRATEGIES: tuple[Strategy, ...] = ("greedy", "sampling", "top_k", "beam_search")
TEMPLATES: tuple[Template, ...] = ("chat", "instruction", "raw")
ROLES: tuple[Role, ...] = ("system", "user", "assistant")
QUANTIZATIONS: tuple[Quantization, ...] = ("auto", "none", "int8", "int4", "nf4", "fp4")
DTYPES: tuple[Dtype, ...] = ("auto", "float32", "bfloat16", "float16")
SEED_LIMIT = 2**63 - 1
SCALE_LIMIT = 100.0
BIAS_LIMIT = 100.0
TOKEN_ID_LIMIT = 2**31 - 1
MOST_BIASES = 1024
# What transformers' apply_chat_template takes for itself; a request may only speak to the template.
RESERVED_TEMPLATE_KWARGS = frozenset({
    "conversation", "messages", "tokenize", "add_generation_prompt", "chat_template", "tools", "documents",
    "continue_final_message", "padding", "truncation", "max_length", "return_tensors", "return_dict",
    "return_assistant_tokens_mask", "tokenizer_kwargs", "kwargs",
})  # fmt: skip


@dataclass(frozen=True)
class Knob:
    """How one setting is shown and checked: sliders, REST limits, TOML checks and the README table are made from it.

    ``high`` None means "up to the model's own limit".
    """

    label: str
    help: str
    low: float | None = None
    high: float | None = None
    step: float | None = None


def _knob(default: Any, label: str, help: str, low: float | None = None, high: float | None = None,
          step: float | None = None) -> Any:  # fmt: skip
    return field(default=default, metadata={"knob": Knob(label, help, low, high, step)})


@dataclass(frozen=True)
class GenerationSettings:
    """Every knob of one generation, with its bounds, step and help declared once, on the field.

    ``logit_bias`` may come as a mapping, or as a list of pairs. It changes what is chosen, never what is reported: the
    log-probabilities of tokens stay the raw model's.

    Raises `InvalidRequest` when a value is outside its bounds: never a silent clamp.
    """

    strategy: Strategy = _knob(
        "sampling",
        "Strategy",
        "How the next token is chosen: greedy takes the likeliest, sampling draws from the nucleus, top-k draws from "
        "the k likeliest, beam search keeps several continuations and returns the best.",
    )
    temperature: float = _knob(
        0.7,
        "Temperature",
        "Randomness. 0–0.3 factual, 0.4–0.7 balanced, 0.8–1.2 creative, above that experimental. 0 is greedy.",
        0.0,
        2.0,
        0.05,
    )
    top_p: float = _knob(
        0.9,
        "Top p",
        "Nucleus: draw only from the likeliest tokens whose probabilities add up to this. 1 is off.",
        0.0,
        1.0,
        0.01,
    )
    top_k: int = _knob(50, "Top k", "Draw only from the k likeliest tokens. 0 is off.", 0, 1000, 1)
    min_p: float = _knob(
        0.0,
        "Min p",
        "Leave out tokens less likely than this share of the likeliest one. 0 is off.",
        0.0,
        1.0,
        0.01,
    )
    max_new_tokens: int = _knob(
        256, "Max new tokens", "The answer is cut after this many tokens; the page says so when it is.", 1, None, 1
    )
    repetition_penalty: float = _knob(
        1.0,
        "Repetition penalty",
        "Makes tokens that were already used less likely. 1 is off, 1.1–1.3 mild, above 1.4 may hurt coherence.",
        1.0,
        2.0,
        0.01,
    )
    penalize_prompt: bool = _knob(
        False,
        "Penalize the prompt too",
        "Count the prompt's own tokens as repeated as well, as plain transformers does.",
    )
    presence_penalty: float = _knob(
        0.0,
        "Presence penalty",
        "Subtracted once from every token that the answer already holds. Positive brings new topics.",
        -2.0,
        2.0,
        0.05,
    )
    frequency_penalty: float = _knob(
        0.0,
        "Frequency penalty",
        "Subtracted from a token once for each time that the answer already holds it.",
        -2.0,
        2.0,
        0.05,
    )
    num_beams: int = _knob(5, "Beams", "How many continuations beam search keeps.", 1, 10, 1)
    num_return_sequences: int = _knob(
        1, "Answers", "How many answers to return for one prompt; more than one needs sampling or beams.", 1, 8, 1
    )
    stop: tuple[str, ...] = _knob(
        (), "Stop sequences", "The answer ends before the first of these texts, which is not shown."
    )
    seed: int | None = _knob(
        None, "Seed", "The same seed gives the same answer again. Empty draws a new one each time.", 0, SEED_LIMIT, 1
    )
    system_prompt: str = _knob(
        "", "System prompt", "Sent before the conversation: who the model should be and how it should answer."
    )
    top_logprobs: int = _knob(
        0, "Alternatives", "How many of the likeliest tokens to report at each position.", 0, 20, 1
    )
    logit_bias: tuple[tuple[int, float], ...] = _knob(
        (),
        "Logit bias",
        "Added to the logits of single tokens first of all: pairs of a token id and a bias from −100 (never) to 100.",
    )
    reproducible: bool = _knob(
        False,
        "Reproducible",
        "Compute this answer alone, so that the same seed gives the same text in bfloat16, float16 and quantized models "
        "too. Slower while others are being answered; float32 does not need it.",
    )

    def __post_init__(self) -> None:
        object.__setattr__(self, "stop", _stop_sequences(self.stop))
        object.__setattr__(self, "logit_bias", _biases(self.logit_bias))
        for name, knob in knobs().items():
            value = getattr(self, name)
            _check_kind(name, value, self.__dataclass_fields__[name].default)
            if isinstance(value, (int, float)) and not isinstance(value, bool):
                _check_bounds(name, value, knob)
        if self.strategy not in STRATEGIES:
            raise InvalidRequest(f"Unknown strategy {_shown(self.strategy)}.", f"Use one of {', '.join(STRATEGIES)}.")
        self._check_sequences()

    def _check_sequences(self) -> None:
        n = self.num_return_sequences
        if n == 1:
            return
        if self.strategy == "beam_search" and n > self.num_beams:
            raise InvalidRequest(
                f"{n} answers were asked for with {self.num_beams} beams.",
                "Ask for at most as many as there are beams.",
            )
        if self.is_greedy:
            raise InvalidRequest(
                f"{n} answers were asked for with greedy decoding, which has only one.",
                "Ask for one, or raise the temperature and use sampling.",
            )

    @property
    def is_greedy(self) -> bool:
        """True when the answer does not depend on a random draw (temperature 0 means greedy)."""
        return self.strategy == "greedy" or (self.strategy in ("sampling", "top_k") and self.temperature == 0)

    def replace(self, **changes: Any) -> GenerationSettings:
        """A copy with some values changed, checked again."""
        return dataclasses.replace(self, **changes)


def knobs() -> dict[str, Knob]:
    """Setting name → its `Knob`, in declaration order."""
    return {f.name: f.metadata["knob"] for f in dataclasses.fields(GenerationSettings)}


def _stop_sequences(value: Any) -> tuple[str, ...]:
    items = (value,) if isinstance(value, str) else tuple(value or ())
    if not all(isinstance(item, str) for item in items):
        raise InvalidRequest(f"stop holds {_shown(value)}.", "Stop sequences are texts.")
    return tuple(item for item in items if item)


def _biases(value: Any) -> tuple[tuple[int, float], ...]:
    """``value``, a mapping or pairs of token id and bias, as pairs; each id once, and each bias a number in its bounds."""
    pairs = list(value.items()) if isinstance(value, Mapping) else value
    if not isinstance(pairs, (list, tuple)):
        raise InvalidRequest(f"logit_bias is {_shown(value)}.", "It must be pairs of a token id and a bias.")
    if len(pairs) > MOST_BIASES:
        raise InvalidRequest(f"logit_bias names {len(pairs):,} tokens.", f"It may name {MOST_BIASES:,} at most.")
    found: dict[int, float] = {}
    for pair in pairs:
        token, bias = _bias(pair)
        if token in found:
            raise InvalidRequest(f"logit_bias names token {token} twice.", "Give each token one bias.")
        found[token] = bias
    return tuple(found.items())


def _bias(pair: Any) -> tuple[int, float]:
    if not isinstance(pair, (list, tuple)) or len(pair) != 2:
        raise InvalidRequest(f"logit_bias holds {_shown(pair)}.", "It must be pairs of a token id and a bias.")
    token, bias = pair
    _check_token_id("logit_bias", token)
    if isinstance(bias, bool) or not isinstance(bias, (int, float)) or not abs(bias) <= BIAS_LIMIT:  # NaN neither
        limit = f"It must be a number between −{BIAS_LIMIT:g} and {BIAS_LIMIT:g}."
        raise InvalidRequest(f"logit_bias for token {token} is {_shown(bias)}.", limit)
    return token, float(bias)


def _check_token_id(where: str, token: Any) -> None:
    """Refuse what can be no token of any model; which ids a model has is known where it is loaded."""
    if isinstance(token, bool) or not isinstance(token, int) or not 0 <= token <= TOKEN_ID_LIMIT:
        raise InvalidRequest(
            f"{where} holds {_shown(token)}, which is no token id.", "Token ids are whole numbers from 0 on."
        )


def _check_kind(name: str, value: Any, default: Any) -> None:
    """Refuse a value of the wrong type: ints pass for floats, None only for the seed, a bool never for a number."""
    if value is None and name == "seed":
        return
    expected: tuple[type, ...] = (int,) if name == "seed" else (type(default),)
    if expected == (float,):
        expected = (int, float)
    wrong_bool = isinstance(value, bool) and bool not in expected
    if wrong_bool or not isinstance(value, expected):
        raise InvalidRequest(f"{name} is {_shown(value)}.", f"It must be {_kind_name(expected[-1])}.")


def _shown(value: Any) -> str:
    """``value`` for a sentence: it may come from anybody and be of any length."""
    text = repr(value)
    return text if len(text) <= 120 else f"{text[:119]}…"


def _kind_name(kind: type) -> str:
    names = {int: "a whole number", float: "a number", str: "a text", bool: "true or false", tuple: "a list"}
    return names[kind]


def _check_bounds(name: str, value: float, knob: Knob) -> None:
    low, high = knob.low, knob.high
    finite = isinstance(value, int) or math.isfinite(value)  # a whole number may be too large for a float
    if not finite or (low is not None and value < low) or (high is not None and value > high):
        limit = f"at least {low:g}" if high is None else f"between {low:g} and {high:g}"
        raise InvalidRequest(f"{name} is {_shown(value)}.", f"It must be {limit}.")


def row_seed(seed: int, index: int) -> int:
    """The seed of answer ``index`` of a request: the first answer has the request's own."""
    return (seed + index * 0x9E3779B97F4A7C15) % (SEED_LIMIT + 1)


@dataclass(frozen=True)
class ModelSpec:
    """What to run: a base and the adapters on top of it; hashable, holds no secret.

    ``base`` and each adapter are a local path or a hub id. ``adapters`` holds (adapter, scale) pairs; the empty tuple is
    the base itself. ``backend`` names who runs it ("local", or a remote endpoint's name).
    """

    base: str
    adapters: tuple[tuple[str, float], ...] = ()
    quantization: Quantization = "auto"
    dtype: Dtype = "auto"
    device: str = "auto"
    backend: str = "local"

    def __post_init__(self) -> None:
        if not self.base.strip():
            raise InvalidRequest("No model was named.", "Pick a model or type a path or hub id.")
        if self.quantization not in QUANTIZATIONS:
            raise InvalidRequest(
                f"Unknown quantization {_shown(self.quantization)}.", f"Use one of {', '.join(QUANTIZATIONS)}."
            )
        if self.dtype not in DTYPES:
            raise InvalidRequest(f"Unknown dtype {_shown(self.dtype)}.", f"Use one of {', '.join(DTYPES)}.")
        for name, scale in self.adapters:
            if not abs(scale) <= SCALE_LIMIT:  # NaN neither
                raise InvalidRequest(
                    f"The strength of adapter {_shown(name)} is {_shown(scale)}.",
                    f"It must be between −{SCALE_LIMIT:g} and {SCALE_LIMIT:g}; 1 is as trained.",
                )

    def without_adapters(self) -> ModelSpec:
        """The same base with nothing on top."""
        return dataclasses.replace(self, adapters=())


@dataclass(frozen=True)
class Message:
    """One turn of a conversation."""

    role: Role
    content: str

    def __post_init__(self) -> None:
        if self.role not in ROLES:
            raise InvalidRequest(f"Unknown role {self.role!r}.", f"Use one of {', '.join(ROLES)}.")


@dataclass(frozen=True)
class GenerationRequest:
    """One thing to generate: what to run, on which text, with which settings.

    Give one of ``prompt`` (a user turn, or the text itself under the raw template), ``messages``, and ``prompt_ids`` (token
    ids, which the model reads as they are, without a BOS before them; only under the raw template, and without a system
    prompt or prefill). A system message in ``messages`` wins over ``settings.system_prompt``. ``prefill`` starts the
    assistant's reply and is not repeated in the answer. ``chat_template_kwargs`` reach the model's own template
    (``enable_thinking`` and the like). ``user`` tells people apart where requests wait in line: they take turns, however
    many requests one of them sends.
    """

    spec: ModelSpec
    prompt: str | None = None
    messages: tuple[Message, ...] = ()
    settings: GenerationSettings = GenerationSettings()
    template: Template = "chat"
    prefill: str = ""
    chat_template_kwargs: Mapping[str, Any] = field(default_factory=dict)
    user: str = ""
    prompt_ids: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.template not in TEMPLATES:
            raise InvalidRequest(f"Unknown template {self.template!r}.", f"Use one of {', '.join(TEMPLATES)}.")
        object.__setattr__(self, "prompt_ids", _token_ids(self.prompt_ids))
        self._check_one_prompt()
        taken = RESERVED_TEMPLATE_KWARGS.intersection(self.chat_template_kwargs)
        if taken:
            raise InvalidRequest(
                f"chat_template_kwargs holds {', '.join(sorted(taken))}, which is not the template's to decide.",
                "Send only what the model's own template reads, such as enable_thinking.",
            )
        texts = [self.prompt or ""] if not self.messages else [m.content for m in self.messages if m.role != "system"]
        if not self.prompt_ids and not any(text.strip() for text in texts):
            raise InvalidRequest("The prompt is empty.", "Write something, or pick an example.")
        for text in (*texts, self.settings.system_prompt, self.prefill, *self.settings.stop):
            _check_encodable(text)

    def _check_one_prompt(self) -> None:
        """Refuse two prompts, and beside token ids all that would have to be put into words before they are ids."""
        given = (self.prompt is not None, bool(self.messages), bool(self.prompt_ids))
        found = [name for name, there in zip(("a prompt", "messages", "prompt_ids"), given, strict=True) if there]
        if len(found) > 1:
            raise InvalidRequest(f"Both {' and '.join(found)} were given.", "Send one of them.")
        if not self.prompt_ids:
            return
        if self.template != "raw":
            raise InvalidRequest(
                f"prompt_ids were given under the {self.template} template, which is made of texts.",
                "Use the raw template with token ids, or send a prompt.",
            )
        beside = {"a system prompt": self.settings.system_prompt.strip(), "a prefill": self.prefill}
        for name in (name for name, text in beside.items() if text):
            raise InvalidRequest(
                f"prompt_ids were given with {name}, which is a text.", "Put its token ids among the prompt's."
            )


def _token_ids(value: Any) -> tuple[int, ...]:
    if not isinstance(value, (list, tuple)):
        raise InvalidRequest(f"prompt_ids is {_shown(value)}.", "It must be a list of token ids.")
    for token in value:
        _check_token_id("prompt_ids", token)
    return tuple(value)


def _check_encodable(text: str) -> None:
    """Refuse text that is no Unicode (half a surrogate pair), which no tokenizer reads."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InvalidRequest(
            f"The text holds half of a character at position {error.start}.", "Send it as whole UTF-8."
        ) from error


@dataclass(frozen=True)
class Status:
    """Where a request stands. ``fraction`` (0–1) is None where no honest figure exists."""

    phase: Phase
    detail: str = ""
    fraction: float | None = None


@dataclass(frozen=True)
class GenerationStats:
    """Running totals of one answer. Times are seconds since the request was submitted.

    ``tokens_per_second`` is decode only: (completion tokens − 1) over the time since the first token. ``reused_tokens`` of
    the prompt were not read anew, because the model had read them before with the same adapters.
    """

    prompt_tokens: int = 0
    completion_tokens: int = 0
    elapsed_s: float = 0.0
    first_token_s: float | None = None
    reused_tokens: int = 0

    @property
    def tokens_per_second(self) -> float | None:
        """Decode speed, or None before there is a second token."""
        if self.first_token_s is None or self.completion_tokens < 2:
            return None
        decoding = self.elapsed_s - self.first_token_s
        return (self.completion_tokens - 1) / decoding if decoding > 0 else None


@dataclass(frozen=True)
class Token:
    """One generated token; log-probabilities are the raw model's (natural log), before temperature and penalties.

    ``text`` is the token alone, decoded: of an emoji split over several tokens it may hold a replacement character.
    """

    id: int
    text: str
    logprob: float
    top: tuple[tuple[int, str, float], ...] = ()


@dataclass(frozen=True)
class Scores:
    """How likely ``spec`` finds a given answer, token by token; nothing was generated.

    ``tokens`` carry the log-probability of each token of the answer and what the model would rather have said there.
    ``divergence`` is, for each position, how far this model's next-token distribution is from the first scored model's:
    KL(this ‖ first) in nats; zeros for the first itself.
    """

    spec: ModelSpec
    tokens: tuple[Token, ...]
    divergence: tuple[float, ...]

    @property
    def logprob(self) -> float:
        """The answer's log-probability (natural log), the sum over its tokens."""
        return math.fsum(token.logprob for token in self.tokens)

    @property
    def perplexity(self) -> float:
        """exp of the mean negative log-probability of a token; infinite where that overflows."""
        mean = -self.logprob / len(self.tokens)
        return math.exp(mean) if mean < 700 else math.inf


@dataclass(frozen=True)
class Provenance:
    """What really made an answer, enough to make it again: picklable, JSON-able with `dataclasses.asdict`.

    ``base`` is the hub id or the folder's name, ``revision`` the hub's commit ("" for a local folder), ``base_hash`` what
    identifies its files wherever they lie. ``adapters`` holds (name, sha256 of its files, scale). ``template_hash`` is the
    sha256 of the chat template's text, "" where none was applied. ``seed`` is the one used, also when the request named
    none. ``exact`` is True where the same request gives the same tokens whatever else runs: in float32 without quantization,
    or when it was computed alone; False means that rounding may depend on the company.
    """

    base: str
    revision: str
    adapters: tuple[tuple[str, str, float], ...]
    quantization: str
    dtype: str
    device: str
    template: Template
    settings: GenerationSettings
    seed: int
    versions: Mapping[str, str]
    base_hash: str = ""
    template_hash: str = ""
    exact: bool = False


@dataclass(frozen=True)
class GenerationEvent:
    """One piece of news about a request; self-sufficient.

    ``text`` is what is new since the event before (of the same ``index``), ``stats`` are running totals, ``notice`` is a
    sentence for the person (turns dropped, window reached). Exactly one event for each ``index`` carries
    ``finish_reason``, and the stream's last event is one of them. ``provenance`` comes before the first token, and again
    with the finish reason. ``cached`` says that the answer was made earlier, for the same request of the same weights.
    ``end`` is the token that ended the answer where one did; it counts, and is no part of the text or of ``tokens``.
    ``prompt_hash`` comes with the first provenance: SHA-256 of the token ids that the model reads, which tells apart what a
    template with a date in it makes of the same words. ``opened`` comes with it: the ``<think>`` that the model's own
    template has ended the prompt with, so that the answer begins inside of it.
    """

    status: Status
    text: str = ""
    tokens: tuple[Token, ...] = ()
    stats: GenerationStats = GenerationStats()
    notice: str = ""
    index: int = 0
    finish_reason: FinishReason | None = None
    provenance: Provenance | None = None
    cached: bool = False
    end: Token | None = None
    prompt_hash: str = ""
    opened: str = ""


@dataclass(frozen=True)
class RenderedPrompt:
    """The prompt as the model reads it. ``token_ids`` has shape [prompt_tokens]; ``window`` is the context in tokens.

    ``opened`` is the ``<think>`` before the answer, prefill included, where the model's own template has written one.
    """

    text: str
    token_ids: tuple[int, ...]
    window: int
    dropped_turns: int = 0
    max_new_tokens: int = 0
    notice: str = ""
    opened: str = ""

    @property
    def hash(self) -> str:
        """SHA-256 of the token ids."""
        return hashlib.sha256(",".join(map(str, self.token_ids)).encode()).hexdigest()


@dataclass(frozen=True)
class AdapterInfo:
    """What an adapter directory says of itself, read from its JSON and safetensors headers only.

    ``problems`` make it unusable, ``warnings`` do not; each is a sentence with a remedy.
    """

    path: str
    name: str
    base: str = ""
    peft_type: str = ""
    rank: int | None = None
    target_modules: tuple[str, ...] = ()
    bytes: int = 0
    problems: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Proof:
    """What was seen when an adapter was attached: which tensors found their place, and what the logits of a few tokens did.

    Those are eight fixed ones, and some that the adapter treats in particular, such as trained tokens.

    ``matched`` counts the tensors that are in use; ``missing`` names modules that the configuration targets and the file has
    nothing for, ``unexpected`` tensors that nothing on the base is waiting for; both are complete. ``moved`` is the largest
    change of a logit, ``divergence`` the mean KL(with ‖ without) in nats, ``flipped`` the share of positions (0–1) whose
    likeliest token changed.
    """

    matched: int
    missing: tuple[str, ...] = ()
    unexpected: tuple[str, ...] = ()
    moved: float = 0.0
    divergence: float = 0.0
    flipped: float = 0.0


@dataclass(frozen=True)
class LoadedAdapter:
    """An adapter attached to a resident base. ``moves_logits`` is False for a no-op, which the page must shout about.

    ``exclusive`` adapters cannot share a step with other rows and run through PEFT in a turn of their own. ``kind`` is
    PEFT's name for what it is, LORA for one.
    """

    name: str
    path: str
    sha256: str
    bytes: int
    exclusive: bool
    moves_logits: bool
    warnings: tuple[str, ...] = ()
    kind: str = ""
    proof: Proof | None = None


@dataclass(frozen=True)
class ResidentInfo:
    """A base model in memory. ``bytes`` are its weights; ``reason`` says why dtype, device and quantization were chosen.

    ``together`` says whether several answers share a forward pass; where not, ``alone_because`` is the sentence why.
    """

    base: str
    path: str
    quantization: str
    dtype: str
    device: str
    parameters: int
    bytes: int
    context_window: int
    loaded_at: float
    reason: str = ""
    adapters: tuple[LoadedAdapter, ...] = ()
    rows: int = 0
    together: bool = True
    alone_because: str = ""


@dataclass(frozen=True)
class MemoryReport:
    """Bytes on the engine's device: total and free as the system reports them, and what of it is ours.

    ``kv_cache`` is what rows hold that are being answered, ``reusable`` what earlier texts left for later ones
    and copies of weights, which make way for anything else.
    """

    device: str
    total: int
    free: int
    weights: int
    adapters: int
    kv_cache: int
    process: int
    reusable: int = 0


CallerKind = Literal["key", "user", "guest", "address"]


@dataclass(frozen=True)
class Caller:
    """Who asks, as the gate has found out; the same person for the pages and for every part of the API.

    ``id`` is stable and holds no secret: "key 3f9a…" for an API key, "user anna" for who has logged in, "guest 9c…" for a
    browser's random cookie, "address 10.0.0.7" for a program without any of them. It tells people apart where requests wait
    in line, where histories are kept, and where work is counted. ``name`` is for a person to read, ``address`` where the
    request came from (an IPv6 network as one). ``admin`` may load, swap and unload models for everybody.
    """

    id: str
    kind: CallerKind
    name: str = ""
    address: str = ""
    admin: bool = False
