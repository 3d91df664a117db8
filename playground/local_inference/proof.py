"""What is seen when an adapter is attached: which tensors found a place, and how far the logits of a few tokens moved.

The probe reads eight fixed tokens, and those that the adapter treats in particular: trained tokens, embeddings with a LoRA
or embeddings of its own would otherwise look like no effect at all.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from playground.local_inference.adapters import WEIGHTS_FILE
from playground.local_inference.footprint import input_device
from playground.types import Proof

# Below this no probability changes in any digit that is shown.
NO_EFFECT = 1e-6
# How many of the tokens that an adapter treats in particular the probe reads.
_PARTICULAR = 24
EMBEDDINGS = re.compile(
    r"(embed_tokens|wte|embed_in|word_embeddings)(\.modules_to_save|\.token_adapter|\.base_layer)*\.weight$"
)


def probe(model: Any, vocabulary: int, particular: Sequence[int] = (), cache: Any = None) -> torch.Tensor:
    """Logits [tokens, vocab] of ``model`` on eight fixed tokens and ``particular`` ones, to see whether something moved.

    ``cache``, if given, holds what the tokens come after.
    """
    device = input_device(model)
    fixed = torch.linspace(0, vocabulary - 1, 8).long().tolist()
    ids = torch.tensor([[*fixed, *(token for token in particular if 0 <= token < vocabulary)]], device=device)
    options = {"use_cache": False} if cache is None else {"use_cache": True, "past_key_values": cache}
    with torch.inference_mode():
        return model(input_ids=ids, **options).logits[0].float().cpu()


def compare(before: torch.Tensor, after: torch.Tensor) -> tuple[float, float, float]:
    """(largest change of a logit, mean KL(after ‖ before) in nats, share of positions whose likeliest token changed).

    Of two vocabularies the words that both have count.
    """
    width = min(before.shape[1], after.shape[1])
    moved = float((after[:, :width] - before[:, :width]).abs().max())
    old, new = (torch.log_softmax(logits[:, :width].double(), dim=-1) for logits in (before, after))
    divergence = float((new.exp() * (new - old)).sum(-1).clamp_min(0).mean())
    flipped = float((before[:, :width].argmax(-1) != after[:, :width].argmax(-1)).double().mean())
    return moved, divergence, flipped


def prove(before: torch.Tensor, after: torch.Tensor, matched: int, missing: Sequence[str]) -> tuple[Proof, bool]:
    """The proof, and whether the adapter has any effect."""
    moved, divergence, flipped = compare(before, after)
    effect = moved > NO_EFFECT or after.shape != before.shape
    return Proof(matched, tuple(missing), (), moved, divergence, flipped), effect


def particular_tokens(folder: Path, config: Any, embeddings: torch.Tensor) -> tuple[int, ...]:
    """Some of the tokens that the adapter in ``folder`` treats unlike the others.

    ``embeddings`` [vocab, hidden] are the base's.
    """
    found: set[int] = set()
    for indices in (getattr(config, "trainable_token_indices", None), getattr(config, "token_indices", None)):
        for some in indices.values() if isinstance(indices, dict) else (indices or (),):
            found.update(int(token) for token in some)
    with safe_open(folder / WEIGHTS_FILE, "pt") as file:
        for name in file.keys():  # noqa: SIM118, it is no dictionary
            if name.endswith("lora_embedding_A"):
                found.update(_some(file.get_tensor(name).abs().sum(0)))
            elif EMBEDDINGS.search(name):
                found.update(_some(_differences(file.get_tensor(name), embeddings)))
    return tuple(_spread(sorted(found)))


def _differences(own: torch.Tensor, embeddings: torch.Tensor) -> torch.Tensor:
    """How far each token's row is from the base's, [tokens]; zeros where the two cannot be compared."""
    if own.ndim != 2 or embeddings.ndim != 2 or own.shape[1] != embeddings.shape[1]:
        return torch.zeros(0)
    rows = min(own.shape[0], embeddings.shape[0])
    return (own[:rows].float() - embeddings[:rows].float().cpu()).abs().sum(1)


def _some(weights: torch.Tensor) -> list[int]:
    return _spread(torch.nonzero(weights)[:, 0].tolist())


def _spread(tokens: list[int]) -> list[int]:
    """At most as many as the probe reads, from the first to the last."""
    step = -(-len(tokens) // _PARTICULAR) or 1
    return tokens[::step]


def names_in_short(names: Iterable[str]) -> str:
    """All of ``names``, those that differ in one number written once: model.layers.{0–3,5}.q_proj."""
    layers: dict[str, list[int]] = {}
    for name in dict.fromkeys(names):
        number = re.search(r"(?<=\.)\d+(?=\.)", name)
        pattern = f"{name[: number.start()]}{{}}{name[number.end() :]}" if number else name
        layers.setdefault(pattern, []).extend([int(number.group())] if number else [])
    return ", ".join(_pattern(pattern, numbers) for pattern, numbers in layers.items())


def _pattern(pattern: str, numbers: list[int]) -> str:
    if not numbers:
        return pattern
    ends: list[list[int]] = []
    for number in sorted(numbers):
        if ends and number == ends[-1][1] + 1:
            ends[-1][1] = number
        else:
            ends.append([number, number])
    text = ",".join(f"{low}" if low == high else f"{low}–{high}" for low, high in ends)
    return pattern.replace("{}", text if len(numbers) == 1 else f"{{{text}}}", 1)
