"""G9: whether an adapter fits a base of which headers tell little is found out on the meta device, by PEFT's own names."""

from __future__ import annotations

import json
import shutil
import socket
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from playground.local_inference.doctor import full_report
from playground.local_inference.fit import fit_findings

from .adapter_maker import CONFIG, RANK, WEIGHTS, config
from .conftest import PIRATE, STARTER

SIZES: dict[str, Any] = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "vocab_size": 96, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip


def saved(folder: Path, model: Any, base: Path, **options: Any) -> Path:
    """A LoRA on ``model`` as PEFT saves it, and the model's configuration alone in ``base``."""
    import peft

    if not (base / "config.json").exists():
        model.config.save_pretrained(base)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        wrapped = peft.get_peft_model(model, peft.LoraConfig(r=RANK, task_type="CAUSAL_LM", **options))
        wrapped.save_pretrained(str(folder))
    return folder


def llama(folder: Path, **changes: Any) -> Callable[[], Any]:
    """A maker of tiny Llamas, whose configuration is in ``folder``."""
    from transformers import LlamaConfig, LlamaForCausalLM

    made = LlamaConfig(**SIZES | changes)
    made.save_pretrained(folder)
    return lambda: LlamaForCausalLM(made)


def codes(findings: Any) -> dict[str, str]:
    return {finding.code: finding.sentence for finding in findings}


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever opens a connection fails."""

    def refuse(*args: Any) -> None:
        raise AssertionError(f"connects to {args[1:]}")

    monkeypatch.setattr(socket.socket, "connect", refuse)


@pytest.mark.parametrize("method", ["bitsandbytes", "gptq", "awq", "fp8", "mxfp4", "compressed-tensors"])
def test_a_base_that_is_stored_quantized(tmp_path: Path, method: str) -> None:
    """G9: its headers hold packed shapes, which a naive check would refuse; it is made without quantization."""
    adapter = saved(tmp_path / "adapter", llama(tmp_path / "base")(), tmp_path / "base", target_modules="all-linear")
    file = tmp_path / "base" / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"quantization_config": {"quant_method": method}}))
    assert fit_findings(adapter, tmp_path / "base") == ()
    report = full_report(adapter, tmp_path / "base")
    assert "fit-unchecked" not in codes(report.findings)
    file.write_text(json.dumps(json.loads(file.read_text()) | {"hidden_size": 64}))
    report = full_report(adapter, tmp_path / "base")
    assert (report.verdict, "fit-shape" in codes(report.findings)) == ("problems", True)


def old_mixtral(folder: Path, wide: int = 32) -> Path:
    """A LoRA on every expert, under the names from before transformers 5."""
    tensors = {}
    for layer in range(2):
        for expert in range(4):
            for name, (out, into) in {"w1": (48, wide), "w2": (wide, 48), "w3": (48, wide)}.items():
                at = f"base_model.model.model.layers.{layer}.block_sparse_moe.experts.{expert}.{name}.lora_"
                tensors |= {f"{at}A.weight": torch.zeros(RANK, into), f"{at}B.weight": torch.zeros(out, RANK)}
    folder.mkdir()
    save_file(tensors, folder / WEIGHTS)
    (folder / CONFIG).write_text(json.dumps(config(target_modules=["w1", "w2", "w3"])))
    return folder


def test_older_names_of_experts_are_those_that_peft_converts(tmp_path: Path) -> None:
    """G9: one tensor for each expert in the file, one for all of them in the model of today."""
    from transformers import MixtralConfig

    MixtralConfig(**SIZES, num_local_experts=4).save_pretrained(tmp_path / "base")
    assert fit_findings(old_mixtral(tmp_path / "old"), tmp_path / "base") == ()
    found = codes(fit_findings(old_mixtral(tmp_path / "wide", 64), tmp_path / "base"))
    assert found.keys() <= {"no-fit", "fit-shape"}
    assert found


def test_convolutions_that_are_linears(tmp_path: Path) -> None:
    """G9: GPT-2 stores its weights the other way round."""
    from transformers import GPT2Config, GPT2LMHeadModel

    made = GPT2Config(n_embd=32, n_layer=2, n_head=4, vocab_size=96, bos_token_id=1, eos_token_id=2)
    targets = {"target_modules": ["c_attn", "c_fc", "c_proj"], "fan_in_fan_out": True}
    adapter = saved(tmp_path / "adapter", GPT2LMHeadModel(made), tmp_path / "base", **targets)
    assert fit_findings(adapter, tmp_path / "base") == ()
    report = full_report(adapter, tmp_path / "base")
    assert "fit-unchecked" not in codes(report.findings)


def test_a_base_that_sees(tmp_path: Path) -> None:
    """G9: the language model is a part of a larger one, and its modules have longer names."""
    from transformers import Qwen2VLConfig, Qwen2VLForConditionalGeneration

    text = SIZES | {"rope_scaling": {"type": "mrope", "mrope_section": [1, 1, 2]}}
    sight = {"depth": 1, "embed_dim": 32, "hidden_size": 32, "num_heads": 4, "mlp_ratio": 2}
    model = Qwen2VLForConditionalGeneration(Qwen2VLConfig(text_config=text, vision_config=sight))
    adapter = saved(tmp_path / "adapter", model, tmp_path / "base", target_modules=["q_proj", "v_proj"])
    assert fit_findings(adapter, tmp_path / "base") == ()
    weights = load_file(adapter / WEIGHTS)
    save_file({name.replace("language_model", "talker"): value for name, value in weights.items()}, adapter / WEIGHTS)
    found = codes(fit_findings(adapter, tmp_path / "base"))
    assert "no place for its model.talker.layers.0.self_attn.q_proj.lora_A.weight" in found["fit-unexpected"]
    assert "8 tensors" in found["fit-missing"]


def test_a_vocabulary_of_its_own(tmp_path: Path) -> None:
    """G9: more tokens than the base's fit; fewer do not."""
    make = llama(tmp_path / "base")
    for tokens, expected in ((104, set()), (90, {"fit-shape"})):
        model = make()
        model.resize_token_embeddings(tokens)
        adapter = saved(tmp_path / f"of {tokens}", model, tmp_path / "base", target_modules=["q_proj"])
        weights = load_file(adapter / WEIGHTS)
        weights |= {"base_model.model.model.embed_tokens.weight": torch.zeros(tokens, 32)}
        save_file(weights, adapter / WEIGHTS)
        assert set(codes(fit_findings(adapter, tmp_path / "base"))) == expected


