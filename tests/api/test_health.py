"""`GET /health`."""

from __future__ import annotations

from playground import __version__


def test_health_says_what_seed_003_promised_and_more(client, fake):
    """A3: the fields of the health report; it loads nothing."""
    report = client.get("/health").json()
    assert report.pop("uptime_seconds") >= 0
    assert report == {
        "status": "healthy",
        "models_loaded": 0,
        "available_models": ["starter", "gpt2", "qwen"],
        "version": __version__,
        "device": "auto",
        "queue_depth": 0,
    }
    assert fake.requests == []
