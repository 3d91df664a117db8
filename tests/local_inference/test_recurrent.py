"""Recurrent and hybrid models: their rows share passes, mixed with adapters, and answer as plain transformers does."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoHaConfig, LoraConfig, PeftModel
from transformers import AutoModelForCausalLM

from playground.errors import InvalidRequest
from playground.local_inference import LocalInference, engine
from playground.types import GenerationRequest, GenerationSettings, ModelSpec

from .conftest import answers_of, greedy_ids
from .recurrent_maker import ALONE, NO_COPIES, RECURRENT, WHOLE, make_recurrent


def _each(ordinary: str) -> list[Any]:
    """All families, of which but one are for when there is time (make test-long)."""
    return [pytest.param(name, marks=() if name == ordinary else pytest.mark.long) for name in RECURRENT]


# Shorter than a short convolution looks back, of a few words, and longer than a window and a chunk of a scan.
PROMPTS = ("Hi", "Hello there, how are you?", "word " * 70)
TOKENS = 12
# PEFT refuses them on Mamba, whose layers do not call them.
NOT_TRAINED = {"out_proj", "lm_head", "head", "embed_out"}

pytestmark = pytest.mark.filterwarnings("ignore")


def _plain(base: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32).eval()


def _linears(model: Any) -> list[str]:
    found = {name.rpartition(".")[2] for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)}
    return sorted(name for name in found - NOT_TRAINED if not name.isdigit())


def _ask(base: Path, prompt: str, *adapters: Path) -> GenerationRequest:
    spec = ModelSpec(str(base), tuple((str(folder), 1.0) for folder in adapters))
    settings = GenerationSettings(strategy="greedy", max_new_tokens=TOKENS)
    return GenerationRequest(spec, prompt, settings=settings, template="raw")


def _go_on(base: Path, ids: Sequence[int], **settings: Any) -> GenerationRequest:
    chosen = GenerationSettings(**{"strategy": "greedy", "max_new_tokens": TOKENS, **settings})
    return GenerationRequest(ModelSpec(str(base)), prompt_ids=tuple(ids), settings=chosen, template="raw")


@pytest.mark.parametrize("family", _each("qwen3_5"))
def test_rows_of_a_recurrent_family_answer_as_plain_transformers(
    inference: LocalInference,
    tokenizer: Any,
    tmp_path: Path,
    make_adapter: Any,
    monkeypatch: pytest.MonkeyPatch,
    family: str,
) -> None:
    """G13, G2: rows of very different lengths with base and two adapters, all at once, each as it is alone."""
    base = make_recurrent(tmp_path / "base", family, len(tokenizer))
    plain = _plain(base)
    configs = [LoraConfig(r=rank, target_modules=_linears(plain)) for rank in (2, 5)]
    folders = [make_adapter(config, f"r{config.r}", config.r, base) for config in configs]
    models = [plain, *(PeftModel.from_pretrained(_plain(base), folder).eval() for folder in folders)]
    expected = [greedy_ids(model, tokenizer(text)["input_ids"], TOKENS) for text in PROMPTS for model in models]
    assert len({tuple(ids) for ids in expected[:3]}) > 1, "adapters that change nothing would prove nothing"
    passes: list[int] = []
    together = engine.next_logits_together
    monkeypatch.setattr(
        engine,
        "next_logits_together",
        lambda model, slab, *rest: (passes.append(len(slab.slots)), together(model, slab, *rest))[1],
    )
    requests = [_ask(base, text, *some) for text in PROMPTS for some in ((), *((folder,) for folder in folders))]
    assert answers_of(inference, requests) == expected
    (resident,) = inference._machinery.residents.find(str(base))  # type: ignore[union-attr]
    assert resident.batches == (not resident.alone_because) == (family not in ALONE)
    assert ("in a way of its own" in resident.alone_because) == (family in NO_COPIES)
    assert (resident.whole_prompts, resident.resumes) == (family in WHOLE, family not in NO_COPIES)
    assert not resident.batches or max(passes) > 1
    inference.unload(str(base))


@pytest.mark.parametrize("family", _each("mamba"))
def test_a_second_turn_goes_on_from_a_copy_of_what_the_first_left(
    inference: LocalInference, tokenizer: Any, tmp_path: Path, family: str
) -> None:
    """G11, G13: two users go on from the same turn, at once and otherwise, and neither sees what the other wrote."""
    base = make_recurrent(tmp_path / "base", family, len(tokenizer))
    said = tokenizer("word " * 70)["input_ids"]
    said += answers_of(inference, [_go_on(base, said)])[0]
    turns = [[*said, *tokenizer(more)["input_ids"]] for more in (" and so", " but not")]
    plain = _plain(base)
    assert answers_of(inference, [_go_on(base, ids) for ids in turns]) == [
        greedy_ids(plain, ids, TOKENS) for ids in turns
    ]
    reused = [list(inference.stream(_go_on(base, ids)))[-1].stats.reused_tokens for ids in turns]
    assert (min(reused) >= len(said) - 1) == (family not in NO_COPIES), reused
    inference.unload(str(base))


@pytest.mark.long
@pytest.mark.parametrize("family", ["qwen3_5", "mamba", "falcon_h1", "jamba", "recurrent_gemma", "rwkv"])
def test_beams_and_adapters_that_peft_serves_and_rows_by_themselves(
    inference: LocalInference, tokenizer: Any, tmp_path: Path, make_adapter: Any, family: str
) -> None:
    """G3, G13: what does not share passes goes over the model's own cache, and is plain transformers' answer as well."""
    base = make_recurrent(tmp_path / "base", family, len(tokenizer))
    plain = _plain(base)
    folder = make_adapter(LoHaConfig(r=2, alpha=4, target_modules=_linears(plain)), "loha", 3, base)
    ids = tokenizer(PROMPTS[-1])["input_ids"]
    adapted = PeftModel.from_pretrained(_plain(base), folder).eval()
    expected = [greedy_ids(model, ids, TOKENS) for model in (adapted, plain, plain)]
    requests = [_ask(base, PROMPTS[-1], folder), _go_on(base, ids), _go_on(base, ids, reproducible=True)]
    assert answers_of(inference, requests) == expected
    search = _go_on(base, ids, strategy="beam_search", num_beams=3)
    if family == "rwkv":
        with pytest.raises(InvalidRequest, match="Choose another strategy"):
            list(inference.stream(search))
        return
    found = "".join(event.text for event in inference.stream(search))
    assert found == tokenizer.decode(greedy_ids(plain, ids, TOKENS, num_beams=3), skip_special_tokens=True)
    inference.unload(str(base))
