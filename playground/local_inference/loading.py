"""From a path or hub id to a model in memory: resolve, refuse what cannot work, plan, read, and say why.

Nothing here runs code from a checkpoint: no remote code, no pickle.
"""

from __future__ import annotations

import copy
import json
import os
import tempfile
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
import transformers
from huggingface_hub import snapshot_download, try_to_load_from_cache
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING,
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES,
)
from transformers.pytorch_utils import Conv1D

from playground.errors import AdapterInvalid, ModelNotFound, ModelUnsupported, OutOfMemory
from playground.local_inference.adapters import TEMPLATE_FILE, read_safetensors_header
from playground.local_inference.memory import Need, Room, Ticket, mapped_files, size_text
from playground.types import ModelSpec, Status

Report = Callable[[Status], None]

_OWN_FILES = ("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", TEMPLATE_FILE)
_HUB_FILES = ("*.json", "*.safetensors", "*.model", "*.txt", "*.jinja", "*.tiktoken")
# Bytes that bitsandbytes takes for one weight of a linear: 4 bits and a float32 scale for every 64 of them, or 8 bits.
_BYTES = {"int8": 1.0, "nf4": 0.5625, "fp4": 0.5625}
_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
# Kinds of stored checkpoints that transformers unpacks where there is no CUDA.
_NEEDS_CUDA = {"mxfp4", "fp8"}
_SMALL = 1_000_000_000
# Room beside the weights: a conversation of so many tokens, and the logits of so many rows, twice.
_MODERATE = 2048
_ROWS = 32
_FEWER = "Unload another model, choose a smaller one, or let models take more (memory_budget)."

# transformers' progress hook is one for the whole process, so checkpoints are read one at a time.
_reading = threading.Lock()

# What the load under way in this thread asks for room; one of its own where nobody keeps an account.
_ticket: ContextVar[Ticket | None] = ContextVar("ticket", default=None)


@dataclass(frozen=True)
class Plan:
    """How a base will be loaded, and why; ``stored`` names the checkpoint's own quantization where it has one."""

    device: str
    dtype: str
    quantization: str
    reason: str
    stored: bool = False


@dataclass(frozen=True)
class Survey:
    """What is known of a base before any of its weights is read.

    ``linear`` counts those of the ``parameters`` that bitsandbytes quantizes; ``stored`` are the checkpoint's bytes,
    ``row`` the elements of the keys and values of one token.
    """

    path: Path
    config: Any
    parameters: int
    linear: int
    stored: int
    window: int
    vocabulary: int
    row: int


@dataclass(frozen=True)
class LoadedBase:
    """A model ready for inference with its tokenizer and what it says of itself.

    ``files`` are the names, sizes and modification times of what it was read from.
    """

    model: Any
    tokenizer: Any
    path: Path
    plan: Plan
    window: int
    parameters: int
    bytes: int
    files: tuple[tuple[str, int, int], ...] = ()

    @property
    def is_current(self) -> bool:
        """False once a file was replaced: trained again, or copied over. Files that are gone change nothing."""
        return all(_stat(self.path / name) in (None, (size, time)) for name, size, time in self.files)


@contextmanager
def asking(ticket: Ticket) -> Iterator[None]:
    """Within the block, what this thread loads reserves its room with ``ticket``."""
    before = _ticket.set(ticket)
    try:
        yield
    finally:
        _ticket.reset(before)


def locate(base: str) -> str:
    """Where ``base`` is on this machine: the resolved folder, or its revision's snapshot; ``base`` itself where neither is.

    Never fetches anything; a few file system calls.
    """
    folder = os.path.expanduser(base)
    if os.path.isdir(folder):
        return os.path.realpath(folder)
    name, revision = _revision(base)
    try:
        file = try_to_load_from_cache(name, "config.json", revision=revision)
    except (HFValidationError, ValueError):
        return base
    return os.path.realpath(os.path.dirname(file)) if isinstance(file, str) else base


