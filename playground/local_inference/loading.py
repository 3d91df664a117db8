"""From a path or hub id to a model in memory: resolve, refuse what cannot work, plan, read, and say why.

Nothing here runs code from a checkpoint: no remote code, no pickle.
"""

from __future__ import annotations

import copy
import json
import os
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from huggingface_hub import snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
)
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING,
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES,
)

from playground.errors import AdapterInvalid, ModelNotFound, ModelUnsupported, OutOfMemory
from playground.local_inference.adapters import TEMPLATE_FILE, read_safetensors_header
from playground.local_inference.memory import device_bytes
from playground.types import ModelSpec, Status

Report = Callable[[Status], None]

_HUB_FILES = ("*.json", "*.safetensors", "*.model", "*.txt", "*.jinja", "*.tiktoken")
_BITS = {"none": None, "int8": 1.1, "nf4": 0.6, "fp4": 0.6}
_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_SMALL = 1_000_000_000
# Room for activations, logits and a conversation's keys and values beside the weights.
_HEADROOM = 1.15

# transformers' progress hook is one for the whole process, so checkpoints are read one at a time.
_reading = threading.Lock()


@dataclass(frozen=True)
class Plan:
    """How a base will be loaded, and why; ``stored`` names the checkpoint's own quantization where it has one."""

    device: str
    dtype: str
    quantization: str
    reason: str
    stored: bool = False


@dataclass(frozen=True)
class LoadedBase:
    """A model ready for inference with its tokenizer and what it says of itself."""

    model: Any
    tokenizer: Any
    path: Path
    plan: Plan
    window: int
    parameters: int
    bytes: int


def resolve(base: str, report: Report) -> Path:
    """The local folder of ``base``; a hub id is looked up in the local cache first and downloaded otherwise.

    Raises `ModelNotFound` with what to do: a mistyped id, a gated model, no network.
    """
    folder = Path(os.path.expanduser(base))
    if os.path.isdir(folder):
        _refuse_other_folders(folder)
        return folder.resolve()
    if folder.is_absolute() or base.startswith("."):
        raise ModelNotFound(f"There is no model folder {base!r}.", "Check the path.")
    try:
        return Path(snapshot_download(base, allow_patterns=list(_HUB_FILES), local_files_only=True))
    except HFValidationError as error:
        raise ModelNotFound(f"{base!r} is no folder and no hub id.", "A hub id looks like org/name.") from error
    except (LocalEntryNotFoundError, FileNotFoundError):
        report(Status("loading", f"downloading {base}"))
    return _download(base)


def load_base(spec: ModelSpec, report: Report) -> LoadedBase:
    """Read ``spec``'s base. Raises `ModelNotFound`, `ModelUnsupported` or `OutOfMemory` before or instead of guessing."""
    report(Status("loading", "looking for the model"))
    path = resolve(spec.base, report)
    config = _read_config(path)
    _refuse_other_models(path, config)
    parameters, stored_bytes = _checkpoint_size(path)
    plan = plan_load(spec, config, parameters, stored_bytes)
    report(Status("loading", f"reading weights ({plan.dtype}, {plan.quantization})", 0.0))
    tokenizer = read_tokenizer(path)
    model = _read_model(path, config, plan, report)
    _try_out(path, model, plan)
    return LoadedBase(
        model=model,
        tokenizer=tokenizer,
        path=path,
        plan=plan,
        window=context_window(config, tokenizer),
        parameters=parameters,
        bytes=int(model.get_memory_footprint()),
    )


def plan_load(spec: ModelSpec, config: Any, parameters: int, stored_bytes: int) -> Plan:
    """Device, dtype and quantization for ``spec``, each with its reason; "auto" picks by size and free memory."""
    device, why_device = _choose_device(spec.device)
    stored = getattr(config, "quantization_config", None)
    if stored:
        method = stored.get("quant_method", "?") if isinstance(stored, dict) else str(stored.quant_method)
        if spec.quantization not in ("auto", "none"):
            raise ModelUnsupported(
                f"This checkpoint is already quantized ({method}).", "Choose auto to load it as it is stored."
            )
        return Plan(device, "auto", str(method), f"{why_device}; the checkpoint is stored as {method}", stored=True)
    dtype, why_dtype = _choose_dtype(spec.dtype, device, parameters)
    asked = "nf4" if spec.quantization == "int4" else spec.quantization
    _, free = device_bytes(device)
    sizes = {kind: _needed(kind, dtype, parameters) for kind in ("none", "int8", "nf4", "fp4")}
    if asked != "auto":
        why = "as asked (int4 means nf4)" if spec.quantization == "int4" else "as asked"
        return _if_it_fits(Plan(device, dtype, asked, f"{why_device}; {why_dtype}; {asked} {why}"), sizes, free)
    order = ("none", "int8", "nf4") if device.startswith("cuda") else ("none", "nf4")
    fits = next((kind for kind in order if sizes[kind] <= free), "none")
    why = "fits unquantized" if fits == "none" else f"unquantized it needs {_gb(sizes['none'])} of {_gb(free)} free"
    return _if_it_fits(Plan(device, dtype, fits, f"{why_device}; {why_dtype}; {why}"), sizes, free)


