"""What a long prompt does to the others: how long they wait for their next token while it is read.

    python benchmarks/long_prompt.py [--shape 0.5b] [--prompt 2000] [--beside 3] [--threads 1]

Some short requests decode; then a long prompt arrives. Printed are the waits of the short ones before and while it is read.
Read in one piece, the prompt would make each of them wait once for all of it.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import sys
import threading
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[0] = str(ROOT)  # not this folder, whose http.py would hide the standard library's

from benchmarks import decode  # noqa: E402
from playground.local_inference import LocalInference  # noqa: E402
from playground.types import GenerationEvent, GenerationRequest, GenerationSettings, ModelSpec  # noqa: E402


def main() -> None:
    """Print the waits."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=("starter", "0.5b"), default="starter")
    parser.add_argument("--prompt", type=int, default=768, help="tokens of the long prompt")
    parser.add_argument("--beside", type=int, default=3, help="requests that decode beside it")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    import torch

    from playground.local_inference.resident import Resident

    torch.set_num_threads(options.threads)
    Resident.stop_ids = lambda *args: frozenset()  # type: ignore[method-assign]  # nobody stops early
    with decode.models(options.shape) as (base, adapters):
        engine = LocalInference()
        dtype = "bfloat16" if options.shape == "0.5b" else "float32"

        def ask(text: str, tokens: int, at: int) -> GenerationRequest:
            chosen = ((str(adapters[at % 4 - 1]), 1.0),) if at % 4 else ()
            spec = ModelSpec(str(base), chosen, quantization="none", dtype=dtype)  # type: ignore[arg-type]
            return GenerationRequest(spec, text, settings=GenerationSettings(max_new_tokens=tokens), template="raw")

        for at in range(options.beside):
            list(engine.stream(ask("warm", 4, at)))
        prompt = " ".join(["word"] * options.prompt)
        while engine.count_tokens(ask("a", 1, 0).spec, prompt) > options.prompt:
            prompt = prompt[: -len(" word")]
        measure(engine, ask, prompt, options)
        engine.close()


def measure(engine: LocalInference, ask, prompt: str, options: argparse.Namespace) -> None:  # type: ignore[no-untyped-def]
    """Let the short ones run, send the long one, and look at the gaps between their tokens."""
    heard: list[list[float]] = [[] for _ in range(options.beside)]
    first = threading.Event()

    def note(at: int):  # type: ignore[no-untyped-def]
        def sink(event: GenerationEvent | Exception) -> None:
            if isinstance(event, GenerationEvent) and event.tokens:
                heard[at].append(time.perf_counter())

        return sink

    cancels = [engine.submit(ask(f"Number {at}", 900, at), note(at)) for at in range(options.beside)]
    while any(len(times) < 12 for times in heard):
        time.sleep(0.01)
    sent = time.perf_counter()

    def long_sink(event: GenerationEvent | Exception) -> None:
        if isinstance(event, Exception) or event.tokens:
            first.set()

    cancel = engine.submit(ask(prompt, 4, 3), long_sink)
    first.wait()
    answered = time.perf_counter()
    for stop in (*cancels, cancel):
        stop()
    gaps = [(b, b - a) for times in heard for a, b in itertools.pairwise(times)]
    before = [gap for at, gap in gaps if at < sent]
    during = [gap for at, gap in gaps if sent <= at <= answered]
    print(f"the long prompt was read, and had its first token, after {answered - sent:.2f} s")
    usual, slowed = (1000 * statistics.median(some) for some in (before, during))
    print(
        f"the others waited for a token: before {usual:.0f} ms, while it was read {slowed:.0f} ms "
        f"(at most {1000 * max(during):.0f}), {len(during) // len(heard)} tokens each"
    )


if __name__ == "__main__":
    main()
