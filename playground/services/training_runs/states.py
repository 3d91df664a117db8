"""How far a training came and what its losses were, from `trainer_state.json` or LLaMA-Factory's `trainer_log.jsonl`."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType
from typing import Any, NamedTuple

import orjson

_LARGEST_STEP = 10**12


class Entry(NamedTuple):
    """One line of a training's log; a loss that is no number stands as NaN."""

    step: int
    loss: float | None = None
    eval_loss: float | None = None


@dataclass(frozen=True)
class Progress:
    """What a training has noted down. ``ended`` says that the trainer itself had decided to stop there.

    ``is_whole`` is False where the file breaks off or is none, and only its sound beginning was read.
    """

    step: int | None = None
    max_steps: int | None = None
    log: tuple[Entry, ...] = ()
    ended: bool = False
    is_whole: bool = True

    @property
    def diverged_at(self) -> int | None:
        """The first step at which the training loss was no number."""
        return next((one.step for one in self.log if one.loss is not None and math.isnan(one.loss)), None)

    @property
    def diverged(self) -> bool:
        """Whether the training loss was no number at the end: some recover from a single one."""
        last = next((one.loss for one in reversed(self.log) if one.loss is not None), None)
        return last is not None and math.isnan(last)

    @cached_property
    def _has_held_out(self) -> bool:
        return any(one.eval_loss is not None for one in self.log)

    def losses(self, step: int | None) -> tuple[float | None, float | None]:
        """The last training and held-out loss known at ``step``, or at the end for None; one that is no number is None."""
        loss: float | None = None
        held_out: float | None = None if self._has_held_out else math.nan
        for one in reversed(self.log):
            if step is not None and one.step > step:
                continue
            loss = one.loss if loss is None else loss
            held_out = one.eval_loss if held_out is None else held_out
            if loss is not None and held_out is not None:
                break
        return _finite(loss), _finite(held_out)


def read_state(data: bytes) -> Progress:
    """A `trainer_state.json`, NaN and Infinity included; of one that breaks off what stands before that."""
    raw = _parsed(data)
    if not isinstance(raw, dict):
        return _salvaged(data.decode("utf-8", "replace"))
    log = raw.get("log_history")
    entries = tuple(_entries(log if isinstance(log, list) else ()))
    step = whole_number(raw.get("global_step"))
    return Progress(_furthest(step, entries), whole_number(raw.get("max_steps")) or None, entries, _has_ended(raw))


def read_log(data: bytes) -> Progress:
    """A `trainer_log.jsonl`: an object a line; lines that are none are passed over."""
    lines = [line for line in map(_parsed, data.splitlines()) if isinstance(line, dict)]
    entries = tuple(_entries(lines, "current_steps"))
    totals = [total for line in lines if (total := whole_number(line.get("total_steps")))]
    return Progress(_furthest(None, entries), totals[-1] if totals else None, entries)


def whole_number(value: Any) -> int | None:
    """``value`` as a step, None for anything else."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= _LARGEST_STEP:
        return None
    return int(value)


def _parsed(data: bytes) -> Any:
    """What the JSON says, None where it is none. Python's own reader knows NaN, the other one is ten times as fast."""
    try:
        return orjson.loads(data)
    except ValueError:
        pass
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        return None


def _entries(log: Iterable[Any], step_key: str = "step") -> Iterator[Entry]:
    for raw in log:
        if not isinstance(raw, dict):
            continue
        loss, held_out = raw.get("loss"), raw.get("eval_loss")
        at = raw.get(step_key)
        if type(loss) is float and type(at) is int and 0 < loss < math.inf and 0 <= at <= _LARGEST_STEP:
            yield Entry(at, loss, _loss(held_out))  # nearly all are like this, and there are many
            continue
        if loss is None and held_out is None:
            held_out = _one_of_several(raw)
            if held_out is None:
                continue
        step = whole_number(at)
        if step is not None:
            yield Entry(step, _loss(loss, raw), _loss(held_out))


def _one_of_several(raw: dict[str, Any]) -> Any:
    """The held-out loss on the first of several datasets, which has the name of that one in it."""
    return next((raw[key] for key in raw if key.startswith("eval_") and key.endswith("_loss")), None)


def _loss(value: Any, raw: Mapping[str, Any] = MappingProxyType({})) -> float | None:
    """The loss, NaN for what is no number. The Trainer writes 0 for NaN unless told otherwise: the gradient tells."""
    if value is None or isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    try:
        is_number = math.isfinite(value) and (value != 0 or _is_finite(raw.get("grad_norm")))
        return float(value) if is_number else math.nan
    except OverflowError:
        return math.nan


def _is_finite(value: Any) -> bool:
    return not isinstance(value, float) or math.isfinite(value)


def _finite(value: float | None) -> float | None:
    return None if value is None or math.isnan(value) else value


def _furthest(step: int | None, entries: tuple[Entry, ...]) -> int | None:
    steps = [step] if step is not None else []
    return max([*steps, *(entries[-1:] and [entries[-1].step])], default=None)


def _has_ended(raw: dict[str, Any]) -> bool:
    """Whether the trainer had decided to stop: at the last step, or early."""
    at: Any = raw
    for key in ("stateful_callbacks", "TrainerControl", "args", "should_training_stop"):
        at = at.get(key) if isinstance(at, dict) else None
    return at is True


def _salvaged(text: str) -> Progress:
    """What can be read of a state whose writing was interrupted: the keys come in alphabetical order."""
    step, most = (_number_after(key, text) for key in ("global_step", "max_steps"))
    entries = tuple(_entries(_objects_after('"log_history": [', text)))
    return Progress(_furthest(step, entries), most or None, entries, is_whole=False)


def _number_after(key: str, text: str) -> int | None:
    found = re.search(rf'"{key}":\s*(\d{{1,12}})\b', text)
    return int(found[1]) if found else None


def _objects_after(start: str, text: str) -> Iterator[Any]:
    at = text.find(start)
    decoder, at = json.JSONDecoder(), at + len(start) if at >= 0 else len(text)
    while True:
        opening = text.find("{", at)
        if opening < 0 or text[at:opening].strip(" \r\n\t,"):
            return
        try:
            value, at = decoder.raw_decode(text, opening)
        except (ValueError, RecursionError):
            return
        yield value
