"""How fast the engine decodes, as ratios against plain transformers and PEFT on the same model in the same process.

    python benchmarks/decode.py [--dtype bfloat16] [--shape 0.5b] [--tokens 60] [--rounds 5] [--threads 1]

At 1, 4 and 16 simultaneous requests over the base and three adapters: the engine's streams against the same requests
one after another under one lock, each with `model.generate`, `TextIteratorStreamer` and its adapter switched on. Runs are
interleaved and compared by CPU time, because machines drift and are shared; a ratio above 1 means that the engine needs
less. Both sides sample with the same settings and write every token. `--shape 0.5b` measures a random model of Qwen2-0.5B's
shape instead of the starter. At the end: peak memory of a process with the base and three adapters against the base alone.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the app sets it, before torch is imported
ROOT = Path(__file__).resolve().parent.parent
sys.path[0] = str(ROOT)  # not this folder, whose http.py would hide the standard library's

import torch  # noqa: E402
from peft import LoraConfig, PeftModel, get_peft_model  # noqa: E402
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, TextIteratorStreamer  # noqa: E402
from transformers.utils import logging  # noqa: E402

from playground.local_inference import LocalInference  # noqa: E402
from playground.types import GenerationRequest, GenerationSettings, ModelSpec  # noqa: E402

STARTER = ROOT / "assets" / "models" / "starter"
BUNDLED = [ROOT / "assets" / "adapters" / name for name in ("pirate", "sql", "json")]
SETTINGS = {"temperature": 0.7, "top_k": 50, "top_p": 0.9}
QWEN = {
    "vocab_size": 151936, "hidden_size": 896, "intermediate_size": 4864, "num_hidden_layers": 24,
    "num_attention_heads": 14, "num_key_value_heads": 2, "tie_word_embeddings": True, "max_position_embeddings": 4096,
}  # fmt: skip


def main() -> None:
    """Print one line for each number of simultaneous requests."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--shape", choices=("starter", "0.5b"), default="starter")
    parser.add_argument("--tokens", type=int, default=60)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--answer-and-weigh", metavar="ORDER", help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.answer_and_weigh:
        answer_and_weigh(options.answer_and_weigh)
        return
    logging.disable_progress_bar()
    warnings.simplefilter("ignore")
    with models(options.shape) as (base, adapters):
        compare(base, adapters, options)
        print(memory(base, adapters, options.dtype))


@contextmanager
def models(shape: str) -> Iterator[tuple[Path, list[Path]]]:
    """The base's folder and three adapters': the bundled ones, or random ones of the 0.5B shape."""
    if shape == "starter":
        yield STARTER, BUNDLED
        return
    with tempfile.TemporaryDirectory() as folder:
        yield random_models(Path(folder))


def random_models(folder: Path) -> tuple[Path, list[Path]]:
    """A base and three adapters of the 0.5B shape with random weights, written into ``folder``."""
    base = folder / "base"
    AutoTokenizer.from_pretrained(STARTER).save_pretrained(base)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model("qwen2", **QWEN), dtype=torch.bfloat16)
    model.save_pretrained(base)
    adapters = []
    for at in range(3):
        tuned = get_peft_model(model, LoraConfig(r=16, target_modules="all-linear", init_lora_weights=False))
        tuned.save_pretrained(folder / f"adapter{at}")
        adapters.append(folder / f"adapter{at}")
        model = tuned.unload()
    return base, adapters


