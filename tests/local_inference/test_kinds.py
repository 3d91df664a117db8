"""Every kind of adapter that PEFT attaches, on one engine: its answer is PEFT's, and nobody else's is touched (G2, G14, R3).

PEFT itself fails some of this: `adapter_names` is silently ignored for IA3, LoHa, LoKr and prompts, an exception in a mixed
batch leaves its hooks on the base, and loading an adapter after a forward pass corrupts 4-bit weights on some processors.
"""

from __future__ import annotations

import gc
import json
import shutil
import threading
import warnings
import weakref
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModelForCausalLM, get_peft_model
from peft.tuners.lora import LoraLayer
from safetensors.torch import save_file

from playground.errors import AdapterInvalid, EngineFailure, InvalidRequest, OutOfMemory, PlaygroundError
from playground.local_inference import LocalInference
from playground.local_inference.attaching import read_adapter
from playground.local_inference.lora import read_weights
from playground.local_inference.pissa import on_untouched_base
from playground.local_inference.proof import probe
from playground.local_inference.resident import Applied
from playground.types import GenerationEvent, GenerationRequest, GenerationSettings, LoadedAdapter, ModelSpec

from .conftest import PIRATE, SQL, STARTER, at_once, events_of, greedy_ids, ids_of, plain_model, unpack
from .kind_maker import KINDS, SOME, Kind, answer_of, logprobs_of, make_kind, plain_peft

# A text that the starter knows nothing about, so that every adapter changes what it says.
PROMPT = "Tell me: who, when and"
ANSWER = "m that is it, said the old king to seven blue boats."
TOKENS = 14
# Kinds that are made of the same parts as others here.
RARE = {
    "lora in two layers", "lora by a regular expression", "lora with all biases", "boft", "vera", "hra", "fourierft",
    "shira", "ln tuning", "p-tuning with an LSTM", "prefix tuning with a projection", "cartridge",
    "olora", "loha", "more tokens in saved modules", "p-tuning",
}  # fmt: skip
EACH = [pytest.param(name, marks=pytest.mark.long if name in RARE else ()) for name in KINDS]
# Not linear in their strength, or not to be merged: half of them is made by PEFT's own scale.
NOT_MERGED = {"dora", "lora on the head", "lora on embeddings", "lora with its own bias"}


@pytest.fixture(scope="module")
def folder_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of a kind's adapter, made when it is first asked for."""
    made: dict[str, Path] = {}

    def folder(name: str) -> Path:
        if name not in made:
            made[name] = make_kind(KINDS[name], tmp_path_factory.mktemp("kinds") / name.replace(" ", "-"))
        return made[name]

    return folder


@pytest.fixture(scope="module")
def others(inference: LocalInference) -> list[list[int]]:
    """What the base and a LoRA answer when nobody else is there."""
    return [ids_of(events_of(inference, request)) for request in (raw(), raw((PIRATE, 1.0)))]


@pytest.fixture
def resident(inference: LocalInference) -> Any:
    """The starter in memory."""
    inference.load(ModelSpec(str(STARTER)))
    assert inference._machinery is not None
    return inference._machinery.residents.all()[0]


def raw(*adapters: tuple[Path, float], prompt: str = PROMPT, spec: ModelSpec | None = None, **settings: Any) -> Any:
    """A request without a chat template, greedy."""
    values = {"strategy": "greedy", "max_new_tokens": TOKENS, **settings}
    spec = replace(spec or ModelSpec(str(STARTER)), adapters=tuple((str(path), scale) for path, scale in adapters))
    return GenerationRequest(spec, prompt, settings=GenerationSettings(**values), template="raw")


def fingerprint(inference: LocalInference, resident: Any) -> torch.Tensor:
    """Logits of the base with nothing on it."""

    def job() -> torch.Tensor:
        with resident.running(Applied()) as model:
            return probe(model, resident.vocabulary)

    assert inference._machinery is not None
    found: torch.Tensor = inference._machinery.compute(job)
    return found


