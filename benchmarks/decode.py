"""How fast the engine decodes, as ratios against plain transformers on the same model in the same process.

    python benchmarks/decode.py [--model FOLDER] [--adapter FOLDER] [--tokens 128] [--rounds 7] [--threads 1]

Runs are interleaved (engine, transformers, engine, …) and compared by CPU time, because machines drift and are shared.
A ratio above 1 means that the engine needs less. Both sides sample with the same settings and the same token count.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the app sets it, before torch is imported
ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import torch  # noqa: E402
from peft import PeftModel  # noqa: E402
from transformers import AutoModelForCausalLM, AutoTokenizer  # noqa: E402
from transformers.utils import logging  # noqa: E402

from playground.local_inference import LocalInference  # noqa: E402
from playground.types import GenerationRequest, GenerationSettings, ModelSpec  # noqa: E402

PROMPT = "Write a short story about a cat."


def main() -> None:
    """Print one line per comparison."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=ROOT / "assets" / "models" / "starter")
    parser.add_argument("--adapter", type=Path, default=ROOT / "assets" / "adapters" / "pirate")
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    logging.disable_progress_bar()
    warnings.simplefilter("ignore")
    engine = LocalInference()
    base = ModelSpec(str(options.model))
    tuned = ModelSpec(str(options.model), ((str(options.adapter), 1.0),))
    report(engine, "base", base, load(options.model), options)
    report(engine, "adapter", tuned, PeftModel.from_pretrained(load(options.model), options.adapter).eval(), options)
    swap_cost(engine, base, tuned)
    engine.close()


def load(path: Path) -> Any:
    """The model in plain transformers, float32."""
    return AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()


def report(engine: LocalInference, name: str, spec: ModelSpec, model: Any, options: argparse.Namespace) -> None:
    """Tokens per CPU-second of both sides and the ratio, round by round."""
    from playground.local_inference.resident import Resident

    Resident.stop_ids = lambda *args: frozenset()  # type: ignore[method-assign]  # both sides write every token
    settings = GenerationSettings(max_new_tokens=options.tokens, seed=1)
    request = GenerationRequest(spec, PROMPT, settings=settings)
    ids = AutoTokenizer.from_pretrained(options.model).apply_chat_template(
        [{"role": "user", "content": PROMPT}], add_generation_prompt=True, return_tensors="pt", return_dict=True
    )

    def ours() -> None:
        for _ in engine.stream(request):
            pass

    def plain() -> None:
        with torch.no_grad():
            model.generate(
                **ids, do_sample=True, temperature=0.7, top_k=50, top_p=0.9, pad_token_id=0,
                max_new_tokens=options.tokens, min_new_tokens=options.tokens,
            )  # fmt: skip

    ours(), plain()
    pairs = [(cpu_seconds(ours), cpu_seconds(plain)) for _ in range(options.rounds)]
    ratios = sorted(theirs / mine for mine, theirs in pairs)
    mine, theirs = (statistics.median(options.tokens / side for side in column) for column in zip(*pairs, strict=True))
    print(
        f"{name:8} engine {mine:6.0f} tokens per CPU-second, transformers {theirs:6.0f}; "
        f"ratio median {statistics.median(ratios):.2f} (min {ratios[0]:.2f}, max {ratios[-1]:.2f}, n={len(ratios)})"
    )


def cpu_seconds(run: Callable[[], None]) -> float:
    """CPU time of one run, all threads."""
    before = time.process_time()
    run()
    return time.process_time() - before


def swap_cost(engine: LocalInference, base: ModelSpec, tuned: ModelSpec) -> None:
    """Time to the first token of a five-token answer when base and adapter alternate, against staying on the base."""

    def first_token(spec: ModelSpec) -> float:
        request = GenerationRequest(spec, PROMPT, settings=GenerationSettings(strategy="greedy", max_new_tokens=5))
        return next(e.stats.first_token_s for e in engine.stream(request) if e.stats.first_token_s is not None)

    pairs = [(first_token(base), first_token(tuned)) for _ in range(9)]
    ratio = statistics.median(tuned_s / base_s for base_s, tuned_s in pairs)
    print(f"swap     first token after a change of adapter: {ratio:.2f} × that of the base, median of {len(pairs)}")


if __name__ == "__main__":
    main()
