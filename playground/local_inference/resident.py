"""A base in memory with the adapters attached to it: what a row needs to run, and nothing about when it runs."""

from __future__ import annotations

import functools
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from peft import PeftConfig

from playground.errors import AdapterInvalid, InvalidRequest, PlaygroundError
from playground.local_inference.adapters import (
    WEIGHTS_FILE,
    content_hash,
    fingerprint,
    inspect_adapter,
    lora_pairs,
    place,
    read_safetensors_header,
)
from playground.local_inference.decode import Pace, batches
from playground.local_inference.kernels import calibrate
from playground.local_inference.loading import LoadedBase, Report, adapter_tokenizer, load_base
from playground.local_inference.lora import LoraWeights, is_plain, missing_layers, read_weights
from playground.local_inference.mixing import Active, Switch
from playground.local_inference.packed import PackedModel
from playground.local_inference.peft_turn import PeftTurn, probe
from playground.local_inference.scheduler import Turns
from playground.local_inference.slots import SlotCache
from playground.local_inference.templates import end_of_turn_ids
from playground.types import AdapterInfo, LoadedAdapter, ModelSpec, ResidentInfo, Status

# Below this no probability changes in any digit that is shown.
_NO_EFFECT = 1e-6


@dataclass(frozen=True, eq=False)
class Attached:
    """An adapter on a resident. ``weights`` is None for one that PEFT serves in turns."""

    info: LoadedAdapter
    files: tuple[tuple[str, int, int], ...]
    tokenizer: Any
    weights: LoraWeights | None


@dataclass(frozen=True)
class Applied:
    """The adapters of one row, each with its scale."""

    adapters: tuple[tuple[Attached, float], ...] = ()

    @property
    def exclusive(self) -> bool:
        """True when PEFT serves them, alone on the base."""
        return any(attached.weights is None and scale != 0.0 for attached, scale in self.adapters)

    @functools.cached_property
    def active(self) -> Active:
        """What `mixing` needs to know of them; nothing of those that PEFT serves."""
        return tuple((a.weights, scale) for a, scale in self.adapters if a.weights is not None)


@dataclass(eq=False)
class Resident:
    """One base in memory. ``base`` is the name it was asked for by; attaching and stepping happen on the compute thread."""

    base: str
    asked: ModelSpec
    loaded: LoadedBase
    loaded_at: float = field(default_factory=time.time)
    adapters: dict[str, Attached] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.model = self.loaded.model
        # Read once: a beam search puts a configuration of its own in the model's place while it runs.
        declared = getattr(getattr(self.model, "generation_config", None), "eos_token_id", None)
        self._declared_ends = tuple(declared) if isinstance(declared, (list, tuple)) else (declared,)
        self.vocabulary = int(self.model.get_input_embeddings().weight.shape[0])
        self._switch = Switch(self.model)
        self._turn = PeftTurn(self.model, self.vocabulary)
        self.slots = SlotCache()
        self.pace = Pace()
        self.turns = Turns()
        self.plain_kernel_rows = 0
        self.batches = False
        self.packed: PackedModel | None = None
        self._pins = 0
        self._lock = threading.Lock()

    def try_out(self) -> Resident:
        """Find out what this model allows: rows decoded together, plain kernels for few rows. On the compute thread."""
        self.packed = PackedModel.of(self.model, self.vocabulary)
        self.plain_kernel_rows = calibrate(self.model, self._one_token_each)
        self.batches = self.packed is not None or batches(self.model, self.vocabulary)
        return self

    def _one_token_each(self, rows: int) -> None:
        """A pass as decoding runs it, for timing."""
        if self.packed is not None:
            self.packed.step([], [], [(self.packed.reading(1), [0]) for _ in range(rows)], [()] * rows)
        else:
            self.model(input_ids=torch.zeros((rows, 1), dtype=torch.long), use_cache=False)

    @property
    def device(self) -> torch.device:
        """Where token ids must be."""
        return next(self.model.parameters()).device

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
        """What the keys and values of a row of that many positions take; 0 where the architecture does not tell."""
        text = self.model.config.get_text_config()
        heads = getattr(text, "num_key_value_heads", None) or getattr(text, "num_attention_heads", None)
        size = getattr(text, "head_dim", None)
        if size is None and isinstance(heads, int) and isinstance(getattr(text, "hidden_size", None), int):
            size = text.hidden_size // text.num_attention_heads
        layers = getattr(text, "num_hidden_layers", None)
        if not (isinstance(layers, int) and isinstance(heads, int) and isinstance(size, int)):
            return 0
        width = torch.empty(0, dtype=self.model.dtype).element_size()
        return int(2 * layers * heads * size * width * positions)

    def tokenizer(self, applied: Applied) -> Any:
        """The tokenizer for these adapters: the first adapter's own wins over the base's."""
        return applied.adapters[0][0].tokenizer if applied.adapters else self.loaded.tokenizer

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
            if not self._turn.holds(Path(attached.info.path), attached.info.sha256):
                _refuse_changed(attached)
            with self._switch.use([]):  # also when a beam search with a LoRA waits for this step to end
                yield self._turn.enter(Path(attached.info.path), attached.info.sha256, scale)
            return
        self._leave_turn()
        with self._switch.use([applied.active]):
            yield self.model

    def packed_step(self, *args: Any, **options: Any) -> torch.Tensor:
        """`PackedModel.step`, with nothing on the base but what the step itself adds. Raises when the base is damaged."""
        assert self.packed is not None
        self._leave_turn()
        with self._switch.use([]):  # linears that could not be joined are called as modules, hooks and all
            return self.packed.step(*args, **options)

    def _leave_turn(self) -> None:
        """Take off what PEFT may have put on the base. Raises `EngineFailure` when the base is damaged."""
        with self._switch.use([]):
            self._turn.leave()

    @contextmanager
    def running_together(self, rows: Sequence[Applied]) -> Iterator[Any]:
        """The model for one step of several rows, row i with the adapters ``rows[i]``; none of them exclusive."""
        self._leave_turn()
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
        if applied.exclusive and len(found) > 1:
            raise InvalidRequest(
                "These adapters cannot be mixed: one of them can only run alone.", "Choose a single adapter."
            )
        return applied

    def prove(self, attached: Attached) -> Attached:
        """Attach for good, with proof: the probe says whether the logits moved. Runs on the compute thread."""
        with self.running(Applied()) as model:
            before = probe(model, self.vocabulary)
        if attached.weights is not None:
            self._switch.attach(attached.weights)
        with self.running(Applied(((attached, 1.0),))) as model:
            after = probe(model, self.vocabulary)
        self._leave_turn()  # a beam search may be waiting for the base as it is
        if not torch.isfinite(after).all():
            raise AdapterInvalid(
                f"With adapter {attached.info.name!r} the model computes NaN or infinite numbers.",
                "The training diverged; choose an earlier checkpoint.",
            )
        moved = after.shape != before.shape or float((after - before).abs().max()) > _NO_EFFECT
        self._forget(self.adapters.get(place(attached.info.path)))
        return replace(attached, info=replace(attached.info, moves_logits=moved))

    def _forget(self, replaced: Attached | None) -> None:
        """Let go of what was made for an adapter whose files have changed since."""
        for mixer in (self._switch.mixer, self.packed.mixer if self.packed else None):
            if mixer is not None and replaced is not None and replaced.weights is not None:
                mixer.forget(replaced.weights)

    def info(self) -> ResidentInfo:
        """What is in memory, for people."""
        plan = self.loaded.plan
        dtype = str(self.model.dtype).removeprefix("torch.")
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
        )