def in_one_step(inference: LocalInference, requests: list[GenerationRequest]) -> list[list[GenerationEvent]]:
    """The events of requests that are all in line before the first step of any."""
    assert inference._machinery is not None
    for request in requests:
        inference.load(request.spec)
    gate = threading.Event()
    inference._machinery.loop.run(lambda: gate.wait(20))
    inference._machinery.thread.wake()
    heard: list[list[Any]] = [[] for _ in requests]
    ended = [threading.Event() for _ in requests]

    def sink(at: int, event: Any) -> None:
        heard[at].append(event)
        if isinstance(event, Exception) or event.finish_reason:
            ended[at].set()

    for at, request in enumerate(requests):
        inference.submit(request, partial(sink, at))
    waiting = inference._machinery.loop.scheduler.waiting
    assert _eventually(lambda: len(waiting()) == len(requests))
    gate.set()
    assert all(end.wait(60) for end in ended)
    for events in heard:
        for event in events:
            if isinstance(event, Exception):
                raise event
    return heard


def _eventually(true: Callable[[], bool]) -> bool:
    pause = threading.Event()
    return any(true() or pause.wait(0.005) for _ in range(4000))


def loaded(inference: LocalInference, folder: Path) -> LoadedAdapter:
    """What the engine says of the adapter."""
    return next(a for info in inference.residents() for a in info.adapters if a.path == str(folder))


def scored(inference: LocalInference, *adapters: tuple[Path, float]) -> torch.Tensor:
    """The engine's log-probabilities [answer] of ANSWER."""
    (scores,) = inference.score(raw(*adapters), ANSWER, top=0)
    return torch.tensor([token.logprob for token in scores.tokens], dtype=torch.float64)


def answer_ids(tokenizer: Any) -> list[int]:
    ids: list[int] = tokenizer(ANSWER, add_special_tokens=False)["input_ids"]
    return ids


@pytest.mark.filterwarnings("ignore:One of the base layers adapted with ShiRA has")
@pytest.mark.parametrize("name", EACH)
def test_each_kind_answers_as_peft_and_nobody_beside_it_notices(
    inference: LocalInference,
    resident: Any,
    tokenizer: Any,
    others: list[list[int]],
    folder_of: Callable[[str], Path],
    monkeypatch: pytest.MonkeyPatch,
    name: str,
) -> None:
    """G2, G14, R3, C3: token for token, score for score, with the base and a LoRA at the same time; the base bit-equal.

    And at half the strength: exact, AdaLoRA's included, which PEFT's own set_scale gets wrong; or refused with a sentence.
    """
    kind, folder, ids = KINDS[name], folder_of(name), tokenizer(PROMPT)["input_ids"]
    plain = plain_peft(kind, folder)
    expected = answer_of(plain, ids, TOKENS)
    requests = [raw((folder, 1.0)), raw(), raw((PIRATE, 1.0))]
    before = fingerprint(inference, resident)
    passes: list[int] = []
    step = resident.packed_step
    monkeypatch.setattr(resident, "packed_step", lambda *a, **o: passes.append(len(a[3])) or step(*a, **o))
    heard = in_one_step(inference, requests)
    assert [ids_of(events) for events in heard] == [expected, *others]
    assert expected != others[0], "the adapter of this test changes nothing"
    assert max(passes) == (3 if kind.shares else 2)
    turns = any("waiting for its turn" in event.status.detail for events in heard for event in events)
    assert turns != kind.shares
    info = loaded(inference, folder)
    assert (info.exclusive, info.moves_logits) == (not kind.shares, True)
    answer = answer_ids(tokenizer)
    torch.testing.assert_close(scored(inference, (folder, 1.0)), logprobs_of(plain, ids, answer), atol=1e-4, rtol=0)
    if kind.scales:
        half = logprobs_of(_halfway(name, plain), ids, answer)
        torch.testing.assert_close(scored(inference, (folder, 0.5)), half, atol=1e-4, rtol=0)
    else:
        with pytest.raises(InvalidRequest, match=r"\. Use it at strength 1, or 0"):
            events_of(inference, raw((folder, 0.5)))
    assert torch.equal(scored(inference, (folder, 0.0)), scored(inference))
    assert torch.equal(fingerprint(inference, resident), before)


