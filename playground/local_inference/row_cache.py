"""Between transformers' own caches and ours: what one row's cache holds, a cache made of it, and a slab shown as a cache.

Attention layers keep keys and values of every position, our planes. Recurrent and convolutional layers (Mamba, gated delta
nets, short convolutions) keep a state that each pass overwrites *in place*: whatever is to last longer must be a copy, and a
pass over a slab's states leaves them as the next one needs them. Some layers keep both.

What a model keeps, and under which name, is found out by a pass of two tokens when it is first asked for (`form_of`).
"""

from __future__ import annotations

import inspect
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers.cache_utils import (
    Cache,
    CacheLayerMixin,
    DummyLayer,
    DynamicCache,
    DynamicLayer,
    DynamicSlidingWindowLayer,
    LinearAttentionAndFullAttentionLayer,
    LinearAttentionAndSlidingWindowAttentionLayer,
    LinearAttentionCacheLayerMixin,
    LinearAttentionLayer,
)

from playground.local_inference.footprint import input_device
from playground.local_inference.slots import Contents, Slab

# Layers of transformers' cache that are known here. Those with a window are read, but not made: ours keep every position and
# leave the window to the mask, so that all rows are kept alike and a text may be cut anywhere.
_KNOWN_LAYERS = {
    DynamicLayer,
    DynamicSlidingWindowLayer,
    LinearAttentionLayer,
    LinearAttentionAndFullAttentionLayer,
    LinearAttentionAndSlidingWindowAttentionLayer,
    DummyLayer,
}
# What forward passes call what they keep: attention and hybrids, Mamba, RWKV (a list of tensors [rows, ...]).
_ARGUMENTS = ("past_key_values", "cache_params", "state")


@dataclass(frozen=True)
class _Layer:
    """What one layer keeps: keys and values or not, and how many convolutions and as many recurrences may have a state."""

    positions: bool
    states: int


@dataclass(frozen=True)
class Form:
    """How a model keeps what it has read: under which ``argument``, and what each of its ``layers`` does.

    ``layers`` is empty where that is not a cache as transformers makes it: ``listed`` for a plain list of states (RWKV),
    else something of the model's own, which is left to it. A row takes ``position_bytes`` for each position that it read,
    and ``state_bytes`` however long it is.
    """

    argument: str
    layers: tuple[_Layer, ...] = ()
    listed: bool = False
    position_bytes: int = 0
    state_bytes: int = 0

    @property
    def ours(self) -> bool:
        """Whether rows of it can be taken apart and put together here."""
        return bool(self.layers) or self.listed

    @property
    def recurrent(self) -> bool:
        """Whether some layer keeps a state of the whole text in place of its positions."""
        return self.listed or any(layer.states for layer in self.layers)


_forms: weakref.WeakKeyDictionary[Any, Form] = weakref.WeakKeyDictionary()


def form_of(model: Any) -> Form:
    """What ``model`` keeps; found out once."""
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    form = _forms.get(base)
    if form is None:
        form = _forms[base] = _find_form(base)
    return form


def _find_form(model: Any) -> Form:
    names = inspect.signature(type(model).forward).parameters
    argument = next((name for name in _ARGUMENTS if name in names), _ARGUMENTS[0])
    ids = torch.tensor([[0, 1]], device=input_device(model))
    try:
        with torch.inference_mode():
            kept: Any = getattr(model(input_ids=ids, use_cache=True), argument, None)
    except (RuntimeError, TypeError, ValueError, AttributeError, IndexError):  # its first row will say what is wrong
        return Form(argument)
    listed = isinstance(kept, list) and all(isinstance(state, torch.Tensor) for state in kept)
    known = type(kept) is DynamicCache and all(type(layer) in _KNOWN_LAYERS for layer in kept.layers)
    if not (listed or known):
        return Form(argument)
    if listed:
        return Form(argument, listed=True, state_bytes=_bytes(kept))
    layers = tuple(_layer(layer) for layer in kept.layers)
    states = [state for layer in kept.layers if isinstance(layer, LinearAttentionLayer) for state in _states_of(layer)]
    return Form(argument, layers, False, sum(map(_position_bytes, kept.layers)), _bytes(states))


