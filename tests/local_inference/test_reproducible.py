"""G3, G10: an answer that asked to be reproducible has the same tokens and the same numbers whatever else runs."""

from __future__ import annotations

import random
import shutil
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from playground.local_inference import LocalInference, identity
from playground.local_inference.identity import base_identity
from playground.types import GenerationRequest, ModelSpec, Quantization

from .conftest import PIRATE, PROMPTS, SQL, STARTER, ask, events_of, ids_of, text_of, unpack

Adapters = tuple[tuple[Path, float], ...]
COMPANY: tuple[Adapters, ...] = (
    (), ((PIRATE, 1.0),), ((SQL, 1.0),), ((SQL, 0.5), (PIRATE, 0.4)), ((PIRATE, 0.3),),
)  # fmt: skip
KINDS: tuple[Adapters, ...] = ((), ((PIRATE, 0.7),), ((PIRATE, 0.5), (SQL, 0.6)))
DRAWN = {"strategy": "sampling", "temperature": 1.0, "seed": 5, "max_new_tokens": 40}
LONG = "Write a long story about a cat that lives in a lighthouse. " * 24


def _low(
    prompt: str, *adapters: tuple[Path, float], quantization: Quantization = "none", **settings: Any
) -> GenerationRequest:
    """A drawn answer in bfloat16."""
    request = ask(prompt, *adapters, **{**DRAWN, **settings})
    return replace(request, spec=replace(request.spec, dtype="bfloat16", quantization=quantization))


def _numbers(engine: LocalInference, request: GenerationRequest) -> list[tuple[int, float]]:
    """(id, log-probability) of each token: equal only when no number was rounded otherwise."""
    return [(token.id, token.logprob) for event in events_of(engine, request) for token in event.tokens]


def _beside(engine: LocalInference, request: GenerationRequest, **company: Any) -> list[tuple[int, float]]:
    """The numbers of ``request`` beside eight other rows, with other adapters, that arrive at random moments."""
    finished: list[bool] = []

    def other(at: int) -> None:
        chance = random.Random(at)
        time.sleep(chance.random() * 0.2)
        settings: dict[str, Any] = {"max_new_tokens": chance.randint(15, 40), "seed": at, **company}
        other = _low(PROMPTS[at % 3] * chance.randint(1, 20), *COMPANY[at % len(COMPANY)], **settings)
        finished.append(bool(_numbers(engine, other)))

    threads = [threading.Thread(target=other, args=(at,)) for at in range(8)]
    for thread in threads:
        thread.start()
    time.sleep(0.1)
    found = _numbers(engine, request)
    for thread in threads:
        thread.join()
    assert finished == [True] * 8
    return found


def _resident(engine: LocalInference, **spec: Any) -> Any:
    asked = ModelSpec(str(STARTER), quantization="none", dtype="bfloat16")
    engine.load(asked)
    assert engine._machinery is not None
    return next(held for held in engine._machinery.residents.all() if held.asked.dtype == "bfloat16")


@pytest.mark.parametrize(
    "adapters",
    [
        pytest.param(KINDS[0], id="base"),
        pytest.param(KINDS[1], id="one", marks=pytest.mark.long),
        pytest.param(KINDS[2], id="two"),
    ],
)
def test_a_reproducible_answer_is_the_same_in_any_company(inference: LocalInference, adapters: Adapters) -> None:
    """G3: in bfloat16, with adapters and strengths, to the last bit of every log-probability; the others finish too."""
    request = _low(PROMPTS[2], *adapters, reproducible=True)
    alone = _numbers(inference, request)
    assert len(alone) > 10
    assert _beside(inference, request) == alone
    assert _numbers(inference, request) == alone, "also after companies that are remembered"


@pytest.mark.parametrize("quantization", ["nf4", pytest.param("int8", marks=pytest.mark.long)])
def test_a_reproducible_answer_of_a_quantized_base_is_the_same_in_any_company(
    inference: LocalInference, quantization: Quantization
) -> None:
    """G3, G8: with two adapters, beside rows of the same quantized base."""
    request = _low(PROMPTS[2], *KINDS[2], quantization=quantization, reproducible=True, max_new_tokens=15)
    alone = _numbers(inference, request)
    assert _beside(inference, request, quantization=quantization, max_new_tokens=10) == alone


