"""From a planned base to a model in memory: reserve room, read, try it out.

Nothing here runs code from a checkpoint: no remote code, no pickle.
"""

from __future__ import annotations

import os
import tempfile
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import transformers

from playground.errors import ModelUnsupported, OutOfMemory
from playground.local_inference.adapters import TEMPLATE_FILE
from playground.local_inference.cpu_dtype import pace_on_cpu
from playground.local_inference.devices import choose_device, other_memories
from playground.local_inference.explain import ran_out
from playground.local_inference.footprint import is_on_disk, weight_shares
from playground.local_inference.memory import Need, Room, Ticket, size_text
from playground.local_inference.own_tokenizers import read_tokenizer
from playground.local_inference.places import Report, resolve
from playground.local_inference.planning import FEWER, Plan, is_timed, plan_load
from playground.local_inference.survey import context_window, first_line, making_models, model_class, survey_base
from playground.local_inference.text_only import idle_parts, release, said_of, unread
from playground.types import ModelSpec, Status

_OWN_FILES = ("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", TEMPLATE_FILE)
_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}

# Runs a job while nothing else computes.
Compute = Callable[[Callable[[], Any]], Any]

# What the load under way in this thread asks for room; one of its own where nobody keeps an account.
_ticket: ContextVar[Ticket | None] = ContextVar("ticket", default=None)
# And where it times what it must know of this machine; at once where nobody else computes.
_compute: ContextVar[Compute] = ContextVar("compute", default=lambda job: job())


@dataclass(frozen=True)
class LoadedBase:
    """A model ready for inference with its tokenizer and what it says of itself.

    ``shares`` are its bytes by device, ``files`` name what it was read from, each with what tells it from a later one.
    ``unread`` is what the checkpoint reads besides text and is not given here, ``idle`` the modules that are for it.
    """

    model: Any
    tokenizer: Any
    path: Path
    plan: Plan
    window: int
    parameters: int
    bytes: int
    shares: Mapping[str, int]
    files: tuple[tuple[str, tuple[int, ...]], ...] = ()
    unread: tuple[str, ...] = ()
    idle: tuple[str, ...] = ()

    @property
    def is_current(self) -> bool:
        """False once a file was replaced: trained again, or copied over. Files that are gone change nothing."""
        return all(_stat(self.path / name) in (None, stat) for name, stat in self.files)


@contextmanager
def asking(ticket: Ticket, compute: Compute | None = None) -> Iterator[None]:
    """Within the block, what this thread loads reserves its room with ``ticket``, and is timed by jobs of ``compute``."""
    before, timing = _ticket.set(ticket), _compute.set(compute or _compute.get())
    try:
        yield
    finally:
        _ticket.reset(before)
        _compute.reset(timing)


def load_base(spec: ModelSpec, report: Report, *, whole: bool = False) -> LoadedBase:
    """Read ``spec``'s base. ``whole`` keeps also those weights of a vision-language model that text does not pass through.

    Raises `ModelNotFound`, `ModelUnsupported` or `OutOfMemory` before or instead of guessing.
    """
    report(Status("loading", "looking for the model"))
    path = resolve(spec.base, report)
    files = _files(path)  # before they are read: what changes meanwhile is noticed by the next request
    survey = survey_base(path)
    device, why = choose_device(spec.device)
    ticket = _ticket.get() or Room().ticket()
    others = other_memories(spec.device, device)
    pace = pace_on_cpu(survey, _compute.get()) if is_timed(spec, survey, device) else None

    def choose(available: int) -> tuple[Plan, Need]:
        elsewhere = [(other, ticket.available(other)) for other in others]
        return plan_load(spec, survey, device, why, available, elsewhere, pace)

    plan: Plan = ticket.reserve(device, choose, report)
    report(Status("loading", f"reading weights ({plan.dtype}, {plan.quantization})", 0.0))
    tokenizer = read_tokenizer(survey.path)
    model = _read_model(survey.path, survey.config, plan, report)
    senses = unread(survey.config)
    idle = _try_out(survey.path, model, plan, senses)
    if not (whole or plan.limits):  # what is spread is fetched by accelerate's hooks, which know every tensor by name
        release(model, idle)
    shares = weight_shares(model)
    return LoadedBase(
        model=model,
        tokenizer=tokenizer,
        path=survey.path,
        plan=_with_senses(_with_shares(plan, shares, is_on_disk(model)), senses),
        window=context_window(survey.config, tokenizer),
        parameters=survey.parameters,
        bytes=sum(shares.values()),
        shares=shares,
        files=files,
        unread=senses,
        idle=idle,
    )


