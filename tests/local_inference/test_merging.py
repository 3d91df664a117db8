"""Merged models answer as base and adapter side by side do, and by how much they do not is measured (P8, G10)."""

from __future__ import annotations

import json
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import IA3Config, LoraConfig
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from playground.config import ROOT
from playground.errors import AdapterInvalid, EngineFailure, ModelUnsupported, OutOfMemory
from playground.local_inference import merging
from playground.local_inference.merging import Job, difference, run_job
from tests.local_inference import adapter_maker
from tests.local_inference.conftest import PIRATE, STARTER

KINDS: dict[str, Any] = {
    "olora": LoraConfig(r=4, target_modules=["q_proj"], init_lora_weights="olora", task_type="CAUSAL_LM"),
    "dora": LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "down_proj"], use_dora=True, task_type="CAUSAL_LM"),
    "saved head": LoraConfig(r=4, target_modules=["q_proj"], modules_to_save=["lm_head"], task_type="CAUSAL_LM"),
    "embeddings": LoraConfig(r=4, target_modules=["q_proj", "embed_tokens"], task_type="CAUSAL_LM"),
    "tokens": LoraConfig(r=4, target_modules=["q_proj"], trainable_token_indices=[5, 9, 300], task_type="CAUSAL_LM"),
    "ia3": IA3Config(target_modules=["k_proj", "down_proj"], feedforward_modules=["down_proj"], task_type="CAUSAL_LM"),
}


def silent(status: Any) -> None:
    """Nobody listens."""


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """The pirate at strength 0.5, merged into the starter, and what was found."""
    target = tmp_path_factory.mktemp("exports") / "merged"
    return target, run_job(Job(str(STARTER), str(PIRATE), 0.5, target=str(target)), silent)


def test_an_exported_model_is_the_adapter_in_sixteen_bits(exported: tuple[Path, dict[str, Any]]) -> None:
    """P8: safetensors in bfloat16, no pickle, with tokenizer, template and end tokens; what it was made of is said."""
    target, found = exported
    assert {tensor.dtype for tensor in load_file(target / "model.safetensors").values()} == {torch.bfloat16}
    assert not [file for file in target.iterdir() if file.suffix in (".bin", ".pt", ".pkl")]
    for name in ("generation_config.json", "chat_template.jinja"):
        assert (target / name).read_text() == (STARTER / name).read_text()
    card = json.loads((target / "merge.json").read_text())
    assert (card["base"], card["adapter"], card["strength"], card["dtype"]) == ("starter", "pirate", 0.5, "bfloat16")
    assert card["rounded"] == found["rounded"]


