"""G9: what is wrong with an adapter folder is said without loading anything, each problem with its remedy."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import pytest

from playground.local_inference.adapters import (
    check_adapter,
    content_hash,
    discover_adapters,
    fingerprint,
    inspect_adapter,
)
from playground.local_inference.defects import DEFECTS
from playground.local_inference.fit import fit_findings
from playground.local_inference.validation import _peft_fields, _peft_kinds, pattern_value

from .adapter_maker import (
    BROKEN,
    BY_DOCTOR,
    BY_HAND,
    BY_PICKLES,
    CONFIG,
    HIDDEN,
    PREFIX,
    Q0,
    RANK,
    SOUND,
    TOKENS,
    WEIGHTS,
    embedding,
    evil,
    framed,
    make,
    make_base,
    pairs,
    safetensors_bytes,
    zeros,
)
from .conftest import PIRATE, STARTER

BROKEN_IDS = [f"{code} {at}" for at, (code, _, _) in enumerate(BROKEN)]
REAL = (
    "lora", "rslora", "dora", "patterns", "head", "embedding", "saved", "tokens", "lora bias", "biases", "regex",
    "all linears", "chosen layers", "all but one", "pissa", "prompt", "prefix", "p-tuning", "ia3", "loha", "lokr",
    "adalora", "vera", "oft", "boft", "layer norms", "experts",
)  # fmt: skip


def codes(report: Any) -> dict[str, str]:
    """Code → sentence of everything found."""
    return {finding.code: finding.sentence for finding in report.findings}


@pytest.mark.parametrize(("code", "breaks", "says"), BROKEN, ids=BROKEN_IDS)
def test_a_broken_adapter_says_what_is_wrong(tmp_path: Path, code: str, breaks: Any, says: str) -> None:
    """G9: a stable code, a sentence with its remedy, and the weights' files of other formats stay closed."""
    folder = make(tmp_path / "broken")
    breaks(folder)
    report = check_adapter(folder)
    assert says in codes(report)[code]
    sentences = report.info.problems if DEFECTS[code].severity == "problem" else report.info.warnings
    assert codes(report)[code] in sentences
    assert report.verdict == ("problems" if report.info.problems else "warnings")
    assert not (folder / "opened").exists()


def test_every_defect_of_the_table_is_tested() -> None:
    """G9: the table and the maker of broken folders name the same defects, and each has its own sentence and remedy."""
    assert {code for code, _, _ in BROKEN} | BY_HAND | BY_PICKLES | BY_DOCTOR == set(DEFECTS)
    assert len({defect.message for defect in DEFECTS.values()}) == len(DEFECTS)
    for defect in DEFECTS.values():
        assert defect.message.endswith(".")
        assert defect.remedy.endswith((".", '"'))


@pytest.mark.parametrize("what", SOUND)
def test_a_sound_adapter_is_not_refused(tmp_path: Path, what: str) -> None:
    """G9: what a naive check stumbles over."""
    tensors, changes = SOUND[what]
    base = make_base(tmp_path / "tiny", model_type="mixtral" if "experts" in what else "llama")
    report = check_adapter(make(tmp_path / "sound", tensors, **changes), base=base)
    assert report.verdict == "sound", report.findings


@pytest.mark.parametrize("path", ["x" * 5000, "~nosuchuser/adapter", "\0", "a\nb", "nowhere\x1b[31m"])
def test_whatever_is_typed_is_a_sentence(path: str) -> None:
    """P1: a path that no file system knows is refused like any other, in one short printable line."""
    report = check_adapter(Path(path))
    assert list(codes(report)) == ["no-folder"]
    assert "no folder" in report.info.problems[0]
    assert len(report.info.problems[0]) < 300
    assert report.info.problems[0].isprintable()
    assert discover_adapters(Path(path)) == []


def test_values_from_a_file_cannot_flood_the_page(tmp_path: Path) -> None:
    """G9: a name of a megabyte, with control characters and braces, is cut and cleaned."""
    folder = make(tmp_path / "long", lora_alpha="{0}\x1b[2J" * 100_000, base_model_name_or_path="b" * 1_000_000)
    info = inspect_adapter(folder)
    assert all(len(sentence) < 300 and sentence.isprintable() for sentence in info.problems)
    assert len(info.base) <= 1000