def test_names_that_are_read_here_though_peft_would_not(tmp_path: Path) -> None:
    """G9: without PEFT's prefix, or with an adapter's name in them, as other tools write them."""
    adapter = saved(tmp_path / "adapter", llama(tmp_path / "base")(), tmp_path / "base", target_modules=["q_proj"])
    weights = load_file(adapter / WEIGHTS)
    for old, new in (("base_model.model.", ""), (".weight", ".default.weight")):
        renamed = shutil.copytree(adapter, tmp_path / f"with {new}")
        save_file({name.replace(old, new): value for name, value in weights.items()}, renamed / WEIGHTS)
        assert fit_findings(renamed, tmp_path / "base") == ()


def test_targets_that_the_base_has_not(tmp_path: Path) -> None:
    """G9: what PEFT says, with the base's name."""
    adapter = saved(tmp_path / "adapter", llama(tmp_path / "base")(), tmp_path / "base", target_modules=["q_proj"])
    changed = json.loads((adapter / CONFIG).read_text()) | {"target_modules": ["query_key_value"]}
    (adapter / CONFIG).write_text(json.dumps(changed))
    found = codes(fit_findings(adapter, tmp_path / "base"))
    assert "PEFT cannot put it on 'base': Target modules {'query_key_value'} not found" in found["no-fit"]


def test_a_base_that_brings_its_own_code_is_not_made(tmp_path: Path) -> None:
    """S1: nothing of it is run; nor is a model made that generates no text, or of a kind that nobody knows."""
    base, ran = tmp_path / "base", tmp_path / "ran"
    base.mkdir()
    ours = {"AutoConfig": "configuration_ours.Ours", "AutoModelForCausalLM": "configuration_ours.Model"}
    (base / "configuration_ours.py").write_text(f"open({str(ran)!r}, 'w')")
    for values in ({"model_type": "ours", "auto_map": ours}, {"model_type": "t5"}, {"model_type": 5}, {}):
        (base / "config.json").write_text(json.dumps(values))
        assert "cannot be made from its config.json" in codes(fit_findings(PIRATE, base))["fit-unchecked"]
    assert not ran.exists()


@pytest.mark.long
def test_a_pattern_that_never_ends_is_refused_and_an_odd_one_is_not(tmp_path: Path) -> None:
    """G9: PEFT would try it on every module's name, so it is tried on them first, where it can be ended."""
    adapter = shutil.copytree(PIRATE, tmp_path / "adapter")
    given = json.loads((adapter / CONFIG).read_text())
    (adapter / CONFIG).write_text(json.dumps(given | {"target_modules": "(.*)*x"}))
    assert "in its target_modules would keep the search" in codes(fit_findings(adapter, STARTER))["endless-pattern"]
    odd = r"(?:.*?(?:language|text).*?(?:mlp).*?)|(?:model\.layers\.[\d]{1,}\.(?:self_attn|mlp)\.(?:[a-z]+_proj))"
    for changes in ({"target_modules": odd}, {"exclude_modules": "(a|aa)*$"}, {"rank_pattern": {"(a+)+": 4}}):
        (adapter / CONFIG).write_text(json.dumps(given | changes))
        assert fit_findings(adapter, STARTER) == ()