def test_what_was_measured_is_what_plain_transformers_and_peft_see(exported: tuple[Path, dict[str, Any]]) -> None:
    """G10: the figures of the exported folder, taken again without our code; and they are not those of another model."""
    from peft import PeftModel

    target, found = exported
    prompts = list(merging.prompt_ids(AutoTokenizer.from_pretrained(STARTER), 1024))
    merged = AutoModelForCausalLM.from_pretrained(target, dtype=torch.float32)
    base = AutoModelForCausalLM.from_pretrained(STARTER, dtype=torch.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        beside = PeftModel.from_pretrained(base, PIRATE)
    for layer in beside.modules():
        if hasattr(layer, "set_scale"):
            layer.set_scale("default", 0.5)
    theirs = difference(merging.logits_of(merged, prompts), merging.logits_of(beside, prompts))
    assert found["rounded"]["max_logit_change"] == pytest.approx(theirs.max_logit_change, rel=1e-3)
    assert found["rounded"]["tokens"] == theirs.tokens > 100
    assert found["exact"]["max_logit_change"] < 1e-3 < found["rounded"]["max_logit_change"]
    assert found["rounded"]["divergence"] < 0.01
    with beside.disable_adapter():
        alone = difference(merging.logits_of(beside, prompts), merging.logits_of(merged, prompts))
    assert alone.divergence > 10 * theirs.divergence


@pytest.mark.parametrize("kind", KINDS)
def test_every_mergeable_kind_is_exact_before_rounding(kind: str, make_adapter: Callable[..., Path]) -> None:
    """P8: also on a base whose embeddings are its head, where a plain merge changes both."""
    folder = make_adapter(KINDS[kind], name=kind.replace(" ", "-"))
    found = run_job(Job(str(STARTER), str(folder)), silent)
    assert found["exact"]["max_logit_change"] < 2e-3
    assert found["exact"]["agreement"] == 1.0


def test_lora_on_tied_embeddings_is_saved_untied(make_adapter: Callable[..., Path], tmp_path: Path) -> None:
    """P8: what plain merging gets wrong by half a logit; tied ones stay tied."""
    folder = make_adapter(KINDS["embeddings"], name="embeddings")
    found = run_job(Job(str(STARTER), str(folder), target=str(tmp_path / "merged")), silent)
    tensors = load_file(tmp_path / "merged" / "model.safetensors")
    assert not torch.equal(tensors["lm_head.weight"], tensors["model.embed_tokens.weight"])
    assert json.loads((tmp_path / "merged" / "config.json").read_text())["tie_word_embeddings"] is False
    assert found["rounded"]["max_logit_change"] < 0.3


def test_a_tied_base_stays_tied_where_nothing_parted_it(exported: tuple[Path, dict[str, Any]]) -> None:
    """P8: no second copy of the embeddings."""
    target, _ = exported
    assert "lm_head.weight" not in load_file(target / "model.safetensors")
    assert json.loads((target / "config.json").read_text())["tie_word_embeddings"] is True


def test_where_float32_does_not_fit_layers_are_merged_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """P8: half the memory, and each weight rounded once; the refusal comes with what to do."""
    whole = merging.load_base
    asked: list[str] = []

    def small(spec: Any, report: Any, **options: Any) -> Any:
        asked.append(spec.dtype)
        if spec.dtype == "float32":
            raise OutOfMemory("It needs 3 GB; 2 GB can be had.", "Buy more.")
        return whole(spec, report, **options)

    monkeypatch.setattr(merging, "load_base", small)
    loaded = merging.load_unquantized(Job(str(STARTER), str(PIRATE)), silent)
    merged = merging.merge(merging._with_adapter(loaded, PIRATE, 1.0), merging.is_tied(loaded.model))
    assert asked == ["float32", "bfloat16"]
    base, pirate = load_file(STARTER / "model.safetensors"), load_file(PIRATE / "adapter_model.safetensors")
    name = "model.layers.0.self_attn.q_proj"
    a, b = (pirate[f"base_model.model.{name}.lora_{side}.weight"].float() for side in "AB")
    right = (base[f"{name}.weight"].float() + 2 * b @ a).bfloat16()
    assert torch.equal(merged.get_submodule(name).weight, right)

    def none(spec: Any, report: Any, **options: Any) -> Any:
        raise OutOfMemory("It needs 3 GB; 1 GB can be had.", "Buy more.")

    monkeypatch.setattr(merging, "load_base", none)
    with pytest.raises(OutOfMemory, match=r"needs 3 GB; 1 GB.*unload other models"):
        merging.load_unquantized(Job(str(STARTER), str(PIRATE)), silent)


def test_what_cannot_be_merged_is_said_before_anything_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """P8: prompts, quantized bases, a full disk."""
    monkeypatch.delattr(merging, "load_base")
    prompt = adapter_maker.make(tmp_path / "prompt", peft_type="PROMPT_TUNING")
    with pytest.raises(AdapterInvalid, match="changes no weights, so there is nothing to merge"):
        run_job(Job(str(STARTER), str(prompt)), silent)
    began = adapter_maker.make(tmp_path / "began", init_lora_weights="pissa_niter_4")
    with pytest.raises(AdapterInvalid, match="no strength but 1"):
        run_job(Job(str(STARTER), str(began), 0.5), silent)
    base = adapter_maker.make_base(tmp_path / "base", quantization_config={"quant_method": "bitsandbytes"})
    with pytest.raises(ModelUnsupported, match=r"stored quantized \(bitsandbytes\).*unquantized model"):
        run_job(Job(str(base), str(PIRATE)), silent)
    monkeypatch.setattr(merging.shutil, "disk_usage", lambda folder: type("Usage", (), {"free": 60_000_000}))
    with pytest.raises(EngineFailure, match="needs about 69 MB on the disk, and 60 MB are free"):
        run_job(Job(str(STARTER), str(PIRATE), target=str(tmp_path / "merged")), silent)
    assert not (tmp_path / "merged").exists()


def test_a_number_that_float16_cannot_hold_is_refused() -> None:
    """P8: never an infinite weight."""
    model = torch.nn.Linear(2, 2)
    model.weight.data.fill_(1e6)
    merging.round_weights(model, torch.bfloat16)
    with pytest.raises(ModelUnsupported, match=r"weight has numbers that torch.float16 cannot hold.*bfloat16"):
        merging.round_weights(model, torch.float16)


@pytest.mark.long
def test_the_process_ends_with_whoever_asked(tmp_path: Path) -> None:
    """P8: also when that one was killed and could not say so; what was written so far is gone."""
    target = tmp_path / "merged"
    job = {"base": str(STARTER), "adapter": str(PIRATE), "target": str(target)}
    process = subprocess.Popen(
        [sys.executable, "-m", "playground.local_inference.merging"],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    process.communicate(json.dumps(job).encode() + b"\n", timeout=60)
    assert process.returncode == 1
    assert not target.exists()
