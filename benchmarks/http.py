"""How fast the HTTP server streams, as ratios against `transformers serve` with the same model on the same machine.

    python benchmarks/http.py [PART …] [--shape 0.5b] [--streams 1 4 16] [--tokens 128] [--rounds 5] [--threads 1]

Parts, both where none is named:

peers     `app.py` against `transformers serve` in its own two ways of working: one request after another, and with
          `--continuous-batching`. Measured at each number of simultaneous streams of `/v1/chat/completions`: tokens per
          second of all streams together, the median time to the first text, and tokens for each CPU-second of the server.
          The peer answers from the base; ours from the base and three adapters in turn, or with `--base-only` as the peer.
overhead  One stream over HTTP against the same request read from the engine in a process without a server.

Every server is a process of its own, all in bfloat16 on the CPU with the same number of threads, offline, and told apart
only by address: they get the same bodies, greedy and with a fixed number of tokens, and nothing ends early (the peer's copy
of the model declares no end of text, ours ignores it). Tokens are counted from the `usage` that both report. Runs are
interleaved, each ratio is taken within one round, and the client is one process that reads raw sockets, because it shares
the cores with the servers. `--shape 0.5b` measures a random model of Qwen2-0.5B's shape instead of the starter.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the app sets it, before torch is imported
ROOT = Path(__file__).resolve().parent.parent
sys.path[0] = str(ROOT)  # not this folder, whose http.py would hide the standard library's

STARTER = ROOT / "assets" / "models" / "starter"
BUNDLED = [ROOT / "assets" / "adapters" / name for name in ("pirate", "sql", "json")]
START_LIMIT_S = 180
SEQUENTIAL, BATCHING = "transformers serve", "… --continuous-batching"
# What is wanted of ours: at least so many times the tokens per second, at most this part of the time to the first text.
WANTED = {(SEQUENTIAL, 1): (1.5, None), (SEQUENTIAL, 4): (3.0, None), (SEQUENTIAL, 16): (6.0, 0.2)}
WANTED_OF_BATCHING = (1.0, None)
WANTED_OVERHEAD = {"starter": 20.0, "0.5b": 5.0}  # % of the engine's own time
_TEXT = re.compile(rb'"content": ?"[^"]')
_COMPLETION = re.compile(rb'"completion_tokens": ?(\d+)')


def main() -> None:
    """Print one line for each measurement. Exit code 1 when one is not as wanted."""
    options = arguments()
    if options.serve:
        serve(options.serve)
    elif options.engine:
        asyncio.run(answer_lines(**json.loads(options.engine)))
    elif options.make:
        make_half_b(Path(options.make))
    else:
        measure(options)


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--shape", choices=("starter", "0.5b"), default="starter")
    parser.add_argument("--streams", type=int, nargs="+", default=[1, 4, 16], metavar="N", help="simultaneous streams")
    parser.add_argument("--tokens", type=int, default=128, help="of each stream")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1, help="of each server")
    parser.add_argument("--base-only", action="store_true", help="ours answers from the base alone")
    parser.add_argument("--without", choices=("sequential", "batching"), help="leave one of the peer's ways out")
    parser.add_argument("--serve", metavar="OPTIONS", help=argparse.SUPPRESS)
    parser.add_argument("--engine", metavar="ORDER", help=argparse.SUPPRESS)
    parser.add_argument("--make", metavar="FOLDER", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if unknown := set(options.parts) - set(PARTS):
        parser.error(f"there is no part {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    return options


def measure(options: argparse.Namespace) -> None:
    """Prepare the models, start what is needed, and run the parts."""
    with tempfile.TemporaryDirectory() as scratch:
        place = Place(Path(scratch), options.shape, options.threads)
        good = [PARTS[name](place, options) for name in options.parts or PARTS]
    sys.exit(not all(good))


class Place:
    """Where the models lie and the processes run."""

    def __init__(self, scratch: Path, shape: str, threads: int) -> None:
        self.scratch = scratch
        self.base, self.adapters = STARTER, BUNDLED
        self.environment = os.environ | {
            "HF_HUB_OFFLINE": "1", "HF_HOME": str(scratch / "hf"), "OMP_NUM_THREADS": str(threads),
            "PYTHONUNBUFFERED": "1", "TRANSFORMERS_VERBOSITY": "error",
        }  # fmt: skip
        if shape == "0.5b":
            subprocess.run([sys.executable, __file__, "--make", str(scratch)], check=True, env=self.environment)
            self.base, self.adapters = scratch / "base", [scratch / f"adapter{at}" for at in range(3)]

    def endless(self) -> Path:
        """A copy of the base that declares no end of text, for the peer: weights are links."""
        copy = self.scratch / "endless"
        if not copy.exists():
            copy.mkdir()
            for file in self.base.iterdir():
                if file.suffix == ".safetensors":
                    (copy / file.name).symlink_to(file)
                else:
                    shutil.copy(file, copy)
            for file in copy.glob("*config.json"):
                settings = json.loads(file.read_text(encoding="utf-8"))
                settings.pop("eos_token_id", None)
                file.write_text(json.dumps(settings), encoding="utf-8")
        return copy

    @contextmanager
    def process(self, name: str, command: Sequence[str]) -> Iterator[tuple[subprocess.Popen[str], Path]]:
        """``command`` running, and the file that its output goes to; stopped at the end."""
        log = self.scratch / f"{name}.log"
        with log.open("w") as out:
            running = subprocess.Popen(
                command, cwd=ROOT, env=self.environment, text=True, bufsize=1,
                stdin=subprocess.PIPE, stdout=subprocess.PIPE if name == "engine" else out, stderr=out,
            )  # fmt: skip
        try:
            yield running, log
        finally:
            running.terminate()
            try:
                running.wait(20)
            except subprocess.TimeoutExpired:
                running.kill()
                running.wait()


@dataclass(frozen=True)
class Server:
    """A running server: how it is called here, where it listens, which models it is asked for, and its process."""

    name: str
    port: int
    models: tuple[str, ...]
    pid: int

    def cpu_seconds(self) -> float:
        """CPU time of its process so far, all threads."""
        import psutil

        times = psutil.Process(self.pid).cpu_times()
        return float(times.user + times.system)


@contextmanager
def ours(place: Place, base_only: bool = False) -> Iterator[Server]:
    """`app.py` in a process of its own."""
    served = ["--port", "0", "--data-dir", str(place.scratch / "data"), "--device", "cpu", "--dtype", "bfloat16"]
    served += ["--quantization", "none"]
    if place.base != STARTER:
        served += ["--model", str(place.base), *(part for path in place.adapters for part in ("--adapter", str(path)))]
    command = [sys.executable, __file__, "--serve", json.dumps(served)]
    with place.process("ours", command) as (process, log):
        port = wait_for(process, log, lambda: re.search(r"running on http://[^\s/]+:(\d+)", log.read_text()))
        base = "starter" if place.base == STARTER else str(place.base)
        tuned = [] if base_only else [f"{base}:{path.name}" for path in place.adapters]
        yield Server("Adapter Playground", int(port[1]), (base, *tuned), process.pid)


@contextmanager
def peer(place: Place, name: str) -> Iterator[Server]:
    """`transformers serve` in a process of its own. Its cache is kept small: by itself it takes most of the memory."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    program = Path(sys.executable).parent / "transformers"
    model = str(place.endless())
    command = [str(program), "serve", model, "--device", "cpu", "--dtype", "bfloat16"]
    command += ["--host", "127.0.0.1", "--port", str(port)]
    if name == BATCHING:
        command += ["--continuous-batching", "--cb-num-blocks", "64", "--cb-max-batch-tokens", "512"]
    with place.process(f"peer{port}", command) as (process, log):
        wait_for(process, log, lambda: "startup complete" in log.read_text())
        yield Server(name, port, (model,), process.pid)


