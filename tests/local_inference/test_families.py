"""G13: other architectures than the starter's answer as plain transformers does; each is made here, tiny and random."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel, PrefixTuningConfig, PromptTuningConfig
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification

from playground.errors import AdapterInvalid, ModelUnsupported
from playground.local_inference import LocalInference
from playground.types import GenerationRequest, GenerationSettings, ModelSpec

from .conftest import STARTER, answers_of, greedy_ids
from .family_maker import ALONE, FAMILIES, TARGETS, make_family

# The others are run at leisure (make test-long); these cover every form of mask, cache and rotary regime.
ORDINARY = {"gpt2", "mistral", "gemma2", "phi3"}
SHORT, LONG, CROSSING = "Hello there, how are you?", "word " * 90, "So a word " * 15
PROMPTS = (SHORT, SHORT, CROSSING, LONG, CROSSING, LONG)
TOKENS = 16


def _requests(base: Path, adapters: Sequence[tuple[tuple[str, float], ...]]) -> list[GenerationRequest]:
    """Rows of all lengths with ``adapters`` in turn; greedy."""
    settings = GenerationSettings(strategy="greedy", max_new_tokens=TOKENS)
    return [
        GenerationRequest(ModelSpec(str(base), adapters[at % len(adapters)]), prompt, settings=settings, template="raw")
        for at, prompt in enumerate(PROMPTS)
    ]


def _plain(base: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32).eval()


def _rows_in_a_pass(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many rows each pass on slots has from now on."""
    from playground.local_inference import engine

    found: list[int] = []
    original = engine.next_logits_together

    def counted(model: Any, slab: Any, *args: Any) -> Any:
        found.append(len(slab.slots))
        return original(model, slab, *args)

    monkeypatch.setattr(engine, "next_logits_together", counted)
    return found


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "family", [pytest.param(name, marks=() if name in ORDINARY else pytest.mark.long) for name in FAMILIES]
)
def test_a_family_answers_mixed_with_adapters_as_plain_transformers(
    inference: LocalInference,
    tokenizer: Any,
    tmp_path: Path,
    make_adapter: Any,
    monkeypatch: pytest.MonkeyPatch,
    family: str,
) -> None:
    """G13, G2: short rows, rows beyond a window and across a rotary regime, base and two adapters, all at once."""
    from peft import LoraConfig

    base = make_family(tmp_path / "base", family, len(tokenizer))
    folders = [
        make_adapter(LoraConfig(r=rank, target_modules=TARGETS.get(family, "all-linear")), f"r{rank}", rank, base)
        for rank in (2, 5)
    ]
    models = [_plain(base), *(PeftModel.from_pretrained(_plain(base), folder).eval() for folder in folders)]
    expected = [greedy_ids(models[at % 3], tokenizer(prompt)["input_ids"], TOKENS) for at, prompt in enumerate(PROMPTS)]
    assert expected[0] != expected[1], "adapters that change nothing would prove nothing"
    for folder in folders:
        inference.load(ModelSpec(str(base), ((str(folder), 1.0),)))
    together = _rows_in_a_pass(monkeypatch)
    requests = _requests(base, [(), *(((str(folder), 1.0),) for folder in folders)])
    assert answers_of(inference, requests) == expected
    (info,) = [info for info in inference.residents() if info.base == str(base)]
    (resident,) = inference._machinery.residents.find(str(base))  # type: ignore[union-attr]
    assert (info.alone_because == "") == info.together == (family not in ALONE)
    assert ALONE.get(family, "") in info.alone_because
    assert not any(adapter.exclusive for adapter in info.adapters)
    if info.together and resident.packed is None:
        assert max(together) > (1 if resident.regimes.limit else 3)
    inference.unload(str(base))


