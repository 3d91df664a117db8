"""Whether an adapter's tensors fit a base, found out with neither's numbers: both are made on torch's meta device.

The base comes from its config.json alone, without quantization; PEFT puts the adapter's layers on it and renames the file's
tensors as it does when it loads them. So bases that are stored quantized or under other names, and adapters of every kind
that PEFT puts on modules, are compared as they will meet. Nothing is downloaded and no code of a checkpoint is run.
"""

from __future__ import annotations

import copy
import functools
import logging
import re
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from playground.errors import PlaygroundError
from playground.local_inference.adapters import WEIGHTS_FILE, fingerprint, read_config, read_safetensors_header
from playground.local_inference.defects import Defective, Finding, Shown, dimensions, folder_name, found, more, short
from playground.local_inference.first_import import import_transformers
from playground.local_inference.headers import TensorHeader, spare_copies
from playground.local_inference.naming import Naming
from playground.local_inference.patterns import endless
from playground.local_inference.validation import is_vocabulary

_NAME = "fit"
_PREFIX = "base_model.model."
# Parts of PEFT's names that refer to one vector of the whole adapter: files hold it once.
_SHARED = (".tinylora_v.", ".unilora_theta_d.")


@dataclass(frozen=True)
class _Met:
    """Names and shapes: what the file brings, by the names that PEFT loads it under, and what the base has room for.

    ``idle`` begin the names of what text does not reach: nothing needs to be brought for it.
    """

    brought: Mapping[str, tuple[int, ...]]
    places: Mapping[str, tuple[int, ...]]
    prefix: str
    idle: tuple[str, ...] = ()


def fit_findings(folder: Path, base: Path) -> tuple[Finding, ...]:
    """What speaks against putting the adapter in ``folder`` on the model in ``base``; () when it fits.

    Takes seconds the first time, for torch and PEFT are imported. "fit-unchecked" says why nothing could be found out.
    Raises `Defective` and OSError for an adapter that cannot be read.
    """
    return _found(folder, fingerprint(folder), base, _state(base / "config.json"))


def _state(file: Path) -> tuple[int, int]:
    stat = file.stat()
    return stat.st_size, stat.st_mtime_ns


@functools.lru_cache(maxsize=64)
def _found(folder: Path, _files: object, base: Path, _config: object) -> tuple[Finding, ...]:
    """The last two are there for the cache: they differ when something was written again."""
    config = read_config(folder)
    try:
        model, reads_more = _empty(base)
    except (PlaygroundError, OSError, ValueError, ImportError) as error:
        return (_unchecked(base, f"the base cannot be made from its config.json ({short(error)})"),)
    unsafe = endless(config, [name for name, _ in model.named_modules()])
    if unsafe:
        return (found("endless-pattern", field=unsafe),)
    tensors = read_safetensors_header(folder / WEIGHTS_FILE)
    try:
        met = _soft_prompt(model, config, tensors) or _meet(model, reads_more, folder, config, tensors)
    except Defective as defect:
        return (defect.finding,)
    except Exception as error:  # PEFT's matching fails in as many ways as there are configurations
        if isinstance(error, NotImplementedError) or "meta tensor" in str(error):
            return (_unchecked(base, "this kind computes with the base's numbers when it is put on"),)
        return (found("no-fit", base=folder_name(base), error=_reason(error)),)
    return tuple(_compared(met))


def _unchecked(base: Path, why: str) -> Finding:
    return found("fit-unchecked", base=folder_name(base), why=Shown(why))


def _reason(error: Exception) -> str:
    first = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    if isinstance(error, KeyError):  # it says only the name of a tensor that it looked for in the file
        return f"the file has no {str(error.args[0] if error.args else '').removeprefix(_PREFIX)}"
    return (first or type(error).__name__).rstrip(".")