def test_a_regular_expression_cannot_hang_the_check(tmp_path: Path) -> None:
    """G9: patterns that could take for ever, or are none, are left to PEFT."""
    name = "a" * 60 + "!"
    started = time.perf_counter()
    for pattern in ("(a+)+$", "(a|aa)*$", "a*a*a*a*a*a*b", "(", "[" * 200):
        assert pattern_value({pattern: 4}, name, 8) is None
    assert check_adapter(make(tmp_path / "slow", target_modules="(.*)*x")).verdict == "sound"
    assert time.perf_counter() - started < 1
    assert pattern_value({r"layers\.\d+\.q": 4, "q": 5}, "model.layers.3.q", 8) == 4
    assert pattern_value({"q": 5}, "model.layers.3.k", 8) == 8
    assert pattern_value({"q": 5}, "model.xq", 8) == 8


def test_a_good_adapter_tells_what_it_is() -> None:
    """G9, I2."""
    report = check_adapter(PIRATE, base=STARTER)
    info = report.info
    assert (report.verdict, report.findings) == ("sound", ())
    assert (info.name, info.base, info.peft_type) == ("pirate", "starter", "LORA")
    assert info.rank
    assert "q_proj" in info.target_modules
    assert info.bytes > 100_000
    assert info == inspect_adapter(PIRATE)


def test_kinds_and_fields_are_those_of_the_installed_peft() -> None:
    """G9: they are read from PEFT's source, without importing it, and must be what PEFT itself says."""
    from dataclasses import fields

    from peft import LoraConfig, PeftType
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

    assert _peft_kinds() == {kind.value for kind in PeftType}
    assert {field.name for field in fields(LoraConfig)} <= _peft_fields("LORA")
    for kind, config in PEFT_TYPE_TO_CONFIG_MAPPING.items():
        known = _peft_fields(kind.value)
        assert not known or {field.name for field in fields(config)} <= known, kind


def test_the_report_is_json(tmp_path: Path) -> None:
    """G9: for programs."""
    told = json.loads(json.dumps(check_adapter(make(tmp_path / "bad", r=8)).to_dict()))
    assert told["verdict"] == "problems"
    assert told["adapter"]["name"] == "bad"
    assert {"code", "severity", "message", "remedy"} == set(told["findings"][0])


def test_the_folder_above_adapters_lists_them(tmp_path: Path) -> None:
    """P1: pointing at the parent offers what is inside; a whole model is told apart."""
    assert {info.name for info in discover_adapters(PIRATE.parent)} >= {"pirate", "sql"}
    assert [info.name for info in discover_adapters(PIRATE)] == ["pirate"]
    assert discover_adapters(tmp_path / "nowhere") == []
    assert "Choose one of" in inspect_adapter(PIRATE.parent).problems[0]
    assert "whole model" in inspect_adapter(STARTER).problems[0]


def test_a_pickle_is_never_opened(tmp_path: Path) -> None:
    """G9: not as weights, not beside them."""
    folder = make(tmp_path / "evil")
    marker = tmp_path / "opened"
    for name in ("training_args.bin", "adapter_model.bin", "optimizer.pt"):
        (folder / name).write_bytes(evil(marker))
    assert check_adapter(folder).verdict == "sound"
    (folder / WEIGHTS).unlink()
    assert "pickle-weights" in codes(check_adapter(folder))
    assert not marker.exists()


def test_links_out_of_the_roots_are_not_followed(tmp_path: Path) -> None:
    """G9: a file or a folder that is a link to somewhere else is refused before anything of it is read."""
    inside, outside = tmp_path / "inside", make(tmp_path / "outside" / "secret")
    folder = make(inside / "linked")
    (folder / WEIGHTS).unlink()
    (folder / WEIGHTS).symlink_to(outside / WEIGHTS)
    assert check_adapter(folder).verdict == "sound"
    assert check_adapter(folder, roots=[inside, outside]).verdict == "sound"
    refused = check_adapter(folder, roots=[inside])
    assert "adapter_model.safetensors of 'linked' is a link out" in codes(refused)["outside-roots"]
    assert str(outside) not in json.dumps(refused.to_dict())
    (inside / "whole").symlink_to(outside)
    assert "outside-roots" in codes(check_adapter(inside / "whole", roots=[inside]))
    (tmp_path / "inside-too").mkdir()
    make(tmp_path / "inside-too" / "a")
    assert "outside-roots" in codes(check_adapter(tmp_path / "inside-too" / "a", roots=[inside]))


