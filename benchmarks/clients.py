"""What 32 streaming HTTP clients cost the decoding: the same rows over HTTP, and read in the engine's own process.

    python benchmarks/clients.py [--clients 32] [--tokens 100] [--rounds 3] [--threads 1]

The server answers from the starter with its base and three adapters in turn; the HTTP clients are one other process with a
connection each, reading `/v1/chat/completions` as server-sent events. Compared is the CPU time of the server's process for
each token; runs are interleaved. A ratio of 1 means that HTTP costs nothing. By the clock the clients share the cores with
the server, and their process's start counts too.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the app sets it, before torch is imported
ROOT = Path(__file__).resolve().parent.parent
sys.path[0] = str(ROOT)  # not this folder, whose http.py would hide the standard library's

ADAPTERS = ("", ":pirate", ":sql", ":json")


def main() -> None:
    """Print one line for each way of reading."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--tokens", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--as-clients", metavar="URL", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.as_clients:
        asyncio.run(read_all(options.as_clients, options))
    else:
        serve_and_measure(options)


async def read_all(url: str, options: argparse.Namespace) -> None:
    """The clients' process: read every answer to its end."""
    import httpx

    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(base_url=url, timeout=600, limits=limits) as client:
        await asyncio.gather(*(read_one(client, at, options.tokens) for at in range(options.clients)))


async def read_one(client: object, at: int, tokens: int) -> None:
    """One streamed answer."""
    turn = {"role": "user", "content": f"Write a story about number {at}."}
    body = {"model": f"starter{ADAPTERS[at % 4]}", "messages": [turn], "stream": True, "max_tokens": tokens, "seed": at}
    async with client.stream("POST", "/v1/chat/completions", json=body) as response:  # type: ignore[attr-defined]
        last = ""
        async for line in response.aiter_lines():
            last = line or last
        assert last == "data: [DONE]", last


def serve_and_measure(options: argparse.Namespace) -> None:
    """The server's process: start it, then interleave both ways of reading the same rows."""
    import torch
    import uvicorn

    from playground.api import create_app
    from playground.config import load_config, prepare_process
    from playground.local_inference import LocalInference
    from playground.local_inference.resident import Resident
    from playground.services.assembly import Services

    prepare_process()
    torch.set_num_threads(options.threads)
    Resident.stop_ids = lambda *args: frozenset()  # type: ignore[method-assign]  # every answer has all its tokens
    engine, config = LocalInference(), load_config(overrides={})
    app = create_app(config, Services.over(engine, config))
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="warning"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.05)
    url = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    ways: dict[str, Callable[[], None]] = {
        "in the process": lambda: in_process(engine, options),
        "over HTTP": lambda: over_http(url, options),
    }
    ways["over HTTP"]()  # loads the model
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    for _ in range(options.rounds):
        for name, way in ways.items():
            cpu, wall = time.process_time(), time.perf_counter()
            way()
            found[name].append((time.process_time() - cpu, time.perf_counter() - wall))
    report(found, options.clients * options.tokens)
    server.should_exit = True
    thread.join(10)
    engine.close()


def in_process(engine: object, options: argparse.Namespace) -> None:
    """The same requests, each read by a thread beside the engine."""
    from playground.types import GenerationRequest, GenerationSettings, ModelSpec

    def read(at: int) -> None:
        folder = ROOT / "assets" / "adapters" / ADAPTERS[at % 4].removeprefix(":")
        spec = ModelSpec(str(ROOT / "assets" / "models" / "starter"), ((str(folder), 1.0),) if at % 4 else ())
        settings = GenerationSettings(max_new_tokens=options.tokens, seed=at)
        request = GenerationRequest(spec, f"Write a story about number {at}.", settings=settings)
        assert sum(len(event.tokens) for event in engine.stream(request)) == options.tokens  # type: ignore[attr-defined]

    threads = [threading.Thread(target=read, args=(at,)) for at in range(options.clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def over_http(url: str, options: argparse.Namespace) -> None:
    """The clients, in a process of their own."""
    shape = ["--clients", str(options.clients), "--tokens", str(options.tokens)]
    subprocess.run([sys.executable, __file__, "--as-clients", url, *shape], check=True)


def report(found: dict[str, list[tuple[float, float]]], tokens: int) -> None:
    """Medians of both ways, and the ratio round by round."""
    for name, rounds in found.items():
        cpu, wall = (statistics.median(side) for side in zip(*rounds, strict=True))
        print(
            f"{name}: {tokens / cpu:.0f} tokens per CPU-second of the server, {tokens / wall:.0f} per second of the clock"
        )
    alone, http = found.values()
    ratios = sorted(theirs[0] / mine[0] for mine, theirs in zip(alone, http, strict=True))
    print(
        f"CPU time over HTTP against in the process: median {statistics.median(ratios):.2f} "
        f"({json.dumps([round(r, 2) for r in ratios])})"
    )


if __name__ == "__main__":
    main()
