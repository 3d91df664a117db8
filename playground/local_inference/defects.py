"""What can be wrong with an adapter: every defect with a stable code, how bad it is, a sentence and what to do about it.

Who finds them: adapters.py in the folder, headers.py in the weights' header, validation.py in configuration, names and
shapes, doctor.py in the numbers and in the tokenizer's files.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

from playground.types import AdapterInfo

Severity = Literal["problem", "warning", "note"]

LFS_POINTER = b"version https://git-lfs"
_ORDER: dict[Severity, int] = {"problem": 0, "warning": 1, "note": 2}

_MERGE_SHARDS = (
    'Merge them inside that folder: python -c "import glob; from safetensors.torch import load_file, save_file; '
    "save_file({{k: v for f in sorted(glob.glob('adapter_model-*.safetensors')) for k, v in load_file(f).items()}}, "
    "'adapter_model.safetensors')\""
)


class Defect(NamedTuple):
    """What can be said of an adapter: how bad it is, the sentence, and what to do next; both with {places} to fill."""

    severity: Severity
    message: str
    remedy: str


_AGAIN = "Copy or download the adapter again."
_ONE_CHECKPOINT = "The files are of two trainings; copy both of them from one checkpoint."
DEFECTS: Mapping[str, Defect] = {
    # the folder and its files
    "no-folder": Defect("problem", "There is no folder {path}.", "Check the path."),
    "holds-adapters": Defect("problem", "{name} holds adapters but is none itself.", "Choose one of {inside}."),
    "whole-model": Defect("problem", "{name} is a whole model, not an adapter.", "Load it as the base."),
    "no-config": Defect(
        "problem", "{name} has no adapter_config.json.", "Choose the folder that the trainer saved the adapter to."
    ),
    "config-lost": Defect(
        "problem", "{name} has adapter weights but has no adapter_config.json.", "Copy that file beside the weights."
    ),
    "mlx": Defect(
        "problem", "This is an adapter of Apple's MLX, not of PEFT.", "Convert it, or train it again with PEFT."
    ),
    "broken-link": Defect("problem", "{file} in {name} is a link to a file that is not there.", _AGAIN),
    "outside-roots": Defect(
        "problem",
        "{file} of {name} is a link out of the folders that may be read.",
        "Copy the file itself into the adapter's folder.",
    ),
    "unreadable": Defect("problem", "{file} in {name} cannot be read: {error}.", "Check its permissions, or copy it again."),
    "lfs-pointer": Defect(
        "problem",
        "{file} is a Git LFS pointer, not the file itself.",
        "Run git lfs pull where it was cloned, or download the file.",
    ),
    "no-weights": Defect(
        "problem",
        "{name} has no adapter_model.safetensors.",
        "The training may not have finished; choose a saved checkpoint.",
    ),
    "trainer-files-only": Defect(
        "problem",
        "{name} has no adapter_model.safetensors, only the trainer's own files ({files}), which are never opened.",
        "Copy adapter_model.safetensors from where it was trained.",
    ),
    "weights-in-checkpoints": Defect(
        "problem", "{name} has no weights itself, but its checkpoints have.", "Choose one of {inside}."
    ),
    "pickle-weights": Defect(
        "problem",
        "{name} has its weights in adapter_model.bin, a pickle file, which can run code when opened.",
        "Save it again with safe_serialization=True to get adapter_model.safetensors, or let the operator allow pickles "
        "(allow_pickle = true in the configuration).",
    ),
    "pickle-allowed": Defect(
        "note",
        "{name} has its weights in adapter_model.bin, a pickle file, which the operator allows.",
        "Its numbers are read once into a copy as safetensors; anything else in it is refused.",
    ),
    "pickle-refused": Defect(
        "problem",
        "{file} is refused: {why}.",
        "Nothing in it was run. Get the adapter as adapter_model.safetensors from where it was trained.",
    ),
    "sharded-weights": Defect(
        "problem", "{name} has its weights in {count} pieces, and PEFT reads one file only.", _MERGE_SHARDS
    ),
    # the configuration
    "config-empty": Defect("problem", "adapter_config.json cannot be read: it is empty.", _AGAIN),
    "config-huge": Defect(
        "problem", "adapter_config.json has {size} bytes and cannot be read: it must be a small file.", _AGAIN
    ),
    "config-not-json": Defect("problem", "adapter_config.json cannot be read as JSON: {error}.", _AGAIN),
    "config-not-object": Defect("problem", "adapter_config.json holds a {kind}, not an object.", _AGAIN),
    "no-kind": Defect("problem", "adapter_config.json has no peft_type.", "Save the adapter again with PEFT."),
    "unknown-kind": Defect(
        "problem",
        "peft_type is {kind} in adapter_config.json, which peft {version} does not know.",
        "Write it as PEFT does (LORA), or use a newer peft.",
    ),
    "unsupported-kind": Defect(
        "problem",
        "{kind} adapters are not supported: they need more at each answer than a base and a text.",
        "Use prompt tuning, prefix tuning, P-tuning, or LoRA and its relatives.",
    ),
    "unsteady-kind": Defect(
        "problem",
        "{kind} adapters like this one are not supported: {why}.",
        "Use LoRA or another kind; of PVeRA, train one without sample_at_inference.",
    ),
    "other-task": Defect(
        "problem", "This adapter was trained for {task}, not for text generation.", "Choose a CAUSAL_LM adapter."
    ),
    "rewrites-base": Defect(
        "problem",
        "This adapter was initialised with {init}, which rewrites the base's own weights when it is loaded.",
        "Convert it to a plain LoRA first (PEFT: save_pretrained(path_initial_model_for_weight_conversion=…)).",
    ),
    "becomes-lora": Defect(
        "note",
        "This adapter was initialised with {init} and is turned into a LoRA of twice the rank, so that the base stays as it "
        "is.",
        "Nothing to do; attaching it takes longer, for the base's weights are decomposed again.",
    ),
    "reaches-out": Defect(
        "problem",
        "Its {field} ({value}) would have PEFT load what is no part of the adapter.",
        "An adapter may bring its own weights only; choose one that needs nothing else.",
    ),
    "repeats-layers": Defect(
        "problem",
        "This adapter repeats layers of the base (layer_replication), so it cannot share a base.",
        "Choose an adapter that was trained without it.",
    ),
    "bad-field": Defect("problem", "{field} is {value} in adapter_config.json.", "It must be {expected}."),
    "unknown-fields": Defect(
        "warning",
        "adapter_config.json has fields that peft {version} does not know and leaves out: {fields}{more}.",
        "If the answers are not as in training, upgrade peft.",
    ),
    "endless-pattern": Defect(
        "problem",
        "The regular expression in its {field} would keep the search for modules busy for ever.",
        "Name the modules in a list, or with a simpler expression.",
    ),
    "alpha-zero": Defect("warning", "lora_alpha is 0, so the adapter changes nothing.", "Set it as in the training."),
    # the weights' header
    "weights-empty": Defect("problem", "{file} is empty or cut off ({size} bytes).", _AGAIN),
    "weights-no-header": Defect(
        "problem", "{file} is not a whole safetensors file (its header claims {length} bytes).", _AGAIN
    ),
    "weights-bad-header": Defect("problem", "{file} is not a safetensors file ({why}).", _AGAIN),
    "weights-cut-off": Defect(
        "problem", "{file} is cut off or damaged: {size} bytes, its header describes {expected}.", _AGAIN
    ),
    "weights-damaged": Defect("problem", "{file} is damaged: {why}.", _AGAIN),
    "no-tensors": Defect(
        "problem", "adapter_model.safetensors holds no tensors: the adapter was saved empty.", "Save it again."
    ),
    "full-model-weights": Defect(
        "problem",
        "adapter_model.safetensors holds a model's own weights ({first} …), not an adapter's.",
        "If it is a whole model, load it as the base; else save the adapter with PEFT's save_pretrained.",
    ),
    "foreign-names": Defect(
        "problem",
        "adapter_model.safetensors has no tensor that PEFT would read for {kind} ({first} …).",
        "It comes from another tool or another kind; convert it to PEFT's names.",
    ),
    "names-wrapped": Defect(
        "problem",
        "The tensor names hold {wrapper} of a wrapper around the model ({first} …), so nothing would be loaded.",
        "Unwrap the model before saving, or rename the tensors without it.",
    ),
    "names-unprefixed": Defect(
        "warning",
        "The tensor names lack PEFT's prefix base_model.model. ({first} …): plain PEFT would load it without effect.",
        "It is read here all the same; for other programs, save it again with PEFT.",
    ),
    "other-names": Defect(
        "warning",
        "{count} tensors are no part of a LoRA ({first} …), and PEFT leaves them out.",
        "If they were trained, name their modules in modules_to_save.",
    ),
    "half-pairs": Defect(
        "problem",
        "{module} has lora_{side} without its other half{more}.",
        _AGAIN,
    ),
    "pair-ranks": Defect(
        "problem", "{module}: lora_A has rank {a}, lora_B has rank {b}{more}: the file is damaged.", _AGAIN
    ),
    "pair-shapes": Defect(
        "problem",
        "{module} has a lora_{side} of shape {shape}{more}: the weights were saved in pieces.",
        "Save again with whole weights (DeepSpeed ZeRO-3: zero.GatheredParameters; FSDP: a full state dict).",
    ),
    "rank-mismatch": Defect(
        "problem",
        "{module} has rank {weights} in the weights and {config} in adapter_config.json{more}.",
        _ONE_CHECKPOINT,
    ),
    "not-float": Defect(
        "problem", "{tensor} holds {dtype}{more}, which are no weights.", "Save the adapter in float32, bfloat16 or float16."
    ),
    "dora-magnitudes": Defect(
        "problem", "use_dora is {use}, and {having} of {count} layers have DoRA's magnitudes.", _ONE_CHECKPOINT
    ),
    "dora-shape": Defect(
        "problem", "{module} has {count} DoRA magnitudes for {out} features{more}.", _ONE_CHECKPOINT
    ),
    "targets-none": Defect(
        "problem",
        "target_modules ({targets}) names none of the modules that have weights ({first} …).",
        _ONE_CHECKPOINT,
    ),
    "targets-some": Defect(
        "warning",
        "{count} modules have weights but are not in target_modules ({first} …), and PEFT leaves them out.",
        "If they were trained, add them to target_modules.",
    ),
    # the numbers (doctor.py)
    "not-finite": Defect(
        "problem",
        "{tensor} holds NaN or infinite numbers{more}.",
        "The training diverged; choose an earlier checkpoint, or train with a lower learning rate.",
    ),
    "no-effect": Defect(
        "warning",
        "In every layer lora_A or lora_B is all zeros, so the adapter changes nothing.",
        "It was saved before it was trained, or the wrong one was saved; choose a later checkpoint.",
    ),
    "untrained-layers": Defect(
        "note",
        "{count} of {all} layers have a lora_A or lora_B of zeros ({first} …).",
        "Those layers change nothing.",
    ),
    # against a base
    "other-base": Defect(
        "warning", "It was trained on {trained}, and the base is {base}.", "Make sure that this is the same model."
    ),
    "base-not-named": Defect(
        "warning", "It does not say which base it was trained on.", "Make sure that it was {base}."
    ),
    "fit-unchecked": Defect(
        "note", "Whether its shapes fit {base} was not checked: {why}.", "Attaching it tells."
    ),
    "no-fit": Defect(
        "problem", "PEFT cannot put it on {base}: {error}.", "Load the base that it was trained on, or use a newer peft."
    ),
    "soft-prompt-misfit": Defect(
        "problem",
        "It is a soft prompt, which becomes keys and values at the beginning of each answer: {why}.",
        "Use a LoRA on this base, or this adapter on a base with full attention in every layer.",
    ),
    "fit-shape": Defect(
        "problem",
        "Its {tensor} is {adapter}, and on this base it would be {base}{more}.",
        "Load the base that it was trained on.",
    ),
    "fit-unexpected": Defect(
        "problem", "This base has no place for its {tensor}{more}.", "Load the base that it was trained on."
    ),
    "fit-missing": Defect(
        "warning",
        "{count} tensors that its configuration asks for on this base are not in the file ({tensor} …).",
        "If they were trained, the file is incomplete; copy it again.",
    ),
    "shape-misfit": Defect(
        "problem",
        "{module} is for {adapter} features, the base has {base}{more}.",
        "Load the base that it was trained on.",
    ),
    "layers-beyond": Defect(
        "problem",
        "It has weights for layer {layer}, and the base has only {count} layers.",
        "Load the base that it was trained on.",
    ),
    "modules-absent": Defect(
        "problem", "The base has no {module}{more}.", "Load the base that it was trained on."
    ),
    "layers-missing": Defect(
        "warning",
        "It has no weights for {count} modules of the base that its target_modules name ({first} …).",
        "If they were trained, the file is incomplete; copy it again.",
    ),
    "own-vocabulary": Defect(
        "note", "It brings embeddings for {rows} tokens, the base has {base}.", "Its own are used while it answers."
    ),
    "fit-lacking": Defect(
        "problem",
        "Its configuration asks for {count} tensors that are not in the file ({tensor} …).",
        _ONE_CHECKPOINT,
    ),
    # tokenizer and template (doctor.py)
    "end-token-differs": Defect(
        "warning",
        "Its {which} token is {own}, and the base's is {base}.",
        "Its own is used while it answers; make sure that it was trained with it.",
    ),
    "minor-token-differs": Defect(
        "note", "Its {which} token is {own} instead of {base}.", "That changes no answer here."
    ),
    "template-differs": Defect(
        "note",
        "Its chat template is not the base's ({own} characters, the base's has {base}).",
        "Its own is used while it answers.",
    ),
    "vocabulary-differs": Defect(
        "note", "Its tokenizer has {own} tokens, the base's has {base}.", "Its own is used while it answers."
    ),
    "tokenizer-too-large": Defect(
        "problem",
        "Its tokenizer has {own} tokens, the base has embeddings for {base}, and it brings none itself.",
        "Load the base that it was trained on, the one with the larger vocabulary.",
    ),
    "bos-twice": Defect(
        "note",
        "The chat template writes {bos} and the tokenizer adds it again to any text.",
        "Here it is written once; make sure that the training did not tokenize the rendered text with special tokens.",
    ),
    "template-bos-twice": Defect(
        "warning", "The chat template itself writes {bos} twice at the start.", "Remove one of them from the template."
    ),
    "template-broken": Defect(
        "warning", "The chat template cannot be rendered: {error}.", "Mend it, or use the raw or instruction template."
    ),
    "turn-end": Defect(
        "note",
        "The chat template ends an answer with {end}, which neither tokenizer nor model name as the end.",
        "Here it is heeded; other programs may not stop.",
    ),
    "newer-peft": Defect(
        "note", "It was written by peft {written}, and peft {installed} is installed.", "If it fails, upgrade peft."
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong with an adapter, or worth knowing. ``code`` is stable, for programs."""

    code: str
    severity: Severity
    message: str
    remedy: str

    @property
    def sentence(self) -> str:
        """What is the matter and what to do about it."""
        return f"{self.message} {self.remedy}"


