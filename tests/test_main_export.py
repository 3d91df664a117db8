"""The commands ``export`` and ``compare-merged`` (P8, G10)."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from playground.__main__ import main
from playground.config import ROOT
from playground.local_inference.adapters import content_hash
from playground.services import exports

PIRATE = ROOT / "assets" / "adapters" / "pirate"


def test_an_adapter_is_exported_whoever_the_server_is_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """P8: the folder on stdout, for scripts; news on stderr; a taken folder is exit code 2 and a sentence."""
    monkeypatch.setenv("PLAYGROUND_HOST", "0.0.0.0")
    out = tmp_path / "out"
    command = ["export", "starter", "pirate", "--out", str(out)]
    assert main(command) == 0
    said = capsys.readouterr()
    assert said.out == f"{out}\n"
    assert "writing adapter pirate at strength 1\n" in said.err
    assert content_hash(out) == content_hash(PIRATE)
    assert main(command) == 2
    assert "is there already. Name a new folder" in capsys.readouterr().err


def test_a_run_s_checkpoint_is_named_on_the_command_line_as_everywhere(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """I1: as README says, a checkpoint has a name wherever an adapter has one."""
    assert main(["export", "starter", "pirate-overfit/checkpoint-50", "--out", str(tmp_path / "out")]) == 0
    checkpoint = ROOT / "assets" / "adapters" / "pirate-overfit" / "checkpoint-50"
    assert content_hash(tmp_path / "out") == content_hash(checkpoint)
    assert main(["export", "starter", "pirate-overfit/checkpoint-51", "--out", str(tmp_path / "other")]) == 2
    assert "run/checkpoint-500" in capsys.readouterr().err


@pytest.mark.parametrize(("agreement", "code", "says"), [(1.0, 0, "answers as the adapter"), (0.5, 3, "differently")])
def test_a_comparison_has_figures_and_an_exit_code(
    agreement: float,
    code: int,
    says: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """G10: for people and for scripts; another program stands in for the one that merges."""
    figures = {"max_logit_change": 0.1, "divergence": 0.001, "agreement": agreement, "tokens": 200}
    result = {"rounded": figures, "exact": figures, "dtype": "bfloat16", "computed": "float32"}
    (tmp_path / "stand_in.py").write_text(f"print({json.dumps({'result': result})!r}, flush=True); input()")
    monkeypatch.setattr(exports, "_COMMAND", (sys.executable, str(tmp_path / "stand_in.py")))
    assert main(["compare-merged", "starter", "pirate"]) == code
    assert says in capsys.readouterr().out
    assert main(["compare-merged", "starter", "pirate", "--json"]) == code
    shown = json.loads(capsys.readouterr().out)
    assert (shown["agreement"], shown["differs"], shown["exact"]["dtype"]) == (agreement, code == 3, "float32")
