"""The shape of the house, read from the imports: arrows run one way, and only the engine's back room knows torch."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "playground"
MODULES = sorted(PACKAGE.rglob("*.py"))
NOUNS = {"types", "conversation", "training_run", "errors", "config"}
BELOW = {  # room → the rooms that it may import besides itself
    "errors": set(),
    "types": {"errors"},
    "conversation": {"types", "errors"},
    "training_run": set(),
    "config_values": {"errors"},
    "config": {"config_values", "types", "errors"},
    **dict.fromkeys(("local_inference", "remote", "store"), NOUNS),
    "services": {"local_inference", "remote", "store", *NOUNS},
    **{room: {"services", *NOUNS} for room in ("ui", "inferencer")},
    "gate": NOUNS,
    "__main__": {
        "services",
        "local_inference",
        *NOUNS,
    },  # makes an engine itself, and so does the API where it runs alone
    "api": {"services", "local_inference", "store", "gate", *NOUNS},
}
FACE = {
    "playground.local_inference",
    "playground.local_inference.adapters",
    "playground.local_inference.doctor",
    "playground.local_inference.identity",
    "playground.local_inference.pickles",
    "playground.local_inference.portable",
    "playground.local_inference.places",
    "playground.local_inference.strategies",
}  # all that other rooms see of the engine
TORCH = {"torch", "transformers", "peft", "bitsandbytes"}
HEAVY = {"gradio", "datasets", "pandas", "pyarrow"}
TORCH_FREE = {
    "__init__",
    "adapters",
    "cache",
    "identity",
    "scheduler",
    "templates",
    "strategies",
    "textstream",
    "mailbox",
    "row",
    "defects",
    "headers",
    "validation",
    "doctor",
    "portable",
}


def is_module(name: str) -> bool:
    path = PACKAGE.parent.joinpath(*name.split("."))
    return path.is_dir() or path.with_suffix(".py").exists()


def imports(path: Path) -> set[str]:
    """Every module that ``path`` imports, inside functions and for type checking too."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively"
            inner = {f"{node.module}.{name.name}" for name in node.names}
            found |= {name if is_module(name) else str(node.module) for name in inner}
    return found


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_run_one_way(path):
    """R5 and the design: a room imports the rooms below it; gradio and torch each stay in a room of their own."""
    room = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    names = imports(path)
    ours = {name for name in names if name.startswith("playground.")}
    foreign = {name.partition(".")[0] for name in names}
    assert {name.split(".")[1] for name in ours} <= BELOW.get(room, set()) | {room}
    if room != "local_inference":
        assert {name for name in ours if name.startswith("playground.local_inference")} <= FACE
        assert not foreign & TORCH
    elif path.stem in TORCH_FREE:
        assert not foreign & TORCH
    assert room == "ui" or "gradio" not in foreign
    assert room == "api" or not foreign & {"fastapi", "uvicorn"}
    if room in ("types", "conversation", "training_run"):
        assert foreign <= sys.stdlib_module_names | {"playground"}


def test_services_api_and_store_load_neither_torch_nor_gradio():
    """R5, I4: what must answer at once may not wait for a heavy import; nor does what reads datasets, before it has to."""
    rooms = [name for name in ("services", "api", "store", "local_inference", "remote") if (PACKAGE / name).is_dir()]
    modules = [
        ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__")
        for name in rooms
        for path in sorted((PACKAGE / name).glob("*.py"))
        if name != "local_inference" or path.stem in TORCH_FREE
    ]
    program = f"import sys, {', '.join(modules)}; print([n for n in {sorted({*TORCH, *HEAVY})} if n in sys.modules])"
    command = [sys.executable, "-c", program]
    loaded = subprocess.run(command, cwd=PACKAGE.parent, capture_output=True, text=True, check=True).stdout
    assert loaded.strip() == "[]"