@dataclass(frozen=True)
class AdapterReport:
    """What an adapter is and everything found about it, worst first.

    ``shares_batches`` says whether it can answer in one batch with others on a base that allows it (else it takes turns),
    as far as kind and tensor names tell; None where they could not be read.
    """

    info: AdapterInfo
    findings: tuple[Finding, ...]
    shares_batches: bool | None = None

    @property
    def verdict(self) -> Literal["sound", "warnings", "problems"]:
        """In one word; notes do not count."""
        severities = {finding.severity for finding in self.findings}
        if "problem" in severities:
            return "problems"
        return "warnings" if "warning" in severities else "sound"

    def adding(self, more: Iterable[Finding]) -> AdapterReport:
        """This report with more findings."""
        return make_report(self.info, [*self.findings, *more], self.shares_batches)

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        adapter = asdict(self.info)
        del adapter["problems"], adapter["warnings"]
        return {
            "verdict": self.verdict,
            "adapter": adapter,
            "shares_batches": self.shares_batches,
            "findings": [asdict(finding) for finding in self.findings],
        }


class Defective(ValueError):
    """An adapter, or a safetensors file, that need not be looked at any further; ``finding`` says why."""

    def __init__(self, finding: Finding) -> None:
        self.finding = finding
        super().__init__(finding.message)


