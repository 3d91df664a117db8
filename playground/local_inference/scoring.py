"""How likely models find what is already written, without generating: an answer, by several on one base, or a prompt.

Teacher forcing: the answer's own tokens are read, a chunk at a time, and each position's prediction is compared with what
comes next. On the packed path all adapters read the chunk in one pass; the others read it one after another. Each chunk is a
job of the compute thread, so that rows go on between two of them.

Prompts that are asked for at the same time, as evaluation programs do by the hundred, wait in a line (`PromptLine`) and are
read several in a pass.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from typing import Any

import torch

from playground.errors import ContextOverflow, InvalidRequest, QueueFull
from playground.local_inference.cache import Prepared
from playground.local_inference.decode import PREFILL_CHUNK, needs_whole_prompt, takes_logits_to_keep
from playground.local_inference.packed import Reading
from playground.local_inference.resident import Applied, Resident
from playground.local_inference.row_cache import cache_in, cache_options
from playground.types import GenerationRequest, ModelSpec, Scores, Token

# What the distributions of one chunk may take: 4 bytes for every position, word of the vocabulary and model.
CHUNK_BYTES = 64_000_000
# And more positions than this are never read at once, so that rows that are being answered do not wait for them.
CHUNK = 64
MOST_ALTERNATIVES = 20
MOST_WAITING = 256


def score(
    request: GenerationRequest,
    answer: str,
    specs: Sequence[ModelSpec],
    prepared: Sequence[Prepared],
    top: int,
    compute: Callable[[Callable[[], None]], object],
) -> tuple[Scores, ...]:
    """`LocalInference.score` for what is in memory; ``compute`` runs a job on the compute thread and waits for it."""
    resident: Resident = prepared[0].resident
    if any(one.resident is not resident for one in prepared):
        raise InvalidRequest(
            "These models are not on the same base.", "Score models of one base, dtype and quantization."
        )
    tokenizer = resident.tokenizer(prepared[0].applied)
    prompt = resident.render(request, prepared[0].applied).token_ids
    ids = tokenizer(answer, add_special_tokens=False)["input_ids"]
    window = min(resident.window(one.applied) for one in prepared)
    if len(prompt) + len(ids) > window:
        raise ContextOverflow(
            f"The prompt has {len(prompt)} tokens and the answer {len(ids)}; the model reads {window}.",
            "Shorten one of them.",
        )
    scorer = Scorer(resident, [one.applied for one in prepared], prompt, ids, top)
    for job in scorer.jobs():
        compute(job)
    return scorer.scores(specs, lambda token: str(tokenizer.decode([token])))


def prompt_tokens(
    request: GenerationRequest, prepared: Prepared, top: int, read: Callable[[Scorer], None]
) -> tuple[Token, ...]:
    """`LocalInference.prompt_tokens` for what is in memory; ``read`` has a scorer read all of its text, and waits for it."""
    resident: Resident = prepared.resident
    first, *rest = resident.render(request, prepared.applied, answer=False).token_ids
    words = resident.words(prepared.applied)
    begun = Token(first, words[first], math.nan)  # nothing is before it, and so nothing predicts it
    _check_top(top)
    if not rest:
        return (begun,)
    scorer = Scorer(resident, [prepared.applied], [first], rest, top, alone=request.settings.reproducible)
    read(scorer)
    (scores,) = scorer.scores([request.spec], words.__getitem__)
    return (begun, *scores.tokens)


def _check_top(top: int) -> None:
    if not 0 <= top <= MOST_ALTERNATIVES:
        raise InvalidRequest(f"{top} alternatives were asked for.", f"Ask for 0 to {MOST_ALTERNATIVES}.")


class Scorer:
    """Scores ``answer`` after ``prompt`` (token ids) under each of ``applied``, against the first.

    ``alone`` says that its passes hold nothing else, so that no rounding depends on who else is there.
    """

    def __init__(
        self,
        resident: Resident,
        applied: Sequence[Applied],
        prompt: Sequence[int],
        answer: Sequence[int],
        top: int,
        *,
        alone: bool = False,
    ) -> None:
        if not prompt or not answer:
            raise InvalidRequest(
                "There is nothing to score.", "Give a prompt and an answer of at least one token each."
            )
        _check_top(top)
        self._resident = resident
        self._alone = alone
        self._applied = list(applied)
        self._ids = [*prompt, *answer]
        self._first = len(prompt) - 1  # the position that predicts the answer's first token
        self._top = top
        self._at = 0
        self._size = self._positions_at_once()
        self._readers: list[Any] | None = None  # made when the first chunk is read: who waits takes no memory
        self._found: list[list[tuple[int, float, list[tuple[int, float]], float]]] = [[] for _ in applied]

    @property
    def resident(self) -> Resident:
        """The base that reads."""
        return self._resident

    @property
    def done(self) -> bool:
        """True when everything is read."""
        return self._at >= len(self._ids) - 1  # nothing is predicted from the last token

    @property
    def in_company(self) -> bool:
        """Whether its text may be read in one pass with others'."""
        return len(self._applied) == 1 and not self._alone and self._packs

    def jobs(self) -> Sequence[Callable[[], None]]:
        """What to run on the compute thread, one after another; the scores are there when all have run."""
        return [self.chunk] * -(-(len(self._ids) - 1) // self._size)

    def scores(self, specs: Sequence[ModelSpec], decode: Callable[[int], str]) -> tuple[Scores, ...]:
        """The result, for the models' names and a way to show one token."""
        return tuple(
            Scores(
                spec,
                tuple(
                    Token(token, decode(token), logprob, tuple((i, decode(i), p) for i, p in top))
                    for token, logprob, top, _ in found
                ),
                tuple(divergence for *_, divergence in found),
            )
            for spec, found in zip(specs, self._found, strict=True)
        )

    @property
    def _packs(self) -> bool:
        return self._resident.packed is not None and not any(applied.exclusive for applied in self._applied)

    def _make_readers(self) -> list[Any]:
        if not self._packs:
            return [applied.prefix.copy() if applied.prefix else None for applied in self._applied]
        return [self._resident.reading(applied, len(self._ids) - 1) for applied in self._applied]

    def _positions_at_once(self) -> int:
        """How long a chunk is: all of the text where the model must read it whole."""
        if self._resident.whole_prompts or needs_whole_prompt(self._resident.model.config):
            return len(self._ids)
        return max(1, min(CHUNK, CHUNK_BYTES // (4 * self._resident.vocabulary * len(self._applied))))

    def piece(self, most: int) -> tuple[Reading, list[int], Applied]:
        """What is read next, ``most`` tokens of it, for a pass in company."""
        (reading,) = self._begun()
        return reading, self._ids[self._at : min(self._at + most, len(self._ids) - 1)], self._applied[0]

    def took(self, logits: torch.Tensor) -> None:
        """Count the piece as read that ``logits`` [tokens, vocab] came of, and note what they say."""
        (reading,) = self._begun()
        reading.read += len(logits)
        self._went_on([logits], len(logits), 0)

    def chunk(self) -> None:
        """Read the next chunk, for all models."""
        ids = self._ids[self._at : min(self._at + self._size, len(self._ids) - 1)]
        skip = max(0, self._first - self._at)  # the prompt's own tokens are not scored
        self._went_on(self._read(ids, skip), len(ids), skip)

    def _went_on(self, distributions: Sequence[torch.Tensor], count: int, skip: int) -> None:
        """``count`` more tokens are read, and ``distributions`` are what follows each but the first ``skip``."""
        start, self._at = self._at, self._at + count
        if skip < count:
            self._note(distributions, self._ids[start + skip + 1 : self._at + 1])

    def _begun(self) -> list[Any]:
        if self._readers is None:
            self._readers = self._make_readers()
        return self._readers

    def _read(self, ids: Sequence[int], skip: int) -> list[torch.Tensor]:
        """Logits [positions, vocab] float32 after each of ``ids`` but for the first ``skip``, for each model."""
        readers = self._begun()
        if isinstance(readers[0], Reading):
            pieces = [(reading, ids) for reading in readers]
            logits = self._resident.packed_step(
                [], [], pieces, [applied.active for applied in self._applied], every=True
            )
            for reading in readers:
                reading.read += len(ids)
            return [own[skip:] for own in logits.split(len(ids))]
        return [self._read_alone(at, applied, ids, skip) for at, applied in enumerate(self._applied)]

    def _read_alone(self, at: int, applied: Applied, ids: Sequence[int], skip: int) -> torch.Tensor:
        """The same through transformers' own forward pass, on the model's own cache; what is skipped costs no logits."""
        readers, wanted = self._begun(), max(0, len(ids) - skip)
        regimes = self._resident.regimes
        held = regimes.held(regimes.of(len(self._ids)))
        with self._resident.running(applied) as model, held, torch.inference_mode():
            read = torch.tensor([list(ids)], device=self._resident.device)
            options = {"logits_to_keep": max(1, wanted)} if takes_logits_to_keep(model) else {}
            output = model(input_ids=read, **cache_options(model, readers[at]), **options)
            readers[at] = cache_in(output)
            return output.logits[0, output.logits.shape[1] - wanted :].float().cpu()

    def _note(self, logits: Sequence[torch.Tensor], expected: Sequence[int]) -> None:
        first: torch.Tensor | None = None
        for found, own in zip(self._found, logits, strict=True):
            logprobs = torch.log_softmax(own, dim=-1)
            divergence = torch.zeros(len(expected)) if first is None else _divergence(logprobs, first)
            first = logprobs if first is None else first
            said = logprobs.gather(1, torch.tensor(expected)[:, None])[:, 0]
            best = logprobs.topk(min(self._top, logprobs.shape[1]), dim=-1)
            for row, token in enumerate(expected):
                top = list(zip(best.indices[row].tolist(), best.values[row].tolist(), strict=True))
                found.append((token, float(said[row]), top, float(divergence[row])))


def _divergence(logprobs: torch.Tensor, first: torch.Tensor) -> torch.Tensor:
    """KL(own ‖ first) [positions] of log-probabilities [positions, vocab], over the words that both have."""
    width = min(first.shape[1], logprobs.shape[1])  # an adapter may bring words of its own
    own, other = logprobs[:, :width], first[:, :width]
    return (own.exp() * (own - other)).sum(-1).clamp_min(0)


class PromptLine:
    """Prompts that wait to be read, first come first served; those of one base share a pass where it packs them.

    ``run`` queues a job for the compute thread, ``busy`` says whether rows would wait for it. One job is queued at a time,
    whoever waits, so that rows that are being answered go on between two passes.
    """

    def __init__(self, run: Callable[[Callable[[], None]], object], busy: Callable[[], bool]) -> None:
        self._run, self._busy = run, busy
        self._lock = threading.Lock()
        self._waiting: dict[Scorer, Future[None]] = {}
        self._queued = False

    def join(self, scorer: Scorer) -> Future[None]:
        """Have all of ``scorer``'s text read; the future tells when, or raises why not. Raises `QueueFull`."""
        done: Future[None] = Future()
        with self._lock:
            if len(self._waiting) >= MOST_WAITING:
                raise QueueFull(f"{len(self._waiting)} prompts wait to be read already.", "Try again in a moment.")
            self._waiting[scorer] = done
        self._queue()
        return done

    def _queue(self) -> None:
        with self._lock:
            if self._queued or not self._waiting:
                return
            self._queued = True
        self._run(self._step)

    def _step(self) -> None:
        """One pass for those who are next. On the compute thread."""
        with self._lock:
            self._queued = False
            waiting = list(self._waiting)
        if waiting and waiting[0].in_company:
            first = waiting[0].resident
            self._together([one for one in waiting if one.in_company and one.resident is first])
        elif waiting:
            self._tried(waiting[:1], waiting[0].chunk)
        self._queue()

    def _together(self, company: Sequence[Scorer]) -> None:
        """One pass with pieces of as many texts as there is room for; one that fails is tried in parts."""
        resident = company[0].resident
        room = max(1, min(CHUNK if self._busy() else PREFILL_CHUNK, CHUNK_BYTES // (4 * resident.vocabulary)))
        pieces: list[tuple[Scorer, tuple[Reading, list[int], Applied]]] = []
        for one in company:
            if room > 0:
                pieces.append((one, one.piece(room)))
                room -= len(pieces[-1][1][1])
        try:
            _read_together(resident, pieces)
        except Exception:
            for one, _ in pieces:
                self._tried([one], one.chunk)
            return
        self._tell(one for one, _ in pieces)

    def _tried(self, some: Sequence[Scorer], job: Callable[[], None]) -> None:
        """``job``, whose failure belongs to those it is for."""
        try:
            job()
        except Exception as error:
            for one in some:
                self._leave(one).set_exception(error)
        else:
            self._tell(some)

    def _tell(self, some: Iterable[Scorer]) -> None:
        for one in some:
            if one.done:
                self._leave(one).set_result(None)

    def leave(self, scorer: Scorer) -> None:
        """Read no more of ``scorer``'s text; whoever waited has gone."""
        with self._lock:
            self._waiting.pop(scorer, None)

    def _leave(self, one: Scorer) -> Future[None]:
        """What waits for ``one``; something that nobody looks at where that one has gone meanwhile."""
        with self._lock:
            return self._waiting.pop(one, None) or Future()


def _read_together(resident: Resident, pieces: Sequence[tuple[Scorer, tuple[Reading, list[int], Applied]]]) -> None:
    """One pass over ``pieces``, and what each scorer makes of it."""
    logits = resident.packed_step(
        [],
        [],
        [(reading, ids) for _, (reading, ids, _) in pieces],
        [applied.active for _, (_, _, applied) in pieces],
        every=True,
    )
    for (one, _), own in zip(pieces, logits.split([len(ids) for _, (_, ids, _) in pieces]), strict=True):
        one.took(own)
