"""The step loop: admits rows, prefills them in turn, decodes them together, hears Stop between steps, never dies of one row.

`StepLoop` is an object without a thread: compute_thread.py is one driver of it. All forward passes happen inside `step`.
"""

from __future__ import annotations

import contextlib
import logging
import math
import queue
import time
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Future
from functools import partial
from typing import Any

import torch

from playground.errors import EngineFailure, OutOfMemory, PlaygroundError
from playground.local_inference.admission import begin, begin_packed, stop_ids
from playground.local_inference.beams import beam_search
from playground.local_inference.companies import (
    companies,
    decodes_together,
    keep_to_regime,
    longest,
    may_join,
    measured_faster,
    packs,
    searches,
    slots_of,
)
from playground.local_inference.decode import (
    FEWEST_TOKENS,
    PREFILL_CHUNK,
    DecodeState,
    describe,
    next_logits,
    next_logits_together,
    prefill_chunk,
)
from playground.local_inference.explain import explain, ran_out
from playground.local_inference.kernels import plain_kernels
from playground.local_inference.resident import Resident
from playground.local_inference.reuse import remember, take_up, waits
from playground.local_inference.row import Row
from playground.local_inference.row_cache import contents_of
from playground.local_inference.row_memory import RowMemory, pass_bytes, prompt_bytes
from playground.local_inference.sampling import choose_tokens, likeliest, log_probabilities
from playground.local_inference.scheduler import Scheduler, shares
from playground.local_inference.slots import Contents, SlotCache, outgrown
from playground.local_inference.templates import extra_stops
from playground.local_inference.textstream import cut_at_stop
from playground.types import FinishReason, Status

_log = logging.getLogger(__name__)

# Rows that are live at once; the others wait in line.
LIVE_ROWS = 32


