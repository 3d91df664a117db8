"""The step loop: admits rows, prefills them in turn, decodes them together, hears Stop between steps, never dies of one row.

`StepLoop` is an object without a thread: `ComputeThread` is one driver of it. All forward passes happen inside `step`.
"""

from __future__ import annotations

import logging
import math
import queue
import threading
import time
from collections.abc import Callable, Hashable, Iterable, Sequence
from concurrent.futures import Future
from functools import partial
from typing import Any

import torch

from playground.errors import EngineFailure, PlaygroundError
from playground.local_inference.admission import begin, begin_packed, fits, stop_ids
from playground.local_inference.beams import beam_search
from playground.local_inference.decode import (
    FEWEST_TOKENS,
    PREFILL_CHUNK,
    DecodeState,
    describe,
    next_logits,
    next_logits_together,
    prefill_chunk,
)
from playground.local_inference.explain import explain
from playground.local_inference.kernels import plain_kernels
from playground.local_inference.resident import Resident
from playground.local_inference.row import Row
from playground.local_inference.sampling import choose_tokens, likeliest, log_probabilities
from playground.local_inference.scheduler import Scheduler, shares
from playground.local_inference.slots import SlotCache, planes_of
from playground.local_inference.templates import extra_stops
from playground.local_inference.textstream import cut_at_stop
from playground.types import FinishReason, Status

_log = logging.getLogger(__name__)

# Rows that are live at once; the others wait in line.
LIVE_ROWS = 32


