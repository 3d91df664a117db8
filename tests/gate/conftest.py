"""The gate before the real API over a scripted engine."""

from tests.api.conftest import app, client, config, fake

__all__ = ["app", "client", "config", "fake"]
