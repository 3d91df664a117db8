"""The rows of a plan as a file: CSV for a spreadsheet, JSONL for a program.

Both are UTF-8. In CSV a text that a spreadsheet would read as a formula has an apostrophe before it, which spreadsheets
take for "this is text"; numbers are left alone. JSONL holds every text exactly as it is.
"""

from __future__ import annotations

import csv
import dataclasses
import io
import json
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import Any, Literal

from playground.services.chat_files import TextFile
from playground.services.trial_scores import judged
from playground.services.trials import TrialPlan, TrialRow
from playground.types import ModelSpec

TrialFormat = Literal["csv", "jsonl"]
TRIAL_FORMATS: tuple[TrialFormat, ...] = ("csv", "jsonl")
_FORMULAS = "=+-@＝＋－＠"  # the wide ones are formulas to spreadsheets in East Asia


def write(
    plan: TrialPlan, rows: Iterable[TrialRow], form: TrialFormat, now: float, named: Callable[[ModelSpec], ModelSpec]
) -> TextFile:
    """A file with ``rows`` in the order of the plan, one for each answer; its name says the day of ``now``.

    ``named`` gives a model by the names that are offered here: no path of this machine is handed out.
    """
    in_order = sorted(rows, key=lambda row: (row.prompt, row.spec, row.setting))
    specs = [named(spec) for _, spec in plan.specs] if in_order else []
    documents = [_document(plan, row) | {"manifest": _manifest(row, specs[row.spec])} for row in in_order]
    text = _csv(documents) if form == "csv" else "".join(f"{_json(one)}\n" for one in documents)
    return TextFile(f"batch-test-{datetime.fromtimestamp(now, UTC):%Y-%m-%d}.{form}", text)


def _document(plan: TrialPlan, row: TrialRow) -> dict[str, Any]:
    """Everything that is known of one answer. What is not known is None, so all documents have the same fields."""
    prompt, (model, _), (name, settings) = plan.prompts[row.prompt], plan.specs[row.spec], plan.settings[row.setting]
    stats, made, found = row.stats, row.provenance, judged(plan, row)
    values = dataclasses.asdict(settings) | {"system_prompt": prompt.system or settings.system_prompt}
    return {
        "prompt": prompt.text,
        "expected": prompt.expected or None,
        "model": model,
        "settings": name,
        "answer": row.text,
        "match": found.agreement if found else None,
        "similarity": round(found.similarity, 4) if found else None,
        "finish_reason": row.finish_reason,
        "error": row.error or None,
        "remedy": row.remedy or None,
        "notices": list(row.notices),
        "prompt_tokens": stats.prompt_tokens,
        "reused_tokens": stats.reused_tokens,
        "completion_tokens": stats.completion_tokens,
        "tokens_per_second": _rounded(stats.tokens_per_second),
        "seconds": _rounded(row.seconds),
        "waited_s": _rounded(row.waited_s),
        "seed": made.seed if made else None,
        "template": plan.template,
        "values": {setting: value for setting, value in values.items() if setting != "seed"},
    }


def _manifest(row: TrialRow, spec: ModelSpec) -> dict[str, Any] | None:
    """All that it takes to make the answer again, as ``python -m playground replay`` reads it."""
    made = row.manifest
    if made is None:
        return None
    request = dataclasses.replace(made.request, spec=spec)
    document: dict[str, Any] = json.loads(dataclasses.replace(made, request=request).to_json())
    return document


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 4)


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _csv(documents: list[dict[str, Any]]) -> str:
    """A line for each answer, with a column for each setting's value."""
    lines = [_flat(one) for one in documents]
    out = io.StringIO()
    writer = csv.DictWriter(out, list(lines[0]) if lines else ["prompt"])
    writer.writeheader()
    writer.writerows({name: _cell(value) for name, value in line.items()} for line in lines)
    return out.getvalue()


def _flat(document: dict[str, Any]) -> dict[str, Any]:
    values, manifest = document["values"], document["manifest"]
    kept = {name: value for name, value in document.items() if name not in ("values", "manifest")}
    return {**kept, **values, "manifest": manifest}


def _cell(value: Any) -> Any:
    """``value`` for one cell: nothing for None, JSON for a list; a text that no spreadsheet takes for a formula."""
    if value is None or isinstance(value, (int, float)):
        return value
    text = value if isinstance(value, str) else _json(value) if value else ""
    is_formula = text.lstrip()[:1] in tuple(_FORMULAS) or text[:1] in ("\t", "\r")
    return f"'{text}" if is_formula else text
