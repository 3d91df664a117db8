"""What the numbers in an adapter say: NaN and zeros, how much each layer changes and in how many directions, its tokenizer.

Works with numpy on the files alone, so neither torch nor a model in memory is needed. The norm and the singular values of
s·B·A come from the small core of two QR decompositions; B·A itself, as large as the base's weight, is never formed.
Effective rank: Roy and Vetterli, "The effective rank", EUSIPCO 2007.
"""

from __future__ import annotations

import contextlib
import functools
import math
import os
import re
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment
from numpy.typing import NDArray

from playground.errors import AdapterInvalid
from playground.local_inference.adapters import (
    TEMPLATE_FILE,
    WEIGHTS_FILE,
    AdapterReport,
    Finding,
    check_adapter,
    read_config,
    read_safetensors_header,
)
from playground.local_inference.defects import Defective, found, more
from playground.local_inference.deltas import Delta, delta, described, modules_of
from playground.local_inference.fit import fit_findings
from playground.local_inference.headers import (
    TensorHeader,
    base_files,
    dora_magnitudes,
    embedding_pairs,
    lora_pairs,
    read_json,
)
from playground.local_inference.pickles import as_safetensors
from playground.local_inference.templates import at_most
from playground.local_inference.validation import OTHER_SHAPES, pattern_value, peft_version

# A layer counts as dead when it changes less than this share of what the median layer changes.
_DEAD = 1e-3
_MOST = 5
_CHUNK = 1 << 20
# Products of so few multiplications OpenBLAS computes in the calling thread.
_UNTHREADED = 1 << 18
# The smallest pivot over the largest from which on a Gram matrix tells the triangle to nine digits.
_WELL = 1e-3
# The type that a tensor's bits are read as, and the bits of the exponent: all of them set means NaN or infinity.
_BITS: Mapping[str, tuple[str, int]] = {
    "F64": ("<u8", 0x7FF0_0000_0000_0000),
    "F32": ("<u4", 0x7F80_0000),
    "F16": ("<u2", 0x7C00),
    "BF16": ("<u2", 0x7F80),
}
_NUMBER = re.compile(r"(?:^|\.)(?:layers|h|blocks)\.(\d+)\.")
_TOKENS = ("bos", "eos", "pad", "unk")
_REPLY = "REPLY"
# Far more than any template takes for two short messages.
_TEMPLATE_STEPS = 500_000
_LARGEST = 1_000_000


@dataclass(frozen=True)
class Layer:
    """What an adapter adds to one weight W: s·B·A.

    ``norm`` is its Frobenius norm, ``largest`` its largest singular value, ``effective_rank`` the exponential of the entropy
    of its singular values (0 when it is zero), ``relative`` the norm over W's, None where W is not at hand.
    What DoRA scales afterwards is not counted.
    """

    module: str
    rank: int
    scaling: float
    norm: float
    largest: float
    effective_rank: float
    relative: float | None
    dead: bool

    @property
    def number(self) -> int | None:
        """Which of the base's layers it is in; None for embeddings, head and the like."""
        match = _NUMBER.search(self.module)
        return int(match[1]) if match else None

    @property
    def part(self) -> str:
        """What it is within its layer: ``self_attn.q_proj``; the whole name where it is in none."""
        match = _NUMBER.search(self.module)
        return self.module[match.end() :] if match else self.module


