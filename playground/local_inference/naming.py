"""An adapter's tensors under the names that their modules have on this base; no torch.

Adapters of vision-language models speak of the language model's layers as the model did that they were trained on: today's
whole one (``model.language_model.layers…``), that of transformers before 4.52 (``language_model.model.layers…``, in
Qwen2-VL ``model.layers…``), or the language model by itself (``model.layers…``). PEFT follows some of these renamings, and
would give the others no place. What is for images or sounds has no use here and is left out: text never gets there.
"""

from __future__ import annotations

import copy
import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from playground.local_inference.headers import lora_pairs

PREFIX = "base_model.model."
# What the names of a language model's modules begin with, by itself or inside a larger model; longer ones first.
_LANGUAGE = (
    "model.language_model.model.", "thinker.model.language_model.", "model.language_model.", "language_model.model.",
    "model.text_model.", "thinker.model.", "language_model.", "text_model.", "thinker.", "model.",
)  # fmt: skip
# Parts of models that read something else than text, in the names of one generation of transformers or another.
_OTHER_SENSES = re.compile(
    r"(?:^|\.)(?:visual|vision\w*|image\w*|multi_modal_projector|mm_projector|mlp1|connector|aligner|resampler"
    r"|embed_vision|audio\w*|embed_audio|sound\w*)(?:\.|$)"
)
# PEFT adds up to so many parts to a module's name: q_proj.lora_A.weight, norm.modules_to_save.weight.
_ADDED = 3


@dataclass(frozen=True)
class Naming:
    """``here``: the file's names of tensors → this base's, for each that differs; ``unused``: those that are left out."""

    here: Mapping[str, str] = field(default_factory=dict)
    unused: frozenset[str] = frozenset()

    @classmethod
    def of(
        cls, tensors: Collection[str], modules: Collection[str], idle: Iterable[str] = (), *, reads_more: bool = False
    ) -> Naming:
        """How ``tensors`` of an adapter's file are named on a base with these ``modules``.

        ``idle`` are modules of the base that text does not reach. ``reads_more`` says that the checkpoint is for more than
        text: then the file may hold tensors of parts that are not on this base at all.
        """
        apart = tuple(f"{name}." for name in idle)
        here, unused = {}, set()
        for tensor in tensors:
            prefix = PREFIX if tensor.startswith(PREFIX) else ""
            name = tensor.removeprefix(prefix)
            found = _here(name, modules)
            if apart and (found or name).startswith(apart):
                unused.add(tensor)
            elif found is None:
                if reads_more and _OTHER_SENSES.search(name):
                    unused.add(tensor)
            elif found != name:
                here[tensor] = prefix + found
        taken = Counter((*tensors, *here.values()))  # what is there under both names is for PEFT to refuse
        return cls({old: new for old, new in here.items() if taken[new] == 1}, frozenset(unused))

    @property
    def as_it_is(self) -> bool:
        """True when the file's names are the base's, and all of it has a use."""
        return not (self.here or self.unused)

    def apply(self, tensors: Mapping[str, Any]) -> dict[str, Any]:
        """``tensors`` under this base's names, without those that have no use."""
        return {self.here.get(name, name): value for name, value in tensors.items() if name not in self.unused}

    @cached_property
    def modules(self) -> dict[str, str]:
        """This base's names of LoRA's modules → the file's, for each that differs."""
        pairs = zip(lora_pairs(dict.fromkeys(self.here.values())), lora_pairs(self.here), strict=True)
        return dict(pairs)

    def config(self, config: Any) -> Any:
        """``config`` (a PeftConfig) for this base's names: a copy where its targets or patterns speak of other ones."""
        from peft.tuners.tuners_utils import check_target_module_exists
        from peft.utils.other import get_pattern_key

        if not self.modules or config.target_modules is None:
            return config
        config = copy.deepcopy(config)
        for name in ("rank_pattern", "alpha_pattern"):
            pattern = getattr(config, name, None) or {}
            keys = {new: get_pattern_key(pattern.keys(), old) for new, old in self.modules.items()}
            setattr(config, name, {**pattern, **{new: pattern[key] for new, key in keys.items() if key in pattern}})
        whole = config.target_modules == "all-linear"
        if not whole and not all(check_target_module_exists(config, new) for new in self.modules):
            config.target_modules, config.layers_to_transform, config.layers_pattern = set(self.modules), None, None
        return config


SAME_NAMES = Naming()


def _here(name: str, modules: Collection[str]) -> str | None:
    """``name`` as it is on the base, None where the base has no such module."""
    candidates = (("", name), *_candidates(name))
    for added in range(1, _ADDED + 1):  # the closest module decides: every name is inside of some module
        for start, rest in candidates:
            module = (start + rest).rsplit(".", added)[0]
            # Some of it must be the name's own: VeRA's shared matrices are of the whole model.
            if len(start) < len(module) < len(start + rest) and module in modules:
                return start + rest
    return None


def _candidates(name: str) -> Iterator[tuple[str, str]]:
    """What ``name`` may be called elsewhere: what it begins with there, and the rest."""
    own = ("", *_LANGUAGE)
    yield from ((start, name) for start in _LANGUAGE)
    for prefix in _LANGUAGE:
        if name.startswith(prefix):
            yield from ((start, name.removeprefix(prefix)) for start in own)
