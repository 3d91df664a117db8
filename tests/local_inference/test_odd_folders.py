"""G9: whatever lies in a folder, checking it says so in sentences: no exception, no waiting, no flood."""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from playground.local_inference.adapters import check_adapter, discover_adapters
from playground.local_inference.doctor import examine, full_report

from .adapter_maker import CONFIG, LINEARS, PREFIX, RANK, WEIGHTS, config, framed, make, make_base, pairs, zeros

Odd = Callable[[Path], object]


def rewrite(file: str, data: bytes) -> Odd:
    return lambda folder: (folder / file).write_bytes(data)


def replaced(file: str, by: Callable[[Path], object]) -> Odd:
    """``file`` taken away, and something else made in its place."""

    def change(folder: Path) -> None:
        (folder / file).unlink()
        by(folder / file)

    return change


def configured(**changes: Any) -> Odd:
    return rewrite(CONFIG, json.dumps(config(**changes)).encode())


def headed(header: Any, body: bytes = b"") -> Odd:
    return rewrite(WEIGHTS, framed(json.dumps(header).encode()) + body)


def templated(text: str) -> Odd:
    return rewrite("chat_template.jinja", ("{% set r = range(99999) %}" + text).encode())


def entry(dtype: Any = "F32", shape: Any = (1,), at: Any = (0, 4)) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": at}


NAME = f"{PREFIX}model.layers.0.self_attn.q_proj.lora_A.weight"
DEEP = "[" * 5000 + "]" * 5000
ODD: dict[str, Odd] = {
    "the configuration is a folder": replaced(CONFIG, Path.mkdir),
    "the weights are a folder": replaced(WEIGHTS, Path.mkdir),
    "the configuration is a pipe": replaced(CONFIG, os.mkfifo),
    "the weights are a pipe": replaced(WEIGHTS, os.mkfifo),
    "the pickle is a pipe": lambda folder: ((folder / WEIGHTS).unlink(), os.mkfifo(folder / "adapter_model.bin")),
    "the configuration is a device": replaced(CONFIG, lambda file: file.symlink_to("/dev/zero")),
    "the weights are a device": replaced(WEIGHTS, lambda file: file.symlink_to("/dev/zero")),
    "the weights are a link to themselves": replaced(WEIGHTS, lambda file: file.symlink_to(file)),
    "the configuration is a link to its folder": replaced(CONFIG, lambda file: file.symlink_to(file.parent)),
    "the tokenizer is a pipe": lambda folder: os.mkfifo(folder / "tokenizer.json"),
    "the template is a pipe": lambda folder: os.mkfifo(folder / "chat_template.jinja"),
    "deep JSON": rewrite(CONFIG, f'{{"peft_type": "LORA", "r": {DEEP}}}'.encode()),
    "a number of ten thousand digits": rewrite(CONFIG, b'{"peft_type": "LORA", "r": ' + b"9" * 10_000 + b"}"),
    "a number beyond all floats": rewrite(CONFIG, b'{"peft_type": "LORA", "r": 4, "lora_alpha": 1e999}'),
    "a huge whole number": configured(lora_alpha=10**400),
    "minus infinity": rewrite(CONFIG, b'{"peft_type": "LORA", "r": -Infinity}'),
    "a byte order mark": rewrite(CONFIG, b"\xef\xbb\xbf" + json.dumps(config()).encode()),
    "the same key twice": rewrite(CONFIG, b'{"peft_type": "LORA", "peft_type": 5}'),
    "half a surrogate": configured(base_model_name_or_path="\ud800", target_modules=["\udfff"]),
    "names that print nothing": configured(base_model_name_or_path="\x00\x1b[2J\u202e", target_modules=["\u200b"]),
    "braces in every text": configured(peft_type="{0}", task_type="{x}", base_model_name_or_path="{more}"),
    "a list of a list": configured(target_modules=[["q_proj"]]),
    "targets that are an object": configured(target_modules={"q_proj": 1}),
    "a million targets": configured(target_modules=[f"q{number}" for number in range(50_000)]),
    "patterns of nothing": configured(rank_pattern={"": 4}, alpha_pattern={"(": 4, "[[a]--b]": 2}),
    "a template that is a number": configured(chat_template=5, tokenizer_config=[]),
    "types in the wrong places": configured(r="4", lora_alpha=[], use_dora={}, task_type=5, bias=7, modules_to_save=3),
    "every field is null": rewrite(CONFIG, json.dumps(dict.fromkeys(config(), None) | {"peft_type": "LORA"}).encode()),
    "a header of nothing": rewrite(WEIGHTS, struct.pack("<Q", 0)),
    "a header as long as the file claims": rewrite(WEIGHTS, struct.pack("<Q", 2**64 - 1) + b"{}"),
    "a header that is no text": rewrite(WEIGHTS, framed(b"\xff" * 50)),
    "a header of deep JSON": rewrite(WEIGHTS, framed(DEEP.encode())),
    "a header with a number of ten thousand digits": rewrite(WEIGHTS, framed(b'{"a": ' + b"9" * 10_000 + b"}")),
    "shapes whose product is huge": headed({NAME: entry(shape=[2**40] * 50, at=[0, 4])}, bytes(4)),
    "shapes of ten thousand ones": headed({NAME: entry(shape=[1] * 10_000)}, bytes(4)),
    "a shape of floats": headed({NAME: entry(shape=[1.0])}, bytes(4)),
    "a shape that is a text": headed({NAME: entry(shape="1")}, bytes(4)),
    "offsets that are texts": headed({NAME: entry(at="04")}, bytes(4)),
    "offsets that are three": headed({NAME: entry(at=[0, 4, 8])}, bytes(4)),
    "a type that nobody knows": headed({NAME: entry(dtype="F3")}, bytes(4)),
    "a type that is a list": headed({NAME: entry(dtype=["F32"])}, bytes(4)),
    "one number and no shape": headed({NAME: entry(shape=[])}, bytes(4)),
    "tensors of no size": headed({NAME: entry(shape=[0, 4], at=[0, 0])}),
    "a tensor without a name": headed({"": entry()}, bytes(4)),
    "a name of a megabyte": headed({"a" * 1_000_000: entry()}, bytes(4)),
    "a name of half a surrogate": headed({"\ud800.lora_A.weight": entry()}, bytes(4)),
    "a name that is only dots": headed({"." * 500 + "lora_A.weight": entry()}, bytes(4)),
    "metadata that is no object": headed({"__metadata__": 5, NAME: entry()}, bytes(4)),
    "an entry that is null": headed({NAME: None}),
    "bytes behind the end": headed({NAME: entry()}, bytes(8)),
    "a tokenizer of anything": rewrite(
        "tokenizer.json", b'{"model": {"vocab": {"a": "b"}}, "added_tokens": [5, {"id": "x"}]}'
    ),
    "a tokenizer's configuration of anything": rewrite("tokenizer_config.json", b'{"eos_token": {"content": 5}}'),
    "a template that takes days": templated("{% for a in r %}{% for b in r %}{% set x = b %}{% endfor %}{% endfor %}"),
    "a template of all memory": templated("{{ 'x' * 10 ** 11 }}"),
    "a template of a large number": templated("{{ 9 ** (9 ** 9) }}"),
    "a template that multiplies nothing": templated("{{ none * 5 }}"),
}


