"""One adapter of each kind that PEFT attaches, made by PEFT on the starter with random weights, and PEFT's own answer."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import peft
import torch
from peft import LoraConfig, PeftModel, get_peft_model

from .conftest import greedy_ids, plain_model

ALL = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
SOME = ["q_proj", "v_proj", "down_proj"]
MORE_TOKENS = 8
# Tokens of the prompt that the tests use, so that an adapter of these alone changes the answer.
TRAINED = [604, 313, 787, 1069]


@dataclass(frozen=True)
class Kind:
    """How to make one. ``shares``: its rows share a pass with others; ``noise``: deviation of what is added."""

    config: Callable[[], Any]
    shares: bool = False
    scales: bool = False
    noise: float = 0.1
    more_tokens: bool = False
    keep_embeddings: bool = False


def _soft(config: Any, noise: float = 0.5, **options: Any) -> Kind:
    return Kind(lambda: config(task_type="CAUSAL_LM", **{"num_virtual_tokens": 5, **options}), shares=True, noise=noise)


def _lora(noise: float = 0.1, *, shares: bool = True, scales: bool = True, **options: Any) -> Kind:
    values = {"r": 4, "lora_alpha": 8, "target_modules": SOME, **options}
    return Kind(lambda: LoraConfig(**values), shares, scales, noise)


KINDS: Mapping[str, Kind] = {
    "lora": _lora(0.2),
    "rslora": _lora(use_rslora=True, target_modules=ALL),
    "dora": _lora(use_dora=True, target_modules=ALL),
    "lora with patterns": _lora(
        target_modules=ALL, rank_pattern={"q_proj": 2}, alpha_pattern={"layers.1.self_attn.k_proj": 3}
    ),
    "lora in two layers": _lora(0.3, target_modules=["q_proj"], layers_to_transform=[0, 2], layers_pattern="layers"),
    "lora by a regular expression": _lora(0.3, target_modules=r".*\.[13]\.mlp\.(up|down)_proj"),
    "pissa": _lora(0.1, init_lora_weights="pissa"),
    "olora": _lora(0.06, init_lora_weights="olora", use_rslora=True),
    "lora on the head": _lora(0.2, shares=False, target_modules=["q_proj", "lm_head"]),
    "lora on embeddings": _lora(shares=False, target_modules=["q_proj", "embed_tokens"]),
    "lora with its own bias": _lora(shares=False, lora_bias=True),
    "lora with all biases": _lora(0.2, shares=False, bias="all"),
    "saved module": _lora(shares=False, scales=False, modules_to_save=["norm"]),
    "trained tokens": _lora(shares=False, scales=False, trainable_token_indices=TRAINED),
    "saved embeddings": Kind(lambda: LoraConfig(r=4, target_modules=SOME), keep_embeddings=True),
    "more tokens in saved modules": Kind(
        lambda: LoraConfig(r=4, target_modules=SOME, modules_to_save=["embed_tokens", "lm_head"]), more_tokens=True
    ),
    "more tokens": Kind(lambda: LoraConfig(r=4, target_modules=SOME), more_tokens=True),
    "adalora": Kind(
        lambda: peft.AdaLoraConfig(init_r=6, target_r=4, total_step=10, target_modules=SOME), scales=True, noise=0.3
    ),
    "loha": Kind(lambda: peft.LoHaConfig(r=4, alpha=8, target_modules=SOME), scales=True, noise=0.4),
    "lokr": Kind(lambda: peft.LoKrConfig(r=4, alpha=8, target_modules=SOME), scales=True, noise=0.2),
    "ia3": Kind(
        lambda: peft.IA3Config(target_modules=["k_proj", "v_proj", "down_proj"], feedforward_modules=["down_proj"]),
        noise=0.5,
    ),
    "oft": Kind(lambda: peft.OFTConfig(r=0, oft_block_size=8, target_modules=SOME), noise=0.1),
    "boft": Kind(
        lambda: peft.BOFTConfig(boft_block_size=4, boft_n_butterfly_factor=1, target_modules=["q_proj"]), noise=0.1
    ),
    "vera": Kind(lambda: peft.VeraConfig(r=8, target_modules=["q_proj", "o_proj"]), noise=0.5),
    "hra": Kind(lambda: peft.HRAConfig(r=4, target_modules=["q_proj"]), noise=0.5),
    "ln tuning": Kind(lambda: peft.LNTuningConfig(task_type="CAUSAL_LM", target_modules=["norm"]), noise=2.0),
    "fourierft": Kind(lambda: peft.FourierFTConfig(n_frequency=50, target_modules=SOME), noise=5.0),
    "shira": Kind(lambda: peft.ShiraConfig(r=4, target_modules=SOME), scales=True, noise=0.6),
    "only trained tokens": Kind(lambda: peft.TrainableTokensConfig(token_indices=TRAINED), noise=0.1),
    "prompt tuning": _soft(peft.PromptTuningConfig, 2.0),
    "p-tuning": _soft(peft.PromptEncoderConfig, encoder_hidden_size=16, noise=0.5),
    "p-tuning with an LSTM": _soft(
        peft.PromptEncoderConfig, encoder_hidden_size=16, encoder_reparameterization_type="LSTM", noise=2.0
    ),
    "prefix tuning": _soft(peft.PrefixTuningConfig),
    "prefix tuning with a projection": _soft(
        peft.PrefixTuningConfig, prefix_projection=True, encoder_hidden_size=16, noise=0.8
    ),
    "cpt": Kind(
        lambda: peft.CPTConfig(
            task_type="CAUSAL_LM", cpt_token_ids=[7, 8, 9, 10], cpt_mask=[1] * 4, cpt_tokens_type_mask=[1, 2, 3, 4]
        ),
        shares=True,
        noise=0.2,
    ),
    "cartridge": _soft(peft.CartridgeConfig, num_frozen_tokens=1),
}  # fmt: skip


def make_kind(kind: Kind, folder: Path, seed: int = 0) -> Path:
    """Save an adapter of ``kind`` with random weights in ``folder``."""
    torch.manual_seed(seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = get_peft_model(_base(kind), kind.config())
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.requires_grad:
                    parameter.add_(torch.randn_like(parameter) * kind.noise)
            if kind.keep_embeddings or kind.more_tokens:
                embeddings = model.get_input_embeddings().weight
                embeddings.add_(torch.randn_like(embeddings) * 0.1)
        model.save_pretrained(folder, save_embedding_layers=True if kind.keep_embeddings else "auto")
    return folder


def plain_peft(kind: Kind, folder: Path) -> Any:
    """A base of its own with the adapter in ``folder``, by PEFT alone."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return PeftModel.from_pretrained(_base(kind), folder).eval()


def answer_of(model: Any, ids: list[int], tokens: int) -> list[int]:
    """PEFT's greedy answer."""
    return greedy_ids(model, ids, tokens)


def logprobs_of(model: Any, prompt: list[int], answer: list[int]) -> torch.Tensor:
    """Log-probabilities [answer] of ``answer``'s tokens after ``prompt``, by one pass of PEFT's."""
    ids = torch.tensor([prompt + answer])
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logits = model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False).logits[
            0, -len(answer) - 1 : -1
        ]
    return torch.log_softmax(logits.double(), -1).gather(1, torch.tensor(answer)[:, None])[:, 0]


def _base(kind: Kind) -> Any:
    base = plain_model()
    if kind.more_tokens:
        base.resize_token_embeddings(base.config.vocab_size + MORE_TOKENS, mean_resizing=False)
    return base
