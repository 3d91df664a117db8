"""What listing training runs costs: many of ordinary size and a few with long logs, the first time and again.

    python benchmarks/runs.py [--runs 500] [--long 3]

Prints seconds for the first listing (nothing known), for the next ones (nothing changed), for one after a single run was
written to, and for a loss curve. Wanted: the first one of the ordinary runs in less than a second, the next ones in a
tenth of that. Files are in the system's memory: what a disk takes for its first reading is not in it.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[0] = str(ROOT)  # not this folder, whose http.py would hide the standard library's

from playground.config import AppConfig  # noqa: E402
from playground.services.runs import Runs  # noqa: E402
from playground.store import Store  # noqa: E402

FIRST_SECONDS = 1.0
CONFIG = json.dumps({"peft_type": "LORA", "base_model_name_or_path": "starter", "r": 8, "target_modules": ["q_proj"]})
CARD = "---\nbase_model: starter\nlibrary_name: peft\ndatasets:\n- pirate\ntags:\n- lora\n- trl\n---\n\n# A run\n"
CHECKPOINTS = 3
LONG_LOG = 20_000


def entry(step: int, dice: random.Random) -> dict[str, Any]:
    """A line of a log, with as much in it as TRL writes."""
    numbers = {"grad_norm": dice.random() * 3, "learning_rate": dice.random() * 1e-4, "loss": dice.random() * 2}
    return {"epoch": step / 1000, "entropy": dice.random(), "num_tokens": step * 4096.0, "step": step, **numbers}


def state(entries: list[dict[str, Any]], last: int) -> str:
    """A `trainer_state.json`, spaced as the Trainer does."""
    raw = {"global_step": entries[-1]["step"], "max_steps": last, "log_history": entries, "logging_steps": 10}
    return json.dumps(raw, indent=2, sort_keys=True)


def write_adapter(folder: Path) -> None:
    """The files of an adapter; nobody looks into its weights here."""
    folder.mkdir(parents=True)
    (folder / "adapter_config.json").write_text(CONFIG)
    (folder / "adapter_model.safetensors").write_bytes(b"\0" * 64)
    (folder / "README.md").write_text(CARD)


def write_run(folder: Path, count: int, dice: random.Random) -> None:
    """A run whose log has ``count`` entries, three checkpoints and the adapter of its end."""
    log = [entry(10 * at, dice) for at in range(1, count + 1)]
    write_adapter(folder)
    (folder / "trainer_state.json").write_text(state(log, 10 * count))
    for part in range(1, CHECKPOINTS + 1):
        until = count * part // CHECKPOINTS
        place = folder / f"checkpoint-{10 * until}"
        write_adapter(place)
        (place / "trainer_state.json").write_text(state(log[:until], 10 * count))
        (place / "optimizer.pt").write_bytes(b"")


def seconds(what: Callable[[], object]) -> float:
    """How long ``what`` takes."""
    begin = time.perf_counter()
    what()
    return time.perf_counter() - begin


def main() -> None:
    """Print the figures. Exit code 1 when one is not as wanted."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=500, help="runs with 100 to 500 log entries")
    parser.add_argument("--long", type=int, default=3, help=f"runs with {LONG_LOG:,} log entries besides")
    options = parser.parse_args()
    dice = random.Random(0)
    with tempfile.TemporaryDirectory(prefix="runs-") as folder:
        top = Path(folder)
        for at in range(options.runs):
            write_run(top / f"group-{at % 10}" / f"run-{at:03}", dice.randint(100, 500), dice)
        first, again = measured(top, f"{options.runs} runs")
        for at in range(options.long):
            write_run(top / "long" / f"run-{at}", LONG_LOG, dice)
        measured(top, f"and {options.long} of {LONG_LOG:,} entries")
    sys.exit(first > FIRST_SECONDS or again > first / 10)


def measured(top: Path, title: str) -> tuple[float, float]:
    """Seconds for the first listing of what is below ``top``, and for the next."""
    runs = Runs(AppConfig(runs=(str(top),), data_dir=top / ".data"), Store.in_memory())
    first = seconds(runs.all)
    again = statistics.median(seconds(runs.all) for _ in range(9))
    longest = max(runs.all().runs, key=lambda run: run.step or 0)
    curve = seconds(lambda: runs.curve(longest))
    (Path(longest.path) / "trainer_state.json").touch()
    changed = seconds(runs.all)
    print(f"{title}: {len(runs.all().runs)} listed")
    print(
        f"  first {first:.3f} s, again {again:.3f} s (1/{first / again:.0f}), after one was written to {changed:.3f} s"
    )
    print(f"  the longest loss curve {curve:.3f} s")
    return first, again


if __name__ == "__main__":
    main()