def wait_for(process: subprocess.Popen[str], log: Path, found: Callable[[], object]) -> re.Match[str]:
    """What ``found`` returns, once it is something; the process's output when it ends before that."""
    limit = time.monotonic() + START_LIMIT_S
    while time.monotonic() < limit and process.poll() is None:
        if result := found():
            return result  # type: ignore[return-value]
        time.sleep(0.1)
    raise SystemExit(f"{process.args} did not start:\n{log.read_text()}")


@dataclass(frozen=True)
class Answer:
    """What one stream was like: seconds until its first text and until its end, and its tokens."""

    first_s: float
    whole_s: float
    tokens: int


@dataclass(frozen=True)
class Run:
    """What the streams of one server were like together."""

    per_second: float
    first_s: float
    per_cpu_second: float


async def ask(server: Server, model: str, prompt: str, tokens: int) -> Answer:
    """One streamed answer, read to its end. Raises `RuntimeError` with what came instead."""
    body = json.dumps({
        "model": model, "messages": [{"role": "user", "content": prompt}], "max_tokens": tokens, "temperature": 0,
        "stream": True, "stream_options": {"include_usage": True},
    })  # fmt: skip
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1:{server.port}\r\nConnection: close\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    started = time.perf_counter()
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(head.encode() + body.encode())
    first_s, tail = 0.0, b""
    while piece := await reader.read(65536):
        tail = tail[-8192:] + piece
        if not first_s and _TEXT.search(tail):
            first_s = time.perf_counter() - started
    whole_s = time.perf_counter() - started
    writer.close()
    counted = _COMPLETION.findall(tail)
    if not counted or int(counted[-1]) != tokens:
        raise RuntimeError(f"{server.name}: not {tokens} tokens came, but:\n{tail[-2000:].decode()}")
    return Answer(first_s or whole_s, whole_s, tokens)


