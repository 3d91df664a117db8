"""Adapters beside the base's linears, for many rows in one pass: every row with its own, the base being none.

y += ((x Aᵀ) ∘ mask) Bᵀ, where A [Σ ranks, in] and B [out, Σ ranks] are a company of adapters one after another, and the mask
holds for each row its strength × alpha / denominator over its own adapters' columns and 0 elsewhere. The base's weights are
never touched, so the base stays the base. Which adapters a row has is said by the step, never stored in an adapter.

LoRA: Hu et al. 2021, arXiv:2106.09685. DoRA (Liu et al. 2024, arXiv:2402.09353) scales each output of base plus LoRA by
g = magnitude / ‖W + s·BA‖: its B is multiplied by g here, and (g − 1) of the base's own output, without bias, is added. In
a mix every adapter adds what it would add to the base alone, so the order does not matter (in PEFT a DoRA also scales what
came before it). Strength 0 is the base.
"""

from __future__ import annotations

import weakref
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from playground.errors import EngineFailure
from playground.local_inference.lora import LoraLayer, LoraWeights
from playground.local_inference.weight_copies import WeightCopies

# How many companies of each sort keep their joined matrices: each costs about as much memory as its adapters.
_REMEMBERED = 4
# A remembered company serves a smaller one, as rows come and go, while its ranks add up to at most this many times as much.
_WASTE = 2

_SCATTERED = (
    "A layer that an adapter is for was given only some of the answers that are computed at once.",
    "Ask for `reproducible` answers, which are computed one by one, or leave this adapter out.",
)

# One row's adapters, each with its strength; hashable.
Active = tuple[tuple[LoraWeights, float], ...]
# One adapter of a company. DoRA's B depends on its strength, so there the strength is part of the member.
_Member = tuple[LoraWeights, float | None]


@dataclass(frozen=True, eq=False)
class Group:
    """Linears that read the same input, by module name, with their outputs' ``widths``; ``fused``: as one output."""

    names: tuple[str, ...]
    widths: tuple[int, ...]
    fused: bool = False


@dataclass(frozen=True)
class _Joined:
    """A company's matrices for a group: A [columns, in], for each output its columns and B over them, and DoRA's gains.

    ``layout`` says of each run of columns (member, alpha / denominator, rank). ``gains`` are g − 1 [members, out].
    """

    a: torch.Tensor
    bs: tuple[tuple[slice, torch.Tensor] | None, ...]
    layout: tuple[tuple[int, float, int], ...]
    gains: tuple[torch.Tensor, ...] | None


class _Company:
    """Adapters side by side; a group's matrices are joined when it is first reached."""

    def __init__(self, members: tuple[_Member, ...]) -> None:
        self.members = members
        self.rank = sum(weights.rank for weights, _ in members)
        self.bytes = 0  # of what was joined, beside the adapters' own tensors
        self._joined: dict[Group, _Joined | None] = {}

    def joined(self, group: Group) -> _Joined | None:
        """The matrices for ``group``, or None where no member touches it."""
        if group not in self._joined:
            self._joined[group] = self._join(group)
        return self._joined[group]

    def _join(self, group: Group) -> _Joined | None:
        touching: list[list[tuple[int, LoraLayer]]] = [
            [(at, weights.layers[name]) for at, (weights, _) in enumerate(self.members) if name in weights.layers]
            for name in group.names
        ]
        flat = [one for of_linear in touching for one in of_linear]
        if not flat:
            return None
        a = torch.cat([layer.a for _, layer in flat]) if len(flat) > 1 else flat[0][1].a
        parts: list[tuple[slice, torch.Tensor] | None] = []
        start = 0
        for of_linear in touching:
            bs = [self._b(at, layer) for at, layer in of_linear]
            width = sum(b.shape[1] for b in bs)
            parts.append((slice(start, start + width), torch.cat(bs, dim=1) if len(bs) > 1 else bs[0]) if bs else None)
            start += width
        layout = tuple((at, layer.scale, layer.a.shape[0]) for at, layer in flat)
        if group.fused and len(parts) > 1:
            parts = [_side_by_side(group, parts, a.shape[0])]
        joined = _Joined(a, tuple(parts), layout, self._gains(group, a.device))
        self.bytes += _made(joined, {t.data_ptr() for _, layer in flat for t in (layer.a, layer.b)})
        return joined

    def _b(self, member: int, layer: LoraLayer) -> torch.Tensor:
        strength = self.members[member][1]
        return layer.b if strength is None else layer.b * layer.gain(strength).to(layer.b.dtype)[:, None]

    def _gains(self, group: Group, device: torch.device) -> tuple[torch.Tensor, ...] | None:
        if all(strength is None for _, strength in self.members):
            return None
        found = [
            torch.stack(
                [self._gain(weights.layers.get(name), strength, width, device) for weights, strength in self.members]
            )
            for name, width in zip(group.names, group.widths, strict=True)
        ]
        return (torch.cat(found, dim=1),) if group.fused else tuple(found)

    @staticmethod
    def _gain(layer: LoraLayer | None, strength: float | None, width: int, device: torch.device) -> torch.Tensor:
        """g − 1 [out] of one member; 0 where it is no DoRA or does not touch the linear."""
        if layer is None or strength is None:
            return torch.zeros(width, device=device)
        return layer.gain(strength) - 1


