"""Where the prompts of a plan come from: what was typed, a file that somebody brought, or a dataset on offer."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from playground.config import AppConfig
from playground.errors import InvalidRequest
from playground.services.samples import Columns, Drawn, Sample, Samples, drawn_from
from playground.services.tables import files as dataset_files
from playground.services.tables.rows import Rows
from playground.services.trials import TrialPrompt

LARGEST_FILE = 20_000_000  # bytes
LARGEST_FILE_SHARED = 4_000_000  # where each open page may have brought one
SEPARATOR = "---"
_FORMATS = "Bring txt, csv, tsv, json, jsonl or parquet."


@dataclass(frozen=True)
class Brought:
    """The prompts of a file or dataset. ``columns`` are how its columns were understood, None for plain text.

    ``names`` are the columns that there are, ``total`` its rows where they were counted. ``rows`` are those of a file, which
    nobody else keeps; a dataset is read again.
    """

    name: str
    prompts: tuple[TrialPrompt, ...]
    columns: Columns | None = None
    names: tuple[str, ...] = ()
    total: int | None = None
    notices: tuple[str, ...] = ()
    rows: Rows | None = None


def typed(text: str) -> tuple[TrialPrompt, ...]:
    """A prompt for each line of ``text``, or for each part where a line of only ``---`` stands between parts."""
    lines = text.splitlines()
    if not any(line.strip() == SEPARATOR for line in lines):
        return tuple(TrialPrompt(line.strip()) for line in lines if line.strip())
    parts: list[list[str]] = [[]]
    for line in lines:
        if line.strip() == SEPARATOR:
            parts.append([])
        else:
            parts[-1].append(line)
    texts = ("\n".join(part).strip() for part in parts)
    return tuple(TrialPrompt(text) for text in texts if text)


class TrialPrompts:
    """Reads prompts from files and datasets. Blocks: reads the disk, or fetches from the hub."""

    def __init__(self, samples: Samples, config: AppConfig, most: int) -> None:
        self._samples = samples
        self._most = most
        self.largest_file = LARGEST_FILE_SHARED if config.is_shared else LARGEST_FILE

    def of_file(self, name: str, data: bytes) -> Brought:
        """The prompts in a file called ``name``: lines as `typed` takes them from txt, else rows.

        Raises `InvalidRequest` for a file that is too large or cannot be read, or in which there are no prompts.
        """
        if len(data) > self.largest_file:
            raise self.too_large(name, len(data))
        if name.lower().endswith((".txt", ".text", ".md")):
            return self._of_text(name, data)
        if not dataset_files.is_dataset(_safe(name)):
            raise InvalidRequest(f"{name[:80]!r} is no file that prompts are read from.", _FORMATS)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, _safe(name))
            path.write_bytes(data)
            rows = dataset_files.head(path, self._most)
        return self._of_rows(name, rows, None)

    def of_dataset(self, name: str, count: int, columns: Columns | None = None) -> Brought:
        """The first ``count`` prompts of a dataset. Raises what `Samples.all` raises."""
        if not 1 <= count <= self._most:
            raise InvalidRequest(f"{count} rows were asked for.", f"Ask for 1 to {self._most:,}.")
        return _brought(self._samples.all(name, columns=columns, most=count))

    def again(self, brought: Brought, count: int, columns: Columns) -> Brought:
        """The same with other ``columns``. Raises what the first time could have raised."""
        if brought.rows is None:
            return self.of_dataset(brought.name, count, columns)
        return self._of_rows(brought.name, brought.rows, columns)

    def too_large(self, name: str, size: int) -> InvalidRequest:
        """Why a file of ``size`` bytes is not taken."""
        return InvalidRequest(
            f"{name[:80]!r} has {size / 10**6:.1f} MB, and {self.largest_file / 10**6:g} MB are read at most.",
            "Cut it, or put it among the datasets.",
        )

    def _of_text(self, name: str, data: bytes) -> Brought:
        try:
            text = data.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise InvalidRequest(f"{name[:80]!r} is not text in UTF-8.", "Save it as UTF-8.") from error
        prompts = typed(text)
        if not prompts:
            raise InvalidRequest(f"There are no prompts in {name[:80]!r}.", "Write one on each line.")
        return Brought(name, prompts[: self._most], total=len(prompts))

    def _of_rows(self, name: str, rows: Rows, columns: Columns | None) -> Brought:
        return _brought(drawn_from(name[:80], rows, columns, self._most), rows)


def _brought(drawn: Drawn, rows: Rows | None = None) -> Brought:
    prompts = tuple(TrialPrompt(one.prompt, one.expected, one.system) for one in drawn.samples)
    notices = (*drawn.notices, *_left_out(drawn.samples))
    return Brought(drawn.dataset, prompts, drawn.columns, drawn.names, drawn.total, notices, rows)


def _left_out(samples: Sequence[Sample]) -> tuple[str, ...]:
    longer = sum(one.earlier > 0 for one in samples)
    if not longer:
        return ()
    are = "1 prompt is" if longer == 1 else f"{longer:,} prompts are"
    return (f"{are} from longer conversations; what was said before is left out.",)


def _safe(name: str) -> str:
    """``name`` as a file may be called anywhere."""
    return re.sub(r"[^\w.-]", "_", re.split(r"[\\/]", name)[-1])[-80:]
