"""Makes small adapter folders, sound and broken in every way that `DEFECTS` names, from bytes alone."""

from __future__ import annotations

import json
import math
import os
import pickle
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
PREFIX = "base_model.model."
LAYERS, HIDDEN, INNER, TOKENS, RANK = 2, 32, 48, 96, 4
LINEARS = {"self_attn.q_proj": (HIDDEN, HIDDEN), "self_attn.k_proj": (16, HIDDEN), "mlp.down_proj": (HIDDEN, INNER)}
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 336312\n"
WIDTHS = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "F8_E4M3": 1, "I8": 1, "U8": 1}

Tensors = dict[str, tuple[str, tuple[int, ...], bytes]]
Break = Callable[[Path], object]


def f32(values: Any) -> tuple[str, tuple[int, ...], bytes]:
    """A float32 tensor of these values."""
    array = np.asarray(values, dtype="<f4")
    return "F32", array.shape, array.tobytes()


def zeros(*shape: int, dtype: str = "F32") -> tuple[str, tuple[int, ...], bytes]:
    return dtype, shape, bytes(math.prod(shape) * WIDTHS[dtype])


def safetensors_bytes(tensors: Tensors) -> bytes:
    """A safetensors file."""
    header, data = {}, b""
    for name, (dtype, shape, raw) in tensors.items():
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [len(data), len(data) + len(raw)]}
        data += raw
    return framed(json.dumps(header).encode()) + data


def framed(header: bytes) -> bytes:
    return struct.pack("<Q", len(header)) + header


def config(**changes: Any) -> dict[str, Any]:
    """A LoRA's configuration; a change to ``...`` leaves the field out."""
    values = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": "tiny",
        "r": RANK,
        "lora_alpha": 8,
        "target_modules": [name.rpartition(".")[2] for name in LINEARS],
        **changes,
    }
    return {name: value for name, value in values.items() if value is not ...}


def pairs(rank: int = RANK, layers: int = LAYERS, seed: int = 0) -> Tensors:
    """A and B of every linear, with random numbers."""
    random = np.random.default_rng(seed)
    tensors = {}
    for layer in range(layers):
        for name, (out, into) in LINEARS.items():
            module = f"{PREFIX}model.layers.{layer}.{name}"
            tensors[f"{module}.lora_A.weight"] = f32(random.normal(size=(rank, into)))
            tensors[f"{module}.lora_B.weight"] = f32(random.normal(size=(out, rank)))
    return tensors


def make(folder: Path, tensors: Tensors | None = None, **changes: Any) -> Path:
    """An adapter in ``folder``: sound, unless the changes to its configuration or its tensors say otherwise."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / CONFIG).write_text(json.dumps(config(**changes)))
    (folder / WEIGHTS).write_bytes(safetensors_bytes(pairs() if tensors is None else tensors))
    return folder


def make_base(folder: Path, **changes: Any) -> Path:
    """A model's folder with the weights that the adapter is for; no model could be loaded from it."""
    folder.mkdir(parents=True, exist_ok=True)
    values = {
        "model_type": "llama",
        "num_hidden_layers": LAYERS,
        "hidden_size": HIDDEN,
        "vocab_size": TOKENS,
        **changes,
    }
    (folder / "config.json").write_text(json.dumps(values))
    random = np.random.default_rng(7)
    tensors = {"model.embed_tokens.weight": f32(random.normal(size=(TOKENS, HIDDEN)))}
    for layer in range(LAYERS):
        for name, shape in LINEARS.items():
            tensors[f"model.layers.{layer}.{name}.weight"] = f32(random.normal(size=shape))
    (folder / "model.safetensors").write_bytes(safetensors_bytes(tensors))
    return folder


def evil(marker: Path) -> bytes:
    """A pickle that makes ``marker`` when it is opened."""

    class Evil:
        def __reduce__(self) -> Any:
            return os.mkdir, (str(marker),)

    return pickle.dumps(Evil())


def _write(name: str, data: bytes) -> Break:
    return lambda folder: (folder / name).write_bytes(data)


def _remove(*names: str) -> Break:
    return lambda folder: [(folder / name).unlink() for name in names]


def _only(*others: str) -> Break:
    """Only other files where the weights should be."""

    def change(folder: Path) -> None:
        (folder / WEIGHTS).unlink()
        for name in others:
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_bytes(evil(folder / "opened"))

    return change


