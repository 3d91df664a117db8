"""Our own forward pass: it answers as transformers' does, whatever is packed beside it, and gives way where it does not."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel
from transformers import AutoModelForCausalLM

from playground.local_inference import LocalInference
from playground.local_inference.lora import LoraWeights, read_weights
from playground.local_inference.mixing import Active
from playground.local_inference.packed import PackedModel
from playground.local_inference.slots import Contents, SlotCache
from playground.types import ModelSpec

from .conftest import STARTER, plain_model
from .family_maker import FAMILIES, LLAMA, make_family

MADE = {**FAMILIES, "llama": ("llama", {**LLAMA, "attention_bias": True})}
PACKED = ("llama", "qwen2", "qwen3", "mistral, no window")
OTHERS = ("llama, dynamic", "llama, longrope", "mistral", "gpt2", "gemma2", "phi3", "mixtral", "qwen2, windows")
LINEARS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def _load(folder: Path, **options: Any) -> Any:
    return AutoModelForCausalLM.from_pretrained(folder, **{"dtype": torch.float32, **options}).eval()


def _last_logits(model: Any, ids: list[int]) -> torch.Tensor:
    with torch.inference_mode():
        logits: torch.Tensor = model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1].float()
    return logits


def _read(packed: PackedModel, ids: list[int], adapter: Active, pieces: int) -> Any:
    """A prompt read alone, in pieces, as a source for a slot."""
    reading = packed.reading(len(ids))
    for piece in torch.tensor(ids).tensor_split(min(pieces, len(ids))):
        packed.step([], [], [(reading, piece.tolist())], [adapter])
        reading.read += len(piece)
    return reading


@pytest.mark.parametrize("family", PACKED)
def test_a_pass_of_everything_at_once_is_each_alone(
    tmp_path: Path, tokenizer: Any, make_adapter: Callable[..., Path], family: str
) -> None:
    """G2, G11, G14: decoding rows of two buckets and pieces of prompts, base, LoRA, DoRA and a strength, in one pass."""
    base = make_family(tmp_path / family, family, len(tokenizer), of=MADE)
    model, oracle = _load(base), _load(base)
    configs = [
        LoraConfig(r=4, lora_alpha=8, target_modules=LINEARS),
        LoraConfig(r=3, use_dora=True, target_modules=["k_proj", "up_proj", "o_proj"]),
        LoraConfig(r=5, use_rslora=True, target_modules=["v_proj", "lm_head"]),
    ]
    folders = [make_adapter(config, f"a{at}", seed=at, base=base) for at, config in enumerate(configs)]
    modules = dict(model.named_modules())
    weights = [read_weights(folder, LoraConfig.from_pretrained(folder), modules, torch.float32) for folder in folders]
    rows: list[tuple[Active, list[int]]] = [
        ((), list(range(5, 40))),
        (((weights[0], 1.0),), list(range(60, 67))),
        (((weights[1], 1.0),), [7, 8, 9]),
        (((weights[0], 0.5),), [3] * 300),
        (((weights[1], 0.7),), list(range(90, 120))),
        (((weights[2], 1.0),), [11, 12, 13, 14]),
        ((), [21]),
    ]
    packed = PackedModel(model)
    slots, decoding = SlotCache(), rows[:4]
    joined = {}
    for at, (adapter, ids) in enumerate(decoding):
        reading = _read(packed, ids[:-1], adapter, 1 + at % 3)
        joined[slots.join(Contents(reading.planes, reading.read))] = (adapter, ids)
    slabs = slots.groups(list(joined))
    ordered = [joined[slot] for slab in slabs for slot in slab.slots]
    halves = []
    for adapter, ids in rows[4:]:
        cut = len(ids) // 2
        reading = _read(packed, ids[:cut], adapter, 1) if cut else packed.reading(len(ids))
        halves.append((reading if reading.read == 0 else _longer(packed, reading, len(ids)), ids[cut:]))
    everyone = [*ordered, *rows[4:]]
    logits = packed.step(slabs, [ids[-1] for _, ids in ordered], halves, [adapter for adapter, _ in everyone])
    for (adapter, ids), got in zip(everyone, logits, strict=True):
        expected = _alone(oracle, base, dict(zip(map(id, weights), folders, strict=True)), adapter, ids)
        torch.testing.assert_close(got, expected, atol=2e-3, rtol=1e-3)


@torch.inference_mode()
def _longer(packed: PackedModel, reading: Any, positions: int) -> Any:
    """``reading`` with room for more."""
    roomy = packed.reading(positions)
    for new, old in zip(roomy.planes, reading.planes, strict=True):
        new[: reading.read] = old[: reading.read]
    roomy.read = reading.read
    return roomy


def _alone(oracle: Any, base: Path, folders: dict[int, Path], adapter: Active, ids: list[int]) -> torch.Tensor:
    """What plain transformers and PEFT say."""
    from peft.tuners.lora import LoraLayer

    if not adapter:
        return _last_logits(oracle, ids)
    ((weights, strength),) = adapter
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tuned = PeftModel.from_pretrained(_load(base), folders[id(weights)]).eval()
    for module in tuned.modules():
        if isinstance(module, LoraLayer):
            module.set_scale("default", strength)
    return _last_logits(tuned, ids)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("family", PACKED + OTHERS)
def test_only_what_answers_as_the_model_is_packed(tmp_path: Path, tokenizer: Any, family: str) -> None:
    """G13: other shapes, sliding windows and moving rotary embeddings keep transformers' own forward pass."""
    model = _load(make_family(tmp_path / family, family, len(tokenizer), of=MADE))
    assert (PackedModel.of(model, len(tokenizer)) is not None) == (family in PACKED)


