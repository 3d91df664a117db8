"""Write the held-out samples that the app offers as sample prompts: small jsonl files, none of it trained on."""

from __future__ import annotations

import argparse
import itertools
import json
from collections.abc import Iterable
from pathlib import Path

from training.data import ADAPTER_MIXES
from training.data.sample import Sample
from training.evaluate import held_out_by_task, held_out_for

PER_TASK, PER_ADAPTER = 7, 100
OF_SEVERAL_TURNS = ("memory", "followup", "persona", "style")


def is_single(sample: Sample) -> bool:
    return len(sample.messages) == 2


def instruction_row(sample: Sample) -> dict[str, str]:
    return {"task": sample.task, "instruction": sample.question, "output": sample.answer}


def messages_row(sample: Sample) -> dict[str, object]:
    return {"task": sample.task, "messages": [{"role": role, "content": content} for role, content in sample.messages]}


def write_rows(path: Path, rows: Iterable[dict]) -> None:
    lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows]
    path.write_text("".join(lines), encoding="utf-8")
    print(f"{path}: {len(lines)} rows")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=Path("assets/datasets"))
    output = parser.parse_args().output
    output.mkdir(parents=True, exist_ok=True)
    by_task = held_out_by_task(4 * PER_TASK)
    single = {task: [s for s in rows if is_single(s)][:PER_TASK] for task, rows in by_task.items() if task != "signs"}
    write_rows(output / "starter.jsonl", map(instruction_row, itertools.chain(*single.values())))
    turns = itertools.chain.from_iterable(by_task[task][: 2 * PER_TASK] for task in OF_SEVERAL_TURNS)
    write_rows(output / "conversations.jsonl", map(messages_row, turns))
    for name in ADAPTER_MIXES:
        rows = [s for s in held_out_for(name, 2 * PER_ADAPTER) if is_single(s)][:PER_ADAPTER]
        write_rows(output / f"{name}.jsonl", map(instruction_row, rows))


if __name__ == "__main__":
    main()
