"""What the checks say of an adapter, and what was seen when it was attached. Pure functions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from playground.types import AdapterInfo, Proof
from playground.ui import texts
from playground.ui.safe_text import escape
from playground.ui.views.figures import bytes_text, plural

if TYPE_CHECKING:
    from playground.services.models import AdapterReport, Finding

NAMES_AT_MOST = 20
PROBED = 8  # tokens of which the logits are compared at attach

_HEADINGS = {"sound": "sound", "problems": "cannot be used"}
_NO_EFFECT = "no-effect"
_KINDS = {"LORA": "LoRA", "ADALORA": "AdaLoRA", "LOHA": "LoHa", "LOKR": "LoKr", "PROMPT_TUNING": "prompt tuning",
          "PREFIX_TUNING": "prefix tuning", "P_TUNING": "p-tuning"}  # fmt: skip


def report_heading(report: AdapterReport | None) -> str:
    """The heading of the folded report, which says how it ended without being opened."""
    if report is None:
        return texts.REPORT
    if no_effect(report):
        return f"{texts.REPORT} · no effect"
    warnings = plural(sum(finding.severity == "warning" for finding in report.findings), "warning")
    return f"{texts.REPORT} · {_HEADINGS.get(report.verdict, warnings)}"


def no_effect(report: AdapterReport) -> str:
    """The sentence for an adapter whose numbers alone show that it changes nothing; "" for one that may."""
    return next((finding.sentence for finding in report.findings if finding.code == _NO_EFFECT), "")


def kind_name(peft_type: str) -> str:
    """PEFT's name for a kind of adapter, as people write it."""
    return _KINDS.get(peft_type, peft_type)


def adapter_report(report: AdapterReport) -> str:
    """A green line for a sound adapter; else each finding with what to do about it, worst first."""
    sound, idle = report.verdict == "sound", bool(no_effect(report))
    said = "This adapter cannot be used" if report.verdict == "problems" else "Adapter checked"
    said = "This adapter has no effect" if idle and report.verdict != "problems" else said
    colour = "problems" if idle else report.verdict
    line = f'<p class="verdict" data-verdict="{colour}">{said}: {escape(description(report.info))}</p>'
    findings = "".join(_finding(finding) for finding in report.findings)
    listed = f'<ul class="findings">{findings}</ul>' if findings else ""
    return f'<div class="adapter-report" role="{"status" if sound else "alert"}">{line}{listed}</div>'


def description(info: AdapterInfo) -> str:
    """``LoRA rank 8 on q_proj, v_proj · 0.6 MB``, as far as it is known; else the adapter's name."""
    kind = " ".join([kind_name(info.peft_type), *([f"rank {info.rank}"] if info.rank else [])]).strip()
    targets = f" on {', '.join(info.target_modules)}" if kind and info.target_modules else ""
    size = f" · {bytes_text(info.bytes)}" if info.bytes else ""
    return f"{kind or info.name}{targets}{size}"


def _finding(finding: Finding) -> str:
    """An adapter without effect can be loaded, hence the checks' warning; for a person it is as wrong as any."""
    severity = "problem" if finding.code == _NO_EFFECT else finding.severity
    return (
        f'<li data-severity="{escape(severity)}"><b>{texts.SEVERITIES[severity]}</b> '
        f'{escape(finding.message)} <span class="remedy">{escape(finding.remedy)}</span></li>'
    )


def proof_line(proof: Proof | None, has_effect: bool = True) -> str:
    """What attaching the adapter proved: which tensors found their place, and how far the base's answers moved."""
    if proof is None:
        return ""
    counts = (
        f"{plural(proof.matched, 'tensor')} matched, {len(proof.missing)} missing, {len(proof.unexpected)} unexpected"
    )
    flipped = f"the likeliest token changed at {round(proof.flipped * PROBED)} of {PROBED} positions"
    moved = f"scores of the next token moved by up to {proof.moved:.2g}, {flipped}"
    if not has_effect:
        moved = "the base answers exactly as without it"
    state = "problems" if not has_effect else "warnings" if proof.missing or proof.unexpected else "sound"
    return (
        f'<div class="proof"><p class="verdict" data-verdict="{state}" title="{escape(texts.PROOF_HELP)}">'
        f"{'Attached' if has_effect else 'No effect'}: {counts}; {moved}.</p>"
        f"{_names('Missing', proof.missing)}{_names('Unexpected', proof.unexpected)}</div>"
    )


def _names(heading: str, names: Sequence[str]) -> str:
    """Tensor names, folded; of very many the first ones."""
    if not names:
        return ""
    more = f"<li>and {len(names) - NAMES_AT_MOST:,} more</li>" if len(names) > NAMES_AT_MOST else ""
    items = "".join(f"<li><code>{escape(name)}</code></li>" for name in names[:NAMES_AT_MOST])
    return f"<details><summary>{heading}: {plural(len(names), 'name')}</summary><ul>{items}{more}</ul></details>"
