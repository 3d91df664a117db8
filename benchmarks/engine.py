"""The engine as ratios: what reuse, mixed rows, adapters and lengths gain or cost, and how near decoding comes to memory.

    python benchmarks/engine.py [turn mixed overhead bandwidth ragged] [--shape starter 0.5b] [--rounds 3] [--threads 1]

- ``turn``: the second turn of a chat against a prompt of the same length that nobody asked before, up to the first token.
  The second turn asks as much as "And why?" takes in a chat template.
- ``mixed``: the base and three adapters as four rows at once, against plain `generate` with the adapters in turn, and
  against the same requests one after another in our own engine.
- ``overhead``: a token of four rows with four different adapters against one of four rows of the base, for us and for PEFT.
- ``bandwidth``: the bytes of the weights that one token of one row needs in a second, against what this process reads in a
  second of a float32 matrix of that size times a vector, which is what a token is at its best, and against a plain sum over
  it. With several threads by the clock.
- ``ragged``: a token of sixteen rows of very different lengths against one of sixteen equal ones, as long in sum.

The starter is measured in float32, as it is loaded; `--shape 0.5b` is a model of Qwen2-0.5B's shape in bf16, with random
weights and adapters of rank 16 on all its linears. Both sides of a ratio take turns and are compared by CPU time, because
machines drift and are shared; on a GPU by time passed. Printed are the median ratio, the range, and what is wanted.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the app sets it, before torch is imported
ROOT = Path(__file__).resolve().parent.parent
sys.path[0] = str(ROOT)  # not this folder, whose http.py would hide the standard library's

import torch  # noqa: E402
from peft import LoraConfig, PeftModel, get_peft_model  # noqa: E402
from transformers import AutoModelForCausalLM  # noqa: E402
from transformers.utils import logging  # noqa: E402

from benchmarks.decode import BUNDLED, STARTER, random_models  # noqa: E402
from playground.local_inference import LocalInference  # noqa: E402
from playground.types import GenerationEvent, GenerationRequest, GenerationSettings, ModelSpec  # noqa: E402

# What is wanted of each ratio: (at least) or (at most), for the starter and for the 0.5B shape.
WANTED = {
    "turn": ("≥ 15", "≥ 15"),
    "mixed, against plain generate": ("≥ 3", "≥ 2"),
    "mixed, against one after another": ("≥ 2.3", "≥ 1.3"),
    "overhead of four adapters": ("≤ 1.60", "≤ 1.15"),
    "the same in PEFT's mixed batch": ("–", "–"),
    "bandwidth": ("–", "≥ 0.7"),
    "the same, of a plain sum": ("–", "–"),
    "ragged": ("–", "–"),
}
# "And why?" with the marks of the starter's chat template.
_FOLLOW_UP = 14
_SEED = count(1)
_passed: list[bool] = []  # while not empty, time passed counts instead of CPU time


@dataclass(frozen=True)
class Shape:
    """A base with four adapters, and how much of it is measured."""

    name: str
    base: Path
    adapters: tuple[Path, ...]
    dtype: str
    history: int
    tokens: int
    lengths: tuple[int, ...]
    room: int


@dataclass
class Subject:
    """One shape, loaded in the engine and, when it is first needed, in plain PEFT."""

    shape: Shape
    engine: LocalInference
    rounds: int

    def request(self, ids: Sequence[int], adapter: int | None, tokens: int) -> GenerationRequest:
        """Greedy and never ending early; ``adapter`` by its number, None for the base."""
        chosen = () if adapter is None else ((str(self.shape.adapters[adapter]), 1.0),)
        spec = ModelSpec(str(self.shape.base), chosen, quantization="none", dtype=self.shape.dtype)  # type: ignore[arg-type]
        settings = GenerationSettings(max_new_tokens=tokens, strategy="greedy")
        return GenerationRequest(spec, settings=settings, template="raw", prompt_ids=tuple(ids))

    def plain(self) -> Any:
        """The same base and adapters in PEFT; its adapters are called a0 to a3."""
        model = AutoModelForCausalLM.from_pretrained(self.shape.base, dtype=getattr(torch, self.shape.dtype))
        first, *others = self.shape.adapters
        tuned = PeftModel.from_pretrained(model, first, adapter_name="a0", autocast_adapter_dtype=False)
        for at, folder in enumerate(others, 1):
            tuned.load_adapter(folder, f"a{at}", autocast_adapter_dtype=False)
        return tuned.to(device()).eval()


def main() -> None:
    """Print a line for each ratio."""
    parts = {"turn": turn, "mixed": mixed, "overhead": overhead, "bandwidth": bandwidth, "ragged": ragged}
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"{', '.join(parts)}; all of them when none is named")
    parser.add_argument("--shape", nargs="+", choices=("starter", "0.5b"), default=("starter", "0.5b"))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    if unknown := set(options.parts) - set(parts):
        parser.error(f"no such part: {', '.join(sorted(unknown))}")
    prepare(options.threads)
    for name in options.shape:
        with shapes(name) as shape:
            engine = LocalInference()
            for part in options.parts or parts:
                parts[part](Subject(shape, engine, options.rounds))
            engine.close()


def prepare(threads: int) -> None:
    """One number of threads for everybody, no progress bars, and nobody stops before the last token."""
    from playground.local_inference.resident import Resident

    Resident.stop_ids = lambda *args: frozenset()  # type: ignore[method-assign]
    torch.set_num_threads(threads)
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    warnings.simplefilter("ignore")


@contextmanager
def shapes(name: str) -> Iterator[Shape]:
    """The shape called ``name``; what has to be made for it is gone afterwards."""
    with tempfile.TemporaryDirectory() as folder:
        if name == "starter":
            adapters = (*BUNDLED, random_adapter(STARTER, Path(folder)))
            yield Shape(name, STARTER, adapters, "float32", 768, 64, spaced(8, 800), 220)
        else:
            base, made = random_models(Path(folder))
            adapters = (*made, random_adapter(base, Path(folder)))
            yield Shape(name, base, adapters, "bfloat16", 2000, 48, spaced(16, 1536), 600)


def random_adapter(base: Path, folder: Path) -> Path:
    """One more adapter: rank 16 on all linears of ``base``, written into ``folder``."""
    model = AutoModelForCausalLM.from_pretrained(base)
    tuned = get_peft_model(model, LoraConfig(r=16, target_modules="all-linear", init_lora_weights=False))
    tuned.save_pretrained(folder / "more")
    return folder / "more"


def spaced(shortest: int, longest: int) -> tuple[int, ...]:
    """Sixteen lengths, each longer than the one before by the same factor."""
    return tuple(round(shortest * (longest / shortest) ** (at / 15)) for at in range(16))


def turn(subject: Subject) -> None:
    """Time to first token of a second turn, against none of its prompt being known."""
    history, ratios = subject.shape.history, []
    first_token(subject, words(64))
    for _ in range(subject.rounds):
        asked = words(history)
        (answer,) = answers(subject, [subject.request(asked, None, 16)])
        known = first_token(subject, [*asked, *answer, *words(_FOLLOW_UP)])
        unknown = first_token(subject, words(history + len(answer) + _FOLLOW_UP))
        ratios.append(unknown / known)
    report(subject, "turn", ratios)


def first_token(subject: Subject, ids: Sequence[int]) -> float:
    """Seconds from the request to its first token; a few more are written, as what is done after it does not count."""
    began = now()
    ((first, *_),) = listen(subject, [subject.request(ids, None, 4)])
    return first[1] - began


def mixed(subject: Subject) -> None:
    """Four rows, of the base and three adapters, at once and in turn, ours and plain."""
    tokens, model = subject.shape.tokens, subject.plain()

    def generate(ids: Sequence[int], adapter: int | None) -> None:
        if adapter is None:
            with model.disable_adapter():
                written(model, [ids], tokens)
        else:
            model.set_adapter(f"a{adapter}")
            written(model, [ids], tokens)

    def asked() -> list[tuple[list[int], int | None]]:
        return [(words(16), adapter) for adapter in (None, 0, 1, 2)]

    def requests() -> list[GenerationRequest]:
        return [subject.request(ids, adapter, tokens) for ids, adapter in asked()]

    answers(subject, requests())
    generate(words(16), None)
    plain, apart = [], []
    for _ in range(subject.rounds):
        together = seconds(lambda: answers(subject, requests()))
        plain.append(seconds(lambda: [generate(*one) for one in asked()]) / together)
        apart.append(seconds(lambda: [answers(subject, [one]) for one in requests()]) / together)
    report(subject, "mixed, against plain generate", plain)
    report(subject, "mixed, against one after another", apart)


def overhead(subject: Subject) -> None:
    """What four different adapters add to four rows, ours and PEFT's."""
    tokens, model = subject.shape.tokens, subject.plain()

    def ours(adapters: Sequence[int | None]) -> float:
        return token_seconds(subject, [subject.request(words(16), one, tokens) for one in adapters])

    def theirs(names: Sequence[str]) -> float:
        rows = [words(16) for _ in names]
        return seconds(lambda: written(model, rows, tokens, adapter_names=list(names)))

    ours((0, 1, 2, 3))
    mine, others = [], []
    for _ in range(subject.rounds):
        mine.append(ours((0, 1, 2, 3)) / ours((None,) * 4))
        others.append(theirs(("a0", "a1", "a2", "a3")) / theirs(("__base__",) * 4))
    report(subject, "overhead of four adapters", mine)
    report(subject, "the same in PEFT's mixed batch", others)


