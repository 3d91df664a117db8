"""A request on its way to the compute thread: its prompt and provenance, room for it, and its state when it begins."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Mapping
from importlib.metadata import version

from playground import __version__
from playground.local_inference.cache import Prepared
from playground.local_inference.decode import DecodeState
from playground.local_inference.reuse import opening
from playground.local_inference.row import Row
from playground.local_inference.sampling import Sampler
from playground.local_inference.slots import SlotCache
from playground.local_inference.templates import extra_stops, template_text
from playground.local_inference.textstream import TextStream
from playground.types import GenerationEvent, Provenance, Status, row_seed

_BITSANDBYTES = ("int8", "nf4", "fp4")
# The prompt's last tokens are shown to the detokenizer where the answer continues the prompt's text.
_CONTEXT_TOKENS = 6


def prepare_row(row: Row, prepared: Prepared) -> None:
    """Give ``row`` its resident, rendered prompt and provenance, and tell its listener what there is to know.

    Raises `ContextOverflow` or `InvalidRequest`; the row is not yet in line then.
    """
    row.resident, row.applied = prepared.resident, prepared.applied
    row.prompt = row.resident.render(row.request, row.applied)
    row.opening = opening(row)
    row.provenance = _provenance(row)
    notice = " ".join(part for part in (row.prompt.notice if row.index == 0 else "", row.applied.notice) if part)
    # What answers is told before the first token: whoever stops the answer has it all the same.
    row.tell(
        GenerationEvent(
            Status("queued"),
            stats=row.stats(),
            notice=notice,
            index=row.index,
            provenance=row.provenance,
            prompt_hash=row.prompt.hash,
            opened=row.prompt.opened,
        )
    )


def begin(row: Row) -> DecodeState:
    """The state of a row of which nothing is read yet."""
    assert row.prompt is not None
    tokenizer = row.resident.tokenizer(row.applied)
    settings = row.request.settings
    continues = row.request.template == "raw" or bool(row.request.prefill)
    context = row.prompt.token_ids[-_CONTEXT_TOKENS:] if continues else ()
    text = TextStream(
        lambda ids: tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False),
        (*settings.stop, *extra_stops(row.request, tokenizer)),
        context,
    )
    return DecodeState(
        pending=list(row.prompt.token_ids),
        sampler=Sampler(settings, row.prompt.token_ids, row_seed(row.seed, row.index)),
        text=text,
        stop_ids=stop_ids(row),
        limit=row.prompt.max_new_tokens,
        top_logprobs=settings.top_logprobs,
        cache=row.resident.first_cache(row.applied),
        regime=row.resident.regimes.of(len(row.prompt.token_ids)),
    )


def begin_packed(row: Row) -> None:
    """Give ``row`` its state, with room for its prompt's keys and values in our own forward pass."""
    state = begin(row)
    state.reading = row.resident.reading(row.applied, len(state.pending))
    state.own_slots = SlotCache() if row.alone else None
    row.state = state


def stop_ids(row: Row) -> frozenset[int]:
    """The ids that end the row, stop sequences that are one special token included (their text is never decoded)."""
    tokenizer = row.resident.tokenizer(row.applied)
    added = tokenizer.get_added_vocab()
    special = {added[stop] for stop in row.request.settings.stop if stop in added}
    return frozenset(row.resident.stop_ids(tokenizer, row.request.template) | special)


def _provenance(row: Row) -> Provenance:
    info = row.resident.info()
    folder = row.resident.loaded.path
    from_hub = folder.parent.name == "snapshots"
    template = template_text(row.request, row.resident.tokenizer(row.applied))
    return Provenance(
        base=info.base if from_hub else folder.name,
        revision=folder.name if from_hub else "",
        adapters=tuple((a.info.name, a.info.sha256, scale) for a, scale in row.applied.adapters),
        quantization=info.quantization,
        dtype=info.dtype,
        device=info.device,
        template=row.request.template,
        settings=row.request.settings,
        seed=row.seed,
        versions=_versions(info.quantization in _BITSANDBYTES),
        base_hash=row.resident.identity,
        template_hash=hashlib.sha256(template.encode()).hexdigest() if template else "",
        # Not so with int8 and 4-bit weights in float32: their kernels round differently for few and for many tokens.
        exact=row.alone or (info.dtype == "float32" and info.quantization == "none"),
    )


@functools.cache
def _versions(bitsandbytes: bool) -> Mapping[str, str]:
    names = ("torch", "transformers", "peft", *(("bitsandbytes",) if bitsandbytes else ()))
    return {"adapter-playground": __version__, **{name: version(name) for name in names}}
