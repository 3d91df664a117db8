"""What the top bar says of the engine."""

from __future__ import annotations

import pytest

from playground.types import LoadedAdapter, MemoryReport, ResidentInfo
from playground.ui.views.bar import dot, memory_figures, memory_meter


@pytest.mark.parametrize(
    ("arguments", "phase", "said"),
    [(("idle",), "idle", "Idle"), (("idle", 2, 1), "generating", "2 answering · 1 waiting"),
     (("generating", 3, 2), "generating", "3 answering · 2 waiting"), (("generating",), "generating", "Answering"),
     (("queued", 3, 2), "queued", "3 answering · 2 waiting"), (("loading", 0, 1), "loading", "Loading"),
     (("loading", 2, 1), "loading", "Loading · 2 answering"), (("idle", 0, 1), "loading", "Loading"),
     (("error",), "error", "Error"), (("error", 1), "generating", "1 answering")],
)  # fmt: skip
def test_the_dot_says_how_busy_the_engine_is_and_how_one_stands_oneself(arguments, phase, said):
    """P1, P3: idle, in line, loading, answering, error; the live rows and those who wait, of everybody together."""
    shown = dot(*arguments)
    assert f">{said}</span>" in shown
    assert f'data-phase="{phase}"' in shown
    assert ("Everybody&#x27;s together" in shown) == bool(sum(arguments[1:]))


GB = 1_000_000_000


def test_the_meter_names_models_cache_and_free_memory():
    """P1: bytes on the device, ours among them."""
    shown = memory_meter(MemoryReport("cpu", 8 * GB, 6 * GB, 24_000_000, 1_000_000, 1_500_000, 900_000_000))
    assert "Models <b>25 MB</b> · cache <b>1.5 MB</b> · free <b>6.0 GB</b>" in shown
    kept = MemoryReport("cpu", 8 * GB, 6 * GB, 24_000_000, 0, 1_000_000, 0, reusable=6_000_000)
    assert "cache <b>7.0 MB</b>" in memory_meter(kept)
    assert "--ours:0.004" in memory_meter(kept)
    assert "cache <b>0</b>" in memory_meter(MemoryReport("cpu", 8 * GB, 6 * GB, 24_000_000, 0, 0, 0))
    assert "No model in memory" in memory_meter(MemoryReport("cpu", 8 * GB, 6 * GB, 0, 0, 0, 0))
    assert memory_meter(MemoryReport("cpu", 0, 0, 0, 0, 0, 0)) == ""


def test_the_figures_name_each_model_and_each_adapter():
    """P1: what holds how much, one by one, and what is at work now; names are escaped."""
    pirate = LoadedAdapter("<pirate>", "/a/pirate", "0", 300_000, False, True)
    resident = ResidentInfo("/m", "/m", "none", "float32", "cpu", 6, 24_000_000, 1024, 0.0, "", (pirate,), rows=2)
    report = MemoryReport("cpu", 8 * GB, 6 * GB, 24_000_000, 300_000, 1_500_000, 900_000_000, 3_100_000)
    shown = memory_figures(report, (resident,), {"/m": "starter"})
    for figure in (
        "starter <small>float32 · 2 requests now</small></th><td>24 MB",
        "&lt;pirate&gt; <small>adapter</small></th><td>300 kB",
        "<td>1.5 MB</td>",
        "Kept for reuse <small>earlier texts, faster copies of weights; freed when needed</small></th><td>3.1 MB</td>",
        "<td>900 MB</td>",
        "<td>6.0 GB of 8.0 GB</td>",
    ):
        assert figure in shown
    assert "No model" in memory_figures(report, (), {})
