"""Which rows share a forward pass, by which path each is computed, and where what it has read lies."""

from __future__ import annotations

from collections.abc import Iterable

from playground.local_inference.decode import DecodeState
from playground.local_inference.resident import Resident
from playground.local_inference.row import Row
from playground.local_inference.row_cache import cache_from
from playground.local_inference.slots import Contents, SlotCache


def longest(rows: list[Row]) -> Row:
    """Of ``rows`` that decode the one with the most positions."""
    return max(rows, key=lambda row: int(row.state.slot.length))


def decodes_together(row: Row) -> bool:
    """Whether the row has a slot, and decodes with the others in theirs."""
    return row.state is not None and row.state.slot is not None


def companies(rows: Iterable[Row]) -> list[tuple[Resident, list[Row]]]:
    """The rows that share a pass: those of one base, but each that is to be computed alone by itself."""
    found: dict[tuple[Resident, Row | None], list[Row]] = {}
    for row in rows:
        found.setdefault((row.resident, row if row.alone else None), []).append(row)
    return [(resident, some) for (resident, _), some in found.items()]


def may_join(row: Row) -> bool:
    """Whether the row's steps are computed together with others, once its prompt is read by transformers' own pass."""
    return row.resident.batches and not row.applied.exclusive and not row.alone


def keep_to_regime(row: Row) -> None:
    """Where the row's next token takes it into another rotary regime: leave its old company, and read anew if need be."""
    state: DecodeState = row.state
    regimes = row.resident.regimes
    if not regimes.limit:
        return
    read = state.slot.length if state.slot is not None else state.read
    regime = regimes.of(read + len(state.pending))
    if not read or regime == state.regime:
        return
    state.regime = regime
    kept: Contents | None = None
    if state.slot is not None and state.slot.slab is not None:
        held = state.slot.slab.contents(state.slot)
        kept = Contents([plane[:read].clone() for plane in held.planes], read, [s.clone() for s in held.states])
        slots_of(row).leave(state.slot)
        state.slot, state.read = None, kept.positions
    if regimes.rereads:
        state.read_anew(row.resident.first_cache(row.applied))
    elif kept is not None and regimes.together(regime):
        state.slot = slots_of(row).join(kept, regime)
    elif kept is not None:
        state.cache = cache_from(row.resident.model, kept)


def slots_of(row: Row) -> SlotCache:
    """Where the row's keys and values lie once it decodes."""
    own: SlotCache | None = row.state.own_slots
    shared: SlotCache = row.resident.slots
    return shared if own is None else own


def measured_faster(row: Row, tokens: int) -> bool:
    """Whether a pass of so many tokens is run without oneDNN; what was measured must not decide for a row alone."""
    return not row.alone and tokens <= row.resident.plain_kernel_rows


def searches(row: Row) -> bool:
    """Whether the row is a beam search."""
    return row.request.settings.strategy == "beam_search"


def packs(row: Row) -> bool:
    """Whether the row runs in our own forward pass."""
    return row.resident.packed is not None and not row.applied.exclusive and not searches(row)
