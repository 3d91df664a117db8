"""G13: vision-language checkpoints used for text, and adapters under all the names their layers have had."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoKrConfig, LoraConfig
from safetensors.torch import load_file, save_file
from transformers import AutoConfig

from playground.errors import AdapterInvalid, ModelUnsupported
from playground.local_inference import LocalInference
from playground.local_inference.fit import fit_findings
from playground.local_inference.loading import load_base
from playground.local_inference.naming import Naming
from playground.local_inference.text_only import unread
from playground.types import GenerationRequest, GenerationSettings, ModelSpec

from .conftest import greedy_ids
from .vision_maker import NAMES, SEEING, make_adapter_on, make_seeing, renamed, whole_model, with_adapter

pytestmark = pytest.mark.filterwarnings("ignore")

SHORT, LONG = "Hello there, how are you?", " ".join(f"word {at}," for at in range(90))
TOKENS = 8
QUICK = {"qwen2_5_vl"}

EVERYWHERE = ["q_proj", "down_proj", "w1", "qkv", "fc1"]  # in what reads text, and in what sees


def lora(family: str, **options: Any) -> LoraConfig:
    """On linears of both parts; Gemma 4 sees with modules that PEFT knows nothing of."""
    targets: Any = r".*language_model.*\.(q_proj|down_proj)" if family == "gemma4" else EVERYWHERE
    return LoraConfig(**{"r": 4, "lora_alpha": 16, "target_modules": targets, **options})


def answers(inference: LocalInference, asked: list[tuple[Path, tuple[Path, ...], str]]) -> list[list[int]]:
    """The token ids of greedy answers to (base, adapters, prompt), all of them at once."""

    def answer(base: Path, adapters: tuple[Path, ...], prompt: str) -> list[int]:
        spec = ModelSpec(str(base), tuple((str(path), 1.0) for path in adapters))
        settings = GenerationSettings(strategy="greedy", max_new_tokens=TOKENS)
        events = inference.stream(GenerationRequest(spec, prompt, settings=settings, template="raw"))
        return [token.id for event in events for token in event.tokens]

    with ThreadPoolExecutor(len(asked)) as pool:
        return list(pool.map(answer, *zip(*asked, strict=True)))


@pytest.mark.parametrize(
    "family", [pytest.param(name, marks=() if name in QUICK else pytest.mark.long) for name in SEEING]
)
def test_base_and_adapters_in_one_batch_answer_text_as_plain_transformers_and_peft(
    inference: LocalInference, tokenizer: Any, tmp_path: Path, family: str
) -> None:
    """G13: prompts of one piece and of two; the oracle is the whole model, image tower and all."""
    base = make_seeing(tmp_path / family, family, tokenizer)
    one = make_adapter_on(base, tmp_path / "one", lora(family), seed=1)
    two = make_adapter_on(base, tmp_path / "two", lora(family, r=8, use_rslora=True), seed=2)
    every = [(base, adapters, prompt) for adapters in ((), (one,), (two,)) for prompt in (SHORT, LONG)]
    answers(inference, every[:1])  # loads it
    expected = []
    for model in (whole_model(base), with_adapter(base, one), with_adapter(base, two)):
        expected += [greedy_ids(model, tokenizer(prompt)["input_ids"], TOKENS) for prompt in (SHORT, LONG)]
    assert answers(inference, every) == expected
    assert len({tuple(answer) for answer in expected}) > 3, "the adapters change nothing, so this tells nothing"
    info = inference.load(ModelSpec(str(base)))
    assert "used for text alone: images, which it was made for as well, are not read" in info.reason
    assert not any(adapter.exclusive for adapter in info.adapters)
    seen = any("images" in warning for warning in info.adapters[0].warnings)
    assert seen == any("visi" in name or "visual" in name for name in load_file(one / "adapter_model.safetensors"))
    inference.unload(str(base))


def _second_q(family: str) -> str:
    """A linear by its whole name."""
    before = {"idefics3": "model.text_model", "llama4": "language_model.model"}.get(family, "model.language_model")
    return f"{before}.layers.1.self_attn.q_proj"


@pytest.mark.parametrize(
    ("family", "names"),
    [
        ("qwen2_5_vl", "Qwen's first"),
        *(
            pytest.param(family, names, marks=pytest.mark.long)
            for family in ("qwen2_5_vl", "llava", "qwen3_5", "idefics3", "llama4")
            for names in NAMES
        ),
    ],
)
def test_an_adapter_is_served_under_every_name_that_its_layers_have_had(
    inference: LocalInference, tokenizer: Any, tmp_path: Path, family: str, names: str
) -> None:
    """G13, G2: by us and in PEFT's turns, with patterns that name single layers; and the fit is known beforehand."""
    base = make_seeing(tmp_path / family, family, tokenizer)
    kinds = {
        "lora": lora(family, rank_pattern={_second_q(family): 2}, alpha_pattern={"down_proj": 3}),
        "lokr": LoKrConfig(r=4, alpha=8, target_modules=["q_proj", "down_proj"]),
    }
    for kind, config in kinds.items():
        adapter = make_adapter_on(base, tmp_path / kind, config)
        expected = greedy_ids(with_adapter(base, adapter), tokenizer(SHORT)["input_ids"], TOKENS)
        other = renamed(adapter, tmp_path / f"{kind} renamed", names)
        assert answers(inference, [(base, (other,), SHORT)]) == [expected], kind
        codes = {finding.code for finding in fit_findings(other, base)}
        assert codes <= {"fit-missing"} if names == "text alone" else not codes, kind
    assert answers(inference, [(base, (), SHORT)]) == [
        greedy_ids(whole_model(base), tokenizer(SHORT)["input_ids"], TOKENS)
    ]
    inference.unload(str(base))