@dataclass(frozen=True)
class Diagnosis:
    """What the doctor found.

    ``unmeasured`` are modules whose tensors have a meaning of their own (experts, other types); ``notes`` say in sentences
    what there is to say of kinds without such layers, and of weights that are brought in full.
    """

    name: str
    kind: str
    rank: int | None
    alpha: float | None
    rslora: bool
    dora: bool
    target_modules: tuple[str, ...]
    parameters: int
    layers: tuple[Layer, ...]
    dead: tuple[str, ...]
    most_changed: tuple[str, ...]
    unmeasured: tuple[str, ...]
    peft_written: str
    peft_installed: str
    findings: tuple[Finding, ...]
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def full_report(
    folder: Path,
    base: Path | None = None,
    roots: Sequence[Path] = (),
    pickles: Path | None = None,
    *,
    always_fit: bool = False,
) -> AdapterReport:
    """`check_adapter` and, where the header is sound, `scan_weights`; never raises for a bad adapter.

    A pickle is converted into the folder ``pickles`` first; with None it is refused. Where headers cannot tell whether it
    fits ``base``, or ``always_fit``, both are put together without their numbers, which imports torch.
    """
    report = _read_report(folder, base, roots, pickles)
    unchecked = any(finding.code == "fit-unchecked" for finding in report.findings)
    if base is None or report.verdict == "problems" or not (always_fit or unchecked):
        return report
    try:
        return _with_fit(report, fit_findings(as_safetensors(Path(report.info.path), pickles), base))
    except (Defective, OSError):  # written again, or gone, in between: the next report says it
        return report


def _with_fit(report: AdapterReport, fits: Sequence[Finding]) -> AdapterReport:
    """``fits`` in place of what the headers could not tell, and none of it twice."""
    rest = [finding for finding in report.findings if finding.code != "fit-unchecked"]
    known = {"layers-missing"} & {finding.code for finding in rest}
    empty = AdapterReport(report.info, (), report.shares_batches)
    return empty.adding([*rest, *(f for f in fits if not (known and f.code == "fit-missing"))])


def _read_report(folder: Path, base: Path | None, roots: Sequence[Path], pickles: Path | None) -> AdapterReport:
    """`full_report` without torch."""
    report = check_adapter(folder, base=base, roots=roots, pickles=pickles is not None)
    if report.verdict == "problems":
        return report
    folder = Path(report.info.path)
    try:
        source = as_safetensors(folder, pickles)
        if source != folder:
            report = _of_copy(report, check_adapter(source, base=base))
        return report if report.verdict == "problems" else report.adding(scan_weights(source))
    except Defective as defect:  # it was written again in between, or it is a pickle of other things
        return report.adding([defect.finding])
    except OSError as error:
        file = os.path.basename(os.fsdecode(error.filename or WEIGHTS_FILE))
        return report.adding(
            [found("unreadable", name=repr(report.info.name), file=file, error=error.strerror or error)]
        )


def _of_copy(original: AdapterReport, copy: AdapterReport) -> AdapterReport:
    """What was found in the copy of a pickle, about the original."""
    info = replace(copy.info, path=original.info.path, name=original.info.name)
    return AdapterReport(info, (), copy.shares_batches).adding([*original.findings, *copy.findings])


def scan_weights(folder: Path) -> tuple[Finding, ...]:
    """NaN, infinity and zeros in the weights of an adapter whose header is sound; read once for each (path, size, mtime).

    Raises `Defective` when the header is not sound and OSError when the file cannot be read.
    """
    path = folder / WEIGHTS_FILE
    stat = path.stat()
    return _scan(str(path), stat.st_size, stat.st_mtime_ns)


def examine(
    folder: Path, base: Path | None = None, roots: Sequence[Path] = (), pickles: Path | None = None
) -> Diagnosis:
    """Look at every layer of the adapter in ``folder``, and with ``base``, a model's folder, at what it is for.

    ``roots`` and ``pickles`` as for `full_report`. Raises `AdapterInvalid` when it has problems that make the numbers
    meaningless.
    """
    report = _read_report(folder, base, roots, pickles)
    if report.verdict == "problems":
        raise AdapterInvalid(f"Adapter {report.info.name!r} cannot be examined. {' '.join(report.info.problems)}")
    folder = as_safetensors(Path(report.info.path), pickles)
    config = read_config(folder)
    tensors = read_safetensors_header(folder / WEIGHTS_FILE)
    layers, unmeasured = _layers(folder / WEIGHTS_FILE, config, tensors, base)
    alpha = config.get("lora_alpha", config.get("alpha"))
    return Diagnosis(
        name=report.info.name,
        kind=report.info.peft_type,
        rank=report.info.rank,
        alpha=float(alpha) if isinstance(alpha, (int, float)) else None,
        rslora=bool(config.get("use_rslora")),
        dora=bool(dora_magnitudes(tensors)),
        target_modules=report.info.target_modules,
        parameters=sum(tensor.numel for tensor in tensors.values()),
        layers=layers,
        dead=tuple(layer.module for layer in layers if layer.dead),
        most_changed=_most_changed(layers),
        unmeasured=unmeasured,
        peft_written=str(config.get("peft_version") or ""),
        peft_installed=peft_version(),
        findings=(*_version_findings(config), *_tokenizer_findings(folder, base, tensors)),
        notes=_notes(folder / WEIGHTS_FILE, report.info.peft_type, tensors),
    )


