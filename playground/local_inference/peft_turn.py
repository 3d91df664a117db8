"""Adapters that need PEFT: one at a time on a base, in a turn of its own, and the base checked after each turn.

IA3, LoHa, LoKr, saved modules, trained tokens and whatever else PEFT loads go through here. PEFT's active adapter is
one state of the whole model, so nothing else may run on the base during the turn; the scheduler sees to that.

Strength multiplies what PEFT scales with, in the kinds that have such a number for all that they change (LoRA and AdaLoRA,
LoHa and LoKr, SHiRA). PEFT's own set_scale is not used: it gives AdaLoRA another scale than the one it was trained with.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from peft import PeftConfig, PeftModelForCausalLM, get_peft_model_state_dict, set_peft_model_state_dict
from peft.tuners.lora import LoraLayer
from peft.tuners.lycoris_utils import LycorisLayer
from peft.tuners.shira.layer import ShiraLayer
from safetensors import safe_open
from safetensors.torch import load_file
from torch import nn

from playground.errors import AdapterInvalid, EngineFailure, PlaygroundError
from playground.local_inference.adapters import WEIGHTS_FILE, read_safetensors_header
from playground.local_inference.explain import explain, ran_out
from playground.local_inference.headers import spare_copies
from playground.local_inference.kernels import same_kernels
from playground.local_inference.naming import Naming
from playground.local_inference.proof import names_in_short, probe

_NAME = "turn"
_DAMAGED = (
    "An adapter changed the base model itself, so the base's answers can no longer be trusted.",
    "The next request loads the base anew; leave this adapter out.",
)


# Kinds whose layers scale everything that they add by one number, and what the names of their tensors contain.
_SCALED = (LoraLayer, LycorisLayer, ShiraLayer)
_SCALED_TENSORS = ("lora_", "hada_", "lokr_", "shira_")
_PREFIX = "base_model.model."
# What torch says of each tensor of another shape: its name, and both shapes.
_SIZES = re.compile(r"size mismatch for (\S+): .*?torch\.Size\(\[(.*?)\]\).*?torch\.Size\(\[(.*?)\]\)")


class PeftTurn:
    """Puts an adapter on ``base`` through PEFT and takes it off again. Used by the compute thread only.

    ``idle`` are modules that text does not reach, and that an adapter may therefore lack; ``reads_more`` as in `Naming`.
    ``fixed`` says why the adapter that is on has no strength but 1, "" where it has.
    """

    def __init__(self, base: Any, vocabulary: int, idle: Sequence[str] = (), *, reads_more: bool = False) -> None:
        self._base = base
        self._names = dict(base.named_modules()).keys()  # as they are without any adapter
        self._idle, self._reads_more = tuple(f"{name}." for name in idle), reads_more
        self._vocabulary = vocabulary
        self._key: tuple[str, str] | None = None
        self._model: Any = None
        self._canary: torch.Tensor | None = None
        self._parts: list[tuple[nn.Module, dict[str, Any], dict[str, Any]]] = []
        self._biases: list[tuple[nn.Parameter, torch.Tensor]] = []
        self._scales: list[tuple[dict[str, Any], float]] = []
        self.damaged = False
        self.fixed = ""

    def holds(self, folder: Path, sha256: str) -> bool:
        """True while this adapter is on the base."""
        return self._key == (str(folder), sha256)

    def enter(self, folder: Path, sha256: str, scale: float) -> Any:
        """The base with the adapter in ``folder`` on it, at ``scale``. Raises `AdapterInvalid`."""
        if not self.holds(folder, sha256):
            self.leave()
            self._canary = self._logits()
            self._parts = _parts(self._base)  # after a forward pass: bitsandbytes packs its weights in the first one
            self._biases = _biases(self._base)
            self._model = self._wrap(folder)
            self._key = (str(folder), sha256)
        self._set_scale(folder, scale)
        return self._model

    def leave(self) -> None:
        """Take the adapter off. Raises `EngineFailure`, now and ever after, when the base is not what it was before."""
        if self.damaged:
            raise EngineFailure(*_DAMAGED)
        if self._key is None:
            return
        self._key = None
        self._take_off()
        self._check_base()

    def _check_base(self) -> None:
        """Compare the base with what it was before the adapter."""
        if self._canary is None or not torch.equal(self._logits(), self._canary):
            self.damaged = True
            raise EngineFailure(*_DAMAGED)

    def _logits(self) -> torch.Tensor:
        """The base's own on fixed tokens. A turn may begin or end within a step that uses other kernels."""
        with same_kernels():
            return probe(self._base, self._vocabulary)

    def _wrap(self, folder: Path) -> Any:
        """Put the adapter on; whatever goes wrong, the base is as it was, and that is checked."""
        try:
            with warnings.catch_warnings(), _plain_state_dict():
                warnings.simplefilter("ignore")  # what they say is checked below, from the load result itself
                config = PeftConfig.from_pretrained(str(folder))
                config.inference_mode = True
                header = read_safetensors_header(folder / WEIGHTS_FILE)
                naming = Naming.of(header, self._names, reads_more=self._reads_more)
                same = _spare_the_base(self._base, folder, naming)
                self._model = PeftModelForCausalLM(self._base, naming.config(config), adapter_name=_NAME)
                result = self._load(folder, naming)
                self._model.eval().requires_grad_(False)
                saved = get_peft_model_state_dict(self._model, adapter_name=_NAME, save_embedding_layers=False)
            own = [name for name in saved if not name.removeprefix(_PREFIX).startswith(self._idle)]
            spare = spare_copies(naming.apply(header))
            _check(folder, result, own, spare)
            self._note_scales(folder, same)
        except Exception as error:
            self._take_off()
            self._check_base()
            if isinstance(error, PlaygroundError):
                raise
            if ran_out(error):
                raise explain(error) from error
            raise AdapterInvalid(
                f"PEFT cannot load adapter {folder.name!r} on this base: {_reason(error)}",
                "Check that it was trained on this base, and with a PEFT version no newer than the one here.",
            ) from error
        return self._model

    def _load(self, folder: Path, naming: Naming) -> Any:
        """Let PEFT read the file in ``folder``, or what it is given where the names in it are not this base's."""
        if naming.as_it_is:
            return self._model.load_adapter(str(folder), _NAME, is_trainable=False)
        state = naming.apply(load_file(folder / WEIGHTS_FILE))
        return set_peft_model_state_dict(self._model, state, adapter_name=_NAME)

    def _take_off(self) -> None:
        """Put every part of the base back where it was.

        PEFT's own unload is not enough: it leaves an adapter's saved modules in place of the base's, and its biases.
        """
        self._model = None
        for module, children, parameters in self._parts:
            module._modules.clear()
            module._modules.update(children)
            module._parameters.clear()
            module._parameters.update(parameters)
        with torch.no_grad():
            for parameter, value in self._biases:
                parameter.copy_(value)
        for name in ("peft_config", "peft_type"):
            if name in vars(self._base):
                delattr(self._base, name)

    def _note_scales(self, folder: Path, same: set[str]) -> None:
        """Look up the numbers that strength multiplies, as PEFT made them from the configuration.

        Tensors of the file that are the ``same`` as the base's change nothing at any strength.
        """
        layers = [module for module in self._model.modules() if isinstance(module, _SCALED)]
        self._scales = [(layer.scaling, layer.scaling[_NAME]) for layer in layers if _NAME in layer.scaling]
        header = read_safetensors_header(folder / WEIGHTS_FILE)
        names = [name.removeprefix(_PREFIX) for name in header if name not in same]
        self.fixed = _why_fixed(self._model.peft_config[_NAME].peft_type.value, names if self._scales else None)

    def _set_scale(self, folder: Path, scale: float) -> None:
        if self.fixed and scale != 1.0:
            raise AdapterInvalid(f"Adapter {folder.name!r} {self.fixed}", "Use it at strength 1.")
        for scaling, trained in self._scales:
            scaling[_NAME] = trained * scale


