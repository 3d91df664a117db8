"""A base in memory with the adapters attached to it: what a row needs to run, and nothing about when it runs."""

from __future__ import annotations

import functools
import threading
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from playground.errors import AdapterInvalid, InvalidRequest, PlaygroundError
from playground.local_inference.adapters import fingerprint, place
from playground.local_inference.decode import Pace, Words
from playground.local_inference.explain import explain, ran_out
from playground.local_inference.footprint import input_device
from playground.local_inference.identity import base_identity
from playground.local_inference.kernels import calibrate
from playground.local_inference.loading import LoadedBase, load_base
from playground.local_inference.lora import LoraWeights
from playground.local_inference.masks import Masks
from playground.local_inference.mixing import Active, Mixer, Switch
from playground.local_inference.naming import Naming
from playground.local_inference.packed import PackedModel, Reading
from playground.local_inference.peft_turn import PeftTurn
from playground.local_inference.pieces_trial import try_pieces
from playground.local_inference.places import Report
from playground.local_inference.prefixes import Prefixes
from playground.local_inference.proof import probe, prove
from playground.local_inference.ragged_trial import try_together
from playground.local_inference.regimes import FIRST, Regimes
from playground.local_inference.row_cache import Form, empty_cache, form_of
from playground.local_inference.scattered import scattered_linears
from playground.local_inference.scheduler import Turns
from playground.local_inference.slots import SlotCache
from playground.local_inference.soft_prompts import Prefix, VirtualTokens, make_prefix
from playground.local_inference.survey import row_elements
from playground.local_inference.templates import end_of_turn_ids, render_prompt
from playground.types import GenerationRequest, LoadedAdapter, ModelSpec, RenderedPrompt, ResidentInfo


@dataclass(frozen=True, eq=False)
class Attached:
    """An adapter on a resident: a LoRA's ``weights``, a soft prompt's ``virtual`` tokens, or neither where PEFT serves it.

    ``particular`` are tokens that the probe must read. Known once it is proven: a soft prompt's ``prefix``, in ``fixed``
    why there is no strength but 1 ("" where there is), and how many words the model's ``vocabulary`` has with it.
    """

    info: LoadedAdapter
    folder: Path
    files: tuple[tuple[str, int, int, int, int], ...]
    tokenizer: Any
    weights: LoraWeights | None
    virtual: VirtualTokens | None = None
    particular: tuple[int, ...] = ()
    prefix: Prefix | None = None
    fixed: str = ""
    vocabulary: int = 0

    @functools.cached_property
    def words(self) -> Words:
        """Its tokenizer's tokens as texts."""
        return Words(self.tokenizer)


@dataclass(frozen=True)
class Applied:
    """The adapters of one row, each with its scale."""

    adapters: tuple[tuple[Attached, float], ...] = ()

    @property
    def exclusive(self) -> bool:
        """True when PEFT serves them, alone on the base."""
        return any(attached.info.exclusive and scale != 0.0 for attached, scale in self.adapters)

    @functools.cached_property
    def active(self) -> Active:
        """What `mixing` needs to know of them; nothing of those that PEFT serves, nor of soft prompts."""
        return tuple((a.weights, scale) for a, scale in self.adapters if a.weights is not None)

    @property
    def prefix(self) -> Prefix | None:
        """What the rows' caches begin with."""
        return next((a.prefix for a, scale in self.adapters if a.prefix is not None and scale != 0.0), None)

    @property
    def positions(self) -> int:
        """How many positions of a row its soft prompt takes."""
        return self.prefix.positions if self.prefix else 0

    @property
    def notice(self) -> str:
        """What must be said with each answer; "" when all is well."""
        idle = [a.info.name for a, scale in self.adapters if scale != 0.0 and not a.info.moves_logits]
        return " ".join(
            f"Adapter {name!r} has no effect: this answer is the same as without it. Check that it was trained and saved "
            "fully, or use another one."
            for name in idle
        )

    def refuse(self) -> None:
        """Raise `InvalidRequest` for strengths and mixes that cannot be computed."""
        used = [(attached, scale) for attached, scale in self.adapters if scale != 0.0]
        for attached, scale in used:
            if attached.fixed and scale != 1.0:
                raise InvalidRequest(
                    f"Adapter {attached.info.name!r} {attached.fixed}", "Use it at strength 1, or 0 for the base."
                )
        alone = [attached.info for attached, _ in used if attached.info.exclusive or attached.prefix]
        if alone and len(self.adapters) > 1 and (len(used) > 1 or self.exclusive):
            raise InvalidRequest(
                f"These adapters cannot be mixed: {alone[0].name!r} ({alone[0].kind}) can only be used by itself.",
                "Choose a single adapter.",
            )