# The numbers.


@functools.lru_cache(maxsize=256)
def _scan(path: str, size: int, mtime_ns: int) -> tuple[Finding, ...]:
    """``size`` and ``mtime_ns`` are there for the cache: they differ when the file was written again."""
    tensors = read_safetensors_header(Path(path))
    broken, zeros = [], set()
    for name, tensor in tensors.items():
        finite, zero = _finite_and_zero(Path(path), size, tensor)
        if not finite:
            broken.append(name)
        if zero:
            zeros.add(name)
    findings = [found("not-finite", tensor=broken[0], more=more(broken))] if broken else []
    return (*findings, *_zero_findings(tensors, zeros))


def _finite_and_zero(path: Path, size: int, tensor: TensorHeader) -> tuple[bool, bool]:
    if tensor.dtype not in _BITS:
        return True, False
    exponent = _BITS[tensor.dtype][1]
    finite, zero = True, tensor.numel > 0
    for bits in _bits(path, tensor):
        finite = finite and not bool(((bits & exponent) == exponent).any())
        zero = zero and not bool((bits << 1).any())  # the sign is shifted out: minus zero is zero too
    return finite, zero


def _zero_findings(tensors: Mapping[str, TensorHeader], zeros: set[str]) -> Iterator[Finding]:
    """Layers whose product B·A is zero. What an adapter saves beside A and B may have an effect without them."""
    pairs = {**lora_pairs(tensors), **embedding_pairs(tensors)}
    idle = [module for module, pair in pairs.items() if zeros & set(pair.values())]
    if idle and len(idle) == len(pairs) and sum(map(len, pairs.values())) == len(tensors):
        yield found("no-effect")
    elif idle:
        yield found("untrained-layers", count=len(idle), all=len(pairs), first=idle[0])


def _bits(path: Path, tensor: TensorHeader) -> Iterator[NDArray[Any]]:
    """The tensor's bits as whole numbers, piece by piece.

    Read, not mapped into memory: a trainer that cuts a mapped file short would kill this process.
    """
    kind = np.dtype(_BITS[tensor.dtype][0])
    with path.open("rb") as file:
        header = int.from_bytes(file.read(8), "little")
        file.seek(8 + header + tensor.start)
        left = tensor.numel
        while left > 0:
            piece = np.frombuffer(file.read(min(left, _CHUNK) * kind.itemsize), kind)
            if not piece.size:
                raise OSError(f"{path.name} was cut off while it was read")
            left -= piece.size
            yield piece


def _numbers(path: Path, tensor: TensorHeader) -> Iterator[NDArray[Any]]:
    """The tensor's values, piece by piece; bfloat16 is the upper half of a float32."""
    for bits in _bits(path, tensor):
        if tensor.dtype == "BF16":
            yield (bits.astype("<u4") << 16).view("<f4")
        else:
            yield bits.view(f"<f{bits.itemsize}")


def _matrix(path: Path, tensor: TensorHeader) -> NDArray[np.float64]:
    """The tensor as a matrix; a convolution's kernel counts as part of its inputs."""
    values = np.concatenate([piece.astype(np.float64) for piece in _numbers(path, tensor)])
    return values.reshape(tensor.shape[0], -1)


