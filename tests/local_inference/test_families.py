"""G13: other architectures than the starter's answer as plain transformers does; each is made here, tiny and random."""

from __future__ import annotations

import shutil
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel, PrefixTuningConfig, PromptTuningConfig
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification

from playground.errors import AdapterInvalid, ModelUnsupported
from playground.local_inference import LocalInference
from playground.types import GenerationRequest, GenerationSettings, ModelSpec

from .conftest import STARTER, greedy_ids

LLAMA = {
    "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 4, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 16, "max_position_embeddings": 512,
}  # fmt: skip
GPT2 = {"n_embd": 64, "n_layer": 3, "n_head": 4, "n_positions": 512}
LINEAR = {
    "linear_num_value_heads": 4,
    "linear_num_key_heads": 2,
    "linear_key_head_dim": 16,
    "linear_value_head_dim": 16,
}
FAMILIES: dict[str, dict[str, Any]] = {
    "gpt2": GPT2,
    "mistral": {**LLAMA, "sliding_window": 32},
    "qwen2": LLAMA,
    "qwen3": LLAMA,
    "gemma2": {**LLAMA, "sliding_window": 32},
    "gemma3_text": {**LLAMA, "sliding_window": 32},
    "phi3": {
        **LLAMA,
        "original_max_position_embeddings": 64,
        "rope_scaling": {"type": "longrope", "short_factor": [1.0] * 8, "long_factor": [2.0] * 8},
    },
    "mixtral": {**LLAMA, "num_local_experts": 4},
    "gpt_oss": {**LLAMA, "num_local_experts": 4, "sliding_window": 32},
    "qwen3_5_text": {**LLAMA, **LINEAR},
    "mamba": {"hidden_size": 64, "num_hidden_layers": 3, "state_size": 8},
}
WINDOW, STATE = "see only a window of the latest tokens", "recurrent layers keep a running state"
# Whose answers do not share a pass, and what the page says of it.
ALONE = {
    "mistral": WINDOW, "gemma2": WINDOW, "gemma3_text": WINDOW, "gpt_oss": WINDOW, "qwen3_5_text": STATE, "mamba": STATE,
    "phi3": "position embeddings change with the longest text",
}  # fmt: skip
PLAIN = {"qwen2"}  # computed as qwen3, and answered for by the tests of adapters below
SHORT, LONG, CROSSING = "Hello there, how are you?", "word " * 90, "word " * 55


def _make(folder: Path, family: str, tokenizer: Any) -> Path:
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        config = AutoConfig.for_model(
            family, vocab_size=len(tokenizer), bos_token_id=1, pad_token_id=0, eos_token_id=2, **FAMILIES[family]
        )
        model = AutoModelForCausalLM.from_config(config).float()
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.dim() > 1:
                    parameter.mul_(3)  # larger weights: clear winners instead of near ties
        model.save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(STARTER / name, folder / name)
    return folder


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "family", [pytest.param(name, marks=pytest.mark.long if name in PLAIN else ()) for name in FAMILIES]
)
def test_a_family_answers_as_plain_transformers(
    inference: LocalInference, tokenizer: Any, tmp_path: Path, family: str
) -> None:
    """G13: short prompts, prompts beyond a sliding window, and answers that cross a rotary regime."""
    folder = _make(tmp_path / family, family, tokenizer)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    for prompt in (SHORT, LONG, CROSSING):
        settings = GenerationSettings(strategy="greedy", max_new_tokens=20)
        request = GenerationRequest(ModelSpec(str(folder)), prompt, settings=settings, template="raw")
        got = [token.id for event in inference.stream(request) for token in event.tokens]
        assert got == greedy_ids(model, tokenizer(prompt)["input_ids"], 20), prompt[:20]
    info = inference.load(ModelSpec(str(folder)))
    assert ALONE.get(family, "") in info.alone_because
    assert info.together == (not info.alone_because) == (family not in ALONE)
    inference.unload(str(folder))


def test_a_model_without_a_template_gets_plain_lines_and_a_notice(
    inference: LocalInference, tokenizer: Any, tmp_path: Path
) -> None:
    """G7: said, not silent."""
    folder = _make(tmp_path / "gpt2", "gpt2", tokenizer)
    (folder / "chat_template.jinja").unlink(missing_ok=True)
    request = GenerationRequest(ModelSpec(str(folder)), "Hi", settings=GenerationSettings(max_new_tokens=3))
    events = list(inference.stream(request))
    assert any("no chat template" in event.notice for event in events)
    assert inference.render(request).text == "User: Hi\nAssistant:"


def test_a_classifier_and_an_encoder_decoder_are_refused_by_name(
    inference: LocalInference, tokenizer: Any, tmp_path: Path
) -> None:
    """R3."""
    small = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = AutoConfig.for_model("bert", vocab_size=len(tokenizer), **small)
    AutoModelForSequenceClassification.from_config(config).save_pretrained(tmp_path / "bert")
    with pytest.raises(ModelUnsupported, match=r"BertForSequenceClassification.*does not generate text"):
        inference.load(ModelSpec(str(tmp_path / "bert")))
    t5 = AutoConfig.for_model("t5", vocab_size=len(tokenizer))
    t5.save_pretrained(tmp_path / "t5")
    with pytest.raises(ModelUnsupported, match="encoder-decoder"):
        inference.load(ModelSpec(str(tmp_path / "t5")))


def test_a_checkpoint_with_missing_weights_is_refused(
    inference: LocalInference, tokenizer: Any, tmp_path: Path
) -> None:
    """R3: transformers would fill them with random numbers and only warn."""
    from safetensors.torch import load_file, save_file

    folder = _make(tmp_path / "qwen2", "qwen2", tokenizer)
    tensors = load_file(folder / "model.safetensors")
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelUnsupported, match="lacks 1 weights"):
        inference.load(ModelSpec(str(folder)))


