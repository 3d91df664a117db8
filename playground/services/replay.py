"""Running an answer again from its manifest, and saying whether it comes out the same, token for token.

A manifest holds the request as it was made, what came out, and the provenance. A replay looks its model and adapters up as a
person would who types their names, so a manifest from elsewhere opens no door that was closed; what is not where it was is
found by its hash among what is offered. The seed is the one that was used. In anything but plain float32 the replay is
computed alone (`GenerationSettings.reproducible`): then two replays always agree with each other, while an answer that was
computed in company may part from its replay where two tokens are as good as equally likely.
"""

from __future__ import annotations

import dataclasses
import math
import threading
from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from playground.errors import AdapterInvalid, InvalidRequest, ModelNotFound, ModelNotLoaded, PlaygroundError
from playground.local_inference.adapters import content_hash
from playground.local_inference.identity import base_identity
from playground.services.generation import Generation
from playground.services.likelihood import likelihoods
from playground.services.manifests import Manifest, Recorder, prompt_hash
from playground.services.models import Models
from playground.services.threads import in_own_thread
from playground.types import (
    DTYPES,
    QUANTIZATIONS,
    FinishReason,
    GenerationEvent,
    GenerationRequest,
    GenerationSettings,
    ModelSpec,
    Provenance,
    Token,
    row_seed,
)

__all__ = ["Manifest", "Recorder", "Replay", "ReplayResult", "compare", "prompt_hash"]

# Two tokens whose log-probabilities (natural log) are no further apart may change places by rounding. A logit of 16 to 32 is
# a multiple of 1/8 in bfloat16 and of 1/64 in float16, and what was computed before it is rounded as well.
ROUNDING = {"bfloat16": 0.25, "float16": 0.04}
# Weights or activations in 8 or 4 bits: whatever the dtype around them.
_ROUNDING_QUANTIZED = 0.25
# Drawn answers part where the draw falls on the border between two tokens, however unlike their probabilities are. So much
# of the probability may lie between them for rounding to have moved the border.
DRAWN_SHARE = 0.02
_ALTERNATIVES = 20


@dataclass(frozen=True)
class ReplayResult:
    """How an answer compares with its replay.

    ``differs_at`` counts tokens from 1; None where all of them are the same, or where there is only text to compare. ``was``
    and ``now`` are the two tokens there, as likely as the replay finds them: ``now`` is None where the replay ended, ``was``
    where the first answer ended, or where it could not be found how likely the old token is. ``gap`` is how much likelier
    (natural log) the new token is than the old one. ``changed`` says in a sentence each what is not as it was, ``note`` what
    else there is to know.
    """

    identical: bool
    differs_at: int | None
    was: Token | None
    now: Token | None
    gap: float | None
    within_rounding: bool
    changed: tuple[str, ...]
    note: str = ""

    @property
    def sentence(self) -> str:
        """ "identical", or where the answers part and how far apart the two tokens are."""
        if self.differs_at is None:
            return " ".join(filter(None, ("identical" if self.identical else "differs:", self.note)))
        if self.was is None or self.now is None or self.gap is None:
            return f"differs at token {self.differs_at}: {self.note}"
        rounding = ", within rounding" if self.within_rounding else ""
        tokens = f"{self.was.text!r} then, {self.now.text!r} now, {abs(self.gap):.3g} apart in log-probability"
        return f"differs at token {self.differs_at}{rounding}: {tokens}"