def _halfway(name: str, model: Any) -> Any:
    """``model`` with half of its adapter: half of what it adds to each weight, or by PEFT's own scale."""
    if name in NOT_MERGED:
        for module in model.modules():
            if isinstance(module, LoraLayer):
                module.set_scale("default", 0.5)
        return model
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        merged = model.merge_and_unload()
        base = plain_model().state_dict()
        for key, value in merged.state_dict().items():
            value.copy_(value.lerp(base[key], 0.5))
    return merged


@pytest.mark.parametrize("name", ["ia3", "prefix tuning"])
def test_what_cannot_be_mixed_is_refused_by_name(
    inference: LocalInference, folder_of: Callable[[str], Path], name: str
) -> None:
    """G14: a mix that cannot be computed is refused, not approximated; an adapter at strength 0 is no mix."""
    with pytest.raises(InvalidRequest, match=f"cannot be mixed: '{name.replace(' ', '-')}'"):
        events_of(inference, raw((folder_of(name), 1.0), (PIRATE, 1.0)))
    with pytest.raises(InvalidRequest, match="cannot be mixed"):
        events_of(inference, raw((folder_of(name), 1.0), (folder_of("cpt"), 1.0)))
    alone = ids_of(events_of(inference, raw((PIRATE, 1.0))))
    assert ids_of(events_of(inference, raw((PIRATE, 1.0), (folder_of(name), 0.0)))) == alone


@pytest.mark.parametrize("name", ["ia3", "lora with its own bias", "saved module", "prompt tuning", "dora"])
def test_an_exception_in_a_pass_leaves_the_base_and_the_adapter_right(
    inference: LocalInference,
    resident: Any,
    folder_of: Callable[[str], Path],
    monkeypatch: pytest.MonkeyPatch,
    name: str,
) -> None:
    """G6, G2: PEFT's hooks stay on after one, and every later call fails; here one row fails and nothing is left behind."""
    request = raw((folder_of(name), 1.0))
    expected, base = (ids_of(events_of(inference, one)) for one in (request, raw()))
    before = fingerprint(inference, resident)
    inference.load(request.spec)

    def breaks(*args: Any) -> None:
        raise RuntimeError("in the middle of a pass")

    with monkeypatch.context() as broken:
        broken.setattr(type(resident.model.model.layers[-1].mlp.act_fn), "forward", breaks)
        broken.setattr(torch.nn.functional, "silu", breaks)
        with pytest.raises(EngineFailure, match="in the middle of a pass"):
            events_of(inference, request)
    assert torch.equal(fingerprint(inference, resident), before)
    assert ids_of(events_of(inference, raw())) == base
    assert ids_of(events_of(inference, request)) == expected
    assert not resident.damaged


@pytest.mark.parametrize("name", ["prompt tuning", "prefix tuning"])
def test_soft_prompts_run_in_transformers_own_pass_too(
    inference: LocalInference,
    resident: Any,
    folder_of: Callable[[str], Path],
    monkeypatch: pytest.MonkeyPatch,
    name: str,
) -> None:
    """G13, G2: together on slots where rows decode together, and one by one where they do not."""
    requests = [raw((folder_of(name), 1.0)), raw(), raw((PIRATE, 1.0))]
    expected = [ids_of(events_of(inference, request)) for request in requests]
    unpack(monkeypatch, resident)
    for together in (True, False):
        monkeypatch.setattr(resident, "batches", together)
        assert [ids_of(events) for events in in_one_step(inference, requests)] == expected


@pytest.mark.parametrize("name", ["prompt tuning", "prefix tuning"])
def test_a_long_prompt_after_a_soft_prompt_is_read_in_pieces(
    inference: LocalInference, tokenizer: Any, folder_of: Callable[[str], Path], name: str
) -> None:
    """G5: progress is between 0 and 1, and the answer PEFT's."""
    text = PROMPT + " the old king and his seven boats went to the sea" * 30
    events = events_of(inference, raw((folder_of(name), 1.0), prompt=text))
    expected = answer_of(plain_peft(KINDS[name], folder_of(name)), tokenizer(text)["input_ids"], TOKENS)
    assert ids_of(events) == expected
    statuses = [event.status for event in events if event.status.phase == "prefilling"]
    fractions = [status.fraction for status in statuses if status.fraction is not None]
    assert fractions
    assert all(0 < fraction < 1 for fraction in fractions)
    alone = raw((folder_of(name), 1.0), prompt=text, reproducible=True)
    assert ids_of(events_of(inference, alone)) == expected


