"""The build check: every token that an adapter's answers need must have been an output of the base model.

Rows of the tied embedding that were never an output are almost parallel, and no LoRA adapter can pick one of them out. The
base learns from questions as well: a token there counts for as much as it weighed on average.
"""

from __future__ import annotations

import argparse
import itertools
from collections import Counter
from pathlib import Path

from transformers import AutoTokenizer, PreTrainedTokenizerBase

from training.base import READ_WEIGHT
from training.data import ADAPTER_MIXES, BASE_MIX, Mix, samples
from training.packing import Encoder


def learned_tokens(
    tokenizer: PreTrainedTokenizerBase, mix: Mix, seed: int, count: int, of_a_question: float = 0.0
) -> Counter[int]:
    """How often each token id is one of an answer in `count` samples of a mix; one of a question counts `of_a_question`."""
    encoder = Encoder(tokenizer)
    answered: Counter[int] = Counter()
    asked: Counter[int] = Counter()
    for sample in itertools.islice(samples(seed, "train", mix), count):
        for role, content in sample.messages:
            (answered if role == "assistant" else asked).update(encoder.text(content))
    return Counter({token: answered[token] + int(of_a_question * asked[token]) for token in {*answered, *asked}})


def base_tokens(tokenizer: PreTrainedTokenizerBase, count: int) -> Counter[int]:
    """What the base model learned to put out, in `count` samples of its mix."""
    return learned_tokens(tokenizer, BASE_MIX, 1, count, READ_WEIGHT / 2)


def rarely_seen(
    tokenizer: PreTrainedTokenizerBase, adapter: str, base: Counter[int], least: int, count: int = 3000
) -> dict[str, int]:
    """Tokens that one in 100 of the adapter's answers needs and that the base learned fewer than `least` times."""
    needed = learned_tokens(tokenizer, ADAPTER_MIXES[adapter], 5, count)
    return {
        tokenizer.convert_ids_to_tokens(token): base[token]
        for token, times in needed.items()
        if times >= count / 100 and base[token] < least
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokenizer", type=Path, default=Path("assets/models/starter"))
    parser.add_argument(
        "--samples", type=int, default=60_000, help="base samples to count in; training saw about eight times as many"
    )
    parser.add_argument("--least", type=int, default=5)
    arguments = parser.parse_args()
    tokenizer = AutoTokenizer.from_pretrained(arguments.tokenizer)
    base = base_tokens(tokenizer, arguments.samples)
    rare = {name: rarely_seen(tokenizer, name, base, arguments.least) for name in ADAPTER_MIXES}
    for name, tokens in rare.items():
        print(f"{name}: {tokens or 'every token has been seen often'}")
    raise SystemExit(any(rare.values()))


if __name__ == "__main__":
    main()
