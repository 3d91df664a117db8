"""Our own forward pass for Llama- and Qwen-shaped decoders: the tokens of many rows packed into one [tokens, hidden].

One pass may hold one token of each row that decodes and pieces of prompts that are being read, each row with its own
adapters (mixing.py); only attention looks at rows one by one, or slab by slab. It does what transformers' modules do, on
their very weights, without their overhead: on a small model most of a step is that overhead. `PackedModel.of` tries it out
against the model itself and says None where it is not the same, and then transformers' forward pass is used (decode.py).

Packing prompts and decoding rows: Yu et al. 2022 (Orca), Agrawal et al. 2023 (SARATHI, arXiv:2308.16369).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from playground.local_inference.mixing import Active, Group, Mix, Mixer
from playground.local_inference.slots import Contents, Slab, SlotCache, bucket
from playground.local_inference.weight_copies import Linear, WeightCopies

# Decoders whose forward pass is the one written here; what differs in them (biases, norms of q and k) is read off them.
_SHAPES = {"LlamaForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM", "MistralForCausalLM"}
# Rotary embeddings whose factors depend on the longest position seen.
_MOVING_ROPE = {"dynamic", "longrope"}
# Up to this many bytes in a layer its linears are joined into one matrix: fewer calls, which is what small models wait for.
_WORTH_JOINING = 8_000_000
_FIRST_POSITIONS = 512
# A prompt is read in what becomes its slot, instead of being copied into one, where a slot takes no more than so many bytes.
SMALL_SLOT = 8_000_000
# How far its logits may be from the model's own, as a share of their length: in float32, and where both sides round.
_ROUNDING = {True: 1e-4, False: 0.1}


@dataclass
class Reading:
    """A prompt on its way into the model: keys and values of its first ``read`` positions, one plane for each layer."""

    planes: list[torch.Tensor]
    read: int = 0


@dataclass(frozen=True)
class _Linears:
    """Linears that read the same input, called as one where their weights could be joined."""

    group: Group
    modules: tuple[nn.Module, ...]
    weights: tuple[torch.Tensor, ...] = ()
    biases: tuple[torch.Tensor | None, ...] = ()

    def __call__(self, x: torch.Tensor, run: _Pass) -> Sequence[torch.Tensor]:
        """The outputs [tokens, out] for ``x`` [tokens, in], adapters added; one, side by side, where they are joined."""
        outputs: Sequence[torch.Tensor] = (
            [run.linear(x, *one) for one in zip(self.weights, self.biases, strict=True)]
            if self.weights
            else [module(x) for module in self.modules]
        )
        if run.mix is None:
            return outputs
        biases = self.biases or [getattr(module, "bias", None) for module in self.modules]
        return run.mix.add(self.group, x, outputs, biases, run.copies)


@dataclass(frozen=True)
class _Layer:
    """One decoder layer. ``qk_norm`` [heads + kv_heads, size] are Qwen3's norms of queries and keys."""

    before: torch.Tensor
    qkv: _Linears
    qk_norm: torch.Tensor | None
    out: _Linears
    after: torch.Tensor
    gate_up: _Linears
    act: Any
    down: _Linears

    def linears(self) -> tuple[_Linears, ...]:
        """Those in it."""
        return self.qkv, self.out, self.gate_up, self.down


@dataclass(frozen=True)
class _Decoding:
    """The rows of one slab in a pass: they are the tokens ``rows``, and write at ``at`` in each flattened plane."""

    slab: Slab
    rows: slice
    at: torch.Tensor
    width: int
    mask: torch.Tensor | None


@dataclass(frozen=True)
class _Piece:
    """A piece of a prompt in a pass: the tokens ``rows``, at positions ``start`` to ``end`` of its own planes."""

    planes: list[torch.Tensor]
    rows: slice
    start: int
    end: int
    mask: torch.Tensor | None


@dataclass(frozen=True)
class _Pass:
    """What every layer of one pass needs."""

    cos: torch.Tensor
    sin: torch.Tensor
    decoding: list[_Decoding]
    pieces: list[_Piece]
    mix: Mix | None
    linear: Linear
    copies: WeightCopies | None


