"""Score the shipped model and its adapters on held-out samples, greedily, and keep the model cards in step.

python -m training.evaluate            print the scores
python -m training.evaluate --write    also store scores.json and rewrite the tables in the cards
python -m training.evaluate --misses   also print what went wrong
"""

from __future__ import annotations

import argparse
import json
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from training.adapter import RECIPES
from training.data import ADAPTER_MIXES, BASE_MIX, Mix, samples, unrelated
from training.data.sample import Sample
from training.grading import is_right

BASE, ADAPTERS = Path("assets/models/starter"), Path("assets/adapters")
BATCH_ROWS = 32
SEED = 77
Turns = tuple[tuple[str, str], ...]
Row = dict[str, Any]  # of a task: right, n and, for an adapter, base
Scores = dict[str, Any]  # what scores.json holds
BEGIN, END = "<!-- scores: written by python -m training.evaluate --write -->", "<!-- end of scores -->"


def held_out_by_task(count: int, mix: Mix = BASE_MIX) -> dict[str, list[Sample]]:
    """`count` distinct held-out samples of every task of a mix (fewer where a task has fewer)."""
    found: dict[str, dict[Turns, Sample]] = defaultdict(dict)
    stream = samples(SEED, "test", mix)
    for _ in range(count * 150):
        sample = next(stream)
        if len(found[sample.task]) < count:
            found[sample.task].setdefault(sample.prompt, sample)
    return {task: list(rows.values()) for task, rows in sorted(found.items())}


def held_out_for(adapter: str, count: int) -> list[Sample]:
    """`count` distinct held-out samples of an adapter's task."""
    found: dict[Turns, Sample] = {}
    for sample in samples(SEED, "test", ADAPTER_MIXES[adapter]):
        found.setdefault(sample.prompt, sample)
        if len(found) == count:
            return list(found.values())
    return []


def rendered(tokenizer: PreTrainedTokenizerBase, sample: Sample) -> str:
    messages = [{"role": role, "content": content} for role, content in sample.prompt]
    return str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))


def in_batches(rows: list[Sample], tokenizer: PreTrainedTokenizerBase) -> Iterator[list[Sample]]:
    ordered = sorted(rows, key=lambda sample: (len(sample.answer), len(rendered(tokenizer, sample))))
    for start in range(0, len(ordered), BATCH_ROWS):
        yield ordered[start : start + BATCH_ROWS]


