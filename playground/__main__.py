"""The command line: ``python -m playground serve | generate | replay | validate | export | compare-merged | bench``."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import runpy
import signal
import sys
import threading
import time
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import aclosing, closing, contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from playground.config import ROOT, AppConfig, environment_overrides, load_config, prepare_process
from playground.errors import InvalidRequest, ModelNotFound, PlaygroundError
from playground.local_inference import LocalInference
from playground.local_inference.adapters import AdapterReport, short
from playground.services.assembly import engine_options
from playground.services.exports import Exports, MergedDtype
from playground.services.generation import Generation
from playground.services.models import Models
from playground.services.replay import Manifest, Recorder, Replay, ReplayResult
from playground.services.runs import Runs
from playground.types import (
    DTYPES,
    QUANTIZATIONS,
    STRATEGIES,
    TEMPLATES,
    GenerationEvent,
    GenerationRequest,
    GenerationSettings,
    Status,
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
SERVED = {True: "in one batch with others", False: "in turns, alone on its base"}
_KINDS: dict[type, type] = {int: int, float: float, str: str}


@contextmanager
def opened(config: AppConfig) -> Iterator[tuple[Models, Generation]]:
    """The services over an engine that is closed at the end."""
    measured = config.measured if config.data_dir.is_dir() else None  # one answer in a terminal leaves no folder behind
    engine = LocalInference(**engine_options(config) | {"measured": measured})
    with closing(engine):
        yield Models(engine, config, Runs(config)), Generation(engine)


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
        recorder = show_answer(generation, request)
        if args.manifest:
            again = Replay(generation, models)
            manifests = recorder.manifests(again.prompt_hash(request))
            write_manifests([again.named(manifest) for manifest in manifests], Path(args.manifest))
    return 0


def write_manifests(manifests: Sequence[Manifest], path: Path) -> None:
    """Write the first to ``path``, further ones beside it as NAME-2, NAME-3 … Raises `InvalidRequest` where it cannot."""
    for manifest in manifests:
        number = f"-{manifest.index + 1}" if manifest.index else ""
        file = path.with_name(f"{path.stem}{number}{path.suffix}")
        try:
            file.write_text(manifest.to_json() + "\n", encoding="utf-8")
        except OSError as error:
            raise InvalidRequest(f"{file} cannot be written: {error.strerror}.", "Choose another file.") from error


def replay(args: argparse.Namespace) -> int:
    """Run the answer of a manifest again and say whether it is the same; what comes out meanwhile goes to stderr."""
    try:
        text = sys.stdin.read() if args.file == "-" else Path(args.file).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidRequest(f"{args.file} cannot be read: {error}.", "Check the path.") from error
    manifest = Manifest.from_json(text)
    asked = {"config": args.config, "device": manifest.request.spec.device}
    config = load_config(overrides={**environment_overrides(), **asked})
    with opened(config) as (models, generation):
        result: ReplayResult = asyncio.run(last_of(_told(Replay(generation, models).run(manifest))))
    print("\n".join((result.sentence, *(f"  {change}" for change in result.changed))))
    return 0 if result.identical else 1


async def _told(events: AsyncGenerator[GenerationEvent | ReplayResult, None]) -> AsyncGenerator[Any, None]:
    """What `last_of` tells: the statuses of loading, and the result."""
    async with aclosing(events):
        async for event in events:
            if isinstance(event, ReplayResult):
                yield event
            elif event.status.phase == "loading":
                yield event.status


def show_answer(generation: Generation, request: GenerationRequest) -> Recorder:
    """Write an answer as it comes; several answers one after another. Raises what the engine raises."""
    recorder = Recorder(request)
    texts = [""] * request.settings.num_return_sequences
    said = ""
    for event in generation.stream(request):
        recorder.add(event)
        texts[event.index] += event.text
        news = event.notice or (event.status.detail if event.status.phase == "loading" else "")
        if news and news != said:
            said = news
            print(news, file=sys.stderr)
        if len(texts) == 1:
            print(event.text, end="", flush=True)
    print("" if len(texts) == 1 else "\n\n".join(texts))
    return recorder


def validate(args: argparse.Namespace) -> int:
    """Say what an adapter folder holds and what is wrong with it; the exit code tells how bad it is."""
    from playground.local_inference.doctor import examine, full_report  # numpy, which no other command needs at once

    config = load_config(overrides={**environment_overrides(), "config": args.config})
    folder, pickles = Path(args.path), config.converted
    base = base_folder(args.base, config) if args.base else None
    report = full_report(folder, base, pickles=pickles, always_fit=args.deep)
    diagnosis = examine(folder, base, pickles=pickles) if args.deep and report.verdict != "problems" else None
    if diagnosis is not None:
        report = report.adding(diagnosis.findings)
    if args.json:
        doctor = diagnosis.to_dict() if diagnosis else None
        print(json.dumps({**report.to_dict(), "doctor": doctor}, indent=2, ensure_ascii=False))
    else:
        print("\n".join([*described(report), *(examined(diagnosis) if diagnosis else ()), VERDICTS[report.verdict][1]]))
    return VERDICTS[report.verdict][0]


def base_folder(base: str, config: AppConfig) -> Path:
    """The folder of a base: a name on offer, a path or a hub id. Raises `ModelNotFound`; nothing is downloaded."""
    from playground.local_inference.places import locate  # huggingface_hub, which no other command needs at once

    models = config.models
    folder = Path(locate(models[base].path if base in models else base))
    if os.path.isfile(folder / "config.json"):
        return folder
    offered = ", ".join(models)
    raise ModelNotFound(
        f"There is no model folder {base!r} with a config.json on this machine.",
        f"Give its path, or one of those on offer: {offered}.",
    )


def described(report: AdapterReport) -> list[str]:
    """An adapter and what was found, in a few lines."""
    info = report.info
    rank = f", rank {info.rank}" if info.rank is not None else ""
    return [
        f"{short(info.name)}: {info.peft_type or 'unknown kind'}{rank}, {info.bytes / 1e6:.2f} MB",
        f"base: {info.base or 'not named'}",
        f"targets: {', '.join(info.target_modules) or 'not named'}",
        *([f"served: {SERVED[report.shares_batches]}"] if report.shares_batches is not None else []),
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
    lines += [f"  {note}" for note in diagnosis.notes]
    if diagnosis.dead:
        lines.append(f"  unchanged: {len(diagnosis.dead)} layers ({', '.join(diagnosis.dead[:3])})")
    if diagnosis.unmeasured:
        lines.append(f"  not measured: {len(diagnosis.unmeasured)} layers ({', '.join(diagnosis.unmeasured[:3])})")
    return lines


def export(args: argparse.Namespace) -> int:
    """Write an adapter at a strength, or a base with it merged in, to a new folder; news to stderr, the folder to stdout."""
    with exporting(args) as exports:
        if args.merged:
            news = exports.merged(args.base, args.adapter, args.strength, dtype=args.dtype, out=Path(args.out))
        else:
            news = exports.adapter(args.base, args.adapter, args.strength, out=Path(args.out))
        print(asyncio.run(last_of(news)))
    return 0


def compare_merged(args: argparse.Namespace) -> int:
    """Say how far a base with an adapter merged in is from the two side by side; 3 where it should not be trusted."""
    with exporting(args) as exports:
        found = asyncio.run(last_of(exports.compare_merged(args.base, args.adapter, args.strength, dtype=args.dtype)))
    shown = {**asdict(found), "differs": found.differs}
    print(json.dumps(shown, indent=2) if args.json else found.sentence)
    return 3 if found.differs else 0


@contextmanager
def exporting(args: argparse.Namespace) -> Iterator[Exports]:
    """The exports of this machine, whoever the configured server is for."""
    config = replace(load_config(overrides={**environment_overrides(), "config": args.config}), free_paths=True)
    with opened(config) as (models, _):
        yield Exports(models, config)


async def last_of(news: AsyncGenerator[Any, None]) -> Any:
    """The last item; every `Status` before it is told on stderr, each detail once."""
    item, said = None, ""
    async with aclosing(news):
        async for item in news:
            if isinstance(item, Status) and item.detail != said:
                said = item.detail
                print(said, file=sys.stderr)
    return item


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
        elif name == "logit_bias":
            option |= {"action": "append", "metavar": "ID=BIAS", "type": _bias}
        elif isinstance(default, tuple):
            option |= {"action": "append", "metavar": "TEXT"}
        elif name == "strategy":
            option["choices"] = STRATEGIES
        else:
            option["type"] = int if default is None else _KINDS[type(default)]
        group.add_argument(f"--{name.replace('_', '-')}", **option)


def _bias(text: str) -> tuple[int, float]:
    """``text``, ID=BIAS, as a pair. Raises `argparse.ArgumentTypeError`."""
    token, _, bias = text.partition("=")
    try:
        return int(token), float(bias)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is no token id and bias, such as 42=-100") from error


def _add_engine_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", help="offered name, folder or hub id (the first one on offer)")
    parser.add_argument("--adapter", help="offered name or folder (none: the base alone)")
    parser.add_argument("--config", help="configuration file (configs/playground.toml)")
    parser.add_argument("--device", help="auto, cpu, cuda, cuda:N or mps")
    parser.add_argument("--dtype", choices=DTYPES)
    parser.add_argument("--quantization", choices=QUANTIZATIONS)


def _add_merge_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("base", help="offered name, folder or hub id")
    parser.add_argument("adapter", help="offered name or folder")
    parser.add_argument("--strength", type=float, default=1.0, help="strength of the adapter (1)")
    parser.add_argument(
        "--dtype", choices=get_args(MergedDtype), default="bfloat16", help="of merged weights (bfloat16)"
    )
    parser.add_argument("--config", help="configuration file (configs/playground.toml)")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m playground", description="Adapter Playground's command line.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    commands.add_parser("serve", help="start the app (same options as app.py)", add_help=False)
    one = commands.add_parser("generate", help="answer one prompt")
    one.add_argument("prompt", help="the prompt; - reads it from stdin")
    one.add_argument("--scale", type=float, default=1.0, help="strength of the adapter (1)")
    one.add_argument("--template", choices=TEMPLATES, default="chat")
    one.add_argument(
        "--manifest", metavar="FILE", help="write what it takes to run the answer again (further answers: FILE-2 …)"
    )
    _add_engine_options(one)
    _add_settings(one)
    one.set_defaults(run=generate)
    again = commands.add_parser(
        "replay",
        help="run an answer again and compare it",
        description="Run the answer of a manifest again, token by token the same or not.",
        epilog="Exit code: 0 identical, 1 it differs, 2 it could not be done.",
    )
    again.add_argument("file", metavar="FILE", help="what generate --manifest wrote; - reads it from stdin")
    again.add_argument("--config", help="configuration file (configs/playground.toml)")
    again.set_defaults(run=replay)
    check = commands.add_parser(
        "validate",
        help="check an adapter folder without loading a model",
        description="Check an adapter folder: its files, configuration, tensor names and shapes, NaN and zeros. Nothing in "
        "it is run, and no model is loaded.",
        epilog="Exit code: 0 sound, 3 usable with warnings, 1 it has problems, 2 the check could not be done.",
    )
    check.add_argument("path", help="the adapter's folder")
    check.add_argument(
        "--base", help="model that it is for, an offered name, a folder or a hub id that is here: does it fit?"
    )
    check.add_argument("--json", action="store_true", help="print the report as JSON")
    check.add_argument(
        "--deep", action="store_true", help="measure every layer, compare tokenizer and template, let PEFT try the fit"
    )
    check.add_argument("--config", help="configuration file (configs/playground.toml)")
    check.set_defaults(run=validate)
    take = commands.add_parser("export", help="write an adapter at a strength, or merged into its base, to a folder")
    _add_merge_options(take)
    take.add_argument("--merged", action="store_true", help="write the whole model with the adapter merged in")
    take.add_argument("--out", required=True, help="the folder to make")
    take.set_defaults(run=export)
    compare = commands.add_parser(
        "compare-merged",
        help="measure what merging an adapter would change",
        epilog="Exit code: 0 it answers as the adapter does, 3 it differs much, 2 it could not be measured.",
    )
    _add_merge_options(compare)
    compare.add_argument("--json", action="store_true", help="print the figures as JSON")
    compare.set_defaults(run=compare_merged)
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
