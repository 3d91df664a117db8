"""The command ``validate``: the report as text or JSON, and an exit code by severity."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from playground.__main__ import main
from playground.config import ROOT

PIRATE = ROOT / "assets" / "adapters" / "pirate"
RANK = json.loads((PIRATE / "adapter_config.json").read_text())["r"]


def copied(folder: Path, **changes: object) -> str:
    """The pirate adapter with changes to its configuration."""
    folder.mkdir()
    config = json.loads((PIRATE / "adapter_config.json").read_text()) | changes
    (folder / "adapter_config.json").write_text(json.dumps(config))
    (folder / "adapter_model.safetensors").symlink_to(PIRATE / "adapter_model.safetensors")
    return str(folder)


def test_a_sound_adapter(capsys: pytest.CaptureFixture[str]) -> None:
    """G9: exit code 0, and what it is."""
    assert main(["validate", str(PIRATE), "--base", "starter"]) == 0
    said = capsys.readouterr().out
    assert said.startswith(f"pirate: LORA, rank {RANK}, ")
    assert "served: in one batch with others\n" in said
    assert said.endswith("The adapter looks sound.\n")


def test_warnings_have_an_exit_code_of_their_own(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """G9: 3 for what can be used, but should be looked at."""
    path = copied(tmp_path / "other", base_model_name_or_path="org/other")
    assert main(["validate", path]) == 0
    assert main(["validate", path, "--base", "starter"]) == 3
    said = capsys.readouterr().out
    assert "warning: It was trained on 'org/other', and the base is 'starter'." in said
    assert "[other-base]" in said
    assert "mind the warnings" in said


def test_problems(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """G9: 1, each problem with its remedy and code; --deep does not stumble over them."""
    path = copied(tmp_path / "bad", r=RANK + 1)
    assert main(["validate", path, "--deep"]) == 1
    said = capsys.readouterr().out
    assert "problem: " in said
    assert "[rank-mismatch]" in said
    assert "doctor" not in said
    assert main(["validate", str(tmp_path / "nowhere")]) == 1
    assert "Check the path." in capsys.readouterr().out


def test_what_cannot_be_checked(capsys: pytest.CaptureFixture[str]) -> None:
    """G9: 2 and one sentence for a base that is not there."""
    assert main(["validate", str(PIRATE), "--base", "nowhere"]) == 2
    said = capsys.readouterr()
    assert "There is no model folder 'nowhere'" in said.err
    assert (said.err.count("\n"), said.out) == (1, "")


def test_json(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """G9: the same for programs, with stable codes."""
    assert main(["validate", copied(tmp_path / "bad", r=RANK + 1), "--json"]) == 1
    told = json.loads(capsys.readouterr().out)
    assert (told["verdict"], told["doctor"]) == ("problems", None)
    assert [finding["code"] for finding in told["findings"]] == ["rank-mismatch"]
    assert main(["validate", str(PIRATE), "--json", "--deep", "--base", "starter"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["verdict"] == "sound"
    assert len(told["doctor"]["layers"]) > 1


def test_deep_tells_what_changed_most(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """G9's doctor: layers with norm and share of the base; what it finds counts for the verdict."""
    assert main(["validate", str(PIRATE), "--deep", "--base", "starter"]) == 0
    said = capsys.readouterr().out
    assert "doctor: " in said
    assert "% of the base's weight" in said
    assert "directions" in said
    path = copied(tmp_path / "broken-template", use_rslora=True)
    (Path(path) / "chat_template.jinja").write_text("{% for")
    assert main(["validate", path, "--deep"]) == 3
    said = capsys.readouterr().out
    assert "[template-broken]" in said
    assert "rsLoRA" in said


def test_the_help_says_what_the_exit_codes_mean(capsys: pytest.CaptureFixture[str]) -> None:
    """G9."""
    with pytest.raises(SystemExit):
        main(["validate", "--help"])
    said = " ".join(capsys.readouterr().out.split())
    assert "0 sound, 3 usable with warnings, 1 it has problems, 2 the check could not be done" in said


def test_validate_imports_no_torch() -> None:
    """G9, R5: nor transformers and PEFT, where the base's headers tell whether it fits."""
    code = (
        "import sys; from playground.__main__ import main;"
        f"assert main(['validate', {str(PIRATE)!r}, '--base', 'starter']) == 0;"
        "assert not {'torch', 'transformers', 'peft'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, stdout=subprocess.DEVNULL)


def test_a_pickle_is_read_only_where_the_operator_says_so(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """G9: refused with how to allow it; with that, checked as the safetensors that it becomes."""
    import torch
    from safetensors.torch import load_file

    path = Path(copied(tmp_path / "old"))
    torch.save(load_file(path / "adapter_model.safetensors"), path / "adapter_model.bin")
    (path / "adapter_model.safetensors").unlink()
    monkeypatch.setenv("PLAYGROUND_DATA_DIR", str(tmp_path / "data"))
    assert main(["validate", str(path)]) == 1
    assert "allow_pickle = true" in capsys.readouterr().out
    monkeypatch.setenv("PLAYGROUND_ALLOW_PICKLE", "true")
    assert main(["validate", str(path), "--deep", "--base", "starter"]) == 0
    said = capsys.readouterr().out
    assert said.startswith(f"old: LORA, rank {RANK}, ")
    assert "[pickle-allowed]" in said
    assert "doctor: " in said


def test_a_name_cannot_write_to_the_terminal(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """S1: a folder may be called anything."""
    (tmp_path / "of others").mkdir()
    path = shutil.copytree(PIRATE, tmp_path / "of others" / "red\x1b[31m\n")
    main(["validate", str(path)])
    assert "\x1b" not in capsys.readouterr().out


def test_a_configuration_of_its_own_names_the_base(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """G9: as the other commands take it."""
    config = tmp_path / "mine.toml"
    config.write_text(f"[models.mine]\npath = {str(ROOT / 'assets' / 'models' / 'starter')!r}\n")
    assert main(["validate", str(PIRATE), "--base", "mine", "--config", str(config)]) == 0
    assert main(["validate", str(PIRATE), "--base", "mine"]) == 2
    assert "no model folder 'mine'" in capsys.readouterr().err