def test_a_damaged_checkpoint_is_refused(inference: LocalInference, tokenizer: Any, tmp_path: Path) -> None:
    """G6: cut off in the middle of a copy."""
    folder = _make(tmp_path / "qwen2", "qwen2", tokenizer)
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(ModelUnsupported, match="cut off"):
        inference.load(ModelSpec(str(folder)))


def test_pickle_weights_are_refused(inference: LocalInference, tokenizer: Any, tmp_path: Path) -> None:
    """S1: no pickle is ever opened."""
    folder = _make(tmp_path / "qwen2", "qwen2", tokenizer)
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(ModelUnsupported, match=r"no \.safetensors weights"):
        inference.load(ModelSpec(str(folder)))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("quantization", ["int8", "nf4", "fp4", "int4"])
def test_a_quantized_base_with_an_adapter(inference: LocalInference, quantization: Any) -> None:
    """G8: loads on a CPU, answers, carries an adapter; int4 is nf4 and reported so."""
    from .conftest import PIRATE

    spec = ModelSpec(str(STARTER), ((str(PIRATE), 1.0),), quantization=quantization)
    request = GenerationRequest(spec, "Hello!", settings=GenerationSettings(strategy="greedy", max_new_tokens=8))
    events = list(inference.stream(request))
    assert events[-1].provenance is not None
    assert events[-1].provenance.quantization == ("nf4" if quantization == "int4" else quantization)
    info = next(i for i in inference.residents() if i.quantization == events[-1].provenance.quantization)
    assert info.adapters[0].moves_logits
    assert len(inference.residents()) <= 4


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("family", "options"),
    [
        ("gpt2", {"target_modules": ["c_attn", "c_proj"], "fan_in_fan_out": True}),
        ("gpt2", {"target_modules": ["c_attn"], "fan_in_fan_out": True, "init_lora_weights": "pissa"}),
        pytest.param("qwen2", {"target_modules": "all-linear"}, marks=pytest.mark.long),
        ("qwen2", {"target_modules": ["q_proj"], "bias": "all"}),
        ("mixtral", {"target_modules": ["q_proj"], "target_parameters": ["experts.gate_up_proj"]}),
        ("qwen3_5_text", {"target_modules": "all-linear"}),
    ],
    ids=lambda value: value if isinstance(value, str) else ", ".join(value),
)
def test_an_adapter_on_another_family_answers_as_peft(
    inference: LocalInference, tokenizer: Any, tmp_path: Path, make_adapter: Any, family: str, options: dict[str, Any]
) -> None:
    """G13, G2: transposed linears, biases, experts; and the base is untouched after it."""
    from peft import LoraConfig

    base = _make(tmp_path / family, family, tokenizer)
    folder = make_adapter(LoraConfig(r=4, lora_alpha=16, **options), "adapter", base=base)
    ids = tokenizer(SHORT)["input_ids"]

    def answer(*adapters: tuple[str, float]) -> list[int]:
        settings = GenerationSettings(strategy="greedy", max_new_tokens=16)
        request = GenerationRequest(ModelSpec(str(base), adapters), SHORT, settings=settings, template="raw")
        return [token.id for event in inference.stream(request) for token in event.tokens]

    def plain() -> Any:
        return AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32).eval()

    assert answer((str(folder), 1.0)) == greedy_ids(PeftModel.from_pretrained(plain(), folder).eval(), ids, 16)
    assert answer() == greedy_ids(plain(), ids, 16)
    inference.unload(str(base))


SOFT = {
    "prompt tuning": lambda: PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=5),
    "prefix tuning": lambda: PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=5),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("family", "kind", "refused"),
    [
        ("gpt2", "prompt tuning", ""),
        pytest.param("gpt2", "prefix tuning", "", marks=pytest.mark.long),
        pytest.param("qwen3", "prefix tuning", "", marks=pytest.mark.long),
        pytest.param("gemma3_text", "prompt tuning", "", marks=pytest.mark.long),
        ("mistral", "prompt tuning", ""),
        ("mistral", "prefix tuning", "this base has sliding windows"),
        pytest.param("qwen3_5_text", "prompt tuning", "this base has recurrent layers", marks=pytest.mark.long),
        pytest.param("phi3", "prompt tuning", "positions that depend on the whole prompt", marks=pytest.mark.long),
    ],
)
def test_a_soft_prompt_on_another_family_answers_as_peft_or_says_why_not(
    inference: LocalInference, tokenizer: Any, tmp_path: Path, make_adapter: Any, family: str, kind: str, refused: str
) -> None:
    """G13, R3: learned positions, scaled embeddings, sliding windows; a long prompt in pieces beside the base."""
    base = _make(tmp_path / family, family, tokenizer)
    folder = make_adapter(SOFT[kind](), kind.replace(" ", "-"), base=base)

    def answer(*adapters: tuple[str, float]) -> list[int]:
        settings = GenerationSettings(strategy="greedy", max_new_tokens=16)
        request = GenerationRequest(ModelSpec(str(base), adapters), LONG, settings=settings, template="raw")
        return [token.id for event in inference.stream(request) for token in event.tokens]

    plain = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32).eval()
    ids = tokenizer(LONG)["input_ids"]
    alone = greedy_ids(plain, ids, 16)
    assert answer() == alone
    if refused:
        with pytest.raises(AdapterInvalid, match=f"is a soft prompt.*{refused}.*Use a LoRA on this base"):
            answer((str(folder), 1.0))
    else:
        assert answer((str(folder), 1.0)) == greedy_ids(PeftModel.from_pretrained(plain, folder).eval(), ids, 16)
    assert answer() == alone
    inference.unload(str(base))