def bandwidth(subject: Subject) -> None:
    """Bytes of weights a second while one row of the base decodes, against what can be read in a second."""
    size, of_product, of_sum = weights_read(subject.shape), [], []
    array, vector = torch.ones(size // 4 // 4096, 4096, device=device()), torch.ones(4096, device=device())
    with at_full_speed():
        token_seconds(subject, [subject.request(words(16), None, 8)])
        for _ in range(max(subject.rounds, 5)):
            of_token = token_seconds(subject, [subject.request(words(16), None, subject.shape.tokens)])
            product, added = quickest(lambda: float(torch.mv(array, vector)[0])), quickest(lambda: float(array.sum()))
            of_product.append(product / of_token)
            of_sum.append(added / of_token)
    of_each = f"{size / product / 1e9:.1f} GB a second times a vector, {size / added / 1e9:.1f} summed"
    print(f"{subject.shape.name}: {size / 1e6:.0f} MB, read at {of_each}", flush=True)
    report(subject, "bandwidth", of_product)
    report(subject, "the same, of a plain sum", of_sum)


def quickest(run: Callable[[], object]) -> float:
    """Seconds of the fastest of three runs."""
    return min(seconds(run) for _ in range(3))


def weights_read(shape: Shape) -> int:
    """Bytes that a token of one row needs: every parameter, but of the embeddings only where they are the head as well."""
    model = AutoModelForCausalLM.from_pretrained(shape.base, dtype=getattr(torch, shape.dtype))
    embeddings = model.get_input_embeddings().weight
    tied = embeddings is model.get_output_embeddings().weight
    whole = sum(one.numel() * one.element_size() for one in model.parameters())
    return whole if tied else whole - embeddings.numel() * embeddings.element_size()


def ragged(subject: Subject) -> None:
    """Sixteen rows of very different lengths against sixteen of their mean length; half have adapters."""
    lengths = subject.shape.lengths
    equal = (round(statistics.mean(lengths)),) * len(lengths)
    texts = {some: [words(length) for length in some] for some in (lengths, equal)}

    def of(some: tuple[int, ...]) -> float:
        room = subject.shape.room  # the short ones write while the long ones are read
        rows = [subject.request(ids, at % 4 if at % 2 else None, room) for at, ids in enumerate(texts[some])]
        return token_seconds(subject, rows, 24)

    report(subject, "ragged", [of(lengths) / of(equal) for _ in range(max(2, subject.rounds - 1))])


def answers(subject: Subject, requests: Sequence[GenerationRequest]) -> list[list[int]]:
    """The tokens of ``requests``, asked at once."""
    return [[token for token, _ in heard] for heard in listen(subject, requests)]


def token_seconds(subject: Subject, requests: Sequence[GenerationRequest], tokens: int = 0) -> float:
    """Seconds for each token while all of ``requests`` decode: from their last second token to their first last one.

    With ``tokens`` they are stopped when each has written so many since.
    """
    heard = [[at for _, at in one] for one in listen(subject, requests, tokens)]
    begun, ended = max(times[1] for times in heard), min(times[-1] for times in heard)
    return (ended - begun) / sum(begun < at <= ended for times in heard for at in times)


def listen(subject: Subject, requests: Sequence[GenerationRequest], tokens: int = 0) -> list[list[tuple[int, float]]]:
    """The tokens of ``requests``, asked at once, and when each was there; stopped ``tokens`` after all have begun."""
    heard: list[list[tuple[int, float]]] = [[] for _ in requests]
    ended = [threading.Event() for _ in requests]
    failures: list[Exception] = []

    def sink(at: int) -> Callable[[GenerationEvent | Exception], None]:
        def note(event: GenerationEvent | Exception) -> None:
            if isinstance(event, Exception):
                failures.append(event)
                ended[at].set()
                return
            heard[at] += [(token.id, now()) for token in event.tokens]
            if event.finish_reason is not None:
                ended[at].set()

        return note

    stops = [subject.engine.submit(request, sink(at)) for at, request in enumerate(requests)]
    while tokens and not all(one.is_set() for one in ended) and min(len(one) for one in heard) < tokens + 2:
        time.sleep(0.05)
    for stop in stops if tokens else ():
        stop()
    for one in ended:
        one.wait()
    if failures:
        raise failures[0]
    return heard


def written(model: Any, rows: Sequence[Sequence[int]], tokens: int, **options: Any) -> None:
    """Plain `generate` for rows of equal length."""
    ids = torch.tensor([list(row) for row in rows], device=device())
    with torch.no_grad():
        model.generate(
            input_ids=ids, attention_mask=torch.ones_like(ids), do_sample=False, pad_token_id=0, eos_token_id=None,
            max_new_tokens=tokens, min_new_tokens=tokens, **options,
        )  # fmt: skip


def words(length: int) -> list[int]:
    """A text of so many tokens that nobody has asked before."""
    chance = torch.Generator().manual_seed(next(_SEED))
    return torch.randint(3, 1500, (length,), generator=chance).tolist()


def device() -> str:
    """Where the engine computes."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def now() -> float:
    """CPU seconds of all threads; on a GPU, where the CPU waits, seconds passed."""
    return time.perf_counter() if device() == "cuda" or _passed else time.process_time()


@contextmanager
def at_full_speed() -> Iterator[None]:
    """Seconds passed count where several threads read at once: on a quiet machine only."""
    if torch.get_num_threads() > 1:
        _passed.append(True)
    try:
        yield
    finally:
        _passed.clear()


def seconds(run: Callable[[], object]) -> float:
    """How long ``run`` takes."""
    before = now()
    run()
    return now() - before


def report(subject: Subject, what: str, ratios: Sequence[float]) -> None:
    """One line: the median, the range, and what is wanted."""
    wanted = WANTED[what][subject.shape.name != "starter"]
    low, median, high = min(ratios), statistics.median(ratios), max(ratios)
    print(
        f"{subject.shape.name}, {subject.shape.dtype}: {what}: {median:.2f} ({low:.2f}–{high:.2f}, n={len(ratios)}); "
        f"wanted {wanted}",
        flush=True,
    )


if __name__ == "__main__":
    main()