def _configured(**changes: Any) -> Break:
    return lambda folder: make(folder, **changes)


def _tensors(change: Callable[[Tensors], Tensors], **changes: Any) -> Break:
    return lambda folder: make(folder, change(pairs()), **changes)


def _with(**tensors: Any) -> Callable[[Tensors], Tensors]:
    """The tensors with others added; dots are written as two underscores."""
    return lambda old: old | {PREFIX + name.replace("__", "."): value for name, value in tensors.items()}


def _renamed(old: str, new: str) -> Callable[[Tensors], Tensors]:
    return lambda tensors: {name.replace(old, new): value for name, value in tensors.items()}


def _without(part: str) -> Callable[[Tensors], Tensors]:
    return lambda tensors: {name: value for name, value in tensors.items() if part not in name}


def _model_names(tensors: Tensors) -> Tensors:
    return _renamed(".lora_A", "")(_without("lora_B")(tensors))


def _typed(dtype: str) -> Callable[[Tensors], Tensors]:
    return lambda tensors: {name: zeros(*value[1], dtype=dtype) for name, value in tensors.items()}


def _cut(folder: Path) -> None:
    file = folder / WEIGHTS
    file.write_bytes(file.read_bytes()[:-10])


def _move_inside(folder: Path) -> None:
    (folder / "run").mkdir()
    (folder / CONFIG).rename(folder / "run" / CONFIG)


def _broken_link(folder: Path) -> None:
    (folder / WEIGHTS).unlink()
    (folder / WEIGHTS).symlink_to(folder / "blobs" / "gone")


def _magnitudes(size: int) -> Callable[[Tensors], Tensors]:
    def add(tensors: Tensors) -> Tensors:
        names = [name.removesuffix(".lora_A.weight") for name in tensors if "lora_A" in name]
        return tensors | {f"{name}.lora_magnitude_vector": zeros(size) for name in names}

    return add


Q0 = f"{PREFIX}model.layers.0.self_attn.q_proj"
HEADER_OF_ONE = b'{"a": {"dtype": "F32", "shape": %s, "data_offsets": %s}}'