async def together(server: Server, count: int, tokens: int, number: int) -> Run:
    """``count`` simultaneous streams; ``number`` makes their prompts new, and shifts which model comes first."""
    models = [server.models[(at + number) % len(server.models)] for at in range(count)]
    cpu, started = server.cpu_seconds(), time.perf_counter()
    answers = await asyncio.gather(
        *(ask(server, model, f"Write story {number} about number {at}.", tokens) for at, model in enumerate(models))
    )
    seconds = time.perf_counter() - started
    done = sum(answer.tokens for answer in answers)
    first = statistics.median(answer.first_s for answer in answers)
    return Run(done / seconds, first, done / (server.cpu_seconds() - cpu))


def peers(place: Place, options: argparse.Namespace) -> bool:
    """See the module's description. False when something is not as wanted."""
    names = [name for name, key in ((SEQUENTIAL, "sequential"), (BATCHING, "batching")) if options.without != key]
    good = True
    with ExitStack() as running:
        servers = [running.enter_context(ours(place, options.base_only))]
        servers += [running.enter_context(peer(place, name)) for name in names]
        for server in servers:  # each model once, at full width: loads, attaches, and what is made at the first request
            asyncio.run(together(server, 4, 4, 0))
        heading("streams, server", "tokens/s", "first text", "per CPU-second")
        for count in options.streams:
            runs: dict[str, list[Run]] = {server.name: [] for server in servers}
            for number in range(1, options.rounds + 1):
                for server in servers:
                    runs[server.name].append(asyncio.run(together(server, count, options.tokens, number)))
            for name, found in runs.items():
                show(count, name, found)
            for name in names:
                good &= compare(count, name, runs[servers[0].name], runs[name])
    return good


def heading(*columns: str) -> None:
    """The table's first line."""
    first, *others = columns
    print(f"{first:42}" + "".join(f"{column:>16}" for column in others), flush=True)


def show(count: int, name: str, runs: list[Run]) -> None:
    """Medians of one server's runs."""
    speed, first, cpu = (
        statistics.median(getattr(run, what) for run in runs) for what in ("per_second", "first_s", "per_cpu_second")
    )
    print(f"{count:2} × {name:37}{speed:16.1f}{first * 1000:13.0f} ms{cpu:16.1f}", flush=True)


def compare(count: int, name: str, mine: list[Run], theirs: list[Run]) -> bool:
    """The ratios, round by round, and whether they are as wanted."""
    speeds = [own.per_second / other.per_second for own, other in zip(mine, theirs, strict=True)]
    firsts = [own.first_s / other.first_s for own, other in zip(mine, theirs, strict=True)]
    cpus = [own.per_cpu_second / other.per_cpu_second for own, other in zip(mine, theirs, strict=True)]
    faster, sooner = WANTED_OF_BATCHING if name == BATCHING else WANTED.get((name, count), (None, None))
    good = statistics.median(speeds) >= (faster or 0) and statistics.median(firsts) <= (sooner or float("inf"))
    wishes = [f"≥ {faster:g} × the tokens" if faster else "", f"≤ {sooner:g} × the wait" if sooner else ""]
    wanted = f" (wanted: {', '.join(filter(None, wishes))})" if faster else ""
    print(
        f"{'ok   ' if good else 'SHORT'} against {name}: tokens/s × {spread(speeds)}; first text after × {spread(firsts)};"
        f" tokens per CPU-second × {spread(cpus)}{wanted}",
        flush=True,
    )
    return good


def spread(ratios: Sequence[float]) -> str:
    """Median, and what it lies between."""
    return f"{statistics.median(ratios):.2f} ({min(ratios):.2f}–{max(ratios):.2f})"