def _empty(base: Path) -> tuple[Any, bool]:
    """The model in ``base`` on the meta device, and whether its checkpoint reads more than text."""
    logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)  # of a kernel that nothing needs
    import_transformers()
    import torch
    import transformers

    from playground.local_inference.survey import making_models, model_class
    from playground.local_inference.text_only import unread

    config = transformers.AutoConfig.from_pretrained(str(base), local_files_only=True, trust_remote_code=False)
    kind = model_class(config)
    if kind is None:
        raise ValueError(f"{config.model_type} does not generate text")
    config = copy.deepcopy(config)
    if getattr(config, "quantization_config", None) is not None:
        del config.quantization_config
    with making_models, torch.device("meta"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return kind.from_config(config, dtype=torch.float32, trust_remote_code=False), bool(unread(config))


def _meet(
    model: Any, reads_more: bool, folder: Path, raw: Mapping[str, Any], tensors: Mapping[str, TensorHeader]
) -> _Met:
    """Put the adapter's layers on ``model`` and let PEFT name the file's tensors. Raises what PEFT raises."""
    import torch
    from peft import PeftConfig, PeftModelForCausalLM, set_peft_model_state_dict
    from peft.mapping import PEFT_TYPE_TO_PREFIX_MAPPING

    from playground.local_inference.text_only import beside_decoder

    config = PeftConfig.from_pretrained(str(folder))
    config.inference_mode = True
    if hasattr(config, "init_lora_weights"):
        config.init_lora_weights = True  # others compute with the base's numbers, and the file brings its own
    named = _named(raw, tensors)
    naming = Naming.of(named, dict(model.named_modules()).keys(), reads_more=reads_more)
    idle = tuple(f"{name}." for name, _ in beside_decoder(model)) if reads_more else ()
    named, config = naming.apply(named), naming.config(config)
    grown, spare = _grown_vocabulary(model, named), spare_copies(named)
    brought: dict[str, tuple[int, ...]] = {}

    def note(state: Mapping[str, Any], strict: bool = True) -> Any:
        brought.update({name: tuple(tensor.shape) for name, tensor in state.items()})
        return torch.nn.modules.module._IncompatibleKeys([], [])

    with torch.device("meta"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        wrapped = PeftModelForCausalLM(model, config, adapter_name=_NAME)
        state = {
            name: torch.empty(grown.get(name.removeprefix(_PREFIX), header.shape))
            for name, header in named.items()
            if name not in spare
        }
        places = {name: tuple(tensor.shape) for name, tensor in wrapped.state_dict().items()}
        wrapped.load_state_dict = note  # what PEFT would load: nothing needs to be loaded to be compared
        set_peft_model_state_dict(wrapped, state, adapter_name=_NAME)
    return _Met(brought, places, PEFT_TYPE_TO_PREFIX_MAPPING.get(config.peft_type, ""), idle)


def _soft_prompt(model: Any, config: Mapping[str, Any], tensors: Mapping[str, TensorHeader]) -> _Met | None:
    """A soft prompt, which PEFT would not put on modules; None for other kinds."""
    from playground.local_inference.soft_prompts import is_soft_prompt, why_unfit, width

    kind = str(config.get("peft_type"))
    if not is_soft_prompt(kind):
        return None
    why = why_unfit(kind, model)
    if why:
        raise Defective(found("soft-prompt-misfit", why=why))
    hidden = int(model.get_input_embeddings().weight.shape[1])
    expected = (int(config.get("num_virtual_tokens") or 0), width(kind, model, hidden))
    brought = {f"{name}.{_NAME}": header.shape for name, header in tensors.items()}
    return _Met(brought, {f"prompt_embeddings.{_NAME}": expected}, "prompt_embeddings")


def _named(config: Mapping[str, Any], tensors: Mapping[str, TensorHeader]) -> dict[str, TensorHeader]:
    """The file's tensors as PEFT writes them: LoRA is read here without its prefix and with an adapter's name, too."""
    if config.get("peft_type") != "LORA":
        return dict(tensors)
    prefix = "" if any(name.startswith("base_model.") for name in tensors) else _PREFIX
    return {prefix + name.replace(".default.", "."): header for name, header in tensors.items()}


def _grown_vocabulary(model: Any, tensors: Mapping[str, TensorHeader]) -> dict[str, tuple[int, ...]]:
    """Embeddings and heads in the file with more rows than the base's, with the base's shape: attaching makes room."""
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    grown = {}
    for tensor, header in tensors.items():
        name = tensor.removeprefix(_PREFIX)
        own = shapes.get(name.replace(".token_adapter", "").replace(".base_layer", ""), ())
        if own and is_vocabulary(name) and header.shape[1:] == own[1:] and header.shape[:1] > own[:1]:
            grown[name] = own
    return grown


def _compared(met: _Met) -> Iterator[Finding]:
    absent = [name for name in met.brought if name not in met.places]
    if absent:
        yield found("fit-unexpected", tensor=_shown(absent[0]), more=more(absent))
    wrong = [name for name, shape in met.brought.items() if met.places.get(name, shape) != shape]
    for name in wrong[:1]:
        ours, places = dimensions(met.brought[name]), dimensions(met.places[name])
        yield found("fit-shape", tensor=_shown(name), adapter=ours, base=places, more=more(wrong))
    missing = [name for name in met.places if name not in met.brought and _is_ours(name, met.prefix)]
    missing = [name for name in missing if not name.removeprefix(_PREFIX).startswith(met.idle)]
    if missing:
        layers = all(re.search(r"\.lora_[AB]\.", name) and name.endswith(".weight") for name in missing)
        code = "fit-missing" if layers else "fit-lacking"  # a LoRA may do without some layers, nothing else may
        yield found(code, count=len(missing), tensor=_shown(missing[0]))


def _is_ours(name: str, prefix: str) -> bool:
    return prefix in name and f".{_NAME}" in name and not any(shared in name for shared in _SHARED)


def _shown(name: str) -> str:
    return name.removeprefix(_PREFIX).replace(f".{_NAME}", "")
