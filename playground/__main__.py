"""The command line: ``python -m playground serve | generate | validate | bench``."""

from __future__ import annotations

import argparse
import json
import os
import runpy
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from playground.config import ROOT, AppConfig, environment_overrides, load_config, prepare_process
from playground.errors import ModelNotFound, PlaygroundError
from playground.local_inference import LocalInference
from playground.local_inference.adapters import AdapterReport
from playground.services.generation import Generation
from playground.services.models import Models
from playground.types import (
    DTYPES,
    QUANTIZATIONS,
    STRATEGIES,
    TEMPLATES,
    GenerationRequest,
    GenerationSettings,
    knobs,
)

if TYPE_CHECKING:
    from playground.local_inference.doctor import Diagnosis

INTERRUPTED = 130
VERDICTS = {
    "sound": (0, "The adapter looks sound."),
    "warnings": (3, "The adapter can be used; mind the warnings."),
    "problems": (1, "The adapter cannot be used."),
}
_KINDS: dict[type, type] = {int: int, float: float, str: str}


@contextmanager
def opened(config: AppConfig) -> Iterator[tuple[Models, Generation]]:
    """The services over an engine that is closed at the end."""
    with closing(LocalInference()) as engine:
        yield Models(engine, config), Generation(engine)


def serve(rest: Sequence[str]) -> int:
    """Start the app; the same as ``python app.py``."""
    sys.argv = [str(ROOT / "app.py"), *rest]
    runpy.run_path(sys.argv[0], run_name="__main__")
    return 0


def generate(args: argparse.Namespace) -> int:
    """Stream one answer to the terminal: the text to stdout, everything else to stderr."""
    config = load_config(overrides={**environment_overrides(), **_engine_options(args)})
    with opened(config) as (models, generation):
        base = args.model or next(iter(config.models))
        defaults = models.recommended(base) or GenerationSettings()
        given = {name: getattr(args, name) for name in knobs() if getattr(args, name) is not None}
        request = GenerationRequest(
            spec=models.spec(base, args.adapter, args.scale),
            prompt=sys.stdin.read() if args.prompt == "-" else args.prompt,
            settings=defaults.replace(**given),
            template=args.template,
        )
        show_answer(generation, request)
    return 0


def show_answer(generation: Generation, request: GenerationRequest) -> None:
    """Write an answer as it comes; several answers one after another. Raises what the engine raises."""
    texts = [""] * request.settings.num_return_sequences
    said = ""
    for event in generation.stream(request):
        texts[event.index] += event.text
        news = event.notice or (event.status.detail if event.status.phase == "loading" else "")
        if news and news != said:
            said = news
            print(news, file=sys.stderr)
        if len(texts) == 1:
            print(event.text, end="", flush=True)
    print("" if len(texts) == 1 else "\n\n".join(texts))


def validate(args: argparse.Namespace) -> int:
    """Say what an adapter folder holds and what is wrong with it; the exit code tells how bad it is."""
    from playground.local_inference.doctor import examine, full_report  # numpy, which no other command needs at once

    folder = Path(args.path)
    base = base_folder(args.base) if args.base else None
    report = full_report(folder, base)
    diagnosis = examine(folder, base) if args.deep and report.verdict != "problems" else None
    if diagnosis is not None:
        report = report.adding(diagnosis.findings)
    if args.json:
        doctor = diagnosis.to_dict() if diagnosis else None
        print(json.dumps({**report.to_dict(), "doctor": doctor}, indent=2, ensure_ascii=False))
    else:
        print("\n".join([*described(report), *(examined(diagnosis) if diagnosis else ()), VERDICTS[report.verdict][1]]))
    return VERDICTS[report.verdict][0]


def base_folder(base: str) -> Path:
    """The folder of a base, by its name on offer or its path. Raises `ModelNotFound`; nothing is downloaded."""
    models = load_config(overrides=environment_overrides()).models
    folder = Path(os.path.expanduser(models[base].path if base in models else base))
    if os.path.isfile(folder / "config.json"):
        return folder
    offered = ", ".join(models)
    raise ModelNotFound(
        f"There is no model folder {base!r} with a config.json.", f"Give its path, or one of those on offer: {offered}."
    )


def described(report: AdapterReport) -> list[str]:
    """An adapter and what was found, in a few lines."""
    info = report.info
    rank = f", rank {info.rank}" if info.rank is not None else ""
    return [
        f"{info.name}: {info.peft_type or 'unknown kind'}{rank}, {info.bytes / 1e6:.2f} MB",
        f"base: {info.base or 'not named'}",
        f"targets: {', '.join(info.target_modules) or 'not named'}",
        *(f"{finding.severity}: {finding.sentence} [{finding.code}]" for finding in report.findings),
    ]


def examined(diagnosis: Diagnosis) -> list[str]:
    """What the doctor measured: the layers that changed most, and those that did not change."""
    flags = [name for name, on in (("rsLoRA", diagnosis.rslora), ("DoRA", diagnosis.dora)) if on]
    head = [f"{diagnosis.parameters:,} numbers in {len(diagnosis.layers)} layers", *flags]
    lines = ["doctor: " + ", ".join(head)]
    by_name = {layer.module: layer for layer in diagnosis.layers}
    for name in diagnosis.most_changed:
        layer = by_name[name]
        share = f", {layer.relative:.1%} of the base's weight" if layer.relative is not None else ""
        lines.append(f"  {name}: norm {layer.norm:.3g}{share}, {layer.effective_rank:.1f} of {layer.rank} directions")
    if diagnosis.dead:
        lines.append(f"  unchanged: {len(diagnosis.dead)} layers ({', '.join(diagnosis.dead[:3])})")
    if diagnosis.unmeasured:
        lines.append(f"  not measured: {len(diagnosis.unmeasured)} layers ({', '.join(diagnosis.unmeasured[:3])})")
    return lines


