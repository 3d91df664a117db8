"""THE ENGINE's face: `LocalInference` turns a `GenerationRequest` into a stream of `GenerationEvent`.

Importing this module imports no torch: the machinery behind it is imported when a model is first needed.

How a prompt becomes tokens: `submit` makes a row (row.py) → the cache gives the resident base and its adapters, loading
them if need be (cache.py, loading.py, lora.py) → the template renders (templates.py) → the row waits in line
(scheduler.py) → the compute thread prefills and steps it (engine.py, decode.py, sampling.py) → its tokens become text
(textstream.py) → events go to the row's sink, which for `stream` and `astream` is a mailbox (mailbox.py).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import threading
import time
from collections.abc import AsyncGenerator, Callable, Generator, Iterator, Sequence
from concurrent.futures import CancelledError, Future
from dataclasses import replace
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING

from playground.errors import ModelNotLoaded, PlaygroundError, QueueFull, ShuttingDown
from playground.local_inference.first_import import import_transformers
from playground.local_inference.mailbox import Mailbox
from playground.local_inference.row import Row, Sink
from playground.types import (
    GenerationEvent,
    GenerationRequest,
    MemoryReport,
    ModelSpec,
    RenderedPrompt,
    ResidentInfo,
    Scores,
    Status,
    Token,
)

if TYPE_CHECKING:
    from playground.local_inference.cache import Prepared
    from playground.local_inference.machinery import Machinery

HEARTBEAT_S = 0.2  # with a frame and a busy machine on top, still an event every 250 ms
# Once text flows, a reader looks no more often than a screen is drawn: each look wakes a thread beside the computing one.
FRAME_S = 1 / 60
# Sixteen readers at once would take a quarter of the time from the thread that computes: Python runs one thread at a time.
LOOKS_PER_SECOND = 300
LONGEST_FRAME_S = 0.1
MAX_WAITING = 256
_SEEDS = 2**31
_LONG = 20_000  # characters that take a few milliseconds to be made tokens of
# bitsandbytes logs a line for every int8 product, and at import one about an optional kernel that is not needed; the
# tokenizer warns of long prompts, which are refused in a sentence of our own.
_TALKATIVE = (
    "bitsandbytes.autograd._functions",
    "bitsandbytes.backends.cpu.ops",
    "transformers.tokenization_utils_base",
)


class LocalInference:
    """Base models and their adapters on this machine, behind one interface; every method may be called from any thread.

    ``memory_budget`` is what all models together may take: 0 for what is free, less a margin; up to 1 a share of the
    device's memory; above that bytes. Idle models make way for new ones. ``prefix_budget``, written alike, is what all
    may keep of texts that they have read, for later ones that begin alike; 0 for nothing. It makes way, too. With
    ``private_prefixes`` only the same user's texts serve a user so, and of others' a whole system prompt. A model that
    nobody has used for ``keep_alive`` seconds is unloaded; 0 means never. Adapters are refused whose files are links out of
    ``adapter_roots``; () allows any. Those saved as pickles are refused too, unless ``pickles`` names a folder for copies of
    their numbers as safetensors.
    ``measured`` is a file for what was timed of this machine; without one it is timed again in each process.
    """

    def __init__(
        self,
        max_waiting: int = MAX_WAITING,
        *,
        memory_budget: float = 0.0,
        prefix_budget: float = 0.1,
        private_prefixes: bool = False,
        keep_alive: float = 0.0,
        adapter_roots: Sequence[Path] = (),
        pickles: Path | None = None,
        measured: Path | None = None,
    ) -> None:
        self._adapter_roots, self._pickles, self._measured = tuple(adapter_roots), pickles, measured
        self._max_waiting = max_waiting
        self._memory_budget, self._keep_alive = memory_budget, keep_alive
        self._prefix_budget, self._private_prefixes = prefix_budget, private_prefixes
        self._lock = threading.Lock()
        self._starting = threading.Lock()  # held for seconds while torch is imported, so not the one that submit needs
        self._machinery: Machinery | None = None
        self._rows: set[Row] = set()
        self._preparing: dict[Row, Future[Prepared]] = {}  # what rows wait for whose model is not at hand
        self._arrivals: SimpleQueue[list[Row] | None] = SimpleQueue()
        self._usher: threading.Thread | None = None
        self._closed = False

    def submit(self, request: GenerationRequest, sink: Sink) -> Callable[[], None]:
        """Queue ``request``; its events go to ``sink`` from the engine's threads. Returns a function that cancels it.

        ``sink`` must not block. Each answer (``index``) ends with exactly one event that has a finish reason, or with one
        exception in its place, and nothing after it. The model is loaded first when it is not in memory.

        Raises `QueueFull` when too many requests wait already.
        """
        settings = request.settings
        answers = 1 if settings.strategy == "beam_search" else settings.num_return_sequences
        seed = settings.seed if settings.seed is not None else secrets.randbelow(_SEEDS)
        with self._lock:
            if self._closed:
                raise ShuttingDown("The app is shutting down.", "Start it again.")
            if len(self._rows) >= self._max_waiting:
                raise QueueFull(f"{len(self._rows)} requests are waiting already.", "Try again in a moment.")
            rows = [Row(request, sink, index, seed) for index in range(answers)]
            self._rows.update(rows)
        for row in rows:
            row.on_settled = partial(self._rows.discard, row)
            row.report(Status("queued", "waiting"))
        try:
            self._arrived(rows)
        except QueueFull:
            self._rows.difference_update(rows)
            raise
        return lambda: self._cancel(rows)

    def _arrived(self, rows: list[Row]) -> None:
        """Have ``rows`` admitted: in turn with others where that takes a moment, else by a thread of their own.

        Starting a thread takes as long as admitting a row whose model is in memory, and sixteen of them at once take the
        processor from the answers that are being written.
        """
        if self._machinery is None or _is_long(rows[0].request):
            _started(partial(self._admit, rows), "admit")
            return
        with self._lock:
            if self._usher is None:
                self._usher = _started(self._usher_in, "usher")
        self._arrivals.put(rows)

    def _usher_in(self) -> None:
        """Admit whoever arrives, in a thread for as long as the engine lives; who must wait for a model waits elsewhere."""
        while self._usher_next():
            pass  # nothing of those who came in is held while waiting for the next

    def _usher_next(self) -> bool:
        """Wait for the next to arrive and admit them; False when nobody will come any more."""
        rows = self._arrivals.get()
        if rows is None:
            return False
        try:
            self._usher_to_their_place(rows)
        except Exception as error:  # who comes next must not wait for ever
            failure = self._explain(error)
            for row in rows:
                row.fail(failure)
        return True

    def _usher_to_their_place(self, rows: list[Row]) -> None:
        if at_hand := self._all_at_hand(rows):
            self._admit(rows, at_hand)
        else:
            _started(partial(self._admit, rows), "admit")

    def stream(self, request: GenerationRequest) -> Generator[GenerationEvent, None, None]:
        """The events of ``request``; at least one every 250 ms, at most sixty a second. Closing the iterator cancels.

        Raises `PlaygroundError` when the request cannot be answered.
        """
        news, ended = threading.Event(), threading.Event()
        mailbox = Mailbox(request.settings.num_return_sequences, news.set, ended.set)
        cancel = self.submit(request, mailbox.put)
        latest: GenerationEvent | None = None
        started = time.perf_counter()
        try:
            while not mailbox.finished:
                if not news.wait(HEARTBEAT_S) and latest is not None:
                    yield _heartbeat(latest, started)
                    continue
                news.clear()
                looked = time.perf_counter()
                for event in mailbox.take():
                    latest = event
                    yield event
                if not mailbox.finished and latest is not None and latest.tokens:
                    ended.wait(max(0.0, self._frame() - (time.perf_counter() - looked)))
        finally:
            cancel()

    async def astream(self, request: GenerationRequest) -> AsyncGenerator[GenerationEvent, None]:
        """`stream` for an event loop. Events that the reader was too slow for arrive merged."""
        loop = asyncio.get_running_loop()
        news, next_look = asyncio.Event(), asyncio.Event()

        def wake(event: asyncio.Event) -> None:
            with contextlib.suppress(RuntimeError):  # the loop was closed under a reader who left; nobody is waiting
                loop.call_soon_threadsafe(event.set)

        mailbox = Mailbox(request.settings.num_return_sequences, partial(wake, news), partial(wake, next_look))
        cancel = self.submit(request, mailbox.put)
        latest: GenerationEvent | None = None
        started = time.perf_counter()
        try:
            while not mailbox.finished:
                try:
                    if not news.is_set():
                        async with asyncio.timeout(HEARTBEAT_S):  # Python 3.11's wait_for may swallow a cancellation
                            await news.wait()
                except TimeoutError:
                    if latest is not None:
                        yield _heartbeat(latest, started)
                    continue
                news.clear()
                looked = time.perf_counter()
                for event in mailbox.take():
                    latest = event
                    yield event
                if not mailbox.finished and latest is not None and latest.tokens:
                    frame = loop.call_later(max(0.0, self._frame() - (time.perf_counter() - looked)), next_look.set)
                    await next_look.wait()  # the end cuts it short
                    next_look.clear()
                    frame.cancel()
        finally:
            cancel()

    def _frame(self) -> float:
        """Seconds between two looks of one reader: all of them together look `LOOKS_PER_SECOND` times at most."""
        return min(LONGEST_FRAME_S, max(FRAME_S, len(self._rows) / LOOKS_PER_SECOND))

    def load(self, spec: ModelSpec, report: Callable[[Status], None] | None = None) -> ResidentInfo:
        """Load ``spec``'s base unless it is in memory, attach its adapters, and say what is there; blocks.

        Raises `ModelNotFound`, `ModelUnsupported`, `AdapterInvalid` or `OutOfMemory`.
        """
        prepared = self._prepare(spec, report or _silent, pinned=False)
        info: ResidentInfo = prepared.resident.info()
        return info

    def unload(self, base: str, wait_s: float = 0.0) -> int:
        """Drop ``base`` (path or hub id) from memory; returns the bytes measured to have come back.

        Rows of it that are running or waiting are let finish, for ``wait_s`` seconds at most; what comes meanwhile is
        answered too. Raises `ModelNotLoaded`, or `ModelBusy` while there are such rows.
        """
        machinery = self._machinery
        if machinery is None or not machinery.residents.find(base):
            raise ModelNotLoaded(f"{base!r} is not loaded.", "There is nothing to unload.")
        return machinery.unload(base, wait_s)

    def residents(self) -> tuple[ResidentInfo, ...]:
        """The base models in memory, oldest first."""
        machinery = self._machinery
        return tuple(held.info() for held in machinery.residents.all()) if machinery else ()

    def render(self, request: GenerationRequest) -> RenderedPrompt:
        """The prompt as the model would read it. Raises `ModelNotLoaded`, `ContextOverflow`, `InvalidRequest`."""
        with self._at_hand(request.spec) as prepared:
            rendered: RenderedPrompt = prepared.resident.render(request, prepared.applied)
            return rendered

    def count_tokens(self, spec: ModelSpec, text: str) -> int:
        """How many tokens ``text`` is, without special tokens. Raises `ModelNotLoaded`."""
        with self._at_hand(spec) as prepared:
            tokenizer = prepared.resident.tokenizer(prepared.applied)
            return len(tokenizer(text, add_special_tokens=False)["input_ids"])

    def score(
        self, request: GenerationRequest, answer: str, others: Sequence[ModelSpec] = (), top: int = 5
    ) -> tuple[Scores, ...]:
        """How likely ``request``'s model, and then ``others`` on the same base, find ``answer`` to ``request``; blocks.

        All read the same token ids: ``request``'s model's template and tokenizer. ``top`` (0–20) alternatives are told for
        each token. Rows that are being answered go on meanwhile. Raises `ContextOverflow`, `InvalidRequest`, and what
        loading raises.
        """
        from playground.local_inference.scoring import score

        specs = (request.spec, *others)
        prepared: list[Prepared] = []
        try:
            for spec in specs:
                prepared.append(self._prepare(spec, _silent))
            return score(request, answer, specs, prepared, top, self._ready().compute)
        finally:
            for one in prepared:
                one.resident.pin(-1)

    def prompt_tokens(
        self, request: GenerationRequest, top: int = 0, wanted: Callable[[], bool] = lambda: True
    ) -> tuple[Token, ...]:
        """The tokens of ``request``'s prompt as the model reads it, each as likely as it is after those before it; blocks.

        Log-probabilities are natural and the raw model's, adapters included; the first token's is NaN. ``top`` (0–20)
        alternatives are told for each token but the first. Nothing is generated, so the prompt may fill the window. Rows
        that are being answered go on meanwhile. When ``wanted`` says no (it is asked a few times a second), no more is read.
        Raises `CancelledError` then, `ContextOverflow`, `InvalidRequest`, `QueueFull` when too many wait already, and what
        loading raises.
        """
        from playground.local_inference.scoring import prompt_tokens

        prepared = self._prepare(request.spec, _silent)
        try:
            return prompt_tokens(request, prepared, top, partial(self._ready().read_prompt, wanted=wanted))
        except (PlaygroundError, CancelledError):
            raise
        except Exception as error:
            raise self._explain(error) from error
        finally:
            prepared.resident.pin(-1)

    def memory(self) -> MemoryReport:
        """The memory that most of what is loaded lies in, and what of it is ours; the machine's while nothing is loaded."""
        return self.memories()[0]

    def memories(self) -> tuple[MemoryReport, ...]:
        """Every memory that models lie in, the GPUs' and the machine's, the one with most of them first; at least one.

        ``adapters`` holds their tensors, and what was joined of several for a common pass; ``kv_cache`` the keys and values
        of all rows. Files that are mapped count as weights, though the system calls their memory free.
        """
        from playground.local_inference.memory import device_bytes, process_bytes

        found = self._machinery.memories(tuple(self._rows)) if self._machinery else []
        return tuple(found) or (MemoryReport("cpu", *device_bytes("cpu"), 0, 0, 0, process_bytes()),)

    def activity(self) -> tuple[int, int]:
        """(rows being answered, requests waiting or loading)."""
        rows = len(self._rows)
        live = len(self._machinery.loop.scheduler.live()) if self._machinery else 0
        return min(live, rows), max(0, rows - live)

    def close(self) -> None:
        """Cancel everything, stop the engine's threads and let the models go."""
        with self._lock:
            self._closed = True
            rows = list(self._rows)
        self._arrivals.put(None)
        self._cancel(rows)
        if self._machinery:
            self._machinery.close()
        for row in rows:
            row.finish("cancelled")

    def _all_at_hand(self, rows: list[Row]) -> list[Prepared]:
        """For each of ``rows`` what answers it, pinned; nothing where anything is missing, or wrong."""
        assert self._machinery is not None
        found: list[Prepared] = []
        with contextlib.suppress(Exception):  # whoever admits them meets it again, and tells it
            for row in rows:
                prepared = self._machinery.residents.ready(row.request.spec)
                if prepared is None:
                    break
                found.append(prepared)
        if len(found) == len(rows):
            return found
        for prepared in found:
            prepared.resident.pin(-1)
        return []

    def _admit(self, rows: list[Row], at_hand: Sequence[Prepared] = ()) -> None:
        """Put ``rows`` of one request in line, what answers them ``at_hand`` or prepared first; the edge of a thread."""
        waiting = list(at_hand)
        try:
            for row in rows:
                if waiting:
                    prepared = waiting.pop(0)
                else:
                    prepared = self._prepare(row.request.spec, partial(_report_all, rows), row=row)
                if row.hold(partial(self._release, row, prepared)):
                    self._ready().admit(row, prepared)
                else:
                    prepared.resident.pin(-1)
        except CancelledError:
            self._cancel(rows)
        except Exception as error:
            failure = self._explain(error)
            for row in rows:
                if row not in self._in_line():
                    row.fail(failure)
        finally:
            for prepared in waiting:
                prepared.resident.pin(-1)

    def _in_line(self) -> list[Row]:
        if self._machinery is None:
            return []
        scheduler = self._machinery.loop.scheduler
        return scheduler.live() + scheduler.waiting()

    def _release(self, row: Row, prepared: Prepared) -> None:
        """What happens when ``row`` ends: it is counted out, and its resident may be unloaded again."""
        self._rows.discard(row)
        prepared.resident.pin(-1)

    def _prepare(
        self, spec: ModelSpec, report: Callable[[Status], None], *, pinned: bool = True, row: Row | None = None
    ) -> Prepared:
        """``spec`` in memory, and pinned if wanted; loads what is missing. Blocks.

        Raises `CancelledError` when ``row``, whom it is for, is cancelled before its turn to load has come: those who leave
        must not pile up behind a long load, a thread each.
        """
        if self._machinery is None:
            report(Status("loading", "starting the engine"))
        residents = self._ready(row).residents
        at_hand = residents.ready(spec, pinned=pinned)
        if at_hand is not None:
            return at_hand
        future = residents.prepare(spec, report, pinned=pinned)
        return future.result() if row is None else self._awaited(row, future)

    def _awaited(self, row: Row, future: Future[Prepared]) -> Prepared:
        """The result of ``future``, which is cancelled with ``row``."""
        self._preparing[row] = future
        try:
            if row.cancelled.is_set():  # before anybody could find the future
                future.cancel()
            return future.result()
        finally:
            del self._preparing[row]

    def _ready(self, row: Row | None = None) -> Machinery:
        while not self._starting.acquire(timeout=HEARTBEAT_S):
            if row is not None and row.cancelled.is_set():
                raise CancelledError
        try:
            if self._machinery is None:
                for name in _TALKATIVE:
                    logging.getLogger(name).setLevel(logging.ERROR)
                import_transformers()
                from playground.local_inference.machinery import Machinery

                self._machinery = Machinery(
                    self._memory_budget,
                    self._keep_alive,
                    self._adapter_roots,
                    self._pickles,
                    self._prefix_budget,
                    self._private_prefixes,
                    self._measured,
                )
            if self._closed:  # while it was starting
                self._machinery.close()
                raise ShuttingDown("The app is shutting down.", "Start it again.")
            return self._machinery
        finally:
            self._starting.release()

    @contextlib.contextmanager
    def _at_hand(self, spec: ModelSpec) -> Iterator[Prepared]:
        prepared = self._machinery.residents.ready(spec) if self._machinery else None
        if prepared is None:
            raise ModelNotLoaded(f"{spec.base!r} with these adapters is not loaded.", "Load it first.")
        try:
            yield prepared
        finally:
            prepared.resident.pin(-1)

    def _cancel(self, rows: list[Row]) -> None:
        for row in rows:
            row.cancelled.set()
            preparing = self._preparing.get(row)
            if preparing is not None:
                preparing.cancel()
            if row.prompt is None:  # still loading: nothing of the row is on the compute thread
                row.finish("cancelled")
        if self._machinery:
            self._machinery.thread.wake()

    def _explain(self, error: Exception) -> PlaygroundError:
        if isinstance(error, PlaygroundError):
            return error
        from playground.local_inference.explain import explain

        return explain(error)


def _report_all(rows: list[Row], status: Status) -> None:
    for row in rows:
        row.report(status)


def _silent(status: Status) -> None:
    """Progress that nobody asked for."""


def _heartbeat(latest: GenerationEvent, started: float) -> GenerationEvent:
    """A sign of life between events: where the request stands, with the time gone on."""
    stats = replace(latest.stats, elapsed_s=max(latest.stats.elapsed_s, time.perf_counter() - started))
    return GenerationEvent(latest.status, stats=stats, index=latest.index)


def _started(work: Callable[[], None], name: str) -> threading.Thread:
    """A thread that does ``work``. Raises `QueueFull` when the system gives no more of them."""
    thread = threading.Thread(target=work, name=name, daemon=True)
    try:
        thread.start()
    except RuntimeError as error:
        raise QueueFull("This machine runs too many threads to take a request.", "Try again in a moment.") from error
    return thread


def _is_long(request: GenerationRequest) -> bool:
    """True where rendering the prompt would hold up who comes next."""
    own = (request.prompt or "", request.prefill, request.settings.system_prompt)
    return sum(map(len, (*own, *(message.content for message in request.messages)))) > _LONG
