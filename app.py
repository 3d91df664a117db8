"""Adapter Playground: chat with a base model and its LoRA adapters side by side. Run me: ``python app.py``.

This is the composition root: arguments → configuration → engine → services → pages and HTTP API on one port.
"""

from __future__ import annotations

import argparse
import errno
import functools
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, ExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from playground.config import AppConfig, environment_overrides, is_loopback, load_config, prepare_process
from playground.errors import ConfigError, PlaygroundError
from playground.types import DTYPES, QUANTIZATIONS

if TYPE_CHECKING:
    import gradio as gr
    from fastapi import FastAPI, Request
    from starlette.types import ASGIApp

    from playground.gate import Identity
    from playground.local_inference import LocalInference
    from playground.services.assembly import Services
    from playground.store import Store

AT_ONCE = 300  # what the pages' own queue lets through: more than the engine takes, which tells people their place
WAITING_AT_MOST = 200
LAST_WORD_S = 5.0
LAST_NEWS_S = 1.0


@dataclass(frozen=True)
class Playground:
    """The assembled program: the engine, what it offers, the page that shows it, and what lasts."""

    config: AppConfig
    engine: LocalInference
    services: Services
    demo: gr.Blocks
    store: Store

    def serve(self) -> int:
        """Listen until SIGTERM or Ctrl+C, then let answers finish and stop. Returns the exit code.

        The second signal ends the process at once. Raises `ConfigError` when somebody else took the port meanwhile.
        """
        stop = threading.Event()

        def asked_to_stop(number: int, _: object) -> None:
            if stop.is_set():
                os._exit(128 + number)
            stop.set()

        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, asked_to_stop)
        config = self.config
        host = f"[{config.host}]" if ":" in config.host and "[" not in config.host else config.host  # IPv6
        try:
            self.demo.launch(server_name=host, server_port=config.port, prevent_thread_lock=True, quiet=True)
        except OSError as error:
            raise ConfigError(f"Cannot listen on {host}, port {config.port}.", "Choose another with --port.") from error
        print(f"Adapter Playground is running on {self.demo.local_url} (stop it with Ctrl+C)", flush=True)
        self.services.jobs.start()
        self.services.preload.start()
        stop.wait()
        self.close()
        return 0

    def close(self) -> None:
        """Let what is being answered finish for ``config.drain`` seconds, then cancel it and stop the server.

        Jobs go on at the next start. If a download or a load holds on, it is left behind; what was saved is on the disk
        by then, and the history's journal is folded at the next start.
        """
        self.services.jobs.close()
        left = self.services.generation.drain(self.config.drain)
        last_word = threading.Timer(LAST_WORD_S, os._exit, (0,))
        last_word.daemon = True
        last_word.start()
        self.engine.close()
        if left:  # what the pages' answers end with is brought by Gradio's queue, while that runs
            self.services.generation.drain(LAST_NEWS_S)
            time.sleep(LAST_NEWS_S)
        self.services.chat.close()
        self.demo.close(verbose=False)
        self.store.close()


def compose(config: AppConfig) -> Playground:
    """Put the program together: nothing is loaded and no port is opened yet, but the history is, and kept from others.

    Raises `ConfigError` when something that the configuration names cannot be used, `HistoryUnavailable` when another
    process has the history of this data folder, or it cannot be kept there.
    """
    from playground.gate import Identity, journal
    from playground.store import Store

    identity = Identity(config)  # before what takes longer: these may refuse
    with ExitStack() as given_up:
        store = Store.open(config.data_dir / "history")
        given_up.callback(store.close)
        journal.switch(config.access_log)
        playground = _composed(config, identity, store)
        given_up.pop_all()
        return playground


def _composed(config: AppConfig, identity: Identity, store: Store) -> Playground:
    from playground.api import create_app
    from playground.gate import Gate
    from playground.local_inference import LocalInference
    from playground.services.assembly import Services, engine_options
    from playground.ui.app import build, launch_options

    engine = LocalInference(**engine_options(config))
    services = Services.over(engine, config, store)
    api = create_app(config, services)
    demo = build(config, services, may_sign_in=identity.offers_login)
    demo.queue(max_size=WAITING_AT_MOST, default_concurrency_limit=AT_ONCE)
    gate = functools.partial(Gate, api=api, config=config, identity=identity, frame_ancestors=frame_ancestors())
    look = launch_options(upload_bytes=config.upload_limit if config.free_paths else 0)
    demo.launch = functools.partial(demo.launch, **look | server_options(gate))  # whoever launches it
    return Playground(config, engine, services, demo, store)


def server_options(gate: Callable[[ASGIApp], ASGIApp]) -> dict[str, Any]:
    """What every launch of the page is given, wherever it runs: its own way of logging in is not used."""
    return {
        "ssr_mode": False,
        "run_history": False,
        "max_threads": AT_ONCE,
        "enable_monitoring": False,
        "auth_dependency": visitor,
        "app_kwargs": {"lifespan": behind(gate)},
    }


def behind(gate: Callable[[ASGIApp], ASGIApp]) -> Callable[[FastAPI], AbstractAsyncContextManager[None]]:
    """A lifespan that puts the whole server behind ``gate`` before the first request comes in.

    Middleware that Gradio is given stands behind Gradio's own, which answers other sites' preflights by itself.
    """

    @asynccontextmanager
    async def lifespan(server: FastAPI) -> AsyncIterator[None]:
        assert server.middleware_stack is not None  # what this is called through
        server.middleware_stack = gate(server.middleware_stack)
        yield

    return lifespan


