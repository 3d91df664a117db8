"""The commands ``generate --manifest`` and ``replay``: what they print, and exit codes that scripts can read."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from playground import __main__
from playground.__main__ import main
from playground.config import ROOT, AppConfig
from playground.local_inference import LocalInference
from playground.services.generation import Generation
from playground.services.models import Models


@pytest.fixture(autouse=True)
def shared(engine: LocalInference, monkeypatch: pytest.MonkeyPatch) -> None:
    """One engine for every command here."""

    @contextmanager
    def opened(config: AppConfig) -> Iterator[tuple[Models, Generation]]:
        yield Models(engine, config), Generation(engine)

    monkeypatch.setattr(__main__, "opened", opened)


def written(folder: Path, *options: str) -> Path:
    file = folder / "answer.json"
    asked = ["generate", "Tell me about the sea.", "--adapter", "pirate", "--max-new-tokens", "12"]
    assert main([*asked, "--manifest", str(file), *options]) == 0
    return file


def changed(file: Path, **values: Any) -> str:
    file.write_text(json.dumps(json.loads(file.read_text()) | values))
    return str(file)


def test_an_answer_is_replayed_from_its_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """G10: exit code 0 and one word; the file names no folder of this machine."""
    file = written(tmp_path, "--temperature", "1.5", "--reproducible")
    assert str(ROOT) not in file.read_text()
    capsys.readouterr()
    assert main(["replay", str(file)]) == 0
    assert capsys.readouterr().out == "identical\n"


def test_biases_are_given_one_by_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A4: forced by the command line, kept in the file, and replayed; what is no bias is said."""
    file = written(tmp_path, "--logit-bias", "500=100", "--logit-bias", "501=-2.5")
    values = json.loads(file.read_text())
    assert set(values["token_ids"]) == {500}
    assert values["request"]["settings"]["logit_bias"] == [[500, 100.0], [501, -2.5]]
    assert main(["replay", str(file)]) == 0
    with pytest.raises(SystemExit):
        main(["generate", "Hi", "--logit-bias", "500"])
    assert "'500' is no token id and bias, such as 42=-100" in capsys.readouterr().err


def test_an_answer_that_differs_says_where_and_why(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """G10: exit code 1, the place, and what has changed since."""
    file = written(tmp_path, "--temperature", "0")
    values = json.loads(file.read_text())
    ids = [*values["token_ids"][:3], 5, *values["token_ids"][4:]]
    values["provenance"]["versions"]["torch"] = "1.0"
    capsys.readouterr()
    assert main(["replay", changed(file, token_ids=ids, provenance=values["provenance"])]) == 1
    first, *others = capsys.readouterr().out.splitlines()
    assert first.startswith("differs at token 4")
    assert any("version of torch was 1.0" in line for line in others)


def test_several_answers_have_a_file_each(tmp_path: Path) -> None:
    """G10, G3."""
    file = written(tmp_path, "--num-return-sequences", "2", "--temperature", "1.5", "--seed", "4")
    second = file.with_name("answer-2.json")
    assert json.loads(second.read_text())["index"] == 1
    assert main(["replay", str(second)]) == 0


def test_what_cannot_be_replayed_has_an_exit_code_of_its_own(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """G10, G6: 2 and a sentence, for a file that is missing, no manifest, or of a model that is not there."""
    file = written(tmp_path, "--seed", "1")
    spec = json.loads(file.read_text())["request"]["spec"] | {"base": "/no/such/model"}
    request = json.loads(file.read_text())["request"] | {"spec": spec}
    assert main(["replay", changed(file, request=request, provenance=None)]) == 2
    assert main(["replay", str(tmp_path / "missing.json")]) == 2
    assert main(["replay", str(ROOT / "README.md")]) == 2
    said = capsys.readouterr().err
    for words in ("no model folder", "missing.json cannot be read", "This is no manifest"):
        assert words in said
    assert main(["generate", "Hi", "--max-new-tokens", "1", "--manifest", str(tmp_path / "no" / "m.json")]) == 2