class _Experts(nn.Module):
    """Experts that are linears of their own, as in models of former transformers; each gets the tokens that choose it."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.gate = nn.Linear(config.hidden_size, 3, bias=False)
        self.experts = nn.ModuleList(nn.Linear(config.hidden_size, config.hidden_size, bias=False) for _ in range(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        tokens, out = x.reshape(-1, x.shape[-1]), torch.zeros_like(x).reshape(-1, x.shape[-1])
        chosen = self.gate(tokens).argmax(-1)
        for at, expert in enumerate(self.experts):
            (some,) = torch.where(chosen == at)
            out[some] = expert(tokens[some]).tanh()
        return out.reshape(x.shape)


@pytest.mark.long
@pytest.mark.filterwarnings("ignore")
def test_an_adapter_on_an_expert_that_gets_some_of_the_tokens_is_not_mixed_up(
    inference: LocalInference, tokenizer: Any, tmp_path: Path, make_adapter: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """G13, G2: which tokens those are is not told, so PEFT serves it; one on the other layers shares passes."""
    from peft import LoraConfig

    monkeypatch.setattr("transformers.models.mistral.modeling_mistral.MistralMLP", _Experts)
    base = make_family(tmp_path / "base", "mistral", len(tokenizer))
    kinds = [LoraConfig(r=8, target_modules=r".*experts\.\d"), LoraConfig(target_modules=["q_proj", "gate"])]
    folders = [make_adapter(kind, f"a{seed}", seed, base) for seed, kind in enumerate([*kinds, kinds[0]])]
    models = [_plain(base), *(PeftModel.from_pretrained(_plain(base), folder).eval() for folder in folders)]
    requests = _requests(base, [(), *(((str(folder), 1.0),) for folder in folders)])
    for request in requests:
        inference.load(request.spec)
    expected = [greedy_ids(models[at % 4], tokenizer(prompt)["input_ids"], TOKENS) for at, prompt in enumerate(PROMPTS)]
    assert answers_of(inference, requests) == expected
    (info,) = [info for info in inference.residents() if info.base == str(base)]
    assert info.together
    assert [adapter.exclusive for adapter in info.adapters] == [True, False, True]
    inference.unload(str(base))


def test_a_model_without_a_template_gets_plain_lines_and_a_notice(
    inference: LocalInference, tokenizer: Any, tmp_path: Path
) -> None:
    """G7: said, not silent."""
    folder = make_family(tmp_path / "gpt2", "gpt2", len(tokenizer))
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

    folder = make_family(tmp_path / "qwen2", "qwen2", len(tokenizer))
    tensors = load_file(folder / "model.safetensors")
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelUnsupported, match="lacks 1 weights"):
        inference.load(ModelSpec(str(folder)))


def test_a_damaged_checkpoint_is_refused(inference: LocalInference, tokenizer: Any, tmp_path: Path) -> None:
    """G6: cut off in the middle of a copy."""
    folder = make_family(tmp_path / "qwen2", "qwen2", len(tokenizer))
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(ModelUnsupported, match="cut off"):
        inference.load(ModelSpec(str(folder)))


def test_pickle_weights_are_refused(inference: LocalInference, tokenizer: Any, tmp_path: Path) -> None:
    """S1: no pickle is ever opened."""
    folder = make_family(tmp_path / "qwen2", "qwen2", len(tokenizer))
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
        pytest.param("qwen3_5_text", {"target_modules": "all-linear"}, marks=pytest.mark.long),
    ],
    ids=lambda value: value if isinstance(value, str) else ", ".join(value),
)
def test_an_adapter_on_another_family_answers_as_peft(
    inference: LocalInference, tokenizer: Any, tmp_path: Path, make_adapter: Any, family: str, options: dict[str, Any]
) -> None:
    """G13, G2: transposed linears, biases, experts; and the base is untouched after it."""
    from peft import LoraConfig

    base = make_family(tmp_path / family, family, len(tokenizer))
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
    base = make_family(tmp_path / family, family, len(tokenizer))
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