class StepLoop:
    """Rows and jobs of one device, advanced by whoever calls `step`."""

    def __init__(self, slots: int = LIVE_ROWS) -> None:
        self.scheduler: Scheduler[Row] = Scheduler(slots, fits)
        self._prefilled = self._prefilled_alone = 0
        self._unsettled: list[Callable[[], None]] = []  # ends that nobody was told of yet
        self._searching: Row | None = None
        self._jobs: queue.SimpleQueue[tuple[Callable[[], Any], Future[Any]]] = queue.SimpleQueue()

    def run(self, job: Callable[[], Any]) -> Future[Any]:
        """Queue ``job`` (attach, probe, unload) to run between steps, with nothing else computing."""
        future: Future[Any] = Future()
        self._jobs.put((job, future))
        return future

    def step(self) -> bool:
        """One round: waiting jobs, some prefill, one token for every row that decodes. False when nothing is left to do."""
        self._run_jobs()
        self._round()
        return bool(self.scheduler.live() or self.scheduler.waiting() or not self._jobs.empty())

    def _round(self) -> None:
        """One step of every live row whose turn it is; searches that wait for another one to end are left out."""
        for row in self.scheduler.waiting():
            if row.cancelled.is_set():
                self._end(row, lambda row: row.finish("cancelled"))
        for row in self.scheduler.admit():
            row.report(Status("prefilling", "reading the prompt"))
        self._tell_places()
        self._prefilled = self._prefilled_alone = 0
        for row in self._in_turn():
            if row.cancelled.is_set() or not (_packs(row) or _decodes_together(row)):
                self._guarded(row, self._advance)
                if _searches(row) and self._searching is None:
                    break  # others have come, gone and moved on beside it, and the turn may be over
        # Looked up again: a row whose prompt has just been read has its slot among the others, and beside a search that ran
        # here others have come and gone. All rows of a slab are stepped together.
        going_on = [row for row in self._in_turn() if not row.paused]
        for resident, some in _companies(row for row in going_on if _packs(row)):
            self._advance_packed(resident, some)
        for resident, some in _companies(row for row in going_on if _decodes_together(row) and not _packs(row)):
            self._advance_together(resident, some)

    def _in_turn(self) -> list[Row]:
        """The live rows to step now, and those that are cancelled; the others are told that they wait for their turn."""
        live = [row for row in self.scheduler.live() if row is not self._searching]
        lanes: dict[Resident, list[Hashable]] = {}
        for row in live:
            lanes.setdefault(row.resident, []).append(row.lane)
        turn: dict[Resident, Hashable] = {}
        for resident, of in lanes.items():
            if self._searching is not None and self._searching.resident is resident:
                turn[resident] = self._searching.lane  # the base is in its hands until it has finished
            else:
                turn[resident] = resident.turns.choose(of, time.monotonic())
        for row in live:
            paused = row.lane != turn[row.resident]
            if paused and not row.paused:
                row.report(Status("queued", "waiting for its turn: another adapter has the model to itself"))
            row.paused = paused
        return [row for row in live if not row.paused or row.cancelled.is_set()]

    def _beside(self, row: Row) -> bool:
        """Between two steps of ``row``'s beam search: a round for everybody else. True when ``row`` was cancelled."""
        if not row.applied.exclusive:
            self._run_jobs()  # a job may need the base as it is, which PEFT has changed during an exclusive row's turn
            row.resident.leave_turn()  # and may have put an adapter on it, as a score does
        self._round()
        return row.cancelled.is_set()

    def _tell_places(self) -> None:
        """Say to those who wait how many are before them, whenever that changed."""
        for ahead, row in enumerate(self.scheduler.waiting()):
            if row.ahead != ahead:
                row.ahead = ahead
                row.report(Status("queued", f"{ahead} before this one" if ahead else "next in line"))

    def _run_jobs(self) -> None:
        """The jobs that wait now; what they queue themselves comes after a round for the rows."""
        for _ in range(self._jobs.qsize()):
            job, future = self._jobs.get()
            try:
                future.set_result(job())
            except Exception as error:  # it belongs to whoever waits on the future
                future.set_exception(error)

    def _guarded(self, row: Row, step: Callable[[Row], None]) -> None:
        """Whatever goes wrong in ``step`` ends this row and no other."""
        try:
            step(row)
        except Exception as error:
            failure = explain(error)  # the name of the caught error is gone when the lambda runs
            self._end(row, lambda row: row.fail(failure))

    def _end(self, row: Row, settle: Callable[[Row], None]) -> None:
        self.scheduler.leave(row)
        try:
            if _decodes_together(row):
                _slots(row).leave(row.state.slot)
        except Exception:
            row.resident.slots = SlotCache()  # a slot that nobody owns would trip every later step
            self._unsettled.append(partial(settle, row))  # once all are given up: who hears of it may ask again at once
            raise
        settle(row)

    def _advance(self, row: Row) -> None:
        """One step of ``row`` on its own: its end, its whole beam search, a prefill chunk or a token."""
        if row.cancelled.is_set():
            text = row.state.text.flush() if row.state else ""
            self._end(row, lambda row: row.finish("cancelled", text))
        elif _searches(row):
            if self._searching is None:
                self._beams(row)
        else:
            self._advance_alone(row)

    def _advance_alone(self, row: Row) -> None:
        """A prefill chunk, or one more token; a row whose prompt is read joins the others where its model allows it."""
        if row.state is None:
            row.state = begin(row)
        state: DecodeState = row.state
        resident: Resident = row.resident
        logits = self._read(resident, row, state)
        if logits is None:
            return
        (chosen,) = choose_tokens([state.sampler], logits[None])
        (top,) = likeliest(logits[None], [state.top_logprobs])
        self._take(row, chosen, log_probabilities(logits[None], [chosen])[0], top)
        if resident.batches and not row.applied.exclusive and not row.alone and not row.settled:
            state.slot, state.cache = resident.slots.join(*planes_of(state.cache)), None

    def _read(self, resident: Resident, row: Row, state: DecodeState) -> torch.Tensor | None:
        """Let the model read what is pending, or a chunk of it; logits [vocab] once all of it is read."""
        if not state.prefilling:
            with plain_kernels(_measured_faster(row, 1)), resident.running(row.applied) as model:
                return next_logits(model, state)
        if not self._may_read(row):
            return None  # enough prompts for this step: the rows that are decoding must not wait for them
        with resident.running(row.applied) as model:
            logits = prefill_chunk(model, state, resident.model.config)
        if logits is None:
            row.report(Status("prefilling", "reading the prompt", state.read / len(state.sampler.prompt_ids)))
        return logits

    def _may_read(self, row: Row) -> bool:
        """Whether a whole piece of this row's prompt may be read in this round; it is counted then.

        Rows that are computed alone have a piece for themselves in each round: its size must not depend on the others.
        """
        read = self._prefilled_alone if row.alone else self._prefilled
        if read >= PREFILL_CHUNK:
            return False
        count = min(len(row.state.pending), PREFILL_CHUNK)
        if row.alone:
            self._prefilled_alone += count
        else:
            self._prefilled += count
        return True

    def _advance_packed(self, resident: Resident, rows: list[Row]) -> None:
        """One pass: a token for each of ``rows`` that decodes, and pieces of the prompts of those that do not yet."""
        decoding = [row for row in rows if _decodes_together(row)]
        pieces = self._pieces(resident, [row for row in rows if not _decodes_together(row)], beside=bool(decoding))
        if not decoding and not pieces:
            return
        self._pass(resident, decoding, pieces)

    def _pass(self, resident: Resident, decoding: list[Row], pieces: list[tuple[Row, list[int]]]) -> None:
        """One pass, and what follows for each row; one that fails is tried in parts, so that it ends only where it fails."""
        try:
            everyone, logits = self._logits(resident, decoding, pieces)
        except Exception as error:
            # Those that decode go first: a prompt that is whole takes a slot beside theirs.
            parts: list[tuple[list[Row], list[tuple[Row, list[int]]]]] = [(decoding, [])] if decoding else []
            parts += [([], [piece]) for piece in pieces]
            if len(parts) == 1:
                self._fail_all(decoding + [row for row, _ in pieces], explain(error))
                return
            _log.warning("a pass of several rows failed; they are tried apart", exc_info=error)
            for rows, some in parts:
                self._pass(resident, rows, some)
            return
        try:
            self._follow(everyone, pieces, logits)
        except Exception as error:  # counted already, so not to be repeated
            self._fail_all(everyone, explain(error))

    def _pieces(self, resident: Resident, rows: list[Row], *, beside: bool) -> list[tuple[Row, list[int]]]:
        """What of the prompts of ``rows`` is read in this step: shared out, and less of it when others decode beside."""
        for row in rows:
            if row.state is None:
                self._guarded(row, begin_packed)
        begun = [row for row in rows if row.state is not None]
        if begun and begun[0].alone:
            return [(row, row.state.pending[:PREFILL_CHUNK]) for row in begun if self._may_read(row)]
        room = max(0, (resident.pace.tokens if beside else PREFILL_CHUNK) - self._prefilled)
        counts = shares([len(row.state.pending) for row in begun], room, FEWEST_TOKENS)
        self._prefilled += sum(counts)
        return [(row, row.state.pending[:count]) for row, count in zip(begun, counts, strict=True) if count]

    def _logits(
        self, resident: Resident, decoding: list[Row], pieces: list[tuple[Row, list[int]]]
    ) -> tuple[list[Row], torch.Tensor]:
        """(rows, their logits [rows, vocab]) of one pass, those that decode first. Nothing is counted as read yet."""
        by_slot = {row.state.slot: row for row in decoding}
        slabs = _slots(decoding[0]).groups(list(by_slot)) if decoding else []
        members = [by_slot[slot] for slab in slabs for slot in slab.slots]
        everyone = members + [row for row, _ in pieces]
        tokens = len(members) + sum(len(ids) for _, ids in pieces)
        with plain_kernels(_measured_faster(everyone[0], tokens)), resident.pace.measured(tokens - len(members)):
            logits = resident.packed_step(
                slabs,
                [row.state.pending[0] for row in members],
                [(row.state.reading, ids) for row, ids in pieces],
                [row.applied.active for row in everyone],
            )
        return everyone, logits

    def _follow(self, everyone: list[Row], pieces: list[tuple[Row, list[int]]], logits: torch.Tensor) -> None:
        """Count what was read and written, and choose a token for whoever has read its prompt."""
        for row in everyone[: len(everyone) - len(pieces)]:
            row.state.slot.length += 1
        for row, ids in pieces:
            self._guarded(row, partial(_note_read, count=len(ids)))
        ready = [at for at, row in enumerate(everyone) if _decodes_together(row)]
        if ready:
            self._choose([everyone[at] for at in ready], logits if len(ready) == len(everyone) else logits[ready])

    def _choose(self, rows: list[Row], logits: torch.Tensor) -> None:
        """The next token of each of ``rows`` for its raw ``logits`` [rows, vocab]."""
        chosen = choose_tokens([row.state.sampler for row in rows], logits)
        logprobs = log_probabilities(logits, chosen)
        tops = likeliest(logits, [row.state.top_logprobs for row in rows])
        for row, token, logprob, top in zip(rows, chosen, logprobs, tops, strict=True):
            self._guarded(row, partial(self._take, chosen=token, logprob=logprob, top=top))

    def _advance_together(self, resident: Resident, rows: list[Row]) -> None:
        """One token for each of ``rows``, in one forward pass for each length bucket."""
        by_slot = {row.state.slot: row for row in rows}
        for slab in resident.slots.groups(list(by_slot)):
            try:
                members = [by_slot[slot] for slot in slab.slots]
                plain = plain_kernels(_measured_faster(members[0], len(members)))
                with plain, resident.running_together([row.applied for row in members]) as model:
                    logits = next_logits_together(model, slab, [row.state.pending[0] for row in members])
                self._choose(members, logits)
            except Exception as error:  # a step that fails as a whole, out of memory for one
                self._fail_all([row for row in rows if row.state and row.state.slot in slab.slots], explain(error))

    def abandon(self, failure: PlaygroundError) -> None:
        """End every row, live or waiting, with ``failure``; no slot is tidied up, for it may be what is broken."""
        for row in self.scheduler.live() + self.scheduler.waiting():
            self.scheduler.leave(row)
            row.resident.slots = SlotCache()
            row.fail(failure)
        while self._unsettled:
            self._unsettled.pop(0)()

    def _fail_all(self, rows: list[Row], failure: PlaygroundError) -> None:
        for row in rows:
            self._end(row, lambda row: row.fail(failure))

    def _take(self, row: Row, chosen: int, logprob: float, top: Sequence[tuple[int, float]]) -> None:
        """Note the ``chosen`` token as pending, send its text, and end the row when it was the last."""
        state: DecodeState = row.state
        if not math.isfinite(logprob):
            raise EngineFailure(
                "The model computes NaN or infinite numbers for this answer.",
                "The adapter may be broken or its strength too high; in float16 also try bfloat16 or float32.",
            )
        token = describe(state, chosen, logprob, top, row.resident.words(row.applied))
        if token.id in state.stop_ids:
            row.completion_tokens += 1
            text = state.text.flush()
            self._end(row, lambda row: row.finish("stop", text, end=token))
            return
        row.add(state.text.push(token.id), token)
        if state.text.stopped:
            self._end(row, lambda row: row.finish("stop"))
        elif len(state.ids) >= state.limit:
            text = state.text.flush()
            reason: FinishReason = "stop" if state.text.stopped else "length"
            self._end(row, lambda row: row.finish(reason, text))

    def _beams(self, row: Row) -> None:
        """The whole beam search; the other rows go on between its steps, other beam searches after it."""
        resident: Resident = row.resident
        tokenizer = resident.tokenizer(row.applied)
        stops = (*row.request.settings.stop, *extra_stops(row.request, tokenizer))
        ends = stop_ids(row)
        assert row.prompt is not None
        self._searching = row
        try:
            with resident.running(row.applied) as model:
                answers = beam_search(
                    model,
                    row.prompt.token_ids,
                    row.request.settings,
                    row.prompt.max_new_tokens,
                    ends,
                    partial(self._beside, row),
                    row.applied.prefix,
                )
        finally:
            self._searching = None
        if row.cancelled.is_set():
            self._end(row, lambda row: row.finish("cancelled"))
            return
        self.scheduler.leave(row)
        for index, ids in enumerate(answers):
            ended = bool(ids) and ids[-1] in ends
            whole = tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
            text, cut = cut_at_stop(whole, stops)
            row.completion_tokens = len(ids)
            row.finish("stop" if ended or cut else "length", text, index, last=index == len(answers) - 1)


