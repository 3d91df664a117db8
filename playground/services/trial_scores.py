"""What the rows of a plan come to, column by column: matches, how alike, how long, how fast."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from playground.services.matching import Match, match
from playground.services.trials import TrialPlan, TrialRow


@dataclass(frozen=True)
class Score:
    """One column of a plan, a model with settings, over all prompts; None where nothing can be said.

    ``compared`` counts the answers to prompts whose expected answer is known, of which ``matches`` are the same and
    ``near`` the same but for case and punctuation; ``similarity`` is the mean over them, from 0 to 1. ``tokens`` and
    ``seconds`` are means of an answer, ``speed`` that of tokens per second. ``same`` counts the answers that are the
    first column's to the same prompt, of ``beside`` that both have given.
    """

    spec: int
    setting: int
    answers: int = 0
    errors: int = 0
    compared: int = 0
    matches: int = 0
    near: int = 0
    similarity: float | None = None
    tokens: float | None = None
    seconds: float | None = None
    speed: float | None = None
    same: int = 0
    beside: int = 0


def judged(plan: TrialPlan, row: TrialRow) -> Match | None:
    """How the answer compares with what was expected; None for one that failed, or where nothing was expected."""
    expected = plan.prompts[row.prompt].expected
    return None if row.error or not expected.strip() else match(row.text, expected)


class Tally:
    """A plan's rows as they come, each compared once with what was expected."""

    def __init__(self, plan: TrialPlan) -> None:
        self._plan = plan
        self._columns: dict[tuple[int, int], list[tuple[TrialRow, Match | None]]] = {at: [] for at in plan.columns}

    def add(self, row: TrialRow) -> Match | None:
        """Take in one row; returns what `judged` says of it."""
        found = judged(self._plan, row)
        self._columns[row.spec, row.setting].append((row, found))
        return found

    def scores(self) -> tuple[Score, ...]:
        """A score for each column, in the order of `TrialPlan.columns`."""
        first = {row.prompt: row.text for row, _ in next(iter(self._columns.values()), []) if not row.error}
        return tuple(_score(column, rows, first) for column, rows in self._columns.items())


def scores(plan: TrialPlan, rows: Iterable[TrialRow]) -> tuple[Score, ...]:
    """A score for each column of ``plan``, in the order of `TrialPlan.columns`."""
    tally = Tally(plan)
    for row in rows:
        tally.add(row)
    return tally.scores()


def _score(column: tuple[int, int], rows: Sequence[tuple[TrialRow, Match | None]], first: dict[int, str]) -> Score:
    answered = [row for row, _ in rows if not row.error]
    matches = [found for _, found in rows if found]
    beside = [row for row in answered if row.prompt in first]
    return Score(
        *column,
        answers=len(answered),
        errors=len(rows) - len(answered),
        compared=len(matches),
        matches=sum(one.agreement == "match" for one in matches),
        near=sum(one.agreement == "near" for one in matches),
        similarity=_mean([one.similarity for one in matches]),
        tokens=_mean([row.stats.completion_tokens for row in answered]),
        seconds=_mean([row.seconds for row in answered]),
        speed=_mean([speed for row in answered if (speed := row.stats.tokens_per_second) is not None]),
        same=sum(row.text == first[row.prompt] for row in beside),
        beside=len(beside),
    )


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None