def _refuse_changed(attached: Attached) -> None:
    """PEFT reads the files anew for each turn, and what it reads must be what the answer says that it was."""
    if attached.files != fingerprint(Path(attached.info.path)):
        raise AdapterInvalid(
            f"Adapter {attached.info.name!r} was changed on disk while this request waited.",
            "Ask again to use the new one.",
        )


def load_resident(spec: ModelSpec, report: Report) -> Resident:
    """Read ``spec``'s base into memory; its adapters come later. Raises what `load_base` raises."""
    return Resident(spec.base, spec.without_adapters(), load_base(spec, report))


def read_adapter(resident: Resident, path: str, report: Report) -> Attached:
    """Validate and read the adapter in folder ``path`` for ``resident``; nothing on the base changes yet.

    Raises `AdapterInvalid` with every problem found.
    """
    folder = Path(path)
    report(Status("loading", f"attaching adapter {folder.name}"))
    info = inspect_adapter(folder)
    if info.problems:
        raise AdapterInvalid(f"Adapter {folder.name!r} cannot be used. {' '.join(info.problems)}")
    files = fingerprint(folder)
    try:
        config = PeftConfig.from_pretrained(str(folder))
    except (ValueError, TypeError, KeyError, OSError) as error:
        raise AdapterInvalid(
            f"Adapter {folder.name!r} is of a kind that PEFT does not know ({info.peft_type}): {error}.",
            "Use a newer peft, or another adapter.",
        ) from error
    if getattr(config, "use_dora", False) and resident.loaded.plan.quantization != "none":
        raise AdapterInvalid(
            f"Adapter {folder.name!r} is a DoRA, which is measured against the base's own weights, and this base is "
            f"quantized ({resident.loaded.plan.quantization}): they are no longer there in full.",
            "Load the base without quantization.",
        )
    try:
        names = read_safetensors_header(folder / WEIGHTS_FILE)
        plain = info.peft_type == "LORA" and is_plain(config, resident.model, names)
        # What our own pass does not go through it would leave out in silence; PEFT does not.
        plain = plain and (resident.packed is None or lora_pairs(names).keys() <= resident.packed.linears)
        weights = read_weights(folder, config, resident.model) if plain else None
        warned = _warnings(resident, info, config, weights)
        tokenizer = adapter_tokenizer(folder, resident.loaded.tokenizer, resident.vocabulary)
        sha256 = content_hash(folder)
    except PlaygroundError:
        raise
    except Exception as error:  # a malformed configuration breaks PEFT's own matching in many ways
        raise AdapterInvalid(
            f"Adapter {folder.name!r} cannot be read: {type(error).__name__}: {error}.",
            "Check adapter_config.json, or save the adapter again with PEFT.",
        ) from error
    loaded = LoadedAdapter(
        name=folder.name,
        path=path,
        sha256=sha256,
        bytes=info.bytes,
        exclusive=weights is None,
        moves_logits=False,
        warnings=warned,
    )
    return Attached(loaded, files, tokenizer, weights)


def _warnings(resident: Resident, info: AdapterInfo, config: Any, weights: LoraWeights | None) -> tuple[str, ...]:
    found = []
    names = {resident.base, str(resident.loaded.path), resident.loaded.path.name}
    if info.base and info.base not in names and Path(info.base).name not in {Path(name).name for name in names}:
        found.append(f"It was trained on {info.base!r}; make sure that this is the same model.")
    missing = missing_layers(config, resident.model, weights) if weights is not None else []
    if missing:
        found.append(f"It has no weights for {len(missing)} layers that its configuration names ({missing[0]} …).")
    return tuple(found)
