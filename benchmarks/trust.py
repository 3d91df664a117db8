"""What trusting the answers costs, as ratios measured in one process and interleaved.

    python benchmarks/trust.py [PART …] [--shape 0.5b] [--dtype bfloat16] [--tokens 60] [--rounds 5] [--threads 1]

Parts, all of them where none is named:

switch    asking for an adapter that is attached, against reading base and adapter anew with transformers and PEFT; wanted:
          at least 100 times less wall time. The first attach, with its proof, is told beside it.
validate  checking an adapter by its headers, in a process that never imports torch; wanted: less than 5 ms.
logprobs  CPU time of an answer with five alternatives for each token, against without; wanted: at most 5 % more.
formats   nf4 against bfloat16: bytes of the weights, and tokens for each CPU-second.
unload    bytes that an unload returns to the system, against those that the load and an answer took; wanted: at least 95 %.

`--shape 0.5b` measures a random model of Qwen2-0.5B's shape instead of the starter; what wants a size (unload) says little
on the starter, whose weights are less than what a process's memory moves by itself.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the app sets it, before torch is imported
ROOT = Path(__file__).resolve().parent.parent
sys.path[0] = str(ROOT)  # not this folder, whose http.py would hide the standard library's

PROMPT = "Write a story about a number."


@dataclass(frozen=True)
class Result:
    """One line of the table; ``wanted`` is "" where nothing is promised, and then ``good`` says nothing."""

    what: str
    found: str
    wanted: str = ""
    good: bool = True


def main() -> None:
    """Print one line for each result. Exit code 1 when one is not as wanted."""
    parts: dict[str, Callable[[Path, Path, argparse.Namespace], list[Result]]] = {
        "switch": switch, "validate": validate, "logprobs": logprobs, "formats": formats, "unload": unload,
    }  # fmt: skip
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help=", ".join(parts))
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), help="float32 for the starter, else bfloat16")
    parser.add_argument("--shape", choices=("starter", "0.5b"), default="starter")
    parser.add_argument("--tokens", type=int, default=60)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--take-and-return", metavar="ORDER", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.take_and_return:
        take_and_return(**json.loads(options.take_and_return))
        return
    if unknown := set(options.parts) - set(parts):
        parser.error(f"there is no part {', '.join(sorted(unknown))}; there are {', '.join(parts)}")
    options.dtype = options.dtype or ("float32" if options.shape == "starter" else "bfloat16")

    import torch
    from transformers.utils import logging

    from benchmarks.decode import models

    torch.set_num_threads(options.threads)
    logging.disable_progress_bar()
    warnings.simplefilter("ignore")
    results = []
    with models(options.shape) as (base, adapters):
        for name in options.parts or parts:
            for result in parts[name](base, adapters[0], options):
                results.append(result)
                mark = ("ok   " if result.good else "SHORT") if result.wanted else "     "
                print(
                    f"{mark} {name:9} {result.what:58} {result.found}{result.wanted and f' (wanted: {result.wanted})'}"
                )
                sys.stdout.flush()
    sys.exit(not all(result.good for result in results))


def switch(base: Path, adapter: Path, options: argparse.Namespace) -> list[Result]:
    """See the module's description."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    from playground.local_inference import LocalInference
    from playground.types import ModelSpec

    spec = ModelSpec(str(base), dtype=options.dtype, quantization="none")
    tuned = ModelSpec(str(base), ((str(adapter), 1.0),), dtype=options.dtype, quantization="none")
    engine = LocalInference()
    engine.load(spec)
    attach = wall_seconds(lambda: engine.load(tuned))

    def reload() -> None:
        model = AutoModelForCausalLM.from_pretrained(base, dtype=options.dtype)
        PeftModel.from_pretrained(model, adapter)

    reload()
    pairs = []
    for _ in range(options.rounds):
        engine.load(spec)
        pairs.append((wall_seconds(lambda: engine.load(tuned)), wall_seconds(reload)))
    engine.close()
    mine, theirs = (statistics.median(side) for side in zip(*pairs, strict=True))
    ratio = statistics.median(other / own for own, other in pairs)
    return [
        Result(
            "an attached adapter against base and adapter read anew",
            f"{mine * 1000:.2f} ms against {theirs * 1000:.0f} ms, {ratio:.0f} times less",
            "100 times",
            ratio >= 100,
        ),
        Result("the first attach, read, hashed and proven", f"{attach * 1000:.0f} ms"),
    ]


