"""The documents are true: what is generated is up to date, and what they name exists."""

from __future__ import annotations

import re
import subprocess
import sys

from playground.config import ROOT

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md"), ROOT / "training" / "README.md"]


def test_the_settings_table_is_the_declaration() -> None:
    """G4: bounds are declared once."""
    subprocess.run([sys.executable, "docs/settings_table.py", "--check"], cwd=ROOT, check=True)


def test_the_table_of_findings_is_the_declaration() -> None:
    """G9: every code, severity, sentence and remedy."""
    subprocess.run([sys.executable, "docs/defects_table.py", "--check"], cwd=ROOT, check=True)


def test_every_link_to_a_file_leads_somewhere() -> None:
    """R1: a newcomer's first clicks."""
    for page in PAGES:
        for target in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.name} → {target}"


def test_the_architecture_picture_names_every_file_of_the_engine() -> None:
    """DESIGN: the copy that counts is true."""
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    named = set(re.findall(r"\w+\.py", text.split("```")[1]))
    for file in (ROOT / "playground" / "local_inference").glob("*.py"):
        assert file.name in named


def test_the_readme_opens_with_the_two_commands() -> None:
    """R1."""
    head = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()[:6]
    assert any(line.startswith("make run") for line in head)
    assert any(line.startswith("make test") for line in head)


def _tables(page: str) -> list[list[list[str]]]:
    """The cells of each table of a page, without its heading."""
    tables: list[list[list[str]]] = [[]]
    for line in (ROOT / "docs" / page).read_text("utf-8").splitlines():
        if line.startswith("|"):
            tables[-1].append([cell.strip() for cell in line.strip("|").split("|")])
        elif tables[-1]:
            tables.append([])
    return [table[2:] for table in tables if table]


def test_the_table_of_adapters_is_what_the_engine_does():
    """R3, G14: docs/adapters.md, against the kinds that test_kinds.py tries out."""
    from tests.local_inference.kind_maker import KINDS

    served = _tables("adapters.md")[0]
    rows = {name: row for row in served for name in row[0].split(", ")}
    assert sorted(rows) == sorted(KINDS)
    assert sum(len(row[0].split(", ")) for row in served) == len(KINDS)
    for name, kind in KINDS.items():
        _, peft_kind, run, strength, mixed = rows[name]
        peft_type = kind.config().peft_type.value
        assert peft_type in peft_kind, name
        assert run.startswith("in a batch") == kind.shares, name
        assert (strength == "any") == kind.scales, name
        assert (mixed == "yes") == (kind.shares and peft_type == "LORA"), name


def test_what_the_page_of_adapters_calls_refused_is_refused():
    """G9: by the report, before anything is loaded."""
    from playground.local_inference import validation

    kinds, inits, *_ = (row[0].split(", ") for row in _tables("adapters.md")[1])
    assert set(kinds) == {*validation._UNSERVED_KINDS, "aLoRA"}
    for config in (
        *({"peft_type": kind} for kind in kinds[:-1]),
        {"peft_type": "LORA", "alora_invocation_tokens": [7]},
    ):
        assert "unsupported-kind" in {finding.code for finding in validation.config_findings(config)}
    for init in inits:
        config = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "init_lora_weights": init}
        assert "rewrites-base" in {finding.code for finding in validation.config_findings(config)}
    known = {init for init in validation._REWRITES_BASE if init not in validation._BECOMES_LORA}
    assert known <= set(inits)
