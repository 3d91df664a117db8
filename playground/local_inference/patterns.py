"""Regular expressions of an adapter's configuration, tried on the base's module names where they cannot keep us busy.

PEFT matches them against every module's name, and an expression such as ``(.*)*x`` takes for ever on some of them. Python
cannot break off a match, so those that might do so are tried in a process of their own, which is ended after a while.
"""

from __future__ import annotations

import itertools
import json
import re
import subprocess
import sys
from collections.abc import Iterable, Mapping
from typing import Any

# Seconds of the processor; thousands of names take milliseconds. A machine that is busy may take longer by the clock.
_CPU_SECONDS = 2
_WAIT_SECONDS = 60.0
# Ways to match a name that an expression may have at most to be tried at once: a few milliseconds.
_WAYS = 1_000_000
_PLAIN = ("target_modules", "exclude_modules", "feedforward_modules")
_TRY = """
import json, re, sys
try:
    import resource
    resource.setrlimit(resource.RLIMIT_CPU, (int(sys.argv[1]), int(sys.argv[1])))
except ImportError:
    pass
names, patterns = json.load(sys.stdin)
for pattern in patterns:
    try:
        compiled = re.compile(pattern)
    except (re.error, RecursionError, OverflowError):
        continue
    for name in names:
        compiled.match(name)
print("done")
"""


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


def endless(config: Mapping[str, Any], names: Iterable[str]) -> str:
    """The field with an expression that takes far too long on ``names``, those of the base's modules; "" for none.

    Most are quick for sure and nothing is tried; a trial takes some hundredths of a second.
    """
    modules: list[str] | None = None
    for field, patterns in _patterns(config):
        modules = list(names) if modules is None else modules
        longest = max(map(len, modules), default=0)
        unsure = [pattern for pattern in patterns if not is_quick(pattern, longest)]
        if unsure and not _ends(unsure, modules):
            return field
    return ""


def _patterns(config: Mapping[str, Any]) -> Iterable[tuple[str, list[str]]]:
    """Each field with its expressions as PEFT matches them. A list of targets holds names, not expressions."""
    for field in _PLAIN:
        value = config.get(field)
        if isinstance(value, str) and value != "all-linear":
            yield field, [rf"(?:{value})\Z"]
    for field, value in config.items():
        if field.endswith("_pattern") and isinstance(
            value, Mapping
        ):  # ranks, alphas, and what other kinds have by module
            yield field, [rf"(.*\.)?({pattern})$" for pattern in value if isinstance(pattern, str)]
    saved = config.get("modules_to_save")
    if isinstance(saved, (list, tuple)):
        yield "modules_to_save", [rf"(^|.*\.){name}($|\..*)" for name in saved if isinstance(name, str)]
    layers = config.get("layers_pattern")
    yield (
        "layers_pattern",
        [rf".*\.{pattern}\.(\d+)\." for pattern in ([layers] if isinstance(layers, str) else layers or ())],
    )


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


def _ends(patterns: list[str], names: list[str]) -> bool:
    """Whether every match comes to an end soon."""
    command = [sys.executable, "-I", "-W", "ignore", "-c", _TRY, str(_CPU_SECONDS)]
    job = json.dumps([names, patterns])
    try:
        ended = subprocess.run(command, input=job, capture_output=True, text=True, timeout=_WAIT_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        return False
    return ended.stdout.strip() == "done"