VALIDATE = """
import statistics, sys, time
from pathlib import Path
from playground.local_inference.adapters import check_adapter

def milliseconds(**options):
    taken = []
    for _ in range(200):
        started = time.perf_counter()
        report = check_adapter(Path(sys.argv[2]), **options)
        taken.append(1000 * (time.perf_counter() - started))
        assert not report.info.problems, report.info.problems
    return statistics.median(taken), taken[0]

print(*milliseconds(), *milliseconds(base=Path(sys.argv[1])), "torch" in sys.modules)
"""


def validate(base: Path, adapter: Path, options: argparse.Namespace) -> list[Result]:
    """See the module's description."""
    command = [sys.executable, "-c", VALIDATE, str(base), str(adapter)]
    said = subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT).stdout.split()
    alone, first, beside, _ = map(float, said[:4])
    good = alone < 5 and said[4] == "False"
    return [
        Result("an adapter by its headers, torch not imported", f"{alone:.2f} ms (first {first:.2f} ms)", "5 ms", good),
        Result("the same against its base's headers", f"{beside:.2f} ms"),
    ]


def logprobs(base: Path, adapter: Path, options: argparse.Namespace) -> list[Result]:
    """See the module's description."""
    from playground.local_inference import LocalInference

    engine = LocalInference()
    answer = Answer(engine, base, options.dtype, options.tokens)
    results = []
    for rows in (1, 4):
        answer(rows, alternatives=5)
        answer(rows)
        pairs = []
        for at in range(3 * options.rounds):  # in turn which is first: clocks drift
            both = [lambda n=rows: answer(n), lambda n=rows: answer(n, alternatives=5)]
            taken = [(which, cpu_seconds(both[which])) for which in ((0, 1) if at % 2 else (1, 0))]
            pairs.append([seconds for _, seconds in sorted(taken)])
        more = statistics.median(on / off for off, on in pairs) - 1
        cost = 1000 * statistics.median(off for off, _ in pairs) / (rows * options.tokens)
        results.append(
            Result(
                f"five alternatives for each token, {rows} at once",
                f"{more:+.1%} CPU time of {cost:.2f} ms a token (n={len(pairs)})",
                "at most 5 %",
                more <= 0.05,
            )
        )
    engine.close()
    return results


def formats(base: Path, adapter: Path, options: argparse.Namespace) -> list[Result]:
    """See the module's description."""
    from playground.local_inference import LocalInference
    from playground.types import ModelSpec

    engine = LocalInference()
    sides = {
        kind: Answer(engine, base, "bfloat16", options.tokens, quantization) for kind, quantization in FORMATS.items()
    }
    weights = {
        kind: engine.load(ModelSpec(str(base), dtype="bfloat16", quantization=FORMATS[kind])).bytes for kind in sides
    }
    results = [
        Result("bytes of the weights, nf4 of bfloat16", f"{size(weights['nf4'])} of {size(weights['bfloat16'])}"),
    ]
    for rows in (1, 4):
        speeds: dict[str, list[float]] = {kind: [] for kind in sides}
        for answer in sides.values():
            answer(rows)
        for _ in range(options.rounds):
            for kind, answer in sides.items():
                seconds = cpu_seconds(lambda one=answer, n=rows: one(n))
                speeds[kind].append(rows * options.tokens / seconds)
        ratio = statistics.median(a / b for a, b in zip(speeds["nf4"], speeds["bfloat16"], strict=True))
        mine, theirs = (statistics.median(speeds[kind]) for kind in ("nf4", "bfloat16"))
        results.append(
            Result(
                f"tokens for each CPU-second, {rows} at once, nf4 against bfloat16",
                f"{mine:.1f} against {theirs:.1f}: {ratio:.2f} times",
            )
        )
    engine.close()
    return results


