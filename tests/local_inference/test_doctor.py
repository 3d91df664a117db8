"""G9: NaN and zeros; the doctor's numbers are those of a dense computation, on made-up adapters and on PEFT's own."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from playground.errors import AdapterInvalid
from playground.local_inference import doctor
from playground.local_inference.doctor import examine, full_report, lora_scaling, scan_weights, spectrum

from .adapter_maker import (
    HIDDEN,
    LINEARS,
    PREFIX,
    Q0,
    RANK,
    TOKENS,
    WEIGHTS,
    embedding,
    f32,
    framed,
    head,
    joined_experts,
    make,
    make_base,
    pairs,
    safetensors_bytes,
    zeros,
)
from .conftest import PIRATE, STARTER

NOT_FINITE = {
    "F32": [0x7FC00000, 0x7F800000, 0xFF800000],
    "F16": [0x7E00, 0x7C00, 0xFC00],
    "BF16": [0x7FC0, 0x7F80, 0xFF80],
    "F64": [0x7FF8000000000000, 0x7FF0000000000000, 0xFFF0000000000000],
}
FINITE = {"F32": 0x7F7FFFFF, "F16": 0x7BFF, "BF16": 0xFF7F, "F64": 0x7FEFFFFFFFFFFFFF}
WIDTH = {"F32": 4, "F16": 2, "BF16": 2, "F64": 8}


def codes(findings: Any) -> dict[str, str]:
    return {finding.code: finding.sentence for finding in findings}


def one_value(dtype: str, bits: int) -> tuple[str, tuple[int, ...], bytes]:
    """A of zeros with this bit pattern as its last number."""
    width = WIDTH[dtype]
    return dtype, (RANK, HIDDEN), bytes((RANK * HIDDEN - 1) * width) + bits.to_bytes(width, "little")


@pytest.mark.parametrize(
    ("dtype", "bits"), [(dtype, bits) for dtype, all_bits in NOT_FINITE.items() for bits in all_bits]
)
def test_nan_and_infinity_are_found(tmp_path: Path, dtype: str, bits: int) -> None:
    """G9: in every type, also in the very last number."""
    folder = make(tmp_path / "bad", pairs() | {f"{Q0}.lora_A.weight": one_value(dtype, bits)})
    assert "q_proj.lora_A.weight holds NaN" in codes(scan_weights(folder))["not-finite"]
    report = full_report(folder)
    assert (report.verdict, list(codes(report.findings))) == ("problems", ["not-finite"])
    with pytest.raises(AdapterInvalid, match="cannot be examined"):
        examine(folder)


@pytest.mark.parametrize("dtype", FINITE)
def test_the_largest_finite_number_is_no_infinity(tmp_path: Path, dtype: str) -> None:
    """G9."""
    folder = make(tmp_path / "good", pairs() | {f"{Q0}.lora_A.weight": one_value(dtype, FINITE[dtype])})
    assert scan_weights(folder) == ()
    json.dumps(examine(folder, make_base(tmp_path / "tiny")).to_dict(), allow_nan=False)


def test_sizes_at_the_ends_of_what_a_number_holds() -> None:
    """G9's doctor: nothing overflows on the way, and what does at the end is left out, not written as infinity."""
    random = np.random.default_rng(3)
    a, b = random.normal(size=(4, 30)), random.normal(size=(20, 4))
    plain, large = spectrum(a, b, 1.0), spectrum(a * 1e200, b * 1e-200, 1.0)
    assert large == pytest.approx(plain)
    assert spectrum(a * 1e-300, b, 1.0)[2] == pytest.approx(plain[2])
    assert spectrum(a * 1e200, b * 1e200, 1.0)[0] == math.inf