def test_a_model_whose_modules_do_something_else_is_not_packed() -> None:
    """G13: the try-out compares logits, it does not believe the class's name."""
    model = plain_model()
    model.model.layers[2].mlp.register_forward_hook(lambda module, args, output: output * 1.5)
    assert PackedModel.of(model, model.config.vocab_size) is None


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_lower_precision_is_packed_too(dtype: torch.dtype) -> None:
    """G8: what differs is rounding."""
    model = _load(STARTER, dtype=dtype)
    assert PackedModel.of(model, model.config.vocab_size) is not None


def test_packing_does_not_copy_the_weights() -> None:
    """G12, R2: joined linears share their memory with the modules, whose own forward pass stays what it was."""
    model, ids = plain_model(), list(range(40))
    before = _last_logits(model, ids)
    held = sum(parameter.numel() for parameter in model.parameters())
    packed = PackedModel.of(model, model.config.vocab_size)
    assert packed is not None
    storages = {p.untyped_storage().data_ptr(): p.untyped_storage().nbytes() for p in model.parameters()}
    assert sum(storages.values()) == 4 * held
    assert len(packed._layers[0].qkv.weights) == 1
    assert packed._layers[0].qkv.weights[0].untyped_storage().data_ptr() in storages
    torch.testing.assert_close(_last_logits(model, ids), before, atol=1e-4, rtol=1e-4)


def test_an_adapter_of_strength_zero_costs_nothing() -> None:
    """G14: nothing is added to a pass whose rows are all the base."""
    from playground.local_inference.mixing import Mixer

    weights = LoraWeights({})
    assert Mixer().mix(((), ((weights, 0.0),)), (1, 1)) is None


def test_companies_of_adapters_are_remembered_and_few() -> None:
    """G1, G12: rows that come and go do not have their adapters joined anew each time, nor for ever kept."""
    from playground.local_inference.mixing import Mixer

    some = [_weights(4, seed) for seed in range(12)]
    mixer = Mixer()
    everyone = mixer.mix((((some[0], 1.0),), ((some[1], 0.5),), ()), (1, 1, 1))
    fewer = mixer.mix((((some[1], 1.0),), ()), (1, 3))
    assert everyone is not None
    assert fewer is not None
    assert fewer.company is everyone.company
    for weights in some:
        mixer.mix((((weights, 1.0),),), (1,))
    assert len(mixer._companies) <= 4
    mixer.forget(some[-1])
    assert all(some[-1] is not member for company in mixer._companies for member, _ in company.members)


def _weights(rank: int, seed: int) -> LoraWeights:
    from playground.local_inference.lora import LoraLayer

    chance = torch.Generator().manual_seed(seed)
    a, b = torch.randn(rank, 8, generator=chance), torch.randn(6, rank, generator=chance)
    return LoraWeights({"linear": LoraLayer(a, b, 2.0, torch.nn.Linear(8, 6))})


def test_an_adapter_on_a_linear_that_our_pass_does_not_know_is_pefts(
    make_adapter: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """G2: never left out in silence."""
    engine = LocalInference()
    engine.load(ModelSpec(str(STARTER)))
    assert engine._machinery is not None
    packed = engine._machinery.residents.all()[0].packed
    monkeypatch.setattr(packed, "linears", packed.linears - {"model.layers.2.mlp.up_proj"})
    folders = [make_adapter(LoraConfig(r=4, target_modules=[name]), name) for name in ("up_proj", "q_proj")]
    for folder, alone in zip(folders, (True, False), strict=True):
        info = engine.load(ModelSpec(str(STARTER), ((str(folder), 1.0),)))
        assert next(a for a in info.adapters if a.path == str(folder)).exclusive == alone
    engine.close()
