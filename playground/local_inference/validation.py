"""What configuration, tensor names and shapes say is wrong with an adapter, alone and against a base; opens no tensor.

The installed PEFT's kinds and fields are read from its source: importing it would take seconds. Where headers cannot tell,
nothing is guessed: a check that refuses good adapters is worse than none.
"""

from __future__ import annotations

import functools
import importlib.metadata
import importlib.util
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from playground.local_inference.defects import Defective, Finding, Shown, dimensions, folder_name, found, more, short
from playground.local_inference.headers import (
    TensorHeader,
    base_headers,
    dora_magnitudes,
    embedding_pairs,
    lora_pairs,
    read_json,
)
from playground.local_inference.patterns import is_quick

Config = Mapping[str, Any]
Tensors = Mapping[str, TensorHeader]

_NUMBERS = ("F64", "F32", "F16", "BF16")
# Far above any rank that trains; PEFT makes matrices of the configured rank before it looks at the weights.
_MAX_RANK = 16_384
_VOCABULARY = re.compile(
    r"(embed_tokens|lm_head|wte|embed_in|embed_out|word_embeddings)"
    r"(\.modules_to_save|\.original_module|\.token_adapter|\.base_layer)*\.weight$"
)
# Python warns that these will mean something else one day.
_SETS_OF_SETS = re.compile(r"\[\[|--|&&|~~|\|\|")
_LAYER = re.compile(r"(?:^|\.)(?:layers|h|blocks)\.(\d+)\.")

# Loading one of these into a model changes the model's own weights for good, so it may never touch a shared base.
_REWRITES_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")
# Those whose change of the base follows from the base's weights alone: pissa.py turns them into a LoRA.
_BECOMES_LORA = ("pissa", "olora")
# Kinds that need a task with each answer, or attention of their own.
_UNSERVED_KINDS = {"MULTITASK_PROMPT_TUNING", "ADAPTION_PROMPT", "POLY"}
_PROMPT_LEARNING = {
    "PROMPT_TUNING", "MULTITASK_PROMPT_TUNING", "P_TUNING", "PREFIX_TUNING", "ADAPTION_PROMPT", "CPT", "CARTRIDGE",
}  # fmt: skip
# Why the same request would have other answers.
_WEIGHS_THE_PASS = (
    "it weighs its parts by all tokens that the model reads in one pass, so the same text has other answers when it is read "
    "in other pieces"
)
_DRAWS = "with sample_at_inference it draws random numbers in every layer, which no request's seed decides"
# What the tensor names of a kind contain; kinds that are not here are not looked at.
_MARKS = {
    "ADALORA": "lora_", "IA3": "ia3_", "LOHA": "hada_", "LOKR": "lokr_", "OFT": "oft_", "BOFT": "boft_", "VERA": "vera_",
}  # fmt: skip
# What wrappers around the model leave in the names when the adapter is saved without taking them off.
_WRAPPERS = ("_orig_mod.", "_fsdp_wrapped_module.", "base_model.model.base_model.model.")
# Fields that give A and B other shapes than [rank, in] and [out, rank].
OTHER_SHAPES = ("use_bdlora", "use_qalora", "velora_config", "kasa_config", "monteclora_config", "layer_replication")
# Decoders whose checkpoints name their tensors as the model names its modules, in every release of transformers.
_DIRECT_NAMES = {
    "llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "gemma3_text", "phi", "phi3", "olmo", "olmo2", "granite",
    "smollm3", "stablelm", "starcoder2",
}  # fmt: skip
# Values with which a field that PEFT does not know says nothing: newer versions write all of theirs.
_INERT: tuple[Any, ...] = (None, False, "", [], {})
# Where the fields of kinds are declared that build on others.
_PARENTS = {"ADALORA": "tuners/lora/config.py", "LOHA": "tuners/lycoris_utils.py", "LOKR": "tuners/lycoris_utils.py"}


