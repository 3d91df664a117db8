"""An adapter's folder → an adapter that is ready to be put on a base: checked, read, and nothing on the base changed yet.

Who serves it is decided here. A LoRA or DoRA on linears that our passes go through becomes tensors beside them, as do PiSSA
and OLoRA; a soft prompt becomes keys and values; both share every batch. All else is PEFT's, in turns.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from peft import PeftConfig

from playground.errors import AdapterInvalid, PlaygroundError
from playground.local_inference.adapters import (
    WEIGHTS_FILE,
    AdapterReport,
    content_hash,
    fingerprint,
    lora_pairs,
    read_safetensors_header,
)
from playground.local_inference.doctor import full_report
from playground.local_inference.explain import explain, ran_out
from playground.local_inference.footprint import is_fetched
from playground.local_inference.lora import LoraWeights, is_plain, missing_layers, read_weights
from playground.local_inference.naming import Naming
from playground.local_inference.own_tokenizers import adapter_tokenizer
from playground.local_inference.patterns import endless
from playground.local_inference.pickles import as_safetensors
from playground.local_inference.pissa import on_untouched_base, starts_from_base
from playground.local_inference.places import Report
from playground.local_inference.proof import EMBEDDINGS, names_in_short, particular_tokens
from playground.local_inference.resident import Attached, Resident
from playground.local_inference.soft_prompts import VirtualTokens, is_soft_prompt, read_virtual_tokens
from playground.types import AdapterInfo, LoadedAdapter, Proof, Status


def read_adapter(
    resident: Resident, path: str, report: Report, roots: Sequence[Path] = (), pickles: Path | None = None
) -> Attached:
    """Validate and read the adapter in folder ``path`` for ``resident``; nothing on the base changes yet.

    ``roots`` and ``pickles`` as `LocalInference` explains them. Raises `AdapterInvalid` with every problem found.
    """
    folder = Path(path)
    report(Status("loading", f"attaching adapter {folder.name}"))
    checked = full_report(folder, None, roots, pickles)
    if checked.info.problems:
        *others, last = (finding for finding in checked.findings if finding.severity == "problem")
        said = [f"Adapter {folder.name!r} cannot be used.", *(one.sentence for one in others), last.message]
        raise AdapterInvalid(" ".join(said), last.remedy)
    files = fingerprint(folder)
    folder = as_safetensors(folder, pickles)
    config = _config(folder, checked.info.peft_type)
    _refuse_endless(resident, folder, config)
    _refuse_on_quantized(resident, folder, config)
    try:
        return _read(resident, path, folder, config, checked, files, report)
    except PlaygroundError:
        raise
    except Exception as error:  # a malformed configuration breaks PEFT's own matching in many ways
        if ran_out(error):
            raise explain(error) from error
        raise AdapterInvalid(
            f"Adapter {folder.name!r} cannot be read: {type(error).__name__}: {error}.",
            "Check adapter_config.json, or save the adapter again with PEFT.",
        ) from error


def _config(folder: Path, kind: str) -> Any:
    try:
        return PeftConfig.from_pretrained(str(folder))
    except (ValueError, TypeError, KeyError, OSError) as error:
        raise AdapterInvalid(
            f"Adapter {folder.name!r} is of a kind that PEFT does not know ({kind}): {error}.",
            "Use a newer peft, or another adapter.",
        ) from error


def _refuse_endless(resident: Resident, folder: Path, config: Any) -> None:
    """Raise `AdapterInvalid` for a regular expression that would keep PEFT busy on this base's modules."""
    field = endless(vars(config), list(resident.modules))
    if field:
        raise AdapterInvalid(
            f"Adapter {folder.name!r} has a regular expression in {field} that takes too long to be tried on the names of "
            "this base's modules.",
            f"List the modules by name in {field} of adapter_config.json instead.",
        )


def _refuse_on_quantized(resident: Resident, folder: Path, config: Any) -> None:
    quantization = resident.loaded.plan.quantization
    init = starts_from_base(getattr(config, "init_lora_weights", None))
    fetched = is_fetched(resident.model)
    whole = quantization == "none" and not fetched
    if whole or not (getattr(config, "use_dora", False) or init):
        return
    what = f"was initialised with {init!r}, from" if init else "is a DoRA, which is measured against"
    if fetched:
        raise AdapterInvalid(
            f"Adapter {folder.name!r} {what} the base's own weights, and this base is spread over several memories: they "
            "are not at hand between two passes.",
            "Load it on a machine that holds the base in one; a plain LoRA works on this one.",
        )
    raise AdapterInvalid(
        f"Adapter {folder.name!r} {what} the base's own weights, and this base is quantized ({quantization}): they are no "
        "longer there in full.",
        "Load the base without quantization.",
    )


