"""G13: masks of rows of different lengths are those that transformers makes for each row by itself."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import AutoConfig
from transformers.cache_utils import DynamicCache
from transformers.masking_utils import create_causal_mask, create_chunked_causal_mask, create_sliding_window_causal_mask

from playground.local_inference.masks import Masks, hidden_window, likely_masks

from .family_maker import FAMILIES

LENGTHS = (0, 1, 6, 7, 8, 20)
WIDTH = max(LENGTHS) + 1
MAKERS = {
    "full_attention": create_causal_mask,
    "sliding_attention": create_sliding_window_causal_mask,
    "chunked_attention": create_chunked_causal_mask,
}


def _by_transformers(kind: str, length: int, implementation: str) -> torch.Tensor:
    """What one row with ``length`` positions in its cache gets for its next token, [width]: true where it may look."""
    config = AutoConfig.for_model("llama4_text", sliding_window=7, attention_chunk_size=7)
    config._attn_implementation = implementation
    cache = DynamicCache()
    if length:
        cache.update(torch.zeros(1, 1, length, 2), torch.zeros(1, 1, length, 2), 0)
    options: dict[str, Any] = {"config": config, "inputs_embeds": torch.zeros(1, 1, 4), "past_key_values": cache}
    mask = MAKERS[kind](attention_mask=None, position_ids=torch.tensor([[length]]), **options)
    whole = torch.zeros(WIDTH, dtype=torch.bool)
    whole[: length + 1] = True if mask is None else (mask if mask.dtype == torch.bool else mask == 0)[0, 0, 0]
    return whole


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
@pytest.mark.parametrize("kind", MAKERS)
def test_a_row_sees_what_transformers_shows_it_alone(kind: str, implementation: str) -> None:
    """G13: inside a window or chunk, at its border and beyond it, as numbers to add and as yes and no."""
    added = torch.float32 if implementation == "eager" else None
    mask = Masks(window=7, chunk=7, by_kind=True, added=added).of(torch.tensor(LENGTHS), WIDTH)[kind]
    seen = mask[:, 0, 0] if added is None else mask[:, 0, 0] == 0
    assert mask.shape == (len(LENGTHS), 1, 1, WIDTH)
    assert seen.tolist() == [_by_transformers(kind, length, implementation).tolist() for length in LENGTHS]
    if added is not None:
        assert mask.min() == torch.finfo(added).min


def test_layers_without_a_use_for_masks_get_none() -> None:
    """G13: hybrids look up their recurrent layers in the same dictionary."""
    masks = Masks(by_kind=True).of(torch.tensor([1, 2]), 3)
    assert masks["linear_attention"] is masks["conv"] is None


class _Model:
    dtype = torch.bfloat16

    def __init__(self, family: str, implementation: str) -> None:
        kind, options = FAMILIES[family]
        self.config = AutoConfig.for_model(kind, **options)
        self.config._attn_implementation = implementation


@pytest.mark.parametrize(
    ("family", "implementation", "expected"),
    [
        ("llama", "sdpa", Masks()),
        ("mistral", "sdpa", Masks(window=32)),
        ("qwen2", "sdpa", Masks()),
        ("gemma2", "eager", Masks(window=32, by_kind=True, added=torch.bfloat16)),
        ("llama4_text", "sdpa", Masks(chunk=32, by_kind=True)),
    ],
)
def test_the_likeliest_form_is_tried_first(family: str, implementation: str, expected: Masks) -> None:
    """G13: read off the configuration; the trial at load has the last word."""
    assert likely_masks(_Model(family, implementation))[0] == expected


def test_a_window_that_is_in_no_mask_is_known() -> None:
    """G13: GPT-Neo's local layers count back from the longest row."""
    assert hidden_window(_Model("gpt_neo", "eager").config)
    assert not hidden_window(_Model("mistral", "sdpa").config)
