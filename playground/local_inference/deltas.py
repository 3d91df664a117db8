"""What kinds besides LoRA add to a weight, as thin matrices where it is one, and else in a sentence; numpy only.

LoHa's product of two products is one product again, of rank r² (Hyeon-Woo et al. 2022, arXiv:2108.06098); the singular
values of LoKr's Kronecker product are the products of its factors' (Van Loan 2000); AdaLoRA is B·diag(E)·A (Zhang et al.
2023, arXiv:2303.10512).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Matrix = NDArray[np.float64]
Read = Callable[[str], Matrix]

# LoHa's rank² beyond which its thin matrices are not thin.
_WIDEST = 1024
_PARTS = {
    "LOHA": ("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b"),
    "LOKR": ("lokr_w1", "lokr_w1_a", "lokr_w1_b", "lokr_w2", "lokr_w2_a", "lokr_w2_b"),
    "ADALORA": ("lora_A", "lora_B", "lora_E"),
}
_PREFIX = "base_model.model."


@dataclass(frozen=True)
class Delta:
    """scaling · B·A, for one pair of A [rank, in] and B [out, rank] in ``factors``; their Kronecker product for several."""

    module: str
    rank: int
    scaling: float
    factors: tuple[tuple[Matrix, Matrix], ...]


def modules_of(kind: str, names: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    """Module → part → tensor name, for the kinds that are measured here; modules with parts of other kinds are left out."""
    found: dict[str, dict[str, str]] = {}
    for name in names:
        module, _, part = name.removeprefix(_PREFIX).rpartition(".")
        if kind in _PARTS:
            found.setdefault(module, {})[part] = name
    return {module: parts for module, parts in found.items() if parts.keys() <= set(_PARTS.get(kind, ()))}


def delta(kind: str, config: Mapping[str, Any], module: str, parts: Mapping[str, str], read: Read) -> Delta | None:
    """What the adapter adds to ``module``; None where its tensors or its configuration are not as PEFT writes them."""
    values = {part: read(name) for part, name in parts.items()}
    try:
        made = {"LOHA": _loha, "LOKR": _lokr, "ADALORA": _adalora}[kind](values)
    except (KeyError, ValueError):  # a part is missing, or they cannot be multiplied
        return None
    scaling = _scaling(kind, config, made[0])
    return (
        None
        if scaling is None or any(len(a) != b.shape[1] for a, b in made[1])
        else Delta(module, made[0], scaling, made[1])
    )


def _scaling(kind: str, config: Mapping[str, Any], rank: int) -> float | None:
    alpha = config.get("lora_alpha" if kind == "ADALORA" else "alpha")
    r = rank if kind in ("ADALORA", "LOHA") else config.get("r")
    patterns = config.get("alpha_pattern") or (config.get("rank_pattern") if kind == "LOKR" else None)
    if patterns or not isinstance(alpha, (int, float)) or not isinstance(r, int) or r < 1:
        return None
    return float(alpha / r) if kind != "ADALORA" or alpha > 0 else 1.0


def _loha(parts: Mapping[str, Matrix]) -> tuple[int, tuple[tuple[Matrix, Matrix], ...]]:
    b1, a1, b2, a2 = (parts[name] for name in _PARTS["LOHA"])
    rank = b1.shape[1]
    if rank * b2.shape[1] > _WIDEST:
        raise ValueError(rank)
    b = (b1[:, :, None] * b2[:, None, :]).reshape(len(b1), -1)
    a = (a1[:, None, :] * a2[None, :, :]).reshape(-1, a1.shape[1])
    return rank, ((a, b),)


def _lokr(parts: Mapping[str, Matrix]) -> tuple[int, tuple[tuple[Matrix, Matrix], ...]]:
    factors = []
    for name in ("lokr_w1", "lokr_w2"):
        whole = parts.get(name)
        factors.append((parts[f"{name}_b"], parts[f"{name}_a"]) if whole is None else (whole, np.eye(len(whole))))
    rank = int(np.prod([min(*a.shape, *b.shape) for a, b in factors]))
    return rank, tuple(factors)


def _adalora(parts: Mapping[str, Matrix]) -> tuple[int, tuple[tuple[Matrix, Matrix], ...]]:
    a, b, e = parts["lora_A"], parts["lora_B"], parts["lora_E"]
    return len(a), ((a * e, b),)


def described(kind: str, names: Mapping[str, Any], read: Read) -> Iterator[str]:
    """What can be said of a kind that is not measured, and of what an adapter saves whole."""
    if kind == "IA3":
        factors = np.concatenate([read(name).ravel() for name in names if name.endswith("ia3_l")] or [np.ones(1)])
        yield (
            f"It multiplies features by learned factors: from {factors.min():.3g} to {factors.max():.3g}, "
            f"and on average {abs(factors - 1).mean():.2g} away from 1, which changes nothing."
        )
    elif "prompt_embeddings" in names:
        lengths = np.linalg.norm(read("prompt_embeddings"), axis=1)
        yield f"It puts {len(lengths)} virtual tokens before the text, of mean length {lengths.mean():.3g}."
    elif kind not in {"LORA", *_PARTS}:
        yield f"How much its layers change is not measured for {kind}: that depends on the base's weights."
    whole = sorted(name.removeprefix(_PREFIX) for name in names if _is_whole(name))
    if whole:
        first = whole[0] + " …" * (len(whole) > 1)
        yield f"It brings {len(whole)} tensors of the base in full ({first}), which take the place of the base's own."


def _is_whole(name: str) -> bool:
    marks = (
        "lora_",
        "ia3_",
        "hada_",
        "lokr_",
        "oft_",
        "boft_",
        "vera_",
        "prompt_embeddings",
        "trainable_tokens",
        "ln_tuning",
    )
    return name.endswith((".weight", ".bias")) and not any(mark in name for mark in marks)