def test_what_overflows_is_not_measured(tmp_path: Path) -> None:
    """G9's doctor: JSON knows no infinity."""
    huge = ("F64", (RANK, HIDDEN), np.full((RANK, HIDDEN), 1e308).tobytes())
    ours = ("F64", (HIDDEN, RANK), np.full((HIDDEN, RANK), 1e308).tobytes())
    folder = make(tmp_path / "huge", pairs() | {f"{Q0}.lora_A.weight": huge, f"{Q0}.lora_B.weight": ours})
    assert examine(folder).unmeasured == ("model.layers.0.self_attn.q_proj",)


def test_the_last_piece_of_a_long_tensor_is_read_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """G9: tensors are read in pieces."""
    monkeypatch.setattr(doctor, "_CHUNK", 7)
    folder = make(tmp_path / "bad", pairs() | {f"{Q0}.lora_A.weight": one_value("F16", 0x7E00)})
    assert "not-finite" in codes(scan_weights(folder))
    assert examine(make(tmp_path / "good")) == examine_again(tmp_path, monkeypatch)


def examine_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The same diagnosis with the usual pieces."""
    monkeypatch.undo()
    return examine(tmp_path / "good")


def test_zeros(tmp_path: Path) -> None:
    """G9, G10: an adapter that cannot have an effect is a warning; minus zero is zero; some layers are a note."""
    silent = {name: f32(np.full(value[1], -0.0)) if "_B" in name else value for name, value in pairs().items()}
    report = full_report(make(tmp_path / "silent", silent))
    assert (report.verdict, list(codes(report.findings))) == ("warnings", ["no-effect"])
    partly = pairs() | {f"{Q0}.lora_B.weight": zeros(HIDDEN, RANK)}
    report = full_report(make(tmp_path / "partly", partly))
    assert (report.verdict, list(codes(report.findings))) == ("sound", ["untrained-layers"])
    assert "1 of 6 layers" in codes(report.findings)["untrained-layers"]
    saved = silent | {f"{PREFIX}model.norm.weight": f32(np.ones(HIDDEN))}
    assert "no-effect" not in codes(scan_weights(make(tmp_path / "saved", saved, modules_to_save=["norm"])))


def test_the_numbers_are_read_once_for_each_version_of_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """G9: per path, size and modification time."""
    folder = make(tmp_path / "adapter")
    reads = []
    original = doctor._bits

    def counted(path: Path, tensor: Any) -> Any:
        reads.append(path)
        return original(path, tensor)

    monkeypatch.setattr(doctor, "_bits", counted)
    assert scan_weights(folder) == ()
    once = len(reads)
    assert once == len(pairs())
    assert scan_weights(folder) == ()
    assert len(reads) == once
    file = folder / WEIGHTS
    file.write_bytes(safetensors_bytes(pairs() | {f"{Q0}.lora_A.weight": one_value("F32", 0x7FC00000)}))
    os.utime(file, ns=(1, 1))
    assert "not-finite" in codes(scan_weights(folder))


def test_a_file_that_changes_while_it_is_checked_is_a_finding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """G9: a trainer may write at any moment."""
    folder = make(tmp_path / "adapter")
    original = doctor.check_adapter

    def then(change: Any) -> Any:
        def check(*args: Any, **kwargs: Any) -> Any:
            report = original(*args, **kwargs)
            change()
            return report

        return check

    monkeypatch.setattr(doctor, "check_adapter", then(lambda: (folder / WEIGHTS).write_bytes(b"")))
    assert "weights-empty" in codes(full_report(folder).findings)
    make(folder)
    monkeypatch.setattr(doctor, "check_adapter", then((folder / WEIGHTS).unlink))
    assert "unreadable" in codes(full_report(folder).findings)


@pytest.mark.parametrize(
    ("out", "into", "rank"), [(40, 30, 4), (6, 50, 16), (50, 6, 16), (1, 1, 1), (64, 64, 64), (3001, 777, 3)]
)
def test_the_spectrum_is_that_of_the_dense_product(out: int, into: int, rank: int) -> None:
    """G9's doctor: norm, largest singular value and effective rank, also where the rank exceeds the matrix."""
    random = np.random.default_rng(out)
    a, b = random.normal(size=(rank, into)), random.normal(size=(out, rank))
    values = np.linalg.svd(-1.5 * b @ a, compute_uv=False)
    shares = values[values > 1e-12 * values[0]] / values.sum()
    norm, largest, effective = spectrum(a, b, -1.5)
    assert norm == pytest.approx(np.linalg.norm(1.5 * b @ a), rel=1e-9)
    assert largest == pytest.approx(values[0], rel=1e-9)
    assert effective == pytest.approx(math.exp(-(shares * np.log(shares)).sum()), rel=1e-6)