# (code, what was done to the folder, what the sentence says)
BROKEN: list[tuple[str, Break, str]] = [
    ("no-config", _remove(CONFIG, WEIGHTS), "has no adapter_config.json"),
    ("config-lost", _remove(CONFIG), "has no adapter_config.json"),
    ("holds-adapters", _move_inside, "Choose one of run"),
    ("whole-model", lambda folder: (folder / CONFIG).rename(folder / "config.json"), "Load it as the base"),
    ("mlx", _configured(peft_type=..., fine_tune_type="lora"), "MLX"),
    ("mlx", _only("adapters.safetensors"), "MLX"),
    ("broken-link", _broken_link, "is a link to a file that is not there"),
    ("lfs-pointer", _write(CONFIG, POINTER), "adapter_config.json is a Git LFS pointer"),
    ("lfs-pointer", _write(WEIGHTS, POINTER), "adapter_model.safetensors is a Git LFS pointer"),
    ("no-weights", _remove(WEIGHTS), "may not have finished"),
    ("trainer-files-only", _only("training_args.bin", "optimizer.pt"), "(optimizer.pt, training_args.bin)"),
    ("weights-in-checkpoints", _only(f"checkpoint-10/{WEIGHTS}"), "checkpoint-10"),
    ("pickle-weights", _only("adapter_model.bin"), "a pickle file"),
    ("pickle-weights", _only("adapter_model.bin", "training_args.bin"), "safe_serialization=True"),
    ("sharded-weights", _only("adapter_model-00001-of-00002.safetensors"), "python -c"),
    ("config-empty", _write(CONFIG, b"  \n"), "it is empty"),
    ("config-huge", _write(CONFIG, b" " * 10_000_001), "10000001 bytes"),
    ("config-not-json", _write(CONFIG, b"{"), "cannot be read"),
    ("config-not-json", _write(CONFIG, b"\xff\xfe"), "cannot be read"),
    ("config-not-json", _write(CONFIG, b"[" * 100_000), "cannot be read"),
    ("config-not-object", _write(CONFIG, b"[]"), "holds a list, not an object"),
    ("no-kind", _configured(peft_type=...), "has no peft_type"),
    ("no-kind", _configured(peft_type=5), "has no peft_type"),
    ("unknown-kind", _configured(peft_type="lora"), "peft_type is 'lora'"),
    ("unknown-kind", _configured(peft_type="CAUSAL_LM"), "peft_type is 'CAUSAL_LM'"),
    ("unknown-kind", _configured(peft_type="GLITTER"), "use a newer peft"),
    ("unsupported-kind", _configured(peft_type="MULTITASK_PROMPT_TUNING"), "not supported: they need"),
    ("unsteady-kind", _configured(peft_type="LILY"), "by all tokens that the model reads in one pass"),
    ("unsteady-kind", _configured(peft_type="PVERA", sample_at_inference=True), "draws random numbers in every layer"),
    ("other-task", _configured(task_type="SEQ_CLS"), "not for text generation"),
    ("rewrites-base", _configured(init_lora_weights="pissa_niter_4"), "rewrites the base"),
    ("reaches-out", _configured(peft_type="XLORA", adapters={"0": "org/other"}), "adapters ({'0': 'org/other'})"),
    ("reaches-out", _configured(peft_type="SHADOW", shadow_model="org/other"), "shadow_model ('org/other')"),
    ("reaches-out", _configured(megatron_config={"a": 1}, megatron_core="megatron.core"), "megatron_core"),
    ("repeats-layers", _configured(layer_replication=[[0, 2]]), "repeats layers"),
    ("bad-field", _configured(lora_alpha=None), "lora_alpha is None"),
    ("bad-field", _configured(lora_alpha=float("nan")), "lora_alpha is nan"),
    ("bad-field", _configured(r=10**6), "r is 1000000"),
    ("bad-field", _configured(r=0), "r is 0"),
    ("bad-field", _configured(r=True), "r is True"),
    ("bad-field", _configured(use_dora="false"), "use_dora is 'false'"),
    ("bad-field", _configured(rank_pattern={"q_proj": "8"}), "rank_pattern is"),
    ("bad-field", _configured(rank_pattern=[8]), "rank_pattern is [8]"),
    ("bad-field", _configured(target_modules=5), "target_modules is 5"),
    ("bad-field", _configured(target_modules="(q_proj"), "must be a regular expression"),
    ("bad-field", _configured(bias="some"), '"none", "all" or "lora_only"'),
    ("bad-field", _configured(target_modules=["q_proj", 7]), "a text or a list of texts"),
    ("bad-field", _configured(peft_type="LOHA", r=10**6), "r is 1000000"),
    ("unknown-fields", _configured(sparkle=3), "leaves out: sparkle."),
    ("unknown-fields", _configured(**{f"x{i}": 1 for i in range(5)}), "x0, x1, x2 (and 2 more)"),
    ("alpha-zero", _configured(lora_alpha=0), "changes nothing"),
    ("weights-empty", _write(WEIGHTS, b""), "(0 bytes)"),
    ("weights-empty", _write(WEIGHTS, b"1234567"), "(7 bytes)"),
    ("weights-no-header", _write(WEIGHTS, b"x" * 5000), "not a whole safetensors"),
    ("weights-no-header", _write(WEIGHTS, struct.pack("<Q", 2**63) + b"{}"), "9223372036854775808 bytes"),
    ("weights-bad-header", _write(WEIGHTS, framed(b"{oops}")), "not JSON"),
    ("weights-bad-header", _write(WEIGHTS, framed(b"[]")), "no object"),
    ("weights-bad-header", _write(WEIGHTS, framed(b"[" * 100_000)), "not JSON"),
    ("weights-bad-header", _write(WEIGHTS, framed(HEADER_OF_ONE % (b"[1]", b"null"))), "bad entry for a"),
    ("weights-bad-header", _write(WEIGHTS, framed(HEADER_OF_ONE % (b"[-1]", b"[4, 0]"))), "bad entry for a"),
    ("weights-bad-header", _write(WEIGHTS, framed(HEADER_OF_ONE % (b"[true]", b"[0, 4]"))), "bad entry for a"),
    ("weights-cut-off", _cut, "cut off or damaged"),
    ("weights-damaged", _write(WEIGHTS, framed(HEADER_OF_ONE % (b"[2]", b"[0, 4]")) + bytes(4)), "a has 4 bytes for 2"),
    ("weights-damaged", _write(WEIGHTS, framed(HEADER_OF_ONE % (b"[1]", b"[4, 8]")) + bytes(8)), "does not begin where"),
    ("no-tensors", _write(WEIGHTS, framed(b"{}")), "saved empty"),
    ("full-model-weights", _tensors(_model_names), "a model's own weights"),
    ("foreign-names", _tensors(_renamed(".lora_", ".lora_down_")), "convert it to PEFT's names"),
    ("foreign-names", _tensors(_renamed(".lora_", ".default_lora_")), "another tool"),
    ("foreign-names", _tensors(lambda tensors: tensors, peft_type="IA3"), "would read for IA3"),
    ("foreign-names", _tensors(_renamed(PREFIX, ""), peft_type="ADALORA"), "would read for ADALORA"),
    ("names-wrapped", _tensors(_renamed(PREFIX, PREFIX + PREFIX)), "of a wrapper"),
    ("names-wrapped", _tensors(_renamed("layers.", "layers._orig_mod.")), "_orig_mod."),
    ("names-unprefixed", _tensors(_renamed(PREFIX, "")), "lack PEFT's prefix"),
    ("other-names", _tensors(_with(model__norm__weight=zeros(HIDDEN))), "1 tensors are no part of a LoRA"),
    ("half-pairs", _tensors(_without("lora_B")), "has lora_A without its other half (and 5 more)"),
    ("half-pairs", _tensors(_without("q_proj.lora_A")), "has lora_B without its other half"),
    ("pair-ranks", lambda folder: make(folder, pairs() | {f"{Q0}.lora_A.weight": zeros(2, HIDDEN)}), "has rank 2, lora_B"),
    ("pair-shapes", lambda folder: make(folder, pairs() | {f"{Q0}.lora_A.weight": zeros(0)}), "saved in pieces"),
    ("pair-shapes", lambda folder: make(folder, pairs() | {f"{Q0}.lora_B.weight": zeros(0, RANK)}), "lora_B of shape 0×4"),
    ("rank-mismatch", _configured(r=8), "rank 4 in the weights and 8 in adapter_config.json (and 5 more)"),
    ("rank-mismatch", _configured(r=10**6), "rank 4 in the weights and 1000000"),
    ("rank-mismatch", _configured(rank_pattern={"k_proj": 2}), "and 2 in adapter_config.json (and 1 more)"),
    ("not-float", _tensors(_typed("I8")), "holds I8"),
    ("not-float", _tensors(_typed("F8_E4M3")), "holds F8_E4M3"),
    ("dora-magnitudes", _configured(use_dora=True), "use_dora is true, and 0 of 6"),
    ("dora-magnitudes", _tensors(_magnitudes(HIDDEN)), "use_dora is false, and 6 of 6"),
    ("dora-shape", _tensors(_magnitudes(31), use_dora=True), "31 DoRA magnitudes for 32 features (and 5 more)"),
    ("targets-none", _configured(target_modules=["query"]), "target_modules (query) names none"),
    ("targets-none", _configured(target_modules=r".*\.query"), "names none"),
    ("targets-none", _configured(target_modules=[]), "names none"),
    ("targets-some", _configured(target_modules=["q_proj", "k_proj"]), "2 modules have weights but are not"),
]  # fmt: skip