@dataclass(eq=False)
class Resident:
    """One base in memory. ``base`` is the name it was asked for by; attaching and stepping happen on the compute thread."""

    base: str
    asked: ModelSpec
    loaded: LoadedBase
    loaded_at: float = field(default_factory=time.time)
    adapters: dict[str, Attached] = field(default_factory=dict)
    identity: str = ""  # of its files, see identity.py

    def __post_init__(self) -> None:
        self.model = self.loaded.model
        # Read once: a beam search puts a configuration of its own in the model's place while it runs.
        declared = getattr(getattr(self.model, "generation_config", None), "eos_token_id", None)
        self._declared_ends = tuple(declared) if isinstance(declared, (list, tuple)) else (declared,)
        # As they are without any adapter: adapters are read while another one is on the base for its turn.
        self.modules = dict(self.model.named_modules())
        self.embeddings = self.model.get_input_embeddings().weight
        # transformers looks through the modules for it, which PEFT changes while other threads ask.
        self.dtype: torch.dtype = self.model.dtype
        self.vocabulary = int(self.embeddings.shape[0])
        self._switch = Switch(self.model)
        self._turn = PeftTurn(self.model, self.vocabulary, self.loaded.idle, reads_more=bool(self.loaded.unread))
        self._words = Words(self.loaded.tokenizer)
        self.slots = SlotCache()
        self.prefixes = Prefixes(0)
        self.pace = Pace()
        self.turns = Turns()
        self.plain_kernel_rows = 0
        self.batches = False
        self.alone_because = ""
        self.scattered: frozenset[str] = frozenset()  # linears to which a pass does not come row by row
        self.masks = Masks()  # of rows that share a pass of transformers' own
        self.regimes = Regimes()
        self.form = Form("")  # what rows of transformers' own pass keep
        self.whole_prompts = False  # whether a prompt must be read in one pass
        self.resumes = True  # whether a text can be gone on from what was kept of it
        self.packed: PackedModel | None = None
        self._pins = 0
        self._lock = threading.Lock()

    def try_out(self) -> Resident:
        """Find out what this model allows: rows decoded together, plain kernels for few rows. On the compute thread."""
        self.packed = PackedModel.of(self.model, self.vocabulary)
        self.plain_kernel_rows = calibrate(self.model)
        if self.packed is None:
            self.regimes = Regimes.of_model(self.model)
            self.form = form_of(self.model)
            with self.regimes.held(FIRST):
                read = try_pieces(self.model, self.vocabulary)
            self.whole_prompts, self.resumes = not read.pieces, read.copies
            masks, self.alone_because = try_together(self.model, self.vocabulary, self.regimes, pieces=read.pieces)
            if masks is not None:
                self.masks = masks
                with self.regimes.held(FIRST):
                    self.scattered = scattered_linears(self.model, self.vocabulary)
        self.batches = not self.alone_because
        return self

    @property
    def device(self) -> torch.device:
        """Where token ids must be."""
        return input_device(self.model)

    @property
    def recurrent(self) -> bool:
        """Whether layers keep a state of all that was read, besides or in place of what each position left."""
        return self.form.recurrent

    @property
    def snapshots(self) -> bool:
        """Whether reading can pause in the middle of a prompt, for such a state to be copied."""
        return self.recurrent and not self.whole_prompts

    @property
    def damaged(self) -> bool:
        """True when an adapter changed the base itself: nothing may be answered with it any more."""
        return self._turn.damaged

    @property
    def pins(self) -> int:
        """How many rows, waiting or live, need this resident."""
        return self._pins

    def pin(self, by: int) -> None:
        """Count rows in (+1) and out (−1)."""
        with self._lock:
            self._pins += by

    def row_bytes(self, positions: int) -> int:
        """What a row of that many positions takes, states and all; 0 where the architecture does not tell."""
        if self.form.ours:
            return self.form.position_bytes * positions + self.form.state_bytes
        return int(row_elements(self.model.config.get_text_config()) * self.dtype.itemsize * positions)

    def naming(self, tensors: Collection[str]) -> Naming:
        """How the ``tensors`` of an adapter's file are named on this base."""
        return Naming.of(tensors, self.modules, self.loaded.idle, reads_more=bool(self.loaded.unread))

    def window(self, applied: Applied) -> int:
        """Positions for prompt and answer."""
        return self.loaded.window - applied.positions

    def vocabulary_with(self, applied: Applied) -> int:
        """How many token ids the model has with these adapters: one that PEFT serves may bring words of its own."""
        own = [attached.vocabulary for attached, scale in applied.adapters if attached.info.exclusive and scale != 0.0]
        return max(own, default=self.vocabulary)

    def render(self, request: GenerationRequest, applied: Applied, *, answer: bool = True) -> RenderedPrompt:
        """`render_prompt` for these adapters. Raises what that does, and `InvalidRequest` for ids that are no tokens."""
        words = self.vocabulary_with(applied)
        biased = [token for token, _ in request.settings.logit_bias]
        for where, ids in (("prompt_ids", request.prompt_ids), ("logit_bias", biased)):
            if ids and (token := max(ids)) >= words:
                raise InvalidRequest(
                    f"{where} holds {token}, and this model's token ids end at {words - 1}.",
                    "Use the ids of this model's own tokenizer.",
                )
        return render_prompt(request, self.tokenizer(applied), self.window(applied), answer=answer)

    def reading(self, applied: Applied, tokens: int) -> Reading:
        """Room for a prompt of ``tokens`` tokens in our own pass, after what a soft prompt puts before it."""
        assert self.packed is not None
        return applied.prefix.reading(self.packed, tokens) if applied.prefix else self.packed.reading(tokens)

    def first_cache(self, applied: Applied) -> Any:
        """What a row of transformers' own pass begins with; None for the model's own empty cache."""
        if applied.prefix and self.packed is None:
            return applied.prefix.copy()
        return empty_cache(self.model) if self.batches else None

    def tokenizer(self, applied: Applied) -> Any:
        """The tokenizer for these adapters: the first adapter's own wins over the base's."""
        return applied.adapters[0][0].tokenizer if applied.adapters else self.loaded.tokenizer

    def words(self, applied: Applied) -> Words:
        """The tokens of `tokenizer` as texts."""
        own = self.tokenizer(applied) is not self.loaded.tokenizer
        return applied.adapters[0][0].words if own else self._words

    def stop_ids(self, tokenizer: Any, template: str) -> frozenset[int]:
        """The token ids that end an answer: the model's, the tokenizer's, and under chat the template's own."""
        ids = {*self._declared_ends, tokenizer.eos_token_id}
        if template == "chat":
            ids |= end_of_turn_ids(tokenizer)
        return frozenset(token for token in ids if token is not None)

    @contextmanager
    def running(self, applied: Applied) -> Iterator[Any]:
        """The model with exactly these adapters for the block's forward passes, and with none of them after it."""
        if applied.exclusive:
            attached, scale = applied.adapters[0]
            if not self._turn.holds(attached.folder, attached.info.sha256):
                _refuse_changed(attached)
            with self._switch.use([]):  # also when a beam search with a LoRA waits for this step to end
                yield self._turn.enter(attached.folder, attached.info.sha256, scale)
            return
        self.leave_turn()
        with self._switch.use([applied.active]):
            yield self.model

    def packed_step(self, *args: Any, **options: Any) -> torch.Tensor:
        """`PackedModel.step`, with nothing on the base but what the step itself adds. Raises when the base is damaged."""
        assert self.packed is not None
        self.leave_turn()
        with self._switch.use([]):  # linears that could not be joined are called as modules, hooks and all
            return self.packed.step(*args, **options)

    def leave_turn(self) -> None:
        """Take off what PEFT may have put on the base. Raises `EngineFailure` when the base is damaged."""
        with self._switch.use([]):
            self._turn.leave()

    @contextmanager
    def running_together(self, rows: Sequence[Applied]) -> Iterator[Any]:
        """The model for one step of several rows, row i with the adapters ``rows[i]``; none of them exclusive."""
        self.leave_turn()
        with self._switch.use([applied.active for applied in rows]):
            yield self.model

    def apply(self, spec: ModelSpec) -> Applied | None:
        """The attached adapters that ``spec`` asks for, or None when one is not attached or its files changed."""
        found = []
        for path, scale in spec.adapters:
            attached = self.adapters.get(place(path))
            if attached is None or attached.files != fingerprint(Path(path)):
                return None
            found.append((attached, scale))
        applied = Applied(tuple(found))
        applied.refuse()
        return applied

    def prove(self, attached: Attached) -> Attached:
        """Attach for good, with proof: the probe says how far the logits moved. Runs on the compute thread."""
        with self.running(Applied()) as model:
            before = probe(model, self.vocabulary, attached.particular)
            if attached.virtual is not None:
                attached = _with_prefix(attached, model)
        if attached.weights is not None:
            self._switch.attach(attached.weights)
        after = self._with(attached)
        attached = replace(attached, fixed=self._turn.fixed) if attached.info.exclusive else attached
        self.leave_turn()  # a beam search may be waiting for the base as it is
        if not torch.isfinite(after).all():
            self.forget(attached)
            raise AdapterInvalid(
                f"With adapter {attached.info.name!r} the model computes NaN or infinite numbers.",
                "The training diverged; choose an earlier checkpoint.",
            )
        self.forget(self.adapters.get(place(attached.info.path)))
        so_far = attached.info.proof
        assert so_far is not None
        proof, moved = prove(before, after, so_far.matched, so_far.missing)
        info = replace(attached.info, moves_logits=moved, proof=proof)
        return replace(attached, info=info, vocabulary=int(after.shape[-1]))

    def _with(self, attached: Attached) -> torch.Tensor:
        """The probe's logits with the adapter on. Raises `AdapterInvalid` where the model cannot compute with it."""
        try:
            with self.running(Applied(((attached, 1.0),))) as model:
                cache = attached.prefix.copy() if attached.prefix else None
                return probe(model, self.vocabulary, attached.particular, cache)
        except PlaygroundError:
            raise
        except Exception as error:  # PEFT puts on what its layers then fail with, in as many ways as there are kinds
            self.forget(attached)
            if ran_out(error):
                raise explain(error) from error
            why = next((line for line in str(error).splitlines() if line.strip()), "no details")[:200]
            raise AdapterInvalid(
                f"With adapter {attached.info.name!r} ({attached.info.kind}) this base cannot compute: "
                f"{type(error).__name__}: {why}.",
                "It was made for another kind of model, or with layers that PEFT cannot put there; choose another one.",
            ) from error

    def forget(self, gone: Attached | None) -> None:
        """Let go of what was made for an adapter that was dropped, or whose files have changed. On the compute thread."""
        if gone is not None:
            self.prefixes.forget(gone.info.sha256)
        for mixer in self._mixers():
            if gone is not None and gone.weights is not None:
                mixer.forget(gone.weights)

    @property
    def reusable(self) -> int:
        """Bytes that are kept for later answers: earlier texts, and copies of the weights (`WeightCopies`)."""
        return self.prefixes.bytes + (self.packed.copies.bytes if self.packed else 0)

    def spare_bytes(self, live: Collection[Attached]) -> int:
        """Bytes that make way for anything else: what is `reusable`, and what rows with ``live`` adapters do not need.

        Any thread may ask.
        """
        return self.reusable + self.slots.empty_bytes() + self.spare_joined(live)

    def spare_joined(self, live: Collection[Attached]) -> int:
        """What of `joined_bytes` passes with ``live`` adapters do not need."""
        weights = {attached.weights for attached in live if attached.weights is not None}
        return sum(mixer.spare_bytes(weights) for mixer in self._mixers())

    def shrink(self, count: int, live: Collection[Attached]) -> int:
        """Give up ``count`` of the `spare_bytes`; returns the bytes that came back. On the compute thread, between passes.

        What costs least to have again goes first.
        """
        weights = {attached.weights for attached in live if attached.weights is not None}
        came = self.slots.compact() + sum(mixer.shrink(weights) for mixer in self._mixers())
        if came < count and self.packed:
            came += self.packed.copies.drop()
        return came + (self.prefixes.shrink(count - came) if came < count else 0)

    def joined_bytes(self) -> int:
        """Memory of what was joined of the adapters' tensors, beside those."""
        return sum(mixer.bytes for mixer in self._mixers())

    def _mixers(self) -> list[Mixer]:
        return [self._switch.mixer, *([self.packed.mixer] if self.packed else [])]

    def info(self) -> ResidentInfo:
        """What is in memory, for people."""
        plan = self.loaded.plan
        dtype = str(self.dtype).removeprefix("torch.")
        return ResidentInfo(
            base=self.base,
            path=str(self.loaded.path),
            quantization=plan.quantization,
            dtype=dtype,
            device=plan.device,
            parameters=self.loaded.parameters,
            bytes=self.loaded.bytes,
            context_window=self.loaded.window,
            loaded_at=self.loaded_at,
            reason=plan.reason,
            adapters=tuple(attached.info for attached in list(self.adapters.values())),
            rows=self.pins,
            together=self.batches,
            alone_because=self.alone_because,
        )


def _with_prefix(attached: Attached, model: Any) -> Attached:
    """A soft prompt with its keys and values on ``model``, which stay in memory in place of its tensors."""
    assert attached.virtual is not None
    prefix = make_prefix(attached.info.name, attached.virtual, model)
    why = f"is a soft prompt ({attached.info.kind}), which is there or not there."
    return replace(attached, virtual=None, prefix=prefix, fixed=why, info=replace(attached.info, bytes=prefix.bytes))


def _refuse_changed(attached: Attached) -> None:
    """PEFT reads the files anew for each turn, and what it reads must be what the answer says that it was."""
    if attached.files != fingerprint(Path(attached.info.path)):
        raise AdapterInvalid(
            f"Adapter {attached.info.name!r} was changed on disk while this request waited.",
            "Ask again to use the new one.",
        )


def load_resident(spec: ModelSpec, report: Report) -> Resident:
    """Read ``spec``'s base into memory; its adapters come later. Raises what `load_base` raises."""
    loaded = load_base(spec, report)
    return Resident(spec.base, spec.without_adapters(), loaded, identity=base_identity(loaded.path))
