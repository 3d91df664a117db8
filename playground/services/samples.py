"""Prompts to try, from the rows of a dataset: which columns hold the prompt and the expected answer, and a few at random."""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Any

from playground.errors import InvalidRequest
from playground.services.columns import Columns as Columns
from playground.services.columns import guessed as guessed
from playground.services.datasets import Datasets, Rows
from playground.services.tables.rows import NOT_NUMBERED, Remarks, Row
from playground.services.tables.values import Said, conversation_of, text_of
from playground.training_run import TrainingRun

_SPARE = 20  # rows that are drawn beyond those wanted, since some may hold no prompt
_GUESSED_FROM = 50
_MOST_NAMES = 20
_LONGEST_NAME = 60


@dataclass(frozen=True)
class Sample:
    """A prompt to try. ``expected`` is "" where the dataset has no answer to it.

    ``row`` is its place in the dataset, from 0, or `rows.NOT_NUMBERED`; ``earlier`` counts the messages of a conversation
    that came before the prompt and are left out.
    """

    prompt: str
    expected: str = ""
    system: str = ""
    row: int = 0
    earlier: int = 0


@dataclass(frozen=True)
class Drawn:
    """What was drawn: the samples, how the columns were understood, and which there are."""

    dataset: str
    samples: tuple[Sample, ...]
    columns: Columns
    names: tuple[str, ...]
    total: int | None = None
    notices: tuple[str, ...] = ()


class NoPrompt(InvalidRequest):
    """No prompt was found in a dataset that can be read; ``names`` are its columns, from which others can be chosen."""

    def __init__(self, message: str, remedy: str = "", names: tuple[str, ...] = ()) -> None:
        super().__init__(message, remedy)
        self.names = names

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        """Pickle with the names."""
        return type(self), (self.message, self.remedy, self.names)


class Samples:
    """Draws prompts from datasets. Blocks: reads the disk, or fetches from the hub."""

    def __init__(self, datasets: Datasets) -> None:
        self._datasets = datasets

    def draw(
        self,
        dataset: str,
        *,
        run: TrainingRun | None = None,
        columns: Columns | None = None,
        count: int = 5,
        seed: int | None = None,
    ) -> Drawn:
        """``count`` random samples; ``columns`` of None are guessed, a ``seed`` of None is another one each time.

        Raises `NoPrompt` where there is no prompt in it, or a column that is not there was named, and what
        `Datasets.find` and `Datasets.draw` raise.
        """
        found = self._datasets.find(dataset, run)
        seed = secrets.randbits(32) if seed is None else seed
        return drawn_from(found.name, self._datasets.draw(found, count + _SPARE, seed), columns, count)

    def all(self, dataset: str, *, columns: Columns | None = None, most: int) -> Drawn:
        """The first ``most`` samples, in the order of the rows. Raises what `draw` raises."""
        found = self._datasets.find(dataset)
        return drawn_from(found.name, self._datasets.head(found, most + _SPARE), columns, most)


def sample_of(row: Row, columns: Columns, at: int = 0) -> Sample | None:
    """The sample in ``row``; None where there is no prompt in it."""
    if columns.messages:
        return _of_conversation(conversation_of(row.get(columns.messages)), text_of(row.get(columns.system)), at)
    prompt, earlier, system = _prompt(row.get(columns.prompt))
    about = text_of(row.get(columns.input)) if columns.input else ""
    # Alpaca's own layout without its headings, which a template adds or does not.
    prompt = f"{prompt}\n\n{about}" if prompt.strip() and about.strip() else prompt
    if not prompt.strip():
        return None
    expected = _expected(row.get(columns.expected)) if columns.expected else ""
    return Sample(prompt, expected, text_of(row.get(columns.system)) or system, at, earlier)


def drawn_from(name: str, rows: Rows, columns: Columns | None, count: int) -> Drawn:
    """The first ``count`` samples among ``rows``."""
    if not rows.rows:
        raise InvalidRequest(f"There are no rows in {name}. {' '.join(rows.notices)}", "Choose another dataset.")
    if columns is None:
        columns = guessed(rows.columns, [row for _, row in rows.rows[:_GUESSED_FROM]])
    _check(name, columns, rows)
    remarks = Remarks()
    samples = tuple(sample for _, sample in zip(range(count), _samples(rows, columns, remarks), strict=False))
    if not samples:
        raise NoPrompt(
            f"No row of {name} that was looked at has a prompt in {_where(columns)}.",
            f"Its columns are {_list(rows)}: choose others.",
            rows.columns,
        )
    return Drawn(name, samples, columns, rows.columns, rows.total, (*rows.notices, *remarks.sentences()))


def _samples(rows: Rows, columns: Columns, remarks: Remarks) -> Iterator[Sample]:
    for number, (at, row) in enumerate(rows.rows, 1):
        sample = sample_of(row, columns, at)
        if sample:
            yield sample
        else:
            where = f"number {number} of the rows drawn" if at == NOT_NUMBERED else f"row {at + 1}"
            remarks.leave_out(where, f"there is no prompt in {_where(columns)}")


def _check(name: str, columns: Columns, rows: Rows) -> None:
    """Raises `NoPrompt` for a column that is not there, and where none could hold a prompt."""
    for one in fields(columns):
        wanted = getattr(columns, one.name)
        if wanted and wanted not in rows.columns:
            raise NoPrompt(f"{name} has no column {wanted!r}.", f"Its columns are {_list(rows)}.", rows.columns)
    if not (columns.prompt or columns.messages):
        raise NoPrompt(f"No column of {name} is known to hold prompts.", f"Choose one of {_list(rows)}.", rows.columns)


def _where(columns: Columns) -> str:
    return f"its column {columns.messages or columns.prompt!r}"


def _list(rows: Rows) -> str:
    names = [name if len(name) <= _LONGEST_NAME else f"{name[:_LONGEST_NAME]}…" for name in rows.columns[:_MOST_NAMES]]
    more = len(rows.columns) - len(names)
    return (", ".join(names) or "not named") + (f" and {more:,} more" if more else "")


def _of_conversation(said: tuple[Said, ...], system: str, at: int) -> Sample | None:
    """The last question that was answered, and its answer; without an answer the last question.

    The system message is kept, every other message before the question is left out and counted.
    """
    own = next((one.text for one in said if one.role == "system"), "")
    answers = [place for place, one in enumerate(said) if one.role == "assistant" and one.text.strip()]
    for answer in [*reversed(answers), len(said)]:
        prompt, earlier = _asked(said[:answer])
        if prompt:
            expected = said[answer].text if answer < len(said) else ""
            return Sample(prompt, expected, own or system, at, earlier)
    return None


def _asked(said: Sequence[Said]) -> tuple[str, int]:
    """The last question, "" for none, and how many messages came before it."""
    places = [place for place, one in enumerate(said) if one.role == "user" and one.text.strip()]
    if not places:
        return "", 0
    return said[places[-1]].text, sum(one.role != "system" for one in said[: places[-1]])


def _prompt(value: object) -> tuple[str, int, str]:
    """(prompt, how many messages came before it, system message) of a text, or of the messages that TRL calls a prompt."""
    said = conversation_of(value)
    system = next((one.text for one in said if one.role == "system"), "")
    return (*_asked(said), system) if said else (text_of(value), 0, "")


def _expected(value: object) -> str:
    """The answer in a text, or the last one of messages."""
    said = conversation_of(value)
    return next((one.text for one in reversed(said) if one.role == "assistant"), "") if said else text_of(value)