def _with_shares(plan: Plan, shares: Mapping[str, int], on_disk: bool) -> Plan:
    """``plan``, and where it is spread, what came to lie where."""
    if not plan.limits:
        return plan
    parts = [f"{size_text(count)} on {where}" for where, count in sorted(shares.items(), reverse=True)]
    parts += ["the rest stays on the disk and is read for each pass"] if on_disk else []
    return replace(plan, reason=f"{plan.reason}: {', '.join(parts)}")


def _with_senses(plan: Plan, senses: tuple[str, ...]) -> Plan:
    """``plan``, and what the checkpoint is not used for."""
    return replace(plan, reason=f"{plan.reason}; {said_of(senses)}") if senses else plan


def _files(folder: Path) -> tuple[tuple[str, tuple[int, ...]], ...]:
    """The files that decide what a base answers, by name, with what tells each from a later one."""
    names = [*_OWN_FILES, *sorted(path.name for path in folder.glob("*.safetensors"))]
    stats = [(name, _stat(folder / name)) for name in names if not name.startswith("adapter_")]
    return tuple((name, stat) for name, stat in stats if stat is not None)


def _stat(file: Path) -> tuple[int, ...] | None:
    """Size, times and inode: a copy may keep the first two, and nobody can set when the inode was changed."""
    try:
        stat = os.stat(file)
    except OSError:
        return None
    return stat.st_size, stat.st_mtime_ns, stat.st_ino, stat.st_ctime_ns


def _read_model(path: Path, config: Any, plan: Plan, report: Report) -> Any:
    options: dict[str, Any] = {"dtype": "auto" if plan.stored else _DTYPES[plan.dtype]}
    if plan.quantization in ("int8", "nf4", "fp4") and not plan.stored:
        options["quantization_config"] = _bitsandbytes(plan)
    if plan.limits:  # filled in turn, as they were planned
        memories = {_memory(where): count for where, count in plan.limits}
        options |= {"device_map": "sequential", "max_memory": memories}
    elif plan.device != "cpu":
        options["device_map"] = {"": plan.device}
    try:
        with making_models, _progress(report), ExitStack() as scraps:
            folder = scraps.enter_context(_without_adapter(path))
            if plan.limits:  # for what transformers rearranges as it reads, experts for one
                options["offload_folder"] = scraps.enter_context(tempfile.TemporaryDirectory(prefix="weights-"))
            model, info = model_class(config).from_pretrained(
                str(folder),
                config=config,
                local_files_only=True,
                use_safetensors=True,
                trust_remote_code=False,
                output_loading_info=True,
                **options,
            )
            if plan.limits:  # each pass reads there what is not in memory
                weakref.finalize(model, scraps.pop_all().close)
    except (OSError, ValueError, RuntimeError, ImportError, KeyError, MemoryError) as error:
        if ran_out(error):
            raise _no_room(path, plan) from error
        raise ModelUnsupported(
            f"{path.name!r} cannot be loaded: {first_line(error)}", "Copy or download it again."
        ) from error
    _refuse_missing_weights(path, info)
    return model.eval().requires_grad_(False)