@pytest.mark.parametrize(("method", "file"), [("read_bytes", CONFIG), ("open", WEIGHTS), ("iterdir", "locked")])
def test_what_may_not_be_read_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str, file: str) -> None:
    """G9: no permission, or a disk that fails."""
    folder = make(tmp_path / "locked")
    if method == "iterdir":
        (folder / WEIGHTS).unlink()

    real = getattr(Path, method)

    def fail(self: Path, *args: Any, **kwargs: Any) -> Any:
        if self.name != file:
            return real(self, *args, **kwargs)
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, method, fail)
    report = check_adapter(folder)
    assert "cannot be read: Permission denied" in codes(report)["unreadable"]
    assert file in codes(report)["unreadable"]


def test_against_a_base_that_fits(tmp_path: Path) -> None:
    """G9: same name and shapes; the head may be tied to the embeddings."""
    base = make_base(tmp_path / "tiny")
    assert check_adapter(make(tmp_path / "fits"), base=base).findings == ()
    link = tmp_path / "other-name"
    link.symlink_to(base)
    assert check_adapter(tmp_path / "fits", base=link).findings == ()
    for name in ("org/Tiny", "/runs/tiny/", "C:\\models\\tiny"):
        assert check_adapter(make(tmp_path / "fits", base_model_name_or_path=name), base=base).verdict == "sound"


def test_another_base_name_is_a_warning(tmp_path: Path) -> None:
    """G9: the same model goes by many names."""
    base = make_base(tmp_path / "tiny")
    other = check_adapter(make(tmp_path / "a", base_model_name_or_path="org/huge"), base=base)
    assert (other.verdict, list(codes(other))) == ("warnings", ["other-base"])
    silent = check_adapter(make(tmp_path / "b", base_model_name_or_path=None), base=base)
    assert (silent.verdict, list(codes(silent))) == ("warnings", ["base-not-named"])


def test_shapes_that_do_not_fit_the_base(tmp_path: Path) -> None:
    """G9: other widths, more layers, modules that the base does not have."""
    base = make_base(tmp_path / "tiny")
    wide = {name: zeros(*(64 if n == HIDDEN else n for n in value[1])) for name, value in pairs().items()}
    report = check_adapter(make(tmp_path / "wide", wide), base=base)
    assert "q_proj is for 64→64 features, the base has 32→32 (and 5 more)" in codes(report)["shape-misfit"]
    report = check_adapter(make(tmp_path / "deep", pairs(layers=3)), base=base)
    assert "layer 2, and the base has only 2 layers" in codes(report)["layers-beyond"]
    named = {name.replace("q_proj", "query"): value for name, value in pairs().items()}
    report = check_adapter(make(tmp_path / "named", named, target_modules="all-linear"), base=base)
    assert "no model.layers.0.self_attn.query (and 1 more)" in codes(report)["modules-absent"]
    more = {
        **pairs(),
        **{name: zeros(value[1][0], 80) if "_A" in name else value for name, value in embedding().items()},
    }
    report = check_adapter(make(tmp_path / "tokens", more, target_modules="all-linear"), base=base)
    assert "embed_tokens is for 32→80 features, the base has 32→96" in codes(report)["shape-misfit"]
    own = pairs() | {f"{PREFIX}lm_head.weight": zeros(TOKENS + 8, HIDDEN)}
    assert "104 tokens" in codes(check_adapter(make(tmp_path / "own", own), base=base))["own-vocabulary"]


def test_layers_that_are_missing(tmp_path: Path) -> None:
    """G9: half of the pairs are gone, which PEFT would load as if nothing had happened; chosen layers are none."""
    base = make_base(tmp_path / "tiny")
    half = {name: value for name, value in pairs().items() if ".layers.0." in name}
    report = check_adapter(make(tmp_path / "half", half), base=base)
    assert (report.verdict, list(codes(report))) == ("warnings", ["layers-missing"])
    assert "3 modules of the base that its target_modules name (model.layers.1." in codes(report)["layers-missing"]
    for chosen in (0, [0]):
        report = check_adapter(make(tmp_path / "chosen", half, layers_to_transform=chosen), base=base)
        assert (report.verdict, list(codes(report))) == ("sound", ["fit-unchecked"])  # which fit.py finds out
    assert check_adapter(make(tmp_path / "regex", half, target_modules=r".*\.0\..*_proj"), base=base).findings == ()


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"quantization_config": {"load_in_4bit": True}}, "stored quantized"),
        ({"model_type": "mixtral"}, "may be renamed while they are loaded"),
        ({"model_type": None}, "may be renamed"),
    ],
)
def test_what_headers_cannot_tell_is_not_guessed(tmp_path: Path, changes: dict[str, Any], why: str) -> None:
    """G9: packed shapes of nf4 and renamed tensors would refuse adapters that fit; that is said, as a note."""
    wide = {name: zeros(*(64 if n == HIDDEN else n for n in value[1])) for name, value in pairs().items()}
    report = check_adapter(make(tmp_path / "wide", wide), base=make_base(tmp_path / "tiny", **changes))
    assert (report.verdict, list(codes(report))) == ("sound", ["fit-unchecked"])
    assert why in codes(report)["fit-unchecked"]