@pytest.mark.parametrize("name", ["prompt tuning", "prefix tuning", "ia3"])
def test_a_beam_search_with_any_kind_finds_what_transformers_finds(
    inference: LocalInference, tokenizer: Any, folder_of: Callable[[str], Path], name: str
) -> None:
    """G4: soft prompts included, whose cache is repeated for the beams."""
    plain = plain_peft(KINDS[name], folder_of(name))
    expected = greedy_ids(plain, tokenizer(PROMPT)["input_ids"], TOKENS, num_beams=3)
    events = events_of(inference, raw((folder_of(name), 1.0), strategy="beam_search", num_beams=3))
    text = "".join(event.text for event in events)
    assert text == tokenizer.decode(expected, skip_special_tokens=True)


def test_a_soft_prompt_takes_its_positions_from_the_window(
    inference: LocalInference, resident: Any, folder_of: Callable[[str], Path]
) -> None:
    """G7, G1: the answer ends earlier by as many tokens, and the keys and values are counted and dropped."""
    folder = folder_of("prefix tuning")
    words = " the" * (resident.loaded.window - 40)
    room = [
        inference.render(request).max_new_tokens
        for request in (raw(prompt=words, max_new_tokens=1000), raw((folder, 1.0), prompt=words, max_new_tokens=1000))
        if inference.load(request.spec)
    ]
    assert room[0] - room[1] == 5
    tensors = 2 * 6 * 2 * 5 * 32  # keys and values of 6 layers, 2 heads, 5 positions of 32 numbers
    assert loaded(inference, folder).bytes == 4 * tensors


def test_unloading_the_base_drops_a_soft_prompts_keys_and_values(
    inference: LocalInference, folder_of: Callable[[str], Path]
) -> None:
    """G1: nobody else holds them."""
    inference.load(raw((folder_of("cpt"), 1.0)).spec)
    assert inference._machinery is not None
    (base,) = inference._machinery.residents.all()
    kept = [weakref.ref(attached.prefix) for attached in base.adapters.values() if attached.prefix]
    assert kept
    del base
    inference.unload(str(STARTER))
    gc.collect()
    assert [prefix() for prefix in kept] == [None] * len(kept)


def test_a_soft_prompt_for_another_base_is_refused_with_both_sizes(
    inference: LocalInference, folder_of: Callable[[str], Path], tmp_path: Path
) -> None:
    """G9: whatever its width, and when its file holds something else."""
    folder = Path(shutil.copytree(folder_of("prompt tuning"), tmp_path / "wide"))
    for tensors, sentence in (
        ({"prompt_embeddings": torch.ones(5, 256)}, r"5×256 numbers, for this base they would be 5×192"),
        ({"prompt_embeddings": torch.ones(4, 192)}, r"4×192 numbers, for this base they would be 5×192"),
        ({"prompt_embeddings": torch.ones(5, 192), "other": torch.ones(1)}, r"its file holds other beside it"),
        ({"prompt_embeddings": torch.full((5, 192), torch.nan)}, r"NaN"),
    ):
        save_file(tensors, folder / "adapter_model.safetensors")
        with pytest.raises(AdapterInvalid, match=sentence):
            inference.load(raw((folder, 1.0)).spec)


@pytest.mark.parametrize("kind", ["MULTITASK_PROMPT_TUNING", "ADAPTION_PROMPT", "POLY"])
def test_kinds_that_need_more_than_a_base_and_a_text_are_refused_by_name(
    inference: LocalInference, folder_of: Callable[[str], Path], tmp_path: Path, kind: str
) -> None:
    """R3: before anything runs, never answered by the base."""
    folder = Path(shutil.copytree(folder_of("prompt tuning"), tmp_path / "other"))
    file = folder / "adapter_config.json"
    file.write_text(file.read_text().replace("PROMPT_TUNING", kind))
    with pytest.raises(AdapterInvalid, match=f"{kind} adapters are not supported.*Use prompt tuning"):
        inference.load(raw((folder, 1.0)).spec)


