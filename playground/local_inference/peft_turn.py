"""Adapters that need PEFT: one at a time on a base, in a turn of its own, and the base checked after each turn.

IA3, LoHa, LoKr, saved modules, trained tokens and whatever else PEFT loads go through here. PEFT's active adapter is
one state of the whole model, so nothing else may run on the base during the turn; the scheduler sees to that.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from peft import PeftConfig, PeftModelForCausalLM
from peft.tuners.lora import LoraLayer
from torch import nn

from playground.errors import AdapterInvalid, EngineFailure, PlaygroundError

_NAME = "turn"
_DAMAGED = (
    "An adapter changed the base model itself, so the base's answers can no longer be trusted.",
    "The next request loads the base anew; leave this adapter out.",
)


def probe(model: Any, vocabulary: int) -> torch.Tensor:
    """Logits [8, vocab] of ``model`` on eight fixed tokens: its fingerprint, to see that something moved or did not."""
    device = next(model.parameters()).device
    ids = torch.linspace(0, vocabulary - 1, 8).long().unsqueeze(0).to(device)
    with torch.inference_mode():
        return model(input_ids=ids, use_cache=False).logits[0].float().cpu()


class PeftTurn:
    """Puts an adapter on ``base`` through PEFT and takes it off again. Used by the compute thread only."""

    def __init__(self, base: Any, vocabulary: int) -> None:
        self._base = base
        self._vocabulary = vocabulary
        self._key: tuple[str, str] | None = None
        self._model: Any = None
        self._canary: torch.Tensor | None = None
        self._parts: list[tuple[nn.Module, dict[str, Any], dict[str, Any]]] = []
        self._biases: list[tuple[nn.Parameter, torch.Tensor]] = []
        self.damaged = False

    def holds(self, folder: Path, sha256: str) -> bool:
        """True while this adapter is on the base."""
        return self._key == (str(folder), sha256)

    def enter(self, folder: Path, sha256: str, scale: float) -> Any:
        """The base with the adapter in ``folder`` on it, at ``scale``. Raises `AdapterInvalid`."""
        if not self.holds(folder, sha256):
            self.leave()
            self._canary = probe(self._base, self._vocabulary)
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
        after = probe(self._base, self._vocabulary)
        if self._canary is None or not torch.equal(after, self._canary):
            self.damaged = True
            raise EngineFailure(*_DAMAGED)

    def _wrap(self, folder: Path) -> Any:
        """Put the adapter on; whatever goes wrong, the base is as it was, and that is checked."""
        try:
            with warnings.catch_warnings(), _plain_state_dict():
                warnings.simplefilter("ignore")  # what they say is checked below, from the load result itself
                config = PeftConfig.from_pretrained(str(folder))
                config.inference_mode = True
                self._model = PeftModelForCausalLM(self._base, config, adapter_name=_NAME)
                result = self._model.load_adapter(str(folder), _NAME, is_trainable=False)
                self._model.eval().requires_grad_(False)
            _check(folder, result)
        except Exception as error:
            self._take_off()
            self._check_base()
            if isinstance(error, PlaygroundError):
                raise
            first = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
            raise AdapterInvalid(
                f"PEFT cannot load adapter {folder.name!r} on this base: {first[:200]}",
                "Check that it was trained on this base, and with a PEFT version no newer than the one here.",
            ) from error
        return self._model

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

    def _set_scale(self, folder: Path, scale: float) -> None:
        layers = [module for module in self._model.modules() if isinstance(module, LoraLayer)]
        if not layers and scale != 1.0:
            raise AdapterInvalid(
                f"Adapter {folder.name!r} has no strength to change: it is not a LoRA.", "Use it at strength 1."
            )
        for layer in layers:
            if _NAME in layer.scaling:
                layer.set_scale(_NAME, scale)


def _check(folder: Path, result: Any) -> None:
    """Refuse what PEFT only warns of: tensors that are missing, or that nothing on this base is waiting for."""
    missing = [key for key in result.missing_keys if f".{_NAME}." in key]
    unexpected = list(result.unexpected_keys)
    if missing or unexpected:
        what = "misses" if missing else "has unexpected"
        names = ", ".join((missing or unexpected)[:2])
        raise AdapterInvalid(
            f"Adapter {folder.name!r} {what} {len(missing or unexpected)} tensors for this base ({names} …).",
            "Its configuration and weights do not belong together, or it was trained on another base.",
        )


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