def visitor(request: Request) -> str | None:
    """Who asks, as Gradio's handlers see it (`gr.Request.username`); nobody comes in who has not come by the gate."""
    caller = request.scope.get("state", {}).get("caller")
    return str(caller.id) if caller else None


def frame_ancestors() -> str:
    """Who may show the page in a frame: on a Space the Hub's own page does."""
    return "'self' https://huggingface.co" if os.environ.get("SPACE_ID") else "'self'"


def open_to_others(config: AppConfig) -> str:
    """What to say when the address is not loopback."""
    if config.needs_login:
        who = "pages and API are for those who log in or have a key"
        return (
            f"Listening on {config.host}: {who}. Passwords travel as they are unless something in front speaks https."
        )
    warning = f"WARNING: listening on {config.host}: everybody who can reach this machine can use"
    offered = "Folders and hub ids that the configuration does not offer are refused."
    if config.api_keys:
        return f"{warning} the pages, without a password (--auth USER:PASS); the API wants a key. {offered}"
    return f"{warning} the models, without a password (--auth USER:PASS) or a key (--api-key). {offered}"


def free_port(host: str, port: int) -> int:
    """``port`` if it can be listened on, or any free one for 0. Raises `ConfigError` in one sentence when not."""
    bare = host.strip("[]")
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(bare, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
            return int(probe.getsockname()[1])
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        taken = getattr(error, "errno", None) in (errno.EADDRINUSE, errno.EACCES)
        remedy = "Choose another with --port." if taken else "Check --host: it is an address of this machine."
        raise ConfigError(f"Cannot listen on {host}, port {port}: {reason}.", remedy) from error


def arguments(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """The command line as overrides for `load_config`, laid over the PLAYGROUND_* variables.

    Raises `ConfigError` for an option whose value is empty.
    """
    parser = argparse.ArgumentParser(
        prog="app.py",
        description="Chat with a base model and its LoRA adapters side by side.",
        epilog="Every option can also be set as PLAYGROUND_NAME; those that repeat take commas there. Keys and passwords "
        "belong there, or into the file of --config: everybody on this machine can read a running program's arguments.",
    )
    parser.add_argument("--host", help="address to listen on (127.0.0.1: this machine only)")
    parser.add_argument("--port", type=int, help="port to listen on (7860; 0 takes any free one); PORT is read too")
    parser.add_argument("--data-dir", help="where the app keeps what it writes")
    parser.add_argument("--config", help="configuration file (configs/playground.toml)")
    parser.add_argument("--model", action="append", metavar="ID", help="hub id or folder to offer as well; repeats")
    parser.add_argument("--adapter", action="append", metavar="PATH", help="adapter folder to offer as well; repeats")
    parser.add_argument("--runs", action="append", metavar="FOLDER", help="folder to find training runs in; repeats")
    parser.add_argument(
        "--datasets",
        action="append",
        metavar="PATH",
        help="folder, file or hub id of datasets to offer as well; repeats",
    )
    parser.add_argument(
        "--auth", action="append", metavar="USER:PASS", help="let only people in who log in; repeats (PLAYGROUND_AUTH)"
    )
    parser.add_argument(
        "--api-key",
        action="append",
        metavar="KEY",
        help="let only programs in that send it; repeats (PLAYGROUND_API_KEY)",
    )
    parser.add_argument(
        "--admin-key", metavar="KEY", help="who has it may load, swap and unload models (PLAYGROUND_ADMIN_KEY)"
    )
    parser.add_argument(
        "--allow-origin", action="append", metavar="URL", help="site whose pages may call the API; repeats"
    )
    parser.add_argument("--device", help="auto, cpu, cuda, cuda:N or mps")
    parser.add_argument("--dtype", choices=DTYPES)
    parser.add_argument("--quantization", choices=QUANTIZATIONS)
    parser.add_argument(
        "--memory-budget", metavar="SIZE", help='what all models may take: auto, "8 GB", or a share: 0.5'
    )
    parser.add_argument(
        "--prefix-budget", metavar="SIZE", help='what may be kept of texts that were read: "2 GB", a share: 0.1, or off'
    )
    parser.add_argument("--keep-alive", metavar="SECONDS", help="unload a model that was unused for so long (0: never)")
    parser.add_argument("--preload", action="store_true", default=None, help="load the first model once the page is up")
    given = {key: value for key, value in vars(parser.parse_args(argv)).items() if value is not None}
    for key, value in given.items():
        texts = value if isinstance(value, list) else [str(value)]
        if not all(map(str.strip, texts)):  # a variable that a shell has not got must not open a door
            raise ConfigError(f"--{key.replace('_', '-')} is empty.", "Give it a value, or leave it out.")
    return {**environment_overrides(), **given}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the app. Returns the exit code: 0 after a clean stop, 2 when it could not start, 130 when it was not let."""
    try:
        config = load_config(overrides=arguments(argv))
        config = replace(config, port=free_port(config.host, config.port))
        if not is_loopback(config.host):
            print(open_to_others(config), file=sys.stderr)
        return compose(config).serve()
    except PlaygroundError as error:
        print(f"app.py: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:  # before there was anything to stop
        return 130


def leave(code: int) -> None:
    """End the process at once: a load may still be inside torch, and Python must not be taken apart around it."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


@functools.cache
def _demo() -> gr.Blocks:
    playground = compose(load_config(overrides=environment_overrides()))
    playground.services.jobs.start()
    playground.services.preload.start()
    return playground.demo


def __getattr__(name: str) -> Any:
    """``demo``, the pages for Spaces and other launchers that import this module; built when they first ask for it."""
    if name == "demo":
        return _demo()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


prepare_process()
if __name__ == "__main__":
    leave(main())
