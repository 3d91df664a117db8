"""G10: proof that an adapter is on: which tensors found a place, how far the logits moved, and no-ops shouted about."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import IA3Config, LoraConfig, TrainableTokensConfig
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer

from playground.errors import AdapterInvalid
from playground.local_inference import LocalInference
from playground.local_inference.proof import compare, names_in_short
from playground.types import LoadedAdapter

from .conftest import PIRATE, PROMPTS, STARTER, ask, events_of, ids_of
from .kind_maker import KINDS, make_kind
from .test_kinds import loaded

WEIGHTS = "adapter_model.safetensors"
Change = Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]


def changed(source: Path, folder: Path, change: Change, **config: Any) -> Path:
    """A copy of an adapter with other tensors and settings."""
    shutil.copytree(source, folder)
    save_file(change(load_file(folder / WEIGHTS)), folder / WEIGHTS)
    file = folder / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | config))
    return folder


def _doubled(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return tensors | {name.replace("ia3", "ia4"): tensor.clone() for name, tensor in tensors.items()}


def attached(inference: LocalInference, folder: Path) -> LoadedAdapter:
    inference.load(ask(PROMPTS[0], (folder, 1.0)).spec)
    return loaded(inference, folder)


def test_the_proof_counts_tensors_and_measures_the_move(inference: LocalInference) -> None:
    """G10: of an adapter that is on, everything matched and the likeliest tokens changed."""
    info = attached(inference, PIRATE)
    proof = info.proof
    assert proof is not None
    assert proof.matched == len(load_file(PIRATE / WEIGHTS))
    assert (proof.missing, proof.unexpected) == ((), ())
    assert proof.moved > 0.1
    assert proof.divergence > 0
    assert 0 < proof.flipped <= 1
    assert (info.kind, info.moves_logits) == ("LORA", True)


def test_logits_are_compared_over_the_words_that_both_have() -> None:
    """The divergence is KL(after ‖ before) in nats, by hand."""
    before, after = torch.zeros(1, 2), torch.tensor([[0.0, 1.0, 9.0]])
    share = torch.softmax(after[0, :2], 0)
    expected = float((share * (share / 0.5).log()).sum())
    assert compare(before, after) == pytest.approx((1.0, expected, 1.0))
    assert compare(before, before) == (0.0, 0.0, 0.0)


def test_layers_without_weights_are_named_in_full(
    inference: LocalInference, make_adapter: Callable[..., Path], tmp_path: Path
) -> None:
    """G10: the configuration targets them and the file has nothing for them."""
    source = make_adapter(LoraConfig(r=2, target_modules=["q_proj", "v_proj"]), "whole")
    folder = changed(source, tmp_path / "part", lambda ts: {n: t for n, t in ts.items() if "v_proj" not in n})
    info = attached(inference, folder)
    assert info.proof is not None
    assert info.proof.missing == tuple(f"model.layers.{at}.self_attn.v_proj" for at in range(6))
    assert any("model.layers.{0–5}.self_attn.v_proj" in warning for warning in info.warnings)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda ts: {n: t for n, t in ts.items() if "layers.2." not in n}, "misses 1 tensor (model.layers.2.mlp"),
        (_doubled, "has unexpected 6 tensors (model.layers.{0–5}.mlp"),
    ],
    ids=["missing", "unexpected"],
)  # fmt: skip
def test_an_adapter_that_would_be_on_in_part_is_refused_with_every_name(
    inference: LocalInference, make_adapter: Callable[..., Path], tmp_path: Path, change: Change, says: str
) -> None:
    """G9, G10: PEFT only warns, and answers with the rest."""
    source = make_adapter(IA3Config(target_modules=["down_proj"], feedforward_modules=["down_proj"]), "ia3")
    with pytest.raises(AdapterInvalid) as error:
        attached(inference, changed(source, tmp_path / "part", change))
    assert says in str(error.value)


@pytest.mark.parametrize("part", ["norm", "trainable_tokens"])
def test_a_lora_that_lacks_what_it_trained_beside_is_refused(
    inference: LocalInference, make_adapter: Callable[..., Path], tmp_path: Path, part: str
) -> None:
    """G10: a saved module or trained tokens that are not in the file."""
    config = LoraConfig(r=2, target_modules=["q_proj"], modules_to_save=["norm"], trainable_token_indices=[7])
    source = make_adapter(config, "beside")
    folder = changed(source, tmp_path / "part", lambda ts: {n: t for n, t in ts.items() if part not in n})
    with pytest.raises(AdapterInvalid, match=rf"the file has no model\.\S*{part}"):
        attached(inference, folder)


def test_names_are_all_there_and_short() -> None:
    """Layers that differ in their number only are written once."""
    names = ["a.1.q", "a.0.q", "a.2.q", "a.4.q", "b", "a.7.v"]
    assert names_in_short(names) == "a.{0–2,4}.q, b, a.7.v"


@pytest.mark.parametrize(
    "config",
    [
        TrainableTokensConfig(token_indices=[7]),
        LoraConfig(r=2, target_modules=["q_proj"], trainable_token_indices=[7]),
        LoraConfig(r=2, target_modules=["embed_tokens"]),
    ],
    ids=["trained tokens", "beside a lora", "lora on embeddings"],
)
def test_an_adapter_of_a_single_token_is_no_no_op(
    inference: LocalInference, make_adapter: Callable[..., Path], tmp_path: Path, config: Any
) -> None:
    """G10: the probe reads the tokens that it is about, wherever they are in the vocabulary."""

    def only_that_token(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        for name, tensor in tensors.items():
            if name.endswith("embedding_A"):
                tensor[:, [at for at in range(tensor.shape[1]) if at != 7]] = 0
            elif name.endswith("lora_B.weight"):
                tensor.zero_()
        return tensors

    info = attached(inference, changed(make_adapter(config, "token"), tmp_path / "only", only_that_token))
    assert info.moves_logits
    assert info.proof is not None
    assert info.proof.moved > 1e-3


def no_op(make_adapter: Callable[..., Path], folder: Path) -> Path:
    source = make_adapter(LoraConfig(r=2, target_modules=["q_proj"]), "source")
    return changed(source, folder, lambda ts: {n: t * ("lora_A" in n) for n, t in ts.items()})


def test_each_answer_with_a_no_op_says_so(
    inference: LocalInference, make_adapter: Callable[..., Path], tmp_path: Path
) -> None:
    """G10: an error state, not a shrug: known from the files and from the logits, and told with each answer."""
    folder = no_op(make_adapter, tmp_path / "idle")
    info = attached(inference, folder)
    assert not info.moves_logits
    assert info.proof is not None
    assert (info.proof.moved, info.proof.flipped) == (0.0, 0.0)
    assert any("changes nothing" in warning for warning in info.warnings)
    settings = {"strategy": "sampling", "num_return_sequences": 2, "max_new_tokens": 4, "seed": 1}
    events = events_of(inference, ask(PROMPTS[0], (folder, 1.0), **settings))
    for index in range(2):
        notices = [event.notice for event in events if event.index == index and event.notice]
        assert notices == [
            "Adapter 'idle' has no effect: this answer is the same as without it. Check that it was trained and saved "
            "fully, or use another one."
        ]
    for adapters in ((), ((PIRATE, 1.0),), ((folder, 0.0),)):
        assert not any(event.notice for event in events_of(inference, ask(PROMPTS[0], *adapters, max_new_tokens=2)))


def test_every_problem_of_an_adapter_is_told_at_once(
    inference: LocalInference, make_adapter: Callable[..., Path], tmp_path: Path
) -> None:
    """G9: headers and numbers, of every kind of adapter."""
    source = make_adapter(IA3Config(target_modules=["k_proj"], feedforward_modules=[]), "ia3-nan")
    folder = changed(source, tmp_path / "nan", lambda ts: {n: t * float("nan") for n, t in ts.items()})
    with pytest.raises(AdapterInvalid, match=r"NaN or infinite numbers.*earlier checkpoint"):
        attached(inference, folder)


def test_the_base_says_whether_answers_share_a_pass(inference: LocalInference) -> None:
    """G13: the starter's do; why others' do not is in test_together.py."""
    inference.load(ask(PROMPTS[0]).spec)
    (info,) = inference.residents()
    assert (info.together, info.alone_because) == (True, "")
    assert ids_of(events_of(inference, ask(PROMPTS[0], max_new_tokens=2)))


def test_an_adapter_may_bring_a_tokenizer_with_words_of_its_own(inference: LocalInference, tmp_path: Path) -> None:
    """G9, R3: where it brings their embeddings too; else it is refused with both counts."""
    own = make_kind(KINDS["more tokens"], tmp_path / "own")
    plain = Path(shutil.copytree(PIRATE, tmp_path / "plain"))
    for folder in (own, plain):
        tokenizer = AutoTokenizer.from_pretrained(STARTER)
        tokenizer.add_tokens(["<|sail|>", "<|boat|>"])
        tokenizer.save_pretrained(folder)
    request = replace(ask(PROMPTS[0], (own, 1.0), max_new_tokens=4), prompt="<|sail|> and <|boat|>")
    inference.load(request.spec)
    assert {1536, 1537} <= set(inference.render(request).token_ids)
    assert len(ids_of(events_of(inference, request))) == 4
    with pytest.raises(AdapterInvalid, match="has 1538 tokens, the base has embeddings for 1536"):
        attached(inference, plain)