class PackedModel:
    """A decoder's modules as a list of layers, and the pass through them. Used by the compute thread only."""

    def __init__(self, model: Any) -> None:
        core, config = model.model, model.config
        first = core.layers[0].self_attn
        self._size = int(first.head_dim)
        self._heads, self._kv_heads = config.num_attention_heads, config.num_key_value_heads
        self._scaling = float(first.scaling)
        self._eps = float(core.norm.variance_epsilon)
        self._embed, self._norm, self._rope = core.embed_tokens, core.norm.weight, core.rotary_emb
        self._layers = [self._layer(f"model.layers.{at}", layer) for at, layer in enumerate(core.layers)]
        self._head = _linears(("lm_head",), (model.lm_head,))
        groups = [one for layer in self._layers for one in layer.linears()]
        self.linears = frozenset(name for one in (*groups, self._head) for name in one.group.names)
        self.mixer = Mixer()
        every = (weight for layer in self._layers for one in layer.linears() for weight in one.weights)
        self.copies = WeightCopies([*every, *self._head.weights])
        self._cos = self._sin = torch.empty(0)
        self._signs = torch.ones(self._size, device=self._norm.device, dtype=self._norm.dtype)
        self._signs[: self._size // 2] = -1

    @classmethod
    def of(cls, model: Any, vocabulary: int) -> PackedModel | None:
        """``model`` packed, or None where it is of another shape or its own forward pass says otherwise."""
        if type(model).__name__ not in _SHAPES or len(set(getattr(model, "hf_device_map", {"": 0}).values())) > 1:
            return None
        if not _plain_attention(model.config) or getattr(model, "is_loaded_in_8bit", False):
            return None
        try:
            packed = cls(model)
            same = packed._answers_as(model, vocabulary)
        except (RuntimeError, TypeError, ValueError, AttributeError, IndexError, KeyError):
            return None
        return packed if same else None

    def reading(self, positions: int) -> Reading:
        """Room for a prompt of ``positions`` tokens."""
        weight = self._embed.weight
        dtype, capacity = self._norm.dtype, bucket(positions + 1)
        each = 2 * self._kv_heads * self._size
        small = capacity * each * dtype.itemsize * len(self._layers) <= SMALL_SLOT
        shape = (capacity if small else positions, 2, self._kv_heads, self._size)
        with torch.inference_mode():  # as the passes that write into them
            return Reading([torch.empty(shape, device=weight.device, dtype=dtype) for _ in self._layers])

    def step(
        self,
        slabs: Sequence[Slab],
        newest: Sequence[int],
        pieces: Sequence[tuple[Reading, Sequence[int]]],
        adapters: Sequence[Active],
        *,
        every: bool = False,
        copies: bool = False,
    ) -> torch.Tensor:
        """Raw logits [rows, vocab] float32 on the CPU after each row's newest token, and after each piece's last one.

        ``newest`` and ``adapters`` are in the slabs' order, ``adapters`` with the pieces' after them. ``every`` gives the
        logits after every token instead, [tokens, vocab]. With ``copies`` the pass may make and use `WeightCopies`: its
        kernels then depend on what ran before. Nothing is counted as read or written yet: that is for the caller, once all
        went well.
        """
        counts = [1] * len(newest) + [len(ids) for _, ids in pieces]
        ids = [*newest, *(token for _, piece in pieces for token in piece)]
        with torch.inference_mode():
            mix = self.mixer.mix(tuple(adapters), tuple(counts))
            linear = self.copies.linear_for(len(newest), len(ids)) if copies else F.linear
            run = self._pass(slabs, pieces, mix, linear)
            hidden = self._embed(torch.tensor(ids, device=self._embed.weight.device))
            for at, layer in enumerate(self._layers):
                hidden = self._through(at, layer, hidden, run)
            if pieces and not every:
                ends = torch.tensor(counts, device=hidden.device).cumsum(0) - 1
                hidden = hidden[ends]
                touched = mix and mix.touches(self._head.group)
                run = replace(run, mix=self.mixer.mix(tuple(adapters), (1,) * len(counts)) if touched else None)
            (logits,) = self._head(F.rms_norm(hidden, self._norm.shape, self._norm, self._eps), run)
            return logits.float().cpu()

    def _pass(
        self,
        slabs: Sequence[Slab],
        pieces: Sequence[tuple[Reading, Sequence[int]]],
        mix: Mix | None,
        linear: Linear,
    ) -> _Pass:
        decoding, found, positions, row = [], [], [], 0
        for slab in slabs:
            lengths = slab.lengths()
            count, capacity = len(slab.slots), slab.capacity
            uneven = len({slot.length for slot in slab.slots}) > 1
            at = torch.arange(0, count * capacity, capacity, device=lengths.device) + lengths
            mask = self._added(slab.mask(lengths)) if uneven else None
            decoding.append(_Decoding(slab, slice(row, row + count), at, slab.width, mask))
            positions.append(lengths)
            row += count
        device = self._embed.weight.device
        for reading, ids in pieces:
            start, end = reading.read, reading.read + len(ids)
            places = torch.arange(start, end, device=device)
            mask = self._added(torch.arange(end, device=device)[None, :] <= places[:, None]) if start else None
            found.append(_Piece(reading.planes, slice(row, row + len(ids)), start, end, mask))
            positions.append(places)
            row += len(ids)
        cos, sin = self._angles(positions)
        return _Pass(cos, sin, decoding, found, mix, linear, None if linear is F.linear else self.copies)

    def _added(self, allowed: torch.Tensor) -> torch.Tensor:
        """A mask as what is added to the scores: from a bool one every layer would make it anew."""
        return torch.zeros_like(allowed, dtype=self._norm.dtype).masked_fill_(~allowed, float("-inf"))

    def _angles(self, positions: list[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        """cos and sin [tokens, 1, size], the first half of sin negative, from a table that the model's own module fills."""
        places = torch.cat(positions) if len(positions) > 1 else positions[0]
        needed = int(places.max()) + 1
        if needed > self._cos.shape[0]:
            count = max(_FIRST_POSITIONS, 2 * needed)
            cos, sin = self._rope(self._norm, torch.arange(count, device=places.device)[None])
            self._cos, self._sin = cos[0, :, None], sin[0, :, None] * self._signs
        return self._cos[places], self._sin[places]

    def _through(self, at: int, layer: _Layer, hidden: torch.Tensor, run: _Pass) -> torch.Tensor:
        """One layer, for ``hidden`` [tokens, hidden]."""
        inner = F.rms_norm(hidden, layer.before.shape, layer.before, self._eps)
        attended = self._attention(at, layer, layer.qkv(inner, run), run)
        (out,) = layer.out(attended, run)
        hidden = hidden + out
        inner = F.rms_norm(hidden, layer.after.shape, layer.after, self._eps)
        wide = layer.gate_up(inner, run)
        gate, up = wide if len(wide) > 1 else wide[0].chunk(2, dim=-1)
        (down,) = layer.down(layer.act(gate) * up, run)
        return hidden + down

    def _attention(self, at: int, layer: _Layer, qkv: Sequence[torch.Tensor], run: _Pass) -> torch.Tensor:
        """Rotate, write keys and values where they belong, and let every row look at its own; [tokens, heads · size]."""
        heads = (qkv[0] if len(qkv) == 1 else torch.cat(qkv, dim=-1)).view(qkv[0].shape[0], -1, self._size)
        turned = heads[:, : self._heads + self._kv_heads]
        if layer.qk_norm is not None:
            turned.copy_(F.rms_norm(turned, (self._size,), None, self._eps) * layer.qk_norm)
        swapped = turned.unflatten(-1, (2, -1)).flip(-2).view(turned.shape)
        turned.mul_(run.cos).addcmul_(swapped, run.sin)
        q, kv = heads[:, : self._heads], heads[:, self._heads :]
        parts = [self._decoded(at, some, q, kv) for some in run.decoding]
        parts += [self._read(at, piece, q, kv) for piece in run.pieces]
        return torch.cat(parts) if len(parts) > 1 else parts[0]

    def _decoded(self, at: int, some: _Decoding, q: torch.Tensor, kv: torch.Tensor) -> torch.Tensor:
        """One query for each row of a slab; the query heads that share keys are one row's queries to the kernel."""
        plane, count = some.slab.planes[at], len(some.slab.slots)
        plane.view(-1, *kv.shape[1:]).index_copy_(0, some.at, kv[some.rows])
        keys, values = plane[:count, : some.width].permute(2, 0, 3, 1, 4).unbind()
        queries = q[some.rows].view(count, self._kv_heads, -1, self._size)
        looked = F.scaled_dot_product_attention(queries, keys, values, attn_mask=some.mask, scale=self._scaling)
        return looked.reshape(count, -1)

    def _read(self, at: int, piece: _Piece, q: torch.Tensor, kv: torch.Tensor) -> torch.Tensor:
        """A piece of one prompt, looking at itself and at what was read of that prompt before."""
        plane, rows, count = piece.planes[at], piece.rows, piece.end - piece.start
        plane[piece.start : piece.end] = kv[rows].view(count, 2, -1, self._size)
        shown = plane[: piece.end].permute(1, 2, 0, 3)[:, None]
        looked = F.scaled_dot_product_attention(
            q[rows].transpose(0, 1)[None],
            shown[0],
            shown[1],
            attn_mask=piece.mask,
            is_causal=piece.mask is None,
            scale=self._scaling,
            enable_gqa=self._heads != self._kv_heads,
        )
        return looked[0].transpose(0, 1).reshape(count, -1)

    def _layer(self, name: str, layer: Any) -> _Layer:
        attention, mlp = layer.self_attn, layer.mlp
        norm = None
        if hasattr(attention, "q_norm"):
            weights = [
                attention.q_norm.weight.expand(self._heads, -1),
                attention.k_norm.weight.expand(self._kv_heads, -1),
            ]
            norm = torch.cat(weights).detach()
        names = [f"{name}.self_attn.{part}_proj" for part in "qkvo"]
        wide = [f"{name}.mlp.{part}_proj" for part in ("gate", "up", "down")]
        return _Layer(
            before=layer.input_layernorm.weight,
            qkv=_linears(tuple(names[:3]), (attention.q_proj, attention.k_proj, attention.v_proj)),
            qk_norm=norm,
            out=_linears((names[3],), (attention.o_proj,)),
            after=layer.post_attention_layernorm.weight,
            gate_up=_linears(tuple(wide[:2]), (mlp.gate_proj, mlp.up_proj)),
            act=mlp.act_fn,
            down=_linears((wide[2],), (mlp.down_proj,)),
        )

    def _answers_as(self, model: Any, vocabulary: int) -> bool:
        """Whether ragged rows, one of them read in two pieces, and a decoding step after them answer as the model itself."""
        rows = [torch.linspace(0, vocabulary - 1, length).long().tolist() for length in (3, 9)]
        slots, joined = SlotCache(), []
        with torch.inference_mode():
            device = self._embed.weight.device
            alone = torch.stack(
                [
                    model(input_ids=torch.tensor([r], device=device), use_cache=False).logits[0, -1].float().cpu()
                    for r in rows
                ]
            )
        for row in rows:
            reading = self.reading(len(row) - 1)
            for piece in (row[:2], row[2:-1]):
                if piece:
                    self.step([], [], [(reading, piece)], [()])
                    reading.read += len(piece)
            joined.append(slots.join(Contents(reading.planes, reading.read)))
        together = self.step(slots.groups(joined), [row[-1] for row in rows], [], [(), ()])
        whole = torch.cat([self.step([], [], [(self.reading(len(row)), row)], [()]) for row in rows])
        allowed = _ROUNDING[self._norm.dtype == torch.float32] * alone.norm(dim=1)
        return all(bool(((found - alone).norm(dim=1) <= allowed).all()) for found in (together, whole))


def _linears(names: tuple[str, ...], modules: tuple[Any, ...]) -> _Linears:
    """``modules`` as one linear where they are plain and small; the modules' own weights become views of the joined one."""
    widths = tuple(int(module.out_features) for module in modules)
    if not all(type(module) is nn.Linear for module in modules):
        return _Linears(Group(names, widths), modules)
    weights, biases = tuple(m.weight for m in modules), tuple(m.bias for m in modules)
    size = sum(weight.numel() * weight.element_size() for weight in weights)
    biased = [bias is not None for bias in biases]
    if len(modules) > 1 and (size > _WORTH_JOINING or any(biased) != all(biased)):
        return _Linears(Group(names, widths), modules, weights, biases)
    if len(modules) > 1:
        weights, biases = _joined(modules, widths), (torch.cat(biases).detach() if all(biased) else None,)
    return _Linears(Group(names, widths, fused=True), modules, weights, biases)


def _joined(modules: tuple[Any, ...], widths: tuple[int, ...]) -> tuple[torch.Tensor]:
    """Their weights as one, of which theirs become views."""
    weight = torch.cat([module.weight.detach() for module in modules])
    for module, part in zip(modules, weight.split(widths), strict=True):
        module.weight.data = part
    return (weight,)


def _plain_attention(config: Any) -> bool:
    """Whether every layer looks at everything before it, with rotary embeddings that stay as they are."""
    kinds = set(getattr(config, "layer_types", None) or ("full_attention",))
    slides = getattr(config, "sliding_window", None) and not getattr(config, "layer_types", None)
    rope = getattr(config, "rope_parameters", None) or {}
    return kinds == {"full_attention"} and not slides and rope.get("rope_type", "default") not in _MOVING_ROPE