FORMATS = {"bfloat16": "none", "nf4": "nf4"}


def unload(base: Path, adapter: Path, options: argparse.Namespace) -> list[Result]:
    """See the module's description."""
    results = []
    for kind, quantization in FORMATS.items():
        order = {"base": str(base), "adapter": str(adapter), "quantization": quantization, "rounds": options.rounds}
        command = [sys.executable, __file__, "--take-and-return", json.dumps(order)]
        said = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
        taken, returned, told = map(float, said[-3:])
        share = returned / taken if taken > 0 else 1.0
        found = f"{share:.1%} of {size(taken)} (the engine told {size(told)})"
        results.append(Result(f"bytes back after an unload, {kind}", found, "95 %", share >= 0.95))
    return results


def take_and_return(base: str, adapter: str, quantization: str, rounds: int) -> None:
    """The other process of `unload`: means of the bytes that a load and an answer took, and that came back."""
    import psutil

    from playground.config import prepare_process
    from playground.local_inference import LocalInference
    from playground.types import ModelSpec

    prepare_process()
    warnings.simplefilter("ignore")
    process, engine = psutil.Process(), LocalInference()
    spec = ModelSpec(base, ((adapter, 1.0),), dtype="bfloat16", quantization=quantization)  # type: ignore[arg-type]
    answer = Answer(engine, Path(base), "bfloat16", 8, quantization)
    taken, returned, told = [], [], []
    for at in range(rounds + 1):
        before = process.memory_info().rss
        engine.load(spec)
        answer(1)
        gc.collect()
        loaded = process.memory_info().rss
        freed = engine.unload(base)
        if at:  # the first one also pays for code that is read and kept
            taken.append(loaded - before)
            returned.append(loaded - process.memory_info().rss)
            told.append(freed)
    engine.close()
    print(statistics.mean(taken), statistics.mean(returned), statistics.mean(told))


class Answer:
    """Answers of a fixed length, several at once; what ends them early is left out."""

    def __init__(self, engine: object, base: Path, dtype: str, tokens: int, quantization: str = "none") -> None:
        from playground.local_inference.resident import Resident

        Resident.stop_ids = lambda *args: frozenset()  # type: ignore[method-assign]  # every answer has all its tokens
        self._engine, self._base, self._dtype, self._tokens = engine, base, dtype, tokens
        self._quantization = quantization

    def __call__(self, rows: int, alternatives: int = 0) -> None:
        """Read ``rows`` sampled answers to their end."""
        from playground.types import GenerationRequest, GenerationSettings, ModelSpec

        spec = ModelSpec(str(self._base), dtype=self._dtype, quantization=self._quantization)  # type: ignore[arg-type]
        settings = GenerationSettings(
            max_new_tokens=self._tokens, seed=1, top_logprobs=alternatives, num_return_sequences=rows
        )
        for _ in self._engine.stream(GenerationRequest(spec, PROMPT, settings=settings)):  # type: ignore[attr-defined]
            pass


def cpu_seconds(run: Callable[[], None]) -> float:
    """CPU time of one run, all threads."""
    before = time.process_time()
    run()
    return time.process_time() - before


def wall_seconds(run: Callable[[], object]) -> float:
    """Time by the clock of one run."""
    before = time.perf_counter()
    run()
    return time.perf_counter() - before


def size(count: float) -> str:
    """``count`` bytes for a person."""
    return f"{count / 1e6:.1f} MB" if count < 1e9 else f"{count / 1e9:.2f} GB"


if __name__ == "__main__":
    main()