def test_effective_ranks_that_are_known() -> None:
    """Roy and Vetterli: k equal directions count as k, one direction as one, none as none."""
    eye = np.eye(8)
    assert spectrum(eye[:5], eye[:, :5], 1.0) == pytest.approx((math.sqrt(5), 1.0, 5.0))
    assert spectrum(np.ones((4, 8)), np.ones((8, 4)), 2.0)[2] == pytest.approx(1.0, abs=1e-6)
    assert spectrum(eye[:5], np.zeros((8, 5)), 1.0) == (0.0, 0.0, 0.0)
    assert spectrum(eye[:5], np.zeros((8, 5)), 0.0) == (0.0, 0.0, 0.0)
    assert spectrum(np.diag([1.0, 0.0]), np.diag([0.0, 1.0]), 1.0) == (
        0.0,
        0.0,
        0.0,
    )  # neither is zero, their product is


def test_scaling_follows_the_patterns() -> None:
    """alpha / r, alpha / √r for rsLoRA; what the configuration does not describe is not measured."""
    config: dict[str, Any] = {"r": 4, "lora_alpha": 8, "rank_pattern": {"k": 16}, "alpha_pattern": {r"2\.k": 4}}
    assert lora_scaling(config, "layers.1.q", 4) == 2.0
    assert lora_scaling(config, "layers.1.k", 16) == 0.5
    assert lora_scaling(config, "layers.2.k", 16) == 0.25
    assert lora_scaling(config | {"use_rslora": True}, "layers.1.k", 16) == 2.0
    assert lora_scaling(config, "layers.1.q", 8) is None
    assert lora_scaling({"r": 4}, "q", 4) is None
    assert lora_scaling(config | {"use_bdlora": {"nblocks": 2}}, "layers.1.q", 4) is None


def test_layers_are_measured_against_the_base(tmp_path: Path) -> None:
    """G9's doctor: relative to W, with dead layers and those that changed most; nothing without the base."""
    base = make_base(tmp_path / "tiny")
    weak, none = (
        f"{PREFIX}model.layers.1.self_attn.k_proj.lora_B.weight",
        f"{PREFIX}model.layers.1.mlp.down_proj.lora_B.weight",
    )
    tensors = pairs()
    tensors |= {weak: f32(np.full((16, RANK), 1e-6)), none: zeros(HIDDEN, RANK)}
    found = examine(make(tmp_path / "adapter", tensors), base)
    assert [layer.module.rpartition("layers.")[2] for layer in found.layers] == [
        f"{i}.{n}" for i in (0, 1) for n in LINEARS
    ]
    assert [(layer.number, layer.part) for layer in found.layers] == [(i, n) for i in (0, 1) for n in LINEARS]
    assert found.dead == ("model.layers.1.self_attn.k_proj", "model.layers.1.mlp.down_proj")
    shares = {layer.module: layer.relative for layer in found.layers}
    assert list(found.most_changed) == sorted((m for m in shares if shares[m]), key=lambda m: -(shares[m] or 0))[:5]
    assert "model.layers.1.mlp.down_proj" not in found.most_changed
    alone = examine(tmp_path / "adapter")
    assert {layer.relative for layer in alone.layers} == {None}
    assert [layer.norm for layer in alone.layers] == [layer.norm for layer in found.layers]
    assert (found.rank, found.alpha, found.rslora, found.dora, found.kind) == (4, 8.0, False, False, "LORA")
    assert found.parameters == sum(math.prod(shape) for _, shape, _ in tensors.values())
    assert json.loads(json.dumps(found.to_dict()))["layers"][0]["module"] == found.layers[0].module