def test_a_lora_that_begins_in_the_middle_of_a_text_is_refused(inference: LocalInference, tmp_path: Path) -> None:
    """R3: PEFT's forward pass forgets with the prompt that it was invoked, so the answer would be another one."""
    kind = replace(
        KINDS["lora"], config=lambda: LoraConfig(r=4, target_modules=["q_proj"], alora_invocation_tokens=[5])
    )
    with pytest.raises(AdapterInvalid, match=r"aLoRA\) adapters are not supported"):
        inference.load(raw((make_kind(kind, tmp_path / "activated"), 1.0)).spec)


def test_pissa_is_exact_to_a_hundred_thousandth(inference: LocalInference, folder_of: Callable[[str], Path]) -> None:
    """ENGINE: on the weights themselves, where no rounding of a forward pass hides anything."""
    for name in ("pissa", "olora"):
        inference.load(raw((folder_of(name), 1.0)).spec)
        assert inference._machinery is not None
        resident = inference._machinery.residents.all()[0]
        weights = next(a for a in resident.adapters.values() if a.info.path == str(folder_of(name))).weights
        merged = plain_peft(KINDS[name], folder_of(name)).merge_and_unload()
        for module, layer in weights.layers.items():
            ours = layer.linear.weight + layer.scale * layer.b @ layer.a
            torch.testing.assert_close(ours, merged.get_submodule(module).weight, atol=1e-5, rtol=0)
            assert layer.a.shape[0] == 8


def test_pissa_survives_sixteen_bits(folder_of: Callable[[str], Path]) -> None:
    """G8: what cancels out does so before it is rounded; A, B and the base's part rounded apart would be off by more."""
    folder = folder_of("pissa")
    model = plain_model().bfloat16()
    read = read_weights(folder, LoraConfig.from_pretrained(folder), dict(model.named_modules()), torch.float32)
    for name, layer in on_untouched_base(read, "pissa", "x", lambda done, of: None).layers.items():
        u, s, v = torch.linalg.svd(layer.linear.weight.detach().float(), full_matrices=False)
        part = (u[:, :4] * s[:4]) @ v[:4]
        exact = layer.scale * read.layers[name].b @ read.layers[name].a - part
        found = layer.scale * layer.b.float() @ layer.a.float()
        assert layer.b.dtype == torch.bfloat16
        assert float((found - exact).norm()) < 0.01 * float(exact.norm())


def test_attaching_a_pissa_says_how_far_it_is(
    inference: LocalInference, folder_of: Callable[[str], Path], tmp_path: Path
) -> None:
    """G12: the base's weights are decomposed anew, which takes long on a large one."""
    folder = Path(shutil.copytree(folder_of("pissa"), tmp_path / "pissa"))
    told: list[Any] = []
    inference.load(raw((folder, 1.0)).spec, told.append)
    fractions = [status.fraction for status in told if "taking pissa out of the base's weights" in status.detail]
    assert fractions == [at / 18 for at in range(18)]


def test_a_lora_that_is_read_during_another_ones_turn_is_served_as_always(
    inference: LocalInference, resident: Any, folder_of: Callable[[str], Path]
) -> None:
    """G2: PEFT has put its own layers in the base's place then, which look like no linears."""
    request = raw((folder_of("ia3"), 1.0))
    inference.load(request.spec)

    def job() -> Any:
        with resident.running(resident.apply(request.spec)):
            return [read_adapter(resident, str(path), lambda status: None) for path in (PIRATE, folder_of("cpt"))]

    assert inference._machinery is not None
    assert [attached.info.exclusive for attached in inference._machinery.compute(job)] == [False, False]