def config_findings(config: Config) -> Iterator[Finding]:
    """What is wrong with the configuration by itself."""
    kind = config.get("peft_type")
    if not isinstance(kind, str) or not kind:
        yield found("mlx" if "fine_tune_type" in config else "no-kind")
        return
    kinds = _peft_kinds()
    if kinds and kind not in kinds:
        yield found("unknown-kind", kind=repr(kind), version=peft_version())
        return
    if kind in _UNSERVED_KINDS:
        yield found("unsupported-kind", kind=kind)
    elif config.get("alora_invocation_tokens"):  # where it begins in the text PEFT forgets after the prompt
        yield found("unsupported-kind", kind="Activated LoRA (aLoRA)")
    if kind == "LILY":
        yield found("unsteady-kind", kind=kind, why=Shown(_WEIGHS_THE_PASS))
    elif kind == "PVERA" and config.get("sample_at_inference"):
        yield found("unsteady-kind", kind=kind, why=Shown(_DRAWS))
    task = config.get("task_type")
    if task not in (None, "CAUSAL_LM"):
        yield found("other-task", task=task)
    init = config.get("init_lora_weights")
    if kind == "LORA" and isinstance(init, str) and init.lower() in _BECOMES_LORA:
        yield found("becomes-lora", init=repr(init))
    elif isinstance(init, str) and init.lower().startswith(_REWRITES_BASE):
        yield found("rewrites-base", init=repr(init))
    if config.get("layer_replication"):
        yield found("repeats-layers")
    reaches = _reaches_out(kind, config)
    if reaches:
        yield found("reaches-out", field=reaches, value=repr(config.get(reaches)))
    yield from _field_findings(kind, config)
    yield from _unknown_fields(kind, config)


def _reaches_out(kind: str, config: Config) -> str:
    """The field with which the adapter would have PEFT read other files, download, or import a module; "" for none."""
    if config.get("megatron_config"):
        return "megatron_core"
    if kind == "XLORA":
        return "adapters"
    if kind == "SHADOW" and config.get("shadow_model", "mirror") != "mirror":
        return "shadow_model"
    return ""


def tensor_findings(config: Config, tensors: Tensors) -> Iterator[Finding]:
    """What is wrong with the tensors' names, types and shapes under this configuration."""
    kind = config.get("peft_type")
    if not tensors:
        yield found("no-tensors")
    elif isinstance(kind, str) and kind not in _PROMPT_LEARNING:
        unreadable = _unreadable_names(kind, config, tensors)
        if unreadable:
            yield unreadable
        elif kind == "LORA":
            yield from _lora_findings(config, tensors)


def shares_batches(config: Config, tensors: Tensors) -> bool:
    """Whether rows with this adapter can share a batch with others: plain LoRA and DoRA on linears, and soft prompts."""
    kind = config.get("peft_type")
    if kind == "LORA":
        return 2 * len(lora_pairs(tensors)) + len(dora_magnitudes(tensors)) == len(tensors)
    return isinstance(kind, str) and kind in _PROMPT_LEARNING - _UNSERVED_KINDS


def base_findings(config: Config, tensors: Tensors, base: Path) -> Iterator[Finding]:
    """What speaks against the model in folder ``base``: another name, or shapes that cannot fit."""
    model = read_json(base / "config.json")
    yield from _base_name(config, model, base)
    why = _why_unchecked(config, model)
    stored: Tensors = {}
    if not why:
        try:
            stored = base_headers(base)
        except (Defective, OSError) as error:
            why = str(error).rstrip(".")
    if not why and not any(name.startswith("model.layers.") for name in stored):
        why = "its checkpoint names its tensors in another way"
    if why:
        yield found("fit-unchecked", base=folder_name(base), why=Shown(why))
    else:
        yield from _fit_findings(model, tensors, stored)
        yield from _missing_layers(config, tensors, stored)
        if _chooses_otherwise(config) or not all(map(_expected, tensors)):
            yield found("fit-unchecked", base=folder_name(base), why=Shown("there is more in it than names tell"))


def peft_version() -> str:
    """The installed PEFT's version, without importing it."""
    try:
        return importlib.metadata.version("peft")
    except importlib.metadata.PackageNotFoundError:
        return "(not installed)"


def pattern_value(patterns: Any, module: str, default: Any) -> Any:
    """What ``rank_pattern`` or ``alpha_pattern`` say for ``module``, by PEFT's rule: the first that matches the name's end.

    None when a pattern is one that cannot be tried safely.
    """
    for pattern, value in patterns.items() if isinstance(patterns, dict) else ():
        matched = _matches(rf"(?:.*\.)?(?:{pattern})$", module)
        if matched is None:
            return None
        if matched:
            return value
    return default


