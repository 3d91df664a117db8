"""Writes the table of findings in docs/validation.md from the one declaration of the defects.

python docs/defects_table.py [--check]
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from playground.local_inference.defects import DEFECTS  # noqa: E402

PAGE = ROOT / "docs" / "validation.md"
BEGIN, END = "<!-- findings: python docs/defects_table.py -->\n\n", "\n<!-- end of the findings -->"


def shown(text: str) -> str:
    """A sentence with its places as people read them."""
    text = re.sub(r"(?<!\{)\{more\}", "", text).replace("{{", "{").replace("}}", "}")
    return re.sub(r"\{(\w+)\}", r"‹\1›", text).replace("|", "\\|")


def table() -> str:
    """The table, one row for each finding, the worst first."""
    rows = ["| code | severity | what is said | what to do |", "|---|---|---|---|"]
    order = ("problem", "warning", "note")
    for code, defect in sorted(DEFECTS.items(), key=lambda item: order.index(item[1].severity)):
        rows.append(f"| `{code}` | {defect.severity} | {shown(defect.message)} | {shown(defect.remedy)} |")
    return "\n".join(rows) + "\n"


def main() -> int:
    """Rewrite the table, or with --check say whether it is up to date."""
    text = PAGE.read_text(encoding="utf-8")
    before, rest = text.split(BEGIN)
    current, after = rest.split(END)
    if "--check" in sys.argv:
        return int(current != table())
    PAGE.write_text(before + BEGIN + table() + END + after, encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