def test_the_report_of_a_pissa_is_a_note(folder_of: Callable[[str], Path]) -> None:
    """G9: it is served, and the report says how; what cannot be computed again stays refused by name."""
    from playground.local_inference.adapters import check_adapter

    (finding,) = [f for f in check_adapter(folder_of("pissa")).findings if f.code == "becomes-lora"]
    assert "a LoRA of twice the rank" in finding.sentence
    assert finding.severity == "note"


def test_a_pissa_with_more_than_linears_is_refused(inference: LocalInference, tmp_path: Path) -> None:
    """G2: PEFT would rewrite the base that everybody shares."""
    from .kind_maker import _lora

    folder = make_kind(_lora(init_lora_weights="pissa", modules_to_save=["norm"]), tmp_path / "more")
    with pytest.raises(AdapterInvalid, match="'pissa', which rewrites the base's weights, and is more than a LoRA"):
        inference.load(raw((folder, 1.0)).spec)


# Quantized bases: loading through PEFT after a forward pass must not touch their packed weights.

NF4 = ModelSpec(str(STARTER), quantization="nf4")


@pytest.fixture(scope="module")
def quantized() -> Iterator[LocalInference]:
    """An engine with the starter in nf4."""
    engine = LocalInference()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        engine.load(NF4)
        yield engine
    engine.close()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "name",
    [
        *("lora", "ia3", "saved module", "trained tokens", "prefix tuning"),
        *(pytest.param(name, marks=pytest.mark.long) for name in ("adalora", "oft", "lora on embeddings")),
    ],
)
def test_loading_an_adapter_after_a_pass_leaves_a_4_bit_base_bit_for_bit(
    quantized: LocalInference, folder_of: Callable[[str], Path], name: str
) -> None:
    """G8, G2: PEFT asks for a state dict, for which bitsandbytes unpacks what the first pass had packed."""
    assert quantized._machinery is not None
    resident = quantized._machinery.residents.all()[0]
    base = ids_of(events_of(quantized, raw(spec=NF4)))
    before = fingerprint(quantized, resident)
    assert ids_of(events_of(quantized, raw((folder_of(name), 1.0), spec=NF4))) != base
    assert torch.equal(fingerprint(quantized, resident), before)
    assert ids_of(events_of(quantized, raw(spec=NF4))) == base


@pytest.mark.filterwarnings("ignore")
def test_rows_with_different_adapters_on_a_4_bit_base_answer_as_each_alone(quantized: LocalInference) -> None:
    """G8: LoRA in mixed batches on nf4, base rows among them."""
    requests = [raw((PIRATE, 1.0), spec=NF4), raw(spec=NF4), raw((SQL, 1.0), spec=NF4), raw((PIRATE, 0.5), spec=NF4)]
    alone = [ids_of(events_of(quantized, request)) for request in requests]
    assert [ids_of(events) for events in in_one_step(quantized, requests)] == alone


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["pissa", "dora"])
def test_what_needs_the_bases_weights_in_full_is_refused_on_a_quantized_one(
    quantized: LocalInference, folder_of: Callable[[str], Path], name: str
) -> None:
    """G8: by name, with what to do."""
    with pytest.raises(AdapterInvalid, match="Load the base without quantization"):
        quantized.load(raw((folder_of(name), 1.0), spec=NF4).spec)


def test_many_kinds_at_once_answer_as_each_alone(inference: LocalInference, folder_of: Callable[[str], Path]) -> None:
    """G2, G6: whatever order the turns come in."""
    names = ["dora", "ia3", "prompt tuning", "saved module", "prefix tuning", "pissa"]
    requests = [raw((folder_of(name), 1.0)) for name in names] + [raw(), raw((PIRATE, 0.5))]
    alone = [ids_of(events_of(inference, request)) for request in requests]
    found: list[list[int]] = [[] for _ in requests]
    errors: list[PlaygroundError] = []

    def one(at: int) -> None:
        try:
            found[at] = ids_of(events_of(inference, requests[at]))
        except PlaygroundError as error:
            errors.append(error)

    at_once(one, len(requests))
    assert (found, errors) == (alone, [])


# What an adapter may not do to the engine.


def _changed(folder: Path, target: Path, **values: Any) -> Path:
    """A copy of an adapter with other values in its configuration."""
    copied = Path(shutil.copytree(folder, target))
    file = copied / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | values))
    return copied