def _layers(
    path: Path, config: Mapping[str, Any], tensors: Mapping[str, TensorHeader], base: Path | None
) -> tuple[tuple[Layer, ...], tuple[str, ...]]:
    """(what was measured, modules that could not be)."""
    norms = _BaseNorms(base)
    measured, unmeasured = [], []
    with np.errstate(over="ignore", invalid="ignore"):  # what overflows is not measured, and named
        for module, delta in _deltas(path, config, tensors):
            layer = _measured(delta, norms) if delta else None
            measured += [layer] if layer else []
            unmeasured += [] if layer else [module]
    middle = statistics.median([layer.norm for layer in measured]) if measured else 0.0
    return tuple(_buried(layer, middle) for layer in measured), tuple(unmeasured)


def _deltas(
    path: Path, config: Mapping[str, Any], tensors: Mapping[str, TensorHeader]
) -> Iterator[tuple[str, Delta | None]]:
    """Module → what is added to its weight, None where that cannot be told."""
    kind = str(config.get("peft_type"))
    if kind != "LORA":
        for module, parts in modules_of(kind, tensors).items():
            known = all(_is_readable(tensors[name]) and len(tensors[name].shape) == 2 for name in parts.values())
            yield module, delta(kind, config, module, parts, _reader(path, tensors)) if known else None
        return
    for module, pair in {**lora_pairs(tensors), **embedding_pairs(tensors)}.items():
        a, b = tensors[pair["A"]], tensors[pair["B"]]
        scaling = lora_scaling(config, module, a.shape[0])
        if scaling is None or a.dtype not in _BITS or b.dtype not in _BITS:
            yield module, None
        else:
            yield module, Delta(module, a.shape[0], scaling, ((_matrix(path, a), _matrix(path, b)),))


def _is_readable(tensor: TensorHeader) -> bool:
    return tensor.dtype in _BITS and tensor.shape != () and tensor.numel > 0


def _reader(path: Path, tensors: Mapping[str, TensorHeader]) -> Callable[[str], NDArray[np.float64]]:
    return lambda name: _matrix(path, tensors[name])


def _measured(delta: Delta, norms: _BaseNorms) -> Layer | None:
    """None where a number overflows. Entropies add up in a Kronecker product, so effective ranks multiply."""
    spectra = [spectrum(a, b, 1.0) for a, b in delta.factors]
    norm, largest, effective = (math.prod(values) for values in zip(*spectra, strict=True))
    size = abs(delta.scaling)
    norm, largest, effective = norm * size, largest * size, effective if size else 0.0
    if not math.isfinite(norm):
        return None
    weight = norms.of(delta.module, math.prod(len(b) * a.shape[1] for a, b in delta.factors))
    relative = norm / weight if weight else None
    return Layer(delta.module, delta.rank, delta.scaling, norm, largest, effective, relative, dead=False)


def _notes(path: Path, kind: str, tensors: Mapping[str, TensorHeader]) -> tuple[str, ...]:
    read = _reader(path, {name: tensor for name, tensor in tensors.items() if _is_readable(tensor)})
    try:
        return tuple(described(kind, tensors, read))
    except KeyError:  # numbers of a type that is not read here
        return ()


def _buried(layer: Layer, median: float) -> Layer:
    return Layer(**(asdict(layer) | {"dead": layer.norm == 0 or layer.norm < _DEAD * median}))


def lora_scaling(config: Mapping[str, Any], module: str, rank: int) -> float | None:
    """s = alpha / rank, or alpha / √rank for rsLoRA, by the configured patterns; None when they do not describe ``rank``."""
    configured = pattern_value(config.get("rank_pattern"), module, config.get("r", rank))
    alpha = pattern_value(config.get("alpha_pattern"), module, config.get("lora_alpha"))
    if configured != rank or not isinstance(alpha, (int, float)) or any(config.get(field) for field in OTHER_SHAPES):
        return None
    return float(alpha / (math.sqrt(rank) if config.get("use_rslora") else rank))