@pytest.mark.parametrize("what", ODD)
def test_an_odd_folder_is_described_in_sentences(tmp_path: Path, what: str) -> None:
    """G9: also by the full check against a base; a pipe or a device is not waited for."""
    folder = make(tmp_path / "odd")
    ODD[what](folder)
    described(folder, make_base(tmp_path / "tiny"))


def described(folder: Path, base: Path) -> None:
    """Every sentence is short, printable and whole; the lists of adapters name the folder or leave it out."""
    for report in (check_adapter(folder), full_report(folder, base)):
        for finding in report.findings:
            assert finding.sentence.isprintable()
            assert len(finding.sentence) < 700
        json.dumps(report.to_dict(), allow_nan=False).encode()
        assert report.info.name == folder.name
    if report.verdict != "problems":
        examine(folder, base)
    assert len(discover_adapters(folder.parent)) <= 1


@pytest.mark.parametrize("name", ["ä ö ü", "名前", "-r", "a'b\"c", "x" * 200, "{name}", "%s", "\u202egpj"])
def test_a_folder_of_any_name(tmp_path: Path, name: str) -> None:
    """G9: the name is what the file system says, and shown as what it can be."""
    folder = make(tmp_path / name)
    assert check_adapter(folder).verdict == "sound"
    (folder / WEIGHTS).unlink()
    described(folder, tmp_path)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
FIELDS = st.sampled_from([*config(), "rank_pattern", "alpha_pattern", "use_dora", "use_rslora", "bias", "modules_to_save",
    "exclude_modules", "layers_to_transform", "init_lora_weights", "layer_replication", "target_parameters",
    "megatron_config", "peft_version", "num_virtual_tokens", "trainable_token_indices", "adapters"])  # fmt: skip
MANY = settings(
    max_examples=60, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@MANY
@given(changes=st.dictionaries(FIELDS, VALUES, max_size=4))
def test_a_configuration_of_anything(tmp_path: Path, changes: dict[str, Any]) -> None:
    """G9: any JSON in any field."""
    folder = make(tmp_path / "any")
    (folder / CONFIG).write_bytes(json.dumps(config() | changes).encode("utf-8", "surrogatepass"))
    described(folder, make_base(tmp_path / "tiny"))


@MANY
@given(data=st.data())
def test_weights_that_are_cut_or_changed_anywhere(tmp_path: Path, data: st.DataObject) -> None:
    """G9: any byte, and any length; mostly in the header, where it matters."""
    folder = make(tmp_path / "any")
    whole = bytearray((folder / WEIGHTS).read_bytes())
    for _ in range(data.draw(st.integers(0, 3))):
        whole[data.draw(st.integers(0, 1200))] = data.draw(st.integers(0, 255))
    (folder / WEIGHTS).write_bytes(whole[: data.draw(st.integers(0, len(whole)))])
    described(folder, make_base(tmp_path / "tiny"))


@MANY
@given(shapes=st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=2, max_size=6))
def test_pairs_of_any_shape(tmp_path: Path, shapes: list[tuple[int, int]]) -> None:
    """G9: what cannot be multiplied is a finding, and the numbers of the rest are read."""
    names = list(pairs())
    tensors = {name: zeros(*shape) for name, shape in zip(names, shapes, strict=False)}
    targets = [name.rpartition(".")[2] for name in LINEARS]
    described(make(tmp_path / "any", tensors, r=RANK, target_modules=targets), make_base(tmp_path / "tiny"))