def _try_out(path: Path, model: Any, plan: Plan, senses: tuple[str, ...]) -> tuple[str, ...]:
    """A forward pass: some quantized layers fail only there, and a damaged checkpoint may compute NaN.

    Returns the modules that it did not go through in a model that has other ``senses``.
    """
    ids = torch.zeros((1, 2), dtype=torch.long, device=plan.device)
    found: list[torch.Tensor] = []

    def run() -> None:
        with torch.inference_mode():
            found.append(model(input_ids=ids).logits)

    idle: tuple[str, ...] = ()
    try:
        if senses:
            idle = idle_parts(model, run)
        else:
            run()
    except (AssertionError, RuntimeError, ValueError, NotImplementedError, TypeError, MemoryError) as error:
        if ran_out(error):
            raise _no_room(path, plan) from error
        if senses and plan.quantization == "none":
            raise ModelUnsupported(
                f"{path.name!r} does not answer without {' and '.join(senses)}: {first_line(error)}",
                "Only text is given to models here; choose one that answers to text alone.",
            ) from error
        raise ModelUnsupported(
            f"{path.name!r} loads as {plan.quantization} but cannot compute on {plan.device}: {first_line(error)}",
            "Choose another quantization.",
        ) from error
    if not torch.isfinite(found[-1]).all():
        raise ModelUnsupported(
            f"{path.name!r} computes NaN or infinite numbers as {plan.dtype}, {plan.quantization}.",
            "Choose float32 or bfloat16, or copy the checkpoint again.",
        )
    return idle


def _no_room(path: Path, plan: Plan) -> OutOfMemory:
    return OutOfMemory(
        f"{path.name!r} as {plan.dtype}, {plan.quantization} does not fit the memory of {plan.device} after all.",
        FEWER,
    )


@contextmanager
def _without_adapter(path: Path) -> Iterator[Path]:
    """``path``, or where it also holds an adapter, a folder of links to the base's own files only.

    transformers would put such an adapter on the model unasked, and the base would not be the base.
    """
    if not (path / "adapter_config.json").exists():
        yield path
        return
    with tempfile.TemporaryDirectory() as folder:
        for file in path.iterdir():
            if file.is_file() and not file.name.startswith("adapter_"):
                (Path(folder) / file.name).symlink_to(file)
        yield Path(folder)


def _bitsandbytes(plan: Plan) -> Any:
    if plan.quantization == "int8":
        return transformers.BitsAndBytesConfig(load_in_8bit=True)
    return transformers.BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type=plan.quantization,
        bnb_4bit_compute_dtype=_DTYPES[plan.dtype],
        llm_int8_skip_modules=list(plan.kept) or None,
    )


def _memory(device: str) -> int | str:
    """``device`` as accelerate names it: a GPU by its number."""
    return int(device.partition(":")[2]) if device.startswith("cuda") else device


def _refuse_missing_weights(path: Path, info: dict[str, Any]) -> None:
    """A tensor that the file lacks is filled with random numbers by transformers: never answer with those."""
    missing = sorted(info.get("missing_keys") or ())
    if missing:
        raise ModelUnsupported(
            f"{path.name!r} lacks {len(missing)} weights of its own architecture ({', '.join(missing[:3])} …).",
            "Copy or download it again, whole.",
        )


@contextmanager
def _progress(report: Report) -> Iterator[None]:
    """Turn transformers' own progress bars into statuses for the duration of the block."""
    previous = transformers.utils.logging.set_tqdm_hook(
        lambda factory, args, kwargs: _ProgressBar(report, *args, **kwargs)
    )
    try:
        yield
    finally:
        transformers.utils.logging.set_tqdm_hook(previous)


class _ProgressBar:
    """What transformers expects of a progress bar; reports whole percents."""

    def __init__(self, report: Report, iterable: Any = None, total: float | None = None, **options: Any) -> None:
        self._report = report
        self._iterable = iterable
        self._total = total if total is not None else len(iterable) if hasattr(iterable, "__len__") else None
        self._done = 0.0
        self._percent = -1

    def __iter__(self) -> Iterator[Any]:
        for item in self._iterable:
            yield item
            self.update()

    def update(self, count: float = 1) -> None:
        """Count on, and report when the percent changed."""
        self._done += count
        if self._total:
            percent = int(100 * self._done / self._total)
            if percent != self._percent:
                self._percent = percent
                self._report(Status("loading", "reading weights", min(1.0, self._done / self._total)))

    def __enter__(self) -> _ProgressBar:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Nothing is left open."""

    def set_description(self, *args: Any, **kwargs: Any) -> None:
        """The status has its own words."""

    set_postfix = set_description_str = set_description