class StepLoop:
    """Rows and jobs of one device, advanced by whoever calls `step`."""

    def __init__(self, slots: int = LIVE_ROWS, memory: RowMemory | None = None) -> None:
        self._memory = memory or RowMemory()
        self.scheduler: Scheduler[Row] = Scheduler(slots, self._memory.fits)
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
            if row.cancelled.is_set() or not (packs(row) or decodes_together(row)):
                self._guarded(row, self._advance)
                if searches(row) and self._searching is None:
                    break  # others have come, gone and moved on beside it, and the turn may be over
        # Looked up again: a row whose prompt has just been read has its slot among the others, and beside a search that ran
        # here others have come and gone. All rows of a slab are stepped together.
        going_on = [row for row in self._in_turn() if not row.paused]
        for resident, some in companies(row for row in going_on if packs(row)):
            self._advance_packed(resident, some)
        for resident, some in companies(row for row in going_on if decodes_together(row) and not packs(row)):
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
        """Say to those who wait how many are before them, or what the next one waits for, whenever that changed."""
        for ahead, row in enumerate(self.scheduler.waiting()):
            place = f"{ahead} before this one" if ahead else row.short_of or "next in line"
            if row.place != place:
                row.place = place
                row.report(Status("queued", place))

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
            if self._unsettled:  # no slot can be trusted any more, and all rows are given up
                raise
            self._fail(row, explain(error))

    def _fail(self, row: Row, failure: PlaygroundError) -> None:
        """End ``row`` with ``failure``; where only the memory ran out, its text so far is as good as any."""
        if isinstance(failure, OutOfMemory) and row.state is not None:
            with contextlib.suppress(Exception):  # decoding it may run out as well
                row.say(row.state.text.flush())
        self._end(row, lambda row: row.fail(failure))

    def _end(self, row: Row, settle: Callable[[Row], None]) -> None:
        self.scheduler.leave(row)
        try:
            if decodes_together(row):
                slots_of(row).leave(row.state.slot)
        except Exception:
            row.resident.slots = SlotCache()  # a slot that nobody owns would trip every later step
            self._unsettled.append(partial(settle, row))  # once all are given up: who hears of it may ask again at once
            raise
        settle(row)

    def _finish(self, row: Row, settle: Callable[[Row], None]) -> None:
        """End a row with which nothing is wrong: what it has read is kept for others."""
        remember(row)
        self._end(row, settle)

    def _advance(self, row: Row) -> None:
        """One step of ``row`` on its own: its end, its whole beam search, a prefill chunk or a token."""
        if row.cancelled.is_set():
            text = row.state.text.flush() if row.state else ""
            self._finish(row, lambda row: row.finish("cancelled", text))
        elif searches(row):
            if self._searching is None:
                self._beams(row)
        else:
            self._advance_alone(row)

    def _advance_alone(self, row: Row) -> None:
        """A prefill chunk, or one more token; a row whose prompt is read joins the others where its model allows it."""
        if row.state is None:
            live = self.scheduler.live()
            self._begin(row, live[: live.index(row)])
            if row.state is None:
                return
        state: DecodeState = row.state
        resident: Resident = row.resident
        with self._memory.taking(row, pass_bytes(row, min(len(state.pending), PREFILL_CHUNK))):
            logits = self._read(resident, row, state)
        if logits is None:
            if state.read in state.stops:
                state.stops.discard(state.read)
                remember(row)
            return
        first = not state.ids
        (chosen,) = choose_tokens([state.sampler], logits[None])
        (top,) = likeliest(logits[None], [state.top_logprobs])
        self._take(row, chosen, log_probabilities(logits[None], [chosen])[0], top)
        if may_join(row) and resident.regimes.together(state.regime) and not row.settled:
            self._join(row, contents_of(state.cache, state.read))
            state.cache = None
        if first and not row.settled:
            remember(row)  # nobody's first token waits for this

    def _read(self, resident: Resident, row: Row, state: DecodeState) -> torch.Tensor | None:
        """Let the model read what is pending, or a chunk of it; logits [vocab] once all of it is read."""
        keep_to_regime(row)
        held = resident.regimes.held(state.regime)
        if not state.prefilling:
            with plain_kernels(measured_faster(row, 1)), resident.running(row.applied) as model, held:
                return next_logits(model, state)
        if not self._may_read(row):
            return None  # enough prompts for this step: the rows that are decoding must not wait for them
        whole = resident.whole_prompts or resident.regimes.whole(state.regime)
        with resident.running(row.applied) as model, held:
            logits = prefill_chunk(model, state, whole=whole)
        if logits is None:
            done = state.read / (state.read + len(state.pending))
            row.report(Status("prefilling", "reading the prompt", done))
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

    def _join(self, row: Row, read: Contents) -> None:
        """Give ``row`` a slot among those that decode, with what it has ``read``."""
        slots, regime = slots_of(row), row.state.regime
        with self._memory.taking(row, slots.needs(read, regime)):
            row.state.slot = slots.join(read, regime)

    def _with_room(self, rows: list[Row]) -> list[Row]:
        """Those of ``rows`` that have room for their next position; for the others, and for nobody else, it ends here."""
        for row in rows:
            if outgrown(row.state.slot):
                self._guarded(row, self._grow)
        return [row for row in rows if not row.settled]

    def _grow(self, row: Row) -> None:
        """Move ``row`` to a larger slot."""
        slots, slot = slots_of(row), row.state.slot
        with self._memory.taking(row, slots.needs(slot.slab.contents(slot), slot.regime)):
            slots.grow(slot)

    def _advance_packed(self, resident: Resident, rows: list[Row]) -> None:
        """One pass: a token for each of ``rows`` that decodes, and pieces of the prompts of those that do not yet."""
        decoding = self._with_room([row for row in rows if decodes_together(row)])
        reading = [row for row in rows if not decodes_together(row) and not row.settled]
        pieces = self._pieces(resident, reading, beside=bool(decoding))
        if not decoding and not pieces:
            return
        self._pass(resident, decoding, pieces)

    def _pass(self, resident: Resident, decoding: list[Row], pieces: list[tuple[Row, list[int]]]) -> None:
        """One pass, and what follows for each row; one that fails is tried in parts, so that it ends only where it fails."""
        try:
            everyone, logits = self._logits(resident, decoding, pieces)
        except Exception as error:
            short, failure = ran_out(error), explain(error)
        else:
            try:
                self._follow(everyone, pieces, logits)
            except Exception as error:  # counted already, so not to be repeated
                self._fail_all(everyone, explain(error))
            return
        # Out here nothing holds the numbers of the pass that failed.
        self._try_again(resident, decoding, pieces, failure, short=short)

    def _try_again(
        self,
        resident: Resident,
        decoding: list[Row],
        pieces: list[tuple[Row, list[int]]],
        failure: PlaygroundError,
        *,
        short: bool,
    ) -> None:
        """After a pass that failed: once more with more memory, else in parts, else without the longest row."""
        everyone = decoding + [row for row, _ in pieces]
        if short and self._memory.relieve(everyone[0]):
            self._pass(resident, decoding, pieces)
        elif (decoding and pieces) or len(pieces) > 1:
            # Those that decode go first: a prompt that is whole takes a slot beside theirs.
            if decoding:
                self._pass(resident, decoding, [])
            for piece in pieces:
                self._pass(resident, [], [piece])
        elif short and len(decoding) > 1:  # the longest is what it was too much for
            most = longest(decoding)
            self._fail(most, failure)
            self._pass(resident, [row for row in decoding if row is not most], [])
        else:
            self._fail_all(everyone, failure)

    def _begin(self, row: Row, ahead: Sequence[Row]) -> None:
        """Give ``row`` its state, what is known of its prompt read already; not while it waits for one ``ahead`` of it."""
        if waits(row, ahead):
            return
        with self._memory.taking(row, prompt_bytes(row)):
            if packs(row):
                begin_packed(row)
            else:
                row.state = begin(row)
            take_up(row)

    def _pieces(self, resident: Resident, rows: list[Row], *, beside: bool) -> list[tuple[Row, list[int]]]:
        """What of the prompts of ``rows`` is read in this step: shared out, and less of it when others decode beside."""
        for at, row in enumerate(rows):
            if row.state is None:
                self._guarded(row, partial(self._begin, ahead=rows[:at]))
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
        slabs = slots_of(decoding[0]).groups(list(by_slot)) if decoding else []
        members = [by_slot[slot] for slab in slabs for slot in slab.slots]
        everyone = members + [row for row, _ in pieces]
        tokens = len(members) + sum(len(ids) for _, ids in pieces)
        with plain_kernels(measured_faster(everyone[0], tokens)), resident.pace.measured(tokens - len(members)):
            logits = resident.packed_step(
                slabs,
                [row.state.pending[0] for row in members],
                [(row.state.reading, ids) for row, ids in pieces],
                [row.applied.active for row in everyone],
                copies=not everyone[0].alone,
            )
        return everyone, logits

    def _follow(self, everyone: list[Row], pieces: list[tuple[Row, list[int]]], logits: torch.Tensor) -> None:
        """Count what was read and written, and choose a token for whoever has read its prompt."""
        for row in everyone[: len(everyone) - len(pieces)]:
            row.state.slot.length += 1
        for row, ids in pieces:
            self._guarded(row, partial(self._note_read, count=len(ids)))
        ready = [at for at, row in enumerate(everyone) if decodes_together(row)]
        if ready:
            self._choose([everyone[at] for at in ready], logits if len(ready) == len(everyone) else logits[ready])
        for row, _ in pieces:  # nobody's first token waits for this
            if decodes_together(row):
                self._guarded(row, remember)

    def _note_read(self, row: Row, count: int) -> None:
        """``count`` more tokens of the row's prompt are read; once it is whole, the row takes a slot among the others."""
        state, reading = row.state, row.state.reading
        state.pending = state.pending[count:]
        reading.read += count
        if state.pending:
            done = 1 - len(state.pending) / len(state.sampler.prompt_ids)  # a soft prompt before it was read long ago
            row.report(Status("prefilling", "reading the prompt", done))
            return
        self._join(row, Contents(reading.planes, reading.read, given=True))
        state.reading = None

    def _choose(self, rows: list[Row], logits: torch.Tensor) -> None:
        """The next token of each of ``rows`` for its raw ``logits`` [rows, vocab]."""
        chosen = choose_tokens([row.state.sampler for row in rows], logits)
        logprobs = log_probabilities(logits, chosen)
        tops = likeliest(logits, [row.state.top_logprobs for row in rows])
        for row, token, logprob, top in zip(rows, chosen, logprobs, tops, strict=True):
            self._guarded(row, partial(self._take, chosen=token, logprob=logprob, top=top))

    def _advance_together(self, resident: Resident, rows: list[Row]) -> None:
        """One token for each of ``rows``, in one forward pass for each length bucket and rotary regime."""
        for row in rows:
            self._guarded(row, keep_to_regime)
        rows = self._with_room([row for row in rows if decodes_together(row)])
        by_slot = {row.state.slot: row for row in rows}
        for slab in resident.slots.groups(list(by_slot)):
            members = [row for row in rows if row.state and row.state.slot in slab.slots]
            try:
                members = [by_slot[slot] for slot in slab.slots]
                plain = plain_kernels(measured_faster(members[0], len(members)))
                together, held = (
                    resident.running_together([r.applied for r in members]),
                    resident.regimes.held(slab.regime),
                )
                with plain, together as model, held:
                    logits = next_logits_together(
                        model, slab, [row.state.pending[0] for row in members], resident.masks
                    )
            except Exception as error:  # a step that fails as a whole
                # Out of memory the longest is what it was too much for; the others try again, where nothing is changed yet.
                again = ran_out(error) and not slab.states
                if not (again and self._memory.relieve(members[0])):
                    self._fail_all([longest(members)] if again else members, explain(error))
                continue
            try:
                self._choose(members, logits)
            except Exception as error:  # counted already, so not to be repeated
                self._fail_all(members, explain(error))

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
            self._fail(row, failure)

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
            self._finish(row, lambda row: row.finish("stop", text, end=token))
            return
        row.add(state.text.push(token.id), token)
        if state.text.stopped:
            self._finish(row, lambda row: row.finish("stop"))
        elif len(state.ids) >= state.limit:
            text = state.text.flush()
            reason: FinishReason = "stop" if state.text.stopped else "length"
            self._finish(row, lambda row: row.finish(reason, text))

    def _beams(self, row: Row) -> None:
        """The whole beam search; the other rows go on between its steps, other beam searches after it."""
        resident: Resident = row.resident
        tokenizer = resident.tokenizer(row.applied)
        stops = (*row.request.settings.stop, *extra_stops(row.request, tokenizer))
        ends = stop_ids(row)
        assert row.prompt is not None
        self._searching = row
        try:
            with resident.running(row.applied) as model, resident.regimes.anew():
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