class Replay:
    """Runs answers again. ``generation`` makes them, ``models`` says what a manifest's names stand for here."""

    def __init__(self, generation: Generation, models: Models) -> None:
        self._generation = generation
        self._models = models

    def prompt_hash(self, request: GenerationRequest) -> str:
        """`prompt_hash` of ``request`` rendered now; "" when its model is no longer in memory."""
        try:
            return prompt_hash(self._generation.render(request))
        except ModelNotLoaded:
            return ""

    def named(self, manifest: Manifest) -> Manifest:
        """``manifest`` with names for what is offered here, in place of this machine's paths: as it is to be handed out."""
        named = self.named_spec(manifest.request.spec)
        return dataclasses.replace(manifest, request=dataclasses.replace(manifest.request, spec=named))

    def named_spec(self, spec: ModelSpec) -> ModelSpec:
        """``spec`` with names for what is offered here, as a person would type them. Reads the disk."""
        base = self._models.name(spec)
        adapters = tuple((self._models.known_name(base, path) or path, scale) for path, scale in spec.adapters)
        return dataclasses.replace(spec, base=base, adapters=adapters)

    async def run(self, manifest: Manifest, user: str = "") -> AsyncGenerator[GenerationEvent | ReplayResult, None]:
        """The replay's events, all with index 0, and the `ReplayResult` last. Closing the iterator stops it.

        An answer that was stopped is compared as far as it goes. Raises `InvalidRequest` for a manifest that cannot be
        replayed, `ModelNotFound` or `AdapterInvalid` for what is not there, and what generating raises.
        """
        request, index = await in_own_thread(lambda: self._request(manifest, user), "replay")
        enough = len(manifest.token_ids) if manifest.finish_reason == "cancelled" else None
        again = _Answer()
        async with aclosing(self._generation.astream(request, fresh=True)) as events:
            async for event in events:
                if event.index == index or not (event.text or event.tokens or event.finish_reason):
                    again.add(event)
                    yield dataclasses.replace(event, index=0)
                if enough is not None and again.provenance is not None and len(again.tokens) >= enough:
                    break  # as far as the first one got
        prompt = await in_own_thread(lambda: self.prompt_hash(request), "replay")
        apart = await self._apart(manifest, request, again.tokens)
        yield compare(manifest, again.tokens, again.text, again.finish_reason, again.provenance, prompt, apart)

    async def _apart(
        self, manifest: Manifest, request: GenerationRequest, tokens: Sequence[Token]
    ) -> Mapping[int, Token]:
        """The two tokens where the answers part, as likely as the model finds them, where the replay told only one."""
        at = _parts_at(manifest, tokens)
        if at is None or at >= min(len(manifest.token_ids), len(tokens)):
            return {}
        old, now = manifest.token_ids[at], tokens[at]
        if any(id == old for id, _, _ in now.top):
            return {}
        left = threading.Event()
        both, begun = (now.id, old), manifest.token_ids[:at]
        try:
            return await in_own_thread(
                lambda: likelihoods(self._generation, request, begun, both, lambda: not left.is_set()), "replay"
            )
        except PlaygroundError:  # that the answers part is known all the same
            return {}
        finally:
            left.set()

    def _request(self, manifest: Manifest, user: str) -> tuple[GenerationRequest, int]:
        """What to run, and which of its answers is the one."""
        made = manifest.provenance
        settings = manifest.request.settings
        seed = settings.seed if made is None else made.seed
        beams = settings.strategy == "beam_search"
        if seed is None and not (settings.is_greedy or beams):
            raise InvalidRequest(
                "The manifest names no seed, so its answer cannot be drawn again.", "Use one with a seed."
            )
        if manifest.finish_reason == "cancelled" and not manifest.token_ids:
            raise InvalidRequest(
                "This answer was stopped before it had a token, so there is nothing to compare.",
                "Replay one that had begun.",
            )
        exactly = made is not None and made.dtype == "float32" and made.quantization == "none"
        changes: dict[str, Any] = {"reproducible": not exactly, "top_logprobs": _ALTERNATIVES, "seed": seed}
        if not beams:  # each drawn answer has a seed of its own, so it needs no company of the others
            changes |= {"num_return_sequences": 1, "seed": None if seed is None else row_seed(seed, manifest.index)}
        request = dataclasses.replace(
            manifest.request, spec=self._spec(manifest), settings=settings.replace(**changes), user=user
        )
        return request, manifest.index if beams else 0

    def _spec(self, manifest: Manifest) -> ModelSpec:
        """The manifest's base and adapters as they are found here, in the precision that was used, on this app's device."""
        asked, made = manifest.request.spec, manifest.provenance
        base = self._base(manifest)
        quantization = made.quantization if made and made.quantization in QUANTIZATIONS else asked.quantization
        dtype = made.dtype if made and made.dtype in DTYPES else asked.dtype
        spec = self._models.spec(base, quantization=quantization, dtype=dtype)
        hashes = [sha for _, sha, _ in made.adapters] if made else []
        hashes += [""] * (len(asked.adapters) - len(hashes))
        found = tuple(
            (self._adapter(base, name, sha), scale) for (name, scale), sha in zip(asked.adapters, hashes, strict=False)
        )
        return dataclasses.replace(spec, adapters=found)

    def _base(self, manifest: Manifest) -> str:
        """The base's name as it can be looked up here: as it was asked for, else an offered one of the same files."""
        asked, made = manifest.request.spec.base, manifest.provenance
        try:
            self._models.spec(asked)
        except ModelNotFound:
            for model in self._models.offered() if made and made.base_hash else ():
                if _identity(Path(model.path)) == made.base_hash:  # type: ignore[union-attr]
                    return model.name
            raise
        return asked

    def _adapter(self, base: str, asked: str, sha256: str) -> str:
        """The adapter's folder: where it was, if it is still the same; else an offered one of the same files.

        What has changed, and lies nowhere else as it was, is taken as it is now: the comparison says so.
        """
        refused: AdapterInvalid | None = None
        here = ""
        try:
            here = self._models.spec(base, asked).adapters[0][0]
        except AdapterInvalid as error:
            refused = error
        if here and (not sha256 or _hash(Path(here)) == sha256):
            return here
        offered = sorted(self._models.adapters(base), key=lambda info: info.name != Path(asked).name)
        for info in offered if sha256 else ():
            if not info.problems and _hash(Path(info.path)) == sha256:
                return info.path
        if refused is not None:
            raise refused
        return here