def spectrum(a: NDArray[np.float64], b: NDArray[np.float64], scaling: float) -> tuple[float, float, float]:
    """(Frobenius norm, largest singular value, effective rank) of scaling · B · A; A is [rank, in], B is [out, rank]."""
    largest_a, largest_b = (float(abs(matrix).max()) or 1.0 for matrix in (a, b))
    core = _triangle(b / largest_b) @ _triangle(a.T / largest_a).T  # numbers near one: no product overflows on the way
    values = np.linalg.svd(core, compute_uv=False)
    if not scaling or not values.any():
        return 0.0, 0.0, 0.0
    shares = values[values > 0] / values.sum()
    effective_rank = math.exp(-float((shares * np.log(shares)).sum()))
    size = abs(scaling) * largest_a * largest_b
    return float(np.linalg.norm(values)) * size, float(values[0]) * size, effective_rank


def _triangle(tall: NDArray[np.float64]) -> NDArray[np.float64]:
    """R of ``tall`` = Q·R: the Cholesky factor of its Gram matrix where that is well conditioned, else by Householder.

    Cholesky QR (Yamamoto et al. 2015, ETNA 44) is five times as fast. Blocks are so small that BLAS leaves its threads
    asleep: waking them for every layer, beside a busy process, took fourteen times as long.
    """
    columns = tall.shape[1]
    rows = max(_UNTHREADED // columns**2, columns)
    whole = len(tall) // rows * rows
    blocks = tall[:whole].reshape(-1, rows, columns)
    rest = tall[whole:]
    try:
        factor = np.linalg.cholesky((blocks.transpose(0, 2, 1) @ blocks).sum(0) + rest.T @ rest)
    except np.linalg.LinAlgError:
        return _blockwise_triangle(tall)
    pivots = factor.diagonal()
    return np.asarray(factor.T) if pivots.min() > _WELL * pivots.max() else _blockwise_triangle(tall)


def _blockwise_triangle(tall: NDArray[np.float64]) -> NDArray[np.float64]:
    """R from blocks of rows and then from their R's (Demmel et al. 2012, arXiv:0808.2664), for any matrix."""
    columns = tall.shape[1]
    rows = max(2 * columns, 64)
    while len(tall) > 2 * rows:
        whole = len(tall) // rows * rows
        blocks = np.asarray(np.linalg.qr(tall[:whole].reshape(-1, rows, columns), mode="r"))
        tall = np.concatenate([blocks.reshape(-1, columns), tall[whole:]])
    return np.asarray(np.linalg.qr(tall, mode="r"))


def _most_changed(layers: tuple[Layer, ...]) -> tuple[str, ...]:
    """By share of the base's weight where all are known, else by norm."""
    known = all(layer.relative is not None for layer in layers)
    ranked = sorted(layers, key=lambda layer: (layer.relative or 0.0) if known else layer.norm, reverse=True)
    return tuple(layer.module for layer in ranked[:_MOST] if layer.norm > 0)


class _BaseNorms:
    """Frobenius norms of a base's weights, from its files; None for what is quantized, renamed or not there."""

    def __init__(self, base: Path | None) -> None:
        self._found: dict[str, tuple[Path, TensorHeader]] = {}
        for file in base_files(base) if base else ():
            with contextlib.suppress(Defective, OSError):  # the report says already that the base cannot be read
                self._found |= {name: (file, tensor) for name, tensor in read_safetensors_header(file).items()}

    def of(self, module: str, elements: int) -> float | None:
        """The norm of ``module``'s weight, which must have ``elements`` elements."""
        names = (f"{module}.weight", "model.embed_tokens.weight" if module == "lm_head" else "")
        file, tensor = next((self._found[name] for name in names if name in self._found), (None, None))
        if file is None or tensor is None or tensor.dtype not in _BITS or tensor.numel != elements:
            return None
        with np.errstate(over="ignore", invalid="ignore"):
            pieces = (piece.astype(np.float64, copy=False) for piece in _numbers(file, tensor))
            square = sum(float(np.dot(piece, piece)) for piece in pieces)
        return math.sqrt(square) if math.isfinite(square) else None


# Tokenizer and template.


@dataclass(frozen=True)
class _Speech:
    """How a folder's model or adapter is spoken to; None and "" for what it does not say."""

    tokens: Mapping[str, str]
    template: str
    vocabulary: int | None
    adds_bos: bool


def _version_findings(config: Mapping[str, Any]) -> Iterator[Finding]:
    written = str(config.get("peft_version") or "")
    numbers = [[int(part) for part in re.findall(r"\d+", text)[:3]] for text in (written, peft_version())]
    if all(numbers) and numbers[0] > numbers[1]:
        yield found("newer-peft", written=written, installed=peft_version())


def _tokenizer_findings(folder: Path, base: Path | None, tensors: Mapping[str, TensorHeader]) -> Iterator[Finding]:
    theirs = _speech(base, own_tokenizer=True) if base else None
    has_own = any(
        (folder / name).is_file() for name in ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt")
    )
    ours = _speech(folder, own_tokenizer=has_own)
    if theirs and base:
        yield from _differences(ours, theirs)
        yield from _vocabulary_findings(ours, theirs, base, tensors)
    tokens = {**(theirs.tokens if theirs else {}), **ours.tokens}
    template = ours.template or (theirs.template if theirs else "")
    adds_bos = ours.adds_bos if has_own or theirs is None else theirs.adds_bos
    yield from _template_findings(template, tokens, adds_bos, _declared_ends(base))


def _differences(ours: _Speech, theirs: _Speech) -> Iterator[Finding]:
    for which in _TOKENS:
        own, base = ours.tokens.get(which), theirs.tokens.get(which)
        if own is not None and own != base:
            code = "end-token-differs" if which in ("bos", "eos") else "minor-token-differs"
            yield found(code, which=which.upper(), own=repr(own), base=repr(base) if base else "none")
    if ours.template and ours.template != theirs.template:
        yield found("template-differs", own=len(ours.template), base=len(theirs.template))


def _vocabulary_findings(
    ours: _Speech, theirs: _Speech, base: Path, tensors: Mapping[str, TensorHeader]
) -> Iterator[Finding]:
    if ours.vocabulary is None:
        return
    rows = read_json(base / "config.json").get("vocab_size")
    brings = any(re.search(r"(embed_tokens|wte|word_embeddings)\b.*weight$", name) for name in tensors)
    if isinstance(rows, int) and ours.vocabulary > rows and not brings:
        yield found("tokenizer-too-large", own=ours.vocabulary, base=rows)
    elif theirs.vocabulary is not None and ours.vocabulary != theirs.vocabulary:
        yield found("vocabulary-differs", own=ours.vocabulary, base=theirs.vocabulary)


def _template_findings(template: str, tokens: Mapping[str, str], adds_bos: bool, ends: set[str]) -> Iterator[Finding]:
    if not template.strip():
        return
    try:
        text = _rendered(template, tokens)
    except (TemplateError, TypeError, ValueError, KeyError, AttributeError, ArithmeticError, RecursionError) as error:
        yield found("template-broken", error=error)
        return
    bos = tokens.get("bos") or ""
    if bos and text.startswith(bos + bos):
        yield found("template-bos-twice", bos=repr(bos))
    elif bos and text.startswith(bos) and adds_bos:
        yield found("bos-twice", bos=repr(bos))
    end = re.match(r"\s*(<[^<>\s]{1,40}>)", text.rpartition(_REPLY)[2])
    if end and end[1] not in {tokens.get("eos"), *ends}:
        yield found("turn-end", end=repr(end[1]))


def _rendered(template: str, tokens: Mapping[str, str]) -> str:
    """A short conversation under the template, rendered as transformers does it. Raises what the template raises."""
    environment = _Sandbox(trim_blocks=True, lstrip_blocks=True)
    environment.globals |= {"raise_exception": _refused, "strftime_now": lambda form: "2025-01-01"}
    marks = re.compile(r"\{%-?\s*(end)?generation\s*-?%\}")  # they only mark what is trained on
    turns = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": _REPLY}]
    special = {f"{name}_token": tokens.get(name, "") for name in _TOKENS}
    made = environment.from_string(marks.sub("", template))
    with at_most(_TEMPLATE_STEPS, _endless):
        return made.render(messages=turns, add_generation_prompt=False, **special)


class _Sandbox(ImmutableSandboxedEnvironment):
    """Jinja's sandbox, in which products stay small: a few letters of a template could ask for all memory."""

    intercepted_binops = frozenset({"*", "**"})

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        """``left`` * ``right`` or ``left`` ** ``right``; `TemplateError` where that would be long or large."""
        numbers = [isinstance(side, (int, float)) for side in (left, right)]
        sizes = [abs(side) if number else len(side) for side, number in zip((left, right), numbers, strict=True)]
        product = 0 if all(numbers) else sizes[0] * sizes[1]
        if max(*sizes, product) > _LARGEST or (operator == "**" and sizes[1] > 64):
            raise TemplateError("it computes with very large numbers or long texts")
        return super().call_binop(context, operator, left, right)


def _endless() -> TemplateError:
    return TemplateError(f"it is not done after {_TEMPLATE_STEPS:,} steps")


def _refused(message: str) -> None:
    raise TemplateError(message)


def _speech(folder: Path, *, own_tokenizer: bool) -> _Speech:
    """``own_tokenizer`` says whether the tokenizer's files there are in use; a template beside an adapter always is."""
    config = read_json(folder / "tokenizer_config.json") if own_tokenizer else {}
    words = read_json(folder / "special_tokens_map.json") | config if own_tokenizer else {}
    values = {name: words.get(f"{name}_token") for name in _TOKENS}
    tokens = {name: value.get("content") if isinstance(value, dict) else value for name, value in values.items()}
    shown = {name: value for name, value in tokens.items() if isinstance(value, str)}
    tokenizer = read_json(folder / "tokenizer.json") if own_tokenizer else {}
    adds_bos = bool(config.get("add_bos_token")) or _adds(tokenizer.get("post_processor"), shown.get("bos"))
    return _Speech(shown, _template(folder, config), _vocabulary(tokenizer), adds_bos)


def _template(folder: Path, config: Mapping[str, Any]) -> str:
    try:
        if (folder / TEMPLATE_FILE).is_file():  # a pipe would be waited for
            return (folder / TEMPLATE_FILE).read_text("utf-8")
    except (OSError, ValueError):
        pass  # the other place is as good
    stored = config.get("chat_template")
    if isinstance(stored, list):
        named = {item.get("name"): item.get("template") for item in stored if isinstance(item, dict)}
        stored = named.get("default")
    return stored if isinstance(stored, str) else ""


def _vocabulary(tokenizer: Mapping[str, Any]) -> int | None:
    """How many tokens a tokenizer.json has, added ones included."""
    model = tokenizer.get("model")
    vocabulary = model.get("vocab") if isinstance(model, dict) else None
    if not isinstance(vocabulary, (dict, list)):
        return None
    ids = vocabulary.values() if isinstance(vocabulary, dict) else range(len(vocabulary))
    added = tokenizer.get("added_tokens")
    more_ids = [token.get("id") for token in added if isinstance(token, dict)] if isinstance(added, list) else []
    return max((number for number in (*ids, *more_ids) if isinstance(number, int)), default=-1) + 1


def _adds(processor: Any, bos: str | None) -> bool:
    """Whether a tokenizer's post-processor puts ``bos`` before every text."""
    if not isinstance(processor, dict) or not bos:
        return False
    if isinstance(processor.get("processors"), list):
        return any(_adds(part, bos) for part in processor["processors"])
    single = processor.get("single")
    first = single[0] if isinstance(single, list) and single else None
    special = first.get("SpecialToken") if isinstance(first, dict) else None
    return isinstance(special, dict) and special.get("id") == bos


def _declared_ends(base: Path | None) -> set[str]:
    """The tokens that the base itself declares as the end of an answer."""
    if base is None:
        return set()
    ids = read_json(base / "generation_config.json").get("eos_token_id")
    ids = ids if ids is not None else read_json(base / "config.json").get("eos_token_id")
    numbers = ids if isinstance(ids, list) else [ids]
    added = read_json(base / "tokenizer.json").get("added_tokens")
    tokens = [token for token in added if isinstance(token, dict)] if isinstance(added, list) else []
    return {str(token.get("content")) for token in tokens if token.get("id") in numbers}