def _reason(error: Exception) -> str:
    """What PEFT says, in one line; of a tensor that is not in the file it says only the name."""
    if isinstance(error, KeyError):
        return f"the file has no {str(error.args[0] if error.args else '').removeprefix(_PREFIX)}."
    sizes = _SIZES.findall(str(error))
    if sizes:
        (name, own, expected), more = sizes[0], f" (and {len(sizes) - 1} more)" if len(sizes) > 1 else ""
        shapes = [shape.replace(", ", "×") for shape in (own, expected)]
        return f"its {name.removeprefix(_PREFIX)} is {shapes[0]}, and on this base it would be {shapes[1]}{more}."
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    telling = next((line for line in lines if not line.endswith(":")), lines[0])  # torch begins with a heading
    return telling[:300]


def _why_fixed(kind: str, names: Iterable[str] | None) -> str:
    """Why there is no strength but 1: the kind has none (``names`` is None), or it holds tensors that have none."""
    if names is None:
        return f"is of kind {kind}, which has no strength to change."
    others = [name for name in names if not any(mark in name for mark in _SCALED_TENSORS)]
    return f"replaces parts of the base ({names_in_short(others)}), which have no strength." if others else ""


def _check(folder: Path, result: Any, own: Iterable[str], spare: set[str]) -> None:
    """Refuse what PEFT only warns of, naming every tensor that is missing, or that nothing on this base is waiting for.

    ``own`` are the names under which PEFT would save the adapter: what it makes anew each time may be missing. ``spare``
    are those that the file brings a second time.
    """
    lacking = {
        key.replace(f".{_NAME}", "").replace(".modules_to_save", "")
        for key in result.missing_keys
        if f".{_NAME}" in key
    }
    missing = [name.removeprefix(_PREFIX) for name in own if name in lacking]
    unexpected = [key.removeprefix(_PREFIX) for key in result.unexpected_keys if key not in spare]
    if not missing and not unexpected:
        return
    parts = [
        f"{what} {len(names)} tensor{'s' * (len(names) > 1)} ({names_in_short(names)})"
        for what, names in (("misses", missing), ("has unexpected", unexpected))
        if names
    ]
    raise AdapterInvalid(
        f"Adapter {folder.name!r} {' and '.join(parts)} for this base.",
        "Its configuration and weights do not belong together, or it was trained on another base.",
    )