@dataclass
class _Answer:
    """A replay as it grows."""

    text: str = ""
    tokens: list[Token] = field(default_factory=list)
    finish_reason: FinishReason | None = None
    provenance: Provenance | None = None

    def add(self, event: GenerationEvent) -> None:
        self.text += event.text
        self.tokens += event.tokens
        self.finish_reason = event.finish_reason or self.finish_reason
        self.provenance = event.provenance or self.provenance


def compare(
    manifest: Manifest,
    tokens: list[Token],
    text: str,
    finish_reason: FinishReason | None,
    provenance: Provenance | None,
    prompt: str = "",
    apart: Mapping[int, Token] = {},
) -> ReplayResult:
    """What a replay that brought ``tokens`` and ``text`` says of ``manifest``'s answer; ``prompt`` is its prompt's hash.

    ``apart`` has the two tokens where the answers part, by id, where the old one is none of the alternatives of the new one.
    """
    shared = _parts_at(manifest, tokens)
    other = _other_content(manifest, provenance, prompt)
    changed = (*other, *_other_surroundings(manifest.provenance, provenance))
    if shared is not None:
        return _parted(manifest, tokens, shared, changed, None if other else provenance, apart)
    note = _otherwise(manifest, text, finish_reason)
    identical = not note
    if identical and _stopped(manifest):
        note = f"as far as it goes: the answer was stopped after {len(manifest.token_ids)} tokens"
    return ReplayResult(identical, None, None, None, None, False, changed, note)


def _parts_at(manifest: Manifest, tokens: Sequence[Token]) -> int | None:
    """The first position (from 0) where ``tokens`` are not the manifest's; None where they are, as far as it goes."""
    was = manifest.token_ids
    at = next((at for at, (old, new) in enumerate(zip(was, tokens, strict=False)) if old != new.id), None)
    if at is None and len(was) != len(tokens) and not (_stopped(manifest) and len(tokens) > len(was)):
        at = min(len(was), len(tokens))
    return at


def _stopped(manifest: Manifest) -> bool:
    return manifest.finish_reason == "cancelled"


def _parted(
    manifest: Manifest,
    tokens: list[Token],
    at: int,
    changed: tuple[str, ...],
    same: Provenance | None,
    apart: Mapping[int, Token],
) -> ReplayResult:
    """The answers part at position ``at`` (from 0). ``same`` is the provenance where nothing but rounding may differ."""
    if at >= len(tokens):
        note = "the replay ended there, the answer did not"
        return ReplayResult(False, at + 1, None, None, None, False, changed, note)
    now = tokens[at]
    if at >= len(manifest.token_ids):
        note = f"the answer ended there, the replay goes on with {now.text!r}"
        return ReplayResult(False, at + 1, None, now, None, False, changed, note)
    old = manifest.token_ids[at]
    was = next((Token(id, text, logprob) for id, text, logprob in now.top if id == old), None)
    if was is None and old in apart and now.id in apart:
        was, now = apart[old], replace(now, logprob=apart[now.id].logprob)
    if was is None:
        note = f"{now.text!r} now; what was there, token {old}, is not among the {len(now.top)} likeliest"
        return ReplayResult(False, at + 1, None, now, None, False, changed, note)
    rounding = same is not None and _is_rounding(manifest.request.settings, now, was, same)
    return ReplayResult(False, at + 1, was, now, now.logprob - was.logprob, rounding, changed)


