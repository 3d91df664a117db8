"""The build check: every token that an adapter's answers need must have been an answer token of the base model.

Rows of the tied embedding that were never an output are almost parallel, and no LoRA adapter can pick one of them out.
"""

from __future__ import annotations

import argparse
import itertools
from collections import Counter
from pathlib import Path

from transformers import AutoTokenizer, PreTrainedTokenizerBase

from training.data import ADAPTER_MIXES, BASE_MIX, samples
from training.packing import Encoder


def answer_tokens(tokenizer: PreTrainedTokenizerBase, mix: list, seed: int, count: int) -> Counter[int]:
    """How often each token id is an answer token in `count` samples of a mix."""
    encoder = Encoder(tokenizer)
    seen: Counter[int] = Counter()
    for sample in itertools.islice(samples(seed, "train", mix), count):
        for role, content in sample.messages:
            if role == "assistant":
                seen.update(encoder.text(content))
    return seen


def rarely_seen(
    tokenizer: PreTrainedTokenizerBase, adapter: str, base: Counter[int], least: int, count: int = 3000
) -> dict[str, int]:
    """Tokens that one in 100 of the adapter's answers needs and that the base answered fewer than `least` times."""
    needed = answer_tokens(tokenizer, ADAPTER_MIXES[adapter], 5, count)
    return {
        tokenizer.convert_ids_to_tokens(token): base[token]
        for token, times in needed.items()
        if times >= count / 100 and base[token] < least
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokenizer", type=Path, default=Path("assets/models/starter"))
    parser.add_argument(
        "--samples", type=int, default=60_000, help="base samples to count in; training sees about five times as many"
    )
    parser.add_argument("--least", type=int, default=20)
    arguments = parser.parse_args()
    tokenizer = AutoTokenizer.from_pretrained(arguments.tokenizer)
    base = answer_tokens(tokenizer, BASE_MIX, 1, arguments.samples)
    rare = {name: rarely_seen(tokenizer, name, base, arguments.least) for name in ADAPTER_MIXES}
    for name, tokens in rare.items():
        print(f"{name}: {tokens or 'every token has been seen often'}")
    raise SystemExit(any(rare.values()))


if __name__ == "__main__":
    main()