def test_embeddings_head_and_experts(tmp_path: Path) -> None:
    """G9's doctor: the tied head is measured against the embeddings; experts in one tensor are not measured, and named."""
    base = make_base(tmp_path / "tiny")
    table = np.random.default_rng(7).normal(size=(TOKENS, HIDDEN)).astype("<f4")
    ones = {name: f32(np.ones(value[1])) for name, value in {**embedding(), **head()}.items()}
    targets = ["embed_tokens", "lm_head"]
    found = {layer.module: layer for layer in examine(make(tmp_path / "a", ones, target_modules=targets), base).layers}
    for module in ("model.embed_tokens", "lm_head"):
        norm = 2 * RANK * math.sqrt(TOKENS * HIDDEN)
        assert (found[module].number, found[module].part) == (None, module)
        assert found[module].norm == pytest.approx(norm)
        assert found[module].relative == pytest.approx(norm / np.linalg.norm(table), rel=1e-5)
    experts = examine(make(tmp_path / "b", pairs() | joined_experts(), target_parameters=["mlp.experts.gate_up_proj"]))
    assert experts.unmeasured == ("model.layers.0.mlp.experts",)
    assert len(experts.layers) == len(pairs()) / 2


def test_a_damaged_or_quantized_base_only_lacks_the_shares(tmp_path: Path) -> None:
    """G9's doctor."""
    base, folder = make_base(tmp_path / "tiny"), make(tmp_path / "adapter")
    packed = {"model.layers.0.self_attn.q_proj.weight": zeros(512, 1, dtype="U8")}
    (base / "model.safetensors").write_bytes(safetensors_bytes(packed))
    (base / "config.json").write_text('{"quantization_config": {"load_in_4bit": true}, "model_type": "llama"}')
    assert {layer.relative for layer in examine(folder, base).layers} == {None}
    (base / "model.safetensors").write_bytes(framed(b"{")[:-1])
    assert {layer.relative for layer in examine(folder, base).layers} == {None}


def test_kinds_that_are_not_measured_are_described(tmp_path: Path) -> None:
    """G9's doctor: what can be said honestly of factors, virtual tokens and weights that are brought in full."""
    other: dict[str, Any] = {"r": ..., "lora_alpha": ...}
    factors = {f"{Q0}.ia3_l": f32(np.linspace(0.5, 1.5, HIDDEN)[:, None])}
    found = examine(make(tmp_path / "ia3", factors, peft_type="IA3", **other))
    assert (found.kind, found.layers, found.parameters, found.rank, found.alpha) == ("IA3", (), HIDDEN, None, None)
    assert "from 0.5 to 1.5, and on average 0.26 away from 1" in found.notes[0]
    tokens = {"prompt_embeddings": f32(np.ones((5, HIDDEN)) / math.sqrt(HIDDEN))}
    found = examine(make(tmp_path / "prompt", tokens, peft_type="PROMPT_TUNING", num_virtual_tokens=5, **other))
    assert found.notes == ("It puts 5 virtual tokens before the text, of mean length 1.",)
    vectors = {f"{Q0}.vera_lambda_b": f32(np.ones(HIDDEN))}
    assert "not measured for VERA" in examine(make(tmp_path / "vera", vectors, peft_type="VERA", **other)).notes[0]
    saved = pairs() | {f"{PREFIX}model.norm.weight": f32(np.ones(HIDDEN))}
    found = examine(make(tmp_path / "saved", saved, modules_to_save=["norm"]))
    assert "1 tensors of the base in full (model.norm.weight)" in found.notes[0]
    assert len(found.layers) == len(pairs()) / 2


