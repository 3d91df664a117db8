"""The generators keep their promises: seeded, and never a held-out key on the training side."""

from __future__ import annotations

import csv
import itertools
import json
from collections import defaultdict
from pathlib import Path

import pyarrow.parquet
import pytest

from training.adapter import RECIPES
from training.data import (
    ADAPTER_MIXES,
    BASE_MIX,
    FIRST_MIX,
    TAKEN_OVER,
    decorated,
    long_conversations,
    samples,
    unrelated,
)
from training.data.arithmetic import pair_key
from training.data.sample import is_held_out
from training.datasets import training_rows
from training.grading import is_right

ALL_MIXES = {"base": BASE_MIX, "first": FIRST_MIX, **ADAPTER_MIXES}
DATASETS = Path("assets/datasets")
# Many answers are right here, and a model can learn at best to give one of them.
OF_MANY_ANSWERS = {"story", "poem", "writing", "rewrite", "smalltalk"}


@pytest.mark.parametrize("name", ALL_MIXES)
def test_same_seed_same_samples(name: str) -> None:
    """R2: what the scripts generate is decided by the seed."""
    first, second, other = (list(itertools.islice(samples(seed, "train", ALL_MIXES[name]), 200)) for seed in (4, 4, 5))
    assert first == second
    assert first != other


@pytest.mark.parametrize("name", ALL_MIXES)
def test_held_out_keys_are_never_trained(name: str) -> None:
    """R2: training and test samples have no key in common."""
    train, test = (
        {s.key for s in itertools.islice(samples(1, split, ALL_MIXES[name]), 2000)} for split in ("train", "test")
    )
    assert train.isdisjoint(test)
    assert not any(map(is_held_out, train))
    assert all(map(is_held_out, test))


def test_held_out_sums_occur_in_no_training_conversation() -> None:
    """R2: not even as an earlier turn, whatever the phrasing."""
    for turns in itertools.islice(decorated(samples(1, "train", BASE_MIX), 1), 5000):
        for role, content in turns:
            words = content.split()
            if role == "assistant" and words[1:2] == ["+"]:
                assert not is_held_out(pair_key(int(words[0]), int(words[2]))), content


def test_expected_answers_count_as_right() -> None:
    """R2: every grader accepts the answer that the generator expects."""
    for mix in ALL_MIXES.values():
        for sample in itertools.islice(samples(3, "test", mix), 500):
            assert is_right(sample, sample.answer), sample
            assert not is_right(sample, "")
            assert not is_right(sample, "Bananas.")


def test_an_answer_follows_from_its_prompt() -> None:
    """R2: where one answer is right, the same prompt never has another one; anything else could not be learned."""
    answers: dict[tuple, set[str]] = defaultdict(set)
    for sample in itertools.islice(samples(8, "train", BASE_MIX), 15_000):
        if sample.task not in OF_MANY_ANSWERS:
            answers[sample.prompt].add(sample.answer)
    assert [prompt for prompt, found in answers.items() if len(found) > 1] == []


@pytest.mark.parametrize("name", TAKEN_OVER)
def test_no_unrelated_prompt_looks_like_one_of_the_adapter(name: str) -> None:
    """R2: what an adapter must leave alone is told by the prompt: no prompt is on both sides."""
    own, others = (
        {s.prompt for s in itertools.islice(samples(6, "train", mix), 3000)}
        for mix in (ADAPTER_MIXES[name], unrelated(name))
    )
    assert own.isdisjoint(others)


def test_long_conversations_fit_the_context() -> None:
    """R2: conversations of several hundred tokens are trained on."""
    turns = next(long_conversations(samples(1, "train", BASE_MIX), 1))
    assert len(turns) >= 12
    assert [role for role, _ in turns if role != "system"] == ["user", "assistant"] * (len(turns) // 2)


@pytest.mark.parametrize("path", sorted(DATASETS.glob("*.jsonl")), ids=lambda path: path.stem)
def test_sample_prompts_are_small_and_complete(path: Path) -> None:
    """I4: sample prompts come with the answer that is expected."""
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert 0 < len(rows) <= 250
    for row in rows:
        assert row.get("messages") or (row["instruction"] and row["output"])


@pytest.mark.parametrize("name", RECIPES)
def test_datasets_are_the_same_in_three_formats(name: str) -> None:
    """R2, I4: jsonl, csv and parquet of an adapter's domain hold the same rows, and no test question is a training one."""
    questions = {}
    for split in ("train", "test"):
        stem = DATASETS / name / split
        rows = [json.loads(line) for line in stem.with_suffix(".jsonl").read_text(encoding="utf-8").splitlines()]
        with stem.with_suffix(".csv").open(encoding="utf-8", newline="") as file:
            assert list(csv.DictReader(file)) == rows
        assert pyarrow.parquet.read_table(stem.with_suffix(".parquet")).to_pylist() == rows
        assert all(row["question"] and row["answer"] for row in rows)
        questions[split] = {(row.get("system", ""), row["question"]) for row in rows}
    assert questions["train"].isdisjoint(questions["test"])


def test_the_datasets_come_from_the_generators() -> None:
    """R2: what lies in the folder is what `python -m training.datasets` writes."""
    name = "pirate-overfit"
    lines = (DATASETS / name / "train.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line) for line in lines] == training_rows(name)
