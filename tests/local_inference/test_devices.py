"""Other devices, without having them: a model on a device that computes nothing, layers on several, weights fetched.

torch's "meta" device stands in for a GPU: it computes shapes only, and refuses to compute with a tensor of another device.
So whatever runs there has every mask, position, cache, A and B where a GPU would need it; what the tokens are is made up.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from accelerate import cpu_offload, dispatch_model
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM

from playground.local_inference import LocalInference, devices, loading, resident
from playground.local_inference.footprint import is_fetched
from playground.local_inference.lora import LoraLayer, LoraWeights
from playground.local_inference.mixing import Switch
from playground.local_inference.row_cache import cache_of
from playground.local_inference.slots import Contents, SlotCache
from playground.types import GenerationRequest, GenerationSettings, ModelSpec

from .conftest import PIRATE, PROMPTS, SQL, STARTER, ask, at_once, events_of, greedy_ids, ids_of, text_of
from .family_maker import make_family

Wrap = Callable[[Any], Any]


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., LocalInference]]:
    """``engine(wrap)``: an engine whose models are put elsewhere by ``wrap`` as soon as they are read; closed at the end."""
    made: list[LocalInference] = []
    read = loading._read_model

    def make(wrap: Wrap) -> LocalInference:
        monkeypatch.setattr(loading, "_read_model", lambda *args: wrap(read(*args)))
        made.append(LocalInference())
        return made[-1]

    yield make
    for one in made:
        one.close()


@pytest.fixture
def no_own_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every model runs in transformers' forward pass."""
    monkeypatch.setattr(resident.PackedModel, "of", classmethod(lambda cls, *args: None))


@pytest.fixture
def shadow(monkeypatch: pytest.MonkeyPatch) -> None:
    """What comes back from "meta" is made up, as logits of which the last one is the largest."""
    cpu, to, number, truth = (getattr(torch.Tensor, name) for name in ("cpu", "to", "__int__", "__bool__"))

    def made_up(tensor: torch.Tensor) -> torch.Tensor:
        return torch.arange(tensor.shape[-1]).to(tensor.dtype).expand(tensor.shape).clone()

    def moved(tensor: torch.Tensor, *args: Any, **options: Any) -> torch.Tensor:
        try:
            return to(tensor, *args, **options)
        except NotImplementedError:  # out of "meta"
            return to(made_up(tensor), *args, **options)

    monkeypatch.setattr(torch.Tensor, "cpu", lambda one: made_up(one) if one.is_meta else cpu(one))
    monkeypatch.setattr(torch.Tensor, "to", moved)
    monkeypatch.setattr(torch.Tensor, "__int__", lambda one: 500 if one.is_meta else number(one))
    monkeypatch.setattr(torch.Tensor, "__bool__", lambda one: True if one.is_meta else truth(one))


def _on_another(model: Any) -> Any:
    return model.to("meta")


def _on_two(model: Any) -> Any:
    """The first three layers, embeddings and head on one device, the others on another, as accelerate spreads them."""
    names = ["model.embed_tokens", "model.rotary_emb", "lm_head", *(f"model.layers.{at}" for at in range(3))]
    others = ["model.norm", *(f"model.layers.{at}" for at in range(3, 6))]
    device_map = {**dict.fromkeys(names, "cpu"), **dict.fromkeys(others, "meta")}
    return dispatch_model(model, device_map, main_device="cpu", force_hooks=True)


def _sampled(prompt: str, *adapters: tuple[Path, float], **settings: Any) -> GenerationRequest:
    spec = ModelSpec(str(STARTER), tuple((str(path), scale) for path, scale in adapters))
    values = {"strategy": "sampling", "max_new_tokens": 3, "seed": 7, **settings}
    return GenerationRequest(spec, prompt, settings=GenerationSettings(**values))


def _run_mixed(inference: LocalInference) -> None:
    """Rows of several lengths and adapters at once, and then one that goes on from what was read."""
    adapters: list[tuple[tuple[Path, float], ...]] = [(), ((PIRATE, 1.0),), ((PIRATE, 0.5), (SQL, 0.5)), ((SQL, 1.0),)]
    inference.load(ModelSpec(str(STARTER)))
    finished: list[str] = []

    def answer(at: int) -> None:
        prompt = " ".join(PROMPTS[: 1 + at % 3])
        events = events_of(inference, _sampled(prompt, *adapters[at]))
        finished.extend(event.finish_reason for event in events if event.finish_reason)

    at_once(answer, len(adapters))
    answer(0)
    assert len(finished) == len(adapters) + 1