def read_tokenizer(path: Path) -> Any:
    """The tokenizer stored in ``path``. Raises `ModelUnsupported` when there is none that works without own code."""
    try:
        return transformers.AutoTokenizer.from_pretrained(str(path), local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, KeyError, ImportError, AttributeError, TypeError) as error:
        raise ModelUnsupported(
            f"{path.name!r} has no tokenizer that can be read: {_first_line(error)}",
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


def context_window(config: Any, tokenizer: Any) -> int:
    """How many tokens the model reads, prompt and answer together."""
    text = config.get_text_config()
    for name in ("max_position_embeddings", "n_positions", "max_sequence_length", "seq_length", "n_ctx"):
        value = getattr(text, name, None)
        if isinstance(value, int) and value > 0:
            return value
    limit = getattr(tokenizer, "model_max_length", None)
    return int(limit) if isinstance(limit, int) and limit < 10_000_000 else 32_768


def _refuse_other_folders(folder: Path) -> None:
    if (folder / "config.json").is_file():
        return
    if (folder / "adapter_config.json").is_file():
        raise ModelNotFound(
            f"{folder.name!r} is an adapter, not a base model.", "Name it as the adapter, and its base as the model."
        )
    if any(folder.glob("*.gguf")):
        raise ModelUnsupported(
            f"{folder.name!r} holds a GGUF file, which this program does not read.",
            "Use the safetensors checkpoint of the same model.",
        )
    raise ModelNotFound(f"{str(folder)!r} has no config.json.", "Choose the folder that holds the model's files.")


def _download(base: str) -> Path:
    try:
        return Path(snapshot_download(base, allow_patterns=list(_HUB_FILES)))
    except GatedRepoError as error:
        raise ModelNotFound(
            f"{base!r} is gated.", f"Accept its terms at huggingface.co/{base}, then start the app with HF_TOKEN set."
        ) from error
    except RepositoryNotFoundError as error:
        raise ModelNotFound(
            f"The hub has no model {base!r}, or it is private.", "Check the id; for a private one set HF_TOKEN."
        ) from error
    except (OfflineModeIsEnabled, LocalEntryNotFoundError, HfHubHTTPError, OSError) as error:
        raise ModelNotFound(
            f"{base!r} is not on this machine and could not be downloaded.",
            "Check the id and the network, or type the path of a folder.",
        ) from error


def _read_config(path: Path) -> Any:
    try:
        return transformers.AutoConfig.from_pretrained(str(path), local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelUnsupported(
            f"{path.name!r} cannot be run: {_first_line(error)}",
            "Models that bring their own code are not run; others may need a newer transformers.",
        ) from error


def _refuse_other_models(path: Path, config: Any) -> None:
    names = list(getattr(config, "architectures", None) or [])
    if getattr(config, "is_encoder_decoder", False):
        raise ModelUnsupported(
            f"{path.name!r} is an encoder-decoder model ({', '.join(names) or config.model_type}).",
            "Choose a decoder-only (causal) language model.",
        )
    known = set(_class_names(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)) | set(
        _class_names(MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES)
    )
    if _model_class(config) is None or (names and not known.intersection(names)):
        raise ModelUnsupported(
            f"{path.name!r} is a {', '.join(names) or config.model_type}, which does not generate text.",
            "Choose a causal language model.",
        )
    if not any(not file.name.startswith("adapter_") for file in path.glob("*.safetensors")):
        raise ModelUnsupported(
            f"{path.name!r} has no .safetensors weights; other formats can run code when opened.",
            "Convert it with save_pretrained(…) of a current transformers.",
        )


def _class_names(mapping: Any) -> Iterator[str]:
    for value in mapping.values():
        yield from (value,) if isinstance(value, str) else value


def _model_class(config: Any) -> Any:
    if type(config) in MODEL_FOR_CAUSAL_LM_MAPPING:
        return transformers.AutoModelForCausalLM
    if type(config) in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING:
        return transformers.AutoModelForImageTextToText
    return None


def _checkpoint_size(path: Path) -> tuple[int, int]:
    """(parameters, bytes) of the checkpoint, from its safetensors headers."""
    try:
        headers = [read_safetensors_header(file) for file in _weight_files(path)]
    except (ValueError, OSError, KeyError, TypeError, AttributeError) as error:
        raise ModelUnsupported(f"{path.name!r} cannot be loaded: {error}", "Copy or download it again.") from error
    tensors = [tensor for header in headers for tensor in header.values()]
    return sum(tensor.numel for tensor in tensors), sum(tensor.end - tensor.start for tensor in tensors)


def _weight_files(path: Path) -> list[Path]:
    """The safetensors files that make up the model: those of the index, or the one, but never an adapter's."""
    index = path / "model.safetensors.index.json"
    if index.is_file():
        return [path / name for name in sorted(set(json.loads(index.read_text("utf-8"))["weight_map"].values()))]
    one = path / "model.safetensors"
    return (
        [one] if one.is_file() else sorted(f for f in path.glob("*.safetensors") if not f.name.startswith("adapter_"))
    )


def _choose_device(asked: str) -> tuple[str, str]:
    if asked == "auto":
        if torch.cuda.is_available():
            return "cuda:0", "a GPU is present"
        if torch.backends.mps.is_available():
            return "mps", "Apple's GPU is present"
        return "cpu", "no GPU is present"
    if asked.startswith("cuda"):
        index = asked.partition(":")[2] or "0"
        if not index.isdigit() or int(index) >= torch.cuda.device_count():
            raise ModelUnsupported(
                f"Device {asked!r} is not there ({torch.cuda.device_count()} CUDA devices).", "Use auto or cpu."
            )
        return f"cuda:{index}", "as asked"
    if asked == "cpu" or (asked == "mps" and torch.backends.mps.is_available()):
        return asked, "as asked"
    raise ModelUnsupported(f"Device {asked!r} is not there.", "Use auto, cpu, cuda, cuda:N or mps.")


def _choose_dtype(asked: str, device: str, parameters: int) -> tuple[str, str]:
    if asked != "auto":
        return asked, f"{asked} as asked"
    if device == "cpu":
        if parameters <= _SMALL:
            return "float32", "float32 is exact and fastest for a small model on a CPU"
        return "bfloat16", "bfloat16 halves the memory of a large model on a CPU"
    return ("float16", "float16 on Apple's GPU") if device == "mps" else ("bfloat16", "bfloat16 on a GPU")


def _needed(kind: str, dtype: str, parameters: int) -> float:
    """Bytes that the weights take in memory, with headroom."""
    width = _BITS[kind] or torch.empty(0, dtype=_DTYPES[dtype]).element_size()
    return parameters * width * _HEADROOM


def _if_it_fits(plan: Plan, sizes: dict[str, float], free: int) -> Plan:
    need = sizes[plan.quantization]
    if need > free:
        raise OutOfMemory(
            f"The model needs about {_gb(need)} as {plan.dtype}, {plan.quantization}; {plan.device} has {_gb(free)} free.",
            "Unload another model, or choose nf4.",
        )
    return plan


def _gb(count: float) -> str:
    return f"{count / 1e9:.1f} GB"


def _read_model(path: Path, config: Any, plan: Plan, report: Report) -> Any:
    options: dict[str, Any] = {"dtype": "auto" if plan.stored else _DTYPES[plan.dtype]}
    if plan.quantization in ("int8", "nf4", "fp4") and not plan.stored:
        options["quantization_config"] = _bitsandbytes(plan)
    if plan.device != "cpu":
        options["device_map"] = {"": plan.device}
    try:
        with _reading, _progress(report), _without_adapter(path) as folder:
            model, info = _model_class(config).from_pretrained(
                str(folder),
                config=config,
                local_files_only=True,
                use_safetensors=True,
                trust_remote_code=False,
                output_loading_info=True,
                **options,
            )
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise OutOfMemory(
            f"{path.name!r} does not fit the memory of {plan.device}.", "Unload another model, or choose nf4."
        ) from error
    except (OSError, ValueError, RuntimeError, ImportError, KeyError) as error:
        raise ModelUnsupported(
            f"{path.name!r} cannot be loaded: {_first_line(error)}", "Copy or download it again."
        ) from error
    _refuse_missing_weights(path, info)
    return model.eval().requires_grad_(False)


def _try_out(path: Path, model: Any, plan: Plan) -> None:
    """One forward pass: some quantized layers fail only there, and a damaged checkpoint may compute NaN."""
    ids = torch.zeros((1, 2), dtype=torch.long, device=plan.device)
    try:
        with torch.inference_mode():
            logits = model(input_ids=ids).logits
    except (AssertionError, RuntimeError, ValueError, NotImplementedError) as error:
        raise ModelUnsupported(
            f"{path.name!r} loads as {plan.quantization} but cannot compute on {plan.device}: {_first_line(error)}",
            "Choose another quantization.",
        ) from error
    if not torch.isfinite(logits).all():
        raise ModelUnsupported(
            f"{path.name!r} computes NaN or infinite numbers as {plan.dtype}, {plan.quantization}.",
            "Choose float32 or bfloat16, or copy the checkpoint again.",
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
        load_in_4bit=True, bnb_4bit_quant_type=plan.quantization, bnb_4bit_compute_dtype=_DTYPES[plan.dtype]
    )


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


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    line = lines[0] if lines else type(error).__name__
    return line if len(line) <= 200 else line[:197] + "…"
