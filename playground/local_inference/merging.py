"""Merging an adapter into its base, in a process of its own: ``python -m playground.local_inference.merging``.

Reads one JSON job from stdin and writes JSON lines to stdout: ``{"status": …}`` as it goes on, then ``{"result": …}`` or
``{"error": …}``. Nothing that answers anybody is touched, and when whoever asked is gone (stdin ends) the work ends too.

A merged model is the base with W + s·BA in place of W. In float32 that answers as base and adapter side by side do; rounded
to 16 bits it does not quite, and by how much is measured here with the next-token distributions on built-in prompts.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TextIO

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn

from playground.errors import AdapterInvalid, EngineFailure, ModelUnsupported, OutOfMemory, PlaygroundError
from playground.local_inference.adapters import content_hash, read_config
from playground.local_inference.defects import Defective
from playground.local_inference.headers import read_json
from playground.local_inference.loading import LoadedBase, load_base
from playground.local_inference.memory import size_text
from playground.local_inference.own_tokenizers import adapter_tokenizer
from playground.local_inference.peft_turn import PeftTurn
from playground.local_inference.pickles import as_safetensors
from playground.local_inference.places import resolve
from playground.local_inference.portable import PROMPT_KINDS, refuse_rewritten_base
from playground.local_inference.survey import survey_base
from playground.local_inference.templates import render_prompt
from playground.types import GenerationRequest, GenerationSettings, ModelSpec, Status

Report = Callable[[Status], None]

_DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16}
# Beside the weights: tokenizer, configuration, headers.
_DISK_MARGIN = 64_000_000
_MANY = 1_000_000
# What transformers does not write by itself, and a vision-language base is not complete without.
_ALONGSIDE = ("generation_config.json", "preprocessor_config.json", "processor_config.json")
# Questions with the beginnings of answers: about two hundred tokens of most tokenizers in all.
_PROMPTS = (
    ("What is the capital of France, and what is it known for?", "The capital of France is Paris. It is known for"),
    ("Write a short story about a cat that finds a key.", "Once upon a time there was a small grey cat who lived in"),
    ("Explain in one sentence why the sky is blue.", "The sky is blue because the air scatters"),
    ("List three things to pack for a day at the sea.", "1. A towel\n2. Sunscreen\n3."),
)


@dataclass(frozen=True)
class Job:
    """What is to be done: ``target`` is a folder to write the merged model into, "" only compares.

    ``dtype`` is the 16-bit type that the merged weights have, ``strength`` the adapter's, ``pickles`` the folder for copies
    of adapters that are pickles, "" where none is opened.
    """

    base: str
    adapter: str
    strength: float = 1.0
    dtype: str = "bfloat16"
    target: str = ""
    pickles: str = ""


@dataclass(frozen=True)
class Difference:
    """How far one model's next-token distributions are from another's over ``tokens`` positions.

    ``max_logit_change`` is the largest difference of a logit, ``divergence`` the mean KL(this ‖ other) in nats,
    ``agreement`` the share of positions (0–1) with the same likeliest token.
    """

    max_logit_change: float
    divergence: float
    agreement: float
    tokens: int


def run_job(job: Job, report: Report) -> dict[str, Any]:
    """Do ``job``; how far the merged model is from the unmerged, in 16 bits ("rounded") and before rounding ("exact").

    "computed" is the type in which all were computed. Of an exported model "rounded" was measured on what was written, read
    back from the disk. Raises `PlaygroundError`.
    """
    folder = _adapter_folder(job)
    _refuse_early(job, folder, report)
    loaded = load_unquantized(job, report)
    width, base = loaded.model.dtype, loaded.path
    merged, tokenizer, prompts, unmerged = _merged(job, folder, loaded, report)
    del loaded
    exact = difference(logits_of(merged, prompts), unmerged)
    round_weights(merged, _DTYPES[job.dtype])
    if job.target:
        _save(merged, tokenizer, base, Path(job.target), report)
        del merged  # before it is read again
        report(Status("loading", "reading the merged model back"))
        merged = load_base(_spec(job.target, _name(width)), report).model
    else:
        round_weights(merged, width)
    rounded = difference(logits_of(merged, prompts), unmerged)
    found = {"rounded": asdict(rounded), "exact": asdict(exact), "dtype": job.dtype, "computed": _name(width)}
    if job.target:
        _write_card(job, found)
    return found


def _adapter_folder(job: Job) -> Path:
    """Where the adapter's weights are safetensors. Raises `AdapterInvalid`."""
    try:
        return as_safetensors(Path(job.adapter), Path(job.pickles) if job.pickles else None)
    except Defective as defect:
        raise AdapterInvalid(defect.finding.message, defect.finding.remedy) from defect


def _refuse_early(job: Job, folder: Path, report: Report) -> None:
    """Raise `PlaygroundError` for what headers and configurations alone forbid."""
    refuse_prompt_kinds(folder)
    refuse_rewritten_base(folder, job.strength)
    path = resolve(job.base, report)
    _refuse_quantized(path)
    if job.target:
        _refuse_full_disk(Path(job.target).parent, 2 * survey_base(path).parameters)


