"""Writes the README's settings table from the one declaration of the settings.

python docs/settings_table.py [--check]
"""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from playground.types import Knob, knobs  # noqa: E402

BEGIN, END = "<!-- settings table: python docs/settings_table.py -->\n\n", "\n<!-- end of the settings table -->"


def bounds(knob: Knob) -> str:
    """``knob``'s bounds as people write them."""
    if knob.low is None:
        return ""
    return f"{knob.low:g} to {knob.high:g}" if knob.high is not None and knob.high < 1e9 else f"from {knob.low:g}"


def table() -> str:
    """The table, one row for each setting."""
    head = "| setting | bounds | what it does |\n|---|---|---|\n"
    return head + "".join(f"| `{name}` | {bounds(knob)} | {knob.help} |\n" for name, knob in knobs().items())


def main() -> int:
    """Rewrite the table, or with --check say whether it is up to date."""
    readme = ROOT / "README.md"
    text = readme.read_text(encoding="utf-8")
    before, rest = text.split(BEGIN)
    current, after = rest.split(END)
    if "--check" in sys.argv:
        return int(current != table())
    readme.write_text(before + BEGIN + table() + END + after, encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