def test_without_it_the_numbers_depend_on_the_company(inference: LocalInference) -> None:
    """G3: the test above can fail: the same request, not reproducible, is rounded otherwise beside others."""
    request = _low(PROMPTS[2], *KINDS[2])
    assert _beside(inference, request) != _numbers(inference, request)


def test_a_reproducible_prompt_is_read_in_pieces_of_one_size(inference: LocalInference) -> None:
    """G3: however little of a prompt a step may read beside rows that decode."""
    request = _low(LONG, *KINDS[1], reproducible=True, max_new_tokens=12)
    resident = _resident(inference)
    resident.pace.tokens = 256
    alone = _numbers(inference, request)
    assert len(inference.render(request).token_ids) > 256
    resident.pace.tokens = 32
    assert _beside(inference, request) == alone


def test_no_measured_kernel_decides_for_a_reproducible_row(
    inference: LocalInference, monkeypatch: pytest.MonkeyPatch
) -> None:
    """G3: what was faster when the model was loaded may be another thing the next time."""
    answers = []
    for reproducible in (True, False):
        for rows in (0, 2):
            monkeypatch.setattr(_resident(inference), "plain_kernel_rows", rows)
            answers.append(_numbers(inference, _low(PROMPTS[2], reproducible=reproducible)))
    assert answers[0] == answers[1]
    assert answers[2] != answers[3], "else this proves nothing"


@pytest.mark.parametrize("batches", [True, False])
def test_models_that_are_not_packed_are_reproducible_too(
    inference: LocalInference, monkeypatch: pytest.MonkeyPatch, batches: bool
) -> None:
    """G3, G13: in transformers' own pass the row has a cache of its own."""
    unpack(monkeypatch, _resident(inference))
    monkeypatch.setattr(_resident(inference), "batches", batches)
    request = _low(PROMPTS[2], *KINDS[2], reproducible=True, max_new_tokens=20)
    alone = _numbers(inference, request)
    assert _beside(inference, request, max_new_tokens=15) == alone


@pytest.mark.filterwarnings("ignore")
def test_an_adapter_that_takes_turns_is_reproducible(
    inference: LocalInference, make_adapter: Callable[..., Path]
) -> None:
    """G3, G12: both sides take turns of the base, and the answer is the same to the last bit."""
    from peft import LoHaConfig

    loha = make_adapter(LoHaConfig(r=4, alpha=8, target_modules=["q_proj", "up_proj"]), "loha")
    request = _low(PROMPTS[2], (loha, 1.0), reproducible=True, max_new_tokens=15)
    alone = _numbers(inference, request)
    assert _beside(inference, request, max_new_tokens=15) == alone


def test_a_reproducible_beam_search_is_the_same_beside_others(inference: LocalInference) -> None:
    """G3: it has a pass of its own anyway, and a company of exactly its own adapters."""
    request = _low(PROMPTS[1], *KINDS[2], strategy="beam_search", num_beams=3, reproducible=True, max_new_tokens=12)
    alone = text_of(events_of(inference, request))
    threads = [threading.Thread(target=events_of, args=(inference, _low(PROMPTS[2], *some))) for some in COMPANY[:3]]
    for thread in threads:
        thread.start()
    assert text_of(events_of(inference, request)) == alone
    for thread in threads:
        thread.join()


def test_a_row_by_itself_never_meets_a_remembered_company() -> None:
    """G3: columns of others' adapters, masked out, still change how a product is rounded."""
    from playground.local_inference.lora import LoraWeights
    from playground.local_inference.mixing import Mixer

    one, two = LoraWeights({}), LoraWeights({})
    mixer = Mixer()
    both = mixer.mix((((one, 1.0),), ((two, 1.0),)), (1, 1))
    alone = mixer.mix((((two, 0.5),),), (1,))
    turned = mixer.mix((((two, 0.5), (one, 1.0)),), (1,))
    assert both is not None
    assert alone is not None
    assert turned is not None
    assert [weights for weights, _ in both.company.members] == [one, two]
    assert [weights for weights, _ in alone.company.members] == [two]
    assert [weights for weights, _ in turned.company.members] == [two, one]


def test_a_reproducible_row_leaves_no_slot_behind(inference: LocalInference) -> None:
    """G1: its keys and values are counted while it runs and are gone when it has ended or was stopped."""
    stream = inference.stream(_low(PROMPTS[2], reproducible=True, max_new_tokens=200))
    for event in stream:
        if event.tokens:
            break
    assert inference.memory().kv_cache > 0
    stream.close()
    limit = time.monotonic() + 10
    while inference.activity() != (0, 0) and time.monotonic() < limit:
        time.sleep(0.01)
    assert inference.memory().kv_cache == 0