def resolve(base: str, report: Report) -> Path:
    """The local folder of ``base``; a hub id (``org/name`` or ``org/name@revision``) is looked up in the local cache first.

    What the cache has not as a whole is downloaded. Raises `ModelNotFound` with what to do: a mistyped id, a gated model,
    no network.
    """
    folder = Path(os.path.expanduser(base))
    if os.path.isdir(folder):
        _refuse_other_folders(folder)
        return folder.resolve()
    if folder.is_absolute() or base.startswith("."):
        raise ModelNotFound(f"There is no model folder {base!r}.", "Check the path.")
    name, revision = _revision(base)
    try:
        found = snapshot_download(name, revision=revision, allow_patterns=list(_HUB_FILES), local_files_only=True)
        if _is_whole(Path(found)):
            return Path(found).resolve()
    except HFValidationError as error:
        raise ModelNotFound(f"{base!r} is no folder and no hub id.", "A hub id looks like org/name.") from error
    except (LocalEntryNotFoundError, FileNotFoundError):
        pass  # nothing of it is here
    report(Status("loading", f"downloading {base}"))
    return _download(base)


def load_base(spec: ModelSpec, report: Report) -> LoadedBase:
    """Read ``spec``'s base. Raises `ModelNotFound`, `ModelUnsupported` or `OutOfMemory` before or instead of guessing."""
    report(Status("loading", "looking for the model"))
    path = resolve(spec.base, report)
    files = _files(path)  # before they are read: what changes meanwhile is noticed by the next request
    survey = survey_base(path)
    device, why = _choose_device(spec.device)
    ticket = _ticket.get() or Room().ticket()
    plan: Plan = ticket.reserve(device, partial(plan_load, spec, survey, device, why), report)
    report(Status("loading", f"reading weights ({plan.dtype}, {plan.quantization})", 0.0))
    tokenizer = read_tokenizer(survey.path)
    model = _read_model(survey.path, survey.config, plan, report)
    _try_out(survey.path, model, plan)
    return LoadedBase(
        model=model,
        tokenizer=tokenizer,
        path=survey.path,
        plan=plan,
        window=context_window(survey.config, tokenizer),
        parameters=survey.parameters,
        bytes=weight_bytes(model),
        files=files,
    )


def survey_base(path: Path) -> Survey:
    """What config.json and the safetensors headers in ``path`` say. Raises `ModelUnsupported` for what cannot be run."""
    config = _read_config(path)
    _refuse_other_models(path, config)
    stored_parameters, stored = _checkpoint_size(path)
    parameters, linear = _layout(config) or (stored_parameters, stored_parameters)
    text = config.get_text_config()
    vocabulary = getattr(text, "vocab_size", 0)
    return Survey(
        path=path,
        config=config,
        parameters=parameters,
        linear=linear,
        stored=stored,
        window=context_window(config, None),
        vocabulary=vocabulary if isinstance(vocabulary, int) else 0,
        row=row_elements(text),
    )


def plan_load(spec: ModelSpec, survey: Survey, device: str, why_device: str, available: int) -> tuple[Plan, Need]:
    """How to load ``survey``'s base on ``device`` where ``available`` bytes can be had: the best that fits, and its need.

    The plan gives the reason for each choice. Where nothing fits it is the smallest, and the need is more than there is.
    Raises `ModelUnsupported` where a stored quantization is asked to be another one.
    """
    if stored := _stored_quantization(survey.config):
        return _plan_stored(spec, survey, device, why_device, stored)
    choices = _choices(spec, survey.parameters, device)
    needs = [_need(survey, device, *choice) for choice in choices]
    fitting = (at for at, need in enumerate(needs) if need.total <= available)
    smallest = min(range(len(needs)), key=lambda at: needs[at].total)
    at = next(fitting, smallest)
    if at == 0:
        room = f"needs about {size_text(needs[0].total)} of the {size_text(available)} that can be had"
    else:
        room = f"{needs[0].what} would need {size_text(needs[0].total)}, and {size_text(available)} can be had"
    need = replace(needs[at], name=repr(spec.base))
    if need.total > available:
        need = replace(need, remedy=_remedy(spec, survey, device, available))
    dtype, quantization = choices[at]
    why_dtype = f"{dtype} as asked" if spec.dtype != "auto" else _why_dtype(dtype, device, survey.parameters)
    why = f"{why_device}; {why_dtype}; {_why_quantization(spec, quantization)}; {room}"
    return Plan(device, dtype, quantization, why), need


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