def _read(
    resident: Resident,
    path: str,
    folder: Path,
    config: Any,
    checked: AdapterReport,
    files: tuple[tuple[str, int, int, int, int], ...],
    report: Report,
) -> Attached:
    info = checked.info
    header = read_safetensors_header(folder / WEIGHTS_FILE)
    naming = resident.naming(header)
    names, config = naming.apply(header), naming.config(config)
    weights = _lora(resident, folder, config, info, names, naming, report)
    virtual = _soft_prompt(resident, folder, config, info)
    missing = missing_layers(config, resident.modules, weights) if weights is not None else []
    missing = [name for name in missing if not name.startswith(tuple(f"{part}." for part in resident.loaded.idle))]
    own = max([resident.vocabulary, *(t.shape[0] for name, t in names.items() if EMBEDDINGS.search(name) and t.shape)])
    tokenizer = adapter_tokenizer(folder, resident.loaded.tokenizer, own)
    loaded = LoadedAdapter(
        name=folder.name,
        path=path,
        sha256=content_hash(Path(path)),
        bytes=info.bytes,
        exclusive=weights is None and virtual is None,
        moves_logits=False,
        warnings=_warnings(resident, info, missing, naming),
        kind=info.peft_type,
        proof=Proof(len(names), tuple(missing)),
    )
    particular = particular_tokens(folder, config, resident.embeddings)
    return Attached(loaded, folder, files, tokenizer, weights, virtual, particular)


def _lora(
    resident: Resident, folder: Path, config: Any, info: AdapterInfo, names: Any, naming: Naming, report: Report
) -> LoraWeights | None:
    """The weights of one that is served beside the base's linears; None for others."""
    init = starts_from_base(getattr(config, "init_lora_weights", None)) if info.peft_type == "LORA" else ""
    plain = info.peft_type == "LORA" and is_plain(config, resident.modules, names)
    plain = plain and not (lora_pairs(names).keys() & resident.scattered)
    # What our own pass does not go through it would leave out in silence; PEFT does not.
    plain = plain and (resident.packed is None or lora_pairs(names).keys() <= resident.packed.linears)
    if init and not plain:
        raise AdapterInvalid(
            f"Adapter {folder.name!r} was initialised with {init!r}, which rewrites the base's weights, and is more than a "
            "LoRA on linears, so it cannot be turned into a plain one.",
            "Convert it to one first (PEFT: save_pretrained(path_initial_model_for_weight_conversion=…)).",
        )
    if not plain:
        return None
    dtype = resident.dtype if resident.dtype.is_floating_point else torch.float32
    if not init:
        return read_weights(folder, config, resident.modules, dtype, naming)

    def note(done: int, of: int) -> None:
        what = f"attaching adapter {folder.name}: taking {init} out of the base's weights"
        report(Status("loading", what, done / of))

    weights = read_weights(folder, config, resident.modules, torch.float32, naming)
    return on_untouched_base(weights, init, folder.name, note)


def _soft_prompt(resident: Resident, folder: Path, config: Any, info: AdapterInfo) -> VirtualTokens | None:
    if not is_soft_prompt(info.peft_type):
        return None
    return read_virtual_tokens(folder, config, resident.model, int(resident.embeddings.shape[1]))


def _warnings(resident: Resident, info: AdapterInfo, missing: list[str], naming: Naming) -> tuple[str, ...]:
    found = list(info.warnings)
    names = {resident.base, str(resident.loaded.path), resident.loaded.path.name}
    if info.base and info.base not in names and Path(info.base).name not in {Path(name).name for name in names}:
        found.append(f"It was trained on {info.base!r}; make sure that this is the same model.")
    if naming.unused:
        senses = " and ".join(resident.loaded.unread)
        found.append(f"{len(naming.unused)} of its tensors are for {senses}, which are not read here, and have no use.")
    if missing:
        found.append(
            f"It has no weights for {len(missing)} layers that its configuration names: {names_in_short(missing)}."
        )
    return tuple(found)
