"""Write the datasets that the app offers: small files, from the generators that the models were trained with.

`starter.jsonl` and `conversations.jsonl` hold held-out samples of the base model's tasks. Each adapter has a folder with a
`train` and a `test` file, each as jsonl, csv and parquet; columns: question, answer and, where one is used, system.
No question of a test file was ever trained on. Parquet needs pyarrow, which only this script and its test use.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import json
from collections.abc import Iterable, Mapping
from pathlib import Path

import pyarrow  # type: ignore[import-untyped]
import pyarrow.parquet  # type: ignore[import-untyped]

from training.adapter import RECIPES
from training.data import ADAPTER_MIXES, samples
from training.data.sample import Sample
from training.evaluate import held_out_by_task, held_out_for

PER_TASK, TRAIN_ROWS, TEST_ROWS = 7, 200, 100
OF_SEVERAL_TURNS = ("memory", "followup", "persona", "style")
TRAINING_SEED = 2

Row = dict[str, str]


def is_single(sample: Sample) -> bool:
    """One question, with or without a system prompt."""
    return [role for role, _ in sample.messages if role != "system"] == ["user", "assistant"]


def instruction_row(sample: Sample) -> Row:
    return {"task": sample.task, "instruction": sample.question, "output": sample.answer}


def messages_row(sample: Sample) -> dict[str, object]:
    return {"task": sample.task, "messages": [{"role": role, "content": content} for role, content in sample.messages]}


def question_rows(found: Iterable[Sample]) -> list[Row]:
    """Rows of one file; the column for system prompts is left out where none is used."""
    rows = [
        {
            "system": sample.messages[0][1] if sample.has_system else "",
            "question": sample.question,
            "answer": sample.answer,
        }
        for sample in found
    ]
    if any(row["system"] for row in rows):
        return rows
    return [{"question": row["question"], "answer": row["answer"]} for row in rows]


def training_rows(name: str) -> list[Row]:
    """What an adapter was trained on: all of it for an overfitted one, the first distinct samples for the others."""
    recipe = RECIPES[name]
    stream = samples(TRAINING_SEED, "train", ADAPTER_MIXES[recipe.task])
    if recipe.rows:
        return question_rows(itertools.islice(stream, recipe.rows))
    distinct = {sample.prompt: sample for sample in itertools.islice(stream, 5 * TRAIN_ROWS) if is_single(sample)}
    return question_rows(list(distinct.values())[:TRAIN_ROWS])


def test_rows(task: str) -> list[Row]:
    """Held-out samples of an adapter's task, the first of those that it is scored on."""
    return question_rows([s for s in held_out_for(task, 2 * TEST_ROWS) if is_single(s)][:TEST_ROWS])


def write_jsonl(path: Path, rows: Iterable[Mapping[str, object]]) -> None:
    lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows]
    path.write_text("".join(lines), encoding="utf-8")
    print(f"{path}: {len(lines)} rows")


def write_all_formats(stem: Path, rows: list[Row]) -> None:
    """The same rows as jsonl, csv and parquet."""
    stem.parent.mkdir(parents=True, exist_ok=True)
    write_jsonl(stem.with_suffix(".jsonl"), rows)
    with stem.with_suffix(".csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), stem.with_suffix(".parquet"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("assets/datasets"))
    output = parser.parse_args().output
    output.mkdir(parents=True, exist_ok=True)
    by_task = held_out_by_task(4 * PER_TASK)
    single = {task: [s for s in rows if len(s.messages) == 2][:PER_TASK] for task, rows in by_task.items()}
    write_jsonl(output / "starter.jsonl", map(instruction_row, itertools.chain(*single.values())))
    turns = itertools.chain.from_iterable(by_task[task][: 2 * PER_TASK] for task in OF_SEVERAL_TURNS)
    write_jsonl(output / "conversations.jsonl", map(messages_row, turns))
    for name, recipe in RECIPES.items():
        write_all_formats(output / name / "train", training_rows(name))
        write_all_formats(output / name / "test", test_rows(recipe.task))


if __name__ == "__main__":
    main()