def _made(joined: _Joined, own: set[int]) -> int:
    """Bytes of the tensors of ``joined`` that are not at the addresses of the adapters' ``own``."""
    every = (joined.a, *(b for part in joined.bs if part for b in part[1:]), *(joined.gains or ()))
    return sum(one.numel() * one.element_size() for one in every if one.data_ptr() not in own)


def _side_by_side(group: Group, parts: Sequence[Any], columns: int) -> tuple[slice, torch.Tensor]:
    """One B for outputs that lie side by side: each linear's in its own rows and columns, 0 elsewhere."""
    some = next(b for part in parts if part for b in part[1:])
    whole = some.new_zeros((sum(group.widths), columns))
    top = 0
    for width, part in zip(group.widths, parts, strict=True):
        if part:
            whole[top : top + width, part[0]] = part[1]
        top += width
    return slice(0, columns), whole


class Mix:
    """What one forward pass adds: a company, and which token has which of ``kinds`` of adapters.

    ``kind_of`` [tokens] is None when there is one kind only.
    """

    def __init__(self, company: _Company, kinds: Sequence[Active], kind_of: torch.Tensor | None) -> None:
        self.company = company
        self._kind_of = kind_of
        self._strengths = [_strengths(company, kind) for kind in kinds]
        self._masks: dict[tuple[torch.device, tuple[tuple[int, float, int], ...]], torch.Tensor] = {}
        self._gains: dict[tuple[Group, int], torch.Tensor] = {}

    def touches(self, group: Group) -> bool:
        """Whether anything is added to ``group``."""
        return self.company.joined(group) is not None

    def add(
        self,
        group: Group,
        x: torch.Tensor,
        outputs: Sequence[torch.Tensor],
        biases: Sequence[torch.Tensor | None],
        copies: WeightCopies | None = None,
    ) -> Sequence[torch.Tensor]:
        """``outputs`` [tokens, out] of ``group`` (one, when fused) for ``x`` [tokens, in], each token's adapters added.

        With ``copies`` the company's matrices may be used in another order.
        """
        joined = self.company.joined(group)
        if joined is None:
            return outputs
        x, mask = x.to(joined.a.dtype), self._mask(joined)
        reduced = copies.reduced(x, joined.a, mask) if copies else F.linear(x, joined.a) * mask
        added = []
        for at, (output, part) in enumerate(zip(outputs, joined.bs, strict=True)):
            base = output
            if joined.gains is not None:
                gain = self._spread(self._gain(group, at, joined.gains[at])).to(output.dtype)
                base = output + gain * (output if biases[at] is None else output - biases[at])
            if part is not None:
                columns, b = part
                base, own = base.to(b.dtype), reduced[:, columns]
                base = copies.added(base, own, b) if copies else torch.addmm(base, own, b.t())
            added.append(base.to(output.dtype))
        return added

    def _mask(self, joined: _Joined) -> torch.Tensor:
        """[tokens, columns], or [1, columns] for all alike; equal layouts share it, as most layers of a model are alike."""
        mask = self._masks.get((joined.a.device, joined.layout))
        if mask is None:
            table = [
                [strengths.get(at, 0.0) * scale for at, scale, rank in joined.layout for _ in range(rank)]
                for strengths in self._strengths
            ]
            mask = self._spread(torch.tensor(table, device=joined.a.device, dtype=joined.a.dtype))
            self._masks[joined.a.device, joined.layout] = mask
        return mask

    def _gain(self, group: Group, at: int, gains: torch.Tensor) -> torch.Tensor:
        """[kinds, out]: how much of the base's own output, without its bias, is added for each kind of row (DoRA)."""
        if (group, at) not in self._gains:
            present = torch.tensor([[float(one in s) for one in range(gains.shape[0])] for s in self._strengths])
            self._gains[group, at] = present.to(gains) @ gains
        return self._gains[group, at]

    def _spread(self, table: torch.Tensor) -> torch.Tensor:
        return table if self._kind_of is None else table[self._kind_of.to(table.device)]


