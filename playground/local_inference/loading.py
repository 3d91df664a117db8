"""From a planned base to a model in memory: reserve room, read, try it out; and the tokenizers of bases and adapters.

Nothing here runs code from a checkpoint: no remote code, no pickle.
"""

from __future__ import annotations

import copy
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import transformers

from playground.errors import AdapterInvalid, ModelUnsupported, OutOfMemory
from playground.local_inference.adapters import TEMPLATE_FILE
from playground.local_inference.footprint import weight_shares
from playground.local_inference.memory import Need, Room, Ticket, size_text
from playground.local_inference.places import Report, resolve
from playground.local_inference.planning import FEWER, Plan, choose_device, other_memories, plan_load
from playground.local_inference.survey import context_window, first_line, making_models, model_class, survey_base
from playground.types import ModelSpec, Status

_OWN_FILES = ("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", TEMPLATE_FILE)
_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}

# What the load under way in this thread asks for room; one of its own where nobody keeps an account.
_ticket: ContextVar[Ticket | None] = ContextVar("ticket", default=None)


@dataclass(frozen=True)
class LoadedBase:
    """A model ready for inference with its tokenizer and what it says of itself.

    ``shares`` are its bytes by device, ``files`` name what it was read from, each with what tells it from a later one.
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

    @property
    def is_current(self) -> bool:
        """False once a file was replaced: trained again, or copied over. Files that are gone change nothing."""
        return all(_stat(self.path / name) in (None, stat) for name, stat in self.files)


@contextmanager
def asking(ticket: Ticket) -> Iterator[None]:
    """Within the block, what this thread loads reserves its room with ``ticket``."""
    before = _ticket.set(ticket)
    try:
        yield
    finally:
        _ticket.reset(before)


def load_base(spec: ModelSpec, report: Report) -> LoadedBase:
    """Read ``spec``'s base. Raises `ModelNotFound`, `ModelUnsupported` or `OutOfMemory` before or instead of guessing."""
    report(Status("loading", "looking for the model"))
    path = resolve(spec.base, report)
    files = _files(path)  # before they are read: what changes meanwhile is noticed by the next request
    survey = survey_base(path)
    device, why = choose_device(spec.device)
    ticket = _ticket.get() or Room().ticket()
    others = other_memories(spec.device, device)

    def choose(available: int) -> tuple[Plan, Need]:
        elsewhere = [(other, ticket.available(other)) for other in others]
        return plan_load(spec, survey, device, why, available, elsewhere)

    plan: Plan = ticket.reserve(device, choose, report)
    report(Status("loading", f"reading weights ({plan.dtype}, {plan.quantization})", 0.0))
    tokenizer = read_tokenizer(survey.path)
    model = _read_model(survey.path, survey.config, plan, report)
    _try_out(survey.path, model, plan)
    shares = weight_shares(model)
    return LoadedBase(
        model=model,
        tokenizer=tokenizer,
        path=survey.path,
        plan=_with_shares(plan, shares),
        window=context_window(survey.config, tokenizer),
        parameters=survey.parameters,
        bytes=sum(shares.values()),
        shares=shares,
        files=files,
    )


def _with_shares(plan: Plan, shares: Mapping[str, int]) -> Plan:
    """``plan``, and where it is spread, what came to lie where."""
    if not plan.limits:
        return plan
    parts = ", ".join(f"{size_text(count)} on {where}" for where, count in sorted(shares.items(), reverse=True))
    return replace(plan, reason=f"{plan.reason}: {parts}")


def read_tokenizer(path: Path) -> Any:
    """The tokenizer stored in ``path``. Raises `ModelUnsupported` when there is none that works without own code."""
    try:
        return transformers.AutoTokenizer.from_pretrained(str(path), local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, KeyError, ImportError, AttributeError, TypeError) as error:
        raise ModelUnsupported(
            f"{path.name!r} has no tokenizer that can be read: {first_line(error)}",
            "Copy tokenizer.json and tokenizer_config.json beside the weights.",
        ) from error


def adapter_tokenizer(folder: Path, base_tokenizer: Any, vocabulary: int) -> Any:
    """The tokenizer to use with the adapter in ``folder``: its own one or its own template where it brought them.

    ``vocabulary`` is the base's number of embeddings. Raises `AdapterInvalid` when the adapter's tokenizer cannot be read or
    does not fit the base.
    """
    tokenizer = base_tokenizer
    if any((folder / name).is_file() for name in ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt")):
        tokenizer = _own_tokenizer(folder, vocabulary)
    template = _own_template(folder)
    if template or not tokenizer.chat_template:
        tokenizer = copy.deepcopy(tokenizer)
        tokenizer.chat_template = template or base_tokenizer.chat_template
    return tokenizer


def _own_tokenizer(folder: Path, vocabulary: int) -> Any:
    try:
        tokenizer = read_tokenizer(folder)
    except ModelUnsupported as error:
        raise AdapterInvalid(
            f"Adapter {folder.name!r} brought a tokenizer that cannot be read: {error.message}",
            "Remove its tokenizer files to use the base's, or save them again.",
        ) from error
    if len(tokenizer) > vocabulary:
        raise AdapterInvalid(
            f"Adapter {folder.name!r} has {len(tokenizer)} tokens, the base has embeddings for {vocabulary}.",
            "It was trained on a base with more tokens; load that base.",
        )
    return tokenizer


def _own_template(folder: Path) -> str:
    """The chat template beside the adapter, "" where there is none or an empty one."""
    file = folder / TEMPLATE_FILE
    try:
        text = file.read_text(encoding="utf-8") if file.is_file() else ""
    except (OSError, UnicodeDecodeError) as error:
        raise AdapterInvalid(
            f"Adapter {folder.name!r}: {TEMPLATE_FILE} cannot be read: {error}.",
            "Save it again as UTF-8, or remove it.",
        ) from error
    return text if text.strip() else ""


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
        with making_models, _progress(report), _without_adapter(path) as folder:
            model, info = model_class(config).from_pretrained(
                str(folder),
                config=config,
                local_files_only=True,
                use_safetensors=True,
                trust_remote_code=False,
                output_loading_info=True,
                **options,
            )
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise _no_room(path, plan) from error
    except (OSError, ValueError, RuntimeError, ImportError, KeyError) as error:
        if "can't allocate memory" in str(error):  # torch has no exception of its own for the machine's memory
            raise _no_room(path, plan) from error
        raise ModelUnsupported(
            f"{path.name!r} cannot be loaded: {first_line(error)}", "Copy or download it again."
        ) from error
    _refuse_missing_weights(path, info)
    return model.eval().requires_grad_(False)


def _try_out(path: Path, model: Any, plan: Plan) -> None:
    """One forward pass: some quantized layers fail only there, and a damaged checkpoint may compute NaN."""
    ids = torch.zeros((1, 2), dtype=torch.long, device=plan.device)
    try:
        with torch.inference_mode():
            logits = model(input_ids=ids).logits
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise _no_room(path, plan) from error
    except (AssertionError, RuntimeError, ValueError, NotImplementedError) as error:
        raise ModelUnsupported(
            f"{path.name!r} loads as {plan.quantization} but cannot compute on {plan.device}: {first_line(error)}",
            "Choose another quantization.",
        ) from error
    if not torch.isfinite(logits).all():
        raise ModelUnsupported(
            f"{path.name!r} computes NaN or infinite numbers as {plan.dtype}, {plan.quantization}.",
            "Choose float32 or bfloat16, or copy the checkpoint again.",
        )


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