@pytest.mark.parametrize("kind", ["loha", "lokr", "lokr in parts", "adalora"])
def test_other_kinds_against_peft_itself(tmp_path: Path, kind: str) -> None:
    """G9's doctor: LoHa's product, LoKr's Kronecker product and AdaLoRA's triple have the norms of PEFT's delta weights."""
    import peft
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    targets = {"target_modules": ["q_proj", "down_proj"], "task_type": "CAUSAL_LM"}
    config: Any = {
        "loha": lambda: peft.LoHaConfig(r=3, alpha=5, **targets),
        "lokr": lambda: peft.LoKrConfig(r=32, alpha=5, **targets),
        "lokr in parts": lambda: peft.LoKrConfig(r=2, alpha=5, decompose_both=True, **targets),
        "adalora": lambda: peft.AdaLoraConfig(init_r=4, target_r=4, lora_alpha=6, total_step=10, **targets),
    }[kind]()
    sizes: dict[str, Any] = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "vocab_size": 96}
    model = LlamaForCausalLM(LlamaConfig(**sizes, num_attention_heads=4, num_key_value_heads=2))
    model.save_pretrained(tmp_path / "tiny")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        wrapped: Any = peft.get_peft_model(model, config)
        generator = torch.Generator().manual_seed(1)
        for parameter in wrapped.parameters():
            if parameter.requires_grad:
                parameter.data = torch.randn(parameter.shape, generator=generator)
        wrapped.save_pretrained(str(tmp_path / "adapter"))
    found = examine(tmp_path / "adapter", tmp_path / "tiny")
    assert (len(found.layers), found.unmeasured) == (4, ())
    for layer in found.layers:
        module = wrapped.get_submodule(f"base_model.model.{layer.module}")
        change = module.get_delta_weight("default").detach().double()
        values = torch.linalg.svdvals(change)
        shares = values[values > 1e-6 * values[0]] / values.sum()
        assert layer.norm == pytest.approx(float(change.norm()), rel=1e-5)
        assert layer.largest == pytest.approx(float(values[0]), rel=1e-5)
        assert layer.effective_rank == pytest.approx(float(torch.exp(-(shares * shares.log()).sum())), rel=1e-4)
        assert layer.relative == pytest.approx(
            float(change.norm() / module.base_layer.weight.double().norm()), rel=1e-5
        )


@pytest.mark.parametrize("kind", ["lora", "rslora", "patterns", "dora", "bfloat16"])
def test_against_peft_itself(tmp_path: Path, kind: str) -> None:
    """G9's doctor: the norm of each layer is that of PEFT's own delta weight, the share that of the model's weight."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import LlamaConfig, LlamaForCausalLM

    options: dict[str, Any] = {
        "rslora": {"use_rslora": True},
        "dora": {"use_dora": True},
        "patterns": {"rank_pattern": {"q_proj": 2}, "alpha_pattern": {"layers.1.self_attn.k_proj": 3}},
    }.get(kind, {})
    config = LoraConfig(r=4, lora_alpha=6, target_modules=["q_proj", "k_proj", "down_proj"], **options)
    dtype = torch.bfloat16 if kind == "bfloat16" else torch.float32
    sizes: dict[str, Any] = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "vocab_size": 96}
    model = LlamaForCausalLM(LlamaConfig(**sizes, num_attention_heads=4, num_key_value_heads=2)).to(dtype)
    model.save_pretrained(tmp_path / "tiny")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        wrapped = get_peft_model(model, config, autocast_adapter_dtype=False)
        generator = torch.Generator().manual_seed(1)
        for name, parameter in wrapped.named_parameters():
            if "lora_B" in name:
                parameter.data = torch.randn(parameter.shape, generator=generator).to(dtype)
        wrapped.save_pretrained(str(tmp_path / "adapter"))
    found = examine(tmp_path / "adapter", tmp_path / "tiny")
    assert len(found.layers) == 6
    assert (found.rslora, found.dora) == (kind == "rslora", kind == "dora")
    for layer in found.layers:
        module = wrapped.get_submodule(f"base_model.model.{layer.module}")
        a, b = (part["default"].weight.detach().double() for part in (module.lora_A, module.lora_B))
        delta = module.scaling["default"] * b @ a
        values = torch.linalg.svdvals(delta)[: layer.rank]
        shares = values / values.sum()
        assert layer.scaling == pytest.approx(module.scaling["default"])
        assert layer.norm == pytest.approx(float(delta.norm()), rel=1e-6)
        assert layer.effective_rank == pytest.approx(float(torch.exp(-(shares * shares.log()).sum())), rel=1e-5)
        assert layer.relative == pytest.approx(float(delta.norm() / module.base_layer.weight.double().norm()), rel=1e-6)


def test_the_bundled_adapter() -> None:
    """G9's doctor on a trained adapter: every layer learned, and it is smaller than the base."""
    found = examine(PIRATE, STARTER)
    assert found.dead == ()
    assert found.unmeasured == ()
    assert all(layer.relative is not None and 0 < layer.relative < 1 for layer in found.layers)
    assert all(1 <= layer.effective_rank <= layer.rank for layer in found.layers)
    assert "template-broken" not in codes(found.findings)


