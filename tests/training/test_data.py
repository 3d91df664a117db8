"""The generators keep their promises: seeded, and never a held-out key on the training side."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import pytest

from training.data import ADAPTER_MIXES, BASE_MIX, decorated, long_conversations, samples
from training.data.arithmetic import pair_key
from training.data.sample import is_held_out
from training.grading import is_right

ALL_MIXES = {"base": BASE_MIX, **ADAPTER_MIXES}
DATASETS = Path("assets/datasets")


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


def test_long_conversations_fit_the_context() -> None:
    """R2: conversations of several hundred tokens are trained on."""
    turns = next(long_conversations(samples(1, "train", BASE_MIX), 1))
    assert len(turns) >= 12
    assert [role for role, _ in turns if role != "system"] == ["user", "assistant"] * (len(turns) // 2)


@pytest.mark.parametrize("path", sorted(DATASETS.glob("*.jsonl")), ids=lambda path: path.stem)
def test_datasets_are_small_and_complete(path: Path) -> None:
    """I4: sample prompts come with the answer that is expected."""
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert 0 < len(rows) <= 200
    for row in rows:
        assert row.get("messages") or (row["instruction"] and row["output"])