class Shown(str):
    """Text of our own, or already made fit to show, that goes into a sentence as it is."""


def found(code: str, **values: Any) -> Finding:
    """The finding ``code`` of `DEFECTS` with its places filled; values from outside are cut to a readable length."""
    defect = DEFECTS[code]
    shown = {name: value if isinstance(value, Shown) else short(value) for name, value in values.items()}
    return Finding(code, defect.severity, defect.message.format(**shown), defect.remedy.format(**shown))


def make_report(info: AdapterInfo, findings: Iterable[Finding], shares_batches: bool | None = None) -> AdapterReport:
    """The findings, worst first and each once, with their sentences in ``info``."""
    ordered = tuple(sorted(dict.fromkeys(findings), key=lambda finding: _ORDER[finding.severity]))
    problems = tuple(finding.sentence for finding in ordered if finding.severity == "problem")
    warnings = tuple(finding.sentence for finding in ordered if finding.severity == "warning")
    return AdapterReport(replace(info, problems=problems, warnings=warnings), ordered, shares_batches)


def short(value: Any, length: int = 120) -> str:
    """``value`` in one line of readable length: names come from files that anybody may have made."""
    text = " ".join(str(value).split())
    text = "".join(letter if letter.isprintable() else "�" for letter in text)
    return text if len(text) <= length else f"{text[: length - 1]}…"


def folder_name(folder: Path) -> Shown:
    """The folder's own name in quotes, also for "." and a trailing slash."""
    return Shown(repr(short(os.path.basename(os.path.abspath(folder)))))


def more(items: Collection[Any]) -> Shown:
    """How many there are besides the one that the sentence names."""
    count = len(items) - 1
    return Shown(f" (and {count} more)" if count > 0 else "")


def dimensions(shape: Sequence[int]) -> Shown:
    """A tensor's shape for people."""
    return Shown(short("×".join(map(str, shape[:20])), 60) or "one number")
