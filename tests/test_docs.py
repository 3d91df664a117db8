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


def test_every_link_to_a_file_leads_somewhere() -> None:
    """R1: a newcomer's first clicks."""
    for page in PAGES:
        for target in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.name} → {target}"


def test_the_architecture_picture_names_every_file_of_the_engine() -> None:
    """DESIGN: the copy that counts is true."""
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    for file in (ROOT / "playground" / "local_inference").glob("*.py"):
        assert file.name in text


def test_the_readme_opens_with_the_two_commands() -> None:
    """R1."""
    head = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()[:6]
    assert any(line.startswith("make run") for line in head)
    assert any(line.startswith("make test") for line in head)