def test_several_reproducible_answers_are_those_of_their_seeds(inference: LocalInference) -> None:
    """G3: each answer of a request is computed alone, and is the one that its own seed gives."""
    from playground.types import row_seed

    together = events_of(inference, _low(PROMPTS[2], reproducible=True, num_return_sequences=3, max_new_tokens=15))
    third = [token.id for event in together if event.index == 2 for token in event.tokens]
    single = _low(PROMPTS[2], reproducible=True, seed=row_seed(5, 2), max_new_tokens=15)
    assert ids_of(events_of(inference, single)) == third


# --- provenance


def _made(engine: LocalInference, request: GenerationRequest) -> Any:
    made = events_of(engine, request)[-1].provenance
    assert made is not None
    return made


def test_provenance_says_what_is_exact(inference: LocalInference) -> None:
    """G3, G10: float32 is, bfloat16 only alone."""
    full = replace(ask(max_new_tokens=1), spec=ModelSpec(str(STARTER), dtype="float32"))
    assert _made(inference, full).exact
    assert not _made(inference, _low(PROMPTS[0], max_new_tokens=1)).exact
    assert _made(inference, _low(PROMPTS[0], max_new_tokens=1, reproducible=True)).exact


def test_what_answers_is_told_before_the_first_token(inference: LocalInference) -> None:
    """G10: an answer that is stopped half way has its provenance all the same."""
    events = events_of(inference, ask(PROMPTS[0], (PIRATE, 0.7), max_new_tokens=40))
    told = next(at for at, event in enumerate(events) if event.provenance)
    first = next(at for at, event in enumerate(events) if event.tokens)
    assert told <= first
    assert events[told].provenance == events[-1].provenance


def test_a_quantized_answer_names_bitsandbytes_and_is_exact_only_alone(inference: LocalInference) -> None:
    """G8, G10: in float32 as well, for its kernels round differently in company."""
    request = ask(max_new_tokens=1)
    request = replace(request, spec=replace(request.spec, quantization="nf4", dtype="float32"))
    made = _made(inference, request)
    assert {"torch", "transformers", "peft", "bitsandbytes", "adapter-playground"} == set(made.versions)
    assert not made.exact
    assert "bitsandbytes" not in _made(inference, ask(max_new_tokens=1)).versions


def test_provenance_identifies_the_base_wherever_it_lies(inference: LocalInference, tmp_path: Path) -> None:
    """G10: a copy is the same base; one with another template is not, and the template's own hash says which part it is."""
    copy = Path(shutil.copytree(STARTER, tmp_path / "elsewhere"))
    request = ask(max_new_tokens=1)
    here = _made(inference, request)
    assert len(here.base_hash) == 64
    assert here.base_hash == base_identity(STARTER) == base_identity(copy)
    template = copy / "chat_template.jinja"
    template.write_text(template.read_text() + "{# another #}")
    there = _made(inference, replace(request, spec=ModelSpec(str(copy))))
    assert there.base_hash not in ("", here.base_hash)
    assert there.template_hash not in ("", here.template_hash)
    for name in ("raw", "instruction"):
        assert _made(inference, replace(request, template=name)).template_hash == ""  # type: ignore[arg-type]


def test_the_identity_of_large_weights_sees_headers_sizes_and_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """G10: where not all of a file is read, what is read tells apart what is called apart."""
    monkeypatch.setattr(identity, "WHOLE_BYTES", 0)
    monkeypatch.setattr(identity, "BLOCKS", 16)
    monkeypatch.setattr(identity, "BLOCK_BYTES", 64)
    folder = Path(shutil.copytree(STARTER, tmp_path / "base"))
    weights = folder / "model.safetensors"
    first, whole = base_identity(folder), weights.read_bytes()
    found = {first}
    for other in (
        whole[:-1],
        whole[:20] + b"#" + whole[21:],
        bytes(255 - byte for byte in whole),
        whole[:-1] + bytes([whole[-1] ^ 1]),
    ):
        weights.write_bytes(other)
        found.add(base_identity(folder))
    assert len(found) == 5
    weights.write_bytes(whole)
    assert base_identity(folder) == first
    (folder / "README.md").write_text("Another text.")
    (folder / "pytorch_model.bin").write_bytes(b"an older copy, which is not read")
    assert base_identity(folder) == first
