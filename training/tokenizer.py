"""The starter tokenizer: byte-level BPE over the generated text, ChatML roles, every digit and every mark on its own.

Marks are isolated so that a word has the same pieces in a sentence, in quotes and in brackets. Characters beyond Latin
letters are left out of the training text: an emoji stays three or four byte tokens, as in larger models.
"""

from __future__ import annotations

import argparse
import itertools
import json
from collections.abc import Iterable, Iterator
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from training.data import BASE_MIX, samples

PAD, START, END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
CONTEXT_TOKENS = 1024
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


def training_text(seed: int, count: int) -> Iterator[str]:
    for sample in itertools.islice(samples(seed, "train", BASE_MIX), count):
        for _, content in sample.messages:
            yield "".join(character for character in content if ord(character) < 0x250)


def train_tokenizer(text: Iterable[str], vocabulary: int) -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Digits(individual_digits=True),
        pre_tokenizers.Split(Regex(r" ?[^\s\p{L}\p{N}]"), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
    ])  # fmt: skip
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary, min_frequency=2, show_progress=False,
        special_tokens=[PAD, START, END], initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
    )  # fmt: skip
    tokenizer.train_from_iterator(text, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token=END, pad_token=PAD, chat_template=CHAT_TEMPLATE,
        model_max_length=CONTEXT_TOKENS, clean_up_tokenization_spaces=False, padding_side="left",
    )  # fmt: skip


def save_tokenizer(tokenizer: PreTrainedTokenizerFast, directory: Path) -> None:
    """Write the files with a tokenizer_class that older versions of transformers know as well."""
    tokenizer.save_pretrained(directory)
    path = directory / "tokenizer_config.json"
    config = json.loads(path.read_text())
    config["tokenizer_class"] = "PreTrainedTokenizerFast"
    for of_this_machine in ("is_local", "local_files_only"):
        config.pop(of_this_machine, None)
    path.write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--vocabulary", type=int, default=1024)
    parser.add_argument("--samples", type=int, default=60_000)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    arguments.output.mkdir(parents=True, exist_ok=True)
    save_tokenizer(
        train_tokenizer(training_text(arguments.seed, arguments.samples), arguments.vocabulary), arguments.output
    )


if __name__ == "__main__":
    main()