def overhead(place: Place, options: argparse.Namespace) -> bool:
    """See the module's description. False when it is more than wanted."""
    order = {"base": str(place.base), "tokens": options.tokens}
    with ExitStack() as running:
        server = running.enter_context(ours(place, base_only=True))
        command = [sys.executable, __file__, "--engine", json.dumps(order)]
        engine, _ = running.enter_context(place.process("engine", command))
        pairs = []
        for number in range(options.rounds + 1):
            prompt = f"Write story {number} about a number."
            alone = alone_in(engine, prompt)
            cpu = server.cpu_seconds()
            answer = asyncio.run(ask(server, server.models[0], prompt, options.tokens))
            pairs.append((alone, (answer.first_s, answer.whole_s, server.cpu_seconds() - cpu)))
    return report_overhead(pairs[1:], options)  # the first loads


def alone_in(engine: subprocess.Popen[str], prompt: str) -> tuple[float, float, float]:
    """Seconds until the first text, until the end, and of CPU time, of an answer in the engine's process."""
    assert engine.stdin is not None
    assert engine.stdout is not None
    print(json.dumps(prompt), file=engine.stdin, flush=True)
    first_s, whole_s, cpu_s = json.loads(engine.stdout.readline())
    return first_s, whole_s, cpu_s


Times = tuple[float, float, float]


def report_overhead(pairs: Sequence[tuple[Times, Times]], options: argparse.Namespace) -> bool:
    """What HTTP adds to each token, of the clock and of CPU time, and to the wait for the first text."""
    whole = [100 * (http[1] / alone[1] - 1) for alone, http in pairs]
    cpu = [100 * (http[2] / alone[2] - 1) for alone, http in pairs]
    later = [1000 * (http[0] - alone[0]) for alone, http in pairs]
    per_token = [1e6 * (http[1] - alone[1]) / options.tokens for alone, http in pairs]
    wanted = WANTED_OVERHEAD[options.shape]
    good = statistics.median(whole) <= wanted
    speed = options.tokens / statistics.median(alone[1] for alone, _ in pairs)
    print(
        f"{'ok   ' if good else 'SHORT'} one stream over HTTP against the engine alone ({speed:.0f} tokens/s):"
        f" {spread(whole)} % more time for each token (wanted: ≤ {wanted:g} %), {spread(per_token)} µs;"
        f" {spread(cpu)} % more CPU time; first text {spread(later)} ms later",
        flush=True,
    )
    return good


PARTS: dict[str, Callable[[Place, argparse.Namespace], bool]] = {"peers": peers, "overhead": overhead}


def serve(served: str) -> None:
    """The process of `ours`: the app itself, except that nothing ends an answer early."""
    import app
    from playground.local_inference.resident import Resident

    Resident.stop_ids = lambda *args: frozenset()  # type: ignore[method-assign]
    app.leave(app.main(json.loads(served)))


async def answer_lines(base: str, tokens: int) -> None:
    """The process of `alone_in`: for each prompt on a line of stdin, one answer of the engine, and its times on stdout."""
    from playground.config import prepare_process
    from playground.local_inference import LocalInference
    from playground.local_inference.resident import Resident
    from playground.types import GenerationRequest, GenerationSettings, Message, ModelSpec

    prepare_process()
    Resident.stop_ids = lambda *args: frozenset()  # type: ignore[method-assign]
    engine = LocalInference()
    spec = ModelSpec(base, quantization="none", dtype="bfloat16", device="cpu")
    settings = GenerationSettings(max_new_tokens=tokens, strategy="greedy")
    for line in sys.stdin:
        request = GenerationRequest(spec, messages=(Message("user", json.loads(line)),), settings=settings)
        cpu, started, first_s = time.process_time(), time.perf_counter(), 0.0
        async for event in engine.astream(request):
            if event.text and not first_s:
                first_s = time.perf_counter() - started
        assert event.stats.completion_tokens == tokens
        print(json.dumps([first_s, time.perf_counter() - started, time.process_time() - cpu]), flush=True)


def make_half_b(folder: Path) -> None:
    """The models of the 0.5B shape. Every token id gets a text, because a client waits for the first text, not for ids."""
    from benchmarks.decode import QWEN, random_models

    base, _ = random_models(folder)
    file = base / "tokenizer.json"
    tokenizer = json.loads(file.read_text(encoding="utf-8"))
    words = tokenizer["model"]["vocab"]
    words.update({f"Ġword{at}": at for at in range(len(words), QWEN["vocab_size"])})  # type: ignore[call-overload]
    file.write_text(json.dumps(tokenizer, ensure_ascii=False), encoding="utf-8")


if __name__ == "__main__":
    main()