# What is only seen beside a base, or in the folder's place: tested by hand.
BY_HAND = {
    "no-folder", "outside-roots", "unreadable", "no-fit", "fit-shape", "fit-unexpected", "fit-missing",
    "other-base", "base-not-named", "fit-unchecked", "shape-misfit", "layers-beyond", "layers-missing",
    "modules-absent", "own-vocabulary", "becomes-lora", "endless-pattern", "soft-prompt-misfit", "fit-lacking",
}  # fmt: skip
# What is said of pickles where they are allowed: test_pickles.py.
BY_PICKLES = {"pickle-allowed", "pickle-refused"}
# What the numbers and the tokenizer's files tell: test_doctor.py.
BY_DOCTOR = {
    "not-finite", "no-effect", "untrained-layers", "end-token-differs", "minor-token-differs", "template-differs",
    "vocabulary-differs", "tokenizer-too-large", "bos-twice", "template-bos-twice", "template-broken", "turn-end",
    "newer-peft",
}  # fmt: skip


def embedding(rank: int = RANK) -> Tensors:
    """LoRA on the embeddings, as PEFT names it."""
    name = f"{PREFIX}model.embed_tokens.lora_embedding_"
    return {f"{name}A": zeros(rank, TOKENS), f"{name}B": zeros(HIDDEN, rank)}