@pytest.mark.filterwarnings("ignore")
def test_our_own_pass_leaves_nothing_behind_on_the_cpu(engine: Any, shadow: None) -> None:
    """G13: rows with different adapters run wholly on the model's device, prompts, slots, masks and all."""
    inference = engine(_on_another)
    _run_mixed(inference)
    (held,) = inference._machinery.residents.all()
    assert held.packed is not None
    assert {parameter.device.type for parameter in held.model.parameters()} == {"meta"}


@pytest.mark.long
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("wrap", [_on_another, _on_two], ids=["one", "two"])
def test_transformers_pass_leaves_nothing_behind_on_the_cpu(
    engine: Any, shadow: None, no_own_pass: None, wrap: Wrap
) -> None:
    """G13: rows together, on one device and spread over two."""
    inference = engine(wrap)
    _run_mixed(inference)
    (info,) = inference.residents()
    assert info.together, info.alone_because


@pytest.mark.long
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("wrap", [_on_another, _on_two], ids=["one", "two"])
@pytest.mark.parametrize("own", [True, False], ids=["own", "transformers"])
def test_dora_pissa_soft_prompts_and_ia3_are_put_where_the_model_is(
    engine: Any,
    shadow: None,
    monkeypatch: pytest.MonkeyPatch,
    make_adapter: Callable[..., Path],
    wrap: Wrap,
    own: bool,
) -> None:
    """G13: DoRA, PiSSA, soft prompts, and what PEFT serves."""
    if not own:
        monkeypatch.setattr(resident.PackedModel, "of", classmethod(lambda cls, *args: None))
    soft = {"task_type": "CAUSAL_LM", "num_virtual_tokens": 5}
    configs = [
        peft.LoraConfig(r=4, target_modules=["q_proj", "down_proj"], use_dora=True),
        peft.LoraConfig(r=4, target_modules=["q_proj"], init_lora_weights="pissa"),
        peft.PrefixTuningConfig(**soft),
        peft.PromptTuningConfig(**soft),
        peft.IA3Config(target_modules=["k_proj", "down_proj"], feedforward_modules=["down_proj"]),
    ]
    if wrap is _on_two:
        configs.pop()  # PEFT moves modules about; refused by name where a plan spreads a base
    folders = [make_adapter(config) for config in configs]
    inference = engine(wrap)
    for folder in folders:
        for prompt in PROMPTS[:2]:
            events = events_of(inference, _sampled(prompt, (folder, 1.0)))
            assert events[-1].finish_reason


def test_a_row_s_place_is_named_on_the_device_of_each_layer() -> None:
    """G13: of a model on several GPUs, each layer's keys are indexed by numbers that lie beside them."""
    config = AutoConfig.for_model(
        "llama", hidden_size=32, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2, vocab_size=32
    )
    model = AutoModelForCausalLM.from_config(config).eval()
    slots = SlotCache()
    planes = [torch.zeros((3, 2, 16), device=where) for where in ("cpu", "cpu", "meta", "meta")]
    slot = slots.join(Contents(planes, 3))
    (slab,) = slots.groups([slot])
    for layer in cache_of(model, slab).layers:
        indices = [
            value for value in vars(layer).values() if isinstance(value, torch.Tensor) and value.dtype == torch.int64
        ]
        assert {index.device for index in indices} == {layer.keys.device}


def test_an_adapter_meets_its_input_where_the_linear_is() -> None:
    """G13: accelerate brings the input over within the call, so what a hook is given lies on the device before."""
    from accelerate.hooks import AlignDevicesHook, add_hook_to_module

    linear = nn.Linear(8, 6).to("meta")
    model = nn.Sequential(linear)
    add_hook_to_module(linear, AlignDevicesHook(execution_device="meta"))
    layer = LoraLayer(torch.zeros((2, 8), device="meta"), torch.zeros((6, 2), device="meta"), 1.0, linear)
    weights = LoraWeights({"0": layer})
    switch = Switch(model)
    switch.attach(weights)
    with switch.use([((weights, 1.0),), ()]):
        output = model(torch.zeros((2, 1, 8)))
    assert (output.device.type, output.shape) == ("meta", (2, 1, 6))


# Weights that are fetched for each pass.