def test_packed_weights_are_compared_with_nothing(tmp_path: Path) -> None:
    """G9: a weight stored as bytes has a shape of its own, whether or not the configuration says quantized."""
    base = make_base(tmp_path / "tiny")
    packed = {f"{name.removeprefix(PREFIX).split('.lora_')[0]}.weight": zeros(512, 1, dtype="U8") for name in pairs()}
    (base / "model.safetensors").write_bytes(safetensors_bytes(packed))
    assert check_adapter(make(tmp_path / "adapter"), base=base).findings == ()


def test_a_base_in_several_files(tmp_path: Path) -> None:
    """G9: what its index names, and nothing outside of the folder whatever the index says."""
    base = make_base(tmp_path / "tiny")
    (base / "model.safetensors").rename(base / "model-00001-of-00001.safetensors")
    index = {"weight_map": {"a": "../../model-00001-of-00001.safetensors"}}
    (base / "model.safetensors.index.json").write_text(json.dumps(index))
    (base / "adapter_model.safetensors").write_bytes(b"not the base's")
    assert check_adapter(make(tmp_path / "adapter"), base=base).findings == ()


def test_a_base_that_cannot_be_read_is_not_the_adapters_fault(tmp_path: Path) -> None:
    """G9."""
    base = make_base(tmp_path / "tiny")
    (base / "model.safetensors").write_bytes(b"short")
    assert "empty or cut off" in codes(check_adapter(make(tmp_path / "a"), base=base))["fit-unchecked"]
    (base / "model.safetensors").unlink()
    assert "in another way" in codes(check_adapter(tmp_path / "a", base=base))["fit-unchecked"]
    (base / "config.json").write_text("{")
    assert "no config.json" in codes(check_adapter(tmp_path / "a", base=base))["fit-unchecked"]


def test_the_hash_is_of_the_content_not_of_the_place(tmp_path: Path) -> None:
    """G1: a copy is the same adapter, one changed byte is another; the fingerprint notices a rewrite."""
    copy = tmp_path / "copy"
    shutil.copytree(PIRATE, copy)
    assert content_hash(copy) == content_hash(PIRATE)
    before = fingerprint(copy)
    file = copy / "adapter_model.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    assert content_hash(copy) != content_hash(PIRATE)
    assert fingerprint(copy) != before


