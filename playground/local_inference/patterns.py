"""Regular expressions of an adapter's configuration, tried on the base's module names where they cannot keep us busy.

PEFT matches them against every module's name, and an expression such as ``(.*)*x`` takes for ever on most of them. Python
cannot break off a match, so those that might do so are tried in a process of their own, which is ended after a while.
"""

from __future__ import annotations

import itertools
import json
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Any

# Seconds of the processor; thousands of names take milliseconds. A machine that is busy may take longer by the clock.
_CPU_SECONDS = 2
_WAIT_SECONDS = 60.0
# Ways to match a name that an expression may have at most to be tried at once: a few milliseconds.
_WAYS = 1_000_000
_FIELDS = ("target_modules", "exclude_modules", "feedforward_modules", "layers_pattern", "rank_pattern", "alpha_pattern")
_TRY = """
import json, re, sys
try:
    import resource
    resource.setrlimit(resource.RLIMIT_CPU, (int(sys.argv[1]), int(sys.argv[1])))
except ImportError:
    pass
names, patterns = json.load(sys.stdin)
for pattern in patterns:
    compiled = re.compile(pattern)
    for name in names:
        compiled.match(name)
print("done")
"""


def patterns_of(config: Mapping[str, Any]) -> dict[str, list[str]]:
    """Field → the regular expressions in it, as PEFT would match them. A list of targets holds names, not expressions."""
    found: dict[str, list[str]] = {}
    for field in _FIELDS:
        value = config.get(field)
        listed = isinstance(value, (dict, list)) and field.endswith("_pattern")
        texts = [value] if isinstance(value, str) else list(value or ()) if listed else []
        found[field] = [text for text in texts if isinstance(text, str) and text != "all-linear"]
    return {field: texts for field, texts in found.items() if texts}


def unreadable(config: Mapping[str, Any]) -> tuple[str, str]:
    """(field, expression) of the first one that is no regular expression; ("", "") for none."""
    for field, texts in patterns_of(config).items():
        for text in texts:
            if not _compiles(text):
                return field, text
    return "", ""


def endless(config: Mapping[str, Any], names: Sequence[str]) -> str:
    """The field with an expression that takes far too long on ``names``, the base's modules; "" for none."""
    for field, texts in patterns_of(config).items():
        wrapped = [{"layers_pattern": r".*\.{}\.(\d+)\."}.get(field, r"(?:.*\.)?(?:{})$").replace("{}", text) for text in texts]
        if not _is_done([*texts, *wrapped], names):
            return field
    return ""


def is_quick(pattern: str, length: int) -> bool:
    """Whether the pattern is certain to be quick on names of ``length`` characters. False is no verdict.

    Counted are the ways in which its parts could be matched: a backtracking search tries no more than these.
    """
    if len(pattern) > 2000 or re.search(r"\)[*+{]", pattern):  # a repeated group may have one way for each subset
        return False
    repeats = len(re.findall(r"[*+]|\{\d*,\d*\}", pattern))
    optional = len(re.findall(r"(?<![*+?}(])\?", pattern))
    if repeats > 20 or optional > 20:
        return False
    return bool((length + 1) ** repeats * 2**optional * _choices(pattern) <= _WAYS)


def _choices(pattern: str) -> int:
    """The product of the branches of every group, but for those of which only one can match at a place."""
    ways, groups = 1, [""]
    for part in re.findall(r"\\.|\[\^?\]?[^]]*\]|.", pattern, re.DOTALL):
        if part == "(":
            groups.append("")
        elif part == ")" and len(groups) > 1:
            ways *= _branches(groups.pop())
            groups[-1] += "()"  # whatever is in it, it is no plain word
        else:
            groups[-1] += part
    for group in groups:
        ways *= _branches(group)
    return ways


def _branches(group: str) -> int:
    branches = sorted(group.removeprefix("?:").split("|"))
    plain = all(re.fullmatch(r"\w+", branch) for branch in branches)
    exclusive = plain and not any(later.startswith(branch) for branch, later in itertools.pairwise(branches))
    return 1 if exclusive else len(branches)


def _compiles(pattern: str) -> bool:
    if re.search(r"\[\[|--|&&|~~|\|\|", pattern):  # Python warns that they will mean something else one day
        return True
    try:
        re.compile(pattern)
    except (re.error, RecursionError, OverflowError):
        return False
    return True


def _is_done(patterns: Sequence[str], names: Sequence[str]) -> bool:
    """Whether every match comes to an end soon."""
    command = [sys.executable, "-I", "-W", "ignore", "-c", _TRY, str(_CPU_SECONDS)]
    job = json.dumps([list(names), list(patterns)])
    try:
        ended = subprocess.run(command, input=job, capture_output=True, text=True, timeout=_WAIT_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        return False
    return ended.stdout.strip() == "done"