def _of_disk(inference: LocalInference, base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have ``base`` loaded with about a third of it in memory, the rest read from the disk for each pass."""
    plan_load = loading.plan_load
    third = sum(file.stat().st_size for file in base.glob("*.safetensors")) // 3

    def spread(*args: Any) -> Any:
        plan, need = plan_load(*args)
        return dataclasses.replace(plan, limits=(("cpu", third),)), need

    monkeypatch.setattr(loading, "plan_load", spread)
    inference.load(ModelSpec(str(base)))


@pytest.mark.long
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "family", ["llama", "gpt2", "gemma3_text", "phi3", "mixtral", "gpt_oss", "olmo2", "qwen3_5_text"]
)
def test_a_family_read_from_the_disk_answers_as_plain_transformers(
    inference: LocalInference,
    tokenizer: Any,
    tmp_path: Path,
    make_adapter: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
    family: str,
) -> None:
    """G8, G13: layers in memory and on the disk, base and LoRA on all its linears, several answers at once."""
    base = make_family(tmp_path / "base", family, len(tokenizer))
    linears = ["q_proj", "v_proj"] if family == "mixtral" else "all-linear"  # what is PEFT's alone is refused there
    folder = make_adapter(peft.LoraConfig(r=4, target_modules=linears), "lora", base=base)
    _of_disk(inference, base, monkeypatch)
    (info,) = [info for info in inference.residents() if info.base == str(base)]
    assert (info.together, info.alone_because[:24]) == (False, "A part of it lies elsewh")
    plain = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32).eval()
    tuned = peft.PeftModel.from_pretrained(copy.deepcopy(plain), folder).eval()
    prompts = ("Hello there, how are you?", "So a word " * 18, "word " * 80)
    expected = [greedy_ids(model, tokenizer(prompt)["input_ids"], 10) for prompt in prompts for model in (plain, tuned)]
    assert expected[0] != expected[1]
    settings = GenerationSettings(strategy="greedy", max_new_tokens=10)
    specs = (ModelSpec(str(base)), ModelSpec(str(base), ((str(folder), 1.0),)))
    requests = [
        GenerationRequest(spec, prompt, settings=settings, template="raw") for prompt in prompts for spec in specs
    ]
    found: list[list[int]] = [[] for _ in requests]
    at_once(lambda at: found.__setitem__(at, ids_of(events_of(inference, requests[at]))), len(requests))
    assert found == expected
    inference.unload(str(base))


@pytest.mark.long
@pytest.mark.filterwarnings("ignore")
def test_weights_that_wait_on_the_cpu_answer_as_in_one_place(engine: Any, make_adapter: Callable[..., Path]) -> None:
    """G8: as a GPU that is too small has them; LoRA, soft prompts, beams, a score, and Stop in the middle."""
    soft = [
        make_adapter(config(task_type="CAUSAL_LM", num_virtual_tokens=5), config.__name__)
        for config in (peft.PrefixTuningConfig, peft.PromptTuningConfig)
    ]
    requests = [
        ask(PROMPTS[0]),
        ask(PROMPTS[1], (PIRATE, 1.0)),
        ask(PROMPTS[1], (PIRATE, 0.5), (SQL, 0.5)),
        ask(PROMPTS[2], strategy="beam_search", num_beams=2, max_new_tokens=8),
        *(ask(PROMPTS[1], (folder, 1.0), max_new_tokens=12) for folder in soft),
    ]

    def fetched(model: Any) -> Any:
        cpu_offload(model, execution_device=torch.device("cpu"))
        assert is_fetched(model)
        return model

    def answers(inference: LocalInference) -> tuple[list[str], list[float]]:
        texts = [text_of(events_of(inference, request)) for request in requests]
        (score,) = inference.score(requests[0], "Paris is the capital of France.")
        events = inference.stream(ask(PROMPTS[2], max_new_tokens=400))
        next(event for event in events if event.text)
        events.close()
        return texts, [token.logprob for token in score.tokens]

    whole, spread = engine(lambda model: model), engine(fetched)
    expected = answers(whole)
    texts, logprobs = answers(spread)
    assert texts == expected[0]
    assert logprobs == pytest.approx(expected[1], abs=1e-5)
    assert spread.residents()[0].alone_because.startswith("A part of it lies elsewhere")


@pytest.mark.parametrize(
    ("free", "chosen", "why"),
    [
        ([20, 20], "cuda:0", "of 2 GPUs"),
        ([3, 20, 11], "cuda:1", "of 3 GPUs this one has the most free memory"),
        ([3], "cuda:0", "a GPU is present"),
    ],
)
def test_auto_takes_the_gpu_with_the_most_free_memory(
    monkeypatch: pytest.MonkeyPatch, free: list[int], chosen: str, why: str
) -> None:
    """G8: the others are asked for what it cannot hold, and accelerate fills them in the order of their numbers."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: len(free))
    monkeypatch.setattr(devices, "device_bytes", lambda device: (24, free[devices.index(device)]))
    device, said = devices.choose_device("auto")
    assert (device, said[: len(why)]) == (chosen, why)