def _strengths(company: _Company, kind: Active) -> dict[int, float]:
    """Member → strength, of one kind of row."""
    return {company.members.index(_member(weights, strength)): strength for weights, strength in kind}


def _summed(row: Active) -> Active:
    """``row`` with each adapter once: named twice its strengths add up, and at 0 it is left out."""
    found: dict[LoraWeights, float] = {}
    for weights, strength in row:
        found[weights] = found.get(weights, 0.0) + strength
    return tuple((weights, strength) for weights, strength in found.items() if strength != 0.0)


def _member(weights: LoraWeights, strength: float) -> _Member:
    return weights, strength if weights.has_gains else None


class Mixer:
    """Makes the mixes of one base, and remembers what the next step will need again."""

    def __init__(self) -> None:
        self._companies: list[_Company] = []
        self._exact: list[_Company] = []
        self._last: tuple[Any, Mix | None] = (None, None)
        self._gone: weakref.WeakSet[LoraWeights] = weakref.WeakSet()

    @property
    def bytes(self) -> int:
        """Memory of the matrices that it remembers, beside the adapters' own."""
        return sum(company.bytes for company in (*self._companies, *self._exact))

    def spare_bytes(self, live: Collection[LoraWeights]) -> int:
        """Memory of those that no next pass takes, where it has the ``live`` adapters; any thread may ask."""
        return sum(company.bytes for company in self._spare(live))

    def shrink(self, live: Collection[LoraWeights]) -> int:
        """Let go of those; returns the bytes that came back."""
        spare = self._spare(live)
        self._companies = [company for company in self._companies if company not in spare]
        self._exact = [company for company in self._exact if company not in spare]
        if self._last[1] is not None and self._last[1].company in spare:
            self._last = (None, None)
        return sum(company.bytes for company in spare)

    def _spare(self, live: Collection[LoraWeights]) -> list[_Company]:
        """All but the one that the last pass took, and that one too where an adapter of it is not ``live``."""
        last = self._last[1]
        needed = last.company if last and all(weights in live for weights, _ in last.company.members) else None
        return [company for company in (*self._companies, *self._exact) if company is not needed]

    def mix(self, rows: Sequence[Active], tokens: Sequence[int]) -> Mix | None:
        """What a pass adds in which row i has ``tokens[i]`` tokens one after another; None when all are the base."""
        key = (rows, tokens)
        if self._last[0] != key:
            self._last = (key, self._make(rows, tokens))
        return self._last[1]

    def _make(self, rows: Sequence[Active], tokens: Sequence[int]) -> Mix | None:
        kept = [_summed(row) for row in rows]
        members = tuple(dict.fromkeys(_member(*one) for row in kept for one in row))
        if not members:
            return None
        kinds = list(dict.fromkeys(kept))
        if len(kinds) == 1:
            return Mix(self._exactly(members), kinds, None)
        company = self._company(members)
        index = torch.tensor([kinds.index(row) for row in kept])
        return Mix(company, kinds, index.repeat_interleave(torch.tensor(tokens)))

    def _company(self, members: tuple[_Member, ...]) -> _Company:
        """A remembered company that has these members, or a new one."""
        rank = sum(weights.rank for weights, _ in members)
        for at, known in enumerate(self._companies):
            if known.rank <= _WASTE * rank and set(members) <= set(known.members):
                self._companies.append(self._companies.pop(at))
                return known
        company = _Company(members)
        if self._may_stay(members):
            self._companies = [*self._companies[1 - _REMEMBERED :], company]
        return company

    def _may_stay(self, members: tuple[_Member, ...]) -> bool:
        """False where one was forgotten, and serves only rows that began before."""
        return all(weights not in self._gone for weights, _ in members)

    def _exactly(self, members: tuple[_Member, ...]) -> _Company:
        """The company of these members in this order and no others: what a row adds when alone has no history.

        Columns that are masked out would add nothing, but matrices of another shape round otherwise.
        """
        known = next((company for company in self._exact if company.members == members), None)
        if known is None:
            known = _Company(members)
        if self._may_stay(members):
            self._exact = [*[c for c in self._exact if c is not known][1 - _REMEMBERED :], known]
        return known

    def forget(self, weights: LoraWeights) -> None:
        """Let go of everything made for an adapter that is no longer wanted."""
        self._gone.add(weights)
        self._companies, self._exact = (
            [c for c in remembered if all(member is not weights for member, _ in c.members)]
            for remembered in (self._companies, self._exact)
        )
        self._last = (None, None)