def speaks(folder: Path, template: str = "", adds: str = "", tokens: int = TOKENS, **special: Any) -> None:
    """Give the folder a tokenizer of so many tokens, the last being <end>, and a chat template."""
    vocabulary = {f"t{number}": number for number in range(tokens - 1)}
    processor = {"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": adds}}, {"Sequence": {"id": "A"}}]}
    tokenizer = {
        "model": {"vocab": vocabulary},
        "added_tokens": [{"id": tokens - 1, "content": "<end>"}],
        "post_processor": {"type": "Sequence", "processors": [processor]} if adds else None,
    }
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    (folder / "tokenizer_config.json").write_text(
        json.dumps({f"{name}_token": value for name, value in special.items()})
    )
    if template:
        (folder / "chat_template.jinja").write_text(template)


PLAIN = "{% for m in messages %}<s>{{ m.content }}{{ eos_token }}{% endfor %}"


def spoken(tmp_path: Path, base: dict[str, Any], own: dict[str, Any], **changes: Any) -> dict[str, str]:
    """What the doctor says of an adapter with this tokenizer on a base with that one."""
    at, folder = make_base(tmp_path / "tiny", eos_token_id=TOKENS - 1), make(tmp_path / "adapter", **changes)
    speaks(at, **base)
    speaks(folder, **own)
    return codes(examine(folder, at).findings)


def test_the_same_tokenizer_is_no_finding(tmp_path: Path) -> None:
    """G9's doctor."""
    same = {"template": PLAIN, "eos": {"content": "<end>"}, "pad": "<pad>"}
    assert spoken(tmp_path, same, same) == {}


def test_tokens_template_and_vocabulary_that_differ(tmp_path: Path) -> None:
    """G9's doctor: each difference in a sentence of its own."""
    base = {"template": PLAIN, "eos": "<end>", "pad": "<pad>", "tokens": 90}
    own = {"template": PLAIN + " ", "eos": "<stop>", "pad": "<end>", "tokens": 92}
    said = spoken(tmp_path, base, own)
    assert set(said) == {"end-token-differs", "minor-token-differs", "template-differs", "vocabulary-differs"}
    assert "EOS token is '<stop>', and the base's is '<end>'" in said["end-token-differs"]
    assert "PAD token is '<end>' instead of '<pad>'" in said["minor-token-differs"]
    assert "92 tokens, the base's has 90" in said["vocabulary-differs"]