def row_elements(text_config: Any) -> int:
    """How many numbers one token's keys and values are; 0 where the architecture does not tell."""
    heads = getattr(text_config, "num_key_value_heads", None) or getattr(text_config, "num_attention_heads", None)
    size, width = getattr(text_config, "head_dim", None), getattr(text_config, "hidden_size", None)
    if size is None and isinstance(heads, int) and isinstance(width, int):
        size = width // text_config.num_attention_heads
    layers = getattr(text_config, "num_hidden_layers", None)
    if not (isinstance(layers, int) and isinstance(heads, int) and isinstance(size, int)):
        return 0
    return 2 * layers * heads * size


def weight_bytes(model: Any) -> int:
    """Bytes of ``model``'s weights in memory, each counted once: tied and joined ones too, and what quantizing adds."""
    return sum(count for _, count in _spans(model))


def mapped_bytes(model: Any) -> int:
    """Bytes of ``model``'s weights that lie in a mapped checkpoint file; the system counts them as free memory."""
    files = mapped_files(".safetensors") if any(p.device.type == "cpu" for p in model.parameters()) else []
    return sum(count for at, count in _spans(model) if any(start <= at < end for start, end in files))


def leave_files(model: Any) -> None:
    """Copy into memory what ``model`` still has in mapped checkpoint files, where that is less than half of them.

    A file stays mapped as a whole while one tensor in it is used, an embedding beside quantized or joined linears.
    """
    files = [span for span in mapped_files(".safetensors") if any(_within(p, [span]) for p in model.parameters())]
    inside = [p for p in (*model.parameters(), *model.buffers()) if _within(p, files)]
    if sum(map(_size, inside)) < 0.5 * sum(end - start for start, end in files):
        for tensor in inside:
            tensor.data = tensor.data.clone()


def _within(tensor: torch.Tensor, files: list[tuple[int, int]]) -> bool:
    return tensor.device.type == "cpu" and any(start <= tensor.data_ptr() < end for start, end in files)


def _size(tensor: torch.Tensor) -> int:
    return int(tensor.numel() * tensor.element_size())


def _spans(model: Any) -> set[tuple[int, int]]:
    """(address, bytes) of everything that ``model`` consists of."""
    found = [*model.parameters(), *model.buffers()]
    for parameter in list(found):
        state = getattr(parameter, "quant_state", None)
        scales = (getattr(parameter, "CB", None), getattr(parameter, "SCB", None))
        found += [tensor for tensor in (getattr(state, "absmax", None), *scales) if isinstance(tensor, torch.Tensor)]
    return {(tensor.data_ptr(), _size(tensor)) for tensor in found if tensor.numel()}


def _files(folder: Path) -> tuple[tuple[str, int, int], ...]:
    """(name, size, modification time in ns) of the files that decide what a base answers."""
    names = [*_OWN_FILES, *sorted(path.name for path in folder.glob("*.safetensors"))]
    stats = [(name, _stat(folder / name)) for name in names if not name.startswith("adapter_")]
    return tuple((name, *stat) for name, stat in stats if stat is not None)


def _stat(file: Path) -> tuple[int, int] | None:
    try:
        stat = os.stat(file)
    except OSError:
        return None
    return stat.st_size, stat.st_mtime_ns


def _revision(base: str) -> tuple[str, str | None]:
    """A hub id and its revision, None for the newest that is there."""
    name, _, revision = base.partition("@")
    return name, revision or None


def _is_snapshot(folder: Path) -> bool:
    return folder.parent.name == "snapshots"