def _spare_the_base(base: nn.Module, folder: Path, naming: Naming) -> set[str]:
    """Put a copy in place of every weight of the base that the file brings itself: PEFT writes those into the base's own.

    Embeddings with more words than the base's make room for them. `_parts` knows what was there before. Returns the names
    of those in the file that are the base's, number for number.
    """
    same = set()
    modules = dict(base.named_modules())
    with safe_open(folder / WEIGHTS_FILE, "pt") as file:
        for key in file.keys():  # noqa: SIM118, it is no dictionary
            if key in naming.unused:
                continue
            name, _, leaf = _plain_name(naming.here.get(key, key)).rpartition(".")
            own = modules[name]._parameters.get(leaf) if name in modules and leaf == "weight" else None
            if own is not None and own.is_floating_point():
                brought = file.get_tensor(key).to(own)
                if brought.shape == own.shape and torch.equal(brought, own):
                    same.add(key)
                _replace(base, own, nn.Parameter(_grown(own.detach(), brought), requires_grad=False))
    return same


def _plain_name(key: str) -> str:
    """The base's own name of a weight that the file brings from inside one of PEFT's layers."""
    return key.removeprefix(_PREFIX).replace(".token_adapter", "").replace(".base_layer", "")


def _grown(own: torch.Tensor, brought: torch.Tensor) -> torch.Tensor:
    """A copy of ``own``, with the rows of ``brought`` that go beyond it."""
    if own.ndim != 2 or brought.ndim != 2 or brought.shape[0] <= own.shape[0] or brought.shape[1:] != own.shape[1:]:
        return own.clone()
    return torch.cat((own, brought[own.shape[0] :]))


def _replace(base: nn.Module, old: nn.Parameter, new: nn.Parameter) -> None:
    """``new`` wherever ``old`` is; a head may be tied to the embeddings."""
    for module in base.modules():
        for leaf, parameter in module._parameters.items():
            if parameter is old:
                module._parameters[leaf] = new


def _parts(base: nn.Module) -> list[tuple[nn.Module, dict[str, Any], dict[str, Any]]]:
    """Every module of ``base`` with its children and parameters as they are now; holds references, copies nothing."""
    return [(module, dict(module._modules), dict(module._parameters)) for module in base.modules()]


def _biases(base: nn.Module) -> list[tuple[nn.Parameter, torch.Tensor]]:
    """Every bias of ``base`` with a copy of its values: adapters with ``bias`` write theirs into the base's own."""
    return [(p, p.detach().clone()) for name, p in base.named_parameters() if name.endswith("bias")]


@contextmanager
def _plain_state_dict() -> Iterator[None]:
    """Keep bitsandbytes from unpacking its CPU 4-bit weights when PEFT asks for a state dict.

    On AVX512-BF16 machines the unpacking does not restore the scales of plain nf4/fp4, and the base silently changes.
    """
    try:
        from bitsandbytes.nn import Linear4bit
    except ImportError:
        yield
        return
    original = Linear4bit._save_to_state_dict
    Linear4bit._save_to_state_dict = nn.Module._save_to_state_dict
    try:
        yield
    finally:
        Linear4bit._save_to_state_dict = original