def compare(base: Path, adapters: list[Path], options: argparse.Namespace) -> None:
    """Interleaved rounds of both sides."""
    from playground.local_inference.resident import Resident

    Resident.stop_ids = lambda *args: frozenset()  # type: ignore[method-assign]  # both sides write every token
    engine = LocalInference()
    plain = OneLock(base, adapters, options)

    def ours(count: int) -> None:
        threads = [threading.Thread(target=stream, args=(engine, base, adapters, options, at)) for at in range(count)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    ours(4)
    plain.answer(0)
    for count in (1, 4, 16):
        rounds = options.rounds if count < 16 else max(1, options.rounds // 2)
        pairs = [(cpu_seconds(ours, count), cpu_seconds(plain.answers, count)) for _ in range(rounds)]
        report(count, options.tokens * count, pairs)
    engine.close()


def stream(engine: LocalInference, base: Path, adapters: list[Path], options: argparse.Namespace, at: int) -> None:
    """Read one answer of the engine to its end; request ``at`` of four has no adapter, the others one each."""
    chosen = ((str(adapters[at % 4 - 1]), 1.0),) if at % 4 else ()
    spec = ModelSpec(str(base), chosen, quantization="none", dtype=options.dtype)
    settings = GenerationSettings(max_new_tokens=options.tokens, seed=at, **SETTINGS)
    for _ in engine.stream(GenerationRequest(spec, prompt(at), settings=settings)):
        pass


def prompt(at: int) -> str:
    """A prompt of its own for each request."""
    return f"Write a story about number {at}."


class OneLock:
    """The same requests as plain transformers and PEFT serve them: one after another, the adapter switched before each."""

    def __init__(self, base: Path, adapters: list[Path], options: argparse.Namespace) -> None:
        model = AutoModelForCausalLM.from_pretrained(base, dtype=getattr(torch, options.dtype))
        self._model = PeftModel.from_pretrained(model, adapters[0], adapter_name="a1", autocast_adapter_dtype=False)
        for at, folder in enumerate(adapters[1:], 2):
            self._model.load_adapter(folder, f"a{at}", autocast_adapter_dtype=False)
        self._model.eval()
        self._tokenizer = AutoTokenizer.from_pretrained(base)
        self._tokens = options.tokens

    def answers(self, count: int) -> None:
        """All requests, in turn."""
        for at in range(count):
            self.answer(at)

    def answer(self, at: int) -> None:
        """One request, streamed to its end."""
        turn = [{"role": "user", "content": prompt(at)}]
        ids = self._tokenizer.apply_chat_template(
            turn, add_generation_prompt=True, return_tensors="pt", return_dict=True
        )
        streamer = TextIteratorStreamer(self._tokenizer, skip_prompt=True)
        if at % 4:
            self._model.set_adapter(f"a{at % 4}")
        with nullcontext() if at % 4 else self._model.disable_adapter():
            worker = threading.Thread(target=self._generate, args=(ids, streamer))
            worker.start()
            for _ in streamer:
                pass
            worker.join()

    def _generate(self, ids: Any, streamer: TextIteratorStreamer) -> None:
        with torch.no_grad():
            self._model.generate(
                **ids, **SETTINGS, do_sample=True, pad_token_id=0, eos_token_id=None, streamer=streamer,
                max_new_tokens=self._tokens, min_new_tokens=self._tokens,
            )  # fmt: skip


def cpu_seconds(run: Callable[[int], None], count: int) -> float:
    """CPU time of one run, all threads."""
    before = time.process_time()
    run(count)
    return time.process_time() - before


def report(count: int, tokens: int, pairs: list[tuple[float, float]]) -> None:
    """Medians of both sides, and the ratio pair by pair."""
    ratios = sorted(theirs / mine for mine, theirs in pairs)
    mine, theirs = (statistics.median(tokens / seconds for seconds in side) for side in zip(*pairs, strict=True))
    print(
        f"{count:2} at once: engine {mine:6.0f}, one lock {theirs:5.0f} tokens per CPU-second; "
        f"ratio median {statistics.median(ratios):.2f} (min {ratios[0]:.2f}, max {ratios[-1]:.2f}, n={len(ratios)})",
        flush=True,
    )


def memory(base: Path, adapters: list[Path], dtype: str) -> str:
    """Peak memory of a process that answers four requests at once from the base, and one that does so with all adapters."""
    alone, together = (peak(base, some, dtype) for some in ([], adapters))
    size = sum((folder / "adapter_model.safetensors").stat().st_size for folder in adapters)
    return (
        f"peak memory: base {alone / 1e6:.0f} MB, with three adapters {together / 1e6:.0f} MB "
        f"({together / alone:.2f} ×; the adapters' files have {size / 1e6:.1f} MB)"
    )


def peak(base: Path, adapters: list[Path], dtype: str) -> int:
    """Bytes (on Linux), of a process of its own, that imports everything, loads, and answers."""
    order = json.dumps([str(base), [str(folder) for folder in adapters], dtype])
    command = [sys.executable, __file__, "--answer-and-weigh", order]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1])


def answer_and_weigh(order: str) -> None:
    """The other process of `peak`."""
    base, adapters, dtype = json.loads(order)
    engine = LocalInference()

    def read(at: int) -> None:
        chosen = ((adapters[at % 4 - 1], 1.0),) if at % 4 and adapters else ()
        spec = ModelSpec(base, chosen, quantization="none", dtype=dtype)
        for _ in engine.stream(
            GenerationRequest(spec, prompt(at), settings=GenerationSettings(max_new_tokens=8, seed=at))
        ):
            pass

    threads = [threading.Thread(target=read, args=(at,)) for at in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    engine.close()
    # Of this program alone: getrusage would also count what the process was before it became this program.
    (peak_kb,) = re.findall(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())
    print(int(peak_kb) * 1024)


if __name__ == "__main__":
    main()