def _position_bytes(layer: Any) -> int:
    """What ``layer`` keeps of each position; of how many it does depends on its window."""
    if not (isinstance(layer, DynamicLayer) and layer.is_initialized):
        return 0
    return sum(_bytes([kept]) // kept.shape[-2] for kept in (layer.keys, layer.values))


def _bytes(tensors: Sequence[torch.Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def _layer(layer: Any) -> _Layer:
    return _Layer(
        isinstance(layer, DynamicLayer) and bool(layer.is_initialized),
        layer.number_of_states if isinstance(layer, LinearAttentionCacheLayerMixin) else 0,
    )


def cache_options(model: Any, cache: Any) -> dict[str, Any]:
    """The arguments of a pass of ``model`` that goes on from ``cache``, None for the beginning of a text."""
    return {"use_cache": True, **({} if cache is None else {form_of(model).argument: cache})}


def tensors_in(cache: Any) -> list[torch.Tensor]:
    """Everything that ``cache`` holds, transformers' own or a list of states; each tensor once."""
    found: dict[int, torch.Tensor] = {}
    values = [value for layer in getattr(cache, "layers", None) or () for value in list(vars(layer).values())]
    for value in [*values, cache]:
        inner = value.values() if isinstance(value, dict) else value if isinstance(value, (list, tuple)) else (value,)
        found |= {id(tensor): tensor for tensor in inner if isinstance(tensor, torch.Tensor)}
    return list(found.values())


def positions_in(cache: Any, read: int) -> int:
    """How many positions ``cache`` holds, a soft prompt's too; ``read`` tokens, where no layer counts them."""
    counting = (layer for layer in getattr(cache, "layers", ()) if isinstance(layer, CacheLayerMixin))
    return next((layer.get_seq_length() for layer in counting if layer.is_initialized), read)


def cache_in(output: Any) -> Any:
    """What a pass kept; None where it did not."""
    return next((kept for name in _ARGUMENTS if (kept := getattr(output, name, None)) is not None), None)


def empty_cache(model: Any) -> Any:
    """What a row of ``model`` begins with, such that it keeps every position; None where that is left to the model."""
    layers = form_of(model).layers
    return Cache(layers=[_new(_OF_ROWS, layer) for layer in layers]) if layers else None


def contents_of(cache: Any, read: int = 0) -> Contents:
    """What a prefilled transformers ``cache`` of one row holds: views of keys and values, copies of states.

    ``read`` is how many positions that are, where no layer keeps any. Raises `ValueError` for a cache that has let go of
    positions behind a window, `TypeError` for one of another make.
    """
    if isinstance(cache, list):
        return Contents([], read, [state[0].clone() for state in cache])
    layers = getattr(cache, "layers", None)
    if layers is None or not all(type(layer) in _KNOWN_LAYERS for layer in layers):
        raise TypeError(f"rows cannot be taken out of a {type(cache).__name__} of this make")
    filled = [layer for layer in layers if isinstance(layer, DynamicLayer) and layer.is_initialized]
    if any(layer.get_seq_length() != layer.keys.shape[-2] for layer in filled):
        raise ValueError("some layers have let go of positions behind their window")
    planes = [kept[0].transpose(0, 1) for layer in filled for kept in (layer.keys, layer.values)]
    states = [state for layer in layers if isinstance(layer, LinearAttentionLayer) for state in _states_of(layer)]
    return Contents(planes, int(planes[0].shape[0]) if planes else read, states)


def _states_of(layer: Any) -> list[torch.Tensor]:
    """Copies of the states of a layer's one row, those of convolutions first; an empty tensor for one that it has not."""
    kept = [*layer.conv_states.values(), *layer.recurrent_states.values()]
    some = next(state for state in kept if state is not None)
    return [some.new_empty(0) if state is None else state[0].clone() for state in kept]


def cache_from(model: Any, contents: Contents) -> Any:
    """A transformers cache of one row of ``model`` that begins with ``contents``; `contents_of` the other way round.

    States are copied; keys and values are not, because a pass writes longer ones.
    """
    planes = [plane[: contents.positions].transpose(0, 1)[None] for plane in contents.planes]
    return _filled(model, _OF_ROWS, planes, [state[None].clone() for state in contents.states])


def cache_of(model: Any, slab: Slab) -> Any:
    """``slab`` as what ``model`` keeps, for one step of all its rows, which leaves the slab as the next one needs it."""
    planes = [plane.transpose(1, 2) for plane in slab.planes]
    cache = _filled(model, _OF_SLABS, planes, [states[: len(slab.slots)] for states in slab.states])
    at, width = slab.lengths(), slab.width
    for layer in getattr(cache, "layers", ()):
        if isinstance(layer, _SlabLayer):
            layer.write_at(at.to(layer.keys.device), width)  # of a model on several GPUs each layer is on its own
    return cache


def _filled(model: Any, classes: _Classes, planes: Sequence[torch.Tensor], states: Sequence[torch.Tensor]) -> Any:
    """What ``model`` keeps, made of layers of those ``classes`` with ``planes`` [rows, heads, positions, size] in them."""
    form, each, all_states = form_of(model), iter(planes), iter(states)
    if form.listed:
        return list(states)
    layers = []
    for layer in form.layers:
        made = _new(classes, layer)
        if layer.positions:
            made.keys, made.values = next(each), next(each)
            made.is_initialized, made.dtype, made.device = True, made.keys.dtype, made.keys.device
        if layer.states:
            _set_states(made, [next(all_states) for _ in range(2 * layer.states)])
        layers.append(made)
    return Cache(layers=layers)


def _set_states(layer: Any, states: Sequence[torch.Tensor]) -> None:
    count = layer.number_of_states
    for at, state in enumerate(states):
        if not state.numel():
            continue
        if at < count:
            layer.conv_states[at], layer.is_conv_states_initialized[at] = state, True
            layer.conv_kernel_size[at] = state.shape[-1]
        else:
            layer.recurrent_states[at - count], layer.is_recurrent_states_initialized[at - count] = state, True
        layer.has_previous_state[at % count] = True
        layer.dtype, layer.device = state.dtype, state.device


class _SlabLayer(CacheLayerMixin):  # type: ignore[misc]
    """One layer's keys and values [slots, heads, positions, size] as transformers' cache interface wants them."""

    is_compileable = False

    def write_at(self, at: torch.Tensor, width: int) -> None:
        """Each row writes at its own place ``at`` [rows], and the longest then has ``width`` positions."""
        self._at, self._width = at.to(self.keys.device), width  # layers may lie on several devices
        self._rows = torch.arange(at.shape[0], device=self.keys.device)

    def lazy_initialization(self, *args: Any, **kwargs: Any) -> None:
        """The slab is there already."""

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Write one position of each live row; return what the rows have, as wide as the longest of them."""
        live = key_states.shape[0]
        self.keys[self._rows, :, self._at] = key_states[:, :, 0]
        self.values[self._rows, :, self._at] = value_states[:, :, 0]
        return self.keys[:live, :, : self._width], self.values[:live, :, : self._width]

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """(width, offset) of the mask."""
        return self._width, 0

    def get_seq_length(self) -> int:
        """Positions before this step's, of the longest row."""
        return self._width - 1

    def get_max_length(self) -> int:
        """No maximum: rows move to a larger slab."""
        return -1


class _SlabLayerWithStates(LinearAttentionLayer, _SlabLayer):  # type: ignore[misc]
    """One layer's keys and values, and its states."""

    is_compileable = False

    def __init__(self, number_of_states: int) -> None:
        _SlabLayer.__init__(self)
        LinearAttentionLayer.__init__(self, number_of_states)


# By (keeps positions, keeps states).
_Classes = dict[tuple[bool, bool], Any]
_OF_ROWS: _Classes = {
    (True, False): DynamicLayer,
    (False, True): LinearAttentionLayer,
    (True, True): LinearAttentionAndFullAttentionLayer,
    (False, False): DummyLayer,
}
_OF_SLABS: _Classes = {**_OF_ROWS, (True, False): _SlabLayer, (True, True): _SlabLayerWithStates}


def _new(classes: _Classes, layer: _Layer) -> Any:
    return classes[layer.positions, layer.states > 0](number_of_states=layer.states)