def is_vocabulary(name: str) -> bool:
    """Whether the tensor is an embedding or a head, which come along whole when the vocabulary was changed."""
    return bool(_VOCABULARY.search(name))


def _matches(pattern: str, name: str) -> bool | None:
    """Whether the regular expression matches; None for one that is wrong, or that could be kept busy for ever."""
    if _SETS_OF_SETS.search(pattern) or len(name) > 300 or not is_quick(pattern, len(name)):
        return None
    try:
        return re.match(pattern, name) is not None
    except (re.error, RecursionError):
        return None


# What a field must be: a check and its words.


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _number(value: Any) -> bool:
    return (_whole(value) or isinstance(value, float)) and abs(value) <= sys.float_info.max  # NaN is not


def _rank(value: Any) -> bool:
    return _whole(value) and 0 < value <= _MAX_RANK


def _flag(value: Any) -> bool:
    return value is None or isinstance(value, bool)


def _texts(value: Any) -> bool:
    listed = isinstance(value, list) and all(isinstance(item, str) for item in value)
    return value is None or isinstance(value, str) or listed


def _each(fits: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: value is None or (isinstance(value, dict) and all(fits(item) for item in value.values()))


_A_RANK = f"a whole number from 1 to {_MAX_RANK}"
_FIELDS: Mapping[str, tuple[Callable[[Any], bool], str]] = {
    "target_modules": (_texts, "a text or a list of texts"),
    "modules_to_save": (_texts, "a text or a list of texts"),
}
_LORA_FIELDS: Mapping[str, tuple[Callable[[Any], bool], str]] = {
    "r": (_rank, _A_RANK),
    "lora_alpha": (_number, "a number"),
    "bias": (lambda value: value in (None, "none", "all", "lora_only"), '"none", "all" or "lora_only"'),
    "use_rslora": (_flag, "true or false"),
    "use_dora": (_flag, "true or false"),
    "rank_pattern": (_each(_rank), f"an object of module names, each with {_A_RANK}"),
    "alpha_pattern": (_each(_number), "an object of module names, each with a number"),
}
_LORA_DEFAULTS = {"r": 8}  # what PEFT takes where the file says nothing; alpha decides too much to be taken for granted


def _field_findings(kind: str, config: Config) -> Iterator[Finding]:
    """Fields whose values PEFT would trip over, or take for something else."""
    checks = dict(_FIELDS)
    if kind == "LORA":
        checks |= _LORA_FIELDS
    elif kind not in ("LOKR", "OFT") and config.get("r") is not None:  # those two give r another meaning
        checks["r"] = _LORA_FIELDS["r"]
    for field, (fits, expected) in checks.items():
        value = config.get(field, _LORA_DEFAULTS.get(field))
        if not fits(value):
            yield found("bad-field", field=field, value=repr(value), expected=expected)
    targets = config.get("target_modules")
    if isinstance(targets, str) and not _compiles(targets):
        yield found(
            "bad-field", field="target_modules", value=repr(targets), expected="a regular expression, or a list"
        )
    if kind == "LORA" and config.get("lora_alpha") == 0:
        yield found("alpha-zero")


def _compiles(pattern: str) -> bool:
    if _SETS_OF_SETS.search(pattern):
        return True
    try:
        return bool(re.compile(pattern))
    except (re.error, RecursionError, OverflowError):
        return False


def _unknown_fields(kind: str, config: Config) -> Iterator[Finding]:
    known = _peft_fields(kind)
    unknown = [name for name, value in config.items() if known and name not in known and value not in _INERT]
    if unknown:
        shown = ", ".join(short(name, 40) for name in unknown[:3])
        yield found("unknown-fields", fields=Shown(shown), more=more(unknown[2:]), version=peft_version())


@functools.lru_cache
def _peft_source(path: str) -> str:
    """A file of the installed PEFT as text, "" where there is none."""
    try:
        spec = importlib.util.find_spec("peft")
        folders = list(spec.submodule_search_locations or ()) if spec else []
        return Path(folders[0], path).read_text("utf-8") if folders else ""
    except (OSError, ValueError):
        return ""


@functools.lru_cache
def _peft_kinds() -> frozenset[str]:
    """The kinds that the installed PEFT knows; empty when that cannot be told."""
    source = _peft_source("utils/peft_types.py").partition("class TaskType")[0]
    return frozenset(re.findall(r'^    ([A-Z][A-Z0-9_]*) = "\1"', source, re.MULTILINE))


@functools.lru_cache
def _peft_fields(kind: str) -> frozenset[str]:
    """The configuration's fields for ``kind`` in the installed PEFT; empty when that cannot be told."""
    own = _peft_source(f"tuners/{kind.lower()}/config.py")
    if not own or (kind not in _PARENTS and not re.search(r"^class \w+Config\(PeftConfig\)", own, re.MULTILINE)):
        return frozenset()
    sources = (own, _peft_source("config.py"), _peft_source(_PARENTS[kind]) if kind in _PARENTS else "")
    return frozenset(name for text in sources for name in re.findall(r"^    (\w+)\s*:", text, re.MULTILINE))


# The tensors' names and shapes.


def _unreadable_names(kind: str, config: Config, tensors: Tensors) -> Finding | None:
    """Why PEFT would find nothing of its own among these names, or None."""
    first = next(iter(tensors))
    wrapper = next((wrapper for wrapper in _WRAPPERS if any(wrapper in name for name in tensors)), None)
    if wrapper:
        return found("names-wrapped", wrapper=wrapper, first=first)
    if not config.get("modules_to_save") and not any(_belongs(kind, name) for name in tensors):
        return found("full-model-weights" if _looks_like_a_model(tensors) else "foreign-names", first=first, kind=kind)
    if kind != "LORA" and not any(name.startswith("base_model.") for name in tensors):
        return found("foreign-names", first=first, kind=kind)
    return None


def _belongs(kind: str, name: str) -> bool:
    if "trainable_tokens" in name:
        return True
    if kind == "LORA":
        return bool(lora_pairs({name: 0}) or embedding_pairs({name: 0}))
    return _MARKS.get(kind, "") in name


def _looks_like_a_model(tensors: Tensors) -> bool:
    adapters = any(word in name.lower() for name in tensors for word in ("lora", "hada", "lokr"))
    return not adapters and any(_VOCABULARY.search(name) or _LAYER.search(name) for name in tensors)


def _lora_findings(config: Config, tensors: Tensors) -> Iterator[Finding]:
    if not any(name.startswith("base_model.") for name in tensors):
        yield found("names-unprefixed", first=next(iter(tensors)))
    pairs = {**lora_pairs(tensors), **embedding_pairs(tensors)}
    halves = {module: side for module, pair in pairs.items() if len(pair) == 1 for side in pair}
    for module, side in list(halves.items())[:1]:
        yield found("half-pairs", module=module, side=side, more=more(halves))
    whole = {
        module: (tensors[pair["A"]].shape, tensors[pair["B"]].shape) for module, pair in pairs.items() if len(pair) == 2
    }
    yield from _shape_findings(whole)
    yield from _rank_findings(config, {module: a[0] for module, (a, _) in whole.items() if len(a) > 1})
    yield from _dora_findings(config, tensors, whole)
    numbers = [name for name in tensors if "lora_" in name and tensors[name].dtype not in _NUMBERS]
    if numbers:
        yield found("not-float", tensor=numbers[0], dtype=tensors[numbers[0]].dtype, more=more(numbers))
    yield from _target_findings(config, list(pairs))
    yield from _other_names(config, tensors)


Shapes = Mapping[str, tuple[tuple[int, ...], tuple[int, ...]]]


def _shape_findings(whole: Shapes) -> Iterator[Finding]:
    """Shapes of A and B that cannot be multiplied."""
    pieces: dict[str, tuple[str, tuple[int, ...]]] = {}
    ranks: dict[str, tuple[int, int]] = {}
    for module, (a, b) in whole.items():
        partial = next(((side, shape) for side, shape in (("A", a), ("B", b)) if len(shape) < 2 or 0 in shape), None)
        if partial:
            pieces[module] = partial
        elif a[0] != b[1]:
            ranks[module] = (a[0], b[1])
    for module, (side, shape) in list(pieces.items())[:1]:
        yield found("pair-shapes", module=module, side=side, shape=dimensions(shape), more=more(pieces))
    for module, (of_a, of_b) in list(ranks.items())[:1]:
        yield found("pair-ranks", module=module, a=of_a, b=of_b, more=more(ranks))


def _rank_findings(config: Config, ranks: Mapping[str, int]) -> Iterator[Finding]:
    """Ranks of the weights that are not the configured ones; experts in one tensor have a multiple of it."""
    if any(config.get(field) for field in OTHER_SHAPES):
        return
    wrong = {}
    for module, rank in ranks.items():
        expected = pattern_value(config.get("rank_pattern"), module, config.get("r", _LORA_DEFAULTS["r"]))
        experts = config.get("target_parameters") and _rank(expected) and rank % expected == 0
        if _whole(expected) and rank != expected and not experts:
            wrong[module] = (rank, expected)
    for module, (rank, expected) in list(wrong.items())[:1]:
        yield found("rank-mismatch", module=module, weights=rank, config=expected, more=more(wrong))


def _dora_findings(config: Config, tensors: Tensors, whole: Shapes) -> Iterator[Finding]:
    magnitudes = dora_magnitudes(tensors)
    use = bool(config.get("use_dora"))
    having = sum(module in magnitudes for module in whole)
    if having != (len(whole) if use else 0):
        yield found("dora-magnitudes", use=str(use).lower(), having=having, count=len(whole))
    linears = lora_pairs(tensors) if magnitudes else {}
    wrong = {
        module: (tensors[name].numel, whole[module][1][0])
        for module, name in magnitudes.items()
        if module in whole and module in linears and whole[module][1] and tensors[name].numel != whole[module][1][0]
    }
    for module, (count, out) in list(wrong.items())[:1]:
        yield found("dora-shape", module=module, count=count, out=out, more=more(wrong))


def _target_findings(config: Config, modules: Sequence[str]) -> Iterator[Finding]:
    """Modules with weights that the configuration does not name: PEFT drops their weights without a word."""
    targets = config.get("target_modules")
    if config.get("target_parameters") or config.get("modules_to_save"):
        return
    quick = _quick(targets)
    outside = [module for module in modules if _targeted(quick, module) is False]
    if outside and len(outside) == len(modules):
        shown = targets if isinstance(targets, str) else ", ".join(str(target) for target in targets or ())
        yield found("targets-none", targets=shown or "empty", first=outside[0])
    elif outside:
        yield found("targets-some", count=len(outside), first=outside[0])


def _quick(targets: Any) -> Any:
    """``target_modules`` for many look-ups: a list may be a hundred thousand names long."""
    return frozenset(target for target in targets if isinstance(target, str)) if isinstance(targets, list) else targets


def _targeted(targets: Any, module: str) -> bool | None:
    """Whether ``target_modules`` names ``module``; None when that cannot be told from here."""
    if isinstance(targets, str):
        return True if targets == "all-linear" else _matches(f"(?:{targets})$", module)
    if not isinstance(targets, frozenset):
        return None
    return not targets.isdisjoint(module[at:] for at in (0, *(dot.end() for dot in re.finditer(r"\.", module))))


def _other_names(config: Config, tensors: Tensors) -> Iterator[Finding]:
    if config.get("modules_to_save"):
        return
    biases = config.get("bias") not in (None, "none")
    others = [name for name in tensors if not _expected(name) and not (biases and name.endswith("bias"))]
    if others:
        yield found("other-names", count=len(others), first=others[0])


def _expected(name: str) -> bool:
    """Names that PEFT writes into a LoRA's file; embeddings and head come along when the vocabulary was changed."""
    own = "lora_" in name or "trainable_tokens" in name or name.endswith(".base_layer.weight")
    return own or bool(_VOCABULARY.search(name))


# The base.


def _base_name(config: Config, model: Config, base: Path) -> Iterator[Finding]:
    trained = str(config.get("base_model_name_or_path") or "")
    names = (str(base), str(base.resolve()), str(model.get("_name_or_path") or ""))
    if not trained:
        yield found("base-not-named", base=folder_name(base))
    elif _last(trained) not in {_last(name) for name in names if name}:
        yield found("other-base", trained=repr(trained), base=folder_name(base))


def _last(path: str) -> str:
    """The last part of a path or hub id, for either kind of slash."""
    return re.split(r"[/\\]", path.rstrip("/\\"))[-1].lower()


def _why_unchecked(config: Config, model: Config) -> str:
    """Why shapes cannot be compared from headers, "" when they can.

    Quantized checkpoints store packed shapes, and many architectures are renamed while they load; a comparison would
    refuse adapters that fit.
    """
    if not model:
        return "it has no config.json that can be read"
    if model.get("quantization_config"):
        return "its weights are stored quantized"
    if config.get("peft_type") != "LORA" or any(config.get(field) for field in (*OTHER_SHAPES, "target_parameters")):
        return "this kind of adapter has shapes of its own"
    if str(model.get("model_type")) not in _DIRECT_NAMES:
        return f"tensors of the type {short(model.get('model_type'))} may be renamed while they are loaded"
    return ""


def _chooses_otherwise(config: Config) -> bool:
    """Whether PEFT decides by more than ``target_modules`` which tensors it makes; names and shapes alone do not tell."""
    more_fields = ("layers_to_transform", "layers_pattern", "modules_to_save", "trainable_token_indices", "lora_bias")
    given = [config.get(field) for field in more_fields]
    others = any(value is not False and value not in (None, "", [], {}) for value in given)  # 0 is a layer
    others = others or config.get("bias") not in (None, "none")
    targets = config.get("target_modules")
    return others or not targets or (isinstance(targets, str) and _matches(targets, "") is None)


def _fit_findings(model: Config, tensors: Tensors, stored: Tensors) -> Iterator[Finding]:
    layers = model.get("num_hidden_layers")
    highest = max((int(match[1]) for name in tensors if (match := _LAYER.search(name))), default=-1)
    if isinstance(layers, int) and highest >= layers:
        yield found("layers-beyond", layer=highest, count=layers)
        return
    shapes = _base_shapes(tensors)
    headers = {module: _stored(module, stored) for module in shapes}
    absent = [module for module, header in headers.items() if header is None]
    if absent:
        yield found("modules-absent", module=absent[0], more=more(absent))
    wrong = {
        module: (shapes[module], header.shape)
        for module, header in headers.items()
        if header and header.dtype in _NUMBERS and header.shape != shapes[module]
    }
    for module, (ours, theirs) in list(wrong.items())[:1]:
        yield found("shape-misfit", module=module, adapter=_arrow(ours), base=_arrow(theirs), more=more(wrong))
    own = [header for name, header in tensors.items() if _VOCABULARY.search(name) and header.shape]
    rows = model.get("vocab_size")
    if own and own[0].shape[0] != rows:
        yield found("own-vocabulary", rows=own[0].shape[0], base=rows)


def _missing_layers(config: Config, tensors: Tensors, stored: Tensors) -> Iterator[Finding]:
    """Matrices of the base that ``target_modules`` names and the file lacks, unless other fields choose among them."""
    choosing = ("layers_to_transform", "layers_pattern", "exclude_modules", "modules_to_save")
    if config.get("target_modules") == "all-linear" or any(
        config.get(field) not in (None, [], "") for field in choosing
    ):
        return
    targets = _quick(config.get("target_modules"))
    having = {**lora_pairs(tensors), **embedding_pairs(tensors)}
    matrices = [name.removesuffix(".weight") for name, header in stored.items() if len(header.shape) == 2]
    missing = [module for module in matrices if module not in having and _targeted(targets, module)]
    if missing and any(_targeted(targets, module) for module in having):
        yield found("layers-missing", count=len(missing), first=missing[0])


def _base_shapes(tensors: Tensors) -> dict[str, tuple[int, int]]:
    """Module → the shape that the base's weight must have: [out, in] of a linear, [tokens, hidden] of an embedding."""
    shapes = {}
    for pairs, out, into in ((lora_pairs(tensors), "B", "A"), (embedding_pairs(tensors), "A", "B")):
        for module, pair in pairs.items():
            if len(pair) == 2 and all(len(tensors[name].shape) == 2 for name in pair.values()):
                sides = {side: tensors[name].shape for side, name in pair.items()}
                wide = {"A": sides["A"][1], "B": sides["B"][0]}
                shapes[module] = (wide[out], wide[into])
    return shapes


def _stored(module: str, stored: Tensors) -> TensorHeader | None:
    """The base's weight of ``module``; a head that is tied to the embeddings is not stored under its own name."""
    tied = "model.embed_tokens.weight" if module == "lm_head" else ""
    return stored.get(f"{module}.weight") or stored.get(tied)


def _arrow(shape: Sequence[int]) -> str:
    """[out, in] as people say it."""
    return "→".join(map(str, reversed(shape)))
