"""How likely several models on one base find a given answer: log-probabilities, alternatives and KL, without generating.

Teacher forcing: the answer's own tokens are read, a chunk at a time, and each position's prediction is compared with what
comes next. On the packed path all adapters read the chunk in one pass; the others read it one after another. Each chunk is a
job of the compute thread, so that rows go on between two of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from playground.errors import ContextOverflow, InvalidRequest
from playground.local_inference.cache import Prepared
from playground.local_inference.decode import needs_whole_prompt, takes_logits_to_keep
from playground.local_inference.packed import Reading
from playground.local_inference.resident import Applied, Resident
from playground.local_inference.templates import render_prompt
from playground.types import GenerationRequest, ModelSpec, Scores, Token

# What the distributions of one chunk may take: 4 bytes for every position, word of the vocabulary and model.
CHUNK_BYTES = 64_000_000
# And more positions than this are never read at once, so that rows that are being answered do not wait for them.
CHUNK = 64
MOST_ALTERNATIVES = 20


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
    prompt = render_prompt(request, tokenizer, resident.window(prepared[0].applied)).token_ids
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


class Scorer:
    """Scores ``answer`` after ``prompt`` (token ids) under each of ``applied``, against the first."""

    def __init__(
        self, resident: Resident, applied: Sequence[Applied], prompt: Sequence[int], answer: Sequence[int], top: int
    ) -> None:
        if not prompt or not answer:
            raise InvalidRequest(
                "There is nothing to score.", "Give a prompt and an answer of at least one token each."
            )
        if not 0 <= top <= MOST_ALTERNATIVES:
            raise InvalidRequest(f"{top} alternatives were asked for.", f"Ask for 0 to {MOST_ALTERNATIVES}.")
        self._resident = resident
        self._applied = list(applied)
        self._ids = [*prompt, *answer]
        self._first = len(prompt) - 1  # the position that predicts the answer's first token
        self._top = top
        self._at = 0
        self._size = self._positions_at_once()
        self._readers = self._make_readers()
        self._found: list[list[tuple[int, float, list[tuple[int, float]], float]]] = [[] for _ in applied]

    def jobs(self) -> Sequence[Callable[[], None]]:
        """What to run on the compute thread, one after another; the scores are there when all have run."""
        return [self._chunk] * -(-(len(self._ids) - 1) // self._size)  # nothing is predicted from the last token

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

    def _make_readers(self) -> list[Any]:
        if self._resident.packed is None or any(applied.exclusive for applied in self._applied):
            return [applied.prefix.copy() if applied.prefix else None for applied in self._applied]
        return [self._resident.reading(applied, len(self._ids) - 1) for applied in self._applied]

    def _positions_at_once(self) -> int:
        """How long a chunk is: all of the text where the model must read it whole."""
        if needs_whole_prompt(self._resident.model.config):
            return len(self._ids)
        return max(1, min(CHUNK, CHUNK_BYTES // (4 * self._resident.vocabulary * len(self._applied))))

    def _chunk(self) -> None:
        start, end = self._at, min(self._at + self._size, len(self._ids) - 1)
        ids = self._ids[start:end]
        skip = max(0, self._first - start)  # the prompt's own tokens are not scored
        distributions = self._read(ids, skip)
        self._at = end
        if skip < len(ids):
            self._note(distributions, self._ids[start + skip + 1 : end + 1])

    def _read(self, ids: Sequence[int], skip: int) -> list[torch.Tensor]:
        """Logits [positions, vocab] float32 after each of ``ids`` but for the first ``skip``, for each model."""
        packed = self._resident.packed
        if packed is not None and isinstance(self._readers[0], Reading):
            pieces = [(reading, ids) for reading in self._readers]
            logits = self._resident.packed_step(
                [], [], pieces, [applied.active for applied in self._applied], every=True
            )
            for reading in self._readers:
                reading.read += len(ids)
            return [own[skip:] for own in logits.split(len(ids))]
        return [self._read_alone(at, applied, ids, skip) for at, applied in enumerate(self._applied)]

    def _read_alone(self, at: int, applied: Applied, ids: Sequence[int], skip: int) -> torch.Tensor:
        """The same through transformers' own forward pass, on the model's own cache; what is skipped costs no logits."""
        wanted = max(0, len(ids) - skip)
        with self._resident.running(applied) as model, torch.inference_mode():
            read = torch.tensor([list(ids)], device=self._resident.device)
            options = {"logits_to_keep": max(1, wanted)} if takes_logits_to_keep(model) else {}
            output = model(input_ids=read, past_key_values=self._readers[at], use_cache=True, **options)
            self._readers[at] = output.past_key_values
            return output.logits[0, output.logits.shape[1] - wanted :].float().cpu()

    def _note(self, logits: Sequence[torch.Tensor], expected: Sequence[int]) -> None:
        first: torch.Tensor | None = None
        for found, own in zip(self._found, logits, strict=True):
            logprobs = torch.log_softmax(own, dim=-1)
            first = logprobs if first is None else first
            width = min(first.shape[1], logprobs.shape[1])  # an adapter may bring words of its own
            divergence = (logprobs[:, :width].exp() * (logprobs[:, :width] - first[:, :width])).sum(-1).clamp_min(0)
            said = logprobs.gather(1, torch.tensor(expected)[:, None])[:, 0]
            best = logprobs.topk(self._top, dim=-1)
            for row, token in enumerate(expected):
                top = list(zip(best.indices[row].tolist(), best.values[row].tolist(), strict=True))
                found.append((token, float(said[row]), top, float(divergence[row])))
