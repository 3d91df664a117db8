"""Vision-language models used for text: what else a checkpoint reads, and which parts text never passes through.

Such a model is loaded whole where transformers has no class for its language model alone. Its towers keep their modules, so
that adapters of the whole model find every place, but not the memory of their weights.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn

# Parts of a configuration that are for something else than text, and what they read.
_SENSES = {
    "vision_config": "images", "audio_config": "sounds", "vq_config": "images", "vision_tower_config": "images",
    "sound_config": "sounds", "encoder_config": "sounds", "perceiver_config": "",
}  # fmt: skip


def unread(config: Any) -> tuple[str, ...]:
    """What a checkpoint of ``config`` reads besides text and is not given here: "images", "sounds"; () for most."""
    parts = {name: getattr(config, name, None) for name in getattr(config, "sub_configs", None) or ()}
    if "text_config" not in parts and getattr(config, "text_config", None) is None:
        return ()
    return tuple(sorted({_SENSES[name] for name, part in parts.items() if part is not None and _SENSES.get(name)}))


def said_of(senses: tuple[str, ...]) -> str:
    """A clause for the reasons of a load; "" where the checkpoint is for text alone."""
    if not senses:
        return ""
    return f"used for text alone: {' and '.join(senses)}, which it was made for as well, are not read"


def decoder_of(model: Any) -> tuple[nn.Module, str]:
    """What reads text in ``model``, and its name there; the model itself, "", where it does not tell."""
    decoder = model.get_decoder() if hasattr(model, "get_decoder") else model
    return decoder, next((name for name, module in model.named_modules() if module is decoder), "")


def idle_parts(model: nn.Module, run: Callable[[], Any]) -> tuple[str, ...]:
    """Names of the parts that ``run``, a pass over text, does not go through; of nested ones the outermost.

    Looked for beside the decoder only: experts that eight tokens do not choose are not idle.
    """
    candidates = dict(beside_decoder(model))
    called: set[str] = set()

    def note(name: str) -> Callable[..., None]:
        return lambda *_: called.add(name)

    hooks = [
        inner.register_forward_pre_hook(note(name)) for name, part in candidates.items() for inner in part.modules()
    ]
    try:
        run()
    finally:
        for hook in hooks:
            hook.remove()
    return tuple(name for name in candidates if name not in called)


def beside_decoder(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """What stands beside the decoder in ``model``, or beside what holds it; nothing in a plain language model."""
    _, place = decoder_of(model)
    if place.count(".") < 1:  # a decoder right in the model is all that there is
        return
    holders = ["", *(place[:at] for at, letter in enumerate(place) if letter == ".")]
    for holder in holders:
        for name, part in model.get_submodule(holder).named_children():
            full = f"{holder}.{name}" if holder else name
            if not (place == full or place.startswith(f"{full}.")):
                yield full, part


def release(model: nn.Module, parts: tuple[str, ...]) -> None:
    """Give back the memory of the matrices in ``parts``: each keeps its shape over a single 0.

    Vectors stay: adapters with biases write into the base's own. Quantized ones and those that other parts share stay too.
    """
    kept = {id(p) for name, p in model.named_parameters() if not name.startswith(tuple(f"{part}." for part in parts))}
    for part in parts:
        for parameter in model.get_submodule(part).parameters():
            if type(parameter) is nn.Parameter and parameter.ndim > 1 and id(parameter) not in kept:
                parameter.data = torch.zeros((), dtype=parameter.dtype, device=parameter.device).expand(parameter.shape)