def test_a_tokenizer_larger_than_the_embeddings(tmp_path: Path) -> None:
    """G9's doctor: a problem, unless the adapter brings embeddings for it."""
    said = spoken(tmp_path, {}, {"tokens": TOKENS + 4})
    assert "100 tokens, the base has embeddings for 96" in said["tokenizer-too-large"]
    tensors = pairs() | {f"{PREFIX}model.embed_tokens.weight": zeros(TOKENS + 4, HIDDEN)}
    make(tmp_path / "adapter", tensors)
    said = codes(examine(tmp_path / "adapter", tmp_path / "tiny").findings)
    assert "tokenizer-too-large" not in said
    assert "vocabulary-differs" in said


def test_double_bos(tmp_path: Path) -> None:
    """G9's doctor: a template that writes BOS under a tokenizer that adds it; a template that writes it twice itself."""
    begins = "{{ bos_token }}" + PLAIN.replace("<s>", "")
    one = {"bos": "<s>", "eos": "<end>", "adds": "<s>", "template": begins}
    assert set(spoken(tmp_path, one, one)) == {"bos-twice"}
    adds_none = one | {"adds": ""}
    assert set(spoken(tmp_path, adds_none, adds_none)) == set()
    twice = one | {"template": "{{ bos_token }}" + begins}
    assert set(spoken(tmp_path, twice, twice)) == {"template-bos-twice"}


def test_a_turn_that_ends_otherwise(tmp_path: Path) -> None:
    """G9's doctor: the end of a turn that neither the tokenizer nor the model declares."""
    other = {"template": PLAIN.replace("{{ eos_token }}", "<|turn|>"), "eos": "<stop>"}
    assert "'<|turn|>'" in spoken(tmp_path, other, other)["turn-end"]
    declared = other | {"template": PLAIN.replace("{{ eos_token }}", "<end>")}  # the model's own eos_token_id
    assert spoken(tmp_path, declared, declared) == {}


@pytest.mark.parametrize(
    "template",
    ["{% for", "{{ raise_exception('no') }}", "{{ messages[0].nothing.deep }}", "{{ ''.__class__.__mro__ }}{{ 1/0 }}"],
)
def test_a_template_that_cannot_be_rendered(tmp_path: Path, template: str) -> None:
    """G9's doctor: whatever the template does, it is a finding."""
    own = {"template": template}
    assert "cannot be rendered" in spoken(tmp_path, own, own)["template-broken"]


def test_generation_marks_and_named_templates_are_understood(tmp_path: Path) -> None:
    """G9's doctor: transformers' own tag, and the older list of templates in tokenizer_config.json."""
    marked = {"template": PLAIN.replace("{{ m.content }}", "{% generation %}{{ m.content }}{%- endgeneration -%}")}
    marked |= {"eos": "<end>"}
    assert spoken(tmp_path, marked, marked) == {}
    listed = {"eos": "<end>", "chat_template": [{"name": "default", "template": PLAIN}]}
    at = make_base(tmp_path / "older", eos_token_id=TOKENS - 1)
    speaks(at, eos="<end>")
    (at / "tokenizer_config.json").write_text(
        json.dumps({"eos_token": "<end>", "chat_template": listed["chat_template"]})
    )
    folder = make(tmp_path / "bare", base_model_name_or_path="older")
    (folder / "chat_template.jinja").write_text(PLAIN)
    assert examine(folder, at).findings == ()


def test_a_newer_peft_is_told(tmp_path: Path) -> None:
    """G9's doctor: the version that wrote the file against the installed one."""
    found = examine(make(tmp_path / "new", peft_version="99.1.0.dev0"))
    assert found.peft_written == "99.1.0.dev0"
    assert f"peft {found.peft_installed} is installed" in codes(found.findings)["newer-peft"]
    for version in ("0.10.0", found.peft_installed, "", None, "unknown"):
        assert examine(make(tmp_path / "old", peft_version=version)).findings == ()


def test_the_doctor_needs_no_torch() -> None:
    """R5: numpy on the files."""
    code = (
        "import sys; from pathlib import Path; from playground.local_inference.doctor import examine;"
        f"examine(Path({str(PIRATE)!r}), Path({str(STARTER)!r})); assert not {{'torch', 'peft'}} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