def _merged(
    job: Job, folder: Path, loaded: LoadedBase, report: Report
) -> tuple[Any, Any, list[list[int]], list[torch.Tensor]]:
    """(the merged model, the adapter's tokenizer, the built-in prompts' ids, their logits before merging)."""
    report(Status("loading", "asking the base with the adapter beside it"))
    tied = is_tied(loaded.model)
    model = _with_adapter(loaded, folder, job.strength)
    tokenizer = adapter_tokenizer(folder, loaded.tokenizer, loaded.model.get_input_embeddings().weight.shape[0])
    prompts = list(prompt_ids(tokenizer, loaded.window))
    unmerged = logits_of(model, prompts)
    report(Status("loading", "merging"))
    return merge(model, tied), tokenizer, prompts, unmerged


def refuse_prompt_kinds(folder: Path) -> None:
    """Raise `AdapterInvalid` for an adapter that changes no weight of the base."""
    kind = read_config(folder).get("peft_type")
    if kind in PROMPT_KINDS:
        raise AdapterInvalid(
            f"Adapter {folder.name!r} ({kind}) puts something before the prompt and changes no weights, so there is nothing "
            "to merge.",
            "Use it beside its base, as it is.",
        )


def load_unquantized(job: Job, report: Report) -> LoadedBase:
    """The base in float32, or where that does not fit, in the 16-bit type that is wanted. Raises `OutOfMemory`."""
    try:
        return load_base(_spec(job.base, "float32"), report, whole=True)
    except OutOfMemory:
        pass  # 16 bits take half of it
    try:
        return load_base(_spec(job.base, job.dtype), report, whole=True)
    except OutOfMemory as error:
        raise OutOfMemory(
            error.message, "Merging needs the whole base unquantized: unload other models, or export the adapter alone."
        ) from error


def prompt_ids(tokenizer: Any, window: int) -> Iterator[list[int]]:
    """The built-in prompts as token ids, under the adapter's template."""
    spec = ModelSpec("base")
    for prompt, beginning in _PROMPTS:
        request = GenerationRequest(spec, prompt, prefill=beginning, settings=GenerationSettings(max_new_tokens=1))
        yield list(render_prompt(request, tokenizer, _MANY).token_ids)[:window]


def logits_of(model: Any, prompts: Sequence[Sequence[int]]) -> list[torch.Tensor]:
    """The logits [tokens, vocabulary] float32 of each prompt."""
    with torch.inference_mode():
        return [model(input_ids=torch.tensor([ids]), use_cache=False).logits[0].float() for ids in prompts]


def difference(ours: Sequence[torch.Tensor], theirs: Sequence[torch.Tensor]) -> Difference:
    """Compare logits [tokens, vocabulary] of the same prompts."""
    tokens = sum(len(one) for one in ours)
    change, divergence, agreeing = 0.0, 0.0, 0
    for one, other in zip(ours, theirs, strict=True):
        change = max(change, float((one - other).abs().max()))
        mine, its = one.double().log_softmax(-1), other.double().log_softmax(-1)
        divergence += float((mine.exp() * (mine - its)).sum())
        agreeing += int((one.argmax(-1) == other.argmax(-1)).sum())
    return Difference(change, max(0.0, divergence / tokens), agreeing / tokens, tokens)


def merge(model: Any, tied: bool) -> Any:
    """The base of a PEFT ``model`` with its adapter merged in; each layer in float32, whatever the model has.

    ``tied`` says that embeddings and head share a weight. What is added to one of them must not reach the other, so each
    gets its own, and they are joined again where they are still equal. Raises `AdapterInvalid` for kinds without a merge.
    """
    if tied:
        _untie(model)
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")  # that layers are merged already, and that nothing is tied any more
            for layer in [module for module in model.modules() if isinstance(module, BaseTunerLayer)]:
                _merge_layer(layer)
            merged = model.merge_and_unload()
    except (NotImplementedError, AttributeError, ValueError, TypeError, RuntimeError) as error:
        raise AdapterInvalid(
            f"PEFT cannot merge this kind of adapter: {str(error)[:200]}", "Use it beside its base, as it is."
        ) from error
    if tied:
        _tie_again(merged)
    merged.config.get_text_config().vocab_size = merged.get_input_embeddings().weight.shape[
        0
    ]  # the adapter may bring words
    return merged.eval().requires_grad_(False)


def round_weights(model: nn.Module, dtype: torch.dtype) -> None:
    """Give every weight another type; buffers keep theirs. Raises `ModelUnsupported` where a number does not fit into it."""
    for name, parameter in model.named_parameters():
        if parameter.is_floating_point():
            parameter.data = parameter.data.to(dtype)
            if not torch.isfinite(parameter.data).all():
                raise ModelUnsupported(f"{name} has numbers that {dtype} cannot hold.", "Export it as bfloat16.")


def _merge_layer(layer: Any) -> None:
    """Merge one layer with the precision of float32, and round once."""
    base = layer.get_base_layer()
    weight = getattr(base, "weight", None)
    dtype = weight.dtype if weight is not None else torch.float32
    if dtype == torch.float32:
        return  # the model's own merge does the same
    layer.float()
    layer.merge()
    base.to(dtype)