def _otherwise(manifest: Manifest, text: str, finish_reason: FinishReason | None) -> str:
    """What differs although no token does; "" where nothing does."""
    if _stopped(manifest):
        return ""
    if text != manifest.text:
        at = next((at for at, (a, b) in enumerate(zip(text, manifest.text, strict=False)) if a != b), None)
        where = min(len(text), len(manifest.text)) if at is None else at
        what = "the same tokens are another text" if manifest.token_ids else "another text"
        return f"{what} from character {where + 1} on"
    if finish_reason != manifest.finish_reason:
        return f"the same text, but it ended with {manifest.finish_reason!r} then and {finish_reason!r} now"
    return ""


def _is_rounding(settings: GenerationSettings, now: Token, was: Token, provenance: Provenance) -> bool:
    """Whether rounding alone may have put ``now`` in the place of ``was``; never so in float32 without quantization."""
    quantized = provenance.quantization != "none"
    allowed = _ROUNDING_QUANTIZED if quantized else ROUNDING.get(provenance.dtype, 0.0)
    bias = dict(settings.logit_bias)
    gap = now.logprob + bias.get(now.id, 0.0) - was.logprob - bias.get(was.id, 0.0)
    if allowed > 0 and abs(gap) <= allowed:
        return True
    return allowed > 0 and not settings.is_greedy and _between(now, was, settings.temperature, bias) <= DRAWN_SHARE


def _between(now: Token, was: Token, temperature: float, bias: Mapping[int, float]) -> float:
    """The share of the probability that lies between two tokens when tokens are drawn in the order of likelihood."""
    scores = sorted(((logprob + bias.get(id, 0.0), id) for id, _, logprob in now.top), reverse=True)
    weights = [(id, math.exp((score - scores[0][0]) / temperature)) for score, id in scores]
    places = [at for at, (id, _) in enumerate(weights) if id in (now.id, was.id)]
    if len(places) != 2:
        return 1.0
    return sum(weight for _, weight in weights[places[0] + 1 : places[1]]) / sum(weight for _, weight in weights)


def _other_content(manifest: Manifest, now: Provenance | None, prompt: str) -> list[str]:
    """What was computed that is not the same, each a sentence; what either side does not know is left out."""
    was = manifest.provenance
    found: list[str] = []
    if was is not None and now is not None:
        found += _changed_models(was, now)
        found += _changed(("quantization", was.quantization, now.quantization), ("dtype", was.dtype, now.dtype))
        if was.template_hash != now.template_hash:
            found.append("The chat template has changed.")
    if manifest.prompt_hash and prompt and manifest.prompt_hash != prompt:
        found.append("The prompt comes out as other tokens.")
    return found


def _other_surroundings(was: Provenance | None, now: Provenance | None) -> list[str]:
    """What the same computation ran on that is not the same, each a sentence."""
    if was is None or now is None:
        return []
    versions = [(f"version of {name}", was.versions.get(name, "none"), now.versions.get(name, "none"))
                for name in sorted({*was.versions, *now.versions})]  # fmt: skip
    return _changed(("device", was.device, now.device), *versions)


def _changed(*values: tuple[str, str, str]) -> list[str]:
    return [f"The {label} was {then} and is {this}." for label, then, this in values if then != this]


def _changed_models(was: Provenance, now: Provenance) -> Iterable[str]:
    if was.base_hash and now.base_hash and was.base_hash != now.base_hash:
        yield f"The base's files have changed ({was.base} {was.base_hash[:8]}, now {now.base} {now.base_hash[:8]})."
    if len(was.adapters) != len(now.adapters):
        yield f"There were {len(was.adapters)} adapters and are {len(now.adapters)}."
    for (name, sha, scale), (other, other_sha, other_scale) in zip(was.adapters, now.adapters, strict=False):
        if sha != other_sha:
            yield f"Adapter {name!r} has changed ({sha[:8]}, now {other!r} {other_sha[:8]})."
        if scale != other_scale:
            yield f"The strength of adapter {name!r} was {scale:g} and is {other_scale:g}."


def _hash(folder: Path) -> str:
    """The adapter's identity, "" where it cannot be read."""
    try:
        return content_hash(folder)
    except OSError:
        return ""


def _identity(folder: Path) -> str:
    try:
        return base_identity(folder)
    except OSError:
        return ""
