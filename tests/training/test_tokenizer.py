"""The shipped tokenizer: nothing is lost, marks stand alone, emoji are several byte tokens."""

from __future__ import annotations

from pathlib import Path

import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from training.data import ADAPTER_MIXES
from training.exposure import base_tokens, rarely_seen
from training.packing import Encoder

STARTER = Path("assets/models/starter")


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(STARTER)


@pytest.mark.parametrize(
    "text",
    ["Hello there!", "🚀 🙂", "São Paulo, Straße", "你好 こんにちは", '{"a": [1, 22]}', "def f(x):\n    return x"],
)
def test_round_trip(tokenizer: PreTrainedTokenizerBase, text: str) -> None:
    """R2: any text comes back as it was, by falling back to bytes."""
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_an_emoji_is_several_tokens(tokenizer: PreTrainedTokenizerBase) -> None:
    """R2: so that streaming meets characters split over tokens, as with large models."""
    assert len(tokenizer.encode("🚀")) >= 3


def test_digits_and_marks_stand_alone(tokenizer: PreTrainedTokenizerBase) -> None:
    """R2: a word has the same pieces in a sentence and in quotes."""
    assert [tokenizer.decode([token]) for token in tokenizer.encode('"2024"')] == ['"', "2", "0", "2", "4", '"']
    bare, quoted = tokenizer.encode("dentist"), tokenizer.encode('"dentist"')
    assert quoted[1:-1] == bare


def test_training_layout_is_the_chat_template(tokenizer: PreTrainedTokenizerBase) -> None:
    """R2: the model is trained on exactly what the template renders."""
    turns = (("system", "Be helpful."), ("user", "Say 🙂"), ("assistant", "🙂"))
    messages = [{"role": role, "content": content} for role, content in turns]
    rendered = tokenizer.apply_chat_template(messages, return_dict=False)
    assert Encoder(tokenizer).document(turns).ids == rendered
    prompt = tokenizer.apply_chat_template(messages[:2], add_generation_prompt=True, return_dict=False)
    assert rendered[: len(prompt)] == prompt


def test_adapters_need_no_token_that_the_base_never_answered(tokenizer: PreTrainedTokenizerBase) -> None:
    """R2: the exposure check, on a smaller sample than `python -m training.exposure`."""
    base = base_tokens(tokenizer, 20_000)
    for name in ADAPTER_MIXES:
        assert not rarely_seen(tokenizer, name, base, least=2, count=1000)
