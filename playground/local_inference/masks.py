"""What each row of a slab may look at, in the form in which its model takes that: one mask, or one for each kind of layer.

Slots hold every position of a text, those behind a sliding window too; what a layer must not see is only masked out.
transformers builds such masks from how long the whole cache is, which is right for rows of one length; for others they are
made here.
Windows: Beltagy et al. 2020, arXiv:2004.05150; in chunks: Llama 4.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch

from playground.local_inference.slots import Slab

# Layers whose keys and values are all there is to keep of a text.
ATTENTION = frozenset({"full_attention", "sliding_attention", "chunked_attention"})
# What hybrid models call the layers that have no use for a mask when one token is read.
_RECURRENT = ("linear_attention", "conv", "mamba", "mamba2", "recurrent", "hybrid", "moe", "mlp")


@dataclass(frozen=True)
class Masks:
    """How one model wants its masks. ``window`` and ``chunk`` are in positions, 0 for none.

    ``added`` of that dtype: numbers to add to the scores, for attention that is computed in the open ("eager", with
    soft-capped scores or sinks); None: true where a row may look. ``by_kind``: a mask for each kind of layer, by name.
    """

    window: int = 0
    chunk: int = 0
    by_kind: bool = False
    added: torch.dtype | None = None

    def options(self, slab: Slab, lengths: torch.Tensor) -> dict[str, Any]:
        """The arguments of a pass of one token for each row; none for rows of one length, whose mask transformers makes."""
        if len({slot.length for slot in slab.slots}) == 1 or not slab.planes:
            return {}
        return {"attention_mask": self.of(lengths, slab.width)}

    def of(self, lengths: torch.Tensor, width: int) -> Any:
        """For rows that write at ``lengths`` [rows]: a mask [rows, 1, 1, ``width``], or a dictionary of them by kind."""
        at = torch.arange(width, device=lengths.device)[None]
        newest = lengths[:, None]
        full = at <= newest
        near = full & (at > newest - self.window) if self.window else full
        if not self.by_kind:
            return self._shaped(near)
        same = full & (at // self.chunk == newest // self.chunk) if self.chunk else full
        kinds = {"full_attention": full, "sliding_attention": near, "chunked_attention": same}
        return {**dict.fromkeys(_RECURRENT), **{kind: self._shaped(seen) for kind, seen in kinds.items()}}

    def _shaped(self, seen: torch.Tensor) -> torch.Tensor:
        seen = seen[:, None, None]
        if self.added is None:
            return seen
        nothing = torch.zeros(seen.shape, dtype=self.added, device=seen.device)
        return nothing.masked_fill(~seen, torch.finfo(self.added).min)

    @property
    def reach(self) -> int:
        """Positions after which some layer no longer sees the first one; 0 where all see everything."""
        return min((size for size in (self.window, self.chunk) if size), default=0)


def likely_masks(model: Any) -> list[Masks]:
    """The forms that ``model`` may take, the likeliest first; which one is right is for a trial to say."""
    text = model.config.get_text_config()
    kinds = set(getattr(text, "layer_types", None) or ())
    window = getattr(text, "sliding_window", None) or 0
    chunk = getattr(text, "attention_chunk_size", None) or 0
    slides = not kinds or "sliding_attention" in kinds
    openly = getattr(text, "_attn_implementation", None) == "eager"
    one = Masks(
        window=int(window) if slides else 0,
        chunk=int(chunk) if "chunked_attention" in kinds else 0,
        added=model.dtype if openly else None,
    )
    several = replace(one, by_kind=True)
    return [several, one] if len(kinds) > 1 else [one, several]


def hidden_window(config: Any) -> bool:
    """True for layers that see a window which is not in the mask, and so is the same for all rows of a pass (GPT-Neo)."""
    return "local" in (getattr(config.get_text_config(), "attention_layers", None) or ())
