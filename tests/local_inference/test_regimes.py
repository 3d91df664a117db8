"""G13: rotary embeddings that move: each row in the regime of its own length, whatever was computed before or beside it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from playground.local_inference import LocalInference
from playground.local_inference.regimes import FIRST, SECOND, Regimes
from playground.types import GenerationRequest, GenerationSettings, ModelSpec

from .conftest import greedy_ids
from .family_maker import FAMILIES, make_family

LIMIT = 64


def _model(family: str) -> Any:
    kind, options = FAMILIES[family]
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, vocab_size=64, pad_token_id=0, **options)).eval()


def _turned(model: Any, positions: int) -> torch.Tensor:
    cos, _ = model.model.rotary_emb(torch.zeros(1, 1, 1), torch.arange(positions)[None])
    return cos[0]  # type: ignore[no-any-return]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("family", "limit", "shares", "rereads", "known"),
    [
        ("llama", 0, True, False, True),
        ("llama, yarn", 0, True, False, True),
        ("llama, longrope", LIMIT, True, False, True),
        ("llama, dynamic", LIMIT, False, False, True),
        ("phi3", LIMIT, True, True, True),
        ("phimoe", LIMIT, False, True, False),
    ],
)
def test_what_moves_is_told_from_what_does_not(
    family: str, limit: int, shares: bool, rereads: bool, known: bool
) -> None:
    """G13: and embeddings of a model's own invention are left to it."""
    found = Regimes.of_model(_model(family))
    assert (found.limit, found.shares, found.rereads, found.known) == (limit, shares, rereads, known)
    assert found.together(FIRST) == known
    assert found.together(SECOND) == found.reusable(SECOND) == (known and shares) != found.whole(SECOND)
    assert found.of(LIMIT) == FIRST
    assert found.of(LIMIT + 1) == (SECOND if limit else FIRST)


@pytest.mark.filterwarnings("ignore")
def test_embeddings_that_move_in_some_layers_only_are_left_to_the_model() -> None:
    """G13: Gemma 3 has a kind for the layers that see everything, and one for those with windows."""
    kind, options = FAMILIES["gemma3_text"]
    rope = {"full_attention": {"rope_type": "dynamic", "factor": 8.0, "rope_theta": 1e6}}
    rope["sliding_attention"] = {"rope_type": "default", "rope_theta": 1e4}
    config = AutoConfig.for_model(kind, vocab_size=64, pad_token_id=0, **options, rope_parameters=rope)
    found = Regimes.of_model(AutoModelForCausalLM.from_config(config))
    assert not found.known
    assert not found.together(FIRST)


@pytest.mark.filterwarnings("ignore")
def test_a_piece_of_a_long_text_is_turned_as_in_the_whole() -> None:
    """G13: longrope looks at the longest position of a pass, which in the first piece of a long prompt is a short one."""
    model = _model("phi3")
    regimes = Regimes.of_model(model)
    short, whole = _turned(model, 8), _turned(model, LIMIT + 1)
    assert not torch.equal(short, whole[:8])
    with regimes.held(SECOND):
        assert torch.equal(_turned(model, 8), whole[:8])
    with regimes.held(FIRST):
        assert torch.equal(_turned(model, LIMIT + 1)[:8], short)
    assert torch.equal(_turned(model, 8), short)


def test_a_text_beyond_the_limit_is_turned_by_its_own_length_only() -> None:
    """G13: "dynamic" grows and stays grown in transformers, so a longer text before would change every later one."""
    model = _model("llama, dynamic")
    regimes = Regimes.of_model(model)
    short, longer = _turned(_model("llama, dynamic"), LIMIT), _turned(_model("llama, dynamic"), 100)
    for _ in range(2):
        with regimes.held(SECOND):
            assert torch.equal(_turned(model, 100), longer)
        with regimes.held(FIRST):
            assert torch.equal(_turned(model, LIMIT), short)
        with regimes.held(SECOND):
            _turned(model, 300)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("family", ["phi3", "llama, dynamic"])
def test_a_search_is_turned_by_its_own_length_between_whatever_rows_go_on_beside_it(family: str) -> None:
    """G3, G13: its passes are the model's own, and those of other rows come between them."""
    model = _model(family)
    regimes = Regimes.of_model(model)
    with regimes.held(SECOND):
        _turned(model, 300)
    with regimes.anew():
        for length in (LIMIT, 100):
            assert torch.equal(_turned(model, length), _turned(_model(family), length))
            with regimes.held(SECOND):
                _turned(model, 300)
            with regimes.held(FIRST):
                _turned(model, 5)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("family", ["phi3", "llama, dynamic"])
def test_a_score_is_that_of_the_text_whatever_was_computed_before(
    inference: LocalInference, tokenizer: Any, tmp_path: Path, family: str
) -> None:
    """C5, G13: beyond the limit, after a longer text."""
    base = make_family(tmp_path / "base", family, len(tokenizer))
    short, long = (GenerationRequest(ModelSpec(str(base)), "So a word " * many, template="raw") for many in (17, 60))
    first = inference.prompt_tokens(short)
    assert LIMIT < len(first) < len(inference.prompt_tokens(long))
    assert inference.prompt_tokens(short)[1:] == first[1:]
    inference.unload(str(base))


@pytest.mark.long
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("family", ["phi3", "llama, longrope", "llama, dynamic"])
def test_a_long_prompt_read_in_pieces_is_answered_as_by_plain_transformers(
    inference: LocalInference, tokenizer: Any, tmp_path: Path, family: str
) -> None:
    """G13: after a longer one too, and again with what is known of it."""
    base = make_family(tmp_path / "base", family, len(tokenizer))
    for prompt in ("So a word " * 110, "A word or two " * 70, "So a word " * 110 + "again", "Hello there"):
        model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32).eval()
        settings = GenerationSettings(strategy="greedy", max_new_tokens=12)
        request = GenerationRequest(ModelSpec(str(base)), prompt, settings=settings, template="raw")
        got = [token.id for event in inference.stream(request) for token in event.tokens]
        assert got == greedy_ids(model, tokenizer(prompt)["input_ids"], 12), prompt[:12]
    inference.unload(str(base))