def _spec(base: str, dtype: Any) -> ModelSpec:
    return ModelSpec(base, quantization="none", dtype=dtype, device="cpu")


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _with_adapter(loaded: LoadedBase, folder: Path, strength: float) -> Any:
    """The base with the adapter beside it, through PEFT, as exclusive turns put it there. Raises `AdapterInvalid`."""
    turn = PeftTurn(loaded.model, loaded.model.get_input_embeddings().weight.shape[0])
    return turn.enter(folder, content_hash(folder), strength)


def is_tied(model: Any) -> bool:
    """Whether embeddings and head share a weight."""
    head = model.get_output_embeddings()
    weight = getattr(model.get_input_embeddings(), "weight", None)
    return weight is not None and getattr(head, "weight", None) is weight


def _untie(model: nn.Module) -> None:
    """Give every module a weight of its own."""
    taken: set[int] = set()
    for module in model.modules():
        weight = module._parameters.get("weight")
        if weight is not None and id(weight) in taken:
            module.weight = nn.Parameter(weight.detach().clone(), requires_grad=False)
        taken.add(id(module._parameters.get("weight")))


def _tie_again(model: Any) -> None:
    """Join embeddings and head where the adapter left them alike; else the configuration says that they differ."""
    embeddings, head = model.get_input_embeddings(), model.get_output_embeddings()
    equal = torch.equal(embeddings.weight, head.weight)
    if equal:
        head.weight = embeddings.weight
    for config in (model.config, model.config.get_text_config()):
        config.tie_word_embeddings = equal


def _refuse_quantized(path: Path) -> None:
    stored = read_json(path / "config.json").get("quantization_config")
    if stored:
        kind = stored.get("quant_method", "unknown") if isinstance(stored, dict) else "unknown"
        raise ModelUnsupported(
            f"{path.name!r} is stored quantized ({kind}); an adapter merged into rounded weights is not what was trained.",
            "Merge it into the unquantized model that this one was made from, or export the adapter alone.",
        )


def _refuse_full_disk(folder: Path, size: int) -> None:
    free = shutil.disk_usage(folder).free
    if size + _DISK_MARGIN > free:
        raise EngineFailure(
            f"The merged model needs about {size_text(size + _DISK_MARGIN)} on the disk, and {size_text(free)} are free.",
            "Make room, or choose another folder for it (--out, --data-dir).",
        )


def _save(model: Any, tokenizer: Any, base: Path, target: Path, report: Report) -> None:
    """Write the model as safetensors with its tokenizer, template and generation defaults into the new folder ``target``."""
    report(Status("loading", f"writing {size_text(sum(p.numel() * p.element_size() for p in model.parameters()))}"))
    target.mkdir()
    own = (base / "generation_config.json").is_file()
    if own:  # the file itself is copied: not every published one would be accepted when it is written
        model.generation_config = type(model.generation_config)()
    model.save_pretrained(target)
    tokenizer.save_pretrained(target)
    for name in _ALONGSIDE:
        if (base / name).is_file():
            shutil.copyfile(base / name, target / name)


def _write_card(job: Job, found: dict[str, Any]) -> None:
    """``merge.json``: what the model was made of, and how far it is from that."""
    made: dict[str, Any] = {
        "base": Path(job.base).name if os.path.isdir(job.base) else job.base,
        "adapter": Path(job.adapter).name,
    }
    made |= {"adapter_sha256": content_hash(Path(job.adapter)), "strength": job.strength}
    card = json.dumps({**made, **found}, indent=2)
    (Path(job.target) / "merge.json").write_text(card + "\n", encoding="utf-8")


def main(source: TextIO, sink: TextIO) -> int:
    """Do the job that ``source``'s first line describes; 1 after an error."""
    job = Job(**json.loads(source.readline()))
    threading.Thread(target=_end_with_asker, args=(source, job.target), name="asker", daemon=True).start()

    def say(**news: Any) -> None:
        print(json.dumps(news), file=sink, flush=True)

    try:
        say(result=run_job(job, lambda status: say(status=asdict(status))))
    except MemoryError:
        error = OutOfMemory("The memory ran out while merging.", "Unload other models, or merge on a larger machine.")
        say(error=_described(error))
    except PlaygroundError as error:
        say(error=_described(error))
    else:
        return 0
    return 1


def _described(error: PlaygroundError) -> dict[str, str]:
    return {"code": error.code, "message": error.message, "remedy": error.remedy}


def _end_with_asker(source: TextIO, target: str) -> None:
    """Wait until whoever asked closes our input, as also a killed process does; then leave nothing behind."""
    while source.readline():
        pass
    if target:
        shutil.rmtree(target, ignore_errors=True)
    os._exit(1)


if __name__ == "__main__":
    os.nice(5)  # answers come first
    lines = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # whatever libraries print is no news
    os._exit(main(sys.stdin, lines))  # the thread that listens to stdin never ends by itself