def _is_whole(folder: Path) -> bool:
    """Whether a snapshot has its configuration and weights; a download that was broken off, or fetched less, has not."""
    index = folder / "model.safetensors.index.json"
    try:
        files = _weight_files(folder)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return index.is_file()  # damaged; it is refused by name when it is read
    return (folder / "config.json").is_file() and bool(files) and all(file.is_file() for file in files)


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
    """Fetch ``base`` from the hub. Raises `ModelNotFound`, also where only a part of it could be had."""
    name, revision = _revision(base)
    try:
        folder = Path(snapshot_download(name, revision=revision, allow_patterns=list(_HUB_FILES))).resolve()
    except GatedRepoError as error:
        raise ModelNotFound(
            f"{base!r} is gated.", f"Accept its terms at huggingface.co/{name}, then start the app with HF_TOKEN set."
        ) from error
    except RepositoryNotFoundError as error:
        raise ModelNotFound(
            f"The hub has no model {base!r}, or it is private.", "Check the id; for a private one set HF_TOKEN."
        ) from error
    except RevisionNotFoundError as error:
        raise ModelNotFound(f"{name!r} has no revision {revision!r}.", "Name a branch, a tag or a commit.") from error
    except (OfflineModeIsEnabled, LocalEntryNotFoundError, HfHubHTTPError, OSError) as error:
        raise ModelNotFound(
            f"{base!r} is not on this machine and could not be downloaded.",
            "Check the id and the network, or type the path of a folder.",
        ) from error
    # Without a network huggingface_hub gives what there is. That there are no weights at all is refused in its own words.
    if _is_whole(folder) or ((folder / "config.json").is_file() and not _weight_files(folder)):
        return folder
    raise ModelNotFound(
        f"Only part of {base!r} is on this machine, and the rest could not be downloaded.",
        "Check the network, then try again.",
    )


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
            "Convert it with save_pretrained(…) of a current transformers"
            + (", or load it again with a network if its download was broken off." if _is_snapshot(path) else "."),
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


def _layout(config: Any) -> tuple[int, int] | None:
    """(parameters, those of them that bitsandbytes quantizes) of the model without its memory; None where it cannot be made.

    The headers do not tell: experts stored one by one become a single tensor, and neither it nor a head is quantized.
    """
    config = copy.deepcopy(config)
    if getattr(config, "quantization_config", None) is not None:
        del config.quantization_config
    try:
        # float32 is torch's own default: any other would be every thread's default while the model is made.
        with _reading, torch.device("meta"), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model = _model_class(config).from_config(config, dtype=torch.float32, trust_remote_code=False)
    except Exception:  # whatever it is, reading the weights says it better
        return None
    ends = {id(model.get_input_embeddings()), id(model.get_output_embeddings())}
    linears = [
        module for module in model.modules() if type(module) in (torch.nn.Linear, Conv1D) and id(module) not in ends
    ]
    return sum(p.numel() for p in model.parameters()), sum(module.weight.numel() for module in linears)


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


def _stored_quantization(config: Any) -> str:
    """How the checkpoint is quantized already, by our names where it is bitsandbytes; "" where it is not."""
    stored = getattr(config, "quantization_config", None)
    if not stored:
        return ""
    said = stored if isinstance(stored, dict) else stored.to_dict()
    if said.get("load_in_8bit"):
        return "int8"
    if said.get("load_in_4bit"):
        return str(said.get("bnb_4bit_quant_type", "fp4"))
    return str(said.get("quant_method", "unknown"))


def _plan_stored(spec: ModelSpec, survey: Survey, device: str, why_device: str, stored: str) -> tuple[Plan, Need]:
    asked = "nf4" if spec.quantization == "int4" else spec.quantization
    if asked not in ("auto", "none", stored):
        raise ModelUnsupported(
            f"{survey.path.name!r} is stored quantized as {stored} and cannot become {asked}.",
            "Choose auto to load it as it is stored.",
        )
    spread = stored in _NEEDS_CUDA and not device.startswith("cuda")
    weights = max(survey.stored, survey.parameters * _width("bfloat16")) if spread else survey.stored
    need = Need(f"stored, {stored}", weights, name=repr(spec.base), remedy=_FEWER)
    why = f"{why_device}; {stored}, as the checkpoint is stored{', but without a GPU it is unpacked' if spread else ''}"
    return Plan(device, "stored", stored, why, stored=True), _beside(need, survey, "bfloat16")