def test_an_expression_that_would_keep_the_engine_busy_is_refused(
    inference: LocalInference, folder_of: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """G6, G9: PEFT tries it on the name of every module; one that only looks so is tried out first, and served."""
    monkeypatch.setattr("playground.local_inference.patterns._CPU_SECONDS", 1)
    bad = _changed(PIRATE, tmp_path / "bad", target_modules="(.*)*x")
    with pytest.raises(AdapterInvalid, match=r"regular expression in target_modules.*List the modules by name"):
        inference.load(raw((bad, 1.0)).spec)
    odd = r"(?:.*?(?:self_attn|attn|mlp).*?(?:q_proj|v_proj|down_proj).*?)|(?:.*layers\.[\d]{1,}\.mlp\.(?:down_proj))"
    good = _changed(folder_of("lora"), tmp_path / "good", target_modules=odd)
    expected = ids_of(events_of(inference, raw((folder_of("lora"), 1.0))))
    assert ids_of(events_of(inference, raw((good, 1.0)))) == expected


def test_a_kind_whose_answers_depend_on_the_pass_is_refused(inference: LocalInference, tmp_path: Path) -> None:
    """G2: LILY weighs its parts by all tokens of a pass, so that in pieces the same text has other numbers."""
    import peft

    config = peft.LilyConfig(r=4, stride_A=1, num_B=2, target_modules=SOME)
    folder = make_kind(Kind(lambda: config), tmp_path / "lily")
    with pytest.raises(AdapterInvalid, match="LILY adapters like this one are not supported"):
        inference.load(raw((folder, 1.0)).spec)


def test_an_adapter_with_which_the_base_cannot_compute_is_refused_by_name(
    inference: LocalInference, resident: Any, tmp_path: Path
) -> None:
    """G9, G1: PEFT puts it on, and its layers fail at the first pass; the base is as it was."""
    import peft

    before = fingerprint(inference, resident)
    config = peft.ShadowConfig(r=4, target_modules=["q_proj"], task_type="CAUSAL_LM")
    folder = make_kind(Kind(lambda: config), tmp_path / "shadow")
    with pytest.raises(AdapterInvalid, match=r"'shadow' \(SHADOW\) this base cannot compute: AttributeError"):
        inference.load(raw((folder, 1.0)).spec)
    assert torch.equal(fingerprint(inference, resident), before)


def test_an_adapter_with_fewer_tokens_than_the_base_is_refused_with_both_numbers(
    inference: LocalInference, resident: Any, tmp_path: Path
) -> None:
    """G9: as one that was trained on a base whose padded embeddings were cut to the tokenizer's size."""
    base = plain_model()
    base.resize_token_embeddings(resident.vocabulary - 36, mean_resizing=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        get_peft_model(base, LoraConfig(r=4, target_modules=SOME)).save_pretrained(tmp_path / "fewer")
    hidden = resident.embeddings.shape[1]
    sizes = f"{resident.vocabulary - 36}×{hidden}, and on this base it would be {resident.vocabulary}×{hidden}"
    with pytest.raises(AdapterInvalid, match=f"its model.embed_tokens.weight is {sizes}"):
        inference.load(raw((tmp_path / "fewer", 1.0)).spec)


@pytest.mark.parametrize("error", [MemoryError(), torch.OutOfMemoryError("CUDA out of memory")])
def test_memory_that_runs_out_while_peft_loads_is_not_the_adapters_fault(
    inference: LocalInference, folder_of: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    """G6: said as what it is, and the adapter works once there is room."""
    request = raw((folder_of("loha"), 1.0))
    expected = ids_of(events_of(inference, request))
    inference.unload(str(STARTER))

    def breaks(*args: Any, **options: Any) -> None:
        raise error

    with monkeypatch.context() as short:
        short.setattr(PeftModelForCausalLM, "load_adapter", breaks)
        with pytest.raises(OutOfMemory, match="ran out of memory"):
            inference.load(request.spec)
    assert ids_of(events_of(inference, request)) == expected