def test_what_sees_takes_no_memory_unless_the_whole_is_asked_for(tokenizer: Any, tmp_path: Path) -> None:
    """G13, G12: a merge writes the whole model, so it reads it."""
    base = make_seeing(tmp_path / "base", "llava", tokenizer)
    tower = 4 * sum(
        tensor.numel()
        for name, tensor in load_file(base / "model.safetensors").items()
        if "language_model" not in name and tensor.ndim > 1
    )
    spec = ModelSpec(str(base), dtype="float32")
    used, whole = load_base(spec, lambda _: None), load_base(spec, lambda _: None, whole=True)
    assert tower > 20_000
    assert 0 <= tower - (whole.bytes - used.bytes) < 200  # each matrix keeps one number
    assert used.idle == ("model.vision_tower", "model.multi_modal_projector")
    vision = whole.model.model.vision_tower.state_dict()
    assert {name: tensor.shape for name, tensor in used.model.model.vision_tower.state_dict().items()} == {
        name: tensor.shape for name, tensor in vision.items()
    }
    assert all(tensor.count_nonzero() for tensor in vision.values() if tensor.ndim > 1)


@pytest.mark.long
def test_an_adapter_for_images_alone_is_said_to_have_no_effect(
    inference: LocalInference, tokenizer: Any, tmp_path: Path
) -> None:
    """R3: it may be a good one, and does nothing here."""
    base = make_seeing(tmp_path / "base", "llava", tokenizer)
    config = LoraConfig(r=4, target_modules=r".*vision_tower.*\.q_proj")
    adapter = make_adapter_on(base, tmp_path / "adapter", config)
    info = inference.load(ModelSpec(str(base), ((str(adapter), 1.0),)))
    (attached,) = info.adapters
    assert not attached.moves_logits
    assert "2 of its tensors are for images, which are not read here, and have no use." in attached.warnings
    inference.unload(str(base))


def test_names_that_the_base_never_had_are_refused(inference: LocalInference, tokenizer: Any, tmp_path: Path) -> None:
    """G2, R3: a tensor without a place is named, never dropped; also an image tower's on a base that sees nothing."""
    base = make_seeing(tmp_path / "base", "llava", tokenizer)
    adapter = make_adapter_on(base, tmp_path / "adapter", lora("llava"))
    file = adapter / "adapter_model.safetensors"
    save_file({name.replace("language_model", "talker"): t for name, t in load_file(file).items()}, file)
    with pytest.raises(AdapterInvalid, match=r"has unexpected 12 tensors \(model\.talker\.layers"):
        inference.load(ModelSpec(str(base), ((str(adapter), 1.0),)))
    tensor, modules = "base_model.model.model.vision_tower.q_proj.lora_A.weight", {"model.layers.0.self_attn.q_proj"}
    assert Naming.of([tensor], modules).as_it_is
    assert Naming.of([tensor], modules, reads_more=True).unused == {tensor}
    inference.unload(str(base))


def test_what_cannot_answer_without_an_image_is_refused_by_name(inference: LocalInference, tmp_path: Path) -> None:
    """R3: before any of its weights is read."""
    for kind, words in (("blip-2", "needs pixel_values with each prompt"), ("florence2", "encoder-decoder")):
        (tmp_path / kind).mkdir()
        (tmp_path / kind / "config.json").write_text(json.dumps({"model_type": kind}))
        with pytest.raises(ModelUnsupported, match=f"'{kind}' is an? .*{words}"):
            inference.load(ModelSpec(str(tmp_path / kind)))


def test_what_a_checkpoint_reads_besides_text_is_read_off_its_configuration() -> None:
    """G13: a language model reads nothing else; one of both kinds says both."""
    for kind, senses in (("qwen2", ()), ("gpt2", ()), ("llava", ("images",)), ("gemma3n", ("images", "sounds"))):
        assert unread(AutoConfig.for_model(kind)) == senses


@pytest.mark.long
def test_a_checkpoint_that_is_stored_in_four_bits_is_used_as_it_is(
    inference: LocalInference, tokenizer: Any, tmp_path: Path
) -> None:
    """G8, G13: transformers' own answer from the same file, with an adapter and without."""
    from transformers import BitsAndBytesConfig, LlavaForConditionalGeneration

    plain = make_seeing(tmp_path / "plain", "llava", tokenizer)
    adapter = make_adapter_on(plain, tmp_path / "adapter", lora("llava", target_modules=["q_proj", "up_proj"]))
    stored = make_seeing(tmp_path / "stored", "llava", tokenizer)
    quantized = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.float32)
    LlavaForConditionalGeneration.from_pretrained(
        plain, quantization_config=quantized, dtype=torch.float32
    ).save_pretrained(stored)
    model = LlavaForConditionalGeneration.from_pretrained(stored).eval()
    ids = tokenizer(SHORT)["input_ids"]
    assert answers(inference, [(stored, (), SHORT)]) == [greedy_ids(model, ids, TOKENS)]
    assert answers(inference, [(stored, (adapter,), SHORT)]) != [greedy_ids(model, ids, TOKENS)]
    info = inference.load(ModelSpec(str(stored)))
    assert (info.quantization, "images" in info.reason) == ("nf4", True)
    inference.unload(str(stored))