class Switch:
    """Hooks on one base's linears, for models whose forward pass is transformers' own. Used by the compute thread only."""

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._hooked: set[str] = set()
        self._rows: tuple[Active, ...] = ()
        self.mixer = Mixer()

    def attach(self, weights: LoraWeights) -> None:
        """Make the linears that ``weights`` speaks of listen to this switch."""
        for name, layer in weights.layers.items():
            if name not in self._hooked:
                group = Group((name,), (layer.b.shape[0],))
                self._model.get_submodule(name).register_forward_hook(self._hook(group))
                self._hooked.add(name)

    @contextmanager
    def use(self, rows: Sequence[Active]) -> Iterator[None]:
        """Within the block, row i of each forward pass gets the adapters ``rows[i]``; one entry counts for all rows.

        Outside the block the base answers. Blocks may be nested.
        """
        before = self._rows  # a beam search lets other rows step between its own steps
        self._rows = tuple(rows) if any(rows) else ()
        try:
            yield
        finally:
            self._rows = before

    def _hook(self, group: Group) -> Any:
        def add(module: nn.Module, args: tuple[torch.Tensor, ...], output: torch.Tensor) -> torch.Tensor | None:
            if not self._rows:
                return None
            # On several GPUs accelerate moves the input within the call, so what is seen here may lie on another one.
            given = args[0].to(output.device)
            flat, x = output.reshape(-1, output.shape[-1]), given.reshape(-1, given.shape[-1])
            # Several rows have a token each; where not all are there, none can be told from the others (scattered.py).
            if len(self._rows) > 1 and len(self._rows) not in (given.shape[0], len(x)):
                raise EngineFailure(*_SCATTERED)
            mix = self.mixer.mix(self._rows, (flat.shape[0] // len(self._rows),) * len(self._rows))
            if mix is None:
                return None
            (result,) = mix.add(group, x, (flat,), (getattr(module, "bias", None),))
            return result.reshape(output.shape)

        return add