def _decodes_together(row: Row) -> bool:
    return row.state is not None and row.state.slot is not None


def _companies(rows: Iterable[Row]) -> list[tuple[Resident, list[Row]]]:
    """The rows that share a pass: those of one base, but each that is to be computed alone by itself."""
    found: dict[tuple[Resident, Row | None], list[Row]] = {}
    for row in rows:
        found.setdefault((row.resident, row if row.alone else None), []).append(row)
    return [(resident, some) for (resident, _), some in found.items()]


def _slots(row: Row) -> SlotCache:
    """Where the row's keys and values lie once it decodes."""
    own: SlotCache | None = row.state.own_slots
    shared: SlotCache = row.resident.slots
    return shared if own is None else own


def _measured_faster(row: Row, tokens: int) -> bool:
    """Whether a pass of so many tokens is run without oneDNN; what was measured must not decide for a row alone."""
    return not row.alone and tokens <= row.resident.plain_kernel_rows


def _searches(row: Row) -> bool:
    return row.request.settings.strategy == "beam_search"


def _packs(row: Row) -> bool:
    """Whether the row runs in our own forward pass."""
    return row.resident.packed is not None and not row.applied.exclusive and not _searches(row)


def _note_read(row: Row, count: int) -> None:
    """``count`` more tokens of the row's prompt are read; once it is whole, the row takes a slot among those that decode."""
    state, reading = row.state, row.state.reading
    state.pending = state.pending[count:]
    reading.read += count
    if state.pending:
        done = 1 - len(state.pending) / len(state.sampler.prompt_ids)  # a soft prompt before it was read long ago
        row.report(Status("prefilling", "reading the prompt", done))
        return
    state.slot, state.reading = _slots(row).join(reading.planes, reading.read), None


class ComputeThread:
    """Drives a `StepLoop` for as long as there is work, and sleeps otherwise."""

    def __init__(self, loop: StepLoop) -> None:
        self._loop = loop
        self._wake = threading.Event()
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="compute", daemon=True)
        self._thread.start()

    @property
    def running(self) -> bool:
        """False once it was told to end."""
        return not self._closing

    def wake(self) -> None:
        """Something was added, or cancelled."""
        self._wake.set()

    def close(self) -> None:
        """Finish the step at hand and end the thread."""
        self._closing = True
        self._wake.set()
        if self._thread is not threading.current_thread():
            self._thread.join(timeout=10)

    def _run(self) -> None:
        while not self._closing:
            try:
                more = self._loop.step()
            except Exception as error:  # a bug between rows: their readers must hear of it, and the next ones be served
                self._loop.abandon(explain(error))
                more = False
            if not more:
                self._wake.wait()
            self._wake.clear()