def test_inspection_imports_no_torch() -> None:
    """G9, R5: milliseconds, not seconds."""
    code = (
        "import sys; from pathlib import Path; from playground.local_inference.adapters import inspect_adapter;"
        f"inspect_adapter(Path({str(PIRATE)!r})); assert not {{'torch', 'peft', 'numpy'}} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_check_reads_headers_only(tmp_path: Path) -> None:
    """G9: whatever the weights' size: a file that no disk holds, all of it a hole but for its header."""
    rows = 2**32
    header = {f"{Q0}.lora_A.weight": {"dtype": "F32", "shape": [RANK, HIDDEN], "data_offsets": [0, 4 * RANK * HIDDEN]}}
    end = 4 * RANK * HIDDEN + 4 * RANK * rows
    header[f"{Q0}.lora_B.weight"] = {"dtype": "F32", "shape": [rows, RANK], "data_offsets": [4 * RANK * HIDDEN, end]}
    folder = make(tmp_path / "large", target_modules=["q_proj"])
    start = framed(json.dumps(header).encode())
    with (folder / WEIGHTS).open("wb") as file:
        file.write(start)
        file.truncate(len(start) + end)
    report = check_adapter(folder)
    assert (report.verdict, report.info.bytes) == ("sound", end)


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Adapters of many kinds, made by PEFT for models of two tiny layers."""
    import peft
    from transformers import LlamaConfig, LlamaForCausalLM, MixtralConfig, MixtralForCausalLM

    every = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    patterns: dict[str, Any] = {"rank_pattern": {"q_proj": 2}, "alpha_pattern": {"layers.1.self_attn.k_proj": 3}}
    experts = ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]
    made = {
        "lora": peft.LoraConfig(r=4, target_modules=every),
        "rslora": peft.LoraConfig(r=4, use_rslora=True, target_modules=every),
        "dora": peft.LoraConfig(r=4, use_dora=True, target_modules=every),
        "patterns": peft.LoraConfig(r=4, target_modules=every, **patterns),
        "head": peft.LoraConfig(r=4, target_modules=["q_proj", "lm_head"]),
        "embedding": peft.LoraConfig(r=4, target_modules=["q_proj", "embed_tokens"]),
        "saved": peft.LoraConfig(r=4, target_modules=["q_proj"], modules_to_save=["norm", "lm_head"]),
        "tokens": peft.LoraConfig(r=4, target_modules=["q_proj"], trainable_token_indices=[5, 6]),
        "lora bias": peft.LoraConfig(r=4, target_modules=["q_proj"], lora_bias=True),
        "biases": peft.LoraConfig(r=4, target_modules=["q_proj"], bias="all"),
        "regex": peft.LoraConfig(r=4, target_modules=r".*\.[01]\.mlp\.(up|down)_proj"),
        "all linears": peft.LoraConfig(r=4, target_modules="all-linear"),
        "ia3": peft.IA3Config(target_modules=["k_proj", "down_proj"], feedforward_modules=["down_proj"]),
        "loha": peft.LoHaConfig(r=4, alpha=8, target_modules=["q_proj", "v_proj"]),
        "lokr": peft.LoKrConfig(r=4, alpha=8, target_modules=["q_proj", "v_proj"]),
        "adalora": peft.AdaLoraConfig(init_r=6, target_r=4, total_step=10, target_modules=["q_proj"]),
        "vera": peft.VeraConfig(r=8, target_modules=["q_proj"]),
        "oft": peft.OFTConfig(r=0, oft_block_size=8, target_modules=["q_proj"]),
        "boft": peft.BOFTConfig(boft_block_size=4, target_modules=["q_proj"]),
        "layer norms": peft.LNTuningConfig(target_modules=["norm"]),
        "experts": peft.LoraConfig(r=4, target_modules=["q_proj"], target_parameters=experts),
        "chosen layers": peft.LoraConfig(r=4, target_modules=every, layers_to_transform=[1], layers_pattern="layers"),
        "all but one": peft.LoraConfig(r=4, target_modules=every, exclude_modules=["k_proj"]),
        "pissa": peft.LoraConfig(r=4, target_modules=every, init_lora_weights="pissa"),
        "prompt": peft.PromptTuningConfig(num_virtual_tokens=4),
        "prefix": peft.PrefixTuningConfig(num_virtual_tokens=4),
        "p-tuning": peft.PromptEncoderConfig(num_virtual_tokens=4, encoder_hidden_size=16),
    }
    assert set(made) == set(REAL)
    shape: dict[str, Any] = {
        "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "vocab_size": 96, "tie_word_embeddings": True,
    }  # fmt: skip
    folder = tmp_path_factory.mktemp("real")
    for name, config in made.items():
        config.task_type, config.base_model_name_or_path = "CAUSAL_LM", name
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if name == "experts":
                model: Any = MixtralForCausalLM(MixtralConfig(**shape, num_local_experts=4))
            else:
                model = LlamaForCausalLM(LlamaConfig(**shape))
            kind = type(model.config)
            model.config.save_pretrained(folder / "bases" / name)
            kind(**shape | {"hidden_size": 64, "num_key_value_heads": 4}).save_pretrained(folder / "wider" / name)
            peft.get_peft_model(model, config).save_pretrained(str(folder / name))
    return folder


@pytest.mark.parametrize("name", REAL)
def test_what_peft_saves_is_sound(real: Path, tmp_path: Path, name: str) -> None:
    """G9, G14: adapters of every kind, straight from PEFT, have no problem and no warning."""
    info = inspect_adapter(real / name)
    assert (info.problems, info.warnings) == ((), ())
    report = check_adapter(real / name, base=STARTER)
    assert "other-base" in codes(report) or "base-not-named" in codes(report)
    misfits = {"shape-misfit", "fit-unchecked"} & set(codes(report))
    assert misfits, "the starter has other widths than these models, or that cannot be told"


@pytest.mark.parametrize("name", REAL)
def test_peft_itself_says_whether_it_fits(real: Path, name: str) -> None:
    """G9: on the meta device, after PEFT's own key conversion; every kind fits its own base and not a wider one."""
    own, wider = fit_findings(real / name, real / "bases" / name), fit_findings(real / name, real / "wider" / name)
    if name == "boft":  # it computes with the base's numbers when it is put on
        assert [finding.code for finding in (*own, *wider)] == ["fit-unchecked"] * 2
    else:
        assert own == ()
        assert "fit-shape" in {finding.code for finding in wider}