def bench(args: argparse.Namespace) -> int:
    """Measure decoding speed with one and with many answers at once; every answer is greedy and equally long."""
    config = load_config(overrides={**environment_overrides(), **_engine_options(args)})
    with opened(config) as (models, generation):
        base = args.model or next(iter(config.models))
        spec = models.spec(base, args.adapter)
        settings = GenerationSettings(strategy="greedy", max_new_tokens=args.tokens)
        request = GenerationRequest(spec, prompt="Tell me a long story about the sea.", settings=settings)
        run_together(generation, request, 1)  # loads the model and warms it up
        print("answers at once   tokens/s together   tokens/s each   first token, ms")
        for rows in args.rows:
            tokens, seconds, first = run_together(generation, request, rows)
            print(f"{rows:15d} {tokens / seconds:19.1f} {tokens / seconds / rows:15.1f} {1000 * first:17.1f}")
    return 0


def run_together(generation: Generation, request: GenerationRequest, rows: int) -> tuple[int, float, float]:
    """(tokens, seconds, mean seconds to the first token) of ``rows`` answers to ``request`` at the same time."""
    last: list[Any] = [None] * rows

    def follow(row: int) -> None:
        for event in generation.stream(request):
            last[row] = event.stats

    threads = [threading.Thread(target=follow, args=(row,)) for row in range(rows)]
    started = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    seconds = time.perf_counter() - started
    return sum(s.completion_tokens for s in last), seconds, sum(s.first_token_s or 0.0 for s in last) / rows


def _engine_options(args: argparse.Namespace) -> dict[str, Any]:
    names = ("config", "device", "dtype", "quantization")
    return {name: getattr(args, name) for name in names if getattr(args, name) is not None}


def _add_settings(parser: argparse.ArgumentParser) -> None:
    """One option for each setting, with its help and kind from the one declaration in types.py."""
    group = parser.add_argument_group("settings")
    for name, knob in knobs().items():
        default = getattr(GenerationSettings(), name)
        option: dict[str, Any] = {"dest": name, "default": None, "help": knob.help.replace("%", "%%")}
        if isinstance(default, bool):
            option["action"] = "store_true"
        elif isinstance(default, tuple):
            option |= {"action": "append", "metavar": "TEXT"}
        elif name == "strategy":
            option["choices"] = STRATEGIES
        else:
            option["type"] = int if default is None else _KINDS[type(default)]
        group.add_argument(f"--{name.replace('_', '-')}", **option)


def _add_engine_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", help="offered name, folder or hub id (the first one on offer)")
    parser.add_argument("--adapter", help="offered name or folder (none: the base alone)")
    parser.add_argument("--config", help="configuration file (configs/playground.toml)")
    parser.add_argument("--device", help="auto, cpu, cuda, cuda:N or mps")
    parser.add_argument("--dtype", choices=DTYPES)
    parser.add_argument("--quantization", choices=QUANTIZATIONS)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m playground", description="Adapter Playground's command line.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    commands.add_parser("serve", help="start the app (same options as app.py)", add_help=False)
    one = commands.add_parser("generate", help="answer one prompt")
    one.add_argument("prompt", help="the prompt; - reads it from stdin")
    one.add_argument("--scale", type=float, default=1.0, help="strength of the adapter (1)")
    one.add_argument("--template", choices=TEMPLATES, default="chat")
    _add_engine_options(one)
    _add_settings(one)
    one.set_defaults(run=generate)
    check = commands.add_parser(
        "validate",
        help="check an adapter folder without loading a model",
        description="Check an adapter folder: its files, configuration, tensor names and shapes, NaN and zeros.",
        epilog="Exit code: 0 sound, 3 usable with warnings, 1 it has problems, 2 the check could not be done.",
    )
    check.add_argument("path", help="the adapter's folder")
    check.add_argument(
        "--base", help="model that it is for, an offered name or a folder: names and shapes are compared"
    )
    check.add_argument("--json", action="store_true", help="print the report as JSON")
    check.add_argument("--deep", action="store_true", help="measure every layer, and compare tokenizer and template")
    check.set_defaults(run=validate)
    speed = commands.add_parser("bench", help="measure decoding speed")
    speed.add_argument("--tokens", type=int, default=64, help="tokens of each answer (64)")
    speed.add_argument("--rows", type=int, nargs="+", default=[1, 4, 16], help="answers at once (1 4 16)")
    _add_engine_options(speed)
    speed.set_defaults(run=bench)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command. Returns its exit code; 2 with one sentence on stderr when it could not be done."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    prepare_process()
    if arguments[:1] == ["serve"]:
        return serve(arguments[1:])
    args = _parser().parse_args(arguments)
    try:
        return int(args.run(args))
    except PlaygroundError as error:
        print(f"playground: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:  # the reader of our output has left, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE


if __name__ == "__main__":
    sys.exit(main())