@torch.no_grad()
def answers(
    model: PreTrainedModel | PeftModel, tokenizer: PreTrainedTokenizerBase, rows: list[Sample]
) -> list[tuple[Sample, str]]:
    """Greedy answers, in batches of prompts padded on the left."""
    answered: list[tuple[Sample, str]] = []
    for batch in in_batches(rows, tokenizer):
        inputs = tokenizer(
            [rendered(tokenizer, sample) for sample in batch],
            return_tensors="pt",
            padding=True,
            add_special_tokens=False,
            return_token_type_ids=False,
        )
        output = model.generate(**inputs, do_sample=False, temperature=None, top_p=None, max_new_tokens=160)
        texts = tokenizer.batch_decode(output[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        answered += zip(batch, texts, strict=True)
    return answered


def share_right(answered: list[tuple[Sample, str]], show_misses: bool) -> float:
    misses = [(sample, text) for sample, text in answered if not is_right(sample, text)]
    for sample, text in misses if show_misses else []:
        print(f"  {sample.task}: {sample.question!r}\n    expected {sample.answer!r}\n    got      {text!r}")
    return round(1 - len(misses) / len(answered), 3)


def base_scores(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, count: int, show_misses: bool) -> Scores:
    tasks = by_task(model, tokenizer, held_out_by_task(count), show_misses)
    return {"seed": SEED, "average": average(tasks), "tasks": tasks}


def by_task(
    model: PreTrainedModel | PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    rows_of: dict[str, list[Sample]],
    show_misses: bool,
) -> dict[str, Row]:
    """Share of right answers and number of samples, per task."""
    answered = answers(model, tokenizer, [sample for rows in rows_of.values() for sample in rows])
    grouped = {task: [pair for pair in answered if pair[0].task == task] for task in rows_of}
    return {task: {"right": share_right(pairs, show_misses), "n": len(pairs)} for task, pairs in grouped.items()}


def average(tasks: dict[str, Row]) -> float:
    return round(sum(float(row["right"]) for row in tasks.values()) / len(tasks), 3)


def adapter_scores(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    name: str,
    directory: Path,
    count: int,
    show_misses: bool,
) -> Scores:
    """Adapter and base on the same held-out prompts: the adapter's own, and those that it must leave as they were.

    `model` is the base and is left without the adapter.
    """
    task = RECIPES[name].task
    rows, others = held_out_for(task, count), held_out_by_task(count // 4, unrelated(task))
    without = share_right(answers(model, tokenizer, rows), False)
    others_without = average(by_task(model, tokenizer, others, False))
    adapted = PeftModel.from_pretrained(model, directory)
    right = share_right(answers(adapted, tokenizer, rows), show_misses)
    others_right = average(by_task(adapted, tokenizer, others, show_misses))
    adapted.unload()
    return {
        "seed": SEED,
        "tasks": {
            task: {"right": right, "base": without, "n": len(rows)},
            f"unrelated prompts ({len(others)} tasks)": {
                "right": others_right,
                "base": others_without,
                "n": sum(map(len, others.values())),
            },
        },
        "kept": round(others_right / others_without, 3) if others_without else 0.0,
    }


def table(scores: Scores) -> str:
    rows = scores["tasks"]
    with_base = any("base" in row for row in rows.values())
    head = (
        ["| Held-out task | Right | Base model alone | n |", "| --- | --- | --- | --- |"]
        if with_base
        else ["| Held-out task | Right | n |", "| --- | --- | --- |"]
    )
    body = [
        f"| {task} | {row['right']:.3f} | " + (f"{row['base']:.3f} | " if with_base else "") + f"{row['n']} |"
        for task, row in rows.items()
    ]
    last = [f"| **average of {len(rows)} tasks** | **{scores['average']:.3f}** | |"] if "average" in scores else []
    last += (
        [f"\nOf the base model's score on unrelated prompts the adapter keeps {scores['kept']:.2f}."]
        if "kept" in scores
        else []
    )
    return "\n".join([*head, *body, *last])


def write(directory: Path, scores: Scores) -> None:
    """Store the scores and put their table between the marks of the card."""
    (directory / "scores.json").write_text(json.dumps(scores, indent=2) + "\n")
    card = directory / "README.md"
    before, rest = card.read_text().split(BEGIN)
    after = rest.split(END)[1]
    card.write_text(f"{before}{BEGIN}\n{table(scores)}\n{END}{after}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", type=Path, default=BASE)
    parser.add_argument("--adapters", type=Path, default=ADAPTERS)
    parser.add_argument("--count", type=int, default=40, help="held-out samples per task")
    parser.add_argument("--only", choices=["base", *RECIPES], help="score only this one")
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--misses", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    started = time.process_time()
    tokenizer = AutoTokenizer.from_pretrained(arguments.base)
    model = AutoModelForCausalLM.from_pretrained(arguments.base, dtype=torch.float32).eval()
    scores = {}
    if arguments.only in (None, "base"):
        scores[arguments.base] = base_scores(model, tokenizer, arguments.count, arguments.misses)
    for name in RECIPES if arguments.only is None else [arguments.only]:
        directory = arguments.adapters / name
        if (directory / "adapter_config.json").exists():
            scores[directory] = adapter_scores(model, tokenizer, name, directory, 2 * arguments.count, arguments.misses)
    for directory, found in scores.items():
        print(f"\n{directory.name}\n{table(found)}")
        if arguments.write:
            write(directory, found)
    print(f"\n{time.process_time() - started:.0f} CPU-seconds")


if __name__ == "__main__":
    main()