def head() -> Tensors:
    """LoRA on a head that is tied to the embeddings."""
    name = f"{PREFIX}lm_head.lora_"
    return {f"{name}A.weight": zeros(RANK, HIDDEN), f"{name}B.weight": zeros(TOKENS, RANK)}


def older_experts() -> Tensors:
    """Mixtral's experts under the names that they had before transformers 5."""
    name = f"{PREFIX}model.layers.0.block_sparse_moe.experts.3.w1.lora_"
    return {f"{name}A.weight": zeros(RANK, HIDDEN), f"{name}B.weight": zeros(INNER, RANK)}


def joined_experts() -> Tensors:
    """Four experts in one tensor: the rank in the weights is four times the configured one."""
    name = f"{PREFIX}model.layers.0.mlp.experts.lora_"
    return {f"{name}A.weight": zeros(4 * RANK, HIDDEN), f"{name}B.weight": zeros(INNER, 4 * RANK)}


# Sound adapters that a naive check refuses: (tensors, changes to the configuration).
SOUND: Mapping[str, tuple[Tensors, dict[str, Any]]] = {
    "plain": (pairs(), {}),
    "written by a newer PEFT": (pairs(), {"use_sparkles": False, "sparkle_config": None, "sparkles": {}}),
    "rank pattern": (
        {**pairs(), f"{Q0}.lora_A.weight": zeros(2, HIDDEN), f"{Q0}.lora_B.weight": zeros(HIDDEN, 2)},
        {"rank_pattern": {"layers.0.self_attn.q_proj": 2}, "alpha_pattern": {"q_proj": 3.5}},
    ),
    "targets by regular expression": (pairs(), {"target_modules": r".*\.(q_proj|k_proj|down_proj)"}),
    "all linears": (pairs(), {"target_modules": "all-linear"}),
    "PEFT's own choice of targets": (pairs(), {"target_modules": None}),
    "LoRA on embeddings": (pairs() | embedding(), {"target_modules": ["q_proj", "k_proj", "down_proj", "embed_tokens"]}),
    "LoRA on the head": (pairs() | head(), {"target_modules": ["q_proj", "k_proj", "down_proj", "lm_head"]}),
    "own vocabulary": (pairs() | {f"{PREFIX}model.embed_tokens.weight": zeros(TOKENS + 8, HIDDEN)}, {}),
    "saved modules": (pairs() | {f"{PREFIX}model.norm.weight": zeros(HIDDEN)}, {"modules_to_save": ["norm"]}),
    "biases": (pairs() | {f"{PREFIX}model.layers.0.self_attn.q_proj.bias": zeros(HIDDEN)}, {"bias": "all"}),
    "LoRA with a bias": (pairs() | {f"{Q0}.lora_B.bias": zeros(HIDDEN)}, {"lora_bias": True}),
    "older experts": (older_experts(), {"target_modules": ["w1"]}),
    "joined experts": (
        pairs() | joined_experts(),
        {"target_parameters": ["mlp.experts.gate_up_proj"]},
    ),
    "large r of LoKr": ({f"{Q0}.lokr_w1": zeros(4, 4), f"{Q0}.lokr_w2": zeros(8, 8)}, {
        "peft_type": "LOKR", "r": 10**9, "lora_alpha": ...,
    }),
    "IA3": ({f"{Q0}.ia3_l": zeros(HIDDEN, 1)}, {"peft_type": "IA3", "r": ..., "lora_alpha": ...}),
    "LoHa": ({f"{Q0}.hada_w1_a": zeros(HIDDEN, RANK)}, {"peft_type": "LOHA", "lora_alpha": ...}),
    "OFT": ({f"{Q0}.oft_R.weight": zeros(4, 28)}, {"peft_type": "OFT", "r": 0, "lora_alpha": ...}),
    "older OFT": ({f"{Q0}.oft_r": zeros(4, 8, 8)}, {"peft_type": "OFT", "r": 4, "lora_alpha": ...}),
}  # fmt: skip