def _choices(spec: ModelSpec, parameters: int, device: str) -> list[tuple[str, str]]:
    """(dtype, quantization) in the order in which they are wanted."""
    if spec.dtype != "auto":
        dtypes = [str(spec.dtype)]
    elif device == "cpu":
        dtypes = ["float32", "bfloat16"] if parameters <= _SMALL else ["bfloat16"]
    else:
        dtypes = ["float16"] if device == "mps" else ["bfloat16"]
    if spec.quantization != "auto":
        return [(dtype, "nf4" if spec.quantization == "int4" else str(spec.quantization)) for dtype in dtypes]
    smaller = ("int8", "nf4") if device.startswith("cuda") else ("nf4",)
    return [(dtype, "none") for dtype in dtypes] + [(dtypes[-1], kind) for kind in smaller]


def _remedy(spec: ModelSpec, survey: Survey, device: str, available: int) -> str:
    """What to do where ``spec`` does not fit."""
    freely = replace(spec, dtype="auto", quantization="auto")
    for choice in _choices(freely, survey.parameters, device):
        need = _need(survey, device, *choice)
        if need.total <= available:
            return f"As {need.what} it needs {size_text(need.total)} and would fit; auto chooses that."
    return _FEWER


def _why_dtype(dtype: str, device: str, parameters: int) -> str:
    if device != "cpu":
        return f"{dtype} on {'Apple’s GPU' if device == 'mps' else 'a GPU'}"
    if dtype == "float32":
        return "float32 is exact and fastest for a small model on a CPU"
    return "bfloat16 halves the memory of a large model on a CPU" if parameters > _SMALL else "bfloat16 to save memory"


def _why_quantization(spec: ModelSpec, quantization: str) -> str:
    if spec.quantization == "int4":
        return "nf4 as asked (int4 means nf4)"
    if spec.quantization != "auto":
        return f"{quantization} as asked" if quantization != "none" else "unquantized as asked"
    return "unquantized" if quantization == "none" else f"{quantization} to save memory"


def _need(survey: Survey, device: str, dtype: str, quantization: str) -> Need:
    """What the base takes so. On a CPU bitsandbytes reads all of it unquantized before memory comes back."""
    whole = survey.parameters * _width(dtype)
    if quantization == "none":
        return _beside(Need(f"{dtype}, unquantized", whole, remedy=_FEWER), survey, dtype)
    weights = whole - survey.linear * _width(dtype) + int(survey.linear * _BYTES[quantization])
    reading = whole if device == "cpu" else 0
    return _beside(Need(f"{dtype}, {quantization}", weights, reading=reading, remedy=_FEWER), survey, dtype)


def _beside(need: Need, survey: Survey, dtype: str) -> Need:
    """``need`` with a conversation's keys and values, and logits."""
    row = survey.row * _width(dtype) * min(survey.window, _MODERATE)
    return replace(need, row=row, logits=2 * _ROWS * survey.vocabulary * _width("float32"))


def _width(dtype: str) -> int:
    return int(_DTYPES[dtype].itemsize)


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
        raise _no_room(path, plan) from error
    except (OSError, ValueError, RuntimeError, ImportError, KeyError) as error:
        if "can't allocate memory" in str(error):  # torch has no exception of its own for the machine's memory
            raise _no_room(path, plan) from error
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
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise _no_room(path, plan) from error
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


def _no_room(path: Path, plan: Plan) -> OutOfMemory:
    return OutOfMemory(
        f"{path.name!r} as {plan.dtype}, {plan.quantization} does not fit the memory of {plan.device} after all.",
        _FEWER,
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
