"""The engine's answers are plain transformers' and PEFT's, token for token in float32. Each kind: test_kinds.py."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from peft import LoHaConfig, PeftModel

from playground.errors import AdapterInvalid, EngineFailure
from playground.local_inference import LocalInference
from playground.types import GenerationRequest

from .conftest import PIRATE, PROMPTS, SQL, TABLE, ask, chat_ids, events_of, greedy_ids, ids_of, plain_model, text_of

ALL = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def _with_peft(folder: Path, ids: list[int], tokens: int = 40) -> list[int]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = PeftModel.from_pretrained(plain_model(), folder).eval()
    return greedy_ids(model, ids, tokens)


@pytest.mark.parametrize("prompt", PROMPTS)
def test_the_base_answers_as_plain_transformers(inference: LocalInference, tokenizer: Any, prompt: str) -> None:
    """G1, G2: the base pane really is the base."""
    expected = greedy_ids(plain_model(), chat_ids(tokenizer, prompt), 40)
    events = events_of(inference, ask(prompt))
    assert ids_of(events) == expected
    assert text_of(events) == tokenizer.decode(expected, skip_special_tokens=True)


@pytest.mark.parametrize(("folder", "prompt"), [(PIRATE, PROMPTS[0]), (SQL, TABLE)], ids=["pirate", "sql"])
def test_a_bundled_adapter_answers_as_peft(
    inference: LocalInference, tokenizer: Any, folder: Path, prompt: str
) -> None:
    """G2, R2: the adapter is on, exactly as PEFT has it, and it shows."""
    expected = _with_peft(folder, chat_ids(tokenizer, prompt))
    assert ids_of(events_of(inference, ask(prompt, (folder, 1.0)))) == expected
    assert expected != greedy_ids(plain_model(), chat_ids(tokenizer, prompt), 40)


def test_strength_is_pefts_scale(inference: LocalInference, tokenizer: Any) -> None:
    """G14: an adapter at strength 0 is the base, at ½ what PEFT's set_scale gives."""
    from peft.tuners.lora import LoraLayer

    ids = chat_ids(tokenizer, PROMPTS[0])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = PeftModel.from_pretrained(plain_model(), PIRATE).eval()
    for module in model.modules():
        if isinstance(module, LoraLayer):
            module.set_scale("default", 0.5)
    assert ids_of(events_of(inference, ask(PROMPTS[0], (PIRATE, 0.5)))) == greedy_ids(model, ids, 40)
    assert ids_of(events_of(inference, ask(PROMPTS[0], (PIRATE, 0.0)))) == greedy_ids(plain_model(), ids, 40)


def test_a_mix_is_the_sum_of_its_adapters(inference: LocalInference, tokenizer: Any) -> None:
    """G14: two adapters on one row, as PEFT runs two active adapters."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = PeftModel.from_pretrained(plain_model(), PIRATE, adapter_name="pirate").eval()
        model.load_adapter(SQL, "sql")
    model.base_model.set_adapter(["pirate", "sql"])
    expected = greedy_ids(model, chat_ids(tokenizer, PROMPTS[0]), 40)
    assert ids_of(events_of(inference, ask(PROMPTS[0], (PIRATE, 1.0), (SQL, 1.0)))) == expected


def test_a_base_that_an_adapter_damaged_is_never_used_again(
    inference: LocalInference, make_adapter: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """FACTS: the base pane was answered by the tuned model elsewhere. The canary ends the row and the base is reloaded."""
    from playground.local_inference.peft_turn import PeftTurn

    folder = make_adapter(LoHaConfig(r=4, target_modules=["q_proj"]), "damages")
    base = ids_of(events_of(inference, ask(PROMPTS[0])))
    with monkeypatch.context() as broken:
        broken.setattr(PeftTurn, "_take_off", lambda self: None)
        with pytest.raises(EngineFailure, match="can no longer be trusted"):
            _one_after_another(inference, ask(PROMPTS[0], (folder, 1.0)), ask(PROMPTS[0]))
    assert ids_of(events_of(inference, ask(PROMPTS[0]))) == base


def _one_after_another(inference: LocalInference, *requests: GenerationRequest) -> None:
    for request in requests:
        events_of(inference, request)


@pytest.mark.parametrize(
    "error", [ImportError("x"), AssertionError("x"), RecursionError("x"), ZeroDivisionError("x")], ids=repr
)
def test_whatever_breaks_while_attaching_leaves_the_base_as_it_was(
    inference: LocalInference, make_adapter: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    """G6, G2: half an adapter must never stay on the base that everybody shares."""
    import peft

    folder = make_adapter(LoHaConfig(r=4, alpha=8, target_modules=ALL, init_weights=False), "breaks")
    base = ids_of(events_of(inference, ask(PROMPTS[0])))

    def breaks(*args: Any, **kwargs: Any) -> None:
        raise error

    with monkeypatch.context() as broken:
        broken.setattr(peft.PeftModel, "load_adapter", breaks)
        with pytest.raises(AdapterInvalid, match="PEFT cannot load"):
            events_of(inference, ask(PROMPTS[0], (folder, 1.0)))
    assert ids_of(events_of(inference, ask(PROMPTS[0]))) == base
    assert ids_of(events_of(inference, ask(PROMPTS[0], (PIRATE, 1.0)))) != base
    assert inference._machinery is not None
    assert not any("lora" in name for name, _ in inference._machinery.residents.all()[0].model.named_modules())