def test_what_peft_writes_twice_after_the_vocabulary_grew_fits(tmp_path: Path) -> None:
    """G9: embeddings and head are in the file under three names each when they were trained and have more tokens."""
    model = llama(tmp_path / "base")()
    model.resize_token_embeddings(104)
    both = ["embed_tokens", "lm_head"]
    adapter = saved(tmp_path / "adapter", model, tmp_path / "base", target_modules=["q_proj"], modules_to_save=both)
    weights = load_file(adapter / WEIGHTS)  # as with save_embedding_layers, which is decided by the base's folder
    for name in [name for name in weights if "lora_" not in name]:
        for inside in ("modules_to_save", "original_module"):
            weights[name.replace(".weight", f".{inside}.weight")] = weights[name].clone()
    assert len(weights) == 10
    save_file(weights, adapter / WEIGHTS)
    assert fit_findings(adapter, tmp_path / "base") == ()


def test_keys_and_values_have_no_place_where_layers_see_a_window(tmp_path: Path) -> None:
    """G9, G13: as attaching says it."""
    from transformers import MistralConfig

    MistralConfig(**SIZES, sliding_window=16).save_pretrained(tmp_path / "base")
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    save_file({"prompt_embeddings": torch.zeros(4, 64)}, adapter / WEIGHTS)
    soft = {"peft_type": "PREFIX_TUNING", "task_type": "CAUSAL_LM", "num_virtual_tokens": 4}
    (adapter / CONFIG).write_text(json.dumps(soft))
    assert "sliding windows" in codes(fit_findings(adapter, tmp_path / "base"))["soft-prompt-misfit"]


@pytest.mark.parametrize(
    ("changes", "code", "words"),
    [
        ({"trainable_token_indices": [3]}, "no-fit", "the file has no model.embed_tokens.token_adapter"),
        ({"modules_to_save": ["lm_head"]}, "no-fit", "the file has no lm_head.weight"),
        ({"lora_bias": True}, "fit-lacking", "lora_B.bias"),
        ({"layers_to_transform": [0]}, "fit-unexpected", "model.layers.1."),
        ({"target_modules": None}, "fit-unexpected", "no place for its"),
    ],
)
def test_what_names_alone_do_not_tell_is_tried(tmp_path: Path, changes: dict[str, Any], code: str, words: str) -> None:
    """G9: without being asked for, where the configuration chooses by more than the modules' names."""
    adapter = shutil.copytree(PIRATE, tmp_path / "adapter")
    (adapter / CONFIG).write_text(json.dumps(json.loads((adapter / CONFIG).read_text()) | changes))
    report = full_report(adapter, STARTER)
    assert words in codes(report.findings)[code]
    assert report.verdict == "problems"


def test_a_tensor_that_attaching_would_refuse_is_a_problem(tmp_path: Path) -> None:
    """G9: without a base it is a warning, for another program may leave it out."""
    adapter = shutil.copytree(PIRATE, tmp_path / "adapter")
    weights = load_file(adapter / WEIGHTS)
    weights["base_model.model.model.layers.0.self_attn.q_proj.weight"] = torch.zeros(4, 4)
    save_file(weights, adapter / WEIGHTS)
    assert full_report(adapter).verdict == "warnings"
    assert "fit-unexpected" in codes(full_report(adapter, STARTER).findings)


def test_the_base_that_an_adapter_names_is_never_followed(tmp_path: Path) -> None:
    """S1: not its name, not a revision of it; only the base that was asked for is looked at."""
    trap = tmp_path / "trap"
    trap.mkdir()
    (trap / "config.json").write_text("{")
    adapter = shutil.copytree(PIRATE, tmp_path / "adapter")
    given = json.loads((adapter / CONFIG).read_text())
    for name in (str(trap), "meta-llama/Llama-3-70B", "../trap", "https://example.com/x"):
        (adapter / CONFIG).write_text(json.dumps(given | {"base_model_name_or_path": name, "revision": "main"}))
        report = full_report(adapter, STARTER, always_fit=True)
        assert set(codes(report.findings)) == {"other-base"}


def test_what_was_found_is_kept_until_something_is_written_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """G9: milliseconds when it is asked again."""
    from playground.local_inference import fit

    made: list[Path] = []
    original = fit._empty
    monkeypatch.setattr(fit, "_empty", lambda base: made.append(base) or original(base))
    adapter = shutil.copytree(PIRATE, tmp_path / "adapter")
    assert fit_findings(adapter, STARTER) == fit_findings(adapter, STARTER) == ()
    assert len(made) == 1
    (adapter / CONFIG).write_text((adapter / CONFIG).read_text() + "\n")
    assert fit_findings(adapter, STARTER) == ()
    assert len(made) == 2
